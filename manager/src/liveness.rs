//! Which nodes have been heard of lately. Pure: the caller brings the time.

use std::collections::BTreeMap;

use skep_model::{NodeId, NodeState, Timestamp};

/// A node is down after this many silent heartbeat periods.
const PERIODS_MISSED_MAX: u32 = 3;

/// When each node was last heard of, as the leader knows it.
///
/// Kept apart from the node table because followers do not hear heartbeats: a new leader starts
/// empty and gives every node one full limit of grace.
#[derive(Debug, Default)]
pub struct Liveness {
    heard: BTreeMap<NodeId, Timestamp>,
    /// Since when this manager leads; nodes never heard of count from here.
    since: Timestamp,
}

impl Liveness {
    /// Forgets everything: a new term of office begins.
    pub fn restart(&mut self, now: Timestamp) {
        self.heard.clear();
        self.since = now;
    }

    /// Notes a sign of life.
    pub fn heard(&mut self, node: &NodeId, now: Timestamp) {
        self.heard.insert(node.clone(), now);
    }

    /// Notes that the node said goodbye: it counts as silent from the beginning.
    pub fn gone(&mut self, node: &NodeId) {
        self.heard.insert(node.clone(), Timestamp(1));
    }

    /// Drops nodes that are no longer members.
    pub fn retain(&mut self, mut is_member: impl FnMut(&NodeId) -> bool) {
        self.heard.retain(|node, _| is_member(node));
    }

    /// Which of `nodes` must change their state now.
    pub fn transitions<'a>(
        &self,
        nodes: impl Iterator<Item = (&'a NodeId, NodeState)>,
        heartbeat: std::time::Duration,
        now: Timestamp,
    ) -> Vec<(NodeId, NodeState)> {
        let limit = heartbeat * PERIODS_MISSED_MAX;
        nodes
            .filter_map(|(node, state)| {
                let heard = self.heard.get(node);
                let silent = now.since(heard.copied().unwrap_or(self.since));
                let next = match (silent > limit, heard) {
                    (true, _) => NodeState::Down,
                    (false, Some(_)) => NodeState::Ready,
                    // Not heard yet by this leader, but within the grace: as it was.
                    (false, None) => state,
                };
                (next != state).then(|| (node.clone(), next))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PERIOD: Duration = Duration::from_secs(1);

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(1000 + secs)
    }

    #[test]
    fn three_missed_heartbeats_are_down_and_one_heard_is_ready() {
        let mut liveness = Liveness::default();
        liveness.restart(at(0));
        let (a, b) = (NodeId::new("a"), NodeId::new("b"));
        liveness.heard(&a, at(1));
        let states = [(&a, NodeState::Down), (&b, NodeState::Ready)];
        assert_eq!(
            liveness.transitions(states.into_iter(), PERIOD, at(2)),
            [(a.clone(), NodeState::Ready)],
            "b is within the grace of a new leader"
        );
        let states = [(&a, NodeState::Ready), (&b, NodeState::Ready)];
        assert_eq!(
            liveness.transitions(states.into_iter(), PERIOD, at(4)),
            [(b.clone(), NodeState::Down)]
        );
        assert_eq!(
            liveness
                .transitions(states.into_iter(), PERIOD, at(5))
                .len(),
            2
        );
    }

    #[test]
    fn a_node_that_said_goodbye_is_down_at_once() {
        let mut liveness = Liveness::default();
        liveness.restart(at(0));
        let a = NodeId::new("a");
        liveness.heard(&a, at(1));
        liveness.gone(&a);
        let states = [(&a, NodeState::Ready)];
        assert_eq!(
            liveness.transitions(states.into_iter(), PERIOD, at(1)),
            [(a, NodeState::Down)]
        );
    }
}
