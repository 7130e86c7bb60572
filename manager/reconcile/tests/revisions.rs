//! Revisions of services: what begins one, what going back keeps, and what an update would do.

mod support;

use std::time::Duration;

use skep_model::preview::Fate;
use skep_model::revision::REVISIONS_KEPT_MAX;
use skep_model::service::{Replicated, UpdateOrder, UpdateState};
use skep_model::{ControlRequest, ServiceMode, ServiceSpec, TaskState};
use support::{Cluster, cluster, spec};

fn web(rest: &str) -> Cluster {
    let mut cluster = cluster(2);
    cluster.create(spec("web", 2, rest));
    cluster.converge();
    cluster
}

fn scale(cluster: &mut Cluster, replicas: u64) {
    cluster.update("web", |spec| {
        spec.mode = ServiceMode::Replicated(Replicated {
            replicas: Some(replicas),
        });
    });
}

fn label(cluster: &mut Cluster, value: &str) {
    cluster.update("web", |spec| {
        spec.labels.insert("tier".into(), value.into());
    });
}

/// `number image why`, the newest first, then replicas and label of the present spec.
fn revisions(cluster: &Cluster) -> Vec<String> {
    let service = cluster.service("web");
    let line = |number: u64, spec: &ServiceSpec, why: &str| {
        format!("{number} {} {why}", spec.task_template.image())
    };
    let present = &service.revision;
    let mut lines = vec![line(present.number, &service.spec, &present.because)];
    lines.extend(service.history.iter().map(|past| {
        let failed = if past.revision.failed { ", failed" } else { "" };
        let why = format!("{}{failed}", past.revision.because);
        line(past.revision.number, &past.spec, &why)
    }));
    lines
}

fn settings(cluster: &Cluster) -> (u64, String) {
    let spec = cluster.service("web").spec;
    let ServiceMode::Replicated(mode) = &spec.mode else {
        panic!("it is replicated");
    };
    let label = spec.labels.get("tier").cloned().unwrap_or_default();
    (mode.count(), label)
}

#[test]
fn only_what_tasks_are_begins_a_revision() {
    let mut cluster = web("");
    scale(&mut cluster, 3);
    label(&mut cluster, "front");
    cluster.update("web", |spec| spec.task_template.force_update += 1);
    cluster.update("web", |_| ());
    assert_eq!(revisions(&cluster), ["1 img:1 created"]);
    cluster.set_image("web", "img:2");
    assert_eq!(revisions(&cluster), ["2 img:2 updated", "1 img:1 created"]);
    for at in 3..30 {
        cluster.set_image("web", &format!("img:{at}"));
    }
    let service = cluster.service("web");
    assert_eq!(service.history.len(), REVISIONS_KEPT_MAX);
    assert_eq!(service.revision.number, 29);
    assert_eq!(service.history[0].revision.number, 28);
}

#[test]
fn going_back_is_not_spoiled_by_scaling_and_labels_in_between() {
    let mut cluster = web("");
    cluster.update("web", |spec| {
        spec.task_template.container_spec.as_mut().unwrap().image = "img:2".into();
        spec.labels.insert("tier".into(), "with the image".into());
    });
    scale(&mut cluster, 5);
    cluster.ask(cluster.rollback_to("web", 0)).unwrap();
    assert_eq!(
        revisions(&cluster),
        [
            "3 img:1 rolled back to 1",
            "2 img:2 updated",
            "1 img:1 created"
        ]
    );
    assert_eq!(
        settings(&cluster),
        (5, String::new()),
        "what came with the image goes with it"
    );
    let state = cluster.service("web").update_status.unwrap().state;
    assert_eq!(state, UpdateState::RollbackStarted);
    // A second one goes forward again, as docker's does.
    label(&mut cluster, "for itself");
    cluster.ask(cluster.rollback_to("web", 0)).unwrap();
    assert_eq!(revisions(&cluster)[0], "4 img:2 rolled back to 2");
    assert_eq!(settings(&cluster), (5, "for itself".into()));
    // Docker's own goes back to whatever was there before the last request.
    cluster.ask(cluster.rollback("web")).unwrap();
    assert_eq!(revisions(&cluster)[0], "5 img:1 rolled back");
    scale(&mut cluster, 1);
    cluster.ask(cluster.rollback("web")).unwrap();
    assert_eq!(settings(&cluster), (5, "for itself".into()));
    assert_eq!(revisions(&cluster)[0], "5 img:1 rolled back");
}

#[test]
fn any_revision_that_is_kept_can_be_gone_back_to() {
    let mut cluster = web("");
    for image in ["img:2", "img:3"] {
        cluster.set_image("web", image);
    }
    cluster.ask(cluster.rollback_to("web", 1)).unwrap();
    assert_eq!(revisions(&cluster)[0], "4 img:1 rolled back to 1");
    for (number, text) in [
        (4, "service web is in revision 4 already"),
        (9, "service web has no revision 9; it has 3, 2, 1"),
    ] {
        assert_eq!(cluster.refusal(cluster.rollback_to("web", number)), text);
    }
    let mut fresh = web("");
    scale(&mut fresh, 3);
    assert_eq!(
        fresh.refusal(fresh.rollback_to("web", 0)),
        format!(
            "service {} does not have a previous spec",
            fresh.service("web").id
        )
    );
}

/// Agents reject tasks of one image, and with all others they do as they are told.
fn reject(cluster: &mut Cluster, image: &str) {
    for _ in 0..20 {
        for task in cluster.live("web") {
            if task.spec.image() == image && task.status.state >= TaskState::Assigned {
                cluster.report(&task.id, TaskState::Rejected);
            }
        }
        cluster.obey_except(image);
        cluster.wait(Duration::from_secs(1));
    }
}

#[test]
fn an_update_that_fails_goes_back_to_what_once_ran_though_it_was_scaled_meanwhile() {
    let mut cluster = web(r#"{"UpdateConfig":{"FailureAction":"rollback","Parallelism":1}}"#);
    cluster.set_image("web", "bad");
    cluster.settle();
    scale(&mut cluster, 3);
    reject(&mut cluster, "bad");
    cluster.converge();
    assert_eq!(
        revisions(&cluster),
        [
            "3 img:1 rolled back to 1",
            "2 bad updated, failed",
            "1 img:1 created"
        ]
    );
    assert_eq!(settings(&cluster).0, 3);
    let state = cluster.service("web").update_status.unwrap().state;
    assert_eq!(state, UpdateState::RollbackCompleted);
    // Neither way of going back leads to the bad one by itself.
    assert!(
        cluster
            .refusal(cluster.rollback("web"))
            .ends_with("does not have a previous spec")
    );
    assert!(
        cluster
            .refusal(cluster.rollback_to("web", 0))
            .ends_with("does not have a previous spec")
    );
}

const BACK: &str = r#"{"UpdateConfig":{"FailureAction":"rollback","Parallelism":1}}"#;

#[test]
fn a_revision_that_was_paused_is_not_gone_back_to_though_its_status_is_gone() {
    let mut cluster = web(r#"{"UpdateConfig":{"FailureAction":"pause","Parallelism":1}}"#);
    scale(&mut cluster, 1);
    cluster.converge();
    cluster.set_image("web", "bad");
    reject(&mut cluster, "bad");
    let state = |cluster: &Cluster| cluster.service("web").update_status.map(|now| now.state);
    assert_eq!(state(&cluster), Some(UpdateState::Paused));
    label(&mut cluster, "front");
    assert_eq!(state(&cluster), None);
    reject(&mut cluster, "bad");
    cluster.update("web", |spec| {
        spec.task_template.container_spec.as_mut().unwrap().image = "worse".into();
        spec.update_config = serde_json::from_str(r#"{"FailureAction":"rollback"}"#).unwrap();
    });
    reject(&mut cluster, "worse");
    cluster.converge();
    assert_eq!(revisions(&cluster)[0], "4 img:1 rolled back to 1");
}

#[test]
fn a_revision_that_nobody_has_looked_at_is_not_gone_back_to() {
    let mut cluster = web(BACK);
    cluster.set_image("web", "unseen");
    cluster.set_image("web", "bad");
    reject(&mut cluster, "bad");
    cluster.converge();
    assert_eq!(revisions(&cluster)[0], "4 img:1 rolled back to 1");
}

#[test]
fn a_revision_that_came_without_an_update_is_gone_back_to_once_it_has_run() {
    let mut cluster = web(BACK);
    scale(&mut cluster, 0);
    cluster.converge();
    cluster.set_image("web", "img:2");
    cluster.converge();
    scale(&mut cluster, 2);
    cluster.converge();
    cluster.wait(Duration::from_secs(10));
    cluster.set_image("web", "bad");
    reject(&mut cluster, "bad");
    cluster.converge();
    assert_eq!(revisions(&cluster)[0], "4 img:2 rolled back to 2");
}

#[test]
fn a_forced_update_that_fails_does_not_go_back_to_another_image() {
    let mut cluster = web(r#"{"UpdateConfig":{"FailureAction":"rollback","Parallelism":1}}"#);
    cluster.set_image("web", "img:2");
    cluster.converge();
    cluster.update("web", |spec| spec.task_template.force_update += 1);
    cluster.settle();
    reject(&mut cluster, "img:2");
    assert_eq!(revisions(&cluster), ["2 img:2 updated", "1 img:1 created"]);
}

#[test]
fn an_update_is_foretold_and_not_made() {
    let mut cluster = web("");
    let before = cluster.service("web");
    let told = |cluster: &Cluster, request: &ControlRequest| {
        let mut random = || 1;
        skep_reconcile::preview(request, &cluster.view(), cluster.now, &mut random)
    };
    let lines = |cluster: &Cluster, request: &ControlRequest| -> Vec<String> {
        let preview = told(cluster, request).unwrap();
        let tasks = preview.tasks.iter();
        tasks
            .map(|task| {
                let (fate, why) = (task.fate.as_str(), task.reasons.join("; "));
                format!("{} {fate} {why}", task.name).trim().to_owned()
            })
            .collect()
    };
    let request = cluster.change("web", |spec| {
        let container = spec.task_template.container_spec.as_mut().unwrap();
        container.image = "img:2".into();
        container.env.push("A=b".into());
        spec.mode = ServiceMode::Replicated(Replicated { replicas: Some(3) });
    });
    assert_eq!(
        lines(&cluster, &request),
        [
            "web.1 replace Env: +A; Image: img:1 -> img:2",
            "web.2 replace Env: +A; Image: img:1 -> img:2",
            "web.3 start",
        ]
    );
    let preview = told(&cluster, &request).unwrap();
    assert_eq!(
        preview.changes,
        [
            "Mode.Replicated.Replicas: 2 -> 3",
            "Env: +A",
            "Image: img:1 -> img:2"
        ]
    );
    let request = cluster.change("web", |spec| {
        spec.labels.insert("a".into(), "b".into());
        spec.mode = ServiceMode::Replicated(Replicated { replicas: Some(1) });
    });
    assert_eq!(
        lines(&cluster, &request),
        ["web.1 keep", "web.2 stop one too many"]
    );
    let request = cluster.change("web", |spec| {
        let placement = spec.task_template.placement.get_or_insert_default();
        placement.constraints = vec!["node.id==n0".into()];
    });
    let moved: Vec<Fate> = told(&cluster, &request)
        .unwrap()
        .tasks
        .iter()
        .map(|task| task.fate)
        .collect();
    assert!(
        moved.contains(&Fate::Replace) && moved.contains(&Fate::Keep),
        "{moved:?}"
    );
    let wrong = cluster.change("web", |spec| spec.name = "other".into());
    assert_eq!(
        told(&cluster, &wrong).unwrap_err().message,
        "renaming services is not supported"
    );
    cluster.settle();
    assert_eq!(cluster.service("web"), before, "nothing was done");
}

#[test]
fn a_rollback_is_foretold_with_its_own_configuration() {
    let mut cluster = web(r#"{"UpdateConfig":{"Parallelism":1},
            "RollbackConfig":{"Parallelism":7,"Order":"start-first"}}"#);
    cluster.set_image("web", "img:2");
    cluster.converge();
    let update = cluster.change("web", |spec| spec.task_template.force_update += 1);
    for (request, parallelism, order) in [
        (update, 1, UpdateOrder::StopFirst),
        (cluster.rollback("web"), 7, UpdateOrder::StartFirst),
        (cluster.rollback_to("web", 1), 7, UpdateOrder::StartFirst),
    ] {
        let mut random = || 1;
        let told = skep_reconcile::preview(&request, &cluster.view(), cluster.now, &mut random);
        let told = told.unwrap();
        assert_eq!((told.parallelism, told.order), (parallelism, order));
    }
}
