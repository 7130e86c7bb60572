//! Gives waiting tasks their nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_model::{Constraint, ServiceId, Task, TaskState, TaskStatus, state::Actor};
use skep_plan::{Outcome, schedule};
use skep_store::Key;

use crate::step::{Stage, waiting};

/// What a task says while it waits for a node.
pub(crate) const PENDING: &str = "pending task scheduling";
const ASSIGNED: &str = "scheduler assigned task to node";
const CONFIRMED: &str = "scheduler confirmed task can run on preassigned node";

/// Places every task that waits for a node: those of the services just looked at, or `all`.
pub(crate) fn place(stage: &mut Stage<'_>, seen: &[ServiceId], all: bool) {
    // The table must know what this step has done so far, and what follows is accounted for as
    // it is decided.
    let before = std::mem::replace(&mut stage.memory.last, stage.tx.view().clone());
    let after = stage.memory.last.clone();
    stage.memory.account(&before, &after);
    let encrypted = after.networks().filter(|one| one.spec.is_encrypted());
    let encrypted = encrypted.map(|one| one.id.clone());
    stage.memory.table.set_encrypted(encrypted);

    let mut groups: BTreeMap<(ServiceId, u64), Vec<Arc<Task>>> = BTreeMap::new();
    let mut room = stage.room();
    for task in waiting(&after, seen, all) {
        let ready =
            task.status.state == TaskState::Pending && task.desired_state <= TaskState::Running;
        if !ready {
            continue;
        }
        if !stage.tx.is_touched(&Key::Task(task.id.clone())) {
            if room == 0 {
                stage.memory.dirty.insert(task.service_id.clone());
                continue;
            }
            room -= 1;
        }
        let key = (task.service_id.clone(), task.spec_version.index);
        groups.entry(key).or_default().push(task.clone());
    }
    let mut is_any_placed = false;
    for ((service, _), tasks) in groups {
        let outcomes = schedule(&mut stage.memory.table, &tasks, stage.now);
        is_any_placed |= outcomes.iter().any(|outcome| outcome.result.is_ok());
        for (outcome, task) in outcomes.iter().zip(in_order(&outcomes, &tasks)) {
            record(stage, &service, outcome, task);
        }
    }
    stage.memory.last = stage.tx.view().clone();
    // Those that are to be beside one that has its place now may have theirs.
    stage.memory.retry |= is_any_placed
        && stage
            .memory
            .last
            .waiting_tasks()
            .any(|task| waits_for_company(task));
}

/// Whether a task without a node is to be beside those of a service.
fn waits_for_company(task: &Task) -> bool {
    let placement = task
        .spec
        .placement
        .as_ref()
        .filter(|_| !task.status.err.is_empty());
    let texts = placement.map(|placement| &placement.constraints);
    let mut constraints = texts
        .into_iter()
        .flatten()
        .filter_map(|text| text.parse::<Constraint>().ok());
    constraints.any(|one| one.of_service().is_some_and(|(_, is_wanted)| is_wanted))
}

fn in_order<'a>(
    outcomes: &'a [Outcome],
    tasks: &'a [Arc<Task>],
) -> impl Iterator<Item = &'a Arc<Task>> + 'a {
    let by_id: BTreeMap<_, _> = tasks.iter().map(|task| (&task.id, task)).collect();
    outcomes
        .iter()
        .filter_map(move |outcome| by_id.get(&outcome.task).copied())
}

fn record(stage: &mut Stage<'_>, service: &ServiceId, outcome: &Outcome, task: &Task) {
    let now = stage.now;
    let status = |state, message: &str, err: &str| TaskStatus {
        timestamp: now,
        state,
        message: message.to_owned(),
        err: err.to_owned(),
        applied_at: now,
        ..task.status.clone()
    };
    let changed = match &outcome.result {
        Ok(placed) => {
            stage.tx.rely_on(Key::Service(service.clone()));
            stage.tx.rely_on(Key::Node(placed.node.clone()));
            let message = match task.node_id.is_empty() {
                true => ASSIGNED,
                false => CONFIRMED,
            };
            stage.tx.update_task(&task.id, Actor::Scheduler, |task| {
                task.node_id = placed.node.clone();
                task.generic_resources.clone_from(&placed.generic_resources);
                task.status = status(TaskState::Assigned, message, "");
            })
        }
        Err(reason) if task.status.err == reason.explanation => Ok(()),
        Err(reason) => stage.tx.update_task(&task.id, Actor::Scheduler, |task| {
            task.status = status(TaskState::Pending, PENDING, &reason.explanation);
        }),
    };
    if let Err(error) = changed {
        stage.step.notes.push(error.to_string());
    }
}
