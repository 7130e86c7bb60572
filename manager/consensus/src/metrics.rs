//! What can be seen from outside.

use std::time::Duration;

use crate::{Leadership, MemberPart};

/// A picture of one member. Log positions count raft entries, not commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    pub id: u64,
    pub leadership: Leadership,
    /// The last raft entry on disk.
    pub last_log: Option<u64>,
    /// The last raft entry applied.
    pub last_applied_log: Option<u64>,
    /// The raft entry of the newest snapshot.
    pub snapshot_log: Option<u64>,
    /// Entries up to here are no longer in the log.
    pub purged_log: Option<u64>,
    /// The last command applied, in the numbering of [`crate::StateMachine::apply`].
    pub applied_index: u64,
    pub members: Vec<MemberPart>,
    /// Filled on the leader only: each other member as the leader sees it.
    pub followers: Vec<Follower>,
}

/// A follower as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follower {
    pub id: u64,
    /// The last entry it is known to have on disk.
    pub matched_log: Option<u64>,
    /// Entries it is behind.
    pub lag: u64,
    /// How long ago it last answered; `None`: not since this leader came to office.
    pub since_answer: Option<Duration>,
    /// It answered within the longest election time-out.
    pub reachable: bool,
}

/// Why a member no longer takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// [`crate::Consensus::shutdown`] was called.
    Shutdown,
    /// The disk failed, or a record was found damaged: the process must not go on as a manager.
    Failed(String),
}
