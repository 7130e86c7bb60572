//! Which running tasks are to be given a newer version of a secret or config in place.

use skep_model::payload::InPlace;
use skep_model::{Actor, Service, Task};
use skep_plan::service::dirty::is_dirty;

use crate::step::Stage;

impl Stage<'_> {
    /// Orders the newest versions for the tasks of a service that stay as they are, but for what their
    /// files hold.
    pub(crate) fn give_in_place(&mut self, service: &Service) {
        let container = service.spec.task_template.container();
        let signals = container.is_some_and(|container| {
            let mut payloads = container.payloads();
            payloads.any(|one| !one.pin.signal.is_empty())
        });
        if !signals {
            return;
        }
        let tasks: Vec<_> = self.tx.tasks_of_service(&service.id).cloned().collect();
        for task in tasks.iter().filter(|task| task.is_live()) {
            let node = self.memory.table.node(&task.node_id);
            let orders = orders(service, task);
            if orders == task.in_place || is_dirty(task, service, node) {
                continue;
            }
            if self.room() == 0 {
                self.memory.dirty.insert(service.id.clone());
                return;
            }
            let ordered = self.tx.update_task(&task.id, Actor::Scheduler, |task| {
                task.in_place = orders;
            });
            if let Err(error) = ordered {
                self.step.notes.push(error.to_string());
            }
        }
    }
}

/// What a task is to be given in place, what it was given before included.
fn orders(service: &Service, task: &Task) -> Vec<InPlace> {
    let mut orders = task.in_place.clone();
    let containers = (
        service.spec.task_template.container(),
        task.spec.container(),
    );
    let (Some(wanted), Some(had)) = containers else {
        return orders;
    };
    for (wanted, had) in wanted.payloads().zip(had.payloads()) {
        let object = wanted.object.as_str();
        let number = wanted.pin.number();
        let is_behind = task.version_wanted(object, had.pin) < number;
        if wanted.object != had.object || wanted.pin.signal.is_empty() || !is_behind {
            continue;
        }
        orders.retain(|one| one.object != object);
        orders.push(InPlace {
            object: object.to_owned(),
            number,
            signal: wanted.pin.signal.clone(),
        });
    }
    orders
}
