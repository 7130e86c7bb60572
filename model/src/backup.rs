//! What a backup of a cluster holds, for people.

use serde::{Deserialize, Serialize};

use crate::serde_help::null_default;

/// Names of what is in a backup, in order. No secret's value is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct BackupSummary {
    #[serde(deserialize_with = "null_default")]
    pub services: Vec<String>,
    /// Deployed as objects of the cluster.
    #[serde(deserialize_with = "null_default")]
    pub stacks: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub networks: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub secrets: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub configs: Vec<String>,
    /// Host names of managers.
    #[serde(deserialize_with = "null_default")]
    pub managers: Vec<String>,
    /// Host names of workers.
    #[serde(deserialize_with = "null_default")]
    pub workers: Vec<String>,
    /// Tasks, history included.
    pub tasks: usize,
    /// Whether managers are locked: the restored one then is as well, under the same unlock key.
    pub auto_lock: bool,
}
