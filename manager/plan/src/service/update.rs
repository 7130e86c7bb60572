//! Rolling updates and rollbacks: which outdated slots are replaced now, and what failures mean.
//!
//! Nothing is remembered but what is stored: tasks made by an update carry a mark and the version
//! of the spec they were made for, and the service carries the update's status.

use skep_model::service::{FailureAction, UpdateConfig, UpdateOrder, UpdateState, UpdateStatus};
use skep_model::volume_home::is_sticky;
use skep_model::{Nanos, Service, Task, TaskState, Timestamp};

use super::restart::ended_by_itself;
use super::revision;
use super::slot::{Slot, SlotState};
use super::{Action, NewTask, Plan, ServiceView};

/// How long a new task is watched for failure when the configuration names no time.
const MONITOR_DEFAULT: Nanos = Nanos::from_secs(5);
/// How the message of an update begins that waits for something.
const WAITS: &str = "update waits for ";
/// The same for one that waits for other services.
const HELD: &str = "update waits for service ";

/// The configuration in force: a rollback has its own.
/// Tasks that return to their volumes never start first: two would write to them at once.
pub(super) fn config(service: &Service) -> UpdateConfig {
    let config = match rolls_back(service) {
        true => &service.spec.rollback_config,
        false => &service.spec.update_config,
    };
    let mut config = config.clone().unwrap_or_default();
    if is_sticky(&service.spec.labels) {
        config.order = UpdateOrder::StopFirst;
    }
    config
}

fn rolls_back(service: &Service) -> bool {
    matches!(
        state(service),
        Some(UpdateState::RollbackStarted | UpdateState::RollbackPaused)
    )
}

fn state(service: &Service) -> Option<UpdateState> {
    service.update_status.as_ref().map(|status| status.state)
}

/// Goes on with the service's update, if there is one to make.
pub(super) fn plan(view: &ServiceView<'_>, slots: &[(&Slot, SlotState)], plan: &mut Plan) {
    let service = view.service;
    let config = config(service);
    let monitor = match config.monitor.0 {
        0 => MONITOR_DEFAULT.duration(),
        _ => config.monitor.duration(),
    };
    let tried = |slot: &Slot| slot.tasks_of_update(view).next().is_some();
    let outdated: Vec<&Slot> = slots
        .iter()
        .filter(|(slot, state)| {
            let dirty = !state.dirty.is_empty() || state.dead_and_dirty;
            dirty && state.clean.is_none() && !tried(slot)
        })
        .map(|(slot, _)| *slot)
        .collect();

    if matches!(
        state(service),
        Some(UpdateState::Paused | UpdateState::RollbackPaused)
    ) {
        return;
    }
    if let Some(failed) = too_many_failures(view, slots, outdated.len(), &config, monitor, plan)
        && react(view, &config, failed, plan)
    {
        return;
    }
    if outdated.is_empty() {
        finish(view, slots, monitor, plan);
        return say_what_blocks(view, slots, plan);
    }
    if state(service).is_none() {
        let mut started = service.clone();
        started.update_status = Some(UpdateStatus {
            state: UpdateState::Updating,
            started_at: Some(view.now),
            completed_at: None,
            message: "update in progress".to_owned(),
        });
        plan.service = Some(Box::new(started));
    }
    let begun = slots.iter().any(|(slot, _)| tried(slot));
    // One that was held stays so although a task that ended was replaced by a new one.
    let status = service.update_status.as_ref();
    let was_held = status.is_some_and(|status| status.message.starts_with(HELD));
    if !view.waits.is_empty() && (was_held || !begun) && !rolls_back(service) {
        return hold(view, plan);
    }
    let busy = slots
        .iter()
        .filter(|(slot, state)| is_busy(view, slot, state, &config, plan))
        .count();
    let workers = match config.parallelism {
        0 => usize::MAX,
        parallelism => usize::try_from(parallelism).unwrap_or(usize::MAX),
    };
    for slot in outdated.into_iter().take(workers.saturating_sub(busy)) {
        replace(view, slot, &config, plan);
    }
    say_what_blocks(view, slots, plan);
}

/// An update waits until those are updated that the service depends on, and says so.
fn hold(view: &ServiceView<'_>, plan: &mut Plan) {
    let message = format!("update {}", view.waits.join(", "));
    plan.notes.extend_from_slice(view.waits);
    let mut changed = match plan.service.take() {
        Some(changed) => *changed,
        None => view.service.clone(),
    };
    let Some(status) = &mut changed.update_status else {
        return;
    };
    if status.message != message {
        status.message = message;
        plan.service = Some(Box::new(changed));
    }
}

/// A start-first update waits when the new task finds no node while the old one runs. The status
/// then says so, and says so no more once it goes on. Where the old one itself is in the way, with
/// its port of the node or as one of as many as a node may have, it is stopped first after all, and
/// the status keeps saying that.
fn say_what_blocks(view: &ServiceView<'_>, slots: &[(&Slot, SlotState)], plan: &mut Plan) {
    let Some(status) = &view.service.update_status else {
        return;
    };
    if !status.state.is_active() || plan.service.is_some() {
        return;
    }
    let blocked = slots.iter().find_map(|(_, state)| {
        let task = state.clean.as_ref().filter(|_| !state.dirty.is_empty())?;
        let waits = task.status.state < TaskState::Assigned && !task.status.err.is_empty();
        waits.then(|| format!("{WAITS}task {}: {}", task.id, task.status.err))
    });
    let turned = slots.iter().find_map(|(_, state)| {
        let why = state.in_the_way.as_ref()?;
        (config(view.service).order == UpdateOrder::StartFirst)
            .then(|| format!("update stops tasks before their successors start: {why}"))
    });
    let said = status.message.starts_with(WAITS);
    let message = match turned.or(blocked) {
        Some(message) => message,
        None if said => "update in progress".to_owned(),
        None => return,
    };
    if message != status.message {
        let mut changed = view.service.clone();
        changed.update_status = Some(UpdateStatus {
            message,
            ..status.clone()
        });
        plan.service = Some(Box::new(changed));
    }
}

/// Makes the task that is to take an outdated slot over.
fn replace(view: &ServiceView<'_>, slot: &Slot, config: &UpdateConfig, plan: &mut Plan) {
    // Whatever lives in the slot may serve, be it that this very step lets it run.
    let filled = slot.tasks.iter().any(|task| task.is_live());
    let desired = match (filled, config.order) {
        (true, UpdateOrder::StartFirst) => TaskState::Running,
        (true, UpdateOrder::StopFirst) => TaskState::Ready,
        (false, _) => slot.first_desired(view, Timestamp::ZERO),
    };
    plan.create(
        view,
        NewTask {
            by_update: true,
            ..slot.new_task(desired, Timestamp::ZERO)
        },
    );
}

/// Whether one of the update's workers is still occupied with this slot.
fn is_busy(
    view: &ServiceView<'_>,
    slot: &Slot,
    state: &SlotState,
    config: &UpdateConfig,
    plan: &mut Plan,
) -> bool {
    let Some(done_at) = slot
        .tasks_of_update(view)
        .map(|task| done_at(task))
        .max_by_key(|at| at.unwrap_or(Timestamp(i64::MAX)))
    else {
        return false;
    };
    let Some(done_at) = done_at else {
        return true;
    };
    let taken_over = state.clean.is_none() || state.dirty.is_empty();
    let free_at = done_at.plus(config.delay.duration());
    if free_at > view.now {
        plan.wake(free_at);
    }
    free_at > view.now || !taken_over
}

/// When the updater had done with a task it made: it runs, or has ended.
fn done_at(task: &Task) -> Option<Timestamp> {
    let runs = !task.running_since.is_zero();
    match (runs, task.status.state.is_terminal()) {
        (true, _) => Some(task.running_since),
        (false, true) => Some(task.status.applied_at),
        // One that was told to stop before it ran is nobody's business any more.
        (false, false) if task.desired_state > TaskState::Running => Some(task.draining_since),
        (false, false) => None,
    }
}

/// Whether a task made by the update ended by itself before it had run for `monitor`.
fn has_failed(task: &Task, monitor: std::time::Duration) -> bool {
    let ran = !task.running_since.is_zero();
    let lived = task.status.applied_at.since(task.running_since);
    ended_by_itself(task) && !(ran && lived > monitor)
}

/// A failed task of this update, when there are more of them than the configuration accepts.
fn too_many_failures<'a>(
    view: &ServiceView<'a>,
    slots: &[(&'a Slot, SlotState)],
    outdated: usize,
    config: &UpdateConfig,
    monitor: std::time::Duration,
    plan: &Plan,
) -> Option<&'a Task> {
    let active = state(view.service).is_some_and(UpdateState::is_active);
    if !active || plan.service.is_some() {
        return None;
    }
    let mut total = outdated;
    let mut failed = Vec::new();
    for (slot, _) in slots {
        let mut made = slot.tasks_of_update(view).peekable();
        total += usize::from(made.peek().is_some());
        failed.extend(made.filter(|task| has_failed(task, monitor)));
    }
    let ratio = failed.len() as f32 / total.max(1) as f32;
    let latest = failed
        .into_iter()
        .max_by_key(|task| task.status.applied_at)?;
    (ratio > config.max_failure_ratio).then_some(&**latest)
}

/// Acts on too many failures. Tells whether the update stops here.
fn react(view: &ServiceView<'_>, config: &UpdateConfig, failed: &Task, plan: &mut Plan) -> bool {
    let service = view.service;
    let rolls_back = rolls_back(service);
    // What is only moved has no earlier spec to go back to.
    let refuge = match rolls_back || !service.moving.is_empty() {
        true => None,
        false => revision::refuge(service),
    };
    let mut changed = service.clone();
    changed.moving.clear();
    let message = |what: &str| {
        format!(
            "{what} due to failure or early termination of task {}",
            failed.id
        )
    };
    let started_at = service
        .update_status
        .as_ref()
        .and_then(|status| status.started_at);
    match (config.failure_action, refuge) {
        (FailureAction::Continue, _) => return false,
        (FailureAction::Rollback, Some((spec, because))) => {
            revision::give_up(&mut changed, spec, &because, view.now);
            // Whatever this step makes is made for the spec that is gone back to, which has not
            // crashed: no delay is waited out.
            for action in &mut plan.actions {
                if let Action::Create(task) = action {
                    task.by_update = true;
                    task.start_not_before = Timestamp::ZERO;
                }
            }
            // There is no way forward again by a second rollback.
            changed.previous_spec = None;
            changed.previous_spec_version = None;
            changed.update_status = Some(UpdateStatus {
                state: UpdateState::RollbackStarted,
                started_at: Some(view.now),
                completed_at: None,
                message: message("update rolled back"),
            });
        }
        (FailureAction::Pause | FailureAction::Rollback, _) => {
            let (state, what) = match rolls_back {
                true => (UpdateState::RollbackPaused, "rollback paused"),
                false => (UpdateState::Paused, "update paused"),
            };
            changed.update_status = Some(UpdateStatus {
                state,
                started_at,
                completed_at: None,
                message: message(what),
            });
        }
    }
    plan.service = Some(Box::new(changed));
    true
}

/// Declares the update completed once its last task has been watched for long enough.
fn finish(
    view: &ServiceView<'_>,
    slots: &[(&Slot, SlotState)],
    monitor: std::time::Duration,
    plan: &mut Plan,
) {
    let service = view.service;
    if plan.service.is_some() {
        return;
    }
    let Some(status) = &service.update_status else {
        return prove(view, slots, monitor, plan);
    };
    if !status.state.is_active() {
        return;
    }
    let mut watched_until = Timestamp::ZERO;
    for (slot, state) in slots {
        for task in slot.tasks_of_update(view) {
            match done_at(task) {
                None => return,
                Some(at) => watched_until = watched_until.max(at.plus(monitor)),
            }
        }
        if state.clean.is_some() && !state.dirty.is_empty() {
            return;
        }
    }
    if watched_until > view.now {
        plan.wake(watched_until);
        return;
    }
    let (done, message) = match status.state {
        UpdateState::RollbackStarted => (UpdateState::RollbackCompleted, "rollback completed"),
        _ => (UpdateState::Completed, "update completed"),
    };
    let mut changed = service.clone();
    changed.moving.clear();
    revision::prove(&mut changed.revision);
    changed.update_status = Some(UpdateStatus {
        state: done,
        started_at: status.started_at,
        completed_at: Some(view.now),
        message: message.to_owned(),
    });
    plan.service = Some(Box::new(changed));
}

/// A revision that came without an update, or lost its update's status, shows by its tasks that it
/// runs: every slot has one, and has had it for long enough.
fn prove(
    view: &ServiceView<'_>,
    slots: &[(&Slot, SlotState)],
    monitor: std::time::Duration,
    plan: &mut Plan,
) {
    if !view.service.revision.doubtful || view.service.spec.mode.is_job() || slots.is_empty() {
        return;
    }
    let mut watched_until = Timestamp::ZERO;
    for (_, state) in slots {
        match &state.clean {
            Some(task) if task.serves() => {
                watched_until = watched_until.max(task.running_since.plus(monitor));
            }
            _ => return,
        }
    }
    if watched_until > view.now {
        plan.wake(watched_until);
        return;
    }
    let mut changed = view.service.clone();
    revision::prove(&mut changed.revision);
    plan.service = Some(Box::new(changed));
}
