//! Services that are scaled by what they use: one commit, and nothing but their replicas changes.

mod support;

use std::time::Duration;

use skep_model::autoscale::{CPU_LABEL, MAX_LABEL, MIN_LABEL, WINDOW_LABEL};
use skep_model::stack::STACK_LABEL;
use skep_model::{ControlRequest, ServiceMode, StackSpec};
use skep_reconcile::autoscale::{Scaling, Usage, Usages, autoscale};
use support::{Cluster, cluster, scale, spec};

const SECOND: Duration = Duration::from_secs(1);

/// A service of so many tasks, one to five, half a processor each.
fn scaled(replicas: u64) -> Cluster {
    let mut cluster = cluster(3);
    let mut spec = spec("web", replicas, "");
    for (label, value) in [(MAX_LABEL, "5"), (CPU_LABEL, "50"), (WINDOW_LABEL, "10s")] {
        spec.labels.insert(label.to_owned(), value.to_owned());
    }
    cluster.create(spec);
    cluster.converge();
    cluster
}

fn replicas(cluster: &Cluster) -> u64 {
    match cluster.service("web").spec.mode {
        ServiceMode::Replicated(replicated) => replicated.count(),
        other => panic!("{other:?}"),
    }
}

/// All tasks that run use so many billionths of a processor.
fn usages(cluster: &Cluster, nano_cpus: f64) -> Usages {
    let usage = Usage {
        nano_cpus,
        bytes: 0.0,
    };
    let live = cluster.live("web").into_iter();
    Usages {
        tasks: live.map(|task| (task.id, usage)).collect(),
        ..Usages::default()
    }
}

/// One look of the leader. Tells whether it has changed anything.
fn look(cluster: &mut Cluster, scaling: &mut Scaling, nano_cpus: f64) -> bool {
    let usages = usages(cluster, nano_cpus);
    let commit = autoscale(&cluster.view(), &usages, scaling, cluster.now);
    if let Some(commit) = &commit {
        cluster.apply(commit);
    }
    cluster.settle();
    commit.is_some()
}

#[test]
fn replicas_follow_up_at_once_and_down_after_the_window() {
    let mut cluster = scaled(1);
    let mut scaling = Scaling::default();
    assert!(look(&mut cluster, &mut scaling, 1e9));
    assert_eq!(replicas(&cluster), 2);
    let status = cluster.service("web").autoscale.unwrap();
    assert_eq!((status.from, status.to), (1, 2));
    assert_eq!(status.because, "cpu asks for 2");
    assert_eq!(status.figures, ["cpu: 1.00 CPUs each, 0.50 CPUs wanted"]);
    cluster.converge();
    assert_eq!(cluster.live("web").len(), 2);
    for _ in 0..3 {
        look(&mut cluster, &mut scaling, 0.1e9);
        cluster.wait(5 * SECOND);
    }
    assert_eq!(replicas(&cluster), 1);
    let why = skep_reconcile::why::why(&cluster.view(), Some("web"), None, cluster.now).unwrap();
    let told = "; scaled by itself from 1 to 5; cpu: 0.10 CPUs each, 0.50 CPUs wanted";
    assert!(why.summary.contains(told), "{}", why.summary);
    assert!(
        why.summary.contains("; last from 2 to 1 "),
        "{}",
        why.summary
    );
}

#[test]
fn what_is_measured_is_written_down_once_a_minute() {
    let mut cluster = scaled(2);
    let mut scaling = Scaling::default();
    let mut written = |different: bool| {
        let mut written = 0;
        for at in 0..36 {
            let more = f64::from(at) * 1e6 * f64::from(u8::from(different));
            written += usize::from(look(&mut cluster, &mut scaling, 0.5e9 + more));
            cluster.wait(5 * SECOND);
        }
        written
    };
    assert_eq!(written(true), 3, "in three minutes");
    assert!(written(false) <= 1, "it is what it was");
    assert_eq!(replicas(&cluster), 2);
}

#[test]
fn nothing_but_the_replicas_changes() {
    let mut cluster = scaled(1);
    cluster.set_image("web", "img:2");
    cluster.converge();
    let before = cluster.service("web");
    let task = cluster.live("web").remove(0);
    look(&mut cluster, &mut Scaling::default(), 2e9);
    cluster.converge();
    let after = cluster.service("web");
    assert_eq!(replicas(&cluster), 4);
    assert_eq!(after.spec_version, before.spec_version);
    assert_eq!(after.previous_spec, before.previous_spec);
    assert_eq!(after.history, before.history);
    assert_eq!(after.revision.number, before.revision.number);
    assert_eq!(after.update_status, before.update_status);
    assert!(cluster.live("web").iter().any(|one| one.id == task.id));
    // Going back keeps what was scaled since.
    let back = cluster.rollback_to("web", 0);
    cluster.ask(back).unwrap();
    assert_eq!(replicas(&cluster), 4);
}

#[test]
fn an_update_under_way_goes_on() {
    let mut cluster = scaled(2);
    cluster.set_image("web", "img:2");
    cluster.settle();
    look(&mut cluster, &mut Scaling::default(), 2e9);
    cluster.converge();
    let live = cluster.live("web");
    assert_eq!(live.len(), 5);
    assert!(live.iter().all(|task| task.spec.image() == "img:2"));
}

#[test]
fn a_service_scaled_by_hand_is_adapted_and_one_scaled_to_nothing_is_left() {
    let mut cluster = scaled(2);
    let mut scaling = Scaling::default();
    cluster.update("web", scale(5));
    cluster.converge();
    for _ in 0..4 {
        look(&mut cluster, &mut scaling, 0.2e9);
        cluster.wait(5 * SECOND);
    }
    assert_eq!(replicas(&cluster), 2);
    cluster.update("web", scale(0));
    cluster.converge();
    for _ in 0..4 {
        look(&mut cluster, &mut scaling, 0.2e9);
        cluster.wait(5 * SECOND);
    }
    assert_eq!(replicas(&cluster), 0);
}

#[test]
fn a_new_leader_knows_nothing_and_scales_nothing_down() {
    let mut cluster = scaled(3);
    for _ in 0..10 {
        look(&mut cluster, &mut Scaling::default(), 0.1e9);
        cluster.wait(5 * SECOND);
    }
    assert_eq!(replicas(&cluster), 3);
    let mut scaling = Scaling::default();
    for _ in 0..10 {
        let known = Usages::default();
        let commit = autoscale(&cluster.view(), &known, &mut scaling, cluster.now);
        if let Some(commit) = commit {
            cluster.apply(&commit);
        }
        cluster.wait(5 * SECOND);
    }
    assert_eq!(replicas(&cluster), 3, "nor does one that hears nothing");
}

#[test]
fn a_stack_that_is_deployed_again_keeps_what_was_scaled() {
    let mut cluster = cluster(3);
    let mut web = spec("web", 1, "");
    for (label, value) in [(MAX_LABEL, "5"), (CPU_LABEL, "50"), (STACK_LABEL, "app")] {
        web.labels.insert(label.to_owned(), value.to_owned());
    }
    let deploy = |web: skep_model::ServiceSpec| ControlRequest::DeployStack {
        spec: Box::new(StackSpec {
            name: "app".to_owned(),
            services: vec![web],
            ..StackSpec::default()
        }),
        prune: false,
        basis: None,
        wish: Default::default(),
    };
    cluster.ask(deploy(web.clone())).unwrap();
    cluster.converge();
    look(&mut cluster, &mut Scaling::default(), 1e9);
    assert_eq!(replicas(&cluster), 2);
    cluster.ask(deploy(web.clone())).unwrap();
    assert_eq!(replicas(&cluster), 2);
    web.labels.remove(MAX_LABEL);
    web.labels.remove(CPU_LABEL);
    cluster.ask(deploy(web)).unwrap();
    assert_eq!(replicas(&cluster), 1, "it is the file's again");
    assert_eq!(cluster.service("web").autoscale, None);
}

#[test]
fn what_makes_no_sense_is_refused_at_the_door() {
    let mut cluster = scaled(1);
    let request = cluster.change("web", |spec| {
        spec.labels.insert(MIN_LABEL.into(), "9".into());
    });
    let refused = cluster.refusal(request);
    assert_eq!(
        refused,
        "label skep.autoscale.min: 9 is more than skep.autoscale.max, 5"
    );
}
