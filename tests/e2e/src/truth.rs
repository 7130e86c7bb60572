//! Whether what nodes do is what the managers say: names, balancers, forwarding entries, and that no
//! address is used twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;

use serde_json::Value;

use crate::Cluster;
use crate::places::{address, attached};
use crate::station::{self, Station};
use crate::wait::holds;

/// States that a task does not leave.
const ENDED: [&str; 6] = [
    "complete", "shutdown", "failed", "rejected", "remove", "orphaned",
];

type Ips = BTreeSet<IpAddr>;

/// A service on a network.
#[derive(Debug, Default, PartialEq, Eq)]
struct OnNetwork {
    vips: Ips,
    serving: Ips,
}

/// Somebody on a network.
#[derive(Debug)]
struct Place {
    node: String,
    /// A task's namespace; none of plain containers.
    netns: Option<String>,
    addresses: Vec<IpAddr>,
}

/// A network and who is on it.
#[derive(Debug, Default)]
struct Network {
    id: String,
    services: BTreeMap<String, OnNetwork>,
    places: Vec<Place>,
    /// Plain containers by name.
    guests: BTreeMap<String, Ips>,
}

/// What the managers say.
#[derive(Debug, Default)]
pub struct Truth {
    /// By name; the ingress network is not among them.
    networks: BTreeMap<String, Network>,
    /// Who serves a port on all nodes.
    ports: BTreeMap<u64, Ips>,
    addresses: Vec<(String, IpAddr)>,
}

/// A plain container on a network of the cluster.
#[derive(Debug, Clone)]
pub struct Guest {
    pub network: String,
    pub name: String,
    pub node: String,
    pub addresses: Vec<IpAddr>,
}

impl Truth {
    /// Asks a manager. Managers do not tell of plain containers, but who made them knows.
    pub fn of(c: &Cluster, at: &str, guests: &[Guest]) -> Result<Self, String> {
        let list = |path: &str| {
            let all = c.try_api(at, "GET", path, None)?;
            Ok::<_, String>(all.as_array().cloned().unwrap_or_default())
        };
        let nodes = c.try_node_names(at)?;
        let mut truth = Self::default();
        for network in list("/networks")? {
            if network["Scope"] == "swarm" && network["Ingress"] == false {
                let name = text(&network["Name"]);
                let id = text(&network["Id"]);
                truth.networks.insert(
                    name,
                    Network {
                        id,
                        ..Network::default()
                    },
                );
            }
        }
        let services = list("/services")?;
        for service in &services {
            truth.add_service(service);
        }
        for task in list("/tasks")? {
            let name = services
                .iter()
                .find(|service| service["ID"] == task["ServiceID"])
                .map(|service| text(&service["Spec"]["Name"]));
            let node = nodes.get(&text(&task["NodeID"]));
            let has_ended = ENDED.iter().any(|ended| task["Status"]["State"] == *ended);
            if let (Some(node), false) = (node, has_ended) {
                truth.add_task(&task, &name.unwrap_or_default(), node, &services);
            }
        }
        for guest in guests {
            truth.add_guest(guest)?;
        }
        Ok(truth)
    }

    fn add_service(&mut self, service: &Value) {
        let name = text(&service["Spec"]["Name"]);
        for vip in service["Endpoint"]["VirtualIPs"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let mut networks = self.networks.iter_mut();
            let Some((network, found)) =
                networks.find(|(_, found)| vip["NetworkID"] == found.id.as_str())
            else {
                continue;
            };
            if let Some(ip) = address(&vip["Addr"]) {
                let service = found.services.entry(name.clone()).or_default();
                service.vips.insert(ip);
                self.addresses.push((network.clone(), ip));
            }
        }
        for port in ports(service) {
            self.ports.entry(port).or_default();
        }
    }

    fn add_task(&mut self, task: &Value, service: &str, node: &str, services: &[Value]) {
        let serves = task["Status"]["State"] == "running" && task["DesiredState"] == "running";
        let id = text(&task["ID"]);
        for (name, network) in &mut self.networks {
            let addresses = attached(task, name);
            if addresses.is_empty() {
                continue;
            }
            let all = addresses.iter().map(|ip| (name.clone(), *ip));
            self.addresses.extend(all);
            if serves {
                let service = network.services.entry(service.to_owned()).or_default();
                service.serving.extend(&addresses);
            }
            network.places.push(Place {
                node: node.to_owned(),
                netns: Some(format!("t-{}", &id[..12])),
                addresses,
            });
        }
        let ingress = attached(task, "ingress");
        let all = ingress.iter().map(|ip| ("ingress".to_owned(), *ip));
        self.addresses.extend(all);
        let own = services.iter().find(|one| one["ID"] == task["ServiceID"]);
        for port in own.into_iter().flat_map(ports).filter(|_| serves) {
            self.ports.entry(port).or_default().extend(&ingress);
        }
    }

    fn add_guest(&mut self, guest: &Guest) -> Result<(), String> {
        let Guest {
            network,
            name,
            node,
            addresses,
        } = guest;
        let found = self.networks.get_mut(network);
        let found = found.ok_or_else(|| format!("no network {network}"))?;
        let all = addresses.iter().map(|ip| (network.clone(), *ip));
        self.addresses.extend(all);
        let ips = addresses.iter().copied().collect();
        found.guests.insert(name.clone(), ips);
        found.places.push(Place {
            node: node.clone(),
            netns: None,
            addresses: addresses.clone(),
        });
        Ok(())
    }

    /// No address of a network is somebody else's, too.
    pub fn has_no_address_twice(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        let twice = self.addresses.iter().find(|place| !seen.insert(*place));
        holds(twice.is_none(), format!("{twice:?} is used twice"))
    }

    /// A node does what the managers say.
    pub fn holds_on(&self, c: &Cluster, node: &str) -> Result<(), String> {
        let wrong = |what: &str, why: String| format!("{node}: {what}: {why}");
        let root = station::node(c, node);
        for (name, network) in &self.networks {
            let here = |place: &&Place| place.node == node;
            if !network.places.iter().any(|place| here(&place)) {
                continue;
            }
            network
                .names_are_known(c, node)
                .map_err(|why| wrong(&format!("names of {name}"), why))?;
            network
                .is_forwarded(c, node)
                .map_err(|why| wrong(&format!("forwarding of {name}"), why))?;
            for netns in network
                .places
                .iter()
                .filter(here)
                .filter_map(|place| place.netns.as_ref())
            {
                let inside = netns_of(c, node, netns);
                network
                    .is_balanced(&inside)
                    .map_err(|why| wrong(&format!("balancer of {netns} in {name}"), why))?;
            }
        }
        self.ports_lead(&root).map_err(|why| wrong("ports", why))
    }

    fn ports_lead(&self, root: &Station) -> Result<(), String> {
        let table = root.run("nft list table inet sk-mesh").out;
        let mut found: BTreeMap<u64, Ips> =
            self.ports.keys().map(|port| (*port, Ips::new())).collect();
        for words in ["be4", "be6"].iter().flat_map(|map| elements(&table, map)) {
            let port = words.get(1).and_then(|port| port.parse().ok());
            let ip = words.iter().find_map(|word| word.parse::<IpAddr>().ok());
            if let (Some(port), Some(ip)) = (port, ip) {
                found.entry(port).or_default().insert(ip);
            }
        }
        holds(
            found == self.ports,
            format!("{found:?}, not {:?}", self.ports),
        )
    }
}

impl Network {
    fn names_are_known(&self, c: &Cluster, node: &str) -> Result<(), String> {
        let path = c.root.join(format!("{node}/run/dns/{}.zone", self.id));
        let zone = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let zone: Value = serde_json::from_slice(&zone).map_err(|error| error.to_string())?;
        let of = |name: &str| -> Option<Ips> {
            let all = zone["names"][name].as_array()?;
            Some(all.iter().filter_map(address).collect())
        };
        for (name, service) in &self.services {
            for (name, wanted) in [
                (name.clone(), &service.vips),
                (format!("tasks.{name}"), &service.serving),
            ] {
                let found = of(&name);
                holds(
                    found.as_ref() == Some(wanted),
                    format!("{name}: {found:?}, not {wanted:?}"),
                )?;
            }
        }
        for (name, wanted) in &self.guests {
            let found = of(name);
            holds(
                found.as_ref() == Some(wanted),
                format!("{name}: {found:?}, not {wanted:?}"),
            )?;
        }
        let known: Ips = self
            .places
            .iter()
            .flat_map(|place| place.addresses.clone())
            .collect();
        let vips = self.services.values().flat_map(|service| &service.vips);
        let known: Ips = known.into_iter().chain(vips.copied()).collect();
        for (name, addresses) in zone["names"].as_object().into_iter().flatten() {
            let mut all = addresses
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(address);
            let stale = all.find(|ip| !known.contains(ip));
            holds(
                stale.is_none(),
                format!("{name} leads to {stale:?}, who is not there"),
            )?;
            if let Some(service) = name.strip_prefix("tasks.") {
                let is_known = self.services.contains_key(service);
                holds(is_known, format!("{service} is a service of the past"))?;
            }
        }
        Ok(())
    }

    /// The node knows who is on others, and where.
    fn is_forwarded(&self, c: &Cluster, node: &str) -> Result<(), String> {
        let inside = netns_of(c, node, &format!("n-{}", &self.id[..12]));
        let mut wanted = BTreeSet::new();
        for place in self.places.iter().filter(|place| place.node != node) {
            let mac = place.addresses.iter().find_map(|ip| match ip {
                IpAddr::V4(ip) => Some(ip.octets()),
                IpAddr::V6(_) => None,
            });
            let [a, b, d, e] = mac.ok_or("no IPv4 address")?;
            let mac = format!("02:42:{a:02x}:{b:02x}:{d:02x}:{e:02x}");
            wanted.insert((mac, c.address(&place.node).to_string()));
        }
        let shown = inside.run("bridge fdb show dev vxlan0").out;
        let entry = |line: &str| {
            let (mac, rest) = line.split_once(" dst ")?;
            let to = rest.split(' ').next()?;
            Some((mac.to_owned(), to.to_owned()))
        };
        let mut found: BTreeSet<(String, String)> = shown.lines().filter_map(entry).collect();
        // Nodes themselves have others.
        found.retain(|(mac, _)| mac.starts_with("02:42:"));
        holds(found == wanted, format!("{found:?}, not {wanted:?}"))
    }

    /// A task is led to those that serve.
    fn is_balanced(&self, inside: &Station) -> Result<(), String> {
        let table = inside.run("nft list table inet sk-svc").out;
        let mut found: BTreeMap<IpAddr, Ips> = BTreeMap::new();
        for set in ["be4", "be6", "noep4", "noep6"] {
            for words in elements(&table, set) {
                let mut ips = words.iter().filter_map(|word| word.parse().ok());
                if let Some(vip) = ips.next() {
                    found.entry(vip).or_default().extend(ips);
                }
            }
        }
        for (name, service) in &self.services {
            for vip in &service.vips {
                let same = |ip: &&IpAddr| ip.is_ipv4() == vip.is_ipv4();
                let wanted: Ips = service.serving.iter().filter(same).copied().collect();
                let led = found.get(vip);
                holds(
                    led == Some(&wanted),
                    format!("{name}: {led:?}, not {wanted:?}"),
                )?;
            }
        }
        Ok(())
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn ports(service: &Value) -> impl Iterator<Item = u64> {
    let ports = service["Endpoint"]["Ports"]
        .as_array()
        .into_iter()
        .flatten();
    ports.filter_map(|port| port["PublishedPort"].as_u64())
}

fn netns_of(c: &Cluster, node: &str, name: &str) -> Station {
    Station::at(c.root.join(node).join("run/netns").join(name))
}

/// The words of each element of a set or map, as nft prints them.
fn elements(table: &str, set: &str) -> Vec<Vec<String>> {
    let head = |kind: &str| table.split_once(&format!("{kind} {set} {{"));
    let Some((_, rest)) = head("map").or_else(|| head("set")) else {
        return Vec::new();
    };
    // A set's end is a brace on a line of its own.
    let own = rest.split("\n\t}").next().unwrap_or_default();
    let Some((_, listed)) = own.split_once("elements = {") else {
        return Vec::new();
    };
    let listed = listed.split('}').next().unwrap_or_default();
    let words = |element: &str| {
        let words = element.split_whitespace();
        words
            .filter(|word| !matches!(*word, "." | ":"))
            .map(str::to_owned)
            .collect()
    };
    listed.split(',').map(words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read() {
        let table = "table inet t {\n\tset a {\n\t\ttype ipv4_addr\n\t}\n\n\tmap b {\n\t\ttypeof ip daddr . numgen inc mod 2 : ip daddr\n\
            \t\telements = { 10.0.1.2 . 0 : 10.0.1.3,\n\t\t\t     10.0.1.2 . 1 : 10.0.1.4 }\n\t}\n}\n";
        assert_eq!(elements(table, "a"), Vec::<Vec<String>>::new());
        let read = elements(table, "b");
        assert_eq!(
            read,
            [["10.0.1.2", "0", "10.0.1.3"], ["10.0.1.2", "1", "10.0.1.4"]]
        );
    }
}
