//! `docker wait`.

use tokio::sync::watch;

use super::Pulse;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::options::WaitCondition;
use crate::types::{WaitError, WaitResponse};

/// A wait that is registered: an end after this value was made is not missed.
#[derive(Debug)]
pub struct ContainerWaiter {
    pulse: watch::Receiver<Pulse>,
    condition: WaitCondition,
    /// Ends that had been when it was registered.
    exits: u64,
    /// Set when the condition held already.
    done: Option<Pulse>,
}

impl ContainerWaiter {
    /// Waits for the condition.
    pub async fn wait(mut self) -> Result<WaitResponse> {
        if let Some(pulse) = self.done {
            return Ok(response(&pulse));
        }
        let (condition, exits) = (self.condition, self.exits);
        let reached = self
            .pulse
            .wait_for(|pulse| match condition {
                WaitCondition::NotRunning | WaitCondition::NextExit => {
                    pulse.exits > exits || pulse.removed
                }
                WaitCondition::Removed => pulse.removed,
            })
            .await;
        match reached {
            Ok(pulse) => Ok(response(&pulse)),
            Err(_) => Err(EngineError::unavailable("the engine is shutting down")),
        }
    }
}

fn response(pulse: &Pulse) -> WaitResponse {
    WaitResponse {
        status_code: pulse.exit_code,
        // A container that did not start and was removed for it: the removal went well.
        error: (!pulse.removed && !pulse.error.is_empty()).then(|| WaitError {
            message: pulse.error.clone(),
        }),
    }
}

impl Engine {
    /// Registers a wait: when this returns it is safe to start the container.
    pub fn container_wait(&self, name: &str, condition: WaitCondition) -> Result<ContainerWaiter> {
        let container = self.containers.find(name)?;
        let pulse = container.watch();
        let now = pulse.borrow().clone();
        let done = (condition == WaitCondition::NotRunning && !now.running).then(|| now.clone());
        Ok(ContainerWaiter {
            exits: now.exits,
            pulse,
            condition,
            done,
        })
    }
}
