//! `/skep/v1/network/check`: whether the cluster's networks are as they should be. Not part of
//! Docker's API.

use crate::reply;
use crate::state::Call;
use crate::status::Outcome;

/// `GET /skep/v1/network/check`
pub(crate) async fn check(call: Call) -> Outcome {
    reply::json(&call.cluster().audit().await?)
}
