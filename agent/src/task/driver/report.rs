//! What is said of the task to the managers.

use skep_model::task::{ContainerStatus, PortStatus};
use skep_model::{PortConfig, PublishMode, TaskState, TaskStatus, Timestamp};
use tracing::warn;

use super::{Driver, now};
use crate::network::{self, SandboxChoice};

impl Driver {
    pub(super) async fn report(&mut self, state: TaskState, message: &str, err: String) {
        let container = self
            .worker
            .engine
            .container_inspect(&self.container, false)
            .await
            .ok();
        let container_status = container.map(|found| ContainerStatus {
            container_id: found.id,
            pid: found.state.pid,
            exit_code: found.state.exit_code,
        });
        self.status = TaskStatus {
            timestamp: now(),
            state,
            message: message.to_owned(),
            err,
            container_status,
            port_status: self.port_status(),
            applied_at: Timestamp::ZERO,
            versions: std::mem::take(&mut self.status.versions),
        };
        if let Err(error) = self.worker.remember(&self.id, &self.status).await {
            // Reported all the same: the container itself tells the same story after a restart.
            warn!(task = %self.id, %error, "a status could not be journalled");
        }
        self.worker.statuses.put(&self.id, self.status.clone());
    }

    /// Host-mode ports as bound on this node.
    fn port_status(&self) -> Option<PortStatus> {
        let task = self.task.as_ref()?;
        let choice: SandboxChoice = self.worker.sandbox_choice(&self.id)?;
        let ports: Vec<PortConfig> = task
            .endpoint
            .iter()
            .flat_map(|endpoint| &endpoint.ports)
            .filter(|port| port.publish_mode == PublishMode::Host)
            .map(|port| {
                let bound = choice.host_ports.iter().find(|bound| {
                    bound.target == port.target_port && bound.proto == network::proto(port.protocol)
                });
                let published_port = bound.map_or(port.published_port, |bound| bound.published);
                PortConfig {
                    published_port,
                    ..port.clone()
                }
            })
            .collect();
        (!ports.is_empty()).then_some(PortStatus { ports })
    }
}
