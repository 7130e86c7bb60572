//! The main process of a container with a user namespace of its own.
//!
//! It comes to be in two steps. The first process still has the host's powers: it mounts
//! layers and volumes with mapped ids, opens what only the host may open, and enters the
//! user namespace. The second is born from there into namespaces that belong to the user
//! namespace, and puts the container together as the root of it. The first one hands the
//! second over to the shim and ends.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::process::{Stdio, give_to};
use super::{
    CGROUP, Channel, Launched, MainPlan, child, new_namespaces, privileges, run_child, send_process,
};
use crate::config::{Namespace, Rlimit};
use crate::failure::{Context as _, failure};
use crate::protocol::StartFailure;
use crate::sys::{self, Forked};
use crate::userns::{self, IdMap};

/// A user namespace and what its ids are on the host.
#[derive(Clone, Copy)]
pub struct Mapping<'a> {
    pub namespace: BorrowedFd<'a>,
    pub map: &'a IdMap,
    /// Root of the container on the host.
    pub root: (u32, u32),
}

impl<'a> Mapping<'a> {
    /// # Errors
    /// The map has no root.
    pub fn new(namespace: BorrowedFd<'a>, map: &'a IdMap) -> io::Result<Self> {
        Ok(Self {
            namespace,
            map,
            root: map.root()?,
        })
    }

    /// Gives pipes to root of the container: what belongs to the host's root it could not
    /// even open again.
    pub fn give_streams(&self, stdio: &Stdio) {
        if let Stdio::Pipes {
            stdin,
            stdout,
            stderr,
        } = stdio
        {
            for stream in [stdin, stdout, stderr] {
                give_to(stream.as_fd(), self.root.0, Some(self.root.1));
            }
        }
    }
}

/// Starts the main process; see [`super::launch_main`].
pub fn launch(plan: MainPlan<'_>, mapping: Mapping<'_>) -> Result<Launched, StartFailure> {
    let (ours, theirs) = sys::message_pair().context(|| "making a channel")?;
    let birthplace = plan.group.birthplace().context(|| CGROUP)?;
    let flags = libc::CLONE_NEWNS as u64;
    // SAFETY: the shim has one thread.
    let forked = unsafe { sys::clone3(flags, birthplace.as_ref().map(|place| place.as_fd())) };
    let first = match forked.context(|| "fork/exec of the container's process")? {
        Forked::Child => {
            drop(ours);
            let joined = match birthplace {
                Some(_) => Ok(()),
                None => plan.group.join().context(|| CGROUP),
            };
            run_child(theirs, |channel| {
                joined.and_then(|()| with_the_hosts_powers(plan, mapping, channel))
            })
        }
        Forked::Parent { pid, .. } => pid,
    };
    drop(theirs);
    let channel = Channel(ours);
    let second = channel.receive_process();
    // It has said its word, and ends.
    let _ = waitpid(Pid::from_raw(first), None);
    let (pid, pidfd) = second?;
    Ok(Launched {
        pid,
        pidfd,
        channel,
    })
}

/// The first process.
fn with_the_hosts_powers(
    plan: MainPlan<'_>,
    mapping: Mapping<'_>,
    channel: BorrowedFd<'_>,
) -> Result<Infallible, StartFailure> {
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    child::join_namespaces(&plan)?;
    if let Some(score) = plan.oom_score_adj {
        child::set_oom_score(score)?;
    }
    if let Namespace::Join(path) = &plan.config.namespaces.pid {
        sys::open(path, libc::O_RDONLY)
            .and_then(|opened| sys::setns(opened.as_fd(), libc::CLONE_NEWPID))
            .context(|| format!("joining namespace {}", path.display()))?;
    }
    let gathered = child::gather(&plan, Some(&mapping))?;
    mapping.give_streams(&plan.stdio);
    raise_hard_limits(&plan.config.process.rlimits, plan.open_files)?;
    enter(&mapping, libc::CLONE_NEWUSER, mapping.namespace)?;

    // Its first word may not come before it is announced.
    let (announced, announcing) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).context(|| "making a pipe")?;
    let flags = new_namespaces(&plan.config.namespaces) | libc::CLONE_PARENT;
    // SAFETY: the shim has one thread, and so has its child.
    match unsafe { sys::clone3(flags as u64, None) }
        .context(|| "fork/exec of the container's process")?
    {
        Forked::Child => {
            drop(announcing);
            sys::read(announced.as_fd(), &mut [0]).context(|| "waiting to be announced")?;
            drop(announced);
            child::assemble(plan, gathered, channel)
        }
        Forked::Parent { pid, pidfd } => {
            send_process(channel, pid, &pidfd)?;
            // Closes the pipe.
            // SAFETY: ends the process at once, without running the shim's own clean-up.
            unsafe { libc::_exit(0) }
        }
    }
}

/// Enters namespaces with the user namespace among them and becomes its root.
pub fn enter(
    mapping: &Mapping<'_>,
    kinds: libc::c_int,
    of: BorrowedFd<'_>,
) -> Result<(), StartFailure> {
    sys::setns(of, kinds).context(|| "joining the user namespace")?;
    userns::become_root().context(|| {
        format!(
            "becoming user {} of the host, root of the container",
            mapping.root.0
        )
    })
}

/// Does something as root of the container with all capabilities on the host: files that
/// are made belong to that root.
pub fn as_root_of<T>(mapping: &Mapping<'_>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    /// Keeps capabilities when ids change.
    const SECBIT_NO_SETUID_FIXUP: u64 = 1 << 2;
    let before = sys::prctl(libc::PR_GET_SECUREBITS, 0, 0)? as u64;
    sys::prctl(libc::PR_SET_SECUREBITS, before | SECBIT_NO_SETUID_FIXUP, 0)?;
    sys::set_fs_ids(mapping.root.0, mapping.root.1);
    let done = work();
    sys::set_fs_ids(0, 0);
    sys::prctl(libc::PR_SET_SECUREBITS, before, 0)?;
    done
}

/// Raises hard limits where the host's powers are needed for it; what a process has at
/// most it lowers itself later on.
pub fn raise_hard_limits(
    limits: &[Rlimit],
    open_files: Option<libc::rlimit64>,
) -> Result<(), StartFailure> {
    if let Some(limit) = open_files {
        privileges::set_rlimit(libc::RLIMIT_NOFILE as i32, &limit)
            .context(|| "restoring the limit of open files")?;
    }
    for limit in limits {
        let resource = privileges::resource(&limit.name)
            .ok_or_else(|| failure(format!("invalid ulimit type: {}", limit.name)))?;
        let have =
            privileges::get_rlimit(resource).context(|| format!("reading limit {}", limit.name))?;
        if limit.hard > have.rlim_max {
            // Where the host lacks the capability it is clipped later.
            let _ = privileges::set_rlimit(
                resource,
                &libc::rlimit64 {
                    rlim_cur: have.rlim_cur,
                    rlim_max: limit.hard,
                },
            );
        }
    }
    Ok(())
}
