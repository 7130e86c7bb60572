//! One task's namespace, and the root namespace's end of its gateway leg.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use crate::desired::cluster::{GatewayLeg, TaskSandbox};
use crate::names::{self, GATEWAY_GROUP, LINK_LOCAL_GATEWAY};
use crate::netlink::entry::MAIN_TABLE;
use crate::plan::{default_prefix, host_prefix, link_local_gateway, services};
use crate::view::{Link, LinkKind, NsKey, Route, Sysctl, VethPeer, Wanted};

/// The gateway's address: the first host of the subnet.
pub(crate) fn gateway_address(subnet: Ipv4Net) -> Ipv4Addr {
    subnet.hosts().next().unwrap_or(subnet.addr())
}

/// What the task's own namespace should hold of ours.
pub(crate) fn namespace(subnet: Ipv4Net, sandbox: &TaskSandbox) -> Wanted {
    let mut wanted = Wanted::default();
    for endpoint in &sandbox.endpoints {
        wanted
            .links
            .insert(endpoint.ifname.clone(), Link::new(LinkKind::Given));
        for net in &endpoint.ips {
            wanted.addresses.insert((endpoint.ifname.clone(), *net));
        }
    }
    if let Some(leg) = &sandbox.gateway {
        inside(&mut wanted, subnet, leg);
    }
    wanted
        .tables
        .push(services::services(&sandbox.netns, &sandbox.services));
    if let Some((udp, tcp)) = sandbox.dns_ports {
        wanted.tables.push(services::resolver(udp, tcp));
    }
    wanted
}

fn addresses(leg: &GatewayLeg) -> impl Iterator<Item = IpAddr> {
    let own = [Some(IpAddr::V4(leg.ip4)), leg.ip6.map(IpAddr::V6)];
    own.into_iter().flatten().chain(leg.ingress.iter().copied())
}

fn inside(wanted: &mut Wanted, subnet: Ipv4Net, leg: &GatewayLeg) {
    let dev = || leg.ifname.clone();
    wanted.links.insert(dev(), Link::new(LinkKind::Given));
    for ip in addresses(leg) {
        wanted.addresses.insert((dev(), host_prefix(ip)));
    }
    let gateway = IpAddr::V4(gateway_address(subnet));
    let route = |to, via, source| Route {
        table: MAIN_TABLE,
        to,
        via,
        dev: dev(),
        source,
    };
    let own = reached_at(leg);
    let source = |like: IpAddr| {
        own.iter()
            .find(|ip| ip.is_ipv4() == like.is_ipv4())
            .copied()
    };
    wanted
        .routes
        .insert(route(host_prefix(gateway), None, None));
    wanted.routes.insert(route(
        default_prefix(gateway),
        Some(gateway),
        source(gateway),
    ));
    if addresses(leg).any(|ip| ip.is_ipv6()) {
        let gateway = IpAddr::V6(LINK_LOCAL_GATEWAY);
        wanted.routes.insert(route(
            default_prefix(gateway),
            Some(gateway),
            source(gateway),
        ));
    }
}

/// The one address of each family by which the task is reached through the leg,
/// and which it answers from: a server that listens on all addresses answers a
/// datagram from the one its route prefers, and that must be the one asked.
pub(crate) fn reached_at(leg: &GatewayLeg) -> Vec<IpAddr> {
    let own = [Some(IpAddr::V4(leg.ip4)), leg.ip6.map(IpAddr::V6)];
    let all = || leg.ingress.iter().copied().chain(own.into_iter().flatten());
    let first = |is_v4: bool| all().find(|ip| ip.is_ipv4() == is_v4);
    [first(true), first(false)].into_iter().flatten().collect()
}

/// Adds the root namespace's end of a task's leg to what is wanted there.
pub(crate) fn outside(wanted: &mut Wanted, subnet: Ipv4Net, netns: &str, leg: &GatewayLeg) {
    let name = names::gateway_port(&leg.id);
    let peer = VethPeer {
        netns: NsKey::Pinned(netns.into()),
        ifname: leg.ifname.clone(),
        mac: None,
        mtu: None,
    };
    let link = Link {
        group: GATEWAY_GROUP,
        ..Link::new(LinkKind::Veth { peer })
    };
    wanted.links.insert(name.clone(), link);
    wanted
        .addresses
        .insert((name.clone(), host_prefix(gateway_address(subnet).into())));
    wanted
        .addresses
        .insert((name.clone(), link_local_gateway()));
    for ip in addresses(leg) {
        wanted.routes.insert(Route {
            table: MAIN_TABLE,
            to: host_prefix(ip),
            via: None,
            dev: name.clone(),
            source: None,
        });
    }
    wanted.sysctls.push(Sysctl::no_router_advertisements(&name));
    // 127.0.0.1 of the host reaches the task's ports (guarded in the mesh table).
    wanted.sysctls.push(Sysctl::new(
        format!("net/ipv4/conf/{name}/route_localnet"),
        "1",
    ));
}
