//! A whole run: faults first, then peace, then everything must be as it was asked for.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use skep_model::node::{ManagerStatus, NodeDescription, Reachability};
use skep_model::resources::Resources;
use skep_model::{
    ClusterId, ControlRequest, MemoryBytes, NanoCpus, NodeId, NodeRole, NodeState, Timestamp,
};
use skep_reconcile::{
    InitialCluster, Memory, NewNode, NodeReport, add_node, confirm_drained, control,
    initial_cluster, reconcile, record_node_states, record_statuses,
};
use skep_store::{Commit, Snapshot};

use crate::host::Host;
use crate::invariant::{self, Drains, Failures, Watcher};
use crate::log::Log;
use crate::random::Dice;
use crate::sabotage::{self, Sabotage};
use crate::session::{self, Desk};
use crate::tell::{Failure, Outcome, describe, last_words, tell};
use crate::user;

/// A node is down after it was not heard for so long.
const SILENCE: Duration = Duration::from_secs(3);
/// Peace must bring everything in order within this time.
const PEACE_MAX: Duration = Duration::from_secs(400);
/// After that nothing may change any more for this long.
const QUIET: Duration = Duration::from_secs(90);

/// Where a run tells what happens; lines are made only if somebody wants them.
pub type Trace<'a> = dyn FnMut(&dyn Fn() -> String) + 'a;

/// Runs the world that `seed` makes. `trace` is called for each thing that happens.
pub fn run(seed: u64, trace: &mut Trace<'_>) -> Result<Outcome, Failure> {
    run_with(seed, None, trace)
}

/// The same with a bug put in.
pub fn run_with(
    seed: u64,
    sabotage: Option<Sabotage>,
    trace: &mut Trace<'_>,
) -> Result<Outcome, Failure> {
    let mut world = World::new(seed, sabotage);
    let alive = AssertUnwindSafe(|| world.live(trace));
    let result = catch_unwind(alive).unwrap_or_else(|panic| Err(last_words(&*panic)));
    let at_secs = (world.now.0 - START.0) / 1_000_000_000;
    match result {
        Ok(()) => Ok(world.outcome),
        Err(what) => Err(Failure {
            seed,
            at_secs,
            what,
        }),
    }
}

const START: Timestamp = Timestamp::from_secs(1_000_000);

struct World {
    dice: Dice,
    now: Timestamp,
    log: Log,
    memory: Memory,
    wake_at: Option<Timestamp>,
    hosts: Vec<Host>,
    /// What those who propose something have looked at.
    seen: Snapshot,
    managers: Managers,
    /// When the leader last heard each node; a new leader starts with one period of grace.
    heard: BTreeMap<NodeId, Timestamp>,
    /// How far each node's packets follow, as the leader knows.
    followed: BTreeMap<NodeId, u64>,
    rough: bool,
    sabotage: Option<Sabotage>,
    last_change: Timestamp,
    outcome: Outcome,
}

/// What there is of managers beside the log.
struct Managers {
    desks: Vec<Desk>,
    watchers: Vec<Watcher>,
    drains: Drains,
    failures: Failures,
}

impl Managers {
    fn new(log: &Log) -> Self {
        let watchers: Vec<Watcher> = log.stores().map(Watcher::new).collect();
        Self {
            desks: watchers.iter().map(|_| Desk::default()).collect(),
            watchers,
            drains: Drains::default(),
            failures: Failures::default(),
        }
    }
}

impl World {
    fn new(seed: u64, sabotage: Option<Sabotage>) -> Self {
        let mut dice = Dice::new(seed);
        let managers = usize::try_from(dice.between(1, 3)).unwrap_or(1);
        let log = Log::new(managers);
        Self {
            dice,
            now: START,
            managers: Managers::new(&log),
            log,
            memory: Memory::new(),
            wake_at: None,
            hosts: Vec::new(),
            seen: Snapshot::default(),
            heard: BTreeMap::new(),
            followed: BTreeMap::new(),
            rough: true,
            sabotage,
            last_change: START,
            outcome: Outcome::default(),
        }
    }

    fn live(&mut self, trace: &mut Trace<'_>) -> Result<(), String> {
        self.found(trace)?;
        let faults_end = self
            .now
            .plus(Duration::from_secs(self.dice.between(30, 120)));
        while self.now < faults_end {
            let step = self.dice.between(50, 800);
            self.tick(step, trace)?;
        }
        trace(&|| "peace".to_owned());
        self.make_peace(trace)?;
        self.settle(trace)?;
        self.outcome.commits = self.log.len();
        let watchers = self.managers.watchers.iter();
        self.outcome.fresh_watches = watchers.map(|one| one.fresh_starts).sum();
        Ok(())
    }

    /// The cluster and its first nodes.
    fn found(&mut self, trace: &mut Trace<'_>) -> Result<(), String> {
        let cluster = InitialCluster {
            id: ClusterId::random(&mut self.dice),
            ..InitialCluster::default()
        };
        let commit = initial_cluster(cluster, self.now, &mut self.dice);
        self.commit(&commit, trace)?;
        for at in 0..self.dice.between(2, 5) {
            self.join(at == 0, trace)?;
        }
        Ok(())
    }

    fn join(&mut self, manager: bool, trace: &mut Trace<'_>) -> Result<(), String> {
        let id = NodeId::random(&mut self.dice);
        let node = NewNode {
            id: id.clone(),
            role: match manager {
                true => NodeRole::Manager,
                false => NodeRole::Worker,
            },
            description: NodeDescription {
                hostname: format!("n{}", self.hosts.len()),
                resources: Resources {
                    nano_cpus: NanoCpus(4_000_000_000),
                    memory_bytes: MemoryBytes(1 << 30),
                    generic_resources: Vec::new(),
                },
                data_path_mtu: 1500,
                holds_leases: true,
                knows_variables: true,
                asks_stores: true,
                ..NodeDescription::default()
            },
            manager_status: manager.then(|| ManagerStatus {
                reachability: Reachability::Reachable,
                ..ManagerStatus::default()
            }),
            ..NewNode::default()
        };
        let commit = add_node(&self.log.snapshot(), node, self.now);
        self.hosts.push(Host::new(id));
        commit.map_or(Ok(()), |commit| self.commit(&commit, trace).map(drop))
    }

    /// A moment passes.
    fn tick(&mut self, millis: u64, trace: &mut Trace<'_>) -> Result<(), String> {
        self.now = self.now.plus(Duration::from_millis(millis));
        if self.rough {
            self.strike(trace)?;
        }
        self.advance_hosts();
        self.hear_how_far();

        // All of these look at the same state, so they race, as they do in life.
        let mut proposals: Vec<(&str, Commit)> = Vec::new();
        let seen = self.log.snapshot();
        self.seen = seen.clone();
        if self.rough && self.dice.chance(25) {
            proposals.extend(self.ask(&seen, trace));
        }
        proposals.extend(self.reports(&seen));
        proposals.extend(self.heartbeats(&seen));
        proposals.extend(self.drains(&seen));
        proposals.extend(self.reconcile(&seen, trace));
        if self.rough {
            self.dice.shuffle(&mut proposals);
        }
        for (what, commit) in proposals {
            if self.rough && self.dice.chance(4) {
                trace(&|| format!("the proposal of {what} is lost"));
                continue;
            }
            if !self.commit(&commit, trace)? {
                trace(&|| format!("the commit of {what} is refused"));
            }
        }
        let lag = match self.rough {
            true => 8,
            false => 0,
        };
        self.log.follow(&mut self.dice, lag)?;
        self.read_watches()?;
        invariant::always(&self.log.snapshot(), &self.hosts, &self.managers.drains)
    }

    fn commit(&mut self, commit: &Commit, trace: &mut Trace<'_>) -> Result<bool, String> {
        let before = self.log.snapshot();
        match self.log.commit(commit) {
            Ok(applied) => {
                if !applied.events.is_empty() {
                    self.last_change = self.now;
                }
                for event in &applied.events {
                    trace(&|| tell(event));
                }
                self.managers.drains.follow(&applied.events);
                self.managers.failures.follow(&applied.events);
                let states = [&self.seen, &before, &self.log.snapshot()];
                invariant::after_commit(&applied.events, states)?;
                Ok(true)
            }
            Err(_) => {
                self.outcome.conflicts += 1;
                Ok(false)
            }
        }
    }

    /// Something breaks, now and then.
    fn strike(&mut self, trace: &mut Trace<'_>) -> Result<(), String> {
        if self.dice.chance(3) {
            self.log.elect(&mut self.dice)?;
            self.memory = Memory::new();
            self.heard.clear();
            self.followed.clear();
            // A new leader has heard nothing yet.
            let sessions = self.hosts.iter_mut().flat_map(|host| &mut host.session);
            sessions.for_each(|session| session.reported = 0);
            self.outcome.elections += 1;
            trace(&|| format!("manager {} leads", self.log.leader()));
        }
        if self.dice.chance(3) {
            self.log.restore(&mut self.dice)?;
        }
        if self.dice.chance(2) {
            let with = self.dice.below(self.managers.desks.len() as u64);
            trace(&|| format!("sessions with manager {with} end"));
            for host in &mut self.hosts {
                host.session.take_if(|session| session.with as u64 == with);
            }
        }
        if self.dice.chance(1) && self.hosts.len() < 7 {
            trace(&|| "a node joins".to_owned());
            self.join(false, trace)?;
        }
        for host in &mut self.hosts {
            let whole = host.on && host.connected;
            if whole && self.dice.chance(1) {
                let millis = self.dice.between(500, 15_000);
                host.heals_at = self.now.plus(Duration::from_millis(millis));
                self.outcome.node_faults += 1;
                match self.dice.chance(50) {
                    true => {
                        trace(&|| format!("{} crashes", host.id));
                        host.crash();
                    }
                    false => {
                        trace(&|| format!("{} is cut off", host.id));
                        host.connected = false;
                    }
                }
            } else if !whole && host.heals_at <= self.now {
                trace(&|| format!("{} is back", host.id));
                host.on = true;
                host.connected = true;
            }
        }
        Ok(())
    }

    /// Managers see whom their news concerns; those hosts are told, and go on.
    fn advance_hosts(&mut self) {
        let stores = self.log.stores();
        session::follow(&mut self.managers.desks, stores, &mut self.hosts);
        for host in &mut self.hosts {
            let when = (self.now, self.rough);
            host.listen(&self.managers.desks, when, &mut self.dice, self.sabotage);
            host.advance(self.now, self.rough, &mut self.dice);
        }
    }

    /// Managers tell the leader how far nodes follow, when somebody waits for that.
    fn hear_how_far(&mut self) {
        for host in &mut self.hosts {
            if let Some(version) = host.follows() {
                self.followed.insert(host.id.clone(), version);
            }
        }
    }

    fn drains(&mut self, seen: &Snapshot) -> Option<(&'static str, Commit)> {
        self.followed.retain(|node, _| seen.node(node).is_some());
        if self.sabotage == Some(Sabotage::TakeAllToFollow) {
            let all = seen.nodes().map(|node| (node.id.clone(), u64::MAX));
            self.followed = all.collect();
        }
        let commit = confirm_drained(seen, &self.followed, self.now)?;
        Some(("the drains", commit))
    }

    /// Those who watch read what there is, or leave it for later.
    fn read_watches(&mut self) -> Result<(), String> {
        let compares = !self.rough || self.dice.chance(10);
        for (watcher, store) in self.managers.watchers.iter_mut().zip(self.log.stores()) {
            if self.rough && self.dice.chance(60) {
                continue;
            }
            watcher.read(store, self.sabotage)?;
            if compares {
                watcher.compare(store)?;
            }
        }
        if compares {
            invariant::hosts_know_everything(&self.hosts, &self.managers.desks)?;
        }
        Ok(())
    }

    fn ask(&mut self, seen: &Snapshot, trace: &mut Trace<'_>) -> Option<(&'static str, Commit)> {
        let request = self.removal(seen);
        let request = request.or_else(|| user::wish(seen, &mut self.dice))?;
        self.request(&request, seen, trace)
    }

    /// Now and then a node that is down is removed for good.
    fn removal(&mut self, seen: &Snapshot) -> Option<ControlRequest> {
        let down: Vec<NodeId> = seen
            .nodes()
            .filter(|node| node.status.state == NodeState::Down)
            .filter(|node| node.spec.role == NodeRole::Worker)
            .map(|node| node.id.clone())
            .collect();
        let id = self.dice.pick(&down).cloned()?;
        self.dice
            .chance(15)
            .then_some(ControlRequest::RemoveNode { id, force: true })
    }

    fn request(
        &mut self,
        request: &ControlRequest,
        seen: &Snapshot,
        trace: &mut Trace<'_>,
    ) -> Option<(&'static str, Commit)> {
        self.outcome.requests += 1;
        match control::execute(request, seen, self.now, &mut self.dice) {
            Ok((commit, _)) if commit.is_empty() => None,
            Ok((commit, _)) => {
                trace(&|| describe(request));
                Some(("the user", commit))
            }
            Err(error) => {
                self.outcome.refused += 1;
                trace(&|| format!("{}: {error}", describe(request)));
                None
            }
        }
    }

    fn reports(&mut self, seen: &Snapshot) -> Option<(&'static str, Commit)> {
        let mut reports = Vec::new();
        for host in &self.hosts {
            reports.extend(host.reports(seen, self.now));
        }
        let commit = record_statuses(seen, &reports, self.now)?;
        Some(("the agents", commit))
    }

    fn heartbeats(&mut self, seen: &Snapshot) -> Option<(&'static str, Commit)> {
        let mut changed = Vec::new();
        for host in &self.hosts {
            let Some(node) = seen.node(&host.id) else {
                continue;
            };
            let heard = self.heard.entry(host.id.clone()).or_insert(self.now);
            if host.is_heard() {
                *heard = self.now;
            }
            let state = match (host.is_heard(), self.now.since(*heard) > SILENCE) {
                (true, _) => NodeState::Ready,
                (false, true) => NodeState::Down,
                (false, false) => continue,
            };
            if node.status.state != state {
                let report = NodeReport {
                    state,
                    ..NodeReport::default()
                };
                changed.push((host.id.clone(), report));
            }
        }
        let commit = record_node_states(seen, &changed, self.now)?;
        Some(("the node monitor", commit))
    }

    fn reconcile(
        &mut self,
        seen: &Snapshot,
        trace: &mut Trace<'_>,
    ) -> Option<(&'static str, Commit)> {
        let mut step = reconcile(seen, &mut self.memory, self.now, &mut self.dice);
        if let Some(sabotage) = self.sabotage {
            sabotage::spoil(sabotage, &mut step.commit, seen, &mut self.dice);
        }
        for note in &step.notes {
            trace(&|| format!("note: {note}"));
        }
        self.wake_at = step.wake_at;
        step.commit.map(|commit| ("the control loop", commit))
    }

    /// Faults end, and the user asks for nothing impossible any more.
    fn make_peace(&mut self, trace: &mut Trace<'_>) -> Result<(), String> {
        self.rough = false;
        for host in &mut self.hosts {
            host.on = true;
            host.connected = true;
        }
        if self.dice.chance(50) {
            // Services that are to be even are not any more.
            self.join(false, trace)?;
        }
        // Requests may be refused while the loop writes; a user tries again.
        for _ in 0..50 {
            if self.amend(trace)? {
                break;
            }
            self.tick(100, trace)?;
        }
        Ok(())
    }

    /// The user takes back what cannot be. Tells whether there was nothing to take back.
    fn amend(&mut self, trace: &mut Trace<'_>) -> Result<bool, String> {
        let requests = user::make_amends(&self.log.snapshot());
        for request in &requests {
            let seen = self.log.snapshot();
            if let Some((_, commit)) = self.request(request, &seen, trace) {
                self.commit(&commit, trace)?;
            }
        }
        Ok(requests.is_empty())
    }

    /// Waits until all is in order, and then sees that nothing changes any more.
    fn settle(&mut self, trace: &mut Trace<'_>) -> Result<(), String> {
        let began = self.now;
        loop {
            // A host that was removed while it was away finds out and stops what it had.
            let known = self.log.snapshot();
            self.hosts.retain(|host| known.node(&host.id).is_some());
            self.tick(500, trace)?;
            if self.dice.chance(5) {
                // What broke last may have paused an update only now.
                self.amend(trace)?;
            }
            let quiet = self.now.since(self.last_change) > QUIET;
            let failures = &self.managers.failures;
            let state = invariant::in_the_end(&self.log.snapshot(), &self.hosts, failures);
            match state {
                Ok(()) if quiet => break,
                Err(what) if quiet => return Err(format!("nothing happens any more, but {what}")),
                Err(what) if self.now.since(began) > PEACE_MAX => {
                    return Err(format!("after a long peace {what}"));
                }
                Ok(()) if self.now.since(began) > PEACE_MAX + QUIET => {
                    return Err("all is in order, but changes go on for ever".to_owned());
                }
                Ok(()) | Err(_) => (),
            }
        }
        self.outcome.peace_secs =
            i64::try_from(self.last_change.since(began).as_secs()).unwrap_or(i64::MAX);
        // A new leader finds nothing to do either.
        self.memory = Memory::new();
        let seen = self.log.snapshot();
        if let Some((_, commit)) = self.reconcile(&seen, trace)
            && !self.managers.failures.explain(&commit)
        {
            return Err(format!("a new leader would change things: {commit:?}"));
        }
        invariant::replicas_identical(&self.log.settle()?)
    }
}
