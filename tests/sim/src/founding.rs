//! A cluster of ready nodes, made at once.

use skep_model::node::{ManagerStatus, NodeDescription, Reachability};
use skep_model::resources::Resources;
use skep_model::{ClusterId, MemoryBytes, NanoCpus, NodeId, NodeRole, NodeState, Timestamp};
use skep_reconcile::{
    InitialCluster, NewNode, NodeReport, add_node, initial_cluster, record_node_states,
};

use crate::host::Host;
use crate::log::Log;
use crate::random::Dice;

/// Makes a cluster of so many nodes in an empty log, and gives back their hosts.
///
/// # Errors
/// The log was not empty.
pub fn found(
    log: &mut Log,
    nodes: u64,
    now: Timestamp,
    dice: &mut Dice,
) -> Result<Vec<Host>, String> {
    let refused = |error: skep_store::Conflict| format!("the cluster is not made: {error}");
    let cluster = InitialCluster {
        id: ClusterId::random(dice),
        ..InitialCluster::default()
    };
    let commit = initial_cluster(cluster, now, dice);
    log.commit(&commit).map_err(refused)?;
    let mut hosts = Vec::new();
    for at in 0..nodes {
        let id = NodeId::random(dice);
        let joins = add_node(&log.snapshot(), node(&id, at), now);
        let ready = NodeReport {
            state: NodeState::Ready,
            ..NodeReport::default()
        };
        if let Some(commit) = joins {
            log.commit(&commit).map_err(refused)?;
        }
        let heard = record_node_states(&log.snapshot(), &[(id.clone(), ready)], now);
        if let Some(commit) = heard {
            log.commit(&commit).map_err(refused)?;
        }
        hosts.push(Host::new(id));
    }
    Ok(hosts)
}

/// The first is a manager.
fn node(id: &NodeId, at: u64) -> NewNode {
    NewNode {
        id: id.clone(),
        role: [NodeRole::Worker, NodeRole::Manager][usize::from(at == 0)],
        description: NodeDescription {
            hostname: format!("n{at}"),
            resources: Resources {
                nano_cpus: NanoCpus(4_000_000_000),
                memory_bytes: MemoryBytes(1 << 30),
                generic_resources: Vec::new(),
            },
            data_path_mtu: 1500,
            holds_leases: true,
            knows_variables: true,
            asks_stores: true,
            ..NodeDescription::default()
        },
        manager_status: (at == 0).then(|| ManagerStatus {
            reachability: Reachability::Reachable,
            ..ManagerStatus::default()
        }),
        ..NewNode::default()
    }
}
