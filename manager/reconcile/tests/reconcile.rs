//! The control loop from outside: what becomes of services, tasks and nodes.

mod support;

use std::time::Duration;

use skep_model::limits::{CHANGES_PER_COMMIT_MAX, VNI_FIRST};
use skep_model::placement::Platform;
use skep_model::service::{Replicated, UpdateState};
use skep_model::{
    Availability, ControlRequest, NetworkSpec, NodeState, ServiceMode, Task, TaskState,
};
use skep_reconcile::Memory;
use skep_store::Transaction;
use support::{Cluster, cluster, spec};

const SECOND: Duration = Duration::from_secs(1);

fn network(name: &str, subnet: Option<&str>) -> ControlRequest {
    let mut spec = NetworkSpec {
        name: name.to_owned(),
        ..NetworkSpec::default()
    };
    if let Some(subnet) = subnet {
        let ipam = format!(r#"{{"Configs":[{{"Subnet":"{subnet}"}}]}}"#);
        spec.ipam = serde_json::from_str(&ipam).unwrap();
    }
    ControlRequest::CreateNetwork {
        spec: Box::new(spec),
    }
}

fn scale(replicas: u64) -> impl FnOnce(&mut skep_model::ServiceSpec) {
    move |spec| {
        spec.mode = ServiceMode::Replicated(Replicated {
            replicas: Some(replicas),
        });
    }
}

/// A converged service `web` on three nodes.
fn web(replicas: u64, rest: &str) -> Cluster {
    let mut cluster = cluster(3);
    cluster.create(spec("web", replicas, rest));
    cluster.converge();
    cluster
}

fn states(cluster: &Cluster, name: &str) -> Option<UpdateState> {
    cluster
        .service(name)
        .update_status
        .map(|status| status.state)
}

#[test]
fn a_cluster_begins_with_an_ingress_network_and_numbered_nodes() {
    let cluster = cluster(2);
    let ingress = cluster.network("ingress");
    assert_eq!(ingress.vni, VNI_FIRST);
    assert_eq!(ingress.ipam[0].subnet.unwrap().to_string(), "10.255.0.0/16");
    let view = cluster.view();
    let nodes: Vec<_> = view
        .nodes()
        .map(|node| (node.index, node.ingress_addresses[0].clone()))
        .collect();
    assert_eq!(
        nodes,
        [
            (1, "10.255.0.2/16".to_owned()),
            (2, "10.255.0.3/16".to_owned())
        ]
    );
    assert_eq!(
        view.nodes().next().unwrap().ingress_addresses.len(),
        2,
        "IPv6 too"
    );
}

#[test]
fn a_new_service_is_assigned_in_a_single_commit() {
    let mut cluster = cluster(3);
    cluster.ask(network("front", None)).unwrap();
    cluster.create(spec(
        "web",
        2,
        r#"{"TaskTemplate":{"Networks":[{"Target":"front"}]},
            "EndpointSpec":{"Ports":[{"TargetPort":80},{"TargetPort":81,"PublishedPort":8081}]}}"#,
    ));
    cluster.step();
    let front = cluster.network("front");
    assert_eq!((front.vni, front.mtu), (VNI_FIRST + 1, 1450));
    let service = cluster.service("web");
    assert_eq!(service.endpoint.virtual_ips[0].addr, "10.0.1.2/24");
    let ports: Vec<u16> = service
        .endpoint
        .ports
        .iter()
        .map(|p| p.published_port)
        .collect();
    assert_eq!(ports, [30_000, 8081]);
    let tasks = cluster.tasks("web");
    assert_eq!(tasks.len(), 2);
    for (task, front) in tasks.iter().zip(["10.0.1.3/24", "10.0.1.4/24"]) {
        assert_eq!(task.status.state, TaskState::Assigned);
        assert_eq!(task.attachments[0].addresses, [front]);
        assert_eq!(task.attachments.len(), 2, "and the ingress network");
        assert!(task.attachments[1].addresses[0].starts_with("10.255.0."));
    }
    assert_ne!(tasks[0].node_id, tasks[1].node_id);
}

#[test]
fn a_lost_commit_is_decided_anew() {
    let mut cluster = cluster(3);
    cluster.create(spec("web", 3, ""));
    assert!(cluster.decide().commit.is_some());
    assert!(
        cluster.decide().commit.is_some(),
        "the first was never applied"
    );
    cluster.converge();
    assert_eq!(cluster.live("web").len(), 3);
    assert!(cluster.decide().commit.is_none());
    cluster.memory = Memory::new();
    assert!(cluster.decide().commit.is_none(), "a new leader agrees");
}

#[test]
fn large_work_is_cut_into_commits_of_bounded_size() {
    let mut cluster = cluster(3);
    cluster.create(spec("web", 5_000, ""));
    let mut commits = 0;
    loop {
        let step = cluster.step();
        let Some(commit) = step.commit else { break };
        assert!(commit.changes.len() <= CHANGES_PER_COMMIT_MAX + 1);
        commits += 1;
    }
    assert!((3..10).contains(&commits), "{commits}");
    assert_eq!(cluster.live("web").len(), 5_000);
    assert!(
        cluster
            .tasks("web")
            .iter()
            .all(|task| task.status.state == TaskState::Assigned)
    );
}

/// Commits have a bound in bytes besides, and large specs reach it with fewer changes.
#[test]
fn a_step_that_is_too_big_is_decided_anew_in_smaller_ones() {
    let mut cluster = cluster(3);
    cluster.create(spec("web", 300, ""));
    let (mut refused, mut largest) = (0, 0);
    while let Some(commit) = cluster.decide().commit {
        if commit.changes.len() > 40 {
            refused += 1;
            cluster.memory.too_big();
            continue;
        }
        largest = largest.max(commit.changes.len());
        cluster.apply(&commit);
        if cluster.live("web").len() > 100 {
            cluster.memory.taken();
        }
        assert!(refused < 1_000, "it goes on");
    }
    assert!(refused > 6, "and has its full room again: {refused}");
    assert!(largest > 20, "{largest}");
    let live = cluster.live("web");
    let mut assigned = live.iter().map(|task| task.status.state);
    assert!(live.len() == 300 && assigned.all(|state| state == TaskState::Assigned));
    for _ in 0..100 {
        cluster.memory.too_big();
    }
    cluster.create(spec("other", 50, ""));
    for _ in 0..3 {
        let commit = cluster.decide().commit.unwrap();
        assert!(commit.changes.len() <= 16, "{}", commit.changes.len());
        cluster.apply(&commit);
    }
}

#[test]
fn a_removed_service_leaves_nothing_behind() {
    let mut cluster = web(3, "");
    let id = cluster.service("web").id;
    cluster.ask(ControlRequest::RemoveService { id }).unwrap();
    cluster.settle();
    assert!(
        cluster.tasks("web").iter().all(|task| {
            task.desired_state == TaskState::Remove && !task.draining_since.is_zero()
        })
    );
    cluster.converge();
    assert!(cluster.tasks("web").is_empty());
}

#[test]
fn scaling_down_spares_what_runs_and_scaling_up_takes_the_lowest_free_slots() {
    let mut cluster = cluster(4);
    cluster.create(spec("web", 4, ""));
    cluster.converge();
    let failed = cluster.live("web")[1].id.clone();
    cluster.report(&failed, TaskState::Failed);
    cluster.settle();
    cluster.update("web", scale(3));
    cluster.converge();
    let slots = |cluster: &Cluster| -> Vec<u64> {
        cluster.live("web").iter().map(|task| task.slot).collect()
    };
    assert_eq!(slots(&cluster), [1, 3, 4]);
    cluster.update("web", scale(5));
    cluster.converge();
    assert_eq!(slots(&cluster), [1, 2, 3, 4, 5]);
}

#[test]
fn a_failed_task_is_replaced_after_the_delay_in_the_same_slot() {
    let mut cluster = web(1, "");
    let failed = cluster.live("web")[0].id.clone();
    cluster.report(&failed, TaskState::Failed);
    cluster.settle();
    let replacement = cluster.live("web").remove(0);
    assert_eq!(
        (replacement.slot, replacement.desired_state),
        (1, TaskState::Ready)
    );
    assert_eq!(cluster.wake_at, Some(cluster.now.plus(5 * SECOND)));
    cluster.wait(4 * SECOND);
    assert_eq!(cluster.live("web")[0].desired_state, TaskState::Ready);
    cluster.wait(SECOND);
    assert_eq!(cluster.live("web")[0].desired_state, TaskState::Running);
}

#[test]
fn failures_during_the_delay_wait_for_its_end() {
    let mut cluster = web(1, "");
    let made = |cluster: &Cluster| cluster.tasks("web").len();
    let failed = cluster.live("web")[0].id.clone();
    cluster.report(&failed, TaskState::Failed);
    cluster.settle();
    let replacement = cluster.live("web")[0].id.clone();
    cluster.report(&replacement, TaskState::Rejected);
    cluster.settle();
    assert_eq!(made(&cluster), 2);
    cluster.wait(4 * SECOND);
    assert_eq!(made(&cluster), 2);
    cluster.wait(SECOND);
    assert_eq!(made(&cluster), 3);
}

#[test]
fn a_slot_gives_up_after_its_attempts_and_starts_anew_with_a_new_spec() {
    let mut cluster = web(
        1,
        r#"{"TaskTemplate":{"RestartPolicy":{"Condition":"any","MaxAttempts":2,"Delay":0}}}"#,
    );
    for _ in 0..5 {
        for task in cluster.live("web") {
            cluster.report(&task.id, TaskState::Failed);
        }
        cluster.settle();
    }
    assert_eq!(cluster.tasks("web").len(), 3, "the first and two attempts");
    assert!(cluster.live("web").is_empty());
    cluster.set_image("web", "img:2");
    cluster.converge();
    assert_eq!(cluster.live("web").len(), 1);
}

#[test]
fn a_task_that_completed_is_restarted_unless_the_policy_says_on_failure() {
    for (condition, live) in [("any", 1), ("on-failure", 0), ("none", 0)] {
        let mut cluster = web(
            1,
            &format!(r#"{{"TaskTemplate":{{"RestartPolicy":{{"Condition":"{condition}"}}}}}}"#),
        );
        let task = cluster.live("web")[0].id.clone();
        cluster.report(&task, TaskState::Complete);
        cluster.converge();
        assert_eq!(cluster.live("web").len(), live, "{condition}");
    }
}

#[test]
fn history_keeps_five_tasks_per_slot_the_live_one_included() {
    let mut cluster = web(1, r#"{"TaskTemplate":{"RestartPolicy":{"Delay":0}}}"#);
    for _ in 0..12 {
        let task = cluster.live("web")[0].id.clone();
        cluster.report(&task, TaskState::Failed);
        cluster.settle();
    }
    assert_eq!(cluster.tasks("web").len(), 5);
    assert_eq!(cluster.live("web").len(), 1);
}

#[test]
fn attempts_are_counted_though_history_is_shorter() {
    let mut cluster = web(
        1,
        r#"{"TaskTemplate":{"RestartPolicy":{"Condition":"any","MaxAttempts":9,"Delay":0}}}"#,
    );
    let mut made = std::collections::BTreeSet::new();
    for _ in 0..20 {
        for task in cluster.live("web") {
            cluster.report(&task.id, TaskState::Failed);
        }
        cluster.settle();
        let tasks = cluster.tasks("web");
        assert!(tasks.len() <= 5, "{:?}", cluster.lines("web"));
        made.extend(tasks.into_iter().map(|task| task.id));
    }
    assert_eq!(made.len(), 10, "the first and nine attempts");
    assert!(cluster.live("web").is_empty());
}

/// Tasks were stored before they counted their restarts: a slot that has given up stays given up, and
/// one that has not goes on counting.
#[test]
fn attempts_of_before_an_upgrade_count() {
    for failed in [10, 7] {
        let mut cluster = web(
            1,
            r#"{"TaskTemplate":{"RestartPolicy":{"Condition":"any","MaxAttempts":9,"Delay":0}}}"#,
        );
        let made = cluster.live("web")[0].clone();
        cluster.wait(20 * SECOND);
        let mut transaction = Transaction::new(&cluster.view(), cluster.now);
        transaction.remove::<Task>(&made.id).unwrap();
        for number in 0..failed {
            let mut task = made.clone();
            task.id = format!("old{number}").as_str().into();
            task.created_at = made.created_at.plus(number * SECOND);
            task.status.applied_at = task.created_at;
            task.status.state = TaskState::Failed;
            task.desired_state = TaskState::Shutdown;
            transaction.put(task).unwrap();
        }
        let commit = transaction.commit().unwrap();
        cluster.apply(&commit);
        cluster.settle();
        let mut ended = failed;
        while let Some(task) = cluster.live("web").first().cloned() {
            cluster.report(&task.id, TaskState::Failed);
            cluster.settle();
            ended += 1;
            assert!(ended <= 10, "{failed}: {:?}", cluster.lines("web"));
        }
        assert_eq!(ended, 10, "the first and nine attempts");
    }
}

#[test]
fn a_lower_history_limit_takes_effect_at_once() {
    let mut cluster = web(1, r#"{"TaskTemplate":{"RestartPolicy":{"Delay":0}}}"#);
    for _ in 0..6 {
        let task = cluster.live("web")[0].id.clone();
        cluster.report(&task, TaskState::Failed);
        cluster.settle();
    }
    let present = cluster.view().cluster().unwrap().clone();
    let mut spec = present.spec.clone();
    spec.orchestration.task_history_retention_limit = Some(2);
    cluster
        .ask(ControlRequest::UpdateCluster {
            version: present.version,
            spec: Box::new(spec),
            rotate_worker_token: false,
            rotate_manager_token: false,
            rotate_unlock_key: false,
            rotate_data_keys: false,
        })
        .unwrap();
    cluster.settle();
    assert_eq!(cluster.tasks("web").len(), 2);
}

#[test]
fn drained_nodes_give_their_tasks_up_and_successors_wait_until_they_are_gone() {
    let mut cluster = web(1, "");
    let old = cluster.live("web").remove(0);
    cluster.set_availability(old.node_id.as_str(), Availability::Drain);
    cluster.settle();
    let live = cluster.live("web");
    assert_eq!(live.len(), 1);
    assert_eq!(
        live[0].desired_state,
        TaskState::Ready,
        "no delay, but its turn has not come"
    );
    assert_ne!(live[0].node_id, old.node_id);
    cluster.report(&old.id, TaskState::Shutdown);
    cluster.settle();
    assert_eq!(cluster.live("web")[0].desired_state, TaskState::Running);
}

#[test]
fn a_successor_does_not_wait_for_ever_for_a_task_that_does_not_stop() {
    let mut cluster = web(1, "");
    let old = cluster.live("web").remove(0);
    cluster.set_availability(old.node_id.as_str(), Availability::Drain);
    cluster.settle();
    cluster.wait(59 * SECOND);
    assert_eq!(cluster.live("web")[0].desired_state, TaskState::Ready);
    cluster.wait(SECOND);
    assert_eq!(cluster.live("web")[0].desired_state, TaskState::Running);
}

#[test]
fn tasks_of_a_node_that_is_down_run_elsewhere_at_once_and_are_given_up_after_a_day() {
    let mut cluster = web(3, "");
    let lost = cluster
        .live("web")
        .into_iter()
        .find(|task| task.node_id == "n1".into());
    let lost = lost.unwrap();
    cluster.heard("n1", NodeState::Down);
    cluster.settle();
    let live = cluster.live("web");
    assert_eq!(live.len(), 3);
    assert!(
        live.iter()
            .all(|task| task.desired_state == TaskState::Running)
    );
    assert!(live.iter().all(|task| task.node_id != "n1".into()));
    let state = |cluster: &Cluster| cluster.view().task(&lost.id).map(|task| task.status.state);
    assert_eq!(
        state(&cluster),
        Some(TaskState::Running),
        "as last reported"
    );
    cluster.wait(Duration::from_secs(24 * 3600 - 1));
    assert_eq!(state(&cluster), Some(TaskState::Running));
    cluster.wait(SECOND);
    assert_eq!(state(&cluster), Some(TaskState::Orphaned));
}

#[test]
fn a_node_that_comes_back_gets_no_existing_work() {
    let mut cluster = web(3, "");
    cluster.heard("n1", NodeState::Down);
    cluster.converge();
    cluster.heard("n1", NodeState::Ready);
    cluster.converge();
    let live = cluster.live("web");
    assert_eq!(live.len(), 3);
    assert!(live.iter().all(|task| task.node_id != "n1".into()));
}

#[test]
fn tasks_leave_a_node_that_lost_their_label() {
    let mut cluster = cluster(2);
    cluster.set_label("n0", "a");
    cluster.set_label("n1", "a");
    cluster.create(spec(
        "web",
        2,
        r#"{"TaskTemplate":{"Placement":{"Constraints":["node.labels.zone==a"]}}}"#,
    ));
    cluster.converge();
    cluster.set_label("n1", "b");
    cluster.settle();
    let lines = cluster.lines("web");
    assert!(
        lines
            .iter()
            .any(|line| line.ends_with("n1 img:1 rejected/shutdown")),
        "{lines:?}"
    );
    let rejected = cluster
        .tasks("web")
        .into_iter()
        .find(|t| t.node_id == "n1".into())
        .unwrap();
    assert_eq!(
        rejected.status.err,
        "assigned node no longer meets constraints"
    );
    cluster.converge();
    assert!(
        cluster
            .live("web")
            .iter()
            .all(|task| task.node_id == "n0".into())
    );
    assert_eq!(cluster.live("web").len(), 2);
}

#[test]
fn a_global_service_follows_the_nodes() {
    let mut cluster = web(1, r#"{"Mode":{"Global":{}}}"#);
    let nodes = |cluster: &Cluster| -> Vec<String> {
        let live = cluster.live("web");
        let mut nodes: Vec<_> = live.iter().map(|task| task.node_id.to_string()).collect();
        nodes.sort();
        nodes
    };
    assert_eq!(nodes(&cluster), ["n0", "n1", "n2"]);
    cluster.set_availability("n1", Availability::Drain);
    cluster.heard("n2", NodeState::Down);
    cluster.converge();
    assert_eq!(nodes(&cluster), ["n0"]);
    cluster.set_availability("n0", Availability::Pause);
    cluster.set_availability("n1", Availability::Active);
    cluster.heard("n2", NodeState::Ready);
    cluster.join("n3", false);
    cluster.converge();
    assert_eq!(
        nodes(&cluster),
        ["n0", "n1", "n2", "n3"],
        "a paused node keeps what it has"
    );
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
        assert!(
            cluster
                .live("web")
                .iter()
                .all(|task| task.spec.image() == "img:2")
        );
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
        assert!(
            cluster
                .live("web")
                .iter()
                .all(|task| task.spec.image() == "img:2")
        );
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
    assert!(
        cluster
            .live("web")
            .iter()
            .all(|task| task.spec.image() == "img:2")
    );
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
    assert!(
        cluster
            .live("web")
            .iter()
            .all(|task| task.spec.image() == "img:1")
    );
    let id = cluster.service("web").id;
    let request = cluster.rollback("web");
    assert_eq!(
        cluster.refusal(request),
        format!("service {id} does not have a previous spec")
    );
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

#[test]
fn an_automatic_port_stays_and_a_taken_port_is_refused_by_name() {
    let mut cluster = web(1, r#"{"EndpointSpec":{"Ports":[{"TargetPort":80}]}}"#);
    cluster.set_image("web", "img:2");
    cluster.converge();
    assert_eq!(
        cluster.service("web").endpoint.ports[0].published_port,
        30_000
    );
    let other = spec(
        "other",
        1,
        r#"{"EndpointSpec":{"Ports":[{"TargetPort":80,"PublishedPort":30000}]}}"#,
    );
    let id = cluster.service("web").id;
    let refusal = cluster.refusal(ControlRequest::CreateService {
        spec: Box::new(other),
    });
    assert_eq!(
        refusal,
        format!("port '30000' is already in use by service 'web' ({id}) as an ingress port")
    );
}

#[test]
fn a_full_network_says_so_at_once_and_serves_again_when_there_is_room() {
    let mut cluster = cluster(2);
    cluster.ask(network("small", Some("10.9.0.0/29"))).unwrap();
    cluster.create(spec(
        "web",
        6,
        r#"{"TaskTemplate":{"Networks":[{"Target":"small"}]}}"#,
    ));
    cluster.converge();
    let tasks = cluster.live("web");
    let (waiting, running): (Vec<_>, Vec<_>) = tasks
        .iter()
        .partition(|task| task.status.state == TaskState::New);
    assert_eq!(
        (running.len(), waiting.len()),
        (4, 2),
        "8 less net, broadcast, gateway, VIP"
    );
    assert_eq!(
        waiting[0].status.err,
        "network small: no available IPv4 addresses on this network's address pools"
    );
    let first = running[0].id.clone();
    cluster.report(&first, TaskState::Failed);
    cluster.converge();
    let running = cluster
        .live("web")
        .iter()
        .filter(|task| task.serves())
        .count();
    assert_eq!(running, 4);
}

#[test]
fn a_network_id_rests_for_ten_minutes() {
    let mut cluster = cluster(1);
    let vni_of_new = |cluster: &mut Cluster, name: &str| {
        cluster.ask(network(name, None)).unwrap();
        cluster.settle();
        cluster.network(name).vni
    };
    let first = vni_of_new(&mut cluster, "a");
    let id = cluster.network("a").id;
    cluster.ask(ControlRequest::RemoveNetwork { id }).unwrap();
    assert_eq!(vni_of_new(&mut cluster, "b"), first + 1);
    cluster.wait(600 * SECOND);
    assert_eq!(vni_of_new(&mut cluster, "c"), first);
}

#[test]
fn subnets_do_not_overlap_and_ipv6_comes_on_request() {
    let mut cluster = cluster(1);
    cluster.ask(network("taken", Some("10.0.1.0/25"))).unwrap();
    let mut spec = NetworkSpec {
        name: "six".to_owned(),
        ..NetworkSpec::default()
    };
    spec.ipv6_enabled = true;
    cluster
        .ask(ControlRequest::CreateNetwork {
            spec: Box::new(spec),
        })
        .unwrap();
    cluster.settle();
    let ipam = cluster.network("six").ipam;
    assert_eq!(ipam[0].subnet.unwrap().to_string(), "10.0.2.0/24");
    let v6 = ipam[1].subnet.unwrap();
    assert!(
        v6.to_string().starts_with("fd") && v6.prefix_len() == 64,
        "{v6}"
    );
    cluster.create(support::spec(
        "web",
        1,
        r#"{"TaskTemplate":{"Networks":[{"Target":"six"}]}}"#,
    ));
    cluster.settle();
    assert_eq!(cluster.live("web")[0].attachments[0].addresses.len(), 2);
    assert_eq!(cluster.service("web").endpoint.virtual_ips.len(), 2);
    let refusal = cluster.refusal(network("again", Some("10.0.2.128/25")));
    assert_eq!(
        refusal,
        "invalid pool request: Pool overlaps with other one on this address space"
    );
}

#[test]
fn waiting_tasks_say_what_for() {
    let mut cluster = cluster(3);
    cluster.set_availability("n2", Availability::Pause);
    cluster.create(spec(
        "web",
        1,
        r#"{"TaskTemplate":{"Resources":{"Reservations":{"MemoryBytes":9000000000}}}}"#,
    ));
    cluster.settle();
    let task = cluster.live("web").remove(0);
    assert_eq!(task.status.state, TaskState::Pending);
    assert_eq!(
        task.status.err,
        "no suitable node (insufficient resources on 2 nodes; 1 node not available for new tasks)"
    );
    cluster.update("web", |spec| spec.task_template.resources = None);
    cluster.converge();
    assert!(cluster.live("web")[0].serves());
}

#[test]
fn a_job_completes_as_often_as_asked_and_runs_again_when_updated() {
    let mut cluster = cluster(2);
    let mode = r#"{"Mode":{"ReplicatedJob":{"MaxConcurrent":2,"TotalCompletions":3}}}"#;
    cluster.create(spec("job", 0, mode));
    let run = |cluster: &mut Cluster| {
        let mut most = 0;
        for _ in 0..6 {
            cluster.obey();
            let live = cluster.live("job");
            most = most.max(live.len());
            for task in live
                .iter()
                .filter(|task| task.status.state == TaskState::Running)
            {
                cluster.report(&task.id, TaskState::Complete);
            }
            cluster.settle();
        }
        most
    };
    let completed = |cluster: &Cluster, iteration: u64| {
        let tasks = cluster.tasks("job").into_iter().filter(|task| {
            task.status.state == TaskState::Complete
                && task.job_iteration.unwrap().index == iteration
        });
        tasks.count()
    };
    cluster.settle();
    assert_eq!(run(&mut cluster), 2, "no more than two at once");
    assert_eq!(completed(&cluster, 0), 3);
    let status = cluster.service("job").job_status.unwrap();
    assert_eq!((status.completed, status.finished_at.is_some()), (3, true));
    let force = |spec: &mut skep_model::ServiceSpec| spec.task_template.force_update += 1;
    cluster.update("job", force);
    cluster.settle();
    run(&mut cluster);
    assert_eq!(completed(&cluster, 1), 3);
    for _ in 0..8 {
        cluster.update("job", force);
        cluster.settle();
        run(&mut cluster);
    }
    assert!(
        cluster.tasks("job").len() <= 15,
        "old iterations are history"
    );
}

#[test]
fn a_job_whose_task_fails_runs_no_more_at_once_than_it_may() {
    let mut cluster = cluster(2);
    let mode = r#"{"Mode":{"ReplicatedJob":{"MaxConcurrent":1,"TotalCompletions":3}}}"#;
    cluster.create(spec("job", 0, mode));
    cluster.settle();
    for _ in 0..20 {
        cluster.obey();
        let live = cluster.live("job");
        assert!(live.len() <= 1, "{:?}", cluster.lines("job"));
        for task in live.iter().filter(|task| task.serves()) {
            cluster.report(&task.id, TaskState::Failed);
        }
        cluster.wait(SECOND);
    }
}

#[test]
fn a_job_runs_again_only_when_it_has_something_else_to_do() {
    type Edit = fn(&mut skep_model::ServiceSpec);
    let mut cluster = cluster(1);
    let mode = r#"{"Mode":{"ReplicatedJob":{"MaxConcurrent":1,"TotalCompletions":1}}}"#;
    cluster.create(spec("job", 0, mode));
    let iteration = |cluster: &Cluster| {
        let status = cluster.service("job").job_status.unwrap();
        status.job_iteration.index
    };
    let edits: [(&str, bool, Edit); 7] = [
        ("nothing", false, |_| ()),
        ("labels", false, |spec| {
            spec.labels.insert("a".into(), "b".into());
        }),
        ("credentials", false, |spec| {
            spec.task_template.pull_credentials = "e30=".into();
        }),
        ("defaults said aloud", false, |spec| {
            spec.task_template.resources = Some(Default::default());
            spec.task_template.placement = Some(Default::default());
        }),
        ("force", true, |spec| spec.task_template.force_update += 1),
        ("environment", true, |spec| {
            let container = spec.task_template.container_spec.as_mut();
            container.unwrap().env.push("A=b".into());
        }),
        ("completions", true, |spec| {
            spec.mode = ServiceMode::ReplicatedJob(skep_model::service::ReplicatedJob {
                max_concurrent: Some(1),
                total_completions: Some(2),
            });
        }),
    ];
    for (what, runs, edit) in edits {
        let before = iteration(&cluster);
        cluster.update("job", edit);
        cluster.settle();
        assert_eq!(iteration(&cluster) - before, u64::from(runs), "{what}");
    }
}

#[test]
fn finished_tasks_of_a_job_go_when_their_time_is_over_and_stay_counted() {
    let mut cluster = cluster(1);
    let job = r#"{"Mode":{"ReplicatedJob":{"MaxConcurrent":2,"TotalCompletions":2}},
                  "Labels":{"skep.job.ttl":"1h"}}"#;
    cluster.create(spec("job", 0, job));
    cluster.settle();
    cluster.obey();
    for task in cluster.live("job") {
        cluster.report(&task.id, TaskState::Complete);
    }
    cluster.settle();
    assert_eq!(cluster.tasks("job").len(), 2);
    let until = cluster.now.plus(Duration::from_secs(3600));
    cluster.wait(60 * SECOND);
    assert_eq!(cluster.wake_at, Some(until));
    cluster.wait(3540 * SECOND);
    assert_eq!(cluster.tasks("job").len(), 0);
    cluster.wait(Duration::from_secs(3600));
    assert_eq!(cluster.tasks("job").len(), 0, "nothing is run again");
    assert_eq!(cluster.service("job").job_status.unwrap().completed, 2);
}

#[test]
fn a_removed_node_loses_its_tasks_even_when_nobody_led() {
    let mut cluster = web(3, "");
    cluster.heard("n1", NodeState::Down);
    cluster
        .ask(ControlRequest::RemoveNode {
            id: "n1".into(),
            force: true,
        })
        .unwrap();
    cluster.memory = Memory::new();
    cluster.converge();
    assert_eq!(cluster.live("web").len(), 3);
    let stale = cluster
        .tasks("web")
        .into_iter()
        .find(|task| task.node_id == "n1".into());
    assert_eq!(stale.unwrap().status.state, TaskState::Orphaned);
}
