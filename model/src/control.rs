//! What managers can be asked to change, and how they answer. Reads need no request: any
//! manager answers them from its own replica.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::expiry::Expiry;
use crate::payload::{PayloadId, VersionChange};
use crate::rollout::RolloutWish;
use crate::token::Revealed;
use crate::{
    ClusterSpec, ConfigId, ConfigSpec, GuestContainer, Kind, Nanos, NetworkId, NetworkSpec, NodeId,
    NodeRole, NodeSpec, RegistryLoginSpec, SecretId, SecretSpec, ServiceId, ServiceSpec, StackSpec,
    Version,
};

/// Where an update takes its registry credentials from when none came with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegistryAuthFrom {
    #[default]
    Spec,
    PreviousSpec,
}

/// One change, decided and committed by the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlRequest {
    CreateService {
        spec: Box<ServiceSpec>,
    },
    UpdateService {
        id: ServiceId,
        version: Version,
        spec: Box<ServiceSpec>,
        registry_auth_from: RegistryAuthFrom,
        /// Go back to the previous spec; `spec` is ignored then.
        rollback: bool,
        /// With `rollback`: go back to the revision of this number; 0 is the one before that did
        /// not fail.
        #[serde(default)]
        revision: Option<u64>,
    },
    /// Replaces running tasks of a replicated service so that it is spread evenly again.
    RebalanceService {
        id: ServiceId,
        /// Tasks that are moved at most; absent is as many as it takes.
        most: Option<u64>,
    },
    /// Lets slots of a service go from the nodes that have their volumes.
    ReleaseVolumes {
        id: ServiceId,
        /// Absent is all that have a home.
        slots: Option<Vec<u64>>,
        /// The node that is their home from now on, with whatever is there.
        to: Option<NodeId>,
    },
    /// Begins a new iteration of a job.
    RunJob {
        id: ServiceId,
    },
    RemoveService {
        id: ServiceId,
    },
    CreateNetwork {
        spec: Box<NetworkSpec>,
    },
    RemoveNetwork {
        id: NetworkId,
    },
    CreateSecret {
        spec: SecretSpec,
    },
    UpdateSecret {
        id: SecretId,
        version: Version,
        spec: SecretSpec,
    },
    RemoveSecret {
        id: SecretId,
    },
    CreateConfig {
        spec: ConfigSpec,
    },
    UpdateConfig {
        id: ConfigId,
        version: Version,
        spec: ConfigSpec,
    },
    RemoveConfig {
        id: ConfigId,
    },
    /// Gives a secret or config its next version, and the services that use it.
    ChangeVersion {
        object: PayloadId,
        change: VersionChange,
        /// What becomes of the tasks that use it: `roll`, `signal=SIGNAL` or `none`; absent: as labels
        /// say.
        users: Option<String>,
        /// When the next version of a secret expires; absent: after as long as the one before.
        #[serde(default)]
        expiry: Option<Expiry>,
    },
    /// Forgets all versions of a secret or config but the present one.
    ForgetVersions {
        object: PayloadId,
    },
    UpdateNode {
        id: NodeId,
        version: Version,
        spec: NodeSpec,
    },
    RemoveNode {
        id: NodeId,
        force: bool,
    },
    UpdateCluster {
        version: Version,
        spec: Box<ClusterSpec>,
        rotate_worker_token: bool,
        rotate_manager_token: bool,
        rotate_unlock_key: bool,
        /// Replace the keys of encrypted networks.
        #[serde(default)]
        rotate_data_keys: bool,
    },
    /// Brings a whole stack to `spec` in one transaction.
    DeployStack {
        spec: Box<StackSpec>,
        /// Remove what of the stack the spec does not have.
        prune: bool,
        /// What a plan was made upon; refused when the stack is another now.
        #[serde(default)]
        basis: Option<String>,
        /// What is done when it fails, and how long it may take.
        #[serde(default)]
        wish: RolloutWish,
    },
    /// Brings a stack back to what it was, what came since removed.
    RollBackStack {
        name: String,
        /// Number of the revision; 0 is the one before.
        #[serde(default)]
        revision: u64,
    },
    /// Removes a stack's services, networks, secrets and configs.
    RemoveStack {
        name: String,
    },
    /// Gives a plain container of a node a place on an attachable network.
    Attach {
        node: NodeId,
        network: NetworkId,
        container: Box<GuestContainer>,
        /// Addresses it must have, at most one of each family.
        addresses: Vec<IpAddr>,
    },
    /// Keeps credentials for a registry, in the place of those that are kept for it already.
    KeepRegistryLogin {
        spec: RegistryLoginSpec,
    },
    /// Forgets them.
    RemoveRegistryLogin {
        /// The registry, as images name it.
        host: String,
    },
    /// Makes a join token that ends by itself.
    CreateJoinToken {
        role: NodeRole,
        /// How long it is good for; zero: for ever.
        expires_after: Nanos,
        /// How many nodes it admits; 0: any number.
        uses_max: u64,
    },
    /// Ends one before its time.
    RemoveJoinToken {
        /// Its id, or the beginning of it.
        id: String,
    },
    /// Takes the place back.
    Detach {
        node: NodeId,
        network: NetworkId,
        /// The container's id.
        container: String,
    },
}

/// What came of a [`ControlRequest`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlResponse {
    /// Id of the object made; empty for other requests.
    pub id: String,
    /// Things the user should know, one sentence each.
    pub warnings: Vec<String>,
    /// What a stack deploy or removal did, one line each (`Creating service app_web`).
    pub actions: Vec<String>,
    /// The join token that was made; it is told here and never again.
    #[serde(default)]
    pub token: Revealed,
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    pub kind: Kind,
    pub message: String,
}

impl ControlError {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }
}
