//! Tasks: one run of one container on one node.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::container::ContainerSpec;
use crate::mount::Driver;
use crate::payload::InPlace;
use crate::placement::Placement;
use crate::port::PortConfig;
use crate::resources::{GenericResource, ResourceRequirements};
use crate::serde_help::{is_zero, null_default};
use crate::service::Endpoint;
use crate::template::Context;
use crate::{Nanos, NetworkId, NodeId, ServiceId, TaskId, TaskState, Timestamp, Version};

/// What each task of a service is (`TaskSpec` of the API).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TaskSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_spec: Option<ContainerSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<RestartPolicy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub networks: Vec<NetworkAttachmentConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_driver: Option<Driver>,
    /// Counts `--force`; a new value makes every task outdated.
    #[serde(deserialize_with = "null_default")]
    pub force_update: u64,
    /// `container` or empty; plugins are not run.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub runtime: String,
    /// Credentials for the registry, base64 of JSON as the client sent them. Never in API answers.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub pull_credentials: String,
    /// How long clients that are connected may go on before the stop signal, once no node leads
    /// new ones here; absent means 2 s. Our addition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_period: Option<Nanos>,
}

impl TaskSpec {
    /// How long connected clients have, 2 s unless said otherwise: Swarm waits for so long.
    pub fn drain_period(&self) -> Duration {
        self.drain_period
            .map_or(Duration::from_secs(2), |period| period.duration())
    }

    /// The container part; every valid task spec has one.
    pub fn container(&self) -> Option<&ContainerSpec> {
        self.container_spec.as_ref()
    }

    pub fn image(&self) -> &str {
        self.container_spec
            .as_ref()
            .map_or("", |container| &container.image)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    None,
    OnFailure,
    #[default]
    Any,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RestartPolicy {
    #[serde(deserialize_with = "restart_condition")]
    pub condition: RestartCondition,
    /// Absent means 5 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Nanos>,
    /// 0 or absent is unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u64>,
    /// Absent or 0 counts for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Nanos>,
}

fn restart_condition<'de, D: serde::Deserializer<'de>>(
    input: D,
) -> Result<RestartCondition, D::Error> {
    match Option::<String>::deserialize(input)?.as_deref() {
        None | Some("" | "any") => Ok(RestartCondition::Any),
        Some("none") => Ok(RestartCondition::None),
        Some("on-failure") => Ok(RestartCondition::OnFailure),
        Some(other) => Err(serde::de::Error::custom(format!(
            "invalid RestartCondition: \"{other}\""
        ))),
    }
}

/// One network a service's tasks join.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkAttachmentConfig {
    /// Id or name of the network; ids once the manager has taken the spec.
    #[serde(deserialize_with = "null_default")]
    pub target: String,
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub aliases: Vec<String>,
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_default"
    )]
    pub driver_opts: BTreeMap<String, String>,
}

/// A task's place on one network, given by the allocator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkAttachment {
    #[serde(rename = "NetworkID")]
    pub network_id: NetworkId,
    /// With prefix length: `10.0.1.3/24`.
    pub addresses: Vec<String>,
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub aliases: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TaskStatus {
    /// When the agent saw this state.
    pub timestamp: Timestamp,
    pub state: TaskState,
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub message: String,
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub err: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_status: Option<ContainerStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_status: Option<PortStatus>,
    /// When the manager took this status in: the clock that restarts are counted by.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub applied_at: Timestamp,
    /// Versions of secrets and configs, by id, that the task was given after it was made.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_default"
    )]
    pub versions: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerStatus {
    #[serde(rename = "ContainerID")]
    pub container_id: String,
    #[serde(rename = "PID")]
    pub pid: i64,
    #[serde(rename = "ExitCode")]
    pub exit_code: i64,
}

/// Host-mode ports that the node really bound.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortStatus {
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub ports: Vec<PortConfig>,
}

/// A task as stored. Its spec is a copy: a task never changes what it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Task {
    #[serde(rename = "ID")]
    pub id: TaskId,
    pub version: Version,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Labels of the service when the task was made.
    #[serde(deserialize_with = "null_default")]
    pub labels: BTreeMap<String, String>,
    pub spec: TaskSpec,
    #[serde(rename = "ServiceID")]
    pub service_id: ServiceId,
    /// Name of the service when the task was made.
    #[serde(deserialize_with = "null_default")]
    pub service_name: String,
    /// 1, 2, … for replicated services; 0 for global ones.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub slot: u64,
    #[serde(rename = "NodeID", skip_serializing_if = "NodeId::is_empty")]
    pub node_id: NodeId,
    pub status: TaskStatus,
    pub desired_state: TaskState,
    /// Given by the allocator, in the order of the spec's networks; the ingress network last.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub attachments: Vec<NetworkAttachment>,
    /// The service's endpoint when the task was allocated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// Generic resources the scheduler granted.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub generic_resources: Vec<GenericResource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_iteration: Option<Version>,
    /// `Service::spec_version` that the task was made for.
    #[serde(skip_serializing_if = "is_zero")]
    pub spec_version: Version,
    /// When desired `Ready` may become `Running`: restart delay. Zero means no delay.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub start_not_before: Timestamp,
    /// When the endpoint left balancers and names because the task is to stop.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub draining_since: Timestamp,
    /// When every node had confirmed that its balancers and names lead nobody here any more; the
    /// stop signal waits for it, within a bound.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub drained_at: Timestamp,
    /// When the manager first heard that the task runs; zero if it never did. Kept after its end.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub running_since: Timestamp,
    /// How often tasks of this slot have ended by themselves and were replaced, in this version of
    /// the spec: what bounds restarts must not depend on how much history is kept.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub restarts: u64,
    /// Whether a rolling update made the task: its early end counts against that update.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub by_update: bool,
    /// Versions of secrets and configs that the task is to be given in place.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub in_place: Vec<InPlace>,
    /// Volumes that are on the task's node already: it does not start on empty ones in their place.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub volumes_expected: Vec<String>,
}

impl Task {
    /// What templates of this task may speak of, on a node with this host name, architecture and
    /// operating system.
    pub fn template_context(&self, hostname: &str, architecture: &str, os: &str) -> Context {
        Context {
            service_id: self.service_id.to_string(),
            service_name: self.service_name.clone(),
            service_labels: self.labels.clone(),
            node_id: self.node_id.to_string(),
            node_hostname: hostname.to_owned(),
            node_architecture: architecture.to_owned(),
            node_os: os.to_owned(),
            task_id: self.id.to_string(),
            task_name: self.container_name(),
            task_slot: match self.slot {
                0 => self.node_id.to_string(),
                slot => slot.to_string(),
            },
        }
    }

    /// `web.3` or, for global services, `web.<node id>`.
    pub fn name(&self) -> String {
        if self.slot != 0 {
            format!("{}.{}", self.service_name, self.slot)
        } else {
            format!("{}.{}", self.service_name, self.node_id)
        }
    }

    /// The name of the task's container: `web.3.<task id>`.
    pub fn container_name(&self) -> String {
        format!("{}.{}", self.name(), self.id)
    }

    /// Whether the task is meant to run and has not ended.
    pub fn is_live(&self) -> bool {
        self.desired_state <= TaskState::Running && !self.status.state.is_terminal()
    }

    /// Whether the task's endpoints have left balancers and names, and not every node is known to
    /// have followed.
    pub fn is_draining(&self) -> bool {
        self.desired_state > TaskState::Running
            && !self.status.state.is_terminal()
            && !self.attachments.is_empty()
            && !self.node_id.is_empty()
            && self.drained_at.is_zero()
    }

    /// Whether the task should receive traffic.
    pub fn serves(&self) -> bool {
        self.desired_state == TaskState::Running && self.status.state == TaskState::Running
    }
}
