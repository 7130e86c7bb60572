//! From what is assigned to what the host's network should be. Pure.

pub(crate) mod guest;
mod mesh;
mod zone;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use skep_engine::Guest;
use skep_model::{Network, NetworkId, Protocol, Task, TaskId};
use skep_net::{
    GatewayLeg, HostPort, HostState, LocalEndpoint, LocalNode, Mac, Overlay, Peer, Proto,
    RemoteEndpoint, TaskSandbox, Vip, names,
};
use skep_proto::assignment::{Endpoint, ServiceOnNetwork};

use crate::assigned::Assigned;
pub use zone::zone;

pub use mesh::host as port_host;

/// Room that VXLAN takes from the underlay's MTU: over IPv4, over IPv6.
const OVERHEAD: (u32, u32) = (50, 70);
/// MTU of the underlay when the node did not say.
pub(crate) const UNDERLAY_MTU_DEFAULT: u32 = 1500;

/// Where a network's names are kept.
pub fn zone_path(run_dir: &Path, network: &NetworkId) -> PathBuf {
    run_dir.join("dns").join(format!("{network}.zone"))
}

/// What is particular to a task's namespace and not derivable from assignments: chosen on this
/// node, kept in the journal.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SandboxChoice {
    /// Address of the leg to the root namespace.
    pub gateway: Option<Ipv4Addr>,
    /// Its IPv6 address; none where the node has no IPv6.
    #[serde(default)]
    pub gateway6: Option<Ipv6Addr>,
    /// Where the task's resolver listens, UDP and TCP.
    pub dns_ports: Option<(u16, u16)>,
    /// Ports of this node, with those the user left open filled in.
    pub host_ports: Vec<HostPort>,
}

/// The networks of a task that carry its names, in the order of attachment: all but ingress.
pub fn named_networks<'a>(task: &Task, assigned: &'a Assigned) -> Vec<&'a Network> {
    task.attachments
        .iter()
        .filter_map(|attachment| assigned.networks.get(&attachment.network_id))
        .filter(|network| !network.spec.ingress)
        .map(|network| &**network)
        .collect()
}

/// Whether a task needs a way out of its namespace: not when all of its networks are internal
/// and it publishes nothing.
pub fn needs_gateway(task: &Task, assigned: &Assigned) -> bool {
    let networks = named_networks(task, assigned);
    let publishes = task
        .endpoint
        .as_ref()
        .is_some_and(|endpoint| !endpoint.ports.is_empty());
    networks.is_empty() || publishes || networks.iter().any(|network| !network.spec.internal)
}

/// The namespace of one task, without services.
pub fn sandbox(task: &Task, choice: &SandboxChoice, assigned: &Assigned) -> TaskSandbox {
    let mut endpoints = Vec::new();
    let mut ingress = Vec::new();
    for attachment in &task.attachments {
        let ips = parse_all(&attachment.addresses);
        let Some(network) = assigned.networks.get(&attachment.network_id) else {
            continue;
        };
        if network.spec.ingress {
            ingress.extend(ips.iter().map(IpNet::addr));
            continue;
        }
        endpoints.push(LocalEndpoint {
            id: endpoint_id(&task.id, &network.id),
            network: network.id.to_string(),
            mac: ips.first().map(|ip| Mac::of(ip.addr())),
            ips,
            ifname: format!("eth{}", endpoints.len()),
        });
    }
    let gateway = choice.gateway.map(|ip4| GatewayLeg {
        id: task.id.to_string(),
        ifname: format!("eth{}", endpoints.len()),
        ip4,
        ip6: choice.gateway6,
        ingress,
        open_ports: mesh::open_ports(task),
        host_ports: choice.host_ports.clone(),
    });
    TaskSandbox {
        id: task.id.to_string(),
        netns: names::task_netns(task.id.as_str()),
        endpoints,
        gateway,
        services: services(&named_networks(task, assigned), assigned),
        dns_ports: choice.dns_ports,
    }
}

/// The overlays that a task's namespace needs.
pub fn overlays_of(task: &Task, assigned: &Assigned) -> Vec<Overlay> {
    named_networks(task, assigned)
        .into_iter()
        .map(|network| overlay(network, assigned))
        .collect()
}

/// Everything the host's network should be.
pub fn host_state(
    assigned: &Assigned,
    sandboxes: &BTreeMap<TaskId, SandboxChoice>,
    guests: &[Guest],
    underlay_mtu: u32,
) -> Option<HostState> {
    let local = assigned.local.as_ref()?;
    let vtep = local.vtep?;
    let mut state = HostState::empty(LocalNode {
        index: local.index,
        vtep,
        data_port: local.data_path_port,
        ingress: mesh::own_addresses(&local.ingress_addresses),
        ingress_vni: assigned
            .ingress()
            .map_or(names::INGRESS_VNI, |network| network.vni),
        ingress_mtu: tunnel_mtu(
            assigned.ingress().map_or(0, |network| network.mtu),
            underlay_mtu,
            vtep,
        ),
        addresses: Vec::new(),
    });
    state.peers = assigned
        .peers
        .values()
        .filter_map(|peer| {
            let ingress = parse_all(&peer.ingress_addresses);
            Some(Peer {
                index: peer.index,
                vtep: peer.vtep?,
                addresses: peer
                    .address
                    .iter()
                    .chain(&peer.addresses)
                    .copied()
                    .filter(|address| Some(*address) != peer.vtep)
                    .collect(),
                ingress_ip4: ingress.iter().find_map(|net| match net.addr() {
                    IpAddr::V4(ip) => Some(ip),
                    IpAddr::V6(_) => None,
                }),
                ingress_ip6: ingress.iter().find_map(|net| match net.addr() {
                    IpAddr::V6(ip) => Some(ip),
                    IpAddr::V4(_) => None,
                }),
            })
        })
        .collect();
    let mut used = BTreeSet::new();
    for (id, choice) in sandboxes {
        let Some(task) = assigned.tasks.get(id) else {
            continue;
        };
        used.extend(
            named_networks(task, assigned)
                .into_iter()
                .map(|network| network.id.clone()),
        );
        state.sandboxes.push(sandbox(task, choice, assigned));
    }
    for guest in guests {
        used.extend(guest::network_ids(guest, assigned));
        state.sandboxes.push(guest::sandbox(guest, assigned));
    }
    state.overlays = used
        .iter()
        .filter_map(|id| assigned.networks.get(id))
        .map(|network| overlay(network, assigned))
        .collect();
    if let Some(ingress) = assigned.ingress() {
        for service in assigned.services_on(&ingress.id) {
            mesh::service(service, assigned, &mut state);
        }
    }
    Some(state)
}

fn overlay(network: &Network, assigned: &Assigned) -> Overlay {
    let local = assigned.local.as_ref().map(|local| &local.node);
    let remote = assigned
        .services_on(&network.id)
        .flat_map(|service| &service.endpoints)
        .filter(|endpoint| Some(&endpoint.node) != local)
        .filter_map(|endpoint| {
            let vtep = assigned.peers.get(&endpoint.node)?.vtep?;
            let ips: Vec<IpAddr> = parse_all(&endpoint.addresses)
                .iter()
                .map(IpNet::addr)
                .collect();
            Some(RemoteEndpoint {
                mac: Mac::of(*ips.first()?),
                ips,
                vtep,
                node: mesh::node_index(endpoint, assigned).unwrap_or_default(),
            })
        })
        .collect();
    Overlay {
        id: network.id.to_string(),
        vni: network.vni,
        mtu: network.mtu,
        subnets: network
            .ipam
            .iter()
            .filter_map(|config| config.subnet)
            .collect(),
        encrypted: network.spec.is_encrypted(),
        remote,
    }
}

/// Virtual addresses as seen from who is on these networks.
fn services(networks: &[&Network], assigned: &Assigned) -> Vec<Vip> {
    let mut vips = Vec::new();
    for network in networks {
        for service in assigned.services_on(&network.id) {
            let backends: Vec<IpAddr> = serving(service)
                .flat_map(|endpoint| parse_all(&endpoint.addresses))
                .map(|net| net.addr())
                .collect();
            for vip in parse_all(&service.vips) {
                let same = |ip: &&IpAddr| ip.is_ipv4() == vip.addr().is_ipv4();
                vips.push(Vip {
                    vip: vip.addr(),
                    backends: backends.iter().filter(same).copied().collect(),
                });
            }
        }
    }
    vips
}

fn serving(service: &ServiceOnNetwork) -> impl Iterator<Item = &Endpoint> {
    service.endpoints.iter().filter(|endpoint| endpoint.serves)
}

fn tunnel_mtu(allocated: u32, underlay: u32, vtep: IpAddr) -> u32 {
    let overhead = if vtep.is_ipv4() {
        OVERHEAD.0
    } else {
        OVERHEAD.1
    };
    let underlay = if underlay == 0 {
        UNDERLAY_MTU_DEFAULT
    } else {
        underlay
    };
    let own = underlay.saturating_sub(overhead).max(1280);
    if allocated == 0 {
        own
    } else {
        allocated.min(own)
    }
}

/// Id of a task's endpoint on a network: unique on the node, and told apart by its first
/// characters as interface names need it.
fn endpoint_id(task: &TaskId, network: &NetworkId) -> String {
    format!("{task}@{network}")
}

/// The protocol in the data plane's terms.
pub const fn proto(protocol: Protocol) -> Proto {
    match protocol {
        Protocol::Tcp => Proto::Tcp,
        Protocol::Udp => Proto::Udp,
        Protocol::Sctp => Proto::Sctp,
    }
}

/// Addresses with prefix length; what cannot be read is left out, since managers wrote it.
pub fn parse_all(texts: &[String]) -> Vec<IpNet> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skep_model::network::IpamConfig;
    use skep_model::service::ResolutionMode;
    use skep_model::task::NetworkAttachment;
    use skep_model::{NetworkSpec, ServiceId};
    use skep_proto::assignment;

    use super::*;

    fn endpoint(task: &str, node: &str, address: &str, serves: bool) -> Endpoint {
        Endpoint {
            task: task.into(),
            name: format!("web.{task}"),
            container_name: format!("web.{task}.id"),
            hostname: String::new(),
            node: node.into(),
            addresses: vec![address.to_owned()],
            serves,
            aliases: Vec::new(),
        }
    }

    fn assigned() -> Assigned {
        let network = Network {
            id: "net".into(),
            spec: NetworkSpec {
                name: "back".into(),
                ..Default::default()
            },
            vni: 4097,
            mtu: 1450,
            ipam: vec![IpamConfig {
                subnet: Some("10.0.1.0/24".parse().unwrap()),
                ..Default::default()
            }],
            ..Default::default()
        };
        let service = ServiceOnNetwork {
            network: "net".into(),
            service: "svc".into(),
            name: "web".into(),
            mode: ResolutionMode::Vip,
            vips: vec!["10.0.1.2/24".into()],
            aliases: vec!["w".into()],
            stack: String::new(),
            ports: Vec::new(),
            endpoints: vec![
                endpoint("1", "me", "10.0.1.3/24", true),
                endpoint("2", "other", "10.0.1.4/24", true),
                endpoint("3", "other", "10.0.1.5/24", false),
            ],
        };
        let task = Task {
            id: "1".into(),
            attachments: vec![NetworkAttachment {
                network_id: "net".into(),
                addresses: vec!["10.0.1.3/24".into()],
                aliases: Vec::new(),
            }],
            ..Default::default()
        };
        let peer = assignment::Peer {
            node: "other".into(),
            index: 2,
            vtep: Some("192.0.2.2".parse().unwrap()),
            ingress_addresses: vec!["10.255.0.2/16".into()],
            address: None,
            addresses: Vec::new(),
            keys: Vec::new(),
        };
        let local = assignment::LocalNode {
            node: "me".into(),
            hostname: "me".into(),
            index: 1,
            ingress_addresses: vec!["10.255.0.1/16".into()],
            data_path_port: 7777,
            vtep: Some("192.0.2.1".parse().unwrap()),
            encryption: None,
        };
        let mut assigned = Assigned::default();
        assigned.networks.insert("net".into(), Arc::new(network));
        assigned
            .services
            .insert(("net".into(), ServiceId::new("svc")), Arc::new(service));
        assigned.tasks.insert("1".into(), Arc::new(task));
        assigned.peers.insert("other".into(), Arc::new(peer));
        assigned.local = Some(Arc::new(local));
        assigned
    }

    #[test]
    fn frames_reach_tasks_that_do_not_serve_yet_but_names_do_not() {
        let assigned = assigned();
        let choice = SandboxChoice {
            gateway: Some(Ipv4Addr::new(172, 18, 0, 2)),
            gateway6: None,
            dns_ports: None,
            host_ports: vec![],
        };
        let state = host_state(&assigned, &[("1".into(), choice)].into(), &[], 1500).unwrap();
        assert_eq!(state.node.data_port, 7777, "the cluster's");
        assert_eq!(state.overlays.len(), 1);
        assert_eq!(state.overlays[0].remote.len(), 2);
        let vips = &state.sandboxes[0].services;
        assert_eq!(vips.len(), 1);
        let wanted: Vec<IpAddr> = vec!["10.0.1.3".parse().unwrap(), "10.0.1.4".parse().unwrap()];
        assert_eq!(vips[0].backends, wanted);
        assert_eq!(state.sandboxes[0].endpoints[0].ifname, "eth0");
        assert_eq!(state.sandboxes[0].gateway.as_ref().unwrap().ifname, "eth1");
    }

    #[test]
    fn a_task_on_internal_networks_only_has_no_way_out() {
        let mut assigned = assigned();
        let task = Arc::clone(&assigned.tasks[&TaskId::new("1")]);
        assert!(needs_gateway(&task, &assigned));
        let network = Arc::make_mut(assigned.networks.get_mut(&NetworkId::new("net")).unwrap());
        network.spec.internal = true;
        assert!(!needs_gateway(&task, &assigned));
    }
}
