//! What must be done to one namespace so that it holds what it should.
//!
//! Pure: desired and observed in, operations in a workable order out. Deletions
//! come first, then links, then what lies on them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::Mac;
use crate::view::{Link, LinkKind, PortOptions, Route, Rule, Scope, Seen, SeenLink, Wanted};

/// One change of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    DeleteRule(Rule),
    DeleteRoute(Route),
    DeleteNeighbour(String, IpAddr),
    DeleteForwarding(String, Mac, IpAddr),
    DeleteAddress(String, IpNet),
    DeleteLink(String),
    CreateLink(String, Link),
    /// Only for links just made: no address of the kernel's own making.
    Silence(String),
    ChangeLink(String, LinkChange),
    SetPort(String, PortOptions),
    AddAddress(String, IpNet),
    SetForwarding(String, Mac, IpAddr),
    SetNeighbour(String, IpAddr, Mac),
    SetRoute(Route),
    AddRule(Rule),
    SetSysctl(String, String),
}

/// Properties to change; `None` is left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkChange {
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
    pub master: Option<String>,
    pub group: Option<u32>,
    pub alias: Option<String>,
    /// Where a VXLAN's frames leave from.
    pub local: Option<IpAddr>,
    pub up: bool,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (action, object) = self.said();
        write!(f, "{action} {object}")
    }
}

impl Op {
    /// The verb and the object, for reports and errors.
    pub fn said(&self) -> (&'static str, String) {
        match self {
            Self::DeleteRule(rule) => ("delete", format!("rule {}", rule.preference)),
            Self::DeleteRoute(route) => ("delete", route.to_string()),
            Self::DeleteNeighbour(dev, ip) => ("delete", format!("neighbour {ip} on `{dev}`")),
            Self::DeleteForwarding(dev, mac, node) => (
                "delete",
                format!("forwarding of {mac} to {node} on `{dev}`"),
            ),
            Self::DeleteAddress(dev, net) => ("delete", format!("address {net} of `{dev}`")),
            Self::DeleteLink(name) => ("delete", format!("link `{name}`")),
            Self::CreateLink(name, _) => ("create", format!("link `{name}`")),
            Self::Silence(name) => ("silence", format!("link `{name}`")),
            Self::ChangeLink(name, _) => ("change", format!("link `{name}`")),
            Self::SetPort(name, _) => ("change", format!("bridge port `{name}`")),
            Self::AddAddress(dev, net) => ("add", format!("address {net} to `{dev}`")),
            Self::SetForwarding(dev, mac, node) => {
                ("set", format!("forwarding of {mac} to {node} on `{dev}`"))
            }
            Self::SetNeighbour(dev, ip, mac) => {
                ("set", format!("neighbour {ip} at {mac} on `{dev}`"))
            }
            Self::SetRoute(route) => ("set", route.to_string()),
            Self::AddRule(rule) => ("add", format!("rule {}", rule.preference)),
            Self::SetSysctl(key, value) => ("set", format!("sysctl `{key}` to {value}")),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route to {} by `{}`", self.to, self.dev)?;
        match self.table {
            254 => Ok(()),
            table => write!(f, " in table {table}"),
        }
    }
}

/// Whether an unwanted link of this namespace is ours to delete.
fn owns(scope: Scope, link: &SeenLink) -> bool {
    use crate::names::{
        BRIDGE_ALIAS_PREFIX, BRIDGE_PORT_PREFIX, GATEWAY_GROUP, GATEWAY_PREFIX, INGRESS_DEVICE,
    };
    match scope {
        // The loopback and what kernels put into every namespace have no kind,
        // or one that we never make.
        Scope::Overlay => matches!(link.kind.as_str(), "veth" | "bridge" | "vxlan"),
        Scope::Mesh => {
            let is_leg = link.name.starts_with(GATEWAY_PREFIX) && link.kind == "veth";
            // A crash may come between birth and grouping.
            let is_ours = link.group == GATEWAY_GROUP || !link.is_up;
            (is_leg && is_ours) || (link.name == INGRESS_DEVICE && link.kind == "vxlan")
        }
        Scope::Bridges => {
            let is_port = link.name.starts_with(BRIDGE_PORT_PREFIX) && link.kind == "veth";
            let is_bridge = link
                .alias
                .as_deref()
                .is_some_and(|alias| alias.starts_with(BRIDGE_ALIAS_PREFIX));
            is_port || (is_bridge && link.kind == "bridge")
        }
        Scope::Container | Scope::Partial => false,
    }
}

/// The operations that make `seen` what is `wanted`. `lost_peers` names veths
/// whose far end is not where it should be: they are made anew.
pub(crate) fn diff(
    wanted: &Wanted,
    seen: &Seen,
    scope: Scope,
    lost_peers: &BTreeSet<String>,
) -> Vec<Op> {
    let exact = !matches!(scope, Scope::Container | Scope::Partial);
    let reborn: BTreeSet<&str> = wanted
        .links
        .iter()
        .filter(|(name, link)| {
            seen.links
                .get(*name)
                .is_some_and(|found| !is_same(link, found) || lost_peers.contains(*name))
        })
        .map(|(name, _)| name.as_str())
        .collect();
    let doomed: BTreeSet<&str> = seen
        .links
        .values()
        .filter(|link| !wanted.links.contains_key(&link.name) && owns(scope, link))
        .map(|link| link.name.as_str())
        .chain(reborn.iter().copied())
        .collect();
    // What lies on a link that goes, goes with it.
    let stays = |dev: &str| !doomed.contains(dev);
    let managed = |dev: &str| stays(dev) && wanted.links.contains_key(dev);

    let mut ops = Vec::new();
    if scope == Scope::Mesh {
        ops.extend(
            seen.rules
                .difference(&wanted.rules)
                .cloned()
                .map(Op::DeleteRule),
        );
    }
    let unwanted = seen.routes.difference(&wanted.routes);
    ops.extend(
        unwanted
            .filter(|route| managed(&route.dev))
            .cloned()
            .map(Op::DeleteRoute),
    );
    if exact {
        for (dev, ip) in seen.neighbours.keys() {
            let is_wanted = wanted.neighbours.contains_key(&(dev.clone(), *ip));
            if !is_wanted && managed(dev) && is_vxlan(wanted, dev) {
                ops.push(Op::DeleteNeighbour(dev.clone(), *ip));
            }
        }
        for (dev, mac, node) in &seen.forwarding {
            let to = wanted.forwarding.get(&(dev.clone(), *mac));
            if to != Some(node) && managed(dev) && !is_replaced(seen, (dev, *mac, *node), to) {
                ops.push(Op::DeleteForwarding(dev.clone(), *mac, *node));
            }
        }
        for (dev, net) in seen.addresses.difference(&wanted.addresses) {
            if managed(dev) && !is_link_local(*net) {
                ops.push(Op::DeleteAddress(dev.clone(), *net));
            }
        }
    }
    ops.extend(doomed.iter().map(|name| Op::DeleteLink((*name).to_owned())));

    let present = |name: &str| seen.links.get(name).filter(|_| stays(name));
    let mut by_birth: Vec<_> = wanted.links.iter().collect();
    by_birth.sort_by_key(|(_, link)| match link.kind {
        LinkKind::Given => 0,
        LinkKind::Bridge => 1,
        LinkKind::Vxlan { .. } => 2,
        LinkKind::Veth { .. } => 3,
    });
    for (name, link) in &by_birth {
        if present(name).is_none() && link.kind != LinkKind::Given {
            ops.push(Op::CreateLink((*name).clone(), (*link).clone()));
        }
    }
    for (name, link) in &by_birth {
        let found = present(name);
        if found.is_none() && link.kind != LinkKind::Given {
            ops.push(Op::Silence((*name).clone()));
        }
        let master = found
            .and_then(|found| found.master)
            .and_then(|index| seen.links.values().find(|link| link.index == index))
            .map(|master| master.name.as_str())
            .filter(|master| stays(master));
        if let Some(change) = link_change(link, found, master) {
            ops.push(Op::ChangeLink((*name).clone(), change));
        }
        if let Some(options) = link.port
            && (master.is_none() || found.and_then(|found| found.port) != Some(options))
        {
            ops.push(Op::SetPort((*name).clone(), options));
        }
    }

    let on_new = |dev: &str| present(dev).is_none();
    for (dev, net) in &wanted.addresses {
        if on_new(dev) || !seen.addresses.contains(&(dev.clone(), *net)) {
            ops.push(Op::AddAddress(dev.clone(), *net));
        }
    }
    for ((dev, mac), node) in &wanted.forwarding {
        if on_new(dev) || !seen.forwarding.contains(&(dev.clone(), *mac, *node)) {
            ops.push(Op::SetForwarding(dev.clone(), *mac, *node));
        }
    }
    for ((dev, ip), mac) in &wanted.neighbours {
        if on_new(dev) || seen.neighbours.get(&(dev.clone(), *ip)) != Some(mac) {
            ops.push(Op::SetNeighbour(dev.clone(), *ip, *mac));
        }
    }
    // A gateway must be reachable before a route leads through it.
    let mut routes: Vec<_> = wanted
        .routes
        .iter()
        .filter(|route| on_new(&route.dev) || !seen.routes.contains(route))
        .collect();
    routes.sort_by_key(|route| route.via.is_some());
    ops.extend(routes.into_iter().cloned().map(Op::SetRoute));
    ops.extend(
        wanted
            .rules
            .difference(&seen.rules)
            .cloned()
            .map(Op::AddRule),
    );
    for sysctl in &wanted.sysctls {
        let missing = match seen.sysctls.get(&sysctl.key) {
            Some(present) => sysctl.missing(present),
            // Settings of a link that is yet to be made.
            None => sysctl.missing(""),
        };
        let on_doomed = doomed
            .iter()
            .any(|dev| sysctl.key.contains(&format!("/{dev}/")));
        let missing = if on_doomed {
            sysctl.missing("")
        } else {
            missing
        };
        ops.extend(missing.map(|value| Op::SetSysctl(sysctl.key.clone(), value)));
    }
    ops
}

/// Whether the present link can become the wanted one by changing properties.
fn is_same(link: &Link, found: &SeenLink) -> bool {
    match &link.kind {
        LinkKind::Given => true,
        LinkKind::Bridge => found.kind == "bridge",
        LinkKind::Veth { .. } => found.kind == "veth",
        LinkKind::Vxlan {
            vni,
            local,
            port,
            proxy,
        } => found.vxlan.as_ref().is_some_and(|vxlan| {
            vxlan.vni == *vni
                && vxlan.port == *port
                // Within a family it can be changed, and no frame is lost.
                && vxlan.local.is_some_and(|seen| seen.is_ipv4() && local.is_ipv4() || seen == *local)
                && vxlan.proxy == *proxy
                && !vxlan.learning
        }),
    }
}

/// The change of a link that exists with this master, or (`None`) was just born
/// with the wanted MAC and MTU.
fn link_change(link: &Link, found: Option<&SeenLink>, master: Option<&str>) -> Option<LinkChange> {
    let differs = |present: Option<bool>| present.unwrap_or(false);
    let change = LinkChange {
        mac: link
            .mac
            .filter(|mac| differs(found.map(|found| found.mac != Some(*mac)))),
        mtu: link
            .mtu
            .filter(|mtu| differs(found.map(|found| found.mtu != *mtu))),
        master: link
            .master
            .clone()
            .filter(|wanted| master != Some(wanted.as_str())),
        group: Some(link.group).filter(|group| {
            let present = found.map_or(0, |found| found.group);
            link.kind != LinkKind::Given && present != *group
        }),
        alias: link
            .alias
            .clone()
            .filter(|alias| found.and_then(|found| found.alias.as_ref()) != Some(alias)),
        local: match &link.kind {
            LinkKind::Vxlan { local, .. } => found
                .and_then(|found| found.vxlan.as_ref())
                .and_then(|vxlan| vxlan.local)
                .filter(|seen| seen != local)
                .map(|_| *local),
            _ => None,
        },
        up: !found.is_some_and(|found| found.is_up),
    };
    (change != LinkChange::default()).then_some(change)
}

/// Whether setting the wanted entry overwrites this one, the only one of its address: then no frame
/// finds none in between.
fn is_replaced(seen: &Seen, (dev, mac, node): (&str, Mac, IpAddr), to: Option<&IpAddr>) -> bool {
    let alike = (dev.to_owned(), mac, IpAddr::from([0; 4]));
    let mut alike = seen.forwarding.range(alike..);
    let first = alike.next();
    let next = alike.next();
    let is_alike = |entry: &(String, Mac, IpAddr)| entry.0 == dev && entry.1 == mac;
    let is_only = first.is_some_and(|entry| is_alike(entry) && entry.2 == node)
        && !next.is_some_and(is_alike);
    to.is_some() && is_only
}

fn is_vxlan(wanted: &Wanted, dev: &str) -> bool {
    matches!(
        wanted.links.get(dev),
        Some(Link {
            kind: LinkKind::Vxlan { .. },
            ..
        })
    )
}

/// The kernel gives these itself.
fn is_link_local(net: IpNet) -> bool {
    matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local())
}

#[cfg(test)]
mod tests;
