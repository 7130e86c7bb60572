//! Tells when nobody is led any more to a task that is to stop.
//!
//! A task leaves balancers and names with the commit that wants it to stop, but each node follows
//! in its own time. Only when all have followed may the stop signal go out; otherwise a slow node
//! would still lead requests to a process that is gone.

use std::collections::BTreeMap;

use skep_model::{Actor, NodeId, NodeState, Timestamp};
use skep_store::{Commit, Snapshot, Transaction};

/// The commit that lets tasks stop whose endpoints every ready node has forgotten. `networks`:
/// the version of the state that each node's packets and names follow, as far as it is known.
pub fn confirm_drained(
    snapshot: &Snapshot,
    networks: &BTreeMap<NodeId, u64>,
    now: Timestamp,
) -> Option<Commit> {
    let mut draining = snapshot.draining_tasks().peekable();
    draining.peek()?;
    let followed_by_all = snapshot
        .nodes()
        .filter(|node| node.status.state == NodeState::Ready)
        .map(|node| networks.get(&node.id).copied().unwrap_or_default())
        .min()
        .unwrap_or(u64::MAX);
    let mut tx = Transaction::new(snapshot, now);
    for task in draining.filter(|task| task.version.index <= followed_by_all) {
        tx.update_task(&task.id, Actor::Scheduler, |task| task.drained_at = now)
            .expect("the task is in the snapshot, and neither of its states moves");
    }
    tx.commit()
}
