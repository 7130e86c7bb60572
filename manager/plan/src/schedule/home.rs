//! Tasks of slots whose volumes are on a node already: there or nowhere.

use skep_model::Task;
use skep_model::volume_home::VolumeHome;

use super::examine::unavailable;
use super::filter::{Refusal, Request};
use super::table::NodeTable;
use super::{NoNode, Placed};

/// Part of every reason for which a task waits for its slot's home.
pub const AT_HOME: &str = "is on node";

/// What follows says what the home lacks.
pub const AND_THERE: &str = "and there: ";
/// How those end that wait there for the task before them.
pub const STILL_STOPS: &str = "and its predecessor still stops there";

/// Why a task whose predecessor still has the volumes is not placed.
pub fn behind_predecessor(task: &Task, home: &VolumeHome) -> NoNode {
    let explanation = format!(
        "no suitable node ({}, {STILL_STOPS})",
        whereabouts(task.slot, home)
    );
    NoNode { explanation }
}

/// Places a task on the node that has its volumes, or tells what is in the way there.
pub(super) fn place(
    table: &mut NodeTable,
    request: &Request,
    task: &Task,
    home: &VolumeHome,
) -> Result<Placed, NoNode> {
    let no_node = |why: &str| NoNode {
        explanation: format!("no suitable node ({}, {why})", whereabouts(task.slot, home)),
    };
    let Some(entry) = table.entry(&home.node_id) else {
        return Err(no_node("which was removed"));
    };
    if let Err(refusal) = request.check(entry) {
        return Err(match (refusal, unavailable(entry)) {
            (Refusal::Unavailable, Some(why)) => no_node(&format!("which {why}")),
            (refusal, _) => no_node(&format!("{AND_THERE}{}", refusal.explain(1))),
        });
    }
    let placed = table.place(&home.node_id, task);
    Ok(placed.expect("a node that was just checked grants what it has"))
}

/// What is where.
pub(super) fn whereabouts(slot: u64, home: &VolumeHome) -> String {
    let node = match home.hostname.as_str() {
        "" => home.node_id.as_str(),
        name => name,
    };
    match home.volumes.as_slice() {
        [] => format!("the volume of slot {slot} {AT_HOME} {node}"),
        [one] => format!("volume {one} of slot {slot} {AT_HOME} {node}"),
        [first, others @ ..] => {
            let more = others.len();
            format!("volume {first} and {more} more of slot {slot} {AT_HOME} {node}")
        }
    }
}
