//! `/nodes`

use std::sync::Arc;

use serde_json::{Map, Value};
use skep_engine::Filters;
use skep_model::{ControlRequest, Node, NodeRole, NodeSpec};
use skep_store::Snapshot;

use crate::redact;
use crate::reply;
use crate::state::{Call, from_json};
use crate::status::{ApiError, Outcome};

/// `GET /nodes`
pub(crate) async fn list(call: Call) -> Outcome {
    let filters = call.filters_of(&["id", "label", "node.label", "membership", "name", "role"])?;
    check_values(&filters)?;
    let snapshot = call.snapshot().await?;
    let nodes: Vec<&Arc<Node>> = snapshot
        .nodes()
        .filter(|node| matches(node, &filters))
        .collect();
    let nodes: Vec<Node> = nodes.into_iter().map(|node| redact::node(node)).collect();
    reply::json(&nodes)
}

fn check_values(filters: &Filters) -> Outcome<()> {
    let known = |key: &str, words: &[&str]| -> Outcome<()> {
        for value in filters.values(key) {
            if !words.contains(&value.to_lowercase().as_str()) {
                return Err(ApiError::invalid(format!(
                    "Invalid {key} filter: '{value}'"
                )));
            }
        }
        Ok(())
    };
    known("role", &["worker", "manager"])?;
    known("membership", &["accepted", "pending"])
}

fn matches(node: &Node, filters: &Filters) -> bool {
    let role = match node.spec.role {
        NodeRole::Worker => "worker",
        NodeRole::Manager => "manager",
    };
    filters.any("id", |id| node.id.as_str().starts_with(id))
        && filters.any("name", |name| {
            starts_with(&node.description.hostname, name) || starts_with(&node.spec.name, name)
        })
        && filters.any("role", |wanted| wanted.eq_ignore_ascii_case(role))
        // Every node in the list has been accepted.
        && filters.any("membership", |wanted| wanted.eq_ignore_ascii_case("accepted"))
        && labels_match(filters, "label", &node.description.engine.labels)
        && labels_match(filters, "node.label", &node.spec.labels)
}

/// Whether `text` begins with `prefix`, without regard to case.
pub(crate) fn starts_with(text: &str, prefix: &str) -> bool {
    !text.is_empty() && text.to_lowercase().starts_with(&prefix.to_lowercase())
}

/// Whether every `key` or `key=value` given holds.
pub(crate) fn labels_match(
    filters: &Filters,
    key: &str,
    labels: &std::collections::BTreeMap<String, String>,
) -> bool {
    filters
        .values(key)
        .all(|wanted| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|present| present == value),
            None => labels.contains_key(wanted),
        })
}

/// A node by id, host name or start of an id; `self` is this one.
pub(crate) fn find(call: &Call, snapshot: &Snapshot, given: &str) -> Outcome<Arc<Node>> {
    let local = call.cluster().local();
    let wanted = match given {
        "self" => local.node_id.as_str(),
        given => given,
    };
    Ok(snapshot.find_node(wanted)?.clone())
}

/// `GET /nodes/{id}`
pub(crate) async fn inspect(call: Call, given: String) -> Outcome {
    let snapshot = call.snapshot().await?;
    reply::json(&redact::node(&*find(&call, &snapshot, &given)?))
}

/// `POST /nodes/{id}/update`
pub(crate) async fn update(mut call: Call, given: String) -> Outcome {
    let body: Map<String, Value> = call.json().await?;
    let version = call.query.version("node")?;
    // Without a cluster nothing else about the request matters.
    let snapshot = call.snapshot().await?;
    // A missing role would read as "worker" and demote a manager.
    for (field, known) in [
        ("Role", &["worker", "manager"][..]),
        ("Availability", &["active", "pause", "drain"]),
    ] {
        let text = body.get(field).and_then(Value::as_str).unwrap_or_default();
        if !known.contains(&text) {
            return Err(ApiError::invalid(format!("invalid {field}: {text:?}")));
        }
    }
    let spec: NodeSpec = from_json(Value::Object(body).to_string().as_bytes())?;
    let id = find(&call, &snapshot, &given)?.id.clone();
    let request = ControlRequest::UpdateNode { id, version, spec };
    call.cluster().submit(request).await?;
    reply::ok()
}

/// `DELETE /nodes/{id}`
pub(crate) async fn remove(call: Call, given: String) -> Outcome {
    let snapshot = call.snapshot().await?;
    let request = ControlRequest::RemoveNode {
        id: find(&call, &snapshot, &given)?.id.clone(),
        force: call.query.flag("force"),
    };
    let done = call.cluster().submit(request).await?;
    match done.warnings.is_empty() {
        true => reply::ok(),
        // Docker's clients do not look at the answer.
        false => reply::json(&serde_json::json!({ "Warnings": done.warnings })),
    }
}
