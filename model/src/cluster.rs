//! The cluster itself: one object.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::encryption::KeyRing;
use crate::job::length;
use crate::limits::{NODE_EXPIRY_SECS, OLD_SNAPSHOTS_MAX, SNAPSHOT_INTERVAL};
use crate::mount::Driver;
use crate::node::TlsInfo;
use crate::serde_help::{is_zero, null_default};
use crate::{ClusterId, ControlError, IssuedToken, Nanos, NodeId, Timestamp, Version};

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

/// Label of the cluster that says how long a worker may be down before it is removed: other clients
/// have no field for it, and keep labels.
pub const NODE_EXPIRY_LABEL: &str = "skep.node.expiry";

impl ClusterSpec {
    /// How long a worker may be down before it is removed; absent is for ever.
    ///
    /// # Errors
    /// The label is no length of time, or out of its bounds; the text names it.
    pub fn node_expiry(&self) -> Result<Option<Duration>, ControlError> {
        let Some(given) = self.labels.get(NODE_EXPIRY_LABEL) else {
            return Ok(None);
        };
        let length = match given.trim() {
            "0" => Some(Duration::ZERO),
            text => length(text),
        };
        match length {
            Some(Duration::ZERO) => Ok(None),
            Some(length) if NODE_EXPIRY_SECS.contains(&length.as_secs()) => Ok(Some(length)),
            Some(_) | None => Err(ControlError::invalid(format!(
                "invalid time after which nodes that are down are removed (`--node-expiry`, label {NODE_EXPIRY_LABEL}): `{given}` is not between a minute and ten years, such as 90m or 72h, nor 0 for never"
            ))),
        }
    }
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

impl RaftConfig {
    /// Log entries between snapshots and old snapshots kept, within their bounds: settings of before
    /// there were any are stored as well.
    pub fn snapshots(&self) -> (u64, u64) {
        let (least, most) = (*SNAPSHOT_INTERVAL.start(), *SNAPSHOT_INTERVAL.end());
        let kept = self.keep_old_snapshots.unwrap_or(0);
        (
            self.snapshot_interval.clamp(least, most),
            kept.min(OLD_SNAPSHOTS_MAX),
        )
    }

    /// # Errors
    /// A setting is out of its bounds; the text names it.
    pub fn check(&self) -> Result<(), ControlError> {
        let (least, most) = (SNAPSHOT_INTERVAL.start(), SNAPSHOT_INTERVAL.end());
        if !SNAPSHOT_INTERVAL.contains(&self.snapshot_interval) {
            return Err(ControlError::invalid(format!(
                "invalid snapshot interval {} (`--snapshot-interval`): must be between {least} and {most} log entries",
                self.snapshot_interval
            )));
        }
        match self.keep_old_snapshots {
            Some(count) if count > OLD_SNAPSHOTS_MAX => Err(ControlError::invalid(format!(
                "invalid number of old snapshots {count} (`--max-snapshots`): must be at most {OLD_SNAPSHOTS_MAX}"
            ))),
            Some(_) | None => Ok(()),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_for_nodes_to_expire_is_a_length_of_time() {
        let with = |text: &str| {
            let mut spec = ClusterSpec::default();
            spec.labels
                .insert(NODE_EXPIRY_LABEL.to_owned(), text.to_owned());
            spec.node_expiry()
        };
        assert_eq!(ClusterSpec::default().node_expiry(), Ok(None));
        for never in ["0", "0s", "0h0m0s"] {
            assert_eq!(with(never), Ok(None), "{never}");
        }
        for (text, secs) in [("72h0m0s", 72 * 3600), ("60s", 60), ("3d", 3 * 24 * 3600)] {
            assert_eq!(with(text), Ok(Some(Duration::from_secs(secs))), "{text}");
        }
        for wrong in ["", "72", "59s", "-1h", "11y", "5000d", "1.5h"] {
            let refused = with(wrong).unwrap_err().message;
            assert!(refused.contains("--node-expiry"), "{wrong}: {refused}");
        }
    }

    #[test]
    fn snapshots_are_bounded_by_a_check_and_those_of_before_by_use() {
        let with = |interval: u64, kept: Option<u64>| RaftConfig {
            snapshot_interval: interval,
            keep_old_snapshots: kept,
            ..RaftConfig::default()
        };
        assert_eq!(RaftConfig::default().snapshots(), (10_000, 0));
        assert_eq!(with(10, Some(100)).check(), Ok(()));
        assert_eq!(with(1, Some(7)).snapshots(), (10, 7));
        assert_eq!(with(u64::MAX, None).snapshots(), (1_000_000, 0));
        let wrong = with(9, None).check().unwrap_err().message;
        assert!(wrong.contains("--snapshot-interval"), "{wrong}");
        let wrong = with(10, Some(101)).check().unwrap_err().message;
        assert!(wrong.contains("--max-snapshots"), "{wrong}");
    }
}
