//! `POST /build` and `POST /build/prune`: the classic builder. Progress is a stream of JSON lines.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::json;
use skep_engine::types::{HostConfig, Ulimit};
use skep_engine::{BuildOptions, Progress, RegistryAuth};

use crate::image_transfer::follow;
use crate::platform;
use crate::reply;
use crate::state::{Call, credentials, decode_base64url};
use crate::status::{ApiError, Outcome};

/// What to do instead of asking for BuildKit.
pub(crate) const NO_BUILDKIT: &str = "BuildKit is not supported by this daemon: build with the classic builder (DOCKER_BUILDKIT=0 docker build), or with `skep build`";

/// `POST /build`
pub(crate) async fn build(mut call: Call) -> Outcome {
    let options = options(&call)?;
    let context = call.reader();
    let (progress, lines) = Progress::channel();
    let engine = call.engine().clone();
    let work = async move {
        engine
            .image_build(context, options, progress)
            .await
            .map(drop)
    };
    follow(work, lines).await
}

/// `POST /build/prune`
pub(crate) async fn prune(call: Call) -> Outcome {
    let filters = call.filters()?;
    let mut keep = 0;
    for name in ["keep-storage", "reserved-space", "max-used-space"] {
        keep = call.query.number::<i64>(name)?.unwrap_or(keep);
    }
    if call.query.number::<i64>("min-free-space")?.unwrap_or(0) > 0 {
        return Err(ApiError::not_implemented(
            "min-free-space is not supported by this daemon: say how much to keep with max-used-space",
        ));
    }
    let pruned = call.engine().build_prune(&filters, keep).await?;
    reply::json(&json!({
        "CachesDeleted": (!pruned.removed.is_empty()).then_some(pruned.removed),
        "SpaceReclaimed": pruned.space_reclaimed,
    }))
}

/// The query and headers of a build.
fn options(call: &Call) -> Outcome<BuildOptions> {
    let query = &call.query;
    match query.text("version") {
        "" | "1" => {}
        "2" => return Err(ApiError::not_implemented(NO_BUILDKIT)),
        other => {
            return Err(ApiError::invalid(format!("invalid version {other}")));
        }
    }
    if query.flag("squash") {
        return Err(ApiError::invalid(
            "squash is not supported by this daemon: build without --squash",
        ));
    }
    if !matches!(query.text("outputs"), "" | "[]" | "null") {
        return Err(ApiError::not_implemented(
            "multiple and custom outputs are supported by BuildKit only, which this daemon does not have: build an image and export it",
        ));
    }
    let isolation = query.text("isolation");
    if !matches!(isolation, "" | "default") {
        return Err(ApiError::invalid(format!(
            "invalid isolation: '{isolation}': only `default` is there on Linux"
        )));
    }
    let number = |name: &str| Ok::<i64, ApiError>(query.number(name)?.unwrap_or(0));
    let extra_hosts = query.all("extrahosts");
    let security = query.all("securityopt");
    let host = HostConfig {
        network_mode: query.text("networkmode").to_owned(),
        shm_size: number("shmsize")?,
        memory: number("memory")?,
        memory_swap: number("memswap")?,
        cpu_shares: number("cpushares")?,
        cpu_period: number("cpuperiod")?,
        cpu_quota: number("cpuquota")?,
        cpuset_cpus: query.text("cpusetcpus").to_owned(),
        cpuset_mems: query.text("cpusetmems").to_owned(),
        cgroup_parent: query.text("cgroupparent").to_owned(),
        ulimits: json_of::<Option<Vec<Ulimit>>>(call, "ulimits")?
            .unwrap_or_default()
            .into(),
        extra_hosts: (!extra_hosts.is_empty()).then_some(extra_hosts),
        security_opt: (!security.is_empty()).then_some(security),
        ..HostConfig::default()
    };
    let build_args = json_of::<Option<BTreeMap<String, Option<String>>>>(call, "buildargs")?;
    let labels = json_of::<Option<BTreeMap<String, String>>>(call, "labels")?;
    let cache_from = json_of::<Option<Vec<String>>>(call, "cachefrom")?;
    Ok(BuildOptions {
        remote: query.text("remote").to_owned(),
        dockerfile: query.text("dockerfile").to_owned(),
        tags: query
            .all("t")
            .into_iter()
            .filter(|tag| !tag.is_empty())
            .collect(),
        quiet: query.flag("q"),
        no_cache: query.flag("nocache"),
        pull: query.flag("pull"),
        remove: query.flag_or("rm", true),
        force_remove: query.flag("forcerm"),
        build_args: build_args.unwrap_or_default(),
        labels: labels.unwrap_or_default(),
        target: query.text("target").to_owned(),
        platform: platform::parse(query.text("platform"))?,
        cache_from: cache_from.unwrap_or_default(),
        host,
        auths: registry_config(call)?,
    })
}

/// A parameter that is JSON; the default when it is not there.
fn json_of<T: DeserializeOwned + Default>(call: &Call, name: &str) -> Outcome<T> {
    match call.query.text(name) {
        "" => Ok(T::default()),
        text => serde_json::from_str(text).map_err(|error| {
            ApiError::invalid(format!("error reading build parameter {name}: {error}"))
        }),
    }
}

/// `X-Registry-Config`: credentials by registry.
fn registry_config(call: &Call) -> Outcome<BTreeMap<String, RegistryAuth>> {
    let text = call.header("x-registry-config");
    if text.is_empty() {
        return Ok(BTreeMap::new());
    }
    let wrong = |why: String| ApiError::invalid(format!("invalid X-Registry-Config header: {why}"));
    let bytes = decode_base64url(text).map_err(&wrong)?;
    let given: Option<BTreeMap<String, serde_json::Value>> =
        serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    given
        .unwrap_or_default()
        .into_iter()
        .map(|(host, auth)| {
            let auth = credentials(auth.to_string().as_bytes())
                .map_err(|error| wrong(error.to_string()))?;
            Ok((host, auth))
        })
        .collect()
}
