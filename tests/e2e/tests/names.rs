//! Names as containers ask for them: who knows which, what leaves the host, and what goes on
//! without the daemon.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::Value;
use skep_e2e::dns::{self, A, AAAA, NOERROR, NXDOMAIN, PTR, Upstream};
use skep_e2e::station::{self, Station};
use skep_e2e::tasks::Task;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, image, needs, secs};

const HELLO: &str = "skep/hello:latest";
const BUSY: &str = "busy:1";
/// Names may be this old.
const SOON: Duration = secs(10);
/// Where the resolver listens that one service has asked for.
const OWN_RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 77);

const STACK: &str = "
services:
  cache:
    image: skep/hello:latest
    networks: [net]
networks:
  net: {external: true}
";

/// Makes a service; what follows the flags is its image and command.
fn create(c: &Cluster, name: &str, flags: &str, image: &str) {
    let line = format!("service create -d --no-resolve-image --name {name} {flags} {image}");
    c.skep("n1", &line).ok();
}

fn alone(c: &Cluster, name: &str) -> (Task, Station) {
    let task = c.wait_running("n1", name, 1, secs(30)).remove(0);
    let inside = c.inside_task(&task);
    (task, inside)
}

fn texts(addresses: impl IntoIterator<Item = IpAddr>) -> Vec<String> {
    let mut texts: Vec<String> = addresses.into_iter().map(|ip| ip.to_string()).collect();
    texts.sort();
    texts
}

/// Waits until a name leads to these addresses.
fn wait_known(from: &Station, name: &str, wanted: &[String]) {
    eventually(&format!("{name} is known"), SOON, || {
        let found = dns::try_ask(from, name, A).map_err(|error| error.to_string())?;
        let shown = format!("{found:?}, not {wanted:?}");
        holds(found.code == NOERROR && found.sorted() == wanted, shown)
    });
}

/// The first resolver of this machine, which the nodes share; made an address of the node's own, so
/// that a server there is it.
fn resolver_of_host(c: &Cluster, node: &str) -> Option<SocketAddr> {
    let text = fs::read_to_string("/etc/resolv.conf").ok()?;
    let mut servers = text
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver "));
    let address: Ipv4Addr = servers.next()?.trim().parse().ok()?;
    if !address.is_loopback() {
        let line = ["ip", "addr", "add", &format!("{address}/32"), "dev", "lo"];
        c.exec(node, &line).ok();
    }
    Some(SocketAddr::from((address, 53)))
}

/// A network's zone file on a node.
fn zone(c: &Cluster, node: &str, network: &str) -> Value {
    let id = c.get("n1", &format!("/networks/{network}"))["Id"].clone();
    let path = format!("{node}/run/dns/{}.zone", id.as_str().unwrap_or_default());
    let text = fs::read(c.root.join(path)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

#[test]
fn names() {
    let Some(busybox) = needs::busybox() else {
        return;
    };
    let Some(cluster) = Cluster::up(3, 1) else {
        return;
    };
    let c = &cluster;
    let archive = image::archive(BUSY, &image::root_file_system(&busybox));
    for node in ["n1", "n2", "n3"] {
        c.skep_given(node, "load", &archive).ok();
    }
    let Some(resolver) = resolver_of_host(c, "n1") else {
        println!("skipped: this machine has no resolver of IPv4");
        return;
    };
    let outside = Ipv4Addr::new(192, 0, 2, 7);
    let node = station::node(c, "n1");
    let upstream = Upstream::serve(&node, resolver, &[("out.example.test", outside)]);
    let own = (OWN_RESOLVER, 53).into();
    let home = [("near.example.test", Ipv4Addr::LOCALHOST)];
    let own_upstream = Upstream::serve(&node, own, &home);
    for line in [
        "network create -d overlay --subnet 10.71.0.0/24 net",
        "network create -d overlay --subnet 10.72.0.0/24 more",
        "network create -d overlay --internal inner",
    ] {
        c.skep("n1", line).ok();
    }
    let at_n1 = "--constraint node.hostname==n1";
    create(
        c,
        "client",
        &format!("{at_n1} --network net --network more"),
        HELLO,
    );
    create(
        c,
        "db",
        "--replicas 2 --network name=net,alias=store --hostname host-{{.Task.Slot}}",
        HELLO,
    );
    let (_, client) = alone(c, "client");
    let dbs = c.wait_running("n1", "db", 2, secs(30));
    let address = |task: &Task| texts(c.task_addresses("n1", task, "net"));
    let all: Vec<String> = texts(
        dbs.iter()
            .flat_map(|task| c.task_addresses("n1", task, "net")),
    );
    let vip = texts(c.vips("n1", "db", "net"));
    let mut checks = Checks::new();

    checks.check(
        "a service, its aliases, its tasks and its slots have names",
        || {
            for name in ["db", "store", "db.net", "DB"] {
                wait_known(&client, name, &vip);
            }
            for name in ["tasks.db", "tasks.store", "peers.db", "tasks.db.net"] {
                wait_known(&client, name, &all);
            }
            for task in &dbs {
                let slot = task.slot;
                for name in [
                    format!("db.{slot}.{}", task.id),
                    task.container[..12].to_owned(),
                    format!("host-{slot}"),
                    format!("{slot}.db"),
                    format!("db.{slot}"),
                    format!("{slot}.store"),
                    format!("store.{slot}"),
                ] {
                    wait_known(&client, &name, &address(task));
                }
            }
        },
    );
    checks.check("containers are labelled for the tools that ask", || {
        let task = &dbs[0];
        let found = c.get(&task.node, &format!("/containers/{}/json", task.container));
        let labels = &found["Config"]["Labels"];
        assert_eq!(labels["com.docker.swarm.service.name"], "db");
        assert_eq!(labels["com.docker.swarm.task.id"], task.id.as_str());
        let name = format!("db.{}.{}", task.slot, task.id);
        assert_eq!(labels["com.docker.swarm.task.name"], name.as_str());
        assert!(labels["com.docker.swarm.node.id"].is_string(), "{labels}");
        assert_eq!(found["Name"], format!("/{name}").as_str());
    });
    checks.check("tasks of a global service are named by their node", || {
        create(c, "every", "--mode global --network net", HELLO);
        let tasks = c.wait_running("n1", "every", 3, secs(30));
        let names = c.try_node_names("n1").unwrap();
        for task in &tasks {
            let mut ids = names.iter().filter(|(_, name)| **name == task.node);
            let node = ids.next().expect("its node").0;
            for name in [
                format!("every.{node}.{}", task.id),
                format!("{node}.every"),
                format!("every.{node}"),
            ] {
                wait_known(&client, &name, &address(task));
            }
        }
        c.skep("n1", "service rm every").ok();
    });
    checks.check(
        "addresses have names, and answers are for a short time",
        || {
            let pointer = |ip: &str| dns::ask(&client, &dns::reverse(ip.parse().unwrap()), PTR);
            assert_eq!(pointer(&vip[0]).found, ["db.net"]);
            for task in &dbs {
                let name = format!("db.{}.{}.net", task.slot, task.id);
                assert_eq!(pointer(&address(task)[0]).found, [name]);
            }
            for (name, kind) in [
                ("db", A),
                ("tasks.db", A),
                (&dns::reverse(vip[0].parse().unwrap()), PTR),
            ] {
                let ttl = dns::ask(&client, name, kind).ttl;
                assert!((1..=5).contains(&ttl), "{name}: {ttl}");
            }
        },
    );
    checks.check(
        "a known name has no error for another type, and nobody else is asked",
        || {
            const MX: u16 = 15;
            for name in ["db", "tasks.db", "host-1", "db.net"] {
                for kind in [AAAA, MX] {
                    let answer = dns::ask(&client, name, kind);
                    assert_eq!((answer.code, answer.found.len()), (NOERROR, 0), "{name}");
                }
                assert!(!upstream.was_asked(name), "{name} has left the host");
            }
        },
    );
    checks.check("answers over TCP are the same", || {
        let answer = dns::try_ask_tcp(&client, "tasks.db", A).unwrap();
        assert_eq!(answer.sorted(), all);
    });
    checks.check(
        "unknown names are the host's resolver's, over UDP and TCP",
        || {
            for ask in [dns::try_ask, dns::try_ask_tcp] {
                let answer = ask(&client, "out.example.test", A).unwrap();
                assert_eq!(
                    (answer.code, answer.found),
                    (NOERROR, vec![outside.to_string()])
                );
                assert_eq!(ask(&client, "no.example.test", A).unwrap().code, NXDOMAIN);
            }
            assert!(upstream.was_asked("out.example.test"));
        },
    );
    checks.check(
        "the first network that knows a name has it, others by their own",
        || {
            create(c, "both", "--network net --network more", HELLO);
            create(c, "late", "--network more", HELLO);
            alone(c, "both");
            alone(c, "late");
            // Clients put a service's networks into the order of their ids.
            let id = |name: &str| {
                let network = c.get("n1", &format!("/networks/{name}"));
                network["Id"].as_str().expect("it has an id").to_owned()
            };
            let first = if id("net") < id("more") {
                "net"
            } else {
                "more"
            };
            for (name, service, network) in [
                ("both", "both", first),
                ("both.net", "both", "net"),
                ("both.more", "both", "more"),
                ("late", "late", "more"),
            ] {
                wait_known(&client, name, &texts(c.vips("n1", service, network)));
            }
            c.skep("n1", "service rm both late").ok();
        },
    );
    checks.check(
        "a stack's own short names come first on a network of many",
        || {
            fs::write(c.root.join("stack.yml"), STACK).unwrap();
            for stack in ["one", "two"] {
                let line = format!("stack deploy -d --resolve-image never -c stack.yml {stack}");
                c.skep("n1", &line).ok();
            }
            let vip = |stack: &str| texts(c.vips("n1", &format!("{stack}_cache"), "net"));
            let insiders = ["one", "two"].map(|stack| {
                let (task, inside) = alone(c, &format!("{stack}_cache"));
                (stack, address(&task), inside)
            });
            for (stack, own, inside) in &insiders {
                wait_known(inside, "cache", &vip(stack));
                for name in ["tasks.cache", "1.cache", "peers.cache"] {
                    wait_known(inside, name, own);
                }
                for other in ["one", "two"] {
                    wait_known(inside, &format!("{other}_cache"), &vip(other));
                }
            }
            let mut both = [vip("one"), vip("two")].concat();
            both.sort();
            wait_known(&client, "cache", &both);
            c.skep("n1", "stack rm one two").ok();
        },
    );
    checks.check(
        "tasks that are not healthy are peers, and nothing else",
        || {
            create(
                c,
                "ill",
                "--replicas 2 --network net --health-cmd 'test -e /tmp/well' --health-interval 1s \
             --health-retries 1000",
                &format!("{BUSY} sleep 1000"),
            );
            let tasks = eventually("both are starting", secs(30), || {
                let tasks = c.try_tasks("n1", "ill")?;
                let ready = tasks.len() == 2 && tasks.iter().all(|task| task.state == "starting");
                holds(ready, skep_e2e::tasks::shown(&tasks)).map(|()| tasks)
            });
            let peers = texts(
                tasks
                    .iter()
                    .flat_map(|task| c.task_addresses("n1", task, "net")),
            );
            wait_known(&client, "peers.ill", &peers);
            wait_known(&client, "tasks.ill", &[]);
            wait_known(&client, "ill", &texts(c.vips("n1", "ill", "net")));
            assert_eq!(dns::ask(&client, "1.ill", A).code, NXDOMAIN);
            let name = format!("ill.{}.{}", tasks[0].slot, tasks[0].id);
            let cure = format!("exec {name} busybox touch /tmp/well");
            c.skep(&tasks[0].node, &cure).ok();
            wait_known(&client, "tasks.ill", &address(&tasks[0]));
            wait_known(
                &client,
                &format!("{}.ill", tasks[0].slot),
                &address(&tasks[0]),
            );
            wait_known(&client, "peers.ill", &peers);
            c.skep("n1", "service rm ill").ok();
        },
    );
    checks.check("the next question sees a changed zone", || {
        c.skep("n1", "service scale -d db=4").ok();
        let deadline = Instant::now() + secs(20);
        let mut seen = BTreeSet::new();
        while !seen.contains(&4) {
            assert!(Instant::now() < deadline, "{seen:?}");
            let written = zone(c, "n1", "net")["names"]["tasks.db"].clone();
            let written = written.as_array().map_or(0, Vec::len);
            let found = dns::ask(&client, "tasks.db", A).found.len();
            assert!(
                found >= written,
                "{written} in the zone, {found} in the answer"
            );
            seen.insert(found);
        }
        c.skep("n1", "service scale -d db=2").ok();
        c.wait_running("n1", "db", 2, secs(20));
    });
    checks.check("an address becomes its tasks' and one again", || {
        c.skep("n1", "service update -d --endpoint-mode dnsrr db")
            .ok();
        let now = |name: &str| {
            let tasks = c.running("n1", name).into_iter();
            texts(tasks.flat_map(|task| c.task_addresses("n1", &task, "net")))
        };
        eventually("the name is the tasks'", secs(20), || {
            let (found, wanted) = (dns::ask(&client, "db", A).sorted(), now("db"));
            holds(
                found.len() == 2 && found == wanted,
                format!("{found:?} {wanted:?}"),
            )
        });
        c.skep("n1", "service update -d --publish-add 8099:8080 db")
            .fails("port published with ingress mode can't be used with dnsrr mode");
        c.skep("n1", "service update -d --endpoint-mode vip db")
            .ok();
        eventually("the name is an address of its own", secs(20), || {
            let (found, wanted) = (
                dns::ask(&client, "db", A).sorted(),
                texts(c.vips("n1", "db", "net")),
            );
            holds(
                found == wanted && !now("db").contains(&found[0]),
                format!("{found:?}"),
            )
        });
    });
    checks.check("a wrong template of a host name is refused", || {
        c.skep(
            "n1",
            "service create -d --no-resolve-image --name wrong --hostname {{.Nothing}} skep/hello",
        )
        .fails("Nothing");
    });
    checks.check(
        "a service may have a resolver and a search list of its own",
        || {
            create(
                c,
                "picky",
                &format!(
                    "{at_n1} --network net --dns {OWN_RESOLVER} --dns-search example.test \
                 --dns-option timeout:3"
                ),
                &format!("{BUSY} sleep 1000"),
            );
            let (task, inside) = alone(c, "picky");
            let text = c.skep(
                "n1",
                &format!("exec {} cat /etc/resolv.conf", task.container),
            );
            let text = text.ok();
            for line in ["nameserver 127.0.0.11", "search example.test"] {
                assert!(text.lines().any(|other| other == line), "{text}");
            }
            let options = text
                .lines()
                .find(|line| line.starts_with("options "))
                .unwrap_or_default();
            assert!(
                options.contains("timeout:3") && options.contains("ndots:0"),
                "{text}"
            );
            assert_eq!(
                dns::ask(&inside, "near.example.test", A).found,
                ["127.0.0.1"]
            );
            assert_eq!(dns::ask(&inside, "out.example.test", A).code, NXDOMAIN);
            let ping = format!("exec {} busybox ping -c 1 -W 2 near", task.container);
            c.skep("n1", &ping).ok();
            assert!(own_upstream.was_asked("near.example.test"));
            assert!(!upstream.was_asked("near.example.test"));
            c.skep("n1", "service rm picky").ok();
        },
    );
    checks.check("who may not leave does not ask outside", || {
        create(c, "shut", &format!("{at_n1} --network inner"), HELLO);
        let (task, inside) = alone(c, "shut");
        wait_known(&inside, "shut", &texts(c.vips("n1", "shut", "inner")));
        wait_known(
            &inside,
            "tasks.shut",
            &texts(c.task_addresses("n1", &task, "inner")),
        );
        assert_ne!(dns::ask(&inside, "shut.example.test", A).code, NOERROR);
        assert_ne!(
            dns::ask(&inside, "db", A).code,
            NOERROR,
            "of another network"
        );
        for name in ["shut.example.test", "db"] {
            assert!(!upstream.was_asked(name), "{name} has left the host");
        }
        c.skep("n1", "service rm shut").ok();
    });
    checks.check("names are answered with the daemon dead", || {
        let vip = dns::ask(&client, "db", A);
        c.kill("n1");
        for _ in 0..10 {
            assert_eq!(dns::ask(&client, "db", A), vip);
            let answer = dns::ask(&client, "out.example.test", A);
            assert_eq!(answer.found, [outside.to_string()]);
        }
        c.start("n1");
        eventually("it is back", secs(20), || {
            c.try_api("n1", "GET", "/nodes", None)
        });
        assert_eq!(dns::ask(&client, "db", A), vip);
    });
    checks.end();
}
