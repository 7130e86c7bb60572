//! Stacks: sets of services, networks, secrets and configs that are deployed as one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::dependency::Dependency;
use crate::preview::ServicePreview;
use crate::rollout::{Rollout, RolloutState};
use crate::serde_help::null_default;
use crate::{ConfigSpec, NetworkSpec, SecretSpec, ServiceSpec, StackId, Timestamp, Version};

/// Label that says which stack an object belongs to.
pub const STACK_LABEL: &str = "com.docker.stack.namespace";
/// Label with the image as the user wrote it.
pub const IMAGE_LABEL: &str = "com.docker.stack.image";

/// A stack's wanted content. Every name is already the full one (`stack_name`); services refer
/// to networks, secrets and configs by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct StackSpec {
    pub name: String,
    #[serde(deserialize_with = "null_default")]
    pub networks: Vec<NetworkSpec>,
    #[serde(deserialize_with = "null_default")]
    pub secrets: Vec<SecretSpec>,
    #[serde(deserialize_with = "null_default")]
    pub configs: Vec<ConfigSpec>,
    #[serde(deserialize_with = "null_default")]
    pub services: Vec<ServiceSpec>,
    /// What each service waits for, by its name. No service waits for itself, on whatever way.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_default"
    )]
    pub depends_on: BTreeMap<String, Vec<Dependency>>,
    /// Names of networks that must exist already.
    #[serde(deserialize_with = "null_default")]
    pub external_networks: Vec<String>,
    /// Names of secrets that must exist already.
    #[serde(deserialize_with = "null_default")]
    pub external_secrets: Vec<String>,
    /// Names of configs that must exist already.
    #[serde(deserialize_with = "null_default")]
    pub external_configs: Vec<String>,
}

/// A stack as stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Stack {
    #[serde(rename = "ID")]
    pub id: StackId,
    pub version: Version,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Payloads of secrets are left out: the secrets hold them.
    pub spec: StackSpec,
    /// 1 for the first deploy, one more for each that changed something.
    pub revision: u64,
    /// What began the present revision: `deployed`, `rolled back to 3`. Empty before there were
    /// revisions.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub because: String,
    /// How far the present revision has come. Absent where it was deployed by an earlier version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Versions of its secrets that are not their first.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_versions: BTreeMap<String, u64>,
    /// Revisions of the past, the newest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<StackRevision>,
}

/// Past revisions kept of a stack.
pub const STACK_REVISIONS_KEPT_MAX: usize = 10;
/// Bytes, as JSON, of past revisions kept of a stack: they are written with each deploy of it, which
/// is one commit.
pub const STACK_REVISIONS_BYTES_MAX: usize = 1 << 20;
/// The newest of them may have so many.
pub const STACK_REVISION_BYTES_MAX: usize = 2 << 20;

/// What a stack has been.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct StackRevision {
    pub number: u64,
    /// When it was deployed.
    pub since: Timestamp,
    pub because: String,
    /// How it ended; absent where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<RolloutState>,
    /// Versions of its secrets that are not their first.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_versions: BTreeMap<String, u64>,
    /// Without payloads of secrets.
    pub spec: StackSpec,
}

impl Stack {
    /// The present revision.
    pub fn present(&self) -> StackRevision {
        let rollout = self.rollout.as_ref();
        StackRevision {
            number: self.revision,
            since: rollout.map_or(self.updated_at, |rollout| rollout.started_at),
            because: self.because.clone(),
            outcome: rollout.map(|rollout| rollout.state),
            secret_versions: self.secret_versions.clone(),
            spec: self.spec.clone(),
        }
    }

    /// Goes on to another revision; what is beyond the bounds is forgotten.
    pub fn advance(&mut self, spec: StackSpec, because: String, rollout: Rollout) {
        if self.revision > 0 {
            self.history.insert(0, self.present());
        }
        let mut bytes = 0;
        let mut at = 0;
        self.history.retain(|past| {
            bytes += serde_json::to_vec(past).map_or(0, |json| json.len());
            at += 1;
            let bytes_max = match at {
                1 => STACK_REVISION_BYTES_MAX,
                _ => STACK_REVISIONS_BYTES_MAX,
            };
            at <= STACK_REVISIONS_KEPT_MAX && bytes <= bytes_max
        });
        self.spec = spec;
        self.because = because;
        self.rollout = Some(rollout);
        self.revision += 1;
    }
}

/// What is done about one object of a stack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectAction {
    Create,
    #[default]
    Update,
    Remove,
}

impl ObjectAction {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Remove => "remove",
        }
    }
}

/// One object that would not stay as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ObjectChange {
    /// `network`, `secret`, `config` or `service`.
    pub kind: String,
    pub name: String,
    pub action: ObjectAction,
    /// What of it would change, one difference each; of payloads only that they do.
    pub changes: Vec<String>,
    /// What would become of a service's tasks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preview: Option<Box<ServicePreview>>,
}

/// What a deploy would do, told before it is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct StackPlan {
    pub name: String,
    /// Nothing is to be done when there are none.
    pub changes: Vec<ObjectChange>,
    /// What the stack is now: a deploy that gives it is refused once that is no longer so.
    pub basis: String,
    pub warnings: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_of_a_stack_is_bounded_in_number_and_bytes() {
        for (bytes, kept) in [(10, 10), (200 << 10, 5), (3 << 19, 1), (2 << 20, 0)] {
            let mut stack = Stack::default();
            for number in 1..=12 {
                let spec = StackSpec {
                    name: format!("{number}{}", "x".repeat(bytes)),
                    ..StackSpec::default()
                };
                stack.advance(spec, "deployed".to_owned(), Rollout::default());
            }
            assert_eq!(stack.revision, 12);
            let numbers: Vec<u64> = stack.history.iter().map(|past| past.number).collect();
            let newest: Vec<u64> = (1..12).rev().take(kept).collect();
            assert_eq!(numbers, newest, "{bytes} bytes each");
        }
    }
}
