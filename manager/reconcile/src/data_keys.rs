//! Replaces the keys of encrypted networks without losing a frame.
//!
//! Two generations live side by side. First every node makes a new key and tells its public half;
//! that all have is noted, and when every node has followed the note, and so knows all of them,
//! frames move over to the new generation; when every node has followed that, the old one goes. A
//! node that follows slowly is waited for, and until then all goes on as before; one that is down
//! is not waited for: it takes part again when it is back.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use skep_model::encryption::KeyRing;
use skep_model::{Cluster, Node, NodeId, NodeState, Timestamp};
use skep_store::{Commit, Snapshot, Transaction};

/// Keys are replaced this often. Sessions have keys of their own, two minutes at most, so what was
/// recorded on the wire is safe from a key that leaks later; this bounds how long a stolen key can
/// stand in for its node.
pub const DATA_KEY_LIFE: Duration = Duration::from_secs(24 * 3600);

fn has_encrypted(snapshot: &Snapshot) -> bool {
    snapshot.networks().any(|one| one.spec.is_encrypted())
}

fn ready(snapshot: &Snapshot) -> impl Iterator<Item = &Node> {
    snapshot
        .nodes()
        .map(|node| &**node)
        .filter(|node| node.status.state == NodeState::Ready)
}

/// Ready nodes that can encrypt and have not told of a key of the newest generation.
pub(crate) fn without_newest<'a>(
    snapshot: &'a Snapshot,
    ring: &KeyRing,
) -> impl Iterator<Item = &'a Node> {
    let newest = ring.newest;
    ready(snapshot).filter(move |node| {
        let encryption = &node.description.encryption;
        encryption.is_able() && encryption.key(newest).is_none()
    })
}

/// The newest keys that are told of, those of nodes that are down included, as a digest: nodes
/// change in many other ways, which nobody has to follow. Never zero.
fn told(snapshot: &Snapshot, ring: &KeyRing) -> u64 {
    let mut digest = DefaultHasher::new();
    for node in snapshot.nodes() {
        let encryption = &node.description.encryption;
        if let Some(key) = encryption.key(ring.newest).filter(|_| encryption.is_able()) {
            (node.id.as_str(), &key.public_key, key.port).hash(&mut digest);
        }
    }
    digest.finish().max(1)
}

/// The version of the state that all nodes must follow before the keys can go a step further; 0
/// when nothing waits for them.
pub fn awaited(snapshot: &Snapshot) -> u64 {
    let Some(cluster) = snapshot.cluster().filter(|_| has_encrypted(snapshot)) else {
        return 0;
    };
    let ring = cluster.data_keys;
    let is_next_told = ring.newest == ring.used || ring.told == told(snapshot, &ring);
    match ring.is_settled() || !is_next_told {
        true => 0,
        false => cluster.version.index,
    }
}

/// The commit that takes the keys a step further, if it is time. `networks`: the version of the
/// state that each node's packets follow, as far as it is known.
pub fn advance_keys(
    snapshot: &Snapshot,
    networks: &BTreeMap<NodeId, u64>,
    now: Timestamp,
) -> Option<Commit> {
    let cluster = snapshot.cluster()?;
    let ring = next(snapshot, cluster, networks, now)?;
    let mut tx = Transaction::new(snapshot, now);
    let mut cluster = Cluster::clone(cluster);
    cluster.data_keys = ring;
    tx.put(cluster).expect("there is one cluster");
    tx.commit()
}

fn next(
    snapshot: &Snapshot,
    cluster: &Cluster,
    networks: &BTreeMap<NodeId, u64>,
    now: Timestamp,
) -> Option<KeyRing> {
    let mut ring = cluster.data_keys;
    let changed = |ring: KeyRing| {
        Some(KeyRing {
            changed_at: now,
            ..ring
        })
    };
    if !has_encrypted(snapshot) {
        // Nobody holds a key: the next ones are new in any case.
        (ring.oldest, ring.used, ring.told) = (ring.newest, ring.newest, 0);
        return (ring != cluster.data_keys).then_some(ring);
    }
    if ring.changed_at.is_zero() {
        return changed(ring);
    }
    if ring.is_settled() {
        let due = ring.changed_at.plus(DATA_KEY_LIFE) <= now;
        ring.begin(now);
        return due.then_some(ring);
    }
    if without_newest(snapshot, &ring).next().is_some() {
        return None;
    }
    let told = told(snapshot, &ring);
    if ring.newest > ring.used && ring.told != told {
        return Some(KeyRing { told, ..ring });
    }
    let awaited = awaited(snapshot);
    let followed = |node: &Node| networks.get(&node.id).is_some_and(|at| *at >= awaited);
    if !ready(snapshot).all(followed) {
        return None;
    }
    ring.told = 0;
    if ring.newest > ring.used {
        ring.used = ring.newest;
    } else {
        ring.oldest = ring.used;
    }
    changed(ring)
}
