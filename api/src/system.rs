//! `_ping`, `version`, `events`, `system/df`: the daemon itself.

use futures_util::stream;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use skep_engine::EventQuery;

use crate::cluster::{LocalCluster, LocalState};
use crate::host::{self, Host};
use crate::reply::{self, BodyError};
use crate::state::Call;
use crate::status::{ApiError, Outcome};
use crate::version::ApiVersion;

/// `GET` and `HEAD /_ping`
pub(crate) async fn ping(call: Call) -> Outcome {
    let mut reply = http::Response::new(reply::full("OK"));
    let headers = reply.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE.as_str(), "text/plain; charset=utf-8"),
        (
            header::CACHE_CONTROL.as_str(),
            "no-cache, no-store, must-revalidate",
        ),
        (header::PRAGMA.as_str(), "no-cache"),
        ("builder-version", "1"),
        ("swarm", swarm_word(&call.cluster().local())),
    ] {
        let name = header::HeaderName::from_bytes(name.as_bytes()).expect("written as a name");
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(reply)
}

fn swarm_word(local: &LocalCluster) -> &'static str {
    match (local.state, local.is_manager) {
        (LocalState::Inactive, _) => "inactive",
        (LocalState::Pending, _) => "pending",
        (LocalState::Locked, _) => "locked",
        (LocalState::Error, _) => "error",
        (LocalState::Active, true) => "active/manager",
        (LocalState::Active, false) => "active/worker",
    }
}

/// `GET /version`
pub(crate) async fn version(call: Call) -> Outcome {
    let about = &call.state.about;
    let host = Host::read();
    let (max, min) = (ApiVersion::MAX.to_string(), ApiVersion::MIN.to_string());
    reply::json(&json!({
        "Platform": { "Name": format!("skep {}", about.version) },
        "Components": [{
            "Name": "Engine",
            "Version": about.version,
            "Details": {
                "ApiVersion": max,
                "Arch": host::architecture(),
                "BuildTime": about.build_time,
                "Experimental": "false",
                "GitCommit": about.git_commit,
                "GoVersion": "",
                "KernelVersion": host.kernel,
                "MinAPIVersion": min,
                "Os": "linux",
            },
        }],
        "Version": about.version,
        "ApiVersion": max,
        "MinAPIVersion": min,
        "GitCommit": about.git_commit,
        "GoVersion": "",
        "Os": "linux",
        "Arch": host::architecture(),
        "KernelVersion": host.kernel,
        "BuildTime": about.build_time,
    }))
}

/// `GET /events`. Changes of the cluster are on the engine's bus too, so one replay serves both.
pub(crate) async fn events(call: Call) -> Outcome {
    let query = EventQuery {
        since: call.query.time("since")?,
        until: call.query.time("until")?,
        filters: call.filters()?,
    };
    if let (Some(since), Some(until)) = (query.since, query.until)
        && since > until
    {
        return Err(ApiError::invalid(
            "`since` time is after `until` time: no event can match",
        ));
    }
    let events = call.engine().events(query)?;
    let lines = stream::unfold(events, |mut events| async move {
        let event = events.next().await?;
        Some((Ok::<_, BodyError>(reply::line(&event)), events))
    });
    Ok(reply::stream(reply::JSON, lines))
}

/// `GET /system/df`
pub(crate) async fn disk_usage(call: Call) -> Outcome {
    let wanted = call.query.all("type");
    let known = |kind: &str| match kind {
        "container" => Some("Containers"),
        "image" => Some("Images"),
        "volume" => Some("Volumes"),
        "build-cache" => Some("BuildCache"),
        _ => None,
    };
    if let Some(wrong) = wanted.iter().find(|kind| known(kind).is_none()) {
        return Err(ApiError::invalid(format!("unknown object type: {wrong}")));
    }
    let usage = call.engine().disk_usage().await?;
    let mut value = serde_json::to_value(&usage)
        .map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    if call.version < ApiVersion::new(1, 44) {
        for image in value["Images"].as_array_mut().into_iter().flatten() {
            image["VirtualSize"] = image["Size"].clone();
        }
    }
    if call.version < ApiVersion::new(1, 42) {
        value["BuilderSize"] = json!(0);
    }
    if let (Some(fields), false) = (value.as_object_mut(), wanted.is_empty()) {
        let keep: Vec<&str> = wanted.iter().filter_map(|kind| known(kind)).collect();
        fields.retain(|field, _| {
            keep.contains(&field.as_str()) || (field == "LayersSize" && keep.contains(&"Images"))
        });
    }
    reply::json(&value)
}

/// `GET /plugins`: none, ever.
pub(crate) async fn plugins(call: Call) -> Outcome {
    let filters = call.filters_of(&["capability", "enabled"])?;
    filters.flag("enabled")?;
    reply::json(&Value::Array(Vec::new()))
}

/// Everything about one plugin: there is none of any name.
pub(crate) async fn no_plugin(_: Call, name: String) -> Outcome {
    Err(ApiError::not_found(format!("plugin \"{name}\" not found")))
}

/// `POST /session`, `/grpc`, `/build/cancel`: only BuildKit speaks those.
pub(crate) async fn buildkit(_: Call) -> Outcome {
    Err(ApiError::not_implemented(crate::build::NO_BUILDKIT))
}

/// What this daemon will not do, said plainly.
pub(crate) async fn unsupported(_: Call, what: &'static str) -> Outcome {
    Err(ApiError::not_implemented(format!(
        "{what} is not supported by this daemon"
    )))
}
