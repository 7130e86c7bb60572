//! How a container ended, as its shim wrote it.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::write_atomically;

/// The end of a container. Once this file exists, nothing of the container is left
/// but its directories.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    pub id: String,
    /// Its main process, as the host saw it.
    pub pid: i32,
    /// The exit code; 128 + n when signal n ended it.
    pub exit_code: i32,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of it for want of memory.
    pub oom_killed: bool,
    /// What went wrong besides; empty when nothing did.
    pub error: String,
    /// RFC 3339 with nanoseconds.
    pub started_at: String,
    /// RFC 3339 with nanoseconds.
    pub finished_at: String,
}

impl ExitRecord {
    /// Reads an exit record; `None` when there is none (yet).
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the record in one step.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        write_atomically(path, &serde_json::to_vec(self).map_err(io::Error::other)?)
    }
}
