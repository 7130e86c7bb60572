//! History: which stored tasks of a service are forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_model::{NodeId, Service, Task, TaskId, TaskState};

/// The tasks to delete.
///
/// Keeps `limit` tasks per slot or node, the live one included; a negative limit keeps all, and a
/// service with a bound on restarts keeps one more than that bound, since restarts are counted from
/// history. Tasks whose desired state is `Remove` go as soon as nothing of them can still run.
/// `service` is absent when it was removed.
pub fn reap(service: Option<&Service>, tasks: &[Arc<Task>], limit: i64) -> Vec<TaskId> {
    let mut gone: Vec<TaskId> = Vec::new();
    let mut slots: BTreeMap<(u64, Option<&NodeId>), Vec<&Arc<Task>>> = BTreeMap::new();
    for task in tasks {
        if task.desired_state == TaskState::Remove {
            if is_over(task) {
                gone.push(task.id.clone());
            }
            continue;
        }
        let node = (task.slot == 0).then_some(&task.node_id);
        slots.entry((task.slot, node)).or_default().push(task);
    }
    let Some(service) = service else {
        return gone;
    };
    let attempts = service
        .spec
        .task_template
        .restart_policy
        .as_ref()
        .and_then(|policy| policy.max_attempts)
        .unwrap_or(0);
    let keep = match (attempts, limit) {
        (0, limit) => match usize::try_from(limit) {
            Ok(limit) => limit,
            Err(_) => return gone,
        },
        (attempts, _) => usize::try_from(attempts)
            .unwrap_or(usize::MAX)
            .saturating_add(1),
    };
    for mut slot in slots.into_values() {
        if slot.len() <= keep {
            continue;
        }
        slot.sort_by_key(|task| (task.created_at, task.status.applied_at));
        let surplus = slot.len() - keep;
        // The newest tells whether and when the slot is filled again, so it always stays.
        slot.pop();
        let old = slot
            .into_iter()
            .filter(|task| {
                task.desired_state > TaskState::Running
                    && is_over(task)
                    && !is_counted(service, task)
            })
            .take(surplus);
        gone.extend(old.map(|task| task.id.clone()));
    }
    gone
}

/// Whether nothing of the task can still run or start.
fn is_over(task: &Task) -> bool {
    task.status.state.is_terminal() || task.status.state < TaskState::Assigned
}

/// Whether somebody still counts this task: a job its completions, an update its failures.
fn is_counted(service: &Service, task: &Task) -> bool {
    let current_iteration = service
        .job_status
        .as_ref()
        .is_some_and(|job| task.job_iteration == Some(job.job_iteration));
    let completion =
        service.spec.mode.is_job() && current_iteration && task.status.state == TaskState::Complete;
    let updating = service
        .update_status
        .as_ref()
        .is_some_and(|status| status.state.is_active());
    let of_update = updating && task.by_update && task.spec_version == service.spec_version;
    completion || of_update
}
