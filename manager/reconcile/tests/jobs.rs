//! Jobs: how often they run, when they run again, what is kept of them.

mod support;

use std::time::Duration;

use skep_model::{ServiceMode, TaskState};
use support::{Cluster, cluster, spec};

const SECOND: Duration = Duration::from_secs(1);

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
fn a_job_is_stored_with_the_counts_that_it_has() {
    let mut cluster = cluster(1);
    cluster.create(spec("job", 0, r#"{"Mode":{"ReplicatedJob":{}}}"#));
    let counts = |cluster: &Cluster| match cluster.service("job").spec.mode {
        ServiceMode::ReplicatedJob(job) => (job.max_concurrent, job.total_completions),
        other => panic!("{other:?}"),
    };
    assert_eq!(counts(&cluster), (Some(1), Some(1)));
    cluster.update("job", |spec| {
        spec.mode = ServiceMode::ReplicatedJob(Default::default());
    });
    let status = cluster.service("job").job_status.unwrap();
    assert_eq!(status.job_iteration.index, 0, "it is the same");
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
