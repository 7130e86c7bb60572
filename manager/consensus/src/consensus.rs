//! The door: one member of the replicated log.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::error::{InitializeError, RaftError};
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use crate::barrier::Readers;
use crate::batcher::Proposals;
use crate::contact::Contacts;
use crate::election::Elections;
use crate::membership::Membership;
use crate::network::Network;
use crate::raft::Raft;
use crate::snapshot::Shelf;
use crate::standing::Standing;
use crate::wire::{Answer, Message, ReadRefusal};
use crate::{
    Follower, Leadership, Member, MemberPart, MembershipError, Metrics, ProposeError, ReadError,
    Stopped, Timing,
};

/// What each step of a shutdown may take.
const SHUTDOWN_STEP: Duration = Duration::from_secs(5);
/// A snapshot that is asked for is looked after this often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// One member. Clones are handles to the same member; it ends with [`Consensus::shutdown`] or when
/// the last handle is dropped.
#[derive(Clone)]
pub struct Consensus {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) id: u64,
    pub(crate) timing: Timing,
    pub(crate) raft: Raft,
    pub(crate) contacts: Arc<Contacts>,
    pub(crate) network: Arc<Network>,
    pub(crate) standing: Arc<Standing>,
    pub(crate) elections: Arc<Elections>,
    pub(crate) membership: Arc<Membership>,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) snapshot_every: watch::Sender<u64>,
    pub(crate) proposals: Proposals,
    pub(crate) readers: Readers,
    pub(crate) applied: watch::Receiver<u64>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// One snapshot is received at a time.
    pub(crate) receiving: tokio::sync::Mutex<()>,
    pub(crate) tasks: Vec<AbortHandle>,
    /// Resolves when the log's thread has closed its files.
    pub(crate) log_closed: Mutex<Option<oneshot::Receiver<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shelf.close();
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Consensus {
    /// Whether this member has ever been part of a cluster (its log is not empty).
    pub async fn is_initialized(&self) -> bool {
        self.inner.raft.is_initialized().await.unwrap_or(false)
    }

    /// From now on takes a snapshot after so many entries, at least one, and keeps so many old ones
    /// beside the newest. Old ones that are too many go at once.
    pub async fn set_snapshots(&self, every: u64, keep: usize) {
        self.inner.snapshot_every.send_replace(every.max(1));
        let shelf = Arc::clone(&self.inner.shelf);
        let kept = tokio::task::spawn_blocking(move || shelf.set_keep(keep)).await;
        if let Ok(Err(error)) = kept {
            // They are tried again with the next snapshot, whose failure is this member's end.
            tracing::warn!(%error, "old snapshots could not be removed");
        }
    }

    /// Makes this member the first and only voter of a new cluster and waits until it leads.
    pub async fn bootstrap(&self, me: Member) -> Result<(), MembershipError> {
        let inner = &self.inner;
        let members = BTreeMap::from([(inner.id, Member { id: inner.id, ..me })]);
        match inner.raft.initialize(members).await {
            Ok(()) => {}
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
                return Err(MembershipError::AlreadyBootstrapped);
            }
            Err(RaftError::APIError(InitializeError::NotInMembers(_))) => {
                return Err(MembershipError::NoSuchMember { id: inner.id });
            }
            Err(RaftError::Fatal(_)) => return Err(MembershipError::Stopped),
        }
        let mut leadership = self.leadership();
        let leads = leadership.wait_for(|leadership| leadership.is_me);
        match timeout(inner.timing.membership, leads).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(MembershipError::Stopped),
            Err(_) => Err(MembershipError::Unavailable),
        }
    }

    /// Replicates one command and answers what [`StateMachine::apply`] answered on this member.
    /// Only on the leader.
    pub async fn propose(&self, command: Vec<u8>) -> Result<Vec<u8>, ProposeError> {
        if self.inner.standing.is_stopped() {
            return Err(ProposeError::Stopped);
        }
        self.inner.proposals.propose(command).await
    }

    /// On the leader: confirms with a quorum that it still leads and answers the index of a command such
    /// that everything acknowledged before this call is at or below it; that index is applied here
    /// when the call returns.
    pub async fn read_barrier(&self) -> Result<u64, ReadError> {
        if self.inner.standing.is_stopped() {
            return Err(ReadError::Stopped);
        }
        self.inner.readers.barrier().await
    }

    /// On any member: the leader's [`Consensus::read_barrier`], asked over the transport when this
    /// member is not the leader. Follow it with [`Consensus::wait_applied`] to read locally.
    ///
    /// While there is no leader it waits for one, for at most two election time-outs.
    pub async fn leader_read_index(&self) -> Result<u64, ReadError> {
        let inner = &self.inner;
        let deadline = Instant::now() + inner.timing.election_max * 2;
        let mut leadership = self.leadership();
        loop {
            if inner.standing.is_stopped() {
                return Err(ReadError::Stopped);
            }
            let leader = leadership.borrow_and_update().leader.clone();
            let refused = match leader {
                Some(leader) if leader.id == inner.id => match self.read_barrier().await {
                    Err(ReadError::NotLeader { leader }) => ReadError::NotLeader { leader },
                    answer => return answer,
                },
                Some(leader) => {
                    let asked =
                        inner
                            .network
                            .ask(&leader, Message::ReadIndex, inner.timing.propose);
                    match asked.await {
                        Ok(Answer::ReadIndex(Ok(index))) => return Ok(index),
                        Ok(Answer::ReadIndex(Err(ReadRefusal::NotLeader { leader }))) => {
                            ReadError::NotLeader { leader }
                        }
                        _ => ReadError::Unavailable,
                    }
                }
                None => ReadError::NotLeader { leader: None },
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(refused);
            }
            // News of another leader, or the same one again after a heartbeat.
            let _ = timeout(left.min(inner.timing.heartbeat), leadership.changed()).await;
        }
    }

    /// Waits until command `index` is applied here, at most `within`.
    pub async fn wait_applied(&self, index: u64, within: Duration) -> Result<(), ReadError> {
        let mut applied = self.inner.applied.clone();
        match timeout(within, applied.wait_for(|applied| *applied >= index)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => Err(ReadError::Unavailable),
        }
    }

    /// The last command applied here.
    pub fn applied_index(&self) -> u64 {
        *self.inner.applied.borrow()
    }

    /// Adds a member that receives the log without counting for the quorum. Does not wait for it
    /// to catch up. Adding a learner that is there already updates its address.
    pub async fn add_learner(&self, member: Member) -> Result<(), MembershipError> {
        self.inner.membership.add_learner(member).await
    }

    /// Makes a learner a voter, after waiting for it to catch up.
    pub async fn promote(&self, id: u64) -> Result<(), MembershipError> {
        self.inner.membership.promote(id).await
    }

    /// Removes a voter or learner. Refused when a majority of the voters that would remain is not
    /// reachable. A leader may remove itself: it leads until the change is committed.
    ///
    /// The removed member may never hear of it; it does not disturb the others.
    pub async fn remove(&self, id: u64) -> Result<(), MembershipError> {
        self.inner.membership.remove(id).await
    }

    /// Changes where a member is reached.
    pub async fn update_address(&self, id: u64, address: String) -> Result<(), MembershipError> {
        self.inner.membership.update_address(id, address).await
    }

    /// Who leads; the newest state is never missed, one between two may be.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// The members in the newest membership this member knows of.
    pub fn members(&self) -> Vec<MemberPart> {
        self.inner.standing.members()
    }

    /// Waits until the members are others than those that are known, or elsewhere. `None` once this
    /// member has ended.
    pub async fn other_members(&self, known: &[MemberPart]) -> Option<Vec<MemberPart>> {
        self.inner.standing.other_members(known).await
    }

    /// A picture of this member now.
    pub fn metrics(&self) -> Metrics {
        let inner = &self.inner;
        let raft = inner.raft.metrics().borrow().clone();
        let last = raft.last_log_index;
        let now = Instant::now();
        let followers = raft
            .replication
            .iter()
            .flatten()
            .filter(|(id, _)| **id != inner.id);
        let followers = followers
            .map(|(id, matched)| {
                let matched_log = matched.map(|matched| matched.index);
                let next = |index: Option<u64>| index.map_or(0, |index| index + 1);
                let since_answer = inner.contacts.since_answer(*id, raft.current_term, now);
                Follower {
                    id: *id,
                    matched_log,
                    lag: next(last).saturating_sub(next(matched_log)),
                    since_answer,
                    reachable: since_answer.is_some_and(|since| since <= inner.timing.election_max),
                }
            })
            .collect();
        Metrics {
            id: inner.id,
            leadership: inner.leadership.borrow().clone(),
            last_log: last,
            last_applied_log: raft.last_applied.map(|applied| applied.index),
            snapshot_log: raft.snapshot.map(|snapshot| snapshot.index),
            purged_log: raft.purged.map(|purged| purged.index),
            applied_index: self.applied_index(),
            members: self.members(),
            followers,
        }
    }

    /// Asks another member to lead: begins nothing new, stops heartbeats and tells the follower
    /// that is furthest to ask for an election. Best effort; answers whether another member leads
    /// within `within`, which should be two election time-outs or more. Otherwise this member goes
    /// on leading.
    pub async fn step_down_hint(&self, within: Duration) -> bool {
        let inner = &self.inner;
        let mut leadership = self.leadership();
        if !inner.standing.holds_office() {
            return leadership.borrow_and_update().leader.is_some();
        }
        let deadline = Instant::now() + within;
        let _leaving = Leaving::begin(inner);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let other = leadership
                .borrow_and_update()
                .leader
                .as_ref()
                .is_some_and(|leader| leader.id != inner.id);
            if other || left.is_zero() {
                return other;
            }
            // The others vote only after the time in which a leader may be silent.
            let pause = if inner.standing.holds_office() {
                self.ask_successor().await;
                inner.timing.election_min / 2
            } else {
                inner.timing.election_min
            };
            let _ = timeout(pause.min(left), leadership.changed()).await;
        }
    }

    async fn ask_successor(&self) {
        let metrics = self.metrics();
        let best = metrics
            .followers
            .iter()
            .filter(|follower| follower.since_answer.is_some())
            .filter_map(|follower| {
                let is_voter = |member: &&MemberPart| {
                    member.member.id == follower.id && member.part == crate::Part::Voter
                };
                let member = metrics.members.iter().find(is_voter)?;
                Some((follower.matched_log, &member.member))
            })
            .max_by_key(|(matched, _)| *matched);
        if let Some((_, member)) = best {
            let heartbeat = self.inner.timing.heartbeat;
            if let Err(error) = self
                .inner
                .network
                .ask(member, Message::Elect, heartbeat)
                .await
            {
                tracing::debug!(%error, member = member.id, "a successor did not answer");
            }
        }
    }

    /// Takes a snapshot soon.
    pub async fn trigger_snapshot(&self) {
        // It fails only when this member has stopped, which `stopped` tells.
        let _ = self.inner.raft.trigger().snapshot().await;
    }

    /// Takes a snapshot of the present state, then removes every log entry that it holds and every other
    /// snapshot: what was overwritten by now is in no file of this member afterwards.
    ///
    /// # Errors
    /// It was not done in time, or this member has stopped.
    pub async fn forget_history(&self, within: Duration) -> io::Result<()> {
        let raft = &self.inner.raft;
        let stopped = || io::Error::other("this member has stopped");
        let applied = raft.metrics().borrow().last_applied;
        let Some(applied) = applied.map(|id| id.index) else {
            return Ok(());
        };
        let mut metrics = raft.data_metrics();
        let cut = async {
            loop {
                let (snapshot, purged) = {
                    let now = metrics.borrow_and_update();
                    (
                        now.snapshot.map(|id| id.index),
                        now.purged.map(|id| id.index),
                    )
                };
                match (snapshot >= Some(applied), purged >= Some(applied)) {
                    (_, true) => return Ok(()),
                    (true, false) => raft.trigger().purge_log(applied).await,
                    (false, _) => raft.trigger().snapshot().await,
                }
                .map_err(|_| stopped())?;
                // One that was being built, or is still being read, is looked after again.
                let changed = timeout(LOOK_AGAIN, metrics.changed()).await;
                if let Ok(Err(_)) = changed {
                    return Err(stopped());
                }
            }
        };
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        timeout(within, cut).await.map_err(late)??;
        let shelf = Arc::clone(&self.inner.shelf);
        let removed = tokio::task::spawn_blocking(move || shelf.remove_old()).await;
        removed.map_err(io::Error::other)?
    }

    /// Resolves when this member has stopped, with the reason. A failed disk ends here: the
    /// process must then say so and stop being a manager.
    pub async fn stopped(&self) -> Stopped {
        let mut stopped = self.inner.standing.stopped();
        match stopped.wait_for(Option::is_some).await {
            Ok(stopped) => stopped.clone().unwrap_or(Stopped::Shutdown),
            Err(_) => Stopped::Shutdown,
        }
    }

    /// Stops taking part, writes out what is queued and closes the files. Bounded: what does not
    /// stop within a few seconds is left behind.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        inner.standing.stop(Stopped::Shutdown);
        inner.shelf.close();
        for task in &inner.tasks {
            task.abort();
        }
        if timeout(SHUTDOWN_STEP, inner.raft.shutdown()).await.is_err() {
            tracing::warn!("raft did not stop in time");
        }
        let closed = inner
            .log_closed
            .lock()
            .expect("nothing panics while it holds it")
            .take();
        if let Some(closed) = closed
            && timeout(SHUTDOWN_STEP, closed).await.is_err()
        {
            tracing::warn!("the log was not closed in time");
        }
    }
}

/// A leader that wants another in its place. It leads on when nobody took it, or the wish was dropped.
struct Leaving<'a>(&'a Inner);

impl<'a> Leaving<'a> {
    fn begin(inner: &'a Inner) -> Self {
        inner.standing.set_leaving(true);
        inner.raft.runtime_config().heartbeat(false);
        Self(inner)
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.raft.runtime_config().heartbeat(true);
        self.0.standing.set_leaving(false);
    }
}
