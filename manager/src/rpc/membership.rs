//! Managers come and go: membership of the log itself.

use std::sync::Arc;

use skep_consensus::{Member, MembershipError};
use skep_model::node::{ManagerStatus, Reachability};
use skep_model::{ControlError, ControlRequest, NodeId, NodeRole, NodeSpec};
use skep_proto::v1::membership_client::MembershipClient;
use skep_proto::v1::membership_server::Membership;
use skep_proto::v1::{Empty, JoinReply, JoinRequest, LeaveRequest, ManagerPeer};
use tonic::{Request, Response, Status};
use tracing::info;

use crate::caller::{mark_forwarded, require};
use crate::manager::Core;
use crate::submit::{self, CommitError};

/// A commit that lost a race is made anew this often.
const ATTEMPTS_MAX: usize = 8;

pub struct MembershipService(pub Arc<Core>);

#[tonic::async_trait]
impl Membership for MembershipService {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let verified = require(&request, &self.0)?;
        if verified.peer.role != NodeRole::Manager {
            return Err(Status::permission_denied(
                "only managers may join the replicated log",
            ));
        }
        note_move(&self.0, &verified.peer.node, request.get_ref());
        let leader = submit::leader_elsewhere(&self.0).await.map_err(status)?;
        match leader {
            None => {
                let reply = join(&self.0, &verified.peer.node, &request.into_inner()).await?;
                Ok(Response::new(reply))
            }
            Some(_) if verified.forwarded => Err(Status::unavailable(submit::NO_LEADER)),
            Some(leader) => {
                let mut call = Request::new(request.into_inner());
                mark_forwarded(&mut call, Some(&verified.peer));
                MembershipClient::new(self.0.connector.channel(&leader.address))
                    .join(call)
                    .await
            }
        }
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Result<Response<Empty>, Status> {
        let verified = require(&request, &self.0)?;
        let leader = submit::leader_elsewhere(&self.0).await.map_err(status)?;
        match leader {
            None => {
                leave(&self.0, &verified.peer.node).await?;
                Ok(Response::new(Empty {}))
            }
            Some(_) if verified.forwarded => Err(Status::unavailable(submit::NO_LEADER)),
            Some(leader) => {
                let mut call = Request::new(request.into_inner());
                mark_forwarded(&mut call, Some(&verified.peer));
                MembershipClient::new(self.0.connector.channel(&leader.address))
                    .leave(call)
                    .await
            }
        }
    }
}

fn status(error: ControlError) -> Status {
    skep_proto::status::from_control(&error)
}

fn refused(error: &MembershipError) -> Status {
    match error {
        MembershipError::NotLeader { .. }
        | MembershipError::Unavailable
        | MembershipError::Stopped => Status::unavailable(error.to_string()),
        MembershipError::WouldLoseQuorum { .. } => Status::failed_precondition(
            "can't remove member from the raft: this would result in a loss of quorum",
        ),
        MembershipError::LastVoter { .. }
        | MembershipError::NoSuchMember { .. }
        | MembershipError::Exists { .. }
        | MembershipError::Behind { .. }
        | MembershipError::AlreadyBootstrapped => Status::failed_precondition(error.to_string()),
    }
}

/// A member that joins again says where it is now. It is reached there from now on, whether there is
/// a leader or not.
fn note_move(core: &Core, node: &NodeId, request: &JoinRequest) {
    let members = core.consensus.members().into_iter();
    let members: Vec<Member> = members.map(|part| part.member).collect();
    let mut own = members.iter().filter(|one| one.id == request.raft_id);
    if own.any(|member| member.node == node.as_str()) && !request.address.is_empty() {
        core.moved.note(&members, request.raft_id, &request.address);
    }
}

async fn join(core: &Arc<Core>, node: &NodeId, request: &JoinRequest) -> Result<JoinReply, Status> {
    let _votes = core.votes.lock().await;
    let snapshot = core.machine.store().snapshot();
    let Some(found) = snapshot.node(node) else {
        return Err(Status::not_found(
            "the node is not a member of this cluster",
        ));
    };
    if found.spec.role == NodeRole::Worker {
        return Err(Status::failed_precondition(
            "the node is to be a worker: it gets no vote",
        ));
    }
    if request.raft_id == 0 || request.address.is_empty() {
        return Err(Status::invalid_argument(
            "a manager joins with a raft id and an address",
        ));
    }
    let member = Member {
        id: request.raft_id,
        address: request.address.clone(),
        node: node.to_string(),
    };
    // What the node says of itself must be stored before it votes: the next leader finds it.
    let known = found.manager_status.as_ref();
    let manager_status = ManagerStatus {
        // It may be the leader itself, which has moved.
        leader: known.is_some_and(|known| known.raft_id == request.raft_id && known.leader),
        reachability: Reachability::Reachable,
        addr: request.address.clone(),
        raft_id: request.raft_id,
    };
    record(core, node, NodeRole::Manager, Some(manager_status)).await?;
    core.consensus
        .add_learner(member)
        .await
        .map_err(|error| refused(&error))?;
    core.consensus
        .promote(request.raft_id)
        .await
        .map_err(|error| refused(&error))?;
    info!(%node, address = request.address, "manager joined");
    let managers = core
        .consensus
        .members()
        .into_iter()
        .map(|part| ManagerPeer {
            node_id: part.member.node,
            address: part.member.address,
            raft_id: part.member.id,
        })
        .collect();
    Ok(JoinReply { managers })
}

/// A manager gives up its vote and becomes a worker that is down.
async fn leave(core: &Arc<Core>, node: &NodeId) -> Result<(), Status> {
    let _votes = core.votes.lock().await;
    let snapshot = core.machine.store().snapshot();
    let Some(found) = snapshot.node(node) else {
        return Ok(());
    };
    let raft_id = found
        .manager_status
        .as_ref()
        .map_or(0, |status| status.raft_id);
    if raft_id == core.raft_id {
        return Err(Status::failed_precondition(
            "the leader must hand over before it leaves",
        ));
    }
    if raft_id != 0 {
        match core.consensus.remove(raft_id).await {
            Ok(()) | Err(MembershipError::NoSuchMember { .. }) => (),
            Err(error) => return Err(refused(&error)),
        }
    }
    let spec = NodeSpec {
        role: NodeRole::Worker,
        ..found.spec.clone()
    };
    let request = ControlRequest::UpdateNode {
        id: node.clone(),
        version: found.version,
        spec,
    };
    submit::submit(core, request, true).await.map_err(status)?;
    record(core, node, NodeRole::Worker, None).await?;
    // Plain containers lose the networks of the cluster that their host leaves.
    let places: Vec<ControlRequest> = snapshot
        .attachments()
        .filter(|place| place.node_id == *node)
        .map(|place| ControlRequest::Detach {
            node: node.clone(),
            network: place.network_id.clone(),
            container: place.container.id.clone(),
        })
        .collect();
    for request in places {
        submit::submit(core, request, true).await.map_err(status)?;
    }
    core.liveness
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .gone(node);
    core.leader_wake.notify_one();
    Ok(())
}

async fn record(
    core: &Arc<Core>,
    node: &NodeId,
    role: NodeRole,
    manager_status: Option<ManagerStatus>,
) -> Result<(), Status> {
    for _ in 0..ATTEMPTS_MAX {
        let snapshot = core.machine.store().snapshot();
        let commit = crate::roles::record_role(&snapshot, node, role, manager_status.clone());
        let Some(commit) = commit else { return Ok(()) };
        match submit::propose(core, &commit).await {
            Ok(()) => return Ok(()),
            Err(CommitError::Conflict { .. }) => (),
            Err(error) => return Err(status(submit::describe(&error))),
        }
    }
    Err(Status::unavailable(
        "the node's role could not be noted: try again",
    ))
}
