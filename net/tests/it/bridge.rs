//! Bridge networks of one host.

use std::net::IpAddr;

use skep_net::{
    BoundPort, BridgeEndpoint, BridgeNetwork, BridgeState, Host, HostConfig, Netns, PortRequest,
    Proto, VlanEndpoint, VlanMode, names,
};

use crate::lab::{Lab, at, can_run, ip, lone_host};
use crate::talk::{self, Datagrams};

fn network(id: &str, subnet: u8) -> BridgeNetwork {
    BridgeNetwork {
        id: id.into(),
        bridge: None,
        gateways: vec![
            format!("172.20.{subnet}.1/24").parse().unwrap(),
            format!("fd20:{subnet}::1/64").parse().unwrap(),
        ],
        mtu: 1500,
        internal: false,
        icc: true,
        masquerade: true,
    }
}

fn endpoint(host: &Host, network: &str, subnet: u8, number: u8) -> BridgeEndpoint {
    let id = format!("{network}-{number}");
    let netns = names::container_netns(&id);
    host.namespaces().create(&netns).unwrap();
    BridgeEndpoint {
        netns: host.namespaces().path(&netns),
        name: format!("c-{id}"),
        id,
        network: network.into(),
        ifname: "eth0".into(),
        addresses: vec![
            format!("172.20.{subnet}.{number}/24").parse().unwrap(),
            format!("fd20:{subnet}::{number}/64").parse().unwrap(),
        ],
        mac: None,
        default_route: true,
        ports: Vec::new(),
    }
}

fn both(port: u16) -> Vec<PortRequest> {
    [Proto::Tcp, Proto::Udp]
        .into_iter()
        .map(|proto| PortRequest {
            proto,
            target: 80,
            host_ip: None,
            host_ports: (port, port),
        })
        .collect()
}

fn inside(endpoint: &BridgeEndpoint) -> Netns {
    Netns::open(&endpoint.netns).unwrap()
}

/// On host A: two containers on `one`, one on `two`, one on an internal network.
struct Scene {
    lab: Lab,
    one: [BridgeEndpoint; 2],
    two: BridgeEndpoint,
    closed: BridgeEndpoint,
}

fn scene(bridge_filter: &str) -> Scene {
    let lab = Lab::new();
    let host = &lab.hosts[0];
    lab.station("A")
        .set_sysctl("net.bridge.bridge-nf-call-iptables", bridge_filter)
        .unwrap();
    lab.station("A")
        .set_sysctl("net.bridge.bridge-nf-call-ip6tables", bridge_filter)
        .unwrap();
    host.ensure_bridge(&network("one", 1)).unwrap();
    host.ensure_bridge(&network("two", 2)).unwrap();
    host.ensure_bridge(&BridgeNetwork {
        internal: true,
        ..network("closed", 3)
    })
    .unwrap();
    let mut first = endpoint(host, "one", 1, 2);
    first.ports = both(8080);
    let second = endpoint(host, "one", 1, 3);
    let two = endpoint(host, "two", 2, 2);
    let closed = endpoint(host, "closed", 3, 2);
    for endpoint in [&first, &second, &two, &closed] {
        host.connect(endpoint).unwrap();
        talk::serve(&inside(endpoint), &endpoint.id, 80);
    }
    Scene {
        lab,
        one: [first, second],
        two,
        closed,
    }
}

fn published_ports_and_isolation(bridge_filter: &str) {
    let Scene {
        lab,
        one,
        two,
        closed,
    } = scene(bridge_filter);
    let client = lab.station("cl1");
    let peer = |from: &Netns, to: &str, port| -> IpAddr {
        let tcp = talk::tcp(from, at(to, port)).unwrap_or_else(|e| panic!("tcp to {to}: {e}"));
        let udp = talk::udp(from, at(to, port)).unwrap_or_else(|e| panic!("udp to {to}: {e}"));
        assert_eq!(
            (&tcp.name, tcp.peer.ip()),
            (&udp.name, udp.peer.ip()),
            "{to}"
        );
        tcp.peer.ip()
    };
    // Within a network, directly.
    assert_eq!(peer(&inside(&one[1]), "172.20.1.2", 80), ip("172.20.1.3"));
    assert_eq!(peer(&inside(&one[1]), "fd20:1::2", 80), ip("fd20:1::3"));
    // Published: from outside, from the host, from the container itself, from
    // another network.
    assert_eq!(peer(&client, "10.77.0.1", 8080), ip("10.77.0.101"));
    assert_eq!(peer(&client, "fd77::1", 8080), ip("fd77::101"));
    let host = lab.station("A");
    assert_eq!(peer(&host, "127.0.0.1", 8080), ip("172.20.1.1"));
    assert_eq!(peer(&host, "10.77.0.1", 8080), ip("10.77.0.1"));
    assert!(talk::is_refused(&host, at("::1", 8080)));
    assert_eq!(peer(&inside(&one[0]), "10.77.0.1", 8080), ip("172.20.1.1"));
    assert_eq!(peer(&inside(&one[1]), "10.77.0.1", 8080), ip("172.20.1.1"));
    assert_eq!(peer(&inside(&two), "10.77.0.1", 8080), ip("172.20.1.1"));
    // The way out.
    talk::serve(&client, "outside", 7000);
    assert_eq!(peer(&inside(&one[0]), "10.77.0.101", 7000), ip("10.77.0.1"));
    assert_eq!(peer(&inside(&one[0]), "fd77::101", 7000), ip("fd77::1"));
    // What must not be reached.
    assert!(
        talk::is_silent(&inside(&two), at("172.20.1.2", 80)),
        "between bridges"
    );
    assert!(
        talk::is_silent(&inside(&closed), at("10.77.0.101", 7000)),
        "internal, out"
    );
    assert!(
        talk::is_silent(&inside(&closed), at("172.20.1.2", 80)),
        "internal, across"
    );
    let route = Netns::open(&lab.stations.path("cl1")).unwrap();
    lab.hosts[0]
        .set_default_routes(
            &lab.stations.path("cl1"),
            "eth0",
            &[ip("10.77.0.1"), ip("fd77::1")],
        )
        .unwrap();
    assert!(
        talk::is_silent(&route, at("172.20.1.2", 80)),
        "routed in from outside"
    );
    assert!(
        talk::is_silent(&route, at("fd20:1::2", 80)),
        "routed in from outside"
    );
    assert!(
        talk::is_silent(&route, at("172.20.3.2", 80)),
        "internal, in"
    );
}

#[test]
fn ports_and_isolation_without_bridge_filtering() {
    if can_run() {
        published_ports_and_isolation("0");
    }
}

#[test]
fn ports_and_isolation_with_bridge_filtering() {
    if can_run() {
        published_ports_and_isolation("1");
    }
}

#[test]
fn containers_that_may_not_talk_do_not() {
    if !can_run() {
        return;
    }
    for bridge_filter in ["0", "1"] {
        let (host, netns, _dir) = lone_host();
        netns
            .set_sysctl("net.bridge.bridge-nf-call-iptables", bridge_filter)
            .unwrap();
        netns
            .set_sysctl("net.bridge.bridge-nf-call-ip6tables", bridge_filter)
            .unwrap();
        host.ensure_bridge(&BridgeNetwork {
            icc: false,
            ..network("one", 1)
        })
        .unwrap();
        let mut first = endpoint(&host, "one", 1, 2);
        first.ports = both(8080);
        let second = endpoint(&host, "one", 1, 3);
        for endpoint in [&first, &second] {
            host.connect(endpoint).unwrap();
            talk::serve(&inside(endpoint), &endpoint.id, 80);
        }
        for address in ["172.20.1.2", "fd20:1::2"] {
            assert!(
                talk::is_silent(&inside(&second), at(address, 80)),
                "{bridge_filter}"
            );
        }
        assert_eq!(
            talk::tcp(&netns, at("172.20.1.3", 80)).unwrap().name,
            second.id
        );
        let heard = talk::tcp(&inside(&second), at("172.20.1.1", 8080));
        assert_eq!(heard.unwrap().name, first.id, "published ports stay open");
    }
}

#[test]
fn a_held_port_is_refused_in_dockers_words_and_given_back() {
    if !can_run() {
        return;
    }
    let (host, netns, _dir) = lone_host();
    host.ensure_bridge(&network("one", 1)).unwrap();
    let mut first = endpoint(&host, "one", 1, 2);
    first.ports = both(8080);
    let bound = host.connect(&first).unwrap();
    assert_eq!(bound.len(), 4, "both protocols, both families: {bound:?}");
    assert_eq!(host.connect(&first).unwrap(), bound);
    assert_eq!(host.bound_ports(&first.id), bound);

    let mut second = endpoint(&host, "one", 1, 3);
    second.ports = both(8080);
    let error = host.connect(&second).unwrap_err();
    assert_eq!(
        error.to_string(),
        "driver failed programming external connectivity on endpoint c-one-3 (one-3): \
         Bind for 0.0.0.0:8080 failed: port is already allocated"
    );
    assert!(
        host.counters(&second.netns).unwrap().is_empty(),
        "nothing is left of it"
    );

    second.ports = vec![
        PortRequest {
            proto: Proto::Tcp,
            target: 80,
            host_ip: None,
            host_ports: (8079, 8090),
        },
        PortRequest {
            proto: Proto::Tcp,
            target: 80,
            host_ip: None,
            host_ports: (8079, 8090),
        },
        PortRequest {
            proto: Proto::Tcp,
            target: 80,
            host_ip: Some(ip("127.0.0.1")),
            host_ports: (0, 0),
        },
    ];
    let bound = host.connect(&second).unwrap();
    let ports: Vec<u16> = bound
        .iter()
        .map(|port: &BoundPort| port.host_port)
        .collect();
    assert_eq!(ports[..4], [8079, 8079, 8081, 8081], "the first free ones");
    talk::serve(&inside(&second), "second", 80);
    assert_eq!(
        talk::tcp(&netns, at("127.0.0.1", ports[4])).unwrap().name,
        "second"
    );
    assert!(
        talk::is_refused(&netns, at("172.20.1.1", ports[4])),
        "bound to one address"
    );

    host.disconnect(&first.id).unwrap();
    host.disconnect(&first.id).unwrap();
    assert_eq!(host.publish(&second.id, &both(8080)).unwrap().len(), 4);
    assert_eq!(
        talk::tcp(&netns, at("127.0.0.1", 8080)).unwrap().name,
        "second"
    );
    assert!(
        talk::is_refused(&netns, at("127.0.0.1", 8081)),
        "no longer published"
    );
}

#[test]
fn datagrams_follow_a_port_that_changes_hands() {
    if !can_run() {
        return;
    }
    let (host, netns, _dir) = lone_host();
    host.ensure_bridge(&network("one", 1)).unwrap();
    let mut first = endpoint(&host, "one", 1, 2);
    let mut second = endpoint(&host, "one", 1, 3);
    first.ports = both(8080);
    second.ports = both(8080);
    host.connect(&first).unwrap();
    talk::serve(&inside(&first), "first", 80);
    let datagrams = Datagrams::open(&netns, at("172.20.1.1", 8080), 6000).unwrap();
    assert_eq!(datagrams.ask().unwrap().name, "first");
    host.disconnect(&first.id).unwrap();
    let _ = datagrams.ask();
    host.connect(&second).unwrap();
    talk::serve(&inside(&second), "second", 80);
    // The refusal of the gap may still be waiting in the socket.
    talk::until("datagrams reach the second", || {
        datagrams.ask().is_ok_and(|heard| heard.name == "second")
    });
}

#[test]
fn after_a_restart_everything_is_found_and_nothing_changes() {
    if !can_run() {
        return;
    }
    let (host, netns, dir) = lone_host();
    let networks = vec![network("one", 1), network("two", 2)];
    for network in &networks {
        host.ensure_bridge(network).unwrap();
    }
    let mut first = endpoint(&host, "one", 1, 2);
    first.ports = both(8080);
    let second = endpoint(&host, "two", 2, 2);
    let bound = host.connect(&first).unwrap();
    host.connect(&second).unwrap();
    talk::serve(&inside(&first), "first", 80);
    let mut kept = talk::Connection::open(&netns, at("172.20.1.1", 8080), 0).unwrap();
    kept.ask().unwrap();

    drop(host);
    let config = HostConfig::new(dir.path().join("run"));
    let host = netns.run(|| Host::open(config)).unwrap().unwrap();
    first.ports = bound.iter().map(BoundPort::request).collect();
    let state = BridgeState {
        networks,
        endpoints: vec![first.clone(), second.clone()],
    };
    let report = host.apply_bridges(&state);
    assert!(report.is_noop(), "{report:?}");
    assert_eq!(host.bound_ports(&first.id), bound);
    kept.ask().unwrap();

    let report = host.apply_bridges(&BridgeState {
        endpoints: vec![first],
        ..state.clone()
    });
    assert!(report.is_complete() && !report.is_noop(), "{report:?}");
    assert!(host.counters(&second.netns).unwrap().is_empty());
    kept.ask().unwrap();
    let report = host.apply_bridges(&BridgeState::default());
    assert!(report.is_complete(), "{report:?}");
    assert!(host.addresses().unwrap().is_empty());
    assert!(talk::is_refused(&netns, at("127.0.0.1", 8080)));
}

#[test]
fn networks_come_and_go_while_a_container_runs() {
    if !can_run() {
        return;
    }
    let (host, _netns, _dir) = lone_host();
    host.ensure_bridge(&network("one", 1)).unwrap();
    host.ensure_bridge(&network("two", 2)).unwrap();
    let first = endpoint(&host, "one", 1, 2);
    host.connect(&first).unwrap();
    let other = endpoint(&host, "two", 2, 9);
    host.connect(&other).unwrap();
    talk::serve(&inside(&other), "other", 80);
    assert!(talk::is_silent(&inside(&first), at("172.20.2.9", 80)));

    let joined = BridgeEndpoint {
        id: "joined".into(),
        netns: first.netns.clone(),
        ifname: "eth1".into(),
        default_route: false,
        ..endpoint(&host, "two", 2, 3)
    };
    host.connect(&joined).unwrap();
    assert_eq!(
        talk::tcp(&inside(&first), at("172.20.2.9", 80))
            .unwrap()
            .name,
        "other"
    );
    let names = |host: &Host| {
        let counters = host.counters(&first.netns).unwrap();
        counters.into_iter().map(|one| one.name).collect::<Vec<_>>()
    };
    assert_eq!(names(&host), ["eth0", "eth1"]);
    assert!(host.counters(&first.netns).unwrap()[1].tx_bytes > 0);
    host.set_default_routes(&first.netns, "eth1", &[ip("172.20.2.1")])
        .unwrap();
    host.disconnect("joined").unwrap();
    assert_eq!(names(&host), ["eth0"]);
    host.set_default_routes(&first.netns, "eth0", &[ip("172.20.1.1")])
        .unwrap();
    assert!(talk::is_silent(&inside(&first), at("172.20.2.9", 80)));
    host.remove_bridge("two").unwrap();
    host.remove_bridge("two").unwrap();
    let left: Vec<String> = host
        .addresses()
        .unwrap()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(left, [names::bridge("one"), names::bridge("one")]);
}

#[test]
fn queries_are_led_to_the_resolvers_ports() {
    if !can_run() {
        return;
    }
    let (host, _netns, _dir) = lone_host();
    let netns = host.namespaces().create("c-dns").unwrap();
    talk::serve_on(&netns, "resolver", at("127.0.0.11", 5301));
    host.redirect_dns(&host.namespaces().path("c-dns"), 5301, 5301)
        .unwrap();
    assert_eq!(
        talk::udp(&netns, at("127.0.0.11", 53)).unwrap().name,
        "resolver"
    );
    assert_eq!(
        talk::tcp(&netns, at("127.0.0.11", 53)).unwrap().name,
        "resolver"
    );
    talk::serve_on(&netns, "again", at("127.0.0.11", 5302));
    host.redirect_dns(&host.namespaces().path("c-dns"), 5302, 5302)
        .unwrap();
    assert_eq!(
        talk::udp(&netns, at("127.0.0.11", 53)).unwrap().name,
        "again"
    );
}

#[test]
fn a_macvlan_child_is_on_the_wire() {
    if !can_run() {
        return;
    }
    let lab = Lab::new();
    let host = &lab.hosts[0];
    if !host.capabilities().macvlan {
        eprintln!("skipped: this kernel has no macvlan");
        return;
    }
    let netns = host.namespaces().create("c-mac").unwrap();
    let endpoint = VlanEndpoint {
        id: "mac".into(),
        mode: VlanMode::MacvlanBridge,
        parent: "eth0".into(),
        netns: host.namespaces().path("c-mac"),
        ifname: "eth0".into(),
        addresses: vec!["10.77.0.50/24".parse().unwrap()],
        mac: None,
        gateways: vec![ip("10.77.0.254")],
        mtu: None,
    };
    host.connect_vlan(&endpoint).unwrap();
    host.connect_vlan(&endpoint).unwrap();
    talk::serve(&netns, "mac", 80);
    assert_eq!(
        talk::tcp(&lab.station("cl1"), at("10.77.0.50", 80))
            .unwrap()
            .name,
        "mac"
    );
    host.disconnect_vlan(&endpoint).unwrap();
    host.disconnect_vlan(&endpoint).unwrap();
    let ipvlan = VlanEndpoint {
        mode: VlanMode::IpvlanL2,
        ..endpoint
    };
    if !host.capabilities().ipvlan {
        let error = host.connect_vlan(&ipvlan).unwrap_err();
        assert!(
            error.to_string().contains("not supported on this host"),
            "{error}"
        );
    }
}

#[test]
fn a_bridge_that_was_there_before_is_used_and_left() {
    if !can_run() {
        return;
    }
    let (host, netns, dir) = lone_host();
    // Another daemon's bridge of the same name, as far as this one can tell.
    let config = HostConfig::new(dir.path().join("other"));
    let other = netns.run(|| Host::open(config)).unwrap().unwrap();
    let theirs = BridgeNetwork {
        bridge: Some("lan0".into()),
        ..network("theirs", 1)
    };
    other.ensure_bridge(&theirs).unwrap();
    let ours = BridgeNetwork {
        bridge: Some("lan1".into()),
        ..network("ours", 2)
    };
    host.ensure_bridge(&ours).unwrap();
    host.remove_bridge("ours").unwrap();
    host.remove_bridge("unknown").unwrap();
    let left: Vec<String> = host
        .addresses()
        .unwrap()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(left, ["lan0", "lan0"]);
}

#[test]
fn a_host_without_ip6_does_with_ip4() {
    if !can_run() {
        return;
    }
    let (host, netns, _dir) = lone_host();
    for scope in ["all", "default"] {
        let setting = format!("net.ipv6.conf.{scope}.disable_ipv6");
        netns.set_sysctl(&setting, "1").unwrap();
    }
    host.ensure_bridge(&network("one", 1)).unwrap();
    let mut first = endpoint(&host, "one", 1, 2);
    first.ports = both(8080);
    host.connect(&first).unwrap();
    talk::serve(&inside(&first), "first", 80);
    assert_eq!(
        talk::tcp(&netns, at("127.0.0.1", 8080)).unwrap().name,
        "first"
    );
    let node = skep_net::LocalNode {
        index: 1,
        vtep: ip("127.0.0.1"),
        data_port: 4789,
        ingress: Some(skep_net::IngressAddresses {
            ip4: "10.255.0.1/16".parse().unwrap(),
            ip6: Some("fd5a::1/64".parse().unwrap()),
        }),
        ingress_vni: skep_net::names::INGRESS_VNI,
        ingress_mtu: 1450,
        addresses: Vec::new(),
    };
    let state = skep_net::HostState::empty(node);
    let report = host.apply(&state);
    assert!(report.is_complete(), "{report:?}");
    assert!(host.apply(&state).is_noop());
}

#[test]
fn a_new_subnet_can_be_chosen_beside_those_in_use() {
    if !can_run() {
        return;
    }
    let (host, _netns, _dir) = lone_host();
    host.ensure_bridge(&network("one", 1)).unwrap();
    let used: Vec<String> = host
        .routed_subnets()
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        used,
        [
            "172.18.0.0/16",
            "172.20.1.0/24",
            "fd20:1::/64",
            "fd73:6b65:7000::/64"
        ]
    );
    let (source, mtu) = host.route_to(ip("172.20.1.9")).unwrap();
    assert_eq!((source, mtu), (ip("172.20.1.1"), 1500));
    assert!(host.route_to(ip("192.0.2.1")).is_err());
}
