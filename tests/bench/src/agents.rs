//! Many agents that run nothing: they join real managers over the real wire, say that whatever
//! they are given runs, and measure when it came.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use arc_swap::ArcSwap;
use skep_model::node::NodeDescription;
use skep_model::{Task, TaskState, TaskStatus, Timestamp};
use skep_pki::tls::{anonymous_client_config, client_config, unverified_client_config};
use skep_pki::{Identity, request_certificate};
use skep_proto::assignment::Item;
use skep_proto::connect::{Connector, open_once};
use skep_proto::v1::ca_client::CaClient;
use skep_proto::v1::dispatcher_client::DispatcherClient;
use skep_proto::v1::{
    AgentMessage, Applied, Assignments, Empty, Heartbeat, Hello, IssueRequest, StatusBatch,
    TaskStatusReport, agent_message, manager_message,
};
use skep_proto::{MESSAGE_BYTES_MAX, decode, encode};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use crate::api::Api;
use crate::cluster::Cluster;
use crate::table::Table;

/// Nobody pulls it, and nobody is asked which one it is.
const IMAGE: &str =
    "skep/hello@sha256:0000000000000000000000000000000000000000000000000000000000000000";
const AGENTS: usize = 1000;
const TASKS: u64 = 30_000;
/// Tasks come in services of this many, one after the other.
const SERVICE: u64 = 300;
/// Agents that join at the same time.
const JOINING: usize = 32;
/// How often an agent opens a session.
const SESSIONS: usize = 50;
const DEADLINE: Duration = Duration::from_secs(180);
/// How often the API is asked how far things are: each answer counts all tasks.
const ASKED_EVERY: Duration = Duration::from_millis(250);
/// How often it is asked how the nodes are.
const NODES_EVERY: Duration = Duration::from_secs(1);
/// Agents whose tables follow a change, and rounds of it.
const FOLLOWING: usize = 100;
const ROUNDS: usize = 10;

/// What all agents saw.
#[derive(Default)]
struct Seen {
    /// From a task's making to its arrival.
    delays: Mutex<Vec<Duration>>,
    /// Agents that have had a complete set of assignments.
    ready: Mutex<BTreeSet<usize>>,
    /// Sessions that ended before the benchmark did.
    ended: AtomicUsize,
    /// When each agent last heard of endpoints of a service that serve, and how many they were.
    endpoints: Mutex<BTreeMap<usize, (usize, Instant)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp(since.map_or(0, |since| since.as_nanos() as i64))
}

/// A node that only says so.
struct Agent {
    number: usize,
    managers: Arc<Vec<String>>,
    seen: Arc<Seen>,
}

impl Agent {
    fn description(&self) -> NodeDescription {
        let mut description = NodeDescription {
            hostname: format!("mock{}", self.number),
            ..NodeDescription::default()
        };
        description.resources.nano_cpus = skep_model::NanoCpus(64_000_000_000);
        description.resources.memory_bytes = skep_model::MemoryBytes(256 << 30);
        description.platform.os = "linux".to_owned();
        description.platform.architecture = std::env::consts::ARCH.to_owned();
        description
    }

    async fn join(&self, token: &str) -> Result<Identity> {
        let manager = &self.managers[self.number % self.managers.len()];
        let mut stranger = CaClient::new(open_once(manager, unverified_client_config()?));
        let root = stranger.get_root(Empty {}).await?.into_inner().root_pem;
        let key = request_certificate()?;
        let mut ca = CaClient::new(open_once(manager, anonymous_client_config(&root)?));
        let request = IssueRequest {
            csr_pem: key.csr_pem,
            token: token.to_owned(),
            description: encode(&self.description()),
            availability: "active".to_owned(),
            ..Default::default()
        };
        let reply = ca.issue(request).await?.into_inner();
        Ok(Identity::from_pem(&reply.cert_pem, &key.key_pem, &root)?)
    }

    /// Sessions, one after the other: a manager may not know a new node at once.
    async fn live(&self, identity: &Identity) -> Result<()> {
        let mut last = Ok(());
        for _ in 0..SESSIONS {
            last = self.session(identity).await;
            self.seen.ended.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        last
    }

    async fn session(&self, identity: &Identity) -> Result<()> {
        let node = identity.peer.node.to_string();
        let connector = Connector::new(Arc::new(ArcSwap::new(client_config(identity)?)));
        let (out, outgoing) = mpsc::channel(64);
        let hello = agent_message::Content::Hello(Hello {
            description: encode(&self.description()),
        });
        out.send(message(hello)).await?;
        let manager = &self.managers[self.number % self.managers.len()];
        let mut client = DispatcherClient::new(connector.channel(manager))
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut incoming = client
            .session(ReceiverStream::new(outgoing))
            .await?
            .into_inner();
        let mut beat = tokio::time::interval(Duration::from_secs(1));
        let mut arrived = HashSet::new();
        loop {
            let content = tokio::select! {
                received = incoming.message() => received?.context("the session ended")?.content,
                _ = beat.tick() => {
                    out.send(message(agent_message::Content::Heartbeat(Heartbeat { sent: 0 }))).await?;
                    continue;
                }
            };
            match content {
                Some(manager_message::Content::Welcome(welcome)) => {
                    let period = Duration::from_millis(u64::from(welcome.heartbeat_ms.max(100)));
                    beat = tokio::time::interval(period);
                }
                Some(manager_message::Content::Assignments(change)) => {
                    if change.complete {
                        lock(&self.seen.ready).insert(self.number);
                    }
                    let statuses = self.take(&node, &change, &mut arrived)?;
                    if !statuses.is_empty() {
                        let batch = StatusBatch { statuses };
                        out.send(message(agent_message::Content::Statuses(batch)))
                            .await?;
                    }
                    let applied = Applied {
                        version: change.version,
                    };
                    out.send(message(agent_message::Content::Applied(applied)))
                        .await?;
                }
                _ => (),
            }
        }
    }

    /// What is to be said about new assignments.
    fn take(
        &self,
        node: &str,
        change: &Assignments,
        arrived: &mut HashSet<String>,
    ) -> Result<Vec<TaskStatusReport>> {
        let mut statuses = Vec::new();
        // What else there is nobody here has any use for.
        let is_of_interest = |key: &str| key.starts_with("task/") || key.starts_with("service/");
        for item in change.put.iter().filter(|item| is_of_interest(&item.key)) {
            match decode::<Item>("assignment", &item.value)? {
                Item::Task(task) => {
                    let is_new = arrived.insert(item.key.clone());
                    let Some(state) = self.next_state(&task, is_new) else {
                        continue;
                    };
                    statuses.push(TaskStatusReport {
                        node_id: node.to_owned(),
                        task_id: task.id.to_string(),
                        status: encode(&TaskStatus {
                            timestamp: now(),
                            state,
                            ..TaskStatus::default()
                        }),
                    });
                }
                Item::Service(service) if service.name == "changing" => {
                    let serving = service.endpoints.iter().filter(|one| one.serves).count();
                    lock(&self.seen.endpoints).insert(self.number, (serving, Instant::now()));
                }
                _ => (),
            }
        }
        Ok(statuses)
    }

    fn next_state(&self, task: &Task, is_new: bool) -> Option<TaskState> {
        let state = task.status.state;
        if task.desired_state > TaskState::Running {
            return (state <= TaskState::Running).then_some(TaskState::Shutdown);
        }
        if state == TaskState::Assigned && is_new {
            let took = now().0.saturating_sub(task.created_at.0);
            lock(&self.seen.delays).push(Duration::from_nanos(took.try_into().unwrap_or(0)));
        }
        (state < TaskState::Running).then_some(TaskState::Running)
    }
}

fn message(content: agent_message::Content) -> AgentMessage {
    AgentMessage {
        content: Some(content),
    }
}

/// Waits for something with a name.
fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let began = Instant::now();
    while !holds()? {
        ensure!(began.elapsed() < DEADLINE, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(began.elapsed())
}

/// Watches from aside whether nodes that were up are taken for lost.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<usize>,
}

impl Watch {
    fn begin(api: Api) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stops = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut up, mut lost) = (HashSet::new(), HashSet::new());
            while !stops.load(Ordering::Relaxed) {
                // While there is no leader nobody is taken for anything.
                let nodes = api.ask("GET", "/nodes", b"").unwrap_or_default();
                for node in nodes.as_array().into_iter().flatten() {
                    let id = node["ID"].as_str().unwrap_or_default().to_owned();
                    match node["Status"]["State"].as_str() {
                        Some("ready") => drop(up.insert(id)),
                        _ if up.contains(&id) => drop(lost.insert(id)),
                        _ => (),
                    }
                }
                std::thread::sleep(NODES_EVERY);
            }
            lost.len()
        });
        Self { stop, thread }
    }

    /// How many nodes were taken for lost although they lived.
    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or(usize::MAX)
    }
}

fn at(sorted: &[Duration], part: f64) -> f64 {
    let place = ((sorted.len() as f64 - 1.0) * part).round() as usize;
    sorted.get(place).map_or(0.0, |time| ms(*time))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Lets agents join until there are `count`.
fn grow(
    runtime: &tokio::runtime::Runtime,
    seen: &Arc<Seen>,
    managers: &Arc<Vec<String>>,
    token: &str,
    from: usize,
    count: usize,
) -> Result<Duration> {
    let began = Instant::now();
    let turns = Arc::new(Semaphore::new(JOINING));
    for number in from..count {
        let agent = Agent {
            number,
            managers: Arc::clone(managers),
            seen: Arc::clone(seen),
        };
        let (turns, token) = (Arc::clone(&turns), token.to_owned());
        runtime.spawn(async move {
            let turn = turns.acquire_owned().await;
            let mut joined = agent.join(&token).await;
            for _ in 0..SESSIONS {
                if joined.is_ok() {
                    break;
                }
                // No leader at the moment, as after an election.
                tokio::time::sleep(Duration::from_millis(200)).await;
                joined = agent.join(&token).await;
            }
            drop(turn);
            let number = agent.number;
            let ended = match joined {
                Ok(identity) => agent.live(&identity).await,
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                eprintln!("agent {number}: {error:#}");
            }
        });
    }
    until("all agents have a session", || {
        Ok(lock(&seen.ready).len() >= count)
    })?;
    Ok(began.elapsed())
}

fn create(api: &Api, name: &str, replicas: u64, network: &str) -> Result<String> {
    let networks = match network {
        "" => serde_json::json!([]),
        name => serde_json::json!([{"Target": name}]),
    };
    let spec = serde_json::json!({
        "Name": name,
        "TaskTemplate": {
            "ContainerSpec": {"Image": IMAGE},
            "Networks": networks,
        },
        "Mode": {"Replicated": {"Replicas": replicas}},
    });
    let made = api.ask("POST", "/services/create", spec.to_string().as_bytes())?;
    Ok(made["ID"].as_str().unwrap_or_default().to_owned())
}

fn scale(api: &Api, name: &str, replicas: u64) -> Result<()> {
    let service = api.ask("GET", &format!("/services/{name}"), b"")?;
    let mut spec = service["Spec"].clone();
    spec["Mode"]["Replicated"]["Replicas"] = replicas.into();
    let path = format!(
        "/services/{name}/update?version={}",
        service["Version"]["Index"]
    );
    api.ask("POST", &path, spec.to_string().as_bytes())?;
    Ok(())
}

/// Tasks of all services that run.
fn running(api: &Api) -> Result<u64> {
    let services = api.ask("GET", "/services?status=true", b"")?;
    let counts = services.as_array().into_iter().flatten();
    Ok(counts
        .filter_map(|one| one["ServiceStatus"]["RunningTasks"].as_u64())
        .sum())
}

pub fn run(table: &mut Table) -> Result<()> {
    let cluster = Cluster::up()?;
    let api = cluster.api();
    let swarm = api.ask("GET", "/swarm", b"")?;
    let token = swarm["JoinTokens"]["Worker"].as_str().context("a token")?;
    let mut managers = Vec::new();
    for node in api.ask("GET", "/nodes", b"")?.as_array().context("nodes")? {
        // The tasks are for the others.
        let mut spec = node["Spec"].clone();
        spec["Availability"] = "drain".into();
        let id = node["ID"].as_str().unwrap_or_default();
        let path = format!("/nodes/{id}/update?version={}", node["Version"]["Index"]);
        api.ask("POST", &path, spec.to_string().as_bytes())?;
        let address = node["ManagerStatus"]["Addr"]
            .as_str()
            .context("a manager")?;
        managers.push(address.to_owned());
    }
    let managers = Arc::new(managers);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let seen = Arc::new(Seen::default());

    let watch = Watch::begin(cluster.api());
    grow(&runtime, &seen, &managers, token, 0, FOLLOWING)?;
    follow(&api, &seen, table)?;

    let group = format!("{AGENTS} agents");
    let joined = grow(&runtime, &seen, &managers, token, FOLLOWING, AGENTS)?;
    table.add(&group, "all have joined", ms(joined), "ms");
    lock(&seen.delays).clear();
    let before = running(&api)?;
    let began = Instant::now();
    for number in 0..TASKS / SERVICE {
        create(&api, &format!("many{number}"), SERVICE, "")?;
    }
    table.add(&group, "services created", ms(began.elapsed()), "ms");
    let mut told = 0;
    until("all tasks run", || {
        std::thread::sleep(ASKED_EVERY);
        let run = running(&api)? - before;
        if run / 3000 > told {
            told = run / 3000;
            eprintln!("{run} tasks run after {:?}", began.elapsed());
        }
        Ok(run >= TASKS)
    })?;
    table.add(
        &group,
        format!("{TASKS} tasks run"),
        ms(began.elapsed()),
        "ms",
    );
    let mut delays = std::mem::take(&mut *lock(&seen.delays));
    delays.sort();
    table.add(&group, "made to assigned, median", at(&delays, 0.5), "ms");
    table.add(&group, "made to assigned, p99", at(&delays, 0.99), "ms");
    table.add(&group, "made to assigned, worst", at(&delays, 1.0), "ms");
    table.add(&group, "tasks that arrived", delays.len() as f64, "");
    table.add(&group, "nodes taken for lost", watch.end() as f64, "");
    let ended = seen.ended.load(Ordering::Relaxed);
    table.add(&group, "sessions that ended", ended as f64, "");
    for (node, bytes) in cluster.memory()? {
        table.add(
            &group,
            format!("private memory of {node}"),
            bytes as f64 / 1e6,
            "MB",
        );
    }
    Ok(())
}

/// How long a change of a service's endpoints takes to all agents that are on its network.
fn follow(api: &Api, seen: &Seen, table: &mut Table) -> Result<()> {
    let network = serde_json::json!({"Name": "net", "Driver": "overlay", "IPAM": {
        "Config": [{"Subnet": "10.90.0.0/16"}]}});
    api.ask("POST", "/networks/create", network.to_string().as_bytes())?;
    create(api, "everywhere", FOLLOWING as u64, "net")?;
    create(api, "changing", 3, "net")?;
    until(
        "the tasks run",
        || Ok(running(api)? >= FOLLOWING as u64 + 3),
    )?;
    let reached = |count: usize| {
        let all = lock(&seen.endpoints);
        let reached = all.values().filter(|(serving, _)| *serving == count);
        let times: Vec<Instant> = reached.map(|(_, when)| *when).collect();
        (times.len() >= FOLLOWING).then(|| times.into_iter().max())
    };
    let (mut less, mut more) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (replicas, took) in [(1, &mut less), (3, &mut more)] {
            until("all follow", || {
                Ok(reached(if replicas == 1 { 3 } else { 1 }).is_some())
            })?;
            let began = Instant::now();
            scale(api, "changing", replicas)?;
            until("all follow", || Ok(reached(replicas as usize).is_some()))?;
            let last = reached(replicas as usize).flatten().context("somebody")?;
            took.push(last.duration_since(began));
        }
    }
    less.sort();
    more.sort();
    let group = format!("{FOLLOWING} nodes told");
    table.add(&group, "endpoints leave, median", at(&less, 0.5), "ms");
    table.add(&group, "endpoints leave, worst", at(&less, 1.0), "ms");
    table.add(&group, "endpoints come, median", at(&more, 0.5), "ms");
    Ok(())
}
