//! Networks, the services on them, and which nodes are on which.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use skep_model::service::ResolutionMode;
use skep_model::stack::STACK_LABEL;
use skep_model::{
    Attachment, Network, NetworkId, Node, NodeId, PublishMode, Service, ServiceId, Task, TaskId,
};
use skep_proto::assignment::{Endpoint, Item, ServiceOnNetwork};
use skep_store::Snapshot;

use super::{Affected, Part, Shared, task};

/// A network and its services. Plain containers on it come as a service without id.
#[derive(Clone, Default)]
pub(super) struct OnNetwork {
    network: Option<Part>,
    services: OrdMap<ServiceId, Part>,
}

impl OnNetwork {
    pub(super) fn parts(&self) -> impl Iterator<Item = &Part> {
        self.network.iter().chain(self.services.values())
    }
}

/// How often nodes are on networks; those that are not are not listed.
#[derive(Clone, Default)]
pub(super) struct Presence(OrdMap<(NetworkId, NodeId), u32>);

impl Presence {
    /// Says whether the node was not there before.
    fn come(&mut self, network: &NetworkId, node: &NodeId) -> bool {
        let key = (network.clone(), node.clone());
        let times = self.0.get(&key).copied().unwrap_or(0);
        self.0.insert(key, times + 1);
        times == 0
    }

    /// Says whether the node is not there any more.
    fn leave(&mut self, network: &NetworkId, node: &NodeId) -> bool {
        let key = (network.clone(), node.clone());
        match self.0.get(&key).copied() {
            Some(times) if times > 1 => {
                self.0.insert(key, times - 1);
                false
            }
            Some(_) | None => self.0.remove(&key).is_some(),
        }
    }

    pub(super) fn is_on(&self, network: &NetworkId, node: &NodeId) -> bool {
        self.0.contains_key(&(network.clone(), node.clone()))
    }

    /// The nodes on a network, in order.
    pub(super) fn on(&self, network: &NetworkId) -> impl Iterator<Item = &NodeId> {
        let first = (network.clone(), NodeId::default());
        let network = network.clone();
        self.0
            .range(first..)
            .take_while(move |((on, _), _)| *on == network)
            .map(|((_, node), _)| node)
    }
}

/// A service's part on a network that may have to be made anew.
type Touched = BTreeSet<(NetworkId, ServiceId)>;

impl Shared {
    /// Takes in what has changed of networks, and of who is on them.
    pub(super) fn follow_networks(&mut self, before: &Self, affected: &mut Affected) {
        let snapshot = self.snapshot.clone();
        let ingress = snapshot.ingress_network().map(|found| found.id.clone());
        let is_another = ingress != self.ingress;
        self.ingress = ingress;
        let moved = self.follow_presence(before, affected);
        let mut changed: BTreeSet<NetworkId> = BTreeSet::new();
        if is_another {
            affected.add_all();
            for node in snapshot.nodes() {
                self.follow_hub(&node.id, affected);
            }
        }
        for (network, node) in moved {
            if self.ingress.as_ref() == Some(&network) {
                self.follow_hub(&node, affected);
            }
            changed.insert(network);
        }

        let mut touched = touched(&snapshot, &before.snapshot);
        for (old, new) in snapshot.changes_since::<Network>(&before.snapshot) {
            let Some(id) = new.or(old).map(|network| network.id.clone()) else {
                continue;
            };
            match new.filter(|network| network.is_allocated()) {
                Some(network) => {
                    let mut on = self.networks.get(&id).cloned().unwrap_or_default();
                    let is_new = on.network.is_none();
                    if is_new || old.is_none_or(|old| old.spec != network.spec) {
                        touched.extend(all_on(&snapshot, network));
                    }
                    let item = Item::Network(Box::new(Network::clone(network)));
                    on.network = Some(Part::new(&item));
                    self.networks.insert(id.clone(), on);
                    changed.insert(id);
                }
                None if self.networks.remove(&id).is_some() => drop(changed.insert(id)),
                None => (),
            }
        }
        for (network, service) in touched {
            if self.follow_service(&network, &service) {
                changed.insert(network);
            }
        }
        for network in &changed {
            if Some(network) == self.ingress.as_ref() {
                affected.add_all();
            }
            for node in self.presence.on(network) {
                affected.add(node);
            }
        }
    }

    /// Makes a service's part on a network anew. Says whether it is another than before.
    fn follow_service(&mut self, network: &NetworkId, service: &ServiceId) -> bool {
        let snapshot = self.snapshot.clone();
        let (Some(found), Some(on)) = (snapshot.network(network), self.networks.get_mut(network))
        else {
            return false;
        };
        let item = match service.is_empty() {
            true => guests_on(&snapshot, network),
            false => service_on(&snapshot, service, found),
        };
        match item.map(|item| Part::new(&Item::Service(item))) {
            Some(part) if on.services.get(service) == Some(&part) => false,
            Some(part) => {
                on.services.insert(service.clone(), part);
                true
            }
            None => on.services.remove(service).is_some(),
        }
    }

    /// Counts who is on which network. Gives back who came to a network or left it.
    fn follow_presence(
        &mut self,
        before: &Self,
        affected: &mut Affected,
    ) -> BTreeSet<(NetworkId, NodeId)> {
        let snapshot = self.snapshot.clone();
        let mut moved = BTreeSet::new();
        for (old, new) in snapshot.changes_since::<Task>(&before.snapshot) {
            if let (Some(old), Some(new)) = (old, new)
                && task::is_same_endpoint(old, new)
            {
                continue;
            }
            // First who comes: most of them stay where they were.
            for place in new.into_iter().flat_map(|task| places(task)) {
                if self.presence.come(&place.0, &place.1) {
                    moved.insert(place);
                }
            }
            for place in old.into_iter().flat_map(|task| places(task)) {
                if self.presence.leave(&place.0, &place.1) {
                    moved.insert(place);
                }
            }
        }
        let mut guests_changed = false;
        for (old, new) in snapshot.changes_since::<Attachment>(&before.snapshot) {
            guests_changed = true;
            let place = |guest: &Arc<Attachment>| (guest.network_id.clone(), guest.node_id.clone());
            if let Some(place) = new.map(place) {
                affected.add(&place.1);
                if self.presence.come(&place.0, &place.1) {
                    moved.insert(place);
                }
            }
            if let Some(place) = old.map(place) {
                affected.add(&place.1);
                if self.presence.leave(&place.0, &place.1) {
                    moved.insert(place);
                }
            }
        }
        if guests_changed {
            self.guests = Arc::new(guests_of_nodes(&snapshot));
        }
        moved
    }

    /// The networks that a node needs, the ingress network included.
    pub(super) fn networks_of(&self, node: &NodeId) -> BTreeSet<NetworkId> {
        let mut networks: BTreeSet<NetworkId> = self.ingress.iter().cloned().collect();
        let tasks = self.snapshot.tasks_on_node(node);
        for task in tasks.filter(|task| task::needs_networks(task)) {
            let attached = task.attachments.iter();
            networks.extend(attached.map(|attachment| attachment.network_id.clone()));
        }
        networks.extend(self.guests.get(node).into_iter().flatten().cloned());
        // Those that every node has for itself are none of the cluster's.
        networks.retain(|network| self.networks.contains_key(network));
        networks
    }

    /// The networks whose nodes know this one: also those of tasks that it has not been given yet.
    pub(super) fn networks_about(&self, node: &NodeId) -> BTreeSet<NetworkId> {
        let tasks = self.snapshot.tasks_on_node(node);
        let places = tasks.flat_map(|task| places(task));
        let of_tasks = places.map(|(network, _)| network);
        let guests = self.guests.get(node).into_iter().flatten().cloned();
        of_tasks.chain(guests).collect()
    }

    /// What whoever is on a network is told of it.
    pub(super) fn on_network(&self, network: &NetworkId) -> impl Iterator<Item = &Part> {
        let on = self.networks.get(network).into_iter();
        on.flat_map(OnNetwork::parts)
    }
}

/// Where a task has its endpoints.
fn places(task: &Task) -> impl Iterator<Item = (NetworkId, NodeId)> {
    let attached = task.attachments.iter().filter(|_| is_there(task));
    attached.map(|attachment| (attachment.network_id.clone(), task.node_id.clone()))
}

/// Whether a task has its endpoints on a node.
fn is_there(task: &Task) -> bool {
    !task.node_id.is_empty() && !task.status.state.is_terminal()
}

/// The parts of services on networks that may be others in `now` than they were `before`.
fn touched(now: &Snapshot, before: &Snapshot) -> Touched {
    let mut touched = Touched::new();
    let ingress = now.ingress_network().map(|network| &network.id);
    for (old, new) in now.changes_since::<Service>(before) {
        for service in old.into_iter().chain(new) {
            let vips = service.endpoint.virtual_ips.iter();
            touched.extend(vips.map(|vip| (vip.network_id.clone(), service.id.clone())));
            let published = ingress.filter(|_| publishes(service)).cloned();
            touched.extend(published.map(|network| (network, service.id.clone())));
            let tasks = now.tasks_of_service(&service.id);
            tasks.for_each(|task| touch(&mut touched, task));
        }
    }
    for (old, new) in now.changes_since::<Task>(before) {
        if let (Some(old), Some(new)) = (old, new)
            && task::is_same_endpoint(old, new)
        {
            continue;
        }
        for task in old.into_iter().chain(new) {
            touch(&mut touched, task);
        }
    }
    // Host names of tasks may be made of their node's.
    for (old, new) in now.changes_since::<Node>(before) {
        let named = |node: Option<&Arc<Node>>| {
            node.map(|node| {
                let description = &node.description;
                (description.hostname.clone(), description.platform.clone())
            })
        };
        if named(old) == named(new) {
            continue;
        }
        if let Some(node) = new.or(old) {
            let tasks = now.tasks_on_node(&node.id);
            tasks.for_each(|task| touch(&mut touched, task));
        }
    }
    for (old, new) in now.changes_since::<Attachment>(before) {
        for place in old.into_iter().chain(new) {
            touched.insert((place.network_id.clone(), ServiceId::default()));
        }
    }
    touched
}

fn touch(touched: &mut Touched, task: &Task) {
    for attachment in &task.attachments {
        touched.insert((attachment.network_id.clone(), task.service_id.clone()));
    }
}

/// Everything that is on a network.
fn all_on(snapshot: &Snapshot, network: &Network) -> Touched {
    let services = snapshot.services().filter(|service| {
        let vips = &service.endpoint.virtual_ips;
        vips.iter().any(|vip| vip.network_id == network.id)
            || (network.spec.ingress && publishes(service))
    });
    let tasks = snapshot.tasks_on_network(&network.id);
    services
        .map(|service| service.id.clone())
        .chain(tasks.map(|task| task.service_id.clone()))
        .chain([ServiceId::default()])
        .map(|service| (network.id.clone(), service))
        .collect()
}

fn guests_of_nodes(snapshot: &Snapshot) -> BTreeMap<NodeId, BTreeSet<NetworkId>> {
    let mut guests: BTreeMap<NodeId, BTreeSet<NetworkId>> = BTreeMap::new();
    for place in snapshot.attachments() {
        let networks = guests.entry(place.node_id.clone()).or_default();
        networks.insert(place.network_id.clone());
    }
    guests
}

fn publishes(service: &Service) -> bool {
    service
        .endpoint
        .ports
        .iter()
        .any(|port| port.publish_mode == PublishMode::Ingress)
}

/// A service on a network; nothing when it has no place there. One without a task keeps its name
/// and address: connections to it are refused.
fn service_on(
    snapshot: &Snapshot,
    service: &ServiceId,
    network: &Network,
) -> Option<ServiceOnNetwork> {
    let service = snapshot.service(service)?;
    let is_on = |task: &Task| {
        let mut attached = task.attachments.iter();
        attached.any(|attachment| attachment.network_id == network.id)
    };
    let tasks = snapshot.tasks_of_service(&service.id);
    let mut tasks: Vec<&Arc<Task>> = tasks.filter(|task| is_on(task)).collect();
    let mut vips = service.endpoint.virtual_ips.iter();
    if tasks.is_empty()
        && !vips.any(|vip| vip.network_id == network.id)
        && !(network.spec.ingress && publishes(service))
    {
        return None;
    }
    tasks.sort_by(|one, other| one.id.cmp(&other.id));
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
    Some(ServiceOnNetwork {
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
            .into_iter()
            .filter(|task| is_there(task))
            .map(|task| endpoint(snapshot, task, &network.id))
            .collect(),
    })
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
