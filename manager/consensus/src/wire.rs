//! What members say to each other: one version byte, then postcard.

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Member;
use crate::raft::{LogId, Types, Vote};
use crate::snapshot::{Content, SnapshotSource};

/// Raised when a message changes its meaning.
const VERSION: u8 = 1;

/// A message and whom it is for: an address may have passed to another member.
#[derive(Serialize, Deserialize)]
pub(crate) struct Envelope {
    pub from: u64,
    pub to: u64,
    pub message: Message,
}

#[derive(Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)] // one at a time, and at once on its way
pub(crate) enum Message {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<u64>),
    /// The heartbeat: the leader with this vote lives.
    Alive {
        vote: Vote,
    },
    /// Would you vote for me? Asked before an election, which disturbs a leader.
    PreVote {
        last: Option<LogId>,
    },
    /// Confirm that you lead and say up to which command a reader must wait.
    ReadIndex,
    /// The leader asks the receiver to follow it in office.
    Elect,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum Answer {
    Append(AppendEntriesResponse<u64>),
    Vote(VoteResponse<u64>),
    Alive {
        accepted: bool,
    },
    PreVote {
        granted: bool,
    },
    ReadIndex(Result<u64, ReadRefusal>),
    Elect,
    Snapshot(SnapshotResponse<u64>),
    /// The message was not understood or not for this member, or the member has stopped.
    Refused(String),
}

#[derive(Serialize, Deserialize)]
pub(crate) enum ReadRefusal {
    NotLeader { leader: Option<Member> },
    Unavailable,
}

/// Announces a snapshot stream.
#[derive(Serialize, Deserialize)]
pub(crate) struct SnapshotHeader {
    pub from: u64,
    pub to: u64,
    pub vote: Vote,
    pub source: SnapshotSource,
    pub content: Content,
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Bytes {
    let start = vec![VERSION];
    postcard::to_extend(value, start)
        .expect("messages are plain data")
        .into()
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => {
            postcard::from_bytes(rest).map_err(|error| format!("a message is malformed: {error}"))
        }
        Some((version, _)) => Err(format!("a message has the unknown version {version}")),
        None => Err("a message is empty".to_owned()),
    }
}
