//! The door: one member of the replicated log.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::error::{InitializeError, RaftError};
use openraft::raft::{AppendEntriesResponse, SnapshotResponse};
use openraft::{Config, Snapshot, SnapshotPolicy};
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;

use crate::applier::Applier;
use crate::barrier::{self, Readers};
use crate::batcher::{self, Proposals};
use crate::contact::Contacts;
use crate::election::Elections;
use crate::journal::{Journal, JournalError, Recovered};
use crate::log_store::{LogStore, Tail};
use crate::membership::Membership;
use crate::network::{Links, Network};
use crate::raft::Raft;
use crate::snapshot::{Shelf, receive};
use crate::standing::Standing;
use crate::vault::Vault;
use crate::wire::{Answer, Envelope, Message, ReadRefusal, SnapshotHeader, decode, encode};
use crate::writer;
use crate::{
    Chunks, Follower, Leadership, Member, MemberPart, MembershipError, Metrics, OpenError, Options,
    ProposeError, ReadError, StateMachine, Stopped, Timing, Transport,
};

/// Entries sent to a follower at a time; their bytes are bounded by the log store.
const ENTRIES_PER_MESSAGE: u64 = 256;
/// Bytes of new entries after which a snapshot is taken early.
const SNAPSHOT_AFTER_BYTES: u64 = 256 * 1024 * 1024;
/// How often what rarely happens is looked after.
const UPKEEP: Duration = Duration::from_secs(1);
/// What each step of a shutdown may take.
const SHUTDOWN_STEP: Duration = Duration::from_secs(5);
/// A second snapshot waits this long for the one being received.
const RECEIVE_TURN: Duration = Duration::from_secs(1);

/// One member. Clones are handles to the same member; it ends with [`Consensus::shutdown`] or when
/// the last handle is dropped.
#[derive(Clone)]
pub struct Consensus {
    inner: Arc<Inner>,
}

struct Inner {
    id: u64,
    timing: Timing,
    raft: Raft,
    contacts: Arc<Contacts>,
    network: Arc<Network>,
    standing: Arc<Standing>,
    elections: Arc<Elections>,
    membership: Arc<Membership>,
    shelf: Arc<Shelf>,
    proposals: Proposals,
    readers: Readers,
    applied: watch::Receiver<u64>,
    leadership: watch::Receiver<Leadership>,
    /// One snapshot is received at a time.
    receiving: tokio::sync::Mutex<()>,
    tasks: Vec<AbortHandle>,
    /// Resolves when the log's thread has closed its files.
    log_closed: Mutex<Option<oneshot::Receiver<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shelf.close();
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What was read from disk.
struct Opened {
    journal: Journal,
    recovered: Recovered,
    shelf: Arc<Shelf>,
    applier: Applier,
    applied: watch::Receiver<u64>,
}

impl Consensus {
    /// Opens the member's directory, verifies every record in it, restores the state machine from
    /// the newest snapshot and starts taking part. A member with an empty directory waits until
    /// [`Consensus::bootstrap`] is called on it, or a leader adds it.
    pub async fn open(
        options: Options,
        machine: Arc<dyn StateMachine>,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, OpenError> {
        let Options { id, timing, .. } = options;
        let config = config(&options)?;
        let vault = Vault::new(options.sealer.clone(), id);
        let directory = options.directory.clone();
        let opened = {
            let vault = vault.clone();
            tokio::task::spawn_blocking(move || read_disk(&options, vault, machine))
                .await
                .map_err(|error| OpenError::Start(error.to_string()))??
        };
        let Opened {
            journal,
            recovered,
            shelf,
            applier,
            applied,
        } = opened;

        let tail = Arc::new(Tail::new(&recovered));
        let (writer, log_closed) =
            writer::start(journal, Arc::clone(&tail)).map_err(|source| OpenError::Io {
                path: directory.clone(),
                source,
            })?;
        let log_store = LogStore::new(Arc::clone(&tail), writer, recovered);
        let contacts = Arc::new(Contacts::new(id, Instant::now()));
        let network = Arc::new(Network {
            me: id,
            transport,
            contacts: Arc::clone(&contacts),
            vault,
            timing,
        });
        let links = Links(Arc::clone(&network));
        // The log was verified, so what fails here is the log not fitting together.
        let raft = Raft::new(id, Arc::new(config), links, log_store, applier)
            .await
            .map_err(|error| OpenError::Damaged {
                directory,
                what: error.to_string(),
            })?;

        let standing = Arc::new(Standing::new(
            id,
            raft.clone(),
            Arc::clone(&contacts),
            timing,
        ));
        let elections = Arc::new(Elections {
            me: id,
            raft: raft.clone(),
            contacts: Arc::clone(&contacts),
            network: Arc::clone(&network),
            standing: Arc::clone(&standing),
            tail: Arc::clone(&tail),
            timing,
        });
        let membership = Arc::new(Membership {
            me: id,
            raft: raft.clone(),
            standing: Arc::clone(&standing),
            contacts: Arc::clone(&contacts),
            timing,
            turn: tokio::sync::Mutex::new(()),
        });
        let (batcher, proposals) =
            batcher::new(raft.clone(), Arc::clone(&standing), timing.propose);
        let (barrier, readers) = barrier::new(
            raft.clone(),
            Arc::clone(&standing),
            applied.clone(),
            timing.propose,
            timing.heartbeat / 3,
        );
        let leadership = standing.leadership();
        let tasks = vec![
            spawn(Arc::clone(&standing).run()),
            spawn(Arc::clone(&elections).run()),
            spawn(batcher.run()),
            spawn(barrier.run()),
            spawn(upkeep(raft.clone(), Arc::clone(&membership), tail)),
        ];
        let inner = Inner {
            id,
            timing,
            raft,
            contacts,
            network,
            standing,
            elections,
            membership,
            shelf,
            proposals,
            readers,
            applied,
            leadership,
            receiving: tokio::sync::Mutex::new(()),
            tasks,
            log_closed: Mutex::new(Some(log_closed)),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Whether this member has ever been part of a cluster (its log is not empty).
    pub async fn is_initialized(&self) -> bool {
        self.inner.raft.is_initialized().await.unwrap_or(false)
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

    /// Answers a message that another member's [`Transport::send`] carried here.
    pub async fn handle(&self, message: Bytes) -> Bytes {
        let answer = match decode::<Envelope>(&message) {
            Err(why) => Answer::Refused(why),
            Ok(envelope) if envelope.to != self.inner.id => Answer::Refused(format!(
                "this is member {}, not {}",
                self.inner.id, envelope.to
            )),
            Ok(_) if self.inner.standing.is_stopped() => {
                Answer::Refused("this member has stopped".to_owned())
            }
            Ok(envelope) => self.answer(envelope).await,
        };
        encode(&answer)
    }

    async fn answer(&self, envelope: Envelope) -> Answer {
        let inner = &self.inner;
        let refused = |error: &dyn std::error::Error| Answer::Refused(error.to_string());
        match envelope.message {
            Message::Append(request) => {
                let leader = request.vote.leader_id().node_id;
                // Heard before it is written: a slow disk here is no silence there.
                if request.vote >= inner.raft.server_metrics().borrow().vote {
                    inner.contacts.leader_heard(leader, Instant::now());
                }
                match inner.raft.append_entries(request).await {
                    Ok(response) => {
                        if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
                            inner.contacts.leader_heard(leader, Instant::now());
                        }
                        Answer::Append(response)
                    }
                    Err(error) => refused(&error),
                }
            }
            Message::Vote(request) => match inner.raft.vote(request).await {
                Ok(response) => Answer::Vote(response),
                Err(error) => refused(&error),
            },
            Message::Alive { vote } => {
                let accepted = vote >= inner.raft.server_metrics().borrow().vote;
                if accepted {
                    let leader = vote.leader_id().node_id;
                    inner.contacts.leader_heard(leader, Instant::now());
                }
                Answer::Alive { accepted }
            }
            Message::PreVote { last } => Answer::PreVote {
                granted: inner.elections.would_vote(last),
            },
            Message::ReadIndex => match self.read_barrier().await {
                Ok(index) => Answer::ReadIndex(Ok(index)),
                Err(ReadError::NotLeader { leader }) => {
                    Answer::ReadIndex(Err(ReadRefusal::NotLeader { leader }))
                }
                Err(ReadError::Unavailable) => Answer::ReadIndex(Err(ReadRefusal::Unavailable)),
                Err(error @ ReadError::Stopped) => refused(&error),
            },
            Message::Elect => {
                let window = inner.timing.election_max * 2;
                if !inner.contacts.hears(envelope.from, window, Instant::now()) {
                    return Answer::Refused("only the leader hands over its office".to_owned());
                }
                match inner.raft.trigger().elect().await {
                    Ok(()) => Answer::Elect,
                    Err(error) => refused(&error),
                }
            }
        }
    }

    /// Takes in a snapshot that another member's [`Transport::send_snapshot`] carried here. End
    /// the stream early when the connection fails: what is not complete is thrown away.
    pub async fn handle_snapshot(&self, header: Bytes, chunks: Chunks) -> Bytes {
        let answer = match decode::<SnapshotHeader>(&header) {
            Err(why) => Answer::Refused(why),
            Ok(header) => match self.take_snapshot(header, chunks).await {
                Ok(response) => Answer::Snapshot(response),
                Err(why) => {
                    tracing::warn!(why, "a snapshot from the leader was not taken");
                    Answer::Refused(why)
                }
            },
        };
        encode(&answer)
    }

    async fn take_snapshot(
        &self,
        header: SnapshotHeader,
        chunks: Chunks,
    ) -> Result<SnapshotResponse<u64>, String> {
        let inner = &self.inner;
        if header.to != inner.id {
            return Err(format!("this is member {}, not {}", inner.id, header.to));
        }
        if inner.standing.is_stopped() {
            return Err("this member has stopped".to_owned());
        }
        let known = inner.raft.server_metrics().borrow().vote;
        if header.vote < known {
            return Ok(SnapshotResponse::new(known));
        }
        let _turn = timeout(RECEIVE_TURN, inner.receiving.lock())
            .await
            .map_err(|_| "another snapshot is being received".to_owned())?;
        let contacts = Arc::clone(&inner.contacts);
        let leader = header.from;
        let heard = move || contacts.leader_heard(leader, Instant::now());
        let meta = header.source.meta.clone();
        let shelf = Arc::clone(&inner.shelf);
        let file = receive(shelf, header.source, header.content, chunks, heard).await?;
        let snapshot = Snapshot {
            meta,
            snapshot: Box::new(Arc::new(file)),
        };
        inner
            .raft
            .install_full_snapshot(header.vote, snapshot)
            .await
            .map_err(|error| error.to_string())
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
        inner.standing.set_leaving(true);
        inner.raft.runtime_config().heartbeat(false);
        let led = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let other = leadership
                .borrow_and_update()
                .leader
                .as_ref()
                .is_some_and(|leader| leader.id != inner.id);
            if other || left.is_zero() {
                break other;
            }
            // The others vote only after the time in which a leader may be silent.
            let pause = if inner.standing.holds_office() {
                self.ask_successor().await;
                inner.timing.election_min / 2
            } else {
                inner.timing.election_min
            };
            let _ = timeout(pause.min(left), leadership.changed()).await;
        };
        inner.raft.runtime_config().heartbeat(true);
        inner.standing.set_leaving(false);
        led
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

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    let handle: JoinHandle<()> = tokio::spawn(task);
    handle.abort_handle()
}

/// Looks after what no event asks for.
async fn upkeep(raft: Raft, membership: Arc<Membership>, tail: Arc<Tail>) {
    let mut tick = tokio::time::interval(UPKEEP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        membership.finish_joint().await;
        if tail.take_appended_above(SNAPSHOT_AFTER_BYTES)
            && raft.trigger().snapshot().await.is_err()
        {
            return;
        }
    }
}

fn config(options: &Options) -> Result<Config, OpenError> {
    let timing = options.timing;
    let refuse = |why: &str| Err(OpenError::Options(why.to_owned()));
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if timing.heartbeat < Duration::from_millis(10) {
        return refuse("a heartbeat is at least 10 ms");
    }
    if timing.election_min < timing.heartbeat * 3 {
        return refuse("the shortest election time-out is at least three heartbeats");
    }
    if timing.election_max <= timing.election_min {
        return refuse("the longest election time-out is above the shortest");
    }
    if options.snapshot_every == 0 {
        return refuse("a snapshot is taken every so many entries, at least one");
    }
    // What openraft calls its longest election time-out is here only how long a voter stands by a
    // leader it has heard; it must be over when the pre-vote says so.
    let lease = millis(timing.election_min) * 9 / 10;
    let config = Config {
        cluster_name: "skep".to_owned(),
        // How long openraft waits for an answer; its own heartbeats come at one and a half of it.
        // Those in between, which keep followers quiet, are sent by `Elections`.
        heartbeat_interval: millis(timing.election_min) / 2,
        election_timeout_min: lease - 1,
        election_timeout_max: lease,
        enable_elect: false,
        install_snapshot_timeout: 60_000,
        max_payload_entries: ENTRIES_PER_MESSAGE,
        replication_lag_threshold: options.snapshot_every.saturating_mul(2),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.snapshot_every),
        max_in_snapshot_log_to_keep: options.keep_entries,
        purge_batch_size: 1,
        ..Config::default()
    };
    config
        .validate()
        .map_err(|error| OpenError::Options(error.to_string()))
}

fn read_disk(
    options: &Options,
    vault: Vault,
    machine: Arc<dyn StateMachine>,
) -> Result<Opened, OpenError> {
    let directory = &options.directory;
    let damaged = |what: String| OpenError::Damaged {
        directory: directory.clone(),
        what,
    };
    let (journal, recovered) = Journal::open(directory, options.id, options.backend, vault.clone())
        .map_err(|error| open_error(error, options.id, directory))?;
    let shelf = Shelf::open(&directory.join("snapshots"), vault, options.keep_snapshots)
        .map_err(|error| damaged(error.to_string()))?;
    let snapshot = shelf
        .current()
        .and_then(|current| current.source.meta.last_log_id);
    if snapshot < recovered.purged {
        return Err(damaged(
            "the snapshot that replaced the older entries is missing".to_owned(),
        ));
    }
    let shelf = Arc::new(shelf);
    let (applier, applied) = Applier::open(machine, Arc::clone(&shelf)).map_err(damaged)?;
    Ok(Opened {
        journal,
        recovered,
        shelf,
        applier,
        applied,
    })
}

fn open_error(error: JournalError, wanted: u64, directory: &Path) -> OpenError {
    let directory = directory.to_owned();
    match error {
        JournalError::Damaged(what) => OpenError::Damaged { directory, what },
        JournalError::WrongKey => OpenError::WrongKey { directory },
        JournalError::InUse => OpenError::InUse { directory },
        JournalError::OtherMember { found } => OpenError::OtherMember { found, wanted },
        JournalError::Io(source) => OpenError::Io {
            path: directory,
            source,
        },
    }
}
