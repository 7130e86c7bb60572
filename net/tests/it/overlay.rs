//! Overlay networks and service addresses.

use std::collections::BTreeMap;
use std::net::UdpSocket;

use skep_net::Netns;

use crate::lab::{Lab, Task, at, can_run, overlay, vip};
use crate::talk::{self, Connection, Datagrams};

/// One network over three nodes, two tasks on A.
fn network() -> Lab {
    let mut lab = Lab::new();
    lab.networks
        .push(overlay("red", 5001, &["10.0.1.0/24", "fd01::/64"]));
    lab.tasks = vec![
        Task::new("a1", 0).on("red", &["10.0.1.11", "fd01::11"]),
        Task::new("a2", 0).on("red", &["10.0.1.12", "fd01::12"]),
        Task::new("b1", 1).on("red", &["10.0.1.21", "fd01::21"]),
        Task::new("c1", 2).on("red", &["10.0.1.31", "fd01::31"]),
    ];
    lab
}

fn serve_all(lab: &Lab) {
    for task in &lab.tasks {
        talk::serve(&lab.inside(task.name), task.name, 80);
    }
}

#[test]
fn tasks_of_a_network_reach_one_another_on_every_node() {
    if !can_run() {
        return;
    }
    let lab = network();
    lab.apply();
    serve_all(&lab);
    let from = lab.inside("a1");
    for (to, name) in [("12", "a2"), ("21", "b1"), ("31", "c1")] {
        for (address, own) in [
            (format!("10.0.1.{to}"), "10.0.1.11"),
            (format!("fd01::{to}"), "fd01::11"),
        ] {
            let heard = talk::tcp(&from, at(&address, 80)).unwrap();
            assert_eq!(
                (heard.name.as_str(), heard.peer.ip()),
                (name, own.parse().unwrap())
            );
            assert_eq!(talk::udp(&from, at(&address, 80)).unwrap().name, name);
        }
    }
    assert!(
        talk::is_silent(&from, at("10.0.1.99", 80)),
        "nobody has this address"
    );
}

#[test]
fn networks_with_the_same_subnet_do_not_meet() {
    if !can_run() {
        return;
    }
    let mut lab = network();
    lab.networks.push(overlay("blue", 5002, &["10.0.1.0/24"]));
    lab.tasks
        .push(Task::new("x1", 0).on("blue", &["10.0.1.11"]));
    lab.tasks
        .push(Task::new("x2", 1).on("blue", &["10.0.1.22"]));
    lab.apply();
    serve_all(&lab);
    assert_eq!(
        talk::tcp(&lab.inside("x1"), at("10.0.1.22", 80))
            .unwrap()
            .name,
        "x2"
    );
    assert_eq!(
        talk::tcp(&lab.inside("x2"), at("10.0.1.11", 80))
            .unwrap()
            .name,
        "x1"
    );
    assert_eq!(
        talk::tcp(&lab.inside("b1"), at("10.0.1.11", 80))
            .unwrap()
            .name,
        "a1"
    );
    assert!(talk::is_silent(&lab.inside("a1"), at("10.0.1.22", 80)));
    assert!(talk::is_silent(&lab.inside("x1"), at("10.0.1.21", 80)));
}

#[test]
fn a_task_that_moves_with_its_address_is_found_at_once() {
    if !can_run() {
        return;
    }
    let mut lab = network();
    lab.apply();
    serve_all(&lab);
    let from = lab.inside("a1");
    assert_eq!(talk::tcp(&from, at("10.0.1.21", 80)).unwrap().name, "b1");
    let netns = lab.task("b1").netns();
    lab.hosts[1].remove_sandbox(&netns).unwrap();
    lab.task("b1").node = 2;
    lab.apply();
    talk::serve(&lab.inside("b1"), "moved", 80);
    assert_eq!(talk::tcp(&from, at("10.0.1.21", 80)).unwrap().name, "moved");
    assert_eq!(
        talk::tcp(&lab.inside("c1"), at("10.0.1.21", 80))
            .unwrap()
            .name,
        "moved"
    );
}

/// How often each backend answers `count` new connections.
fn spread(from: &Netns, to: &str, count: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..count {
        *counts
            .entry(talk::tcp(from, at(to, 80)).unwrap().name)
            .or_default() += 1;
    }
    counts
}

#[test]
fn a_service_address_goes_round_its_backends_the_caller_included() {
    if !can_run() {
        return;
    }
    let mut lab = network();
    let services = vec![
        vip("10.0.1.2", &["10.0.1.11", "10.0.1.12", "10.0.1.31"]),
        vip("fd01::2", &["fd01::11", "fd01::12", "fd01::31"]),
        vip("10.0.1.3", &[]),
    ];
    lab.task("a1").services = services;
    lab.apply();
    serve_all(&lab);
    let from = lab.inside("a1");
    for address in ["10.0.1.2", "fd01::2"] {
        let counts = spread(&from, address, 9);
        assert_eq!(counts.len(), 3, "{counts:?}");
        assert!(counts.values().all(|count| *count == 3), "{counts:?}");
    }
    let heard = talk::tcp(&from, at("10.0.1.2", 80)).unwrap();
    assert_eq!(
        heard.peer.ip().to_string(),
        "10.0.1.11",
        "the source is kept"
    );
    for _ in 0..3 {
        talk::udp(&from, at("10.0.1.2", 80)).unwrap();
    }
    assert!(talk::is_refused(&from, at("10.0.1.3", 80)), "no backends");
    assert!(talk::was_refused(&talk::udp(&from, at("10.0.1.3", 80))));
}

/// More services than have chains of their own.
#[test]
fn thousands_of_services_share_chains_and_lead_to_their_own_backends() {
    if !can_run() {
        return;
    }
    let mut lab = network();
    let six = |n: u32| format!("fd01::1:{n:x}");
    let four = |n: u32| format!("10.0.1.{n}");
    let backends = |n: u32, families: [&'static str; 3]| families[..n as usize % 4].to_vec();
    let mut services = Vec::new();
    for n in 0..2400 {
        let backends = backends(n, ["fd01::11", "fd01::12", "fd01::31"]);
        services.push(vip(&six(n), &backends));
    }
    for n in 100..200 {
        let backends = backends(n, ["10.0.1.11", "10.0.1.12", "10.0.1.31"]);
        services.push(vip(&four(n), &backends));
    }
    lab.task("a1").services = services;
    lab.apply();
    serve_all(&lab);
    let from = lab.inside("a1");
    for (address, count) in [
        (six(2001), 1),
        (six(2), 2),
        (six(2399), 3),
        (four(101), 1),
        (four(198), 2),
        (four(103), 3),
    ] {
        // Chosen at random: 60 times none of three is missed but once in ten billion.
        let counts = spread(&from, &address, 60);
        assert_eq!(counts.len(), count, "{address}: {counts:?}");
    }
    for address in [six(4), four(104)] {
        assert!(talk::is_refused(&from, at(&address, 80)), "{address}");
    }
    assert!(lab.apply()[0].is_noop(), "settled");

    // One scales down, and one goes to zero; the others stay as they are.
    lab.task("a1").services[2399] = vip(&six(2399), &["fd01::31"]);
    lab.task("a1").services[2398] = vip(&six(2398), &[]);
    lab.apply();
    assert_eq!(spread(&from, &six(2399), 6).len(), 1);
    assert!(talk::is_refused(&from, at(&six(2398), 80)));
    assert_eq!(spread(&from, &six(2395), 60).len(), 3);

    // Few again: exact turns.
    lab.task("a1").services.drain(..2300);
    lab.apply();
    let counts = spread(&from, &six(2395), 9);
    assert!(counts.values().all(|count| *count == 3), "{counts:?}");
}

#[test]
fn draining_keeps_connections_moves_datagrams_and_death_resets() {
    if !can_run() {
        return;
    }
    let mut lab = network();
    lab.task("a1").services = vec![vip("10.0.1.2", &["10.0.1.21"])];
    lab.apply();
    serve_all(&lab);
    let from = lab.inside("a1");
    let mut connection = Connection::open(&from, at("10.0.1.2", 80), 0).unwrap();
    assert_eq!(connection.ask().unwrap().name, "b1");
    let datagrams = Datagrams::open(&from, at("10.0.1.2", 80), 7000).unwrap();
    assert_eq!(datagrams.ask().unwrap().name, "b1");

    lab.task("a1").services = vec![vip("10.0.1.2", &["10.0.1.31"])];
    for (node, host) in lab.hosts.iter().enumerate() {
        let (report, stale) = host.follow(&lab.state(node));
        assert!(report.is_complete(), "{report:?}");
        let cut = host.cut_stale_datagrams(&stale);
        assert!(cut.is_complete(), "{cut:?}");
    }
    assert_eq!(connection.ask().unwrap().name, "b1", "drains");
    assert_eq!(datagrams.ask().unwrap().name, "c1", "moved at once");
    assert_eq!(talk::tcp(&from, at("10.0.1.2", 80)).unwrap().name, "c1");

    lab.tasks.retain(|task| task.name != "b1");
    lab.apply();
    let error = connection.ask().unwrap_err();
    assert!(
        matches!(
            error.kind(),
            std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
        ),
        "{error}"
    );

    lab.task("a1").services = vec![vip("10.0.1.2", &[])];
    lab.apply();
    assert!(talk::is_refused(&from, at("10.0.1.2", 80)));
    assert!(talk::was_refused(&datagrams.ask()));
    lab.task("a1").services = vec![vip("10.0.1.2", &["10.0.1.12"])];
    lab.apply();
    // The refusal may still be waiting in the socket.
    talk::until("datagrams reach a2", || {
        datagrams.ask().is_ok_and(|heard| heard.name == "a2")
    });
}

#[test]
fn swapping_backends_a_hundred_times_breaks_no_connection() {
    if !can_run() {
        return;
    }
    let mut lab = network();
    lab.task("a1").services = vec![vip("10.0.1.2", &["10.0.1.21", "10.0.1.12"])];
    lab.apply();
    serve_all(&lab);
    let from = lab.inside("a1");
    let mut kept = Connection::open(&from, at("10.0.1.2", 80), 0).unwrap();
    let netns = lab.task("a1").netns();
    let done = std::sync::atomic::AtomicBool::new(false);
    let (asked, swapped) = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut asked = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                kept.ask().unwrap();
                talk::tcp(&from, at("10.0.1.2", 80)).unwrap();
                asked += 1;
            }
            asked
        });
        let mut swapped = 0;
        for turn in 0..100 {
            let backends: &[&str] = match turn % 3 {
                0 => &["10.0.1.31"],
                1 => &["10.0.1.21", "10.0.1.12", "10.0.1.31"],
                _ => &["10.0.1.12", "10.0.1.21"],
            };
            lab.hosts[0]
                .set_services(&netns, &[vip("10.0.1.2", backends)])
                .unwrap();
            swapped += 1;
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        (client.join().unwrap(), swapped)
    });
    assert_eq!(swapped, 100);
    assert!(asked > 0);
}

#[test]
fn long_messages_pass_whatever_the_underlay() {
    if !can_run() {
        return;
    }
    for underlay6 in [false, true] {
        let mut lab = network();
        lab.underlay6 = underlay6;
        lab.task("a1").services = vec![vip("10.0.1.2", &["10.0.1.31"])];
        lab.apply();
        serve_all(&lab);
        for to in ["10.0.1.21", "fd01::31", "10.0.1.2"] {
            let mut connection = Connection::open(&lab.inside("a1"), at(to, 80), 0).unwrap();
            connection.ask_at_length(1 << 20).unwrap();
        }
    }
}

/// A frame of an overlay as it goes between nodes: a datagram to port 7777.
pub fn frame(vni: u32, from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![8, 0, 0, 0];
    frame.extend((vni << 8).to_be_bytes());
    frame.extend([&[2, 0x42], &to[..], &[2, 0x42], &from[..], &[8, 0]].concat());
    let mut ip = vec![0x45, 0, 0, 33, 0, 0, 0, 0, 64, 17, 0, 0];
    ip.extend([from, to].concat());
    let sum: u32 = ip
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    ip[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    frame.extend(ip);
    frame.extend([0x1e, 0x61, 0x1e, 0x61, 0, 13, 0, 0]);
    frame.extend(b"frame");
    frame
}

#[test]
fn frames_are_taken_from_nodes_only() {
    if !can_run() {
        return;
    }
    let lab = network();
    lab.apply();
    let inside = lab.inside("a1");
    let receiver = inside
        .run(|| UdpSocket::bind("10.0.1.11:7777").unwrap())
        .unwrap();
    receiver.set_read_timeout(Some(talk::IMPATIENCE)).unwrap();
    let heard = || receiver.recv(&mut [0; 64]).is_ok();
    let send = |station: &str, port: u16| {
        let message = frame(5001, [10, 0, 1, 21], [10, 0, 1, 11]);
        let send = || {
            UdpSocket::bind("0.0.0.0:0")
                .unwrap()
                .send_to(&message, ("10.77.0.1", port))
        };
        lab.station(station).run(send).unwrap().unwrap();
    };
    send("cl1", 4789);
    assert!(!heard(), "a stranger's frame");
    send("B", 4789);
    assert!(heard(), "a node's frame");
    // The cluster has another port: all of it goes there.
    for (index, host) in lab.hosts.iter().enumerate() {
        let mut state = lab.state(index);
        state.node.data_port = 5777;
        host.apply(&state).into_result().unwrap();
    }
    send("B", 4789);
    assert!(!heard(), "at the port of before");
    send("cl1", 5777);
    assert!(!heard(), "a stranger's frame");
    send("B", 5777);
    assert!(heard(), "a node's frame");
    talk::serve(&lab.inside("b1"), "b1", 80);
    talk::tcp(&inside, at("10.0.1.21", 80)).unwrap();
}
