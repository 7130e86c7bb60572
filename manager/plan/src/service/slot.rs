//! One slot: a place that at most one task fills for long, whatever happens to its tasks.
//!
//! A slot is a number (replicated services) or a node (global ones). The rule of a slot does not
//! know why a second task is there; an update, a rollback and a crash all look alike to it.

use std::sync::Arc;
use std::time::Duration;

use skep_model::service::UpdateOrder;
use skep_model::{NodeId, Task, TaskState, Timestamp};

use super::dirty::is_dirty;
use super::exclusive;
use super::restart::{Restart, decide, earlier, ended_by_itself};
use crate::schedule::waits_for;

use super::{NewTask, Plan, ServiceView, is_lost, is_silent, is_updating, update_order};

/// How long a replacement waits for its predecessor to be gone, the predecessor's own grace
/// period aside.
const STOP_WAIT_MAX: Duration = Duration::from_secs(60);
/// What a predecessor gets on top of a grace period that is longer than that.
const STOP_WAIT_EXTRA: Duration = Duration::from_secs(10);

/// The tasks of one slot, oldest first.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub number: u64,
    /// The node, for global services.
    pub node: Option<NodeId>,
    /// All but those that are to be forgotten.
    pub tasks: Vec<Arc<Task>>,
    /// Those that are to be forgotten and have not ended.
    pub leftovers: Vec<Arc<Task>>,
}

/// What a slot looks like after its rule was applied.
#[derive(Debug, Clone, Default)]
pub(super) struct SlotState {
    /// The live task that matches the service.
    pub clean: Option<Arc<Task>>,
    /// Live tasks that do not.
    pub dirty: Vec<Arc<Task>>,
    /// Nothing lives here, and what ended last no longer matches the service.
    pub dead_and_dirty: bool,
    /// Nothing lives here, and a successor is made now or when its time has come.
    pub returns: bool,
    /// Why the outdated tasks are stopped although their successor was to run first.
    pub in_the_way: Option<String>,
}

/// How agents begin to say why a task has no image.
const NO_IMAGE: &str = "No such image";

impl Slot {
    pub(super) fn new(number: u64, node: Option<NodeId>) -> Self {
        Self {
            number,
            node,
            tasks: Vec::new(),
            leftovers: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, task: &Arc<Task>) {
        if task.desired_state < TaskState::Remove {
            self.tasks.push(task.clone());
        } else if !task.status.state.is_terminal() {
            self.leftovers.push(task.clone());
        }
    }

    pub(super) fn sort(&mut self) {
        self.tasks.sort_by_key(|task| in_order(task));
    }

    /// The live task that represents the slot: one that runs before one that does not.
    pub(super) fn best(&self) -> Option<&Arc<Task>> {
        self.tasks
            .iter()
            .filter(|task| task.is_live())
            .max_by_key(|task| (task.serves(), task.status.state))
    }

    /// Whether some task of this update was made here.
    pub(super) fn tasks_of_update<'a>(
        &'a self,
        view: &ServiceView<'a>,
    ) -> impl Iterator<Item = &'a Arc<Task>> + 'a {
        let version = view.service.spec_version;
        self.tasks
            .iter()
            .filter(move |task| task.by_update && task.spec_version == version)
    }

    /// A new task for this slot.
    pub(super) fn new_task(&self, desired: TaskState, start_not_before: Timestamp) -> NewTask {
        NewTask {
            slot: self.number,
            node: self.node.clone(),
            desired,
            start_not_before,
            by_update: false,
            restarts: 0,
            iteration: None,
        }
    }

    /// Until when a new task must let its predecessors stop; nothing when none is left.
    pub(super) fn occupied_until(&self, view: &ServiceView<'_>) -> Option<Timestamp> {
        self.tasks
            .iter()
            .chain(&self.leftovers)
            .filter_map(|task| stops_by(task, view))
            .filter(|until| *until > view.now)
            .max()
    }

    /// Until when a new task must wait whatever becomes of the records of its predecessors.
    fn exclusive_until(&self, view: &ServiceView<'_>) -> Option<Timestamp> {
        let known = |until: &Timestamp| *until < exclusive::WHEN_IT_SAYS_SO;
        self.occupied_until(view)
            .filter(|_| exclusive::is_exclusive(view.service))
            .filter(known)
    }

    /// What a new task of this slot should be at first, given when it may start.
    pub(super) fn first_desired(&self, view: &ServiceView<'_>, start_at: Timestamp) -> TaskState {
        if start_at <= view.now && self.occupied_until(view).is_none() {
            TaskState::Running
        } else {
            TaskState::Ready
        }
    }

    /// Applies the rule of the slot: ends what must end, replaces what ended, and lets a
    /// replacement run when its turn has come.
    pub(super) fn advance(&self, view: &ServiceView<'_>, plan: &mut Plan) -> SlotState {
        let mut live = Vec::new();
        for task in &self.tasks {
            if task.desired_state > TaskState::Running {
                continue;
            }
            let assigned = !task.node_id.is_empty();
            if task.status.state.is_terminal()
                || (assigned && is_lost(view.nodes.node(&task.node_id)))
            {
                plan.raise(task, TaskState::Shutdown);
            } else {
                live.push(task.clone());
            }
        }
        let is_clean =
            |task: &&Arc<Task>| !is_dirty(task, view.service, view.nodes.node(&task.node_id));
        let (clean, dirty): (Vec<_>, Vec<_>) = live.into_iter().partition(|task| is_clean(&task));
        let rank = |task: &Arc<Task>| (task.desired_state, task.status.state, task.created_at);
        let mut state = SlotState {
            clean: clean.iter().max_by_key(|task| rank(task)).cloned(),
            dirty,
            ..SlotState::default()
        };
        if let Some(keeper) = state.clean.clone() {
            for task in clean.iter().filter(|task| task.id != keeper.id) {
                plan.raise(task, TaskState::Shutdown);
            }
            self.replace_by(&keeper, &mut state, view, plan);
        } else if let Some(keeper) = state.dirty.iter().max_by_key(|task| rank(task)).cloned() {
            for task in state.dirty.iter().filter(|task| task.id != keeper.id) {
                plan.raise(task, TaskState::Shutdown);
            }
            state.dirty = vec![keeper.clone()];
            self.promote(&keeper, view, plan);
            self.retry(view, plan);
        } else {
            self.revive(&mut state, view, plan);
        }
        state
    }

    /// `keeper` takes over from the slot's outdated tasks.
    fn replace_by(
        &self,
        keeper: &Arc<Task>,
        state: &mut SlotState,
        view: &ServiceView<'_>,
        plan: &mut Plan,
    ) {
        let cannot_be_placed =
            keeper.status.state < TaskState::Assigned && !keeper.status.err.is_empty();
        // A predecessor that has the only place there is would be waited for in vain.
        let mut dirty = state.dirty.iter();
        let in_the_way = cannot_be_placed && dirty.any(|task| waits_for(view.nodes, keeper, task));
        if in_the_way {
            state.in_the_way = Some(keeper.status.err.clone());
        }
        let retire = match (keeper.desired_state, update_order(view.service)) {
            (TaskState::Running, _) => keeper.status.state == TaskState::Running || in_the_way,
            // Its image is there and it could start: now the old one may go. One that finds no
            // node or address may be waiting for the very one that the old task has.
            (_, UpdateOrder::StopFirst) => {
                keeper.status.state >= TaskState::Ready || cannot_be_placed
            }
            (_, UpdateOrder::StartFirst) => false,
        };
        let serving = |task: &Arc<Task>| {
            task.desired_state == TaskState::Running && task.status.state >= TaskState::Assigned
        };
        let mut kept = Vec::new();
        for task in std::mem::take(&mut state.dirty) {
            if retire || !serving(&task) {
                plan.raise(&task, TaskState::Shutdown);
                // It has been told just now; the next look sees whether it is gone.
                kept.push((task, true));
            } else {
                kept.push((task, false));
            }
        }
        let waits_for_old = kept.iter().any(|(task, told)| {
            let stopping = *told && !is_silent(view.nodes.node(&task.node_id));
            let known_to_agent = task.status.state >= TaskState::Assigned;
            (stopping && known_to_agent) || !*told
        });
        let start_first = update_order(view.service) == UpdateOrder::StartFirst;
        state.dirty = kept
            .into_iter()
            .filter_map(|(task, told)| (!told).then_some(task))
            .collect();
        if !waits_for_old || (start_first && !state.dirty.is_empty()) {
            self.promote(keeper, view, plan);
        }
        if cannot_be_placed && !state.dirty.is_empty() {
            plan.notes.push(format!(
                "task {} cannot be placed while its predecessor runs: {}",
                keeper.id, keeper.status.err
            ));
        }
    }

    /// Lets a waiting task run when its delay is over and its predecessors are gone.
    fn promote(&self, task: &Arc<Task>, view: &ServiceView<'_>, plan: &mut Plan) {
        if task.desired_state >= TaskState::Running {
            return;
        }
        if task.start_not_before > view.now {
            plan.wake(task.start_not_before);
        } else if let Some(until) = self.occupied_until(view) {
            // Of the end of time nothing is to be expected but a report.
            if until < exclusive::WHEN_IT_SAYS_SO {
                plan.wake(until);
            }
        } else {
            plan.raise(task, TaskState::Running);
        }
    }

    /// The slot holds an outdated task, and its successor has ended: tries the successor again
    /// as the restart policy says.
    fn retry(&self, view: &ServiceView<'_>, plan: &mut Plan) {
        let Some(newest) = self.tasks.last() else {
            return;
        };
        if newest.spec_version == view.service.spec_version && !self.lives(newest, view) {
            self.restart(newest, true, view, plan);
        }
    }

    fn lives(&self, task: &Task, view: &ServiceView<'_>) -> bool {
        let assigned = !task.node_id.is_empty();
        task.is_live() && !(assigned && is_lost(view.nodes.node(&task.node_id)))
    }

    /// The slot is empty: fills it again if the restart policy says so.
    fn revive(&self, state: &mut SlotState, view: &ServiceView<'_>, plan: &mut Plan) {
        let Some(newest) = self.tasks.last() else {
            return;
        };
        state.returns = self.restart(newest, false, view, plan);
        state.dead_and_dirty =
            !state.returns && is_dirty(newest, view.service, view.nodes.node(&newest.node_id));
    }

    /// Makes a successor of `ended` when it is time, one that only gets ready while `serving`
    /// says that another task still fills the slot. Tells whether there is or will be one.
    fn restart(
        &self,
        ended: &Arc<Task>,
        serving: bool,
        view: &ServiceView<'_>,
        plan: &mut Plan,
    ) -> bool {
        let policy = ended.spec.restart_policy.clone().unwrap_or_default();
        let node = view.nodes.node(&ended.node_id);
        // What takes the place of an outdated task is part of the update under way, also when that
        // task has ended by itself: a rollback begins with such a one. It is not what has crashed,
        // and waits for no delay.
        let by_update = is_updating(view.service) && is_dirty(ended, view.service, node);
        let hasty = by_update || is_lost(node) || may_pull_now(ended, view);
        let history = || self.tasks.iter().map(|task| &**task);
        let is_job = view.service.spec.mode.is_job();
        match decide(ended, &policy, history(), hasty, is_job) {
            Restart::Never => false,
            Restart::At { make_at, .. } if make_at > view.now => {
                plan.wake(make_at);
                true
            }
            Restart::At { start_at, .. } => {
                let desired = match serving {
                    true => TaskState::Ready,
                    false => self.first_desired(view, start_at),
                };
                // What is remembered of the old task may be gone before its time is over.
                let start_at = match self.exclusive_until(view) {
                    Some(until) => start_at.max(until),
                    None => start_at,
                };
                let start_at = match start_at > view.now {
                    true => start_at,
                    false => Timestamp::ZERO,
                };
                let restarts = match ended.spec_version == view.service.spec_version {
                    true => earlier(ended, history()) + u64::from(ended_by_itself(ended)),
                    false => 0,
                };
                let task = NewTask {
                    by_update,
                    restarts,
                    ..self.new_task(desired, start_at)
                };
                plan.create(view, task);
                true
            }
        }
    }
}

/// What tasks of one slot are sorted by, the oldest first. Several may be made in one moment.
pub(crate) fn in_order(task: &Task) -> impl Ord + use<> {
    let of_spec = (task.spec_version, task.restarts);
    (task.created_at, of_spec, task.status.applied_at)
}

/// Whether a task that could not have its image was made before the cluster was given credentials for it:
/// it may have asked with others, however late it was refused. Those of a clock that was ahead count once
/// it is that time here: they would seem newer than every task.
fn may_pull_now(ended: &Task, view: &ServiceView<'_>) -> bool {
    let since = view.registry_login_at;
    since.is_some_and(|since| since > ended.created_at && since <= view.now)
        && ended.status.state == TaskState::Rejected
        && ended.status.err.starts_with(NO_IMAGE)
}

/// When a task that is told to stop, or will be told in this step, counts as gone at the latest.
/// Nothing when it does not have to be waited for.
fn stops_by(task: &Task, view: &ServiceView<'_>) -> Option<Timestamp> {
    if exclusive::is_exclusive(view.service) {
        return exclusive::stopped_by(task, view);
    }
    let node = view.nodes.node(&task.node_id);
    // What no agent knows, and what no agent can answer for, stops by itself as far as we can see.
    let awaited =
        (TaskState::Assigned..=TaskState::Running).contains(&task.status.state) && !is_silent(node);
    let told = task.desired_state > TaskState::Running;
    if !awaited || !(told || is_lost(node)) {
        return None;
    }
    let since = match told {
        true => task.draining_since,
        false => view.now,
    };
    Some(since.plus(stop_wait(task)))
}

/// How long a task that is told to stop is given for it.
pub(crate) fn stop_wait(task: &Task) -> Duration {
    let grace = task
        .spec
        .container()
        .and_then(|container| container.stop_grace_period)
        .map_or(Duration::ZERO, |grace| grace.duration());
    let stop = grace.saturating_add(task.spec.drain_period());
    STOP_WAIT_MAX.max(stop.saturating_add(STOP_WAIT_EXTRA))
}
