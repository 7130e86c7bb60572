//! Which tasks must leave a node because it no longer is what they asked for.

use std::sync::Arc;

use skep_model::{Availability, Node, NodeState, Task, TaskId, TaskSpec, TaskState};

use crate::service::dirty::meets_constraints;

/// What an evicted task says.
pub const EVICTED: &str = "assigned node no longer meets constraints";

/// The tasks of `node` that no longer meet their constraints or no longer fit what the node has.
///
/// `current` gives the present spec of a task's service: constraints may have been changed without
/// making a new task. Of too many reservations the newest tasks lose. Generic resources are
/// checked like the others.
pub fn evicted<'a>(
    node: &Node,
    tasks: impl IntoIterator<Item = &'a Arc<Task>>,
    current: impl Fn(&Task) -> Option<TaskSpec>,
) -> Vec<TaskId> {
    if node.spec.availability != Availability::Active || node.status.state == NodeState::Down {
        return Vec::new();
    }
    let mut tasks: Vec<&Arc<Task>> = tasks
        .into_iter()
        .filter(|task| {
            task.desired_state <= TaskState::Running
                && (TaskState::Assigned..=TaskState::Running).contains(&task.status.state)
        })
        .collect();
    tasks.sort_by_key(|task| (task.created_at, task.id.clone()));

    let resources = &node.description.resources;
    let (mut cpus, mut memory) = (resources.nano_cpus.0, resources.memory_bytes.0);
    let mut generic = crate::schedule::generic::Pool::new(&resources.generic_resources);
    let mut evicted = Vec::new();
    for task in tasks {
        let spec = current(task);
        let meets = meets_constraints(spec.as_ref().unwrap_or(&task.spec), node);
        let wanted = task
            .spec
            .resources
            .as_ref()
            .and_then(|resources| resources.reservations.as_ref());
        let (cpu, bytes) =
            wanted.map_or((0, 0), |wanted| (wanted.nano_cpus.0, wanted.memory_bytes.0));
        // A task that reserves nothing cannot be what overloads a node.
        let fits = (cpu == 0 || cpu <= cpus)
            && (bytes == 0 || bytes <= memory)
            && generic.holds(&task.generic_resources);
        if meets && fits {
            cpus -= cpu;
            memory -= bytes;
            generic.take(&task.generic_resources);
        } else {
            evicted.push(task.id.clone());
        }
    }
    evicted
}
