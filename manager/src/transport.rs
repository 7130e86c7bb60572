//! Carries raft's messages to the other managers over gRPC.

use std::sync::Arc;
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

pub struct GrpcTransport {
    connector: Arc<Connector>,
}

impl GrpcTransport {
    pub fn new(connector: Arc<Connector>) -> Self {
        Self { connector }
    }

    fn client(&self, to: &Member) -> RaftClient<tonic::transport::Channel> {
        RaftClient::new(self.connector.channel(&to.address))
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
