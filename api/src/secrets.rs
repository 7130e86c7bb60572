//! `/secrets` and `/configs`: the same verbs, but a secret's payload never comes back.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use skep_engine::Filters;
use skep_model::expiry::Stage;
use skep_model::{Config, ConfigSpec, ControlRequest, Secret, SecretSpec};

use crate::info::now;
use crate::nodes::{labels_match, starts_with};
use crate::redact;
use crate::reply;
use crate::state::Call;
use crate::status::Outcome;

const KEYS: [&str; 4] = ["id", "label", "name", "names"];
/// `expiring=true`: those that expire within the time that they are to be reminded of, or have.
const SECRET_KEYS: [&str; 5] = ["expiring", "id", "label", "name", "names"];

fn matches(filters: &Filters, id: &str, name: &str, labels: &BTreeMap<String, String>) -> bool {
    filters.any("id", |prefix| id.starts_with(prefix))
        && filters.any("name", |prefix| starts_with(name, prefix))
        && filters.any("names", |wanted| name.eq_ignore_ascii_case(wanted))
        && labels_match(filters, "label", labels)
}

/// `GET /secrets`
pub(crate) async fn secret_list(call: Call) -> Outcome {
    let filters = call.filters_of(&SECRET_KEYS)?;
    let expiring = filters.flag("expiring")?;
    let now = now();
    let snapshot = call.snapshot().await?;
    let is_expiring = |secret: &Secret| secret.stage(now) > Stage::Good;
    let secrets: Vec<Secret> = snapshot
        .secrets()
        .filter(|secret| expiring.is_none_or(|wanted| wanted == is_expiring(secret)))
        .filter(|secret| {
            let spec = &secret.spec;
            matches(&filters, secret.id.as_str(), &spec.name, &spec.labels)
        })
        .map(|secret| redact::secret(secret))
        .collect();
    reply::json(&secrets)
}

/// `POST /secrets/create`
pub(crate) async fn secret_create(mut call: Call) -> Outcome {
    let spec: SecretSpec = call.json().await?;
    let request = ControlRequest::CreateSecret { spec };
    let made = call.cluster().submit(request).await?;
    let mut answer = json!({ "ID": made.id });
    if !made.warnings.is_empty() {
        answer["Warnings"] = json!(made.warnings);
    }
    reply::created(&answer)
}

async fn secret(call: &Call, given: &str) -> Outcome<Arc<Secret>> {
    Ok(call.snapshot().await?.find::<Secret>(given)?.clone())
}

/// `GET /secrets/{id}`
pub(crate) async fn secret_inspect(call: Call, given: String) -> Outcome {
    reply::json(&redact::secret(&*secret(&call, &given).await?))
}

/// `POST /secrets/{id}/update`
pub(crate) async fn secret_update(mut call: Call, given: String) -> Outcome {
    let spec: SecretSpec = call.json().await?;
    let version = call.query.version("secret")?;
    let id = secret(&call, &given).await?.id.clone();
    let request = ControlRequest::UpdateSecret { id, version, spec };
    call.cluster().submit(request).await?;
    reply::ok()
}

/// `DELETE /secrets/{id}`
pub(crate) async fn secret_remove(call: Call, given: String) -> Outcome {
    let id = secret(&call, &given).await?.id.clone();
    call.cluster()
        .submit(ControlRequest::RemoveSecret { id })
        .await?;
    reply::no_content()
}

/// `GET /configs`
pub(crate) async fn config_list(call: Call) -> Outcome {
    let filters = call.filters_of(&KEYS)?;
    let snapshot = call.snapshot().await?;
    let configs: Vec<Config> = snapshot
        .configs()
        .filter(|config| {
            let spec = &config.spec;
            matches(&filters, config.id.as_str(), &spec.name, &spec.labels)
        })
        .map(|config| redact::config(config))
        .collect();
    reply::json(&configs)
}

/// `POST /configs/create`
pub(crate) async fn config_create(mut call: Call) -> Outcome {
    let spec: ConfigSpec = call.json().await?;
    let request = ControlRequest::CreateConfig { spec };
    let made = call.cluster().submit(request).await?;
    reply::created(&json!({ "ID": made.id }))
}

async fn config(call: &Call, given: &str) -> Outcome<Arc<Config>> {
    Ok(call.snapshot().await?.find::<Config>(given)?.clone())
}

/// `GET /configs/{id}`
pub(crate) async fn config_inspect(call: Call, given: String) -> Outcome {
    reply::json(&redact::config(&*config(&call, &given).await?))
}

/// `POST /configs/{id}/update`
pub(crate) async fn config_update(mut call: Call, given: String) -> Outcome {
    let spec: ConfigSpec = call.json().await?;
    let version = call.query.version("config")?;
    let id = config(&call, &given).await?.id.clone();
    let request = ControlRequest::UpdateConfig { id, version, spec };
    call.cluster().submit(request).await?;
    reply::ok()
}

/// `DELETE /configs/{id}`
pub(crate) async fn config_remove(call: Call, given: String) -> Outcome {
    let id = config(&call, &given).await?.id.clone();
    call.cluster()
        .submit(ControlRequest::RemoveConfig { id })
        .await?;
    reply::no_content()
}
