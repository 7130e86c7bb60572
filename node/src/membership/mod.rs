//! This node's place in a cluster: makes, joins and leaves one, and keeps manager and agent
//! running while it is a member.

mod active;
mod address;
mod describe;
mod files;
mod issue;
mod leave;
mod lock;
mod logs;
mod moving;
mod why;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ipnet::IpNet;
use skep_api::cluster::{
    Cluster, InitRequest, JoinRequest, LocalCluster, LocalState, LogOptions, LogSource, LogStream,
};
use skep_api::texts;
use skep_engine::Engine;
use skep_model::audit::NetworkAudit;
use skep_model::preview::ServicePreview;
use skep_model::resources::GenericResource;
use skep_model::why::Why;
use skep_model::{
    Availability, ClusterId, ControlError, ControlRequest, ControlResponse, Kind, NodeId, NodeRole,
    Timestamp,
};
use skep_net::Host;
use skep_pki::unlock::UnlockKey;
use skep_pki::{Authority, Identity, JoinToken};
use skep_reconcile::{InitialCluster, NewNode};
use skep_store::Snapshot;
use tokio::sync::{Mutex, watch};
use tracing::{info, warn};

use active::{Active, Birth};
use files::{FileError, Files, Origin, Origins, Saved};
use moving::{Moving, Notice, Seen};
use skep_manager::clock;

/// How long joining may take before it is given up.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);

/// A task of a removed service that has not stopped for so long is told of by `network check`.
const LEAKED_AFTER: Duration = Duration::from_secs(600);

/// What a membership needs of the daemon.
pub struct Surroundings {
    pub engine: Arc<Engine>,
    pub host: Arc<Host>,
    pub data_root: PathBuf,
    pub exec_root: PathBuf,
    /// Name that nodes and templates show.
    pub hostname: String,
    /// The daemon's labels.
    pub labels: Vec<String>,
    /// What services may reserve here besides processors and memory.
    pub generic_resources: Vec<GenericResource>,
}

/// This node's membership. Clones share it.
#[derive(Clone)]
pub struct Membership {
    inner: Arc<Inner>,
}

struct Inner {
    around: Arc<Surroundings>,
    files: Files,
    /// Held while the membership changes: one init, join or leave at a time.
    changing: Mutex<()>,
    state: watch::Sender<State>,
}

/// Where this node listens, is known, and sends its overlay frames from.
struct Chosen {
    listen: SocketAddr,
    advertise: SocketAddr,
    data_path: IpAddr,
    origins: Origins,
}

#[derive(Clone, Default)]
enum State {
    #[default]
    Inactive,
    Pending,
    Active(Arc<Active>),
    /// A member whose keys are sealed until somebody brings the unlock key.
    Locked,
    Failed(String),
}

/// Swarm's text for a key that is not the one.
const WRONG_UNLOCK_KEY: &str = "swarm could not be unlocked: invalid key provided";
/// Swarm's text for a locked manager that is to leave.
const LOCKED_LEAVE: &str = "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.";

fn internal(error: impl std::fmt::Display) -> ControlError {
    ControlError::new(Kind::Internal, error.to_string())
}

impl From<FileError> for ControlError {
    fn from(error: FileError) -> Self {
        internal(skep_error_chain(&error))
    }
}

/// An error with its causes on one line.
pub(crate) fn skep_error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl Membership {
    /// Takes up the membership that is on disk, if there is one. A membership that cannot be
    /// taken up is shown as an error; the engine works all the same.
    pub async fn resume(around: Surroundings) -> Self {
        let files = Files::new(&around.data_root);
        let inner = Inner {
            around: Arc::new(around),
            files,
            changing: Mutex::new(()),
            state: watch::Sender::new(State::Inactive),
        };
        let membership = Self {
            inner: Arc::new(inner),
        };
        let saved = match membership.inner.files.load() {
            Ok(None) => return membership,
            Ok(Some(saved)) => saved,
            Err(error) => {
                membership.fail(&error);
                return membership;
            }
        };
        if membership.inner.files.is_locked() {
            warn!(node = %saved.node, "this manager is locked: `swarm unlock` unlocks it");
            membership.inner.state.send_replace(State::Locked);
            return membership;
        }
        membership.take_up(saved).await;
        membership
    }

    /// Takes up what is on disk; what cannot be is shown as an error.
    async fn take_up(&self, mut saved: Saved) {
        // The host may have been given another address while the daemon was away.
        if let Ok(seen) = self.look_around().await {
            let (mut now, notices) = Moving::at_start(&saved, &seen);
            notices.iter().for_each(Notice::tell);
            if now.advertise != saved.advertise {
                now.managers.retain(|manager| *manager != saved.advertise);
            }
            if now != saved
                && let Err(error) = self.inner.files.save(&now)
            {
                self.fail(&error);
                return;
            }
            saved = now;
        }
        match self.inner.files.load_identity() {
            Ok(identity) => {
                if let Err(error) = self.activate(saved, identity, None).await {
                    self.fail(&error);
                }
            }
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&self, error: &dyn std::error::Error) {
        let text = skep_error_chain(error);
        warn!(error = text, "the node's membership cannot be taken up");
        self.inner.state.send_replace(State::Failed(text));
    }

    async fn activate(
        &self,
        saved: Saved,
        identity: Identity,
        birth: Option<Birth>,
    ) -> Result<Arc<Active>, ControlError> {
        let active = Active::start(
            Arc::clone(&self.inner.around),
            self.inner.files.clone(),
            saved,
            identity,
            birth,
        )
        .await?;
        self.inner
            .state
            .send_replace(State::Active(Arc::clone(&active)));
        // The node acts on what managers tell it for as long as it is a member.
        let membership = self.clone();
        let watched = Arc::clone(&active);
        active.spawn(async move {
            if watched.attend().await {
                // Removed by the cluster: give up the membership from outside of its own tasks.
                tokio::spawn(async move { membership.removed().await });
            }
        });
        Ok(active)
    }

    async fn removed(&self) {
        let _changing = self.inner.changing.lock().await;
        let Ok(active) = self.active() else { return };
        warn!(node = %active.node(), "this node was removed from its cluster");
        leave::dissolve(&active).await;
        self.inner.state.send_replace(State::Inactive);
    }

    fn active(&self) -> Result<Arc<Active>, ControlError> {
        match &*self.inner.state.borrow() {
            State::Active(active) => Ok(Arc::clone(active)),
            State::Inactive | State::Pending => {
                Err(ControlError::new(Kind::Unavailable, texts::NO_SWARM))
            }
            State::Locked => Err(ControlError::new(Kind::Unavailable, texts::LOCKED)),
            State::Failed(error) => Err(ControlError::new(Kind::Unavailable, error.clone())),
        }
    }

    /// Stops manager and agent; containers and membership stay.
    pub async fn shutdown(&self) {
        let _changing = self.inner.changing.lock().await;
        let active = self.active();
        if let Ok(active) = active {
            active.stop().await;
        }
    }

    fn refuse_member(&self) -> Result<(), ControlError> {
        match &*self.inner.state.borrow() {
            State::Inactive => Ok(()),
            State::Locked => Err(ControlError::new(Kind::Unavailable, texts::LOCKED)),
            State::Pending | State::Active(_) | State::Failed(_) => {
                Err(ControlError::new(Kind::Unavailable, texts::ALREADY_PART))
            }
        }
    }

    async fn look_around(&self) -> Result<Seen, ControlError> {
        let host = Arc::clone(&self.inner.around.host);
        let found = tokio::task::spawn_blocking(move || host.outer())
            .await
            .map_err(internal)?
            .map_err(|error| internal(error.chain()))?;
        Ok(address::seen(found))
    }

    async fn choose_addresses(
        &self,
        listen: &str,
        advertise: &str,
        data_path: &str,
    ) -> Result<Chosen, ControlError> {
        let own = self.look_around().await?.own;
        let listens = address::listen(listen, &own)?;
        let advertises = address::advertise(advertise, listens, &own)?;
        Ok(Chosen {
            listen: listens,
            advertise: advertises,
            data_path: address::data_path(data_path, advertises, &own)?,
            origins: Origins {
                listen: Origin::asked(listen),
                advertise: Origin::asked(advertise),
                data_path: Origin::asked(data_path),
            },
        })
    }

    async fn make(&self, mut request: InitRequest) -> Result<NodeId, ControlError> {
        let encryption = &mut request.spec.encryption_config;
        encryption.auto_lock_managers |= request.auto_lock_managers;
        let unlock_key = encryption.auto_lock_managers.then(UnlockKey::generate);
        let chosen = self
            .choose_addresses(
                &request.listen_addr,
                &request.advertise_addr,
                &request.data_path_addr,
            )
            .await?;
        let pools = parse_pools(&request)?;
        let port = check_data_path_port(request.data_path_port)?;
        let now = clock::now();
        let mut random = clock_random();
        let (cluster, node) = (ClusterId::random(&mut random), NodeId::random(&mut random));
        let ca_config = &mut request.spec.ca_config;
        let root_ca = skep_manager::root::first(ca_config, now)?;
        ca_config.signing_ca_cert.clear();
        ca_config.signing_ca_key.clear();
        let authority = Authority::of(&root_ca).map_err(internal)?;
        let key = skep_pki::request_certificate().map_err(internal)?;
        let life = request.spec.ca_config.node_cert_expiry.duration();
        let cert = authority
            .sign(&key.csr_pem, &node, NodeRole::Manager, &cluster, life, now)
            .map_err(internal)?;
        let identity = Identity::from_pem(&cert, &key.key_pem, &root_ca.cert).map_err(internal)?;
        let files = &self.inner.files;
        files.create()?;
        files.save_identity(&identity)?;
        let saved = Saved {
            node: node.clone(),
            cluster: cluster.clone(),
            raft_id: nonzero(&mut random),
            listen: chosen.listen.to_string(),
            advertise: chosen.advertise.to_string(),
            data_path: chosen.data_path.to_string(),
            data_path_port: port,
            managers: vec![chosen.advertise.to_string()],
            renew_chance: random(),
            origins: chosen.origins,
        };
        let description = describe::node(&self.inner.around, &identity, chosen.data_path).await;
        let initial = InitialCluster {
            id: cluster,
            spec: request.spec,
            tls_info: identity.tls_info(),
            join_tokens: skep_model::JoinTokens {
                worker: JoinToken::generate(&root_ca.cert).reveal(),
                manager: JoinToken::generate(&root_ca.cert).reveal(),
            },
            root_ca,
            unlock_key: unlock_key
                .as_ref()
                .map(UnlockKey::reveal)
                .unwrap_or_default(),
            default_addr_pool: pools,
            subnet_size: u8::try_from(request.subnet_size).unwrap_or(24),
            data_path_port: port,
            ingress_subnet: None,
            data_path_mtu: description.data_path_mtu,
        };
        let first = skep_reconcile::initial_cluster(initial, now, &mut random);
        let me = NewNode {
            id: node.clone(),
            role: NodeRole::Manager,
            availability: request.availability.unwrap_or(Availability::Active),
            description,
            addr: chosen.advertise.ip().to_string(),
            manager_status: Some(skep_model::node::ManagerStatus {
                leader: true,
                reachability: skep_model::node::Reachability::Reachable,
                addr: chosen.advertise.to_string(),
                raft_id: saved.raft_id,
            }),
        };
        self.activate(saved.clone(), identity, Some(Birth { first, me }))
            .await?;
        files.follow_lock(unlock_key.as_ref())?;
        // Only now is there something to take up again after a restart.
        files.save(&saved)?;
        info!(%node, "cluster made");
        Ok(node)
    }

    async fn enter(&self, request: JoinRequest) -> Result<(), ControlError> {
        let token: JoinToken =
            request
                .join_token
                .parse()
                .map_err(|error: skep_pki::token::TokenParseError| {
                    ControlError::invalid(error.to_string())
                })?;
        if request.remote_addrs.iter().all(String::is_empty) {
            return Err(ControlError::invalid(
                "at least 1 RemoteAddr is required to join",
            ));
        }
        let chosen = self
            .choose_addresses(
                &request.listen_addr,
                &request.advertise_addr,
                &request.data_path_addr,
            )
            .await?;
        let mut random = clock_random();
        let mut remotes = Vec::new();
        for given in request
            .remote_addrs
            .iter()
            .filter(|given| !given.is_empty())
        {
            remotes.push(address::remote(given)?);
        }
        let description = describe::without_identity(&self.inner.around, chosen.data_path).await;
        let wish = issue::Wish {
            token,
            description,
            availability: request.availability.unwrap_or(Availability::Active),
        };
        let identity = issue::first_certificate(&remotes, &wish).await?;
        let files = &self.inner.files;
        files.create()?;
        files.save_identity(&identity)?;
        let is_manager = identity.peer.role == NodeRole::Manager;
        let saved = Saved {
            node: identity.peer.node.clone(),
            cluster: identity.peer.cluster.clone(),
            raft_id: if is_manager { nonzero(&mut random) } else { 0 },
            listen: chosen.listen.to_string(),
            advertise: chosen.advertise.to_string(),
            data_path: chosen.data_path.to_string(),
            data_path_port: 0,
            managers: remotes,
            renew_chance: random(),
            origins: chosen.origins,
        };
        files.save(&saved)?;
        let node = saved.node.clone();
        let active = self.activate(saved, identity, None).await?;
        if is_manager {
            active.join_log().await?;
        }
        active.wait_for_assignments().await?;
        info!(%node, "joined");
        Ok(())
    }
}

fn clock_random() -> impl FnMut() -> u64 {
    || u64::from_be_bytes(skep_pki::random_bytes())
}

fn nonzero(random: &mut impl FnMut() -> u64) -> u64 {
    loop {
        // JSON numbers are exact below 2^53; this id is shown in the API.
        let id = random() >> 11;
        if id != 0 {
            return id;
        }
    }
}

fn parse_pools(request: &InitRequest) -> Result<Vec<IpNet>, ControlError> {
    let mut pools = Vec::new();
    for given in request.default_addr_pool.iter().flatten() {
        let pool: IpNet = given.parse().map_err(|_| {
            ControlError::invalid(format!(
                "invalid CIDR address in --default-addr-pool: {given}"
            ))
        })?;
        pools.push(pool);
    }
    if request.subnet_size > 29 {
        return Err(ControlError::invalid(format!(
            "invalid default-addr-pool-mask-length {}: must be at most 29",
            request.subnet_size
        )));
    }
    Ok(pools)
}

fn check_data_path_port(port: u32) -> Result<u16, ControlError> {
    match port {
        0 => Ok(4789),
        1024..=49151 => Ok(u16::try_from(port).unwrap_or(4789)),
        _ => Err(ControlError::invalid(
            "can't use data path port: data path port must be in the range 1024 to 49151",
        )),
    }
}

#[async_trait]
impl Cluster for Membership {
    fn local(&self) -> LocalCluster {
        match &*self.inner.state.borrow() {
            State::Inactive => LocalCluster::default(),
            State::Pending => LocalCluster {
                state: LocalState::Pending,
                ..Default::default()
            },
            State::Locked => LocalCluster {
                state: LocalState::Locked,
                ..Default::default()
            },
            State::Failed(error) => LocalCluster {
                state: LocalState::Error,
                error: error.clone(),
                ..Default::default()
            },
            State::Active(active) => active.local(),
        }
    }

    async fn init(&self, request: InitRequest) -> Result<NodeId, ControlError> {
        let _changing = self.inner.changing.lock().await;
        if request.force_new_cluster
            && let Ok(active) = self.active()
        {
            return self.renew_cluster(&active, &request).await;
        }
        self.refuse_member()?;
        self.inner.state.send_replace(State::Pending);
        let outcome = self.make(request).await;
        self.settle(outcome).await
    }

    async fn join(&self, request: JoinRequest) -> Result<(), ControlError> {
        let _changing = self.inner.changing.lock().await;
        self.refuse_member()?;
        self.inner.state.send_replace(State::Pending);
        let outcome = match tokio::time::timeout(JOIN_TIMEOUT, self.enter(request)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ControlError::new(
                Kind::Unavailable,
                "Timeout was reached before node joined. Nothing was changed on this node; check the manager's address and port, and try again.",
            )),
        };
        self.settle(outcome).await
    }

    async fn leave(&self, force: bool) -> Result<(), ControlError> {
        let _changing = self.inner.changing.lock().await;
        let state = self.inner.state.borrow().clone();
        match state {
            State::Inactive | State::Pending => {
                return Err(ControlError::new(Kind::Unavailable, texts::NOT_PART));
            }
            State::Locked if !force => {
                return Err(ControlError::new(Kind::Unavailable, LOCKED_LEAVE));
            }
            State::Locked | State::Failed(_) => self.inner.files.remove()?,
            State::Active(active) => {
                leave::check(&active, force)?;
                leave::say_goodbye(&active).await;
                leave::dissolve(&active).await;
            }
        }
        self.inner.state.send_replace(State::Inactive);
        Ok(())
    }

    async fn unlock(&self, key: &str) -> Result<(), ControlError> {
        let _changing = self.inner.changing.lock().await;
        let state = self.inner.state.borrow().clone();
        match state {
            State::Inactive => Err(ControlError::new(Kind::Unavailable, texts::NOT_PART)),
            State::Pending | State::Active(_) | State::Failed(_) => {
                Err(ControlError::new(Kind::Conflict, "swarm is not locked"))
            }
            State::Locked => {
                let opens = match key.parse::<UnlockKey>() {
                    Ok(key) => self.inner.files.unlock(&key)?,
                    Err(_) => false,
                };
                if !opens {
                    return Err(ControlError::new(Kind::Unauthenticated, WRONG_UNLOCK_KEY));
                }
                let Some(saved) = self.inner.files.load()? else {
                    return Err(internal("the membership's files are gone"));
                };
                self.take_up(saved).await;
                self.active().map(drop)
            }
        }
    }

    async fn rescue(&self, token: &str) -> Result<Timestamp, ControlError> {
        self.active()?.rescue(token).await
    }

    async fn unlock_key(&self) -> Result<String, ControlError> {
        let snapshot = self.snapshot(false).await?;
        Ok(snapshot
            .cluster()
            .map(|cluster| cluster.unlock_key.clone())
            .unwrap_or_default())
    }

    async fn snapshot(&self, stale: bool) -> Result<Snapshot, ControlError> {
        let active = self.active()?;
        let snapshot = active.manager()?.snapshot(stale).await;
        snapshot.map_err(|error| active.explain(error))
    }

    async fn audit(&self) -> Result<NetworkAudit, ControlError> {
        let snapshot = self.snapshot(false).await?;
        let settled = Timestamp(
            clock::now()
                .0
                .saturating_sub(LEAKED_AFTER.as_nanos() as i64),
        );
        Ok(skep_reconcile::audit::audit(&snapshot, settled))
    }

    fn networks_here(&self) -> Vec<Arc<skep_model::Network>> {
        let active = self.active().ok();
        let assigned = active.map(|active| active.worker().assigned());
        assigned.map_or(Vec::new(), |assigned| {
            assigned.networks.values().cloned().collect()
        })
    }

    fn watch(&self) -> Option<skep_store::Watch> {
        Some(self.active().ok()?.manager().ok()?.watch())
    }

    async fn submit(&self, request: ControlRequest) -> Result<ControlResponse, ControlError> {
        let active = self.active()?;
        let response = active.manager()?.submit(request).await;
        response.map_err(|error| active.explain(error))
    }

    async fn preview(&self, request: ControlRequest) -> Result<ServicePreview, ControlError> {
        let snapshot = self.snapshot(false).await?;
        skep_reconcile::preview(&request, &snapshot, clock::now(), &mut clock_random())
    }

    async fn why(&self, object: Option<&str>, sort: &str) -> Result<Why, ControlError> {
        self.reasons(object, sort).await
    }

    async fn logs(
        &self,
        source: LogSource,
        options: LogOptions,
    ) -> Result<LogStream, ControlError> {
        let manager = self.active()?.manager()?;
        logs::open(&manager, source, options).await
    }
}

impl Membership {
    /// Goes on alone with the cluster that this node is a manager of. What belongs to a new cluster
    /// only cannot be given.
    async fn renew_cluster(
        &self,
        active: &Arc<Active>,
        request: &InitRequest,
    ) -> Result<NodeId, ControlError> {
        // Workers are told so in Swarm's words.
        active.manager()?;
        let saved = active.saved();
        let or_saved = |given: &str, saved: &str| match given {
            "" => saved.to_owned(),
            given => given.to_owned(),
        };
        let mut chosen = self
            .choose_addresses(
                &or_saved(&request.listen_addr, &saved.listen),
                &or_saved(&request.advertise_addr, &saved.advertise),
                &request.data_path_addr,
            )
            .await?;
        // What was not asked for anew was asked for before.
        let (origins, before) = (&mut chosen.origins, saved.origins);
        for (given, origin, before) in [
            (&request.listen_addr, &mut origins.listen, before.listen),
            (
                &request.advertise_addr,
                &mut origins.advertise,
                before.advertise,
            ),
        ] {
            if given.is_empty() {
                *origin = before;
            }
        }
        origins.data_path = before.data_path;
        warn!(node = %active.node(), "this manager goes on as the only one of its cluster");
        active.go_on_alone(chosen).await?;
        Ok(active.node())
    }

    /// After a failed init or join nothing remains of it.
    async fn settle<T>(&self, outcome: Result<T, ControlError>) -> Result<T, ControlError> {
        if outcome.is_err() {
            if let Ok(active) = self.active() {
                active.stop().await;
            }
            if let Err(error) = self.inner.files.remove() {
                warn!(
                    error = skep_error_chain(&error),
                    "remains of a failed attempt stay"
                );
            }
            self.inner.state.send_replace(State::Inactive);
        }
        outcome
    }
}
