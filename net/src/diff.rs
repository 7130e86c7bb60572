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
            let is_wanted = wanted.forwarding.get(&(dev.clone(), *mac)) == Some(node);
            if !is_wanted && managed(dev) {
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
                && vxlan.local == Some(*local)
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
        up: !found.is_some_and(|found| found.is_up),
    };
    (change != LinkChange::default()).then_some(change)
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
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::view::{NsKey, SeenVxlan, Sysctl, VethPeer};

    fn vxlan() -> Link {
        let local = "10.77.0.1".parse().unwrap();
        let kind = LinkKind::Vxlan {
            vni: 5000,
            local,
            port: 4789,
            proxy: true,
        };
        Link {
            mtu: Some(1450),
            master: Some("br0".into()),
            ..Link::new(kind)
        }
    }

    fn veth() -> Link {
        let peer = VethPeer {
            netns: NsKey::Pinned("t-1".into()),
            ifname: "eth0".into(),
            mac: None,
            mtu: None,
        };
        Link {
            master: Some("br0".into()),
            ..Link::new(LinkKind::Veth { peer })
        }
    }

    fn wanted() -> Wanted {
        let mac = Mac([2, 66, 10, 0, 1, 7]);
        Wanted {
            links: BTreeMap::from([
                (
                    "br0".into(),
                    Link {
                        mtu: Some(1450),
                        ..Link::new(LinkKind::Bridge)
                    },
                ),
                ("vxlan0".into(), vxlan()),
                ("tx".into(), veth()),
            ]),
            forwarding: BTreeMap::from([(("vxlan0".into(), mac), "10.77.0.2".parse().unwrap())]),
            neighbours: BTreeMap::from([(("vxlan0".into(), "10.0.1.7".parse().unwrap()), mac)]),
            sysctls: vec![Sysctl::new("net/ipv4/ip_forward", "0")],
            ..Wanted::default()
        }
    }

    fn seen_link(index: u32, name: &str, kind: &str, master: Option<u32>) -> SeenLink {
        SeenLink {
            index,
            name: name.into(),
            kind: kind.into(),
            mac: None,
            mtu: 1450,
            master,
            group: 0,
            is_up: true,
            alias: None,
            port: None,
            vxlan: (kind == "vxlan").then(|| SeenVxlan {
                vni: 5000,
                local: Some("10.77.0.1".parse().unwrap()),
                port: 4789,
                proxy: true,
                learning: false,
            }),
        }
    }

    /// What is there once everything was done.
    fn seen() -> Seen {
        let wanted = wanted();
        let links = [
            seen_link(1, "lo", "", None),
            seen_link(2, "br0", "bridge", None),
            seen_link(3, "vxlan0", "vxlan", Some(2)),
            seen_link(4, "tx", "veth", Some(2)),
        ];
        Seen {
            links: links
                .into_iter()
                .map(|link| (link.name.clone(), link))
                .collect(),
            forwarding: wanted
                .forwarding
                .iter()
                .map(|((d, m), n)| (d.clone(), *m, *n))
                .collect(),
            neighbours: wanted.neighbours,
            sysctls: BTreeMap::from([("net/ipv4/ip_forward".into(), "0".into())]),
            ..Seen::default()
        }
    }

    fn ops(wanted: &Wanted, seen: &Seen, scope: Scope) -> Vec<String> {
        diff(wanted, seen, scope, &BTreeSet::new())
            .iter()
            .map(Op::to_string)
            .collect()
    }

    #[test]
    fn nothing_to_do_when_all_is_there() {
        assert_eq!(ops(&wanted(), &seen(), Scope::Overlay), [] as [&str; 0]);
    }

    #[test]
    fn an_empty_namespace_is_filled_in_a_workable_order() {
        assert_eq!(
            ops(&wanted(), &Seen::default(), Scope::Overlay),
            [
                "create link `br0`",
                "create link `vxlan0`",
                "create link `tx`",
                "silence link `br0`",
                "change link `br0`",
                "silence link `vxlan0`",
                "change link `vxlan0`",
                "silence link `tx`",
                "change link `tx`",
                "set forwarding of 02:42:0a:00:01:07 to 10.77.0.2 on `vxlan0`",
                "set neighbour 10.0.1.7 at 02:42:0a:00:01:07 on `vxlan0`",
                "set sysctl `net/ipv4/ip_forward` to 0",
            ]
        );
    }

    #[test]
    fn a_deleted_bridge_takes_its_ports_back() {
        let mut seen = seen();
        seen.links.remove("br0");
        for link in seen.links.values_mut() {
            link.master = None;
        }
        assert_eq!(
            ops(&wanted(), &seen, Scope::Overlay),
            [
                "create link `br0`",
                "silence link `br0`",
                "change link `br0`",
                "change link `vxlan0`",
                "change link `tx`"
            ]
        );
    }

    #[test]
    fn a_wrong_vxlan_is_made_anew_with_all_that_lies_on_it() {
        let mut seen = seen();
        seen.links
            .get_mut("vxlan0")
            .unwrap()
            .vxlan
            .as_mut()
            .unwrap()
            .vni = 6000;
        assert_eq!(
            ops(&wanted(), &seen, Scope::Overlay),
            [
                "delete link `vxlan0`",
                "create link `vxlan0`",
                "silence link `vxlan0`",
                "change link `vxlan0`",
                "set forwarding of 02:42:0a:00:01:07 to 10.77.0.2 on `vxlan0`",
                "set neighbour 10.0.1.7 at 02:42:0a:00:01:07 on `vxlan0`",
            ]
        );
    }

    #[test]
    fn a_veth_without_its_far_end_is_made_anew() {
        let lost = BTreeSet::from(["tx".to_owned()]);
        let ops = diff(&wanted(), &seen(), Scope::Overlay, &lost);
        let said: Vec<_> = ops.iter().map(Op::to_string).collect();
        assert_eq!(
            said,
            [
                "delete link `tx`",
                "create link `tx`",
                "silence link `tx`",
                "change link `tx`"
            ]
        );
    }

    #[test]
    fn a_moved_endpoint_changes_node_without_a_gap_in_the_neighbours() {
        let mut wanted = wanted();
        for node in wanted.forwarding.values_mut() {
            *node = "10.77.0.3".parse().unwrap();
        }
        assert_eq!(
            ops(&wanted, &seen(), Scope::Overlay),
            [
                "delete forwarding of 02:42:0a:00:01:07 to 10.77.0.2 on `vxlan0`",
                "set forwarding of 02:42:0a:00:01:07 to 10.77.0.3 on `vxlan0`",
            ]
        );
    }

    #[test]
    fn strangers_are_deleted_only_where_the_namespace_is_ours() {
        let mut seen = seen();
        seen.links
            .insert("old".into(), seen_link(9, "old", "veth", None));
        seen.neighbours.insert(
            ("vxlan0".into(), "10.0.1.99".parse().unwrap()),
            Mac([2, 0, 0, 0, 0, 9]),
        );
        assert_eq!(
            ops(&wanted(), &seen, Scope::Overlay),
            [
                "delete neighbour 10.0.1.99 on `vxlan0`",
                "delete link `old`"
            ]
        );
        for scope in [Scope::Container, Scope::Partial, Scope::Bridges] {
            let left = ops(&wanted(), &seen, scope);
            assert!(
                !left.iter().any(|op| op.contains("`old`")),
                "{scope:?}: {left:?}"
            );
        }
    }

    #[test]
    fn in_the_root_only_what_bears_our_names_is_deleted() {
        let mut seen = Seen::default();
        let mut put = |name: &str, kind: &str, group, alias: Option<&str>| {
            let mut link = seen_link(seen.links.len() as u32 + 1, name, kind, None);
            link.group = group;
            link.alias = alias.map(str::to_owned);
            seen.links.insert(name.into(), link);
        };
        put("eth0", "", 0, None);
        put("gw-of-someone", "veth", 0, None);
        put("gw-0123456789", "veth", 90, None);
        put("sk-ing", "vxlan", 0, None);
        put("docker0", "bridge", 0, None);
        put("mine0", "bridge", 0, Some("skep bridge abc"));
        put("skv-0123456789", "veth", 0, None);
        let nothing = Wanted::default();
        assert_eq!(
            ops(&nothing, &seen, Scope::Mesh),
            ["delete link `gw-0123456789`", "delete link `sk-ing`"]
        );
        assert_eq!(
            ops(&nothing, &seen, Scope::Bridges),
            ["delete link `mine0`", "delete link `skv-0123456789`"]
        );
    }

    #[test]
    fn routes_come_after_the_way_to_their_gateway() {
        let dev = || "eth1".to_owned();
        let gateway = "172.18.0.1/32".parse().unwrap();
        let route = |to, via: Option<&str>| Route {
            table: 254,
            to,
            via: via.map(|via| via.parse().unwrap()),
            dev: dev(),
            source: None,
        };
        let wanted = Wanted {
            links: BTreeMap::from([(dev(), Link::new(LinkKind::Given))]),
            routes: BTreeSet::from([
                route("0.0.0.0/0".parse().unwrap(), Some("172.18.0.1")),
                route(gateway, None),
            ]),
            ..Wanted::default()
        };
        let mut seen = Seen::default();
        seen.links.insert(dev(), seen_link(2, "eth1", "veth", None));
        assert_eq!(
            ops(&wanted, &seen, Scope::Container),
            [
                "set route to 172.18.0.1/32 by `eth1`",
                "set route to 0.0.0.0/0 by `eth1`"
            ]
        );
    }
}
