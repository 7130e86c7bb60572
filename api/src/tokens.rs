//! Join tokens that end by themselves. An addition to the API.

use serde::Deserialize;
use serde_json::json;
use skep_model::{ControlRequest, IssuedToken, Nanos, NodeRole};

use crate::reply;
use crate::state::Call;
use crate::status::{ApiError, Outcome};

/// `GET /skep/v1/swarm/tokens`
pub(crate) async fn list(call: Call) -> Outcome {
    let snapshot = call.snapshot().await?;
    let issued = snapshot.cluster().map(|cluster| &cluster.issued_tokens);
    let public: Vec<IssuedToken> = issued
        .into_iter()
        .flatten()
        .map(|token| IssuedToken {
            digest: String::new(),
            ..token.clone()
        })
        .collect();
    reply::json(&public)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Wanted {
    role: String,
    /// Nanoseconds; 0: for ever.
    #[serde(default)]
    expires_after: Nanos,
    /// 0: any number.
    #[serde(default)]
    uses: u64,
}

/// `POST /skep/v1/swarm/tokens`: the only answer that holds the token.
pub(crate) async fn create(mut call: Call) -> Outcome {
    let wanted: Wanted = call.json().await?;
    let role = match wanted.role.as_str() {
        "worker" => NodeRole::Worker,
        "manager" => NodeRole::Manager,
        other => {
            return Err(ApiError::invalid(format!(
                "invalid Role: {other:?}, want worker or manager"
            )));
        }
    };
    let request = ControlRequest::CreateJoinToken {
        role,
        expires_after: wanted.expires_after,
        uses_max: wanted.uses,
    };
    let made = call.cluster().submit(request).await?;
    reply::json(&json!({"ID": made.id, "Token": made.token.0}))
}

/// `DELETE /skep/v1/swarm/tokens/{id}`; the answer is the whole id.
pub(crate) async fn remove(call: Call, id: String) -> Outcome {
    let request = ControlRequest::RemoveJoinToken { id };
    let removed = call.cluster().submit(request).await?;
    reply::json(&json!({"ID": removed.id}))
}
