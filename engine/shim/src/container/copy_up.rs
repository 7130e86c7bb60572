//! Fills a new volume with what the image has at its place.
//!
//! Copies into a directory inside the volume and moves the entries up when all are
//! there, so that a volume is never taken for filled when a copy was cut short.

use std::ffi::{CStr, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::sys;

/// Where a copy grows.
const GROWING: &str = ".skep-copy-growing";
/// The same when it is complete and its entries are on their way up.
const COMPLETE: &str = ".skep-copy-complete";
/// Deepest tree that is copied; each level holds two descriptors.
const DEPTH_MAX: usize = 256;

/// Fills the volume at `volume` from `target` in the root, if the volume is empty
/// and the image has a directory there.
pub fn fill(root: BorrowedFd<'_>, target: &str, volume: &Path) -> io::Result<()> {
    if volume.join(COMPLETE).exists() {
        return move_up(volume);
    }
    for entry in fs::read_dir(volume)? {
        if entry?.file_name() != GROWING {
            return Ok(());
        }
    }
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    let source = match sys::open_in_root(root, Path::new(target), flags, 0) {
        Ok(source) => source,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let growing = volume.join(GROWING);
    if growing.exists() {
        fs::remove_dir_all(&growing)?;
    }
    fs::create_dir(&growing)?;
    let opened = sys::open(&growing, flags)?;
    copy_directory(source.as_fd(), opened.as_fd(), 0)?;
    fs::rename(&growing, volume.join(COMPLETE))?;
    let place = sys::open(volume, flags)?;
    copy_attributes(source.as_fd(), place.as_fd())?;
    move_up(volume)
}

fn move_up(volume: &Path) -> io::Result<()> {
    let complete = volume.join(COMPLETE);
    for entry in fs::read_dir(&complete)? {
        let name = entry?.file_name();
        fs::rename(complete.join(&name), volume.join(&name))?;
    }
    fs::remove_dir(complete)
}

/// A name in an open directory, as a path that cannot lead elsewhere.
fn below(directory: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(name)
}

fn copy_directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::other(format!(
            "directories are nested deeper than {DEPTH_MAX}"
        )));
    }
    for entry in fs::read_dir(below(from, OsStr::new(".")))? {
        let name = entry?.file_name();
        let status = fs::symlink_metadata(below(from, &name))?;
        let kind = status.file_type();
        let open = |at: BorrowedFd<'_>, flags| {
            sys::openat2(
                at,
                Path::new(&name),
                flags | libc::O_NOFOLLOW,
                0o600,
                libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS,
            )
        };
        if kind.is_dir() {
            let flags = libc::O_RDONLY | libc::O_DIRECTORY;
            let source = open(from, flags)?;
            sys::mkdirat(to, Path::new(&name), 0o700)?;
            let target = open(to, flags)?;
            copy_directory(source.as_fd(), target.as_fd(), depth + 1)?;
            copy_attributes(source.as_fd(), target.as_fd())?;
        } else if kind.is_file() {
            let mut source = File::from(open(from, libc::O_RDONLY)?);
            let create = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
            let mut target = File::from(open(to, create)?);
            io::copy(&mut source, &mut target)?;
            copy_attributes(source.as_fd(), target.as_fd())?;
        } else if kind.is_symlink() {
            let target = fs::read_link(below(from, &name))?;
            std::os::unix::fs::symlink(target, below(to, &name))?;
            std::os::unix::fs::lchown(below(to, &name), Some(status.uid()), Some(status.gid()))?;
        } else if !kind.is_socket() {
            copy_node(&status, to, &name)?;
        }
    }
    Ok(())
}

/// Devices and named pipes.
fn copy_node(status: &fs::Metadata, to: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    use nix::sys::stat::{Mode, SFlag, mknodat};
    let mode = Mode::from_bits_truncate(status.mode() & 0o7777);
    let kind = SFlag::from_bits_truncate(status.mode() & libc::S_IFMT);
    mknodat(to, name, kind, mode, status.rdev())?;
    std::os::unix::fs::lchown(below(to, name), Some(status.uid()), Some(status.gid()))
}

/// Owner, mode, extended attributes and times.
fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    use nix::sys::stat::{Mode, fchmod, futimens};
    use nix::sys::time::TimeSpec;
    let status = sys::fstat(from)?;
    nix::unistd::fchown(to, Some(status.st_uid.into()), Some(status.st_gid.into()))?;
    fchmod(to, Mode::from_bits_truncate(status.st_mode & 0o7777))?;
    copy_extended(from, to)?;
    futimens(
        to,
        &TimeSpec::new(status.st_atime, status.st_atime_nsec),
        &TimeSpec::new(status.st_mtime, status.st_mtime_nsec),
    )?;
    Ok(())
}

fn copy_extended(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut names = vec![0_u8; 65_536];
    // SAFETY: the buffer is live and its length given.
    let length =
        unsafe { libc::flistxattr(from.as_raw_fd(), names.as_mut_ptr().cast(), names.len()) };
    let Ok(length) = usize::try_from(length) else {
        // A file system without extended attributes has none to copy.
        return Ok(());
    };
    for name in names[..length].split_inclusive(|&byte| byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        // Overlayfs keeps its own notes in attributes of this name.
        if name.to_bytes().starts_with(b"trusted.overlay.") {
            continue;
        }
        copy_one_extended(from, to, name)?;
    }
    Ok(())
}

fn copy_one_extended(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let mut value = vec![0_u8; 65_536];
    // SAFETY: name and buffer are live and the length given.
    let length = unsafe {
        libc::fgetxattr(
            from.as_raw_fd(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: name and value are live and the length given.
    let result = unsafe {
        libc::fsetxattr(
            to.as_raw_fd(),
            name.as_ptr(),
            value.as_ptr().cast(),
            length,
            0,
        )
    };
    match result {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // The volume's file system may not know this kind.
            error if error.raw_os_error() == Some(libc::ENOTSUP) => Ok(()),
            error => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn opened(path: &Path) -> std::os::fd::OwnedFd {
        sys::open(path, libc::O_RDONLY | libc::O_DIRECTORY).unwrap()
    }

    fn image(directory: &Path) -> PathBuf {
        let root = directory.join("root");
        fs::create_dir_all(root.join("data/sub")).unwrap();
        fs::write(root.join("data/file"), "hello").unwrap();
        fs::write(root.join("data/sub/deep"), "deep").unwrap();
        symlink("/etc/passwd", root.join("data/link")).unwrap();
        fs::set_permissions(root.join("data"), fs::Permissions::from_mode(0o1770)).unwrap();
        root
    }

    #[test]
    fn an_empty_volume_gets_what_the_image_has() {
        let directory = tempfile::tempdir().unwrap();
        let root = image(directory.path());
        let volume = directory.path().join("volume");
        fs::create_dir(&volume).unwrap();
        fill(opened(&root).as_fd(), "/data", &volume).unwrap();
        assert_eq!(fs::read_to_string(volume.join("sub/deep")).unwrap(), "deep");
        assert_eq!(
            fs::read_link(volume.join("link")).unwrap(),
            Path::new("/etc/passwd")
        );
        assert_eq!(fs::metadata(&volume).unwrap().mode() & 0o7777, 0o1770);
        assert_eq!(fs::read_dir(&volume).unwrap().count(), 3);
    }

    #[test]
    fn a_volume_with_something_in_it_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let root = image(directory.path());
        let volume = directory.path().join("volume");
        fs::create_dir(&volume).unwrap();
        fs::write(volume.join("mine"), "").unwrap();
        fill(opened(&root).as_fd(), "/data", &volume).unwrap();
        assert_eq!(fs::read_dir(&volume).unwrap().count(), 1);
    }

    #[test]
    fn a_copy_that_was_cut_short_starts_over_and_a_move_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let root = image(directory.path());
        let volume = directory.path().join("volume");
        fs::create_dir_all(volume.join(GROWING).join("half")).unwrap();
        fill(opened(&root).as_fd(), "/data", &volume).unwrap();
        assert!(volume.join("file").exists());
        assert!(!volume.join("half").exists());

        let moving = directory.path().join("moving");
        fs::create_dir_all(moving.join(COMPLETE)).unwrap();
        fs::write(moving.join("first"), "").unwrap();
        fs::write(moving.join(COMPLETE).join("second"), "").unwrap();
        fill(opened(&root).as_fd(), "/data", &moving).unwrap();
        assert!(moving.join("second").exists());
        assert!(!moving.join(COMPLETE).exists());
    }

    #[test]
    fn nothing_in_the_image_is_nothing_to_copy() {
        let directory = tempfile::tempdir().unwrap();
        let root = image(directory.path());
        let volume = directory.path().join("volume");
        fs::create_dir(&volume).unwrap();
        fill(opened(&root).as_fd(), "/missing", &volume).unwrap();
        assert_eq!(fs::read_dir(&volume).unwrap().count(), 0);
    }
}
