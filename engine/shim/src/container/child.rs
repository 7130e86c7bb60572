//! What the main process does between its birth and its program: the container's
//! whole outside is made here, in its own mount namespace, so that nothing of it
//! can stay behind.

use std::convert::Infallible;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use super::{MainPlan, Mapping, send_terminal};
use crate::config::{Namespace, ShimConfig};
use crate::container::process::{self, Program, Stdio};
use crate::container::{devices, injected, kernel_fs, mounts, place, privileges, rootfs};
use crate::failure::{Context as _, failure};
use crate::protocol::StartFailure;
use crate::sys;

/// What is mounted or opened with the host's powers.
pub struct Gathered<'a> {
    mounts: Vec<mounts::Pending<'a>>,
    files: injected::Files<'a>,
    /// The mounted root.
    root: OwnedFd,
    /// Only in a user namespace, whose root may not mount these.
    kernel: Option<kernel_fs::Gathered>,
    cgroups: Option<kernel_fs::Cgroups>,
    devices: Option<devices::Gathered>,
}

/// Builds the container around this process and becomes its program.
pub fn run(plan: MainPlan<'_>, channel: BorrowedFd<'_>) -> Result<Infallible, StartFailure> {
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    join_namespaces(&plan)?;
    if let Some(score) = plan.oom_score_adj {
        set_oom_score(score)?;
    }
    let gathered = gather(&plan, None)?;
    assemble(plan, gathered, channel)
}

/// Takes what needs the host's powers. In a mount namespace of this process's own, and
/// the network namespace of the container.
pub fn gather<'a>(
    plan: &MainPlan<'a>,
    mapping: Option<&Mapping<'_>>,
) -> Result<Gathered<'a>, StartFailure> {
    let config = plan.config;
    let mounts = mounts::collect(&config.mounts, mapping)?;
    rootfs::part_from_host()?;
    let map = mapping.map(|mapping| mapping.map);
    let files = injected::write(&config.injected, plan.secrets, &config.rootfs.merged, map)?;
    let (mut kernel, mut cgroups, mut nodes) = (None, None, None);
    if mapping.is_some() {
        kernel = Some(kernel_fs::gather(config)?);
        cgroups = kernel_fs::gather_cgroups(config, &plan.group.view())?;
        nodes = Some(devices::gather(config)?);
        kernel_fs::write_net_sysctls(config)?;
    }
    let root = rootfs::mount(&config.rootfs, mapping)?;
    Ok(Gathered {
        mounts,
        files,
        root,
        kernel,
        cgroups,
        devices: nodes,
    })
}

/// Puts the container together and becomes its program.
pub fn assemble(
    plan: MainPlan<'_>,
    gathered: Gathered<'_>,
    channel: BorrowedFd<'_>,
) -> Result<Infallible, StartFailure> {
    let config = plan.config;
    new_cgroup_namespace(config)?;
    new_session_keyring();
    name_host(config)?;
    build_root(&plan, gathered)?;

    let root = sys::open("/", libc::O_PATH | libc::O_DIRECTORY).context(|| "open /")?;
    let terminal = match &plan.stdio {
        Stdio::Terminal { size } => {
            let terminal = process::open_terminal(root.as_fd(), *size)?;
            kernel_fs::show_console(root.as_fd(), &terminal.slave)?;
            send_terminal(channel, &terminal.master)?;
            Some(terminal)
        }
        Stdio::Pipes { .. } => None,
    };
    if config.rootfs.readonly {
        rootfs::make_readonly()?;
    }
    process::take_streams(plan.stdio, terminal)?;
    if let Some(limit) = plan.open_files {
        // The shim raised its own limit; a limit of the container comes later.
        privileges::set_rlimit(libc::RLIMIT_NOFILE as i32, &limit)
            .context(|| "restoring the limit of open files")?;
    }
    let wanted = &config.process;
    process::execute(&Program {
        args: &wanted.args,
        env: &wanted.env,
        variables: plan.variables,
        cwd: &wanted.cwd,
        user: &wanted.user,
        additional_groups: &wanted.additional_groups,
        capabilities: &wanted.capabilities,
        seccomp: if config.privileged {
            &crate::config::Seccomp::Unconfined
        } else {
            &config.seccomp
        },
        no_new_privileges: wanted.no_new_privileges,
        rlimits: &wanted.rlimits,
        init: config.init.then_some(plan.own_program),
    })
}

/// Enters those namespaces that exist.
pub fn join_namespaces(plan: &MainPlan<'_>) -> Result<(), StartFailure> {
    let namespaces = &plan.config.namespaces;
    // The network first: what sysfs shows is decided when it is mounted.
    if let Some(netns) = plan.netns {
        sys::setns(netns, libc::CLONE_NEWNET).context(|| "joining the network namespace")?;
    }
    for (namespace, kind) in [
        (&namespaces.ipc, libc::CLONE_NEWIPC),
        (&namespaces.uts, libc::CLONE_NEWUTS),
    ] {
        if let Namespace::Join(path) = namespace {
            let opened =
                sys::open(path, libc::O_RDONLY).context(|| format!("lstat {}", path.display()))?;
            sys::setns(opened.as_fd(), kind)
                .context(|| format!("joining namespace {}", path.display()))?;
        }
    }
    match &namespaces.cgroup {
        Namespace::Join(path) => sys::open(path, libc::O_RDONLY)
            .and_then(|opened| sys::setns(opened.as_fd(), libc::CLONE_NEWCGROUP))
            .context(|| format!("joining namespace {}", path.display())),
        Namespace::New | Namespace::Host => Ok(()),
    }
}

/// The process is in its cgroup by now, which becomes the root it sees.
fn new_cgroup_namespace(config: &ShimConfig) -> Result<(), StartFailure> {
    match config.namespaces.cgroup {
        Namespace::New => {
            sys::unshare(libc::CLONE_NEWCGROUP).context(|| "making a cgroup namespace")
        }
        Namespace::Join(_) | Namespace::Host => Ok(()),
    }
}

/// Parts the process from keys in the daemon's session. A kernel without keys has
/// none to share.
fn new_session_keyring() {
    const JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        );
    }
}

/// A lower score needs a capability not every host gives; without it the container
/// still runs.
pub fn set_oom_score(score: i32) -> Result<(), StartFailure> {
    match std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        Err(error) if error.kind() != std::io::ErrorKind::PermissionDenied => {
            Err(error).context(|| "write /proc/self/oom_score_adj")
        }
        _ => Ok(()),
    }
}

fn name_host(config: &ShimConfig) -> Result<(), StartFailure> {
    if config.namespaces.uts != Namespace::New {
        return Ok(());
    }
    if !config.hostname.is_empty() {
        nix::unistd::sethostname(&config.hostname).context(|| "sethostname")?;
    }
    if !config.domainname.is_empty() {
        let name = config.domainname.as_bytes();
        // SAFETY: pointer and length describe the same live string.
        let result = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
        if result != 0 {
            return Err(std::io::Error::last_os_error()).context(|| "setdomainname");
        }
    }
    Ok(())
}

fn build_root(plan: &MainPlan<'_>, gathered: Gathered<'_>) -> Result<(), StartFailure> {
    let config = plan.config;
    let root = match plan.user {
        Some(_) => rootfs::take_over()?,
        None => gathered.root,
    };
    let at = root.as_fd();

    kernel_fs::mount_all(at, config, gathered.kernel)?;
    let cgroups = match gathered.cgroups {
        Some(cgroups) => Some(cgroups),
        None => kernel_fs::gather_cgroups(config, &plan.group.view())?,
    };
    kernel_fs::mount_cgroups(at, config, cgroups)?;
    devices::make_all(at, config, gathered.devices)?;
    mounts::attach_all(at, gathered.mounts)?;
    gathered.files.attach_all(at)?;
    let cwd = config.process.cwd.as_str();
    if !cwd.is_empty() {
        if !cwd.starts_with('/') {
            return Err(failure(format!(
                "the working directory '{cwd}' is invalid, it needs to be an absolute path"
            )));
        }
        place::make_directories(at, cwd.as_ref())
            .context(|| format!("mkdir {cwd} for the working directory"))?;
    }
    kernel_fs::write_sysctls(at, config)?;
    kernel_fs::mask(at, config)?;
    rootfs::enter(&root)
}
