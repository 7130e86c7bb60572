//! Log lines on their way from an agent to whoever asked.

use serde::{Deserialize, Serialize};
use skep_model::serde_help::base64_bytes;
use skep_model::{TaskId, Timestamp};

/// Which lines are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogOptions {
    pub follow: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// Absent is all.
    pub tail: Option<u64>,
}

/// One line, or part of a long one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    pub task: TaskId,
    pub is_stderr: bool,
    pub at: Timestamp,
    #[serde(with = "base64_bytes")]
    pub data: Vec<u8>,
    #[serde(default)]
    pub details: Vec<(String, String)>,
}
