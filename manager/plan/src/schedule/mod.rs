//! Which node runs which task.
//!
//! Tasks of one service and spec version are placed as a group: the nodes are filtered once, and
//! then each task goes to the best of those that are left. A running task is never moved.

use std::sync::Arc;

use skep_model::resources::GenericResource;
use skep_model::volume_home::VolumeHomes;
use skep_model::{NodeId, Task, TaskId, Timestamp};

mod examine;
mod filter;
pub mod generic;
mod home;
pub mod rebalance;
mod spread;
mod table;

pub use examine::{Verdict, examine};
pub use home::{AND_THERE, AT_HOME, STILL_STOPS, behind_predecessor};
pub use table::NodeTable;

pub(crate) use filter::waits_for;
use filter::{Refusals, Request};
use spread::Tree;

/// What became of one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub task: TaskId,
    pub result: Result<Placed, NoNode>,
}

/// A task's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    pub node: NodeId,
    /// The generic resources it was granted there.
    pub generic_resources: Vec<GenericResource>,
}

/// Why no node will do. The text is Swarm's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{explanation}")]
pub struct NoNode {
    pub explanation: String,
}

/// Places `tasks`, which are all of one service and spec version, and accounts for them in `table`.
///
/// Tasks that name a node already (those of global services) are only confirmed there, and those of
/// a slot with a home go there or nowhere.
pub fn schedule(
    table: &mut NodeTable,
    tasks: &[Arc<Task>],
    homes: &VolumeHomes,
    now: Timestamp,
) -> Vec<Outcome> {
    let Some(first) = tasks.first() else {
        return Vec::new();
    };
    let request = Request::of(first, table);
    let mut outcomes = Vec::with_capacity(tasks.len());
    let (preset, free): (Vec<_>, Vec<_>) = tasks.iter().partition(|task| !task.node_id.is_empty());

    for task in preset {
        outcomes.push(Outcome {
            task: task.id.clone(),
            result: confirm(table, &request, task),
        });
    }
    let (bound, free): (Vec<_>, Vec<_>) = free
        .into_iter()
        .partition(|task| homes.contains_key(&task.slot));
    for (task, home) in bound
        .into_iter()
        .filter_map(|task| Some((task, homes.get(&task.slot)?)))
    {
        outcomes.push(Outcome {
            task: task.id.clone(),
            result: home::place(table, &request, task, home),
        });
    }
    if free.is_empty() {
        return outcomes;
    }
    let mut tree = Tree::new(table, &request, now);
    let mut refused = None;
    for task in free {
        let result = match &refused {
            None => match tree.place(table, &request, task) {
                Some(placed) => Ok(placed),
                None => Err(explain(table, &request)),
            },
            Some(reason) => Err(NoNode::clone(reason)),
        };
        if let Err(reason) = &result {
            refused = Some(reason.clone());
        }
        outcomes.push(Outcome {
            task: task.id.clone(),
            result,
        });
    }
    outcomes
}

fn confirm(table: &mut NodeTable, request: &Request, task: &Task) -> Result<Placed, NoNode> {
    let mut refusals = Refusals::default();
    let entry = table.entry(&task.node_id);
    match entry.map(|entry| request.check(entry)) {
        Some(Ok(())) => Ok(table
            .place(&task.node_id.clone(), task)
            .expect("a node that was just checked grants what it has")),
        Some(Err(refusal)) => {
            refusals.add(refusal);
            Err(refusals.explain())
        }
        None => Err(refusals.explain()),
    }
}

fn explain(table: &NodeTable, request: &Request) -> NoNode {
    let mut refusals = Refusals::default();
    for entry in table.entries() {
        if let Err(refusal) = request.check(entry) {
            refusals.add(refusal);
        }
    }
    refusals.explain()
}
