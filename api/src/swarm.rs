//! `/swarm`: this node's membership and the cluster's settings.

use serde::Serialize;
use serde_json::{Map, Value};
use skep_model::{
    Cluster, ClusterId, ClusterSpec, ControlRequest, JoinTokens, Timestamp, Version, node::TlsInfo,
};

use crate::cluster::{InitRequest, JoinRequest};
use crate::redact;
use crate::reply;
use crate::state::{Call, from_json};
use crate::status::{ApiError, Outcome};

/// The cluster as `info` shows it; `GET /swarm` adds the tokens.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ClusterInfo {
    #[serde(rename = "ID")]
    id: ClusterId,
    version: Version,
    created_at: Timestamp,
    updated_at: Timestamp,
    spec: ClusterSpec,
    #[serde(rename = "TLSInfo")]
    tls_info: TlsInfo,
    root_rotation_in_progress: bool,
    default_addr_pool: Vec<String>,
    subnet_size: u8,
    data_path_port: u16,
}

impl ClusterInfo {
    pub(crate) fn of(cluster: &Cluster) -> Self {
        Self {
            id: cluster.id.clone(),
            version: cluster.version,
            created_at: cluster.created_at,
            updated_at: cluster.updated_at,
            spec: redact::cluster_spec(cluster),
            tls_info: cluster.tls_info.clone(),
            root_rotation_in_progress: cluster.root_rotation_in_progress,
            default_addr_pool: cluster
                .default_addr_pool
                .iter()
                .map(ToString::to_string)
                .collect(),
            subnet_size: cluster.subnet_size,
            data_path_port: cluster.data_path_port,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Swarm {
    #[serde(flatten)]
    info: ClusterInfo,
    join_tokens: JoinTokens,
}

/// `GET /swarm`
pub(crate) async fn inspect(call: Call) -> Outcome {
    let snapshot = call.snapshot().await?;
    let cluster = cluster_of(&snapshot)?;
    reply::json(&Swarm {
        info: ClusterInfo::of(cluster),
        join_tokens: cluster.join_tokens.clone(),
    })
}

fn cluster_of(snapshot: &skep_store::Snapshot) -> Outcome<&Cluster> {
    snapshot
        .cluster()
        .map(AsRef::as_ref)
        .ok_or_else(|| ApiError::unavailable("the cluster has not been set up yet"))
}

/// `POST /swarm/init`; the answer is the node's id.
pub(crate) async fn init(mut call: Call) -> Outcome {
    let body = membership_body(&mut call).await?;
    let mut request: InitRequest = typed(&body)?;
    let given = body.get("Spec").cloned().unwrap_or_default();
    request.spec = merge(&ClusterSpec::default(), given)?;
    if request.spec.name.is_empty() {
        request.spec.name = "default".to_owned();
    }
    if request.spec.name != "default" {
        return Err(ApiError::invalid("swarm spec must be named \"default\""));
    }
    let node = call
        .cluster()
        .init(request)
        .await
        .map_err(ApiError::local)?;
    reply::json(&node)
}

/// `POST /swarm/join`
pub(crate) async fn join(mut call: Call) -> Outcome {
    let body = membership_body(&mut call).await?;
    let request: JoinRequest = typed(&body)?;
    if request.remote_addrs.is_empty() {
        return Err(ApiError::invalid(
            "at least 1 RemoteAddr is required to join",
        ));
    }
    call.cluster()
        .join(request)
        .await
        .map_err(ApiError::local)?;
    reply::ok()
}

/// A body without the empty texts that Go clients send for an availability nobody chose.
async fn membership_body(call: &mut Call) -> Outcome<Map<String, Value>> {
    let mut body: Map<String, Value> = call.json().await?;
    body.retain(|key, value| {
        !(value.is_null() || key == "Availability" && value.as_str() == Some(""))
    });
    Ok(body)
}

fn typed<T: serde::de::DeserializeOwned>(body: &Map<String, Value>) -> Outcome<T> {
    let text = serde_json::to_vec(body)
        .map_err(|error| ApiError::invalid(format!("invalid JSON: {error}")))?;
    from_json(&text)
}

/// `POST /swarm/leave`
pub(crate) async fn leave(call: Call) -> Outcome {
    let force = call.query.flag("force");
    call.cluster().leave(force).await.map_err(ApiError::local)?;
    reply::ok()
}

/// `POST /swarm/update`
pub(crate) async fn update(mut call: Call) -> Outcome {
    let given: Value = call.json().await?;
    let version = call.query.version("swarm")?;
    let snapshot = call.snapshot().await?;
    let spec = merge(&cluster_of(&snapshot)?.spec, given)?;
    let request = ControlRequest::UpdateCluster {
        version,
        spec: Box::new(spec),
        rotate_worker_token: call.query.flag("rotateWorkerToken"),
        rotate_manager_token: call.query.flag("rotateManagerToken"),
        rotate_unlock_key: call.query.flag("rotateManagerUnlockKey"),
        rotate_data_keys: call.query.flag("rotateDataKeys"),
    };
    call.cluster().submit(request).await?;
    reply::ok()
}

/// Settings that a zero leaves as they are: Go clients cannot leave a number out.
const ZERO_KEEPS: [&str; 6] = [
    "SnapshotInterval",
    "LogEntriesForSlowFollowers",
    "ElectionTick",
    "HeartbeatTick",
    "HeartbeatPeriod",
    "NodeCertExpiry",
];

/// The settings after an update: what is not given stays.
fn merge(current: &ClusterSpec, given: Value) -> Outcome<ClusterSpec> {
    // Read once as it is, so that an error names the field the client wrote.
    if !given.is_null() {
        let _: ClusterSpec = from_json(given.to_string().as_bytes())?;
    }
    let mut merged = serde_json::to_value(current)
        .map_err(|error| ApiError::invalid(format!("invalid JSON: {error}")))?;
    lay_over(&mut merged, given);
    from_json(merged.to_string().as_bytes())
}

fn lay_over(base: &mut Value, given: Value) {
    match (base, given) {
        (Value::Object(base), Value::Object(given)) => {
            for (key, value) in given {
                let keeps = value.is_null()
                    || (value.as_i64() == Some(0) && ZERO_KEEPS.contains(&key.as_str()));
                if keeps {
                    continue;
                }
                match base.get_mut(&key) {
                    Some(current) if key != "Labels" => lay_over(current, value),
                    _ => {
                        base.insert(key, value);
                    }
                }
            }
        }
        (_, Value::Null) => (),
        (base, given) => *base = given,
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UnlockBody {
    #[serde(default)]
    unlock_key: String,
}

/// `POST /swarm/unlock`
pub(crate) async fn unlock(mut call: Call) -> Outcome {
    let body: UnlockBody = call.json().await?;
    call.cluster()
        .unlock(&body.unlock_key)
        .await
        .map_err(ApiError::local)?;
    reply::ok()
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RescueBody {
    #[serde(default)]
    token: String,
}

/// `POST /skep/v1/swarm/rescue`: replaces a certificate that has run out. An addition to the API.
pub(crate) async fn rescue(mut call: Call) -> Outcome {
    let body: RescueBody = call.json().await?;
    let until = call.cluster().rescue(&body.token).await;
    let until = until.map_err(ApiError::local)?;
    reply::json(&serde_json::json!({ "Until": until }))
}

/// `GET /swarm/unlockkey`
pub(crate) async fn unlock_key(call: Call) -> Outcome {
    let key = call.cluster().unlock_key().await?;
    reply::json(&serde_json::json!({ "UnlockKey": key }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use skep_model::Nanos;

    #[test]
    fn an_update_changes_what_it_names_and_zeros_keep() {
        let mut current = ClusterSpec::default();
        current.raft.snapshot_interval = 77;
        current.labels = [("old".to_owned(), "1".to_owned())].into();
        let given = json!({
            "Labels": {"new": "2"},
            "Orchestration": {"TaskHistoryRetentionLimit": 0},
            "Raft": {"SnapshotInterval": 0, "ElectionTick": 0, "HeartbeatTick": 3},
            "Dispatcher": {},
            "CAConfig": {"NodeCertExpiry": 3_600_000_000_000i64, "ForceRotate": 2},
            "EncryptionConfig": {"AutoLockManagers": true},
        });
        let merged = merge(&current, given).unwrap();
        assert_eq!(merged.raft.snapshot_interval, 77);
        assert_eq!(merged.raft.election_tick, 10);
        assert_eq!(merged.raft.heartbeat_tick, 3);
        assert_eq!(merged.orchestration.task_history_retention_limit, Some(0));
        assert_eq!(merged.ca_config.node_cert_expiry, Nanos::from_secs(3600));
        assert_eq!(merged.ca_config.force_rotate, 2);
        assert!(merged.encryption_config.auto_lock_managers);
        assert_eq!(merged.labels.keys().collect::<Vec<_>>(), ["new"]);
    }

    #[test]
    fn a_wrong_setting_is_named() {
        let error = merge(
            &ClusterSpec::default(),
            json!({"Raft": {"SnapshotInterval": "x"}}),
        )
        .unwrap_err();
        assert!(
            error.message().contains("Raft.SnapshotInterval"),
            "{}",
            error.message()
        );
    }
}
