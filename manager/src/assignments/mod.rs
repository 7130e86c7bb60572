//! What each node is assigned: computed from snapshots, the same on every manager. Pure.
//!
//! What nodes have in common is made once per version, from that of the version before: it costs
//! what has changed, not what there is. The same comparison says which nodes it concerns, so that
//! nobody else has to look.

mod affected;
mod network;
mod peer;
mod task;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use imbl::{OrdMap, OrdSet};
use skep_model::{NetworkId, Node, NodeId, NodeRole, Timestamp};
use skep_proto::assignment::{Encryption, Item, LocalNode};
use skep_proto::encode;
use skep_store::Snapshot;

pub use affected::Affected;
use network::{OnNetwork, Presence};
pub use told::Told;

/// An item and its key, encoded once for everybody who is told of it.
#[derive(Debug, Clone, PartialEq)]
struct Part {
    key: Arc<str>,
    value: Bytes,
}

impl Part {
    fn new(item: &Item) -> Self {
        Self {
            key: item.key().into(),
            value: encode(item).into(),
        }
    }
}

/// The parts of assignments that many nodes have in common, as of one version.
#[derive(Clone, Default)]
pub struct Shared {
    snapshot: Snapshot,
    /// Each allocated network with its services.
    networks: OrdMap<NetworkId, OnNetwork>,
    ingress: Option<NetworkId>,
    /// How often each node is on each network: its tasks there, and its plain containers.
    presence: Presence,
    peers: OrdMap<NodeId, Part>,
    /// The nodes that all others know, and that know all others.
    hubs: OrdSet<NodeId>,
    encryption: Option<Encryption>,
    /// The networks that nodes are on for plain containers.
    guests: Arc<BTreeMap<NodeId, BTreeSet<NetworkId>>>,
    /// See [`Shared::awaited`].
    awaited: Arc<[u64]>,
}

impl Shared {
    pub fn new(snapshot: Snapshot) -> Self {
        Self::default().follow(snapshot).0
    }

    /// The same at a later version, and whom the difference concerns.
    pub fn follow(&self, snapshot: Snapshot) -> (Self, Affected) {
        let mut next = self.clone();
        next.snapshot = snapshot;
        let mut affected = Affected::default();
        next.follow_cluster(self, &mut affected);
        next.follow_networks(self, &mut affected);
        next.follow_nodes(self, &mut affected);
        next.follow_tasks(self, &mut affected);
        next.follow_awaited(self, &mut affected);
        (next, affected)
    }

    /// What concerns everybody at once.
    fn follow_cluster(&mut self, before: &Self, affected: &mut Affected) {
        self.encryption = encryption(&self.snapshot);
        if self.encryption != before.encryption
            || data_path_port(&self.snapshot) != data_path_port(&before.snapshot)
            || trusted_roots(&self.snapshot) != trusted_roots(&before.snapshot)
        {
            affected.add_all();
        }
        // They hardly ever change, and nobody notes who uses them.
        let secrets = self
            .snapshot
            .changes_since::<skep_model::Secret>(&before.snapshot);
        let configs = self
            .snapshot
            .changes_since::<skep_model::Config>(&before.snapshot);
        let secrets = secrets.filter(|(old, _)| old.is_some()).count();
        // Tasks may be there before the credentials that they are pulled with.
        let logins = self
            .snapshot
            .changes_since::<skep_model::RegistryLogin>(&before.snapshot);
        let payloads = secrets + configs.filter(|(old, _)| old.is_some()).count();
        if payloads + logins.count() > 0 {
            affected.add_all();
        }
    }

    /// Somebody waits for all nodes: they are to say how far they follow, news or not.
    fn follow_awaited(&mut self, before: &Self, affected: &mut Affected) {
        let awaited = awaited(&self.snapshot);
        let begins = awaited.iter().any(|at| !before.awaited.contains(at));
        if begins {
            affected.add_all();
        }
        if *awaited != *before.awaited {
            self.awaited = awaited.into();
        }
    }

    /// The version that everything in here belongs to.
    pub fn version(&self) -> u64 {
        self.snapshot.version().index
    }

    /// The versions that something waits for every node to follow, in order: a task that is to
    /// stop, the replacement of keys.
    pub fn awaited(&self) -> &Arc<[u64]> {
        &self.awaited
    }

    /// Whether the node is still a member.
    pub fn is_member(&self, node: &NodeId) -> bool {
        self.snapshot.node(node).is_some()
    }

    /// The role that the node's next certificate is to have.
    pub fn role_wanted(&self, node: &NodeId, holds: NodeRole) -> Option<NodeRole> {
        let node = self.snapshot.node(node)?;
        Some(crate::roles::next(node, holds))
    }

    /// What nodes are to trust, PEM; empty while the cluster is not known here.
    pub fn trusted_roots(&self) -> String {
        trusted_roots(&self.snapshot)
    }

    /// When the node was told to get a certificate of another issuer, while it has none.
    pub fn renewal_due(&self, node: &NodeId) -> Option<Timestamp> {
        let cluster = self.snapshot.cluster()?;
        skep_reconcile::renewal_due(cluster, self.snapshot.node(node)?)
    }

    fn local(&self, node: &Node) -> LocalNode {
        LocalNode {
            node: node.id.clone(),
            hostname: node.description.hostname.clone(),
            index: node.index,
            ingress_addresses: node.ingress_addresses.clone(),
            data_path_port: data_path_port(&self.snapshot),
            vtep: peer::vtep(node),
            encryption: self.encryption.clone(),
        }
    }
}

fn trusted_roots(snapshot: &Snapshot) -> String {
    let cluster = snapshot.cluster();
    cluster.map_or_else(String::new, |cluster| cluster.root_ca.trusted())
}

fn data_path_port(snapshot: &Snapshot) -> u16 {
    let port = snapshot
        .cluster()
        .map_or(0, |cluster| cluster.data_path_port);
    match port {
        0 => 4789,
        port => port,
    }
}

/// The versions that somebody waits for, in order.
fn awaited(snapshot: &Snapshot) -> Vec<u64> {
    let drained = snapshot.draining_tasks().map(|task| task.version.index);
    let keys = skep_reconcile::awaited_by_keys(snapshot);
    let all: BTreeSet<u64> = drained.chain([keys]).filter(|at| *at > 0).collect();
    all.into_iter().collect()
}

/// What all nodes must know of the encrypted networks; nothing while there is none.
fn encryption(snapshot: &Snapshot) -> Option<Encryption> {
    let encrypted = snapshot.networks().filter(|one| one.spec.is_encrypted());
    let vnis: BTreeSet<u32> = encrypted
        .map(|one| one.vni)
        .filter(|vni| *vni != 0)
        .collect();
    let keys = snapshot.cluster()?.data_keys;
    (!vnis.is_empty()).then(|| Encryption {
        keys,
        vnis: vnis.into_iter().collect(),
    })
}

#[cfg(test)]
mod tests;
