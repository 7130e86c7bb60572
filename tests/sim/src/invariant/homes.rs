//! A task of a slot that has its volumes on a node is placed there and nowhere else. Nobody in here lets
//! go of volumes, so a home that was held stays while the service wants it.

use skep_model::volume_home::is_sticky;
use skep_model::{Service, Task, TaskState};
use skep_store::{Delta, Event, Object, Snapshot};

pub(super) fn tasks_return_to_their_volumes(
    events: &[Event],
    after: &Snapshot,
) -> Result<(), String> {
    for event in events {
        match &event.change {
            Delta::Updated {
                old: Object::Service(old),
                new: Object::Service(new),
            } => homes_stay(old, new)?,
            change => {
                if let Some(Object::Task(task)) = change.after() {
                    let is_new = !matches!(change.before(), Some(Object::Task(old)) if !old.node_id.is_empty());
                    is_at_home(task, is_new, after)?;
                }
            }
        }
    }
    Ok(())
}

fn homes_stay(old: &Service, new: &Service) -> Result<(), String> {
    if !is_sticky(&new.spec.labels) || !is_sticky(&old.spec.labels) {
        return Ok(());
    }
    for (slot, home) in old.volume_homes.iter().filter(|(_, home)| home.is_held) {
        let now = new.volume_homes.get(slot).map(|home| &home.node_id);
        if now != Some(&home.node_id) {
            return Err(format!(
                "slot {slot} of {} left its volumes on {} for {now:?}",
                new.spec.name, home.node_id
            ));
        }
    }
    Ok(())
}

fn is_at_home(task: &Task, is_new: bool, after: &Snapshot) -> Result<(), String> {
    if !is_new || task.node_id.is_empty() || task.status.state != TaskState::Assigned {
        return Ok(());
    }
    let service = after.service(&task.service_id);
    let Some(service) = service.filter(|service| is_sticky(&service.spec.labels)) else {
        return Ok(());
    };
    let home = service.volume_homes.get(&task.slot);
    match home.is_some_and(|home| home.node_id == task.node_id) {
        true => Ok(()),
        false => Err(format!(
            "task {} of slot {} of {} was sent to {}, away from its volumes: {home:?}",
            task.id, task.slot, task.service_name, task.node_id
        )),
    }
}
