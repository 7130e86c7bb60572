//! From the start of the program to a shim that waits for its command: detached,
//! with the container's network namespace, resolver and control socket.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::cgroup;
use crate::config::{Namespace, ShimConfig};
use crate::container::privileges;
use crate::dns;
use crate::failure::{Context as _, failure};
use crate::log;
use crate::protocol::{Prepared, StartAnswer, StartFailure, write_frame};
use crate::supervisor::{Parts, Supervisor};
use crate::sys;
use crate::userns::{self, UserNamespace};

/// Where the shim stands when memory ends: it is small, and without it its
/// container is lost.
const OWN_OOM_SCORE: i32 = -999;

/// Runs the shim of the container configured in this file. The start channel is
/// standard input. Returns the exit code of the program.
pub fn main(config: &Path) -> i32 {
    // SAFETY: nothing is open yet but the standard streams; what else there is was
    // inherited by mistake and is owned by nobody.
    let closed = unsafe { sys::close_from(3) };
    let channel = match closed.and_then(|()| detach()) {
        Ok(Some(channel)) => channel,
        Ok(None) => return 0,
        Err(error) => {
            eprintln!("detaching: {error}");
            return 1;
        }
    };
    let result = prepare(config, &channel).and_then(|parts| {
        let socket = parts.config.paths.socket.clone();
        Supervisor::new(parts)
            .context(|| log::FAILED)
            .inspect_err(|_| {
                let _ = fs::remove_file(socket);
            })
    });
    let mut supervisor = match result {
        Ok(supervisor) => supervisor,
        Err(failed) => {
            // The engine may be gone; then nobody wants to know.
            let _ = write_frame(&channel, &StartAnswer::Failed(failed));
            return 1;
        }
    };
    drop(channel);
    match supervisor.announce().and_then(|()| supervisor.run()) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("supervising: {error}");
            1
        }
    }
}

/// Leaves the daemon: a new process in a new session. `None` in the old process.
/// Gives the start channel, which was standard input.
fn detach() -> io::Result<Option<UnixStream>> {
    // SAFETY: the program has one thread.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { .. } => return Ok(None),
        nix::unistd::ForkResult::Child => {}
    }
    nix::unistd::setsid()?;
    // SAFETY: standard input is open, as the launcher passes the channel there.
    let input = unsafe { std::os::fd::BorrowedFd::borrow_raw(0) };
    let channel = UnixStream::from(input.try_clone_to_owned()?);
    let null = sys::open("/dev/null", libc::O_RDWR)?;
    sys::duplicate_to(null.as_fd(), 0)?;
    Ok(Some(channel))
}

fn prepare(config: &Path, channel: &UnixStream) -> Result<Parts, StartFailure> {
    let config = ShimConfig::read(config)
        .map_err(|error| failure(format!("reading {}: {error}", config.display())))?;
    settle().context(|| "settling in")?;
    let signals = child_signals().context(|| "listening for signals")?;
    let open_files = raise_open_files();
    let oom_score_adj = lower_own_oom_score(config.process.oom_score_adj);
    let own_program =
        sys::open("/proc/self/exe", libc::O_PATH).context(|| "open /proc/self/exe")?;
    let group = cgroup::at(&config.cgroup_path()).context(|| "finding the cgroups")?;
    let listener = listen(&config.paths.socket)
        .map_err(|error| failure(format!("control socket: {error}")))?;
    let network = Network::prepare(&config).inspect_err(|_| {
        // As if it had never been tried.
        let _ = fs::remove_file(&config.paths.socket);
    })?;
    let start_channel = channel.try_clone().context(|| "keeping the channel")?;
    Ok(Parts {
        config,
        own_program,
        netns: network.netns,
        user: network.user,
        group,
        signals,
        listener,
        start_channel,
        dns: network.dns,
        open_files,
        oom_score_adj,
    })
}

/// What makes this process a good parent for strangers.
fn settle() -> io::Result<()> {
    sys::prctl(libc::PR_SET_NAME, c"skep-shim".as_ptr() as u64, 0)?;
    // Neither core files nor a debugger inside a container may see its memory.
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0)?;
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0)?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o027));
    // The daemon's end, or an ill-configured service manager, must not reach the
    // container; what ends the shim is the container's end.
    for signal in [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
        libc::SIGPIPE,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGALRM,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
    ] {
        // SAFETY: ignoring is always a valid disposition.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    Ok(())
}

fn child_signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None)?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    Ok(SignalFd::with_flags(&set, flags)?)
}

/// Forwarded DNS questions each hold a descriptor. Gives the limit as it was.
fn raise_open_files() -> Option<libc::rlimit64> {
    let resource = libc::RLIMIT_NOFILE as i32;
    let before = privileges::get_rlimit(resource).ok()?;
    let raised = libc::rlimit64 {
        rlim_cur: before.rlim_max,
        rlim_max: before.rlim_max,
    };
    privileges::set_rlimit(resource, &raised)
        .is_ok()
        .then_some(before)
}

/// Lowers the shim's own score where the host allows it. Gives the score of the
/// container's processes, which must not inherit that.
fn lower_own_oom_score(wanted: Option<i32>) -> Option<i32> {
    let file = "/proc/self/oom_score_adj";
    let before = fs::read_to_string(file).ok()?.trim().parse().ok();
    let lowered = fs::write(file, OWN_OOM_SCORE.to_string()).is_ok();
    wanted.or(before.filter(|_| lowered))
}

/// Listens on the control socket. One left behind by a dead shim is replaced.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "no directory or name");
    let directory = sys::open(
        path.parent().ok_or_else(invalid)?,
        libc::O_PATH | libc::O_DIRECTORY,
    )?;
    let name = path.file_name().ok_or_else(invalid)?;
    // Socket addresses are short; the directory's descriptor stands for its path.
    let short = Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(name);
    match UnixStream::connect(&short) {
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another shim runs this container",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(_) => fs::remove_file(&short)?,
    }
    let listener = UnixListener::bind(&short)?;
    fs::set_permissions(&short, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The container's network namespace and what listens in it.
struct Network {
    netns: Option<OwnedFd>,
    /// The user namespace of the container, if not the host's.
    user: Option<OwnedFd>,
    dns: Option<dns::Server>,
}

impl Network {
    /// Makes or enters the namespace, opens the resolver's sockets there and comes
    /// back: the resolver asks outside from the host's namespace.
    fn prepare(config: &ShimConfig) -> Result<Self, StartFailure> {
        let wanted = &config.namespaces.net;
        if *wanted == Namespace::Host {
            return match config.dns {
                None => Ok(Self {
                    netns: None,
                    user: user_namespace(config, None)?,
                    dns: None,
                }),
                Some(_) => Err(failure(
                    "a container on the host's network uses its resolver",
                )),
            };
        }
        let doing = || "preparing the network namespace";
        let host = sys::open("/proc/self/ns/net", libc::O_RDONLY).context(doing)?;
        let (netns, user) = match (wanted, &config.user_namespace) {
            (Namespace::Join(path), _) => {
                let netns = sys::open(path, libc::O_RDONLY)
                    .context(|| format!("lstat {}", path.display()))?;
                sys::setns(netns.as_fd(), libc::CLONE_NEWNET)
                    .context(|| format!("joining the network namespace {}", path.display()))?;
                let user = user_namespace(config, Some(&netns))?;
                (netns, user)
            }
            (_, Some(UserNamespace { map, join: None })) => {
                let made = userns::make(map).context(|| "making a user namespace")?;
                sys::setns(made.net.as_fd(), libc::CLONE_NEWNET).context(doing)?;
                (made.net, Some(made.user))
            }
            _ => {
                sys::unshare(libc::CLONE_NEWNET).context(doing)?;
                let netns = sys::open("/proc/self/ns/net", libc::O_RDONLY).context(doing)?;
                (netns, user_namespace(config, None)?)
            }
        };
        let dns = loopback_up()
            .context(|| "bringing the loopback device up")
            .and_then(|()| {
                config
                    .dns
                    .clone()
                    .map(|dns| dns::Server::bind(dns).context(|| "listening at 127.0.0.11"))
                    .transpose()
            });
        sys::setns(host.as_fd(), libc::CLONE_NEWNET).context(doing)?;
        Ok(Self {
            netns: Some(netns),
            user,
            dns: dns?,
        })
    }
}

/// The container's user namespace: one that is there, that of its network, or a new one.
fn user_namespace(
    config: &ShimConfig,
    netns: Option<&OwnedFd>,
) -> Result<Option<OwnedFd>, StartFailure> {
    let Some(wanted) = &config.user_namespace else {
        return Ok(None);
    };
    if let Some(path) = &wanted.join {
        return sys::open(path, libc::O_RDONLY)
            .map(Some)
            .context(|| format!("lstat {}", path.display()));
    }
    let doing = || "making a user namespace";
    let owner = match netns {
        Some(netns) => userns::owner(netns.as_fd()).context(doing)?,
        None => None,
    };
    match owner {
        Some(owner) => Ok(Some(owner)),
        None => userns::make(&wanted.map)
            .map(|made| Some(made.user))
            .context(doing),
    }
}

/// Without it 127.0.0.1 does not exist, nor 127.0.0.11.
fn loopback_up() -> io::Result<()> {
    // SAFETY: no pointers; a new descriptor nobody else owns, checked.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: all zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, &byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *place = byte as libc::c_char;
    }
    // SAFETY: both calls take an ifreq, which outlives them; reading the flags back
    // is valid after the first has filled them.
    unsafe {
        if libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCGIFFLAGS as _,
            &raw mut request,
        ) != 0
        {
            return Err(io::Error::last_os_error());
        }
        if request.ifr_ifru.ifru_flags & libc::IFF_UP as libc::c_short != 0 {
            return Ok(());
        }
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        if libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw mut request,
        ) != 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// What the engine is told about a prepared shim.
pub fn describe(netns: Option<&OwnedFd>, dns: Option<&dns::Server>) -> io::Result<Prepared> {
    let shim_pid = nix::unistd::getpid().as_raw();
    Ok(Prepared {
        shim_pid,
        netns: netns.map(|netns| format!("/proc/{shim_pid}/fd/{}", netns.as_raw_fd())),
        dns: dns.map(dns::Server::ports).transpose()?,
    })
}
