//! The best node: a tree of spread preferences with the ranked nodes at its leaves.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use skep_model::placement::Ranking;
use skep_model::{Node, NodeId, Task, Timestamp};

use super::Placed;
use super::filter::Request;
use super::table::{Entry, NodeTable};

/// Lower is better: not failing, what the service is ranked by beside tasks, few tasks of the
/// service, few tasks, then the id.
type Rank = (bool, u32, u32, u32, NodeId);

fn rank(entry: &Entry, request: &Request, is_failing: bool) -> Rank {
    let first = match request.ranking {
        Ranking::Tasks => 0,
        Ranking::Reserved => entry.reserved(),
        Ranking::BinPack => u32::MAX - entry.reserved(),
    };
    let of_service = entry.active_of(&request.service);
    (
        is_failing,
        first,
        of_service,
        entry.active,
        entry.node.id.clone(),
    )
}

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
                while let Some(Reverse((is_failing, .., node))) = nodes.pop() {
                    let fits = |table: &NodeTable| -> Option<Rank> {
                        let entry = table.entry(&node);
                        let entry = entry.filter(|entry| request.check_again(entry))?;
                        Some(rank(entry, request, is_failing))
                    };
                    if fits(table).is_none() {
                        continue;
                    }
                    let Some(placed) = table.place(&node, task) else {
                        continue;
                    };
                    nodes.extend(fits(table).map(Reverse));
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
                    let is_failing = entry.is_failing(&request.service, request.spec_version, now);
                    nodes.push(Reverse(rank(entry, request, is_failing)));
                }
            }
            (Self::Branches(_), []) => unreachable!("a tree is as deep as its labels"),
        }
    }
}

/// How many tasks of the service are where a node is: for each preference, outermost first, those
/// on nodes with the same values so far; then those on the node itself. With each number the value,
/// or the node's id.
pub(super) fn standing(table: &NodeTable, request: &Request, node: &NodeId) -> Vec<(String, u64)> {
    let Some(own) = table.entry(node) else {
        return Vec::new();
    };
    let tasks = |entry: &Entry| u64::from(entry.active_of(&request.service));
    let labels = request.spread.iter();
    let labels = labels.filter_map(|descriptor| Label::parse(descriptor));
    let mut beside: Vec<&Entry> = table.entries().collect();
    let mut levels = Vec::new();
    for label in labels {
        let value = label.value(&own.node);
        beside.retain(|entry| label.value(&entry.node) == value);
        let sum = beside.iter().map(|entry| tasks(entry)).sum();
        levels.push((value.to_owned(), sum));
    }
    levels.push((node.to_string(), tasks(own)));
    levels
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
