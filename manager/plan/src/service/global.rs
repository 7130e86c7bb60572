//! Makes a global service have one task on each node that should run it.

use std::collections::BTreeMap;

use skep_model::{Availability, Node, NodeId, Service, TaskState, Timestamp};

use super::dirty::meets_constraints;
use super::slot::{Slot, SlotState};
use super::{Plan, ServiceView, is_lost, update};

pub(super) fn plan(view: &ServiceView<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut slots = slots(view);
    let mut states: Vec<(Slot, SlotState)> = Vec::new();
    let mut empty: Vec<Slot> = Vec::new();

    for node in view.nodes.nodes() {
        let slot = slots
            .remove(&node.id)
            .unwrap_or_else(|| Slot::new(0, Some(node.id.clone())));
        match verdict(view, node) {
            Verdict::Wanted if slot.tasks.is_empty() => empty.push(slot),
            Verdict::Wanted => {
                let state = slot.advance(view, &mut plan);
                states.push((slot, state));
            }
            Verdict::AsIs => (),
            Verdict::Unwanted => {
                for task in &slot.tasks {
                    plan.raise(task, TaskState::Shutdown);
                }
            }
        }
    }
    // Whatever is left belongs to nodes that are gone.
    for task in slots.values().flat_map(|slot| &slot.tasks) {
        plan.raise(task, TaskState::Remove);
    }
    let borrowed: Vec<(&Slot, SlotState)> = states
        .iter()
        .map(|(slot, state)| (slot, state.clone()))
        .collect();
    update::plan(view, &borrowed, &mut plan);
    for slot in empty {
        let desired = slot.first_desired(view, Timestamp::ZERO);
        plan.create(view, slot.new_task(desired, Timestamp::ZERO));
    }
    plan
}

/// Whether a node is to have a task of a service that every node runs.
pub(super) fn runs_on(service: &Service, node: &Node) -> bool {
    !is_lost(Some(node))
        && node.spec.availability == Availability::Active
        && meets_constraints(&service.spec.task_template, node)
}

enum Verdict {
    /// The node should run a task.
    Wanted,
    /// The node keeps what it has and gets nothing new.
    AsIs,
    /// The node should not run a task.
    Unwanted,
}

fn verdict(view: &ServiceView<'_>, node: &Node) -> Verdict {
    if is_lost(Some(node)) {
        Verdict::Unwanted
    } else if node.spec.availability == Availability::Pause {
        Verdict::AsIs
    } else if meets_constraints(&view.service.spec.task_template, node) {
        Verdict::Wanted
    } else {
        Verdict::Unwanted
    }
}

/// The service's tasks by node.
pub(super) fn slots(view: &ServiceView<'_>) -> BTreeMap<NodeId, Slot> {
    let mut slots = BTreeMap::new();
    for task in view.tasks {
        slots
            .entry(task.node_id.clone())
            .or_insert_with(|| Slot::new(0, Some(task.node_id.clone())))
            .add(task);
    }
    for slot in slots.values_mut() {
        slot.sort();
    }
    slots
}
