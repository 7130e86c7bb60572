//! `/skep/v1/swarm/backup` and `/restore`: the whole state of a cluster as one sealed file. Not part
//! of Docker's API.

use serde::Deserialize;
use skep_model::Availability;

use crate::cluster::RestoreRequest;
use crate::reply;
use crate::state::{Call, decode_base64url};
use crate::status::{ApiError, Outcome};

/// The header with the passphrase of a restore, base64url: the body is the backup.
const PASSPHRASE: &str = "x-skep-passphrase";
/// The header with the key of the cluster's root where an external authority has it, base64url of PEM.
const ROOT_KEY: &str = "x-skep-root-key";

/// A header's text; empty when it is not there.
fn secret(call: &Call, name: &str) -> Outcome<String> {
    decode_base64url(call.header(name))
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| ApiError::invalid(format!("header {name} must be base64url of UTF-8")))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BackupBody {
    #[serde(default)]
    passphrase: String,
}

/// `POST /skep/v1/swarm/backup`: the answer is the backup.
pub(crate) async fn backup(mut call: Call) -> Outcome {
    let body: BackupBody = call.json().await?;
    let backup = call.cluster().backup(body.passphrase).await;
    let backup = backup.map_err(ApiError::local)?;
    Ok(reply::stream("application/octet-stream", backup))
}

/// `POST /skep/v1/swarm/restore?advertiseAddr=…`: the body is the backup.
pub(crate) async fn restore(mut call: Call) -> Outcome {
    let text = |name: &str| call.query.text(name).to_owned();
    let availability = match call.query.text("availability") {
        "" => None,
        "active" => Some(Availability::Active),
        "pause" => Some(Availability::Pause),
        "drain" => Some(Availability::Drain),
        other => {
            return Err(ApiError::invalid(format!(
                "invalid availability `{other}`: only active, pause and drain are supported"
            )));
        }
    };
    let request = RestoreRequest {
        passphrase: secret(&call, PASSPHRASE)?,
        root_key: secret(&call, ROOT_KEY)?,
        listen_addr: text("listenAddr"),
        advertise_addr: text("advertiseAddr"),
        data_path_addr: text("dataPathAddr"),
        availability,
    };
    let input = call.reader();
    let restored = call.cluster().restore(request, input).await;
    reply::json(&restored.map_err(ApiError::local)?)
}
