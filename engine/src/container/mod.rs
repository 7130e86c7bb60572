//! Containers: what they are, and everything that is done to them.

mod adopt;
mod archive;
mod attach;
mod commit;
mod create;
mod diff;
mod exec;
mod exit;
mod files;
mod index;
mod inspect;
mod lease;
mod links;
mod list;
mod log_options;
pub(crate) mod logs;
mod merge;
mod monitor;
pub(crate) mod mounts;
pub(crate) mod owned;
mod record;
mod remove;
mod replace;
mod restart;
mod root;
mod shim_link;
pub(crate) mod signal;
mod spec;
mod start;
mod stats;
mod stop;
mod top;
mod update;
mod validate;
mod wait;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use skep_shim::ShimClient;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

pub(crate) use exec::ExecTable;
pub use exec::ReservedExec;
pub(crate) use index::ContainerIndex;
pub(crate) use log_options::DRIVER_NAMES as LOG_DRIVERS;
pub(crate) use record::{ContainerRecord, Status};
pub(crate) use validate::{parse_port, parse_port_range};
pub use wait::ContainerWaiter;

/// All that is checked of a create request before anything is made.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn check_create(
    config: &crate::types::ContainerConfig,
    host: &crate::types::HostConfig,
) -> crate::error::Result<()> {
    validate::create(config, host)?;
    mounts::wanted(config, host, &[])?;
    Ok(())
}

use crate::error::{EngineError, Result};
use crate::extras::StartExtras;
use crate::locks::{Held, Ordered, Rank};
use crate::record as file;
use crate::streams::blocking;
use crate::types::Health;

/// One container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    /// Record, log, writable layer: outlives the container's runs.
    pub(crate) directory: PathBuf,
    /// Socket and configuration of the shim: outlives nothing.
    pub(crate) runtime: PathBuf,
    inner: Ordered<Inner>,
    /// Held while the record is written, so that writes come in the order of the
    /// changes. Taken before `inner`.
    saving: Ordered<()>,
    /// Starts, removals and changes happen one after the other. Looking never
    /// waits for it, and neither do signals.
    turn: Arc<Semaphore>,
    pulse: watch::Sender<Pulse>,
}

/// What a container's lock guards. Never held across a wait.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) record: ContainerRecord,
    pub(crate) health: Option<Health>,
    /// Between prepare and start.
    pub(crate) prepared: Option<Prepared>,
    /// Attach calls that wait for the start.
    pub(crate) waiting: Vec<oneshot::Sender<AttachNow>>,
    /// Time until the next restart by policy, doubled each time.
    pub(crate) backoff: restart::Backoff,
    /// Its files are removed; changes are not written any more.
    pub(crate) gone: bool,
}

/// Told to a waiting attach call; dropping it says that it is attached.
pub(crate) type AttachNow = std::sync::mpsc::SyncSender<()>;

/// A shim that waits for the word to start, and what to give it then.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) shim: skep_shim::Prepared,
    pub(crate) extras: StartExtras,
}

/// What waiters watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pulse {
    /// Ends seen so far.
    pub(crate) exits: u64,
    pub(crate) exit_code: i64,
    pub(crate) error: String,
    /// Docker's running: restarting counts.
    pub(crate) running: bool,
    /// Whether there is a process.
    pub(crate) live: bool,
    pub(crate) removed: bool,
}

/// The right to change a container's life; over when dropped.
#[derive(Debug)]
pub(crate) struct Turn(#[allow(dead_code)] OwnedSemaphorePermit);

impl Container {
    pub(crate) fn new(record: ContainerRecord, directory: PathBuf, runtime: PathBuf) -> Self {
        let pulse = Pulse {
            exit_code: record.state.exit_code,
            running: record.state.status.is_running(),
            live: record.state.status.is_live(),
            ..Pulse::default()
        };
        Self {
            id: record.id.clone(),
            directory,
            runtime,
            inner: Ordered::new(
                Rank::Container,
                Inner {
                    record,
                    health: None,
                    prepared: None,
                    waiting: Vec::new(),
                    backoff: restart::Backoff::default(),
                    gone: false,
                },
            ),
            saving: Ordered::new(Rank::Saving, ()),
            turn: Arc::new(Semaphore::new(1)),
            pulse: watch::Sender::new(pulse),
        }
    }

    pub(crate) fn lock(&self) -> Held<'_, Inner> {
        self.inner.lock()
    }

    /// Waits until nobody else changes this container's life.
    pub(crate) async fn turn(&self) -> Turn {
        let permit = Arc::clone(&self.turn).acquire_owned().await;
        Turn(permit.expect("these semaphores are never closed"))
    }

    /// A copy of the record.
    pub(crate) fn record(&self) -> ContainerRecord {
        self.lock().record.clone()
    }

    pub(crate) fn status(&self) -> Status {
        self.lock().record.state.status
    }

    /// Changes the record and makes the change durable. Blocking, but short.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> Result<T> {
        let _order = self.saving.lock();
        let (value, record, gone) = {
            let mut inner = self.lock();
            let value = change(&mut inner);
            (value, inner.record.clone(), inner.gone)
        };
        let status = record.state.status;
        self.pulse.send_if_modified(|pulse| {
            let (running, live) = (status.is_running(), status.is_live());
            let changed = (pulse.running, pulse.live) != (running, live);
            (pulse.running, pulse.live) = (running, live);
            changed
        });
        if !gone {
            file::save(&self.record_file(), &record)?;
        }
        Ok(value)
    }

    /// The same for async code.
    pub(crate) async fn alter<T, F>(self: &Arc<Self>, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Inner) -> T + Send + 'static,
    {
        let container = Arc::clone(self);
        blocking(move || container.change(change)).await
    }

    /// Says that its files are about to go; no write is under way when this
    /// returns, and none follows.
    pub(crate) fn write_no_more(&self) {
        let _order = self.saving.lock();
        self.lock().gone = true;
    }

    pub(crate) fn record_file(&self) -> PathBuf {
        self.directory.join("container.json")
    }

    /// The container's shim. It answers only while the container lives.
    pub(crate) fn shim(&self) -> ShimClient {
        ShimClient::new(self.runtime.join("shim.sock"))
    }

    pub(crate) fn exit_file(&self) -> PathBuf {
        self.directory.join("exit.json")
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.directory.join(format!("{}-json.log", self.id))
    }

    /// Tells waiters that a run ended.
    pub(crate) fn tell_exit(&self, exit_code: i64, error: String) {
        self.pulse.send_modify(|pulse| {
            pulse.exits += 1;
            pulse.exit_code = exit_code;
            pulse.error = error;
        });
    }

    /// Notes how a start failed. It is no end, so nobody is woken: who waits for the next exit goes on
    /// waiting, as with dockerd.
    pub(crate) fn note_failed_start(&self, exit_code: i64, error: String) {
        self.pulse.send_modify(|pulse| {
            pulse.exit_code = exit_code;
            pulse.error = error;
        });
    }

    /// Tells waiters that the container is gone.
    pub(crate) fn tell_removed(&self) {
        self.pulse.send_modify(|pulse| pulse.removed = true);
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Pulse> {
        self.pulse.subscribe()
    }

    /// Fails unless it has a process.
    pub(crate) fn must_live(&self) -> Result<()> {
        let inner = self.lock();
        match inner.record.state.status {
            Status::Running | Status::Paused => Ok(()),
            Status::Restarting => Err(EngineError::conflict(format!(
                "Container {} is restarting, wait until the container is running",
                self.id
            ))),
            _ => Err(EngineError::not_running(&self.id)),
        }
    }

    /// What events say about it: labels, image, name, and more.
    pub(crate) fn attributes(&self) -> BTreeMap<String, String> {
        let inner = self.lock();
        let mut attributes = inner.record.config.labels.clone();
        attributes.insert("image".into(), inner.record.config.image.clone());
        attributes.insert("name".into(), inner.record.name.clone());
        attributes
    }
}
