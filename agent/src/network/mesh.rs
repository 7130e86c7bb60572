//! A node's part of the routing mesh. Pure.

use ipnet::IpNet;
use skep_model::Task;
use skep_model::port::PublishMode;
use skep_net::{HostState, IngressAddresses, IngressEndpoint, Proto, PublishedPort};
use skep_proto::assignment::{Endpoint, ServiceOnNetwork};

use super::{parse_all, proto};
use crate::assigned::Assigned;

/// A service's part of the routing mesh.
pub(super) fn service(service: &ServiceOnNetwork, assigned: &Assigned, state: &mut HostState) {
    for endpoint in &service.endpoints {
        if let Some(node) = node_index(endpoint, assigned) {
            let ips = parse_all(&endpoint.addresses)
                .iter()
                .map(IpNet::addr)
                .collect();
            state.ingress_endpoints.push(IngressEndpoint { ips, node });
        }
    }
    for port in service
        .ports
        .iter()
        .filter(|port| port.publish_mode == PublishMode::Ingress)
    {
        let backends = service
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.serves)
            .flat_map(|endpoint| parse_all(&endpoint.addresses))
            .map(|net| (net.addr(), port.target_port))
            .collect();
        state.published.push(PublishedPort {
            proto: proto(port.protocol),
            port: port.published_port,
            backends,
        });
    }
}

fn node_index(endpoint: &Endpoint, assigned: &Assigned) -> Option<u16> {
    let local = assigned.local.as_ref()?;
    if endpoint.node == local.node {
        return Some(local.index);
    }
    assigned.peers.get(&endpoint.node).map(|peer| peer.index)
}

/// Container ports that a task publishes through the mesh.
pub(super) fn open_ports(task: &Task) -> Vec<(Proto, u16)> {
    let ports = task.endpoint.iter().flat_map(|endpoint| &endpoint.ports);
    ports
        .filter(|port| port.publish_mode == PublishMode::Ingress)
        .map(|port| (proto(port.protocol), port.target_port))
        .collect()
}

pub(super) fn own_addresses(texts: &[String]) -> Option<IngressAddresses> {
    let nets = parse_all(texts);
    let ip4 = nets.iter().find_map(|net| match net {
        IpNet::V4(net) => Some(*net),
        IpNet::V6(_) => None,
    })?;
    let ip6 = nets.iter().find_map(|net| match net {
        IpNet::V6(net) => Some(*net),
        IpNet::V4(_) => None,
    });
    Some(IngressAddresses { ip4, ip6 })
}
