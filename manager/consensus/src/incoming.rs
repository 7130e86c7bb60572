//! What other members send here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::Snapshot;
use openraft::raft::{AppendEntriesResponse, SnapshotResponse};
use tokio::time::{Instant, timeout};

use crate::snapshot::receive;
use crate::wire::{Answer, Envelope, Message, ReadRefusal, SnapshotHeader, decode, encode};
use crate::{Chunks, Consensus, ReadError};

/// A second snapshot waits this long for the one being received.
const RECEIVE_TURN: Duration = Duration::from_secs(1);

impl Consensus {
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
}
