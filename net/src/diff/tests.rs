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
fn a_moved_endpoint_changes_node_without_a_gap() {
    let mut wanted = wanted();
    for node in wanted.forwarding.values_mut() {
        *node = "10.77.0.3".parse().unwrap();
    }
    assert_eq!(
        ops(&wanted, &seen(), Scope::Overlay),
        ["set forwarding of 02:42:0a:00:01:07 to 10.77.0.3 on `vxlan0`",]
    );
    // What an address has besides is taken away.
    let mut seen = seen();
    let more = seen.forwarding.first().cloned().unwrap();
    seen.forwarding
        .insert((more.0, more.1, "10.77.0.9".parse().unwrap()));
    assert_eq!(
        ops(&wanted, &seen, Scope::Overlay),
        [
            "delete forwarding of 02:42:0a:00:01:07 to 10.77.0.2 on `vxlan0`",
            "delete forwarding of 02:42:0a:00:01:07 to 10.77.0.9 on `vxlan0`",
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
