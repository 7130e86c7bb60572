//! Slots that are exclusive: a task is let run only when the one before has certainly stopped.
//!
//! The word of its node is proof. Without a word there is what the node has promised: it, and the
//! container itself should the node's daemon be dead, ends the task so long after a sign of life was
//! last confirmed to have reached a leader. A leader that has not heard of the node for that long,
//! measured by its own clock alone, can rely on it.

use std::time::Duration;

use skep_model::disconnect::OnDisconnect;
use skep_model::{Service, Task, TaskState, Timestamp};

use super::{ServiceView, is_lost, is_silent};

/// Of a task whose end only its node can tell.
pub(super) const WHEN_IT_SAYS_SO: Timestamp = Timestamp(i64::MAX);
/// Between stop signal and kill, when the spec does not say.
const GRACE: Duration = Duration::from_secs(10);
/// How much longer the kill itself may take, and clocks of two machines differ in a minute.
const MARGIN: Duration = Duration::from_secs(3);
/// Clocks run at rates that differ by less than one part in so many.
const DRIFT: u32 = 1000;

pub(super) fn is_exclusive(service: &Service) -> bool {
    OnDisconnect::of(&service.spec.labels).exclusive
}

/// When a task of an exclusive slot has certainly stopped; nothing when it has, or never began, or
/// is not to stop.
pub(super) fn stopped_by(task: &Task, view: &ServiceView<'_>) -> Option<Timestamp> {
    let state = task.status.state;
    if state < TaskState::Assigned || (state.is_terminal() && state != TaskState::Orphaned) {
        return None;
    }
    let node = view.nodes.node(&task.node_id);
    let unheard_since = match node {
        // A node that comes back says what has become of it, also when it was given up before.
        _ if state == TaskState::Orphaned => task.status.applied_at,
        Some(node) if is_silent(Some(node)) => node.status.since,
        None => view.now,
        Some(_) => {
            let is_to_stop = task.desired_state > TaskState::Running || is_lost(node);
            return is_to_stop.then_some(WHEN_IT_SAYS_SO);
        }
    };
    // Neither has an agent that knows no leases, nor what was made before the label was given, promised
    // anything.
    let knows_leases = |node: &skep_model::Node| node.description.holds_leases;
    if !node.is_none_or(knows_leases) {
        return Some(WHEN_IT_SAYS_SO);
    }
    let Some(promised) = OnDisconnect::of(&task.labels).stop_after else {
        return (state != TaskState::Orphaned).then_some(WHEN_IT_SAYS_SO);
    };
    let since = match (view.steady_since..=view.now).contains(&unheard_since) {
        true => unheard_since,
        false => view.steady_since,
    };
    let grace = task
        .spec
        .container()
        .and_then(|container| container.stop_grace_period)
        .map_or(GRACE, |grace| grace.duration());
    let length = promised.saturating_add(grace);
    Some(since.plus(length + length / DRIFT + MARGIN))
}
