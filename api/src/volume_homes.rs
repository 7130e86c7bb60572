//! `/skep/v1/services/{id}/volumes`: the nodes that have the volumes of a service's slots. Not part of
//! Docker's API.

use serde_json::json;
use skep_model::{ControlRequest, NodeId};

use crate::reply;
use crate::services::find;
use crate::state::Call;
use crate::status::{ApiError, Outcome};

/// Slots that one request may name.
const SLOTS_MAX: usize = 1000;

/// `POST /skep/v1/services/{id}/volumes/release?slots=1,2|all&to=NODE`: answers with what was let go,
/// `web.1: data-1 on n2`.
pub(crate) async fn release(call: Call, given: String) -> Outcome {
    let snapshot = call.snapshot().await?;
    let to = call.query.text("to");
    let request = ControlRequest::ReleaseVolumes {
        id: find(&snapshot, &given)?.id.clone(),
        slots: slots(call.query.text("slots"))?,
        to: (!to.is_empty()).then(|| NodeId::new(to)),
    };
    let done = call.cluster().submit(request).await?;
    reply::json(&json!({ "Released": done.actions }))
}

fn slots(given: &str) -> Outcome<Option<Vec<u64>>> {
    if given == "all" {
        return Ok(None);
    }
    let numbers: Vec<u64> = given
        .split(',')
        .map(|word| {
            word.trim().parse().map_err(|_| {
                ApiError::invalid(format!(
                    "slots: `{word}` is neither the number of a slot nor all"
                ))
            })
        })
        .collect::<Outcome<_>>()?;
    match numbers.len() > SLOTS_MAX {
        true => Err(ApiError::invalid(format!(
            "slots: at most {SLOTS_MAX} at once, or all"
        ))),
        false => Ok(Some(numbers)),
    }
}
