//! The file systems the kernel offers a container: `/proc`, `/sys`, `/dev`, shared
//! memory, message queues and its control groups.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use crate::cgroup::View;
use crate::config::{Namespace, ShimConfig, Shm};
use crate::container::place::{self, Kind};
use crate::failure::{Context as _, failure};
use crate::protocol::StartFailure;
use crate::sys::{self, FsContext};

const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
const LOCKED_DOWN: u64 = NOSUID | NODEV | NOEXEC;

/// Group that owns terminals in every distribution's `/etc/group`.
const TTY_GROUP: &str = "5";

/// What root of a user namespace may not mount, or not reach.
pub struct Gathered {
    sys: OwnedFd,
    shm: Option<OwnedFd>,
}

/// Mounts with the host's powers, in the network namespace of the container, what needs
/// them. Nothing is attached yet.
pub fn gather(config: &ShimConfig) -> Result<Gathered, StartFailure> {
    Ok(Gathered {
        sys: make_sys(config)?,
        shm: shared_shm(config)?,
    })
}

fn make_sys(config: &ShimConfig) -> Result<OwnedFd, StartFailure> {
    let readonly = if config.privileged { 0 } else { RDONLY };
    make(c"sysfs", &[], LOCKED_DOWN | readonly, "/sys")
}

/// Shared memory of the host or of another container.
fn shared_shm(config: &ShimConfig) -> Result<Option<OwnedFd>, StartFailure> {
    match &config.shm {
        Shm::None | Shm::Private { .. } => Ok(None),
        Shm::Path { path } => {
            let doing = || format!("sharing {}", path.display());
            let source = sys::open(path, libc::O_PATH | libc::O_DIRECTORY).context(doing)?;
            let tree = sys::clone_tree(source.as_fd(), false).context(doing)?;
            sys::set_mount(tree.as_fd(), LOCKED_DOWN, 0, libc::MS_PRIVATE, false).context(doing)?;
            Ok(Some(tree))
        }
        Shm::OfProcess { pid } => shm_of(*pid)
            .map(Some)
            .context(|| format!("sharing /dev/shm of process {pid}")),
    }
}

/// Mounts all of them but the control groups.
pub fn mount_all(
    root: BorrowedFd<'_>,
    config: &ShimConfig,
    gathered: Option<Gathered>,
) -> Result<(), StartFailure> {
    let attach = |kind, options: &[(&str, &str)], attributes, path: &str| {
        let mount = make(kind, options, attributes, path)?;
        place::attach(root, mount.as_fd(), path, Kind::Directory)
    };
    attach(c"proc", &[], LOCKED_DOWN, "/proc")?;
    attach(
        c"tmpfs",
        &[("mode", "755"), ("size", "65536k")],
        NOSUID | libc::MOUNT_ATTR_STRICTATIME,
        "/dev",
    )?;
    // Each mount of devpts has its own terminals since 4.7.
    attach(
        c"devpts",
        &[("ptmxmode", "0666"), ("mode", "0620"), ("gid", TTY_GROUP)],
        NOSUID | NOEXEC,
        "/dev/pts",
    )?;
    let Gathered { sys, shm } = match gathered {
        Some(gathered) => gathered,
        None => gather(config)?,
    };
    place::attach(root, sys.as_fd(), "/sys", Kind::Directory)?;
    attach(c"mqueue", &[], LOCKED_DOWN, "/dev/mqueue")?;
    let shm = match (shm, &config.shm) {
        (Some(shared), _) => shared,
        (None, Shm::Private { bytes }) => make(
            c"tmpfs",
            &[
                ("source", "shm"),
                ("mode", "1777"),
                ("size", &bytes.to_string()),
            ],
            LOCKED_DOWN,
            "/dev/shm",
        )?,
        (None, _) => return Ok(()),
    };
    place::attach(root, shm.as_fd(), "/dev/shm", Kind::Directory)
}

fn make(
    kind: &std::ffi::CStr,
    options: &[(&str, &str)],
    attributes: u64,
    path: &str,
) -> Result<OwnedFd, StartFailure> {
    let doing = || {
        format!(
            "error mounting \"{}\" to rootfs at \"{path}\"",
            kind.to_string_lossy()
        )
    };
    let context = FsContext::new(kind).context(doing)?;
    // What `mount` and `df` show: the type's name, where nothing else is said.
    if !options.iter().any(|(key, _)| *key == "source") {
        context
            .set("source", &kind.to_string_lossy())
            .context(doing)?;
    }
    for (key, value) in options {
        context.set(key, value).context(doing)?;
    }
    context.mount(attributes).context(doing)
}

/// The shared memory of another container. Its mount can only be copied inside its
/// own mount namespace; the copy may then be attached anywhere.
fn shm_of(pid: i32) -> std::io::Result<OwnedFd> {
    let own = sys::open("/proc/self/ns/mnt", libc::O_RDONLY)?;
    let working = sys::open(".", libc::O_PATH | libc::O_DIRECTORY)?;
    let root = sys::open("/", libc::O_PATH | libc::O_DIRECTORY)?;
    let other = sys::open(format!("/proc/{pid}/ns/mnt"), libc::O_RDONLY)?;
    sys::setns(other.as_fd(), libc::CLONE_NEWNS)?;
    let copied = sys::open("/", libc::O_PATH | libc::O_DIRECTORY)
        .and_then(|root| place::open(root.as_fd(), "/dev/shm"))
        .and_then(|shm| sys::clone_tree(shm.as_fd(), false));
    sys::setns(own.as_fd(), libc::CLONE_NEWNS)?;
    // Entering a mount namespace moved root and working directory to its root,
    // which here is where they were.
    nix::unistd::fchdir(root.as_fd())?;
    nix::unistd::fchdir(working.as_fd())?;
    copied
}

/// Control groups as they are shown, attached nowhere yet.
pub enum Cgroups {
    /// The one tree.
    Unified(OwnedFd),
    /// A mount for each name, and links from names to names.
    Hierarchies {
        mounts: Vec<(String, OwnedFd)>,
        links: Vec<(String, String)>,
    },
}

/// Where control groups are shown.
const CGROUP: &str = "/sys/fs/cgroup";

/// Takes what the container may see of its control groups. Before this process is in
/// its cgroup namespace there may be nothing to take yet.
pub fn gather_cgroups(config: &ShimConfig, view: &View) -> Result<Option<Cgroups>, StartFailure> {
    let doing = || format!("error mounting \"cgroup\" to rootfs at \"{CGROUP}\"");
    let readonly = if config.privileged { 0 } else { RDONLY };
    match view {
        // In a namespace of its own the container's group is the root; only who is in
        // that namespace can mount it.
        View::Unified { .. } if config.namespaces.cgroup == Namespace::New => Ok(None),
        View::Unified { .. } => Ok(Some(Cgroups::Unified(make_unified(config)?))),
        View::Hierarchies { directories, links } => {
            let mut mounts = Vec::new();
            for (name, directory) in directories {
                let source =
                    sys::open(directory, libc::O_PATH | libc::O_DIRECTORY).context(doing)?;
                let tree = sys::clone_tree(source.as_fd(), false).context(doing)?;
                sys::set_mount(
                    tree.as_fd(),
                    LOCKED_DOWN | readonly,
                    0,
                    libc::MS_PRIVATE,
                    false,
                )
                .context(doing)?;
                mounts.push((name.clone(), tree));
            }
            Ok(Some(Cgroups::Hierarchies {
                mounts,
                links: links.clone(),
            }))
        }
    }
}

fn make_unified(config: &ShimConfig) -> Result<OwnedFd, StartFailure> {
    let readonly = if config.privileged { 0 } else { RDONLY };
    make(c"cgroup2", &[], LOCKED_DOWN | readonly, CGROUP)
}

/// Shows the container its control groups; without any the unified tree is mounted.
pub fn mount_cgroups(
    root: BorrowedFd<'_>,
    config: &ShimConfig,
    gathered: Option<Cgroups>,
) -> Result<(), StartFailure> {
    let doing = || format!("error mounting \"cgroup\" to rootfs at \"{CGROUP}\"");
    let place = place::open(root, CGROUP).context(doing)?;
    let gathered = match gathered {
        Some(gathered) => gathered,
        None => Cgroups::Unified(make_unified(config)?),
    };
    match gathered {
        Cgroups::Unified(mount) => sys::attach_mount(mount.as_fd(), place.as_fd()).context(doing),
        Cgroups::Hierarchies { mounts, links } => {
            let readonly = if config.privileged { 0 } else { RDONLY };
            let parent = make(c"tmpfs", &[("mode", "755")], LOCKED_DOWN, CGROUP)?;
            sys::attach_mount(parent.as_fd(), place.as_fd()).context(doing)?;
            for (name, tree) in mounts {
                place::attach(
                    parent.as_fd(),
                    tree.as_fd(),
                    &format!("/{name}"),
                    Kind::Directory,
                )?;
            }
            for (name, target) in links {
                nix::unistd::symlinkat(target.as_str(), parent.as_fd(), name.as_str())
                    .context(doing)?;
            }
            sys::set_mount(parent.as_fd(), readonly, 0, 0, false).context(doing)
        }
    }
}

/// Writes the kernel parameters of the container's network through the host's `/proc`, as
/// only the host may write them all. This process is in that network.
pub fn write_net_sysctls(config: &ShimConfig) -> Result<(), StartFailure> {
    let root = sys::open("/", libc::O_PATH | libc::O_DIRECTORY).context(|| "open /")?;
    write_those(root.as_fd(), config, is_net)
}

/// Writes the container's kernel parameters.
pub fn write_sysctls(root: BorrowedFd<'_>, config: &ShimConfig) -> Result<(), StartFailure> {
    let written_before = config.user_namespace.is_some();
    write_those(root, config, |name| !(written_before && is_net(name)))
}

fn is_net(name: &str) -> bool {
    name.starts_with("net.") || name.starts_with("net/")
}

fn write_those(
    root: BorrowedFd<'_>,
    config: &ShimConfig,
    wanted: impl Fn(&str) -> bool,
) -> Result<(), StartFailure> {
    for (name, value) in config.sysctls.iter().filter(|(name, _)| wanted(name)) {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        if path.split('/').any(|part| part == "..") {
            return Err(failure(format!("invalid sysctl `{name}`")));
        }
        let doing = || format!("write sysctl {name}");
        let file = sys::open_in_root(root, path.as_ref(), libc::O_WRONLY, 0).context(doing)?;
        // Nothing that is mounted over it is written to.
        if sys::file_system(file.as_fd()).context(doing)? != sys::PROC_MAGIC {
            return Err(failure(format!("{}: it is not on procfs", doing())));
        }
        sys::write(file.as_fd(), value.as_bytes()).context(doing)?;
    }
    Ok(())
}

/// Hides and write-protects what docker hides and write-protects.
pub fn mask(root: BorrowedFd<'_>, config: &ShimConfig) -> Result<(), StartFailure> {
    if config.privileged {
        return Ok(());
    }
    for path in &config.readonly_paths {
        let doing = || format!("making {path} read-only");
        let Some(place) = existing(root, path).context(doing)? else {
            continue;
        };
        let tree = sys::clone_tree(place.as_fd(), true).context(doing)?;
        sys::set_mount(tree.as_fd(), RDONLY, 0, 0, true).context(doing)?;
        sys::attach_mount(tree.as_fd(), place.as_fd()).context(doing)?;
    }
    let null = null_device()?;
    for path in &config.masked_paths {
        let doing = || format!("masking {path}");
        let Some(place) = existing(root, path).context(doing)? else {
            continue;
        };
        let status = sys::fstat(place.as_fd()).context(doing)?;
        let cover = if status.st_mode & libc::S_IFMT == libc::S_IFDIR {
            make(c"tmpfs", &[("size", "0")], LOCKED_DOWN | RDONLY, path)?
        } else {
            sys::clone_tree(null.as_fd(), false).context(doing)?
        };
        sys::attach_mount(cover.as_fd(), place.as_fd()).context(doing)?;
    }
    Ok(())
}

/// A path of the kernel's file systems; a symbolic link on the way is refused, as
/// the kernel puts none there and an image must not choose what is covered.
fn existing(root: BorrowedFd<'_>, path: &str) -> std::io::Result<Option<OwnedFd>> {
    let resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
    match sys::openat2(root, path.as_ref(), libc::O_PATH, 0, resolve) {
        Ok(place) => Ok(Some(place)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The host's null device, looked at after it was opened.
fn null_device() -> Result<OwnedFd, StartFailure> {
    let null =
        sys::open("/dev/null", libc::O_PATH | libc::O_NOFOLLOW).context(|| "open /dev/null")?;
    let status = sys::fstat(null.as_fd()).context(|| "stat /dev/null")?;
    if status.st_mode & libc::S_IFMT != libc::S_IFCHR || status.st_rdev != libc::makedev(1, 3) {
        return Err(failure("/dev/null of the host is not the null device"));
    }
    Ok(null)
}

/// Shows the main process's terminal at `/dev/console`.
pub fn show_console(root: BorrowedFd<'_>, slave: &OwnedFd) -> Result<(), StartFailure> {
    let tree = sys::clone_tree(slave.as_fd(), false).or_else(|_| {
        // Kernels that cannot copy from a descriptor with an empty path can by name.
        let number = nix::unistd::ttyname(slave)?;
        let place = sys::open(number, libc::O_PATH)?;
        sys::clone_tree(place.as_fd(), false)
    });
    let tree = tree.context(|| format!("copying terminal {}", slave.as_raw_fd()))?;
    place::attach(root, tree.as_fd(), "/dev/console", Kind::File)
}
