//! Bugs put in on purpose, each of which one invariant must find.

use std::sync::Arc;

use skep_model::{NodeId, TaskId, TaskState};
use skep_store::{Change, Commit, Object, Snapshot};

use crate::random::Dice;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// The leader takes every node to follow everything.
    TakeAllToFollow,
    /// Tasks that are to be beside others or apart from them are placed somewhere.
    PlaceAnywhere,
    /// Tasks are sent away from the volumes of their slots.
    LoseHomes,
    /// Nothing is ever moved to nodes that came later.
    NeverRebalance,
    /// A watcher misses an event now and then.
    LoseEvents,
    /// A host misses a message of its session now and then.
    LoseMessages,
    /// Hosts keep secrets that they are told to forget.
    KeepSecrets,
}

/// Spoils what the control loop has decided.
pub fn spoil(sabotage: Sabotage, commit: &mut Option<Commit>, seen: &Snapshot, dice: &mut Dice) {
    let Some(changes) = commit.as_mut().map(|commit| &mut commit.changes) else {
        return;
    };
    match sabotage {
        Sabotage::PlaceAnywhere => {
            let nodes: Vec<NodeId> = seen.nodes().map(|node| node.id.clone()).collect();
            for change in changes {
                if let Some(place) = place_of(change, seen)
                    && let Some(node) = dice.pick(&nodes)
                {
                    *place = node.clone();
                }
            }
        }
        Sabotage::LoseHomes => {
            for change in changes {
                if let Change::Put(Object::Service(service)) = change {
                    Arc::make_mut(service).volume_homes.clear();
                }
            }
        }
        Sabotage::NeverRebalance => {
            let begins = |change: &Change| matches!(change, Change::Put(Object::Service(service)) if !service.moving.is_empty());
            if changes.iter().any(begins) {
                *commit = None;
            }
        }
        Sabotage::TakeAllToFollow
        | Sabotage::LoseEvents
        | Sabotage::LoseMessages
        | Sabotage::KeepSecrets => (),
    }
}

/// Where a task is placed that has wishes about other services.
fn place_of<'a>(change: &'a mut Change, seen: &Snapshot) -> Option<&'a mut NodeId> {
    let wishes = |id: &TaskId| {
        let task = seen.task(id)?;
        let placement = task.spec.placement.as_ref()?;
        let of_service = |text: &String| text.starts_with("service");
        placement.constraints.iter().any(of_service).then_some(())
    };
    match change {
        Change::Patch(patch) => {
            let state = patch.status.as_ref().map(|status| status.state);
            let is_placed = state == Some(TaskState::Assigned);
            wishes(&patch.id).filter(|()| is_placed)?;
            patch.node_id.as_mut()
        }
        Change::Make(task) => {
            let placement = task.spec.placement.as_ref()?;
            let of_service = |text: &String| text.starts_with("service");
            let is_placed = task.status.state == TaskState::Assigned && task.slot > 0;
            let has_wish = placement.constraints.iter().any(of_service);
            (is_placed && has_wish).then_some(&mut task.node_id)
        }
        _ => None,
    }
}
