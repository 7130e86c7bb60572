//! Tasks that are to be beside those of another service, or apart from them.

mod support;

use std::collections::BTreeSet;

use skep_model::service::UpdateState;
use skep_model::{ControlRequest, NodeId, TaskState};
use support::{Cluster, cluster, spec};

fn constrained(constraint: &str, rest: &str) -> String {
    format!(r#"{{"TaskTemplate":{{"Placement":{{"Constraints":["{constraint}"]}}}}{rest}}}"#)
}

fn nodes(cluster: &Cluster, service: &str) -> Vec<NodeId> {
    let live = cluster.live(service).into_iter();
    let running = live.filter(|task| task.status.state == TaskState::Running);
    running.map(|task| task.node_id).collect()
}

#[test]
fn a_task_waits_for_company_and_follows_it() {
    let mut cluster = cluster(3);
    cluster.create(spec("web", 2, &constrained("service==db", "")));
    cluster.converge();
    let waiting = cluster.live("web");
    assert_eq!(
        waiting[0].status.err,
        "no suitable node (scheduling constraints not satisfied on 3 nodes)"
    );
    cluster.create(spec("db", 1, &constrained("node.hostname==n2", "")));
    cluster.converge();
    assert_eq!(nodes(&cluster, "db"), ["n2".into()]);
    assert_eq!(nodes(&cluster, "web"), ["n2".into(), "n2".into()]);
}

#[test]
fn tasks_that_are_to_be_apart_are() {
    let mut cluster = cluster(3);
    cluster.create(spec("db", 1, ""));
    cluster.converge();
    cluster.create(spec("web", 4, &constrained("service != db", "")));
    cluster.converge();
    let db = nodes(&cluster, "db");
    let web = nodes(&cluster, "web");
    assert_eq!(web.len(), 4);
    assert!(!web.contains(&db[0]), "{web:?}");
}

/// Also when an update starts new ones first.
#[test]
fn a_service_may_keep_its_own_tasks_apart() {
    let mut cluster = cluster(3);
    let rest = r#","UpdateConfig":{"Order":"start-first","Parallelism":1}"#;
    cluster.create(spec("web", 4, &constrained("service!=web", rest)));
    cluster.converge();
    let running = nodes(&cluster, "web");
    assert_eq!(running.len(), 3);
    assert_eq!(running.iter().collect::<BTreeSet<_>>().len(), 3);
    cluster.update("web", |spec| {
        spec.mode = skep_model::ServiceMode::Replicated(skep_model::service::Replicated {
            replicas: Some(3),
        });
    });
    cluster.converge();
    cluster.set_image("web", "img:2");
    cluster.converge();
    let status = cluster.service("web").update_status.unwrap();
    assert_eq!(status.state, UpdateState::Completed, "{}", status.message);
    let running = nodes(&cluster, "web");
    assert_eq!(running.iter().collect::<BTreeSet<_>>().len(), 3);
    let live = cluster.live("web");
    assert!(live.iter().all(|task| task.spec.image() == "img:2"));
}

/// Tasks of a global service are made for their nodes. Those that waited for company were not looked
/// at again when the service needed none any more, and waited for ever.
#[test]
fn tasks_of_a_global_service_wait_for_what_is_wanted_now() {
    let mut cluster = cluster(3);
    let global = r#","Mode":{"Global":{}}"#;
    cluster.create(spec("agent", 0, &constrained("service==db", global)));
    cluster.converge();
    assert_eq!(nodes(&cluster, "agent"), []);
    cluster.update("agent", |spec| spec.task_template.placement = None);
    cluster.converge();
    assert_eq!(nodes(&cluster, "agent").len(), 3);
}

#[test]
fn nobody_waits_for_itself() {
    let mut cluster = cluster(1);
    let request = ControlRequest::CreateService {
        spec: Box::new(spec("web", 1, &constrained("service == web", ""))),
    };
    assert_eq!(
        cluster.refusal(request),
        "constraint service==web: the service's first task would wait for itself"
    );
}
