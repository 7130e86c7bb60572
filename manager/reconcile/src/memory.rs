//! What the leader keeps between steps: only what can be derived from the state again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skep_model::limits::CHANGES_PER_COMMIT_MAX;
use skep_model::node::NodeDescription;
use skep_model::registry_login::host_of;
use skep_model::{Node, NodeId, NodeState, Service, ServiceId, Stack, Task, TaskState, Timestamp};
use skep_plan::NodeTable;
use skep_store::Snapshot;

use crate::rebalance::is_automatic;

/// A step has room for so many changes. Its commit is written, sent and applied as a whole before an
/// agent hears of the first of them, so what is no more work in two steps is sooner there in two.
const CHANGES_PER_STEP_MAX: usize = 400;
const _: () = assert!(CHANGES_PER_STEP_MAX <= CHANGES_PER_COMMIT_MAX);
/// A step has room for so many changes at least, however large they are: a service and some tasks.
const CHANGES_PER_COMMIT_LEAST: usize = 8;

/// A clock that goes back by more was wrong before, or is now.
const PUT_BACK_MAX: Duration = Duration::from_secs(60);

/// Caches of the control loop. Start with an empty one on becoming leader.
///
/// It remembers the state as it will be once the last step's commit is applied. The next step
/// compares that with what really is, so a commit that was lost shows as a difference, and work is
/// done for what has changed only.
#[derive(Debug, Default)]
pub struct Memory {
    pub(crate) last: Snapshot,
    pub(crate) table: NodeTable,
    /// Services to look at, whether they exist or not.
    pub(crate) dirty: BTreeSet<ServiceId>,
    /// When to look at a service although nothing changed.
    pub(crate) timers: BTreeMap<ServiceId, Timestamp>,
    /// Nodes whose tasks have to be checked against what the node is now.
    pub(crate) changed_nodes: BTreeSet<NodeId>,
    pub(crate) removed_nodes: BTreeSet<NodeId>,
    /// Nodes that may lack a number or addresses, or have addresses of a network that is gone.
    pub(crate) unsettled_nodes: BTreeSet<NodeId>,
    pub(crate) down_nodes: BTreeSet<NodeId>,
    /// Room came free somewhere: tasks that wait for a node or an address may try again.
    pub(crate) retry: bool,
    /// Since when this leader has measured time without a break.
    pub(crate) steady_since: Timestamp,
    /// How often the room of a step was halved since a commit was taken.
    halvings: u32,
    /// When the last step was made.
    looked_at: Timestamp,
}

impl Memory {
    pub fn new() -> Self {
        Self::default()
    }

    /// Time is measured without a break since this moment only: this leader has begun, or its clock
    /// was set. How long something has lasted before it is not known.
    pub fn time_is_steady_since(&mut self, now: Timestamp) {
        self.steady_since = now;
        // Those who wait for a time to be over wait from now on.
        self.timers.values_mut().for_each(|at| *at = now.min(*at));
    }

    /// Takes note of the time. A clock that was put back makes all timers wrong: everything is looked
    /// at again, as by a new leader.
    pub(crate) fn look(&mut self, now: Timestamp) {
        if now.plus(PUT_BACK_MAX) < self.looked_at {
            *self = Self {
                steady_since: now,
                ..Self::new()
            };
        }
        self.looked_at = now;
    }

    /// Since when this leader has measured time without a break.
    pub fn steady_since(&self) -> Timestamp {
        self.steady_since
    }

    /// The last commit was refused for its bytes: the next step has half the room.
    pub fn too_big(&mut self) {
        self.halvings = self.halvings.saturating_add(1);
    }

    /// The last commit was taken.
    pub fn taken(&mut self) {
        self.halvings = 0;
    }

    /// Most changes of a step.
    pub(crate) fn room(&self) -> usize {
        let room = CHANGES_PER_STEP_MAX.checked_shr(self.halvings);
        room.unwrap_or(0).max(CHANGES_PER_COMMIT_LEAST)
    }

    /// Takes in what is different in `now` from what was expected.
    pub(crate) fn catch_up(&mut self, now: &Snapshot) {
        let last = std::mem::replace(&mut self.last, now.clone());
        let mut nodes_changed = false;
        for (old, new) in now.changes_since::<Node>(&last) {
            let matters = match (old, new) {
                (Some(old), Some(new)) => node_matters(old, new),
                _ => true,
            };
            nodes_changed |= matters;
            if let Some(id) = new.or(old).map(|node| &node.id) {
                let is_down = |node: &std::sync::Arc<Node>| node.status.state == NodeState::Down;
                match new.is_some_and(is_down) {
                    true => self.down_nodes.insert(id.clone()),
                    false => self.down_nodes.remove(id),
                };
                self.unsettled_nodes.insert(id.clone());
            }
            if let Some(node) = new.filter(|_| matters) {
                self.changed_nodes.insert(node.id.clone());
                let on_it = now.tasks_on_node(&node.id);
                self.dirty.extend(on_it.map(|task| task.service_id.clone()));
            }
            if let (Some(node), None) = (old, new) {
                self.removed_nodes.insert(node.id.clone());
            }
        }
        for (old, new) in now.changes_since::<Service>(&last) {
            let service = new.or(old);
            self.dirty.extend(service.map(|service| service.id.clone()));
            self.retry |= new.is_none();
            // Nobody waits for what is not there.
            if let (Some(service), None) = (old, new) {
                let stack = &service.stack;
                let of_it =
                    |other: &&std::sync::Arc<Service>| !stack.is_empty() && other.stack == *stack;
                let waiting = now.services().filter(of_it);
                self.dirty.extend(waiting.map(|service| service.id.clone()));
            }
        }
        for (old, new) in now.changes_since::<Stack>(&last) {
            let waits = |stack: Option<&std::sync::Arc<Stack>>| {
                stack
                    .map(|stack| stack.spec.depends_on.clone())
                    .unwrap_or_default()
            };
            if waits(old) != waits(new) {
                let name = new.or(old).map(|stack| stack.spec.name.clone());
                let of_it = now
                    .services()
                    .filter(|service| Some(&service.stack) == name.as_ref());
                self.dirty.extend(of_it.map(|service| service.id.clone()));
            }
        }
        for (old, new) in now.changes_since::<Task>(&last) {
            let task = new.or(old);
            self.dirty.extend(task.map(|task| task.service_id.clone()));
            // The node may have been removed while nobody led.
            let node = new.map(|task| &task.node_id).filter(|id| !id.is_empty());
            if let Some(id) = node.filter(|id| now.node(id).is_none()) {
                self.removed_nodes.insert(id.clone());
            }
            let ends = |task: &Task| task.status.state.is_terminal();
            let frees = new.is_none_or(|task| ends(task)) && !old.is_some_and(|task| ends(task));
            self.retry |= frees;
        }
        // Whoever could not pull is tried again.
        let logins = now.changes_since::<skep_model::RegistryLogin>(&last);
        for login in logins.filter_map(|(_, new)| new) {
            let from_it = now.services().filter(|service| {
                let host = host_of(service.spec.task_template.image());
                host.eq_ignore_ascii_case(&login.spec.host)
            });
            self.dirty.extend(from_it.map(|service| service.id.clone()));
        }
        let networks = now.changes_since::<skep_model::Network>(&last);
        self.retry |= networks.count() > 0;
        // The nodes have addresses on it.
        if now.ingress_network() != last.ingress_network() {
            let all = now.nodes();
            self.unsettled_nodes.extend(all.map(|node| node.id.clone()));
        }
        let places = now.changes_since::<skep_model::Attachment>(&last);
        self.retry |= places.filter(|(_, new)| new.is_none()).count() > 0;
        let limit = |snapshot: &Snapshot| snapshot.cluster().map(|c| c.task_history_limit());
        if limit(&last) != limit(now) {
            let all = now.services();
            self.dirty.extend(all.map(|service| service.id.clone()));
        }
        if nodes_changed {
            self.retry = true;
            let global = now
                .services()
                .filter(|service| service.spec.mode.is_global() || is_automatic(service));
            self.dirty.extend(global.map(|service| service.id.clone()));
        }
        self.account(&last, now);
    }

    /// Keeps the node table right from one state to the next.
    pub(crate) fn account(&mut self, before: &Snapshot, after: &Snapshot) {
        for (_, new) in after.changes_since::<Node>(before) {
            if let Some(node) = new {
                self.table.put_node(node);
            }
        }
        for (old, new) in after.changes_since::<Task>(before) {
            self.table
                .task_changed(old.map(|task| &**task), new.map(|task| &**task));
        }
        for (old, new) in after.changes_since::<Node>(before) {
            if let (Some(node), None) = (old, new) {
                self.table.remove_node(&node.id);
            }
        }
    }
}

/// Whether a node's change can change where tasks run.
fn node_matters(old: &Node, new: &Node) -> bool {
    old.status.state != new.status.state
        || old.status.addr != new.status.addr
        || old.spec != new.spec
        || old.role != new.role
        || described(old) != described(new)
}

/// What a node says of itself and tasks depend on: not what is wrong with its networks now.
fn described(node: &Node) -> NodeDescription {
    NodeDescription {
        network_problems: Vec::new(),
        ..node.description.clone()
    }
}

/// Whether an agent may still run something of this task.
pub(crate) fn may_run(task: &Task) -> bool {
    (TaskState::Assigned..=TaskState::Running).contains(&task.status.state)
}
