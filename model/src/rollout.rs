//! How far the deploy of a stack has come, and what is done when it fails.

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::serde_help::{is_zero, null_default};
use crate::time::Nanos;

/// What becomes of a stack of which a service cannot be brought to its spec.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StackFailureAction {
    /// Everything stays as it has come to be.
    #[default]
    Pause,
    /// The whole stack goes back to its last revision that was deployed.
    Rollback,
}

/// What a deploy asks for beyond the stack itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RolloutWish {
    #[serde(deserialize_with = "null_default")]
    pub failure_action: StackFailureAction,
    /// A deploy that has not come to its end after so long has failed. Zero: it has all the time.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub timeout: Nanos,
}

/// How far a stack's present revision has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutState {
    #[default]
    Deploying,
    /// Every service is as it is to be.
    Deployed,
    Failed,
    /// It has not come to its end in the time it was given.
    TimedOut,
    /// The revision is one of the past, to which the stack goes back for a failure.
    RollingBack,
    RolledBack,
    RollbackFailed,
}

impl RolloutState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deploying => "deploying",
            Self::Deployed => "deployed",
            Self::Failed => "failed",
            Self::TimedOut => "timed-out",
            Self::RollingBack => "rolling-back",
            Self::RolledBack => "rolled-back",
            Self::RollbackFailed => "rollback-failed",
        }
    }

    /// Whether something is still to come of it.
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Deploying | Self::RollingBack)
    }

    /// Whether the revision has shown that it runs.
    pub const fn is_good(self) -> bool {
        matches!(self, Self::Deployed | Self::RolledBack)
    }
}

/// The way of a stack's present revision.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Rollout {
    pub state: RolloutState,
    /// Why it failed, or what was gone back for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(flatten)]
    pub wish: RolloutWish,
    pub started_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// How far one service of a stack has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceStage {
    /// For another service, or for what its tasks need.
    #[default]
    Waiting,
    Updating,
    Done,
    Failed,
}

impl ServiceStage {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Updating => "updating",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// One service of a stack on its way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceProgress {
    pub name: String,
    pub stage: ServiceStage,
    /// Tasks that are as they are to be.
    pub running: u64,
    pub wanted: u64,
    /// What is waited for, or what failed.
    pub message: String,
}

impl ServiceProgress {
    /// What there is to tell, with the number of tasks where it does not say everything.
    pub fn told(&self) -> String {
        match self.message.is_empty() {
            true => format!("{} of {} tasks", self.running, self.wanted),
            false => self.message.clone(),
        }
    }
}

/// A stack on its way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct StackProgress {
    pub name: String,
    /// 0 for a stack that was not deployed as a whole.
    pub revision: u64,
    pub state: RolloutState,
    pub message: String,
    pub services: Vec<ServiceProgress>,
}
