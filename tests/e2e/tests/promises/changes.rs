//! Updates and ways back.

use std::collections::BTreeSet;

use serde_json::Value;
use skep_e2e::wait::holds;
use skep_e2e::{Cluster, eventually, needs, secs};

use super::{CREATE, QUICKLY, UPDATE, ids, state_of_update, wait_update};

pub fn start_first(c: &Cluster) {
    let port = "--mode global --publish mode=host,published=9200,target=8080";
    c.skep(
        "n1",
        &format!(
            "{CREATE} {port} --update-order start-first --update-monitor 500ms --name e skep/hello"
        ),
    )
    .ok();
    c.wait_running("n1", "e", 3, secs(30));
    c.skep("n1", &format!("{UPDATE} --env-add A=b e")).ok();
    let mut said = BTreeSet::new();
    eventually("it ends", secs(60), || {
        let found = c.try_api("n1", "GET", "/services/e", None)?;
        let status = &found["UpdateStatus"];
        said.insert(status["Message"].as_str().unwrap_or_default().to_owned());
        holds(status["State"] == "completed", status)
    });
    let why = "update stops tasks before their successors start: no suitable node (host-mode port already in use on 1 node)";
    assert!(said.contains(why), "{said:?}");
    c.wait_running("n1", "e", 3, secs(10));
    c.remove_service("n1", "e");
}

fn env_of(c: &Cluster, service: &str) -> String {
    let spec = c.get("n1", &format!("/services/{service}"))["Spec"].clone();
    spec["TaskTemplate"]["ContainerSpec"]["Env"].to_string()
}

fn replicas_of(c: &Cluster, service: &str) -> Value {
    c.get("n1", &format!("/services/{service}"))["Spec"]["Mode"]["Replicated"]["Replicas"].clone()
}

pub fn revisions(c: &Cluster) {
    c.skep(
        "n1",
        &format!("{CREATE} {QUICKLY} --name v --env V=1 busy:1 sleep 1000"),
    )
    .ok();
    c.wait_running("n1", "v", 1, secs(30));
    c.skep("n1", &format!("{UPDATE} --env-add V=2 v")).ok();
    wait_update(c, "v", "completed");
    c.skep("n1", "service scale -d v=2").ok();
    c.skep("n1", &format!("{UPDATE} --label-add a=b v")).ok();
    c.skep("n1", "service rollback -q v").ok();
    assert_eq!(
        (env_of(c, "v").as_str(), replicas_of(c, "v")),
        (r#"["V=1"]"#, 2.into())
    );
    c.wait_running("n1", "v", 2, secs(20));
    c.skep("n1", &format!("{UPDATE} --env-add V=3 v")).ok();
    wait_update(c, "v", "completed");
    let listed = c
        .skep(
            "n1",
            "service history --format '{{.Revision}} {{.Status}}.{{.Reason}}.{{.Changes}}' v",
        )
        .ok();
    assert_eq!(
        listed.lines().collect::<Vec<_>>(),
        [
            "4 present.updated.Env: V",
            "3 .rolled back to 1.Env: V",
            "2 .updated.Labels.a: b; Mode.Replicated.Replicas: 1 -> 2; Env: V",
            "1 .created.",
        ]
    );
    c.skep("n1", "service rollback -q --to 2 v").ok();
    assert_eq!(env_of(c, "v"), r#"["V=2"]"#);
    c.skep("n1", "service rollback --to 77 v")
        .fails("service v has no revision 77; it has 4, 3, 2, 1");
    c.skep("n1", "service rollback --to 5 v")
        .fails("service v is in revision 5 already");
    c.skep("n1", "service history nosuch")
        .fails("service nosuch not found");
    // Docker's own goes back to whatever was there before the last request.
    if needs::docker().is_some() {
        c.docker("n1", "service scale -d v=1").ok();
        c.docker("n1", "service rollback -q v").ok();
        assert_eq!(
            (env_of(c, "v").as_str(), replicas_of(c, "v")),
            (r#"["V=2"]"#, 2.into())
        );
    }
    c.remove_service("n1", "v");
}

pub fn rolled_back(c: &Cluster) {
    c.skep(
        "n1",
        &format!("{CREATE} {QUICKLY} --update-failure-action rollback --name x busy:1 sleep 1000"),
    )
    .ok();
    c.wait_running("n1", "x", 1, secs(30));
    let failing = "service update --no-resolve-image --args false --restart-delay 100ms x";
    let ran = c.skep("n1", failing).fails("service update rolled back");
    assert_eq!(ran.status, 1, "{ran}");
    c.wait_running("n1", "x", 1, secs(20));
    for line in ["service rollback -d x", "service update -d --rollback x"] {
        c.skep("n1", line).fails("does not have a previous spec");
    }
    let listed = c
        .skep(
            "n1",
            "service history --format '{{.Revision}} {{.Status}}' x",
        )
        .ok();
    assert_eq!(listed, "3 present\n2 failed\n1 \n");
    let ran = c.skep(
        "n1",
        "service update --no-resolve-image --update-failure-action pause --args false x",
    );
    ran.fails("service update paused: update paused due to failure or early termination of task ");
    assert_eq!(state_of_update(c, "x"), "paused");
    c.remove_service("n1", "x");
}

pub fn dry_run(c: &Cluster) {
    c.skep(
        "n1",
        &format!("{CREATE} --name y --replicas 2 busy:1 sleep 1000"),
    )
    .ok();
    let before = ids(&c.wait_running("n1", "y", 2, secs(30)));
    let version = c.get("n1", "/services/y")["Version"]["Index"].clone();
    let told = c
        .skep(
            "n1",
            "service update --dry-run --no-resolve-image --env-add A=b --replicas 3 y",
        )
        .ok();
    let lines: Vec<Vec<&str>> = told
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert!(told.starts_with("The spec of y would change:\n"), "{told}");
    assert!(
        lines.contains(&vec!["TASK", "NODE", "ACTION", "WHY"]),
        "{told}"
    );
    let of = |task: &str| {
        lines
            .iter()
            .find(|words| words.first() == Some(&task))
            .cloned()
            .unwrap_or_default()
    };
    assert_eq!(of("y.1")[2..], ["replace", "Env:", "+A"], "{told}");
    assert_eq!(of("y.3"), ["y.3", "start"], "{told}");
    assert!(
        told.ends_with("2 would be replaced, 1 at a time, stop-first.\n"),
        "{told}"
    );
    let told = c
        .skep("n1", "service update --dry-run --label-add a=b y")
        .ok();
    assert!(told.ends_with("Nothing would be restarted.\n"), "{told}");
    c.skep("n1", "service update --dry-run --limit-memory 1 y")
        .fails("invalid memory value 1");
    c.skep("n1", "service rollback --dry-run y")
        .fails("does not have a previous spec");
    assert_eq!(
        c.get("n1", "/services/y")["Version"]["Index"],
        version,
        "nothing was changed"
    );
    assert_eq!(ids(&c.running("n1", "y")), before);
    c.remove_service("n1", "y");
}
