//! Nodes: how they enter, what they say of themselves, and what becomes of those that are lost.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;
use skep_model::node::{ManagerStatus, NodeDescription, NodeStatus};
use skep_model::{Availability, Network, Node, NodeId, NodeRole, NodeSpec, NodeState, Timestamp};
use skep_plan::allocate::numbers::choose_index;
use skep_store::{Commit, Snapshot, Transaction};

use crate::allocate::Allocator;
use crate::expiry::just_down;
use crate::step::{Stage, orphan};

/// Tasks of a node that has been down for so long are given up.
const ORPHANED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// A node that was just given a certificate.
#[derive(Debug, Clone, Default)]
pub struct NewNode {
    pub id: NodeId,
    pub role: NodeRole,
    pub availability: Availability,
    pub description: NodeDescription,
    /// The address it was heard from.
    pub addr: String,
    /// Present on managers.
    pub manager_status: Option<ManagerStatus>,
}

/// How a node is, as the leader sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeReport {
    pub state: NodeState,
    pub message: String,
    /// Where it was last heard from; empty keeps what is known.
    pub addr: String,
}

/// The commit that takes a node into the cluster, or gives a known one its present role.
pub fn add_node(snapshot: &Snapshot, new: NewNode, now: Timestamp) -> Option<Commit> {
    let mut tx = Transaction::new(snapshot, now);
    put_new(&mut tx, snapshot, new, now);
    tx.commit()
}

pub(crate) fn put_new(tx: &mut Transaction, snapshot: &Snapshot, new: NewNode, now: Timestamp) {
    let mut node = match snapshot.node(&new.id) {
        Some(known) => Node::clone(known),
        None => Node {
            id: new.id.clone(),
            spec: NodeSpec {
                role: new.role,
                availability: new.availability,
                ..NodeSpec::default()
            },
            description: new.description.clone(),
            status: NodeStatus {
                state: NodeState::Unknown,
                since: now,
                ..NodeStatus::default()
            },
            // Its number comes with the next step: those who join at once must not get the same.
            ..Node::default()
        },
    };
    node.role = new.role;
    if !new.addr.is_empty() {
        node.status.addr = new.addr;
    }
    if new.manager_status.is_some() || new.role == NodeRole::Worker {
        node.manager_status = new.manager_status;
    }
    put(tx, node);
}

/// What is heard of a node beside its being alive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeWord {
    pub id: NodeId,
    /// What it says of itself; absent when nothing.
    pub description: Option<NodeDescription>,
    /// Where it was heard from; empty keeps what is known.
    pub addr: String,
}

/// The commit that takes in what nodes say of themselves. Unknown nodes are left out.
pub fn describe_nodes(snapshot: &Snapshot, words: &[NodeWord], now: Timestamp) -> Option<Commit> {
    let mut tx = Transaction::new(snapshot, now);
    for word in words {
        let Some(known) = tx.node(&word.id) else {
            continue;
        };
        let description = word.description.as_ref();
        let describes_anew = description.is_some_and(|said| *said != known.description);
        let is_elsewhere = !word.addr.is_empty() && known.status.addr != word.addr;
        if !describes_anew && !is_elsewhere {
            continue;
        }
        let mut node = Node::clone(known);
        if let Some(description) = description {
            node.description = description.clone();
        }
        if is_elsewhere {
            node.status.addr.clone_from(&word.addr);
        }
        put(&mut tx, node);
    }
    tx.commit()
}

/// The commit that takes in which nodes are up and which are down. Unknown nodes are left out.
pub fn record_node_states(
    snapshot: &Snapshot,
    reports: &[(NodeId, NodeReport)],
    now: Timestamp,
) -> Option<Commit> {
    let mut tx = Transaction::new(snapshot, now);
    for (id, report) in reports {
        let Some(known) = tx.node(id) else { continue };
        let mut node = Node::clone(known);
        if node.status.state != report.state {
            node.status.since = now;
            node.status.down = match report.state {
                NodeState::Down => just_down(snapshot.cluster().map(|it| &**it), now),
                NodeState::Ready | NodeState::Unknown | NodeState::Disconnected => None,
            };
        }
        node.status.state = report.state;
        node.status.message.clone_from(&report.message);
        if !report.addr.is_empty() {
            node.status.addr.clone_from(&report.addr);
        }
        put(&mut tx, node);
    }
    tx.commit()
}

/// The commit that leaves `id` the only manager: the others have lost their votes for good.
pub fn sole_manager(
    snapshot: &Snapshot,
    id: &NodeId,
    status: ManagerStatus,
    now: Timestamp,
) -> Option<Commit> {
    let mut tx = Transaction::new(snapshot, now);
    for known in snapshot.nodes() {
        let mut node = Node::clone(known);
        if node.id == *id {
            node.spec.role = NodeRole::Manager;
            node.role = NodeRole::Manager;
            node.manager_status = Some(status.clone());
        } else {
            node.spec.role = NodeRole::Worker;
            node.role = NodeRole::Worker;
            node.manager_status = None;
        }
        put(&mut tx, node);
    }
    tx.commit()
}

/// The stage of a step that looks at nodes: numbers and addresses for new ones, an end for the
/// tasks of lost ones.
pub(crate) fn advance(stage: &mut Stage<'_>, allocator: &mut Allocator) {
    for id in std::mem::take(&mut stage.memory.removed_nodes) {
        orphan(stage, &id, "node was removed");
    }
    settle(stage, allocator);
    let down = stage.memory.down_nodes.clone();
    for id in down {
        let Some(since) = stage.tx.node(&id).map(|node| node.status.since) else {
            continue;
        };
        let until = since.plus(ORPHANED_AFTER);
        if until <= stage.now {
            orphan(stage, &id, "node has been down for a day");
        } else {
            stage.wake(until);
        }
    }
}

/// Gives nodes their numbers and addresses. Those that cannot have any yet are looked at again.
fn settle(stage: &mut Stage<'_>, allocator: &mut Allocator) {
    let unsettled = std::mem::take(&mut stage.memory.unsettled_nodes);
    let mut numbers: Option<BTreeSet<u16>> = None;
    for id in unsettled {
        let Some(node) = stage.tx.node(&id).cloned() else {
            continue;
        };
        if stage.room() == 0 {
            stage.memory.unsettled_nodes.insert(id);
            let now = stage.now;
            stage.wake(now);
            continue;
        }
        let mut changed = Node::clone(&node);
        if node.index == 0 {
            let used = numbers.get_or_insert_with(|| {
                let nodes = stage.tx.nodes();
                nodes.map(|node| node.index).collect()
            });
            // None is free only beyond 60 000 nodes; 0 says "not yet" and is tried again.
            changed.index = choose_index(used).unwrap_or(0);
            used.insert(changed.index);
        }
        if !lies_in(&node, stage.tx.ingress_network().map(|found| &**found)) {
            changed.ingress_addresses.clear();
        }
        put(&mut stage.tx, changed);
        if !stage.tx.node(&id).is_some_and(has_ingress_address) {
            allocator.node(stage, &id);
        }
        let is_settled = |node: &std::sync::Arc<Node>| node.index != 0 && has_ingress_address(node);
        if !stage.tx.node(&id).is_some_and(is_settled) {
            stage.memory.unsettled_nodes.insert(id);
        }
    }
}

fn has_ingress_address(node: &std::sync::Arc<Node>) -> bool {
    !node.ingress_addresses.is_empty()
}

/// Whether a node's addresses belong to the ingress network of now: it may have been removed, or
/// replaced by another.
fn lies_in(node: &Node, ingress: Option<&Network>) -> bool {
    if node.ingress_addresses.is_empty() {
        return true;
    }
    // A new one has its subnets a step later.
    let Some(ingress) = ingress else { return false };
    let subnets = || ingress.ipam.iter().filter_map(|config| config.subnet);
    let of_node = |text: &String| {
        let net: Option<IpNet> = text.parse().ok();
        net.is_some_and(|net| {
            subnets().any(|subnet| subnet.contains(&net.addr()) && subnet == net.trunc())
        })
    };
    let families = |v6: bool| subnets().any(|subnet| subnet.addr().is_ipv6() == v6);
    let wanted = usize::from(families(false)) + usize::from(families(true));
    node.ingress_addresses.len() == wanted && node.ingress_addresses.iter().all(of_node)
}

fn put(tx: &mut Transaction, node: Node) {
    tx.put(node).expect("nodes have no unique names");
}
