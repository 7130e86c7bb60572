//! The cluster itself: one object.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::encryption::KeyRing;
use crate::mount::Driver;
use crate::node::TlsInfo;
use crate::serde_help::{is_zero, null_default};
use crate::{ClusterId, IssuedToken, Nanos, NodeId, Timestamp, Version};

/// The cluster's settings (`SwarmSpec` of the API).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ClusterSpec {
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    #[serde(deserialize_with = "null_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_default")]
    pub orchestration: Orchestration,
    #[serde(deserialize_with = "null_default")]
    pub raft: RaftConfig,
    #[serde(deserialize_with = "null_default")]
    pub dispatcher: DispatcherConfig,
    #[serde(rename = "CAConfig", deserialize_with = "null_default")]
    pub ca_config: CaConfig,
    #[serde(deserialize_with = "null_default")]
    pub task_defaults: TaskDefaults,
    #[serde(deserialize_with = "null_default")]
    pub encryption_config: EncryptionConfig,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Orchestration {
    /// Absent means 5; negative keeps all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_history_retention_limit: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RaftConfig {
    /// Log entries between snapshots.
    pub snapshot_interval: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_old_snapshots: Option<u64>,
    pub log_entries_for_slow_followers: u64,
    pub election_tick: u64,
    pub heartbeat_tick: u64,
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self {
            snapshot_interval: 10_000,
            keep_old_snapshots: Some(0),
            log_entries_for_slow_followers: 500,
            election_tick: 10,
            heartbeat_tick: 1,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DispatcherConfig {
    pub heartbeat_period: Nanos,
}

impl Default for DispatcherConfig {
    fn default() -> Self {
        Self {
            heartbeat_period: Nanos::from_secs(1),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CaConfig {
    pub node_cert_expiry: Nanos,
    #[serde(
        rename = "ExternalCAs",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub external_cas: Vec<serde_json::Value>,
    #[serde(
        rename = "SigningCACert",
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub signing_ca_cert: String,
    #[serde(
        rename = "SigningCAKey",
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub signing_ca_key: String,
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub force_rotate: u64,
}

impl Default for CaConfig {
    fn default() -> Self {
        Self {
            node_cert_expiry: Nanos::from_secs(2160 * 3600),
            external_cas: Vec::new(),
            signing_ca_cert: String::new(),
            signing_ca_key: String::new(),
            force_rotate: 0,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TaskDefaults {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_driver: Option<Driver>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EncryptionConfig {
    #[serde(deserialize_with = "null_default")]
    pub auto_lock_managers: bool,
    /// Whether overlay networks that do not say are encrypted between nodes. An addition to the
    /// API.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub encrypt_networks: bool,
}

/// Tokens that admit nodes. They have no `Display`, and debug output hides them.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct JoinTokens {
    pub worker: String,
    pub manager: String,
}

impl fmt::Debug for JoinTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinTokens(hidden)")
    }
}

/// The certificate authority's root. The key is only ever stored sealed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RootCa {
    /// PEM.
    pub cert: String,
    /// PEM; empty when an external authority signs.
    pub key: String,
    /// The next root, while nodes change over to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation: Option<RootRotation>,
    /// The `ForceRotate` that was answered with a new root last.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub last_forced_rotation: u64,
}

impl RootCa {
    /// What nodes trust, PEM: the root, and after it the next one if there is one.
    pub fn trusted(&self) -> String {
        let next = self.rotation.as_ref().map(|rotation| &*rotation.cert);
        [&self.cert, next.unwrap_or_default()].concat()
    }
}

/// A root that nodes change over to. Its key is only ever stored sealed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RootRotation {
    /// PEM.
    pub cert: String,
    /// PEM.
    pub key: String,
    /// Its certificate by the present root, PEM: who trusts that one believes certificates of this.
    pub cross_signed: String,
    /// How join tokens pin it.
    pub pinned: String,
}

impl fmt::Debug for RootRotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootRotation")
            .field("cert", &self.cert)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RootCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootCa")
            .field("cert", &self.cert)
            .finish_non_exhaustive()
    }
}

/// A VXLAN network id that rests before it may be used again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RestingVni {
    pub vni: u32,
    pub until: Timestamp,
}

/// The cluster as stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Cluster {
    #[serde(rename = "ID")]
    pub id: ClusterId,
    pub version: Version,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub spec: ClusterSpec,
    /// The present root, and who signs certificates: during a rotation the next root.
    #[serde(rename = "TLSInfo")]
    pub tls_info: TlsInfo,
    pub root_rotation_in_progress: bool,
    #[serde(deserialize_with = "null_default")]
    pub default_addr_pool: Vec<ipnet::IpNet>,
    pub subnet_size: u8,
    pub data_path_port: u16,
    pub join_tokens: JoinTokens,
    /// Tokens that end by themselves. They pin the present root, and go with it.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub issued_tokens: Vec<IssuedToken>,
    /// Hidden from the API.
    pub root_ca: RootCa,
    /// Key that unlocks managers, when autolock is on. Hidden from the API.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub unlock_key: String,
    /// The longest life that certificates were given so far; zero: that of the settings.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub longest_cert_expiry: Nanos,
    /// Certificates of removed nodes, and until when they matter.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_default"
    )]
    pub removed_nodes: BTreeMap<NodeId, Timestamp>,
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub resting_vnis: Vec<RestingVni>,
    /// The keys of encrypted networks.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub data_keys: KeyRing,
}

impl Cluster {
    /// Tasks kept per slot; negative keeps all.
    pub fn task_history_limit(&self) -> i64 {
        self.spec
            .orchestration
            .task_history_retention_limit
            .unwrap_or(crate::limits::TASK_HISTORY_DEFAULT)
    }
}
