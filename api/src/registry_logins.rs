//! Credentials that the cluster keeps for registries. An addition to the API: no answer shows a password.

use serde::Deserialize;
use serde_json::json;
use skep_engine::RegistryAuth;
use skep_model::{ControlRequest, RegistryLogin, RegistryLoginSpec};

use crate::reply;
use crate::state::Call;
use crate::status::{ApiError, Outcome};

/// `GET /skep/v1/registries`
pub(crate) async fn list(call: Call) -> Outcome {
    let snapshot = call.snapshot().await?;
    let logins: Vec<RegistryLogin> = snapshot
        .registry_logins()
        .map(|login| {
            let mut public = RegistryLogin::clone(login);
            public.spec.password.clear();
            public
        })
        .collect();
    reply::json(&logins)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Wanted {
    host: String,
    username: String,
    password: String,
    /// Keep them without trying them first: not every manager reaches every registry.
    #[serde(default)]
    untried: bool,
}

/// `POST /skep/v1/registries`: keeps credentials, in the place of those that are there.
pub(crate) async fn keep(mut call: Call) -> Outcome {
    let wanted: Wanted = call.json().await?;
    let untried = wanted.untried;
    let spec = RegistryLoginSpec {
        host: wanted.host,
        username: wanted.username,
        password: wanted.password,
    };
    let spec = spec
        .checked()
        .map_err(|error| ApiError::invalid(error.to_string()))?;
    call.snapshot().await?;
    if !untried {
        let auth = RegistryAuth {
            username: spec.username.clone(),
            password: spec.password.clone(),
            serveraddress: spec.host.clone(),
            ..RegistryAuth::default()
        };
        call.engine().registry_login(auth).await?;
    }
    let host = spec.host.clone();
    let request = ControlRequest::KeepRegistryLogin { spec };
    let kept = call.cluster().submit(request).await?;
    reply::json(&json!({ "ID": kept.id, "Host": host }))
}

/// `DELETE /skep/v1/registries/{host}`
pub(crate) async fn remove(call: Call, host: String) -> Outcome {
    let request = ControlRequest::RemoveRegistryLogin { host };
    call.cluster().submit(request).await?;
    reply::no_content()
}
