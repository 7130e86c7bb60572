//! Anything that can happen, in any order, and after each of it every node does what the managers say.
//!
//! `SKEP_STEPS` says how many steps, `SKEP_SEED` which ones.

use std::collections::{BTreeMap, BTreeSet};

use skep_e2e::cluster::Cut;
use skep_e2e::places::address;
use skep_e2e::random::{Random, given};
use skep_e2e::truth::{Guest, Truth};
use skep_e2e::wait::holds;
use skep_e2e::{Cluster, eventually, secs};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// Networks, each with services of its own.
const NETWORKS: [&str; 2] = ["red", "blue"];
const SERVICES: usize = 2;
const REPLICAS_MAX: u64 = 5;
const GUESTS_MAX: usize = 4;
const STEPS: u64 = 40;
const SEED: u64 = 20_261_129;

/// A node that cannot be reached.
enum Out {
    Cut(&'static str, Cut),
    Killed(&'static str),
}

/// The cluster as it was made to be.
struct World<'a> {
    c: &'a Cluster,
    replicas: BTreeMap<String, u64>,
    guests: Vec<Guest>,
    made: usize,
    drained: BTreeSet<&'static str>,
    out: Option<Out>,
}

impl World<'_> {
    fn out(&self) -> Option<&'static str> {
        self.out.as_ref().map(|out| match out {
            Out::Cut(node, _) | Out::Killed(node) => *node,
        })
    }

    /// Nodes that can be asked.
    fn present(&self) -> Vec<&'static str> {
        let out = self.out();
        NODES
            .into_iter()
            .filter(|node| Some(*node) != out)
            .collect()
    }

    /// A manager to ask: as one is out at most, the others are enough of them.
    fn at(&self) -> &'static str {
        self.present()[0]
    }

    /// Does a line at a manager; during an election it is said again.
    fn say(&self, line: &str) {
        eventually(line, secs(20), || {
            let ran = self.c.skep(self.at(), line);
            holds(ran.status == 0, ran)
        });
    }

    fn make(&mut self, network: &str) {
        let number = NETWORKS
            .iter()
            .position(|name| *name == network)
            .expect("one of them");
        self.say(&format!(
            "network create -d overlay --attachable --ipv6 --subnet 10.8{number}.0.0/24 \
             --subnet fd80:{number}::/64 {network}"
        ));
        for service in 0..SERVICES {
            let name = format!("{network}{service}");
            let port = 8100 + 10 * number + service;
            self.say(&format!(
                "service create -d --no-resolve-image --name {name} --replicas 2 --network {network} \
                 --publish {port}:8080 skep/hello:latest"
            ));
            self.replicas.insert(name, 2);
        }
    }

    /// Does one thing, and says which.
    fn step(&mut self, random: &mut Random) -> String {
        match random.below(20) {
            0..7 => self.scale(random),
            7..12 => self.attach_or_detach(random),
            12..16 => self.drain_or_activate(random),
            16..19 => self.leave_or_return(random),
            _ => self.make_again(random),
        }
    }

    fn scale(&mut self, random: &mut Random) -> String {
        let names: Vec<String> = self.replicas.keys().cloned().collect();
        let (name, count) = (random.one(&names).clone(), random.below(REPLICAS_MAX + 1));
        self.say(&format!("service scale -d {name}={count}"));
        let said = format!("scale {name} to {count}");
        self.replicas.insert(name, count);
        said
    }

    fn attach_or_detach(&mut self, random: &mut Random) -> String {
        let here = self.present();
        let is_full = self.guests.len() >= GUESTS_MAX;
        if is_full || random.below(2) == 0 {
            let mut guests = self.guests.iter();
            let Some(found) = guests.position(|guest| here.contains(&guest.node.as_str())) else {
                return "nothing".to_owned();
            };
            let Guest { name, node, .. } = self.guests.remove(found);
            self.c.skep(&node, &format!("rm -f {name}")).ok();
            return format!("container {name} leaves {node}");
        }
        self.made += 1;
        let (network, node) = (*random.one(&NETWORKS), *random.one(&here));
        let name = format!("guest{}", self.made);
        eventually("a container is made", secs(20), || {
            let ran = self.c.skep(
                node,
                &format!("run -d --name {name} --network {network} skep/hello:latest"),
            );
            // Of a failed attempt nothing but the container itself may be left.
            if ran.status != 0 {
                self.c.skep(node, &format!("rm -f {name}"));
            }
            holds(ran.status == 0, ran)
        });
        let shown = self.c.get(node, &format!("/containers/{name}/json"));
        let shown = &shown["NetworkSettings"]["Networks"][network];
        let addresses = ["IPAddress", "GlobalIPv6Address"].map(|of| address(&shown[of]));
        let said = format!("container {name} joins {network} on {node}");
        self.guests.push(Guest {
            network: network.into(),
            name,
            node: node.into(),
            addresses: addresses.into_iter().flatten().collect(),
        });
        said
    }

    fn drain_or_activate(&mut self, random: &mut Random) -> String {
        let node = *random.one(&self.present());
        let is_left = |other: &&str| *other != node && !self.drained.contains(*other);
        let others = self.present().iter().filter(|other| is_left(other)).count();
        if self.drained.remove(node) {
            self.say(&format!("node update --availability active {node}"));
            format!("activate {node}")
        } else if others > 0 {
            self.drained.insert(node);
            self.say(&format!("node update --availability drain {node}"));
            format!("drain {node}")
        } else {
            "nothing".to_owned()
        }
    }

    fn leave_or_return(&mut self, random: &mut Random) -> String {
        match self.out.take() {
            Some(Out::Cut(node, cable)) => {
                drop(cable);
                format!("{node} is connected")
            }
            Some(Out::Killed(node)) => {
                self.c.start(node);
                format!("{node}'s daemon starts")
            }
            None => {
                let node = *random.one(&NODES);
                let others = NODES.iter().filter(|other| **other != node);
                if others.clone().all(|other| self.drained.contains(other)) {
                    return "nothing".to_owned();
                }
                if random.below(2) == 0 {
                    self.out = Some(Out::Cut(node, self.c.cut(node)));
                    format!("{node} is cut off")
                } else {
                    self.c.kill(node);
                    self.out = Some(Out::Killed(node));
                    format!("{node}'s daemon is killed")
                }
            }
        }
    }

    /// Removes a network with all that is on it, and makes it again.
    fn make_again(&mut self, random: &mut Random) -> String {
        // Tasks of a node that is out hold on to their networks.
        if self.out.is_some() {
            return "nothing".to_owned();
        }
        let network = *random.one(&NETWORKS);
        let guests = std::mem::take(&mut self.guests).into_iter();
        let (on_it, others) = guests.partition(|guest| guest.network == network);
        self.guests = others;
        let on_it: Vec<Guest> = on_it;
        for Guest { name, node, .. } in on_it {
            self.c.skep(&node, &format!("rm -f {name}")).ok();
        }
        for service in 0..SERVICES {
            self.say(&format!("service rm {network}{service}"));
        }
        self.say(&format!("network rm {network}"));
        self.make(network);
        format!("make {network} again")
    }

    /// Everything is as wanted, and every node that can be asked does it.
    fn is_settled(&self) -> Result<(), String> {
        let at = self.at();
        for node in NODES {
            let state = self.c.node_state(at, node)?;
            let wanted = if Some(node) == self.out() {
                "down"
            } else {
                "ready"
            };
            holds(state == wanted, format!("{node} is {state}"))?;
        }
        for (service, count) in &self.replicas {
            let tasks = self.c.try_tasks(at, service)?;
            let shown = skep_e2e::tasks::shown(&tasks);
            let wanted: Vec<_> = tasks
                .iter()
                .filter(|task| task.desired == "running")
                .collect();
            let are_running = wanted.iter().all(|task| task.is_running());
            let as_many = wanted.len() as u64 == *count;
            holds(are_running && as_many, format!("{service}: {shown}"))?;
        }
        let truth = Truth::of(self.c, at, &self.guests)?;
        truth.has_no_address_twice()?;
        for node in self.present() {
            truth.holds_on(self.c, node)?;
        }
        Ok(())
    }
}

#[test]
fn random_steps() {
    let Some(cluster) = Cluster::up(3, 3) else {
        return;
    };
    let (steps, seed) = (given("SKEP_STEPS", STEPS), given("SKEP_SEED", SEED));
    println!("SKEP_SEED={seed} SKEP_STEPS={steps}");
    let mut random = Random::new(seed);
    let mut world = World {
        c: &cluster,
        replicas: BTreeMap::new(),
        guests: Vec::new(),
        made: 0,
        drained: BTreeSet::new(),
        out: None,
    };
    for network in NETWORKS {
        world.make(network);
    }
    for number in 0..steps {
        let said = world.step(&mut random);
        let began = std::time::Instant::now();
        let name = format!("step {number} with SKEP_SEED={seed}: all nodes follow after: {said}");
        eventually(&name, secs(60), || world.is_settled());
        println!("{number:4} {:5.1} s  {said}", began.elapsed().as_secs_f64());
    }
}
