//! Jobs with a schedule: when their runs begin, are skipped or missed, and what is known of them.

mod support;

use std::time::Duration;

use skep_model::schedule::{
    CATCH_UP_LABEL, CONCURRENCY_LABEL, Run, RunOutcome, SCHEDULE_LABEL, SUSPEND_LABEL,
};
use skep_model::why::Trouble;
use skep_model::{ControlRequest, NodeState, TaskState, Timestamp};
use skep_reconcile::Memory;
use support::{Cluster, cluster, spec};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const JOB: &str = r#"{"Mode":{"ReplicatedJob":{"MaxConcurrent":1,"TotalCompletions":1}}}"#;
const GLOBAL: &str = r#"{"Mode":{"GlobalJob":{}}}"#;

/// A cluster at twelve o'clock with the job `job` every ten minutes.
fn every_ten_minutes(mode: &str, labels: &[(&str, &str)]) -> Cluster {
    let mut cluster = cluster(2);
    cluster.now = Timestamp::parse("2026-11-29T12:00:00Z").unwrap();
    let mut spec = spec("job", 0, mode);
    let all = [(SCHEDULE_LABEL, "*/10 * * * *")];
    for (label, value) in all.iter().chain(labels) {
        spec.labels.insert((*label).to_owned(), (*value).to_owned());
    }
    cluster.create(spec);
    cluster.settle();
    cluster
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse(&format!("2026-11-29T{text}Z")).unwrap()
}

fn wait_until(cluster: &mut Cluster, text: &str) {
    cluster.now = at(text);
    cluster.settle();
}

fn runs(cluster: &Cluster) -> Vec<Run> {
    cluster.service("job").schedule.unwrap().runs
}

/// A line for each run, the newest first: `iteration scheduled outcome count`.
fn lines(cluster: &Cluster) -> Vec<String> {
    let line = |run: &Run| {
        let due = run
            .scheduled_at
            .map_or("by hand".to_owned(), |at| at.to_string()[11..16].to_owned());
        format!(
            "{} {due} {} x{}",
            run.iteration,
            run.outcome.as_str(),
            run.count
        )
    };
    runs(cluster).iter().map(line).collect()
}

fn end(cluster: &mut Cluster, state: TaskState) {
    cluster.obey();
    for task in cluster.live("job") {
        cluster.report(&task.id, state);
    }
    cluster.settle();
}

fn run_now(cluster: &Cluster) -> ControlRequest {
    ControlRequest::RunJob {
        id: cluster.service("job").id,
    }
}

#[test]
fn a_run_begins_at_its_time_in_the_commit_that_settles_it() {
    let mut cluster = every_ten_minutes(JOB, &[]);
    assert_eq!(cluster.tasks("job").len(), 0, "not when it is made");
    assert_eq!(cluster.service("job").next_run(), Some(at("12:10:00")));
    wait_until(&mut cluster, "12:09:59");
    assert_eq!(cluster.wake_at, Some(at("12:10:00")));
    assert_eq!(cluster.tasks("job").len(), 0);
    cluster.now = at("12:10:00");
    let step = cluster.step();
    let changes = step.commit.unwrap().changes.len();
    assert_eq!(changes, 2, "the service and the run's task");
    let service = cluster.service("job");
    let status = service.schedule.unwrap();
    assert_eq!(status.settled_until, at("12:10:00"));
    assert_eq!(service.job_status.unwrap().job_iteration.index, 1);
    assert_eq!(cluster.live("job").len(), 1);
    end(&mut cluster, TaskState::Complete);
    assert_eq!(lines(&cluster), ["1 12:10 complete x1"]);
    let run = &runs(&cluster)[0];
    assert_eq!((run.completed, run.failed), (1, 0));
    assert_eq!(cluster.wake_at, Some(at("12:11:00")), "to forget tasks");
    wait_until(&mut cluster, "12:20:00.5");
    assert_eq!(lines(&cluster)[0], "2 12:20 running x1");
}

#[test]
fn a_lost_commit_is_decided_again_and_a_new_leader_doubles_nothing() {
    let mut cluster = every_ten_minutes(JOB, &[]);
    cluster.now = at("12:10:01");
    assert!(cluster.decide().commit.is_some(), "and is lost");
    cluster.now = at("12:10:02");
    cluster.settle();
    assert_eq!(lines(&cluster), ["1 12:10 running x1"]);
    for _ in 0..3 {
        cluster.memory = Memory::new();
        cluster.wait(SECOND);
    }
    assert_eq!(lines(&cluster), ["1 12:10 running x1"]);
    assert_eq!(cluster.tasks("job").len(), 1);
}

#[test]
fn a_clock_that_goes_back_starts_nothing_twice() {
    let mut cluster = every_ten_minutes(JOB, &[]);
    wait_until(&mut cluster, "12:10:00");
    end(&mut cluster, TaskState::Complete);
    for moment in ["12:05:00", "12:09:59", "12:10:00", "12:11:00", "12:02:00"] {
        wait_until(&mut cluster, moment);
        assert_eq!(lines(&cluster), ["1 12:10 complete x1"], "{moment}");
    }
    wait_until(&mut cluster, "12:20:00");
    assert_eq!(lines(&cluster)[0], "2 12:20 running x1");
}

#[test]
fn a_clock_that_was_days_ahead_is_not_waited_for() {
    let mut cluster = every_ten_minutes(JOB, &[]);
    cluster.now = Timestamp::parse("2027-01-01T00:00:00Z").unwrap();
    cluster.settle();
    end(&mut cluster, TaskState::Complete);
    wait_until(&mut cluster, "12:15:00");
    assert_eq!(cluster.wake_at, Some(at("12:20:00")));
    wait_until(&mut cluster, "12:20:00");
    assert_eq!(lines(&cluster)[0], "2 12:20 running x1");
}

#[test]
fn what_nobody_could_start_is_made_up_for_once() {
    let mut cluster = every_ten_minutes(JOB, &[]);
    wait_until(&mut cluster, "15:07:00");
    assert_eq!(
        lines(&cluster),
        ["1 15:00 running x1", "0 15:00 missed x17"],
        "however late"
    );
    let mut cluster = every_ten_minutes(JOB, &[(CATCH_UP_LABEL, "5m")]);
    wait_until(&mut cluster, "15:07:00");
    assert_eq!(lines(&cluster), ["0 15:00 missed x18"], "too late");
    assert_eq!(cluster.tasks("job").len(), 0);
    wait_until(&mut cluster, "15:14:00");
    assert_eq!(lines(&cluster)[0], "1 15:10 running x1", "late enough");
}

#[test]
fn a_run_that_is_due_while_one_is_not_finished_is_skipped() {
    let mut cluster = every_ten_minutes(JOB, &[]);
    for moment in ["12:10:00", "12:20:00", "12:30:00", "12:35:00"] {
        wait_until(&mut cluster, moment);
    }
    assert_eq!(
        lines(&cluster),
        ["0 12:30 skipped x2", "1 12:10 running x1"]
    );
    assert_eq!(cluster.tasks("job").len(), 1, "the first goes on");
    end(&mut cluster, TaskState::Complete);
    assert_eq!(lines(&cluster)[1], "1 12:10 complete x1");
    wait_until(&mut cluster, "12:40:00");
    assert_eq!(lines(&cluster)[0], "2 12:40 running x1");
}

#[test]
fn a_run_that_ends_as_the_next_is_due_does_not_hold_it_up() {
    let mut cluster = every_ten_minutes(JOB, &[]);
    wait_until(&mut cluster, "12:10:00");
    cluster.obey();
    let task = cluster.live("job").remove(0);
    cluster.report(&task.id, TaskState::Complete);
    wait_until(&mut cluster, "12:20:00");
    assert_eq!(
        lines(&cluster),
        ["2 12:20 running x1", "1 12:10 complete x1"]
    );
}

#[test]
fn a_later_run_replaces_one_that_is_not_finished_once_it_has_stopped() {
    let mut cluster = every_ten_minutes(JOB, &[(CONCURRENCY_LABEL, "replace")]);
    wait_until(&mut cluster, "12:10:00");
    cluster.obey();
    wait_until(&mut cluster, "12:20:00");
    assert_eq!(
        lines(&cluster),
        ["2 12:20 running x1", "1 12:10 replaced x1"]
    );
    let told = |cluster: &Cluster| -> Vec<_> {
        let tasks = cluster.tasks("job").into_iter();
        tasks
            .map(|task| (task.job_iteration.unwrap().index, task.desired_state))
            .collect()
    };
    assert_eq!(
        told(&cluster),
        [(1, TaskState::Remove), (2, TaskState::Ready)]
    );
    let old = cluster.tasks("job").remove(0);
    cluster.report(&old.id, TaskState::Shutdown);
    cluster.settle();
    assert_eq!(told(&cluster), [(2, TaskState::Running)]);
    end(&mut cluster, TaskState::Complete);
    assert_eq!(lines(&cluster)[0], "2 12:20 complete x1");
}

#[test]
fn what_a_run_fails_by_is_counted_over_its_restarts() {
    let policy = r#"{"Mode":{"ReplicatedJob":{"MaxConcurrent":2,"TotalCompletions":2}},
        "TaskTemplate":{"RestartPolicy":{"Condition":"on-failure","MaxAttempts":2,"Delay":0}}}"#;
    let mut cluster = every_ten_minutes(policy, &[]);
    wait_until(&mut cluster, "12:10:00");
    for _ in 0..10 {
        cluster.obey();
        for task in cluster.live("job") {
            let state = match task.slot {
                1 => TaskState::Complete,
                _ => TaskState::Failed,
            };
            cluster.report(&task.id, state);
        }
        cluster.wait(SECOND);
    }
    assert_eq!(lines(&cluster), ["1 12:10 failed x1"]);
    let run = &runs(&cluster)[0];
    assert_eq!((run.completed, run.failed), (1, 3));
    assert!(run.finished_at.is_some());
    let why = skep_reconcile::why::why(&cluster.view(), Some("job"), None, cluster.now).unwrap();
    assert!(
        why.summary.ends_with("; runs next at 2026-11-29T12:20:00Z"),
        "{}",
        why.summary
    );
    let cause = why
        .causes
        .iter()
        .find(|one| one.trouble == Trouble::RunFailed);
    assert_eq!(
        cause.unwrap().message,
        "run 1 failed: 3 of its tasks failed, 1 completed"
    );
    wait_until(&mut cluster, "12:20:00");
    assert_eq!(
        lines(&cluster)[0],
        "2 12:20 running x1",
        "and is tried again"
    );
}

#[test]
fn a_global_job_runs_on_each_node_and_not_on_those_that_come_later() {
    let none = r#"{"Mode":{"GlobalJob":{}},"TaskTemplate":{"RestartPolicy":{"Condition":"none"}}}"#;
    let mut cluster = every_ten_minutes(none, &[]);
    assert_eq!(cluster.tasks("job").len(), 0);
    wait_until(&mut cluster, "12:10:00");
    assert_eq!(cluster.live("job").len(), 2);
    end(&mut cluster, TaskState::Complete);
    assert_eq!(lines(&cluster), ["1 12:10 complete x1"]);
    assert_eq!(runs(&cluster)[0].completed, 2);
    cluster.join("n2", false);
    cluster.settle();
    assert_eq!(cluster.live("job").len(), 0, "the run is over");
    wait_until(&mut cluster, "12:20:00");
    assert_eq!(cluster.live("job").len(), 3);
    cluster.obey();
    for (task, state) in cluster.live("job").iter().zip([
        TaskState::Complete,
        TaskState::Failed,
        TaskState::Complete,
    ]) {
        cluster.report(&task.id, state);
    }
    cluster.settle();
    assert_eq!(lines(&cluster)[0], "2 12:20 failed x1");
    let run = &runs(&cluster)[0];
    assert_eq!((run.completed, run.failed), (2, 1));
}

#[test]
fn a_run_of_a_global_job_waits_for_the_first_node() {
    let mut cluster = every_ten_minutes(GLOBAL, &[]);
    for node in ["n0", "n1"] {
        cluster.heard(node, NodeState::Down);
    }
    wait_until(&mut cluster, "12:10:00");
    assert_eq!(lines(&cluster), ["1 12:10 running x1"]);
    cluster.heard("n1", NodeState::Ready);
    cluster.settle();
    assert_eq!(cluster.live("job").len(), 1);
    end(&mut cluster, TaskState::Complete);
    assert_eq!(lines(&cluster), ["1 12:10 complete x1"]);
}

#[test]
fn suspended_jobs_start_nothing_and_make_nothing_up() {
    let mut cluster = every_ten_minutes(JOB, &[]);
    cluster.update("job", |spec| {
        spec.labels.insert(SUSPEND_LABEL.into(), "true".into());
    });
    wait_until(&mut cluster, "14:05:00");
    assert!(lines(&cluster).is_empty());
    assert_eq!(cluster.service("job").next_run(), None);
    cluster.update("job", |spec| {
        spec.labels.remove(SUSPEND_LABEL);
    });
    cluster.settle();
    assert!(lines(&cluster).is_empty());
    assert_eq!(cluster.service("job").next_run(), Some(at("14:10:00")));
    wait_until(&mut cluster, "14:10:00");
    assert_eq!(lines(&cluster), ["1 14:10 running x1"]);
}

#[test]
fn updates_change_runs_to_come_and_disturb_none() {
    let mut cluster = every_ten_minutes(JOB, &[]);
    wait_until(&mut cluster, "12:10:00");
    cluster.obey();
    cluster.set_image("job", "img:2");
    cluster.settle();
    assert_eq!(lines(&cluster), ["1 12:10 running x1"]);
    assert_eq!(cluster.live("job").len(), 1);
    end(&mut cluster, TaskState::Complete);
    cluster.set_image("job", "img:3");
    wait_until(&mut cluster, "12:19:00");
    assert_eq!(cluster.live("job").len(), 0);
    cluster.update("job", |spec| {
        spec.labels
            .insert(SCHEDULE_LABEL.into(), "15 * * * *".into());
    });
    wait_until(&mut cluster, "13:14:00");
    assert_eq!(
        lines(&cluster),
        ["1 12:10 complete x1"],
        "counted from then"
    );
    wait_until(&mut cluster, "13:15:00");
    assert_eq!(lines(&cluster)[0], "2 13:15 running x1");
    assert_eq!(cluster.live("job")[0].spec.image(), "img:3");
    let rollback = cluster.rollback("job");
    cluster.ask(rollback).unwrap();
    assert_eq!(lines(&cluster)[0], "2 13:15 running x1");
}

#[test]
fn a_run_can_be_asked_for_unless_one_may_not_be_disturbed() {
    let mut cluster = every_ten_minutes(JOB, &[]);
    cluster.ask(run_now(&cluster)).unwrap();
    cluster.settle();
    assert_eq!(lines(&cluster), ["1 by hand running x0"]);
    assert_eq!(cluster.live("job").len(), 1);
    let busy = run_now(&cluster);
    assert!(
        cluster
            .refusal(busy)
            .contains("run 1 of service job is not finished"),
    );
    let force = cluster.change("job", |spec| spec.task_template.force_update += 1);
    assert!(cluster.refusal(force).contains("is not finished"));
    end(&mut cluster, TaskState::Complete);
    cluster.update("job", |spec| spec.task_template.force_update += 1);
    cluster.settle();
    assert_eq!(lines(&cluster)[0], "2 by hand running x0");
    cluster.update("job", |spec| {
        spec.labels
            .insert(CONCURRENCY_LABEL.into(), "replace".into());
    });
    cluster.ask(run_now(&cluster)).unwrap();
    assert_eq!(
        lines(&cluster)[..2],
        ["3 by hand running x0", "2 by hand replaced x0"]
    );
    let mut web = spec("web", 1, "");
    web.name = "web".to_owned();
    cluster.create(web);
    let id = cluster.service("web").id;
    let refused = cluster.refusal(ControlRequest::RunJob { id });
    assert!(refused.contains("service web is not a job"), "{refused}");
}

#[test]
fn a_job_without_a_schedule_is_run_again_when_it_is_asked_for() {
    let mut cluster = cluster(1);
    cluster.create(spec("job", 0, JOB));
    cluster.settle();
    end(&mut cluster, TaskState::Complete);
    cluster.ask(run_now(&cluster)).unwrap();
    cluster.settle();
    assert_eq!(cluster.live("job").len(), 1);
    let status = cluster.service("job").job_status.unwrap();
    assert_eq!(status.job_iteration.index, 1);
    assert!(cluster.service("job").schedule.is_none());
}

#[test]
fn schedules_come_and_go_without_a_run() {
    let mut cluster = cluster(2);
    cluster.now = at("12:00:00");
    cluster.create(spec("job", 0, GLOBAL));
    cluster.settle();
    end(&mut cluster, TaskState::Complete);
    cluster.update("job", |spec| {
        spec.labels.insert(SCHEDULE_LABEL.into(), "@hourly".into());
    });
    cluster.settle();
    assert_eq!(cluster.live("job").len(), 0);
    wait_until(&mut cluster, "13:00:00");
    assert_eq!(lines(&cluster), ["1 13:00 running x1"]);
    end(&mut cluster, TaskState::Complete);
    cluster.update("job", |spec| {
        spec.labels.remove(SCHEDULE_LABEL);
    });
    wait_until(&mut cluster, "20:00:00");
    assert!(cluster.service("job").schedule.is_none());
    assert_eq!(cluster.live("job").len(), 0);
    cluster.update("job", |spec| spec.task_template.force_update += 1);
    cluster.settle();
    assert_eq!(cluster.live("job").len(), 2);
}

#[test]
fn the_past_is_bounded_and_the_run_under_way_stays_in_it() {
    let mut cluster = every_ten_minutes(JOB, &[(CATCH_UP_LABEL, "10s")]);
    cluster.ask(run_now(&cluster)).unwrap();
    cluster.settle();
    // Skipped and missed by turns, so that they are not one.
    for at_second in 0..60 {
        let late = match at_second % 2 {
            0 => Duration::ZERO,
            _ => 5 * MINUTE,
        };
        cluster.now = at("12:10:00").plus(at_second * 10 * MINUTE).plus(late);
        cluster.settle();
    }
    let runs = runs(&cluster);
    assert_eq!(runs.len(), skep_model::schedule::RUNS_KEPT_MAX);
    assert_eq!(runs.last().unwrap().outcome, RunOutcome::Running);
    end(&mut cluster, TaskState::Complete);
    assert_eq!(
        cluster
            .service("job")
            .schedule
            .unwrap()
            .last_started()
            .unwrap()
            .iteration,
        1
    );
}

#[test]
fn what_makes_no_sense_is_refused_at_the_door() {
    let mut cluster = every_ten_minutes(JOB, &[]);
    let request = cluster.change("job", |spec| {
        spec.labels.insert(SCHEDULE_LABEL.into(), "* * * *".into());
    });
    let refused = cluster.refusal(request);
    assert!(
        refused.starts_with("label skep.schedule: `* * * *` has 4 fields"),
        "{refused}"
    );
    let mut web = spec("web", 1, "");
    web.labels.insert(SCHEDULE_LABEL.into(), "@daily".into());
    let refused = cluster.refusal(ControlRequest::CreateService {
        spec: Box::new(web),
    });
    assert!(refused.contains("only jobs run by a schedule"), "{refused}");
}

#[test]
fn runs_that_are_allowed_to_go_on_beside_one_another_each_come_to_their_own_end() {
    let two = r#"{"Mode":{"ReplicatedJob":{"MaxConcurrent":1,"TotalCompletions":2}},
        "TaskTemplate":{"RestartPolicy":{"Condition":"on-failure","MaxAttempts":1,"Delay":0}}}"#;
    let mut cluster = every_ten_minutes(two, &[(CONCURRENCY_LABEL, "allow")]);
    for moment in ["12:10:00", "12:20:00"] {
        wait_until(&mut cluster, moment);
        cluster.obey();
    }
    let running = ["2 12:20 running x1", "1 12:10 running x1"];
    assert_eq!(lines(&cluster), running);
    let end = |cluster: &mut Cluster, iteration: u64, state: TaskState| {
        for task in cluster.live("job") {
            if task.job_iteration.unwrap().index == iteration {
                cluster.report(&task.id, state);
            }
        }
        cluster.settle();
        cluster.obey();
    };
    // The first one has a second completion to make, and a failure to make up for.
    end(&mut cluster, 1, TaskState::Complete);
    end(&mut cluster, 1, TaskState::Failed);
    assert_eq!(lines(&cluster), running);
    cluster.memory = Memory::new();
    cluster.settle();
    end(&mut cluster, 2, TaskState::Complete);
    end(&mut cluster, 1, TaskState::Complete);
    assert_eq!(
        lines(&cluster),
        ["2 12:20 running x1", "1 12:10 complete x1"]
    );
    let first = runs(&cluster).remove(1);
    assert_eq!((first.completed, first.failed), (2, 1));
    // Both of the second fail.
    end(&mut cluster, 2, TaskState::Failed);
    end(&mut cluster, 2, TaskState::Failed);
    assert_eq!(lines(&cluster)[0], "2 12:20 failed x1");
    assert_eq!(cluster.live("job").len(), 0);
    wait_until(&mut cluster, "12:30:00");
    assert_eq!(lines(&cluster)[0], "3 12:30 running x1");
}

#[test]
fn no_more_than_ten_runs_go_on_at_once() {
    let mut cluster = every_ten_minutes(GLOBAL, &[(CONCURRENCY_LABEL, "allow")]);
    for at_minute in 1..=12 {
        cluster.now = at("12:00:00").plus(at_minute * 10 * MINUTE);
        cluster.settle();
        cluster.obey();
    }
    assert_eq!(
        lines(&cluster)[..2],
        ["0 14:00 skipped x2", "10 13:40 running x1"]
    );
    assert_eq!(cluster.live("job").len(), 20, "on two nodes");
    let refused = run_now(&cluster);
    assert!(
        cluster
            .refusal(refused)
            .starts_with("10 runs of service job")
    );
    // Who forbids it then lets all of them end.
    cluster.update("job", |spec| {
        spec.labels
            .insert(CONCURRENCY_LABEL.into(), "forbid".into());
    });
    wait_until(&mut cluster, "14:10:00");
    assert_eq!(cluster.live("job").len(), 20);
    cluster.update("job", |spec| {
        spec.labels
            .insert(CONCURRENCY_LABEL.into(), "replace".into());
    });
    wait_until(&mut cluster, "14:20:00");
    let replaced = runs(&cluster)
        .iter()
        .filter(|run| run.outcome == RunOutcome::Replaced)
        .count();
    assert_eq!(replaced, 10);
    cluster.converge();
    assert_eq!(cluster.live("job").len(), 2);
}
