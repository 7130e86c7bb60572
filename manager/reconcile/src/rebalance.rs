//! Services that are spread anew over nodes that have come, or come back, since their tasks were placed.

use std::sync::Arc;
use std::time::Duration;

use skep_model::service::{UpdateState, UpdateStatus};
use skep_model::{Service, Task, Timestamp, Version};
use skep_plan::NodeTable;
use skep_plan::schedule::rebalance::{Move, moves};
use skep_store::Snapshot;

/// Label of a service that is rebalanced by itself, with the value `auto`.
pub const REBALANCE_LABEL: &str = "skep.rebalance";
/// Nodes must have been as they are for so long: one that comes and goes moves nobody.
const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// Whether the service is to be rebalanced without being asked.
pub fn is_automatic(service: &Service) -> bool {
    let wish = service.spec.labels.get(REBALANCE_LABEL);
    wish.is_some_and(|wish| wish == "auto")
}

/// Whether no update of the service is under way or has come to a halt.
pub(crate) fn is_idle(service: &Service) -> bool {
    let state = service.update_status.as_ref().map(|status| status.state);
    matches!(
        state,
        None | Some(UpdateState::Completed | UpdateState::RollbackCompleted)
    )
}

/// From when on the service may be rebalanced by itself.
pub(crate) fn settled_at(service: &Service, view: &Snapshot) -> Timestamp {
    let nodes = view.nodes().map(|node| node.status.since);
    let update = service.update_status.as_ref();
    let updated = update.and_then(|status| status.completed_at);
    let last = nodes.chain(updated).max().unwrap_or_default();
    last.plus(SETTLED_AFTER)
}

/// Has tasks replaced that would be better elsewhere, in the way of the service's updates. Nothing
/// when none would.
pub(crate) fn begin(
    service: &Service,
    tasks: &[Arc<Task>],
    table: &NodeTable,
    most: usize,
    now: Timestamp,
) -> Option<(Service, Vec<Move>)> {
    let moves = moves(table, service, tasks, most, now);
    if moves.is_empty() {
        return None;
    }
    let mut begun = service.clone();
    begun.moving = moves.iter().map(|one| one.task.clone()).collect();
    // What is made for the moves is told from what earlier updates made.
    begun.spec_version = Version::at(service.spec_version.index + 1);
    let count = moves.len();
    let tasks = if count == 1 { "task" } else { "tasks" };
    begun.update_status = Some(UpdateStatus {
        state: UpdateState::Updating,
        started_at: Some(now),
        completed_at: None,
        message: format!("rebalancing: {count} {tasks} to other nodes"),
    });
    Some((begun, moves))
}
