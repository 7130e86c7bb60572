//! Containers: what they are, and their life from create to delete.

use std::collections::BTreeSet;

use http::StatusCode;
use serde::Serialize;
use serde_json::json;
use skep_engine::types::{
    ContainerConfig, ContainerInspect, UpdateConfig, WaitError, WaitResponse,
};
use skep_engine::{
    CommitOptions, CreateExtras, EngineError, ListOptions, RemoveOptions, StartExtras, StopOptions,
    WaitCondition,
};

use skep_model::mount::MountType;

use crate::networks;
use crate::platform;
use crate::reply;
use crate::state::{Call, from_value};
use crate::status::{ApiError, Outcome};
use crate::version::ApiVersion;

/// `GET /containers/json`
pub(crate) async fn list(call: Call) -> Outcome {
    let options = ListOptions {
        all: call.query.flag("all"),
        limit: call
            .query
            .number::<i64>("limit")?
            .map_or(0, |limit| usize::try_from(limit).unwrap_or(0)),
        size: call.query.flag("size"),
        filters: call.filters()?,
    };
    reply::json(&call.engine().container_list(options).await?)
}

/// `POST /containers/create`
pub(crate) async fn create(mut call: Call) -> Outcome {
    let given: serde_json::Value = call.json().await?;
    // As for dockerd: a body that says nothing of the container itself is no configuration.
    let beside = ["HostConfig", "NetworkingConfig"];
    let is_empty = given.as_object().is_none_or(|fields| {
        fields
            .keys()
            .all(|key| beside.iter().any(|name| name.eq_ignore_ascii_case(key)))
    });
    if is_empty && (given.is_object() || given.is_null()) {
        return Err(ApiError::invalid(
            "config cannot be empty in order to create a container",
        ));
    }
    let mounts = given["HostConfig"]["Mounts"].as_array();
    let kinds = mounts.into_iter().flatten().map(|mount| &mount["Type"]);
    for kind in kinds.filter_map(serde_json::Value::as_str) {
        if from_value::<MountType>(json!(kind)).is_err() {
            return Err(ApiError::invalid(format!(
                "invalid mount config for type \"{kind}\": mount type unknown"
            )));
        }
    }
    let mut config: ContainerConfig = from_value(given)?;
    let networks = config.networking_config.as_ref();
    let networks = networks.map_or(0, |networking| networking.endpoints_config.len());
    if call.version < ApiVersion::new(1, 44) && networks > 1 {
        return Err(ApiError::invalid(
            "Container cannot be created with multiple network endpoints",
        ));
    }
    let wanted = platform::parse(call.query.text("platform"))?;
    if let Some(wanted) = wanted {
        let image = call.engine().image_inspect(&config.image).await?;
        platform::check(&config.image, &wanted, &image)?;
    }
    networks::name_cluster_networks(&call, &mut config).await?;
    let name = match call.query.text("name").trim_start_matches('/') {
        "" => None,
        name => Some(name),
    };
    let made = call
        .engine()
        .container_create(name, config, CreateExtras::default())
        .await?;
    reply::created(&made)
}

/// `GET /containers/{id}/json`
pub(crate) async fn inspect(call: Call, name: String) -> Outcome {
    let size = call.query.flag("size");
    let mut page = call.engine().container_inspect(&name, size).await?;
    if call.version < ApiVersion::new(1, 45) {
        add_old_aliases(&mut page);
    }
    reply::json(&page)
}

/// Among the aliases on networks that users made, old versions have the short id and the host name.
fn add_old_aliases(page: &mut ContainerInspect) {
    let short_id: String = page.id.chars().take(12).collect();
    let names = [short_id, page.config.hostname.clone()];
    for (network, endpoint) in &mut page.network_settings.networks {
        if matches!(network.as_str(), "bridge" | "default" | "host" | "none") {
            continue;
        }
        let aliases = endpoint.aliases.get_or_insert_default();
        aliases.extend(names.clone());
        let mut seen = BTreeSet::new();
        aliases.retain(|name| seen.insert(name.clone()));
    }
}

/// `GET /containers/{id}/top`
pub(crate) async fn top(call: Call, name: String) -> Outcome {
    let args = call.query.text("ps_args");
    reply::json(&call.engine().container_top(&name, args).await?)
}

/// `GET /containers/{id}/changes`
pub(crate) async fn changes(call: Call, name: String) -> Outcome {
    let changes = call.engine().container_changes(&name).await?;
    reply::json(&(!changes.is_empty()).then_some(changes))
}

/// `POST /containers/{id}/start`
pub(crate) async fn start(call: Call, name: String) -> Outcome {
    if !call.query.text("checkpoint").is_empty() {
        return Err(ApiError::not_implemented("checkpoints are not supported"));
    }
    call.engine()
        .container_start(&name, StartExtras::default())
        .await?;
    reply::no_content()
}

fn stop_options(call: &Call) -> Outcome<StopOptions> {
    let signal = call.query.text("signal");
    Ok(StopOptions {
        signal: (!signal.is_empty()).then(|| signal.to_owned()),
        timeout: call.query.number("t")?,
    })
}

/// `POST /containers/{id}/stop`
pub(crate) async fn stop(call: Call, name: String) -> Outcome {
    let options = stop_options(&call)?;
    call.engine().container_stop(&name, options).await?;
    reply::no_content()
}

/// `POST /containers/{id}/restart`
pub(crate) async fn restart(call: Call, name: String) -> Outcome {
    let options = stop_options(&call)?;
    call.engine().container_restart(&name, options).await?;
    reply::no_content()
}

/// `POST /containers/{id}/kill`
pub(crate) async fn kill(call: Call, name: String) -> Outcome {
    let signal = call.query.text("signal");
    call.engine().container_kill(&name, signal).await?;
    reply::no_content()
}

/// `POST /containers/{id}/pause`
pub(crate) async fn pause(call: Call, name: String) -> Outcome {
    call.engine().container_pause(&name).await?;
    reply::no_content()
}

/// `POST /containers/{id}/unpause`
pub(crate) async fn unpause(call: Call, name: String) -> Outcome {
    call.engine().container_unpause(&name).await?;
    reply::no_content()
}

/// `POST /containers/{id}/rename`
pub(crate) async fn rename(call: Call, name: String) -> Outcome {
    let new_name = call.query.text("name").trim_start_matches('/');
    if new_name.is_empty() {
        return Err(ApiError::invalid("Neither old nor new names may be empty"));
    }
    call.engine().container_rename(&name, new_name).await?;
    reply::no_content()
}

/// `POST /containers/{id}/update`
pub(crate) async fn update(mut call: Call, name: String) -> Outcome {
    let update: UpdateConfig = call.json().await?;
    let warnings = call.engine().container_update(&name, update).await?;
    reply::json(&serde_json::json!({ "Warnings": warnings }))
}

/// `POST /containers/{id}/resize`
pub(crate) async fn resize(call: Call, name: String) -> Outcome {
    let (height, width) = window(&call)?;
    call.engine().container_resize(&name, height, width).await?;
    reply::ok()
}

/// The `h` and `w` parameters.
pub(crate) fn window(call: &Call) -> Outcome<(u32, u32)> {
    let side = |key: &str, word: &str| {
        let text = call.query.text(key);
        text.parse::<u32>().map_err(|_| {
            let is_number = text.parse::<i128>().is_ok();
            let why = match is_number {
                true => "value out of range",
                false => "invalid syntax",
            };
            ApiError::invalid(format!("invalid resize {word} \"{text}\": {why}"))
        })
    };
    Ok((side("h", "height")?, side("w", "width")?))
}

/// `POST /containers/{id}/wait`. The head of the answer goes out at once: clients start the
/// container only when they know that the wait is registered.
pub(crate) async fn wait(call: Call, name: String) -> Outcome {
    let condition = WaitCondition::parse(call.query.text("condition"))?;
    let waiter = call.engine().container_wait(&name, condition)?;
    let done = async move {
        let answer = waiter.wait().await.unwrap_or_else(|error| WaitResponse {
            status_code: -1,
            error: Some(WaitError {
                message: error.to_string(),
            }),
        });
        Ok::<_, EngineError>(reply::line(&answer))
    };
    Ok(reply::stream(reply::JSON, futures_util::stream::once(done)))
}

/// `DELETE /containers/{id}`
///
/// `name` may be that of a link, `container/alias`.
pub(crate) async fn remove(call: Call, name: String) -> Outcome {
    if call.query.flag("link") {
        call.engine().container_unlink(&name).await?;
        return reply::no_content();
    }
    let options = RemoveOptions {
        force: call.query.flag("force"),
        volumes: call.query.flag("v"),
    };
    call.engine().container_remove(&name, options).await?;
    reply::no_content()
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ContainersPruned {
    containers_deleted: Option<Vec<String>>,
    space_reclaimed: i64,
}

/// `POST /containers/prune`
pub(crate) async fn prune(call: Call) -> Outcome {
    let pruned = call.engine().container_prune(&call.filters()?).await?;
    reply::json(&ContainersPruned {
        containers_deleted: (!pruned.removed.is_empty()).then_some(pruned.removed),
        space_reclaimed: pruned.space_reclaimed,
    })
}

/// `POST /commit`
pub(crate) async fn commit(mut call: Call) -> Outcome {
    let config = call.json_or_default::<Option<_>>().await?;
    let name = call.query.text("container").to_owned();
    if name.is_empty() {
        return Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "invalid container name or ID: value is empty",
        ));
    }
    let options = CommitOptions {
        repo: call.query.text("repo").to_owned(),
        tag: call.query.text("tag").to_owned(),
        comment: call.query.text("comment").to_owned(),
        author: call.query.text("author").to_owned(),
        pause: call.query.flag_or("pause", true),
        changes: call.query.all("changes"),
        config,
    };
    let id = call.engine().container_commit(&name, options).await?;
    reply::created(&serde_json::json!({ "Id": id }))
}
