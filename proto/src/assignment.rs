//! What a manager tells an agent: the tasks of its node, and all that they need.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use skep_model::encryption::{DataKey, KeyRing};
use skep_model::service::ResolutionMode;
use skep_model::{
    Config, Network, NetworkId, NodeId, PortConfig, RegistryLogin, Secret, ServiceId, Task, TaskId,
};

/// One assigned thing. Its key is `kind/id`; a later item under the same key replaces it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Item {
    Task(Box<Task>),
    Secret(Secret),
    Config(Config),
    Network(Box<Network>),
    Service(ServiceOnNetwork),
    Peer(Peer),
    Local(LocalNode),
    /// What to pull with from a registry.
    RegistryLogin(RegistryLogin),
}

/// What keys of items begin with.
const KINDS: [&str; 8] = [
    "task", "secret", "config", "network", "service", "peer", "local", "registry",
];

impl Item {
    /// Whether what is kept under `key` is of a kind that this version knows. A newer manager may assign
    /// others.
    pub fn is_known(key: &str) -> bool {
        let kind = key.split('/').next().unwrap_or_default();
        KINDS.contains(&kind)
    }

    /// Where the item is kept among a node's assignments.
    pub fn key(&self) -> String {
        match self {
            Self::Task(task) => format!("task/{}", task.id),
            Self::Secret(secret) => format!("secret/{}", secret.id),
            Self::Config(config) => format!("config/{}", config.id),
            Self::Network(network) => format!("network/{}", network.id),
            Self::Service(service) => format!("service/{}/{}", service.network, service.service),
            Self::Peer(peer) => format!("peer/{}", peer.node),
            Self::Local(_) => "local".to_owned(),
            Self::RegistryLogin(login) => format!("registry/{}", login.spec.host),
        }
    }
}

/// What a node needs to know of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalNode {
    pub node: NodeId,
    /// Name that templates and tables use.
    pub hostname: String,
    /// Number of the node in marks and zones.
    pub index: u16,
    /// The node's own addresses on the ingress network, with prefix length.
    pub ingress_addresses: Vec<String>,
    /// UDP port of the overlay.
    pub data_path_port: u16,
    pub vtep: Option<IpAddr>,
    /// Nothing while no network is encrypted.
    #[serde(default)]
    pub encryption: Option<Encryption>,
}

/// What every node must know of the encrypted networks, those it has no task on included.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encryption {
    pub keys: KeyRing,
    /// The VXLAN ids of all of them, in order: no frame of theirs may be sent or taken in clear.
    pub vnis: Vec<u32>,
}

/// Another node, as the data plane sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub node: NodeId,
    pub index: u16,
    pub vtep: Option<IpAddr>,
    pub ingress_addresses: Vec<String>,
    /// Address the node is known by, for rules about "one of the cluster's nodes".
    pub address: Option<IpAddr>,
    /// Its other addresses, for the same rules.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Its keys, by generation.
    #[serde(default)]
    pub keys: Vec<DataKey>,
}

/// A service on one network: its virtual address, its names, and its tasks wherever they run.
/// The plain containers on a network come as a service without id and name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceOnNetwork {
    pub network: NetworkId,
    pub service: ServiceId,
    pub name: String,
    pub mode: ResolutionMode,
    /// With prefix length.
    pub vips: Vec<String>,
    pub aliases: Vec<String>,
    /// The stack it belongs to; empty when none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stack: String,
    /// Ports published in ingress mode; only on the ingress network.
    pub ports: Vec<PortConfig>,
    /// Ordered by task id.
    pub endpoints: Vec<Endpoint>,
}

/// A task's place on a network, or a plain container's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub task: TaskId,
    /// `web.3`
    pub name: String,
    /// `web.3.<task id>`
    pub container_name: String,
    pub hostname: String,
    pub node: NodeId,
    /// With prefix length.
    pub addresses: Vec<String>,
    /// Whether balancers and names lead here.
    pub serves: bool,
    /// Further names of this endpoint alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}
