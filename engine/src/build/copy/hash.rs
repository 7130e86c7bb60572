//! What a file or a tree is, for finding steps again: names, kinds, permissions
//! and contents, but no times and no owners.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use skep_dockerfile::Ignore;

/// Hash of what is at a path, links in it not followed.
pub(in crate::build) fn tree(
    path: &Path,
    mode: Option<u32>,
    exclude: &Ignore,
) -> io::Result<String> {
    let mut hash = Sha256::new();
    add(&mut hash, path, path, mode, exclude)?;
    Ok(hex::encode(hash.finalize()))
}

/// Hash of contents alone.
pub(super) fn file(mut file: fs::File) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut file, &mut hash)?;
    Ok(hex::encode(hash.finalize()))
}

fn add(
    hash: &mut Sha256,
    root: &Path,
    path: &Path,
    mode: Option<u32>,
    exclude: &Ignore,
) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    let below = path.strip_prefix(root).unwrap_or(path);
    let kind = found.file_type();
    let name = below.to_string_lossy();
    let is_left_out = !exclude.is_empty() && exclude.matches(&name);
    if is_left_out && (!kind.is_dir() || exclude.may_skip(&name)) {
        return Ok(());
    }
    let mut field = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    field(below.as_os_str().as_bytes());
    let letter = if kind.is_dir() {
        "d"
    } else if kind.is_symlink() {
        "l"
    } else if kind.is_file() {
        "f"
    } else if kind.is_fifo() {
        "p"
    } else if kind.is_socket() {
        return Ok(());
    } else {
        "n"
    };
    field(letter.as_bytes());
    if !kind.is_symlink() {
        field(&(mode.unwrap_or(found.mode()) & 0o7777).to_le_bytes());
    }
    for name in xattr::list(path).into_iter().flatten() {
        if let Ok(Some(value)) = xattr::get(path, &name)
            && !name.as_bytes().starts_with(b"trusted.overlay.")
        {
            field(name.as_bytes());
            field(&value);
        }
    }
    match letter {
        "l" => field(fs::read_link(path)?.as_os_str().as_bytes()),
        "n" => field(&found.rdev().to_le_bytes()),
        "f" => {
            field(&found.len().to_le_bytes());
            let mut file = fs::File::open(path)?.take(found.len());
            io::copy(&mut file, hash)?;
        }
        "d" => {
            let mut names = Vec::new();
            for entry in fs::read_dir(path)? {
                names.push(entry?.file_name());
            }
            names.sort_unstable();
            for name in names {
                add(hash, root, &path.join(name), mode, exclude)?;
            }
        }
        _ => {}
    }
    Ok(())
}
