//! What a mistake must leave as it was, and how it must fail.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::{Value, json};
use skep_e2e::Cluster;
use skep_e2e::http::Answer;

use crate::{HELLO, MANAGER};

/// Everything that the cluster keeps, and what each node is and runs.
pub fn kept(c: &Cluster) -> BTreeMap<String, Value> {
    let mut kept = BTreeMap::new();
    for kind in [
        "services", "tasks", "nodes", "secrets", "configs", "networks",
    ] {
        let found = c.get(MANAGER, &format!("/{kind}"));
        for object in found.as_array().expect("a list") {
            let id = object["ID"]
                .as_str()
                .or(object["Id"].as_str())
                .expect("an id")
                .to_owned();
            let mut object = object.clone();
            if kind == "nodes" {
                // What a node finds of its networks comes and goes by itself: one has left.
                for path in ["/Version", "/UpdatedAt", "/Description/NetworkProblems"] {
                    let (parent, key) = path.rsplit_once('/').expect("it begins with one");
                    let parent = object.pointer_mut(parent).and_then(Value::as_object_mut);
                    parent.map(|parent| parent.remove(key));
                }
            }
            kept.insert(format!("{kind} {id}"), object);
        }
    }
    kept.insert("swarm".to_owned(), c.get(MANAGER, "/swarm"));
    kept.insert("stacks".to_owned(), c.get(MANAGER, "/skep/v1/stacks"));
    for node in &c.nodes {
        let info = c.get(&node.name, "/info");
        let membership = ["NodeID", "LocalNodeState", "ControlAvailable", "Error"]
            .map(|key| info["Swarm"][key].clone());
        kept.insert(format!("membership of {}", node.name), json!(membership));
        let containers = c.get(&node.name, "/containers/json?all=1");
        let ids: Vec<&Value> = containers
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| &one["Id"])
            .collect();
        kept.insert(format!("containers of {}", node.name), json!(ids));
    }
    kept
}

#[track_caller]
pub fn assert_unchanged(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) {
    let mut changes = Vec::new();
    for key in before.keys().chain(after.keys()) {
        let (old, new) = (before.get(key), after.get(key));
        if old != new {
            let shown =
                |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
            changes.push(format!("{key}\n  was {}\n  is  {}", shown(old), shown(new)));
        }
    }
    changes.dedup();
    assert!(
        changes.is_empty(),
        "a mistake changed:\n{}",
        changes.join("\n")
    );
}

/// Runs every line with both clients, so that the first that is wrong does not hide the others.
#[track_caller]
pub fn all_fail(c: &Cluster, node: &str, cases: &[(&str, &str)]) {
    let fails = |(line, text): &(&str, &str)| {
        let run = || c.both_fail(node, line, text);
        catch_unwind(AssertUnwindSafe(run)).is_ok()
    };
    let wrong: Vec<&str> = cases
        .iter()
        .filter(|case| !fails(case))
        .map(|(line, _)| *line)
        .collect();
    assert!(
        wrong.is_empty(),
        "not refused as told above:\n  {}",
        wrong.join("\n  ")
    );
}

/// The same for flags of `service create`.
#[track_caller]
pub fn all_fail_to_create(c: &Cluster, cases: &[(&str, &str)]) {
    let line = |flags: &str| format!("service create -d --no-resolve-image {flags} {HELLO}");
    let lines: Vec<(String, &str)> = cases
        .iter()
        .map(|(flags, text)| (line(flags), *text))
        .collect();
    let lines: Vec<(&str, &str)> = lines
        .iter()
        .map(|(line, text)| (line.as_str(), *text))
        .collect();
    all_fail(c, MANAGER, &lines);
}

#[track_caller]
pub fn assert_message(answer: &Answer, status: u16, part: &str) {
    let said = answer.message();
    assert!(
        answer.status == status && said.contains(part),
        "want {status} with `{part}`: {} {}",
        answer.status,
        answer.body
    );
}
