//! `/skep/v1/services/{id}/rebalance`: spreads a service anew over the nodes that are there. Not part
//! of Docker's API.

use serde_json::json;
use skep_model::ControlRequest;

use crate::reply;
use crate::services::find;
use crate::state::Call;
use crate::status::Outcome;

/// `POST /skep/v1/services/{id}/rebalance?most=N`: answers with the moves, `task: node -> node`.
pub(crate) async fn rebalance(call: Call, given: String) -> Outcome {
    let request = request(&call, &given).await?;
    let done = call.cluster().submit(request).await?;
    reply::json(&json!({ "Moves": done.actions }))
}

/// `POST /skep/v1/services/{id}/rebalance/preview?most=N`: what it would do.
pub(crate) async fn preview(call: Call, given: String) -> Outcome {
    let request = request(&call, &given).await?;
    reply::json(&call.cluster().preview(request).await?)
}

async fn request(call: &Call, given: &str) -> Outcome<ControlRequest> {
    let snapshot = call.snapshot().await?;
    Ok(ControlRequest::RebalanceService {
        id: find(&snapshot, given)?.id.clone(),
        most: call.query.number("most")?,
    })
}
