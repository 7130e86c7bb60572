//! Gives plain containers their places on attachable networks, on behalf of their nodes.

use std::sync::Arc;
use std::time::Duration;

use skep_model::{
    AttachReply, AttachRequest, Attachment, AttachmentId, ControlError, ControlRequest, Kind,
    Network, NodeId,
};
use skep_proto::v1::{ControlReply, control_reply};
use skep_proto::{decode, encode};
use skep_reconcile::control::check_attachable;

use crate::manager::Core;
use crate::submit;

/// How long the allocator may take: a leader that changes meanwhile included.
const ALLOCATION: Duration = Duration::from_secs(8);

/// Answers one request of `node`, in the form it travels in.
pub async fn answer(core: &Arc<Core>, node: &NodeId, payload: &[u8]) -> ControlReply {
    let outcome = match decode::<AttachRequest>("attach request", payload) {
        Ok(wanted) => decide(core, node, wanted).await,
        Err(error) => Err(ControlError::new(Kind::Invalid, error.to_string())),
    };
    let outcome = match outcome {
        Ok(reply) => control_reply::Outcome::Response(encode(&reply)),
        Err(error) => control_reply::Outcome::Error(encode(&error)),
    };
    ControlReply {
        outcome: Some(outcome),
    }
}

async fn decide(
    core: &Arc<Core>,
    node: &NodeId,
    wanted: AttachRequest,
) -> Result<AttachReply, ControlError> {
    let node = node.clone();
    match wanted {
        AttachRequest::Find { network } => {
            let snapshot = submit::read(core, false).await?;
            let found = snapshot
                .find::<Network>(&network)
                .map_err(|_| ControlError::not_found(format!("network {network} not found")))?;
            check_attachable(found)?;
            Ok(AttachReply::Found(Box::new(Network::clone(found))))
        }
        AttachRequest::Attach {
            network,
            container,
            addresses,
        } => {
            let id = container.id.clone();
            let snapshot = core.machine.store().snapshot();
            let had_place = snapshot
                .attachments_on_network(&network)
                .any(|place| place.node_id == node && place.container.id == id);
            let request = ControlRequest::Attach {
                node: node.clone(),
                network: network.clone(),
                container,
                addresses,
            };
            let place = submit::submit(core, request, false).await?.id;
            let allocated = allocated(core, &AttachmentId::new(place)).await;
            if allocated.is_err() && !had_place {
                let back = ControlRequest::Detach {
                    node,
                    network,
                    container: id,
                };
                submit::submit(core, back, false).await?;
            }
            allocated.map(|place| AttachReply::Attached(Box::new(place)))
        }
        AttachRequest::Detach { network, container } => {
            let request = ControlRequest::Detach {
                node,
                network,
                container,
            };
            submit::submit(core, request, false).await?;
            Ok(AttachReply::Detached)
        }
    }
}

/// The place once it has its addresses, as this replica sees it.
async fn allocated(core: &Core, id: &AttachmentId) -> Result<Attachment, ControlError> {
    let mut applied = core.machine.applied();
    let allocation = async {
        loop {
            let snapshot = core.machine.store().snapshot();
            if let Some(place) = snapshot.attachment(id) {
                if !place.addresses.is_empty() {
                    return Ok(Attachment::clone(place));
                }
                if !place.waits_for.is_empty() {
                    return Err(ControlError::new(
                        Kind::FailedPrecondition,
                        place.waits_for.clone(),
                    ));
                }
            }
            if applied.changed().await.is_err() {
                return Err(ControlError::new(
                    Kind::Unavailable,
                    "this manager is stopping",
                ));
            }
        }
    };
    tokio::time::timeout(ALLOCATION, allocation)
        .await
        .unwrap_or_else(|_| {
            Err(ControlError::new(
                Kind::Unavailable,
                "no manager gave the container an address in time",
            ))
        })
}
