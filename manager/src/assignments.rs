//! What each node is assigned: computed from a snapshot, the same on every manager. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use skep_model::service::ResolutionMode;
use skep_model::stack::STACK_LABEL;
use skep_model::{
    Attachment, Network, NetworkId, Node, NodeId, NodeRole, PublishMode, Service, ServiceId, Task,
    TaskId, TaskSpec, TaskState, Timestamp,
};
use skep_proto::assignment::{Encryption, Endpoint, Item, LocalNode, Peer, ServiceOnNetwork};
use skep_proto::encode;
use skep_proto::v1::{AssignmentItem, Assignments};
use skep_store::Snapshot;

/// A node's assignments: key → encoded item.
pub type Items = BTreeMap<String, Arc<[u8]>>;

/// An item's key and its encoded form.
type Encoded = (String, Arc<[u8]>);

/// The parts of assignments that many nodes have in common, made once per version.
pub struct Shared {
    snapshot: Snapshot,
    /// Each network with its services.
    networks: BTreeMap<NetworkId, Vec<Encoded>>,
    ingress: Option<NetworkId>,
    peers: Vec<(NodeId, String, Arc<[u8]>)>,
    encryption: Option<Encryption>,
    /// The networks that nodes are on for plain containers.
    guests: BTreeMap<NodeId, BTreeSet<NetworkId>>,
    /// See [`Shared::newest_awaited`].
    awaited: u64,
}

/// The newest version that somebody waits for.
fn awaited(snapshot: &Snapshot) -> u64 {
    let versions = snapshot.draining_tasks().map(|task| task.version.index);
    let drained = versions.max().unwrap_or_default();
    drained.max(skep_reconcile::awaited_by_keys(snapshot))
}

fn guests_of_nodes(snapshot: &Snapshot) -> BTreeMap<NodeId, BTreeSet<NetworkId>> {
    let mut guests: BTreeMap<NodeId, BTreeSet<NetworkId>> = BTreeMap::new();
    for place in snapshot.attachments() {
        let networks = guests.entry(place.node_id.clone()).or_default();
        networks.insert(place.network_id.clone());
    }
    guests
}

fn put(items: &mut Items, item: &Item) {
    items.insert(item.key(), encode(item).into());
}

impl Shared {
    pub fn new(snapshot: Snapshot) -> Self {
        let networks = snapshot
            .networks()
            .filter(|network| network.is_allocated())
            .map(|network| (network.id.clone(), network_items(&snapshot, network)))
            .collect();
        let peers = snapshot
            .nodes()
            .filter(|node| node.index != 0)
            .map(|node| {
                let item = Item::Peer(peer(node));
                (node.id.clone(), item.key(), encode(&item).into())
            })
            .collect();
        let ingress = snapshot.ingress_network().map(|network| network.id.clone());
        let encryption = encryption(&snapshot);
        Self {
            guests: guests_of_nodes(&snapshot),
            awaited: awaited(&snapshot),
            snapshot,
            networks,
            ingress,
            peers,
            encryption,
        }
    }

    /// The version that everything in here belongs to.
    pub fn version(&self) -> u64 {
        self.snapshot.version().index
    }

    /// The newest version that something waits for every node to follow: a task that is to stop,
    /// the replacement of keys; 0 when nothing does.
    pub fn newest_awaited(&self) -> u64 {
        self.awaited
    }

    /// Whether the node is still a member.
    pub fn is_member(&self, node: &NodeId) -> bool {
        self.snapshot.node(node).is_some()
    }

    /// The role that the node's next certificate is to have.
    pub fn role_wanted(&self, node: &NodeId, holds: NodeRole) -> Option<NodeRole> {
        let node = self.snapshot.node(node)?;
        Some(crate::roles::next(node, holds))
    }

    /// What nodes are to trust, PEM; empty while the cluster is not known here.
    pub fn trusted_roots(&self) -> String {
        let cluster = self.snapshot.cluster();
        cluster.map_or_else(String::new, |cluster| cluster.root_ca.trusted())
    }

    /// When the node was told to get a certificate of another issuer, while it has none.
    pub fn renewal_due(&self, node: &NodeId) -> Option<Timestamp> {
        let cluster = self.snapshot.cluster()?;
        skep_reconcile::renewal_due(cluster, self.snapshot.node(node)?)
    }

    /// Everything that `node` is assigned.
    pub fn for_node(&self, node: &NodeId) -> Items {
        let mut items = Items::new();
        let Some(found) = self.snapshot.node(node) else {
            return items;
        };
        put(&mut items, &Item::Local(self.local(found)));
        let mut networks: BTreeSet<&NetworkId> = self.ingress.iter().collect();
        for task in self
            .snapshot
            .tasks_on_node(node)
            .filter(|task| task.status.state >= TaskState::Assigned)
        {
            put(&mut items, &Item::Task(Box::new(as_assigned(task))));
            // A task that has ended, or is to end, gets no secret and needs no network.
            if task.is_live() {
                self.put_files(&mut items, &task.spec);
            }
            if !task.status.state.is_terminal() {
                networks.extend(
                    task.attachments
                        .iter()
                        .map(|attachment| &attachment.network_id),
                );
            }
        }
        networks.extend(self.guests.get(node).into_iter().flatten());
        for network in networks {
            for (key, value) in self.networks.get(network).into_iter().flatten() {
                items.insert(key.clone(), Arc::clone(value));
            }
        }
        for (id, key, value) in &self.peers {
            if id != node {
                items.insert(key.clone(), Arc::clone(value));
            }
        }
        items
    }

    fn put_files(&self, items: &mut Items, spec: &TaskSpec) {
        let Some(container) = spec.container() else {
            return;
        };
        for reference in &container.secrets {
            if let Some(secret) = self.snapshot.secret(&reference.secret_id) {
                put(items, &Item::Secret(skep_model::Secret::clone(secret)));
            }
        }
        for reference in &container.configs {
            if let Some(config) = self.snapshot.config(&reference.config_id) {
                put(items, &Item::Config(skep_model::Config::clone(config)));
            }
        }
    }

    fn local(&self, node: &Node) -> LocalNode {
        LocalNode {
            node: node.id.clone(),
            hostname: node.description.hostname.clone(),
            index: node.index,
            ingress_addresses: node.ingress_addresses.clone(),
            data_path_port: self.snapshot.cluster().map_or(4789, |cluster| {
                match cluster.data_path_port {
                    0 => 4789,
                    port => port,
                }
            }),
            vtep: vtep(node),
            encryption: self.encryption.clone(),
        }
    }
}

/// What all nodes must know of the encrypted networks; nothing while there is none.
fn encryption(snapshot: &Snapshot) -> Option<Encryption> {
    let encrypted = snapshot.networks().filter(|one| one.spec.is_encrypted());
    let vnis: BTreeSet<u32> = encrypted
        .map(|one| one.vni)
        .filter(|vni| *vni != 0)
        .collect();
    let keys = snapshot.cluster()?.data_keys;
    (!vnis.is_empty()).then(|| Encryption {
        keys,
        vnis: vnis.into_iter().collect(),
    })
}

/// A task as its agent needs to know it. What the agent itself reports is left out, so that its
/// own words do not come back to it as news; only an end is told, which it must not undo.
fn as_assigned(task: &Task) -> Task {
    let mut task = task.clone();
    let state = if task.status.state.is_terminal() {
        task.status.state
    } else {
        TaskState::Assigned
    };
    task.status = skep_model::TaskStatus {
        state,
        ..Default::default()
    };
    task.version = skep_model::Version::default();
    task.updated_at = skep_model::Timestamp::ZERO;
    task
}

/// Where a node's VXLAN frames leave from: its data-path address, else the one it is known by.
fn vtep(node: &Node) -> Option<IpAddr> {
    node.description
        .data_path_addr
        .or_else(|| node.status.addr.parse().ok())
}

fn peer(node: &Node) -> Peer {
    Peer {
        node: node.id.clone(),
        index: node.index,
        vtep: vtep(node),
        ingress_addresses: node.ingress_addresses.clone(),
        address: node.status.addr.parse().ok(),
        addresses: node.description.addresses.clone(),
        keys: node.description.encryption.keys.clone(),
    }
}

fn network_items(snapshot: &Snapshot, network: &Arc<Network>) -> Vec<Encoded> {
    let item = Item::Network(Box::new(Network::clone(network)));
    let mut items = vec![(item.key(), Arc::from(encode(&item)))];
    let mut tasks: BTreeMap<_, Vec<&Arc<Task>>> = BTreeMap::new();
    for task in snapshot.tasks_on_network(&network.id) {
        tasks.entry(task.service_id.clone()).or_default().push(task);
    }
    // A service without a task keeps its name and address: connections to it are refused.
    for service in snapshot.services() {
        let has_vip = service
            .endpoint
            .virtual_ips
            .iter()
            .any(|vip| vip.network_id == network.id);
        let is_on = has_vip
            || tasks.contains_key(&service.id)
            || (network.spec.ingress && publishes(service));
        if is_on {
            let tasks = tasks.get(&service.id).map_or(&[][..], Vec::as_slice);
            let item = Item::Service(service_on(snapshot, service, network, tasks));
            items.push((item.key(), encode(&item).into()));
        }
    }
    if let Some(guests) = guests_on(snapshot, &network.id) {
        let item = Item::Service(guests);
        items.push((item.key(), encode(&item).into()));
    }
    items
}

fn publishes(service: &Service) -> bool {
    service
        .endpoint
        .ports
        .iter()
        .any(|port| port.publish_mode == PublishMode::Ingress)
}

fn service_on(
    snapshot: &Snapshot,
    service: &Service,
    network: &Network,
    tasks: &[&Arc<Task>],
) -> ServiceOnNetwork {
    let mut aliases: BTreeSet<String> = BTreeSet::new();
    let configs = service
        .spec
        .task_template
        .networks
        .iter()
        .chain(&service.spec.networks);
    for config in configs {
        if config.target == network.id.as_str() || config.target == network.spec.name {
            aliases.extend(config.aliases.iter().cloned());
        }
    }
    aliases.remove(&service.spec.name);
    ServiceOnNetwork {
        network: network.id.clone(),
        service: service.id.clone(),
        name: service.spec.name.clone(),
        mode: if network.spec.ingress {
            ResolutionMode::Vip
        } else {
            service.spec.resolution()
        },
        vips: service
            .endpoint
            .virtual_ips
            .iter()
            .filter(|vip| vip.network_id == network.id)
            .map(|vip| vip.addr.clone())
            .collect(),
        aliases: aliases.into_iter().collect(),
        stack: service
            .spec
            .labels
            .get(STACK_LABEL)
            .cloned()
            .unwrap_or_default(),
        ports: if network.spec.ingress {
            service.endpoint.ports.clone()
        } else {
            Vec::new()
        },
        endpoints: tasks
            .iter()
            .filter(|task| !task.node_id.is_empty() && !task.status.state.is_terminal())
            .map(|task| endpoint(snapshot, task, &network.id))
            .collect(),
    }
}

fn endpoint(snapshot: &Snapshot, task: &Task, network: &NetworkId) -> Endpoint {
    let addresses = task
        .attachments
        .iter()
        .filter(|attachment| attachment.network_id == *network)
        .flat_map(|attachment| attachment.addresses.iter().cloned())
        .collect();
    let container = task.status.container_status.as_ref();
    let short = container.and_then(|container| container.container_id.get(..12));
    Endpoint {
        task: task.id.clone(),
        name: task.name(),
        container_name: task.container_name(),
        hostname: hostname(snapshot, task),
        node: task.node_id.clone(),
        addresses,
        serves: task.serves(),
        aliases: short.map(str::to_owned).into_iter().collect(),
    }
}

/// The host name that a task's spec asks for, as its node expands it; empty when it asks for none.
fn hostname(snapshot: &Snapshot, task: &Task) -> String {
    let container = task.spec.container();
    let wanted = container.map_or("", |container| &container.hostname);
    if !wanted.contains("{{") {
        return wanted.to_owned();
    }
    let node = snapshot.node(&task.node_id);
    let node = node
        .map(|node| node.description.clone())
        .unwrap_or_default();
    let context = task.template_context(
        &node.hostname,
        &node.platform.architecture,
        &node.platform.os,
    );
    skep_model::template::expand(wanted, &context).unwrap_or_default()
}

/// The plain containers on a network, if any.
fn guests_on(snapshot: &Snapshot, network: &NetworkId) -> Option<ServiceOnNetwork> {
    let endpoints: Vec<Endpoint> = snapshot
        .attachments_on_network(network)
        .filter(|place| !place.addresses.is_empty())
        .map(|place| guest(place))
        .collect();
    (!endpoints.is_empty()).then(|| ServiceOnNetwork {
        network: network.clone(),
        service: ServiceId::default(),
        name: String::new(),
        mode: ResolutionMode::Dnsrr,
        vips: Vec::new(),
        aliases: Vec::new(),
        stack: String::new(),
        ports: Vec::new(),
        endpoints,
    })
}

fn guest(place: &Attachment) -> Endpoint {
    let container = &place.container;
    let short: String = container.id.chars().take(12).collect();
    Endpoint {
        task: TaskId::new(&container.id),
        name: container.name.clone(),
        container_name: container.name.clone(),
        hostname: container.hostname.clone(),
        node: place.node_id.clone(),
        addresses: place.addresses.clone(),
        serves: true,
        aliases: container.aliases.iter().cloned().chain([short]).collect(),
    }
}

/// What changed between two sets of assignments; `None` when nothing did.
pub fn difference(old: &Items, new: &Items, version: u64) -> Option<Assignments> {
    let put: Vec<AssignmentItem> = new
        .iter()
        .filter(|(key, value)| old.get(*key) != Some(value))
        .map(|(key, value)| AssignmentItem {
            key: key.clone(),
            value: value.to_vec(),
        })
        .collect();
    let remove: Vec<String> = old
        .keys()
        .filter(|key| !new.contains_key(*key))
        .cloned()
        .collect();
    (!put.is_empty() || !remove.is_empty()).then_some(Assignments {
        version,
        complete: false,
        put,
        remove,
    })
}

/// A whole set, to begin a session with.
pub fn complete(items: &Items, version: u64) -> Assignments {
    Assignments {
        version,
        complete: true,
        put: items
            .iter()
            .map(|(key, value)| AssignmentItem {
                key: key.clone(),
                value: value.to_vec(),
            })
            .collect(),
        remove: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use skep_model::container::{ContainerSpec, SecretReference};
    use skep_model::{Secret, Timestamp};
    use skep_store::{Store, Transaction};

    use super::*;

    fn task(id: &str, node: &str, desired: TaskState) -> Task {
        let reference = SecretReference {
            secret_id: "s".into(),
            ..Default::default()
        };
        let mut task = Task {
            id: id.into(),
            service_id: "svc".into(),
            node_id: node.into(),
            desired_state: desired,
            ..Default::default()
        };
        task.status.state = TaskState::Assigned;
        task.spec.container_spec = Some(ContainerSpec {
            secrets: vec![reference],
            ..Default::default()
        });
        task
    }

    fn shared(tasks: Vec<Task>) -> Shared {
        let store = Store::new();
        let mut transaction = Transaction::new(&store.snapshot(), Timestamp::from_secs(1));
        for id in ["n1", "n2"] {
            transaction
                .put(Node {
                    id: id.into(),
                    index: 1,
                    ..Default::default()
                })
                .unwrap();
        }
        let mut secret = Secret {
            id: "s".into(),
            ..Default::default()
        };
        secret.spec.name = "key".into();
        transaction.put(secret).unwrap();
        for task in tasks {
            transaction.put(task).unwrap();
        }
        store.apply(1, &transaction.commit().unwrap()).unwrap();
        Shared::new(store.snapshot())
    }

    #[test]
    fn a_secret_goes_only_where_a_live_task_uses_it() {
        let shared = shared(vec![task("a", "n1", TaskState::Running)]);
        assert!(shared.for_node(&"n1".into()).contains_key("secret/s"));
        assert!(!shared.for_node(&"n2".into()).contains_key("secret/s"));
    }

    #[test]
    fn a_task_that_is_to_stop_stays_assigned_but_loses_its_secret() {
        let shared = shared(vec![task("a", "n1", TaskState::Shutdown)]);
        let items = shared.for_node(&"n1".into());
        assert!(items.contains_key("task/a"));
        assert!(!items.contains_key("secret/s"));
    }

    #[test]
    fn a_node_hears_of_its_peers_but_not_of_itself() {
        let items = shared(vec![]).for_node(&"n1".into());
        assert!(items.contains_key("peer/n2"));
        assert!(!items.contains_key("peer/n1"));
        assert!(items.contains_key("local"));
    }

    #[test]
    fn differences_lead_from_one_set_to_the_other() {
        let one = shared(vec![task("a", "n1", TaskState::Running)]).for_node(&"n1".into());
        let two = shared(vec![task("b", "n1", TaskState::Running)]).for_node(&"n1".into());
        assert_eq!(difference(&one, &one, 7), None);
        let change = difference(&one, &two, 7).unwrap();
        assert_eq!(change.remove, ["task/a"]);
        assert!(change.put.iter().any(|item| item.key == "task/b"));
        assert!(!change.put.iter().any(|item| item.key == "secret/s"));
    }
}
