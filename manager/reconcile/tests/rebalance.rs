//! Services that are spread over nodes that came later.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use skep_model::service::UpdateState;
use skep_model::{Availability, ControlRequest, ControlResponse, Kind, NodeId, TaskState};
use skep_reconcile::preview;
use support::{Cluster, cluster, spec};

/// Services of six tasks on two of the cluster's nodes, before the third one is there.
fn crowded(rest: &str) -> Cluster {
    let mut cluster = cluster(3);
    cluster.set_availability("n2", Availability::Drain);
    cluster.create(spec("web", 6, rest));
    cluster.converge();
    cluster.set_availability("n2", Availability::Active);
    cluster.settle();
    cluster
}

fn ask(cluster: &mut Cluster, most: Option<u64>) -> ControlResponse {
    let id = cluster.service("web").id;
    let request = ControlRequest::RebalanceService { id, most };
    cluster.ask(request).unwrap()
}

fn spread(cluster: &Cluster) -> BTreeMap<NodeId, usize> {
    let mut spread = BTreeMap::new();
    for task in cluster.live("web") {
        assert_eq!(task.status.state, TaskState::Running);
        *spread.entry(task.node_id).or_default() += 1;
    }
    spread
}

fn even(counts: [usize; 3]) -> BTreeMap<NodeId, usize> {
    ["n0", "n1", "n2"]
        .map(NodeId::from)
        .into_iter()
        .zip(counts)
        .collect()
}

#[test]
fn no_more_tasks_are_moved_than_it_takes() {
    let mut cluster = crowded("");
    let before = cluster.live("web");
    let answer = ask(&mut cluster, None);
    assert_eq!(answer.actions.len(), 2, "{answer:?}");
    assert!(answer.actions.iter().all(|one| one.ends_with(" -> n2")));
    cluster.converge();
    assert_eq!(spread(&cluster), even([2, 2, 2]));
    let status = cluster.service("web").update_status.unwrap();
    assert_eq!(status.state, UpdateState::Completed);
    assert!(cluster.service("web").moving.is_empty());
    let after = cluster.live("web");
    let stayed = before
        .iter()
        .filter(|old| after.iter().any(|new| new.id == old.id));
    assert_eq!(stayed.count(), 4);
    // And nothing is left to do.
    assert_eq!(ask(&mut cluster, None).actions, [""; 0]);
}

#[test]
fn a_budget_is_kept_and_a_preview_moves_nobody() {
    let mut cluster = crowded("");
    let request = ControlRequest::RebalanceService {
        id: cluster.service("web").id,
        most: None,
    };
    let told = preview(&request, &cluster.view(), cluster.now, &mut || 1).unwrap();
    let reasons: Vec<&str> = told
        .tasks
        .iter()
        .flat_map(|task| &task.reasons)
        .map(|one| &**one)
        .collect();
    assert_eq!(
        reasons,
        ["another node has fewer of the service's tasks"; 2]
    );
    assert_eq!(told.changes, [""; 0]);
    assert_eq!(ask(&mut cluster, Some(1)).actions.len(), 1);
    cluster.converge();
    assert_eq!(spread(&cluster)[&NodeId::from("n2")], 1);
}

#[test]
fn preferences_are_evened_out_first() {
    let mut cluster = cluster(4);
    for (node, zone) in [("n0", "a"), ("n1", "a"), ("n2", "b"), ("n3", "b")] {
        cluster.set_label(node, zone);
    }
    for node in ["n2", "n3"] {
        cluster.set_availability(node, Availability::Drain);
    }
    let rest = r#"{"TaskTemplate":{"Placement":{"Preferences":[{"Spread":{"SpreadDescriptor":"node.labels.zone"}}]}}}"#;
    cluster.create(spec("web", 2, rest));
    cluster.converge();
    for node in ["n2", "n3"] {
        cluster.set_availability(node, Availability::Active);
    }
    cluster.settle();
    // One on each node of zone a: even by nodes, not by zones.
    assert_eq!(ask(&mut cluster, None).actions.len(), 1);
    cluster.converge();
    let zones: Vec<bool> = cluster
        .live("web")
        .iter()
        .map(|task| task.node_id.as_str() < "n2")
        .collect();
    assert_eq!(zones.iter().filter(|in_a| **in_a).count(), 1);
}

/// A constraint that goes restarts nothing, and tasks keep what they were placed by. They were held to
/// it when they were to be spread anew.
#[test]
fn tasks_are_moved_by_what_is_wanted_now() {
    let mut cluster = cluster(3);
    let rest = r#"{"TaskTemplate":{"Placement":{"Constraints":["node.hostname!=n2"]}}}"#;
    cluster.create(spec("web", 6, rest));
    cluster.converge();
    let before = cluster.live("web");
    cluster.update("web", |spec| spec.task_template.placement = None);
    cluster.converge();
    assert!(before.iter().all(|task| task.node_id.as_str() != "n2"));
    assert_eq!(ask(&mut cluster, None).actions.len(), 2);
    cluster.converge();
    assert_eq!(spread(&cluster), even([2, 2, 2]));
}

/// The spec is not what fails.
#[test]
fn moves_that_fail_come_to_a_halt_and_the_rest_stays() {
    let mut cluster = crowded(r#"{"UpdateConfig":{"FailureAction":"rollback"}}"#);
    ask(&mut cluster, None);
    cluster.settle();
    let new = cluster
        .live("web")
        .into_iter()
        .find(|task| task.node_id.as_str() == "n2")
        .unwrap();
    cluster.report(&new.id, TaskState::Rejected);
    cluster.settle();
    let service = cluster.service("web");
    assert_eq!(service.update_status.unwrap().state, UpdateState::Paused);
    assert!(service.moving.is_empty());
    assert_eq!(service.spec.task_template.image(), "img:1");
    let request = ControlRequest::RebalanceService {
        id: service.id,
        most: None,
    };
    assert!(cluster.refusal(request).ends_with("its update has failed"));
}

#[test]
fn what_is_not_replicated_is_where_it_is_meant_to_be() {
    let mut cluster = cluster(2);
    cluster.create(spec("all", 0, r#"{"Mode":{"Global":{}}}"#));
    cluster.converge();
    let id = cluster.service("all").id;
    let refused = cluster
        .ask(ControlRequest::RebalanceService { id, most: None })
        .unwrap_err();
    assert_eq!(refused.kind, Kind::Invalid);
}

#[test]
fn a_labelled_service_is_spread_by_itself_once_nodes_are_settled() {
    let mut cluster = cluster(3);
    cluster.heard("n2", skep_model::NodeState::Down);
    cluster.create(spec("web", 6, r#"{"Labels":{"skep.rebalance":"auto"}}"#));
    cluster.converge();
    assert_eq!(
        spread(&cluster),
        even([3, 3, 0])
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .collect()
    );
    cluster.heard("n2", skep_model::NodeState::Ready);
    cluster.settle();
    cluster.wait(Duration::from_secs(50));
    assert_eq!(
        cluster
            .live("web")
            .iter()
            .filter(|task| task.node_id.as_str() == "n2")
            .count(),
        0
    );
    cluster.converge();
    cluster.converge();
    assert_eq!(spread(&cluster), even([2, 2, 2]));
}
