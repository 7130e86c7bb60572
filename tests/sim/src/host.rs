//! A fake node: an agent and an engine whose containers start, fail and stop after a while.

use std::collections::BTreeMap;
use std::time::Duration;

use skep_model::{NetworkId, NodeId, Task, TaskId, TaskState, TaskStatus, Timestamp};
use skep_store::Snapshot;

use crate::random::Dice;

/// One host.
#[derive(Debug)]
pub struct Host {
    pub id: NodeId,
    /// Whether it reaches the managers.
    pub connected: bool,
    /// Whether it is switched on.
    pub on: bool,
    /// When the present fault ends.
    pub heals_at: Timestamp,
    /// When it was last cut off.
    cut_off_at: Timestamp,
    /// The newest state it has seen; it refuses older ones.
    seen: u64,
    pub containers: BTreeMap<TaskId, Container>,
}

/// One container, and the task that it is for.
#[derive(Debug, Clone)]
pub struct Container {
    /// What the agent reports.
    pub state: TaskState,
    desired: TaskState,
    image: String,
    is_job: bool,
    /// When the present stage is over.
    until: Timestamp,
    /// When it will have stopped, once told to.
    stopped_at: Option<Timestamp>,
    pub addresses: Vec<(NetworkId, String)>,
    pub service: String,
    /// Whether the host was cut off while the container was there, so that nobody could stop it.
    pub was_cut_off: bool,
}

impl Container {
    /// Whether a process may exist.
    pub fn runs(&self) -> bool {
        matches!(self.state, TaskState::Starting | TaskState::Running)
    }
}

impl Host {
    pub fn new(id: NodeId) -> Self {
        Self {
            id,
            connected: true,
            on: true,
            heals_at: Timestamp::ZERO,
            cut_off_at: Timestamp::ZERO,
            seen: 0,
            containers: BTreeMap::new(),
        }
    }

    pub fn is_heard(&self) -> bool {
        self.connected && self.on
    }

    /// The power goes: every container ends, and the journal says so afterwards.
    pub fn crash(&mut self) {
        self.on = false;
        for container in self.containers.values_mut() {
            if !container.state.is_terminal() {
                container.state = match container.state < TaskState::Starting {
                    true => TaskState::Rejected,
                    false => TaskState::Failed,
                };
            }
        }
    }

    /// Takes in what the managers want, unless it is older than what is known.
    pub fn listen(&mut self, snapshot: &Snapshot, now: Timestamp, dice: &mut Dice) {
        let version = snapshot.version().index;
        if !self.is_heard() || version < self.seen {
            return;
        }
        self.seen = version;
        let mut assigned = BTreeMap::new();
        for task in snapshot.tasks_on_node(&self.id) {
            if task.status.state >= TaskState::Assigned {
                assigned.insert(task.id.clone(), task.clone());
            }
        }
        self.containers.retain(|id, container| {
            if !assigned.contains_key(id) {
                container.desired = TaskState::Remove;
            }
            assigned.contains_key(id) || !container.state.is_terminal()
        });
        for (id, task) in assigned {
            match self.containers.get_mut(&id) {
                Some(container) => container.desired = container.desired.max(task.desired_state),
                None if task.status.state.is_terminal() => (),
                None => {
                    let job = snapshot
                        .service(&task.service_id)
                        .is_some_and(|service| service.spec.mode.is_job());
                    let mut container = accept(&task, job, now, dice);
                    // It may have been given up while the host could not hear of it.
                    container.was_cut_off = task.created_at <= self.cut_off_at;
                    self.containers.insert(id, container);
                }
            }
        }
    }

    /// Lets time pass for the containers. `rough` makes good ones fail now and then.
    pub fn advance(&mut self, now: Timestamp, rough: bool, dice: &mut Dice) {
        if !self.on {
            return;
        }
        let cut_off = !self.connected;
        if cut_off {
            self.cut_off_at = now;
        }
        for container in self.containers.values_mut() {
            container.was_cut_off |= cut_off;
            container.advance(now, rough, dice);
        }
    }

    /// What has changed against what the managers know.
    pub fn reports(
        &self,
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> Vec<(TaskId, NodeId, TaskStatus)> {
        if !self.is_heard() {
            return Vec::new();
        }
        let mut reports = Vec::new();
        for (id, container) in &self.containers {
            let known = snapshot.task(id).map(|task| task.status.state);
            if known.is_some_and(|known| known != container.state) {
                let status = TaskStatus {
                    timestamp: now,
                    state: container.state,
                    message: container.state.to_string(),
                    ..TaskStatus::default()
                };
                reports.push((id.clone(), self.id.clone(), status));
            }
        }
        reports
    }
}

fn accept(task: &Task, is_job: bool, now: Timestamp, dice: &mut Dice) -> Container {
    let addresses = task.attachments.iter().flat_map(|attachment| {
        let network = attachment.network_id.clone();
        let addresses = attachment.addresses.iter();
        addresses.map(move |address| (network.clone(), address.clone()))
    });
    Container {
        state: TaskState::Accepted,
        desired: task.desired_state,
        image: task.spec.image().to_owned(),
        is_job,
        until: after(now, dice, 0, 300),
        stopped_at: None,
        addresses: addresses.collect(),
        service: task.service_name.clone(),
        was_cut_off: false,
    }
}

impl Container {
    fn advance(&mut self, now: Timestamp, rough: bool, dice: &mut Dice) {
        if self.state.is_terminal() {
            return;
        }
        if self.desired > TaskState::Running {
            // One that has no process yet is gone at once.
            let ends = match self.runs() {
                true => *self
                    .stopped_at
                    .get_or_insert_with(|| after(now, dice, 100, 3000)),
                false => now,
            };
            if ends <= now {
                self.state = TaskState::Shutdown;
            }
            return;
        }
        if now < self.until {
            return;
        }
        let fails = |dice: &mut Dice| rough && dice.chance(3);
        match self.state {
            TaskState::Accepted => {
                self.state = TaskState::Preparing;
                self.until = match self.image.as_str() {
                    "slow" => after(now, dice, 3000, 8000),
                    _ => after(now, dice, 0, 1000),
                };
            }
            TaskState::Preparing if self.image == "missing" || fails(dice) => {
                self.state = TaskState::Rejected;
            }
            TaskState::Preparing => self.state = TaskState::Ready,
            TaskState::Ready if self.desired == TaskState::Running => {
                self.state = TaskState::Starting;
                self.until = after(now, dice, 0, 1000);
            }
            TaskState::Starting => {
                self.state = TaskState::Running;
                self.until = match self.is_job || self.image == "crash" {
                    true => after(now, dice, 100, 2000),
                    // Looked at once a second; see below.
                    false => after(now, dice, 1000, 1000),
                };
            }
            TaskState::Running if self.image == "crash" => self.state = TaskState::Failed,
            TaskState::Running if self.is_job => {
                self.state = match fails(dice) {
                    true => TaskState::Failed,
                    false => TaskState::Complete,
                };
            }
            TaskState::Running => {
                self.until = after(now, dice, 1000, 1000);
                if fails(dice) {
                    self.state = match dice.chance(50) {
                        true => TaskState::Failed,
                        false => TaskState::Complete,
                    };
                }
            }
            _ => (),
        }
    }
}

/// A moment between `low` and `high` milliseconds from now.
fn after(now: Timestamp, dice: &mut Dice, low: u64, high: u64) -> Timestamp {
    now.plus(Duration::from_millis(dice.between(low, high)))
}
