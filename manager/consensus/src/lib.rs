#![doc = include_str!("../README.md")]

mod alone;
mod applier;
mod backend;
mod barrier;
mod batcher;
mod consensus;
mod contact;
mod election;
mod error;
mod incoming;
mod journal;
mod log_store;
mod machine;
mod mark;
mod member;
mod membership;
mod metrics;
mod network;
mod open;
mod options;
mod origin;
mod raft;
mod snapshot;
mod standing;
mod transport;
mod vault;
mod wire;
mod writer;

pub use consensus::Consensus;
pub use error::{MembershipError, OpenError, ProposeError, ReadError};
pub use machine::StateMachine;
pub use member::{Leadership, Member, MemberPart, Part};
pub use metrics::{Follower, Metrics, Stopped};
pub use options::{
    BATCH_BYTES_MAX, BATCH_COMMANDS_MAX, Backend, COMMAND_BYTES_MAX, LogWriter, Options,
    SNAPSHOT_CHUNK_BYTES, Timing,
};
pub use transport::{Chunks, MESSAGE_BYTES_MAX, Transport, TransportError};
