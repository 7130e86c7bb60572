//! A whole cluster in one process and without a wire: the control loop of the leader, what every manager tells
//! every agent, and agents that say at once that whatever they are given runs. What a log does to a
//! commit is done as well: it is written as text, read again and applied.

use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use skep_manager::assignments::{Affected, Shared, Told};
use skep_model::node::NodeDescription;
use skep_model::{
    ClusterId, ControlRequest, MemoryBytes, NanoCpus, NodeId, NodeRole, NodeState, ServiceSpec,
    TaskId, TaskState, TaskStatus, Timestamp, Version,
};
use skep_proto::assignment::Item;
use skep_proto::decode;
use skep_reconcile::{
    InitialCluster, Memory, NewNode, NodeReport, add_node, control, initial_cluster, reconcile,
    record_node_states, record_statuses,
};
use skep_store::{Change, Commit, Store};

use crate::table::Table;

const AGENTS: usize = 10_000;
const TASKS: usize = 100_000;
/// Tasks come in services of this many.
const SERVICE: usize = 100;
/// Words of agents that go into one commit, as managers hand them on.
const REPORTS_MAX: usize = 2_000;
/// Objects in one piece of a snapshot.
const PIECE: usize = 200;
/// Steps without anything new to decide, and changes of one service.
const ROUNDS: usize = 30;
/// Time that passes for the cluster between two steps.
const PACE: Duration = Duration::from_millis(100);

/// How long each thing took, every time.
#[derive(Default)]
struct Times {
    step: Vec<Duration>,
    write: Vec<Duration>,
    tell: Vec<Duration>,
    report: Vec<Duration>,
}

struct World {
    store: Store,
    version: u64,
    now: Timestamp,
    seed: u64,
    memory: Memory,
    shared: Shared,
    /// What each agent was told.
    told: HashMap<NodeId, Told>,
    /// What agents have to say.
    words: Vec<(TaskId, NodeId, TaskStatus)>,
    times: Times,
    /// Bytes of commits, as the log has them.
    written: usize,
    items: usize,
}

/// splitmix64.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *seed;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl World {
    fn new() -> Result<Self> {
        let mut world = Self {
            store: Store::new(),
            version: 0,
            now: Timestamp::from_secs(1_000_000),
            seed: 1,
            memory: Memory::new(),
            shared: Shared::default(),
            told: HashMap::new(),
            words: Vec::new(),
            times: Times::default(),
            written: 0,
            items: 0,
        };
        let cluster = InitialCluster {
            id: ClusterId::new("bench"),
            ..InitialCluster::default()
        };
        let commit = initial_cluster(cluster, world.now, &mut || random(&mut world.seed));
        world.write(&commit)?;
        Ok(world)
    }

    /// What the log does on one manager.
    fn write(&mut self, commit: &Commit) -> Result<Duration> {
        let began = Instant::now();
        let text = serde_json::to_vec(commit)?;
        let read: Commit = serde_json::from_slice(&text)?;
        self.version += 1;
        self.store.apply(self.version, &read)?;
        self.written += text.len();
        Ok(began.elapsed())
    }

    fn join(&mut self, agents: usize) -> Result<()> {
        let mut reports = Vec::new();
        for number in 0..agents {
            let id = NodeId::new(format!("node{number:06}"));
            let mut description = NodeDescription {
                hostname: id.to_string(),
                data_path_mtu: 1500,
                holds_leases: true,
                knows_variables: true,
                asks_stores: true,
                ..NodeDescription::default()
            };
            description.resources.nano_cpus = NanoCpus(64_000_000_000);
            description.resources.memory_bytes = MemoryBytes(256 << 30);
            let node = NewNode {
                id: id.clone(),
                role: NodeRole::Worker,
                description,
                addr: format!(
                    "10.{}.{}.{}",
                    number >> 16,
                    (number >> 8) & 255,
                    number & 255
                ),
                ..NewNode::default()
            };
            let commit = add_node(&self.store.snapshot(), node, self.now).context("a new node")?;
            self.write(&commit)?;
            let ready = NodeReport {
                state: NodeState::Ready,
                ..NodeReport::default()
            };
            reports.push((id.clone(), ready));
            self.told.insert(id, Told::default());
        }
        for batch in reports.chunks(REPORTS_MAX) {
            let commit = record_node_states(&self.store.snapshot(), batch, self.now);
            self.write(&commit.context("nodes that were not ready")?)?;
        }
        // They are given their numbers.
        while self.step()? {}
        Ok(())
    }

    /// One turn of the control loop and all that follows from it. Whether there was anything to do.
    fn step(&mut self) -> Result<bool> {
        self.now = self.now.plus(PACE);
        let snapshot = self.store.snapshot();
        let began = Instant::now();
        let step = reconcile(&snapshot, &mut self.memory, self.now, &mut || {
            random(&mut self.seed)
        });
        self.times.step.push(began.elapsed());
        let Some(commit) = step.commit else {
            return Ok(step.wake_at.is_some_and(|at| at <= self.now));
        };
        let took = self.write(&commit)?;
        self.times.write.push(took);
        self.memory.taken();
        self.tell()?;
        self.hear()?;
        Ok(true)
    }

    /// A round of assignments: everybody whom the news concerns is told.
    fn tell(&mut self) -> Result<()> {
        let began = Instant::now();
        let (shared, affected) = self.shared.follow(self.store.snapshot());
        self.shared = shared;
        let mut changes = Vec::new();
        for node in concerned(&affected, &self.told) {
            let told = self.told.get_mut(&node).context("a node that joined")?;
            if let Some(change) = told.next(&self.shared, &node) {
                changes.push((node, change));
            }
        }
        self.times.tell.push(began.elapsed());
        // From here on it is the agents' work.
        for (node, change) in changes {
            self.items += change.put.len() + change.remove.len();
            for item in change
                .put
                .iter()
                .filter(|item| item.key.starts_with("task/"))
            {
                let Item::Task(task) = decode::<Item>("assignment", &item.value)? else {
                    continue;
                };
                let state = match task.desired_state {
                    TaskState::Running if task.status.state == TaskState::Assigned => {
                        TaskState::Running
                    }
                    wanted if wanted > TaskState::Running => TaskState::Shutdown,
                    _ => continue,
                };
                let status = TaskStatus {
                    timestamp: self.now,
                    state,
                    ..TaskStatus::default()
                };
                self.words.push((task.id.clone(), node.clone(), status));
            }
        }
        Ok(())
    }

    fn hear(&mut self) -> Result<()> {
        let words = std::mem::take(&mut self.words);
        for batch in words.chunks(REPORTS_MAX) {
            let began = Instant::now();
            let commit = record_statuses(&self.store.snapshot(), batch, self.now);
            if let Some(commit) = commit {
                self.write(&commit)?;
            }
            self.times.report.push(began.elapsed());
        }
        Ok(())
    }

    fn ask(&mut self, request: &ControlRequest) -> Result<()> {
        let snapshot = self.store.snapshot();
        let (commit, _) =
            control::execute(request, &snapshot, self.now, &mut || random(&mut self.seed))?;
        self.write(&commit)?;
        Ok(())
    }

    fn running(&self) -> usize {
        let snapshot = self.store.snapshot();
        snapshot.tasks().filter(|task| task.serves()).count()
    }
}

fn concerned(affected: &Affected, told: &HashMap<NodeId, Told>) -> Vec<NodeId> {
    match affected.nodes() {
        Some(nodes) => nodes
            .iter()
            .filter(|node| told.contains_key(*node))
            .cloned()
            .collect(),
        None => told.keys().cloned().collect(),
    }
}

fn spec(number: usize, replicas: usize) -> Result<ServiceSpec> {
    let spec = json!({
        "Name": format!("service{number}"),
        "TaskTemplate": {"ContainerSpec": {
            "Image": format!("registry.example/team/service{number}:1"),
            "Env": ["MODE=production", "LOG=info"],
        }},
        "Mode": {"Replicated": {"Replicas": replicas}},
    });
    Ok(serde_json::from_value(spec)?)
}

/// Private memory of this process in bytes.
fn memory() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or_default() * 1024.0
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn add(table: &mut Table, group: &str, what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |part: f64| {
        let place = (times.len().saturating_sub(1) as f64 * part).round() as usize;
        times.get(place).map_or(0.0, |time| ms(*time))
    };
    table.add(group, format!("{what}, median"), at(0.5), "ms");
    table.add(group, format!("{what}, p99"), at(0.99), "ms");
    table.add(group, format!("{what}, worst"), at(1.0), "ms");
}

/// `skep-bench scale [AGENTS [TASKS]]`.
pub fn run(args: &[String], table: &mut Table) -> Result<()> {
    let number = |at: usize, default: usize| match args.get(at) {
        None => Ok(default),
        Some(text) => text
            .parse()
            .with_context(|| format!("`{text}` is no number")),
    };
    let (agents, tasks) = (number(0, AGENTS)?, number(1, TASKS)?);
    ensure!(
        agents > 0 && tasks >= SERVICE,
        "at least one agent and {SERVICE} tasks"
    );
    let group = format!("{agents} in process");
    let empty = memory();
    let mut world = World::new()?;
    let began = Instant::now();
    world.join(agents)?;
    table.add(&group, "all agents have joined", ms(began.elapsed()), "ms");
    world.tell()?;
    table.add(
        &group,
        "memory with nodes alone",
        (memory() - empty) / 1e6,
        "MB",
    );
    place(&mut world, tasks, &group, table)?;
    table.add(&group, "memory with all", (memory() - empty) / 1e6, "MB");
    change(&mut world, &group, table)?;
    recover(&world, &group, table)
}

/// All tasks, from the services' creation until agents have said that they run.
fn place(world: &mut World, tasks: usize, group: &str, table: &mut Table) -> Result<()> {
    world.times = Times::default();
    let items = world.items;
    let began = Instant::now();
    for number in 0..tasks / SERVICE {
        let spec = Box::new(spec(number, SERVICE)?);
        world.ask(&ControlRequest::CreateService { spec })?;
    }
    table.add(group, "services created", ms(began.elapsed()), "ms");
    let began = Instant::now();
    while world.step()? {}
    let took = began.elapsed();
    let wanted = tasks / SERVICE * SERVICE;
    ensure!(
        world.running() == wanted,
        "{} of {wanted} run",
        world.running()
    );
    let times = std::mem::take(&mut world.times);
    let deciding: Duration = times.step.iter().sum();
    let rate = |took: Duration| wanted as f64 / took.as_secs_f64();
    table.add(group, "placed, control steps alone", rate(deciding), "/s");
    table.add(
        group,
        "placed and told to run, all in all",
        rate(took),
        "/s",
    );
    let Times {
        mut step,
        mut write,
        mut tell,
        mut report,
    } = times;
    table.add(group, "control steps", step.len() as f64, "");
    add(table, group, "control step", &mut step);
    add(table, group, "commit written, read and applied", &mut write);
    add(table, group, "round of assignments", &mut tell);
    add(table, group, "words of agents taken in", &mut report);
    let items = (world.items - items) as f64;
    table.add(group, "items told to agents", items, "");
    Ok(())
}

/// What it costs when little changes.
fn change(world: &mut World, group: &str, table: &mut Table) -> Result<()> {
    world.times = Times::default();
    for _ in 0..ROUNDS {
        world.step()?;
    }
    add(
        table,
        group,
        "step without news",
        &mut std::mem::take(&mut world.times.step),
    );
    let mut all = Vec::new();
    for round in 0..ROUNDS {
        let snapshot = world.store.snapshot();
        let service = snapshot.services().next().context("a service")?;
        let mut spec = service.spec.clone();
        let replicas = SERVICE + 1 + round % 2;
        spec.mode = self::spec(0, replicas)?.mode;
        let request = ControlRequest::UpdateService {
            id: service.id.clone(),
            version: service.version,
            spec: Box::new(spec),
            registry_auth_from: Default::default(),
            rollback: false,
            revision: None,
        };
        let began = Instant::now();
        world.ask(&request)?;
        while world.step()? {}
        all.push(began.elapsed());
    }
    let mut tell = std::mem::take(&mut world.times.tell);
    add(
        table,
        group,
        "one replica more or less, all in all",
        &mut all,
    );
    add(table, group, "round of assignments for it", &mut tell);
    Ok(())
}

/// A snapshot, what comes back of it, and a leader that begins with that.
fn recover(world: &World, group: &str, table: &mut Table) -> Result<()> {
    let began = Instant::now();
    let mut pieces = Vec::new();
    for piece in world.store.snapshot().dump(PIECE) {
        pieces.push(serde_json::to_vec(&piece)?);
    }
    table.add(group, "snapshot made", ms(began.elapsed()), "ms");
    let bytes: usize = pieces.iter().map(Vec::len).sum();
    table.add(group, "snapshot", bytes as f64 / 1e6, "MB");
    table.add(
        group,
        "commits of all this",
        world.written as f64 / 1e6,
        "MB",
    );
    let began = Instant::now();
    let mut changes: Vec<Change> = Vec::new();
    for piece in &pieces {
        changes.extend(serde_json::from_slice::<Vec<Change>>(piece)?);
    }
    let store = Store::new();
    store.restore(Version::at(world.version), changes)?;
    table.add(
        group,
        "recovered from the snapshot",
        ms(began.elapsed()),
        "ms",
    );
    let snapshot = store.snapshot();
    ensure!(
        snapshot.same_content(&world.store.snapshot()),
        "what comes back is not what was there"
    );
    let began = Instant::now();
    let mut seed = 2;
    let step = reconcile(&snapshot, &mut Memory::new(), world.now, &mut || {
        random(&mut seed)
    });
    table.add(
        group,
        "first step of a new leader",
        ms(began.elapsed()),
        "ms",
    );
    let changes = step.commit.map_or(0, |commit| commit.changes.len());
    table.add(group, "what it would change", changes as f64, "");
    let began = Instant::now();
    let shared = Shared::new(snapshot);
    let mut sets = BTreeMap::new();
    for node in world.told.keys() {
        let whole = Told::default().next(&shared, node);
        sets.insert(node, whole.map_or(0, |whole| whole.put.len()));
    }
    table.add(
        group,
        "complete sets for all agents",
        ms(began.elapsed()),
        "ms",
    );
    black_box(sets);
    Ok(())
}
