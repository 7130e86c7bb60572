//! Images that a client brings to the cluster by way of this node, without what some node has already.

use serde::Deserialize;
use skep_engine::types::ProgressEvent;
use skep_engine::{LoadOptions, Progress};

use crate::image_transfer::follow;
use crate::reply;
use crate::state::Call;
use crate::status::{ApiError, Outcome};

/// Blobs asked about at once; an image has at most a few hundred layers.
const DIGESTS_MAX: usize = 2048;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Question {
    digests: Vec<String>,
}

/// `POST /skep/v1/images/missing`: which of these blobs no node has. Not part of Docker's API.
pub(crate) async fn missing(mut call: Call) -> Outcome {
    let question: Question = call.json().await?;
    if question.digests.len() > DIGESTS_MAX {
        return Err(ApiError::invalid(format!(
            "Digests: more than {DIGESTS_MAX} were given"
        )));
    }
    reply::json(&call.engine().blobs_missing(&question.digests).await?)
}

/// `POST /skep/v1/images/load`: an archive as of `/images/load` that need not have every layer. Not part
/// of Docker's API.
pub(crate) async fn load(mut call: Call) -> Outcome {
    let options = LoadOptions {
        partial: true,
        ..LoadOptions::default()
    };
    let archive = call.reader();
    let name = call.query.text("image").to_owned();
    let engine = call.engine().clone();
    let (progress, lines) = Progress::channel();
    let work = async move {
        // What it is called is in the archive, and may be something else.
        engine
            .image_load(archive, options, progress.clone())
            .await?;
        if let Some(image) = engine.image_owned(&name, false).await? {
            let tag = name.rsplit(':').next().unwrap_or_default();
            let (digest, size) = (image.digest, image.size);
            progress.send(ProgressEvent::status(format!(
                "{tag}: digest: {digest} size: {size}"
            )));
        }
        Ok(())
    };
    follow(work, lines).await
}
