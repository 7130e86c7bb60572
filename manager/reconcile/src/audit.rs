//! Looks for what must not be: addresses and numbers with two holders or none, and what nodes say
//! is wrong with their networks. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use skep_model::audit::{FindingKind, NetworkAudit, NetworkFinding};
use skep_model::{Network, NetworkId, NodeId, NodeState, Service, Timestamp};
use skep_plan::allocate::PortsInUse;
use skep_plan::allocate::subnets::overlap;
use skep_store::Snapshot;

use crate::data_keys;

/// Everything that is wrong. Tasks of removed services that have not stopped although nothing has
/// changed about them since `settled` count as leaks.
pub fn audit(snapshot: &Snapshot, settled: Timestamp) -> NetworkAudit {
    let mut looking = Looking {
        snapshot,
        holders: BTreeMap::new(),
        findings: Vec::new(),
    };
    looking.hold_all();
    looking.leaks(settled);
    looking.networks();
    looking.ports();
    looking.nodes();
    looking.keys(settled);
    let mut findings = looking.findings;
    findings.sort();
    findings.dedup();
    NetworkAudit {
        networks: snapshot.networks().count(),
        nodes: snapshot.nodes().count(),
        addresses: looking.holders.len(),
        findings,
    }
}

struct Looking<'a> {
    snapshot: &'a Snapshot,
    holders: BTreeMap<(NetworkId, IpAddr), String>,
    findings: Vec<NetworkFinding>,
}

impl Looking<'_> {
    fn find(&mut self, kind: FindingKind, network: &str, message: String) {
        self.findings.push(NetworkFinding {
            kind,
            network: network.to_owned(),
            node: String::new(),
            message,
        });
    }

    /// Everybody who has an address.
    fn hold_all(&mut self) {
        let snapshot = self.snapshot;
        for service in snapshot.services() {
            for vip in &service.endpoint.virtual_ips {
                let holder = format!("service {}", service.spec.name);
                self.hold(&vip.network_id, &vip.addr, holder);
            }
        }
        let tasks = snapshot.tasks();
        for task in tasks.filter(|task| !task.status.state.is_terminal()) {
            for attachment in &task.attachments {
                for address in &attachment.addresses {
                    let holder = format!("task {} of {}", task.id, task.service_name);
                    self.hold(&attachment.network_id, address, holder);
                }
            }
        }
        for place in snapshot.attachments() {
            for address in &place.addresses {
                let holder = format!("container {}", place.container.name);
                self.hold(&place.network_id, address, holder);
            }
        }
        if let Some(ingress) = snapshot.ingress_network() {
            for node in snapshot.nodes() {
                for address in &node.ingress_addresses {
                    let holder = format!("node {}", node.id);
                    self.hold(&ingress.id, address, holder);
                }
            }
        }
    }

    fn hold(&mut self, network: &NetworkId, address: &str, holder: String) {
        let known = self.snapshot.network(network).cloned();
        let name = known
            .as_ref()
            .map_or_else(|| network.to_string(), |known| known.spec.name.clone());
        let plain = address.split('/').next().unwrap_or_default();
        let Ok(parsed) = plain.parse::<IpAddr>() else {
            let message = format!("{holder} has {address:?}, which is no address");
            return self.find(FindingKind::Address, &name, message);
        };
        // Tasks of a removed network keep what they have until they have stopped.
        if let Some(wrong) = known.and_then(|known| misplaced(&known, parsed)) {
            let message = format!("{holder} has {parsed}, {wrong}");
            self.find(FindingKind::Address, &name, message);
        }
        let key = (network.clone(), parsed);
        if let Some(other) = self.holders.insert(key, holder.clone()) {
            let message = format!("{other} and {holder} both have {parsed}");
            self.find(FindingKind::Address, &name, message);
        }
    }

    /// Addresses of what should have gone.
    fn leaks(&mut self, settled: Timestamp) {
        let snapshot = self.snapshot;
        let held = snapshot.tasks().filter(|task| {
            !task.status.state.is_terminal()
                && !task.attachments.is_empty()
                && task.updated_at <= settled
        });
        for task in held {
            let is_wanted = task.is_live() && snapshot.service(&task.service_id).is_some();
            if !is_wanted {
                let message = format!(
                    "task {} of {} is to go and still holds its addresses",
                    task.id, task.service_name
                );
                self.find(FindingKind::Address, "", message);
            }
        }
        for place in snapshot.attachments() {
            if snapshot.node(&place.node_id).is_none() {
                let message = format!(
                    "container {} holds addresses on node {}, which is no member",
                    place.container.name, place.node_id
                );
                self.find(FindingKind::Address, "", message);
            }
        }
        for service in snapshot.services() {
            for message in vips_of_gone_networks(snapshot, service) {
                self.find(FindingKind::Address, "", message);
            }
        }
    }

    fn networks(&mut self) {
        let all: Vec<_> = self.snapshot.networks().cloned().collect();
        let mut vnis: BTreeMap<u32, String> = BTreeMap::new();
        for (number, network) in all.iter().enumerate() {
            let name = &network.spec.name;
            if network.vni != 0
                && let Some(other) = vnis.insert(network.vni, name.clone())
            {
                let message = format!("{other} and {name} both have VXLAN id {}", network.vni);
                self.find(FindingKind::Network, name, message);
            }
            for subnet in network.ipam.iter().filter_map(|config| config.subnet) {
                let others = all[..number].iter().flat_map(|other| {
                    let subnets = other.ipam.iter().filter_map(|config| config.subnet);
                    subnets.map(|subnet| (&other.spec.name, subnet))
                });
                for (other, theirs) in others.filter(|(_, theirs)| overlap(&subnet, theirs)) {
                    let message = format!("{subnet} overlaps with {theirs} of {other}");
                    self.find(FindingKind::Network, name, message);
                }
            }
        }
    }

    fn ports(&mut self) {
        let mut in_use = PortsInUse::default();
        let given = self
            .snapshot
            .services()
            .filter(|service| service.waits_for.is_empty());
        for service in given {
            for port in &service.endpoint.ports {
                if let Err(error) = in_use.check(&service.id, port) {
                    let message = format!("service {}: {error}", service.spec.name);
                    self.findings.push(NetworkFinding {
                        kind: FindingKind::Port,
                        network: String::new(),
                        node: String::new(),
                        message,
                    });
                }
            }
            in_use.add(service);
        }
    }

    /// What the nodes say themselves, and numbers that two of them have.
    fn nodes(&mut self) {
        let snapshot = self.snapshot;
        let name = |id: &NodeId| {
            let node = snapshot.node(id);
            node.map_or_else(|| id.to_string(), |node| node.description.hostname.clone())
        };
        let mut indexes: BTreeMap<u16, &NodeId> = BTreeMap::new();
        for node in snapshot.nodes() {
            if node.index != 0
                && let Some(other) = indexes.insert(node.index, &node.id)
            {
                let message = format!("{other} and {} both are number {}", node.id, node.index);
                self.find(FindingKind::Node, "", message);
            }
            if node.status.state != NodeState::Ready {
                continue;
            }
            for problem in &node.description.network_problems {
                let (kind, message) = match problem.peer.is_empty() {
                    true => (FindingKind::Node, problem.message.clone()),
                    false => {
                        let peer = snapshot.node(&problem.peer);
                        let is_down = peer.is_none_or(|peer| peer.status.state != NodeState::Ready);
                        let what = match is_down {
                            true => "it is not ready",
                            false => &problem.message,
                        };
                        let to = format!("to {}: {what}", name(&problem.peer));
                        (FindingKind::Path, to)
                    }
                };
                self.findings.push(NetworkFinding {
                    kind,
                    network: problem.network.clone(),
                    node: name(&node.id),
                    message,
                });
            }
        }
    }
}

impl Looking<'_> {
    /// Keys that are being replaced since before `settled`, and who holds that up.
    fn keys(&mut self, settled: Timestamp) {
        let ring = match self.snapshot.cluster() {
            Some(cluster) => cluster.data_keys,
            None => return,
        };
        if ring.is_settled() || ring.changed_at > settled {
            return;
        }
        let lagging: Vec<String> = data_keys::without_newest(self.snapshot, &ring)
            .map(|node| node.description.hostname.clone())
            .collect();
        let who = match lagging.is_empty() {
            true => "not every node's packets follow them yet".to_owned(),
            false => format!("these nodes have no new key: {}", lagging.join(", ")),
        };
        let since = ring.changed_at;
        let message = format!("keys of encrypted networks are being replaced since {since}: {who}");
        self.find(FindingKind::Node, "", message);
    }
}

/// Why a network has no such address to give.
fn misplaced(network: &Network, address: IpAddr) -> Option<&'static str> {
    let mut configs = network.ipam.iter();
    let home = configs.find(|config| config.subnet.is_some_and(|net| net.contains(&address)));
    match home {
        None => Some("which is outside of the network's subnets"),
        Some(config) if config.gateway == Some(address) => Some("which is the gateway's"),
        Some(_) => None,
    }
}

fn vips_of_gone_networks(snapshot: &Snapshot, service: &Service) -> Vec<String> {
    let vips = service.endpoint.virtual_ips.iter();
    vips.filter(|vip| snapshot.network(&vip.network_id).is_none())
        .map(|vip| {
            format!(
                "service {} has {} on network {}, which is no more",
                service.spec.name, vip.addr, vip.network_id
            )
        })
        .collect()
}
