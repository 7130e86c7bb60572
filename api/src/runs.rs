//! `/skep/v1/services/{id}/runs` and `…/run`: what a job with a schedule has run, and running a job now.
//! Not part of Docker's API.

use serde_json::json;
use skep_model::ControlRequest;
use skep_model::schedule::{SCHEDULE_LABEL, ServiceRuns};

use crate::reply;
use crate::services::find;
use crate::state::Call;
use crate::status::{ApiError, Outcome};

/// `GET /skep/v1/services/{id}/runs`: the last runs, the newest first.
pub(crate) async fn list(call: Call, given: String) -> Outcome {
    let snapshot = call.snapshot().await?;
    let service = find(&snapshot, &given)?;
    match ServiceRuns::of(&service) {
        Some(runs) => reply::json(&runs),
        None => Err(ApiError::invalid(format!(
            "service {} has no schedule: it has no label {SCHEDULE_LABEL}",
            service.spec.name
        ))),
    }
}

/// `POST /skep/v1/services/{id}/run`: begins an iteration of a job.
pub(crate) async fn run(call: Call, given: String) -> Outcome {
    let snapshot = call.snapshot().await?;
    let id = find(&snapshot, &given)?.id.clone();
    let done = call.cluster().submit(ControlRequest::RunJob { id }).await?;
    reply::json(&json!({ "Warnings": done.warnings }))
}
