//! Gives waiting tasks their nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_model::volume_home::{VolumeHomes, is_sticky};
use skep_model::{Constraint, Service, ServiceId, Task, TaskState, TaskStatus, state::Actor};
use skep_plan::schedule::Placed;
use skep_plan::schedule::behind_predecessor;
use skep_plan::{Outcome, homes, schedule};
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
    stage
        .memory
        .table
        .set_outside(crate::preview::outside(&after));

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
        let known = stage.tx.service(&service).cloned();
        let is_sticky = known
            .as_ref()
            .is_some_and(|known| is_sticky(&known.spec.labels));
        let mut homes = known
            .filter(|_| is_sticky)
            .map(|known| known.volume_homes.clone())
            .unwrap_or_default();
        let (behind, free) = behind_predecessors(stage, &service, &homes, &tasks);
        let mut outcomes = schedule(&mut stage.memory.table, &free, &homes, stage.now);
        outcomes.extend(behind);
        is_any_placed |= outcomes.iter().any(|outcome| outcome.result.is_ok());
        for (outcome, task) in outcomes.iter().zip(in_order(&outcomes, &tasks)) {
            let expected = match &outcome.result {
                Ok(placed) if is_sticky => at_home(stage, &mut homes, task, placed),
                _ => Vec::new(),
            };
            record(stage, &service, outcome, task, expected);
        }
        keep(stage, &service, homes);
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

/// Tasks whose predecessors may still have their volumes, with the reason, and the others.
fn behind_predecessors(
    stage: &mut Stage<'_>,
    service: &ServiceId,
    homes: &VolumeHomes,
    tasks: &[Arc<Task>],
) -> (Vec<Outcome>, Vec<Arc<Task>>) {
    let (mut behind, mut free) = (Vec::new(), Vec::new());
    for task in tasks {
        let slot = |_| {
            stage
                .tx
                .tasks_of_slot(service, task.slot)
                .cloned()
                .collect()
        };
        let home = homes.get(&task.slot);
        let others: Vec<_> = home.map(slot).unwrap_or_default();
        let table = &stage.memory.table;
        let until = home.and_then(|home| {
            let until = homes::occupied_until(home, task, &others, table, stage.now)?;
            Some((until, behind_predecessor(task, home)))
        });
        let Some((until, reason)) = until else {
            free.push(task.clone());
            continue;
        };
        if until < homes::WHEN_IT_SAYS_SO {
            let timer = stage.memory.timers.entry(service.clone()).or_insert(until);
            *timer = until.min(*timer);
        }
        behind.push(Outcome {
            task: task.id.clone(),
            result: Err(reason),
        });
    }
    (behind, free)
}

/// Gives a placed task's slot its home, and the task the volumes that it must find there.
fn at_home(
    stage: &Stage<'_>,
    homes: &mut VolumeHomes,
    task: &Task,
    placed: &Placed,
) -> Vec<String> {
    let Some(node) = stage.tx.node(&placed.node) else {
        return Vec::new();
    };
    homes::claim(homes, task, node, stage.now);
    homes::expected(homes, task, node)
}

/// Stores the homes of a service's slots.
fn keep(stage: &mut Stage<'_>, service: &ServiceId, homes: VolumeHomes) {
    let Some(known) = stage.tx.service(service) else {
        return;
    };
    if !homes.is_empty() && known.volume_homes != homes {
        let mut service = Service::clone(known);
        service.volume_homes = homes;
        stage.put_service(service);
    }
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

fn record(
    stage: &mut Stage<'_>,
    service: &ServiceId,
    outcome: &Outcome,
    task: &Task,
    expected: Vec<String>,
) {
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
                task.volumes_expected = expected;
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
