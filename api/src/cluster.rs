//! What the API needs of a cluster. The daemon implements it; the API knows no raft and no agent.

use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use serde::{Deserialize, Serialize};
use skep_engine::types::ExecConfig;
use skep_engine::{Attachment, OwnedImage};
use skep_model::audit::NetworkAudit;
use skep_model::preview::ServicePreview;
use skep_model::rollout::StackProgress;
use skep_model::stack::StackPlan;
use skep_model::why::Why;
use skep_model::{
    Availability, ClusterId, ClusterSpec, ControlError, ControlRequest, ControlResponse, Kind,
    NodeId, ServiceId, Task, TaskId, Timestamp,
};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;

/// How this node stands to a cluster (`LocalNodeState` of the API).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LocalState {
    /// In no cluster.
    #[default]
    Inactive,
    /// Joining.
    Pending,
    /// A member.
    Active,
    /// A member whose keys are locked.
    Locked,
    /// Something is wrong; `error` says what.
    Error,
}

/// This node's view of its membership; needs no manager to answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalCluster {
    pub state: LocalState,
    pub node_id: NodeId,
    /// Advertised address, without port.
    pub node_addr: String,
    /// Whether this node is a manager that takes requests.
    pub is_manager: bool,
    pub cluster_id: ClusterId,
    pub error: String,
    /// Managers known to this node: id and `address:port`.
    pub remote_managers: Vec<(NodeId, String)>,
    /// What should be said of this node, for `info`.
    pub warnings: Vec<String>,
}

/// `POST /swarm/init`. Field names are the API's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct InitRequest {
    pub listen_addr: String,
    pub advertise_addr: String,
    pub data_path_addr: String,
    pub data_path_port: u32,
    pub force_new_cluster: bool,
    pub spec: ClusterSpec,
    pub auto_lock_managers: bool,
    pub availability: Option<Availability>,
    pub default_addr_pool: Option<Vec<String>>,
    pub subnet_size: u32,
}

/// `POST /swarm/join`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct JoinRequest {
    pub listen_addr: String,
    pub advertise_addr: String,
    pub data_path_addr: String,
    pub remote_addrs: Vec<String>,
    pub join_token: String,
    pub availability: Option<Availability>,
}

/// `POST /skep/v1/swarm/restore`: how the node is to be the restored cluster's manager. It has a key and
/// a passphrase in it, so it does not print.
#[derive(Clone, Default)]
pub struct RestoreRequest {
    /// What the backup is sealed under.
    pub passphrase: String,
    /// The key of the cluster's root, PEM; empty unless an external authority has it.
    pub root_key: String,
    pub listen_addr: String,
    pub advertise_addr: String,
    pub data_path_addr: String,
    pub availability: Option<Availability>,
}

/// What a node has become by a backup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Restored {
    #[serde(rename = "NodeID")]
    pub node: NodeId,
    #[serde(rename = "ClusterID")]
    pub cluster: ClusterId,
    /// When the backup was taken.
    pub created_at: Timestamp,
}

/// A backup as it is being written; an error ends it.
pub type BackupStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// A backup as it comes.
pub type BackupInput = Box<dyn AsyncRead + Send + Unpin>;

/// Whose log lines are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogSource {
    Service(ServiceId),
    Task(TaskId),
}

/// Which lines, as the query parameters say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// Absent is all.
    pub tail: Option<u64>,
}

/// One line (or part of a long one) of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub node: NodeId,
    pub service: ServiceId,
    pub task: TaskId,
    pub is_stderr: bool,
    pub at: Timestamp,
    /// Ends with a line feed unless the line was cut.
    pub data: Bytes,
    /// `key=value` attributes of the log driver.
    pub details: Vec<(String, String)>,
}

/// Lines as they come; an error names a node or task whose lines are missing and ends nothing.
pub type LogStream = Pin<Box<dyn Stream<Item = Result<LogLine, ControlError>> + Send>>;

/// A process to be started in a task's container, on whichever node that is.
pub struct ExecRequest {
    pub task: Arc<Task>,
    pub config: ExecConfig,
    /// Nobody listens to it.
    pub detach: bool,
    /// Height and width of its terminal.
    pub console_size: Option<(u32, u32)>,
    /// Changes of that, as they come.
    pub resizes: mpsc::Receiver<(u32, u32)>,
    /// Where its exit code is put, before its output ends.
    pub exit: Arc<OnceLock<i64>>,
    /// Set once nobody listens to it any more, so that its end will not be heard of.
    pub left: Arc<AtomicBool>,
}

/// A cluster as seen from this node.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// This node's membership.
    fn local(&self) -> LocalCluster;

    /// Makes a new cluster with this node as its first manager.
    async fn init(&self, request: InitRequest) -> Result<NodeId, ControlError>;

    /// Joins an existing cluster.
    async fn join(&self, request: JoinRequest) -> Result<(), ControlError>;

    /// Leaves the cluster.
    async fn leave(&self, force: bool) -> Result<(), ControlError>;

    /// Unlocks a manager whose keys are sealed.
    async fn unlock(&self, key: &str) -> Result<(), ControlError>;

    /// The key that unlocks managers; empty when autolock is off.
    async fn unlock_key(&self) -> Result<String, ControlError>;

    /// Replaces this node's certificate, which has run out; until when the next one is good. A worker
    /// needs a join token for it.
    async fn rescue(&self, _token: &str) -> Result<Timestamp, ControlError> {
        Err(ControlError::new(
            Kind::Unimplemented,
            "this node's certificate cannot be replaced",
        ))
    }

    /// Everything that the cluster has agreed on until now, sealed under a passphrase.
    async fn backup(&self, _passphrase: String) -> Result<BackupStream, ControlError> {
        Err(ControlError::new(
            Kind::Unimplemented,
            "backups cannot be taken here",
        ))
    }

    /// Makes this node, which must be in no cluster, the only manager of the one in a backup.
    async fn restore(
        &self,
        _request: RestoreRequest,
        _input: BackupInput,
    ) -> Result<Restored, ControlError> {
        Err(ControlError::new(
            Kind::Unimplemented,
            "backups cannot be restored here",
        ))
    }

    /// The replicated state. Linearizable unless `stale`.
    ///
    /// # Errors
    /// `Unavailable` with Swarm's text when this node is in no cluster, not a manager, locked,
    /// or cannot reach a leader.
    async fn snapshot(&self, stale: bool) -> Result<skep_store::Snapshot, ControlError>;

    /// What is wrong with the cluster's networks.
    async fn audit(&self) -> Result<NetworkAudit, ControlError> {
        Err(ControlError::new(
            Kind::Unimplemented,
            "networks cannot be checked here",
        ))
    }

    /// The cluster's networks that this node has a part in.
    fn networks_here(&self) -> Vec<Arc<skep_model::Network>> {
        Vec::new()
    }

    /// Images that other nodes have under a name with a tag or digest; with `only_own`, such as never
    /// were in a registry of that name.
    async fn locate(&self, image: &str, only_own: bool) -> Vec<OwnedImage> {
        let _ = (image, only_own);
        Vec::new()
    }

    /// Every committed change from now on; `None` where this node is not a manager.
    fn watch(&self) -> Option<skep_store::Watch>;

    /// Asks for one change, on whichever manager leads.
    async fn submit(&self, request: ControlRequest) -> Result<ControlResponse, ControlError>;

    /// What an update of a service would do; nothing is changed.
    async fn preview(&self, request: ControlRequest) -> Result<ServicePreview, ControlError> {
        let _ = request;
        Err(ControlError::new(
            Kind::Unimplemented,
            "updates cannot be tried here",
        ))
    }

    /// What a deploy or a rollback of a stack would do; nothing is changed.
    async fn plan_stack(&self, request: ControlRequest) -> Result<StackPlan, ControlError> {
        let _ = request;
        Err(ControlError::new(
            Kind::Unimplemented,
            "deploys cannot be tried here",
        ))
    }

    /// How far the last deploy of a stack has come; nothing where there is no such stack.
    async fn stack_progress(&self, name: &str) -> Result<Option<StackProgress>, ControlError> {
        let _ = name;
        Err(ControlError::new(
            Kind::Unimplemented,
            "deploys are not followed here",
        ))
    }

    /// Why an object, or whatever is amiss in the whole cluster, is as it is. `sort` says of what
    /// sort it is: service, task, node or stack; empty is any.
    async fn why(&self, object: Option<&str>, sort: &str) -> Result<Why, ControlError> {
        let _ = (object, sort);
        Err(ControlError::new(
            Kind::Unimplemented,
            "reasons cannot be asked for here",
        ))
    }

    /// Starts a process in a task's container; resolves once its program was executed. `None` when
    /// detached.
    async fn exec(&self, request: ExecRequest) -> Result<Option<Attachment>, ControlError> {
        let _ = request;
        Err(ControlError::new(
            Kind::Unimplemented,
            "commands cannot be run in tasks here",
        ))
    }

    /// Log lines of a service's tasks or of one task, from whichever nodes run them.
    async fn logs(&self, source: LogSource, options: LogOptions)
    -> Result<LogStream, ControlError>;
}
