//! Which nodes have been heard of lately. Pure: the caller brings the time.

use std::collections::BTreeMap;
use std::time::Duration;

use skep_model::{NodeId, NodeState, Timestamp};

/// A node is down after this many silent heartbeat periods.
const PERIODS_MISSED_MAX: u32 = 3;
/// Whoever looks less often than this was held up, and could not hear anybody meanwhile.
const LOOKS_APART_MAX: Duration = Duration::from_millis(500);

/// When each node was last heard of, as the leader knows it.
///
/// Kept apart from the node table because followers do not hear heartbeats: a new leader starts
/// empty and gives every node one full limit of grace. Times are counted without those in which this
/// manager itself was held up: it must not take others for dead because it did not listen.
#[derive(Debug, Default)]
pub struct Liveness {
    heard: BTreeMap<NodeId, Timestamp>,
    /// Since when this manager leads; nodes never heard of count from here.
    since: Timestamp,
    /// When it looked last.
    looked_at: Timestamp,
    /// How long it has been held up so far.
    held_up: Duration,
}

impl Liveness {
    /// Forgets everything: a new term of office begins.
    pub fn restart(&mut self, now: Timestamp) {
        self.heard.clear();
        self.looked_at = now;
        self.since = self.counted(now);
    }

    /// A moment, without the times in which this manager was held up.
    fn counted(&self, at: Timestamp) -> Timestamp {
        let held_up = i64::try_from(self.held_up.as_nanos()).unwrap_or(i64::MAX);
        Timestamp(at.0.saturating_sub(held_up))
    }

    /// Notes a sign of life.
    pub fn heard(&mut self, node: &NodeId, now: Timestamp) {
        let at = self.counted(now);
        self.heard.insert(node.clone(), at);
    }

    /// Notes that the node said goodbye: it counts as silent from the beginning.
    pub fn gone(&mut self, node: &NodeId) {
        self.heard.insert(node.clone(), Timestamp(1));
    }

    /// Drops nodes that are no longer members.
    pub fn retain(&mut self, mut is_member: impl FnMut(&NodeId) -> bool) {
        self.heard.retain(|node, _| is_member(node));
    }

    /// Which of `nodes` must change their state now. To be asked several times a second.
    pub fn transitions<'a>(
        &mut self,
        nodes: impl Iterator<Item = (&'a NodeId, NodeState)>,
        heartbeat: Duration,
        now: Timestamp,
    ) -> Vec<(NodeId, NodeState)> {
        let apart = now.since(self.looked_at);
        self.held_up += apart.saturating_sub(LOOKS_APART_MAX);
        self.looked_at = self.looked_at.max(now);
        let now = self.counted(now);
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
    use super::*;

    const PERIOD: Duration = Duration::from_secs(1);

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(1000 + secs)
    }

    /// Looks every quarter of a second up to `until`, in seconds. Gives back what changes last.
    fn look(
        liveness: &mut Liveness,
        from: i64,
        until: i64,
        states: [(&NodeId, NodeState); 2],
    ) -> Vec<(NodeId, NodeState)> {
        let quarters = (from * 4)..=(until * 4);
        let mut last = Vec::new();
        for quarter in quarters {
            let now = Timestamp(at(0).0 + quarter * 250_000_000);
            last = liveness.transitions(states.into_iter(), PERIOD, now);
        }
        last
    }

    #[test]
    fn three_missed_heartbeats_are_down_and_one_heard_is_ready() {
        let mut liveness = Liveness::default();
        liveness.restart(at(0));
        let (a, b) = (NodeId::new("a"), NodeId::new("b"));
        liveness.heard(&a, at(1));
        let states = [(&a, NodeState::Down), (&b, NodeState::Ready)];
        assert_eq!(
            look(&mut liveness, 0, 2, states),
            [(a.clone(), NodeState::Ready)],
            "b is within the grace of a new leader"
        );
        let states = [(&a, NodeState::Ready), (&b, NodeState::Ready)];
        assert_eq!(
            look(&mut liveness, 2, 4, states),
            [(b.clone(), NodeState::Down)]
        );
        assert_eq!(look(&mut liveness, 4, 5, states).len(), 2);
    }

    #[test]
    fn a_manager_that_was_held_up_takes_nobody_for_dead() {
        let mut liveness = Liveness::default();
        liveness.restart(at(0));
        let (a, b) = (NodeId::new("a"), NodeId::new("b"));
        let states = [(&a, NodeState::Ready), (&b, NodeState::Ready)];
        liveness.heard(&a, at(2));
        liveness.heard(&b, at(2));
        assert_eq!(look(&mut liveness, 0, 2, states), []);
        // Ten seconds in which nothing was heard because nobody listened.
        assert_eq!(look(&mut liveness, 12, 13, states), []);
        liveness.heard(&a, at(13));
        assert_eq!(
            look(&mut liveness, 13, 15, states),
            [(b.clone(), NodeState::Down)],
            "it has said nothing since either"
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
