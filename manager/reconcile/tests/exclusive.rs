//! Exclusive slots: the next task of one is let run only when the one before has certainly stopped.

mod support;

use std::time::Duration;

use skep_model::disconnect::{EXCLUSIVE_LABEL, STOP_AFTER_LABEL};
use skep_model::{Availability, ControlRequest, NodeState, Task, TaskState};
use support::{Cluster, cluster, spec};

const SECOND: Duration = Duration::from_secs(1);
/// What the nodes have promised: 20 s of silence, a grace period of 4 s, and what is on top.
const SURE: Duration = Duration::from_secs(20 + 4 + 4);

/// A cluster with one exclusive service of one task, which runs.
fn exclusive() -> Cluster {
    let mut cluster = cluster(3);
    cluster.create(spec(
        "db",
        1,
        r#"{"Labels":{"skep.exclusive":"true","skep.on-disconnect.stop-after":"20s"},
            "TaskTemplate":{"ContainerSpec":{"StopGracePeriod":4000000000},
                            "Placement":{"Constraints":["node.role==worker"]},
                            "RestartPolicy":{"Delay":0}}}"#,
    ));
    obey(&mut cluster);
    assert_eq!(running(&cluster).len(), 1);
    cluster
}

/// Agents do all they are told, for a while.
fn obey(cluster: &mut Cluster) {
    for _ in 0..6 {
        cluster.settle();
        cluster.obey();
    }
    cluster.settle();
}

/// Those that may be running: on some node and not known to have ended.
fn running(cluster: &Cluster) -> Vec<Task> {
    let tasks = cluster.tasks("db").into_iter();
    let may_run = |task: &Task| {
        task.status.state == TaskState::Running
            || (task.desired_state == TaskState::Running
                && task.status.state >= TaskState::Assigned)
    };
    tasks
        .filter(|task| may_run(task) && !task.status.state.is_terminal())
        .collect()
}

/// State and wish of the one task that is to fill the slot.
#[track_caller]
fn next(cluster: &Cluster) -> String {
    let live = cluster.live("db");
    assert_eq!(live.len(), 1, "{:?}", cluster.lines("db"));
    format!("{}/{}", live[0].status.state, live[0].desired_state)
}

#[track_caller]
fn assert_alone(cluster: &Cluster) {
    let tasks = running(cluster);
    assert!(tasks.len() <= 1, "{:?}", cluster.lines("db"));
}

#[test]
fn a_node_that_is_cut_off_is_given_the_time_it_was_promised() {
    let mut cluster = exclusive();
    let node = running(&cluster)[0].node_id.clone();
    cluster.heard(node.as_str(), NodeState::Down);
    obey(&mut cluster);
    assert_eq!(next(&cluster), "ready/ready", "its successor gets ready");
    cluster.wait(SURE - 2 * SECOND);
    obey(&mut cluster);
    assert_eq!(next(&cluster), "ready/ready", "not yet");
    assert!(cluster.wake_at.is_some(), "the time is known");
    cluster.wait(2 * SECOND);
    obey(&mut cluster);
    assert_eq!(next(&cluster), "running/running");
}

#[test]
fn a_leader_whose_clock_is_new_measures_anew() {
    let mut cluster = exclusive();
    let node = running(&cluster)[0].node_id.clone();
    cluster.heard(node.as_str(), NodeState::Down);
    obey(&mut cluster);
    // A leader takes over whose clock is an hour ahead.
    cluster.now = cluster.now.plus(3600 * SECOND);
    let now = cluster.now;
    cluster.memory = skep_reconcile::Memory::new();
    cluster.memory.time_is_steady_since(now);
    obey(&mut cluster);
    assert_eq!(next(&cluster), "ready/ready");
    cluster.wait(SURE);
    obey(&mut cluster);
    assert_eq!(next(&cluster), "running/running");
}

#[test]
fn a_node_that_answers_is_waited_for_however_long_it_takes() {
    for how in ["drain", "label", "update", "evict"] {
        let mut cluster = exclusive();
        let node = running(&cluster)[0].node_id.clone();
        match how {
            "drain" => cluster.set_availability(node.as_str(), Availability::Drain),
            "label" => cluster.update("db", |spec| {
                spec.labels
                    .insert(STOP_AFTER_LABEL.to_owned(), "30s".to_owned());
            }),
            "update" => cluster.set_image("db", "img:2"),
            _ => {
                cluster.set_label(node.as_str(), "a");
                cluster.update("db", |spec| {
                    let placement = r#"{"Constraints":["node.labels.zone==a"]}"#;
                    spec.task_template.placement = serde_json::from_str(placement).unwrap();
                });
                cluster.settle();
                cluster.set_label(node.as_str(), "b");
            }
        }
        // Its agent is slow: it has heard, and says nothing for a day.
        cluster.settle();
        for _ in 0..24 {
            cluster.wait(3600 * SECOND);
            assert_alone(&cluster);
        }
        obey(&mut cluster);
        assert_alone(&cluster);
        if how != "evict" {
            assert_eq!(
                running(&cluster).len(),
                1,
                "{how}: {:?}",
                cluster.lines("db")
            );
        }
    }
}

#[test]
fn a_removed_node_may_run_it_for_as_long_as_it_was_promised() {
    let mut cluster = exclusive();
    let node = running(&cluster)[0].node_id.clone();
    cluster.heard(node.as_str(), NodeState::Down);
    cluster.settle();
    let view = cluster.view();
    cluster
        .ask(ControlRequest::RemoveNode {
            id: view.node(&node).unwrap().id.clone(),
            force: true,
        })
        .unwrap();
    obey(&mut cluster);
    cluster.wait(SURE - 2 * SECOND);
    obey(&mut cluster);
    let waits = |cluster: &Cluster| cluster.live("db")[0].desired_state == TaskState::Ready;
    assert!(waits(&cluster), "{:?}", cluster.lines("db"));
    cluster.wait(2 * SECOND);
    obey(&mut cluster);
    assert!(!waits(&cluster), "{:?}", cluster.lines("db"));
}

#[test]
fn a_slot_that_is_emptied_and_filled_again_waits_as_well() {
    let mut cluster = exclusive();
    let node = running(&cluster)[0].node_id.clone();
    cluster.heard(node.as_str(), NodeState::Down);
    cluster.settle();
    let replicas = |count| {
        move |spec: &mut skep_model::ServiceSpec| {
            spec.mode =
                serde_json::from_str(&format!(r#"{{"Replicated":{{"Replicas":{count}}}}}"#))
                    .unwrap();
        }
    };
    cluster.update("db", replicas(0));
    obey(&mut cluster);
    cluster.update("db", replicas(1));
    obey(&mut cluster);
    let live = cluster.live("db");
    assert_eq!(
        live[0].desired_state,
        TaskState::Ready,
        "{:?}",
        cluster.lines("db")
    );
    cluster.wait(SURE);
    obey(&mut cluster);
    assert_eq!(cluster.live("db")[0].status.state, TaskState::Running);
}

#[test]
fn what_was_made_before_the_label_has_promised_nothing() {
    let mut cluster = cluster(3);
    cluster.create(spec(
        "db",
        1,
        r#"{"TaskTemplate":{"RestartPolicy":{"Delay":0}}}"#,
    ));
    obey(&mut cluster);
    let node = running(&cluster)[0].node_id.clone();
    cluster.heard(node.as_str(), NodeState::Down);
    // Before anything is decided about it.
    cluster.update("db", |spec| {
        spec.labels
            .insert(EXCLUSIVE_LABEL.to_owned(), "true".to_owned());
    });
    obey(&mut cluster);
    cluster.wait(600 * SECOND);
    obey(&mut cluster);
    assert!(
        cluster
            .live("db")
            .iter()
            .all(|task| task.desired_state == TaskState::Ready)
    );
    // Its node comes back and says that it has stopped.
    cluster.heard(node.as_str(), NodeState::Ready);
    obey(&mut cluster);
    assert_eq!(running(&cluster).len(), 1);
}
