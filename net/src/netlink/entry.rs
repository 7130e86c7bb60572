//! Addresses, neighbours, forwarding entries, routes and rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::socket::{Socket, errno};
use super::wire::{self, CREATE, Message, REPLACE, family_of};
use crate::view::{Route, Rule};
use crate::{KernelError, Mac};

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 0x02;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 0x02;
const AF_BRIDGE: u8 = 7;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const RTN_UNICAST: u8 = 1;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
/// Marks routes and rules as ours; not used by any known routing daemon.
const OUR_PROTOCOL: u8 = 0x5a;
/// Routes the kernel took from router advertisements (`RTPROT_RA`).
const ROUTER_PROTOCOL: u8 = 9;
/// The main routing table.
pub(crate) const MAIN_TABLE: u32 = 254;

const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PROTOCOL: u16 = 21;
const ACTION_TO_TABLE: u8 = 1;

/// Names of links by their index.
pub(crate) type Names = BTreeMap<u32, String>;

// ---- addresses --------------------------------------------------------------

fn ifaddr(address: IpNet, index: u32, flags: u8) -> [u8; 8] {
    let mut header = [
        family_of(address.addr()),
        address.prefix_len(),
        flags,
        0,
        0,
        0,
        0,
        0,
    ];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}

pub(crate) fn add_address(index: u32, address: IpNet) -> Message {
    // No duplicate detection: an IPv6 address must be usable at once.
    let flags = if address.addr().is_ipv6() {
        IFA_F_NODAD
    } else {
        0
    };
    Message::new(
        RTM_NEWADDR,
        CREATE | REPLACE,
        &ifaddr(address, index, flags),
    )
    .ip(IFA_LOCAL, address.addr())
    .ip(IFA_ADDRESS, address.addr())
}

pub(crate) fn delete_address(index: u32, address: IpNet) -> Message {
    Message::new(RTM_DELADDR, 0, &ifaddr(address, index, 0))
        .ip(IFA_LOCAL, address.addr())
        .ip(IFA_ADDRESS, address.addr())
}

pub(crate) fn addresses(
    socket: &mut Socket,
    names: &Names,
) -> Result<BTreeSet<(String, IpNet)>, KernelError> {
    let found = socket.dump(&Message::new(RTM_GETADDR, 0, &[0; 8]), |payload| {
        let index = wire::u32_at(payload, 4)?;
        let attributes = payload.get(8..)?;
        let address = wire::find(attributes, IFA_LOCAL)
            .or_else(|| wire::find(attributes, IFA_ADDRESS))
            .and_then(wire::ip_of)?;
        let net = IpNet::new(address, *payload.get(1)?).ok()?;
        Some((names.get(&index)?.clone(), net))
    })?;
    Ok(found.into_iter().collect())
}

// ---- neighbours and forwarding ----------------------------------------------

fn ndmsg(family: u8, index: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header[10] = flags;
    header
}

pub(crate) fn set_neighbour(index: u32, ip: IpAddr, mac: Mac) -> Message {
    let header = ndmsg(family_of(ip), index, NUD_PERMANENT, 0);
    Message::new(RTM_NEWNEIGH, CREATE | REPLACE, &header)
        .ip(NDA_DST, ip)
        .attr(NDA_LLADDR, &mac.0)
}

pub(crate) fn delete_neighbour(index: u32, ip: IpAddr) -> Message {
    Message::new(RTM_DELNEIGH, 0, &ndmsg(family_of(ip), index, 0, 0)).ip(NDA_DST, ip)
}

pub(crate) fn set_forwarding(index: u32, mac: Mac, node: IpAddr) -> Message {
    let header = ndmsg(AF_BRIDGE, index, NUD_PERMANENT, NTF_SELF);
    Message::new(RTM_NEWNEIGH, CREATE | REPLACE, &header)
        .attr(NDA_LLADDR, &mac.0)
        .ip(NDA_DST, node)
}

pub(crate) fn delete_forwarding(index: u32, mac: Mac, node: IpAddr) -> Message {
    let header = ndmsg(AF_BRIDGE, index, NUD_PERMANENT, NTF_SELF);
    Message::new(RTM_DELNEIGH, 0, &header)
        .attr(NDA_LLADDR, &mac.0)
        .ip(NDA_DST, node)
}

/// Deletes a forwarding entry wherever it leads.
pub(crate) fn forget_forwarding(index: u32, mac: Mac) -> Message {
    let header = ndmsg(AF_BRIDGE, index, NUD_PERMANENT, NTF_SELF);
    Message::new(RTM_DELNEIGH, 0, &header).attr(NDA_LLADDR, &mac.0)
}

/// The permanent neighbour entries of all devices, both families.
pub(crate) fn neighbours(
    socket: &mut Socket,
    names: &Names,
) -> Result<BTreeMap<(String, IpAddr), Mac>, KernelError> {
    let found = socket.dump(&Message::new(RTM_GETNEIGH, 0, &[0; 12]), |payload| {
        let index = wire::u32_at(payload, 4)?;
        let state = wire::u16_at(payload, 8)?;
        let attributes = payload.get(12..)?;
        let ip = wire::find(attributes, NDA_DST).and_then(wire::ip_of)?;
        let mac = wire::find(attributes, NDA_LLADDR)?.try_into().ok()?;
        let permanent = state & NUD_PERMANENT != 0;
        permanent.then_some(((names.get(&index)?.clone(), ip), Mac(mac)))
    })?;
    Ok(found.into_iter().collect())
}

/// The VXLAN forwarding entries of one device: those that lead to a node.
pub(crate) fn forwarding(
    socket: &mut Socket,
    index: u32,
    name: &str,
) -> Result<Vec<(String, Mac, IpAddr)>, KernelError> {
    let request = Message::new(RTM_GETNEIGH, 0, &ndmsg(AF_BRIDGE, index, 0, 0));
    socket.dump(&request, |payload| {
        let attributes = payload.get(12..)?;
        let node = wire::find(attributes, NDA_DST).and_then(wire::ip_of)?;
        let mac = wire::find(attributes, NDA_LLADDR)?.try_into().ok()?;
        (wire::u32_at(payload, 4)? == index).then(|| (name.to_owned(), Mac(mac), node))
    })
}

// ---- routes -----------------------------------------------------------------

fn rtmsg(to: IpNet, scope: u8) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family_of(to.addr());
    header[1] = to.prefix_len();
    header[5] = OUR_PROTOCOL;
    header[6] = scope;
    header[7] = RTN_UNICAST;
    header
}

fn route(kind: u16, flags: u16, index: u32, route: &Route) -> Message {
    let is_link_scope = route.via.is_none() && route.to.addr().is_ipv4();
    let scope = if is_link_scope {
        RT_SCOPE_LINK
    } else {
        RT_SCOPE_UNIVERSE
    };
    Message::new(kind, flags, &rtmsg(route.to, scope))
        .u32(RTA_TABLE, route.table)
        .when(route.to.prefix_len() > 0, |m| {
            m.ip(RTA_DST, route.to.addr())
        })
        .with(route.via, |m, via| m.ip(RTA_GATEWAY, via))
        .with(route.source, |m, source| m.ip(RTA_PREFSRC, source))
        .u32(RTA_OIF, index)
}

/// Adds a route, or takes the place of the one with the same destination.
pub(crate) fn set_route(index: u32, wanted: &Route) -> Message {
    route(RTM_NEWROUTE, CREATE | REPLACE, index, wanted)
}

pub(crate) fn delete_route(index: u32, unwanted: &Route) -> Message {
    route(RTM_DELROUTE, 0, index, unwanted)
}

fn empty_prefix(family: u8) -> Option<IpNet> {
    match i32::from(family) {
        libc::AF_INET => IpNet::new(Ipv4Addr::UNSPECIFIED.into(), 0).ok(),
        libc::AF_INET6 => IpNet::new(Ipv6Addr::UNSPECIFIED.into(), 0).ok(),
        _ => None,
    }
}

fn seen_route(payload: &[u8], names: &Names) -> Option<(u8, Route)> {
    let attributes = payload.get(12..)?;
    let get = |kind| wire::find(attributes, kind);
    let number = |kind| get(kind).and_then(|value| wire::u32_at(value, 0));
    let to = match get(RTA_DST).and_then(wire::ip_of) {
        Some(ip) => IpNet::new(ip, *payload.get(1)?).ok()?,
        None => empty_prefix(*payload.first()?)?,
    };
    let route = Route {
        table: number(RTA_TABLE).unwrap_or_else(|| u32::from(payload[4])),
        to,
        via: get(RTA_GATEWAY).and_then(wire::ip_of),
        dev: names.get(&number(RTA_OIF)?)?.clone(),
        source: get(RTA_PREFSRC).and_then(wire::ip_of),
    };
    (*payload.get(7)? == RTN_UNICAST).then_some((payload[5], route))
}

fn routes_where(
    socket: &mut Socket,
    names: &Names,
    keep: impl Fn(u8, &Route) -> bool,
) -> Result<BTreeSet<Route>, KernelError> {
    let found = socket.dump(&Message::new(RTM_GETROUTE, 0, &[0; 12]), |payload| {
        let (protocol, route) = seen_route(payload, names)?;
        keep(protocol, &route).then_some(route)
    })?;
    Ok(found.into_iter().collect())
}

/// Our own routes, in any table.
pub(crate) fn our_routes(
    socket: &mut Socket,
    names: &Names,
) -> Result<BTreeSet<Route>, KernelError> {
    routes_where(socket, names, |protocol, _| protocol == OUR_PROTOCOL)
}

/// Devices with routes that a router advertised.
pub(crate) fn taught_by_routers(
    socket: &mut Socket,
    names: &Names,
) -> Result<BTreeSet<String>, KernelError> {
    let routes = routes_where(socket, names, |protocol, _| protocol == ROUTER_PROTOCOL)?;
    Ok(routes.into_iter().map(|route| route.dev).collect())
}

/// Every unicast route of the main table.
pub(crate) fn main_routes(
    socket: &mut Socket,
    names: &Names,
) -> Result<BTreeSet<Route>, KernelError> {
    routes_where(socket, names, |_, route| route.table == MAIN_TABLE)
}

/// Which device a packet to `to` leaves by and which source address it gets.
pub(crate) fn lookup(socket: &mut Socket, to: IpAddr) -> Result<(u32, IpAddr), KernelError> {
    let bits = if to.is_ipv4() { 32 } else { 128 };
    let mut header = [0; 12];
    header[0] = family_of(to);
    header[1] = bits;
    let answer = socket.ask(Message::new(RTM_GETROUTE, 0, &header).ip(RTA_DST, to))?;
    let attributes = answer.get(12..).unwrap_or_default();
    let device = wire::find(attributes, RTA_OIF).and_then(|value| wire::u32_at(value, 0));
    let source = wire::find(attributes, RTA_PREFSRC).and_then(wire::ip_of);
    match (device, source) {
        (Some(device), Some(source)) => Ok((device, source)),
        _ => Err(errno(libc::ENETUNREACH)),
    }
}

// ---- rules ------------------------------------------------------------------

fn rule(kind: u16, flags: u16, rule: &Rule) -> Message {
    let mut header = [0; 12];
    header[0] = family_of(rule.from.addr());
    header[2] = rule.from.prefix_len();
    header[7] = ACTION_TO_TABLE;
    Message::new(kind, flags, &header)
        .ip(FRA_SRC, rule.from.network())
        .u32(FRA_PRIORITY, rule.preference)
        .u32(FRA_FWMARK, rule.mark)
        .u32(FRA_FWMASK, rule.mask)
        .u32(FRA_TABLE, rule.table)
        .u8(FRA_PROTOCOL, OUR_PROTOCOL)
}

pub(crate) fn add_rule(wanted: &Rule) -> Message {
    rule(RTM_NEWRULE, CREATE | wire::EXCL, wanted)
}

pub(crate) fn delete_rule(unwanted: &Rule) -> Message {
    rule(RTM_DELRULE, 0, unwanted)
}

/// Rules that bear our protocol number.
pub(crate) fn our_rules(socket: &mut Socket) -> Result<BTreeSet<Rule>, KernelError> {
    let mut rules = BTreeSet::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut header = [0; 12];
        header[0] = family as u8;
        let found = socket.dump(&Message::new(RTM_GETRULE, 0, &header), |payload| {
            let attributes = payload.get(12..)?;
            let number = |kind| wire::find(attributes, kind).and_then(|v| wire::u32_at(v, 0));
            let ours = wire::find(attributes, FRA_PROTOCOL)?.first() == Some(&OUR_PROTOCOL);
            let from = wire::find(attributes, FRA_SRC).and_then(wire::ip_of)?;
            ours.then_some(Rule {
                preference: number(FRA_PRIORITY)?,
                from: IpNet::new(from, *payload.get(2)?).ok()?,
                mark: number(FRA_FWMARK)?,
                mask: number(FRA_FWMASK)?,
                table: number(FRA_TABLE)?,
            })
        })?;
        rules.extend(found);
    }
    Ok(rules)
}
