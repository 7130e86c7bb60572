//! A task may stop once every node that is up has forgotten its endpoint.

mod support;

use std::collections::BTreeMap;

use skep_model::{NodeId, NodeState, TaskState};
use skep_reconcile::confirm_drained;
use support::{Cluster, cluster, spec};

/// A service on a network of three nodes, scaled from two tasks to one.
fn scaled_down() -> Cluster {
    let mut cluster = cluster(3);
    let published = r#"{"EndpointSpec":{"Ports":[{"TargetPort":80,"PublishedPort":8080}]}}"#;
    cluster.create(spec("web", 2, published));
    cluster.converge();
    assert_eq!(cluster.view().draining_tasks().count(), 0);
    cluster.update("web", |spec| {
        *spec = support::spec("web", 1, published);
    });
    cluster.settle();
    assert_eq!(cluster.view().draining_tasks().count(), 1);
    cluster
}

/// Lets the nodes follow so far, and returns how many tasks may stop after that.
fn confirmed(cluster: &mut Cluster, versions: [u64; 3]) -> usize {
    let nodes = ["n0", "n1", "n2"].map(NodeId::new);
    let networks: BTreeMap<NodeId, u64> = nodes.into_iter().zip(versions).collect();
    let commit = confirm_drained(&cluster.view(), &networks, cluster.now);
    if let Some(commit) = &commit {
        cluster.apply(commit);
    }
    let drained = |task: &&skep_model::Task| !task.drained_at.is_zero();
    cluster.tasks("web").iter().filter(drained).count()
}

fn begun(cluster: &Cluster) -> u64 {
    let view = cluster.view();
    let task = view.draining_tasks().next().expect("one drains");
    task.version.index
}

#[test]
fn the_slowest_node_decides() {
    let mut cluster = scaled_down();
    let at = begun(&cluster);
    assert_eq!(confirmed(&mut cluster, [0, 0, 0]), 0, "nobody was heard");
    assert_eq!(confirmed(&mut cluster, [at, at + 5, at - 1]), 0);
    assert_eq!(confirmed(&mut cluster, [at, at + 5, at]), 1);
    assert_eq!(cluster.view().draining_tasks().count(), 0);
    assert!(
        confirm_drained(&cluster.view(), &BTreeMap::new(), cluster.now).is_none(),
        "it is said once"
    );
}

#[test]
fn a_node_that_is_down_is_not_waited_for() {
    let mut cluster = scaled_down();
    let at = begun(&cluster);
    let task = cluster
        .view()
        .draining_tasks()
        .next()
        .cloned()
        .expect("one");
    let other = ["n0", "n1", "n2"]
        .into_iter()
        .find(|node| *node != task.node_id.as_str());
    let other = other.expect("there are three");
    cluster.heard(other, NodeState::Down);
    let versions = ["n0", "n1", "n2"].map(|node| if node == other { 0 } else { at });
    assert_eq!(confirmed(&mut cluster, versions), 1);
}

#[test]
fn a_task_that_has_ended_waits_for_nobody() {
    let mut cluster = scaled_down();
    let task = cluster
        .view()
        .draining_tasks()
        .next()
        .cloned()
        .expect("one");
    cluster.report(&task.id, TaskState::Shutdown);
    assert_eq!(cluster.view().draining_tasks().count(), 0);
}
