//! Which running tasks would be better elsewhere: nodes have come, or come back, since they were
//! placed.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use skep_model::placement::Ranking;
use skep_model::volume_home::is_sticky;
use skep_model::{NodeId, Service, ServiceMode, Task, TaskId, TaskState, Timestamp};

use super::filter::Request;
use super::table::NodeTable;
use super::{Placed, schedule, spread};

/// A task that would be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub task: TaskId,
    pub from: NodeId,
    pub to: NodeId,
}

/// Moves, `most` at most, each of which evens the service out.
///
/// A move must pay: where it leads must have at least two tasks of the service fewer than where the
/// task is, on the first level of the preferences where the two differ, or else by nodes. Tasks that
/// do not run, and services that are not replicated or are not ranked by tasks, stay as they are.
pub fn moves(
    table: &NodeTable,
    service: &Service,
    tasks: &[Arc<Task>],
    most: usize,
    now: Timestamp,
) -> Vec<Move> {
    let by_tasks = Ranking::of(&service.spec.labels) == Ok(Ranking::Tasks);
    // What has its volume where it is, stays.
    if !by_tasks
        || is_sticky(&service.spec.labels)
        || !matches!(service.spec.mode, ServiceMode::Replicated(_))
    {
        return Vec::new();
    }
    let mut there: BTreeMap<NodeId, Vec<&Arc<Task>>> = BTreeMap::new();
    for task in tasks.iter().filter(|task| task.serves()) {
        there.entry(task.node_id.clone()).or_default().push(task);
    }
    // Those that have run for the shortest time have the least to lose, and go first.
    for tasks in there.values_mut() {
        tasks.sort_by_key(|task| (task.running_since, task.slot));
    }
    let mut table = table.clone();
    let mut moves = Vec::new();
    while moves.len() < most
        && let Some(found) = next(&mut table, service, &there, now)
    {
        if let Some(tasks) = there.get_mut(&found.from) {
            tasks.pop();
        }
        moves.push(found);
    }
    moves
}

/// The next move; the table then knows the task where it leads.
fn next(
    table: &mut NodeTable,
    service: &Service,
    there: &BTreeMap<NodeId, Vec<&Arc<Task>>>,
    now: Timestamp,
) -> Option<Move> {
    let mut nodes: Vec<&Vec<&Arc<Task>>> = there.values().collect();
    nodes.sort_by_key(|tasks| Reverse(tasks.len()));
    // Tasks of a node are alike: what does not pay for one does not for the others.
    nodes.into_iter().find_map(|tasks| {
        let task = tasks.last()?;
        let placed = elsewhere(table, service, task, now)?;
        Some(Move {
            task: task.id.clone(),
            from: task.node_id.clone(),
            to: placed.node,
        })
    })
}

/// Where a running task would go if it were placed now, if that pays; then the table has it there.
fn elsewhere(
    table: &mut NodeTable,
    service: &Service,
    task: &Task,
    now: Timestamp,
) -> Option<Placed> {
    let mut asking = Task::clone(task);
    // The one that takes its place is placed as is wanted now, which may restart nothing.
    let wanted = &service.spec.task_template.placement;
    asking.spec.placement.clone_from(wanted);
    let request = Request::of(&asking, table);
    let from = spread::standing(table, &request, &task.node_id);
    if request.spread.is_empty() && from.iter().all(|(_, tasks)| *tasks < 2) {
        return None;
    }
    table.task_changed(Some(task), None);
    asking.node_id = NodeId::default();
    asking.generic_resources.clear();
    asking.status.state = TaskState::Pending;
    let outcome = schedule(table, &[Arc::new(asking)], &BTreeMap::new(), now).pop();
    let Some(placed) = outcome.and_then(|outcome| outcome.result.ok()) else {
        table.task_changed(None, Some(task));
        return None;
    };
    let mut moved = Task::clone(task);
    moved.node_id = placed.node.clone();
    moved
        .generic_resources
        .clone_from(&placed.generic_resources);
    table.task_changed(Some(&moved), None);
    let to = spread::standing(table, &request, &placed.node);
    let mut levels = from.iter().zip(&to).filter(|(from, to)| from.0 != to.0);
    let pays = levels.next().is_some_and(|(from, to)| from.1 >= to.1 + 2);
    table.task_changed(None, Some(if pays { &moved } else { task }));
    pays.then_some(placed)
}
