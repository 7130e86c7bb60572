//! The door: one host's data plane.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use crate::{
    BoundPort, BridgeEndpoint, BridgeNetwork, BridgeState, Capabilities, HostState, Namespaces,
    NetError, Netns, Overlay, Report, TaskSandbox, Vip, VlanEndpoint,
};

/// How this daemon's data plane is set up. All nodes of a cluster agree on
/// `data_port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostConfig {
    /// The daemon's runtime directory; namespaces are pinned under `netns` in it.
    pub run_dir: PathBuf,
    /// UDP port of VXLAN.
    pub data_port: u16,
    /// Where gateway legs get their addresses; the first one is the gateway.
    /// It is local to the node and must not overlap what its tasks want to reach.
    pub gateway_subnet: Ipv4Net,
    /// The upper eight bits of our packet marks.
    pub mark_tag: u8,
}

impl HostConfig {
    /// Defaults: port 4789, 172.18.0.0/16, tag 0x5a.
    pub fn new(run_dir: impl Into<PathBuf>) -> Self {
        Self {
            run_dir: run_dir.into(),
            data_port: 4789,
            gateway_subnet: Ipv4Net::new_assert(Ipv4Addr::new(172, 18, 0, 0), 16),
            mark_tag: 0x5a,
        }
    }
}

/// What went through an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceCounters {
    /// The interface's name inside its namespace.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Errors on receiving.
    pub rx_errors: u64,
    /// Packets dropped on receiving.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Errors on sending.
    pub tx_errors: u64,
    /// Packets dropped on sending.
    pub tx_dropped: u64,
}

/// The lowest free address for a gateway leg: not the network's own, not the
/// gateway's (the first host address), not the broadcast address. `None`: full.
pub fn next_gateway_address(subnet: Ipv4Net, used: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    subnet
        .hosts()
        .skip(1)
        .find(|address| !used.contains(address))
}

/// The data plane of the host (or namespace) that the daemon runs in. Methods
/// may be called from any thread, in any namespace; calls that change the same
/// thing wait for one another.
pub struct Host {
    config: HostConfig,
    namespaces: Namespaces,
}

impl Host {
    /// Opens the data plane of the namespace the calling thread is in. Changes
    /// nothing yet.
    pub fn open(config: HostConfig) -> Result<Self, NetError> {
        let namespaces = Namespaces::new(&config.run_dir);
        Ok(Self { config, namespaces })
    }

    /// How it was set up.
    pub fn config(&self) -> &HostConfig {
        &self.config
    }

    /// The pinned namespaces: for making a container's namespace before its
    /// endpoints are connected, and for removing it after they are disconnected.
    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// What this host can do; probed once.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    // ---- the cluster's half -------------------------------------------------

    /// Makes everything of the cluster's half as desired: level-triggered, the
    /// whole truth. Sandboxes and overlays that are not in `desired` are removed,
    /// so a caller that prepares sandboxes includes them here from then on.
    /// Goes on past failures.
    pub fn apply(&self, desired: &HostState) -> Report {
        let _ = desired;
        Report::default()
    }

    /// Makes one task's namespace and wires it up, at once, without touching
    /// anything else. `overlays` holds at least the networks of its endpoints;
    /// those this node has not yet are made. Returns where the namespace is
    /// pinned. Calling it again repairs.
    pub fn prepare_sandbox(
        &self,
        sandbox: &TaskSandbox,
        overlays: &[Overlay],
    ) -> Result<PathBuf, NetError> {
        let _ = overlays;
        Ok(self.namespaces.path(&sandbox.netns))
    }

    /// Takes one task off the network and removes its namespace: links first, so
    /// that a process left inside cannot answer any more. Unknown is fine.
    /// Overlays stay until an `apply` without them.
    pub fn remove_sandbox(&self, sandbox: &TaskSandbox) -> Result<(), NetError> {
        self.namespaces.delete(&sandbox.netns)
    }

    /// Replaces the service addresses as seen from one task.
    pub fn set_services(&self, sandbox: &TaskSandbox, services: &[Vip]) -> Result<(), NetError> {
        let _ = (sandbox, services);
        Ok(())
    }

    // ---- the engine's half --------------------------------------------------

    /// Makes everything of the engine's half as desired, after a restart above
    /// all: bridges, endpoints and published ports. What is not in `desired` is
    /// removed. Goes on past failures.
    pub fn apply_bridges(&self, desired: &BridgeState) -> Report {
        let _ = desired;
        Report::default()
    }

    /// Makes or repairs one bridge network.
    pub fn ensure_bridge(&self, network: &BridgeNetwork) -> Result<(), NetError> {
        let _ = network;
        Ok(())
    }

    /// Removes a bridge network; its endpoints should be disconnected before.
    /// Unknown is fine.
    pub fn remove_bridge(&self, network: &str) -> Result<(), NetError> {
        let _ = network;
        Ok(())
    }

    /// Connects a container to a bridge network and publishes its ports: all of
    /// it or nothing. Returns the ports as bound, in the order of the requests.
    /// Calling it again repairs and returns the same ports.
    pub fn connect(&self, endpoint: &BridgeEndpoint) -> Result<Vec<BoundPort>, NetError> {
        let _ = endpoint;
        Ok(Vec::new())
    }

    /// Unpublishes an endpoint's ports, cuts its flows and removes its link.
    /// Unknown is fine.
    pub fn disconnect(&self, endpoint: &str) -> Result<(), NetError> {
        let _ = endpoint;
        Ok(())
    }

    /// The ports an endpoint holds now.
    pub fn bound_ports(&self, endpoint: &str) -> Vec<BoundPort> {
        let _ = endpoint;
        Vec::new()
    }

    /// Connects a container to a macvlan or ipvlan network. The link goes with
    /// the namespace or by `disconnect_vlan`.
    pub fn connect_vlan(&self, endpoint: &VlanEndpoint) -> Result<(), NetError> {
        let _ = endpoint;
        Ok(())
    }

    /// Removes a macvlan or ipvlan link. Unknown is fine.
    pub fn disconnect_vlan(&self, endpoint: &VlanEndpoint) -> Result<(), NetError> {
        let _ = endpoint;
        Ok(())
    }

    /// Replaces the default routes of a container: `gateways` through `ifname`,
    /// at most one per family. Families not given lose theirs.
    pub fn set_default_routes(
        &self,
        netns: &Path,
        ifname: &str,
        gateways: &[IpAddr],
    ) -> Result<(), NetError> {
        let _ = (netns, ifname, gateways);
        Ok(())
    }

    // ---- for both -----------------------------------------------------------

    /// Leads queries to 127.0.0.11:53 inside a namespace to the ports its
    /// resolver listens on (UDP, TCP), on 127.0.0.11.
    pub fn redirect_dns(&self, netns: &Path, udp: u16, tcp: u16) -> Result<(), NetError> {
        let _ = (netns, udp, tcp);
        Ok(())
    }

    /// The counters of every interface in a namespace but the loopback, by name.
    pub fn counters(&self, netns: &Path) -> Result<Vec<InterfaceCounters>, NetError> {
        Netns::open(netns)?;
        Ok(Vec::new())
    }

    /// The subnets this host has routes to (default routes left out): a new
    /// network's subnet should not overlap them.
    pub fn routed_subnets(&self) -> Result<Vec<IpNet>, NetError> {
        Ok(Vec::new())
    }

    /// This host's addresses with the name of their interface, loopback and
    /// link-local ones left out.
    pub fn addresses(&self) -> Result<Vec<(String, IpNet)>, NetError> {
        Ok(Vec::new())
    }

    /// The address this host would use towards another one, and the MTU of the
    /// interface on the way.
    pub fn route_to(&self, peer: IpAddr) -> Result<(IpAddr, u32), NetError> {
        Err(NetError::NotFound {
            object: format!("route to {peer}"),
        })
    }
}
