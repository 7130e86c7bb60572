//! A node that is a member: its agent, its manager if it is one, and what follows from what the
//! cluster tells it.

mod addresses;
mod blobs;
mod identity;
mod managing;
mod rescue;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::{ClientConfig, ServerConfig};
use skep_agent::guests::{self, Keeper};
use skep_agent::paths;
use skep_agent::peers::Neighbours;
use skep_agent::{AgentEvent, Session, Worker};
use skep_api::cluster::{LocalCluster, LocalState};
use skep_api::texts;
use skep_engine::SharedNetworks;
use skep_manager::{Manager, clock};
use skep_model::encryption::EncryptionMethod;
use skep_model::node::NodeDescription;
use skep_model::{ControlError, Kind, NodeId, NodeRole};
use skep_pki::Identity;
use skep_pki::tls::{client_config, server_config};
use skep_proto::connect::Connector;
use skep_proto::v1::ManagerPeer;
use skep_reconcile::NewNode;
use skep_store::{Commit, Snapshot};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tracing::warn;

use super::files::{Files, Saved};
use super::{Surroundings, describe, skep_error_chain};

/// Events of the agent that may wait.
const EVENTS: usize = 16;
/// A renewal that failed is tried again after this time.
const RENEW_RETRY: Duration = Duration::from_secs(5);
/// How long the first assignments may take to arrive.
const FIRST_ASSIGNMENTS: Duration = Duration::from_secs(15);
/// Pause between two words about this node's networks.
const PROBLEMS_SETTLE: Duration = Duration::from_secs(1);

/// What the first manager of a cluster begins with.
pub enum Birth {
    /// A new cluster: its first commit, and this node.
    New { first: Commit, me: Box<NewNode> },
    /// The state of one that there was, with this node in it.
    Restored(Snapshot),
}

/// A membership at work.
pub struct Active {
    around: Arc<Surroundings>,
    files: Files,
    saved: Mutex<Saved>,
    identity: ArcSwap<Identity>,
    /// Held while the identity is replaced.
    renewing: tokio::sync::Mutex<()>,
    client_tls: Arc<ArcSwap<ClientConfig>>,
    server_tls: Arc<ArcSwap<ServerConfig>>,
    connector: Arc<Connector>,
    worker: Arc<Worker>,
    manager: Mutex<Option<Arc<Manager>>>,
    /// Held by whoever starts or stops the manager: where the one that runs listens.
    listens: tokio::sync::Mutex<Option<String>>,
    /// The manager has its vote; false from its start until then.
    has_vote: AtomicBool,
    managers: watch::Sender<Vec<String>>,
    description: watch::Sender<NodeDescription>,
    events: mpsc::Sender<AgentEvent>,
    heard: tokio::sync::Mutex<mpsc::Receiver<AgentEvent>>,
    session: Mutex<Option<AbortHandle>>,
    tasks: Mutex<JoinSet<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn internal(error: impl std::fmt::Display) -> ControlError {
    ControlError::new(Kind::Internal, error.to_string())
}

impl Active {
    /// Starts manager (if the node is one) and agent.
    pub async fn start(
        around: Arc<Surroundings>,
        files: Files,
        saved: Saved,
        identity: Identity,
        birth: Option<Birth>,
    ) -> Result<Arc<Self>, ControlError> {
        let data_path: IpAddr = saved
            .data_path
            .parse()
            .map_err(|_| internal("the data path address is damaged"))?;
        let client_tls = Arc::new(ArcSwap::new(client_config(&identity).map_err(internal)?));
        let server_tls = Arc::new(ArcSwap::new(server_config(&identity).map_err(internal)?));
        let mut description = describe::node(&around, &identity, data_path).await;
        let worker = Worker::open(
            Arc::clone(&around.engine),
            Arc::clone(&around.host),
            &files.agent(),
            &around.exec_root,
            description.data_path_mtu,
            skep_pki::random_bytes,
        )
        .map_err(|error| internal(skep_error_chain(&error)))?;
        description.encryption.keys = worker.keys().borrow().clone();
        let (events, heard) = mpsc::channel(EVENTS);
        let role = identity.peer.role;
        let active = Arc::new(Self {
            around,
            files,
            managers: watch::Sender::new(saved.managers.clone()),
            saved: Mutex::new(saved),
            identity: ArcSwap::from_pointee(identity),
            renewing: tokio::sync::Mutex::default(),
            connector: Arc::new(Connector::new(Arc::clone(&client_tls))),
            client_tls,
            server_tls,
            worker: Arc::clone(&worker),
            manager: Mutex::default(),
            listens: tokio::sync::Mutex::default(),
            has_vote: AtomicBool::new(true),
            description: watch::Sender::new(description),
            events,
            heard: tokio::sync::Mutex::new(heard),
            session: Mutex::default(),
            tasks: Mutex::default(),
        });
        if let Some(Birth::Restored(state)) = &birth {
            Manager::begin_with(&active.manager_config()?, state)
                .await
                .map_err(|error| internal(skep_error_chain(&error)))?;
        }
        if role == NodeRole::Manager {
            let mut listens = active.listens.lock().await;
            active.start_manager(&mut listens).await?;
        }
        match birth {
            None => (),
            Some(Birth::New { first, me }) => active
                .manager()?
                .bootstrap(&first, *me)
                .await
                .map_err(|error| internal(skep_error_chain(&error)))?,
            Some(Birth::Restored(_)) => active.manager()?.lead(managing::TAKE_OVER).await?,
        }
        active.spawn(Arc::clone(&worker).watch_containers());
        active.spawn(Arc::clone(&worker).keep_network());
        active.spawn(paths::watch(Arc::clone(&worker)));
        let telling = Arc::clone(&active);
        active.spawn(async move { telling.tell_problems().await });
        let (keeper, requests) = Keeper::new(Arc::clone(&worker));
        active.spawn(guests::keep(worker, requests));
        let engine = Arc::clone(&active.around.engine);
        let keeper: Arc<dyn SharedNetworks> = Arc::new(keeper);
        active.spawn(async move { engine.set_shared_networks(Some(keeper)).await });
        active.worker.set_image_source(active.around.image_source);
        let neighbours = Neighbours::new(Arc::clone(&active.worker), Arc::clone(&active.connector));
        active.around.engine.set_peers(Some(Arc::new(neighbours)));
        let sharing = Arc::clone(&active);
        active.spawn(async move { sharing.serve_blobs().await });
        active.restart_session();
        let telling = Arc::clone(&active);
        active.spawn(async move { telling.tell_keys().await });
        let looking = Arc::clone(&active);
        active.spawn(async move { looking.keep_addresses().await });
        let locking = Arc::clone(&active);
        active.spawn(async move { locking.keep_lock().await });
        let renewing = Arc::clone(&active);
        active.spawn(async move { renewing.renew_in_time().await });
        Ok(active)
    }

    pub fn saved(&self) -> Saved {
        lock(&self.saved).clone()
    }

    /// Runs `work` until the membership stops.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let mut tasks = lock(&self.tasks);
        // What has ended, such as sessions of before, would be kept until then.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(work)
    }

    pub fn node(&self) -> NodeId {
        lock(&self.saved).node.clone()
    }

    pub fn files(&self) -> &Files {
        &self.files
    }

    pub fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }

    /// This node's manager.
    pub fn manager(&self) -> Result<Arc<Manager>, ControlError> {
        lock(&self.manager)
            .clone()
            .ok_or_else(|| ControlError::new(Kind::Unavailable, texts::NOT_A_MANAGER))
    }

    /// What needs no other node to tell.
    pub fn local(&self) -> LocalCluster {
        let saved = self.saved();
        let address = saved
            .advertise
            .parse::<SocketAddr>()
            .map(|address| address.ip().to_string());
        let expired = self.identity.load().not_after < clock::now();
        // Looked at on a line of its own: a guard in the expression below would still be held
        // when `remote_managers` wants the same lock.
        let is_manager = lock(&self.manager).is_some();
        LocalCluster {
            state: if expired {
                LocalState::Error
            } else {
                LocalState::Active
            },
            node_id: saved.node,
            node_addr: address.unwrap_or_default(),
            is_manager,
            cluster_id: saved.cluster,
            error: if expired {
                texts::CERTIFICATES_EXPIRED.to_owned()
            } else {
                String::new()
            },
            remote_managers: self.remote_managers(),
            warnings: self.warnings(),
        }
    }

    fn remote_managers(&self) -> Vec<(NodeId, String)> {
        let manager = lock(&self.manager).clone();
        if let Some(manager) = manager {
            return manager.members();
        }
        let addresses = self.managers.borrow().clone();
        addresses
            .into_iter()
            .map(|address| (NodeId::default(), address))
            .collect()
    }

    /// (Re)opens the session with the managers, with the certificate that is current now.
    fn restart_session(&self) {
        let session = Session {
            node: self.node(),
            connector: Arc::clone(&self.connector),
            managers: self.managers.subscribe(),
            description: self.description.subscribe(),
            worker: Arc::clone(&self.worker),
            events: self.events.clone(),
        };
        let handle = self.spawn(session.run());
        if let Some(old) = lock(&self.session).replace(handle) {
            old.abort();
        }
    }

    /// Hears no manager any more.
    pub async fn end_session(&self) {
        if let Some(session) = lock(&self.session).take() {
            session.abort();
        }
    }

    /// Acts on what the cluster tells this node, for as long as it is a member. True when the
    /// cluster has removed it.
    pub async fn attend(self: &Arc<Self>) -> bool {
        let mut heard = self.heard.lock().await;
        while let Some(event) = heard.recv().await {
            match event {
                AgentEvent::Removed => return true,
                AgentEvent::Managers(managers) => self.take_managers(&managers),
                AgentEvent::Roots(roots) => {
                    if let Err(error) = self.trust(&roots).await {
                        warn!(%error, "the cluster's new root could not be taken");
                    }
                }
                AgentEvent::Renew => {
                    if let Err(error) = self.renew().await {
                        warn!(%error, "the certificate could not be renewed yet");
                        let (active, events) = (Arc::clone(self), self.events.clone());
                        self.spawn(async move {
                            tokio::time::sleep(RENEW_RETRY).await;
                            let _ = events.send(AgentEvent::Renew).await;
                            drop(active);
                        });
                    }
                }
            }
        }
        false
    }

    fn take_managers(&self, managers: &[ManagerPeer]) {
        if managers.is_empty() {
            return;
        }
        self.note_managers(managers.iter().map(|peer| peer.address.clone()).collect());
    }

    /// Remembers the managers, this node's own first.
    fn note_managers(&self, mut addresses: Vec<String>) {
        let is_manager = lock(&self.manager).is_some();
        let mut saved = lock(&self.saved);
        if is_manager {
            let own = saved.advertise.clone();
            addresses.retain(|address| *address != own);
            addresses.insert(0, own);
        }
        if addresses != saved.managers {
            saved.managers.clone_from(&addresses);
            self.save(&saved);
        }
        drop(saved);
        self.managers.send_if_modified(|known| {
            let changed = *known != addresses;
            *known = addresses;
            changed
        });
    }

    /// Tells the managers the public halves of this node's keys.
    async fn tell_keys(self: Arc<Self>) {
        let mut keys = self.worker.keys();
        loop {
            let told = keys.borrow_and_update().clone();
            self.description.send_if_modified(|description| {
                let changed = description.encryption.keys != told;
                description.encryption.keys = told;
                changed
            });
            if keys.changed().await.is_err() {
                return;
            }
        }
    }

    /// What should be said of this node to whoever asks about it.
    fn warnings(&self) -> Vec<String> {
        let encryption = self.description.borrow().encryption.clone();
        let is_slow =
            encryption.method == EncryptionMethod::Userspace && !encryption.keys.is_empty();
        let slow = "WARNING: The kernel has no WireGuard: encrypted networks go through a process,\n         at a few per cent of the kernel's speed.";
        is_slow.then(|| slow.to_owned()).into_iter().collect()
    }

    /// Has the managers know what is wrong with this node's networks.
    async fn tell_problems(self: Arc<Self>) {
        let mut problems = self.worker.problems();
        loop {
            let now = problems.borrow_and_update().all();
            self.description.send_if_modified(|known| {
                let changed = known.network_problems != now;
                known.network_problems = now;
                changed
            });
            if problems.changed().await.is_err() {
                return;
            }
            // What changes many times a second is not worth a word each time.
            tokio::time::sleep(PROBLEMS_SETTLE).await;
        }
    }

    /// Waits until a manager has told this node what it is to run.
    pub async fn wait_for_assignments(&self) -> Result<(), ControlError> {
        let wait = async {
            while self.worker.assigned().local.is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(FIRST_ASSIGNMENTS, wait)
            .await
            .map_err(|_| {
                ControlError::new(
                    Kind::Unavailable,
                    "no manager has opened a session with this node in time",
                )
            })
    }

    /// Stops agent and manager. Containers go on.
    pub async fn stop(&self) {
        self.around.engine.set_shared_networks(None).await;
        self.around.engine.set_peers(None);
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        tasks.abort_all();
        while tasks.join_next().await.is_some() {}
        self.stop_manager(&mut *self.listens.lock().await).await;
    }

    /// Takes down what the cluster's networks left on this host.
    pub async fn remove_networks(&self) {
        // Work that was under way when it was stopped would bring them back.
        self.worker.give_up_network().await;
        let host = Arc::clone(&self.around.host);
        let removed = tokio::task::spawn_blocking(move || host.remove_cluster()).await;
        match removed {
            Ok(report) => {
                for failure in report.failures {
                    warn!(object = failure.object, error = %failure.error.chain(), "could not be removed");
                }
            }
            Err(error) => warn!(%error, "the cluster's networks could not be removed"),
        }
    }
}
