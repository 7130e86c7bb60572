#![doc = include_str!("../README.md")]

pub mod attachment;
pub mod audit;
pub mod autoscale;
pub mod backup;
pub mod cluster;
pub mod constraint;
pub mod container;
pub mod control;
pub mod dependency;
pub mod difference;
pub mod disconnect;
pub mod encryption;
pub mod error;
pub mod expiry;
pub mod external_ca;
pub mod id;
pub mod image;
pub mod image_source;
pub mod job;
pub mod limits;
pub mod mount;
pub mod name;
pub mod network;
pub mod node;
pub mod payload;
pub mod placement;
pub mod port;
pub mod preview;
pub mod publish;
pub mod registry_login;
pub mod resources;
pub mod revision;
pub mod rollout;
pub mod schedule;
pub mod secret;
pub mod secret_store;
pub mod serde_help;
pub mod service;
pub mod stack;
pub mod state;
pub mod task;
pub mod template;
pub mod time;
pub mod timetable;
pub mod token;
pub mod validate;
pub mod variable;
pub mod volume_home;
pub mod why;

pub use attachment::{AttachReply, AttachRequest, Attachment, GuestContainer};
pub use cluster::{Cluster, ClusterSpec, JoinTokens};
pub use constraint::Constraint;
pub use container::ContainerSpec;
pub use control::{ControlError, ControlRequest, ControlResponse};
pub use dependency::{Dependency, DependencyCondition};
pub use error::Kind;
pub use id::{
    AttachmentId, ClusterId, ConfigId, NetworkId, NodeId, Random, RegistryLoginId, SecretId,
    ServiceId, StackId, TaskId,
};
pub use network::{Network, NetworkSpec};
pub use node::{Availability, Node, NodeRole, NodeSpec, NodeState};
pub use port::{PortConfig, Protocol, PublishMode};
pub use registry_login::{RegistryLogin, RegistryLoginSpec};
pub use resources::{MemoryBytes, NanoCpus};
pub use secret::{Config, ConfigSpec, Secret, SecretSpec};
pub use service::{Service, ServiceMode, ServiceSpec};
pub use stack::{Stack, StackSpec};
pub use state::{Actor, TaskState};
pub use task::{Task, TaskSpec, TaskStatus};
pub use time::{Nanos, Timestamp};
pub use token::IssuedToken;

use serde::{Deserialize, Serialize};

/// The version of a stored object: the raft log index of the write that made it.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Version {
    /// Raft log index; 0 before the object was stored.
    #[serde(rename = "Index", default)]
    pub index: u64,
}

impl Version {
    /// The version that the write at `index` gives.
    pub const fn at(index: u64) -> Self {
        Self { index }
    }
}
