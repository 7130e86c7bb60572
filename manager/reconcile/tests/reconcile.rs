//! The control loop from outside: what becomes of services, tasks and nodes.

mod support;

use std::time::Duration;

use skep_model::limits::{CHANGES_PER_COMMIT_MAX, VNI_FIRST};
use skep_model::{Availability, ControlRequest, NetworkSpec, NodeState, Task, TaskState};
use skep_reconcile::Memory;
use skep_store::Transaction;
use support::{Cluster, cluster, scale, spec, web};

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
    assert!((10..20).contains(&commits), "{commits}");
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
    let request = cluster.cluster_request(|spec| {
        spec.orchestration.task_history_retention_limit = Some(2);
    });
    cluster.ask(request).unwrap();
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
