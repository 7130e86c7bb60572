//! Nodes whose addresses change: they are reached as before, and nothing of the old ones stays.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use skep_e2e::dns;
use skep_e2e::station::{self, Outsider, Station, address6};
use skep_e2e::talk;
use skep_e2e::tasks::Task;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, secs};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// Where the servers listen that the tests put into tasks, and the port it is published by.
const PORT: u16 = 5000;
const PUBLISHED: u16 = 8080;
/// A change is seen within two seconds, or five where an address was given, and sessions and packets
/// follow within one; machines of tests are slow.
const FOLLOWED: Duration = secs(20);

fn four(c: &Cluster, number: u8) -> Ipv4Addr {
    let [a, b, d] = c.subnet;
    Ipv4Addr::new(a, b, d, number)
}

/// Replaces a node's addresses on the wire. Nobody tells its daemon.
fn swap(c: &Cluster, node: &str, swaps: &[(String, String)]) {
    // Else the first one of a subnet takes the others with it.
    let keep = "echo 1 > /proc/sys/net/ipv4/conf/eth0/promote_secondaries";
    c.exec(node, &["sh", "-c", keep]).ok();
    let root = station::node(c, node);
    for (_, to) in swaps {
        let now = if to.contains(':') { "nodad" } else { "" };
        root.ip(&format!("addr replace {to} dev eth0 {now}"));
    }
    for (from, _) in swaps {
        root.ip(&format!("addr del {from} dev eth0"));
    }
}

/// With the lengths of their prefixes, by their last numbers.
fn on_wire4(c: &Cluster, number: u8) -> String {
    format!("{}/24", four(c, number))
}

fn on_wire6(number: u8) -> String {
    format!("{}/64", address6(number))
}

/// The same by the last numbers of its addresses, which it has of both families.
fn renumber(c: &Cluster, node: &str, from: u8, to: u8) {
    let swaps = [
        (on_wire4(c, from), on_wire4(c, to)),
        (on_wire6(from), on_wire6(to)),
    ];
    swap(c, node, &swaps);
}

/// A node as a manager tells of it.
fn described(c: &Cluster, at: &str, node: &str) -> Result<Value, String> {
    let nodes = c.try_api(at, "GET", "/nodes", None)?;
    let nodes = nodes.as_array().cloned().unwrap_or_default();
    let is_it = |found: &Value| {
        found["Description"]["Hostname"] == node && found["Status"]["State"] == "ready"
    };
    nodes
        .into_iter()
        .find(is_it)
        .ok_or_else(|| format!("no node {node} is ready"))
}

/// Tasks on all nodes, and clients inside of two and outside.
struct Scene<'a> {
    c: &'a Cluster,
    webs: Vec<Task>,
    clients: Vec<Station>,
    outside: Outsider,
    vips: Vec<IpAddr>,
    /// Of an encrypted network, where nodes can encrypt.
    secret: Vec<IpAddr>,
}

impl<'a> Scene<'a> {
    fn set(c: &'a Cluster) -> Self {
        let can_encrypt = c.get("n1", "/nodes")[0]["Description"]["Encryption"]["Method"] != "none";
        let networks = match can_encrypt {
            true => "--network net --network secret",
            false => "--network net",
        };
        for (name, number, flags) in [("net", 75, ""), ("secret", 76, "--opt encrypted")] {
            if can_encrypt || flags.is_empty() {
                let line = format!(
                    "network create -d overlay {flags} --ipv6 --subnet 10.{number}.0.0/24 \
                     --subnet fd{number}:5::/64 {name}"
                );
                c.skep("n1", &line).ok();
            }
        }
        let create = |name: &str, flags: &str| {
            let line = format!(
                "service create -d --no-resolve-image --name {name} --mode global {networks} \
                 {flags} skep/hello:latest"
            );
            c.skep("n1", &line).ok();
        };
        let publish = format!("--publish {PUBLISHED}:{PORT} --publish {PUBLISHED}:{PORT}/udp");
        create("web", &publish);
        create("client", "");
        let webs = c.wait_running("n1", "web", NODES.len(), secs(30));
        for task in &webs {
            talk::serve(&c.inside_task(task), &task.id, PORT);
        }
        let clients = c.wait_running("n1", "client", NODES.len(), secs(30));
        Self {
            c,
            clients: clients.iter().map(|task| c.inside_task(task)).collect(),
            outside: Outsider::plug(c, 101),
            vips: c.vips("n1", "web", "net"),
            secret: match can_encrypt {
                true => c.vips("n1", "web", "secret"),
                false => Vec::new(),
            },
            webs,
        }
    }

    /// Asks everything of everybody; `numbers` are the last ones of the nodes' addresses.
    fn ask(&self, numbers: [u8; 3]) -> Result<(), String> {
        let all: BTreeSet<String> = self.webs.iter().map(|task| task.id.clone()).collect();
        for client in &self.clients {
            let found = dns::try_ask(client, "tasks.web", dns::A);
            let found = found.map_err(|error| error.to_string())?.found;
            holds(found.len() >= all.len(), format!("{found:?}"))?;
            for vip in self.vips.iter().chain(&self.secret) {
                let to = SocketAddr::new(*vip, PORT);
                let heard: Result<BTreeSet<String>, String> = (0..all.len())
                    .map(|_| match talk::tcp(client, to) {
                        Ok(heard) => Ok(heard.name),
                        Err(error) => Err(format!("{client:?} to {to}: {error}")),
                    })
                    .collect();
                holds(heard? == all, format!("{client:?} to {to}: not all"))?;
                let heard = talk::udp(client, to);
                heard.map_err(|error| format!("{client:?} to udp {to}: {error}"))?;
            }
        }
        let c = self.c;
        let nodes = NODES.map(|node| station::node(c, node));
        for from in nodes.iter().chain([&self.outside.station]) {
            for number in numbers {
                for ip in [four(c, number).into(), address6(number).into()] {
                    let to = SocketAddr::new(ip, PUBLISHED);
                    for _ in 0..all.len() {
                        let heard = talk::tcp(from, to);
                        heard.map_err(|error| format!("{from:?} to {to}: {error}"))?;
                    }
                    let heard = talk::udp(from, to);
                    heard.map_err(|error| format!("{from:?} to udp {to}: {error}"))?;
                }
            }
        }
        Ok(())
    }

    /// No node has anything of these addresses left.
    fn has_forgotten(&self, number: u8) -> Result<(), String> {
        let c = self.c;
        let ids = ["net", "secret"]
            .map(|name| c.try_api("n1", "GET", &format!("/networks/{name}"), None));
        let ids: Vec<String> = ids
            .into_iter()
            .flatten()
            .filter_map(|network| Some(network["Id"].as_str()?[..12].to_owned()))
            .collect();
        for node in NODES {
            let root = station::node(c, node);
            let mut seen: Vec<(String, String)> = [
                "nft list table inet sk-mesh",
                "bridge fdb show dev sk-ing",
                "ip -d link show dev sk-ing",
                "ip -o addr show dev eth0",
            ]
            .map(|line| (line.to_owned(), root.run(line).out))
            .into();
            for id in &ids {
                let inside = Station::at(c.root.join(format!("{node}/run/netns/n-{id}")));
                for line in ["bridge fdb show dev vxlan0", "ip -d link show dev vxlan0"] {
                    seen.push((format!("{line} of {id}"), inside.run(line).out));
                }
            }
            for (line, out) in seen {
                let words = || out.split(|at: char| !(at.is_ascii_hexdigit() || ".:".contains(at)));
                for old in [four(c, number).to_string(), address6(number).to_string()] {
                    let stays = words().any(|word| word == old);
                    holds(!stays, format!("{node}: {line} has {old}: {out}"))?;
                }
            }
        }
        Ok(())
    }

    /// All is as it should be with the nodes at these addresses, and none at the old one.
    #[track_caller]
    fn is_well(&self, numbers: [u8; 3], old: Option<u8>) {
        let well = || {
            for (node, number) in NODES.iter().zip(numbers) {
                let shown = described(self.c, "n1", node)?;
                let wanted = four(self.c, number).to_string();
                let told = shown["Description"]["Addresses"].to_string();
                let gone = old.map(|old| four(self.c, old).to_string());
                holds(
                    // It may be heard from any that it has.
                    shown["Status"]["Addr"] != gone.unwrap_or_default().as_str()
                        && shown["Description"]["DataPathAddr"] == wanted.as_str()
                        && told.contains(&address6(number).to_string()),
                    format!("{} {}", shown["Status"], shown["Description"]),
                )?;
            }
            old.map_or(Ok(()), |old| self.has_forgotten(old))?;
            self.ask(numbers)
        };
        eventually("everything is reached", FOLLOWED, well);
    }
}

#[test]
fn workers_are_followed() {
    let Some(cluster) = Cluster::up(3, 1) else {
        return;
    };
    let c = &cluster;
    let mut checks = Checks::new();
    // One that was told its interface, beside one that was given its address.
    let token = c.skep("n1", "swarm join-token -q worker").ok();
    c.skep("n3", "swarm leave").ok();
    eventually("n3 is gone", secs(20), || {
        let removed = c.skep("n1", "node rm --force n3");
        holds(removed.status == 0, removed)
    });
    let line = format!(
        "swarm join --token {} --advertise-addr eth0 {}:2377",
        token.trim(),
        c.address("n1")
    );
    c.skep("n3", &line).ok();
    c.wait_ready("n1", "n3", secs(20));
    for (number, node) in (11..).zip(NODES) {
        let line = format!("addr add {}/64 dev eth0 nodad", address6(number));
        station::node(c, node).ip(&line);
    }
    let scene = Scene::set(c);
    checks.check("addresses that are added are told", || {
        scene.is_well([11, 12, 13], None);
    });
    checks.check("what containers have is not told", || {
        c.skep("n3", "network create own").ok();
        c.skep("n3", "run -d --name own --network own skep/hello:latest")
            .ok();
        let bridge = c.get("n3", "/networks/own");
        let gateway = bridge["IPAM"]["Config"][0]["Gateway"]
            .as_str()
            .expect("one")
            .to_owned();
        let root = station::node(c, "n3");
        assert!(root.ip("-o addr").contains(&format!("{gateway}/")));
        root.ip("addr add 192.0.2.13/32 dev lo");
        root.ip("link add other0 type veth peer name other1");
        root.ip("addr add 192.0.2.14/32 dev other0");
        let told = eventually("another one is", FOLLOWED, || {
            let told = described(c, "n1", "n3")?["Description"]["Addresses"].to_string();
            holds(told.contains("192.0.2.14"), &told).map(|()| told.clone())
        });
        assert!(
            !told.contains(&gateway) && !told.contains("192.0.2.13"),
            "{told}"
        );
        root.ip("link del other0");
        c.skep("n3", "rm -f own").ok();
        c.skep("n3", "network rm own").ok();
    });
    checks.check(
        "a node that was told its interface has another address",
        || {
            renumber(c, "n3", 13, 43);
            scene.is_well([11, 12, 43], Some(13));
            let info = c.get("n3", "/info");
            assert_eq!(info["Swarm"]["NodeAddr"], four(c, 43).to_string().as_str());
        },
    );
    checks.check(
        "a node that was given an address has another, until it comes back",
        || {
            renumber(c, "n2", 12, 42);
            scene.is_well([11, 42, 43], Some(12));
            let root = station::node(c, "n2");
            root.ip(&format!("addr add {}/24 dev eth0", four(c, 12)));
            root.ip(&format!("addr add {}/64 dev eth0 nodad", address6(12)));
            scene.is_well([11, 12, 43], None);
            root.ip(&format!("addr del {}/24 dev eth0", four(c, 42)));
            root.ip(&format!("addr del {}/64 dev eth0", address6(42)));
            scene.is_well([11, 12, 43], Some(42));
        },
    );
    checks.check(
        "a node that has another address while its daemon is away",
        || {
            c.kill("n3");
            renumber(c, "n3", 43, 53);
            c.start("n3");
            scene.is_well([11, 12, 53], Some(43));
        },
    );
    checks.check(
        "the only manager has another address, which it has told before",
        || {
            let root = station::node(c, "n1");
            root.ip(&format!("addr add {} dev eth0", on_wire4(c, 41)));
            let new = four(c, 41).to_string();
            eventually("the other nodes know it", FOLLOWED, || {
                let table = |node| {
                    station::node(c, node)
                        .run("nft list table inet sk-mesh")
                        .out
                };
                let known = ["n2", "n3"].map(table);
                holds(
                    known.iter().all(|table| table.contains(&new)),
                    known.join("\n"),
                )
            });
            renumber(c, "n1", 11, 41);
            let manager = format!("{new}:2377");
            for node in ["n2", "n3"] {
                eventually("workers find it", secs(40), || {
                    let known =
                        c.try_api(node, "GET", "/info", None)?["Swarm"]["RemoteManagers"].clone();
                    holds(known[0]["Addr"] == manager.as_str(), known)
                });
            }
            // It may have taken them for lost meanwhile.
            let line = "service create -d --no-resolve-image --name late --mode global \
                        --network net skep/hello:latest";
            c.skep("n1", line).ok();
            let late = c.wait_running("n1", "late", NODES.len(), secs(30));
            for from in late.iter().map(|task| c.inside_task(task)) {
                for vip in c.vips("n1", "late", "net") {
                    eventually("every task reaches all", FOLLOWED, || {
                        // The image's page; one after the other.
                        let mut asked = late
                            .iter()
                            .map(|_| talk::connect(&from, (vip, 8080).into()));
                        asked.try_for_each(|asked| asked.map(drop))
                    });
                }
            }
        },
    );
    checks.end();
}

/// Managers by the last numbers of their addresses.
struct Managers<'a> {
    c: &'a Cluster,
    numbers: BTreeMap<&'static str, u8>,
}

impl<'a> Managers<'a> {
    fn of(c: &'a Cluster) -> Self {
        let numbers = NODES.into_iter().zip(11..).take(c.nodes.len());
        Self {
            c,
            numbers: numbers.collect(),
        }
    }

    /// Gives one another address.
    fn renumber(&mut self, node: &str) {
        let number = self.numbers.get_mut(node).expect("a manager");
        let (from, to) = (*number, *number + 30);
        let swaps = [(on_wire4(self.c, from), on_wire4(self.c, to))];
        swap(self.c, node, &swaps);
        *number = to;
    }

    fn leader(&self) -> &'static str {
        let leader = eventually("one leads", secs(20), || {
            let mut all = self.numbers.keys().map(|node| self.c.leader(node));
            all.find(Result::is_ok)
                .unwrap_or_else(|| Err("nobody says".to_owned()))
        });
        let known = self.numbers.keys().find(|node| **node == leader);
        known.expect("a manager")
    }

    /// Waits until all tell the same of each other, and get something done.
    #[track_caller]
    fn agree(&self, name: &str) {
        let c = self.c;
        eventually("managers know each other", secs(40), || {
            for at in self.numbers.keys() {
                for (node, number) in &self.numbers {
                    let shown = described(c, at, node)?;
                    let status = &shown["ManagerStatus"];
                    let wanted = format!("{}:2377", four(c, *number));
                    holds(
                        status["Addr"] == wanted.as_str() && status["Reachability"] == "reachable",
                        format!("{at} of {node}: {status}"),
                    )?;
                }
            }
            Ok::<_, String>(())
        });
        for at in self.numbers.keys() {
            eventually(&format!("{at} gets something done"), secs(20), || {
                let made = c.skep(at, &format!("network create -d overlay {name}-{at}"));
                let is_made = made.status == 0 || made.err.contains("already exists");
                holds(is_made, made)
            });
        }
    }
}

#[test]
fn managers_are_followed() {
    let Some(cluster) = Cluster::up(3, 3) else {
        return;
    };
    let mut managers = Managers::of(&cluster);
    let mut checks = Checks::new();
    let leader = managers.leader();
    checks.check("a manager that does not lead", || {
        let other = NODES.into_iter().find(|node| *node != leader);
        managers.renumber(other.expect("there are three"));
        managers.agree("follower");
    });
    checks.check("the one that leads", || {
        let leader = managers.leader();
        managers.renumber(leader);
        managers.agree("leader");
    });
    checks.check("one that listens on that address alone", || {
        let c = managers.c;
        let leader = managers.leader();
        let mut others = NODES.into_iter().filter(|node| *node != leader);
        let node = others.next().expect("there are three");
        c.skep(node, "swarm leave --force").ok();
        eventually("it is gone", secs(20), || {
            let removed = c.skep(leader, &format!("node rm --force {node}"));
            holds(removed.status == 0, removed)
        });
        let token = c.skep(leader, "swarm join-token -q manager").ok();
        let line = format!(
            "swarm join --token {} --listen-addr eth0 {}:2377",
            token.trim(),
            four(c, managers.numbers[leader])
        );
        c.skep(node, &line).ok();
        managers.agree("listening");
        managers.renumber(node);
        managers.agree("elsewhere");
    });
    checks.end();
}

/// There is no leader until the one that has moved is found.
#[test]
fn one_of_two_managers_is_followed() {
    let Some(cluster) = Cluster::up(2, 2) else {
        return;
    };
    for is_leader in [false, true] {
        let mut managers = Managers::of(&cluster);
        let leader = managers.leader();
        let moves = NODES[..2]
            .iter()
            .find(|node| (**node == leader) == is_leader);
        let moves = moves.expect("there are two");
        managers.renumber(moves);
        managers.agree("moved");
        swap(
            &cluster,
            moves,
            &[(
                on_wire4(&cluster, managers.numbers[moves]),
                cluster.address(moves).to_string() + "/24",
            )],
        );
        Managers::of(&cluster).agree("back");
    }
}
