//! Finds and makes the places of mounts inside a container's root, never outside.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use crate::failure::{Context as _, failure};
use crate::protocol::StartFailure;
use crate::sys;

/// What a place must be when it has to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File,
}

/// Opens a path below a root as a place, without making anything.
pub fn open(root: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    sys::open_in_root(root, Path::new(path), libc::O_PATH, 0)
}

/// Opens a path below a root as the place of a mount; what is missing is made.
pub fn make(root: BorrowedFd<'_>, path: &str, kind: Kind) -> Result<OwnedFd, StartFailure> {
    let doing = || format!("creating mountpoint \"{path}\" in the rootfs");
    let path = normal(path)?;
    match sys::open_in_root(root, &path, libc::O_PATH, 0) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => return result.context(doing),
    }
    let parent = match kind {
        Kind::Directory => return make_directories(root, &path).context(doing),
        Kind::File => path.parent().unwrap_or(Path::new("/")),
    };
    make_directories(root, parent).context(doing)?;
    // Opened with O_CREAT through the root, so that a symbolic link that leads
    // nowhere yet makes its target inside the root too.
    sys::open_in_root(
        root,
        &path,
        libc::O_CREAT | libc::O_WRONLY | libc::O_NONBLOCK,
        0o644,
    )
    .context(doing)?;
    sys::open_in_root(root, &path, libc::O_PATH, 0).context(doing)
}

/// Opens a directory below a root, making what is missing with mode 0755.
pub fn make_directories(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let mut so_far = PathBuf::from("/");
    let mut directory = sys::open_in_root(root, &so_far, libc::O_PATH | libc::O_DIRECTORY, 0)?;
    for part in path.components() {
        let Component::Normal(name) = part else {
            continue;
        };
        so_far.push(name);
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        directory = match sys::open_in_root(root, &so_far, flags, 0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                sys::mkdirat(directory.as_fd(), Path::new(name), 0o755)?;
                sys::open_in_root(root, &so_far, flags, 0)?
            }
            result => result?,
        };
    }
    Ok(directory)
}

/// An absolute path without `.` and `..`; the root itself is no place for a mount.
fn normal(path: &str) -> Result<PathBuf, StartFailure> {
    let given = Path::new(path);
    if !given.is_absolute() {
        return Err(failure(format!(
            "invalid mount path: '{path}' mount path must be absolute"
        )));
    }
    let mut normal = PathBuf::from("/");
    for part in given.components() {
        match part {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => {
                normal.pop();
            }
            _ => {}
        }
    }
    if normal == Path::new("/") {
        return Err(failure(
            "invalid mount: invalid specification: destination can't be '/'",
        ));
    }
    Ok(normal)
}

/// Attaches a mount to a path below a root, making the place.
pub fn attach(
    root: BorrowedFd<'_>,
    mount: BorrowedFd<'_>,
    path: &str,
    kind: Kind,
) -> Result<(), StartFailure> {
    let place = make(root, path, kind)?;
    sys::attach_mount(mount, place.as_fd()).context(|| format!("mounting to rootfs at \"{path}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_made_and_links_stay_inside() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink("/../../outside", root.join("link")).unwrap();
        std::fs::create_dir(root.join("outside")).unwrap();
        let opened = sys::open(&root, libc::O_PATH).unwrap();

        make(opened.as_fd(), "/a/b/c", Kind::Directory).unwrap();
        make(opened.as_fd(), "/link/file", Kind::File).unwrap();
        make(opened.as_fd(), "/x/../../y", Kind::File).unwrap();
        assert!(root.join("a/b/c").is_dir());
        assert!(root.join("outside/file").is_file());
        assert!(root.join("y").is_file());
        assert!(!directory.path().join("outside").exists());
        assert!(make(opened.as_fd(), "/..", Kind::Directory).is_err());
        assert!(make(opened.as_fd(), "relative", Kind::Directory).is_err());
    }
}
