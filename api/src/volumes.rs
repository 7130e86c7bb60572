//! Volumes of this host.

use skep_engine::types::VolumeCreate;

use crate::reply;
use crate::state::Call;
use crate::status::{ApiError, Outcome};
use crate::version::ApiVersion;

/// `GET /volumes`
pub(crate) async fn list(call: Call) -> Outcome {
    let volumes = call.engine().volume_list(&call.filters()?).await?;
    reply::json(&serde_json::json!({ "Volumes": volumes, "Warnings": null }))
}

/// `POST /volumes/create`
pub(crate) async fn create(mut call: Call) -> Outcome {
    let bytes: serde_json::Value = call.json_or_default().await?;
    if bytes
        .get("ClusterVolumeSpec")
        .is_some_and(|spec| !spec.is_null())
    {
        return Err(ApiError::not_implemented(
            "ClusterVolumeSpec: cluster volumes (CSI) are not offered; leave out --type, --scope, \
             --sharing, --availability, --group, --secret, --topology-* and --*-bytes for a volume \
             of this node",
        ));
    }
    let volume: VolumeCreate = match bytes {
        serde_json::Value::Null => VolumeCreate::default(),
        given => crate::state::from_json(given.to_string().as_bytes())?,
    };
    reply::created(&call.engine().volume_create(volume).await?)
}

/// `GET /volumes/{name}`
pub(crate) async fn inspect(call: Call, name: String) -> Outcome {
    reply::json(&call.engine().volume_inspect(&name).await?)
}

/// `PUT /volumes/{name}`: only cluster volumes can be changed, and there are none.
pub(crate) async fn update(call: Call, name: String) -> Outcome {
    if !call.cluster().local().is_manager {
        return Err(ApiError::unavailable(
            "volume update only valid for cluster volumes, but swarm is unavailable",
        ));
    }
    call.query.version("swarm object")?;
    Err(ApiError::not_found(format!("volume {name} not found")))
}

/// `DELETE /volumes/{name}`
pub(crate) async fn remove(call: Call, name: String) -> Outcome {
    let force = call.query.flag("force");
    call.engine().volume_remove(&name, force).await?;
    reply::no_content()
}

/// `POST /volumes/prune`
pub(crate) async fn prune(call: Call) -> Outcome {
    let mut filters = call.filters()?;
    // Until then, a prune took volumes with names too.
    if call.version < ApiVersion::new(1, 42) {
        filters = filters.with("all", "true");
    }
    let pruned = call.engine().volume_prune(&filters).await?;
    reply::json(&serde_json::json!({
        "VolumesDeleted": pruned.removed,
        "SpaceReclaimed": pruned.space_reclaimed,
    }))
}
