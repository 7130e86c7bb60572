//! What becomes of the network when things move, daemons die, and hands that are not ours break it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use skep_e2e::dns;
use skep_e2e::station::{self, Outsider, Station};
use skep_e2e::talk;
use skep_e2e::tasks::Task;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, image, needs, patient, secs};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// Where the servers listen that the tests put into tasks, and the port it is published by.
const PORT: u16 = 5000;
const PUBLISHED: u16 = 8080;
/// The daemon looks every two seconds.
const REPAIRED: Duration = secs(3);

fn create(c: &Cluster, name: &str, flags: &str) {
    let line =
        format!("service create -d --no-resolve-image --name {name} {flags} skep/hello:latest");
    c.skep("n1", &line).ok();
}

/// The start of an id, as names of namespaces have it.
fn short(id: &str) -> &str {
    &id[..12]
}

fn netns(c: &Cluster, node: &str, name: &str) -> Station {
    Station::at(c.root.join(node).join("run/netns").join(name))
}

/// A client in a container, one outside, and what they ask.
struct Clients<'a> {
    c: &'a Cluster,
    inside: Station,
    outside: Outsider,
    vips: Vec<IpAddr>,
    tasks: BTreeSet<String>,
}

impl Clients<'_> {
    /// Asks everything: names, the service by both protocols and families, its port on every node.
    fn ask(&self) -> Result<(), String> {
        let found = dns::try_ask(&self.inside, "web", dns::A).map_err(|error| error.to_string())?;
        holds(found.found.len() == 1, format!("{found:?}"))?;
        for vip in &self.vips {
            let to = SocketAddr::new(*vip, PORT);
            let heard: Result<BTreeSet<String>, String> = (0..3)
                .map(|_| match talk::tcp(&self.inside, to) {
                    Ok(heard) => Ok(heard.name),
                    Err(error) => Err(format!("{to}: {error}")),
                })
                .collect();
            let heard = heard?;
            holds(heard == self.tasks, format!("{to}: {heard:?}"))?;
            talk::udp(&self.inside, to).map_err(|error| format!("udp {to}: {error}"))?;
        }
        for node in NODES {
            let to = SocketAddr::new(self.c.address(node).into(), PUBLISHED);
            for _ in 0..3 {
                talk::tcp(&self.outside.station, to).map_err(|error| format!("{to}: {error}"))?;
            }
        }
        Ok(())
    }

    #[track_caller]
    fn all_is_well(&self) {
        eventually("everything is reached", secs(5), || self.ask());
    }
}

/// The lines of a program's output that tell what is there, not which number it has.
fn shown(station: &Station, line: &str) -> Vec<String> {
    let ran = station.run(line);
    // A program that a signal ended has told nothing.
    assert!(!(129..160).contains(&ran.status), "{ran}");
    let plain = |line: &str| {
        let words = line.split_whitespace();
        words.collect::<Vec<_>>().join(" ")
    };
    // A device that is made anew has another address of its own.
    let lines = ran.out.lines().filter(|line| !line.contains(" master "));
    let mut lines: Vec<String> = lines.map(plain).collect();
    lines.sort();
    lines
}

/// Names of a namespace's links.
fn links(station: &Station) -> BTreeSet<String> {
    let out = station.ip("-o link");
    let names = out.lines().filter_map(|line| line.split(": ").nth(1));
    names
        .map(|name| name.split('@').next().unwrap_or_default().to_owned())
        .collect()
}

/// Everything of ours that a node has, by name.
fn inventory(c: &Cluster, node: &str) -> BTreeSet<String> {
    let root = station::node(c, node);
    let spaces = fs::read_dir(c.root.join(node).join("run/netns"));
    let spaces = spaces.into_iter().flatten().flatten();
    let mut all: BTreeSet<String> = spaces
        .map(|entry| format!("namespace {}", entry.file_name().display()))
        .collect();
    all.extend(links(&root).into_iter().map(|name| format!("link {name}")));
    let zones = fs::read_dir(c.root.join(node).join("run/dns"));
    let zones = zones.into_iter().flatten().flatten();
    let zones = zones.map(|entry| entry.file_name().display().to_string());
    // Others are of networks of the node alone.
    let ours = zones.filter(|name| name.len() == "0123456789abcdefghijklmno.zone".len());
    all.extend(ours.map(|name| format!("zone {name}")));
    for line in [
        "nft list table inet sk-mesh",
        "ip route",
        "ip neigh show nud permanent",
        "bridge fdb show dev sk-ing",
    ] {
        all.extend(shown(&root, line));
    }
    all
}

#[test]
fn the_network_is_kept() {
    let Some(busybox) = needs::busybox() else {
        return;
    };
    let Some(cluster) = Cluster::up(3, 1) else {
        return;
    };
    let c = &cluster;
    let archive = image::archive("busy:1", &image::root_file_system(&busybox));
    for node in NODES {
        c.skep_given(node, "load", &archive).ok();
    }
    c.skep(
        "n1",
        "network create -d overlay --attachable --ipv6 --subnet 10.73.0.0/24 \
         --subnet fd73:5::/64 net",
    )
    .ok();
    create(c, "web", "--mode global --network net --publish 8080:5000");
    create(c, "client", "--constraint node.hostname==n1 --network net");
    let webs = c.wait_running("n1", "web", 3, secs(30));
    for task in &webs {
        talk::serve(&c.inside_task(task), &task.id, PORT);
    }
    let task = c.wait_running("n1", "client", 1, secs(30)).remove(0);
    let clients = Clients {
        c,
        inside: c.inside_task(&task),
        outside: Outsider::plug(c, 101),
        vips: c.vips("n1", "web", "net"),
        tasks: webs.iter().map(|task| task.id.clone()).collect(),
    };
    let root = station::node(c, "n1");
    let foreign = [
        "nft add table inet other",
        "nft add chain inet other in '{ type filter hook input priority 5 ; }'",
        "nft add rule inet other in tcp dport 9 counter drop",
        "nft add table netdev other",
        "ip link add other0 type veth peer name other1",
        "ip addr add 192.0.2.1/32 dev other0",
        "ip link set other0 up",
        "ip route add 198.51.100.0/24 dev other0",
        "ip rule add pref 900 from 192.0.2.0/24 lookup 77",
        "ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev other0 nud permanent",
    ];
    for line in foreign {
        root.run(line).ok();
    }
    let others = || {
        [
            "nft list table inet other",
            "nft list table netdev other",
            "ip -o -4 addr show dev other0",
            "ip route show dev other0",
            "ip rule show pref 900",
            "ip neigh show dev other0",
        ]
        .map(|line| shown(&root, line))
    };
    let others_before = others();
    let mut checks = Checks::new();

    clients.all_is_well();
    checks.check("what is broken by hand is repaired", || {
        repair(c, &clients, &task);
    });
    checks.check("a network that is used cannot be removed", || {
        c.skep("n1", "network rm net").fails("is in use");
        clients.all_is_well();
    });
    checks.check("everything goes on with daemons dead", || {
        for node in ["n2", "n1"] {
            c.kill(node);
            clients.all_is_well();
            for _ in 0..5 {
                clients
                    .ask()
                    .unwrap_or_else(|error| panic!("{node} dead: {error}"));
            }
            c.start(node);
            c.wait_ready("n1", node, secs(20));
        }
        clients.all_is_well();
    });
    checks.check("an address is found where its container has moved", || {
        let ping = || clients.inside.run("busybox ping -c 1 -W 1 10.73.0.77");
        let neighbour = || clients.inside.ip("neigh show 10.73.0.77");
        let mut seen = BTreeSet::new();
        for node in ["n2", "n3", "n1", "n2"] {
            let line = "run -d --name mover --network net --ip 10.73.0.77 busy:1 sleep 1000";
            c.skep(node, line).ok();
            eventually(&format!("it is reached on {node}"), REPAIRED, || {
                holds(ping().status == 0, neighbour())
            });
            seen.extend(
                neighbour()
                    .split("lladdr ")
                    .nth(1)
                    .map(|rest| rest[..17].to_owned()),
            );
            c.skep(node, "rm -f mover").ok();
        }
        assert_eq!(seen.len(), 1, "{seen:?}");
    });
    checks.check("tasks that move are found where they are", || {
        create(c, "rep", "--replicas 3 --network net");
        let before = c.wait_running("n1", "rep", 3, secs(30));
        let vips = c.vips("n1", "rep", "net");
        c.skep("n1", "node update --availability drain n3").ok();
        let moved = |tasks: &[Task]| tasks.iter().all(|task| task.node != "n3");
        let after = eventually("they have moved", secs(30), || {
            let tasks = c.wait_running("n1", "rep", 3, secs(30));
            holds(moved(&tasks), skep_e2e::tasks::shown(&tasks)).map(|()| tasks)
        });
        assert!(!moved(&before));
        // The page of the image tells which task it is.
        let wanted: BTreeSet<String> = after.iter().map(|task| task.id.clone()).collect();
        assert_eq!(wanted.len(), 3);
        eventually("only they are led to", REPAIRED, || {
            let found = dns::addresses(&clients.inside, "tasks.rep");
            let addresses = after
                .iter()
                .flat_map(|task| c.task_addresses("n1", task, "net"));
            let mut wanted: Vec<String> = addresses.map(|ip| ip.to_string()).collect();
            wanted.sort();
            holds(found == wanted, format!("{found:?} {wanted:?}"))
        });
        for _ in 0..6 {
            for vip in &vips {
                let to = SocketAddr::new(*vip, 8080);
                talk::connect(&clients.inside, to).unwrap_or_else(|error| panic!("{to}: {error}"));
            }
        }
        c.skep("n1", "node update --availability active n3").ok();
        c.skep("n1", "service rm rep").ok();
        let webs = c.wait_running("n1", "web", 3, secs(30));
        for task in webs.iter().filter(|task| !clients.tasks.contains(&task.id)) {
            talk::serve(&c.inside_task(task), &task.id, PORT);
        }
    });
    checks.check("crashes in the middle of setting up leave nothing", || {
        let settled = || {
            eventually("only what was there is left", secs(40), || {
                let tasks = c.try_api("n1", "GET", "/tasks", None)?;
                let all = tasks.as_array().cloned().unwrap_or_default();
                let left = all.iter().filter(|task| task["DesiredState"] == "running");
                let left = left.count();
                holds(left == 4, left)
            });
        };
        c.skep("n1", "network create -d overlay much").ok();
        settled();
        let before = inventory(c, "n2");
        let mut made = Vec::new();
        for round in 0..3_u64 {
            for number in 0..5_u64 {
                let name = format!("much{round}{number}");
                let port = 8100 + round * 10 + number;
                create(
                    c,
                    &name,
                    &format!("--mode global --network much --publish {port}:8080"),
                );
                made.push(name);
                if number == 2 {
                    // At another moment of the set-up each time.
                    std::thread::sleep(Duration::from_millis(60 * round));
                    c.kill("n2");
                }
            }
            c.start("n2");
        }
        for name in &made {
            c.wait_running("n1", name, 3, secs(60));
        }
        for port in [8100, 8114, 8123] {
            eventually("its port answers", secs(5), || c.page("n2", port, "/"));
        }
        clients_inside_answer(c, &clients);
        c.skep("n1", &format!("service rm {}", made.join(" "))).ok();
        std::thread::sleep(Duration::from_millis(150));
        c.kill("n2");
        c.start("n2");
        settled();
        eventually("n2 has what it had", secs(20), || {
            let now = inventory(c, "n2");
            let differ: Vec<&String> = before.symmetric_difference(&now).collect();
            holds(differ.is_empty(), format!("{differ:#?}"))
        });
        c.skep("n1", "network rm much").ok();
    });
    checks.check(
        "what others have in the node's namespace is left alone",
        || {
            assert_eq!(others(), others_before);
        },
    );
    checks.end();
}

/// The tasks of the client's own service may have changed by a drain; its name may not have.
#[track_caller]
fn clients_inside_answer(c: &Cluster, clients: &Clients<'_>) {
    let found = dns::addresses(&clients.inside, "web");
    let vips: Vec<String> = c
        .vips("n1", "web", "net")
        .iter()
        .map(IpAddr::to_string)
        .collect();
    assert_eq!(found, vips);
}

/// Breaks one thing after another, and waits for it to be as before.
fn repair(c: &Cluster, clients: &Clients<'_>, client: &Task) {
    let id = c.get("n1", "/networks/net")["Id"].clone();
    let id = id.as_str().expect("an id");
    let root = station::node(c, "n1");
    let overlay = netns(c, "n1", &format!("n-{}", short(id)));
    let inside = netns(c, "n1", &format!("t-{}", short(&client.id)));
    let first = |station: &Station, line: &str, word: usize| {
        let out = station.run(line).ok();
        let line = out
            .lines()
            .find(|line| line.contains("dst ") || line.contains("lladdr"));
        let words = line.unwrap_or_default().split_whitespace();
        words
            .clone()
            .nth(word)
            .unwrap_or_else(|| panic!("{out}"))
            .to_owned()
    };
    let port = links(&overlay)
        .into_iter()
        .find(|name| name.starts_with('t'));
    let port = port.expect("a task's end");
    let leg = links(&root)
        .into_iter()
        .find(|name| name.starts_with("gw-"));
    let leg = leg.expect("a task's leg");
    let mac = first(&overlay, "bridge fdb show dev vxlan0", 0);
    let neighbour = first(&overlay, "ip neigh show dev vxlan0", 0);
    let mesh_mac = first(&root, "bridge fdb show dev sk-ing", 0);
    let mesh_neighbour = first(&root, "ip neigh show dev sk-ing nud permanent", 0);
    let entries = "bridge fdb show dev vxlan0";
    let neighbours = "ip neigh show dev vxlan0 nud permanent";
    let mesh = "nft list table inet sk-mesh";
    let egress = "nft list table netdev sk-mesh";
    let services = "nft list table inet sk-svc";
    let cases: Vec<(&Station, String, Vec<&str>)> = vec![
        (&root, "nft delete table inet sk-mesh".into(), vec![mesh]),
        (
            &root,
            "nft flush chain inet sk-mesh pre-nat".into(),
            vec![mesh],
        ),
        (&root, "nft flush map inet sk-mesh be4".into(), vec![mesh]),
        (
            &root,
            "nft delete table netdev sk-mesh".into(),
            vec![egress],
        ),
        (&root, "ip rule del pref 1000".into(), vec!["ip rule"]),
        (&root, "ip -6 rule del pref 1000".into(), vec!["ip -6 rule"]),
        (
            &root,
            "ip route flush table 20000".into(),
            vec!["ip route show table 20000"],
        ),
        (
            &root,
            format!("ip neigh del {mesh_neighbour} dev sk-ing"),
            vec!["ip neigh show dev sk-ing nud permanent"],
        ),
        (
            &root,
            format!("bridge fdb del {mesh_mac} dev sk-ing self"),
            vec!["bridge fdb show dev sk-ing"],
        ),
        (
            &root,
            "ip link set sk-ing down".into(),
            vec!["ip route show table 20000", egress],
        ),
        (
            &root,
            "ip link del sk-ing".into(),
            vec![
                "bridge fdb show dev sk-ing",
                "ip neigh show dev sk-ing nud permanent",
                "ip route show table 20000",
                egress,
            ],
        ),
        (
            &root,
            format!("ip link del {leg}"),
            vec!["ip route show table main"],
        ),
        (
            &root,
            format!("ip link set {leg} down"),
            vec!["ip route show table main"],
        ),
        (
            &overlay,
            format!("bridge fdb del {mac} dev vxlan0 self"),
            vec![entries],
        ),
        (
            &overlay,
            format!("ip neigh del {neighbour} dev vxlan0"),
            vec![neighbours],
        ),
        (&overlay, "ip link set vxlan0 down".into(), vec![entries]),
        (
            &overlay,
            "ip link del vxlan0".into(),
            vec![entries, neighbours],
        ),
        (&overlay, "ip link del br0".into(), vec![entries]),
        (
            &overlay,
            format!("ip link set {port} nomaster"),
            vec![entries],
        ),
        (&overlay, format!("ip link del {port}"), vec![entries]),
        (
            &inside,
            "nft delete table inet sk-svc".into(),
            vec![services],
        ),
        (
            &inside,
            "nft flush map inet sk-svc vip4".into(),
            vec![services],
        ),
        (
            &inside,
            "nft delete table inet sk-dns".into(),
            vec!["nft list table inet sk-dns"],
        ),
        (&inside, "ip link set eth0 down".into(), vec!["ip route"]),
        (&inside, "ip addr flush dev eth0".into(), vec!["ip route"]),
        (&inside, "ip route del default".into(), vec!["ip route"]),
    ];
    let mut failed = Vec::new();
    for (station, line, shows) in cases {
        let look = || {
            shows
                .iter()
                .map(|line| shown(station, line))
                .collect::<Vec<_>>()
        };
        let before = look();
        let began = std::time::Instant::now();
        station.run(&line).ok();
        // Some lines break at once what another shows.
        let repaired = loop {
            if look() == before {
                break Ok(());
            }
            if began.elapsed() > patient(REPAIRED) {
                break Err(format!("{:#?}, not {before:#?}", look()));
            }
            std::thread::sleep(Duration::from_millis(25));
        };
        let repaired = repaired.and_then(|()| {
            let mut last = Ok(());
            while began.elapsed() < patient(REPAIRED + REPAIRED) {
                last = clients.ask();
                if last.is_ok() {
                    break;
                }
            }
            last
        });
        println!("       {:.1} s  {line}", began.elapsed().as_secs_f64());
        if let Err(why) = repaired {
            failed.push(format!("{line}: {why}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
