//! What each node has left. Kept up to date change by change, so a step costs what changed.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use skep_model::publish::PortHost;
use skep_model::resources::GenericResource;
use skep_model::{
    NetworkId, Node, NodeId, Protocol, SecretId, ServiceId, Task, TaskState, Timestamp,
};

use super::Placed;
use super::generic::Pool;
use crate::service::restart::ended_by_itself;

/// So many failures of one service version on one node make the node a last resort.
const FAILURES_MAX: usize = 5;
/// Failures are forgotten after this long.
const FAILURE_MEMORY: Duration = Duration::from_secs(300);
/// Failures remembered per node, of all services. A bound only; the oldest go first.
const FAILURES_KEPT_MAX: usize = 256;

/// Every node with its load.
#[derive(Debug, Clone, Default)]
pub struct NodeTable {
    entries: BTreeMap<NodeId, Entry>,
    /// Networks whose tasks need a node that can encrypt.
    encrypted: BTreeSet<NetworkId>,
    /// Secrets whose tasks need a node that asks for what other stores hold.
    outside: BTreeSet<SecretId>,
}

/// One node and what runs there.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub node: Arc<Node>,
    pub generic: Pool,
    /// Tasks that are meant to run.
    pub active: u32,
    reserved_cpus: i64,
    reserved_memory: i64,
    granted: Vec<GenericResource>,
    ports: BTreeMap<HostPort, u32>,
    by_service: HashMap<ServiceId, Running>,
    failures: VecDeque<(ServiceId, u64, Timestamp)>,
}

/// Tasks of one service that are meant to run on a node.
#[derive(Debug, Clone)]
struct Running {
    tasks: u32,
    /// The service's name.
    name: String,
}

/// A port of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HostPort {
    pub number: u16,
    pub protocol: Protocol,
    pub host: PortHost,
}

impl HostPort {
    /// Its number on all of the node's addresses, which comes before the others.
    fn on_all(&self) -> Self {
        Self {
            host: PortHost::All,
            ..self.clone()
        }
    }

    pub(super) fn clashes(&self, other: &Self) -> bool {
        (self.number, self.protocol) == (other.number, other.protocol)
            && self.host.overlaps(&other.host)
    }
}

/// What a task takes from its node.
#[derive(Debug)]
pub(super) struct Load {
    cpus: i64,
    memory: i64,
    generic: Vec<GenericResource>,
    ports: Vec<HostPort>,
    active: bool,
}

impl Load {
    /// What a task takes: room from assignment to its end, a place in the count while wanted.
    fn of(task: &Task) -> Option<Self> {
        let held = (TaskState::Assigned..=TaskState::Running).contains(&task.status.state);
        (held && !task.node_id.is_empty()).then(|| Self::when_placed(task))
    }

    fn when_placed(task: &Task) -> Self {
        let wanted = task
            .spec
            .resources
            .as_ref()
            .and_then(|resources| resources.reservations.as_ref());
        Self {
            cpus: wanted.map_or(0, |wanted| wanted.nano_cpus.0),
            memory: wanted.map_or(0, |wanted| wanted.memory_bytes.0),
            generic: task.generic_resources.clone(),
            ports: Self::host_ports(task),
            active: task.desired_state <= TaskState::Running,
        }
    }
}

impl NodeTable {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn node(&self, id: &NodeId) -> Option<&Node> {
        self.entries.get(id).map(|entry| &*entry.node)
    }

    /// Every node, in the order of ids.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.entries.values().map(|entry| &entry.node)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes in which networks are encrypted.
    pub fn set_encrypted(&mut self, networks: impl IntoIterator<Item = NetworkId>) {
        self.encrypted = networks.into_iter().collect();
    }

    /// Whether a task is on an encrypted network.
    pub(super) fn encrypts(&self, task: &Task) -> bool {
        let on = |id| self.encrypted.contains(id);
        task.attachments
            .iter()
            .any(|attachment| on(&attachment.network_id))
    }

    /// Takes in which secrets have their bytes in other stores.
    pub fn set_outside(&mut self, secrets: impl IntoIterator<Item = SecretId>) {
        self.outside = secrets.into_iter().collect();
    }

    /// Whether a task needs what another store holds.
    pub(super) fn needs_stores(&self, task: &Task) -> bool {
        let container = task.spec.container().into_iter();
        let mut secrets = container.flat_map(|container| &container.secrets);
        secrets.any(|one| self.outside.contains(&one.secret_id))
    }

    /// Takes a new or changed node in.
    pub fn put_node(&mut self, node: &Arc<Node>) {
        match self.entries.get_mut(&node.id) {
            Some(entry) => {
                let resources = &node.description.resources;
                if entry.node.description.resources != *resources {
                    entry.generic = Pool::new(&resources.generic_resources);
                    entry.generic.take(&entry.granted);
                }
                entry.node = node.clone();
            }
            None => {
                let resources = &node.description.resources;
                self.entries.insert(
                    node.id.clone(),
                    Entry {
                        node: node.clone(),
                        generic: Pool::new(&resources.generic_resources),
                        active: 0,
                        reserved_cpus: 0,
                        reserved_memory: 0,
                        granted: Vec::new(),
                        ports: BTreeMap::new(),
                        by_service: HashMap::new(),
                        failures: VecDeque::new(),
                    },
                );
            }
        }
    }

    /// Forgets a node and its load.
    pub fn remove_node(&mut self, id: &NodeId) {
        self.entries.remove(id);
    }

    /// Accounts for a task that was made, changed or removed. Nodes come before their tasks.
    pub fn task_changed(&mut self, old: Option<&Task>, new: Option<&Task>) {
        if let Some(task) = old
            && let Some(load) = Load::of(task)
            && let Some(entry) = self.entries.get_mut(&task.node_id)
        {
            entry.lift(task, &load);
        }
        let Some(task) = new else { return };
        let Some(entry) = self.entries.get_mut(&task.node_id) else {
            return;
        };
        if let Some(load) = Load::of(task) {
            entry.bear(task, load);
        }
        let had_failed = old.is_some_and(|task| task.status.state.is_terminal());
        let has_failed = ended_by_itself(task) && task.status.state != TaskState::Complete;
        if has_failed && !had_failed {
            entry.remember_failure(task);
        }
    }

    pub(super) fn entry(&self, id: &NodeId) -> Option<&Entry> {
        self.entries.get(id)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Accounts for `task` on `node` as if it were assigned there already.
    pub(super) fn place(&mut self, node: &NodeId, task: &Task) -> Option<Placed> {
        let entry = self.entries.get_mut(node)?;
        let wanted = task
            .spec
            .resources
            .as_ref()
            .and_then(|resources| resources.reservations.as_ref())
            .map(|reservations| reservations.generic_resources.as_slice())
            .unwrap_or_default();
        let granted = entry.generic.grant(wanted)?;
        let mut load = Load::when_placed(task);
        load.generic.clone_from(&granted);
        entry.bear(task, load);
        Some(Placed {
            node: node.clone(),
            generic_resources: granted,
        })
    }
}

impl Entry {
    pub(super) fn free_cpus(&self) -> i64 {
        self.node.description.resources.nano_cpus.0 - self.reserved_cpus
    }

    pub(super) fn free_memory(&self) -> i64 {
        self.node.description.resources.memory_bytes.0 - self.reserved_memory
    }

    /// How much of the node is reserved, in thousandths: of processors or of memory, whichever is more.
    pub(super) fn reserved(&self) -> u32 {
        let resources = &self.node.description.resources;
        let share = |reserved: i64, all: i64| {
            let share = i128::from(reserved.max(0)) * 1000 / i128::from(all.max(1));
            u32::try_from(share.min(1000)).unwrap_or(1000)
        };
        let cpus = share(self.reserved_cpus, resources.nano_cpus.0);
        let memory = share(self.reserved_memory, resources.memory_bytes.0);
        cpus.max(memory)
    }

    pub(super) fn has_port(&self, port: &HostPort) -> bool {
        let same_number = self.ports.range(port.on_all()..).map(|(other, _)| other);
        let mut same_number = same_number
            .take_while(|other| (other.number, other.protocol) == (port.number, port.protocol));
        same_number.any(|other| other.clashes(port))
    }

    /// Tasks of a service that are meant to run here.
    pub(super) fn active_of(&self, service: &ServiceId) -> u32 {
        self.by_service.get(service).map_or(0, |here| here.tasks)
    }

    /// Whether tasks of the service of this name are meant to run here.
    pub(super) fn runs(&self, name: &str) -> bool {
        let mut here = self.by_service.values();
        here.any(|here| here.name.eq_ignore_ascii_case(name))
    }

    /// Whether this version of the service has failed here too often of late.
    pub(super) fn is_failing(&self, service: &ServiceId, version: u64, now: Timestamp) -> bool {
        let recent = self
            .failures
            .iter()
            .filter(|(of, at_version, at)| {
                *at_version == version && of == service && now.since(*at) <= FAILURE_MEMORY
            })
            .count();
        recent >= FAILURES_MAX
    }

    fn remember_failure(&mut self, task: &Task) {
        let at = task.status.applied_at;
        while self.failures.len() >= FAILURES_KEPT_MAX
            || self
                .failures
                .front()
                .is_some_and(|(_, _, known)| at.since(*known) > FAILURE_MEMORY)
        {
            self.failures.pop_front();
        }
        self.failures
            .push_back((task.service_id.clone(), task.spec_version.index, at));
    }

    fn bear(&mut self, task: &Task, load: Load) {
        self.reserved_cpus += load.cpus;
        self.reserved_memory += load.memory;
        self.generic.take(&load.generic);
        self.granted.extend(load.generic);
        for port in load.ports {
            *self.ports.entry(port).or_default() += 1;
        }
        if load.active {
            self.active += 1;
            let here = self.by_service.entry(task.service_id.clone());
            let here = here.or_insert_with(|| Running {
                tasks: 0,
                name: task.service_name.clone(),
            });
            here.tasks += 1;
        }
    }

    fn lift(&mut self, task: &Task, load: &Load) {
        self.reserved_cpus -= load.cpus;
        self.reserved_memory -= load.memory;
        self.generic.give(&load.generic);
        for granted in &load.generic {
            if let Some(at) = self.granted.iter().position(|known| known == granted) {
                self.granted.swap_remove(at);
            }
        }
        for port in &load.ports {
            if let Some(users) = self.ports.get_mut(port) {
                *users = users.saturating_sub(1);
                if *users == 0 {
                    self.ports.remove(port);
                }
            }
        }
        if load.active {
            // A leader does not stop over a wrong count, a test does.
            debug_assert!(self.active > 0, "a task leaves that never came");
            self.active = self.active.saturating_sub(1);
            if let Some(here) = self.by_service.get_mut(&task.service_id) {
                here.tasks = here.tasks.saturating_sub(1);
                if here.tasks == 0 {
                    self.by_service.remove(&task.service_id);
                }
            }
        }
    }
}
