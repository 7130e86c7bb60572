//! Nodes: availability, labels and role; removal.

use std::time::Duration;

use skep_model::node::Reachability;
use skep_model::{
    Cluster, ControlError, Kind, Node, NodeId, NodeRole, NodeSpec, NodeState, Version,
};

use super::{Done, Door, check_version, not_found};

/// How long a removed node's certificate is remembered after it has run out.
const CERT_MEMORY: Duration = Duration::from_secs(7 * 24 * 3600);

impl Door<'_> {
    pub(super) fn update_node(&mut self, id: &NodeId, version: Version, spec: &NodeSpec) -> Done {
        let mut node = self.node(id)?;
        check_version(version, node.version)?;
        if node.spec.role == NodeRole::Manager && spec.role == NodeRole::Worker {
            self.check_demotion(&node)?;
        }
        node.spec = spec.clone();
        self.put(node)
    }

    pub(super) fn remove_node(&mut self, id: &NodeId, force: bool) -> Done {
        let node = self.node(id)?;
        let refuse = |message: String| Err(ControlError::new(Kind::FailedPrecondition, message));
        if node.spec.role == NodeRole::Manager || node.manager_status.is_some() {
            return refuse(format!(
                "node {} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal",
                node.id
            ));
        }
        if !force && node.status.state == NodeState::Ready {
            return refuse(format!("node {} is not down and can't be removed", node.id));
        }
        if let Some(cluster) = self.tx.cluster() {
            let mut cluster = Cluster::clone(cluster);
            let now = self.now;
            cluster.removed_nodes.retain(|_, until| *until > now);
            // Its certificate may be of a time when they lived longer.
            let life = cluster.spec.ca_config.node_cert_expiry;
            let life = life.max(cluster.longest_cert_expiry).duration();
            let until = now.plus(life).plus(CERT_MEMORY);
            cluster.removed_nodes.insert(node.id.clone(), until);
            self.put(cluster)?;
        }
        self.detach_all(&node.id)?;
        self.warn_of_volumes(&node);
        self.tx.remove::<Node>(&node.id)?;
        Ok(())
    }

    /// Slots whose volumes go with a node do not go elsewhere by themselves.
    fn warn_of_volumes(&mut self, node: &Node) {
        let mut warnings = Vec::new();
        for service in self.tx.services() {
            let name = &service.spec.name;
            let homes = service.volume_homes.iter();
            let here = homes.filter(|(_, home)| home.node_id == node.id);
            warnings.extend(here.map(|(slot, home)| {
                let host = &home.hostname;
                format!(
                    "{name}.{slot} has volumes on {host} and waits for that node: skep volume \
                     release {name} {slot}"
                )
            }));
        }
        self.response.warnings.extend(warnings);
    }

    pub(super) fn node(&self, id: &NodeId) -> Result<Node, ControlError> {
        let found = self.tx.find_node(id.as_str()).map_err(not_found)?;
        Ok(Node::clone(found))
    }

    /// Refuses demotions that would leave the cluster without a majority of managers.
    fn check_demotion(&self, node: &Node) -> Done {
        let refuse = |message: &str| Err(ControlError::new(Kind::FailedPrecondition, message));
        let others: Vec<_> = self
            .tx
            .nodes()
            .filter(|other| other.id != node.id && other.spec.role == NodeRole::Manager)
            .collect();
        if others.is_empty() {
            return refuse("attempting to demote the last manager of the swarm");
        }
        let reachable = others.iter().filter(|other| {
            let status = other.manager_status.as_ref();
            status.is_some_and(|status| status.reachability != Reachability::Unreachable)
        });
        if reachable.count() < others.len() / 2 + 1 {
            return refuse(
                "can't remove member from the raft: this would result in a loss of quorum",
            );
        }
        Ok(())
    }
}
