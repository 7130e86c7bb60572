//! Carries what openraft sends over the caller's transport.
//!
//! openraft gives up an append after one heartbeat, and sends it again. A large entry on a slow
//! line would then never arrive, so the sending goes on by itself, and the next attempt waits for
//! it in place of sending anew. Heartbeats carry nothing and pass it by.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, RaftNetwork, RaftNetworkFactory, Snapshot, StorageIOError};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::contact::Contacts;
use crate::raft::{LogId, StorageError, Types, Vote, entry_bytes};
use crate::snapshot::stream;
use crate::vault::Vault;
use crate::wire::{Answer, Envelope, Message, SnapshotHeader, decode, encode};
use crate::{Member, Timing, Transport, TransportError};

/// What an append may take beyond the time its bytes need.
const APPEND_MIN: Duration = Duration::from_secs(1);
/// What a snapshot may take beyond the time its bytes need: the receiver also restores from it.
const SNAPSHOT_MIN: Duration = Duration::from_secs(60);
/// The slowest line that is waited for.
const BYTES_PER_SECOND: u64 = 1024 * 1024;

/// What all links of a member share.
pub(crate) struct Network {
    pub me: u64,
    pub transport: Arc<dyn Transport>,
    pub contacts: Arc<Contacts>,
    pub vault: Vault,
    pub timing: Timing,
}

impl Network {
    /// Sends a message and opens the answer.
    pub async fn ask(
        &self,
        to: &Member,
        message: Message,
        timeout: Duration,
    ) -> Result<Answer, TransportError> {
        let envelope = encode(&Envelope {
            from: self.me,
            to: to.id,
            message,
        });
        self.ask_encoded(to, envelope, timeout).await
    }

    async fn ask_encoded(
        &self,
        to: &Member,
        envelope: Bytes,
        timeout: Duration,
    ) -> Result<Answer, TransportError> {
        let sent = self.transport.send(to, envelope, timeout);
        let answer = tokio::time::timeout(timeout, sent)
            .await
            .map_err(|_| TransportError::Failed("no answer in time".to_owned()))??;
        open_answer(&answer)
    }
}

fn open_answer(answer: &[u8]) -> Result<Answer, TransportError> {
    match decode(answer).map_err(TransportError::Failed)? {
        Answer::Refused(why) => Err(TransportError::Failed(why)),
        answer => Ok(answer),
    }
}

fn unexpected() -> TransportError {
    TransportError::Failed("the answer is to another question".to_owned())
}

#[derive(Clone)]
pub(crate) struct Links(pub Arc<Network>);

impl RaftNetworkFactory<Types> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Member) -> Link {
        let to = Member {
            id: target,
            ..node.clone()
        };
        Link {
            network: Arc::clone(&self.0),
            to,
            sending: None,
        }
    }
}

/// The way to one member.
pub(crate) struct Link {
    network: Arc<Network>,
    to: Member,
    sending: Option<Sending>,
}

/// An append on its way.
struct Sending {
    vote: Vote,
    prev: Option<LogId>,
    last: Option<LogId>,
    sent: Instant,
    answer: JoinHandle<Result<Answer, TransportError>>,
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.answer.abort();
    }
}

type AppendError = RPCError<u64, Member, RaftError<u64>>;

impl Link {
    async fn append(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        timeout: Duration,
    ) -> Result<AppendEntriesResponse<u64>, TransportError> {
        let term = rpc.vote.leader_id().term;
        let (prev, vote) = (rpc.prev_log_id, rpc.vote);
        self.network.contacts.raft_sends(Instant::now());
        if rpc.entries.is_empty() {
            return self.heartbeat(rpc, term).await;
        }

        let wanted = rpc.entries.last().map(|entry| entry.log_id);
        let underway = self.sending.as_ref().is_some_and(|sending| {
            sending.vote == vote && sending.prev == prev && sending.last <= wanted
        });
        if !underway {
            let bytes: usize = rpc.entries.iter().map(entry_bytes).sum();
            let network = Arc::clone(&self.network);
            let to = self.to.clone();
            let limit = APPEND_MIN.max(timeout)
                + Duration::from_millis(bytes as u64 * 1000 / BYTES_PER_SECOND);
            let answer =
                tokio::spawn(async move { network.ask(&to, Message::Append(rpc), limit).await });
            self.sending = Some(Sending {
                vote,
                prev,
                last: wanted,
                sent: Instant::now(),
                answer,
            });
        }
        let sending = self.sending.as_mut().expect("it was just set");
        let (last, sent) = (sending.last, sending.sent);
        // When openraft's patience ends here, the sending goes on.
        let answer = (&mut sending.answer).await;
        self.sending = None;
        let answer = answer.map_err(|error| TransportError::Failed(error.to_string()))??;
        match accepted(&self.network, self.to.id, answer, term, sent)? {
            // What was asked for now may be more than what was sent then.
            AppendEntriesResponse::Success if last != wanted => {
                Ok(AppendEntriesResponse::PartialSuccess(last))
            }
            response => Ok(response),
        }
    }

    /// An answer that comes after openraft's patience still says that the follower is there.
    async fn heartbeat(
        &self,
        rpc: AppendEntriesRequest<Types>,
        term: u64,
    ) -> Result<AppendEntriesResponse<u64>, TransportError> {
        let network = Arc::clone(&self.network);
        let to = self.to.clone();
        let answer = tokio::spawn(async move {
            let sent = Instant::now();
            let limit = network.timing.election_min;
            let answer = network.ask(&to, Message::Append(rpc), limit).await?;
            accepted(&network, to.id, answer, term, sent)
        });
        answer
            .await
            .map_err(|error| TransportError::Failed(error.to_string()))?
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: Snapshot<Types>,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        let file = *snapshot.snapshot;
        let header = SnapshotHeader {
            from: self.network.me,
            to: self.to.id,
            vote,
            source: file.source.clone(),
            content: file.content.clone(),
        };
        let limit = SNAPSHOT_MIN + Duration::from_secs(file.content.bytes / BYTES_PER_SECOND);
        let damaged = Arc::new(AtomicBool::new(false));
        let chunks = stream(file, self.network.vault.clone(), Arc::clone(&damaged));
        let sent = self
            .network
            .transport
            .send_snapshot(&self.to, encode(&header), chunks);
        let answer = match tokio::time::timeout(limit, sent).await {
            Ok(answer) => answer.and_then(|answer| open_answer(&answer)),
            Err(_) => Err(TransportError::Failed(
                "the snapshot took too long".to_owned(),
            )),
        };
        if damaged.load(Ordering::SeqCst) {
            let error = AnyError::error("this member's snapshot is damaged");
            let error = StorageIOError::read_snapshot(Some(snapshot.meta.signature()), error);
            return Err(StorageError::from(error).into());
        }
        match answer {
            Ok(Answer::Snapshot(response)) => Ok(response),
            Ok(_) => Err(StreamingError::Network(NetworkError::new(&unexpected()))),
            Err(error) => Err(StreamingError::Unreachable(Unreachable::new(&error))),
        }
    }
}

fn accepted(
    network: &Network,
    from: u64,
    answer: Answer,
    term: u64,
    sent: Instant,
) -> Result<AppendEntriesResponse<u64>, TransportError> {
    let Answer::Append(response) = answer else {
        return Err(unexpected());
    };
    if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
        network.contacts.answered(from, term, sent);
    }
    Ok(response)
}

/// openraft retries a mere network error at once and for ever, so each failure is one that backs
/// off.
fn unreachable(error: TransportError) -> AppendError {
    RPCError::Unreachable(Unreachable::new(&error))
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, AppendError> {
        self.append(rpc, option.hard_ttl())
            .await
            .map_err(unreachable)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, AppendError> {
        let asked = self
            .network
            .ask(&self.to, Message::Vote(rpc), option.hard_ttl());
        match asked.await.map_err(unreachable)? {
            Answer::Vote(response) => Ok(response),
            _ => Err(unreachable(unexpected())),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = self.send_snapshot(vote, snapshot) => sent,
        }
    }

    fn backoff(&self) -> Backoff {
        // Not longer: a follower that comes back is heartbeaten only after it.
        Backoff::new(std::iter::repeat(self.network.timing.heartbeat))
    }
}
