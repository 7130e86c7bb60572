//! Control groups: place a container's processes, limit and measure them.
//!
//! [`at`] gives the group of a container on whatever this host has. A host with
//! both versions mounted (hybrid) is treated as version 1, as its controllers are
//! there.

mod device_filter;
mod files;
mod limits;
mod stats;
mod v1;
mod v2;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

pub use limits::{BlkioThrottle, BlkioWeight, CPU_PERIOD_US, Limits, ThrottleKind};
pub use stats::{BlkioEntry, BlkioStats, CpuStats, MemoryStats, PidsStats, Stats};

/// Where hosts mount their control groups.
const MOUNT_POINT: &str = "/sys/fs/cgroup";
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// One container's group, which need not exist yet.
pub trait Group: fmt::Debug + Send {
    /// Makes the group and those above it, and limits it. `devices` are rules in
    /// docker's form that say which devices may be used; `None` allows all.
    ///
    /// # Errors
    /// The kernel refused; what was made is removed again.
    fn create(&self, limits: &Limits, devices: Option<&[String]>) -> io::Result<()>;

    /// Changes the limits that are given.
    ///
    /// # Errors
    /// The kernel refused one; those before it are changed.
    fn update(&self, limits: &Limits) -> io::Result<()>;

    /// Where a process can be born into the group: the directory to give to
    /// `clone3`. `None` where that is not possible; then the child calls
    /// [`Group::join`].
    ///
    /// # Errors
    /// The group does not exist.
    fn birthplace(&self) -> io::Result<Option<OwnedFd>>;

    /// Moves the calling process, which must have one thread, into the group.
    ///
    /// # Errors
    /// The group does not exist.
    fn join(&self) -> io::Result<()>;

    /// All processes in it and in the groups below, as the host numbers them.
    ///
    /// # Errors
    /// The group does not exist.
    fn processes(&self) -> io::Result<Vec<i32>>;

    /// Stops all its processes, or lets them go on.
    ///
    /// # Errors
    /// The kernel refused or could not stop them within a second.
    fn freeze(&self, frozen: bool) -> io::Result<()>;

    /// Whether it is frozen.
    ///
    /// # Errors
    /// The group does not exist.
    fn is_frozen(&self) -> io::Result<bool>;

    /// Sends SIGKILL to all its processes, once.
    ///
    /// # Errors
    /// They cannot be listed.
    fn kill(&self) -> io::Result<()>;

    /// How many processes the kernel killed for want of memory; 0 when it does not
    /// say.
    fn oom_kills(&self) -> u64;

    /// A descriptor that becomes readable when memory ends.
    ///
    /// # Errors
    /// This kernel has no such notification.
    fn watch_oom(&self) -> io::Result<OwnedFd>;

    /// What it uses.
    ///
    /// # Errors
    /// The group does not exist.
    fn stats(&self) -> io::Result<Stats>;

    /// Removes the group and those below it. One that does not exist is removed.
    ///
    /// # Errors
    /// `ResourceBusy` while processes are in it or have just left it: try again.
    fn remove(&self) -> io::Result<()>;

    /// What a container with its own view of the groups sees below
    /// `/sys/fs/cgroup`.
    fn view(&self) -> View;
}

/// How control groups appear inside a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// One tree, this directory.
    Unified { directory: PathBuf },
    /// A directory per hierarchy under these names, and symbolic links.
    Hierarchies {
        directories: Vec<(String, PathBuf)>,
        links: Vec<(String, String)>,
    },
}

/// Whether this host has version 2 only.
pub fn is_unified() -> bool {
    crate::sys::open(MOUNT_POINT, libc::O_PATH | libc::O_DIRECTORY)
        .and_then(|directory| {
            use std::os::fd::AsFd as _;
            crate::sys::file_system(directory.as_fd())
        })
        .is_ok_and(|magic| magic == CGROUP2_MAGIC)
}

/// Whether the kernel weighs single block devices.
pub fn has_device_weights() -> bool {
    let root = Path::new(MOUNT_POINT);
    if !is_unified() {
        let blkio = root.join("blkio");
        return v1::DEVICE_WEIGHTS
            .iter()
            .any(|name| blkio.join(name).exists());
    }
    // The root group has no weights, its children have.
    let groups = std::fs::read_dir(root).into_iter().flatten().flatten();
    groups.into_iter().any(|group| {
        let has = |name: &str| group.path().join(name).exists();
        has("io.bfq.weight") || has("io.weight")
    })
}

/// The group at a path from the root of the hierarchy, e.g.
/// [`crate::ShimConfig::cgroup_path`]. Nothing is made.
///
/// # Errors
/// This host has no control groups, or the path has a `..`.
pub fn at(path: &str) -> io::Result<Box<dyn Group>> {
    let path = path.trim_start_matches('/');
    if path.is_empty()
        || Path::new(path)
            .components()
            .any(|part| part.as_os_str() == "..")
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("`{path}` is no path of a control group"),
        ));
    }
    if is_unified() {
        Ok(Box::new(v2::Unified::new(Path::new(MOUNT_POINT), path)))
    } else {
        Ok(Box::new(v1::Hierarchies::find(path)?))
    }
}
