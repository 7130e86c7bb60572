//! The ingress device: the network between the nodes that carries the routing
//! mesh, and the way back through it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use crate::desired::cluster::{HostState, IngressAddresses};
use crate::names::{INGRESS_DEVICE, MESH_ROUTE_TABLE, MESH_RULE_PREFERENCE, NOBODY_MAC};
use crate::plan::{default_prefix, tunnel};
use crate::view::{Link, LinkKind, Route, Rule, Sysctl, Wanted};
use crate::{HostConfig, Mac};

/// Adds the ingress device and what leads through it to what the root namespace
/// should hold.
pub(super) fn device(
    wanted: &mut Wanted,
    config: &HostConfig,
    state: &HostState,
    ingress: &IngressAddresses,
) {
    let dev = || INGRESS_DEVICE.to_owned();
    let kind = LinkKind::Vxlan {
        vni: state.node.ingress_vni,
        local: tunnel::ingress_local(state),
        port: state.node.data_port,
        proxy: false,
    };
    let link = Link {
        mac: Some(Mac::of(ingress.ip4.addr().into())),
        mtu: Some(state.node.ingress_mtu),
        ..Link::new(kind)
    };
    wanted.links.insert(dev(), link);

    let mut nets = vec![IpNet::V4(ingress.ip4)];
    nets.extend(ingress.ip6.map(IpNet::V6));
    let mark = u32::from(config.mark_tag) << 24;
    for net in nets {
        wanted.addresses.insert((dev(), net));
        let nobody = nobody(net);
        wanted.neighbours.insert((dev(), nobody), NOBODY_MAC);
        wanted.routes.insert(Route {
            table: MESH_ROUTE_TABLE,
            to: default_prefix(nobody),
            via: Some(nobody),
            dev: dev(),
            source: None,
        });
        wanted.rules.insert(Rule {
            preference: MESH_RULE_PREFERENCE,
            from: net.trunc(),
            mark,
            mask: 0xff00_0000,
            table: MESH_ROUTE_TABLE,
        });
    }

    let macs = macs(state);
    for peer in &state.peers {
        let Some(mac) = macs.get(&peer.index) else {
            continue;
        };
        let Some(to) = tunnel::ingress_remote(state, peer) else {
            continue;
        };
        wanted.forwarding.insert((dev(), *mac), to);
        let own = [
            peer.ingress_ip4.map(IpAddr::V4),
            peer.ingress_ip6.map(IpAddr::V6),
        ];
        for ip in own.into_iter().flatten() {
            wanted.neighbours.insert((dev(), ip), *mac);
        }
    }
    // A task's frames go to its node, which routes them on.
    for endpoint in &state.ingress_endpoints {
        if let Some(mac) = macs.get(&endpoint.node) {
            for ip in &endpoint.ips {
                wanted.neighbours.insert((dev(), *ip), *mac);
            }
        }
    }
    for (setting, value) in [
        ("rp_filter", "2"),
        ("send_redirects", "0"),
        ("route_localnet", "1"),
    ] {
        let key = format!("net/ipv4/conf/{INGRESS_DEVICE}/{setting}");
        wanted.sysctls.push(Sysctl::new(key, value));
    }
    wanted
        .sysctls
        .push(Sysctl::no_router_advertisements(INGRESS_DEVICE));
}

/// The address that stands for "back to where it came from": the last host of the
/// IPv4 network; `fe80::fe` for IPv6, where a next hop is an address of the link.
fn nobody(net: IpNet) -> IpAddr {
    match net {
        IpNet::V4(net) => {
            let last = u32::from(net.broadcast()).saturating_sub(1);
            IpAddr::V4(last.into())
        }
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xfe)),
    }
}

/// The ingress MAC of every other node in the mesh.
pub(super) fn macs(state: &HostState) -> BTreeMap<u16, Mac> {
    state
        .peers
        .iter()
        .filter_map(|peer| Some((peer.index, Mac::of(peer.ingress_ip4?.into()))))
        .collect()
}

/// The mark of what came in by this node.
pub(super) fn node_mark(config: &HostConfig, index: u16) -> u32 {
    u32::from(config.mark_tag) << 24 | u32::from(index)
}
