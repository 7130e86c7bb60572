//! Jobs: tasks that are to complete a number of times, or once on each node.
//!
//! A change of what a job runs starts a new iteration; tasks carry theirs. Slots of replicated jobs
//! count from 1, as those of services do. A replicated job that has all of its completions says so
//! in its status, so that its tasks may become history.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_model::schedule::RunOutcome;
use skep_model::service::ReplicatedJob;
use skep_model::{Availability, NodeId, Service, Task, TaskState, Timestamp};

use super::dirty::meets_constraints;
use super::slot::Slot;
use super::{Plan, ServiceView, is_lost, iteration, run};

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
            .or_insert_with(|| empty_slot(view, task.slot, None))
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
        plan.service = Some(run::finished(view, RunOutcome::Complete, completed));
        return plan;
    }
    let mut free = (1..=total)
        .filter(|number| !slots.contains_key(number))
        .peekable();
    // A job without a schedule is asked for once, and may be mended.
    if view.service.spec.is_scheduled() && running == 0 && free.peek().is_none() && !plan.unfinished
    {
        plan.service = Some(run::finished(view, RunOutcome::Failed, completed));
        return plan;
    }
    let room = usize::try_from(at_once.saturating_sub(running)).unwrap_or(usize::MAX);
    for number in free.take(room) {
        if plan.unfinished {
            break;
        }
        let slot = empty_slot(view, number, None);
        let desired = slot.first_desired(view, Timestamp::ZERO);
        plan.create(view, slot.new_task(desired, Timestamp::ZERO));
    }
    plan
}

/// A slot that nothing has filled yet. A run waits for what an earlier one still has there to stop.
fn empty_slot(view: &ServiceView<'_>, number: u64, node: Option<NodeId>) -> Slot {
    let mut slot = Slot::new(number, node);
    if view.service.spec.is_scheduled() {
        slot.leftovers = earlier_in(view, &slot);
    }
    slot
}

/// Tasks of earlier runs in this slot that have not ended. They are told to stop by now.
fn earlier_in(view: &ServiceView<'_>, slot: &Slot) -> Vec<Arc<Task>> {
    let iteration = iteration(view.service);
    let tasks = view.tasks.iter().filter(|task| {
        let here = match &slot.node {
            Some(node) => task.node_id == *node,
            None => task.slot == slot.number,
        };
        here && task.job_iteration.unwrap_or_default() != iteration
            && !task.status.state.is_terminal()
    });
    let told = |task: &Arc<Task>| match task.desired_state > TaskState::Running {
        true => task.clone(),
        false => Arc::new(Task {
            desired_state: TaskState::Remove,
            draining_since: view.now,
            ..Task::clone(task)
        }),
    };
    tasks.map(told).collect()
}

pub(super) fn plan_global(view: &ServiceView<'_>) -> Plan {
    let mut plan = Plan::default();
    end_earlier_iterations(view, &mut plan);
    if is_finished(view.service) {
        for task in current(view) {
            plan.raise(task, TaskState::Shutdown);
        }
        return plan;
    }
    let mut slots: BTreeMap<NodeId, Slot> = BTreeMap::new();
    for task in current(view) {
        slots
            .entry(task.node_id.clone())
            .or_insert_with(|| empty_slot(view, 0, Some(task.node_id.clone())))
            .add(task);
    }
    // Nodes that have completed, where it goes on, and that gave up.
    let (mut completed, mut open, mut given_up) = (0, 0, 0);
    for node in view.nodes.nodes() {
        let mut slot = slots
            .remove(&node.id)
            .unwrap_or_else(|| empty_slot(view, 0, Some(node.id.clone())));
        slot.sort();
        let wanted =
            !is_lost(Some(node)) && meets_constraints(&view.service.spec.task_template, node);
        if is_complete(&slot) {
            completed += 1;
            end_rest(&slot, &mut plan);
        } else if !wanted {
            for task in &slot.tasks {
                plan.raise(task, TaskState::Shutdown);
            }
        } else if !slot.tasks.is_empty() {
            let state = slot.advance(view, &mut plan);
            match slot.best().is_some() || state.returns {
                true => open += 1,
                false => given_up += 1,
            }
        } else if node.spec.availability == Availability::Active {
            let desired = slot.first_desired(view, Timestamp::ZERO);
            plan.create(view, slot.new_task(desired, Timestamp::ZERO));
            open += 1;
        }
    }
    for task in slots.values().flat_map(|slot| &slot.tasks) {
        plan.raise(task, TaskState::Remove);
    }
    // Without a schedule it waits for nodes that come, and a run for the first at least: a whole
    // cluster that was off starts with all nodes down.
    let some = completed + given_up > 0;
    if view.service.spec.is_scheduled() && some && open == 0 && !plan.unfinished {
        let outcome = match given_up == 0 {
            true => RunOutcome::Complete,
            false => RunOutcome::Failed,
        };
        plan.service = Some(run::finished(view, outcome, completed));
    }
    plan
}

/// Whether a job has all of its completions.
fn is_finished(service: &Service) -> bool {
    let status = service.job_status.as_ref();
    status.is_some_and(|status| status.finished_at.is_some())
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
