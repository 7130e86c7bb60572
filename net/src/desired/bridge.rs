//! What the engine wants of this host: bridge networks, the endpoints of plain
//! containers on them, and published ports.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Mac, Proto};

/// Everything the engine wants. What is ours, belongs to bridges and is not in
/// here is removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeState {
    /// The bridge networks of this host.
    pub networks: Vec<BridgeNetwork>,
    /// The endpoints of running containers.
    pub endpoints: Vec<BridgeEndpoint>,
}

/// A bridge network of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeNetwork {
    /// The network's id.
    pub id: String,
    /// Name of the bridge device (`com.docker.network.bridge.name`); `None`:
    /// `names::bridge(id)`.
    #[serde(default)]
    pub bridge: Option<String>,
    /// The bridge's own addresses with the prefix length of their subnet: the
    /// gateways of the containers. On an internal network too (the host reaches
    /// the containers), but containers get no default route there.
    pub gateways: Vec<IpNet>,
    /// MTU of the bridge and its endpoints.
    pub mtu: u32,
    /// Nothing in, nothing out.
    #[serde(default)]
    pub internal: bool,
    /// Whether containers may talk to one another
    /// (`com.docker.network.bridge.enable_icc`).
    pub icc: bool,
    /// Whether outgoing connections carry the host's address
    /// (`com.docker.network.bridge.enable_ip_masquerade`).
    pub masquerade: bool,
}

/// A container's place in a bridge network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeEndpoint {
    /// The endpoint's id, unique on this host.
    pub id: String,
    /// The container's name, for error texts.
    pub name: String,
    /// The network's id; it must exist.
    pub network: String,
    /// The container's network namespace: a pinned file, or `/proc/<pid>/ns/net`.
    pub netns: PathBuf,
    /// Name of the interface inside the container.
    pub ifname: String,
    /// Addresses with the prefix length of their subnet.
    pub addresses: Vec<IpNet>,
    /// `None`: `Mac::of` the first address.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// Whether the network's gateways become the container's default routes.
    /// At most one endpoint of a container should say so.
    pub default_route: bool,
    /// Ports of the host that lead to the container. After a restart of the
    /// daemon: with the host ports that were bound before.
    #[serde(default)]
    pub ports: Vec<PortRequest>,
}

/// A wish for a published port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRequest {
    /// The protocol.
    pub proto: Proto,
    /// The container's port.
    pub target: u16,
    /// The host address; `None`: all of them, of both families.
    #[serde(default)]
    pub host_ip: Option<IpAddr>,
    /// First and last host port to choose from; `(0, 0)`: any free port.
    pub host_ports: (u16, u16),
}

/// A published port as it was bound.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BoundPort {
    /// The protocol.
    pub proto: Proto,
    /// The container's port.
    pub target: u16,
    /// The host address; unspecified (`0.0.0.0`, `::`) means all. A request for
    /// all addresses yields one of each family with the same port.
    pub host_ip: IpAddr,
    /// The host port.
    pub host_port: u16,
}

impl BoundPort {
    /// The request that binds exactly this again.
    pub fn request(&self) -> PortRequest {
        PortRequest {
            proto: self.proto,
            target: self.target,
            host_ip: Some(self.host_ip),
            host_ports: (self.host_port, self.host_port),
        }
    }
}

/// A container's place on a macvlan or ipvlan network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VlanEndpoint {
    /// The endpoint's id, unique on this host.
    pub id: String,
    /// macvlan or ipvlan, and its mode.
    pub mode: VlanMode,
    /// The host interface it is a child of.
    pub parent: String,
    /// The container's network namespace.
    pub netns: PathBuf,
    /// Name of the interface inside the container.
    pub ifname: String,
    /// Addresses with the prefix length of their subnet.
    pub addresses: Vec<IpNet>,
    /// `None`: `Mac::of` the first address (macvlan only).
    #[serde(default)]
    pub mac: Option<Mac>,
    /// Default routes to set; at most one per family.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
    /// `None`: the parent's.
    #[serde(default)]
    pub mtu: Option<u32>,
}

/// How a child interface shares its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VlanMode {
    /// macvlan, children reach one another.
    MacvlanBridge,
    /// macvlan, children reach nobody on the host.
    MacvlanPrivate,
    /// macvlan, through the switch outside.
    MacvlanVepa,
    /// macvlan, the parent is handed through.
    MacvlanPassthru,
    /// ipvlan, layer 2.
    IpvlanL2,
    /// ipvlan, routed.
    IpvlanL3,
}
