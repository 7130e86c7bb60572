//! Jobs: tasks that are to complete a number of times, or once on each node.
//!
//! A change of what a job runs starts a new iteration; tasks carry theirs. Slots of replicated jobs
//! count from 1, as those of services do. A replicated job that has all of its completions says so
//! in its status, so that its tasks may become history.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_model::service::ReplicatedJob;
use skep_model::{Availability, NodeId, Service, Task, TaskState, Timestamp};

use super::dirty::meets_constraints;
use super::slot::Slot;
use super::{Plan, ServiceView, is_lost, iteration};

pub(super) fn plan_replicated(view: &ServiceView<'_>, job: &ReplicatedJob) -> Plan {
    let mut plan = Plan::default();
    end_earlier_iterations(view, &mut plan);
    let at_once = job.max_concurrent.unwrap_or(1).max(1);
    let total = job.total_completions.unwrap_or(at_once);
    if is_finished(view.service) {
        for task in current(view) {
            plan.raise(task, TaskState::Shutdown);
        }
        return plan;
    }

    let mut slots: BTreeMap<u64, Slot> = BTreeMap::new();
    for task in current(view) {
        slots
            .entry(task.slot)
            .or_insert_with(|| Slot::new(task.slot, None))
            .add(task);
    }
    let mut running = 0;
    let mut completed = 0;
    for slot in slots.values_mut() {
        slot.sort();
        if is_complete(slot) {
            completed += 1;
            end_rest(slot, &mut plan);
        } else {
            let state = slot.advance(view, &mut plan);
            // A slot that gave up keeps its place: its work is not handed to another one.
            running += u64::from(slot.best().is_some() || state.returns);
        }
    }
    if completed >= total {
        finish(view, completed, &mut plan);
        return plan;
    }
    let free = (1..=total).filter(|number| !slots.contains_key(number));
    let room = usize::try_from(at_once.saturating_sub(running)).unwrap_or(usize::MAX);
    for number in free.take(room) {
        if plan.unfinished {
            break;
        }
        let slot = Slot::new(number, None);
        plan.create(view, slot.new_task(TaskState::Running, Timestamp::ZERO));
    }
    plan
}

pub(super) fn plan_global(view: &ServiceView<'_>) -> Plan {
    let mut plan = Plan::default();
    end_earlier_iterations(view, &mut plan);
    let mut slots: BTreeMap<NodeId, Slot> = BTreeMap::new();
    for task in current(view) {
        slots
            .entry(task.node_id.clone())
            .or_insert_with(|| Slot::new(0, Some(task.node_id.clone())))
            .add(task);
    }
    for node in view.nodes.nodes() {
        let mut slot = slots
            .remove(&node.id)
            .unwrap_or_else(|| Slot::new(0, Some(node.id.clone())));
        slot.sort();
        let wanted =
            !is_lost(Some(node)) && meets_constraints(&view.service.spec.task_template, node);
        if is_complete(&slot) {
            end_rest(&slot, &mut plan);
        } else if !wanted {
            for task in &slot.tasks {
                plan.raise(task, TaskState::Shutdown);
            }
        } else if !slot.tasks.is_empty() {
            slot.advance(view, &mut plan);
        } else if node.spec.availability == Availability::Active {
            let desired = slot.first_desired(view, Timestamp::ZERO);
            plan.create(view, slot.new_task(desired, Timestamp::ZERO));
        }
    }
    for task in slots.values().flat_map(|slot| &slot.tasks) {
        plan.raise(task, TaskState::Remove);
    }
    plan
}

/// Whether a job has all of its completions.
fn is_finished(service: &Service) -> bool {
    let status = service.job_status.as_ref();
    status.is_some_and(|status| status.finished_at.is_some())
}

fn finish(view: &ServiceView<'_>, completed: u64, plan: &mut Plan) {
    let mut finished = view.service.clone();
    let status = finished.job_status.get_or_insert_default();
    status.finished_at = Some(view.now);
    status.completed = completed;
    plan.service = Some(Box::new(finished));
}

fn is_complete(slot: &Slot) -> bool {
    slot.tasks
        .iter()
        .any(|task| task.status.state == TaskState::Complete)
}

/// The slot's work is done: nothing more may run in it.
fn end_rest(slot: &Slot, plan: &mut Plan) {
    for task in &slot.tasks {
        plan.raise(task, TaskState::Shutdown);
    }
}

fn current<'a>(view: &ServiceView<'a>) -> impl Iterator<Item = &'a Arc<Task>> + 'a {
    let iteration = iteration(view.service);
    view.tasks
        .iter()
        .filter(move |task| task.job_iteration.unwrap_or_default() == iteration)
}

/// Unfinished tasks of earlier iterations are to be forgotten, finished ones become history.
fn end_earlier_iterations(view: &ServiceView<'_>, plan: &mut Plan) {
    let iteration = iteration(view.service);
    for task in view.tasks {
        if task.job_iteration.unwrap_or_default() != iteration {
            match task.status.state.is_terminal() {
                true => plan.raise(task, TaskState::Shutdown),
                false => plan.raise(task, TaskState::Remove),
            }
        }
    }
}
