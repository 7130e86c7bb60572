//! What follows the end of a container: its record, its networks, its restart.

use std::sync::Arc;

use skep_model::Timestamp;
use skep_shim::ExitRecord;

use super::record::Status;
use super::restart::{self, Backoff, End};
use super::start::exit_code_of;
use super::{Container, Inner, Turn};
use crate::clock;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::extras::StartExtras;
use crate::streams::blocking;

impl Engine {
    /// Does what follows an end, in the container's turn.
    pub(super) async fn ended(&self, container: &Arc<Container>, record: ExitRecord) {
        let turn = container.turn().await;
        let backoff = self.note_end(container, &record).await;
        let code = i64::from(record.exit_code);
        let ran = moment(&record.finished_at).since(moment(&record.started_at));
        self.container_event(
            container,
            "die",
            &[
                ("exitCode", code.to_string()),
                ("execDuration", ran.as_secs().to_string()),
            ],
        );
        container.tell_exit(code, record.error);
        match backoff {
            Some(backoff) => self.restart_later(container, backoff),
            None => {
                let auto_remove = container.lock().record.host_config.auto_remove;
                drop(turn);
                if auto_remove {
                    self.remove_by_itself(&container.id).await;
                }
            }
        }
    }

    /// Writes the end down, gives networks and volumes back; the back-off if it
    /// is to be started again.
    async fn note_end(&self, container: &Arc<Container>, record: &ExitRecord) -> Option<Backoff> {
        let code = i64::from(record.exit_code);
        let (finished, started) = (moment(&record.finished_at), moment(&record.started_at));
        let (engine, target) = (self.shared(), Arc::clone(container));
        let (error, oom_killed) = (record.error.clone(), record.oom_killed);
        let noted = blocking(move || {
            engine.execs.forget(&target.id);
            engine.release_volumes(&target.record());
            engine.detach_networks(&target);
            target.change(|inner| {
                let again = restart::after_exit(
                    &inner.record.host_config.restart_policy,
                    End {
                        exit_code: code,
                        ran: finished.since(started),
                        stopped_by_hand: inner.record.stopped_by_hand,
                    },
                    inner.record.restart_count,
                    inner.backoff,
                )
                // Only who has the secrets can start it again.
                .filter(|_| !inner.record.has_injected);
                let state = &mut inner.record.state;
                state.status = match again {
                    Some(_) => Status::Restarting,
                    None => Status::Exited,
                };
                state.pid = 0;
                state.exit_code = code;
                state.oom_killed = oom_killed;
                state.error = error;
                state.finished_at = finished;
                if started != Timestamp::ZERO {
                    state.started_at = started;
                }
                if let Some(backoff) = again {
                    inner.backoff = backoff;
                    inner.record.restart_count += 1;
                }
                again
            })
        })
        .await;
        match noted {
            Ok(again) => again,
            Err(error) => {
                tracing::error!(%error, container = container.id, "the end of a container was not noted");
                None
            }
        }
    }

    /// Starts a container again after its back-off, unless it is stopped,
    /// started or removed first.
    pub(super) fn restart_later(&self, container: &Arc<Container>, backoff: Backoff) {
        let (weak, container) = (Arc::downgrade(&self.shared()), Arc::clone(container));
        let exits = container.watch().borrow().exits;
        self.spawn(async move {
            let mut pulse = container.watch();
            let stopped = pulse.wait_for(|pulse| !pulse.running || pulse.live || pulse.removed);
            if tokio::time::timeout(backoff.delay(), stopped).await.is_ok() {
                return;
            }
            let turn: Turn = container.turn().await;
            let unchanged = container.status() == Status::Restarting
                && container.watch().borrow().exits == exits;
            let Some(engine) = weak.upgrade().filter(|_| unchanged) else {
                return;
            };
            if let Err(error) = engine.start(&container, StartExtras::default()).await {
                tracing::warn!(%error, container = container.id, "a restart failed");
                engine.failed_restart(&container, &error).await;
            }
            drop(turn);
        });
    }

    /// A restart that failed is an end too, and may be followed by another try.
    async fn failed_restart(&self, container: &Arc<Container>, why: &EngineError) {
        let note = |inner: &mut Inner| {
            let again = restart::after_exit(
                &inner.record.host_config.restart_policy,
                End {
                    exit_code: 128,
                    ran: std::time::Duration::ZERO,
                    stopped_by_hand: inner.record.stopped_by_hand,
                },
                inner.record.restart_count,
                inner.backoff,
            );
            if let Some(backoff) = again {
                inner.backoff = backoff;
                inner.record.restart_count += 1;
                inner.record.state.status = Status::Restarting;
                inner.record.state.finished_at = clock::now();
            }
            again
        };
        match container.alter(note).await {
            Ok(Some(backoff)) => self.restart_later(container, backoff),
            // Who waited for the next start's end waits in vain.
            Ok(None) => container.tell_exit(exit_code_of(why), why.to_string()),
            Err(error) => tracing::error!(%error, "a failed restart was not noted"),
        }
    }
}

fn moment(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap_or_default()
}
