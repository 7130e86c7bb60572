//! Extended attributes of files by path, never following the last link.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

/// Attributes that steer overlayfs and so are never taken from or shown in an
/// archive.
pub(super) fn is_overlay(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// Sets one; a file system or kernel that does not know it is no error, since
/// an image made elsewhere cannot know what we have here.
pub(super) fn set(path: &Path, name: &OsStr, value: &[u8]) -> io::Result<()> {
    match xattr::set(path, name, value) {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EOPNOTSUPP | libc::EPERM | libc::EINVAL)
            ) =>
        {
            tracing::debug!(path = %path.display(), ?name, %error, "attribute not kept");
            Ok(())
        }
        result => result,
    }
}

/// All of a file's, without overlayfs' own.
pub(super) fn all(path: &Path) -> io::Result<Vec<(std::ffi::OsString, Vec<u8>)>> {
    let names = match xattr::list(path) {
        Ok(names) => names,
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut all = Vec::new();
    for name in names {
        if !is_overlay(&name)
            && let Some(value) = xattr::get(path, &name)?
        {
            all.push((name, value));
        }
    }
    Ok(all)
}
