//! A cluster's state as it goes into a backup, and as a new manager begins with it.

use skep_model::backup::BackupSummary;
use skep_model::{Node, NodeRole, Timestamp};
use skep_store::{Commit, Snapshot, Transaction};

use crate::nodes::{NewNode, put_new};

/// What is in a state, for people.
pub fn summary(snapshot: &Snapshot) -> BackupSummary {
    let hosts = |role: NodeRole| {
        let nodes = snapshot.nodes().filter(|node| node.role == role);
        sorted(nodes.map(|node| &node.description.hostname))
    };
    BackupSummary {
        services: sorted(snapshot.services().map(|service| &service.spec.name)),
        stacks: sorted(snapshot.stacks().map(|stack| &stack.spec.name)),
        networks: sorted(snapshot.networks().map(|network| &network.spec.name)),
        secrets: sorted(snapshot.secrets().map(|secret| &secret.spec.name)),
        configs: sorted(snapshot.configs().map(|config| &config.spec.name)),
        managers: hosts(NodeRole::Manager),
        workers: hosts(NodeRole::Worker),
        tasks: snapshot.tasks().count(),
        auto_lock: snapshot
            .cluster()
            .is_some_and(|cluster| cluster.spec.encryption_config.auto_lock_managers),
    }
}

fn sorted<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut names: Vec<String> = names.cloned().collect();
    names.sort();
    names
}

/// The commit that makes a restored state that of a cluster with `me` as its only manager.
///
/// The managers of before become workers: their votes belong to a log that this one is not. Nodes
/// stay as they were seen last, so that those that come back within the grace that every new leader
/// gives find their tasks again; the others are down then. Where one of them was on this very host,
/// frames for it must not be sent to ourselves.
pub fn restored(snapshot: &Snapshot, me: NewNode, now: Timestamp) -> Option<Commit> {
    let mut tx = Transaction::new(snapshot, now);
    let here = me.description.data_path_addr;
    for known in snapshot.nodes() {
        let mut node = Node::clone(known);
        node.spec.role = NodeRole::Worker;
        node.role = NodeRole::Worker;
        node.manager_status = None;
        if here.is_some() && node.description.data_path_addr == here {
            node.description.data_path_addr = None;
            node.description.addresses.clear();
        }
        tx.put(node).expect("nodes have no unique names");
    }
    put_new(&mut tx, snapshot, me, now);
    tx.commit()
}

#[cfg(test)]
mod tests {
    use skep_model::node::ManagerStatus;
    use skep_model::{Cluster, NodeState};
    use skep_store::Store;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_900_000_000);

    fn node(id: &str, role: NodeRole, address: &str) -> Node {
        let mut node = Node {
            id: id.into(),
            role,
            ..Node::default()
        };
        node.spec.role = role;
        node.spec.labels = [("zone".to_owned(), id.to_owned())].into();
        node.description.hostname = format!("host-{id}");
        node.description.data_path_addr = address.parse().ok();
        node.description.addresses = address.parse().into_iter().collect();
        node.status.state = NodeState::Ready;
        node.manager_status = (role == NodeRole::Manager).then(|| ManagerStatus {
            raft_id: 7,
            ..ManagerStatus::default()
        });
        node
    }

    fn old() -> Store {
        let store = Store::new();
        let mut tx = Transaction::new(&store.snapshot(), NOW);
        let mut cluster = Cluster {
            id: "c".into(),
            ..Cluster::default()
        };
        cluster.spec.encryption_config.auto_lock_managers = true;
        tx.put(cluster).unwrap();
        tx.put(node("m", NodeRole::Manager, "10.0.0.1")).unwrap();
        tx.put(node("w", NodeRole::Worker, "10.0.0.2")).unwrap();
        store.apply(1, &tx.commit().unwrap()).unwrap();
        store
    }

    #[test]
    fn the_restored_cluster_has_one_manager_and_knows_the_nodes_of_before() {
        let store = old();
        let mut me = NewNode {
            id: "new".into(),
            role: NodeRole::Manager,
            manager_status: Some(ManagerStatus {
                raft_id: 9,
                ..ManagerStatus::default()
            }),
            ..NewNode::default()
        };
        // The host of the manager that was lost, with nothing on it.
        me.description.data_path_addr = "10.0.0.1".parse().ok();
        let commit = restored(&store.snapshot(), me, NOW).unwrap();
        store.apply(2, &commit).unwrap();
        let after = store.snapshot();
        let managers = after.nodes().filter(|node| node.manager_status.is_some());
        assert_eq!(
            managers.map(|node| node.id.as_str()).collect::<Vec<_>>(),
            ["new"]
        );
        for id in ["m", "w"] {
            let node = after.node(&id.into()).unwrap();
            assert_eq!(
                (node.role, node.spec.role),
                (NodeRole::Worker, NodeRole::Worker)
            );
            assert_eq!(node.spec.labels["zone"], id, "wishes stay");
            assert_eq!(node.status.state, NodeState::Ready, "it may still come");
        }
        let address = |id: &str| after.node(&id.into()).unwrap().description.data_path_addr;
        assert_eq!(address("m"), None, "it is not here any more");
        assert_eq!(address("w"), "10.0.0.2".parse().ok());
        assert_eq!(address("new"), "10.0.0.1".parse().ok());
    }

    #[test]
    fn a_summary_names_what_is_there() {
        let summary = summary(&old().snapshot());
        assert_eq!(summary.managers, ["host-m"]);
        assert_eq!(summary.workers, ["host-w"]);
        assert!(summary.auto_lock && summary.services.is_empty());
    }
}
