//! What Swarm promises of services, jobs and nodes, and what we promise beside it, on a real cluster.

#[path = "promises/changes.rs"]
mod changes;
#[path = "promises/objects.rs"]
mod objects;
#[path = "promises/places.rs"]
mod places;
#[path = "promises/slots.rs"]
mod slots;

use std::collections::BTreeSet;

use skep_e2e::tasks::Task;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, image, needs, secs};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// For services of images that no registry has.
const CREATE: &str = "service create --detach --no-resolve-image --stop-signal KILL";
const UPDATE: &str = "service update --detach --no-resolve-image";
/// All tasks at once, watched for a short time.
const QUICKLY: &str = "--update-parallelism 0 --update-monitor 500ms --rollback-parallelism 0 --rollback-monitor 500ms";

#[test]
fn services_and_nodes_keep_their_promises() {
    let Some(busybox) = needs::busybox() else {
        return;
    };
    let Some(cluster) = Cluster::up(3, 1) else {
        return;
    };
    let c = &cluster;
    let archive = image::archive("busy:1", &image::root_file_system(&busybox));
    for node in NODES {
        c.skep_given(node, "load", &archive).ok();
        c.wait_ready("n1", node, secs(10));
    }
    let mut checks = Checks::new();
    let mut check = |sentence: &str, check: fn(&Cluster)| checks.check(sentence, || check(c));
    check(
        "a slot outlives its tasks, and new ones take the lowest free numbers",
        slots::slots,
    );
    check(
        "nothing but a change of what tasks are restarts them",
        slots::what_restarts,
    );
    check(
        "a task that keeps failing leaves a bounded history, and gives up when told to",
        slots::history,
    );
    check(
        "a task that becomes unhealthy is stopped and replaced",
        slots::unhealthy,
    );
    check(
        "a task without a node says why, and runs once it can",
        places::pending,
    );
    check(
        "a preference spreads over the values of a label, and takes nobody away",
        places::spread,
    );
    check(
        "a label that goes takes the tasks that need it away",
        places::labels,
    );
    check(
        "a global service follows pauses, drains and returns",
        places::global,
    );
    check(
        "a name or a port of the past is free again, and one that is held is not",
        objects::ports,
    );
    check(
        "payloads stay as they are, rotate by name, and templates are expanded per task",
        objects::payloads,
    );
    check(
        "a job runs again only when it has something else to do",
        slots::jobs,
    );
    check(
        "what a node offers beside processors is given out and named",
        places::generic,
    );
    check(
        "a start-first update stops first what is in its own way, and says so",
        changes::start_first,
    );
    check(
        "a rollback is not spoiled by scaling in between, and any revision can be gone back to",
        changes::revisions,
    );
    check(
        "an update that went back by itself ends with a status that is not 0",
        changes::rolled_back,
    );
    check(
        "what an update would do is told, with reasons, and not done",
        changes::dry_run,
    );
    check(
        "a drain is waited for until its tasks run elsewhere",
        places::drain,
    );
    check(
        "a service is spread anew when it is asked for, by as few moves as it takes",
        places::rebalance,
    );
    check(
        "a node that is removed by force ends its tasks",
        places::removed,
    );
    checks.end();
}

fn slots_of(tasks: &[Task]) -> BTreeSet<u64> {
    tasks.iter().map(|task| task.slot).collect()
}

fn ids(tasks: &[Task]) -> BTreeSet<String> {
    tasks.iter().map(|task| task.id.clone()).collect()
}

fn state_of_update(c: &Cluster, service: &str) -> String {
    let found = c.get("n1", &format!("/services/{service}"));
    let state = found["UpdateStatus"]["State"].as_str();
    state.unwrap_or_default().to_owned()
}

/// Waits until the control loop has seen everything that was asked for before: it looks at changes in
/// their order, and a service that is made now has a task once it has.
fn wait_looked_at(c: &Cluster) {
    c.skep("n1", &format!("{CREATE} --name marker busy:1 sleep 1000"))
        .ok();
    c.wait_running("n1", "marker", 1, secs(30));
    c.remove_service("n1", "marker");
}

fn wait_update(c: &Cluster, service: &str, state: &str) {
    eventually(
        &format!("the update of {service} is {state}"),
        secs(60),
        || {
            let now = state_of_update(c, service);
            holds(now == state, now)
        },
    );
}
