//! Workers that are down for as long as the cluster wishes are removed from it.
//!
//! Time is counted while somebody leads: a cluster that was off as a whole finds its nodes where it
//! left them, and must not take the night for an absence of theirs. How much was counted is
//! replicated, so a leader goes on where the one before has stopped.

use std::time::Duration;

use skep_model::node::DownTime;
use skep_model::{
    Cluster, ControlRequest, Nanos, Node, NodeId, NodeRole, NodeState, Random, Timestamp,
};
use skep_store::{Commit, Snapshot, Transaction};

use crate::control;

/// What was counted is written down so often in the course of an expiry, within these bounds.
const NOTES: u32 = 24;
const NOTE_MIN: Duration = Duration::from_secs(10);
const NOTE_MAX: Duration = Duration::from_secs(3600);
/// A leader removes nobody before it has led for so long, or for one expiry if that is shorter: who
/// starts along with the managers has the time to come.
const LED_MIN: Duration = Duration::from_secs(600);

/// What is to be done about nodes that are down.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Expiry {
    /// Notes for how long they are down.
    pub notes: Option<Commit>,
    /// A node whose time is over, and its removal, which nothing comes of if the node comes back
    /// first. One at a time.
    pub removal: Option<(NodeId, Commit)>,
}

/// What is to be done about nodes that are down. To be asked again and again by whoever leads, since
/// `led_since`.
pub fn expire_nodes(
    snapshot: &Snapshot,
    led_since: Timestamp,
    now: Timestamp,
    random: &mut dyn Random,
) -> Expiry {
    let Some(expiry) = snapshot.cluster().and_then(|cluster| wanted(cluster)) else {
        return Expiry::default();
    };
    let step = step(expiry);
    let down = || snapshot.nodes().filter(|node| may_expire(node));
    let mut tx = Transaction::new(snapshot, now);
    for node in down() {
        let noted = node.status.down.map(|down| down.until);
        if noted.is_some_and(|until| now.since(until) < step) {
            continue;
        }
        let mut node = Node::clone(node);
        node.status.down = Some(DownTime {
            counted: nanos(counted(&node, step, now)),
            until: now,
        });
        tx.put(node).expect("nodes have no unique names");
    }
    let has_led = now.since(led_since) >= LED_MIN.min(expiry);
    let over = down().find(|node| has_led && counted(node, step, now) >= expiry);
    let removal = over.and_then(|node| {
        let request = ControlRequest::RemoveNode {
            id: node.id.clone(),
            force: true,
        };
        let (commit, _) = control::execute(&request, snapshot, now, random).ok()?;
        Some((node.id.clone(), commit))
    });
    Expiry {
        notes: tx.commit(),
        removal,
    }
}

/// When a node that is down is removed if it does not come back; absent when never.
pub(crate) fn removed_at(cluster: &Cluster, node: &Node, now: Timestamp) -> Option<Timestamp> {
    let expiry = wanted(cluster).filter(|_| may_expire(node))?;
    let left = expiry.saturating_sub(counted(node, step(expiry), now));
    Some(now.plus(left))
}

/// What a node's status says of its being down, when it has just come to be.
pub(crate) fn just_down(cluster: Option<&Cluster>, now: Timestamp) -> Option<DownTime> {
    cluster.and_then(wanted).map(|_| DownTime {
        counted: Nanos::default(),
        until: now,
    })
}

/// The cluster's wish. One that cannot be read is none: it was refused when somebody tried.
fn wanted(cluster: &Cluster) -> Option<Duration> {
    cluster.spec.node_expiry().ok().flatten()
}

fn step(expiry: Duration) -> Duration {
    (expiry / NOTES).clamp(NOTE_MIN, NOTE_MAX)
}

/// Managers are never removed for being down: their votes are a matter of the quorum.
fn may_expire(node: &Node) -> bool {
    node.status.state == NodeState::Down
        && node.spec.role == NodeRole::Worker
        && node.role == NodeRole::Worker
        && node.manager_status.is_none()
}

/// For how long a node is down. A time in which nobody has written anything down does not count:
/// nobody led.
fn counted(node: &Node, step: Duration, now: Timestamp) -> Duration {
    match &node.status.down {
        // From before there was a wish.
        None => now.since(node.status.since),
        Some(down) => {
            let since = now.since(down.until);
            let counts = since <= step * 2;
            down.counted.duration() + if counts { since } else { Duration::ZERO }
        }
    }
}

fn nanos(length: Duration) -> Nanos {
    Nanos(i64::try_from(length.as_nanos()).unwrap_or(i64::MAX))
}
