//! A task's observed state moves only as the law allows, and its desired state only grows.

use skep_model::{Actor, TaskState};
use skep_store::{Delta, Event, Object};

const ACTORS: [Actor; 5] = [
    Actor::Allocator,
    Actor::Scheduler,
    Actor::Agent,
    Actor::Enforcer,
    Actor::NodeMonitor,
];

pub(super) fn states_only_grow(events: &[Event]) -> Result<(), String> {
    for event in events {
        let Delta::Updated {
            old: Object::Task(old),
            new: Object::Task(new),
        } = &event.change
        else {
            continue;
        };
        let (from, to) = (old.status.state, new.status.state);
        if from != to && !lawful(from, to) {
            return Err(format!("task {} went from {from} to {to}", new.id));
        }
        if new.desired_state < old.desired_state {
            return Err(format!(
                "task {} is to go from {} back to {}",
                new.id, old.desired_state, new.desired_state
            ));
        }
        if from >= TaskState::Assigned && old.node_id != new.node_id {
            return Err(format!("task {} moved to another node", new.id));
        }
    }
    Ok(())
}

/// One commit may carry a task through several states.
fn lawful(from: TaskState, to: TaskState) -> bool {
    skep_model::state::ALL_STATES.into_iter().any(|between| {
        let step = |a: TaskState, b: TaskState| ACTORS.iter().any(|by| a.may_become(b, *by));
        step(from, to) || (step(from, between) && step(between, to))
    })
}
