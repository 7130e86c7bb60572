//! A fake node: an agent that has sessions with managers, packets that follow what it hears, and an engine
//! whose containers start, fail and stop after a while.

use std::collections::BTreeMap;
use std::time::Duration;

use skep_model::{NetworkId, NodeId, Task, TaskId, TaskState, TaskStatus, Timestamp};
use skep_store::Snapshot;

use crate::random::Dice;
use crate::sabotage::Sabotage;
use crate::session::{Assigned, Desk, Session};

/// How long a stop waits for all nodes to forget the task's endpoints.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(5);

/// One host.
pub struct Host {
    pub id: NodeId,
    /// Whether it reaches the managers.
    pub connected: bool,
    /// Whether it is switched on.
    pub on: bool,
    /// When the present fault ends.
    pub heals_at: Timestamp,
    /// When it was last cut off, or off.
    cut_off_at: Timestamp,
    /// The newest state it has seen; it refuses older ones.
    seen: u64,
    pub session: Option<Session>,
    pub assigned: Assigned,
    pub containers: BTreeMap<TaskId, Container>,
}

/// How far the stop of a container is.
#[derive(Debug, Clone, Default)]
struct Stop {
    /// When the agent learned that it is to stop.
    since: Option<Timestamp>,
    /// All nodes are said to lead nobody to it any more.
    drained: bool,
    /// The managers know nothing of it any more.
    forgotten: bool,
    /// When it will have stopped: the signal was sent.
    ends: Option<Timestamp>,
    /// The signal was sent in this very moment, because of `drained`.
    just_drained: bool,
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
    stop: Stop,
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

    /// Whether it is told to stop in this very moment, since all nodes are said to follow.
    pub fn stops_as_drained(&self) -> bool {
        self.stop.just_drained
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
            session: None,
            assigned: Assigned::default(),
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

    /// Hears what the managers want, unless it is older than what is known.
    pub fn listen(
        &mut self,
        desks: &[Desk],
        (now, rough): (Timestamp, bool),
        dice: &mut Dice,
        sabotage: Option<Sabotage>,
    ) {
        if !self.is_heard() {
            self.session = None;
            return;
        }
        if self.session.is_none() {
            let with = usize::try_from(dice.below(desks.len() as u64)).unwrap_or(0);
            let desk = &desks[with];
            if desk.version() < self.seen {
                return;
            }
            if desk.has_removed(&self.id) {
                // It ends what it had, and stays away.
                self.assigned = Assigned::default();
                return self.take_tasks(now, dice);
            }
            if !desk.knows(&self.id) {
                return;
            }
            self.session = Some(Session::open(with));
        }
        let Some(session) = &mut self.session else {
            return;
        };
        let desk = &desks[session.with];
        let looked = self.assigned.look(session, desk, &self.id, sabotage);
        if let Some((version, is_news)) = looked {
            self.seen = version;
            match is_news {
                true => self.assigned.schedule(version, now, rough, dice),
                false => self.assigned.follow(version),
            }
            self.take_tasks(now, dice);
        }
    }

    /// Makes containers for new tasks, and tells those that there are what is wanted of them.
    fn take_tasks(&mut self, now: Timestamp, dice: &mut Dice) {
        let assigned: BTreeMap<&TaskId, &Task> =
            self.assigned.tasks().map(|task| (&task.id, task)).collect();
        self.containers.retain(|id, container| {
            if !assigned.contains_key(id) {
                container.desired = TaskState::Remove;
                container.stop.forgotten = true;
            }
            assigned.contains_key(id) || !container.state.is_terminal()
        });
        for (id, task) in assigned {
            match self.containers.get_mut(id) {
                Some(container) => {
                    container.desired = container.desired.max(task.desired_state);
                    container.stop.drained |= !task.drained_at.is_zero();
                }
                None if task.status.state.is_terminal() => (),
                None => {
                    let mut container = accept(task, now, dice);
                    // It may have been given up while the host could not hear of it.
                    container.was_cut_off = task.created_at <= self.cut_off_at;
                    self.containers.insert(id.clone(), container);
                }
            }
        }
    }

    /// What its manager has to say to the leader of how far its packets follow.
    pub fn follows(&mut self) -> Option<u64> {
        let session = self.session.as_mut()?;
        self.assigned.news(session)
    }

    /// Lets time pass for the containers. `rough` makes good ones fail now and then.
    pub fn advance(&mut self, now: Timestamp, rough: bool, dice: &mut Dice) {
        if !self.is_heard() {
            // Its tasks may be given to others, be it cut off or switched off.
            self.cut_off_at = now;
        }
        if !self.on {
            return;
        }
        self.assigned.advance(now);
        let cut_off = !self.connected;
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

fn accept(task: &Task, now: Timestamp, dice: &mut Dice) -> Container {
    let addresses = task.attachments.iter().flat_map(|attachment| {
        let network = attachment.network_id.clone();
        let addresses = attachment.addresses.iter();
        addresses.map(move |address| (network.clone(), address.clone()))
    });
    Container {
        state: TaskState::Accepted,
        desired: task.desired_state,
        image: task.spec.image().to_owned(),
        is_job: task.job_iteration.is_some(),
        until: after(now, dice, 0, 300),
        stop: Stop::default(),
        addresses: addresses.collect(),
        service: task.service_name.clone(),
        was_cut_off: false,
    }
}

impl Container {
    /// Whether a stop has come to its end. One with endpoints begins it when all nodes are said to
    /// follow, or after a while.
    fn has_stopped(&mut self, now: Timestamp, dice: &mut Dice) -> bool {
        let since = *self.stop.since.get_or_insert(now);
        let has_endpoints = !self.addresses.is_empty();
        let waits = has_endpoints
            && !self.stop.drained
            && !self.stop.forgotten
            && now < since.plus(FORGOTTEN_WITHIN);
        if self.stop.ends.is_none() && !waits {
            self.stop.ends = Some(after(now, dice, 100, 3000));
            let is_late = now >= since.plus(FORGOTTEN_WITHIN);
            self.stop.just_drained = has_endpoints && self.stop.drained && !is_late;
        }
        self.stop.ends.is_some_and(|ends| ends <= now)
    }

    fn advance(&mut self, now: Timestamp, rough: bool, dice: &mut Dice) {
        self.stop.just_drained = false;
        if self.state.is_terminal() {
            return;
        }
        if self.desired > TaskState::Running {
            // One that has no process yet is gone at once.
            if !self.runs() || self.has_stopped(now, dice) {
                self.state = TaskState::Shutdown;
            }
            return;
        }
        if now < self.until {
            return;
        }
        self.go_on(now, rough, dice);
    }

    fn go_on(&mut self, now: Timestamp, rough: bool, dice: &mut Dice) {
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
