//! `/skep/v1/why`: why things are as they are. Not part of Docker's API.

use crate::reply;
use crate::state::Call;
use crate::status::Outcome;

/// `GET /skep/v1/why?object=NAME&type=SORT`: without an object, all that is amiss.
pub(crate) async fn why(call: Call) -> Outcome {
    let object = Some(call.query.text("object")).filter(|object| !object.is_empty());
    let sort = call.query.text("type");
    reply::json(&call.cluster().why(object, sort).await?)
}
