//! Virtual addresses of services, as seen from their clients' containers: who answers, whom the
//! server sees, and what becomes of connections and datagrams when tasks and services go.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use skep_e2e::dns;
use skep_e2e::station::Station;
use skep_e2e::steady::Steady;
use skep_e2e::talk::{self, Connection, Heard};
use skep_e2e::tasks::Task;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, patient, secs};

/// Where the servers listen that the tests put into tasks.
const PORT: u16 = 5000;
const NET: &str = "net";

fn at(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, PORT)
}

/// Makes a service.
fn create(c: &Cluster, name: &str, flags: &str) {
    let line =
        format!("service create -d --no-resolve-image --name {name} {flags} skep/hello:latest");
    c.skep("n1", &line).ok();
}

/// Waits for a service's tasks and puts a server into each that has none yet; servers are called by
/// their task's id.
fn serve(c: &Cluster, name: &str, count: usize, known: &[Task]) -> Vec<Task> {
    let tasks = c.wait_running("n1", name, count, secs(30));
    for task in tasks.iter().filter(|task| !known.contains(task)) {
        talk::serve(&c.inside_task(task), &task.id, PORT);
    }
    tasks
}

fn ids(tasks: &[Task]) -> BTreeSet<String> {
    tasks.iter().map(|task| task.id.clone()).collect()
}

/// Waits until a client is led to exactly these servers.
fn wait_led(from: &Station, to: IpAddr, tasks: &[Task]) {
    eventually("the address leads to all tasks", secs(10), || {
        let names: io::Result<BTreeSet<String>> = (0..tasks.len().max(1))
            .map(|_| talk::tcp(from, at(to)).map(|heard| heard.name))
            .collect();
        let names = names.map_err(|error| error.to_string())?;
        holds(names == ids(tasks), format!("{names:?}"))
    });
}

fn counted(heard: &[Heard]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for one in heard {
        *counts.entry(one.name.as_str()).or_default() += 1;
    }
    counts
}

/// By which protocol is asked.
type Ask = fn(&Station, SocketAddr) -> io::Result<Heard>;
const PROTOCOLS: [(&str, Ask); 2] = [("tcp", talk::tcp), ("udp", talk::udp)];

#[test]
fn virtual_addresses() {
    let Some(cluster) = Cluster::up(3, 1) else {
        return;
    };
    let c = &cluster;
    let net = format!(
        "network create -d overlay --attachable --ipv6 --subnet 10.70.0.0/24 \
         --subnet fd70:5::/64 {NET}"
    );
    c.skep("n1", &net).ok();
    c.skep("n1", "network create -d overlay --internal side")
        .ok();
    create(
        c,
        "web",
        "--replicas 3 --replicas-max-per-node 1 --network net",
    );
    // Names that nobody knows need no patience: nothing listens there.
    create(
        c,
        "client",
        "--constraint node.hostname==n1 --network net --dns 127.0.0.99",
    );
    let task = c.wait_running("n1", "client", 1, secs(30)).remove(0);
    let (client, own) = (c.inside_task(&task), c.task_addresses("n1", &task, NET));
    let webs = serve(c, "web", 3, &[]);
    let vips = c.vips("n1", "web", NET);
    let mut checks = Checks::new();

    checks.check("both families have addresses", || {
        for found in [&own, &vips] {
            let families: Vec<bool> = found.iter().map(IpAddr::is_ipv6).collect();
            assert_eq!(families, [false, true], "{found:?}");
        }
    });
    checks.check(
        "tasks answer in turn, and see the client's own address",
        || {
            for (vip, own) in vips.iter().zip(&own) {
                wait_led(&client, *vip, &webs);
                for (protocol, ask) in PROTOCOLS {
                    let heard: io::Result<Vec<Heard>> =
                        (0..9).map(|_| ask(&client, at(*vip))).collect();
                    let heard = heard.unwrap_or_else(|error| panic!("{protocol} {vip}: {error}"));
                    assert!(
                        heard.iter().all(|heard| heard.peer.ip() == *own),
                        "{heard:?}"
                    );
                    let counts = counted(&heard);
                    assert_eq!(counts.len(), 3, "{protocol} {vip}: {counts:?}");
                    assert!(counts.values().all(|count| *count == 3), "{counts:?}");
                }
                for _ in 0..3 {
                    client.run(&format!("busybox ping -c 1 -W 2 {vip}")).ok();
                }
            }
        },
    );
    checks.check("a task that asks itself sees itself", || {
        for web in &webs {
            let (inside, own) = (c.inside_task(web), c.task_addresses("n1", web, NET));
            for (vip, own) in vips.iter().zip(&own) {
                wait_led(&inside, *vip, &webs);
                for (protocol, ask) in PROTOCOLS {
                    let heard: Vec<Heard> = (0..3)
                        .map(|_| ask(&inside, at(*vip)).expect("every task answers"))
                        .collect();
                    assert_eq!(counted(&heard).len(), 3, "{protocol} {heard:?}");
                    assert!(heard.iter().any(|heard| heard.name == web.id));
                    assert!(
                        heard.iter().all(|heard| heard.peer.ip() == *own),
                        "{heard:?}"
                    );
                }
            }
        }
    });
    checks.check(
        "a service without tasks refuses at once and keeps its names",
        || {
            c.skep("n1", "service scale -d web=0").ok();
            for vip in &vips {
                eventually("connections are refused", secs(15), || {
                    holds(talk::is_refused(&client, at(*vip)), vip)
                });
                let asked = Instant::now();
                assert!(talk::is_refused(&client, at(*vip)));
                let error = talk::udp(&client, at(*vip)).expect_err("nobody is there");
                // What is refused on the way out is not permitted to a datagram's sender.
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
                assert!(asked.elapsed() < patient(secs(1)), "{:?}", asked.elapsed());
            }
            let wanted: Vec<String> = vips.iter().map(IpAddr::to_string).collect();
            assert_eq!(dns::addresses(&client, "web"), wanted);
            let none = dns::ask(&client, "tasks.web", dns::A);
            assert_eq!((none.code, none.found.len()), (dns::NOERROR, 0));
            c.remove_service("n1", "web");
        },
    );
    checks.check("datagrams to a service that was deleted go nowhere", || {
        create(c, "gone", "--network net");
        let tasks = serve(c, "gone", 1, &[]);
        let vips = c.vips("n1", "gone", NET);
        for vip in &vips {
            wait_led(&client, *vip, &tasks);
            talk::udp_from(&client, at(*vip), 6000, 1).expect("it is there");
        }
        c.remove_service("n1", "gone");
        create(c, "other", "--network net --replicas 3");
        let others = serve(c, "other", 3, &[]);
        let own = c.vips("n1", "other", NET);
        wait_led(&client, own[0], &others);
        for (old, new) in vips.iter().zip(&own) {
            match talk::udp_from(&client, at(*old), 6000, 1) {
                Ok(heard) => assert!(
                    old == new && ids(&others).contains(&heard.name),
                    "{heard:?}"
                ),
                Err(error) => assert_ne!(old, new, "{error}"),
            }
        }
        c.remove_service("n1", "other");
    });
    checks.check(
        "datagrams of one port move to a task that is there, and connections stay with one that drains",
        || {
            create(c, "two", "--network net --replicas 2 --drain 1h");
            let before = serve(c, "two", 2, &[]);
            let vips = c.vips("n1", "two", NET);
            let mut kept = Vec::new();
            for vip in &vips {
                wait_led(&client, *vip, &before);
                let heard: Vec<Heard> = (6001..6005)
                    .map(|port| talk::udp_from(&client, at(*vip), port, 1).expect("an answer"))
                    .collect();
                assert_eq!(counted(&heard).len(), 2, "{heard:?}");
                kept.extend((0..4).map(|_| Connection::open(&client, at(*vip), 0).unwrap()));
            }
            let mut hear_all = || {
                let heard: io::Result<Vec<Heard>> = kept.iter_mut().map(Connection::ask).collect();
                heard.expect("connections go on")
            };
            assert_eq!(counted(&hear_all()).len(), 2);
            c.skep("n1", "service scale -d two=1").ok();
            let after = c.wait_running("n1", "two", 1, secs(10));
            for vip in &vips {
                wait_led(&client, *vip, &after);
                for port in 6001..6005 {
                    eventually("the port is led to the other", secs(2), || {
                        let heard = talk::udp_from(&client, at(*vip), port, 1);
                        let heard = heard.map_err(|error| error.to_string())?;
                        holds(heard.name == after[0].id, format!("{port}: {heard:?}"))
                    });
                }
            }
            for _ in 0..20 {
                assert_eq!(counted(&hear_all()).len(), 2, "one has moved");
            }
            drop(kept);
            let old = before.iter().find(|task| task.id != after[0].id).unwrap();
            eventually("the drained task ends", secs(15), || {
                let pid = c.container_pid(&old.node, &old.container);
                holds(pid.is_none(), format!("{pid:?}"))
            });
            c.remove_service("n1", "two");
        },
    );
    checks.check(
        "the client of a task that vanished hears of it at once",
        || {
            create(
                c,
                "frail",
                "--network net --replicas 2 --restart-condition none",
            );
            let tasks = serve(c, "frail", 2, &[]);
            let vips = c.vips("n1", "frail", NET);
            let mut kept: Vec<Connection> = Vec::new();
            for vip in &vips {
                wait_led(&client, *vip, &tasks);
                kept.extend((0..2).map(|_| Connection::open(&client, at(*vip), 0).unwrap()));
            }
            let mut led: Vec<(Connection, String)> = kept
                .into_iter()
                .map(|mut one| {
                    let name = one.ask().unwrap().name;
                    (one, name)
                })
                .collect();
            let victim = &tasks[0];
            let pid = c.container_pid(&victim.node, &victim.container).unwrap();
            c.end_process(pid);
            let ended = Instant::now();
            for (connection, name) in &mut led {
                if *name != victim.id {
                    connection.ask().expect("the other goes on");
                    continue;
                }
                // The server's socket is the test's: it may answer until the namespace is taken down.
                let error = loop {
                    match connection.ask() {
                        Ok(_) => assert!(ended.elapsed() < patient(secs(5)), "it still answers"),
                        Err(error) => break error,
                    }
                };
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
                assert!(ended.elapsed() < patient(secs(5)), "{:?}", ended.elapsed());
            }
            c.remove_service("n1", "frail");
        },
    );
    checks.check("scaling up and down loses nothing", || {
        create(c, "steady", "--network net --drain 1h");
        let first = serve(c, "steady", 1, &[]);
        let vips = c.vips("n1", "steady", NET);
        wait_led(&client, vips[0], &first);
        wait_led(&client, vips[1], &first);
        let connections: Vec<Steady> = vips
            .iter()
            .map(|vip| Steady::tcp(&client, at(*vip)).unwrap())
            .collect();
        let datagrams: Vec<Steady> = vips
            .iter()
            .map(|vip| Steady::udp(&client, at(*vip)).unwrap())
            .collect();
        let go_on = || {
            for steady in connections.iter().chain(&datagrams) {
                steady.go_on(50);
            }
        };
        go_on();
        c.skep("n1", "service scale -d steady=3").ok();
        let all = serve(c, "steady", 3, &first);
        wait_led(&client, vips[0], &all);
        go_on();
        c.skep("n1", "service scale -d steady=1").ok();
        let left = c.wait_running("n1", "steady", 1, secs(10));
        wait_led(&client, vips[0], &left);
        go_on();
        for connection in connections {
            let rounds = connection.end().expect("connections go on");
            assert!(rounds.answered > 100, "{rounds:?}");
        }
        for datagrams in datagrams {
            let rounds = datagrams.end().unwrap();
            // What was on its way when the flow was led elsewhere.
            assert!(rounds.lost <= 1 && rounds.answered > 100, "{rounds:?}");
        }
        c.remove_service("n1", "steady");
    });
    checks.check(
        "a service without a virtual address is its tasks' addresses",
        || {
            create(c, "rr", "--network net --replicas 3 --endpoint-mode dnsrr");
            let tasks = serve(c, "rr", 3, &[]);
            assert_eq!(c.vips("n1", "rr", NET), Vec::<IpAddr>::new());
            let all = tasks
                .iter()
                .flat_map(|task| c.task_addresses("n1", task, NET));
            let mut all: Vec<IpAddr> = all.collect();
            let mut wanted: Vec<String> = all.iter().map(IpAddr::to_string).collect();
            wanted.sort();
            eventually("all are known", secs(10), || {
                let found = dns::addresses(&client, "rr");
                holds(found == wanted, format!("{found:?}"))
            });
            all.dedup();
            for address in all {
                for (protocol, ask) in PROTOCOLS {
                    let heard = ask(&client, at(address));
                    let heard =
                        heard.unwrap_or_else(|error| panic!("{protocol} {address}: {error}"));
                    assert_eq!(heard.peer.ip(), own[usize::from(address.is_ipv6())]);
                }
            }
            let firsts: BTreeSet<String> = (0..30)
                .map(|_| dns::ask(&client, "rr", dns::A).found.remove(0))
                .collect();
            assert_eq!(firsts.len(), 3, "each comes first at times");
            c.remove_service("n1", "rr");
        },
    );
    checks.check("a service has its own aliases on each network", || {
        create(
            c,
            "multi",
            "--network name=net,alias=front --network name=side,alias=back",
        );
        create(c, "aside", "--network side");
        let tasks = serve(c, "multi", 1, &[]);
        let task = c.wait_running("n1", "aside", 1, secs(30)).remove(0);
        let aside = c.inside_task(&task);
        for (from, network, own, others) in [
            (&client, NET, "front", "back"),
            (&aside, "side", "back", "front"),
        ] {
            let vips = c.vips("n1", "multi", network);
            let wanted: Vec<String> = vips.iter().map(IpAddr::to_string).collect();
            for name in [own, "multi"] {
                eventually("the name is known", secs(10), || {
                    let found = dns::addresses(from, name);
                    holds(found == wanted, format!("{name}: {found:?}"))
                });
            }
            assert_ne!(
                dns::ask(from, others, dns::A).code,
                dns::NOERROR,
                "{others}"
            );
            wait_led(from, vips[0], &tasks);
        }
        c.skep("n1", "service rm multi aside").ok();
    });
    checks.end();
}
