//! Ports that answer on some of a node's addresses only, and ports whose tasks see
//! the node as the client.

use skep_net::{Host, HostAddress, HostPort, Proto, PublishedPort, Source};

use crate::lab::{Lab, Task, at, can_run, ip};
use crate::talk;

/// A task on C, and one on A.
fn lab() -> Lab {
    let mut lab = Lab::new();
    lab.mesh = true;
    lab.tasks = vec![
        Task::new("web", 2).published(5, 80),
        Task::new("other", 0).published(6, 80),
    ];
    lab.apply();
    for task in ["web", "other"] {
        talk::serve(&lab.inside(task), task, 80);
    }
    lab
}

fn publish(lab: &mut Lab, port: u16, task: &str, host: HostAddress, source: Source) {
    let backends = lab.task(task).ingress_ips();
    for proto in [Proto::Tcp, Proto::Udp] {
        lab.published.push(PublishedPort {
            proto,
            port,
            host: host.clone(),
            source,
            backends: backends.iter().map(|ip| (*ip, 80)).collect(),
        });
    }
}

fn names(host: &Host, lab: &Lab, node: usize) -> Vec<String> {
    let report = host.apply(&lab.state(node));
    let failures = report.failures.iter();
    failures.map(|failure| failure.error.to_string()).collect()
}

#[test]
fn a_port_answers_on_its_address_only() {
    if !can_run() {
        return;
    }
    let mut lab = lab();
    publish(
        &mut lab,
        8080,
        "web",
        HostAddress::Ip(ip("10.77.0.1")),
        Source::Client,
    );
    publish(
        &mut lab,
        8080,
        "other",
        HostAddress::Ip(ip("fd77::2")),
        Source::Client,
    );
    publish(
        &mut lab,
        8081,
        "web",
        HostAddress::Ip(ip("127.0.0.1")),
        Source::Client,
    );
    publish(
        &mut lab,
        8082,
        "web",
        HostAddress::Ip(ip("0.0.0.0")),
        Source::Client,
    );
    lab.apply();
    let client = lab.station("cl1");
    for (to, name) in [("10.77.0.1", "web"), ("fd77::2", "other")] {
        let heard = talk::tcp(&client, at(to, 8080)).unwrap();
        assert_eq!(heard.name, name, "{to}");
        assert!(["10.77.0.101", "fd77::101"].contains(&heard.peer.ip().to_string().as_str()));
        assert_eq!(talk::udp(&client, at(to, 8080)).unwrap().name, name, "{to}");
    }
    for to in ["fd77::1", "10.77.0.2", "10.77.0.3", "fd77::3"] {
        assert!(talk::is_refused(&client, at(to, 8080)), "{to}");
    }
    let local = talk::tcp(&lab.station("A"), at("127.0.0.1", 8081)).unwrap();
    assert_eq!(local.name, "web");
    assert!(talk::is_refused(&client, at("10.77.0.1", 8081)));
    assert_eq!(
        talk::tcp(&client, at("10.77.0.2", 8082)).unwrap().name,
        "web"
    );
    assert!(talk::is_refused(&client, at("fd77::2", 8082)), "IPv4 alone");

    // Others may have the number on other addresses.
    talk::serve_on(&lab.station("A"), "host-a", at("127.0.0.1", 8080));
    let mine = talk::tcp(&lab.station("A"), at("127.0.0.1", 8080)).unwrap();
    assert_eq!(mine.name, "host-a");
    assert!(lab.hosts[0].apply(&lab.state(0)).is_noop(), "settled");
}

#[test]
fn a_port_answers_on_the_addresses_of_its_interface() {
    if !can_run() {
        return;
    }
    let mut lab = lab();
    let interface = |name: &str| HostAddress::Interface(name.into());
    publish(&mut lab, 8080, "web", interface("eth0"), Source::Client);
    publish(&mut lab, 8081, "web", interface("eth7"), Source::Client);
    lab.apply();
    let client = lab.station("cl2");
    for to in ["10.77.0.1", "fd77::2", "10.77.0.3"] {
        assert_eq!(
            talk::tcp(&client, at(to, 8080)).unwrap().name,
            "web",
            "{to}"
        );
        assert!(talk::is_refused(&client, at(to, 8081)), "{to}");
    }
    assert!(talk::is_refused(&lab.station("A"), at("127.0.0.1", 8080)));

    // The address of the interface, named once more: told, and the first goes on.
    publish(
        &mut lab,
        8080,
        "other",
        HostAddress::Ip(ip("10.77.0.1")),
        Source::Client,
    );
    let told = "port 8080/tcp is not published on this node: port is already allocated";
    assert!(names(&lab.hosts[0], &lab, 0).contains(&told.to_owned()));
    assert_eq!(
        talk::tcp(&client, at("10.77.0.1", 8080)).unwrap().name,
        "web"
    );
}

#[test]
fn a_host_port_answers_on_its_address_only() {
    if !can_run() {
        return;
    }
    let mut lab = lab();
    lab.task("web").host_ports = vec![HostPort {
        host: HostAddress::Ip(ip("10.77.0.3")),
        proto: Proto::Tcp,
        published: 9090,
        target: 80,
    }];
    lab.apply();
    let client = lab.station("cl1");
    let heard = talk::tcp(&client, at("10.77.0.3", 9090)).unwrap();
    assert_eq!(heard.peer.ip(), ip("10.77.0.101"));
    assert!(talk::is_refused(&client, at("fd77::3", 9090)));
    assert!(talk::is_refused(&lab.station("C"), at("127.0.0.1", 9090)));
}

#[test]
fn with_snat_the_task_sees_the_node_the_client_came_to() {
    if !can_run() {
        return;
    }
    let mut lab = lab();
    publish(&mut lab, 8080, "web", HostAddress::All, Source::Snat);
    publish(&mut lab, 8081, "web", HostAddress::All, Source::Client);
    lab.apply();
    let client = lab.station("cl1");
    for (node, to4, to6) in [
        (1, "10.77.0.1", "fd77::1"),
        (2, "10.77.0.2", "fd77::2"),
        // The task's own node.
        (3, "10.77.0.3", "fd77::3"),
    ] {
        for (to, seen) in [
            (to4, format!("10.255.0.{node}")),
            (to6, format!("fd5a::{node}")),
        ] {
            let heard = talk::tcp(&client, at(to, 8080)).unwrap();
            assert_eq!(heard.peer.ip(), ip(&seen), "tcp {to}");
            let heard = talk::udp(&client, at(to, 8080)).unwrap();
            assert_eq!(heard.peer.ip(), ip(&seen), "udp {to}");
            let heard = talk::tcp(&client, at(to, 8081)).unwrap();
            let own = ["10.77.0.101", "fd77::101"];
            assert!(
                own.contains(&heard.peer.ip().to_string().as_str()),
                "{heard:?}"
            );
        }
    }
}
