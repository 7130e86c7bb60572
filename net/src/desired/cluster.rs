//! What the cluster wants of this host: overlays, sandboxes, service addresses
//! and the routing mesh.
//!
//! All of it is what a manager knows. Orders of things (peers, backends) carry no
//! meaning; duplicates are harmless.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::tunnel::Encryption;
use crate::{Mac, Proto};

/// Everything the cluster wants of this host's network. What is ours in the
/// kernel and not in here is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostState {
    /// This node.
    pub node: LocalNode,
    /// The other nodes, present ones and those whose frames must still be
    /// accepted.
    pub peers: Vec<Peer>,
    /// The overlay networks that have an endpoint on this node.
    pub overlays: Vec<Overlay>,
    /// The network namespaces of this node's tasks.
    pub sandboxes: Vec<TaskSandbox>,
    /// Every reachable task of the cluster that has an address in the ingress
    /// network, draining ones included.
    pub ingress_endpoints: Vec<IngressEndpoint>,
    /// Every port that is published on all nodes (ingress mode).
    pub published: Vec<PublishedPort>,
    /// What encrypted networks need. It holds a key, so it is never written out.
    #[serde(skip)]
    pub encryption: Encryption,
}

impl HostState {
    /// A node with nothing on it and nothing around it.
    pub fn empty(node: LocalNode) -> Self {
        Self {
            node,
            peers: Vec::new(),
            overlays: Vec::new(),
            sandboxes: Vec::new(),
            ingress_endpoints: Vec::new(),
            published: Vec::new(),
            encryption: Encryption::default(),
        }
    }
}

impl HostState {
    /// Whether a port answers on an interface's addresses.
    pub(crate) fn names_interfaces(&self) -> bool {
        let legs = self.sandboxes.iter().flat_map(|sandbox| &sandbox.gateway);
        let own = legs.flat_map(|leg| &leg.host_ports).map(|port| &port.host);
        let mut all = self.published.iter().map(|port| &port.host).chain(own);
        all.any(|host| matches!(host, HostAddress::Interface(_)))
    }
}

/// This node as the data plane sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalNode {
    /// Cluster-wide number of the node, 1..=60000.
    pub index: u16,
    /// The address VXLAN frames leave from and arrive at (data-path address).
    pub vtep: IpAddr,
    /// UDP port of VXLAN, the same on all nodes of the cluster.
    #[serde(default = "data_port")]
    pub data_port: u16,
    /// This node's addresses in the ingress network; `None`: no routing mesh.
    pub ingress: Option<IngressAddresses>,
    /// VXLAN network identifier of the ingress network.
    #[serde(default = "first_vni")]
    pub ingress_vni: u32,
    /// MTU of the ingress network's device: the minimum over all nodes' underlay
    /// MTU minus the VXLAN overhead (50 over IPv4, 70 over IPv6).
    pub ingress_mtu: u32,
    /// Further addresses of this node, beside `vtep`, by which other nodes may
    /// see it as a client.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

/// What VXLAN was given (RFC 7348 §8).
fn data_port() -> u16 {
    4789
}

fn first_vni() -> u32 {
    crate::names::INGRESS_VNI
}

/// A node's addresses in the ingress network, with the network's prefix length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressAddresses {
    /// Such as 10.255.0.1/16. The node's ingress MAC is `Mac::of` this address.
    pub ip4: Ipv4Net,
    /// Such as fd5a::1/64; `None`: the mesh serves IPv4 only.
    pub ip6: Option<Ipv6Net>,
}

impl IngressAddresses {
    /// The ingress network's subnets.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> {
        let ip6 = self.ip6.map(|net| IpNet::V6(net.trunc()));
        std::iter::once(IpNet::V4(self.ip4.trunc())).chain(ip6)
    }
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Cluster-wide number of the node.
    pub index: u16,
    /// Where its VXLAN frames come from and go to.
    pub vtep: IpAddr,
    /// Its other addresses, by which it may appear as a client.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Its address in the ingress network; `None`: it takes no part in the mesh.
    pub ingress_ip4: Option<Ipv4Addr>,
    /// Its IPv6 address in the ingress network.
    pub ingress_ip6: Option<Ipv6Addr>,
}

/// An overlay network as far as this node needs to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// The network's id.
    pub id: String,
    /// VXLAN network identifier, 4097..=16777215.
    pub vni: u32,
    /// MTU inside the network.
    pub mtu: u32,
    /// The network's subnets, of both families.
    pub subnets: Vec<IpNet>,
    /// Whether frames must be encrypted between nodes. A host without a tunnel
    /// refuses the network; it never sends a clear frame of it.
    #[serde(default)]
    pub encrypted: bool,
    /// Every endpoint of the network that is on another node.
    pub remote: Vec<RemoteEndpoint>,
}

/// An endpoint on another node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RemoteEndpoint {
    /// Its addresses in the network.
    pub ips: Vec<IpAddr>,
    /// Its hardware address; normally `Mac::of` its first address.
    pub mac: Mac,
    /// Where frames for it go: its node's data-path address.
    pub vtep: IpAddr,
    /// Cluster-wide number of its node; 0 when not known.
    #[serde(default)]
    pub node: u16,
}

/// The network namespace of one task and everything that reaches into it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSandbox {
    /// The task's id.
    pub id: String,
    /// Name of its namespace under `<run>/netns`: `names::task_netns(id)`. It is
    /// created when absent. Names that begin with `t-` are removed when no
    /// sandbox has them.
    pub netns: String,
    /// Its endpoints in overlay networks, in the order of attachment.
    pub endpoints: Vec<LocalEndpoint>,
    /// The way out, for tasks that are not on internal networks only or that
    /// publish a port.
    pub gateway: Option<GatewayLeg>,
    /// Service addresses as seen from this task.
    pub services: Vec<Vip>,
    /// UDP and TCP port on 127.0.0.11 that its resolver listens on. `None` leaves
    /// what is there.
    #[serde(default)]
    pub dns_ports: Option<(u16, u16)>,
}

/// A task's place in an overlay network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalEndpoint {
    /// The endpoint's id, unique on this node.
    pub id: String,
    /// The overlay's id.
    pub network: String,
    /// Addresses with the prefix length of their subnet.
    pub ips: Vec<IpNet>,
    /// `None`: `Mac::of` the first address.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// Name of the interface inside the task: `eth0`, `eth1`, …
    pub ifname: String,
}

/// A task's routed leg to the root namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayLeg {
    /// The leg's id, unique on this node.
    pub id: String,
    /// Name of the interface inside the task, after those of the overlays.
    pub ifname: String,
    /// Node-local address from `HostConfig::gateway_subnet`, see
    /// `next_gateway_address`.
    pub ip4: Ipv4Addr,
    /// Node-local IPv6 address, see `gateway_address6`.
    #[serde(default)]
    pub ip6: Option<Ipv6Addr>,
    /// The task's addresses in the ingress network: none unless it is published.
    #[serde(default)]
    pub ingress: Vec<IpAddr>,
    /// Container ports that may be reached through the ingress network.
    #[serde(default)]
    pub open_ports: Vec<(Proto, u16)>,
    /// Ports of this node alone that lead to the task (host mode).
    #[serde(default)]
    pub host_ports: Vec<HostPort>,
}

/// Which of a node's addresses a port answers on.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HostAddress {
    /// All of them.
    #[default]
    All,
    /// This one, on nodes that have it; the unspecified one means all of its
    /// family.
    Ip(IpAddr),
    /// Those of an interface, on nodes that have it.
    Interface(String),
}

/// Whom a published port's tasks see as the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// The client itself.
    #[default]
    Client,
    /// The node that the client came to, by its ingress address.
    Snat,
    /// That node too; a relay on it says in the PROXY protocol's first or second
    /// version who the client is. TCP only.
    Proxy(ProxyVersion),
}

/// How the PROXY protocol is spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl Source {
    /// Whether a process on this host stands between client and task.
    pub const fn is_relayed(self) -> bool {
        matches!(self, Self::Proxy(_))
    }
}

/// A port of this node that leads to one task on it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPort {
    /// Where it answers.
    #[serde(default)]
    pub host: HostAddress,
    /// The protocol.
    pub proto: Proto,
    /// The node's port.
    pub published: u16,
    /// The container's port.
    pub target: u16,
}

/// A service's virtual address and who stands behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vip {
    /// The virtual address, inside a subnet that the task is attached to.
    pub vip: IpAddr,
    /// Ready backends of the same family. None: connections are refused.
    /// A backend that drains is left out here while its endpoint still exists.
    pub backends: Vec<IpAddr>,
}

/// A task with addresses in the ingress network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IngressEndpoint {
    /// Its addresses in the ingress network.
    pub ips: Vec<IpAddr>,
    /// The node it is on.
    pub node: u16,
}

/// A port published on every node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The protocol.
    pub proto: Proto,
    /// The port on every node.
    pub port: u16,
    /// Where it answers on nodes.
    #[serde(default)]
    pub host: HostAddress,
    /// Whom the tasks see.
    #[serde(default)]
    pub source: Source,
    /// Ready backends: ingress address and container port. None of a family:
    /// connections of that family are refused.
    pub backends: Vec<(IpAddr, u16)>,
}
