//! Network namespaces: made, pinned to a file, entered, removed.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::NetError;

/// The magic number of the nsfs file system (`NSFS_MAGIC` in linux/magic.h).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// The pinned network namespaces of one daemon: files under `<run>/netns`.
#[derive(Clone, Debug)]
pub struct Namespaces {
    dir: PathBuf,
}

/// An open network namespace. Holding it keeps the namespace alive, so hold it
/// briefly.
#[derive(Debug)]
pub struct Netns {
    file: OwnedFd,
    name: String,
}

impl Namespaces {
    /// The namespaces pinned under `<run>/netns`.
    pub fn new(run_dir: &Path) -> Self {
        Self {
            dir: run_dir.join("netns"),
        }
    }

    /// Where the namespace of this name is pinned.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes a namespace and pins it, loopback up. One that exists is adopted.
    pub fn create(&self, name: &str) -> Result<Netns, NetError> {
        check_name(name)?;
        let path = self.path(name);
        let failed = |source| io_error("create", name, source);
        if is_namespace(&path) {
            return self.open(name);
        }
        fs::create_dir_all(&self.dir).map_err(failed)?;
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(failed)?;
        let pinned = on_own_thread(|| {
            unshare_network()?;
            bind_mount(Path::new("/proc/thread-self/ns/net"), &path)?;
            crate::netlink::loopback_up()
        });
        match pinned.and_then(|()| File::open(&path)) {
            Ok(file) => Ok(Netns {
                file: file.into(),
                name: name.to_owned(),
            }),
            Err(error) => {
                // A half-made pin would be adopted as a broken namespace later.
                let _ = unmount(&path);
                let _ = fs::remove_file(&path);
                Err(failed(error))
            }
        }
    }

    /// Pins a namespace that is there, such as `/proc/PID/ns/net`, loopback up. A pin of
    /// this name that exists is replaced.
    pub fn pin(&self, name: &str, from: &Path) -> Result<Netns, NetError> {
        check_name(name)?;
        let path = self.path(name);
        let failed = |source| io_error("create", name, source);
        self.delete(name)?;
        fs::create_dir_all(&self.dir).map_err(failed)?;
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(failed)?;
        let pinned = bind_mount(from, &path).map_err(failed).and_then(|()| {
            let netns = self.open(name)?;
            netns.run(crate::netlink::loopback_up)?.map_err(failed)?;
            Ok(netns)
        });
        if pinned.is_err() {
            // A half-made pin would be adopted as a broken namespace later.
            let _ = self.delete(name);
        }
        pinned
    }

    /// Opens a pinned namespace.
    pub fn open(&self, name: &str) -> Result<Netns, NetError> {
        check_name(name)?;
        Netns::open(&self.path(name))
    }

    /// Removes the pin. The namespace goes when nothing else holds it. One that
    /// does not exist is fine.
    ///
    /// Links that must vanish now (VXLAN devices, veths) are to be deleted before:
    /// a process or descriptor left inside keeps the namespace and them alive.
    pub fn delete(&self, name: &str) -> Result<(), NetError> {
        check_name(name)?;
        let path = self.path(name);
        // Mounts may be stacked when two starts raced; take all of them off.
        while is_namespace(&path) {
            unmount(&path).map_err(|source| io_error("unmount", name, source))?;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("remove", name, error))
            }
            _ => Ok(()),
        }
    }

    /// Whether a live namespace of this name is pinned.
    pub fn exists(&self, name: &str) -> bool {
        check_name(name).is_ok() && is_namespace(&self.path(name))
    }

    /// The names of all pins, dead ones (after a reboot) included, in order.
    pub fn list(&self) -> Result<Vec<String>, NetError> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|source| io_error("list", "", source))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| io_error("list", "", source))?;
            names.extend(entry.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }
}

impl Netns {
    /// Opens a namespace by its file: a pin or `/proc/<pid>/ns/net`.
    pub fn open(path: &Path) -> Result<Self, NetError> {
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) if is_namespace_file(file.as_fd()) => Ok(Self {
                file: file.into(),
                name,
            }),
            Ok(_) => Err(NetError::NotFound {
                object: format!("network namespace `{name}`"),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(NetError::NotFound {
                object: format!("network namespace `{name}`"),
            }),
            Err(error) => Err(io_error("open", &name, error)),
        }
    }

    /// The namespace the calling thread is in.
    pub fn current() -> Result<Self, NetError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The same namespace, held once more.
    pub(crate) fn open_same(other: &Self) -> Result<Self, NetError> {
        let file = other.as_fd().try_clone_to_owned();
        let file = file.map_err(|source| io_error("open", &other.name, source))?;
        Ok(Self {
            file,
            name: other.name.clone(),
        })
    }

    /// Runs `f` on a thread of its own inside the namespace and waits for it.
    /// Sockets it makes stay in the namespace for life. A panic in `f` goes on
    /// in the caller.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, NetError> {
        let file = self.file.as_fd();
        on_own_thread(|| {
            enter(file)?;
            Ok(f())
        })
        .map_err(|source| io_error("enter", &self.name, source))
    }

    /// Whether both are the same namespace.
    pub fn is_same(&self, other: &Self) -> bool {
        matches!((identity(self.as_fd()), identity(other.as_fd())), (Ok(a), Ok(b)) if a == b)
    }

    /// Writes a sysctl below `net.` in this namespace, such as
    /// `net.ipv4.ip_forward` (dots or slashes; with dots in an interface's name,
    /// slashes). `Ok(false)`: this kernel has no such setting.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<bool, NetError> {
        self.run(|| crate::sysctl::set(key, value))?
    }

    /// Reads a sysctl below `net.` in this namespace.
    pub fn sysctl(&self, key: &str) -> Result<Option<String>, NetError> {
        self.run(|| Ok(crate::sysctl::get(key)))?
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A name becomes a file name, so it must be one.
fn check_name(name: &str) -> Result<(), NetError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.is_empty() && name.len() <= 128 && name.chars().all(plain) && !name.starts_with('.') {
        return Ok(());
    }
    Err(NetError::Invalid {
        object: format!("network namespace `{name}`"),
        reason: "only letters, digits, `-`, `_` and `.` are allowed".into(),
    })
}

fn io_error(action: &'static str, name: &str, source: io::Error) -> NetError {
    NetError::Io {
        action,
        object: format!("network namespace `{name}`"),
        source,
    }
}

/// Namespaces belong to threads; a thread that changed its own must not be used
/// for anything else afterwards, so each visit gets a thread and ends with it.
fn on_own_thread<T: Send>(f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, f)?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs `f` in a new namespace that ends with it.
pub(crate) fn in_fresh<T: Send>(f: impl FnOnce() -> T + Send) -> Result<T, NetError> {
    on_own_thread(|| {
        unshare_network()?;
        Ok(f())
    })
    .map_err(|source| io_error("create", "", source))
}

fn is_namespace(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| is_namespace_file(file.as_fd()))
}

fn is_namespace_file(file: BorrowedFd<'_>) -> bool {
    // SAFETY: an all-zero statfs is a valid value of that plain C struct.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open for the call and `stat` is writable.
    let rc = unsafe { libc::fstatfs(file.as_raw_fd(), &mut stat) };
    #[allow(
        clippy::unnecessary_cast,
        reason = "the type of f_type differs between targets"
    )]
    let kind = stat.f_type as i64;
    rc == 0 && kind == NSFS_MAGIC
}

fn identity(file: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let meta = File::from(file.try_clone_to_owned()?).metadata()?;
    Ok((meta.dev(), meta.ino()))
}

fn enter(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns changes the calling thread only; callers run on a thread that
    // ends after the visit.
    match unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn unshare_network() -> io::Result<()> {
    // SAFETY: as in `enter`: this thread only, and it ends soon.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

fn bind_mount(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (c_path(from)?, c_path(to)?);
    // SAFETY: both paths are terminated strings that outlive the call; the other
    // two pointers may be null for a bind mount.
    let rc = unsafe {
        libc::mount(
            from.as_ptr(),
            to.as_ptr(),
            std::ptr::null(),
            libc::MS_BIND,
            std::ptr::null(),
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn unmount(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: the path is a terminated string that outlives the call.
    match unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
