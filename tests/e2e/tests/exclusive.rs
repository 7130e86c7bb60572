//! Services whose tasks must not go on without managers, and whose slots never run twice: whether it is
//! the node that is cut off, its daemon that is dead, or the managers that are gone.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use skep_e2e::cluster::is_alive;
use skep_e2e::tasks::shown;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, image, needs, secs};

const CREATE: &str = "service create --detach --no-resolve-image --name db \
    --label skep.exclusive=true --label skep.on-disconnect.stop-after=6s --stop-grace-period 1s \
    --restart-delay 0s --constraint node.role==worker busy:1 sleep 1000";
/// How long a node may be silent, and for how long its task may then take to end.
const STOPPED_WITHIN: Duration = Duration::from_secs(6 + 1 + 2);

#[test]
fn a_slot_never_runs_twice_and_nothing_outlasts_its_managers() {
    let Some(busybox) = needs::busybox() else {
        return;
    };
    let Some(cluster) = Cluster::up(3, 1) else {
        return;
    };
    let c = &cluster;
    let archive = image::archive("busy:1", &image::root_file_system(&busybox));
    for node in ["n1", "n2", "n3"] {
        c.skep_given(node, "load", &archive).ok();
        c.wait_ready("n1", node, secs(10));
    }
    let service = CREATE.split_whitespace().collect::<Vec<_>>().join(" ");
    c.skep("n1", &service).ok();
    c.wait_running("n1", "db", 1, secs(20));
    let mut checks = Checks::new();
    let mut check = |sentence: &str, check: fn(&Cluster)| checks.check(sentence, || check(c));
    check("a daemon that is soon back leaves it alone", short);
    check(
        "a node that is cut off stops it before it runs elsewhere",
        cut_off,
    );
    check("a dead daemon's container is stopped by itself", dead);
    check(
        "without managers it stops, and comes back with them",
        managers,
    );
    check("an update stops the old one first", update);
    check("what cannot be kept is refused", mistakes);
    checks.end();
}

/// The node that runs it, and the process.
fn place(c: &Cluster) -> (String, u32) {
    let tasks = c.wait_running("n1", "db", 1, secs(40));
    let pids = c.pids("n1", "db");
    (tasks[0].node.clone(), pids[&tasks[0].id])
}

/// Watches until it runs elsewhere: never while the first process lives.
fn moves_from(c: &Cluster, node: &str, pid: u32) {
    let began = Instant::now();
    let mut stopped: Option<Duration> = None;
    loop {
        // In this order: what lives now was alive when the others were asked.
        let elsewhere = c.running("n1", "db").iter().any(|task| task.node != node);
        let lives = is_alive(pid);
        assert!(!(elsewhere && lives), "it runs twice");
        if !lives {
            stopped.get_or_insert(began.elapsed());
        }
        if elsewhere {
            break;
        }
        assert!(began.elapsed() < secs(90), "it runs nowhere else");
        sleep(Duration::from_millis(50));
    }
    let stopped = stopped.expect("it has stopped");
    assert!(
        stopped < STOPPED_WITHIN + secs(3),
        "stopped after {stopped:?}"
    );
}

fn short(c: &Cluster) {
    let (node, pid) = place(c);
    c.kill(&node);
    sleep(secs(1));
    c.start(&node);
    let until = Instant::now() + secs(12);
    while Instant::now() < until {
        assert!(
            is_alive(pid),
            "it has lost nothing but its daemon for a moment"
        );
        sleep(Duration::from_millis(200));
    }
    assert_eq!(place(c), (node, pid));
}

fn cut_off(c: &Cluster) {
    let (node, pid) = place(c);
    let cut = c.cut(&node);
    moves_from(c, &node, pid);
    drop(cut);
    c.wait_ready("n1", &node, secs(20));
    sleep(secs(2));
    let nodes: BTreeSet<String> = c
        .running("n1", "db")
        .into_iter()
        .map(|task| task.node)
        .collect();
    assert!(nodes.len() == 1 && !nodes.contains(&node), "{nodes:?}");
}

fn dead(c: &Cluster) {
    let (node, pid) = place(c);
    c.kill(&node);
    moves_from(c, &node, pid);
    c.start(&node);
    c.wait_ready("n1", &node, secs(20));
}

fn managers(c: &Cluster) {
    let (_, pid) = place(c);
    c.kill("n1");
    eventually("it has stopped", STOPPED_WITHIN + secs(5), || {
        holds(!is_alive(pid), "it goes on")
    });
    c.start("n1");
    eventually("it runs again", secs(40), || {
        let tasks = c.try_tasks("n1", "db")?;
        let again = tasks.iter().filter(|task| task.is_running());
        let pids: Vec<u32> = again
            .filter_map(|task| c.container_pid(&task.node, &task.container))
            .collect();
        holds(pids.len() == 1 && pids[0] != pid, shown(&tasks))
    });
    let stopped = c.tasks("n1", "db").into_iter();
    let told = "stopped: its node heard of no manager for too long";
    assert!(stopped.into_iter().any(|task| task.error == told));
}

fn update(c: &Cluster) {
    let (_, pid) = place(c);
    c.skep(
        "n1",
        "service update --detach --no-resolve-image --env-add A=b db",
    )
    .ok();
    let began = Instant::now();
    loop {
        let others = c
            .pids("n1", "db")
            .into_values()
            .filter(|other| *other != pid);
        let other = others.into_iter().find(|other| is_alive(*other));
        let lives = is_alive(pid);
        assert!(!(other.is_some() && lives), "it runs twice");
        if other.is_some() {
            return;
        }
        assert!(began.elapsed() < secs(40), "it is not replaced");
        sleep(Duration::from_millis(20));
    }
}

fn mistakes(c: &Cluster) {
    let update = |flags: &str| c.skep("n1", &format!("service update --detach {flags} db"));
    update("--label-add skep.on-disconnect.stop-after=1s")
        .fails("label skep.on-disconnect.stop-after: `1s` is not a length of time from 5s to 24h");
    update("--label-add skep.exclusive=yes")
        .fails("label skep.exclusive: `yes` is not true or false");
    update("--update-order start-first").fails("goes with --update-order stop-first only");
}
