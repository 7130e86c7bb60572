//! Files the user names.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// An operating system's reason in Go's words: lower case, without the error number.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// Reads a file of at most `bytes_max`.
pub fn read(path: &str, bytes_max: u64) -> Result<Vec<u8>, String> {
    let wrong = |error: io::Error| format!("open {path}: {}", reason(&error));
    let meta = std::fs::metadata(path).map_err(wrong)?;
    if meta.len() > bytes_max {
        return Err(format!("{path} is larger than {bytes_max} bytes"));
    }
    std::fs::read(path).map_err(wrong)
}

/// A file that has no name any more, for what is too big for memory.
pub fn nameless() -> io::Result<File> {
    let nanos = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let name = format!("skep-{}-{}", std::process::id(), nanos.as_nanos());
    let path = std::env::temp_dir().join(name);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// A path relative to the current directory, made absolute and free of `.` and `..`.
pub fn absolute(path: &str) -> String {
    let base = std::env::current_dir().unwrap_or_default();
    clean(&base.join(path)).display().to_string()
}

fn clean(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute() {
        assert_eq!(clean(Path::new("/a/./b/../c")), Path::new("/a/c"));
        assert!(absolute(".").starts_with('/'));
        assert_eq!(
            read("/nowhere", 1).unwrap_err(),
            "open /nowhere: no such file or directory"
        );
    }
}
