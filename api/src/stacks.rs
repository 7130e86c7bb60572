//! `/skep/v1/stacks`: stacks as objects of the cluster. Not part of Docker's API.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use skep_model::rollout::{Rollout, RolloutWish, StackFailureAction};
use skep_model::stack::{STACK_LABEL, StackRevision};
use skep_model::{ControlRequest, ControlResponse, Nanos, Service, Stack, StackSpec, Timestamp};
use skep_store::Snapshot;

use crate::redact;
use crate::reply;
use crate::state::Call;
use crate::status::{ApiError, Outcome};

/// Longest time that a deploy may be given, in seconds: a week.
const TIMEOUT_MAX: i64 = 7 * 24 * 3600;

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
        #[serde(skip_serializing_if = "Option::is_none")]
        rollout: Option<Rollout>,
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
        rollout: stack.and_then(|stack| stack.rollout.clone()),
        spec: stack.map(|stack| redact::stack(stack).spec),
        service_list: snapshot
            .services()
            .filter(|service| stack_of(service) == Some(name.as_str()))
            .map(|service| redact::service(service))
            .collect(),
    })
}

/// `POST /skep/v1/stacks/{name}?prune=1&basis=WORD&failure-action=rollback&timeout=SECONDS`; the basis is
/// a plan's.
pub(crate) async fn deploy(mut call: Call, name: String) -> Outcome {
    let request = wanted(&mut call, name).await?;
    reply::json(&Done::from(call.cluster().submit(request).await?))
}

/// `POST /skep/v1/stacks/{name}/plan?prune=1`: what the same request to deploy would do.
pub(crate) async fn plan(mut call: Call, name: String) -> Outcome {
    let request = wanted(&mut call, name).await?;
    reply::json(&call.cluster().plan_stack(request).await?)
}

/// `POST /skep/v1/stacks/{name}/rollback?to=N`
pub(crate) async fn roll_back(call: Call, name: String) -> Outcome {
    let request = former(&call, name)?;
    reply::json(&Done::from(call.cluster().submit(request).await?))
}

/// `POST /skep/v1/stacks/{name}/rollback/plan?to=N`: what the same rollback would do.
pub(crate) async fn plan_roll_back(call: Call, name: String) -> Outcome {
    let request = former(&call, name)?;
    reply::json(&call.cluster().plan_stack(request).await?)
}

fn former(call: &Call, name: String) -> Outcome<ControlRequest> {
    let text = call.query.text("to");
    let revision = match text.is_empty() {
        true => 0,
        false => text.parse().map_err(|_| {
            ApiError::invalid(format!("to: `{text}` is not the number of a revision"))
        })?,
    };
    Ok(ControlRequest::RollBackStack { name, revision })
}

/// `GET /skep/v1/stacks/{name}/history`: what the stack has been, the newest first, with specs.
pub(crate) async fn history(call: Call, name: String) -> Outcome {
    let snapshot = call.snapshot().await?;
    let Some(stack) = snapshot.by_name::<Stack>(&name) else {
        return Err(ApiError::not_found(format!(
            "stack {name} has no revisions: nothing is deployed under this name, or only since a few seconds, service by service"
        )));
    };
    let stack = redact::stack(stack);
    let revisions: Vec<StackRevision> = std::iter::once(stack.present())
        .chain(stack.history)
        .collect();
    reply::json(&revisions)
}

async fn wanted(call: &mut Call, name: String) -> Outcome<ControlRequest> {
    let mut spec: StackSpec = call.json().await?;
    if !spec.name.is_empty() && spec.name != name {
        return Err(ApiError::invalid(format!(
            "the body describes stack {}, the path says {name}",
            spec.name
        )));
    }
    spec.name = name;
    let basis = call.query.text("basis");
    let failure_action = match call.query.text("failure-action") {
        "" | "pause" => StackFailureAction::Pause,
        "rollback" => StackFailureAction::Rollback,
        other => {
            return Err(ApiError::invalid(format!(
                "failure-action: `{other}` is not pause or rollback"
            )));
        }
    };
    let timeout = match call.query.text("timeout") {
        "" => Nanos(0),
        text => {
            let seconds = text
                .parse()
                .ok()
                .filter(|seconds| (0..=TIMEOUT_MAX).contains(seconds));
            let wrong = || {
                ApiError::invalid(format!(
                    "timeout: `{text}` is not a number of seconds up to {TIMEOUT_MAX}"
                ))
            };
            Nanos::from_secs(seconds.ok_or_else(wrong)?)
        }
    };
    Ok(ControlRequest::DeployStack {
        spec: Box::new(spec),
        prune: call.query.flag("prune"),
        basis: (!basis.is_empty()).then(|| basis.to_owned()),
        wish: RolloutWish {
            failure_action,
            timeout,
        },
    })
}

/// `GET /skep/v1/stacks/{name}/progress`: how far the last deploy has come.
pub(crate) async fn progress(call: Call, name: String) -> Outcome {
    let progress = call.cluster().stack_progress(&name).await?;
    match progress {
        Some(progress) => reply::json(&progress),
        None => Err(ApiError::not_found(format!("stack {name} not found"))),
    }
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
