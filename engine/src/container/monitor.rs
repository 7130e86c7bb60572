//! Follows one running container: health, memory, and its end.

use std::sync::Arc;
use std::time::Duration;

use skep_shim::protocol::{Event, HealthStatus};
use skep_shim::{ExitRecord, ShimConfig};

use super::{Container, shim_link};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::streams::blocking;
use crate::types::{Health, HealthResult};
use skep_model::Timestamp;

/// Between two tries to reach a shim that does not answer.
const RETRY: Duration = Duration::from_millis(200);

/// Starts to follow a container that runs.
pub(super) fn watch(engine: &Engine, container: &Arc<Container>) {
    // Weak, so that an engine nobody uses any more can go.
    let weak = Arc::downgrade(&engine.shared());
    let container = Arc::clone(container);
    let closing = engine.closing.clone();
    engine.tasks.spawn(async move {
        let followed = tokio::select! {
            () = closing.cancelled() => return,
            followed = follow(&weak, &container) => followed,
        };
        // What follows an end is done even while closing: it is short, and the
        // next engine would have to do it.
        if let (Some(record), Some(engine)) = (followed, weak.upgrade()) {
            engine.ended(&container, record).await;
        }
    });
}

/// Follows until the end; how it ended, or `None` when the engine is gone.
async fn follow(
    engine: &std::sync::Weak<Engine>,
    container: &Arc<Container>,
) -> Option<ExitRecord> {
    loop {
        match follow_once(engine, container).await {
            Ok(Some(record)) => return Some(record),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, container = container.id, "the shim does not answer");
            }
        }
        engine.upgrade()?;
        tokio::time::sleep(RETRY).await;
    }
}

async fn follow_once(
    engine: &std::sync::Weak<Engine>,
    container: &Arc<Container>,
) -> Result<Option<ExitRecord>> {
    let socket = container.runtime.join("shim.sock");
    let Some(mut events) = shim_link::subscribe(socket).await? else {
        return end_of_silent(container).await.map(Some);
    };
    loop {
        let next = events
            .next()
            .await
            .map_err(|error| EngineError::internal("cannot follow the shim").because(error))?;
        let Some(event) = next else {
            return Ok(None);
        };
        let Some(engine) = engine.upgrade() else {
            return Ok(None);
        };
        match event {
            Event::Exited(record) => return Ok(Some(record)),
            Event::Health(status) => engine.note_health(container, &status),
            Event::Oom => engine.container_event(container, "oom", &[]),
            Event::ExecExited { id, code } => engine.exec_ended(container, &id, i64::from(code)),
        }
    }
}

/// How a container ended whose shim is not there any more.
pub(super) async fn end_of_silent(container: &Arc<Container>) -> Result<ExitRecord> {
    let container = Arc::clone(container);
    blocking(move || {
        let read = ExitRecord::read(&container.exit_file());
        if let Ok(Some(record)) = read {
            return Ok(record);
        }
        let config = ShimConfig::read(&container.runtime.join("config.json"));
        match config {
            // It was killed: end what it left.
            Ok(config) => skep_shim::sweep(&config).map_err(|error| {
                EngineError::internal(format!(
                    "cannot clean up after the shim of {}",
                    container.id
                ))
                .because(error)
            }),
            // The host was started anew: nothing of it is left.
            Err(_) => Ok(lost(&container)),
        }
    })
    .await
}

/// The end of a container that the host took along.
fn lost(container: &Container) -> ExitRecord {
    let inner = container.lock();
    let state = &inner.record.state;
    ExitRecord {
        id: container.id.clone(),
        pid: i32::try_from(state.pid).unwrap_or(0),
        exit_code: 255,
        signal: None,
        oom_killed: false,
        error: String::new(),
        started_at: state.started_at.to_string(),
        finished_at: crate::clock::now().to_string(),
    }
}

/// A shim's health in the API's shape.
pub(super) fn health_of(status: &HealthStatus) -> Health {
    use skep_shim::protocol::Health as ShimHealth;
    let moment = |text: &str| Timestamp::parse(text).unwrap_or_default();
    Health {
        status: match status.status {
            ShimHealth::Starting => "starting",
            ShimHealth::Healthy => "healthy",
            ShimHealth::Unhealthy => "unhealthy",
        }
        .into(),
        failing_streak: i64::from(status.failing_streak),
        log: status
            .log
            .iter()
            .map(|result| HealthResult {
                start: moment(&result.start),
                end: moment(&result.end),
                exit_code: i64::from(result.exit_code),
                output: result.output.clone(),
            })
            .collect(),
    }
}

impl Engine {
    fn note_health(&self, container: &Container, status: &HealthStatus) {
        let health = health_of(status);
        let before = container.lock().health.replace(health.clone());
        let changed = before.is_none_or(|before| before.status != health.status);
        if changed && health.status != "starting" {
            let action = format!("health_status: {}", health.status);
            self.container_event(container, &action, &[]);
        }
    }
}
