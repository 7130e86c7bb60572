//! Carries raft's messages to the other managers over gRPC.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use skep_consensus::{Chunks, Member, Transport, TransportError};
use skep_proto::MESSAGE_BYTES_MAX;
use skep_proto::connect::Connector;
use skep_proto::v1::raft_client::RaftClient;
use skep_proto::v1::{RaftMessage, SnapshotPart};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

/// Chunks of a snapshot read ahead of the network.
const CHUNKS_AHEAD: usize = 4;

/// Managers that have said of themselves that they are elsewhere than the log has it.
///
/// The log follows once the leader has committed it, for which it may need the vote of this very
/// manager.
#[derive(Default)]
pub struct Moved(Mutex<HashMap<u64, Move>>);

struct Move {
    from: String,
    to: String,
}

impl Move {
    /// Whether the log still has the member where it had it when it said so.
    fn holds(&self, id: u64, members: &[Member]) -> bool {
        let mut own = members.iter().filter(|member| member.id == id);
        own.any(|member| member.address == self.from && member.address != self.to)
    }
}

impl Moved {
    /// Takes in where one of the log's members is now.
    pub fn note(&self, members: &[Member], id: u64, address: &str) {
        let mut moved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(member) = members.iter().find(|member| member.id == id) {
            let (from, to) = (member.address.clone(), address.to_owned());
            moved.insert(id, Move { from, to });
        }
        moved.retain(|id, word| word.holds(*id, members));
    }

    /// Forgets what the log has gone past: it may come back to an address that a member has left
    /// before, and means it.
    pub fn follow(&self, members: &[Member]) {
        let mut moved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        moved.retain(|id, word| word.holds(*id, members));
    }

    /// Where a member is reached. Its word holds until the log says something else than it did then.
    fn address(&self, member: &Member) -> String {
        let moved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = moved
            .get(&member.id)
            .filter(|known| known.from == member.address);
        known.map_or_else(|| member.address.clone(), |known| known.to.clone())
    }
}

pub struct GrpcTransport {
    connector: Arc<Connector>,
    moved: Arc<Moved>,
}

impl GrpcTransport {
    pub fn new(connector: Arc<Connector>, moved: Arc<Moved>) -> Self {
        Self { connector, moved }
    }

    fn client(&self, to: &Member) -> RaftClient<tonic::transport::Channel> {
        RaftClient::new(self.connector.channel(&self.moved.address(to)))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

#[async_trait]
impl Transport for GrpcTransport {
    async fn send(
        &self,
        to: &Member,
        message: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, TransportError> {
        let mut client = self.client(to);
        let call = client.message(RaftMessage {
            payload: message.into(),
        });
        match tokio::time::timeout(timeout, call).await {
            Ok(Ok(reply)) => Ok(reply.into_inner().payload.into()),
            Ok(Err(status)) => Err(failure(&status)),
            Err(_) => Err(TransportError::Failed(format!(
                "{} did not answer in time",
                to.address
            ))),
        }
    }

    async fn send_snapshot(
        &self,
        to: &Member,
        header: Bytes,
        chunks: Chunks,
    ) -> Result<Bytes, TransportError> {
        let (parts, receiver) = mpsc::channel(CHUNKS_AHEAD);
        // Ends with the call: a dropped receiver stops the sending.
        tokio::spawn(feed(header, chunks, parts));
        let parts = ReceiverStream::new(receiver);
        match self.client(to).snapshot(parts).await {
            Ok(reply) => Ok(reply.into_inner().payload.into()),
            Err(status) => Err(failure(&status)),
        }
    }
}

async fn feed(header: Bytes, mut chunks: Chunks, parts: mpsc::Sender<SnapshotPart>) {
    let first = SnapshotPart {
        header: header.into(),
        chunk: Vec::new(),
    };
    if parts.send(first).await.is_err() {
        return;
    }
    while let Some(chunk) = chunks.next().await {
        let part = SnapshotPart {
            header: Vec::new(),
            chunk: chunk.into(),
        };
        if parts.send(part).await.is_err() {
            return;
        }
    }
}

fn failure(status: &Status) -> TransportError {
    match status.code() {
        Code::Unavailable => TransportError::Unreachable(status.message().to_owned()),
        _ => TransportError::Failed(status.message().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_members_word_holds_until_the_log_follows() {
        let at = |address: &str| Member {
            id: 7,
            address: address.to_owned(),
            node: "n".to_owned(),
        };
        let moved = Moved::default();
        let log = |address: &str| [at(address)];
        assert_eq!(moved.address(&at("a:1")), "a:1");
        moved.note(&log("a:1"), 7, "b:1");
        assert_eq!(moved.address(&at("a:1")), "b:1");
        let other = Member { id: 8, ..at("a:1") };
        assert_eq!(moved.address(&other), "a:1");
        assert_eq!(moved.address(&at("b:1")), "b:1");
        assert_eq!(moved.address(&at("c:1")), "c:1", "moved on meanwhile");
        moved.follow(&log("a:1"));
        assert_eq!(moved.address(&at("a:1")), "b:1", "others came or went");
        moved.note(&log("a:1"), 7, "a:1");
        assert_eq!(moved.address(&at("a:1")), "a:1", "back again");
    }

    #[test]
    fn a_word_is_forgotten_once_the_log_has_gone_past_it() {
        let member = |id: u64, address: &str| Member {
            id,
            address: address.to_owned(),
            node: "n".to_owned(),
        };
        let here = member(7, "a:1");
        let log = std::slice::from_ref(&here);
        for past in [vec![member(7, "b:1")], vec![member(7, "c:1")], vec![]] {
            let moved = Moved::default();
            moved.note(log, 7, "b:1");
            moved.follow(&past);
            assert_eq!(moved.address(&here), "a:1", "back: {past:?}");
            moved.note(log, 7, "b:1");
            moved.note(&past, 8, "d:1");
            assert_eq!(moved.address(&here), "a:1", "back: {past:?}");
        }
        let moved = Moved::default();
        moved.note(log, 8, "b:1");
        assert_eq!(moved.address(&member(8, "a:1")), "a:1", "no member");
    }
}
