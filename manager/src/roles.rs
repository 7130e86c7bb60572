//! Promotions and demotions: the vote first, then the certificate.

use std::sync::Arc;
use std::time::Duration;

use skep_consensus::{MembershipError, Part};
use skep_model::node::ManagerStatus;
use skep_model::{ControlError, Kind, Node, NodeId, NodeRole, NodeSpec};
use skep_reconcile::NewNode;
use skep_store::{Commit, Snapshot};
use tracing::{debug, info};

use crate::clock;
use crate::manager::Core;
use crate::submit;

/// How long a leader that is demoted waits for another one to take over.
const STEP_DOWN: Duration = Duration::from_secs(3);

/// The role that a node's next certificate is to have, when it `holds` one of this role now.
pub fn next(node: &Node, holds: NodeRole) -> NodeRole {
    use NodeRole::{Manager, Worker};

    match (node.spec.role, node.role, holds) {
        (Worker, Worker, _) => Worker,
        // A manager that is to be a worker keeps its role until its vote is gone.
        (Worker, Manager, _) => Manager,
        // Promoted again before it had followed its demotion: its vote is gone for good, so it
        // becomes a worker first, and then a manager with a new one.
        (Manager, Worker, Manager) => Worker,
        (Manager, Worker, Worker) | (Manager, Manager, _) => Manager,
    }
}

/// Refuses a demotion that would lose the quorum.
pub fn before_update(core: &Core, id: &NodeId, spec: &NodeSpec) -> Result<(), ControlError> {
    let snapshot = core.machine.store().snapshot();
    let Some(node) = snapshot.node(id) else {
        return Ok(());
    };
    let demoted = node.spec.role == NodeRole::Manager && spec.role == NodeRole::Worker;
    let Some(raft_id) = raft_id(node).filter(|_| demoted) else {
        return Ok(());
    };
    let metrics = core.consensus.metrics();
    let voters = metrics
        .members
        .iter()
        .filter(|part| part.part == Part::Voter)
        .map(|part| part.member.id);
    let rest: Vec<u64> = voters.filter(|id| *id != raft_id).collect();
    let reachable = rest
        .iter()
        .filter(|id| {
            **id == core.raft_id
                || metrics
                    .followers
                    .iter()
                    .any(|follower| follower.id == **id && follower.reachable)
        })
        .count();
    if !rest.is_empty() && reachable < rest.len() / 2 + 1 {
        return Err(ControlError::new(
            Kind::FailedPrecondition,
            "can't remove member from the raft: this would result in a loss of quorum",
        ));
    }
    Ok(())
}

/// Refuses to remove a node that still is a member of the log. The node itself is looked at by
/// the request.
pub async fn before_remove(core: &Core, id: &NodeId, _force: bool) -> Result<(), ControlError> {
    let snapshot = core.machine.store().snapshot();
    let Some(node) = snapshot.node(id) else {
        return Ok(());
    };
    let votes = raft_id(node).is_some_and(|raft_id| {
        core.consensus
            .members()
            .iter()
            .any(|part| part.member.id == raft_id)
    });
    if votes {
        return Err(ControlError::new(
            Kind::FailedPrecondition,
            format!(
                "node {id} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal"
            ),
        ));
    }
    Ok(())
}

fn raft_id(node: &Node) -> Option<u64> {
    node.manager_status
        .as_ref()
        .map(|status| status.raft_id)
        .filter(|id| *id != 0)
}

/// Takes the vote from managers that are to be workers. On the leader, every tick.
pub async fn reconcile(core: &Arc<Core>) {
    let snapshot = core.machine.store().snapshot();
    let demoted: Vec<Arc<Node>> = snapshot
        .nodes()
        .filter(|node| node.spec.role == NodeRole::Worker && node.role == NodeRole::Manager)
        .cloned()
        .collect();
    for node in demoted {
        if let Err(error) = demote(core, &node).await {
            debug!(node = %node.id, %error, "a demotion has to wait");
        }
    }
}

async fn demote(core: &Arc<Core>, node: &Node) -> Result<(), String> {
    if node.id == core.node {
        // The next leader goes on with it.
        core.consensus.step_down_hint(STEP_DOWN).await;
        return Ok(());
    }
    let _votes = core.votes.lock().await;
    // Whatever the state says of it: what counts is who is in the log.
    let members = core.consensus.members();
    let votes = members.iter().map(|part| &part.member);
    let votes = votes.filter(|member| member.node == node.id.as_str());
    for raft_id in votes.map(|member| member.id).chain(raft_id(node)) {
        match core.consensus.remove(raft_id).await {
            Ok(()) | Err(MembershipError::NoSuchMember { .. }) => (),
            Err(error) => return Err(error.to_string()),
        }
    }
    let snapshot = core.machine.store().snapshot();
    let commit = record_role(&snapshot, &node.id, NodeRole::Worker, None);
    let Some(commit) = commit else { return Ok(()) };
    submit::propose(core, &commit)
        .await
        .map_err(|error| submit::describe(&error).to_string())?;
    info!(node = %node.id, "node is a worker now");
    Ok(())
}

/// The commit that notes which role a node's certificate has, and how it is reached as a manager.
pub fn record_role(
    snapshot: &Snapshot,
    id: &NodeId,
    role: NodeRole,
    manager_status: Option<ManagerStatus>,
) -> Option<Commit> {
    snapshot.node(id)?;
    let new = NewNode {
        id: id.clone(),
        role,
        manager_status,
        ..NewNode::default()
    };
    skep_reconcile::add_node(snapshot, new, clock::now())
}

#[cfg(test)]
mod tests {
    use NodeRole::{Manager, Worker};

    use super::*;

    fn next_of(spec: NodeRole, observed: NodeRole, holds: NodeRole) -> NodeRole {
        let mut node = Node {
            role: observed,
            ..Node::default()
        };
        node.spec.role = spec;
        next(&node, holds)
    }

    #[test]
    fn roles_follow_what_is_wanted_and_never_skip_a_demotion() {
        assert_eq!(next_of(Manager, Worker, Worker), Manager, "promoted");
        assert_eq!(
            next_of(Manager, Manager, Worker),
            Manager,
            "its certificate was lost"
        );
        assert_eq!(next_of(Manager, Manager, Manager), Manager, "renewed");
        assert_eq!(next_of(Worker, Manager, Manager), Manager, "it still votes");
        assert_eq!(next_of(Worker, Worker, Manager), Worker, "demoted");
        assert_eq!(
            next_of(Manager, Worker, Manager),
            Worker,
            "promoted before it followed"
        );
    }
}
