//! Keeps this node as assigned: one driver per task, and the host's network as a whole.

mod network;
mod sandbox;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use skep_engine::{Engine, EventQuery, Filters, ListOptions};
use skep_model::encryption::DataKey;
use skep_model::image_source::ImageSource;
use skep_model::{Task, TaskId, TaskStatus};
use skep_net::Host;
use tokio::sync::{Notify, watch};
use tonic::transport::Channel;
use tracing::warn;

use crate::assigned::Assigned;
use crate::cutter::Cutter;
use crate::encryption::Keys;
use crate::journal::{Entry, Journal, JournalError};
use crate::leases::Leases;
use crate::network::SandboxChoice;
use crate::status::Statuses;
use crate::task::driver::Driver;
use crate::task::spec::TASK_ID_LABEL;
pub use network::Problems;
pub(crate) use sandbox::SandboxError;

/// What all drivers share.
pub struct Worker {
    pub(crate) engine: Arc<Engine>,
    host: Arc<Host>,
    run_dir: PathBuf,
    underlay_mtu: AtomicU32,
    keys: Keys,
    journal: Journal,
    pub(crate) statuses: Statuses,
    pub(crate) leases: Leases,
    assigned: watch::Sender<Arc<Assigned>>,
    manager: watch::Sender<Option<Channel>>,
    /// Namespaces that exist or are being made, with the choices for them.
    sandboxes: Mutex<BTreeMap<TaskId, SandboxChoice>>,
    /// Held while the host's network is changed, so that a whole comparison never takes down a
    /// namespace that is just being made. Says whether it has been given up for good.
    network: Arc<tokio::sync::Mutex<bool>>,
    network_changed: Notify,
    /// What is wrong with this node's networks: ways to other nodes, and what could not be made.
    problems: watch::Sender<Problems>,
    cutter: Arc<Cutter>,
    drivers: Mutex<HashMap<TaskId, Handle>>,
    /// Where the other nodes get content of images here; 0 before there is a listener.
    blobs_port: AtomicU16,
    /// Where images come from whose services do not say.
    image_source: OnceLock<ImageSource>,
    remembered: Mutex<BTreeMap<TaskId, Entry>>,
}

struct Handle {
    desired: watch::Sender<Option<Arc<Task>>>,
    wake: Arc<Notify>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Worker {
    /// Opens the journal. Touches no container yet: that waits for the first assignments.
    pub fn open(
        engine: Arc<Engine>,
        host: Arc<Host>,
        state_dir: &Path,
        run_dir: &Path,
        underlay_mtu: u32,
        random: fn() -> [u8; 32],
    ) -> Result<Arc<Self>, JournalError> {
        let journal = Journal::open(&state_dir.join("journal"))?;
        let remembered: BTreeMap<TaskId, Entry> = journal.entries().into_iter().collect();
        let keys = Keys::new(host.tunnel_dir(), random);
        let cutter = Cutter::new(Arc::clone(&host));
        Ok(Arc::new(Self {
            engine,
            host,
            run_dir: run_dir.to_owned(),
            underlay_mtu: AtomicU32::new(underlay_mtu),
            keys,
            journal,
            statuses: Statuses::default(),
            leases: Leases::default(),
            assigned: watch::Sender::new(Arc::new(Assigned::default())),
            manager: watch::Sender::new(None),
            sandboxes: Mutex::default(),
            network: Arc::default(),
            network_changed: Notify::new(),
            problems: watch::Sender::default(),
            cutter,
            drivers: Mutex::default(),
            blobs_port: AtomicU16::new(0),
            image_source: OnceLock::new(),
            remembered: Mutex::new(remembered),
        }))
    }

    /// The host's data plane.
    pub(crate) fn host(&self) -> Arc<Host> {
        Arc::clone(&self.host)
    }

    /// MTU of the device that this node's frames leave by.
    fn underlay_mtu(&self) -> u32 {
        self.underlay_mtu.load(Ordering::Relaxed)
    }

    /// Takes in that it is another one.
    pub fn set_underlay_mtu(&self, mtu: u32) {
        if self.underlay_mtu.swap(mtu, Ordering::Relaxed) != mtu {
            self.network_is_different();
        }
    }

    /// Where the other nodes get content of images here; 0 before there is a listener.
    pub fn blobs_port(&self) -> u16 {
        self.blobs_port.load(Ordering::Relaxed)
    }

    /// Takes in where that is.
    pub fn set_blobs_port(&self, port: u16) {
        self.blobs_port.store(port, Ordering::Relaxed);
    }

    /// Where images come from whose services do not say.
    pub(crate) fn image_source(&self) -> ImageSource {
        self.image_source.get().copied().unwrap_or_default()
    }

    /// Says where that is, once.
    pub fn set_image_source(&self, source: ImageSource) {
        let _ = self.image_source.set(source);
    }

    /// The version of the assignments that packets and names follow.
    pub(crate) fn followed(&self) -> watch::Receiver<u64> {
        self.cutter.followed()
    }

    /// The public halves of this node's keys.
    pub fn keys(&self) -> watch::Receiver<Vec<DataKey>> {
        self.keys.told()
    }

    /// What is assigned now.
    pub fn assigned(&self) -> Arc<Assigned> {
        Arc::clone(&self.assigned.borrow())
    }

    /// Puts new assignments into effect. The first ones after a start adopt what runs already:
    /// containers of assigned tasks go on, others are removed.
    pub async fn assign(self: &Arc<Self>, next: Arc<Assigned>) {
        let first = self.assigned().local.is_none();
        self.assigned.send_replace(Arc::clone(&next));
        if first {
            self.adopt(&next).await;
            // The host must know who it is before namespaces can be made on it.
            self.apply_network().await;
        }
        let mut drivers = lock(&self.drivers);
        for (id, task) in &next.tasks {
            match drivers.get(id) {
                Some(handle) => {
                    handle.desired.send_if_modified(|current| {
                        let changed = current.as_ref().is_none_or(|current| current != task);
                        *current = Some(Arc::clone(task));
                        changed
                    });
                }
                None => {
                    let handle = self.spawn(id, task.container_name(), Some(Arc::clone(task)));
                    drivers.insert(id.clone(), handle);
                }
            }
        }
        for (id, handle) in drivers.iter() {
            if !next.tasks.contains_key(id) {
                handle.desired.send_replace(None);
            }
        }
        drop(drivers);
        self.network_changed.notify_one();
    }

    /// Starts drivers for the containers of tasks that are no longer assigned, and takes over
    /// the namespaces of those that are.
    async fn adopt(self: &Arc<Self>, next: &Assigned) {
        let options = ListOptions {
            all: true,
            filters: Filters::none().with("label", TASK_ID_LABEL),
            ..Default::default()
        };
        let found = match self.engine.container_list(options).await {
            Ok(found) => found,
            Err(error) => {
                warn!(%error, "containers of earlier tasks cannot be listed");
                return;
            }
        };
        let mut drivers = lock(&self.drivers);
        for container in found {
            let Some(id) = container.labels.get(TASK_ID_LABEL).map(TaskId::new) else {
                continue;
            };
            if let Some(choice) = lock(&self.remembered)
                .get(&id)
                .and_then(|entry| entry.sandbox.clone())
            {
                lock(&self.sandboxes).insert(id.clone(), choice);
            }
            if !next.tasks.contains_key(&id) {
                let handle = self.spawn(&id, container.id.clone(), None);
                drivers.insert(id, handle);
            }
        }
    }

    fn spawn(self: &Arc<Self>, id: &TaskId, container: String, task: Option<Arc<Task>>) -> Handle {
        let (desired, receiver) = watch::channel(task.clone());
        let wake = Arc::new(Notify::new());
        let remembered = lock(&self.remembered)
            .get(id)
            .map(|entry| entry.status.clone());
        let driver = Driver::new(Arc::clone(self), id.clone(), container, task, remembered);
        tokio::spawn(driver.run(receiver, Arc::clone(&wake)));
        Handle { desired, wake }
    }

    /// Tells the drivers when something happened to their containers. Runs until the engine
    /// closes.
    pub async fn watch_containers(self: Arc<Self>) {
        loop {
            let query = EventQuery {
                filters: Filters::none().with("type", "container"),
                ..Default::default()
            };
            let mut events = match self.engine.events(query) {
                Ok(events) => events,
                Err(error) => {
                    warn!(%error, "container events cannot be watched");
                    return;
                }
            };
            // Whatever happened before the subscription: everyone looks once.
            for handle in lock(&self.drivers).values() {
                handle.wake.notify_one();
            }
            while let Some(event) = events.next().await {
                let Some(id) = event.actor.attributes.get(TASK_ID_LABEL) else {
                    continue;
                };
                if let Some(handle) = lock(&self.drivers).get(id.as_str()) {
                    handle.wake.notify_one();
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What is assigned, now and later.
    pub(crate) fn assignments(&self) -> watch::Receiver<Arc<Assigned>> {
        self.assigned.subscribe()
    }

    /// The manager that this node has a session with.
    pub(crate) fn manager(&self) -> watch::Receiver<Option<Channel>> {
        self.manager.subscribe()
    }

    pub(crate) fn set_manager(&self, manager: Option<Channel>) {
        self.manager.send_replace(manager);
    }

    /// Writes a status down before it is reported.
    pub(crate) async fn remember(
        self: &Arc<Self>,
        task: &TaskId,
        status: &TaskStatus,
    ) -> Result<(), JournalError> {
        let entry = {
            let mut remembered = lock(&self.remembered);
            let entry = remembered.entry(task.clone()).or_default();
            entry.status = status.clone();
            entry.clone()
        };
        let (worker, task) = (Arc::clone(self), task.clone());
        tokio::task::spawn_blocking(move || worker.journal.put(&task, &entry))
            .await
            .unwrap_or(Ok(()))
    }

    /// Drops everything known of a task that has left no trace.
    pub(crate) fn forget(&self, task: &TaskId) {
        lock(&self.drivers).remove(task);
        lock(&self.remembered).remove(task);
        self.statuses.forget(task);
        if let Err(error) = self.journal.remove(task) {
            warn!(%task, %error, "a task could not be taken out of the journal");
        }
    }

    /// Stops and removes every task: the node leaves its cluster. Resolves when none is left, at
    /// the latest after `within`.
    pub async fn stop_all(self: &Arc<Self>, within: Duration) {
        let mut none = Assigned::clone(&self.assigned());
        none.tasks.clear();
        self.assign(Arc::new(none)).await;
        let deadline = tokio::time::Instant::now() + within;
        while !lock(&self.drivers).is_empty() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.apply_network().await;
    }
}
