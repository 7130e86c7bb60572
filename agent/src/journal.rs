//! What the agent must not forget over a restart: each task's last status and the choices it
//! made for its namespace. Secrets are never in here.

use std::path::Path;

use serde::{Deserialize, Serialize};
use skep_model::{TaskId, TaskStatus};

use crate::network::SandboxChoice;

/// One task's entry.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    pub status: TaskStatus,
    pub sandbox: Option<SandboxChoice>,
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("the agent's journal in `{path}` cannot be opened")]
    Open {
        path: String,
        #[source]
        source: sled::Error,
    },
    #[error("the agent's journal cannot be written")]
    Write(#[source] sled::Error),
}

/// The journal on disk.
pub struct Journal {
    db: sled::Db,
}

impl Journal {
    /// Opens the journal in a directory of its own.
    pub fn open(directory: &Path) -> Result<Self, JournalError> {
        let open = sled::Config::new()
            .path(directory)
            .cache_capacity(4 * 1024 * 1024)
            .flush_every_ms(None)
            .open();
        let db = open.map_err(|source| JournalError::Open {
            path: directory.display().to_string(),
            source,
        })?;
        Ok(Self { db })
    }

    /// Everything in it. An entry that cannot be read is left out: the container itself tells
    /// the same story.
    pub fn entries(&self) -> Vec<(TaskId, Entry)> {
        self.db
            .iter()
            .filter_map(Result::ok)
            .filter_map(|(key, value)| {
                let id = TaskId::new(std::str::from_utf8(&key).ok()?);
                Some((id, serde_json::from_slice(&value).ok()?))
            })
            .collect()
    }

    /// Writes an entry; it is on disk when this returns.
    pub fn put(&self, task: &TaskId, entry: &Entry) -> Result<(), JournalError> {
        let value = serde_json::to_vec(entry).expect("entries have text keys and serialise");
        self.db
            .insert(task.as_str(), value)
            .map_err(JournalError::Write)?;
        self.db.flush().map_err(JournalError::Write).map(drop)
    }

    /// Forgets a task.
    pub fn remove(&self, task: &TaskId) -> Result<(), JournalError> {
        self.db
            .remove(task.as_str())
            .map_err(JournalError::Write)
            .map(drop)
    }
}
