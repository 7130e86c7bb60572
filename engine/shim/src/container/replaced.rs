//! Replaces files that only memory holds while the container runs.
//!
//! Each file is a mount of its own, so another one is put beneath it and the old one taken off:
//! whoever opens the path gets the old file or the new one, whole, at every moment. The container
//! cannot lead this anywhere else: paths are resolved in its own root and mount namespace, and what
//! is replaced must be the root of a mount of a read-only file in memory, which its processes can
//! neither make nor move.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::injected::{self, Secret};
use super::place;
use crate::config::InjectedFile;
use crate::sys;
use crate::userns::IdMap;

/// A file with other bytes than before. No `Debug`.
pub struct File {
    /// Absolute path in the container.
    pub target: String,
    pub uid: u32,
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// Wiped once they are written.
    pub bytes: Box<[u8]>,
}

/// Replaces files in the mount namespace of a container. `scratch` is an empty directory of the
/// host; `map` says which ids of the host the owners are.
///
/// The calling thread is in that namespace afterwards: use one of its own, and end it.
///
/// # Errors
/// A file is not there, or the kernel refused; files before it are replaced then.
pub fn replace(
    namespace: BorrowedFd<'_>,
    scratch: &Path,
    files: Vec<File>,
    map: Option<&IdMap>,
) -> io::Result<()> {
    let (files, secrets): (Vec<InjectedFile>, Vec<Secret>) = files
        .into_iter()
        .map(|file| {
            let injected = InjectedFile {
                name: file.target.clone(),
                target: file.target.clone(),
                uid: file.uid,
                gid: file.gid,
                mode: file.mode,
            };
            let (name, bytes) = (file.target, file.bytes);
            (injected, Secret { name, bytes })
        })
        .unzip();
    // In the container this thread cannot be found by `/proc`.
    let descriptors = sys::open("/proc/thread-self/fd", libc::O_PATH | libc::O_DIRECTORY)?;
    let own = sys::fstat(sys::open("/proc/thread-self/ns/mnt", libc::O_RDONLY)?.as_fd())?;
    if sys::fstat(namespace)?.st_ino == own.st_ino {
        return Err(io::Error::other("the container has the host's mounts"));
    }
    sys::unshare(libc::CLONE_FS | libc::CLONE_NEWNS)?;
    let private = libc::MS_REC | libc::MS_PRIVATE;
    sys::mount(c"none", c"/", c"", private, c"")?;
    let mounts = injected::write(&files, &secrets, scratch, map)
        .map_err(|failure| io::Error::other(failure.message))?;
    sys::setns(namespace, libc::CLONE_NEWNS)?;
    let root = sys::open("/", libc::O_PATH | libc::O_DIRECTORY)?;
    for (file, mount) in mounts.into_mounts() {
        replace_one(root.as_fd(), descriptors.as_fd(), &file.target, &mount).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("`{}` cannot be replaced: {error}", file.target),
            )
        })?;
    }
    Ok(())
}

fn replace_one(
    root: BorrowedFd<'_>,
    descriptors: BorrowedFd<'_>,
    target: &str,
    mount: &OwnedFd,
) -> io::Result<()> {
    let old = place::open(root, target)?;
    check_is_ours(&old)?;
    // Links on the way to it are done with from here on.
    let real = real_path(descriptors, &old)?;
    let outside = || io::Error::other("its place is not a path any more");
    let (parent, name) = real.parent().zip(real.file_name()).ok_or_else(outside)?;
    let parent = sys::open_in_root(root, parent, libc::O_PATH | libc::O_DIRECTORY, 0)?;
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    let top = sys::openat2(parent.as_fd(), Path::new(name), flags, 0, 0)?;
    if !same(&top, &old)? {
        return Err(outside());
    }
    match sys::attach_beneath(mount.as_fd(), top.as_fd()) {
        // The place is a mount's, so that its name cannot be made another's meanwhile.
        Ok(()) => sys::detach_mount_at(parent.as_fd(), name),
        // Linux before 6.5: the old one stays below, where no path leads to.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
            sys::attach_mount(mount.as_fd(), top.as_fd())
        }
        Err(error) => Err(error),
    }
}

/// Whether what is there is a file that a shim has put there.
fn check_is_ours(file: &OwnedFd) -> io::Result<()> {
    let is_file = sys::fstat(file.as_fd())?.st_mode & libc::S_IFMT == libc::S_IFREG;
    let in_memory = sys::file_system(file.as_fd())? == libc::TMPFS_MAGIC;
    let is_mount = sys::is_mount_root(file.as_fd())?;
    match is_file && in_memory && is_mount {
        true => Ok(()),
        false => Err(io::Error::other("what is there is no file of ours")),
    }
}

fn real_path(descriptors: BorrowedFd<'_>, file: &OwnedFd) -> io::Result<PathBuf> {
    let name = file.as_raw_fd().to_string();
    let path = nix::fcntl::readlinkat(descriptors, name.as_str())?;
    Ok(PathBuf::from(path))
}

fn same(a: &OwnedFd, b: &OwnedFd) -> io::Result<bool> {
    let (a, b) = (sys::fstat(a.as_fd())?, sys::fstat(b.as_fd())?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}
