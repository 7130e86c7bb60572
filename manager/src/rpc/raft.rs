//! Takes raft's messages in.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use skep_proto::v1::raft_server::Raft;
use skep_proto::v1::{RaftMessage, SnapshotPart};
use tonic::{Request, Response, Status, Streaming};

use crate::caller::require_manager;
use crate::manager::Core;

pub struct RaftService(pub Arc<Core>);

#[tonic::async_trait]
impl Raft for RaftService {
    async fn message(
        &self,
        request: Request<RaftMessage>,
    ) -> Result<Response<RaftMessage>, Status> {
        require_manager(&request, &self.0)?;
        let message = Bytes::from(request.into_inner().payload);
        let payload = self.0.consensus.handle(message).await.into();
        Ok(Response::new(RaftMessage { payload }))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<SnapshotPart>>,
    ) -> Result<Response<RaftMessage>, Status> {
        require_manager(&request, &self.0)?;
        let mut parts = request.into_inner();
        let first = parts
            .next()
            .await
            .ok_or_else(|| Status::invalid_argument("the snapshot has no header"))??;
        // An error on the way ends the stream early, which the receiver finds by the digest.
        let chunks = parts
            .take_while(|part| std::future::ready(part.is_ok()))
            .filter_map(|part| std::future::ready(part.ok()))
            .map(|part| Bytes::from(part.chunk));
        let header = Bytes::from(first.header);
        let payload = self
            .0
            .consensus
            .handle_snapshot(header, chunks.boxed())
            .await
            .into();
        Ok(Response::new(RaftMessage { payload }))
    }
}
