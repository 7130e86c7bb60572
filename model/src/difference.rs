//! What differs between two specs, in words a person can act on: `Image: web:1 -> web:2`.
//!
//! What is absent, empty, zero or false is the same. Of variables of the environment only the names
//! are told, since their values may be nobody's business.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value};

/// Differences told of one pair; a bound for what people read.
const DIFFERENCES_MAX: usize = 20;
/// Longest value told, in characters.
const VALUE_LEN_MAX: usize = 80;
/// Levels that say nothing.
const SILENT: [&str; 4] = ["TaskTemplate", "ContainerSpec", "EndpointSpec", "Spec"];

/// How `wanted` differs from `had`, in the order of fields.
pub fn differences(had: &impl Serialize, wanted: &impl Serialize) -> Vec<String> {
    let value = |given: serde_json::Result<Value>| given.map(pruned).unwrap_or_default();
    let mut found = Vec::new();
    compare(
        &value(serde_json::to_value(had)),
        &value(serde_json::to_value(wanted)),
        &[],
        &mut found,
    );
    found.truncate(DIFFERENCES_MAX);
    found
}

/// A value without what says nothing.
fn pruned(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields
                .into_iter()
                .map(|(name, value)| (name, pruned(value)));
            let fields: Map<String, Value> = fields.filter(|(_, value)| !is_empty(value)).collect();
            match fields.is_empty() {
                true => Value::Null,
                false => Value::Object(fields),
            }
        }
        Value::Array(values) if values.is_empty() => Value::Null,
        other => other,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Bool(true) | Value::Array(_) | Value::Object(_) => false,
    }
}

fn compare(had: &Value, wanted: &Value, path: &[&str], out: &mut Vec<String>) {
    if had == wanted {
        return;
    }
    if !had.is_object() && !wanted.is_object() {
        return out.push(told(had, wanted, path));
    }
    let nothing = Map::new();
    let had = had.as_object().unwrap_or(&nothing);
    let wanted = wanted.as_object().unwrap_or(&nothing);
    let names: BTreeSet<&String> = had.keys().chain(wanted.keys()).collect();
    for name in names {
        let mut deeper = path.to_vec();
        deeper.push(name);
        let value = |fields: &Map<String, Value>| fields.get(name).cloned().unwrap_or_default();
        compare(&value(had), &value(wanted), &deeper, out);
    }
}

fn told(had: &Value, wanted: &Value, path: &[&str]) -> String {
    let names: Vec<&str> = path
        .iter()
        .copied()
        .filter(|name| !SILENT.contains(name))
        .collect();
    let name = names.join(".");
    match (had, wanted) {
        (Value::Array(_), _) | (_, Value::Array(_)) => {
            let changes = list(had, wanted, name == "Env");
            match changes.is_empty() {
                true => format!("{name}: in another order"),
                false => format!("{name}: {changes}"),
            }
        }
        (Value::Null, wanted) => format!("{name}: {}", word(wanted)),
        (had, Value::Null) => format!("{name}: {} -> none", word(had)),
        (had, wanted) => format!("{name}: {} -> {}", word(had), word(wanted)),
    }
}

/// `+x -y`: what came and what went.
fn list(had: &Value, wanted: &Value, names_only: bool) -> String {
    let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (had, wanted) = (items(had), items(wanted));
    let word = |item: &Value| {
        let word = word(item);
        match names_only {
            true => word.split('=').next().unwrap_or_default().to_owned(),
            false => word,
        }
    };
    let gone: Vec<String> = had
        .iter()
        .filter(|item| !wanted.contains(item))
        .map(word)
        .collect();
    let come: Vec<String> = wanted
        .iter()
        .filter(|item| !had.contains(item))
        .map(word)
        .collect();
    let changed = come.iter().filter(|name| gone.contains(name)).cloned();
    let added = come.iter().filter(|name| !gone.contains(name));
    let removed = gone.iter().filter(|name| !come.contains(name));
    changed
        .chain(added.map(|name| format!("+{name}")))
        .chain(removed.map(|name| format!("-{name}")))
        .collect::<Vec<_>>()
        .join(" ")
}

fn word(value: &Value) -> String {
    let named = ["SecretName", "ConfigName", "Target", "TargetPort", "Name"];
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let name = named.iter().find_map(|name| fields.get(*name));
            name.map_or_else(|| value.to_string(), word)
        }
        other => other.to_string(),
    };
    match text.char_indices().nth(VALUE_LEN_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_are_told_by_field() {
        let had = json!({
            "ContainerSpec": {"Image": "web:1", "Env": ["A=1", "B=2", "C=3"], "TTY": false,
                              "Secrets": [{"SecretName": "old", "SecretID": "1"}]},
            "Resources": {"Limits": {"MemoryBytes": 5}},
            "RestartPolicy": {}, "ForceUpdate": 0,
        });
        let wanted = json!({
            "ContainerSpec": {"Image": "web:2", "Env": ["A=1", "B=9", "D=4"], "Init": true,
                              "Secrets": [{"SecretName": "new", "SecretID": "2"}]},
            "Placement": {"Constraints": ["node.role==manager"]},
        });
        assert_eq!(
            differences(&had, &wanted),
            [
                "Env: B +D -C",
                "Image: web:1 -> web:2",
                "Init: true",
                "Secrets: +new -old",
                "Placement.Constraints: +node.role==manager",
                "Resources.Limits.MemoryBytes: 5 -> none",
            ]
        );
        assert_eq!(differences(&had, &had), [""; 0]);
        let (a, b) = (
            json!({"Env": ["A=1", "B=2"]}),
            json!({"Env": ["B=2", "A=1"]}),
        );
        assert_eq!(differences(&a, &b), ["Env: in another order"]);
    }
}
