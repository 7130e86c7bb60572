//! Credentials that the cluster keeps for registries.

mod support;

use std::time::Duration;

use skep_model::registry_login::REGISTRY_LOGINS_MAX;
use skep_model::{ControlRequest, Kind, RegistryLogin, RegistryLoginSpec, TaskState, TaskStatus};
use skep_reconcile::record_statuses;
use support::{Cluster, cluster, spec};

fn login(host: &str, password: &str) -> ControlRequest {
    ControlRequest::KeepRegistryLogin {
        spec: RegistryLoginSpec {
            host: host.to_owned(),
            username: "ali".to_owned(),
            password: password.to_owned(),
        },
    }
}

/// The live task of `own` is refused for `why`.
fn refuse(cluster: &mut Cluster, why: &str) {
    let task = cluster.live("own").remove(0);
    let status = TaskStatus {
        timestamp: cluster.now,
        state: TaskState::Rejected,
        err: why.to_owned(),
        ..TaskStatus::default()
    };
    let view = cluster.view();
    let reports = [(task.id, task.node_id, status)];
    let commit = record_statuses(&view, &reports, cluster.now).unwrap();
    cluster.apply(&commit);
    cluster.settle();
}

/// A service whose task was refused twice, so that its next one is an hour away.
fn refused(why: &str) -> Cluster {
    let mut cluster = cluster(2);
    let slow = r#"{"TaskTemplate":{"ContainerSpec":{"Image":"r.example:5000/own:1"},
        "RestartPolicy":{"Condition":"any","Delay":3600000000000}}}"#;
    cluster.create(spec("own", 1, slow));
    cluster.settle();
    refuse(&mut cluster, why);
    refuse(&mut cluster, why);
    cluster.wait(Duration::from_secs(10));
    assert_eq!(cluster.live("own").len(), 0);
    cluster
}

const NO_IMAGE: &str = "No such image: r.example:5000/own:1: pull access denied";

#[test]
fn a_login_has_refused_tasks_tried_again_at_once() {
    let mut cluster = refused(NO_IMAGE);
    cluster.ask(login("other.example", "x")).unwrap();
    cluster.settle();
    assert_eq!(cluster.live("own").len(), 0, "it is another registry");
    cluster.ask(login("https://r.example:5000/", "x")).unwrap();
    cluster.settle();
    let task = cluster.live("own").remove(0);
    assert_eq!(task.desired_state, TaskState::Running);
    // The same once more, since the registry may have learnt of them.
    refuse(&mut cluster, NO_IMAGE);
    refuse(&mut cluster, NO_IMAGE);
    cluster.wait(Duration::from_secs(10));
    assert_eq!(cluster.live("own").len(), 0);
    cluster.ask(login("r.example:5000", "x")).unwrap();
    cluster.settle();
    assert_eq!(cluster.live("own").len(), 1);
    assert_eq!(cluster.view().count::<RegistryLogin>(), 2);
}

#[test]
fn what_was_refused_for_something_else_keeps_its_delay() {
    let mut cluster = refused("invalid mount config");
    cluster.ask(login("r.example:5000", "x")).unwrap();
    cluster.settle();
    assert_eq!(cluster.live("own").len(), 0);
}

#[test]
fn there_is_one_login_for_a_registry_and_a_bound_on_all() {
    let mut cluster = cluster(1);
    cluster.ask(login("r.example", "old")).unwrap();
    cluster.ask(login("R.example", "new")).unwrap();
    let kept: Vec<RegistryLogin> = cluster
        .view()
        .registry_logins()
        .map(|login| RegistryLogin::clone(login))
        .collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].spec.password, "new");
    for at in 1..REGISTRY_LOGINS_MAX {
        cluster.ask(login(&format!("r{at}.example"), "x")).unwrap();
    }
    let error = cluster.ask(login("one.more", "x")).unwrap_err();
    assert_eq!(error.kind, Kind::FailedPrecondition);
    cluster.ask(login("r1.example", "y")).unwrap();
    let remove = |host: &str| ControlRequest::RemoveRegistryLogin {
        host: host.to_owned(),
    };
    cluster.ask(remove("r1.example")).unwrap();
    let error = cluster.ask(remove("r1.example")).unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    assert!(cluster.refusal(login("a b", "x")).contains("no registry"));
}
