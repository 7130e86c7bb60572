//! Keeps this node as assigned: one driver per task, and the host's network as a whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skep_engine::{Engine, EventQuery, Filters, Guest, ListOptions};
use skep_model::encryption::DataKey;
use skep_model::node::NetworkProblem;
use skep_model::{NetworkId, Protocol, PublishMode, Task, TaskId, TaskStatus};
use skep_net::{
    Connections, Failure, Host, HostPort, NetError, gateway_address6, names, next_gateway_address,
};
use tokio::sync::{Notify, watch};
use tonic::transport::Channel;
use tracing::{debug, warn};

use crate::assigned::Assigned;
use crate::cutter::Cutter;
use crate::encryption::Keys;
use crate::journal::{Entry, Journal, JournalError};
use crate::network::{self, SandboxChoice};
use crate::paths;
use crate::status::Statuses;
use crate::task::driver::Driver;
use crate::task::spec::TASK_ID_LABEL;

/// Changes of the network are collected this long before they are put into effect.
const SETTLE: Duration = Duration::from_millis(10);
/// The host's network is compared with what it should be this often even when nothing changed:
/// somebody else may have changed it.
const REPAIR: Duration = Duration::from_secs(2);

/// Failures that are told of at the same time.
const FAILURES_MAX: usize = 50;

/// Why a task's namespace cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("no free address is left for the task's gateway leg")]
    NoGatewayAddress,
    #[error("port {0}/sctp cannot be published on this node: its kernel has no SCTP")]
    NoSctp(u16),
}

/// What all drivers share.
pub struct Worker {
    pub(crate) engine: Arc<Engine>,
    host: Arc<Host>,
    run_dir: PathBuf,
    underlay_mtu: u32,
    keys: Keys,
    journal: Journal,
    pub(crate) statuses: Statuses,
    assigned: watch::Sender<Arc<Assigned>>,
    manager: watch::Sender<Option<Channel>>,
    /// Namespaces that exist or are being made, with the choices for them.
    sandboxes: Mutex<BTreeMap<TaskId, SandboxChoice>>,
    /// Held while the host's network is changed, so that a whole comparison never takes down a
    /// namespace that is just being made.
    network: tokio::sync::Mutex<()>,
    network_changed: Notify,
    /// What is wrong with this node's networks: ways to other nodes, and what could not be made.
    problems: watch::Sender<Problems>,
    cutter: Arc<Cutter>,
    drivers: Mutex<HashMap<TaskId, Handle>>,
    remembered: Mutex<BTreeMap<TaskId, Entry>>,
}

/// What is wrong with a node's networks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    /// Of the ways to other nodes.
    paths: Vec<NetworkProblem>,
    /// Of what is to be on this host.
    unmade: Vec<NetworkProblem>,
}

impl Problems {
    /// All of them.
    pub fn all(&self) -> Vec<NetworkProblem> {
        [self.unmade.clone(), self.paths.clone()].concat()
    }
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
            underlay_mtu,
            keys,
            journal,
            statuses: Statuses::default(),
            assigned: watch::Sender::new(Arc::new(Assigned::default())),
            manager: watch::Sender::new(None),
            sandboxes: Mutex::default(),
            network: tokio::sync::Mutex::default(),
            network_changed: Notify::new(),
            problems: watch::Sender::default(),
            cutter,
            drivers: Mutex::default(),
            remembered: Mutex::new(remembered),
        }))
    }

    /// The host's data plane.
    pub(crate) fn host(&self) -> Arc<Host> {
        Arc::clone(&self.host)
    }

    /// What is wrong with this node's networks, now and later.
    pub fn problems(&self) -> watch::Receiver<Problems> {
        self.problems.subscribe()
    }

    /// Takes in what is wrong with the ways to other nodes.
    pub(crate) fn tell_paths(&self, paths: Vec<NetworkProblem>) {
        self.problems.send_if_modified(|known| {
            paths::log_changes(&known.paths, &paths);
            let changed = known.paths != paths;
            known.paths = paths;
            changed
        });
    }

    /// Takes in what of the host's network could not be made.
    fn tell_failures(&self, failures: &[Failure]) {
        let mut unmade: Vec<NetworkProblem> = failures
            .iter()
            .take(FAILURES_MAX)
            .map(|failure| NetworkProblem {
                message: format!("{}: {}", failure.object, failure.error.chain()),
                ..NetworkProblem::default()
            })
            .collect();
        unmade.sort();
        unmade.dedup();
        self.problems.send_if_modified(|known| {
            let changed = known.unmade != unmade;
            known.unmade = unmade;
            changed
        });
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

    /// Keeps the host's network as assigned: after each change, and every two seconds against
    /// changes by others.
    pub async fn keep_network(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.network_changed.notified() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(REPAIR) => (),
            }
            self.apply_network().await;
        }
    }

    async fn apply_network(self: &Arc<Self>) {
        let _changing = self.network.lock().await;
        let assigned = self.assigned();
        let sandboxes = lock(&self.sandboxes).clone();
        let guests = self.present_guests();
        let state = network::host_state(&assigned, &sandboxes, &guests, self.underlay_mtu);
        let Some(mut state) = state else {
            return;
        };
        let version = assigned.version;
        let worker = Arc::clone(self);
        let began = std::time::Instant::now();
        let report = tokio::task::spawn_blocking(move || {
            worker.write_zones(&assigned);
            let (host, mtu) = (&worker.host, worker.underlay_mtu);
            state.encryption = worker.keys.follow(host, &assigned, mtu);
            worker.host.follow(&state)
        })
        .await;
        debug!(version, sandboxes = sandboxes.len(), took = ?began.elapsed(), "network followed");
        match report {
            Ok((report, stale)) => {
                for change in &report.changes {
                    debug!(change, "network");
                }
                for failure in &report.failures {
                    warn!(object = failure.object, error = %failure.error.chain(), "network");
                }
                self.tell_failures(&report.failures);
                // A port that another program of this host holds leads nobody anywhere.
                // Nor does a firewall that is not ours keep anybody from following.
                let harmless = |failure: &Failure| {
                    matches!(failure.error, NetError::PublishedPort { .. })
                        || failure.object == "firewalls"
                };
                let follows = report.failures.iter().all(harmless);
                self.cutter.cut(stale, follows.then_some(version));
            }
            Err(error) => warn!(%error, "the host's network could not be compared"),
        }
    }

    /// Plain containers on networks of the cluster, as far as their namespaces are there.
    fn present_guests(&self) -> Vec<Guest> {
        let mut guests = self.engine.guests();
        guests.retain(|guest| self.host.namespaces().exists(&guest.netns));
        guests
    }

    /// Leads a plain container's places into its namespace.
    pub(crate) async fn wire(self: &Arc<Self>, guest: &Guest) -> Result<(), NetError> {
        // An encrypted network's tunnel is there before the network is.
        let assigned = self.assigned();
        let is_encrypted = guest.endpoints.iter().any(|endpoint| {
            let network = assigned.networks.get(endpoint.network.as_str());
            network.is_some_and(|network| network.spec.is_encrypted())
        });
        if is_encrypted {
            self.apply_network().await;
        }
        let _changing = self.network.lock().await;
        let (worker, guest, assigned) = (Arc::clone(self), guest.clone(), self.assigned());
        let wired = tokio::task::spawn_blocking(move || {
            worker.write_zones(&assigned);
            let sandbox = network::guest::sandbox(&guest, &assigned);
            let overlays = network::guest::overlays_of(&guest, &assigned);
            worker.host.prepare_sandbox(&sandbox, &overlays).map(drop)
        })
        .await;
        self.network_changed.notify_one();
        wired.unwrap_or_else(|error| {
            Err(NetError::Invalid {
                object: "sandbox".to_owned(),
                reason: error.to_string(),
            })
        })
    }

    /// Has the host's network compared soon.
    pub(crate) fn network_is_different(&self) {
        self.network_changed.notify_one();
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

    fn write_zones(&self, assigned: &Assigned) {
        let directory = self.run_dir.join("dns");
        if let Err(error) = std::fs::create_dir_all(&directory) {
            warn!(%error, directory = %directory.display(), "zone files cannot be written");
            return;
        }
        let mut wanted = BTreeSet::new();
        for network in assigned
            .networks
            .values()
            .filter(|network| !network.spec.ingress)
        {
            let path = self.zone_path(&network.id);
            if let Err(error) = network::zone(network, assigned).write_if_changed(&path) {
                warn!(%error, network = %network.spec.name, "a zone file could not be written");
            }
            wanted.insert(path);
        }
        // Zones of networks that are gone. Other files here belong to others.
        for entry in std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            let is_ours = path
                .extension()
                .is_some_and(|extension| extension == "zone")
                && path
                    .file_stem()
                    .is_some_and(|stem| stem.len() == skep_model::id::ID_LEN);
            if is_ours && !wanted.contains(&path) {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    pub(crate) fn zone_path(&self, network: &NetworkId) -> PathBuf {
        network::zone_path(&self.run_dir, network)
    }

    pub(crate) fn netns_path(&self, task: &TaskId) -> PathBuf {
        self.host
            .namespaces()
            .path(&names::task_netns(task.as_str()))
    }

    pub(crate) fn has_sandbox(&self, task: &TaskId) -> bool {
        lock(&self.sandboxes).contains_key(task)
    }

    pub(crate) fn sandbox_choice(&self, task: &TaskId) -> Option<SandboxChoice> {
        lock(&self.sandboxes).get(task).cloned()
    }

    /// Makes a task's namespace and wires it up.
    pub(crate) async fn prepare_sandbox(
        self: &Arc<Self>,
        task: &Arc<Task>,
    ) -> Result<(), SandboxError> {
        // An encrypted network's tunnel is there before the network is.
        let is_encrypted = network::named_networks(task, &self.assigned())
            .iter()
            .any(|network| network.spec.is_encrypted());
        if is_encrypted {
            self.apply_network().await;
        }
        let _changing = self.network.lock().await;
        let assigned = self.assigned();
        let choice = self.choose(task, &assigned)?;
        self.keep_choice(&task.id, &choice);
        lock(&self.sandboxes).insert(task.id.clone(), choice.clone());
        let (worker, made_for) = (Arc::clone(self), Arc::clone(task));
        let made = tokio::task::spawn_blocking(move || {
            worker.write_zones(&assigned);
            let sandbox = network::sandbox(&made_for, &choice, &assigned);
            let overlays = network::overlays_of(&made_for, &assigned);
            worker.host.prepare_sandbox(&sandbox, &overlays).map(drop)
        })
        .await;
        let outcome = made.unwrap_or_else(|error| {
            Err(NetError::Invalid {
                object: "sandbox".to_owned(),
                reason: error.to_string(),
            })
        });
        if outcome.is_err() {
            lock(&self.sandboxes).remove(&task.id);
        }
        self.network_changed.notify_one();
        Ok(outcome?)
    }

    fn choose(&self, task: &Task, assigned: &Assigned) -> Result<SandboxChoice, SandboxError> {
        let ports = task.endpoint.iter().flat_map(|endpoint| &endpoint.ports);
        let mut sctp = ports.filter(|port| port.protocol == Protocol::Sctp);
        if let Some(port) = sctp.next()
            && !self.host.capabilities().sctp
        {
            return Err(SandboxError::NoSctp(port.target_port));
        }
        let used: BTreeSet<Ipv4Addr> = lock(&self.sandboxes)
            .values()
            .filter_map(|choice| choice.gateway)
            .collect();
        let gateway = match network::needs_gateway(task, assigned) {
            false => None,
            true => Some(
                next_gateway_address(self.host.config().gateway_subnet, &used)
                    .ok_or(SandboxError::NoGatewayAddress)?,
            ),
        };
        let host_ports = task
            .endpoint
            .iter()
            .flat_map(|endpoint| &endpoint.ports)
            .filter(|port| port.publish_mode == PublishMode::Host)
            .map(|port| HostPort {
                host: network::port_host(port),
                proto: network::proto(port.protocol),
                published: if port.published_port == 0 {
                    free_port(port.protocol)
                } else {
                    port.published_port
                },
                target: port.target_port,
            })
            .collect();
        let gateway6 = gateway
            .filter(|_| self.host.speaks_ip6())
            .map(|ip4| gateway_address6(self.host.config(), ip4));
        Ok(SandboxChoice {
            gateway,
            gateway6,
            dns_ports: None,
            host_ports,
        })
    }

    /// Leads the namespace's name queries to where the task's resolver listens.
    pub(crate) async fn redirect_dns(
        self: &Arc<Self>,
        task: &TaskId,
        ports: (u16, u16),
    ) -> Result<(), NetError> {
        let choice = {
            let mut sandboxes = lock(&self.sandboxes);
            let Some(choice) = sandboxes.get_mut(task) else {
                return Ok(());
            };
            choice.dns_ports = Some(ports);
            choice.clone()
        };
        self.keep_choice(task, &choice);
        let (worker, netns) = (Arc::clone(self), self.netns_path(task));
        let _changing = self.network.lock().await;
        tokio::task::spawn_blocking(move || worker.host.redirect_dns(&netns, ports.0, ports.1))
            .await
            .unwrap_or_else(|error| {
                Err(NetError::Invalid {
                    object: "resolver".to_owned(),
                    reason: error.to_string(),
                })
            })
    }

    /// Takes a task's namespace down. Unknown is fine.
    pub(crate) async fn remove_sandbox(self: &Arc<Self>, task: &TaskId) -> Result<(), NetError> {
        if !self.has_sandbox(task) {
            return Ok(());
        }
        let _changing = self.network.lock().await;
        let (worker, netns) = (Arc::clone(self), names::task_netns(task.as_str()));
        tokio::task::spawn_blocking(move || worker.host.remove_sandbox(&netns))
            .await
            .unwrap_or_else(|error| {
                Err(NetError::Invalid {
                    object: "sandbox".to_owned(),
                    reason: error.to_string(),
                })
            })?;
        lock(&self.sandboxes).remove(task);
        self.network_changed.notify_one();
        Ok(())
    }

    /// The TCP connections of a task; none when they cannot be told.
    pub(crate) async fn connections(self: &Arc<Self>, task: &TaskId) -> Connections {
        let (worker, netns) = (Arc::clone(self), names::task_netns(task.as_str()));
        let found = tokio::task::spawn_blocking(move || worker.host.connections(&netns)).await;
        found.ok().and_then(Result::ok).unwrap_or_default()
    }

    fn keep_choice(&self, task: &TaskId, choice: &SandboxChoice) {
        let mut remembered = lock(&self.remembered);
        let entry = remembered.entry(task.clone()).or_default();
        entry.sandbox = Some(choice.clone());
        let entry = entry.clone();
        drop(remembered);
        if let Err(error) = self.journal.put(task, &entry) {
            warn!(%task, %error, "a task's network choices could not be journalled");
        }
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

/// A port of this node that nobody listens on; 0 when there is none to be had.
fn free_port(protocol: Protocol) -> u16 {
    let any = (Ipv4Addr::UNSPECIFIED, 0);
    let address = match protocol {
        Protocol::Udp => UdpSocket::bind(any).and_then(|socket| socket.local_addr()),
        Protocol::Tcp | Protocol::Sctp => {
            TcpListener::bind(any).and_then(|socket| socket.local_addr())
        }
    };
    address.map_or(0, |address| address.port())
}
