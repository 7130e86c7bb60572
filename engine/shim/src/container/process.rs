//! The last steps before a program runs, the same for a container's main process
//! and for an exec: streams, working directory, user, capabilities, filter, execve.
//!
//! The order matters. The program is looked up as the user, before capabilities
//! come back to install the filter. Without `no_new_privs` the filter needs
//! `CAP_SYS_ADMIN`, so the final drop comes after it, and nothing but that drop and
//! the execve runs under the filter.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::capabilities;
use crate::config::{ConsoleSize, Rlimit, Seccomp};
use crate::container::variables::{self, Variable};
use crate::container::{lookup, privileges, user};
use crate::failure::{Context as _, failure};
use crate::protocol::StartFailure;
use crate::seccomp;
use crate::sys;

/// Where a file system of terminals says it is one.
const DEVPTS_MAGIC: i64 = 0x1cd1;
/// Exit code of a child whose program was found but could not be executed; what
/// docker containers end with then.
const EXEC_FAILED: i32 = 255;

/// A program to be run.
pub struct Program<'a> {
    pub args: &'a [String],
    pub env: &'a [String],
    /// Those that only memory holds; what `env` names as well it says itself.
    pub variables: &'a [Variable],
    pub cwd: &'a str,
    pub user: &'a str,
    pub additional_groups: &'a [String],
    pub capabilities: &'a [String],
    pub seccomp: &'a Seccomp,
    pub no_new_privileges: bool,
    pub rlimits: &'a [Rlimit],
    /// The shim's own program, when it is to be process 1 and run this one.
    pub init: Option<BorrowedFd<'a>>,
}

/// The streams of a process that is being made.
pub enum Stdio {
    Pipes {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    Terminal {
        size: Option<ConsoleSize>,
    },
}

/// A terminal of the container: what the shim keeps and what the process gets.
pub struct Terminal {
    pub master: OwnedFd,
    pub slave: OwnedFd,
}

/// Opens a terminal on the container's own `/dev/pts`. The present root must be the
/// container's.
pub fn open_terminal(
    root: BorrowedFd<'_>,
    size: Option<ConsoleSize>,
) -> Result<Terminal, StartFailure> {
    let master = sys::open_in_root(
        root,
        Path::new("/dev/pts/ptmx"),
        libc::O_RDWR | libc::O_NOCTTY,
        0,
    )
    .context(|| "open /dev/pts/ptmx")?;
    // The container may have put anything there.
    if sys::file_system(master.as_fd()).ok() != Some(DEVPTS_MAGIC) {
        return Err(failure("/dev/pts/ptmx is not on a devpts file system"));
    }
    let slave = terminal_peer(&master).context(|| "opening the terminal's other side")?;
    if let Some(size) = size {
        sys::set_window_size(master.as_fd(), size.height, size.width)
            .context(|| "setting the terminal's size")?;
    }
    Ok(Terminal { master, slave })
}

fn terminal_peer(master: &OwnedFd) -> std::io::Result<OwnedFd> {
    use std::os::fd::{AsRawFd as _, FromRawFd as _};
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one integer that outlives the call.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: TIOCGPTPEER takes open flags as its argument and gives a new
    // descriptor nobody else owns.
    unsafe {
        let fd = libc::ioctl(
            master.as_raw_fd(),
            libc::TIOCGPTPEER,
            libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC,
        );
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Makes the streams this process's own, with the terminal as the controlling one.
pub fn take_streams(stdio: Stdio, terminal: Option<Terminal>) -> Result<(), StartFailure> {
    // A session of its own, so that signals from a terminal reach it alone. It
    // fails for a process that leads one already, which is as good.
    let _ = nix::unistd::setsid();
    let doing = || "setting up standard streams";
    match (stdio, terminal) {
        (_, Some(terminal)) => {
            // SAFETY: TIOCSCTTY takes an integer.
            let result = unsafe {
                use std::os::fd::AsRawFd as _;
                libc::ioctl(terminal.slave.as_raw_fd(), libc::TIOCSCTTY, 0)
            };
            if result != 0 {
                return Err(std::io::Error::last_os_error()).context(|| "setting the terminal");
            }
            for target in 0..3 {
                sys::duplicate_to(terminal.slave.as_fd(), target).context(doing)?;
            }
        }
        (
            Stdio::Pipes {
                stdin,
                stdout,
                stderr,
            },
            None,
        ) => {
            sys::duplicate_to(stdin.as_fd(), 0).context(doing)?;
            sys::duplicate_to(stdout.as_fd(), 1).context(doing)?;
            sys::duplicate_to(stderr.as_fd(), 2).context(doing)?;
        }
        (Stdio::Terminal { .. }, None) => return Err(failure("no terminal was opened")),
    }
    Ok(())
}

/// Becomes the program. The present root must be the container's and the streams
/// in place. Returns only what went wrong before the program was found; after that
/// failures are told on the process's own standard error, as with docker.
pub fn execute(program: &Program<'_>) -> Result<Infallible, StartFailure> {
    let root = sys::open("/", libc::O_PATH | libc::O_DIRECTORY).context(|| "open /")?;
    let user = user::resolve_in(root.as_fd(), program.user, program.additional_groups)?;
    let mask = privileges::wanted_mask(program.capabilities)?;
    let available = privileges::permitted().context(|| "reading capabilities")?;
    let filter = compile_filter(program)?;

    give_streams_to(&user);
    privileges::set_rlimits(program.rlimits)?;
    if program.no_new_privileges {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).context(|| "setting no_new_privs")?;
    }
    privileges::limit_bounding_set(mask)?;
    let cwd = if program.cwd.is_empty() {
        "/"
    } else {
        program.cwd
    };
    // As root first: directories the user may not enter are fine to start in.
    let entered = change_directory(cwd);
    privileges::become_user(&user)?;
    if entered.is_err() {
        change_directory(cwd)?;
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));

    let hidden = variables::entries(program.variables, program.env)?;
    let mut env = program.env.to_vec();
    let has_home = |variable: &[u8]| variable.starts_with(b"HOME=");
    if !env.iter().any(|one| has_home(one.as_bytes()))
        && !hidden.iter().any(|one| has_home(one.as_bytes()))
    {
        env.push(format!("HOME={}", user.home));
    }
    let mut env = c_strings(&env)?;
    env.extend(hidden);
    let name = program.args.first().map_or("", String::as_str);
    let path = lookup::find_program(name, &env)?;
    let args = arguments(program)?;

    // From here on root's descriptors and powers go.
    privileges::set_capabilities(available).context(|| "raising capabilities")?;
    sys::close_on_exec_from(3).context(|| "closing descriptors")?;
    if let Some(filter) = &filter {
        seccomp::install(filter).context(|| "installing the seccomp filter")?;
    }
    let mask = if user.uid == 0 { mask } else { 0 };
    privileges::set_capabilities(mask).context(|| "dropping capabilities")?;
    let error = match program.init {
        Some(init) => sys::execveat(init, &args, &env),
        None => sys::execve(&path, &args, &env),
    };
    let text = format!(
        "exec {}: {}\n",
        path.to_string_lossy(),
        sys::errno_text(&error)
    );
    // Nobody is left to tell if this fails.
    let _ = sys::write(std::io::stderr(), text.as_bytes());
    // SAFETY: ends the process at once; nothing needs to be run before.
    unsafe { libc::_exit(EXEC_FAILED) }
}

fn compile_filter(program: &Program<'_>) -> Result<Option<Vec<libc::sock_filter>>, StartFailure> {
    // However they were written, profiles name them in one way.
    let mask =
        capabilities::mask(program.capabilities).map_err(|error| failure(error.to_string()))?;
    let context = seccomp::Context {
        capabilities: &capabilities::names(mask),
        kernel: kernel_version(),
    };
    let filter = match program.seccomp {
        Seccomp::Unconfined => return Ok(None),
        Seccomp::Default => seccomp::default_filter(context),
        Seccomp::Profile(json) => seccomp::filter(json, context),
    };
    filter.map(Some).map_err(|error| failure(error.to_string()))
}

/// Major and minor version of the running kernel; 0.0 when it does not look like one.
fn kernel_version() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split(|letter: char| !letter.is_ascii_digit())
        .map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Pipes and terminals belong to the user, so that `/dev/stdout` can be opened.
fn give_streams_to(user: &user::User) {
    for stream in 0..3 {
        // SAFETY: the three standard streams are open in every child.
        let stream = unsafe { BorrowedFd::borrow_raw(stream) };
        give_to(stream, user.uid, None);
    }
}

/// Gives a pipe or a terminal to somebody; never the null device.
pub fn give_to(stream: BorrowedFd<'_>, uid: u32, gid: Option<u32>) {
    let Ok(status) = sys::fstat(stream) else {
        return;
    };
    let is_null =
        status.st_mode & libc::S_IFMT == libc::S_IFCHR && status.st_rdev == libc::makedev(1, 3);
    if !is_null && (status.st_uid != uid || gid.is_some_and(|gid| gid != status.st_gid)) {
        // A stream that cannot be given away still works for who has it.
        let _ = nix::unistd::fchown(stream, Some(uid.into()), gid.map(Into::into));
    }
}

fn change_directory(cwd: &str) -> Result<(), StartFailure> {
    std::env::set_current_dir(cwd)
        .context(|| format!("chdir to cwd (\"{cwd}\") set in config.json failed"))?;
    // A directory outside the root has no path in it.
    match std::env::current_dir() {
        Ok(path) if path.is_absolute() => Ok(()),
        _ => Err(failure(
            "current working directory is outside of container mount namespace root -- possible container breakout detected",
        )),
    }
}

fn arguments(program: &Program<'_>) -> Result<Vec<CString>, StartFailure> {
    let args = c_strings(program.args)?;
    Ok(match program.init {
        Some(_) => [c"/sbin/docker-init".to_owned(), c"--".to_owned()]
            .into_iter()
            .chain(args)
            .collect(),
        None => args,
    })
}

fn c_strings(strings: &[String]) -> Result<Vec<CString>, StartFailure> {
    strings
        .iter()
        .map(|string| {
            CString::new(string.as_str())
                .map_err(|_| failure(format!("argument {string:?} contains a zero byte")))
        })
        .collect()
}
