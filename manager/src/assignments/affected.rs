//! Whom a change concerns.

use std::collections::BTreeSet;

use skep_model::NodeId;

/// The nodes whose assignments may be different after a change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Affected {
    all: bool,
    nodes: BTreeSet<NodeId>,
}

impl Affected {
    /// Nodes that are listed by their ids; all when nobody noted which.
    pub fn nodes(&self) -> Option<&BTreeSet<NodeId>> {
        (!self.all).then_some(&self.nodes)
    }

    pub fn contains(&self, node: &NodeId) -> bool {
        self.all || self.nodes.contains(node)
    }

    pub(super) fn add_all(&mut self) {
        self.all = true;
        self.nodes.clear();
    }

    pub(super) fn add(&mut self, node: &NodeId) {
        if !self.all && !node.is_empty() && !self.nodes.contains(node) {
            self.nodes.insert(node.clone());
        }
    }
}
