//! Which nodes know which others.
//!
//! Two nodes need to know each other when frames go between them: when they share a network, and,
//! because any node may be asked for a published port, when one of them has a task on the ingress
//! network. Managers know everybody and are known to everybody, so that they can be found at other
//! addresses. Knowing is mutual: frames of strangers are dropped. In a cluster of many nodes a new
//! one is therefore news for few.

use std::collections::BTreeSet;
use std::net::IpAddr;

use skep_model::{NetworkId, Node, NodeId, NodeRole};
use skep_proto::assignment::{Item, Peer};

use super::{Affected, Part, Shared};

/// Where a node's VXLAN frames leave from: its data-path address, else the one it is known by.
pub(super) fn vtep(node: &Node) -> Option<IpAddr> {
    node.description
        .data_path_addr
        .or_else(|| node.status.addr.parse().ok())
}

fn peer(node: &Node) -> Peer {
    Peer {
        node: node.id.clone(),
        index: node.index,
        vtep: vtep(node),
        ingress_addresses: node.ingress_addresses.clone(),
        address: node.status.addr.parse().ok(),
        addresses: node.description.addresses.clone(),
        keys: node.description.encryption.keys.clone(),
    }
}

fn is_manager(node: &Node) -> bool {
    node.role == NodeRole::Manager
        || node.spec.role == NodeRole::Manager
        || node.manager_status.is_some()
}

/// Whether nothing is different of what is told of a node, to others or to itself.
fn is_same(old: &Node, new: &Node) -> bool {
    let of = |node: &Node| (vtep(node), node.index, node.spec.role, node.role);
    of(old) == of(new)
        && is_manager(old) == is_manager(new)
        && old.status.addr == new.status.addr
        && old.ingress_addresses == new.ingress_addresses
        && old.description.hostname == new.description.hostname
        && old.description.addresses == new.description.addresses
        && old.description.takes_registry_logins == new.description.takes_registry_logins
        && old.description.encryption.keys == new.description.encryption.keys
        && old.renewal == new.renewal
}

impl Shared {
    /// After networks: whom a node knows depends on who is where.
    pub(super) fn follow_nodes(&mut self, before: &Self, affected: &mut Affected) {
        let snapshot = self.snapshot.clone();
        for (old, new) in snapshot.changes_since::<Node>(&before.snapshot) {
            if let (Some(old), Some(new)) = (old, new)
                && is_same(old, new)
            {
                continue;
            }
            let Some(id) = new.or(old).map(|node| &node.id) else {
                continue;
            };
            // A manager that is to be a worker sends its agents elsewhere.
            if let (Some(old), Some(new)) = (old, new)
                && (old.role, old.spec.role) != (new.role, new.spec.role)
            {
                affected.add_all();
            }
            affected.add(id);
            let part = new
                .filter(|node| node.index != 0)
                .map(|node| Part::new(&Item::Peer(peer(node))));
            if self.peers.get(id) != part.as_ref() {
                match part {
                    Some(part) => self.peers.insert(id.clone(), part),
                    None => self.peers.remove(id),
                };
                self.concern_those_who_know(id, before, affected);
            }
            self.follow_hub(id, affected);
        }
    }

    /// Whether a node has become one that all others know, or is one no more.
    pub(super) fn follow_hub(&mut self, node: &NodeId, affected: &mut Affected) {
        let manages = self
            .snapshot
            .node(node)
            .is_some_and(|node| is_manager(node));
        let is_hub = manages
            || self
                .ingress
                .as_ref()
                .is_some_and(|ingress| self.presence.is_on(ingress, node));
        let changed = match is_hub {
            true => self.hubs.insert(node.clone()).is_none(),
            false => self.hubs.remove(node).is_some(),
        };
        if changed {
            affected.add_all();
        }
    }

    fn concern_those_who_know(&self, node: &NodeId, before: &Self, affected: &mut Affected) {
        if self.hubs.contains(node) {
            return affected.add_all();
        }
        for hub in &self.hubs {
            affected.add(hub);
        }
        for known in [self, before] {
            for network in known.networks_about(node) {
                for other in known.presence.on(&network) {
                    affected.add(other);
                }
            }
        }
    }

    /// What `node`, which is on these networks, is told of other nodes.
    pub(super) fn peers_of(&self, node: &NodeId, networks: &BTreeSet<NetworkId>) -> Vec<&Part> {
        if self.hubs.contains(node) {
            let others = self.peers.iter().filter(|(id, _)| *id != node);
            return others.map(|(_, part)| part).collect();
        }
        let near = networks
            .iter()
            .flat_map(|network| self.presence.on(network));
        let known: BTreeSet<&NodeId> = self.hubs.iter().chain(near).collect();
        let others = known.into_iter().filter(|id| *id != node);
        others.filter_map(|id| self.peers.get(id)).collect()
    }
}
