//! `/services`

use std::sync::Arc;

use serde_json::json;
use skep_engine::Filters;
use skep_model::control::RegistryAuthFrom;
use skep_model::{ControlRequest, Service, ServiceMode, ServiceSpec};
use skep_store::Snapshot;

use crate::defaults;
use crate::networks;
use crate::nodes::{labels_match, starts_with};
use crate::pin;
use crate::redact;
use crate::reply;
use crate::service_status;
use crate::state::Call;
use crate::status::{ApiError, Outcome};

/// Tries for a generated name that no service has.
const NAME_TRIES: usize = 16;

/// `GET /services`
pub(crate) async fn list(call: Call) -> Outcome {
    let filters = call.filters_of(&["id", "label", "mode", "name", "runtime"])?;
    let snapshot = call.snapshot().await?;
    let with_status = call.query.flag("status");
    let services: Vec<Service> = snapshot
        .services()
        .filter(|service| matches(service, &filters))
        .map(|service| {
            let mut public = redact::service(service);
            public.service_status = with_status.then(|| service_status::count(&snapshot, service));
            public
        })
        .collect();
    reply::json(&services)
}

fn matches(service: &Service, filters: &Filters) -> bool {
    let mode = match service.spec.mode {
        ServiceMode::Replicated(_) => "replicated",
        ServiceMode::Global(_) => "global",
        ServiceMode::ReplicatedJob(_) => "replicated-job",
        ServiceMode::GlobalJob(_) => "global-job",
    };
    filters.any("id", |id| service.id.as_str().starts_with(id))
        && filters.any("name", |name| starts_with(&service.spec.name, name))
        && filters.any("mode", |wanted| wanted == mode)
        && filters.any("runtime", |wanted| wanted == "container")
        && labels_match(filters, "label", &service.spec.labels)
}

/// A service by id, name or start of an id.
pub(crate) fn find(snapshot: &Snapshot, given: &str) -> Outcome<Arc<Service>> {
    Ok(snapshot.find::<Service>(given)?.clone())
}

/// `GET /services/{id}`
pub(crate) async fn inspect(call: Call, given: String) -> Outcome {
    let snapshot = call.snapshot().await?;
    let mut service = redact::service(&*find(&snapshot, &given)?);
    if call.query.flag("insertDefaults") {
        defaults::fill_in(&mut service.spec);
    }
    reply::json(&service)
}

/// `POST /services/create`
pub(crate) async fn create(mut call: Call) -> Outcome {
    let spec: ServiceSpec = call.json().await?;
    let mut spec = prepared(&call, spec).await?;
    let unpinned = pin::pin(&call, &mut spec, None).await?;
    if spec.name.is_empty() {
        spec.name = unused_name(&call.snapshot().await?);
    }
    let made = call
        .cluster()
        .submit(ControlRequest::CreateService {
            spec: Box::new(spec),
        })
        .await?;
    let warnings: Vec<String> = made.warnings.into_iter().chain(unpinned).collect();
    reply::created(&json!({ "ID": made.id, "Warnings": warnings }))
}

/// A name for a service that was given none. When every try is taken the manager says so.
fn unused_name(snapshot: &Snapshot) -> String {
    let mut tries = (0..NAME_TRIES).map(skep_engine::random_name);
    let unused = tries.find(|name| snapshot.by_name::<Service>(name).is_none());
    unused.unwrap_or_else(|| skep_engine::random_name(NAME_TRIES))
}

/// `POST /services/{id}/update`
pub(crate) async fn update(mut call: Call, given: String) -> Outcome {
    let (request, unpinned) = update_request(&mut call, &given).await?;
    let done = call.cluster().submit(request).await?;
    let warnings: Vec<String> = done.warnings.into_iter().chain(unpinned).collect();
    reply::json(&json!({ "Warnings": warnings }))
}

/// `POST /skep/v1/services/{id}/preview`: what the same request to `update` would do. Not part of
/// Docker's API.
pub(crate) async fn preview(mut call: Call, given: String) -> Outcome {
    let (request, unpinned) = update_request(&mut call, &given).await?;
    let mut preview = call.cluster().preview(request).await?;
    preview.warnings.extend(unpinned);
    reply::json(&preview)
}

/// `GET /skep/v1/services/{id}/history`: the service's revisions. Not part of Docker's API.
pub(crate) async fn history(call: Call, given: String) -> Outcome {
    let snapshot = call.snapshot().await?;
    reply::json(&redact::history(&*find(&snapshot, &given)?))
}

/// The request, and what the user is to know of its image.
async fn update_request(call: &mut Call, given: &str) -> Outcome<(ControlRequest, Option<String>)> {
    let (rollback, revision) = match call.query.text("rollback") {
        "" | "none" => (false, None),
        "previous" => (true, None),
        // Our addition: to a revision by its number, or to the one before.
        "revision" => (true, Some(revision(call)?)),
        other => {
            return Err(ApiError::invalid(format!(
                "unrecognized rollback option {other}"
            )));
        }
    };
    let registry_auth_from = match call.query.text("registryAuthFrom") {
        "" | "spec" => RegistryAuthFrom::Spec,
        "previous-spec" => RegistryAuthFrom::PreviousSpec,
        other => {
            return Err(ApiError::invalid(format!(
                "unsupported registryAuthFrom value: {other}"
            )));
        }
    };
    let version = call.query.version("service")?;
    let mut spec: ServiceSpec = match rollback {
        true => call.json_or_default().await?,
        false => {
            let spec = call.json().await?;
            prepared(call, spec).await?
        }
    };
    let snapshot = call.snapshot().await?;
    let service = find(&snapshot, given)?;
    let unpinned = match rollback {
        true => None,
        false => pin::pin(call, &mut spec, Some(&service)).await?,
    };
    let request = ControlRequest::UpdateService {
        id: service.id.clone(),
        version,
        spec: Box::new(spec),
        registry_auth_from,
        rollback,
        revision,
    };
    Ok((request, unpinned))
}

/// The number of the revision asked for; 0 is the one before.
fn revision(call: &Call) -> Outcome<u64> {
    match call.query.text("revision") {
        "" => Ok(0),
        text => text.parse().map_err(|_| {
            ApiError::invalid(format!("invalid revision {text:?}: want a number from 1"))
        }),
    }
}

/// A spec as the manager takes it: networks in their place and by id, credentials inside.
async fn prepared(call: &Call, mut spec: ServiceSpec) -> Outcome<ServiceSpec> {
    if spec.task_template.networks.is_empty() {
        spec.task_template.networks = std::mem::take(&mut spec.networks);
    }
    spec.networks.clear();
    networks::resolve(call, &mut spec.task_template.networks).await?;
    let auth = call.encoded_auth();
    if !auth.is_empty() {
        call.registry_auth()?;
        spec.task_template.pull_credentials = auth.to_owned();
    }
    Ok(spec)
}

/// `DELETE /services/{id}`
pub(crate) async fn remove(call: Call, given: String) -> Outcome {
    let snapshot = call.snapshot().await?;
    let id = find(&snapshot, &given)?.id.clone();
    let request = ControlRequest::RemoveService { id };
    let done = call.cluster().submit(request).await?;
    match done.warnings.is_empty() {
        true => reply::ok(),
        // Docker's clients do not look at the answer.
        false => reply::json(&json!({ "Warnings": done.warnings })),
    }
}
