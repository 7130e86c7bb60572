//! What was recorded, and what it is held against.

use std::fmt;
use std::hash::Hash;

/// One request and its answer. Moments are of one clock, in any unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation<C> {
    /// Who asked.
    pub client: usize,
    pub invoked: u64,
    /// `None` when it is not known what became of it: it may take effect at any time from its
    /// invocation on, or never.
    pub returned: Option<u64>,
    pub call: C,
}

/// One object, asked one thing after the other.
pub trait Model {
    /// A request together with its answer.
    type Call: Clone + fmt::Display;
    type State: Clone + Eq + Hash;

    /// The object before the history.
    fn initial(&self) -> Self::State;

    /// An object of which nothing is known: whatever it answers first is right.
    fn any(&self) -> Self::State;

    /// The object after the call took effect; `None` when an object in this state does not answer
    /// so. A call of unknown outcome is asked about only for its effect: `None` where it has none.
    fn step(&self, state: &Self::State, call: &Self::Call) -> Option<Self::State>;

    /// Whether the call changes nothing, so that a history without it is as good.
    fn only_looks(&self, call: &Self::Call) -> bool;
}

/// A history as a table, one operation a line, in the order of invocations.
pub fn show<C: fmt::Display>(history: &[Operation<C>]) -> String {
    let mut lines: Vec<&Operation<C>> = history.iter().collect();
    lines.sort_by_key(|operation| operation.invoked);
    lines
        .into_iter()
        .map(|operation| {
            let until = match operation.returned {
                Some(returned) => format!("{:>12.6}", seconds(returned)),
                None => format!("{:>12}", "unknown"),
            };
            format!(
                "  {:>12.6} {until}  client {:<2} {}\n",
                seconds(operation.invoked),
                operation.client,
                operation.call
            )
        })
        .collect()
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}
