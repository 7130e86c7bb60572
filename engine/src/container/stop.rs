//! Stopping, killing, restarting, freezing.

use std::sync::Arc;
use std::time::Duration;

use super::record::Status;
use super::start::has_what_it_needs;
use super::{Container, Inner, shim_link, signal};
use crate::engine::Engine;
use crate::error::{EngineError, Kind, Result};
use crate::extras::StartExtras;
use crate::options::StopOptions;

/// Seconds between the stop signal and the kill when nobody says otherwise.
const STOP_TIMEOUT: i64 = 10;
/// How long a killed container may take to end.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);

impl Engine {
    /// Asks a container to stop, and kills it if it does not in time.
    /// `NotModified` if it does not run.
    pub async fn container_stop(&self, name: &str, options: StopOptions) -> Result<()> {
        let container = self.containers.find(name)?;
        if !container.status().is_running() {
            return Err(EngineError::not_modified(format!(
                "container {} is already stopped",
                container.id
            )));
        }
        self.stop(&container, &options)
            .await
            .map_err(|error| error.context(format!("cannot stop container: {name}")))
    }

    pub(super) async fn stop(
        &self,
        container: &Arc<Container>,
        options: &StopOptions,
    ) -> Result<()> {
        let (signal, timeout, paused) = {
            let inner = container.lock();
            let config = &inner.record.config;
            let signal = match (&options.signal, config.stop_signal.as_str()) {
                (Some(given), _) if !given.is_empty() => signal::parse(given)?,
                (_, "") => libc::SIGTERM,
                (_, own) => signal::parse(own)?,
            };
            let timeout = options
                .timeout
                .or(config.stop_timeout)
                .unwrap_or(STOP_TIMEOUT);
            (signal, timeout, inner.record.state.status == Status::Paused)
        };
        let mut pulse = container.watch();
        let exits = pulse.borrow().exits;
        self.cancel_restart(container).await?;
        if !container.status().is_live() {
            return Ok(());
        }
        match self.send_signal(container, signal).await {
            Err(error) if error.kind() == Kind::Conflict => {}
            sent => sent?,
        }
        if paused {
            // The signal is delivered when it goes on.
            let _ = shim_link::call(container.shim(), |shim| shim.resume()).await;
        }
        let gone = pulse.wait_for(|pulse| pulse.exits > exits);
        let in_time = match u64::try_from(timeout) {
            Ok(seconds) => tokio::time::timeout(Duration::from_secs(seconds), gone)
                .await
                .is_ok(),
            Err(_) => gone.await.is_ok(),
        };
        if !in_time {
            match self.send_signal(container, libc::SIGKILL).await {
                Err(error) if error.kind() == Kind::Conflict => {}
                sent => sent?,
            }
            let gone = pulse.wait_for(|pulse| pulse.exits > exits);
            if tokio::time::timeout(KILL_TIMEOUT, gone).await.is_err() {
                return Err(EngineError::internal(format!(
                    "container {} PID {} is zombie and can not be killed. Use the --init option when creating containers to run an init inside the container that forwards signals and reaps processes",
                    container.id,
                    container.lock().record.state.pid
                )));
            }
        }
        self.container_event(container, "stop", &[]);
        Ok(())
    }

    /// Notes that somebody stopped it, so that no policy starts it again; ends a
    /// wait for a restart.
    async fn cancel_restart(&self, container: &Arc<Container>) -> Result<()> {
        let cancel = |inner: &mut Inner| {
            inner.record.stopped_by_hand = true;
            let waiting = inner.record.state.status == Status::Restarting;
            if waiting {
                inner.record.state.status = Status::Exited;
            }
            waiting
        };
        if container.alter(cancel).await? {
            self.container_event(container, "stop", &[]);
        }
        Ok(())
    }

    async fn send_signal(&self, container: &Container, signal: i32) -> Result<()> {
        self.container_event(container, "kill", &[("signal", signal.to_string())]);
        shim_link::call(container.shim(), move |shim| shim.signal(signal, false)).await
    }

    /// Stops a container and starts it again.
    pub async fn container_restart(&self, name: &str, options: StopOptions) -> Result<()> {
        let container = self.containers.find(name)?;
        // Before it is stopped: it could not be started again.
        has_what_it_needs(&container, &StartExtras::default())?;
        if container.status().is_running() {
            self.stop(&container, &options).await?;
        }
        match self
            .container_start(&container.id, StartExtras::default())
            .await
        {
            Err(error) if error.kind() == Kind::NotModified => {}
            started => started?,
        }
        self.container_event(&container, "restart", &[]);
        Ok(())
    }

    /// Sends a signal (`KILL` if none is named) to the main process.
    pub async fn container_kill(&self, name: &str, signal: &str) -> Result<()> {
        let container = self.containers.find(name)?;
        let number = match signal {
            "" => libc::SIGKILL,
            given => signal::parse(given)?,
        };
        let context = |error: EngineError| error.context(format!("cannot kill container: {name}"));
        if container.status() == Status::Restarting && number == libc::SIGKILL {
            return self.cancel_restart(&container).await;
        }
        container
            .must_live()
            .map_err(|_| context(EngineError::not_running(&container.id)))?;
        let (stop_signal, paused) = {
            let inner = container.lock();
            let own = inner.record.config.stop_signal.clone();
            (own, inner.record.state.status == Status::Paused)
        };
        let stops = number == libc::SIGKILL
            || signal::parse(&stop_signal).is_ok_and(|own| own == number)
            || (stop_signal.is_empty() && number == libc::SIGTERM);
        let mut pulse = container.watch();
        let exits = pulse.borrow().exits;
        if stops {
            container
                .alter(|inner| inner.record.stopped_by_hand = true)
                .await?;
        }
        self.send_signal(&container, number)
            .await
            .map_err(context)?;
        if paused {
            let _ = shim_link::call(container.shim(), |shim| shim.resume()).await;
        }
        if number == libc::SIGKILL {
            // Nothing survives this signal, so its answer may wait for the end.
            let gone = pulse.wait_for(|pulse| pulse.exits > exits);
            let _ = tokio::time::timeout(KILL_TIMEOUT, gone).await;
        }
        Ok(())
    }

    /// Freezes all processes.
    pub async fn container_pause(&self, name: &str) -> Result<()> {
        let container = self.containers.find(name)?;
        let _turn = container.turn().await;
        match container.status() {
            Status::Running => {}
            Status::Paused => {
                return Err(EngineError::conflict(format!(
                    "container {} is already paused",
                    container.id
                )));
            }
            Status::Restarting => return container.must_live(),
            _ => return Err(EngineError::not_running(&container.id)),
        }
        shim_link::call(container.shim(), |shim| shim.pause())
            .await
            .map_err(|error| error.context(format!("cannot pause container {}", container.id)))?;
        container
            .alter(|inner| inner.record.state.status = Status::Paused)
            .await?;
        self.container_event(&container, "pause", &[]);
        Ok(())
    }

    /// Lets frozen processes go on.
    pub async fn container_unpause(&self, name: &str) -> Result<()> {
        let container = self.containers.find(name)?;
        let _turn = container.turn().await;
        if container.status() != Status::Paused {
            // No conflict for dockerd, but a failure.
            return Err(EngineError::internal(format!(
                "Container {} is not paused",
                container.id
            )));
        }
        shim_link::call(container.shim(), |shim| shim.resume())
            .await
            .map_err(|error| error.context(format!("cannot unpause container {}", container.id)))?;
        container
            .alter(|inner| inner.record.state.status = Status::Running)
            .await?;
        self.container_event(&container, "unpause", &[]);
        Ok(())
    }
}
