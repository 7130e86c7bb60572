//! What agents say of their tasks.

use skep_model::{NodeId, TaskId, TaskState, TaskStatus, Timestamp, state::Actor};
use skep_store::{Change, Commit, Snapshot};

/// The commit that takes reports in. Reports about tasks that are gone, of other nodes, and that
/// would move a task backwards are dropped here, and again when the commit is applied.
pub fn record_statuses(
    snapshot: &Snapshot,
    reports: &[(TaskId, NodeId, TaskStatus)],
    now: Timestamp,
) -> Option<Commit> {
    let mut changes = Vec::new();
    for (id, node, status) in reports {
        let Some(task) = snapshot.task(id) else {
            continue;
        };
        let from = task.status.state;
        let moves = from.may_become(status.state, Actor::Agent);
        let refines = from == status.state && from >= TaskState::Assigned && !from.is_terminal();
        if task.node_id != *node || !(moves || refines) {
            continue;
        }
        let mut status = status.clone();
        status.applied_at = match moves {
            true => now,
            // The clock that restarts are counted by starts with the state, not with each word.
            false => task.status.applied_at,
        };
        if status == task.status {
            continue;
        }
        changes.push(Change::Report {
            task: id.clone(),
            node: node.clone(),
            status: Box::new(status),
        });
    }
    (!changes.is_empty()).then_some(Commit {
        expected: Vec::new(),
        changes,
    })
}
