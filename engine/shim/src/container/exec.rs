//! One more process in a running container: enters what the main process is in and
//! becomes its program.

use std::convert::Infallible;
use std::os::fd::{AsFd as _, BorrowedFd};

use super::send_terminal;
use crate::container::mapped::{self, Mapping};
use crate::container::privileges;
use crate::container::process::{self, Program, Stdio};
use crate::failure::Context as _;
use crate::protocol::StartFailure;
use crate::sys;

/// All that an exec is made of.
pub struct ExecPlan<'a> {
    /// The main process, whose namespaces are entered.
    pub container: BorrowedFd<'a>,
    /// Its user namespace, if it has one.
    pub user: Option<Mapping<'a>>,
    pub stdio: Stdio,
    pub program: Program<'a>,
    /// The limit of open files to give to the program, if not the shim's.
    pub open_files: Option<libc::rlimit64>,
    pub oom_score_adj: Option<i32>,
}

/// Enters the container and becomes the program.
pub fn run(plan: ExecPlan<'_>, channel: BorrowedFd<'_>) -> Result<Infallible, StartFailure> {
    if let Some(score) = plan.oom_score_adj {
        // As for the main process: refused where the host lacks the capability.
        let _ = std::fs::write("/proc/self/oom_score_adj", score.to_string());
    }
    // The pid namespace was entered by being born into it.
    let kinds = libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    match &plan.user {
        None => {
            sys::setns(plan.container, kinds).context(|| "joining the container's namespaces")?
        }
        Some(mapping) => {
            mapping.give_streams(&plan.stdio);
            mapped::raise_hard_limits(plan.program.rlimits, plan.open_files)?;
            mapped::enter(mapping, kinds | libc::CLONE_NEWUSER, plan.container)?;
        }
    }
    std::env::set_current_dir("/").context(|| "chdir /")?;
    let root = sys::open("/", libc::O_PATH | libc::O_DIRECTORY).context(|| "open /")?;
    let terminal = match &plan.stdio {
        Stdio::Terminal { size } => {
            let terminal = process::open_terminal(root.as_fd(), *size)?;
            send_terminal(channel, &terminal.master)?;
            Some(terminal)
        }
        Stdio::Pipes { .. } => None,
    };
    process::take_streams(plan.stdio, terminal)?;
    if let Some(limit) = plan.open_files {
        privileges::set_rlimit(libc::RLIMIT_NOFILE as i32, &limit)
            .context(|| "restoring the limit of open files")?;
    }
    process::execute(&plan.program)
}
