//! Revisions: what a service has run, one after the other.
//!
//! A change of what tasks are begins a revision; a number of replicas, labels and the ways of
//! updating do not. Docker's `PreviousSpec` holds whatever was there before the last request, so
//! that scaling after a bad update makes the bad one the previous: revisions outlive that.

use serde::{Deserialize, Serialize};

use crate::serde_help::{is_zero, null_default};
use crate::service::ServiceSpec;
use crate::{Timestamp, Version};

/// Past revisions kept of a service. A spec is about 2 KB.
pub const REVISIONS_KEPT_MAX: usize = 10;

/// The revision that a service is in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Revision {
    /// Counts from 1; 0 for a service that was stored before there were revisions.
    #[serde(deserialize_with = "null_default")]
    pub number: u64,
    pub since: Timestamp,
    /// What began it: `created`, `updated`, `rolled back to 3`.
    #[serde(deserialize_with = "null_default")]
    pub because: String,
    /// Whether its tasks have once replaced all others.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub proven: bool,
    /// Whether the cluster has given it up by itself.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub failed: bool,
    /// What else was changed while it was the present one.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub later: Later,
}

/// Settings beside what tasks are. A rollback keeps those that were changed for themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Later {
    /// The number of replicas.
    pub mode: bool,
    pub labels: bool,
    /// How updates and rollbacks are made.
    pub updates: bool,
}

impl Later {
    pub fn or(self, other: Self) -> Self {
        Self {
            mode: self.mode || other.mode,
            labels: self.labels || other.labels,
            updates: self.updates || other.updates,
        }
    }
}

/// A revision of the past.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PastRevision {
    #[serde(flatten)]
    pub revision: Revision,
    /// The spec as it was last.
    pub spec: Box<ServiceSpec>,
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub spec_version: Version,
}

/// A service's revisions as `GET /skep/v1/services/{id}/history` tells them, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceHistory {
    #[serde(rename = "ID")]
    pub id: crate::ServiceId,
    pub name: String,
    /// The first is the present one.
    pub revisions: Vec<PastRevision>,
}
