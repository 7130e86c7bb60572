//! Names in archives.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

/// Longest path an archive may name; the kernel's own bound.
const PATH_BYTES_MAX: usize = 4096;

/// A path in an archive as a path below the root: leading slashes and `.` are
/// dropped, `..` is refused. Empty for the root itself.
pub(crate) fn inside(given: &[u8]) -> io::Result<PathBuf> {
    let refuse = |why: &str| {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "invalid path `{}` in archive: {why}",
                String::from_utf8_lossy(&given[..given.len().min(256)])
            ),
        ))
    };
    if given.len() > PATH_BYTES_MAX {
        return refuse("it is too long");
    }
    if given.contains(&0) {
        return refuse("it has a zero byte");
    }
    let mut path = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(given)).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            Component::ParentDir => return refuse("it leaves the root directory"),
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_below_the_root_are_taken() {
        assert_eq!(inside(b"./a//b/.").unwrap(), Path::new("a/b"));
        assert_eq!(inside(b"/etc/passwd").unwrap(), Path::new("etc/passwd"));
        assert_eq!(inside(b"./").unwrap(), Path::new(""));
        for wrong in [&b"../x"[..], b"a/../../x", b"a/..", b"a\0b", &[b'x'; 5000]] {
            assert!(inside(wrong).is_err());
        }
    }
}
