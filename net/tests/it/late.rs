//! Datagrams of tasks that nobody asks any more, or has not asked yet.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use skep_net::Netns;

use crate::lab::{Lab, Task, at, can_run};
use crate::talk::{self, Datagrams};

/// Entry and client, of either family.
const WAYS: [(&str, &str); 2] = [("10.77.0.1", "10.77.0.101"), ("fd77::1", "fd77::101")];

/// `web` on A, `next` on B and `other` on A answer on port 80 of their own, `web` and `next` on 8080
/// too; ports are published as each test wants them.
fn lab() -> Lab {
    let mut lab = Lab::new();
    lab.mesh = true;
    let published = |name, node, ingress| {
        let mut task = Task::new(name, node).published(ingress, 80);
        for (proto, _) in task.open_ports.clone() {
            task.open_ports.push((proto, 8080));
        }
        task
    };
    lab.tasks = vec![
        published("web", 0, 5),
        published("next", 1, 6),
        published("other", 0, 7),
    ];
    lab.apply();
    for name in ["next", "other"] {
        for port in [80, 8080] {
            talk::serve(&lab.inside(name), name, port);
        }
    }
    lab
}

/// A server that answers when it is told to.
struct Slow(UdpSocket);

impl Slow {
    fn open(netns: &Netns, port: u16) -> Self {
        let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let socket = netns.run(|| UdpSocket::bind(all)).unwrap().unwrap();
        let patience = Some(Duration::from_secs(2));
        socket.set_read_timeout(patience).unwrap();
        Self(socket)
    }

    /// Who asks next.
    fn asked_by(&self) -> SocketAddr {
        let mut buffer = [0; 64];
        self.0.recv_from(&mut buffer).expect("a question").1
    }

    fn say_to(&self, to: SocketAddr) {
        let to = match to.ip() {
            std::net::IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
            std::net::IpAddr::V6(_) => to,
        };
        let words = format!("web {to}");
        self.0.send_to(words.as_bytes(), to).unwrap();
    }
}

#[test]
fn an_answer_that_comes_after_the_cut_leads_nobody_back() {
    if !can_run() {
        return;
    }
    let mut lab = lab();
    let web = Slow::open(&lab.inside("web"), 8080);
    let client = lab.station("cl1");
    for (entry, _) in WAYS {
        lab.publish(8080, &["web"], 8080);
        lab.apply();
        let asks = Datagrams::open(&client, at(entry, 8080), 6001).unwrap();
        asks.say().unwrap();
        let peer = web.asked_by();
        lab.publish(8080, &["next"], 8080);
        lab.apply();
        for _ in 0..3 {
            web.say_to(peer);
            assert_eq!(asks.ask().unwrap().name, "next", "{entry}");
        }
    }
}

/// The task's port is 80, published as 8080, and another service has 80.
#[test]
fn a_late_answer_is_not_in_the_way_of_another_published_port() {
    if !can_run() {
        return;
    }
    let mut lab = lab();
    let web = Slow::open(&lab.inside("web"), 80);
    let client = lab.station("cl1");
    for (entry, _) in WAYS {
        lab.publish(8080, &["web"], 80);
        lab.publish(80, &["other"], 80);
        lab.apply();
        let asks = Datagrams::open(&client, at(entry, 8080), 6002).unwrap();
        asks.say().unwrap();
        let peer = web.asked_by();
        drop(asks);
        lab.publish(8080, &["next"], 80);
        lab.apply();
        web.say_to(peer);
        let asks = Datagrams::open(&client, at(entry, 80), 6002).unwrap();
        assert_eq!(asks.ask().unwrap().name, "other", "{entry}");
    }
}

#[test]
fn who_answers_may_speak_first_and_is_left_all_the_same() {
    if !can_run() {
        return;
    }
    let mut lab = lab();
    let web = Slow::open(&lab.inside("web"), 8080);
    let client = lab.station("cl1");
    for (entry, own) in WAYS {
        lab.publish(8080, &["web"], 8080);
        lab.apply();
        // Hears what comes from the published port only.
        let asks = Datagrams::open(&client, at(entry, 8080), 6003).unwrap();
        web.say_to(at(own, 6003));
        assert_eq!(asks.hear().unwrap().name, "web", "{entry}");
        lab.publish(8080, &["next"], 8080);
        lab.apply();
        assert_eq!(asks.ask().unwrap().name, "next", "{entry}");
    }
}

#[test]
fn a_task_may_send_from_a_number_that_is_published() {
    if !can_run() {
        return;
    }
    let mut lab = lab();
    lab.publish(8080, &["next"], 8080);
    lab.apply();
    let station = lab.station("cl1");
    talk::serve(&station, "outside", 7000);
    for (entry, own) in WAYS {
        for (number, is_taken) in [(8080, true), (8081, false)] {
            let asks = Datagrams::open(&lab.inside("web"), at(own, 7000), number).unwrap();
            let heard: io::Result<_> = (0..3).map(|_| asks.ask()).collect::<Result<Vec<_>, _>>();
            for heard in heard.unwrap() {
                assert_eq!(heard.name, "outside");
                assert_eq!(heard.peer.ip(), at(entry, 0).ip());
                assert_eq!(heard.peer.port() != number, is_taken, "{heard:?}");
            }
        }
        let asks = Datagrams::open(&station, at(entry, 8080), 7001).unwrap();
        assert_eq!(asks.ask().unwrap().name, "next", "{entry}");
    }
}
