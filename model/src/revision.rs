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
/// Bytes, as JSON, of past revisions kept of a service: they travel with each change of it, and a
/// stack is changed in one commit.
pub const REVISIONS_BYTES_MAX: usize = 64 << 10;

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
    /// Whether it has yet to show that it runs. An update's status tells no more once it has gone.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub doubtful: bool,
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

/// Forgets what a service does not keep of its past, which begins with the newest: the newest stays,
/// and the newest that failed updates go back to.
pub fn forget(history: &mut Vec<PastRevision>) {
    let refuge = history
        .iter()
        .position(|past| past.revision.proven && !past.revision.failed);
    let mut bytes = 0;
    let mut kept: Vec<PastRevision> = Vec::new();
    for (at, past) in std::mem::take(history).into_iter().enumerate() {
        bytes += serde_json::to_vec(&past).map_or(0, |json| json.len());
        let reserved = usize::from(refuge.is_some_and(|refuge| refuge > at));
        let fits = at + reserved < REVISIONS_KEPT_MAX && bytes <= REVISIONS_BYTES_MAX;
        if fits || at == 0 || Some(at) == refuge {
            kept.push(past);
        } else if let Some(newer) = kept.last_mut() {
            // What was changed for itself in between still was.
            newer.revision.later = newer.revision.later.or(past.revision.later);
        }
    }
    *history = kept;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Revisions with specs of so many bytes, the newest first: `history(10, 3)` is 3, 2, 1.
    fn history(bytes: usize, count: u64) -> Vec<PastRevision> {
        let past = |number| {
            let mut past = PastRevision::default();
            past.revision.number = number;
            past.spec.name = "x".repeat(bytes);
            past
        };
        (1..=count).rev().map(past).collect()
    }

    fn numbers(history: &[PastRevision]) -> Vec<u64> {
        history.iter().map(|past| past.revision.number).collect()
    }

    #[test]
    fn the_past_is_bounded_in_number_and_bytes() {
        for (bytes, wanted) in [(10, 10), (10 << 10, 6), (100 << 10, 1)] {
            let mut history = history(bytes, 12);
            forget(&mut history);
            let newest: Vec<u64> = (1..=12).rev().take(wanted).collect();
            assert_eq!(numbers(&history), newest, "{bytes} bytes each");
        }
    }

    #[test]
    fn what_updates_go_back_to_stays() {
        let mut history = history(40 << 10, 4);
        for (at, proven, failed) in [(1, true, true), (2, true, false), (3, true, false)] {
            history[at].revision.proven = proven;
            history[at].revision.failed = failed;
        }
        history[1].revision.later.labels = true;
        forget(&mut history);
        assert_eq!(numbers(&history), [4, 2]);
        assert!(
            history[0].revision.later.labels,
            "labels were changed since 2"
        );
    }
}
