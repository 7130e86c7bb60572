//! How a process of a container comes to be.
//!
//! The shim forks with the namespaces it needs; the child is born into its cgroup or
//! enters it first of all, builds what it will see and becomes the program. As the shim has
//! one thread, the child may use all of Rust meanwhile. It speaks over a channel
//! that closes when the program is executed: silence is success.

mod child;
mod copy_up;
pub mod devices;
mod exec;
mod injected;
mod kernel_fs;
mod lookup;
mod mapped;
mod mounts;
mod place;
pub mod privileges;
mod process;
pub mod replaced;
mod rootfs;
mod user;
pub mod variables;

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::cgroup::Group;
use crate::config::{Namespace, Namespaces, ShimConfig};
use crate::failure::{Context as _, failure};
use crate::protocol::StartFailure;
use crate::sys::{self, Forked};

pub use exec::ExecPlan;
pub use injected::Secret;
pub use mapped::Mapping;
pub use process::{Program, Stdio};
pub use variables::Variable;

/// First byte of a message with a terminal.
const TERMINAL: u8 = b'T';
/// First byte of a message with a failure, in JSON.
const FAILURE: u8 = b'F';
/// First byte of a message with a process: its id and a descriptor of it.
const PROCESS: u8 = b'P';
/// What is being done when a cgroup cannot be entered, in docker's words.
const CGROUP: &str = "unable to apply cgroup configuration";
/// Longest message.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// A process on its way to its program.
pub struct Launched {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub channel: Channel,
}

/// The shim's end of the channel to a child.
pub struct Channel(OwnedFd);

/// What a child says.
pub enum Word {
    /// The shim's side of its terminal.
    Terminal(OwnedFd),
    /// It could not become its program and ends.
    Failed(StartFailure),
    /// It became its program.
    Executed,
}

impl Channel {
    /// The process that goes on in the place of the one that was started; blocks.
    fn receive_process(&self) -> Result<(i32, OwnedFd), StartFailure> {
        let doing = || "waiting for the container's process";
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        let (length, descriptor) =
            sys::receive_message(self.0.as_fd(), &mut buffer).context(doing)?;
        match (&buffer[..length], descriptor) {
            ([PROCESS, pid @ ..], Some(pidfd)) => match pid.try_into() {
                Ok(pid) => Ok((i32::from_ne_bytes(pid), pidfd)),
                Err(_) => Err(failure("a child said something unknown")),
            },
            ([FAILURE, json @ ..], _) => Err(serde_json::from_slice(json)
                .unwrap_or_else(|error| failure(format!("listening to the child: {error}")))),
            _ => Err(failure("the container's process ended without a word")),
        }
    }

    /// The next word; blocks unless the channel is readable.
    pub fn receive(&self) -> io::Result<Word> {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        let (length, descriptor) = sys::receive_message(self.0.as_fd(), &mut buffer)?;
        match (buffer[..length].split_first(), descriptor) {
            (None, _) => Ok(Word::Executed),
            (Some((&TERMINAL, _)), Some(master)) => Ok(Word::Terminal(master)),
            (Some((&FAILURE, json)), _) => serde_json::from_slice(json)
                .map(Word::Failed)
                .map_err(io::Error::other),
            _ => Err(io::Error::other("a child said something unknown")),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// All that the main process of a container is made of.
pub struct MainPlan<'a> {
    pub config: &'a ShimConfig,
    /// The network namespace to enter; the host's without.
    pub netns: Option<BorrowedFd<'a>>,
    /// The user namespace to enter; the host's without.
    pub user: Option<Mapping<'a>>,
    pub group: &'a dyn Group,
    pub stdio: Stdio,
    pub secrets: &'a [Secret],
    pub variables: &'a [Variable],
    /// The shim's own program.
    pub own_program: BorrowedFd<'a>,
    /// The limit of open files to give to the program, if not the shim's.
    pub open_files: Option<libc::rlimit64>,
    /// The score the kernel uses to choose whom to kill, if not the shim's.
    pub oom_score_adj: Option<i32>,
}

/// Starts the main process of a container, in its cgroup, which must exist.
///
/// # Errors
/// The kernel refused; nothing runs then. Later failures come over the channel.
pub fn launch_main(plan: MainPlan<'_>) -> Result<Launched, StartFailure> {
    if let Some(mapping) = plan.user {
        return mapped::launch(plan, mapping);
    }
    let namespaces = &plan.config.namespaces;
    let flags = new_namespaces(namespaces);
    let joined = match &namespaces.pid {
        Namespace::Join(path) => {
            Some(sys::open(path, libc::O_RDONLY).context(|| format!("lstat {}", path.display()))?)
        }
        Namespace::New | Namespace::Host => None,
    };
    let group = plan.group;
    launch(
        group,
        joined.as_ref().map(AsFd::as_fd),
        flags as u64,
        move |channel| child::run(plan, channel),
    )
}

/// The namespaces that are made with the main process.
fn new_namespaces(namespaces: &Namespaces) -> libc::c_int {
    let new = |namespace: &Namespace, flag| match namespace {
        Namespace::New => flag,
        Namespace::Host | Namespace::Join(_) => 0,
    };
    libc::CLONE_NEWNS
        | new(&namespaces.pid, libc::CLONE_NEWPID)
        | new(&namespaces.ipc, libc::CLONE_NEWIPC)
        | new(&namespaces.uts, libc::CLONE_NEWUTS)
}

/// Starts one more process in a running container.
///
/// # Errors
/// See [`launch_main`].
pub fn launch_exec(plan: ExecPlan<'_>, group: &dyn Group) -> Result<Launched, StartFailure> {
    let container = plan.container;
    launch(group, Some(container), 0, move |channel| {
        exec::run(plan, channel)
    })
}

/// Forks into the cgroup. The child runs `become_it`. `pids` is where its process
/// ids come from, if not from here.
fn launch(
    group: &dyn Group,
    pids: Option<BorrowedFd<'_>>,
    flags: u64,
    become_it: impl FnOnce(BorrowedFd<'_>) -> Result<Infallible, StartFailure>,
) -> Result<Launched, StartFailure> {
    let (ours, theirs) = sys::message_pair().context(|| "making a channel")?;
    let birthplace = group.birthplace().context(|| CGROUP)?;
    // Only children are born into the other namespace; the shim itself stays.
    let own = match pids {
        Some(other) => {
            let own = sys::open("/proc/self/ns/pid", libc::O_RDONLY)
                .context(|| "open /proc/self/ns/pid")?;
            sys::setns(other, libc::CLONE_NEWPID).context(|| "joining the pid namespace")?;
            Some(own)
        }
        None => None,
    };
    // SAFETY: the shim has one thread.
    let forked = unsafe { sys::clone3(flags, birthplace.as_ref().map(AsFd::as_fd)) };
    if let Ok(Forked::Child) = forked {
        drop(ours);
        let joined = match birthplace {
            Some(_) => Ok(()),
            None => group.join().context(|| CGROUP),
        };
        run_child(theirs, |channel| joined.and_then(|()| become_it(channel)));
    }
    if let Some(own) = own {
        sys::setns(own.as_fd(), libc::CLONE_NEWPID).context(|| "leaving the pid namespace")?;
    }
    match forked.context(|| "fork/exec of the container's process")? {
        Forked::Parent { pid, pidfd } => Ok(Launched {
            pid,
            pidfd,
            channel: Channel(ours),
        }),
        Forked::Child => Err(failure("the child went astray")),
    }
}

/// The whole life of a child as far as it is ours.
fn run_child(
    channel: OwnedFd,
    become_it: impl FnOnce(BorrowedFd<'_>) -> Result<Infallible, StartFailure>,
) -> ! {
    let failed = reset_signals().and_then(|()| become_it(channel.as_fd()));
    let Err(failed) = failed;
    let mut message = vec![FAILURE];
    // Without a reader, or without memory, nothing can be told any more.
    if serde_json::to_writer(&mut message, &failed).is_ok() {
        message.truncate(MESSAGE_BYTES_MAX);
        let _ = sys::send_message(channel.as_fd(), &message, None);
    }
    // SAFETY: ends the process at once, without running the shim's own clean-up.
    unsafe { libc::_exit(failed.exit_code) }
}

/// Programs expect no signal to be blocked or ignored.
fn reset_signals() -> Result<(), StartFailure> {
    use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
    for number in 1..=64 {
        // SAFETY: the default disposition is always valid; numbers that cannot be
        // set are refused without effect.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .context(|| "unblocking signals")
}

/// Tells the shim which process goes on.
fn send_process(channel: BorrowedFd<'_>, pid: i32, pidfd: &OwnedFd) -> Result<(), StartFailure> {
    let mut message = vec![PROCESS];
    message.extend(pid.to_ne_bytes());
    sys::send_message(channel, &message, Some(pidfd.as_fd())).context(|| "handing over the process")
}

/// Tells the shim about the terminal.
fn send_terminal(channel: BorrowedFd<'_>, master: &OwnedFd) -> Result<(), StartFailure> {
    sys::send_message(channel, &[TERMINAL], Some(master.as_fd()))
        .context(|| "handing over the terminal")
}
