//! Who takes part.

use serde::{Deserialize, Serialize};

/// One member of the cluster's log, voter or learner.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// The raft id: unique for ever, never given again to a manager whose disk was lost.
    pub id: u64,
    /// Where its manager service listens, `host:port`.
    pub address: String,
    /// The node id.
    pub node: String,
}

/// What part a member takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Counts for the quorum and may lead.
    Voter,
    /// Receives the log, counts for nothing.
    Learner,
}

/// A member and its part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberPart {
    pub member: Member,
    pub part: Part,
}

/// Who leads, as this member knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leadership {
    /// The raft term.
    pub term: u64,
    /// The leader, when one is known and heard of: a leader that lost its quorum and a follower
    /// that hears nobody both say `None`.
    pub leader: Option<Member>,
    /// This member leads and has had its quorum's word within the last election time-out. Before
    /// acting on its state a new leader still calls [`crate::Consensus::read_barrier`] once.
    pub is_me: bool,
}
