//! Updates that wait, are paused or went back, and tasks that take their time to stop.

use skep_e2e::{Checks, Cluster, secs};

use crate::{CREATE, UPDATE, named};

/// Watched for a short time.
const QUICKLY: &str =
    "--update-monitor 300ms --rollback-monitor 300ms --restart-delay 1h --stop-grace-period 1s";
/// A command that ends at once, with status 1.
const FAILS: &str = "false";

pub fn all(c: &Cluster, checks: &mut Checks) {
    checks.check("an update that was paused", || paused(c));
    checks.check("an update that went back", || rolled_back(c));
    checks.check("a rollback that failed", || rollback_paused(c));
    checks.check("an update that takes its time", || updating(c));
    checks.check("a task that waits for its predecessor, which stops", || {
        stopping(c);
    });
}

fn create(c: &Cluster, flags: &str) {
    c.skep("n1", "service rm it");
    c.skep(
        "n1",
        &format!("{CREATE} it {QUICKLY} {flags} busy:1 sleep 1000"),
    )
    .ok();
    c.wait_running("n1", "it", 1, secs(10));
}

fn update(c: &Cluster, what: &str) {
    c.skep("n1", &format!("{UPDATE} {what} it")).ok();
}

fn paused(c: &Cluster) {
    create(c, "--update-failure-action pause");
    update(c, &format!("--args {FAILS}"));
    named(
        c,
        "n1",
        "it",
        "update-paused",
        "update paused due to failure",
    );
    named(
        c,
        "n1",
        "it.1",
        "update-paused",
        "update paused due to failure",
    );
    named(c, "n1", "it", "exit", "task: non-zero exit (1)");
    c.remove_service("n1", "it");
}

fn rolled_back(c: &Cluster) {
    create(c, "--update-failure-action rollback");
    update(c, &format!("--args {FAILS}"));
    let text = "went back to its previous spec: it.1 failed: task: non-zero exit (1)";
    named(c, "n1", "it", "rolled-back", text);
    c.remove_service("n1", "it");
}

/// Both specs fail.
fn rollback_paused(c: &Cluster) {
    c.skep("n1", "service rm it");
    c.skep(
        "n1",
        &format!("{CREATE} it {QUICKLY} --update-failure-action pause busy:1 {FAILS}"),
    )
    .ok();
    named(c, "n1", "it", "exit", "task: non-zero exit (1)");
    update(c, "--args 'sh /nosuch'");
    named(c, "n1", "it", "update-paused", "update paused");
    c.skep("n1", "service rollback --detach it").ok();
    named(c, "n1", "it", "rollback-paused", "rollback paused");
    c.remove_service("n1", "it");
}

fn updating(c: &Cluster) {
    create(c, "--replicas 1 --update-delay 1h");
    c.skep("n1", "service scale --detach it=2").ok();
    c.wait_running("n1", "it", 2, secs(10));
    update(c, "--env-add NEW=1");
    named(c, "n1", "it", "updating", "update in progress");
    c.remove_service("n1", "it");
}

/// A shell that is the first process of its container hears no signal that it does not ask for.
fn stopping(c: &Cluster) {
    c.skep("n1", "service rm it");
    let deaf = "busy:1 sh -c 'trap : TERM; while true; do sleep 1; done'";
    c.skep(
        "n1",
        &format!(
            "service create --detach --no-resolve-image --name it --stop-grace-period 20s {deaf}"
        ),
    )
    .ok();
    c.wait_running("n1", "it", 1, secs(10));
    update(c, "--env-add NEW=1");
    named(c, "n1", "it", "predecessor", "to stop");
    c.skep("n1", "service scale --detach it=0").ok();
    named(c, "n1", "it", "stopping", "after a grace period of 20 s");
    // Not waited for by the next check.
    update(c, "--stop-grace-period 0s");
    for task in c.tasks("n1", "it") {
        if let Some(pid) = c.container_pid(&task.node, &task.container) {
            c.end_process(pid);
        }
    }
    c.remove_service("n1", "it");
}
