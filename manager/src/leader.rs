//! What runs on the leader only: the control loop, the watch over nodes, role changes.
//!
//! The loop is woken by keys, by time and by changes of leadership, and always does the same:
//! look at the present state, decide, commit.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use skep_consensus::{Leadership, ProposeError};
use skep_model::node::Reachability;
use skep_model::{Node, NodeId, NodeState, Timestamp};
use skep_reconcile::autoscale::Scaling;
use skep_reconcile::{Memory, NodeReport, Resting};
use skep_store::{Commit, Snapshot, Transaction};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::autoscale;
use crate::clock;
use crate::machine::encode_command;
use crate::manager::Core;
use crate::roles;
use crate::submit::{self, CommitError};

/// The loop looks again this often even when nothing seems to change.
const IDLE: Duration = Duration::from_secs(10);
/// Nodes and roles are looked at this often.
const TICK: Duration = Duration::from_millis(250);
/// A step that was much work is followed by as long a pause, up to this: agents and their reports
/// need a turn as well, and one step does as much as two.
const BREATH: Duration = Duration::from_millis(100);
/// Clocks that go apart by so much were set.
const APART_MAX: Duration = Duration::from_secs(1);
/// Services that are scaled by themselves are looked at this often.
const SCALED_EVERY: Duration = Duration::from_secs(5);
/// Pause after a step that could not be committed.
const RETRY: Duration = Duration::from_millis(100);
/// Heartbeat period of agents when the cluster says none, and its bounds.
const HEARTBEAT: (Duration, Duration, Duration) = (
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(60),
);

/// The heartbeat period to use for a cluster's setting.
pub fn heartbeat(wanted: Option<Duration>) -> Duration {
    match wanted {
        None | Some(Duration::ZERO) => HEARTBEAT.1,
        Some(wanted) => wanted.clamp(HEARTBEAT.0, HEARTBEAT.2),
    }
}

/// Runs for as long as the manager does, and acts while it leads.
pub async fn run(core: Arc<Core>) {
    let mut leadership = core.consensus.leadership();
    loop {
        if leadership.wait_for(|now| now.is_me).await.is_err() {
            return;
        }
        // Everything that earlier leaders acknowledged must be seen before anything is decided.
        if core.consensus.read_barrier().await.is_err() {
            tokio::time::sleep(RETRY).await;
            continue;
        }
        info!(node = %core.node, "this manager leads now");
        lead(&core, &mut leadership).await;
        info!(node = %core.node, "this manager leads no longer");
    }
}

async fn lead(core: &Arc<Core>, leadership: &mut watch::Receiver<Leadership>) {
    let since = clock::now();
    lock(core).restart(since);
    let mut applied = core.machine.applied();
    let mut memory = Memory::new();
    memory.time_is_steady_since(clock::now());
    let (mut clocks, mut looked_at) = (Clocks::read(), Instant::now());
    let mut resting = Resting::default();
    let (mut scaling, mut scaled_at) = (Scaling::default(), Instant::now());
    core.usages
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clear();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while leadership.borrow().is_me {
        applied.mark_unchanged();
        if clocks.differ() {
            clocks = Clocks::read();
            warn!("the clock was set, or this machine slept: times are measured anew");
            memory.time_is_steady_since(clock::now());
            resting = Resting::default();
        }
        // What is decided about nodes must not be decided from how they were long ago.
        if looked_at.elapsed() > TICK * 2 {
            watch_nodes(core).await;
        }
        let stepped = step(core, memory).await;
        looked_at = Instant::now();
        memory = stepped.memory;
        let breath = stepped.took.min(BREATH);
        let pause = stepped
            .wake_at
            .map_or(IDLE, |at| at.since(clock::now()).min(IDLE))
            .max(breath);
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() { return },
            changed = applied.changed() => {
                if changed.is_err() { return }
                tokio::time::sleep(breath).await;
            }
            () = tokio::time::sleep(pause) => (),
            () = core.leader_wake.notified() => {
                watch_nodes(core).await;
                follow_networks(core).await;
            }
            _ = tick.tick() => {
                watch_nodes(core).await;
                follow_networks(core).await;
                follow_root(core).await;
                follow_stacks(core, memory.steady_since(), &mut resting).await;
                roles::reconcile(core).await;
                if scaled_at.elapsed() >= SCALED_EVERY {
                    scaled_at = Instant::now();
                    autoscale::look(core, &mut scaling).await;
                }
                expire_nodes(core, since).await;
                remind(core).await;
            }
        }
    }
}

fn lock(core: &Core) -> std::sync::MutexGuard<'_, crate::liveness::Liveness> {
    core.liveness.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The clock on the wall, and one that nobody sets.
struct Clocks(Timestamp, Instant);

impl Clocks {
    fn read() -> Self {
        Self(clock::now(), Instant::now())
    }

    /// Whether they have gone apart since.
    fn differ(&self) -> bool {
        let (wall, steady) = (clock::now(), self.1.elapsed());
        wall.since(self.0.plus(steady))
            .max(self.0.plus(steady).since(wall))
            > APART_MAX
    }
}

/// What came of one look.
struct Stepped {
    memory: Memory,
    /// When to look again.
    wake_at: Option<Timestamp>,
    /// How long it took to decide.
    took: Duration,
}

/// One look at the present state. Deciding can be much work, and is done aside of the threads that
/// hear heartbeats.
async fn step(core: &Arc<Core>, mut memory: Memory) -> Stepped {
    let snapshot = core.machine.store().snapshot();
    let deciding = tokio::task::spawn_blocking(move || {
        let began = Instant::now();
        let (now, mut random) = (clock::now(), clock::random());
        let step = skep_reconcile::reconcile(&snapshot, &mut memory, now, &mut random);
        let command = step.commit.as_ref().map(encode_command);
        let changes = step.commit.map_or(0, |commit| commit.changes.len());
        (memory, step.wake_at, command, changes, began.elapsed())
    });
    let (mut memory, wake_at, command, changes, took) = match deciding.await {
        Ok(decided) => decided,
        // Nobody may lead who cannot decide.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The daemon stops.
            Err(_) => {
                return Stepped {
                    memory: Memory::new(),
                    wake_at: None,
                    took: Duration::ZERO,
                };
            }
        },
    };
    let Some(command) = command else {
        return Stepped {
            memory,
            wake_at,
            took,
        };
    };
    debug!(changes, ?took, "step");
    let wake_at = match submit::propose_command(core, command).await {
        Ok(()) => {
            memory.taken();
            wake_at
        }
        Err(CommitError::Conflict { message, .. }) => {
            // The next step compares what was expected with what is, and decides anew.
            debug!(message, "step lost a race");
            Some(clock::now())
        }
        Err(CommitError::Propose(error)) => {
            warn!(%error, "step could not be committed");
            if matches!(error, ProposeError::TooBig { .. }) {
                memory.too_big();
            }
            tokio::time::sleep(RETRY).await;
            Some(clock::now())
        }
    };
    Stepped {
        memory,
        wake_at,
        took,
    }
}

/// Declares nodes up and down, and notes how managers fare.
async fn watch_nodes(core: &Arc<Core>) {
    let snapshot = core.machine.store().snapshot();
    let now = clock::now();
    let period = snapshot
        .cluster()
        .map(|cluster| cluster.spec.dispatcher.heartbeat_period.duration());
    let states: Vec<(NodeId, NodeState)> = {
        let mut liveness = lock(core);
        liveness.retain(|node| snapshot.node(node).is_some());
        let nodes = snapshot.nodes().map(|node| (&node.id, node.status.state));
        liveness.transitions(nodes, heartbeat(period), now)
    };
    for (node, state) in &states {
        info!(%node, ?state, "node");
    }
    let reports: Vec<(NodeId, NodeReport)> = states
        .into_iter()
        .map(|(node, state)| {
            let message = match state {
                NodeState::Down => "heartbeat failure".to_owned(),
                NodeState::Ready | NodeState::Unknown | NodeState::Disconnected => String::new(),
            };
            (
                node,
                NodeReport {
                    state,
                    message,
                    addr: String::new(),
                },
            )
        })
        .collect();
    let commits = [
        skep_reconcile::record_node_states(&snapshot, &reports, now),
        record_managers(&snapshot, &managers(core, &snapshot), now),
    ];
    for commit in commits.into_iter().flatten() {
        match submit::propose(core, &commit).await {
            // A lost race is looked at again with the next tick.
            Ok(()) | Err(CommitError::Conflict { .. }) => (),
            Err(CommitError::Propose(error)) => {
                debug!(%error, "node states could not be committed");
            }
        }
    }
}

/// Removes workers that are down for as long as the cluster wishes, one at a time.
async fn expire_nodes(core: &Arc<Core>, led_since: Timestamp) {
    let snapshot = core.machine.store().snapshot();
    let now = clock::now();
    let due = skep_reconcile::expire_nodes(&snapshot, led_since, now, &mut clock::random());
    if let Some((id, commit)) = due.removal {
        let node = snapshot.node(&id);
        let name = node.map_or("", |node| node.description.hostname.as_str());
        match submit::propose(core, &commit).await {
            Ok(()) => warn!(node = %id, name, "removed from the cluster: it was down for too long"),
            // It may just have come back: looked at again with the next tick.
            Err(error) => debug!(node = %id, ?error, "a node that is down could not be removed"),
        }
        return;
    }
    if let Some(commit) = due.notes
        && let Err(error) = submit::propose(core, &commit).await
    {
        debug!(?error, "for how long nodes are down could not be noted");
    }
}

/// Tells of secrets that expire.
async fn remind(core: &Arc<Core>) {
    let snapshot = core.machine.store().snapshot();
    let Some(commit) = skep_reconcile::remind(&snapshot, clock::now()) else {
        return;
    };
    // A secret that has changed meanwhile is looked at again with the next tick.
    if let Err(error) = submit::propose(core, &commit).await {
        debug!(?error, "that secrets expire could not be noted");
    }
}

/// Does what has waited for the nodes' packets to follow: tasks may stop that no node leads anybody
/// to any more, and the keys of encrypted networks go a step further.
async fn follow_networks(core: &Arc<Core>) {
    let snapshot = core.machine.store().snapshot();
    let now = clock::now();
    let commits = {
        let mut networks = core.networks.lock().unwrap_or_else(PoisonError::into_inner);
        networks.retain(|node, _| snapshot.node(node).is_some());
        [
            skep_reconcile::confirm_drained(&snapshot, &networks, now),
            skep_reconcile::advance_keys(&snapshot, &networks, now),
        ]
    };
    for commit in commits.into_iter().flatten() {
        match submit::propose(core, &commit).await {
            // What changed meanwhile is looked at again: its nodes will report once more.
            Ok(()) | Err(CommitError::Conflict { .. }) => (),
            Err(CommitError::Propose(error)) => {
                debug!(%error, "what waited for the nodes could not be committed");
            }
        }
    }
}

/// Has nodes get certificates of the issuer that is wanted, a batch at a time, and ends the rotation
/// of the root when all have one.
async fn follow_root(core: &Arc<Core>) {
    let snapshot = core.machine.store().snapshot();
    let commit = skep_reconcile::advance_root(&snapshot, clock::now(), &mut clock::random());
    let Some(commit) = commit else { return };
    match submit::propose(core, &commit).await {
        Ok(()) => {
            let in_progress = |snapshot: &Snapshot| {
                let cluster = snapshot.cluster();
                cluster.is_some_and(|cluster| cluster.root_rotation_in_progress)
            };
            if in_progress(&snapshot) && !in_progress(&core.machine.store().snapshot()) {
                info!("the root is rotated: all nodes have certificates of the new one");
            }
        }
        // A node or the wanted root has changed meanwhile: looked at again with the next tick.
        Err(CommitError::Conflict { .. }) => (),
        Err(CommitError::Propose(error)) => {
            debug!(%error, "the rotation of the root could not be taken further");
        }
    }
}

/// Notes that the deploy of a stack has come to its end, brings back one that failed, and what others
/// have made of one.
async fn follow_stacks(core: &Arc<Core>, steady_since: Timestamp, resting: &mut Resting) {
    let snapshot = core.machine.store().snapshot();
    let now = clock::now();
    let commit = {
        let mut random = clock::random();
        skep_reconcile::advance_stacks(&snapshot, steady_since, now, &mut random)
            .or_else(|| skep_reconcile::settle_stacks(&snapshot, resting, now, &mut random))
    };
    let Some(commit) = commit else { return };
    match submit::propose(core, &commit).await {
        // What has changed meanwhile is looked at with the next tick.
        Ok(()) | Err(CommitError::Conflict { .. }) => (),
        Err(CommitError::Propose(error)) => {
            debug!(%error, "how far a stack has come could not be noted");
        }
    }
}

/// The commit that notes how managers fare.
fn record_managers(
    snapshot: &Snapshot,
    managers: &[(NodeId, bool, Reachability)],
    now: Timestamp,
) -> Option<Commit> {
    let mut transaction = Transaction::new(snapshot, now);
    for (id, leader, reachability) in managers {
        let Some(node) = snapshot.node(id) else {
            continue;
        };
        let mut node = Node::clone(node);
        if let Some(status) = &mut node.manager_status {
            status.leader = *leader;
            status.reachability = *reachability;
        }
        transaction.put(node).expect("nodes have no unique names");
    }
    transaction.commit()
}

/// Which managers lead and answer, by node.
fn managers(core: &Core, snapshot: &Snapshot) -> Vec<(NodeId, bool, Reachability)> {
    let metrics = core.consensus.metrics();
    snapshot
        .nodes()
        .filter(|node| node.manager_status.is_some())
        .map(|node| {
            let raft_id = node
                .manager_status
                .as_ref()
                .map_or(0, |status| status.raft_id);
            let is_me = raft_id == core.raft_id;
            let follower = metrics
                .followers
                .iter()
                .find(|follower| follower.id == raft_id);
            let reachable = is_me || follower.is_some_and(|follower| follower.reachable);
            let reachability = if reachable {
                Reachability::Reachable
            } else {
                Reachability::Unreachable
            };
            (node.id.clone(), is_me, reachability)
        })
        .collect()
}
