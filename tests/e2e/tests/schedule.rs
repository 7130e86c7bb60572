//! Jobs with schedules on a real cluster: a run for each minute, whoever leads or none, and what users
//! are told. A schedule counts minutes, so this takes some.

use serde_json::Value;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, image, needs, secs};
use skep_model::Timestamp;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const CREATE: &str = "service create --no-resolve-image --stop-signal KILL";
const UPDATE: &str = "service update --no-resolve-image";

#[test]
fn jobs_run_by_their_schedules() {
    let Some(busybox) = needs::busybox() else {
        return;
    };
    let Some(cluster) = Cluster::up(3, 3) else {
        return;
    };
    let c = &cluster;
    let archive = image::archive("busy:1", &image::root_file_system(&busybox));
    for node in NODES {
        c.skep_given(node, "load", &archive).ok();
        c.wait_ready("n1", node, secs(10));
    }
    let mut checks = Checks::new();
    checks.check("what makes no sense is refused by name", || mistakes(c));
    checks.check("a run is asked for, and what came of it is told", || {
        by_hand(c);
    });
    checks.check(
        "a run begins each minute, over the death of the leader and of all managers",
        || minutes(c),
    );
    checks.end();
}

fn mistakes(c: &Cluster) {
    let refused = |line: &str, why: &str| {
        c.skep("n1", &format!("{CREATE} {line} busy:1 true"))
            .fails(why);
    };
    let job = "--name wrong --mode replicated-job";
    refused(
        &format!("{job} --schedule '* 24 * * *'"),
        r#"invalid argument "* 24 * * *" for "--schedule" flag: hour `24` is none"#,
    );
    refused(
        &format!("{job} --schedule @daily --schedule-time-zone Berlin"),
        r#"for "--schedule-time-zone" flag: `Berlin` is not a time zone"#,
    );
    refused(
        &format!("{job} --schedule @daily --schedule-concurrency both"),
        "`both` is not one of allow, forbid, replace",
    );
    refused(
        &format!("{job} --schedule @daily --schedule-catch-up 1s"),
        "is not a length of time of at least 10s",
    );
    refused(
        "--name wrong --schedule @daily",
        "only jobs run by a schedule",
    );
    // By labels, as other clients and compose files say it.
    refused(
        &format!("{job} --label 'skep.schedule=0 0 30 2 *'"),
        "label skep.schedule: `0 0 30 2 *` never comes",
    );
    let files = "--label skep.schedule=@daily --label skep.schedule.zone=UTC";
    refused(
        &format!("{job} {files}"),
        "label skep.schedule.zone: there are",
    );
    c.skep("n1", "service inspect wrong")
        .fails("no such service");
}

fn runs(c: &Cluster, node: &str, job: &str) -> Result<Vec<Value>, String> {
    let told = c.try_api(node, "GET", &format!("/skep/v1/services/{job}/runs"), None)?;
    Ok(told["Runs"].as_array().cloned().unwrap_or_default())
}

fn wait_outcome(c: &Cluster, job: &str, iteration: u64, outcome: &str) -> Value {
    eventually(
        &format!("run {iteration} of {job} is {outcome}"),
        secs(40),
        || {
            let runs = runs(c, "n1", job)?;
            let mut found = runs.iter().filter(|run| run["Iteration"] == iteration);
            let run = found.find(|run| run["Outcome"] == outcome).cloned();
            run.ok_or_else(|| format!("{runs:?}"))
        },
    )
}

fn by_hand(c: &Cluster) {
    // A client that waits is told that nothing is started.
    let line =
        format!("{CREATE} --mode replicated-job --name year --schedule @yearly busy:1 sleep 1");
    let made = c.skep("n1", &line).ok();
    assert!(made.contains("the next run is at"), "{made}");
    assert!(
        c.try_tasks("n1", "year")
            .expect("they are listed")
            .is_empty()
    );
    let ran = c.skep("n1", "service run year").ok();
    assert!(ran.ends_with("run 1 complete\n"), "{ran}");
    assert_eq!(wait_outcome(c, "year", 1, "complete")["Completed"], 1);

    c.skep("n1", &format!("{UPDATE} --args 'sleep 1000' year"))
        .ok();
    c.skep("n1", "service run -d year").ok();
    c.skep("n1", "service run year")
        .fails("run 2 of service year is not finished");
    c.skep(
        "n1",
        &format!("{UPDATE} --detach --schedule-concurrency replace year"),
    )
    .ok();
    eventually("run 2 runs", secs(30), || {
        let tasks = c.try_tasks("n1", "year")?;
        let runs = tasks.iter().any(|task| task.state == "running");
        holds(runs, tasks.len())
    });
    c.skep(
        "n1",
        &format!("{UPDATE} --detach --restart-condition none --args false year"),
    )
    .ok();
    c.skep("n1", "service run year")
        .fails("run 3 failed: 1 of its tasks failed, 0 completed");
    wait_outcome(c, "year", 2, "replaced");

    told(c);

    c.skep("n1", &format!("{UPDATE} --schedule-suspend year"))
        .ok();
    let listed = c.skep("n1", "service ls --filter name=year --format {{.Replicas}}");
    assert_eq!(listed.ok(), "0/1 (0/1 completed), suspended\n");
    c.skep("n1", &format!("{UPDATE} --schedule-suspend=false year"))
        .ok();
    let listed = c
        .skep("n1", "service ls --filter name=year --format {{.Replicas}}")
        .ok();
    assert!(listed.contains("), next in "), "{listed}");
    c.skep("n1", &format!("{UPDATE} --detach --schedule '' year"))
        .ok();
    c.skep("n1", "service runs year").fails("has no schedule");
    c.remove_service("n1", "year");
}

/// What is told of three runs: complete, replaced, failed.
fn told(c: &Cluster) {
    let table = c.skep("n1", "service runs year").ok();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("RUN"), "{table}");
    let outcomes: Vec<&str> = lines[1..]
        .iter()
        .filter_map(|line| {
            ["failed", "replaced", "complete"]
                .into_iter()
                .find(|word| line.contains(word))
        })
        .collect();
    assert_eq!(outcomes, ["failed", "replaced", "complete"], "{table}");
    assert_eq!(c.skep("n1", "service runs -q year").ok(), "3\n2\n1\n");
    let why = c.skep("n1", "why year").ok();
    assert!(why.contains("; runs next at "), "{why}");
    assert!(why.contains("run 3 failed: 1 of its tasks failed"), "{why}");
    let pretty = c.skep("n1", "service inspect --pretty year").ok();
    for part in ["Schedule:", "@yearly", "Concurrency:\treplace", "Next Run:"] {
        assert!(pretty.contains(part), "{part}: {pretty}");
    }
}

/// Minutes since the epoch for which a run was started, the oldest first.
fn started(runs: &[Value]) -> Vec<i64> {
    let started = runs
        .iter()
        .filter(|run| run["Iteration"].as_u64() > Some(0));
    let moments = started.map(|run| {
        let moment = run["ScheduledAt"].as_str().expect("it was not asked for");
        let seconds = Timestamp::parse(moment).expect("a time").0 / 1_000_000_000;
        assert_eq!(seconds % 60, 0, "{moment}");
        seconds / 60
    });
    let mut moments: Vec<i64> = moments.collect();
    moments.reverse();
    moments
}

fn minutes(c: &Cluster) {
    let job = "--detach --mode replicated-job --schedule '* * * * *'";
    let quick = format!("{CREATE} {job} --name tick busy:1 true");
    c.skep("n1", &quick).ok();
    c.skep(
        "n1",
        &format!("{CREATE} {job} --name long busy:1 sleep 1000"),
    )
    .ok();
    let beside = format!("{CREATE} {job} --schedule-concurrency allow --name both busy:1");
    c.skep("n1", &format!("{beside} sleep 1000")).ok();
    let wait_started = |node: &str, count: usize| -> Vec<Value> {
        eventually(&format!("{count} runs have begun"), secs(100), || {
            let runs = runs(c, node, "tick")?;
            holds(started(&runs).len() >= count, format!("{runs:?}")).map(|()| runs)
        })
    };
    wait_started("n1", 1);
    let leader = c.leader("n1").expect("somebody leads");
    let other = NODES.into_iter().find(|node| *node != leader);
    let other = other.expect("there are three");
    c.kill(&leader);
    wait_started(other, 2);
    c.start(&leader);
    let long = runs(c, other, "long").expect("they are told");
    assert_eq!(long[0]["Outcome"], "skipped", "{long:?}");
    assert_eq!(long[1]["Outcome"], "running", "{long:?}");
    eventually("both runs have a task that runs", secs(30), || {
        let tasks = c.try_tasks(other, "both")?;
        let running = tasks.iter().filter(|task| task.state == "running").count();
        holds(running == 2, tasks.len())
    });
    for node in NODES {
        c.wait_ready(other, node, secs(20));
    }
    for node in NODES {
        c.kill(node);
    }
    // While a minute begins nobody is there.
    let minute = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.expect("after 1970").as_secs() / 60
    };
    let before = minute();
    eventually("a minute begins", secs(70), || {
        holds(minute() > before, before)
    });
    for node in NODES {
        c.start(node);
    }
    let runs = wait_started("n1", 3);
    let minutes = started(&runs);
    let missed = runs.iter().filter(|run| run["Outcome"] == "missed");
    let missed: u64 = missed.filter_map(|run| run["Count"].as_u64()).sum();
    let span = minutes.last().expect("three runs") - minutes[0] + 1;
    assert_eq!(
        minutes.len() as u64 + missed,
        span.unsigned_abs(),
        "{runs:?}"
    );
    let mut once = minutes.clone();
    once.dedup();
    assert_eq!(once, minutes, "{runs:?}");
    c.skep("n1", "service rm tick long both").ok();
}
