//! The routing mesh: every node answers on a published port, the task sees the
//! client.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use skep_net::{BridgeNetwork, HostAddress, HostPort, Proto, Report};

use crate::lab::{Lab, Task, at, can_run, ip, overlay};
use crate::talk::{self, Connection, Datagrams};

const ENTRIES: [(&str, &str); 3] = [
    ("10.77.0.1", "fd77::1"),
    ("10.77.0.2", "fd77::2"),
    ("10.77.0.3", "fd77::3"),
];

/// The only task of the service is on C; a bystander on A and one on C.
fn mesh() -> Lab {
    mesh_over(false)
}

fn mesh_over(underlay6: bool) -> Lab {
    let mut lab = Lab::new();
    lab.underlay6 = underlay6;
    lab.mesh = true;
    lab.networks.push(overlay("red", 5001, &["10.0.1.0/24"]));
    let mut task = Task::new("web", 2)
        .on("red", &["10.0.1.31"])
        .published(5, 80);
    task.host_ports = vec![HostPort {
        host: HostAddress::All,
        proto: Proto::Tcp,
        published: 9090,
        target: 80,
    }];
    let mut on_a = Task::new("by-a", 0).on("red", &["10.0.1.11"]);
    on_a.has_gateway = true;
    let mut on_c = Task::new("by-c", 2).on("red", &["10.0.1.32"]);
    on_c.has_gateway = true;
    lab.tasks = vec![task, on_a, on_c];
    lab.publish(8080, &["web"], 80);
    lab.apply();
    for port in [80, 81] {
        talk::serve(&lab.inside("web"), "web", port);
    }
    lab
}

#[test]
fn every_node_answers_and_the_task_sees_the_client() {
    if !can_run() {
        return;
    }
    let lab = mesh();
    for (client, own4, own6) in [
        ("cl1", "10.77.0.101", "fd77::101"),
        ("cl2", "10.77.0.102", "fd77::102"),
    ] {
        let from = lab.station(client);
        for (entry4, entry6) in ENTRIES {
            for (entry, own) in [(entry4, own4), (entry6, own6)] {
                let heard = talk::tcp(&from, at(entry, 8080))
                    .unwrap_or_else(|error| panic!("tcp {client} -> {entry}: {error}"));
                assert_eq!(heard.peer.ip(), ip(own), "tcp {client} -> {entry}");
                let heard = talk::udp(&from, at(entry, 8080))
                    .unwrap_or_else(|error| panic!("udp {client} -> {entry}: {error}"));
                assert_eq!(heard.peer.ip(), ip(own), "udp {client} -> {entry}");
            }
        }
    }
}

#[test]
fn one_source_port_to_three_nodes_at_once() {
    if !can_run() {
        return;
    }
    let lab = mesh();
    let from = lab.station("cl1");
    let mut open: Vec<Connection> = ENTRIES
        .iter()
        .map(|(entry, _)| Connection::open(&from, at(entry, 8080), 5555).unwrap())
        .collect();
    let heard: Vec<_> = open
        .iter_mut()
        .map(|connection| connection.ask().unwrap())
        .collect();
    assert!(
        heard
            .iter()
            .all(|heard| heard.peer.ip() == ip("10.77.0.101")),
        "{heard:?}"
    );
    let ports: BTreeSet<u16> = heard.iter().map(|heard| heard.peer.port()).collect();
    assert_eq!(ports.len(), 3, "only clashing ports are changed: {heard:?}");
    assert!(ports.contains(&5555));
    for connection in &mut open {
        connection.ask().unwrap();
    }
    for (entry, _) in ENTRIES {
        let heard = Datagrams::open(&from, at(entry, 8080), 5556)
            .unwrap()
            .ask()
            .unwrap();
        assert_eq!(heard.peer.ip(), ip("10.77.0.101"), "{entry}");
    }
}

#[test]
fn nodes_and_containers_are_clients_too() {
    if !can_run() {
        return;
    }
    let lab = mesh();
    let ingress = |node: usize| ip(&format!("10.255.0.{}", node + 1));
    let gateway = ip("172.18.0.1");
    let ask = |from: &str, to: &str| -> IpAddr {
        let netns = if from.len() == 1 {
            lab.station(from)
        } else {
            lab.inside(from)
        };
        let heard = talk::tcp(&netns, at(to, 8080));
        heard
            .unwrap_or_else(|error| panic!("{from} -> {to}: {error}"))
            .peer
            .ip()
    };
    assert_eq!(ask("A", "10.77.0.1"), ip("10.77.0.1"), "A to itself");
    assert_eq!(ask("B", "10.77.0.1"), ingress(0));
    assert_eq!(ask("C", "10.77.0.1"), ingress(0));
    assert_eq!(ask("A", "127.0.0.1"), ingress(0));
    assert_eq!(ask("C", "127.0.0.1"), gateway);
    assert_eq!(ask("by-c", "10.77.0.1"), ingress(0));
    assert_eq!(ask("by-a", "10.77.0.1"), ingress(0));
    assert_eq!(ask("by-c", "10.77.0.3"), gateway);
    assert_eq!(ask("web", "10.77.0.3"), gateway, "the task itself");
    let ingress6 = |node: usize| ip(&format!("fd5a::{}", node + 1));
    assert_eq!(ask("A", "fd77::1"), ip("fd77::1"), "A to itself");
    assert_eq!(ask("B", "fd77::1"), ingress6(0));
    assert_eq!(ask("by-a", "fd77::1"), ingress6(0));
    assert_eq!(ask("by-c", "fd77::1"), ingress6(0));
    let of_c = ask("by-c", "fd77::3");
    assert_eq!(ask("web", "fd77::3"), of_c, "the task itself");
}

/// There is no `route_localnet` for it, and nobody should have to wait to learn that.
#[test]
fn the_ipv6_loopback_refuses_at_once() {
    if !can_run() {
        return;
    }
    let lab = mesh();
    for node in ["A", "C"] {
        let station = lab.station(node);
        assert!(talk::is_refused(&station, at("::1", 8080)), "tcp on {node}");
        let heard = talk::udp(&station, at("::1", 8080));
        assert!(talk::was_refused(&heard), "udp on {node}: {heard:?}");
    }
}

#[test]
fn tasks_go_out_over_both_families_as_their_node() {
    if !can_run() {
        return;
    }
    let lab = mesh();
    talk::serve(&lab.station("cl1"), "outside", 7000);
    for (task, own4, own6) in [
        ("by-a", "10.77.0.1", "fd77::1"),
        // A published task leaves by its ingress address.
        ("web", "10.77.0.3", "fd77::3"),
    ] {
        for (to, own) in [("10.77.0.101", own4), ("fd77::101", own6)] {
            let heard = talk::tcp(&lab.inside(task), at(to, 7000));
            assert_eq!(heard.unwrap().peer.ip(), ip(own), "tcp {task} -> {to}");
            let heard = talk::udp(&lab.inside(task), at(to, 7000));
            assert_eq!(heard.unwrap().peer.ip(), ip(own), "udp {task} -> {to}");
        }
    }
    let leg = lab.tasks[1].sandbox(1).gateway.unwrap().ip6.unwrap();
    assert!(
        talk::is_silent(&lab.station("C"), SocketAddr::new(leg.into(), 80)),
        "nobody else reaches a gateway address"
    );
}

#[test]
fn only_what_is_published_can_be_reached() {
    if !can_run() {
        return;
    }
    let lab = mesh();
    let client = lab.station("cl1");
    assert!(
        talk::is_refused(&client, at("10.77.0.1", 8081)),
        "not published"
    );
    let heard = talk::tcp(&client, at("10.77.0.3", 9090)).unwrap();
    assert_eq!(heard.peer.ip(), ip("10.77.0.101"), "host mode on C");
    assert!(
        talk::is_refused(&client, at("10.77.0.1", 9090)),
        "host mode is C's alone"
    );

    assert!(
        talk::is_silent(&lab.inside("by-a"), at("10.255.1.5", 81)),
        "a closed port"
    );
    assert!(
        talk::is_silent(&lab.inside("by-c"), at("172.18.1.2", 81)),
        "over the gateway"
    );
    assert!(talk::is_silent(&lab.inside("by-c"), at("10.255.1.5", 81)));
}

#[test]
fn without_backends_a_published_port_refuses_and_a_swap_loses_nothing() {
    if !can_run() {
        return;
    }
    let mut lab = mesh();
    let client = lab.station("cl1");
    let mut connection = Connection::open(&client, at("10.77.0.1", 8080), 0).unwrap();
    assert_eq!(connection.ask().unwrap().name, "web");
    let datagrams = Datagrams::open(&client, at("10.77.0.1", 8080), 6001).unwrap();
    assert_eq!(datagrams.ask().unwrap().name, "web");

    lab.tasks.push(
        Task::new("web2", 1)
            .on("red", &["10.0.1.21"])
            .published(6, 80),
    );
    lab.publish(8080, &["web2"], 80);
    lab.apply();
    talk::serve(&lab.inside("web2"), "web2", 80);
    assert_eq!(connection.ask().unwrap().name, "web", "drains");
    assert_eq!(
        talk::tcp(&client, at("10.77.0.1", 8080)).unwrap().name,
        "web2"
    );
    assert_eq!(datagrams.ask().unwrap().name, "web2");

    lab.publish(8080, &["web", "web2"], 80);
    lab.apply();
    let names: BTreeSet<_> = (0..4)
        .map(|_| talk::tcp(&client, at("10.77.0.2", 8080)).unwrap().name)
        .collect();
    assert_eq!(names.len(), 2, "round robin: {names:?}");

    lab.publish(8080, &[], 80);
    lab.apply();
    for entry in ["10.77.0.1", "fd77::2"] {
        assert!(talk::is_refused(&client, at(entry, 8080)), "{entry}");
    }
    assert!(talk::was_refused(&datagrams.ask()));
    assert_eq!(connection.ask().unwrap().name, "web", "still drains");

    lab.tasks.retain(|task| task.name != "web");
    lab.apply();
    assert!(connection.ask().is_err(), "its task is gone");
}

#[test]
fn a_port_of_the_host_is_not_taken_away() {
    if !can_run() {
        return;
    }
    let mut lab = mesh();
    talk::serve(&lab.station("A"), "host-a", 8088);
    lab.publish(8088, &["web"], 80);
    let report = lab.hosts[0].apply(&lab.state(0));
    let failures: Vec<_> = report
        .failures
        .iter()
        .map(|f| f.error.to_string())
        .collect();
    assert_eq!(
        failures,
        [
            "port 8088/tcp is not published on this node: address already in use",
            "port 8088/udp is not published on this node: address already in use"
        ]
    );
    // Nor is it given to a task that wants it for itself.
    let port = |published| HostPort {
        host: HostAddress::All,
        proto: Proto::Tcp,
        published,
        target: 80,
    };
    let refused = lab.hosts[0].check_host_ports(&[port(8089), port(8088)]);
    assert_eq!(
        refused.map_err(|error| error.to_string()),
        Err(failures[0].clone())
    );
    assert!(lab.hosts[0].check_host_ports(&[port(8089)]).is_ok());
    assert!(lab.hosts[1].check_host_ports(&[port(8088)]).is_ok());
    let _ = lab.hosts[1].apply(&lab.state(1));
    let _ = lab.hosts[2].apply(&lab.state(2));
    let client = lab.station("cl1");
    assert_eq!(
        talk::tcp(&client, at("10.77.0.1", 8088)).unwrap().name,
        "host-a"
    );
    assert_eq!(
        talk::tcp(&client, at("10.77.0.2", 8088)).unwrap().name,
        "web"
    );
}

/// To look for stale flows takes its time on a busy host, in which others begin.
#[test]
fn what_began_while_stale_flows_were_looked_for_is_not_one() {
    if !can_run() {
        return;
    }
    let mut lab = mesh();
    lab.tasks.push(Task::new("gone", 1).published(7, 80));
    lab.publish(8080, &["gone"], 80);
    lab.apply();
    lab.publish(8080, &["web"], 80);
    lab.tasks.retain(|task| task.name != "gone");
    let (report, stale) = lab.hosts[0].follow(&lab.state(0));
    assert!(report.failures.is_empty() && !stale.is_empty());

    lab.tasks.push(
        Task::new("next", 1)
            .on("red", &["10.0.1.22"])
            .published(8, 80),
    );
    lab.publish(8080, &["next"], 80);
    lab.apply();
    talk::serve(&lab.inside("next"), "next", 80);
    let client = lab.station("cl1");
    let mut connection = Connection::open(&client, at("10.77.0.1", 8080), 0).unwrap();
    let datagrams = Datagrams::open(&client, at("10.77.0.1", 8080), 6004).unwrap();
    assert_eq!(connection.ask().unwrap().name, "next");
    assert_eq!(datagrams.ask().unwrap().name, "next");
    let cut = [
        lab.hosts[0].cut_stale_datagrams(&stale),
        lab.hosts[0].cut_stale(&stale),
    ];
    assert!(cut.iter().all(Report::is_noop), "{cut:?}");
    assert_eq!(connection.ask().unwrap().name, "next");
    assert_eq!(datagrams.ask().unwrap().name, "next");
}

#[test]
fn a_host_is_known_by_no_address_that_we_gave_it() {
    if !can_run() {
        return;
    }
    let lab = mesh();
    let host = &lab.hosts[2];
    host.ensure_bridge(&BridgeNetwork {
        id: "way-out".into(),
        bridge: Some("docker_gwbridge".into()),
        gateways: vec!["172.20.0.1/16".parse().unwrap()],
        mtu: 1500,
        internal: false,
        icc: false,
        masquerade: true,
    })
    .unwrap();
    let names = |addresses: Vec<(String, ipnet::IpNet)>| -> BTreeSet<String> {
        addresses.into_iter().map(|(name, _)| name).collect()
    };
    let all = names(host.addresses().unwrap());
    for name in ["docker_gwbridge", "sk-ing", "eth0"] {
        assert!(all.contains(name), "{all:?}");
    }
    assert!(all.iter().any(|name| name.starts_with("gw-")), "{all:?}");
    let outer = host.outer_addresses().unwrap();
    let ips: BTreeSet<IpAddr> = outer.iter().map(|one| one.net.addr()).collect();
    assert_eq!(ips, [ip("10.77.0.3"), ip("fd77::3")].into());
    assert!(
        outer
            .iter()
            .all(|one| one.interface == "eth0" && one.mtu == 1500)
    );
}

#[test]
fn long_messages_pass_through_every_entry() {
    if !can_run() {
        return;
    }
    for underlay6 in [false, true] {
        let lab = mesh_over(underlay6);
        let from = lab.station("cl1");
        for (entry4, entry6) in ENTRIES {
            for entry in [entry4, entry6] {
                let mut connection = Connection::open(&from, at(entry, 8080), 0).unwrap();
                let heard = connection.ask_at_length(1 << 20);
                let heard = heard.unwrap_or_else(|error| panic!("{entry}: {error}"));
                assert!(
                    ["10.77.0.101", "fd77::101"].contains(&heard.peer.ip().to_string().as_str())
                );
            }
        }
    }
}
