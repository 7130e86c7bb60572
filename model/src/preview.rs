//! What an update of a service would do, told before it is made.

use serde::{Deserialize, Serialize};

use crate::service::UpdateOrder;
use crate::{NodeId, TaskId};

/// What would become of a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    #[default]
    Keep,
    /// A new task takes its place.
    Replace,
    /// Nothing takes its place.
    Stop,
    /// It does not exist yet.
    Start,
}

impl Fate {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Replace => "replace",
            Self::Stop => "stop",
            Self::Start => "start",
        }
    }
}

/// One task of the service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TaskPreview {
    /// Empty for one that does not exist yet.
    #[serde(rename = "ID")]
    pub id: TaskId,
    pub name: String,
    /// Empty when it has none yet.
    #[serde(rename = "NodeID")]
    pub node_id: NodeId,
    pub fate: Fate,
    pub reasons: Vec<String>,
}

/// An update that was not made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServicePreview {
    /// What of the spec would change.
    pub changes: Vec<String>,
    pub tasks: Vec<TaskPreview>,
    /// Tasks replaced at once; 0 is all.
    pub parallelism: u64,
    pub order: UpdateOrder,
    pub warnings: Vec<String>,
}
