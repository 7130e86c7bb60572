//! The best node: a tree of spread preferences with the ranked nodes at its leaves.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use skep_model::{Node, NodeId, Task, Timestamp};

use super::Placed;
use super::filter::Request;
use super::table::{Entry, NodeTable};

/// Lower is better: not failing, few tasks of the service, few tasks, then the id.
type Rank = (bool, u32, u32, NodeId);

/// Nodes that will do, grouped by the preferences.
#[derive(Debug)]
pub(super) enum Tree {
    /// One branch per label value, with the service's tasks under it.
    Branches(BTreeMap<String, (u64, Tree)>),
    Nodes(BinaryHeap<Reverse<Rank>>),
}

impl Tree {
    pub(super) fn new(table: &NodeTable, request: &Request, now: Timestamp) -> Self {
        let labels: Vec<Label<'_>> = request
            .spread
            .iter()
            .filter_map(|descriptor| Label::parse(descriptor))
            .collect();
        let mut tree = Self::empty(labels.len());
        for entry in table.entries() {
            tree.add(entry, &labels, request, now);
        }
        tree
    }

    /// Places one task, or tells that no node is left.
    pub(super) fn place(
        &mut self,
        table: &mut NodeTable,
        request: &Request,
        task: &Task,
    ) -> Option<Placed> {
        match self {
            Self::Branches(branches) => loop {
                let (value, (tasks, tree)) =
                    branches.iter_mut().min_by_key(|(_, (tasks, _))| *tasks)?;
                match tree.place(table, request, task) {
                    Some(placed) => {
                        *tasks += 1;
                        return Some(placed);
                    }
                    None => {
                        let exhausted = value.clone();
                        branches.remove(&exhausted);
                    }
                }
            },
            Self::Nodes(nodes) => {
                while let Some(Reverse((failing, of_service, in_all, node))) = nodes.pop() {
                    let fits = |table: &NodeTable| {
                        table
                            .entry(&node)
                            .is_some_and(|entry| request.check_again(entry))
                    };
                    if !fits(table) {
                        continue;
                    }
                    let Some(placed) = table.place(&node, task) else {
                        continue;
                    };
                    if fits(table) {
                        nodes.push(Reverse((failing, of_service + 1, in_all + 1, node)));
                    }
                    return Some(placed);
                }
                None
            }
        }
    }

    fn empty(depth: usize) -> Self {
        match depth {
            0 => Self::Nodes(BinaryHeap::new()),
            _ => Self::Branches(BTreeMap::new()),
        }
    }

    /// Counts a node's tasks in every branch on the way, and takes it in if it will do.
    fn add(&mut self, entry: &Entry, labels: &[Label<'_>], request: &Request, now: Timestamp) {
        match (self, labels) {
            (Self::Branches(branches), [label, deeper @ ..]) => {
                let value = label.value(&entry.node).to_owned();
                let (tasks, tree) = branches
                    .entry(value)
                    .or_insert_with(|| (0, Self::empty(deeper.len())));
                *tasks += u64::from(entry.active_of(&request.service));
                tree.add(entry, deeper, request, now);
            }
            (Self::Nodes(nodes), _) => {
                if request.check(entry).is_ok() {
                    let service = &request.service;
                    nodes.push(Reverse((
                        entry.is_failing(service, request.spec_version, now),
                        entry.active_of(service),
                        entry.active,
                        entry.node.id.clone(),
                    )));
                }
            }
            (Self::Branches(_), []) => unreachable!("a tree is as deep as its labels"),
        }
    }
}

/// What a spread preference looks at.
#[derive(Debug, Clone, Copy)]
enum Label<'a> {
    Node(&'a str),
    Engine(&'a str),
}

impl<'a> Label<'a> {
    /// Other descriptors have no effect, as in Swarm.
    fn parse(descriptor: &'a str) -> Option<Self> {
        let node = descriptor.strip_prefix("node.labels.").map(Self::Node);
        node.or_else(|| descriptor.strip_prefix("engine.labels.").map(Self::Engine))
    }

    /// Nodes without the label form one more group.
    fn value(self, node: &Node) -> &str {
        let value = match self {
            Self::Node(key) => node.spec.labels.get(key),
            Self::Engine(key) => node.description.engine.labels.get(key),
        };
        value.map_or("", String::as_str)
    }
}
