//! Services: what a user wants to run, and how it is to be changed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::autoscale::AutoscaleStatus;
use crate::port::PortConfig;
use crate::revision::{PastRevision, Revision};
use crate::schedule::ScheduleStatus;
use crate::serde_help::{go_float, is_zero, null_default};
use crate::task::{NetworkAttachmentConfig, TaskSpec};
use crate::volume_home::VolumeHomes;
use crate::{Nanos, NetworkId, ServiceId, TaskId, Timestamp, Version};

/// What a user asks for (`ServiceSpec` of the API).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceSpec {
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    #[serde(deserialize_with = "null_default")]
    pub labels: BTreeMap<String, String>,
    pub task_template: TaskSpec,
    #[serde(deserialize_with = "null_default")]
    pub mode: ServiceMode,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_config: Option<UpdateConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback_config: Option<UpdateConfig>,
    /// The old place of `TaskTemplate.Networks` (API before 1.25); moved there when read.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub networks: Vec<NetworkAttachmentConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_spec: Option<EndpointSpec>,
}

impl ServiceSpec {
    /// Published ports as asked for.
    pub fn ports(&self) -> &[PortConfig] {
        self.endpoint_spec
            .as_ref()
            .map_or(&[], |endpoint| &endpoint.ports)
    }

    /// How names of this service resolve.
    pub fn resolution(&self) -> ResolutionMode {
        self.endpoint_spec
            .as_ref()
            .map_or(ResolutionMode::Vip, |endpoint| endpoint.mode)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceMode {
    Replicated(Replicated),
    Global(Empty),
    ReplicatedJob(ReplicatedJob),
    GlobalJob(Empty),
}

/// `{}` in JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

impl Default for ServiceMode {
    fn default() -> Self {
        Self::Replicated(Replicated::default())
    }
}

impl ServiceMode {
    pub fn is_job(&self) -> bool {
        matches!(self, Self::ReplicatedJob(_) | Self::GlobalJob(_))
    }

    pub fn is_global(&self) -> bool {
        matches!(self, Self::Global(_) | Self::GlobalJob(_))
    }

    /// The name tables print.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Replicated(_) => "replicated",
            Self::Global(_) => "global",
            Self::ReplicatedJob(_) => "replicated job",
            Self::GlobalJob(_) => "global job",
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Replicated {
    /// Absent means 1.
    pub replicas: Option<u64>,
}

impl Replicated {
    pub fn count(&self) -> u64 {
        self.replicas.unwrap_or(1)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ReplicatedJob {
    /// Tasks that run at once; absent means 1.
    pub max_concurrent: Option<u64>,
    /// Tasks that must complete; absent means `max_concurrent`.
    pub total_completions: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureAction {
    #[default]
    Pause,
    Continue,
    Rollback,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    #[default]
    StopFirst,
    StartFirst,
}

/// How tasks are replaced, forwards or backwards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct UpdateConfig {
    /// Slots replaced at once; 0 is all.
    #[serde(deserialize_with = "null_default")]
    pub parallelism: u64,
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub delay: Nanos,
    #[serde(
        skip_serializing_if = "is_default_action",
        deserialize_with = "failure_action"
    )]
    pub failure_action: FailureAction,
    /// How long a new task is watched for failure; 0 means the default of 5 s.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub monitor: Nanos,
    #[serde(serialize_with = "go_float", deserialize_with = "null_default")]
    pub max_failure_ratio: f32,
    #[serde(deserialize_with = "update_order")]
    pub order: UpdateOrder,
}

impl Eq for UpdateConfig {}

impl Default for UpdateConfig {
    fn default() -> Self {
        Self {
            parallelism: 1,
            delay: Nanos(0),
            failure_action: FailureAction::Pause,
            monitor: Nanos(0),
            max_failure_ratio: 0.0,
            order: UpdateOrder::StopFirst,
        }
    }
}

fn is_default_action(_: &FailureAction) -> bool {
    false
}

/// Reads an empty string as the default, as Go clients of old APIs send it.
fn failure_action<'de, D: serde::Deserializer<'de>>(input: D) -> Result<FailureAction, D::Error> {
    match Option::<String>::deserialize(input)?.as_deref() {
        None | Some("" | "pause") => Ok(FailureAction::Pause),
        Some("continue") => Ok(FailureAction::Continue),
        Some("rollback") => Ok(FailureAction::Rollback),
        Some(other) => Err(serde::de::Error::custom(format!(
            "unrecognized update failure action {other}"
        ))),
    }
}

fn update_order<'de, D: serde::Deserializer<'de>>(input: D) -> Result<UpdateOrder, D::Error> {
    match Option::<String>::deserialize(input)?.as_deref() {
        None | Some("" | "stop-first") => Ok(UpdateOrder::StopFirst),
        Some("start-first") => Ok(UpdateOrder::StartFirst),
        Some(other) => Err(serde::de::Error::custom(format!(
            "unrecognized update order {other}"
        ))),
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResolutionMode {
    /// A virtual address in front of the tasks.
    #[default]
    Vip,
    /// The tasks' own addresses.
    Dnsrr,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EndpointSpec {
    #[serde(deserialize_with = "resolution_mode")]
    pub mode: ResolutionMode,
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub ports: Vec<PortConfig>,
}

fn resolution_mode<'de, D: serde::Deserializer<'de>>(input: D) -> Result<ResolutionMode, D::Error> {
    match Option::<String>::deserialize(input)?.as_deref() {
        None | Some("" | "vip") => Ok(ResolutionMode::Vip),
        Some("dnsrr") => Ok(ResolutionMode::Dnsrr),
        Some(other) => Err(serde::de::Error::custom(format!(
            "invalid endpoint mode {other}"
        ))),
    }
}

/// What the allocator gave a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Endpoint {
    pub spec: EndpointSpec,
    /// Ports with their published numbers filled in.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub ports: Vec<PortConfig>,
    #[serde(
        rename = "VirtualIPs",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub virtual_ips: Vec<VirtualIp>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VirtualIp {
    #[serde(rename = "NetworkID")]
    pub network_id: NetworkId,
    /// With prefix length: `10.0.1.2/24`.
    #[serde(rename = "Addr")]
    pub addr: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateState {
    Updating,
    Paused,
    Completed,
    RollbackStarted,
    RollbackPaused,
    RollbackCompleted,
}

impl UpdateState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Updating => "updating",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::RollbackStarted => "rollback_started",
            Self::RollbackPaused => "rollback_paused",
            Self::RollbackCompleted => "rollback_completed",
        }
    }

    /// Whether an updater is at work.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Updating | Self::RollbackStarted)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UpdateStatus {
    pub state: UpdateState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    #[serde(default)]
    pub message: String,
}

/// Counts that `service ls` shows; computed when asked for, never stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceStatus {
    pub running_tasks: u64,
    pub desired_tasks: u64,
    pub completed_tasks: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct JobStatus {
    pub job_iteration: Version,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_execution: Option<Timestamp>,
    /// When every completion asked for was there, or a run by schedule was over: nothing more is run
    /// in this iteration, and its tasks are no longer needed to count by. A job that waits for its
    /// schedule has this as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// How many completions that were.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub completed: u64,
}

/// A service as stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Service {
    #[serde(rename = "ID")]
    pub id: ServiceId,
    pub version: Version,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub spec: ServiceSpec,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_spec: Option<Box<ServiceSpec>>,
    pub endpoint: Endpoint,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_status: Option<UpdateStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_status: Option<ServiceStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_status: Option<JobStatus>,
    /// How a service is scaled by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscale: Option<AutoscaleStatus>,
    /// How far a job with a schedule has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleStatus>,
    /// Grows by one with every change of the spec; tasks carry the one they were made for.
    #[serde(skip_serializing_if = "is_zero")]
    pub spec_version: Version,
    /// `spec_version` of `previous_spec`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_spec_version: Option<Version>,
    /// The revision that the service is in.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub revision: Revision,
    /// Earlier ones, the newest first.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub history: Vec<PastRevision>,
    /// The stack that owns the service, by name; the label says the same.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub stack: String,
    /// Why the service cannot be allocated yet; empty when nothing is wrong.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub waits_for: String,
    /// Tasks that are replaced although they are what is asked for, so that others may run on
    /// other nodes.
    #[serde(
        skip_serializing_if = "BTreeSet::is_empty",
        deserialize_with = "null_default"
    )]
    pub moving: BTreeSet<TaskId>,
    /// The nodes that have the volumes of slots, where tasks return to them.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_default"
    )]
    pub volume_homes: VolumeHomes,
}
