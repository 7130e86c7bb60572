//! How opaque messages reach the other members: implemented by the manager over gRPC.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::Member;

/// Bytes of the largest message or chunk handed to [`Transport`]; the carrying protocol must let
/// this much through.
pub const MESSAGE_BYTES_MAX: usize = 12 * 1024 * 1024;

/// A snapshot under way. Each chunk is at most [`crate::SNAPSHOT_CHUNK_BYTES`] plus a few bytes. A stream that
/// ends early (an error on the way) is noticed by the receiver: the header names size and digest.
pub type Chunks = BoxStream<'static, Bytes>;

/// Why a message was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No connection: the sender backs off before it tries again.
    #[error("member is unreachable: {0}")]
    Unreachable(String),
    /// It was perhaps delivered, but not answered.
    #[error("message failed: {0}")]
    Failed(String),
}

/// Carries messages to [`crate::Consensus::handle`] and snapshots to
/// [`crate::Consensus::handle_snapshot`] of another member.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends one message and awaits the answer, for at most `timeout`.
    async fn send(
        &self,
        to: &Member,
        message: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, TransportError>;

    /// Streams a snapshot and awaits the answer. It takes as long as it takes: the caller drops
    /// the future when the transfer is no longer wanted.
    async fn send_snapshot(
        &self,
        to: &Member,
        header: Bytes,
        chunks: Chunks,
    ) -> Result<Bytes, TransportError>;
}
