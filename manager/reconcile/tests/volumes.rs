//! Tasks that return to the nodes that have their volumes.

mod support;

use std::time::Duration;

use skep_model::volume_home::VolumeHome;
use skep_model::why::Trouble;
use skep_model::{Availability, ControlRequest, ControlResponse, Kind, NodeState, Task, TaskState};
use skep_reconcile::why::why;
use support::{Cluster, cluster, scale, spec};

const STICKY: &str = r#"{"Labels":{"skep.volume.placement":"sticky"},
    "TaskTemplate":{"ContainerSpec":{"Mounts":[
        {"Type":"volume","Source":"data-{{.Task.Slot}}","Target":"/data"}]}}}"#;

/// A converged service `db` of so many slots on three nodes.
fn db(replicas: u64) -> Cluster {
    let mut cluster = cluster(3);
    cluster.create(spec("db", replicas, STICKY));
    cluster.converge();
    cluster
}

fn home(cluster: &Cluster, slot: u64) -> Option<VolumeHome> {
    cluster.service("db").volume_homes.get(&slot).cloned()
}

fn live(cluster: &Cluster, slot: u64) -> Task {
    let mut tasks = cluster.live("db").into_iter();
    tasks.find(|task| task.slot == slot).expect("it lives")
}

fn release(cluster: &mut Cluster, slots: Option<Vec<u64>>, to: Option<&str>) -> ControlRequest {
    ControlRequest::ReleaseVolumes {
        id: cluster.service("db").id,
        slots,
        to: to.map(Into::into),
    }
}

fn let_go(cluster: &mut Cluster, slot: u64, to: Option<&str>) -> ControlResponse {
    let request = release(cluster, Some(vec![slot]), to);
    let answer = cluster.ask(request).unwrap();
    cluster.settle();
    answer
}

/// Another node than the one that slot 1 is at home on.
fn elsewhere(cluster: &Cluster) -> String {
    let node = home(cluster, 1).unwrap().node_id;
    let all = ["n0", "n1", "n2"];
    all.into_iter()
        .find(|id| *id != node.as_str())
        .unwrap()
        .to_owned()
}

fn trouble(cluster: &Cluster) -> (Trouble, String) {
    let told = why(&cluster.view(), Some("db"), None, cluster.now).unwrap();
    let cause = told.causes.first().expect("something is amiss");
    (cause.trouble, cause.message.clone())
}

#[test]
fn every_task_of_a_slot_goes_where_the_first_one_went() {
    let mut cluster = db(3);
    let mut homes = cluster.service("db").volume_homes;
    assert_eq!(homes.len(), 3);
    for (slot, home) in &homes {
        assert!(home.is_held);
        assert_eq!(home.volumes, [format!("data-{slot}")]);
        assert_eq!(home.node_id, live(&cluster, *slot).node_id);
    }
    cluster.set_image("db", "img:2");
    cluster.converge();
    let at_home = |cluster: &Cluster| {
        for (slot, home) in &cluster.service("db").volume_homes {
            let task = live(cluster, *slot);
            assert_eq!(task.node_id, home.node_id);
            assert_eq!(task.volumes_expected, [format!("data-{slot}")]);
        }
    };
    at_home(&cluster);
    let first = live(&cluster, 1);
    cluster.report(&first.id, TaskState::Failed);
    cluster.converge();
    assert_ne!(live(&cluster, 1).id, first.id);
    at_home(&cluster);
    // A slot that goes and comes again finds its volume, when nothing remembers its tasks.
    cluster.update("db", scale(1));
    cluster.converge();
    assert_eq!(
        cluster
            .tasks("db")
            .iter()
            .filter(|task| task.slot > 1)
            .count(),
        0
    );
    cluster.update("db", scale(3));
    cluster.converge();
    at_home(&cluster);
    let now = cluster.service("db").volume_homes;
    homes
        .values_mut()
        .for_each(|home| home.task_id = Default::default());
    for (slot, home) in &homes {
        assert_eq!(now[slot].node_id, home.node_id);
    }
}

#[test]
fn a_slot_waits_for_its_node_and_says_so() {
    for (state, word) in [(true, "down"), (false, "drained")] {
        let mut cluster = db(1);
        let node = home(&cluster, 1).unwrap().node_id;
        match state {
            true => cluster.heard(node.as_str(), NodeState::Down),
            false => cluster.set_availability(node.as_str(), Availability::Drain),
        }
        cluster.converge();
        let told = format!(
            "no suitable node (volume data-1 of slot 1 is on node {node}, which is {word})"
        );
        let task = live(&cluster, 1);
        assert_eq!(task.status.state, TaskState::Pending);
        assert_eq!(task.status.err, told);
        assert_eq!(trouble(&cluster), (Trouble::VolumeElsewhere, told));
        match state {
            true => cluster.heard(node.as_str(), NodeState::Ready),
            false => cluster.set_availability(node.as_str(), Availability::Active),
        }
        cluster.converge();
        assert_eq!(live(&cluster, 1).status.state, TaskState::Running);
        assert_eq!(live(&cluster, 1).node_id, node);
    }
}

#[test]
fn a_node_without_room_is_waited_for_as_well() {
    let mut cluster = db(1);
    let node = home(&cluster, 1).unwrap().node_id;
    cluster.update("db", |spec| {
        let cpus = r#"{"Reservations":{"NanoCPUs":9000000000}}"#;
        spec.task_template.resources = serde_json::from_str(cpus).unwrap();
    });
    cluster.converge();
    let told = format!(
        "no suitable node (volume data-1 of slot 1 is on node {node}, and there: insufficient \
         resources on 1 node)"
    );
    assert_eq!(live(&cluster, 1).status.err, told);
    // Letting go of the data is no answer to that.
    assert_eq!(trouble(&cluster), (Trouble::NoRoom, told));
}

/// The task of slot 1 that waits for the one before it to be gone from its home.
fn behind(cluster: &Cluster) -> Task {
    let task = live(cluster, 1);
    let node = home(cluster, 1).unwrap().node_id;
    assert_eq!(task.status.state, TaskState::Pending);
    let told = format!(
        "no suitable node (volume data-1 of slot 1 is on node {node}, and its predecessor still \
         stops there)"
    );
    assert_eq!(task.status.err, told);
    task
}

#[test]
fn a_node_that_returns_ends_its_task_before_the_next_one_has_the_volume() {
    let mut cluster = db(1);
    let old = live(&cluster, 1);
    let node = old.node_id.clone();
    cluster.heard(node.as_str(), NodeState::Down);
    cluster.wait(Duration::from_secs(300));
    cluster.heard(node.as_str(), NodeState::Ready);
    cluster.settle();
    let next = behind(&cluster);
    assert_ne!(next.id, old.id);
    let told = why(&cluster.view(), Some("db"), None, cluster.now).unwrap();
    assert!(
        told.causes
            .iter()
            .any(|cause| cause.trouble == Trouble::Predecessor)
    );
    // However long that takes: only its node can say that it has ended.
    cluster.wait(Duration::from_secs(3600));
    behind(&cluster);
    cluster.report(&old.id, TaskState::Shutdown);
    cluster.settle();
    assert_eq!(live(&cluster, 1).id, next.id);
    assert_eq!(live(&cluster, 1).status.state, TaskState::Assigned);
    assert_eq!(live(&cluster, 1).node_id, node);
}

#[test]
fn a_task_that_was_given_up_has_time_to_stop_when_its_node_returns() {
    let mut cluster = db(1);
    let old = live(&cluster, 1);
    cluster.heard(old.node_id.as_str(), NodeState::Down);
    cluster.wait(Duration::from_secs(3 * 24 * 3600));
    cluster.wait(Duration::from_secs(1));
    let given_up = cluster.view().task(&old.id).cloned().unwrap();
    assert_eq!(given_up.status.state, TaskState::Orphaned);
    cluster.heard(old.node_id.as_str(), NodeState::Ready);
    cluster.settle();
    behind(&cluster);
    let wake_at = cluster.wake_at.expect("it looks again by itself");
    assert!(wake_at <= cluster.now.plus(Duration::from_secs(60)));
    cluster.wait(Duration::from_secs(59));
    behind(&cluster);
    cluster.wait(Duration::from_secs(1));
    assert_eq!(live(&cluster, 1).status.state, TaskState::Assigned);
}

#[test]
fn a_task_that_no_longer_suits_its_node_is_waited_for() {
    let mut cluster = cluster(3);
    for node in ["n0", "n1", "n2"] {
        cluster.set_label(node, "a");
    }
    let mut wanted = spec("db", 1, STICKY);
    let placement = r#"{"Constraints":["node.labels.zone==a"]}"#;
    wanted.task_template.placement = serde_json::from_str(placement).unwrap();
    cluster.create(wanted);
    cluster.converge();
    let old = live(&cluster, 1);
    cluster.set_label(old.node_id.as_str(), "b");
    cluster.settle();
    let stopping = cluster.view().task(&old.id).cloned().unwrap();
    assert_eq!(stopping.status.state, TaskState::Running);
    assert_eq!(stopping.desired_state, TaskState::Shutdown);
    cluster.set_label(old.node_id.as_str(), "a");
    cluster.settle();
    behind(&cluster);
    cluster.converge();
    assert_eq!(live(&cluster, 1).status.state, TaskState::Running);
    assert_eq!(live(&cluster, 1).node_id, old.node_id);
}

#[test]
fn the_old_task_stops_first_whatever_the_order() {
    let mut cluster = cluster(3);
    let mut wanted = spec("db", 1, STICKY);
    let order = r#"{"Order":"start-first"}"#;
    wanted.update_config = serde_json::from_str(order).unwrap();
    wanted.rollback_config = serde_json::from_str(order).unwrap();
    cluster.create(wanted);
    cluster.converge();
    let changes: [fn(&mut Cluster); 2] = [
        |cluster| cluster.set_image("db", "img:2"),
        |cluster| drop(cluster.ask(cluster.rollback("db")).unwrap()),
    ];
    for change in changes {
        let before = live(&cluster, 1).id;
        change(&mut cluster);
        cluster.settle();
        for _ in 0..20 {
            let tasks = cluster.tasks("db").into_iter().filter(|task| {
                let state = task.status.state;
                let may_write =
                    state == TaskState::Running || task.desired_state == TaskState::Running;
                may_write && (TaskState::Assigned..=TaskState::Running).contains(&state)
            });
            assert!(tasks.count() <= 1);
            cluster.obey();
            cluster.wait(Duration::from_secs(1));
        }
        assert_ne!(live(&cluster, 1).id, before);
        assert_eq!(live(&cluster, 1).status.state, TaskState::Running);
    }
}

#[test]
fn a_home_passes_to_the_successor_that_starts_there() {
    let mut cluster = cluster(3);
    cluster.create(spec("db", 1, STICKY));
    cluster.settle();
    let first = live(&cluster, 1);
    cluster.report(&first.id, TaskState::Preparing);
    cluster.set_image("db", "img:2");
    cluster.settle();
    let second = cluster.tasks("db").pop().expect("it was made");
    assert_ne!(second.id, first.id);
    assert_eq!(second.node_id, first.node_id);
    cluster.report(&first.id, TaskState::Shutdown);
    cluster.settle();
    let now = home(&cluster, 1).expect("the second may have a container");
    assert_eq!(
        (now.node_id, now.task_id),
        (first.node_id, second.id.clone())
    );
    cluster.report(&second.id, TaskState::Rejected);
    cluster.settle();
    assert_ne!(home(&cluster, 1).map(|home| home.task_id), Some(second.id));
}

#[test]
fn homes_do_not_go_without_a_word() {
    let mut cluster = db(2);
    let node = |cluster: &Cluster, slot| home(cluster, slot).unwrap().hostname;
    let told = format!(
        "tasks of service db return to their volumes no more, which stay: data-1 on {} (slot 1); \
         data-2 on {} (slot 2)",
        node(&cluster, 1),
        node(&cluster, 2)
    );
    let free = cluster.change("db", |spec| spec.labels.clear());
    let warned = cluster.ask(free).unwrap().warnings;
    assert_eq!(warned, std::slice::from_ref(&told));
    // The label comes back before anything has happened, and goes with the rollback of that.
    cluster.update("db", |spec| {
        let key = "skep.volume.placement".to_owned();
        spec.labels.insert(key, "sticky".to_owned());
    });
    cluster.converge();
    let back = cluster.rollback("db");
    let warned = cluster.ask(back).unwrap().warnings;
    assert_eq!(warned, std::slice::from_ref(&told));
    let forward = cluster.rollback("db");
    assert!(cluster.ask(forward).unwrap().warnings.is_empty());
    cluster.converge();
    let id = cluster.service("db").id;
    let removed = cluster.ask(ControlRequest::RemoveService { id }).unwrap();
    assert_eq!(removed.warnings, [told]);
}

#[test]
fn a_released_slot_starts_elsewhere_and_stays_there() {
    let mut cluster = db(1);
    let node = home(&cluster, 1).unwrap().node_id;
    let request = release(&mut cluster, Some(vec![1]), None);
    let told = cluster.refusal(request);
    assert!(told.contains("drain that node or scale"), "{told}");
    cluster.heard(node.as_str(), NodeState::Down);
    cluster.converge();
    let answer = let_go(&mut cluster, 1, None);
    assert_eq!(answer.actions, [format!("db.1: data-1 on {node}")]);
    cluster.converge();
    let task = live(&cluster, 1);
    assert_eq!(task.status.state, TaskState::Running);
    assert_ne!(task.node_id, node);
    assert!(task.volumes_expected.is_empty());
    // The old node comes back, and what its task was changes nothing.
    cluster.heard(node.as_str(), NodeState::Ready);
    cluster.converge();
    let now = home(&cluster, 1).unwrap();
    assert_eq!((&now.node_id, now.is_held), (&task.node_id, true));
    let request = release(&mut cluster, Some(vec![7]), None);
    assert!(
        cluster
            .refusal(request)
            .contains("slot 7 of service db has no volumes")
    );
}

#[test]
fn a_slot_can_be_told_where_its_data_are() {
    let mut cluster = db(1);
    let (from, to) = (home(&cluster, 1).unwrap().node_id, elsewhere(&cluster));
    cluster.set_availability(from.as_str(), Availability::Drain);
    cluster.converge();
    let answer = let_go(&mut cluster, 1, Some(&to));
    assert_eq!(answer.actions, [format!("db.1: data-1 on {from} -> {to}")]);
    cluster.converge();
    let task = live(&cluster, 1);
    assert_eq!(task.node_id.as_str(), to);
    assert!(task.volumes_expected.is_empty(), "it may be a new one");
    assert_eq!(home(&cluster, 1).unwrap().volumes, ["data-1"]);
    // What was once said is kept, whatever becomes of the first task there.
    cluster.set_availability(&to, Availability::Drain);
    cluster.converge();
    let_go(&mut cluster, 1, Some(&to));
    cluster.set_availability(&to, Availability::Active);
    cluster.settle();
    let task = live(&cluster, 1);
    cluster.report(&task.id, TaskState::Rejected);
    cluster.converge();
    assert_eq!(live(&cluster, 1).node_id.as_str(), to);
    let request = release(&mut cluster, Some(vec![7]), Some(&to));
    let told = cluster.refusal(request);
    assert_eq!(told, "service db has no slot 7: it has 1 replicas");
    let request = release(&mut cluster, None, Some("nowhere"));
    assert_eq!(cluster.ask(request).unwrap_err().kind, Kind::NotFound);
}

#[test]
fn a_task_that_came_to_nothing_leaves_no_home() {
    let mut cluster = cluster(3);
    cluster.create(spec("db", 1, STICKY));
    cluster.settle();
    let first = live(&cluster, 1);
    let chosen = home(&cluster, 1).unwrap();
    assert_eq!((&chosen.node_id, chosen.is_held), (&first.node_id, false));
    cluster.report(&first.id, TaskState::Rejected);
    cluster.settle();
    assert_ne!(home(&cluster, 1).map(|home| home.task_id), Some(first.id));
    // A node that is lost before it said anything may have begun to write.
    let second = live(&cluster, 1);
    cluster.heard(second.node_id.as_str(), NodeState::Down);
    cluster.converge();
    assert_eq!(home(&cluster, 1).unwrap().node_id, second.node_id);
    assert_eq!(live(&cluster, 1).status.state, TaskState::Pending);
}

#[test]
fn a_removed_node_lets_nobody_start_on_empty_volumes() {
    let mut cluster = db(3);
    let node = "n2";
    let homes = cluster.service("db").volume_homes;
    let slot = homes.iter().find(|(_, home)| home.node_id.as_str() == node);
    let slot = *slot.expect("each node has one").0;
    let remove = ControlRequest::RemoveNode {
        id: node.into(),
        force: true,
    };
    let answer = cluster.ask(remove).unwrap();
    assert_eq!(
        answer.warnings,
        [format!(
            "db.{slot} has volumes on n2 and waits for that node: skep volume release db {slot}"
        )]
    );
    cluster.converge();
    let told = format!(
        "no suitable node (volume data-{slot} of slot {slot} is on node n2, which was removed)"
    );
    assert_eq!(live(&cluster, slot).status.err, told);
    let_go(&mut cluster, slot, None);
    cluster.converge();
    assert_eq!(live(&cluster, slot).status.state, TaskState::Running);
}

#[test]
fn the_label_may_come_and_go() {
    let mut cluster = cluster(3);
    let free = STICKY.replace("sticky", "free");
    cluster.create(spec("db", 2, &free));
    cluster.converge();
    assert!(cluster.service("db").volume_homes.is_empty());
    let tasks: Vec<_> = cluster.live("db").into_iter().map(|task| task.id).collect();
    let label = |value: &'static str| {
        move |spec: &mut skep_model::ServiceSpec| {
            let key = "skep.volume.placement".to_owned();
            spec.labels.insert(key, value.to_owned());
        }
    };
    cluster.update("db", label("sticky"));
    cluster.converge();
    let after: Vec<_> = cluster.live("db").into_iter().map(|task| task.id).collect();
    assert_eq!(tasks, after, "nobody is restarted for it");
    for slot in [1, 2] {
        let home = home(&cluster, slot).unwrap();
        assert!(home.is_held);
        assert_eq!(home.node_id, live(&cluster, slot).node_id);
    }
    let id = cluster.service("db").id;
    let told = cluster.refusal(ControlRequest::RebalanceService { id, most: None });
    assert!(told.contains("stay with their volumes"), "{told}");
    cluster.update("db", label("free"));
    cluster.settle();
    assert!(cluster.service("db").volume_homes.is_empty());
    let request = release(&mut cluster, None, None);
    assert!(
        cluster
            .refusal(request)
            .contains("skep.volume.placement=sticky")
    );
}

#[test]
fn a_new_leader_knows_the_homes() {
    let mut cluster = db(2);
    let node = home(&cluster, 1).unwrap().node_id;
    cluster.memory = skep_reconcile::Memory::new();
    cluster.heard(node.as_str(), NodeState::Down);
    cluster.converge();
    assert_eq!(live(&cluster, 1).status.state, TaskState::Pending);
    cluster.memory = skep_reconcile::Memory::new();
    cluster.heard(node.as_str(), NodeState::Ready);
    cluster.converge();
    assert_eq!(live(&cluster, 1).node_id, node);
    assert_eq!(live(&cluster, 1).volumes_expected, ["data-1"]);
}
