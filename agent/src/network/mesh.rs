//! A node's part of the routing mesh. Pure.

use ipnet::IpNet;
use skep_model::port::PublishMode;
use skep_model::publish::{PortBalance, PortHost, PortSource};
use skep_model::{PortConfig, Task};
use skep_net::{
    HostAddress, HostState, IngressAddresses, IngressEndpoint, Proto, ProxyVersion, PublishedPort,
    Source,
};
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
        let backends = led_to(port, service, assigned)
            .flat_map(|endpoint| parse_all(&endpoint.addresses))
            .map(|net| (net.addr(), port.target_port))
            .collect();
        state.published.push(PublishedPort {
            proto: proto(port.protocol),
            port: port.published_port,
            host: host(port),
            source: match port.source {
                PortSource::Client => Source::Client,
                PortSource::Snat => Source::Snat,
                PortSource::ProxyProtocol => Source::Proxy(ProxyVersion::V2),
                PortSource::ProxyProtocolV1 => Source::Proxy(ProxyVersion::V1),
            },
            backends,
        });
    }
}

/// The tasks that this node leads clients of a port to.
fn led_to<'a>(
    port: &PortConfig,
    service: &'a ServiceOnNetwork,
    assigned: &Assigned,
) -> impl Iterator<Item = &'a Endpoint> + use<'a> {
    let here = assigned.local.as_ref().map(|local| local.node.clone());
    let is_here = move |endpoint: &&Endpoint| Some(&endpoint.node) == here.as_ref();
    let only_here = port.balance == PortBalance::Local
        && super::serving(service).any(|endpoint| is_here(&endpoint));
    super::serving(service).filter(move |endpoint| !only_here || is_here(endpoint))
}

/// Where a port answers on this node. What cannot be read is left out, since managers checked it.
pub fn host(port: &PortConfig) -> HostAddress {
    match port.host().unwrap_or_default() {
        PortHost::All => HostAddress::All,
        PortHost::Ip(ip) => HostAddress::Ip(ip),
        PortHost::Interface(name) => HostAddress::Interface(name),
    }
}

pub(super) fn node_index(endpoint: &Endpoint, assigned: &Assigned) -> Option<u16> {
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

#[cfg(test)]
mod tests {
    use skep_model::service::ResolutionMode;
    use skep_proto::assignment::LocalNode;

    use super::*;

    fn endpoint(node: &str, address: &str, serves: bool) -> Endpoint {
        Endpoint {
            task: address.into(),
            name: String::new(),
            container_name: String::new(),
            hostname: String::new(),
            node: node.into(),
            addresses: vec![address.to_owned()],
            serves,
            aliases: Vec::new(),
        }
    }

    /// The backends that node `me` uses for a port with this policy.
    fn backends(balance: PortBalance, endpoints: Vec<Endpoint>) -> Vec<String> {
        let local = LocalNode {
            node: "me".into(),
            hostname: "me".to_owned(),
            index: 1,
            ingress_addresses: Vec::new(),
            data_path_port: 4789,
            vtep: None,
            encryption: None,
        };
        let assigned = Assigned {
            local: Some(local.into()),
            ..Assigned::default()
        };
        let port = PortConfig {
            target_port: 80,
            published_port: 8080,
            host_ip: "10.0.0.5".to_owned(),
            balance,
            ..PortConfig::default()
        };
        let on_ingress = ServiceOnNetwork {
            network: "ingress".into(),
            service: "svc".into(),
            name: "web".into(),
            mode: ResolutionMode::Vip,
            vips: Vec::new(),
            aliases: Vec::new(),
            stack: String::new(),
            ports: vec![port],
            endpoints,
        };
        let node = skep_net::LocalNode {
            index: 1,
            vtep: "10.0.0.1".parse().unwrap(),
            data_port: 4789,
            ingress: None,
            ingress_vni: 4096,
            ingress_mtu: 1450,
            addresses: Vec::new(),
        };
        let mut state = HostState::empty(node);
        service(&on_ingress, &assigned, &mut state);
        let published = state.published.remove(0);
        assert_eq!(published.host, HostAddress::Ip("10.0.0.5".parse().unwrap()));
        let backends = published.backends.iter();
        backends.map(|(ip, port)| format!("{ip}:{port}")).collect()
    }

    #[test]
    fn local_balance_stays_on_the_node_while_a_task_serves_there() {
        let both = || {
            vec![
                endpoint("other", "10.255.0.7/16", true),
                endpoint("me", "10.255.0.8/16", true),
            ]
        };
        let all = ["10.255.0.7:80", "10.255.0.8:80"];
        assert_eq!(backends(PortBalance::All, both()), all);
        assert_eq!(backends(PortBalance::Local, both()), ["10.255.0.8:80"]);
        let mut draining = both();
        draining[1].serves = false;
        assert_eq!(backends(PortBalance::Local, draining), ["10.255.0.7:80"]);
    }
}
