//! `--chown`: names are those of the image. Call where the image is `/`.

use std::io::Read as _;
use std::path::Path;

use crate::build::context::open_file;
use crate::error::{EngineError, Result};

/// Longest list of users read.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The user and group that `user[:group]` means.
pub(super) fn find(given: &str) -> Result<(u32, u32)> {
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
    let mut text = String::new();
    open_file(Path::new(file))
        .ok()?
        .take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name)
            .then(|| fields.nth(1)?.parse().ok())
            .flatten()
    })
}
