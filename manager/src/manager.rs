//! A manager put together: its log, its state, its listener and its loops.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use skep_consensus::{Consensus, Member, OpenError, Options};
use skep_model::node::{ManagerStatus, Reachability};
use skep_model::{ClusterId, ControlError, ControlRequest, ControlResponse, NodeId};
use skep_pki::Sealer;
use skep_proto::connect::Connector;
use skep_proto::v1::ExecOpen;
use skep_proto::v1::ca_server::CaServer;
use skep_proto::v1::control_server::ControlServer;
use skep_proto::v1::dispatcher_server::DispatcherServer;
use skep_proto::v1::exec_server::ExecServer;
use skep_proto::v1::images_server::ImagesServer;
use skep_proto::v1::logs_server::LogsServer;
use skep_proto::v1::membership_server::MembershipServer;
use skep_proto::v1::raft_server::RaftServer;
use skep_proto::{MESSAGE_BYTES_MAX, listen};
use skep_store::{Commit, Snapshot, Store};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tracing::{info, warn};

use crate::claims::Claims;
use crate::forget;
use crate::liveness::Liveness;
use crate::machine::Machine;
use crate::quorum::Leaderless;
use crate::rpc::{ca, control, dispatcher, exec, images, logs, membership, raft};
use crate::sessions::Sessions;
use crate::stores::Stores;
use crate::submit;
use crate::transport::{GrpcTransport, Moved};

/// Changes that a watcher may leave unread before it is told that it was too slow.
const WATCH_EVENTS_MAX: usize = 10_000;

/// How to start a manager.
pub struct ManagerConfig {
    pub node: NodeId,
    pub cluster: ClusterId,
    pub raft_id: u64,
    /// `address:port` that the other managers reach this one at.
    pub address: String,
    pub listen: SocketAddr,
    pub directory: PathBuf,
    pub sealer: Sealer,
    pub connector: Arc<Connector>,
    pub server_tls: Arc<ArcSwap<ServerConfig>>,
    /// Takes every entry on two cores; set lower for tests of slow machines.
    pub timing: skep_consensus::Timing,
    /// Entries between snapshots until the cluster's settings are known.
    pub snapshot_every: u64,
    pub keep_entries: u64,
    /// Stores outside of the cluster that this node has for secrets.
    pub secret_stores: Arc<Stores>,
}

/// Why a manager cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("{0}")]
    Bootstrap(ControlError),
}

/// What the manager's services and loops share.
pub struct Core {
    pub node: NodeId,
    pub cluster: ClusterId,
    pub raft_id: u64,
    pub address: String,
    pub consensus: Consensus,
    pub machine: Arc<Machine>,
    pub connector: Arc<Connector>,
    /// Where managers are that the log has elsewhere.
    pub moved: Arc<Moved>,
    pub sessions: Sessions,
    /// Searches for images under way.
    pub searches: images::Searches,
    /// Who downloads which blob. Used on the leader only.
    pub claims: Mutex<Claims>,
    /// Stores outside of the cluster that hold what secrets do.
    pub stores: Arc<Stores>,
    /// Used on the leader only.
    pub liveness: Mutex<Liveness>,
    /// The version that each node's packets and names follow. Used on the leader only.
    pub networks: Mutex<BTreeMap<NodeId, u64>>,
    /// What tasks have used lately. Used on the leader only.
    pub usages: Mutex<crate::usage::Heard>,
    /// Held while a node gains or loses its vote: a vote that is given while another thread finds
    /// that there is none to take would stay with a node that has forgotten its log.
    pub votes: tokio::sync::Mutex<()>,
    /// Since when nobody is known to lead.
    pub leaderless: Leaderless,
    /// Wakes the leader's loop for something that is no change of the state.
    pub leader_wake: tokio::sync::Notify,
}

fn options(config: &ManagerConfig) -> Options {
    let mut options = Options::new(config.raft_id, &config.directory, config.sealer.clone());
    options.timing = config.timing;
    options.snapshot_every = config.snapshot_every;
    options.keep_entries = config.keep_entries;
    options
}

/// A running manager. Dropping it does not stop it; [`Manager::shutdown`] does.
pub struct Manager {
    core: Arc<Core>,
    running: tokio::sync::Mutex<JoinSet<()>>,
    stop: CancellationToken,
}

impl Manager {
    /// Opens the log and starts to serve. A manager that is not part of a cluster yet is made
    /// one by [`Manager::bootstrap`] or by joining.
    pub async fn start(config: ManagerConfig) -> Result<Self, StartError> {
        let listener =
            TcpListener::bind(config.listen)
                .await
                .map_err(|source| StartError::Listen {
                    address: config.listen,
                    source,
                })?;
        let machine = Arc::new(Machine::new(Store::new()));
        let moved = Arc::<Moved>::default();
        let connector = Arc::clone(&config.connector);
        let transport = Arc::new(GrpcTransport::new(connector, Arc::clone(&moved)));
        let options = options(&config);
        let state: Arc<dyn skep_consensus::StateMachine> = Arc::clone(&machine) as _;
        let consensus = Consensus::open(options, state, transport).await?;
        let core = Arc::new(Core {
            node: config.node,
            cluster: config.cluster,
            raft_id: config.raft_id,
            address: config.address,
            consensus,
            machine,
            connector: config.connector,
            moved,
            sessions: Sessions::default(),
            searches: images::Searches::default(),
            claims: Mutex::default(),
            stores: config.secret_stores,
            liveness: Mutex::default(),
            networks: Mutex::default(),
            usages: Mutex::default(),
            votes: tokio::sync::Mutex::default(),
            leaderless: Leaderless::default(),
            leader_wake: tokio::sync::Notify::new(),
        });
        let mut running = JoinSet::new();
        let stop = CancellationToken::new();
        running.spawn(serve(
            Arc::clone(&core),
            listener,
            config.server_tls,
            stop.clone(),
        ));
        running.spawn(crate::leader::run(Arc::clone(&core)));
        running.spawn(crate::relay::run_signs(Arc::clone(&core)));
        running.spawn(crate::relay::run_usages(Arc::clone(&core)));
        running.spawn(crate::relay::run_words(Arc::clone(&core)));
        running.spawn(crate::rounds::run(Arc::clone(&core)));
        running.spawn(crate::autoscale::run_questions(Arc::clone(&core)));
        running.spawn(follow_members(Arc::clone(&core)));
        running.spawn(follow_settings(Arc::clone(&core)));
        running.spawn(forget::follow(Arc::clone(&core)));
        let stores = Arc::clone(&core.stores);
        running.spawn(async move { stores.keep().await });
        running.spawn(crate::quorum::follow(Arc::clone(&core)));
        running.spawn(watch_disk(Arc::clone(&core), stop.clone()));
        info!(node = %core.node, listen = %config.listen, "manager started");
        Ok(Self {
            core,
            running: tokio::sync::Mutex::new(running),
            stop,
        })
    }

    /// Makes a new cluster with this manager as its only member, holding `first` and then this
    /// node itself.
    pub async fn bootstrap(
        &self,
        first: &Commit,
        me: skep_reconcile::NewNode,
    ) -> Result<(), StartError> {
        let failed = |error: String| {
            StartError::Bootstrap(ControlError::new(skep_model::Kind::Internal, error))
        };
        let member = self.member();
        self.core
            .consensus
            .bootstrap(member)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let described = |error| StartError::Bootstrap(submit::describe(&error));
        submit::propose(&self.core, first)
            .await
            .map_err(described)?;
        let snapshot = self.core.machine.store().snapshot();
        let commit = skep_reconcile::add_node(&snapshot, me, crate::clock::now())
            .ok_or_else(|| failed("the first node changes nothing".to_owned()))?;
        submit::propose(&self.core, &commit)
            .await
            .map_err(described)
    }

    /// Makes a manager that does not run the only one of its cluster: the others are gone for good.
    /// Start it afterwards, and call [`Manager::take_over`].
    pub async fn go_on_alone(config: &ManagerConfig) -> Result<(), StartError> {
        let me = Member {
            id: config.raft_id,
            address: config.address.clone(),
            node: config.node.to_string(),
        };
        Ok(Consensus::go_on_alone(options(config), me).await?)
    }

    /// Has a manager that never ran begin with a state from elsewhere, the only one of its cluster.
    /// Start it afterwards, and wait until it leads with [`Manager::lead`].
    pub async fn begin_with(config: &ManagerConfig, state: &Snapshot) -> Result<(), StartError> {
        let me = Member {
            id: config.raft_id,
            address: config.address.clone(),
            node: config.node.to_string(),
        };
        let chunks = crate::machine::dump(state, crate::machine::CHANGES_PER_CHUNK);
        let index = state.version().index;
        Ok(Consensus::begin_with(options(config), me, index, chunks).await?)
    }

    /// Waits until this manager leads, which it must as the only one that there is.
    pub async fn lead(&self, within: Duration) -> Result<(), ControlError> {
        let mut leadership = self.core.consensus.leadership();
        let leads = leadership.wait_for(|now| now.is_me);
        match tokio::time::timeout(within, leads).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(ControlError::new(
                skep_model::Kind::Unavailable,
                "this manager does not lead although it is the only one: see its log",
            )),
        }
    }

    /// Waits until this manager leads, the only one that there is, and makes workers of the nodes
    /// that were managers beside it.
    pub async fn take_over(&self, within: Duration) -> Result<(), ControlError> {
        self.lead(within).await?;
        let me = ManagerStatus {
            leader: true,
            reachability: Reachability::Reachable,
            addr: self.core.address.clone(),
            raft_id: self.core.raft_id,
        };
        loop {
            let snapshot = self.snapshot(false).await?;
            let now = crate::clock::now();
            let commit = skep_reconcile::sole_manager(&snapshot, &self.core.node, me.clone(), now);
            let Some(commit) = commit else { return Ok(()) };
            match submit::propose(&self.core, &commit).await {
                // Once more: the control loop was quicker.
                Ok(()) | Err(submit::CommitError::Conflict { .. }) => (),
                Err(error) => return Err(submit::describe(&error)),
            }
        }
    }

    /// Commits what another part of the node has decided. Only on the leader.
    pub async fn commit(&self, commit: &Commit) -> Result<(), ControlError> {
        submit::propose(&self.core, commit)
            .await
            .map_err(|error| submit::describe(&error))
    }

    fn member(&self) -> Member {
        Member {
            id: self.core.raft_id,
            address: self.core.address.clone(),
            node: self.core.node.to_string(),
        }
    }

    /// What the services and loops share.
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// The replicated state; linearizable unless `stale`.
    pub async fn snapshot(&self, stale: bool) -> Result<Snapshot, ControlError> {
        submit::read(&self.core, stale).await
    }

    /// Every change applied on this manager from now on.
    pub fn watch(&self) -> skep_store::Watch {
        self.core.machine.store().watch(WATCH_EVENTS_MAX).1
    }

    /// Asks for a change, on whichever manager leads.
    pub async fn submit(&self, request: ControlRequest) -> Result<ControlResponse, ControlError> {
        submit::submit(&self.core, request, false).await
    }

    /// How many managers answer and how many do not, this one included.
    pub fn reachability(&self) -> (usize, usize) {
        let metrics = self.core.consensus.metrics();
        let voters = metrics
            .members
            .iter()
            .filter(|part| part.part == skep_consensus::Part::Voter);
        let answers = |id: u64| {
            id == self.core.raft_id
                || !metrics.leadership.is_me
                || metrics
                    .followers
                    .iter()
                    .any(|follower| follower.id == id && follower.reachable)
        };
        let (reachable, unreachable): (Vec<_>, Vec<_>) =
            voters.partition(|part| answers(part.member.id));
        (reachable.len(), unreachable.len())
    }

    /// Whether this manager leads, and the address of the one that does.
    pub fn leader(&self) -> (bool, Option<String>) {
        let now = self.core.consensus.leadership().borrow().clone();
        (now.is_me, now.leader.map(|leader| leader.address))
    }

    /// Asks another manager to lead.
    pub async fn step_down(&self, within: Duration) -> bool {
        self.core.consensus.step_down_hint(within).await
    }

    /// The managers by node id and address.
    pub fn members(&self) -> Vec<(NodeId, String)> {
        let members = self.core.consensus.members();
        members
            .into_iter()
            .map(|part| (NodeId::new(part.member.node), part.member.address))
            .collect()
    }

    /// Addresses of the managers.
    pub fn addresses(&self) -> Vec<String> {
        let members = self.core.consensus.members();
        members
            .into_iter()
            .map(|part| part.member.address)
            .collect()
    }

    /// Follows log lines of tasks on whichever nodes they run.
    pub fn logs(&self, wanted: logs::Wanted) -> tokio::sync::mpsc::Receiver<logs::Piece> {
        logs::follow_everywhere(Arc::clone(&self.core), wanted)
    }

    /// Starts a process in a task's container on whichever node it runs.
    ///
    /// # Errors
    /// Nobody has the node's session, or it could not be started.
    pub async fn exec(&self, wanted: ExecOpen) -> Result<exec::Running, exec::Failed> {
        exec::start_anywhere(&self.core, wanted).await
    }

    /// Stops serving and closes the log. Bounded.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let mut running = self.running.lock().await;
        running.abort_all();
        while running.join_next().await.is_some() {}
        if tokio::time::timeout(Duration::from_secs(10), self.core.consensus.shutdown())
            .await
            .is_err()
        {
            warn!("the replicated log did not close in time");
        }
    }
}

/// A manager whose disk fails, or whose log turns out to be damaged, must not go on as one.
async fn watch_disk(core: Arc<Core>, stop: CancellationToken) {
    if let skep_consensus::Stopped::Failed(reason) = core.consensus.stopped().await {
        tracing::error!(
            node = %core.node,
            reason,
            "the replicated log has failed: this manager stops; demote it and let the node join again"
        );
        stop.cancel();
    }
}

/// Members are reached where the log has them, as soon as it has gone past their own word.
async fn follow_members(core: Arc<Core>) {
    let mut known = Vec::new();
    while let Some(members) = core.consensus.other_members(&known).await {
        let now: Vec<Member> = members.iter().map(|part| part.member.clone()).collect();
        core.moved.follow(&now);
        known = members;
    }
}

/// The log is cut as the cluster's settings say, from the moment that they say so.
async fn follow_settings(core: Arc<Core>) {
    let mut applied = core.machine.applied();
    let mut known = None;
    loop {
        applied.mark_unchanged();
        let snapshot = core.machine.store().snapshot();
        let wanted = snapshot.cluster().map(|it| it.spec.raft.snapshots());
        drop(snapshot);
        if let Some((every, kept)) = wanted.filter(|_| wanted != known) {
            let kept = usize::try_from(kept).unwrap_or(usize::MAX);
            core.consensus.set_snapshots(every, kept).await;
            known = wanted;
        }
        if applied.changed().await.is_err() {
            return;
        }
    }
}

async fn serve(
    core: Arc<Core>,
    listener: TcpListener,
    tls: Arc<ArcSwap<ServerConfig>>,
    stop: CancellationToken,
) {
    let incoming = ReceiverStream::new(listen::accept(listener, tls, stop));
    macro_rules! sized {
        ($server:expr) => {
            $server
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        };
    }
    let served = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(2)))
        .http2_keepalive_timeout(Some(Duration::from_secs(3)))
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .add_service(sized!(RaftServer::new(raft::RaftService(Arc::clone(
            &core
        )))))
        .add_service(sized!(CaServer::new(ca::CaService(Arc::clone(&core)))))
        .add_service(sized!(MembershipServer::new(
            membership::MembershipService(Arc::clone(&core))
        )))
        .add_service(sized!(ControlServer::new(control::ControlService(
            Arc::clone(&core)
        ))))
        .add_service(sized!(DispatcherServer::new(
            dispatcher::DispatcherService(Arc::clone(&core))
        )))
        .add_service(sized!(LogsServer::new(logs::LogsService(Arc::clone(
            &core
        )))))
        .add_service(sized!(ExecServer::new(exec::ExecService(Arc::clone(
            &core
        )))))
        .add_service(sized!(ImagesServer::new(images::ImagesService(
            Arc::clone(&core)
        ))))
        .serve_with_incoming(incoming)
        .await;
    if let Err(error) = served {
        warn!(%error, "the manager's listener ended");
    }
}
