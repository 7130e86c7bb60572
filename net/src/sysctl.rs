//! Settings below `/proc/sys/net`, which belong to the namespace of the thread
//! that touches them.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::NetError;

fn path(key: &str) -> Result<PathBuf, NetError> {
    let relative = if key.contains('/') {
        key.to_owned()
    } else {
        key.replace('.', "/")
    };
    let safe = relative.starts_with("net/")
        && relative
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..");
    if !safe {
        return Err(NetError::Invalid {
            object: format!("sysctl `{key}`"),
            reason: "not a setting of a network namespace".into(),
        });
    }
    Ok(PathBuf::from("/proc/sys").join(relative))
}

/// The value in this thread's namespace; `None` when there is no such setting.
pub(crate) fn get(key: &str) -> Option<String> {
    let text = fs::read_to_string(path(key).ok()?).ok()?;
    Some(text.trim_end().to_owned())
}

/// Sets it in this thread's namespace. `Ok(false)` when there is no such setting
/// (a protocol that is not built in or disabled). An equal value is not written.
pub(crate) fn set(key: &str, value: &str) -> Result<bool, NetError> {
    let path = path(key)?;
    if get(key).as_deref() == Some(value) {
        return Ok(true);
    }
    match fs::write(path, value) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(NetError::Io {
            action: "set",
            object: format!("sysctl `{key}`"),
            source,
        }),
    }
}
