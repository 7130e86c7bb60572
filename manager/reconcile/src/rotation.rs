//! Has every node get a certificate of the issuer that the cluster wants, and ends the rotation of
//! the root once all have one.
//!
//! During a rotation the next root signs, and the present one has signed the next one, so that
//! nodes believe each other whichever they know. A node that follows trusts both. Once all nodes
//! follow, the old root is dropped, and the join tokens, which pin it, are made anew. A node that
//! is down is waited for until it is back or removed: it would not find back otherwise.

use std::time::Duration;

use skep_model::external_ca::pin_root;
use skep_model::node::RenewalOrder;
use skep_model::{Cluster, JoinTokens, Node, NodeState, Random, Timestamp};
use skep_store::{Commit, Snapshot, Transaction};

use crate::control::join_token;

/// So many nodes are told at a time to renew their certificates, as in Swarm.
pub const RENEWALS_MAX: usize = 30;
/// A node that was told and has not followed for so long holds up nobody else, and is told again.
pub const RENEWAL_PATIENCE: Duration = Duration::from_secs(30);

/// Whether a node's certificate has the issuer that the cluster wants.
pub fn follows_root(cluster: &Cluster, node: &Node) -> bool {
    node.description.tls_info.has_issuer_of(&cluster.tls_info)
}

/// When a node was told to get a certificate of the issuer that the cluster wants now; `None` when
/// it was not, or has followed.
pub fn renewal_due(cluster: &Cluster, node: &Node) -> Option<Timestamp> {
    let order = node.renewal.as_ref()?;
    let is_present = order.issuer == cluster.tls_info.cert_issuer_public_key;
    (is_present && !follows_root(cluster, node)).then_some(order.at)
}

/// The commit that takes the nodes' certificates a step further, if there is something to do now.
pub fn advance_root(
    snapshot: &Snapshot,
    now: Timestamp,
    random: &mut dyn Random,
) -> Option<Commit> {
    let cluster = snapshot.cluster()?;
    // Nobody knows who issues in clusters of tests that have no root.
    if cluster.tls_info.cert_issuer_public_key.is_empty() {
        return None;
    }
    let mut tx = Transaction::new(snapshot, now);
    if snapshot.nodes().all(|node| follows_root(cluster, node)) {
        tx.put(without_old_root(cluster, random)?)
            .expect("there is one cluster");
        return tx.commit();
    }
    for node in to_be_told(snapshot, cluster, now) {
        let mut told = Node::clone(node);
        told.renewal = Some(RenewalOrder {
            issuer: cluster.tls_info.cert_issuer_public_key.clone(),
            at: now,
        });
        tx.put(told).expect("nodes have no unique names");
    }
    tx.commit()
}

/// The cluster after its rotation; `None` when there is none.
fn without_old_root(cluster: &Cluster, random: &mut dyn Random) -> Option<Cluster> {
    let mut cluster = Cluster::clone(cluster);
    let rotation = cluster.root_ca.rotation.take()?;
    cluster.root_rotation_in_progress = false;
    cluster.tls_info.trust_root.clone_from(&rotation.cert);
    // They pin the root that goes.
    cluster.issued_tokens.clear();
    // Settings of before may have authorities that name no root: theirs is the one that goes.
    let authorities = &mut cluster.spec.ca_config.external_cas;
    pin_root(authorities, &[], &cluster.root_ca.cert);
    cluster.root_ca.cert = rotation.cert;
    cluster.root_ca.key = rotation.key;
    cluster.join_tokens = JoinTokens {
        worker: join_token(&rotation.pinned, random),
        manager: join_token(&rotation.pinned, random),
    };
    Some(cluster)
}

/// Ready nodes that are to renew their certificates now: those that were never told first.
fn to_be_told<'a>(snapshot: &'a Snapshot, cluster: &Cluster, now: Timestamp) -> Vec<&'a Node> {
    let behind = || {
        let nodes = snapshot.nodes().map(|node| &**node);
        nodes.filter(|node| node.status.state == NodeState::Ready && !follows_root(cluster, node))
    };
    let is_at_it =
        |node: &Node| renewal_due(cluster, node).is_some_and(|at| now < at.plus(RENEWAL_PATIENCE));
    let under_way = behind().filter(|node| is_at_it(node)).count();
    let mut waiting: Vec<&Node> = behind().filter(|node| !is_at_it(node)).collect();
    waiting.sort_by_key(|node| renewal_due(cluster, node));
    waiting.truncate(RENEWALS_MAX.saturating_sub(under_way));
    waiting
}
