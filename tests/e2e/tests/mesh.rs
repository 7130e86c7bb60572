//! Published ports from everywhere: what the task sees, and what can be asked of a port.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use skep_e2e::station::{self, Outsider, Station, address6};
use skep_e2e::talk::{self, Connection};
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, secs};

const PORT: u16 = 8080;
/// Where the servers listen that the tests put into tasks.
const TARGET: u16 = 5000;
const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// A node's addresses of both families.
fn entries(c: &Cluster, node: &str) -> [IpAddr; 2] {
    let number = 10 + NODES.iter().position(|name| *name == node).expect("a node") as u8 + 1;
    [c.address(node).into(), address6(number).into()]
}

fn four(c: &Cluster, number: u8) -> IpAddr {
    let [a, b, d] = c.subnet;
    IpAddr::from([a, b, d, number])
}

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// A node's addresses on the ingress network.
fn ingress(c: &Cluster, node: &str) -> BTreeSet<IpAddr> {
    let nodes = c.get("n1", "/nodes");
    let nodes = nodes.as_array().into_iter().flatten();
    let mut found = nodes.filter(|found| found["Description"]["Hostname"] == node);
    let addresses = found.next().expect("the node")["IngressAddresses"].clone();
    let texts = addresses.as_array().into_iter().flatten();
    texts
        .filter_map(|text| text.as_str()?.split('/').next()?.parse().ok())
        .collect()
}

/// Gives the nodes IPv6 addresses, which they tell.
fn speak_ip6(c: &Cluster) {
    for node in NODES {
        let [_, ip6] = entries(c, node);
        let address = format!("{ip6}/64");
        let line = ["ip", "addr", "add", &address, "dev", "eth0", "nodad"];
        c.exec(node, &line).ok();
    }
    for node in NODES {
        eventually("its addresses are known", secs(20), || {
            let nodes = c.try_api("n1", "GET", "/nodes", None)?.to_string();
            holds(nodes.contains(&entries(c, node)[1].to_string()), nodes)
        });
    }
}

#[test]
fn published_ports() {
    let Some(cluster) = Cluster::up(3, 1) else {
        return;
    };
    let c = &cluster;
    speak_ip6(c);
    let outsiders = [101, 102].map(|number| (number, Outsider::plug(c, number)));
    let client = &outsiders[0].1.station;
    let web = talk::serve_task(
        TARGET,
        c,
        "web",
        "n3",
        "--publish 8080:5000 --publish 8080:5000/udp --publish mode=host,target=5000,published=9090",
    );
    let by = talk::serve_task(TARGET, c, "by", "n3", "");
    let by_a = talk::serve_task(TARGET, c, "by-a", "n1", "");
    let mut checks = Checks::new();
    let ask = |from: &Station, to: IpAddr| {
        let heard = talk::tcp(from, at(to, PORT));
        heard.unwrap_or_else(|error| panic!("{from:?} -> {to}: {error}"))
    };

    checks.check("every node answers, and the task sees the client", || {
        eventually("all nodes lead to it", secs(10), || {
            let all = NODES.iter().flat_map(|node| entries(c, node));
            let mut asked = all.map(|entry| talk::tcp(client, at(entry, PORT)));
            asked.try_for_each(|heard| heard.map(drop))
        });
        for (number, outsider) in &outsiders {
            let own = [four(c, *number), address6(*number).into()];
            for entry in NODES.iter().flat_map(|node| entries(c, node)) {
                let own = own[usize::from(entry.is_ipv6())];
                let heard = ask(&outsider.station, entry);
                assert_eq!((heard.peer.ip(), heard.name.as_str()), (own, "web"));
                let heard = talk::udp(&outsider.station, at(entry, PORT));
                let heard = heard.unwrap_or_else(|error| panic!("udp {entry}: {error}"));
                assert_eq!(heard.peer.ip(), own, "udp {entry}");
            }
        }
    });
    checks.check("one source port to three nodes at once", || {
        for family in [0, 1] {
            let entry = |node| at(entries(c, node)[family], PORT);
            let mut open: Vec<Connection> = NODES
                .iter()
                .map(|node| Connection::open(client, entry(node), 5555).expect("it connects"))
                .collect();
            let heard: Vec<_> = open.iter_mut().map(|one| one.ask().unwrap()).collect();
            let ports: BTreeSet<u16> = heard.iter().map(|heard| heard.peer.port()).collect();
            assert!(ports.len() == 3 && ports.contains(&5555), "{heard:?}");
            for connection in &mut open {
                connection.ask().expect("all go on");
            }
            for node in NODES {
                let heard = talk::udp_from(client, entry(node), 5556, 1);
                heard.unwrap_or_else(|error| panic!("udp {node}: {error}"));
            }
        }
    });
    checks.check("nodes are clients as well", || {
        for family in [0, 1] {
            let of = |node| entries(c, node)[family];
            let from = |node| station::node(c, node);
            assert_eq!(
                ask(&from("n1"), of("n1")).peer.ip(),
                of("n1"),
                "n1 to itself"
            );
            for other in ["n2", "n3"] {
                let seen = ask(&from(other), of("n1")).peer.ip();
                assert!(ingress(c, "n1").contains(&seen), "{other} -> n1: {seen}");
            }
        }
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let seen = ask(&station::node(c, "n1"), loopback).peer.ip();
        assert!(ingress(c, "n1").contains(&seen), "127.0.0.1 on n1: {seen}");
        let seen = ask(&station::node(c, "n3"), loopback).peer.ip();
        assert_eq!(seen, IpAddr::from([172, 18, 0, 1]), "127.0.0.1 on n3");
        let loopback = IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]);
        let node = station::node(c, "n1");
        assert!(talk::is_refused(&node, at(loopback, PORT)), "[::1]");
        assert!(talk::udp(&node, at(loopback, PORT)).is_err());
    });
    checks.check("containers are clients as well", || {
        for family in [0, 1] {
            let of = |node| entries(c, node)[family];
            for (who, from, to) in [
                ("another on n3", &by, "n3"),
                ("the task itself", &web, "n3"),
                ("another on n1", &by_a, "n1"),
                ("another on n3", &by, "n1"),
            ] {
                let heard = talk::tcp(from, at(of(to), PORT));
                let heard = heard.unwrap_or_else(|error| panic!("{who} -> {to}: {error}"));
                assert_eq!(heard.name, "web", "{who} -> {to}");
            }
        }
        let tasks = c.get("n1", "/tasks?filters=%7B%22service%22%3A%5B%22web%22%5D%7D");
        let attachments = &tasks[0]["NetworksAttachments"];
        let address = attachments[0]["Addresses"][0].as_str().expect("an address");
        let address: IpAddr = address.split('/').next().unwrap().parse().unwrap();
        let heard = talk::tcp(&by_a, at(address, TARGET)).expect("the published port");
        assert_eq!(heard.name, "web");
        let closed = Connection::open(&by_a, at(address, PORT), 0);
        assert!(closed.is_err(), "and no other");
    });
    checks.check("strict reverse path filtering changes nothing", || {
        let set = |value: &str| {
            let line = format!("echo {value} > /proc/sys/net/ipv4/conf/all/rp_filter");
            c.exec("n3", &["sh", "-c", &line]).ok();
        };
        set("1");
        let heard = ask(client, entries(c, "n1")[0]);
        set("0");
        assert_eq!(heard.peer.ip(), four(c, 101));
    });
    checks.check("a datagram that is too long is told so", || {
        let entry = entries(c, "n1")[0];
        // 1500 bytes with its headers: the answer, if any, is not of interest.
        let _ = talk::udp_from(client, at(entry, PORT), 0, 1472);
        eventually("the client knows the path", secs(3), || {
            let route = client.ip(&format!("route get {entry}"));
            holds(route.contains("mtu 1450"), route)
        });
    });
    checks.check("a host-mode port is its node's alone", || {
        for family in [0, 1] {
            let own = [four(c, 101), address6(101).into()][family];
            let heard = talk::tcp(client, at(entries(c, "n3")[family], 9090)).unwrap();
            assert_eq!(heard.peer.ip(), own);
            assert!(talk::is_refused(client, at(entries(c, "n1")[family], 9090)));
        }
    });
    checks.check("tasks go out over IPv6", || {
        talk::serve(client, "outside", 7000);
        let heard = talk::tcp(&by_a, at(address6(101).into(), 7000)).unwrap();
        assert_eq!(heard.peer.ip(), entries(c, "n1")[1]);
    });
    checks.check("a port answers on one address, or on an interface", || {
        let [own, _] = entries(c, "n1");
        talk::serve_task(
            TARGET,
            c,
            "one",
            "n2",
            &format!("--publish {own}:8081:5000"),
        );
        let other = entries(c, "n2")[0];
        talk::serve_task(
            TARGET,
            c,
            "two",
            "n3",
            &format!("--publish {other}:8081:5000 --publish eth0:8082:5000"),
        );
        eventually("both answer", secs(10), || {
            let one = talk::tcp(client, at(own, 8081)).map_err(|error| error.to_string())?;
            let two = talk::tcp(client, at(other, 8081)).map_err(|error| error.to_string())?;
            holds(
                (one.name.as_str(), two.name.as_str()) == ("one", "two"),
                "mixed up",
            )
        });
        assert!(talk::is_refused(client, at(entries(c, "n3")[0], 8081)));
        eventually("the interface answers", secs(10), || {
            talk::tcp(client, at(entries(c, "n3")[1], 8082))
        });
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert!(talk::is_refused(
            &station::node(c, "n1"),
            at(loopback, 8082)
        ));
        let listed = c.skep("n1", "service ls").ok();
        for shown in [
            format!("{own}:8081->5000/tcp"),
            "eth0:8082->5000/tcp".to_owned(),
        ] {
            assert!(listed.contains(&shown), "{listed}");
        }
        c.skep(
            "n1",
            &format!(
                "service create -d --no-resolve-image --name no --publish {own}:8081:80 skep/hello"
            ),
        )
        .fails("port '8081' is already in use by service 'one'");
        c.skep("n1", "service rm one two").ok();
    });
    checks.check(
        "a label has the task see the node, and another goes back",
        || {
            c.skep(
                "n1",
                "service update -d --label-add skep.publish.8080.source=snat web",
            )
            .ok();
            let entry = entries(c, "n2");
            eventually("clients are hidden", secs(10), || {
                let seen =
                    entry.map(|entry| talk::tcp(client, at(entry, PORT)).map(|h| h.peer.ip()));
                let hidden = |seen: &Result<IpAddr, std::io::Error>| {
                    seen.as_ref().is_ok_and(|ip| ingress(c, "n2").contains(ip))
                };
                holds(seen.iter().all(hidden), format!("{seen:?}"))
            });
            c.skep(
                "n1",
                "service update -d --label-add skep.publish.8080.source=x web",
            )
            .fails("must be client, snat, proxy-protocol or proxy-protocol-v1");
            c.skep(
                "n1",
                "service update -d --label-rm skep.publish.8080.source web",
            )
            .ok();
            eventually("clients are seen", secs(10), || {
                let heard =
                    talk::tcp(client, at(entry[0], PORT)).map_err(|error| error.to_string())?;
                holds(heard.peer.ip() == four(c, 101), format!("{heard:?}"))
            });
            let task = c.wait_running("n1", "web", 1, secs(10)).remove(0);
            let pid = c.container_pid(&task.node, &task.container);
            assert!(web.is_of(pid.expect("it runs")), "the task is the same one");
        },
    );
    checks.check(
        "a relay says who the client is, with the daemon dead",
        || {
            talk::serve_task(
                TARGET,
                c,
                "relayed",
                "n3",
                "--publish published=8083,target=5000,source=proxy-protocol-v1",
            );
            for node in ["n1", "n3"] {
                for (entry, own) in entries(c, node)
                    .into_iter()
                    .zip([four(c, 101), address6(101).into()])
                {
                    let (header, answer) = eventually("it is relayed", secs(10), || {
                        Connection::open(client, at(entry, 8083), 0)?.ask_through_relay()
                    });
                    let family = if entry.is_ipv4() { "TCP4" } else { "TCP6" };
                    let wanted = format!("PROXY {family} {own} {entry} ");
                    assert!(header.line.starts_with(&wanted), "{header:?}");
                    assert_eq!(answer.line, "hello");
                    assert!(ingress(c, node).contains(&answer.peer.ip()), "{answer:?}");
                }
            }
            let entry = at(entries(c, "n1")[0], 8083);
            let mut kept = Connection::open(client, entry, 0).unwrap();
            kept.ask_through_relay().unwrap();
            c.kill("n1");
            kept.ask().expect("it goes on");
            let (_, answer) = Connection::open(client, entry, 0)
                .unwrap()
                .ask_through_relay()
                .unwrap();
            assert_eq!(answer.line, "hello");
            c.start("n1");
            kept.ask().expect("it is adopted");
            drop(kept);
            c.skep("n1", "service rm relayed").ok();
            eventually("the relay ends", secs(10), || {
                let processes = c.processes().join("\n");
                holds(!processes.contains("relay"), processes)
            });
        },
    );
    checks.check(
        "balance=local stays on the node, and ranges are counted out",
        || {
            let flags =
                "--publish published=8090,target=5000,balance=local --publish 8100-8102:5000-5002";
            talk::serve_task(TARGET, c, "near", "n1", flags);
            c.skep(
                "n1",
                "service update -d --constraint-rm node.hostname==n1 near",
            )
            .ok();
            c.skep("n1", "service scale -d near=3").ok();
            let tasks = c.wait_running("n1", "near", 3, secs(30));
            for task in &tasks {
                let pid = c
                    .container_pid(&task.node, &task.container)
                    .expect("it runs");
                let inside = Station::of(pid);
                // The first one may serve already.
                if !talk::is_served(&inside, TARGET) {
                    talk::serve(&inside, &task.node, TARGET);
                }
            }
            let nodes: BTreeSet<&str> = tasks.iter().map(|task| task.node.as_str()).collect();
            assert_eq!(nodes.len(), 3, "one on each: {tasks:?}");
            for node in ["n2", "n3"] {
                let entry = at(entries(c, node)[0], 8090);
                eventually("only its own task answers", secs(10), || {
                    let names = (0..6).map(|_| talk::tcp(client, entry).map(|heard| heard.name));
                    let names: Result<BTreeSet<String>, _> = names.collect();
                    let names = names.map_err(|error| error.to_string())?;
                    holds(
                        names.len() == 1 && names.contains(node),
                        format!("{names:?}"),
                    )
                });
            }
            let shown = c.skep("n1", "service ls --filter name=near").ok();
            assert!(shown.contains("*:8100-8102->5000-5002/tcp"), "{shown}");
            let shown = c.skep("n1", "service inspect --pretty near").ok();
            assert!(shown.contains("Balance = local"), "{shown}");
            c.skep("n1", "service rm near").ok();
        },
    );
    checks.check("stack files and labels of the docker client ask the same", || {
        let file = "services:\n  web:\n    image: skep/hello:latest\n    ports:\n      - {target: 80, published: 8091, host_ip: 127.0.0.1, x-skep-source: snat}\n";
        c.skep_given("n1", "stack deploy --detach --resolve-image never -c - shop", file.as_bytes()).ok();
        eventually("the port is given out as asked", secs(5), || {
            let port = c.get("n1", "/services/shop_web")["Endpoint"]["Ports"][0].clone();
            holds(port["HostIP"] == "127.0.0.1" && port["Source"] == "snat", port)
        });
        c.skep("n1", "stack rm shop").ok();
        if skep_e2e::needs::docker().is_none() {
            println!("skipped: no docker client");
            return;
        }
        let create = "service create -d --no-resolve-image --name labelled --publish 8092:80";
        let label = "--label skep.publish.8092.host-ip=127.0.0.1";
        c.docker("n1", &format!("{create} {label} skep/hello:latest")).ok();
        // The client reads the service and sends it back: the allocator may write in between.
        eventually("the docker client updates it", secs(5), || {
            let ran = c.docker("n1", "service update -d --env-add A=B labelled");
            holds(ran.status == 0, ran)
        });
        eventually("the label holds after an update", secs(5), || {
            let port = c.get("n1", "/services/labelled")["Endpoint"]["Ports"][0].clone();
            holds(port["HostIP"] == "127.0.0.1", port)
        });
        c.skep("n1", "service rm labelled").ok();
    });
    checks.check("SCTP is published where the kernel has it, else refused by name", || {
        c.skep("n1", "service create -d --no-resolve-image --name sctp --publish 8093:5000/sctp skep/hello:latest").ok();
        eventually("the task runs, or says why not", secs(20), || {
            let tasks = c.tasks("n1", "sctp");
            let told = "port 5000/sctp cannot be published on this node: its kernel has no SCTP";
            let ends = |task: &skep_e2e::tasks::Task| task.state == "running" || task.error.contains(told);
            holds(tasks.iter().any(ends), skep_e2e::tasks::shown(&tasks))
        });
        c.skep("n1", "service rm sctp").ok();
    });
    checks.check("the ingress network is replaced by another", || {
        c.skep_given("n1", "network rm ingress", b"y\n")
            .fails("ingress network cannot be removed because service");
        c.skep("n1", "service rm web by by-a").ok();
        eventually("it is removed", secs(30), || {
            let ran = c.skep_given("n1", "network rm ingress", b"y\n");
            holds(ran.status == 0, ran)
        });
        c.skep("n1", "network create -d overlay --ingress --subnet 10.254.0.0/24 --opt com.docker.network.driver.mtu=1400 mine")
            .ok();
        c.skep("n1", "network create -d overlay --ingress other")
            .fails("is already present");
        // The relay is there when everything is taken down.
        talk::serve_task(TARGET, c,
            "again",
            "n3",
            "--publish 8084:5000 --publish published=8085,target=5000,source=proxy-protocol",
        );
        for entry in NODES.iter().flat_map(|node| entries(c, node)) {
            let heard = eventually("every node answers", secs(10), || {
                talk::tcp(client, at(entry, 8084))
            });
            let own = [four(c, 101), address6(101).into()][usize::from(entry.is_ipv6())];
            assert_eq!(heard.peer.ip(), own, "{entry}");
        }
        let link = c.exec("n2", &["ip", "addr", "show", "sk-ing"]).ok();
        assert!(link.contains("mtu 1400") && link.contains("10.254.0."), "{link}");
    });
    checks.end();
}
