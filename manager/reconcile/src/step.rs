//! One step of the control loop: everything that is to be done now, in one commit.

use std::collections::BTreeSet;
use std::sync::Arc;

use skep_model::disconnect::OnDisconnect;
use skep_model::registry_login::host_of;
use skep_model::volume_home::is_sticky;
use skep_model::{
    Random, RegistryLogin, Service, ServiceId, Task, TaskId, TaskState, TaskStatus, Timestamp,
    state::Actor,
};
use skep_plan::{Action, ServiceView, enforce, homes, new_task, plan_service, reap};
use skep_store::{Commit, Key, Snapshot, Transaction};

use crate::allocate::Allocator;
use crate::memory::{Memory, may_run};
use crate::{gate, nodes, place, rebalance};

/// What one step decided.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Step {
    /// To be proposed; nothing when all is as it should be.
    pub commit: Option<Commit>,
    /// When to run the next step although nothing has changed. A moment that has passed means
    /// that work is left: run it as soon as the commit is applied.
    pub wake_at: Option<Timestamp>,
    /// What is being waited for, one sentence each.
    pub notes: Vec<String>,
}

/// Decides what to do now.
///
/// Call it after every applied commit and at `wake_at`; one at a time: propose its commit and wait
/// until it is applied or refused before the next call. Whatever became of the commit, the next
/// call finds out from the snapshot. The stages share one transaction, so a new service reaches
/// `Assigned` in a single commit.
pub fn reconcile(
    snapshot: &Snapshot,
    memory: &mut Memory,
    now: Timestamp,
    random: &mut dyn Random,
) -> Step {
    memory.look(now);
    memory.catch_up(snapshot);
    let mut stage = Stage {
        tx: Transaction::new(snapshot, now),
        memory,
        now,
        random,
        step: Step::default(),
    };
    if snapshot.cluster().is_none() {
        return stage.step;
    }
    let mut allocator = Allocator::default();
    let retry = stage.memory.retry;
    nodes::advance(&mut stage, &mut allocator);
    allocator.networks(&mut stage);
    allocator.guests(&mut stage);
    stage.enforce();
    let seen = stage.services(&mut allocator);
    stage.end_unstarted(&seen, retry);
    allocator.tasks(&mut stage, &seen, retry);
    place::place(&mut stage, &seen, retry);
    stage.reap(&seen);
    stage.finish()
}

/// A step under way.
pub(crate) struct Stage<'a> {
    pub tx: Transaction,
    pub memory: &'a mut Memory,
    pub now: Timestamp,
    pub random: &'a mut dyn Random,
    pub step: Step,
}

impl Stage<'_> {
    /// How many more changes fit into this commit.
    pub(crate) fn room(&self) -> usize {
        self.memory.room().saturating_sub(self.tx.len())
    }

    pub(crate) fn wake(&mut self, at: Timestamp) {
        let known = self.step.wake_at;
        self.step.wake_at = Some(known.map_or(at, |known| known.min(at)));
    }

    /// Moves a task on behalf of `by`; a move that the law forbids is noted and left out.
    pub(crate) fn move_task(&mut self, id: &TaskId, by: Actor, state: TaskState, message: &str) {
        let Some(task) = self.tx.task(id) else { return };
        let status = TaskStatus {
            timestamp: self.now,
            state,
            message: message.to_owned(),
            err: match state {
                TaskState::Rejected => message.to_owned(),
                _ => String::new(),
            },
            applied_at: self.now,
            ..task.status.clone()
        };
        if let Err(error) = self.tx.move_task(id, by, status) {
            self.step.notes.push(error.to_string());
        }
    }

    /// One that must not run beside its successor, as with the same volumes, is told to stop, and waited
    /// for.
    fn evict(&mut self, id: &TaskId) {
        let task = self.tx.task(id);
        let is_exclusive = task.is_some_and(|task| OnDisconnect::of(&task.labels).exclusive);
        let service = task.and_then(|task| self.tx.service(&task.service_id));
        if is_exclusive || service.is_some_and(|service| is_sticky(&service.spec.labels)) {
            if let Err(error) = self.tx.raise_desired(id, TaskState::Shutdown) {
                self.step.notes.push(error.to_string());
            }
            return;
        }
        self.move_task(id, Actor::Enforcer, TaskState::Rejected, enforce::EVICTED);
    }

    /// Rejects tasks that their node, as it is now, no longer suits.
    fn enforce(&mut self) {
        for id in std::mem::take(&mut self.memory.changed_nodes) {
            let Some(node) = self.tx.node(&id).cloned() else {
                continue;
            };
            let tasks: Vec<_> = self.tx.tasks_on_node(&id).cloned().collect();
            let view = self.tx.view().clone();
            let current = |task: &skep_model::Task| {
                view.service(&task.service_id)
                    .map(|service| service.spec.task_template.clone())
            };
            for task in enforce::evicted(&node, &tasks, current) {
                self.evict(&task);
                if let Some(task) = self.tx.task(&task) {
                    self.memory.dirty.insert(task.service_id.clone());
                }
            }
        }
    }

    /// Looks at every service that needs it, as far as the commit has room. Gives back which.
    fn services(&mut self, allocator: &mut Allocator) -> Vec<ServiceId> {
        let now = self.now;
        let due = self.memory.timers.iter();
        let due: Vec<ServiceId> = due
            .filter(|(_, at)| **at <= now)
            .map(|(id, _)| id.clone())
            .collect();
        self.memory.dirty.extend(due);
        if self.memory.retry {
            // Services that wait for an address or a port may have their turn now.
            let waiting = self.tx.services();
            let waiting: Vec<ServiceId> = waiting
                .filter(|service| !service.waits_for.is_empty())
                .map(|service| service.id.clone())
                .collect();
            self.memory.dirty.extend(waiting);
            self.memory.retry = false;
        }
        let mut seen = Vec::new();
        // Those that were looked at for what they wait for: once is enough, since how far others are
        // changes between steps.
        let mut woken = BTreeSet::new();
        while self.room() > 0 {
            let Some(id) = self.memory.dirty.pop_first() else {
                break;
            };
            self.memory.timers.remove(&id);
            if self.tx.service(&id).is_some() {
                allocator.service(self, &id);
                self.service(&id);
                self.wake_dependents(&id, &mut woken);
            } else {
                self.orphans(&id);
            }
            seen.push(id);
        }
        // One that was looked at twice has its tasks but once.
        seen.sort();
        seen.dedup();
        seen
    }

    fn wake_dependents(&mut self, id: &ServiceId, woken: &mut BTreeSet<ServiceId>) {
        let Some(service) = self.tx.service(id) else {
            return;
        };
        for waiting in gate::dependents(self.tx.view(), service) {
            if woken.insert(waiting.clone()) {
                self.memory.dirty.insert(waiting);
            }
        }
    }

    fn service(&mut self, id: &ServiceId) {
        self.settle_homes(id);
        let Some(service) = self.tx.service(id).cloned() else {
            return;
        };
        let tasks: Vec<_> = self.tx.tasks_of_service(id).cloned().collect();
        let waits = gate::waits(self.tx.view(), &service);
        let plan = plan_service(&ServiceView {
            service: &service,
            tasks: &tasks,
            nodes: &self.memory.table,
            now: self.now,
            steady_since: self.memory.steady_since,
            budget: self.room(),
            waits: &waits,
            registry_login_at: registry_login_at(self.tx.view(), &service),
        });
        let name = &service.spec.name;
        let notes = plan.notes.iter();
        self.step
            .notes
            .extend(notes.map(|note| format!("service {name}: {note}")));
        let mut unfinished = plan.unfinished;
        let service = match plan.service {
            Some(changed) => {
                self.put_service(*changed.clone());
                *changed
            }
            None => Service::clone(&service),
        };
        if !plan.actions.is_empty() {
            // Its tasks must not be made for a service that is being changed or removed.
            self.tx.rely_on(Key::Service(id.clone()));
        }
        for action in plan.actions {
            if self.room() == 0 {
                unfinished = true;
                break;
            }
            self.act(&service, action);
        }
        if unfinished {
            self.memory.dirty.insert(id.clone());
        }
        if let Some(at) = plan.wake_at {
            self.memory.timers.insert(id.clone(), at);
        }
        self.rebalance(&service, &tasks);
        self.give_in_place(&service);
    }

    /// Takes in what the tasks of a service say of where its volumes are.
    fn settle_homes(&mut self, id: &ServiceId) {
        let Some(service) = self.tx.service(id) else {
            return;
        };
        if !is_sticky(&service.spec.labels) && service.volume_homes.is_empty() {
            return;
        }
        let tasks: Vec<_> = self.tx.tasks_of_service(id).cloned().collect();
        if let Some(homes) = homes::settle(service, &tasks, &self.memory.table, self.now) {
            let mut service = Service::clone(service);
            service.volume_homes = homes;
            self.put_service(service);
        }
    }

    /// Spreads a service anew that is to be without being asked, once nodes are settled.
    fn rebalance(&mut self, service: &Service, tasks: &[Arc<Task>]) {
        if !rebalance::is_automatic(service) || !rebalance::is_idle(service) {
            return;
        }
        let at = rebalance::settled_at(service, self.tx.view());
        if at > self.now {
            let timer = self.memory.timers.entry(service.id.clone()).or_insert(at);
            *timer = at.min(*timer);
            return;
        }
        let table = &self.memory.table;
        if let Some((begun, _)) = rebalance::begin(service, tasks, table, usize::MAX, self.now) {
            self.memory.dirty.insert(service.id.clone());
            self.put_service(begun);
        }
    }

    fn act(&mut self, service: &Service, action: Action) {
        match action {
            Action::Create(wanted) => {
                let id = TaskId::random(self.random);
                let cluster = self.tx.cluster().cloned();
                let task = new_task(service, cluster.as_deref(), id, &wanted, self.now);
                if let Err(error) = self.tx.put(task) {
                    self.step.notes.push(error.to_string());
                }
            }
            Action::Raise { task, to } => {
                if let Err(error) = self.tx.raise_desired(&task, to) {
                    self.step.notes.push(error.to_string());
                }
            }
        }
    }

    pub(crate) fn put_service(&mut self, service: Service) {
        if let Err(error) = self.tx.put(service) {
            self.step.notes.push(error.to_string());
        }
    }

    /// Tasks of a service that is gone.
    fn orphans(&mut self, id: &ServiceId) {
        let tasks: Vec<TaskId> = self
            .tx
            .tasks_of_service(id)
            .filter(|task| task.desired_state < TaskState::Remove)
            .map(|task| task.id.clone())
            .collect();
        for task in tasks {
            if self.room() == 0 {
                self.memory.dirty.insert(id.clone());
                return;
            }
            if let Err(error) = self.tx.raise_desired(&task, TaskState::Remove) {
                self.step.notes.push(error.to_string());
            }
        }
    }

    /// Tasks that no agent has and that are not wanted any more end at once.
    fn end_unstarted(&mut self, seen: &[ServiceId], all: bool) {
        let unstarted: Vec<TaskId> = waiting(&self.tx, seen, all)
            .filter(|task| (TaskState::Complete..TaskState::Remove).contains(&task.desired_state))
            .map(|task| task.id.clone())
            .collect();
        for id in unstarted {
            self.move_task(&id, Actor::Scheduler, TaskState::Shutdown, "shutdown");
        }
    }

    /// Forgets what history need not keep.
    fn reap(&mut self, seen: &[ServiceId]) {
        let limit = self
            .tx
            .cluster()
            .map_or(skep_model::limits::TASK_HISTORY_DEFAULT, |cluster| {
                cluster.task_history_limit()
            });
        for id in seen {
            let tasks: Vec<_> = self.tx.tasks_of_service(id).cloned().collect();
            let service = self.tx.service(id).cloned();
            let reaped = reap::reap(service.as_deref(), &tasks, limit, self.now);
            if let Some(at) = reaped.wake_at {
                let timer = self.memory.timers.entry(id.clone()).or_insert(at);
                *timer = at.min(*timer);
            }
            for task in reaped.gone {
                if self.room() == 0 {
                    self.memory.dirty.insert(id.clone());
                    break;
                }
                if let Err(error) = self.tx.remove::<skep_model::Task>(&task) {
                    self.step.notes.push(error.to_string());
                }
            }
        }
    }

    fn finish(mut self) -> Step {
        let after = self.tx.view().clone();
        let before = std::mem::replace(&mut self.memory.last, after.clone());
        self.memory.account(&before, &after);
        if let Some(at) = self.memory.timers.values().min().copied() {
            self.wake(at);
        }
        if !self.memory.dirty.is_empty() {
            let now = self.now;
            self.wake(now);
        }
        self.step.commit = self.tx.commit();
        self.step
    }
}

/// When the cluster was last given credentials for the registry of a service's image.
fn registry_login_at(view: &Snapshot, service: &Service) -> Option<Timestamp> {
    let host = host_of(service.spec.task_template.image());
    let login = view.by_name::<RegistryLogin>(&host);
    login.map(|login| login.kept_at)
}

/// Tasks before `Assigned`: all of them, or those of the services just looked at.
pub(crate) fn waiting<'a>(
    view: &'a Snapshot,
    seen: &'a [ServiceId],
    all: bool,
) -> Box<dyn Iterator<Item = &'a std::sync::Arc<skep_model::Task>> + 'a> {
    if all {
        return Box::new(view.waiting_tasks());
    }
    Box::new(
        seen.iter()
            .flat_map(|id| view.tasks_of_service(id))
            .filter(|task| task.status.state < TaskState::Assigned),
    )
}

/// Gives up the tasks of nodes that are gone.
pub(crate) fn orphan(stage: &mut Stage<'_>, node: &skep_model::NodeId, why: &str) {
    let tasks: Vec<TaskId> = stage
        .tx
        .tasks_on_node(node)
        .filter(|task| may_run(task) || task.status.state < TaskState::Assigned)
        .map(|task| task.id.clone())
        .collect();
    for task in tasks {
        stage.move_task(&task, Actor::NodeMonitor, TaskState::Orphaned, why);
    }
}
