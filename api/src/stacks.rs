//! `/skep/v1/stacks`: stacks as objects of the cluster. Not part of Docker's API.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use skep_model::stack::STACK_LABEL;
use skep_model::{ControlRequest, ControlResponse, Service, Stack, StackSpec, Timestamp};
use skep_store::Snapshot;

use crate::redact;
use crate::reply;
use crate::state::Call;
use crate::status::{ApiError, Outcome};

/// One line of the list. Stacks that a client made service by service have no id and revision 0.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Line {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    /// Deploys that changed something.
    revision: u64,
    services: usize,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// What came of a deploy or removal.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Done {
    #[serde(rename = "ID")]
    id: String,
    warnings: Vec<String>,
    actions: Vec<String>,
}

impl From<ControlResponse> for Done {
    fn from(response: ControlResponse) -> Self {
        Self {
            id: response.id,
            warnings: response.warnings,
            actions: response.actions,
        }
    }
}

/// The stack a service belongs to, by its label.
fn stack_of(service: &Service) -> Option<&str> {
    service
        .spec
        .labels
        .get(STACK_LABEL)
        .map(String::as_str)
        .or(Some(service.stack.as_str()))
        .filter(|name| !name.is_empty())
}

/// `GET /skep/v1/stacks`
pub(crate) async fn list(call: Call) -> Outcome {
    let snapshot = call.snapshot().await?;
    let lines: Vec<Line> = lines(&snapshot).into_values().collect();
    reply::json(&lines)
}

fn lines(snapshot: &Snapshot) -> BTreeMap<String, Line> {
    let mut lines: BTreeMap<String, Line> = BTreeMap::new();
    for stack in snapshot.stacks() {
        let line = lines.entry(stack.spec.name.clone()).or_default();
        line.id = stack.id.to_string();
        line.revision = stack.revision;
        line.created_at = stack.created_at;
        line.updated_at = stack.updated_at;
    }
    for service in snapshot.services() {
        let Some(name) = stack_of(service) else {
            continue;
        };
        let line = lines.entry(name.to_owned()).or_default();
        line.services += 1;
        if line.id.is_empty() {
            let first = line.created_at.is_zero() || service.created_at < line.created_at;
            if first {
                line.created_at = service.created_at;
            }
            line.updated_at = line.updated_at.max(service.updated_at);
        }
    }
    for (name, line) in &mut lines {
        line.name.clone_from(name);
    }
    lines
}

/// `GET /skep/v1/stacks/{name}`: the line, the spec if the cluster holds one, and the services.
pub(crate) async fn inspect(call: Call, name: String) -> Outcome {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Whole {
        #[serde(flatten)]
        line: Line,
        spec: Option<StackSpec>,
        service_list: Vec<Service>,
    }
    let snapshot = call.snapshot().await?;
    let stack = snapshot.by_name::<Stack>(&name);
    let name = stack.map_or(name, |stack| stack.spec.name.clone());
    let Some(line) = lines(&snapshot).remove(&name) else {
        return Err(ApiError::not_found(format!("stack {name} not found")));
    };
    reply::json(&Whole {
        line,
        spec: stack.map(|stack| redact::stack(stack).spec),
        service_list: snapshot
            .services()
            .filter(|service| stack_of(service) == Some(name.as_str()))
            .map(|service| redact::service(service))
            .collect(),
    })
}

/// `POST /skep/v1/stacks/{name}`
pub(crate) async fn deploy(mut call: Call, name: String) -> Outcome {
    let mut spec: StackSpec = call.json().await?;
    if !spec.name.is_empty() && spec.name != name {
        return Err(ApiError::invalid(format!(
            "the body describes stack {}, the path says {name}",
            spec.name
        )));
    }
    spec.name = name;
    let request = ControlRequest::DeployStack {
        spec: Box::new(spec),
        prune: call.query.flag("prune"),
    };
    reply::json(&Done::from(call.cluster().submit(request).await?))
}

/// `DELETE /skep/v1/stacks/{name}`
pub(crate) async fn remove(call: Call, name: String) -> Outcome {
    let request = ControlRequest::RemoveStack { name };
    reply::json(&Done::from(call.cluster().submit(request).await?))
}

/// `GET /skep/v1/version`: so that the CLI can tell this daemon from others.
pub(crate) async fn version(call: Call) -> Outcome {
    let about = &call.state.about;
    let text = |text: &str| Value::String(text.to_owned());
    reply::json(&serde_json::json!({
        "Version": text(&about.version),
        "GitCommit": text(&about.git_commit),
        "BuildTime": text(&about.build_time),
    }))
}
