//! The door: one member of the replicated log.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    Chunks, Leadership, Member, MemberPart, MembershipError, Metrics, OpenError, Options,
    ProposeError, ReadError, StateMachine, Stopped, Transport,
};

/// One member. Clones are handles to the same member.
#[derive(Clone)]
pub struct Consensus {
    leadership: watch::Receiver<Leadership>,
}

impl Consensus {
    /// Opens the member's directory, verifies every record in it, restores the state machine from
    /// the newest snapshot and starts taking part. A member with an empty directory waits until
    /// [`Consensus::bootstrap`] is called on it, or a leader adds it.
    pub async fn open(
        _options: Options,
        _machine: Arc<dyn StateMachine>,
        _transport: Arc<dyn Transport>,
    ) -> Result<Self, OpenError> {
        Err(OpenError::Start("not yet".into()))
    }

    /// Whether this member has ever been part of a cluster (its log is not empty).
    pub async fn is_initialized(&self) -> bool {
        false
    }

    /// Makes this member the first and only voter of a new cluster and waits until it leads.
    pub async fn bootstrap(&self, _me: Member) -> Result<(), MembershipError> {
        Err(MembershipError::Stopped)
    }

    /// Replicates one command and answers what [`StateMachine::apply`] answered on this member.
    /// Only on the leader.
    pub async fn propose(&self, _command: Vec<u8>) -> Result<Vec<u8>, ProposeError> {
        Err(ProposeError::Stopped)
    }

    /// On the leader: confirms with a quorum that it still leads and answers the index of a command such
    /// that everything acknowledged before this call is at or below it; that index is applied here
    /// when the call returns.
    pub async fn read_barrier(&self) -> Result<u64, ReadError> {
        Err(ReadError::Stopped)
    }

    /// On any member: the leader's [`Consensus::read_barrier`], asked over the transport when this
    /// member is not the leader. Follow it with [`Consensus::wait_applied`] to read locally.
    pub async fn leader_read_index(&self) -> Result<u64, ReadError> {
        Err(ReadError::Stopped)
    }

    /// Waits until command `index` is applied here, at most `within`.
    pub async fn wait_applied(&self, _index: u64, _within: Duration) -> Result<(), ReadError> {
        Err(ReadError::Stopped)
    }

    /// The last command applied here.
    pub fn applied_index(&self) -> u64 {
        0
    }

    /// Adds a member that receives the log without counting for the quorum. Does not wait for it
    /// to catch up. Adding a learner that is there already updates its address.
    pub async fn add_learner(&self, _member: Member) -> Result<(), MembershipError> {
        Err(MembershipError::Stopped)
    }

    /// Makes a learner a voter, after waiting for it to catch up.
    pub async fn promote(&self, _id: u64) -> Result<(), MembershipError> {
        Err(MembershipError::Stopped)
    }

    /// Removes a voter or learner. Refused when a majority of the voters that would remain is not
    /// reachable. A leader may remove itself: it leads until the change is committed.
    pub async fn remove(&self, _id: u64) -> Result<(), MembershipError> {
        Err(MembershipError::Stopped)
    }

    /// Changes where a member is reached.
    pub async fn update_address(&self, _id: u64, _address: String) -> Result<(), MembershipError> {
        Err(MembershipError::Stopped)
    }

    /// Who leads; changes are never missed for good, only intermediate ones may be skipped.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// The members in the newest membership this member knows of.
    pub fn members(&self) -> Vec<MemberPart> {
        Vec::new()
    }

    /// A picture of this member now.
    pub fn metrics(&self) -> Option<Metrics> {
        None
    }

    /// Answers a message that another member's [`Transport::send`] carried here.
    pub async fn handle(&self, _message: Bytes) -> Bytes {
        Bytes::new()
    }

    /// Takes in a snapshot that another member's [`Transport::send_snapshot`] carried here. End
    /// the stream early when the connection fails: what is not complete is thrown away.
    pub async fn handle_snapshot(&self, _header: Bytes, _chunks: Chunks) -> Bytes {
        Bytes::new()
    }

    /// Asks another member to lead: stops heartbeats and tells the follower that is furthest to ask for
    /// an election. Best effort; answers whether another member leads within `within`.
    pub async fn step_down_hint(&self, _within: Duration) -> bool {
        false
    }

    /// Takes a snapshot soon.
    pub async fn trigger_snapshot(&self) {}

    /// Resolves when this member has stopped, with the reason. A failed disk ends here: the
    /// process must then say so and stop being a manager.
    pub async fn stopped(&self) -> Stopped {
        Stopped::Shutdown
    }

    /// Stops taking part, writes out what is queued and closes the files. Bounded: what does not
    /// stop within a few seconds is left behind.
    pub async fn shutdown(&self) {}
}
