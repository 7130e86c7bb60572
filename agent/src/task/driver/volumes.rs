//! Volumes that a task must find on its node.

use skep_engine::Kind;
use skep_model::Task;

use super::{DriveError, Driver};

impl Driver {
    /// Whether the volumes are there that the task's slot has had on this node.
    pub(super) async fn expect_volumes(&self, task: &Task) -> Result<(), DriveError> {
        for name in &task.volumes_expected {
            match self.worker.engine.volume_inspect(name).await {
                Ok(_) => (),
                Err(error) if error.kind() == Kind::NotFound => {
                    let assigned = self.worker.assigned();
                    let local = assigned.local.as_ref();
                    return Err(DriveError::NoVolume {
                        name: name.clone(),
                        slot: task.slot,
                        node: local.map_or_else(
                            || task.node_id.to_string(),
                            |local| local.hostname.clone(),
                        ),
                        service: task.service_name.clone(),
                    });
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
