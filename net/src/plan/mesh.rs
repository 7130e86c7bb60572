//! The root namespace's half of the cluster's network: gateway legs and the table
//! that makes the routing mesh.
//!
//! A client's packet enters at any node, which rewrites its destination to a
//! task's ingress address and nothing else. The task's node remembers by zone and
//! mark which node it came from and sends the answers back through that node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::desired::cluster::HostState;
use crate::names::{self, GATEWAY_GROUP, INGRESS_DEVICE, MESH_TABLE, NOBODY_MAC};
use crate::nft::{
    Bytes, CT_ESTABLISHED, CT_NEW, CT_RELATED, Chain,
    Direction::{In, Out},
    Family, Field, Hook, Ip, Rule, Set, Table,
};
use crate::plan::{ingress, not_from_loopback6, task, tunnel};
use crate::view::{Sysctl, Wanted};
use crate::{HostConfig, Proto};

/// In front of connection tracking and of everybody's raw tables.
const BEFORE_RAW: i32 = -301;
const MANGLE: i32 = -150;
/// Neighbour table limits of a host with many containers; only raised.
const NEIGHBOURS: [(&str, u64); 3] = [
    ("gc_thresh1", 8192),
    ("gc_thresh2", 49_152),
    ("gc_thresh3", 65_536),
];

/// Who answers on a published port: address and port of each backend.
type Backends = BTreeSet<(IpAddr, u16)>;

/// What the root namespace should hold for the cluster.
pub(crate) fn root(config: &HostConfig, state: &HostState, served: &Served) -> Wanted {
    let mut wanted = Wanted::default();
    for sandbox in &state.sandboxes {
        if let Some(leg) = &sandbox.gateway {
            task::outside(&mut wanted, config.gateway_subnet, &sandbox.netns, leg);
        }
    }
    if let Some(ingress) = &state.node.ingress {
        ingress::device(&mut wanted, config, state, ingress);
        wanted.tables.push(egress(config, state));
    }
    wanted.tables.push(mesh(config, state, served));
    wanted.sysctls.push(Sysctl::new("net/ipv4/ip_forward", "1"));
    let uses_ip6 = state
        .node
        .ingress
        .as_ref()
        .is_some_and(|ingress| ingress.ip6.is_some())
        || wanted.routes.iter().any(|route| route.to.addr().is_ipv6());
    if uses_ip6 {
        wanted
            .sysctls
            .push(Sysctl::new("net/ipv6/conf/all/forwarding", "1"));
    }
    for family in ["ipv4", "ipv6"] {
        wanted
            .sysctls
            .extend(NEIGHBOURS.iter().map(|(name, value)| {
                Sysctl::at_least(format!("net/{family}/neigh/default/{name}"), *value)
            }));
    }
    wanted
}

/// The ports this node serves: those whose reservation succeeded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Served {
    pub ports: BTreeMap<(Proto, u16), Backends>,
}

impl Served {
    /// Every port the state wants served here, with who answers: cluster-wide
    /// ones and, where those do not hold the number, this node's own.
    pub fn of(state: &HostState) -> Self {
        let mut ports: BTreeMap<(Proto, u16), Backends> = BTreeMap::new();
        for port in &state.published {
            ports
                .entry((port.proto, port.port))
                .or_default()
                .extend(port.backends.iter().copied());
        }
        let cluster_wide: BTreeSet<_> = ports.keys().copied().collect();
        for leg in state
            .sandboxes
            .iter()
            .filter_map(|sandbox| sandbox.gateway.as_ref())
        {
            for port in &leg.host_ports {
                let key = (port.proto, port.published);
                if cluster_wide.contains(&key) {
                    continue;
                }
                let backends = ports.entry(key).or_default();
                backends.extend(
                    task::reached_at(leg)
                        .into_iter()
                        .map(|ip| (ip, port.target)),
                );
            }
        }
        Self { ports }
    }
}

/// Sends an answer back to the node its question came from.
fn egress(config: &HostConfig, state: &HostState) -> Table {
    let mut table = Table::new(Family::Netdev, MESH_TABLE);
    let mut peers = Set::map("peer_mac", &[Field::Number], &[Field::Mac]);
    for (index, mac) in ingress::macs(state) {
        peers.put(
            Bytes::new().number(ingress::node_mark(config, index)),
            Bytes::new().mac(mac),
        );
    }
    table.set(peers);
    let rule = Rule::new()
        .mac_destination(NOBODY_MAC)
        .destination_mac_by_mark("peer_mac");
    table.chain(Chain::base("eg", Hook::egress(INGRESS_DEVICE), vec![rule]));
    table
}

fn mesh(config: &HostConfig, state: &HostState, served: &Served) -> Table {
    let mut table = Table::new(Family::Inet, MESH_TABLE);
    nodes(&mut table, config, state);
    tasks(&mut table, state);
    services(&mut table, state, served);
    table.chain(Chain::base(
        "pre-raw",
        Hook::filter_prerouting(BEFORE_RAW),
        pre_raw(config, state),
    ));
    table.chain(Chain::base(
        "out-raw",
        Hook::filter_output(BEFORE_RAW),
        vec![vxlan(config).notrack()],
    ));
    table.chain(Chain::base(
        "pre-mangle",
        Hook::filter_prerouting(MANGLE),
        pre_mangle(config),
    ));
    let follow = || Rule::new().local_destination().follow_service("pub");
    table.chain(Chain::base(
        "pre-nat",
        Hook::nat_prerouting(),
        vec![follow()],
    ));
    let local = vec![not_from_loopback6(), follow()];
    table.chain(Chain::base("out-nat", Hook::nat_output(), local));
    let clamp = Rule::new()
        .interface(Out, INGRESS_DEVICE)
        .tcp_syn()
        .clamp_mss();
    table.chain(Chain::base(
        "fwd-mangle",
        Hook::filter_forward(MANGLE),
        vec![clamp],
    ));
    table.chain(Chain::base("in-filter", Hook::filter_input(), refuse()));
    table.chain(Chain::base(
        "fwd-filter",
        Hook::filter_forward(0),
        forward(),
    ));
    table.chain(Chain::base(
        "post-nat",
        Hook::nat_postrouting(),
        post_nat(config, state),
    ));
    table
}

/// Frames of any overlay.
fn vxlan(config: &HostConfig) -> Rule {
    Rule::new()
        .protocol(Proto::Udp)
        .destination_port(config.data_port)
}

/// Sets that know the nodes.
fn nodes(table: &mut Table, config: &HostConfig, state: &HostState) {
    let mut zone = Set::map("zone", &[Field::Mac], &[Field::Zone]);
    let mut mark = Set::map("nodemark", &[Field::Mac], &[Field::Number]);
    for (index, mac) in ingress::macs(state) {
        zone.put(Bytes::new().mac(mac), Bytes::new().zone(index));
        mark.put(
            Bytes::new().mac(mac),
            Bytes::new().number(ingress::node_mark(config, index)),
        );
    }
    table.set(zone);
    table.set(mark);

    let node = &state.node;
    let vteps: BTreeSet<IpAddr> = state
        .peers
        .iter()
        .map(|peer| peer.vtep)
        .chain([node.vtep])
        .chain(tunnel::addresses(state))
        .collect();
    let mut addresses = vteps.clone();
    addresses.extend(&node.addresses);
    addresses.extend(state.peers.iter().flat_map(|peer| &peer.addresses));
    for (name, ips) in [("vtep", &vteps), ("nodeip", &addresses)] {
        let mut sets = [
            Set::new(&format!("{name}4"), &[Field::Ip4]),
            Set::new(&format!("{name}6"), &[Field::Ip6]),
        ];
        for ip in ips {
            sets[usize::from(ip.is_ipv6())].add(Bytes::new().ip(*ip));
        }
        table.sets.extend(sets);
    }
}

/// Sets that know this node's published tasks.
fn tasks(table: &mut Table, state: &HostState) {
    let mut open = [
        Set::new("task_open4", &[Field::Ip4, Field::Proto, Field::Port]),
        Set::new("task_open6", &[Field::Ip6, Field::Proto, Field::Port]),
    ];
    for leg in state
        .sandboxes
        .iter()
        .filter_map(|sandbox| sandbox.gateway.as_ref())
    {
        for ip in &leg.ingress {
            for (proto, port) in &leg.open_ports {
                open[usize::from(ip.is_ipv6())].add(Bytes::new().ip(*ip).service(*proto, *port));
            }
        }
    }
    table.sets.extend(open);
}

/// A chain and slots for every published port, and the map that leads to them.
fn services(table: &mut Table, state: &HostState, served: &Served) {
    let key = [Field::Proto, Field::Port, Field::Number];
    let mut slots = [
        Set::map("be4", &key, &[Field::Ip4, Field::Port]),
        Set::map("be6", &key, &[Field::Ip6, Field::Port]),
    ];
    let mut published = Set::verdicts("pub", &[Field::Proto, Field::Port]);
    let mut empty = [
        Set::new("noep4", &[Field::Proto, Field::Port]),
        Set::new("noep6", &[Field::Proto, Field::Port]),
    ];
    for ((proto, port), backends) in &served.ports {
        let mut rules = Vec::new();
        for ip in Ip::BOTH {
            let family = usize::from(ip == Ip::V6);
            let backends = turned(state.node.index, *port, backends, ip);
            if backends.is_empty() {
                empty[family].add(Bytes::new().service(*proto, *port));
                continue;
            }
            for (slot, (ip, target)) in backends.iter().enumerate() {
                slots[family].put(
                    Bytes::new().service(*proto, *port).number(slot as u32),
                    Bytes::new().ip(*ip).port(*target),
                );
            }
            let map = &slots[family].name;
            rules.push(Rule::new().dnat_by_service(ip, backends.len() as u32, map));
        }
        if !rules.is_empty() {
            let chain = format!("pub-{proto}-{port}");
            published.goto(Bytes::new().service(*proto, *port), &chain);
            table.chain(Chain::plain(chain, rules));
        }
    }
    table.sets.extend(slots);
    table.set(published);
    table.sets.extend(empty);
}

/// The backends of one family, beginning at another one on every node.
fn turned(node: u16, port: u16, backends: &Backends, ip: Ip) -> Vec<(IpAddr, u16)> {
    let mut turned: Vec<_> = backends
        .iter()
        .filter(|(backend, _)| Ip::of(*backend) == ip)
        .copied()
        .collect();
    if !turned.is_empty() {
        let turn = names::hash(&[node.to_be_bytes(), port.to_be_bytes()].concat());
        let length = turned.len() as u64;
        turned.rotate_left((turn % length) as usize);
    }
    turned
}

fn pre_raw(config: &HostConfig, state: &HostState) -> Vec<Rule> {
    // Frames are not authenticated: only nodes may send any.
    let stranger = |ip, set| vxlan(config).source_in(ip, set, false).drop();
    let mut rules = vec![stranger(Ip::V4, "vtep4"), stranger(Ip::V6, "vtep6")];
    if state.node.ingress.is_some() {
        rules.push(
            Rule::new()
                .interface(In, INGRESS_DEVICE)
                .zone_by_source_mac("zone"),
        );
    }
    rules.push(vxlan(config).notrack());
    // The price of route_localnet.
    let loopback = IpNet::V4(Ipv4Net::new_assert([127, 0, 0, 0].into(), 8));
    rules.push(Rule::new().not_interface(In, "lo").to(loopback).drop());
    // Nobody outside talks to gateway addresses directly.
    rules.push(
        Rule::new()
            .not_group(In, GATEWAY_GROUP)
            .not_interface(In, "lo")
            .to(config.gateway_subnet.into())
            .drop(),
    );
    rules
}

fn pre_mangle(config: &HostConfig) -> Vec<Rule> {
    let tag = u32::from(config.mark_tag) << 24;
    vec![
        Rule::new()
            .interface(In, INGRESS_DEVICE)
            .connection_state(CT_NEW)
            .connection_mark_by_source_mac("nodemark"),
        Rule::new()
            .group(In, GATEWAY_GROUP)
            .reply_direction()
            .connection_mark(tag, 0xff00_0000)
            .mark_from_connection(),
    ]
}

/// A published port without backends refuses at once.
fn refuse() -> Vec<Rule> {
    let empty = |ip, set| {
        Rule::new()
            .local_destination()
            .family(ip)
            .service_in_set(None, set)
    };
    let both = [(Ip::V4, "noep4"), (Ip::V6, "noep6")];
    both.into_iter()
        .flat_map(|(ip, set)| {
            [
                empty(ip, set).protocol(Proto::Tcp).reset(),
                empty(ip, set).unreachable(),
            ]
        })
        .collect()
}

fn forward() -> Vec<Rule> {
    let from_mesh = || Rule::new().interface(In, INGRESS_DEVICE);
    vec![
        Rule::new()
            .connection_state(CT_ESTABLISHED | CT_RELATED)
            .accept(),
        from_mesh()
            .group(Out, GATEWAY_GROUP)
            .service_in_set(Some(Ip::V4), "task_open4")
            .accept(),
        from_mesh()
            .group(Out, GATEWAY_GROUP)
            .service_in_set(Some(Ip::V6), "task_open6")
            .accept(),
        from_mesh().drop(),
        // Tasks are reached through published ports only, by neighbours on the
        // same host as by anybody.
        Rule::new().group(Out, GATEWAY_GROUP).redirected().accept(),
        Rule::new().group(Out, GATEWAY_GROUP).drop(),
    ]
}

fn post_nat(config: &HostConfig, state: &HostState) -> Vec<Rule> {
    let loopback = IpNet::V4(Ipv4Net::new_assert([127, 0, 0, 0].into(), 8));
    let to_mesh = || Rule::new().interface(Out, INGRESS_DEVICE);
    let mut rules = Vec::new();
    if let Some(ingress) = &state.node.ingress {
        let own = [
            (Ip::V4, Some(IpAddr::V4(ingress.ip4.addr())), "nodeip4"),
            (
                Ip::V6,
                ingress.ip6.map(|net| IpAddr::V6(net.addr())),
                "nodeip6",
            ),
        ];
        rules.push(to_mesh().from(loopback).snat(ingress.ip4.addr().into()));
        for (ip, address, nodes) in own {
            let Some(address) = address else { continue };
            // Another node as client: its packets would come back to it from
            // itself and be dropped as such.
            let node_as_client = to_mesh()
                .redirected()
                .source_in(ip, nodes, true)
                .foreign_source();
            rules.push(node_as_client.snat(address));
            rules.push(
                to_mesh()
                    .family(ip)
                    .group(In, GATEWAY_GROUP)
                    .redirected()
                    .snat(address),
            );
        }
    }
    rules.push(
        Rule::new()
            .from(loopback)
            .group(Out, GATEWAY_GROUP)
            .masquerade(),
    );
    rules.push(
        Rule::new()
            .group(In, GATEWAY_GROUP)
            .group(Out, GATEWAY_GROUP)
            .redirected()
            .masquerade(),
    );
    let unique_local = Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7);
    let out = || {
        Rule::new()
            .group(In, GATEWAY_GROUP)
            .not_group(Out, GATEWAY_GROUP)
    };
    for net in [IpNet::V4(config.gateway_subnet), IpNet::V6(unique_local)] {
        rules.push(out().from(net).masquerade());
    }
    // A published task goes out by its ingress address, which is nothing outside.
    if let Some(ingress) = &state.node.ingress {
        let net = IpNet::V4(ingress.ip4.trunc());
        rules.push(
            out()
                .not_interface(Out, INGRESS_DEVICE)
                .from(net)
                .masquerade(),
        );
    }
    rules
}
