//! What was removed is gone: its tasks, and its containers on every host.

use skep_model::TaskState;
use skep_store::Snapshot;

use crate::host::Host;

pub(super) fn nothing_is_left_of_removed_things(
    snapshot: &Snapshot,
    hosts: &[Host],
) -> Result<(), String> {
    for task in snapshot.tasks() {
        if snapshot.service(&task.service_id).is_none() {
            return Err(format!(
                "task {} of the removed service {} is still stored as {}",
                task.id, task.service_name, task.status.state
            ));
        }
        if task.desired_state == TaskState::Remove {
            return Err(format!("task {} is still to be removed", task.id));
        }
        let stopping = task.desired_state > TaskState::Running && !task.status.state.is_terminal();
        if stopping {
            return Err(format!(
                "task {} of {} is to stop and is still {}",
                task.id, task.service_name, task.status.state
            ));
        }
    }
    for host in hosts {
        for (id, container) in host.containers.iter().filter(|(_, c)| c.runs()) {
            let wanted = snapshot.task(id).is_some_and(|task| task.is_live());
            if !wanted {
                return Err(format!(
                    "a container of {} (task {id}) still runs on {}",
                    container.service, host.id
                ));
            }
        }
    }
    Ok(())
}
