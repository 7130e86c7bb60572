//! Finding the containers again after the engine was away.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::record::Status;
use super::{Container, Inner, monitor, restart};
use crate::engine::Engine;
use crate::error::{IoContext as _, Result};
use crate::options::RemoveOptions;
use crate::record as file;
use crate::streams::blocking;
use skep_shim::ClientError;
use skep_shim::protocol::{State as ShimState, Status as ShimStatus};

/// How long a shim may be on its way from prepared to running: a new volume may
/// have to be filled.
const SETTLE_MAX: Duration = Duration::from_secs(300);
/// Between two looks at it.
const SETTLE_PERIOD: Duration = Duration::from_millis(5);

/// The state of a container's shim once it runs the container; `None` when there
/// is no shim, or when it went away because nobody let it go.
///
/// A shim that is prepared may have been told to start by an engine that died a
/// moment later. Its socket alone does not say so; it either runs or is gone soon.
fn settled(container: &Container) -> Option<ShimStatus> {
    let deadline = Instant::now() + SETTLE_MAX;
    loop {
        match container.shim().status() {
            Ok(shim) if shim.state != ShimState::Prepared => return Some(shim),
            Err(ClientError::Gone { .. }) => return None,
            // One that is starting may have no time to answer.
            Ok(_) | Err(ClientError::Timeout { .. }) if Instant::now() < deadline => {
                std::thread::sleep(SETTLE_PERIOD);
            }
            Ok(_) => return None,
            Err(error) => {
                tracing::error!(%error, container = container.id, "a shim does not answer");
                return None;
            }
        }
    }
}

/// What was found of one container.
enum Found {
    /// Its shim answers.
    Lives,
    /// It ended while nobody looked, or with us.
    Ended,
    /// It did not run before.
    Still,
    /// Its removal was cut off.
    HalfRemoved,
}

impl Engine {
    /// Reconciles all containers with what there is.
    pub(crate) async fn adopt(&self) -> Result<()> {
        let (mut ended, mut removed) = (Vec::new(), Vec::new());
        for container in self.containers.all() {
            let (engine, target) = (self.shared(), Arc::clone(&container));
            match blocking(move || engine.find_again(&target)).await? {
                Found::Lives => monitor::watch(self, &container),
                Found::Ended => ended.push(container),
                Found::HalfRemoved => removed.push(container),
                Found::Still => {}
            }
        }
        let engine = self.shared();
        blocking(move || {
            engine.remove_strays()?;
            engine.volumes.release_unused();
            engine.restore_networks()
        })
        .await?;
        for container in ended {
            let record = monitor::end_of_silent(&container).await;
            match record {
                Ok(record) => self.ended(&container, record).await,
                Err(error) => {
                    tracing::error!(%error, container = container.id, "a dead container was not cleaned up");
                }
            }
        }
        for container in removed {
            let options = RemoveOptions {
                force: true,
                volumes: container.lock().record.removes_volumes,
            };
            if let Err(error) = self.container_remove(&container.id, options).await {
                tracing::error!(%error, container = container.id, "a container was not removed");
            }
        }
        for container in self.containers.all() {
            // Those on shared networks wait for whoever keeps these.
            if !self.is_guest(&container.record()) {
                self.resume(&container).await;
            }
        }
        Ok(())
    }

    /// Goes on with the containers that waited for the shared networks.
    pub(crate) async fn resume_guests(&self) {
        for container in self.containers.all() {
            let record = container.record();
            if self.is_guest(&record) && !record.state.status.is_live() {
                self.resume(&container).await;
            }
        }
    }

    fn find_again(&self, container: &Container) -> Result<Found> {
        let status = container.status();
        if status == Status::Removing {
            container.lock().record.state.status = Status::Dead;
            return Ok(Found::HalfRemoved);
        }
        match settled(container) {
            Some(shim) => {
                for mount in &container.record().mounts {
                    if mount.point.kind == "volume"
                        && let Err(error) = self.volumes.acquire(&mount.point.name)
                    {
                        tracing::warn!(%error, volume = mount.point.name, "a volume is not there");
                    }
                }
                container.change(|inner| {
                    let state = &mut inner.record.state;
                    state.status = match shim.state {
                        ShimState::Paused => Status::Paused,
                        _ => Status::Running,
                    };
                    state.pid = i64::from(shim.pid);
                    if let Ok(started) = skep_model::Timestamp::parse(&shim.started_at) {
                        state.started_at = started;
                    }
                    inner.health = shim.health.as_ref().map(monitor::health_of);
                })?;
                Ok(Found::Lives)
            }
            // Crashed between the shim's start and the note of it, or never let
            // go: the shim ends by itself when its maker is gone.
            _ if status.is_live() => Ok(Found::Ended),
            _ if status == Status::Created && container.exit_file().exists() => {
                // It was let go, ran and ended before anybody wrote that down.
                container.change(|inner| inner.record.state.status = Status::Running)?;
                Ok(Found::Ended)
            }
            _ => {
                // It may have been on its way to a start.
                let was_attached = container
                    .record()
                    .networks
                    .values()
                    .any(|endpoint| !endpoint.endpoint_id.is_empty());
                if was_attached {
                    self.detach_networks(container);
                }
                Ok(Found::Still)
            }
        }
    }

    /// Goes on with what was under way, and starts what its policy says.
    async fn resume(&self, container: &Arc<Container>) {
        let (status, remove, start) = {
            let inner = container.lock();
            let record = &inner.record;
            let state = &record.state;
            let ran = state.started_at != skep_model::Timestamp::ZERO;
            let policy = &record.host_config.restart_policy;
            let start = restart::at_open(policy, state.exit_code, record.stopped_by_hand, ran)
                && !record.has_injected;
            let remove = record.host_config.auto_remove && (ran || state.status == Status::Exited);
            (state.status, remove, start)
        };
        match status {
            Status::Exited | Status::Restarting if remove => {
                self.remove_by_itself(&container.id).await
            }
            Status::Exited | Status::Restarting if start => {
                let begin = |inner: &mut Inner| {
                    inner.record.state.status = Status::Restarting;
                    inner.record.stopped_by_hand = false;
                };
                match container.alter(begin).await {
                    Ok(()) => self.restart_later(container, restart::Backoff::default()),
                    Err(error) => tracing::error!(%error, "a restart was not noted"),
                }
            }
            Status::Restarting => {
                let end = |inner: &mut Inner| inner.record.state.status = Status::Exited;
                if let Err(error) = container.alter(end).await {
                    tracing::error!(%error, "an end was not noted");
                }
            }
            _ => {}
        }
    }

    /// Removes runtime directories of containers that are not ours any more.
    fn remove_strays(&self) -> Result<()> {
        let root = self.config.exec_root.join("containers");
        let what = || format!("cannot read `{}`", root.display());
        for entry in fs::read_dir(&root).during(what)? {
            let entry = entry.during(what)?;
            let id = entry.file_name().to_string_lossy().into_owned();
            let known = self
                .containers
                .find(&id)
                .is_ok_and(|container| container.id == id);
            if known {
                continue;
            }
            // Its record is gone, so nobody can reach it: it must not run on.
            let config = skep_shim::ShimConfig::read(&entry.path().join("config.json"));
            if let Ok(config) = config {
                let shim = skep_shim::ShimClient::new(&config.paths.socket);
                let _ = shim.signal(libc::SIGKILL, true);
                if let Err(error) = skep_shim::sweep(&config) {
                    tracing::warn!(%error, container = id, "a stray container was not ended");
                }
            }
            file::remove_tree(&entry.path())?;
        }
        Ok(())
    }
}
