//! `/skep/v1/secrets/{id}/versions` and `/skep/v1/configs/{id}/versions`: payloads that are replaced
//! under their name. Not part of Docker's API.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;
use skep_model::expiry::Expiry;
use skep_model::payload::{
    Payload, PayloadHistory, PayloadId, PayloadUser, VersionChange, VersionShown,
};
use skep_model::serde_help::base64_bytes;
use skep_model::{Config, ControlRequest, Secret};
use skep_store::{Record, Snapshot};

use crate::reply;
use crate::state::Call;
use crate::status::{ApiError, Outcome};

/// What is asked for of a payload.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Body {
    #[serde(with = "base64_bytes")]
    data: Vec<u8>,
    /// What becomes of the tasks that use it: `roll`, `signal=SIGNAL` or `none`; empty: as labels say.
    users: String,
    /// When the next version expires.
    expiry: Option<Expiry>,
    /// Instead of bytes, of a secret in another store: its bytes are fetched anew, asked for with these
    /// options changed; an empty one is taken away.
    driver_options: Option<BTreeMap<String, String>>,
}

fn found(snapshot: &Snapshot, kind: &str, given: &str) -> Outcome<PayloadId> {
    match kind {
        "secrets" => Ok(snapshot.find::<Secret>(given)?.payload_id()),
        "configs" => Ok(snapshot.find::<Config>(given)?.payload_id()),
        _ => Err(ApiError::not_found("page not found")),
    }
}

/// `GET /skep/v1/secrets/{id}/versions`
pub(crate) async fn list(call: Call, kind: String, given: String) -> Outcome {
    let snapshot = call.snapshot().await?;
    let object = found(&snapshot, &kind, &given)?;
    let history = match &object {
        PayloadId::Secret(_) => history(&snapshot, &**snapshot.find::<Secret>(&given)?),
        PayloadId::Config(_) => history(&snapshot, &**snapshot.find::<Config>(&given)?),
    };
    reply::json(&history)
}

/// `POST /skep/v1/secrets/{id}/versions`: the next version.
pub(crate) async fn next(mut call: Call, kind: String, given: String) -> Outcome {
    let mut body: Body = call.json().await?;
    let data = std::mem::take(&mut body.data);
    let change = match body.driver_options.take() {
        Some(_) if !data.is_empty() => {
            return Err(ApiError::invalid(
                "Data and DriverOptions: a secret has its bytes here or in another store",
            ));
        }
        Some(options) => VersionChange::Anew(options),
        None => VersionChange::Next(data),
    };
    submit(call, &kind, &given, change, body).await
}

/// `POST /skep/v1/secrets/{id}/rollback?to=N`: the next version is as an earlier one.
pub(crate) async fn roll_back(mut call: Call, kind: String, given: String) -> Outcome {
    let body: Body = call.json_or_default().await?;
    let change = VersionChange::Back(call.query.number("to")?.unwrap_or(0));
    submit(call, &kind, &given, change, body).await
}

/// `POST /skep/v1/secrets/{id}/forget`: earlier versions go for good.
pub(crate) async fn forget(call: Call, kind: String, given: String) -> Outcome {
    let object = found(&call.snapshot().await?, &kind, &given)?;
    let request = ControlRequest::ForgetVersions { object };
    let done = call.cluster().submit(request).await?;
    reply::json(&json!({ "Actions": done.actions }))
}

async fn submit(call: Call, kind: &str, given: &str, change: VersionChange, body: Body) -> Outcome {
    let object = found(&call.snapshot().await?, kind, given)?;
    let request = ControlRequest::ChangeVersion {
        object,
        change,
        users: Some(body.users).filter(|users| !users.is_empty()),
        expiry: body.expiry,
    };
    let done = call.cluster().submit(request).await?;
    let number: u64 = done.id.parse().unwrap_or_default();
    reply::json(&json!({ "Version": number, "Actions": done.actions, "Warnings": done.warnings }))
}

fn history<P: Payload + Record>(snapshot: &Snapshot, payload: &P) -> PayloadHistory {
    let present = VersionShown {
        number: payload.number(),
        since: payload.since(),
        because: payload.versions().because.clone(),
        bytes: payload.data().len() as u64,
    };
    let earlier = payload.versions().earlier.iter().map(|one| VersionShown {
        number: one.number,
        since: one.since,
        because: one.because.clone(),
        bytes: one.data.len() as u64,
    });
    PayloadHistory {
        id: payload.payload_id().as_str().to_owned(),
        name: payload.payload_name().to_owned(),
        versions: std::iter::once(present).chain(earlier).collect(),
        users: users(snapshot, &payload.payload_id()),
    }
}

/// Tasks that have not ended and name the payload, in the order of services and slots.
fn users(snapshot: &Snapshot, object: &PayloadId) -> Vec<PayloadUser> {
    let id = object.as_str();
    let mut users = Vec::new();
    for task in snapshot
        .tasks()
        .filter(|task| !task.status.state.is_terminal())
    {
        let Some(container) = task.spec.container() else {
            continue;
        };
        let Some(one) = container.payloads().find(|one| one.object == *object) else {
            continue;
        };
        let service = snapshot.service(&task.service_id);
        let spec = service.and_then(|service| service.spec.task_template.container());
        let of_service = spec.and_then(|spec| spec.payloads().find(|one| one.object == *object));
        let node = snapshot.node(&task.node_id);
        users.push(PayloadUser {
            service: task.service_name.clone(),
            task: task.id.to_string(),
            name: task.name(),
            node: node.map_or_else(String::new, |node| node.description.hostname.clone()),
            state: task.status.state.to_string(),
            sees: task.version_seen(id, one.pin),
            wants: task.version_wanted(id, one.pin),
            service_wants: of_service.map_or(0, |one| one.pin.number()),
        });
    }
    users.sort_by(|a, b| (&a.service, &a.name, &a.task).cmp(&(&b.service, &b.name, &b.task)));
    users
}
