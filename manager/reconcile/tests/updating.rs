//! Updates and rollbacks: their order, what they wait for, how they fail, what they leave alone.

mod support;

use std::time::Duration;

use skep_model::placement::Platform;
use skep_model::service::UpdateState;
use skep_model::{Availability, TaskState};
use support::{Cluster, cluster, scale, spec, web};

const SECOND: Duration = Duration::from_secs(1);

#[track_caller]
fn assert_all_run(cluster: &Cluster, image: &str) {
    let live = cluster.live("web");
    assert!(live.iter().all(|task| task.spec.image() == image));
}

fn states(cluster: &Cluster, name: &str) -> Option<UpdateState> {
    cluster
        .service(name)
        .update_status
        .map(|status| status.state)
}

#[test]
fn a_stop_first_update_prepares_the_new_task_before_it_stops_the_old_one() {
    let mut cluster = web(1, "");
    cluster.set_image("web", "img:2");
    cluster.settle();
    let node = cluster.live("web")[0].node_id.clone();
    let others: Vec<String> = cluster.lines("web");
    assert_eq!(others[0], format!("1 {node} img:1 running/running"));
    assert!(others[1].ends_with("img:2 assigned/ready"), "{others:?}");
    cluster.obey();
    let lines = cluster.lines("web");
    assert!(lines[0].ends_with("running/shutdown"), "{lines:?}");
    assert!(lines[1].ends_with("ready/ready"), "{lines:?}");
    cluster.obey();
    let lines = cluster.lines("web");
    assert!(lines[0].ends_with("shutdown/shutdown"), "{lines:?}");
    assert!(lines[1].ends_with("ready/running"), "{lines:?}");
    cluster.obey();
    assert_eq!(states(&cluster, "web"), Some(UpdateState::Updating));
    cluster.wait(5 * SECOND);
    assert_eq!(states(&cluster, "web"), Some(UpdateState::Completed));
}

#[test]
fn a_start_first_update_stops_the_old_task_only_once_the_new_one_runs() {
    let mut cluster = web(
        1,
        r#"{"UpdateConfig":{"Order":"start-first","Parallelism":1}}"#,
    );
    cluster.set_image("web", "img:2");
    cluster.settle();
    let lines = cluster.lines("web");
    assert!(lines[0].ends_with("running/running"), "{lines:?}");
    assert!(lines[1].ends_with("assigned/running"), "{lines:?}");
    cluster.obey();
    let lines = cluster.lines("web");
    assert!(lines[0].ends_with("running/shutdown"), "{lines:?}");
    assert!(lines[1].ends_with("running/running"), "{lines:?}");
}

#[test]
fn a_start_first_update_that_cannot_go_on_says_why() {
    let mut cluster = cluster(1);
    cluster.create(spec(
        "web",
        1,
        r#"{"UpdateConfig":{"Order":"start-first","Parallelism":1},
            "TaskTemplate":{"Resources":{"Reservations":{"MemoryBytes":800000000}}}}"#,
    ));
    cluster.converge();
    cluster.set_image("web", "img:2");
    cluster.converge();
    let waits = message(&cluster);
    assert!(waits.starts_with("update waits for task "), "{waits}");
    assert!(
        waits.ends_with(": no suitable node (insufficient resources on 1 node)"),
        "{waits}"
    );
    assert!(cluster.lines("web")[0].ends_with("img:1 running/running"));
    cluster.join("n1", false);
    cluster.converge();
    assert_eq!(message(&cluster), "update completed");
}

fn message(cluster: &Cluster) -> String {
    cluster.service("web").update_status.unwrap().message
}

/// With a port of the node, or as many tasks as a node may have, old and new cannot run together
/// where there is no other node: such an update would never end.
#[test]
fn a_start_first_update_stops_first_what_is_in_its_own_way() {
    let port =
        r#""EndpointSpec":{"Ports":[{"TargetPort":80,"PublishedPort":80,"PublishMode":"host"}]}"#;
    let most = r#""TaskTemplate":{"Placement":{"MaxReplicas":1}}"#;
    for (mode, own, why) in [
        ("Replicated", port, "host-mode port already in use"),
        ("Global", port, "host-mode port already in use on 1 node"),
        ("Replicated", most, "max replicas per node limit exceed"),
    ] {
        let mut cluster = cluster(2);
        let update = r#""UpdateConfig":{"Order":"start-first","Parallelism":1}"#;
        let mode = match mode {
            "Global" => r#"{"Global":{}}"#,
            _ => r#"{"Replicated":{"Replicas":2}}"#,
        };
        cluster.create(spec(
            "web",
            2,
            &format!(r#"{{{update},{own},"Mode":{mode}}}"#),
        ));
        cluster.converge();
        cluster.set_image("web", "img:2");
        let mut said = std::collections::BTreeSet::new();
        let mut fewest = 2;
        for _ in 0..40 {
            cluster.obey();
            cluster.wait(SECOND);
            said.insert(message(&cluster));
            let live = cluster.live("web");
            fewest = fewest.min(live.iter().filter(|task| task.serves()).count());
        }
        assert!(fewest >= 1, "{why}: one after the other");
        let told = said
            .iter()
            .find(|text| text.starts_with("update stops tasks before"));
        assert!(
            told.is_some_and(|text| text.contains(why)),
            "{why}: {said:?}"
        );
        assert_eq!(message(&cluster), "update completed", "{why}");
        assert_all_run(&cluster, "img:2");
    }
}

/// The old task gives its place up only to a new one that could be there.
#[test]
fn a_start_first_update_stops_nothing_for_a_place_that_stays_closed() {
    let port =
        r#""EndpointSpec":{"Ports":[{"TargetPort":80,"PublishedPort":80,"PublishMode":"host"}]}"#;
    let on = |node: &str| {
        format!(r#""TaskTemplate":{{"Placement":{{"Constraints":["node.id=={node}"]}}}}"#)
    };
    for why in ["constraints", "platform", "paused"] {
        let mut cluster = cluster(2);
        let update = r#""UpdateConfig":{"Order":"start-first","Parallelism":1}"#;
        cluster.create(spec("other", 1, &format!("{{{port},{}}}", on("n1"))));
        cluster.create(spec("web", 1, &format!("{{{update},{port}}}")));
        cluster.converge();
        assert_eq!(cluster.live("web")[0].node_id.as_str(), "n0");
        if why == "paused" {
            cluster.set_availability("n0", Availability::Pause);
        }
        cluster.update("web", |spec| {
            let template = &mut spec.task_template;
            template.container_spec.as_mut().unwrap().image = "img:2".into();
            let placement = template.placement.get_or_insert_default();
            match why {
                "constraints" => placement.constraints = vec!["node.id==n1".into()],
                "platform" => placement.platforms = vec![other_platform()],
                _ => (),
            }
        });
        for _ in 0..20 {
            cluster.obey();
            cluster.wait(SECOND);
        }
        let lines = cluster.lines("web");
        assert!(
            lines[0].ends_with("img:1 running/running"),
            "{why}: {lines:?}"
        );
        assert!(message(&cluster).starts_with("update waits"), "{why}");
    }
}

fn other_platform() -> Platform {
    Platform {
        architecture: "s390x".into(),
        os: "linux".into(),
    }
}

/// At most `parallelism` slots are replaced at a time, and all of them in the end.
#[test]
fn an_update_goes_on_with_as_many_slots_as_it_may() {
    for (parallelism, at_once) in [(1, 1), (2, 2), (0, 5)] {
        let rest = format!(r#"{{"UpdateConfig":{{"Parallelism":{parallelism}}}}}"#);
        let mut cluster = web(5, &rest);
        cluster.set_image("web", "img:2");
        cluster.settle();
        let new = cluster
            .live("web")
            .into_iter()
            .filter(|t| t.spec.image() == "img:2");
        assert_eq!(new.count(), at_once, "parallelism {parallelism}");
        let mut fewest = 5;
        for _ in 0..40 {
            cluster.obey();
            cluster.wait(SECOND);
            let serving = cluster
                .live("web")
                .iter()
                .filter(|task| task.serves())
                .count();
            fewest = fewest.min(serving);
        }
        assert!(
            fewest >= 5 - at_once,
            "parallelism {parallelism}: only {fewest} served"
        );
        assert_all_run(&cluster, "img:2");
        assert_eq!(states(&cluster, "web"), Some(UpdateState::Completed));
    }
}

/// Agents reject tasks of one image, and with all others they do as they are told.
fn obey_but_reject(cluster: &mut Cluster, image: &str) {
    for task in cluster.live("web") {
        if task.spec.image() == image && task.status.state >= TaskState::Assigned {
            cluster.report(&task.id, TaskState::Rejected);
        }
    }
    cluster.obey_except(image);
}

#[test]
fn an_update_that_fails_pauses_and_the_old_tasks_stay() {
    let mut cluster = web(3, "");
    cluster.set_image("web", "bad");
    cluster.settle();
    obey_but_reject(&mut cluster, "bad");
    let service = cluster.service("web");
    let status = service.update_status.unwrap();
    assert_eq!(status.state, UpdateState::Paused);
    let prefix = "update paused due to failure or early termination of task ";
    assert!(status.message.starts_with(prefix), "{}", status.message);
    let serving = cluster.live("web").into_iter().filter(|task| task.serves());
    assert_eq!(
        serving.filter(|task| task.spec.image() == "img:1").count(),
        3
    );
    // Any later update resumes.
    cluster.set_image("web", "img:2");
    cluster.converge();
    assert_all_run(&cluster, "img:2");
}

#[test]
fn a_failed_update_rolls_back_and_a_manual_rollback_after_it_is_refused() {
    let mut cluster = web(
        3,
        r#"{"UpdateConfig":{"FailureAction":"rollback","Order":"start-first","Parallelism":1}}"#,
    );
    cluster.set_image("web", "bad");
    cluster.settle();
    obey_but_reject(&mut cluster, "bad");
    assert_eq!(cluster.service("web").spec.task_template.image(), "img:1");
    cluster.converge();
    assert_eq!(
        states(&cluster, "web"),
        Some(UpdateState::RollbackCompleted)
    );
    assert_all_run(&cluster, "img:1");
    let id = cluster.service("web").id;
    let request = cluster.rollback("web");
    assert_eq!(
        cluster.refusal(request),
        format!("service {id} does not have a previous spec")
    );
}

/// The delay is for what crashed, not for what takes its place.
#[test]
fn a_rollback_does_not_wait_for_the_restart_delay_of_what_failed() {
    let mut cluster = web(
        1,
        r#"{"UpdateConfig":{"FailureAction":"rollback"},"TaskTemplate":{"RestartPolicy":{"Delay":3600000000000}}}"#,
    );
    cluster.set_image("web", "bad");
    // It gets so far that its predecessor is stopped.
    let runs = |cluster: &mut Cluster| {
        cluster.obey();
        let mut live = cluster.live("web").into_iter();
        live.find(|task| task.spec.image() == "bad" && task.status.state == TaskState::Running)
    };
    let bad = (0..10).find_map(|_| runs(&mut cluster)).unwrap();
    cluster.report(&bad.id, TaskState::Failed);
    cluster.settle();
    let began = cluster.now;
    cluster.converge();
    assert_eq!(
        states(&cluster, "web"),
        Some(UpdateState::RollbackCompleted)
    );
    assert!(cluster.now.since(began).as_secs() < 600);
    let live = cluster.live("web");
    assert_eq!(live.len(), 1);
    assert_eq!(live[0].spec.image(), "img:1");
    assert_eq!(live[0].status.state, TaskState::Running);
}

#[test]
fn a_manual_rollback_swaps_the_specs() {
    let mut cluster = web(2, "");
    cluster.set_image("web", "img:2");
    cluster.converge();
    for image in ["img:1", "img:2"] {
        let request = cluster.rollback("web");
        cluster.ask(request).unwrap();
        assert_eq!(states(&cluster, "web"), Some(UpdateState::RollbackStarted));
        cluster.converge();
        assert_eq!(
            states(&cluster, "web"),
            Some(UpdateState::RollbackCompleted)
        );
        assert!(
            cluster
                .live("web")
                .iter()
                .all(|task| task.spec.image() == image)
        );
    }
}

#[test]
fn continue_goes_on_over_failures_and_a_ratio_tolerates_some() {
    for (config, state) in [
        (r#""FailureAction":"continue""#, UpdateState::Completed),
        (r#""MaxFailureRatio":1"#, UpdateState::Completed),
        (r#""MaxFailureRatio":0.3"#, UpdateState::Paused),
    ] {
        let rest = format!(r#"{{"UpdateConfig":{{"Parallelism":1,{config}}}}}"#);
        let mut cluster = web(3, &rest);
        cluster.set_image("web", "bad");
        cluster.settle();
        for _ in 0..20 {
            obey_but_reject(&mut cluster, "bad");
            cluster.wait(SECOND);
        }
        assert_eq!(states(&cluster, "web"), Some(state), "{config}");
    }
}

#[test]
fn a_rollback_that_fails_pauses_and_goes_nowhere_else() {
    let mut cluster = web(
        2,
        r#"{"UpdateConfig":{"FailureAction":"rollback","Parallelism":1},
            "RollbackConfig":{"FailureAction":"pause","Parallelism":1}}"#,
    );
    cluster.set_image("web", "img:2");
    for _ in 0..4 {
        cluster.obey();
    }
    let new = cluster.live("web").into_iter();
    let mut new = new.filter(|task| task.serves() && task.spec.image() == "img:2");
    let task = new.next().expect("one slot has been replaced");
    cluster.report(&task.id, TaskState::Failed);
    cluster.settle();
    assert_eq!(states(&cluster, "web"), Some(UpdateState::RollbackStarted));
    // What ran before does not run any more either.
    for _ in 0..10 {
        for task in cluster.live("web").iter().filter(|task| task.by_update) {
            if task.status.state >= TaskState::Assigned && !task.serves() {
                cluster.report(&task.id, TaskState::Rejected);
            }
        }
        cluster.wait(SECOND);
    }
    let status = cluster.service("web").update_status.unwrap();
    assert_eq!(status.state, UpdateState::RollbackPaused, "{status:?}");
    let said = "rollback paused due to failure or early termination of task ";
    assert!(status.message.starts_with(said), "{status:?}");
}

#[test]
fn an_update_that_also_scales_replaces_what_is_there_and_then_adds() {
    let mut cluster = web(2, r#"{"UpdateConfig":{"Parallelism":1}}"#);
    cluster.update("web", |spec| {
        scale(4)(spec);
        spec.task_template.container_spec.as_mut().unwrap().image = "img:2".into();
    });
    cluster.settle();
    // New slots are no rolling update: they are there at once, with the new image.
    let new: Vec<u64> = cluster
        .live("web")
        .iter()
        .filter(|task| task.spec.image() == "img:2" && !task.by_update)
        .map(|task| task.slot)
        .collect();
    assert_eq!(new, [3, 4]);
    let replaced = cluster
        .live("web")
        .iter()
        .filter(|task| task.by_update)
        .count();
    assert_eq!(replaced, 1, "one of the others at a time");
    cluster.converge();
    let live = cluster.live("web");
    assert_eq!(
        live.iter().map(|task| task.slot).collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
    assert!(live.iter().all(|task| task.spec.image() == "img:2"));
    assert_eq!(states(&cluster, "web"), Some(UpdateState::Completed));
}

#[test]
fn each_worker_of_an_update_waits_for_its_delay() {
    let mut cluster = web(
        3,
        r#"{"UpdateConfig":{"Parallelism":1,"Delay":10000000000,"Order":"start-first"}}"#,
    );
    cluster.set_image("web", "img:2");
    let new = |cluster: &Cluster| {
        let live = cluster.live("web");
        live.iter()
            .filter(|task| task.spec.image() == "img:2")
            .count()
    };
    cluster.settle();
    for done in 1..=2 {
        cluster.obey();
        for _ in 0..9 {
            assert_eq!(new(&cluster), done);
            cluster.wait(SECOND);
            cluster.obey();
        }
        cluster.wait(2 * SECOND);
        assert_eq!(new(&cluster), done + 1);
    }
}

#[test]
fn what_does_not_concern_tasks_restarts_none() {
    let mut cluster = web(3, "");
    let before: Vec<_> = cluster
        .live("web")
        .into_iter()
        .map(|task| task.id)
        .collect();
    cluster.update("web", |spec| {
        spec.labels.insert("a".into(), "b".into());
    });
    cluster.converge();
    cluster.update("web", |spec| {
        spec.update_config = Some(Default::default());
        spec.task_template.pull_credentials = "abc".into();
        spec.task_template.resources = Some(Default::default());
    });
    cluster.converge();
    let constraint = r#"{"Constraints":["node.role!=nobody"]}"#;
    cluster.update("web", |spec| {
        spec.task_template.placement = serde_json::from_str(constraint).unwrap();
    });
    cluster.converge();
    let after: Vec<_> = cluster
        .live("web")
        .into_iter()
        .map(|task| task.id)
        .collect();
    assert_eq!(before, after);
    cluster.update("web", |spec| spec.task_template.force_update += 1);
    cluster.converge();
    let forced: Vec<_> = cluster
        .live("web")
        .into_iter()
        .map(|task| task.id)
        .collect();
    assert!(forced.iter().all(|id| !before.contains(id)));
}
