//! Nodes of the cluster.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::encryption::NodeEncryption;
use crate::placement::Platform;
use crate::resources::Resources;
use crate::serde_help::{is_zero, null_default};
use crate::{Nanos, NodeId, Timestamp, Version};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    #[default]
    Worker,
    Manager,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// Takes tasks.
    #[default]
    Active,
    /// Keeps its tasks, takes no new ones.
    Pause,
    /// Gives its tasks up.
    Drain,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    #[default]
    Unknown,
    Down,
    Ready,
    Disconnected,
}

/// What an administrator wants of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NodeSpec {
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub name: String,
    #[serde(deserialize_with = "null_default")]
    pub labels: BTreeMap<String, String>,
    pub role: NodeRole,
    pub availability: Availability,
}

/// What a node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NodeDescription {
    pub hostname: String,
    pub platform: Platform,
    pub resources: Resources,
    pub engine: EngineDescription,
    #[serde(rename = "TLSInfo")]
    pub tls_info: TlsInfo,
    /// The address that VXLAN frames leave from and arrive at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_path_addr: Option<IpAddr>,
    /// MTU of the device behind that address; 0 before it was told.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub data_path_mtu: u32,
    /// Its agent ends containers whose leases are over, by itself. An addition to the API.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub holds_leases: bool,
    /// Its agent can be told the cluster's credentials for registries. An addition to the API.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub takes_registry_logins: bool,
    /// Its agent makes variables of secrets and configs whose targets say so. An addition to the API.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub knows_variables: bool,
    /// Its agent asks managers for what secrets of outside stores hold. An addition to the API.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub asks_stores: bool,
    /// All addresses by which others may see the node as a client of theirs.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub addresses: Vec<IpAddr>,
    /// What is wrong with its networks at the moment. Our addition.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub network_problems: Vec<NetworkProblem>,
    /// How the node encrypts what it sends to others. An addition to the API.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub encryption: NodeEncryption,
}

/// Something that is wrong with a network, as seen from one node.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkProblem {
    /// The network's name; empty when it concerns all of them.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub network: String,
    /// The node at the other end; empty when it is about this node alone.
    #[serde(skip_serializing_if = "NodeId::is_empty")]
    pub peer: NodeId,
    pub message: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EngineDescription {
    pub engine_version: String,
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_default"
    )]
    pub labels: BTreeMap<String, String>,
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub plugins: Vec<PluginDescription>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PluginDescription {
    #[serde(rename = "Type")]
    pub kind: String,
    pub name: String,
}

/// Which root a node trusts and who signed its certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TlsInfo {
    /// PEM.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub trust_root: String,
    /// Base64 of the DER subject.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub cert_issuer_subject: String,
    /// Base64 of the DER public key.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub cert_issuer_public_key: String,
}

impl TlsInfo {
    /// Whether both certificates were signed by the same authority. False while either is not
    /// known.
    pub fn has_issuer_of(&self, other: &Self) -> bool {
        !self.cert_issuer_public_key.is_empty()
            && self.cert_issuer_public_key == other.cert_issuer_public_key
            && self.cert_issuer_subject == other.cert_issuer_subject
    }
}

/// A node is to get a certificate of another issuer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RenewalOrder {
    /// Public key of that issuer, as in [`TlsInfo`].
    pub issuer: String,
    /// When the node was told.
    pub at: Timestamp,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NodeStatus {
    pub state: NodeState,
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub message: String,
    /// The address the node was last heard from.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub addr: String,
    /// Since when the node has been in this state. An addition to the API.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub since: Timestamp,
    /// For how long it is down, where nodes that are down are removed after a while. An addition to
    /// the API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down: Option<DownTime>,
}

/// For how long a node is down, without the times in which nobody led the cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DownTime {
    /// What was counted so far.
    pub counted: Nanos,
    /// Until when.
    pub until: Timestamp,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reachability {
    #[default]
    Unknown,
    Unreachable,
    Reachable,
}

/// Present on managers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ManagerStatus {
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub leader: bool,
    pub reachability: Reachability,
    /// `address:port` of the control listener.
    pub addr: String,
    /// Raft member id; never used again after removal. An addition to the API.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub raft_id: u64,
}

/// A node as stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Node {
    #[serde(rename = "ID")]
    pub id: NodeId,
    pub version: Version,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub spec: NodeSpec,
    pub description: NodeDescription,
    pub status: NodeStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manager_status: Option<ManagerStatus>,
    /// The role the node's certificate has; differs from the spec's while a change is under way.
    pub role: NodeRole,
    /// Small number for the data plane (marks, zones); never re-used while the node is listed.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub index: u16,
    /// The node's own addresses on the ingress network, with prefix length.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub ingress_addresses: Vec<String>,
    /// The last time it was told to renew its certificate because of its issuer. Hidden from the
    /// API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renewal: Option<RenewalOrder>,
}

impl Node {
    /// Whether new tasks may be placed here.
    pub fn takes_tasks(&self) -> bool {
        self.status.state == NodeState::Ready && self.spec.availability == Availability::Active
    }
}
