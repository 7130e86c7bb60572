#![doc = include_str!("../README.md")]

mod consensus;
mod error;
mod machine;
mod member;
mod metrics;
mod options;
mod transport;

pub use consensus::Consensus;
pub use error::{MembershipError, OpenError, ProposeError, ReadError};
pub use machine::StateMachine;
pub use member::{Leadership, Member, MemberPart, Part};
pub use metrics::{Follower, Metrics, Stopped};
pub use options::{
    BATCH_BYTES_MAX, BATCH_COMMANDS_MAX, Backend, COMMAND_BYTES_MAX, Options, SNAPSHOT_CHUNK_BYTES,
    Timing,
};
pub use transport::{Chunks, MESSAGE_BYTES_MAX, Transport, TransportError};
