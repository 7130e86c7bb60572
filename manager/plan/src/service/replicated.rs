//! Makes a replicated service have the number of slots its spec asks for.
//!
//! Chooses *slots* only. Which node a slot lands on is the scheduler's question.

use std::collections::BTreeMap;

use skep_model::{NodeId, TaskState, Timestamp};

use super::slot::{Slot, SlotState};
use super::{Plan, ServiceView, update};

pub(super) fn plan(view: &ServiceView<'_>, replicas: u64) -> Plan {
    let mut plan = Plan::default();
    let mut slots = slots(view);
    let wanted = usize::try_from(replicas).unwrap_or(usize::MAX);
    let filled = slots.values().filter(|slot| !slot.tasks.is_empty()).count();

    for number in surplus(&slots, filled.saturating_sub(wanted)) {
        for task in slots
            .remove(&number)
            .into_iter()
            .flat_map(|slot| slot.tasks)
        {
            plan.raise(&task, TaskState::Remove);
        }
    }
    let states: Vec<(&Slot, SlotState)> = slots
        .values()
        .filter(|slot| !slot.tasks.is_empty())
        .map(|slot| (slot, slot.advance(view, &mut plan)))
        .collect();
    update::plan(view, &states, &mut plan);
    add(view, &slots, wanted.saturating_sub(filled), &mut plan);
    plan
}

/// The service's slots by number, those whose tasks are all to be forgotten included.
fn slots(view: &ServiceView<'_>) -> BTreeMap<u64, Slot> {
    let mut slots = BTreeMap::new();
    for task in view.tasks {
        slots
            .entry(task.slot)
            .or_insert_with(|| Slot::new(task.slot, None))
            .add(task);
    }
    for slot in slots.values_mut() {
        slot.sort();
    }
    slots
}

/// Fills the lowest free slot numbers.
fn add(view: &ServiceView<'_>, slots: &BTreeMap<u64, Slot>, missing: usize, plan: &mut Plan) {
    let free = (1..).filter(|number| slots.get(number).is_none_or(|slot| slot.tasks.is_empty()));
    for number in free.take(missing) {
        if plan.unfinished {
            return;
        }
        let task = match slots.get(&number) {
            // The slot's last task may still be stopping.
            Some(slot) => slot.new_task(slot.first_desired(view, Timestamp::ZERO), Timestamp::ZERO),
            None => Slot::new(number, None).new_task(TaskState::Running, Timestamp::ZERO),
        };
        plan.create(view, task);
    }
}

/// The `count` slots whose loss hurts least: empty ones, then further copies on one node, then
/// those that do not run yet, then high numbers.
fn surplus(slots: &BTreeMap<u64, Slot>, count: usize) -> Vec<u64> {
    if count == 0 {
        return Vec::new();
    }
    let mut serving: Vec<(bool, u64, NodeId)> = Vec::new();
    let mut order: Vec<(usize, bool, u64)> = Vec::new();
    for slot in slots.values().filter(|slot| !slot.tasks.is_empty()) {
        match slot.best() {
            Some(task) => serving.push((!task.serves(), slot.number, task.node_id.clone())),
            None => order.push((usize::MAX, true, slot.number)),
        }
    }
    serving.sort();
    let mut copies: BTreeMap<NodeId, usize> = BTreeMap::new();
    for (idle, number, node) in serving {
        let copy = copies.entry(node).or_default();
        order.push((*copy, idle, number));
        *copy += 1;
    }
    order.sort();
    order
        .iter()
        .rev()
        .take(count)
        .map(|(_, _, number)| *number)
        .collect()
}
