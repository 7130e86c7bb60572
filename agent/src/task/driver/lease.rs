//! How long a task's container may run without word of a manager.

use std::time::Duration;

use skep_engine::{EngineError, since_boot};
use skep_model::disconnect::OnDisconnect;
use tracing::warn;

use super::{Driver, STOP_GRACE};
use crate::leases::Lease;
use crate::task::step::{Observed, Progress};

/// A lease is taken anew when such a part of it is over.
pub(super) const LEASE_PARTS: u32 = 4;

impl Driver {
    /// For how long the node may hear of no manager before the task is stopped.
    pub(super) fn stop_after(&self) -> Option<Duration> {
        let task = self.task.as_ref()?;
        OnDisconnect::of(&task.labels).stop_after
    }

    /// Hands on to the container's shim how long it may run, and sees to it that more time is asked
    /// for before that is over.
    pub(super) async fn keep_lease(&mut self, progress: &Progress) {
        let Some(stop_after) = self.stop_after() else {
            return;
        };
        let part = stop_after / LEASE_PARTS;
        let until = self.worker.leases.until(stop_after);
        if until.is_none_or(|until| until < since_boot() + stop_after - part) {
            self.worker.leases.wanted.notify_one();
        }
        let is_running = matches!(progress.observed, Observed::Running { .. });
        let due = until.filter(|until| *until >= self.leased_until + part);
        let Some(until) = due.filter(|_| is_running && progress.lease == Lease::Held) else {
            return;
        };
        if let Err(error) = self.lease(until).await {
            warn!(task = %self.id, %error, "a container could not be let run longer");
        }
    }

    pub(super) async fn lease(&mut self, until: Duration) -> Result<(), EngineError> {
        let engine = &self.worker.engine;
        engine
            .container_lease(&self.container, until, self.grace())
            .await?;
        self.leased_until = until;
        Ok(())
    }

    /// How long it has between stop signal and kill.
    pub(super) fn grace(&self) -> Duration {
        let task = self.task.as_ref();
        let wanted = task.and_then(|task| task.spec.container()?.stop_grace_period);
        wanted.map_or(STOP_GRACE, |grace| grace.duration())
    }
}
