//! Troubles of many kinds, each staged on a real cluster: `why` names the cause, and so does `ps`.

#[path = "why/cluster.rs"]
mod cluster;
#[path = "why/staged.rs"]
mod staged;
#[path = "why/updates.rs"]
mod updates;

use serde_json::Value;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, image, needs, secs};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// For services of an image that no registry has.
const CREATE: &str = "service create --detach --no-resolve-image --stop-signal KILL --name";
const UPDATE: &str = "service update --detach --no-resolve-image";

#[test]
fn the_cause_of_every_trouble_is_named() {
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
    staged::all(c, &mut checks);
    updates::all(c, &mut checks);
    // What is broken by these stays broken.
    cluster::all(c, &mut checks);
    checks.end();
}

/// What `why` answers, asked on `node`; `object` may be empty.
fn ask(c: &Cluster, node: &str, object: &str) -> Result<Value, String> {
    let ran = c.skep(node, &format!("why --format json {object}"));
    match ran.status {
        0 => serde_json::from_str(&ran.out).map_err(|error| format!("{error}: {}", ran.out)),
        _ => Err(ran.to_string()),
    }
}

/// Waits until `why` says of `object` that it has this trouble, in words with `text` in them.
#[track_caller]
fn named(c: &Cluster, node: &str, object: &str, trouble: &str, text: &str) {
    let what = format!("{object:?} has {trouble}: {text}");
    eventually(&what, secs(2), || {
        let why = ask(c, node, object)?;
        let said = |cause: &Value| {
            let message = cause["Message"].as_str().unwrap_or_default();
            cause["Trouble"] == trouble && message.contains(text)
        };
        let causes = why["Causes"].as_array();
        holds(causes.is_some_and(|causes| causes.iter().any(said)), why)
    });
}

/// Waits until `service ps` shows `text`.
#[track_caller]
fn listed(c: &Cluster, service: &str, text: &str) {
    let what = format!("the tasks of {service} show {text}");
    eventually(&what, secs(2), || {
        let tasks = c
            .skep("n1", &format!("service ps --no-trunc {service}"))
            .ok();
        holds(tasks.contains(text), tasks)
    });
}
