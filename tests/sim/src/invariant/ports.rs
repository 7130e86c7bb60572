//! An ingress port has one service, and a node's port one task.

use std::collections::BTreeMap;

use skep_model::{PublishMode, TaskState};
use skep_store::Snapshot;

pub(super) fn no_port_twice(snapshot: &Snapshot) -> Result<(), String> {
    let mut ingress = BTreeMap::new();
    for service in snapshot.services() {
        for port in &service.endpoint.ports {
            if port.publish_mode == PublishMode::Host || !service.waits_for.is_empty() {
                continue;
            }
            let key = (port.protocol, port.published_port);
            if let Some(other) = ingress.insert(key, &service.spec.name) {
                return Err(format!(
                    "{other} and {} both publish {}",
                    service.spec.name, port.published_port
                ));
            }
        }
    }
    let mut host = BTreeMap::new();
    for task in snapshot.tasks() {
        let held = (TaskState::Assigned..=TaskState::Running).contains(&task.status.state);
        let ports = task.endpoint.iter().flat_map(|endpoint| &endpoint.ports);
        for port in ports.filter(|_| held) {
            if port.publish_mode == PublishMode::Ingress || port.published_port == 0 {
                continue;
            }
            let key = (&task.node_id, port.protocol, port.published_port);
            if let Some(other) = host.insert(key, &task.id) {
                return Err(format!(
                    "tasks {other} and {} both have port {} of node {}",
                    task.id, port.published_port, task.node_id
                ));
            }
        }
    }
    Ok(())
}
