//! The root namespace's half of the cluster's network: gateway legs and the table
//! that makes the routing mesh.
//!
//! A client's packet enters at any node, which rewrites its destination to a
//! task's ingress address and nothing else. The task's node remembers by zone and
//! mark which node it came from and sends the answers back through that node.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use crate::desired::cluster::{HostState, IngressAddresses};
use crate::names::{GATEWAY_GROUP, INGRESS_DEVICE, MESH_TABLE, NOBODY_MAC};
use crate::nft::{
    Bytes, CT_ESTABLISHED, CT_NEW, CT_RELATED, Chain,
    Direction::{In, Out},
    Family, Field, Hook, Ip, Rule, Set, Table,
};
use crate::plan::published::{self, Served};
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
    published::sets(&mut table, state.node.index, snat_mark(config), served);
    table.chain(Chain::base(
        "pre-raw",
        Hook::filter_prerouting(BEFORE_RAW),
        pre_raw(config, state),
    ));
    table.chain(Chain::base(
        "out-raw",
        Hook::filter_output(BEFORE_RAW),
        vec![vxlan(state).notrack()],
    ));
    table.chain(Chain::base(
        "pre-mangle",
        Hook::filter_prerouting(MANGLE),
        pre_mangle(config),
    ));
    table.chain(Chain::base(
        "pre-nat",
        Hook::nat_prerouting(),
        published::follow(),
    ));
    let mut local = vec![not_from_loopback6()];
    local.extend(published::follow());
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
    table.chain(Chain::base(
        "in-filter",
        Hook::filter_input(),
        published::refuse(),
    ));
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

/// Marks connections that are to seem to come from this node.
fn snat_mark(config: &HostConfig) -> u32 {
    u32::from(config.mark_tag) << 24 | 1 << 16
}

/// Frames of any overlay.
fn vxlan(state: &HostState) -> Rule {
    Rule::new()
        .protocol(Proto::Udp)
        .destination_port(state.node.data_port)
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

fn pre_raw(config: &HostConfig, state: &HostState) -> Vec<Rule> {
    // Frames are not authenticated: only nodes may send any.
    let stranger = |ip, set| vxlan(state).source_in(ip, set, false).drop();
    let mut rules = vec![stranger(Ip::V4, "vtep4"), stranger(Ip::V6, "vtep6")];
    if state.node.ingress.is_some() {
        rules.push(
            Rule::new()
                .interface(In, INGRESS_DEVICE)
                .zone_by_source_mac("zone"),
        );
    }
    rules.push(vxlan(state).notrack());
    // The price of route_localnet.
    let loopback = IpNet::V4(Ipv4Net::new_assert([127, 0, 0, 0].into(), 8));
    rules.push(Rule::new().not_interface(In, "lo").to(loopback).drop());
    // Nobody outside talks to gateway addresses directly.
    for net in gateway_subnets(config) {
        rules.push(
            Rule::new()
                .not_group(In, GATEWAY_GROUP)
                .not_interface(In, "lo")
                .to(net)
                .drop(),
        );
    }
    rules
}

/// Where gateway legs have their addresses.
pub(crate) fn gateway_subnets(config: &HostConfig) -> [IpNet; 2] {
    [config.gateway_subnet.into(), config.gateway_subnet6.into()]
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
            // The mark of a node, which the snat mark is none of.
            .connection_mark(tag, 0xffff_0000)
            .mark_from_connection(),
    ]
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
            rules.push(
                Rule::new()
                    .family(ip)
                    .redirected()
                    .connection_mark(snat_mark(config), u32::MAX)
                    .snat(address),
            );
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
    let out = || {
        Rule::new()
            .group(In, GATEWAY_GROUP)
            .not_group(Out, GATEWAY_GROUP)
    };
    // A published task goes out by its ingress address, which is nothing outside.
    let ingress = state.node.ingress.iter();
    let outside = ingress
        .flat_map(IngressAddresses::subnets)
        .map(|net| (net, out().not_interface(Out, INGRESS_DEVICE).from(net)));
    let own = gateway_subnets(config).map(|net| (net, out().from(net)));
    for (net, of_tasks) in own.into_iter().chain(outside) {
        rules.push(published::step_aside(Ip::of(net.addr()), of_tasks.clone()));
        rules.push(of_tasks.masquerade());
    }
    rules
}
