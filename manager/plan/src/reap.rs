//! History: which stored tasks of a service are forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use skep_model::{Nanos, NodeId, Service, Task, TaskId, TaskState, Timestamp, Version};

use crate::service::in_order;
use crate::service::restart::earlier;
use crate::service::run::is_beside;

/// A job that is done keeps all its tasks for so long: clients that wait for it count them.
const SEEN_AFTER: Duration = Duration::from_secs(60);

/// What is forgotten now, and when to look again although nothing changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reaped {
    pub gone: Vec<TaskId>,
    pub wake_at: Option<Timestamp>,
}

/// The tasks to delete.
///
/// Keeps `limit` tasks per slot or node, the live one included; a negative limit keeps all. A service
/// with a bound on restarts within a window keeps one more than that bound, since those are counted
/// from history; Swarm does so without a window too, which lets a high bound fill the cluster. A
/// job's finished tasks have a bound of their own besides. Tasks whose desired state is `Remove` go as soon as nothing of them can still run. `service` is absent when it was removed.
pub fn reap(service: Option<&Service>, tasks: &[Arc<Task>], limit: i64, now: Timestamp) -> Reaped {
    let mut reaped = Reaped::default();
    let mut kept = Vec::new();
    for task in tasks {
        match (task.desired_state == TaskState::Remove, is_over(task)) {
            (true, true) => reaped.gone.push(task.id.clone()),
            (true, false) => (),
            (false, _) => kept.push(task),
        }
    }
    let Some(service) = service else {
        return reaped;
    };
    if let Some(limit) = limit_of(service, limit) {
        beyond_limit(service, &mut kept, limit, &mut reaped);
    }
    if service.spec.mode.is_job() {
        finished_jobs(service, kept, now, &mut reaped);
    }
    reaped
}

/// Tasks kept per slot; none is no bound.
fn limit_of(service: &Service, limit: i64) -> Option<usize> {
    let policy = service
        .spec
        .task_template
        .restart_policy
        .clone()
        .unwrap_or_default();
    let limit = usize::try_from(limit).ok();
    match (policy.max_attempts, policy.window) {
        (Some(attempts @ 1..), Some(Nanos(1..))) => {
            let counted = usize::try_from(attempts).map_or(usize::MAX, |n| n.saturating_add(1));
            limit.map(|limit| limit.max(counted))
        }
        _ => limit,
    }
}

/// Tasks that a slot of before tasks counted their restarts keeps: its attempts are in its history
/// alone, until the next task takes the count over.
fn uncounted(service: &Service, slot: &[&Arc<Task>]) -> usize {
    let policy = service.spec.task_template.restart_policy.as_ref();
    let attempts = policy.and_then(|policy| policy.max_attempts).unwrap_or(0);
    match slot.split_last() {
        Some((newest, older)) if attempts > 0 && newest.restarts == 0 => {
            let older = older.iter().map(|task| &***task);
            match earlier(newest, older) {
                0 => 0,
                _ => usize::try_from(attempts).map_or(usize::MAX, |n| n.saturating_add(1)),
            }
        }
        _ => 0,
    }
}

fn beyond_limit(service: &Service, kept: &mut Vec<&Arc<Task>>, limit: usize, reaped: &mut Reaped) {
    type Place<'a> = (u64, Option<&'a NodeId>, Option<Version>);
    let mut slots: BTreeMap<Place<'_>, Vec<&Arc<Task>>> = BTreeMap::new();
    for task in std::mem::take(kept) {
        let node = (task.slot == 0).then_some(&task.node_id);
        // Runs of a job that go on beside one another have slots of their own.
        let run = task
            .job_iteration
            .filter(|_| is_beside(service, task.job_iteration));
        slots.entry((task.slot, node, run)).or_default().push(task);
    }
    for mut slot in slots.into_values() {
        slot.sort_by_key(|task| in_order(task));
        let limit = limit.max(uncounted(service, &slot));
        let mut surplus = slot.len().saturating_sub(limit);
        // The newest tells whether and when the slot is filled again, so it always stays.
        let newest = slot.pop();
        for task in slot {
            if surplus > 0 && is_history(task) && !is_counted(service, task) {
                surplus -= 1;
                reaped.gone.push(task.id.clone());
            } else {
                kept.push(task);
            }
        }
        kept.extend(newest);
    }
}

/// Finished tasks of a job's earlier iterations, and of the present one when that is done: as many
/// and for as long as the job's labels say.
fn finished_jobs(service: &Service, kept: Vec<&Arc<Task>>, now: Timestamp, reaped: &mut Reaped) {
    // Labels that say nothing sensible were refused at the door.
    let Ok(retention) = service.spec.job_retention() else {
        return;
    };
    let status = service.job_status.as_ref();
    let seen_at = status
        .and_then(|status| status.finished_at)
        .map(|at| at.plus(SEEN_AFTER));
    let is_seen = seen_at.is_some_and(|at| at <= now);
    let mut finished: Vec<&Arc<Task>> = kept
        .into_iter()
        .filter(|task| is_history(task))
        .filter(|task| is_seen || !is_current(service, task))
        .filter(|task| !is_beside(service, task.job_iteration))
        .collect();
    if let Some(at) = seen_at.filter(|_| !is_seen) {
        reaped.wake_at = Some(at);
    }
    finished.sort_by_key(|task| std::cmp::Reverse((task.status.applied_at, task.created_at)));
    for (at, task) in finished.into_iter().enumerate() {
        let until = retention.ttl.map(|ttl| task.status.applied_at.plus(ttl));
        if at >= retention.keep || until.is_some_and(|until| until <= now) {
            reaped.gone.push(task.id.clone());
        } else if let Some(until) = until {
            reaped.wake_at = Some(reaped.wake_at.map_or(until, |known| known.min(until)));
        }
    }
}

/// Whether nothing of the task can still run or start.
fn is_over(task: &Task) -> bool {
    task.status.state.is_terminal() || task.status.state < TaskState::Assigned
}

/// Whether the task is of the past.
fn is_history(task: &Task) -> bool {
    task.desired_state > TaskState::Running && is_over(task)
}

fn is_current(service: &Service, task: &Task) -> bool {
    let status = service.job_status.as_ref();
    status.is_some_and(|status| task.job_iteration == Some(status.job_iteration))
        || is_beside(service, task.job_iteration)
}

/// Whether somebody still counts this task: a job its completions, an update its failures.
fn is_counted(service: &Service, task: &Task) -> bool {
    let completion = service.spec.mode.is_job()
        && is_current(service, task)
        && task.status.state == TaskState::Complete;
    let updating = service
        .update_status
        .as_ref()
        .is_some_and(|status| status.state.is_active());
    let of_update = updating && task.by_update && task.spec_version == service.spec_version;
    completion || of_update
}
