//! A task that is to be beside those of another service is placed where one is, and one that is to be apart
//! from them where none is. This is asked once, when it is placed.

use skep_model::{Constraint, Task, TaskState};
use skep_store::{Event, Object, Snapshot};

pub(super) fn tasks_are_placed_as_asked(
    events: &[Event],
    states: [&Snapshot; 3],
) -> Result<(), String> {
    let [_, before, after] = states;
    for event in events {
        let Some(Object::Task(task)) = event.change.after() else {
            continue;
        };
        let was_placed = match event.change.before() {
            Some(Object::Task(old)) => !old.node_id.is_empty(),
            _ => false,
        };
        // Tasks of global services are made for a node; nobody chooses it.
        if was_placed || task.status.state != TaskState::Assigned || task.slot == 0 {
            continue;
        }
        for (name, is_wanted) in wishes(task) {
            let is_right = match is_wanted {
                // One that was there when this was decided may have ended since.
                true => states.iter().any(|state| there(state, task, &name)),
                // Whoever was placed with the same commit may have been placed later, but not one
                // that has the same wish.
                false if name.eq_ignore_ascii_case(&task.service_name) => {
                    !stays(before, after, task, &name) && !is_shared(after, task, &name)
                }
                false => !stays(before, after, task, &name),
            };
            if !is_right {
                let is = if is_wanted { "beside" } else { "apart from" };
                return Err(format!(
                    "task {} of {} is to be {is} {name} and was placed on {}",
                    task.id, task.service_name, task.node_id
                ));
            }
        }
    }
    Ok(())
}

fn wishes(task: &Task) -> Vec<(String, bool)> {
    let placement = task.spec.placement.as_ref();
    let texts = placement
        .into_iter()
        .flat_map(|placement| &placement.constraints);
    let read = texts.filter_map(|text| text.parse::<Constraint>().ok());
    read.filter_map(|constraint| {
        let (name, is_wanted) = constraint.of_service()?;
        Some((name.to_owned(), is_wanted))
    })
    .collect()
}

/// Whether a task of this name is meant to run on the node of `task`: one that only waits for a place there
/// does not count.
fn is_one(other: &Task, task: &Task, name: &str) -> bool {
    let is_placed = other.status.state >= TaskState::Assigned;
    let is_other = other.id != task.id && other.service_name.eq_ignore_ascii_case(name);
    is_other && is_placed && other.is_live()
}

fn there(snapshot: &Snapshot, task: &Task, name: &str) -> bool {
    let mut others = snapshot.tasks_on_node(&task.node_id);
    others.any(|other| is_one(other, task, name))
}

/// Whether one that has the same wish is there.
fn is_shared(snapshot: &Snapshot, task: &Task, name: &str) -> bool {
    let mut others = snapshot.tasks_on_node(&task.node_id);
    let has_it = |other: &Task| wishes(other).contains(&(name.to_owned(), false));
    others.any(|other| is_one(other, task, name) && has_it(other))
}

/// Whether one that was there before is there afterwards.
fn stays(before: &Snapshot, after: &Snapshot, task: &Task, name: &str) -> bool {
    let mut others = before.tasks_on_node(&task.node_id);
    others.any(|other| {
        is_one(other, task, name) && after.task(&other.id).is_some_and(|now| now.is_live())
    })
}
