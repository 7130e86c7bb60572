//! What dockerd says of a node's membership. The daemon answers with these; clients match them.

use skep_model::{ControlError, Kind};

use crate::cluster::{LocalCluster, LocalState};

/// Asked something of a cluster on a node that is in none.
pub const NO_SWARM: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.";
/// Asked something of a cluster on a worker.
pub const NOT_A_MANAGER: &str = "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager.";
/// Leave on a node that is in no cluster.
pub const NOT_PART: &str = "This node is not part of a swarm";
/// Init or join on a member.
pub const ALREADY_PART: &str = "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.";
/// The keys are locked.
pub const LOCKED: &str = "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm unlock\" to unlock it.";
/// A join that takes long.
pub const JOIN_TIMEOUT: &str = "Timeout was reached before node joined. The attempt to join the swarm will continue in the background. Use the \"docker info\" command to see the current swarm status of your node.";
/// The node's certificate ran out.
pub const CERTIFICATES_EXPIRED: &str = "Swarm certificates have expired. To replace them, leave the swarm and join again. Or have this node keep its place: `skep swarm rescue`.";
/// No quorum.
pub const NO_LEADER: &str = "The swarm does not have a leader. It's possible that too few managers are online. Make sure more than half of the managers are online.";

/// Why this node cannot answer questions about a cluster; `None` on a manager that can.
pub fn unavailable(local: &LocalCluster) -> Option<ControlError> {
    let text = match local.state {
        LocalState::Active if local.is_manager => return None,
        LocalState::Inactive => NO_SWARM,
        LocalState::Locked => LOCKED,
        LocalState::Active | LocalState::Pending | LocalState::Error => {
            match local.error.as_str() {
                "" => NOT_A_MANAGER,
                error => error,
            }
        }
    };
    Some(ControlError::new(Kind::Unavailable, text))
}
