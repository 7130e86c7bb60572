//! Owners by name: names are those of an image or container. Call where its files are `/`.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::error::{EngineError, Result};

/// Longest list of users read.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Opens a file of somebody else's; what is a pipe or a device is not waited for.
pub(crate) fn open_file(path: &Path) -> std::io::Result<File> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(std::io::Error::from(std::io::ErrorKind::InvalidInput)),
    }
}

/// The ids of a container's user, `user[:group]`: without a group, the one its entry in `/etc/passwd`
/// names, or 0.
pub(crate) fn of_user(given: &str) -> Result<(u32, u32)> {
    let (user, group) = match given.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (given, None),
    };
    let missing = |kind: &str, name: &str| {
        EngineError::invalid(format!("unable to find {kind} {name}: no matching entries"))
    };
    let uid = id(user, "/etc/passwd").ok_or_else(|| missing("user", user))?;
    let gid = match group {
        Some(group) => id(group, "/etc/group").ok_or_else(|| missing("group", group))?,
        None => field("/etc/passwd", 3, |fields| {
            fields[0] == user || fields.get(2) == Some(&uid.to_string().as_str())
        })
        .unwrap_or(0),
    };
    Ok((uid, gid))
}

/// The user and group that `--chown user[:group]` means.
pub(crate) fn find(given: &str) -> Result<(u32, u32)> {
    let wrong = |why: String| {
        EngineError::invalid(format!(
            "unable to convert uid/gid chown string to host mapping: {why}"
        ))
    };
    let parts: Vec<&str> = given.split(':').collect();
    let (user, group) = match parts[..] {
        [user] if !user.is_empty() => (user, user),
        [user, group] if !user.is_empty() && !group.is_empty() => (user, group),
        _ => return Err(wrong(format!("invalid chown string format: {given}"))),
    };
    let uid = id(user, "/etc/passwd").ok_or_else(|| {
        wrong(format!(
            "can't find uid for user {user}: no such user: {user}"
        ))
    })?;
    let gid = id(group, "/etc/group").ok_or_else(|| {
        wrong(format!(
            "can't find gid for group {group}: no such group: {group}"
        ))
    })?;
    Ok((uid, gid))
}

/// A number, or the third field of the line that begins with the name.
fn id(name: &str, file: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    field(file, 2, |fields| fields[0] == name)
}

/// The number in a field of the first line that passes.
fn field(file: &str, number: usize, passes: impl Fn(&[&str]) -> bool) -> Option<u32> {
    let mut text = String::new();
    open_file(Path::new(file))
        .ok()?
        .take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .ok()?;
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        passes(&fields)
            .then(|| fields.get(number)?.parse().ok())
            .flatten()
    })
}
