//! A slot has one process at a time, unless the user or a cut in the network wants it otherwise.

use std::collections::BTreeMap;

use skep_model::service::UpdateOrder;
use skep_model::{Service, TaskState};
use skep_store::Snapshot;

use crate::host::Host;

pub(super) fn no_slot_has_two_processes(snapshot: &Snapshot, hosts: &[Host]) -> Result<(), String> {
    let mut seen = BTreeMap::new();
    for host in hosts.iter().filter(|host| host.on) {
        for (id, container) in &host.containers {
            let Some(task) = snapshot.task(id).filter(|_| container.runs()) else {
                continue;
            };
            // Evicted tasks are written off at once, as in Swarm; their containers still stop.
            let written_off = task.status.state == TaskState::Rejected;
            if container.was_cut_off || written_off || task.slot == 0 {
                continue;
            }
            let service = snapshot.service(&task.service_id);
            if service.is_none_or(|service| starts_first(service)) {
                continue;
            }
            let key = (task.service_id.clone(), task.job_iteration, task.slot);
            if let Some(other) = seen.insert(key, id.clone()) {
                return Err(format!(
                    "tasks {other} and {id} both run in slot {} of {}",
                    task.slot, task.service_name
                ));
            }
        }
    }
    Ok(())
}

/// Whether the service has lately been updated in a way that lets two tasks overlap.
fn starts_first(service: &Service) -> bool {
    let specs = [Some(&service.spec), service.previous_spec.as_deref()];
    let configs = specs
        .into_iter()
        .flatten()
        .flat_map(|spec| [&spec.update_config, &spec.rollback_config]);
    configs
        .flatten()
        .any(|config| config.order == UpdateOrder::StartFirst)
}
