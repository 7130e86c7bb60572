//! Decides requests that other managers hand on, and takes in what followers heard.

use std::sync::Arc;

use skep_model::{ControlError, ControlRequest, Kind};
use skep_proto::v1::control_server::Control;
use skep_proto::v1::{
    ControlPayload, ControlReply, Empty, ReadIndexReply, RelayReply, RelayRequest, control_reply,
};
use skep_proto::{decode, encode};
use tonic::{Request, Response, Status};

use crate::caller::{require_manager, require_manager_connection};
use crate::manager::Core;
use crate::submit;

pub struct ControlService(pub Arc<Core>);

#[tonic::async_trait]
impl Control for ControlService {
    async fn submit(
        &self,
        request: Request<ControlPayload>,
    ) -> Result<Response<ControlReply>, Status> {
        require_manager_connection(&request, &self.0)?;
        let payload = request.into_inner().payload;
        let outcome = match decode::<ControlRequest>("control request", &payload) {
            Ok(wanted) => submit::submit(&self.0, wanted, true).await,
            Err(error) => Err(ControlError::new(Kind::Invalid, error.to_string())),
        };
        let outcome = match outcome {
            Ok(response) => control_reply::Outcome::Response(encode(&response)),
            Err(error) => control_reply::Outcome::Error(encode(&error)),
        };
        Ok(Response::new(ControlReply {
            outcome: Some(outcome),
        }))
    }

    async fn read_index(
        &self,
        request: Request<Empty>,
    ) -> Result<Response<ReadIndexReply>, Status> {
        require_manager(&request, &self.0)?;
        let index = self
            .0
            .consensus
            .read_barrier()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(ReadIndexReply { index }))
    }

    async fn relay(&self, request: Request<RelayRequest>) -> Result<Response<RelayReply>, Status> {
        require_manager_connection(&request, &self.0)?;
        if !self.0.consensus.leadership().borrow().is_me {
            return Err(Status::unavailable(submit::NO_LEADER));
        }
        let reply = crate::relay::take_in(&self.0, request.into_inner()).await?;
        Ok(Response::new(reply))
    }
}
