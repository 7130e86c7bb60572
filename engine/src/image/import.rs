//! `docker import`: a root file system archive becomes an image of one layer.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt as _;
use tokio_util::io::StreamReader;
use tokio_util::sync::CancellationToken;

use super::assemble::{Parts, assemble};
use super::changes;
use super::compression::{HashingReader, decompress};
use super::digest::Digest;
use super::load::layer_descriptor;
use super::manifest::{ConfigFile, History, RootFs, host_platform};
use super::store::{Image, ImageStore};
use crate::clock;
use crate::engine::Engine;
use crate::error::{EngineError, IoContext as _, Kind, Result};
use crate::options::ImportOptions;
use crate::streams::Progress;
use crate::types::{ImageConfig, ProgressEvent};

/// How long a server may be silent.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes between two lines that say how far a download is.
const TOLD_BYTES: i64 = 512 << 10;

/// Makes the image; its name is the caller's affair. Call during an activity.
/// Blocking.
pub(crate) fn import(
    store: &Arc<ImageStore>,
    mut archive: impl Read,
    options: &ImportOptions,
    docker_version: String,
) -> Result<Arc<Image>> {
    let mut config = ImageConfig::default();
    changes::apply(&mut config, &options.changes)?;
    let mut writer = store.blobs.writer()?;
    std::io::copy(&mut archive, &mut writer).during(|| "cannot read the archive".into())?;
    let (blob, size) = writer.commit(None)?;
    let diff_id = diff_id_of(store, &blob)?;
    let platform = options.platform.clone().unwrap_or_else(host_platform);
    let now = clock::now();
    let file = ConfigFile {
        architecture: platform.architecture,
        variant: platform.variant,
        os: platform.os,
        created: now,
        comment: options.message.clone(),
        docker_version,
        config,
        rootfs: RootFs {
            kind: "layers".into(),
            diff_ids: vec![diff_id],
        },
        history: vec![History {
            created: now,
            comment: options.message.clone(),
            ..History::default()
        }],
        ..ConfigFile::default()
    };
    let parts = Parts {
        config: serde_json::to_vec(&file).during(|| "cannot write the configuration".into())?,
        layers: vec![layer_descriptor(&store.blobs, &blob, size)?],
        manifest: None,
        parent: None,
        step: None,
    };
    assemble(store, parts, |_, _| {})
}

/// The digest of a layer's archive, uncompressed.
pub(crate) fn diff_id_of(store: &ImageStore, blob: &Digest) -> Result<Digest> {
    let what = || format!("cannot read blob {blob}");
    let (_, plain) = decompress(store.blobs.open_blob(blob)?).during(what)?;
    let mut hashing = HashingReader::new(plain);
    std::io::copy(&mut hashing, &mut std::io::sink()).during(what)?;
    Ok(hashing.finish().0)
}

impl Engine {
    /// The same for an archive at a URL; without a scheme it is fetched with plain HTTP. How far it is
    /// goes to `progress`.
    pub async fn image_import_url(
        &self,
        source: &str,
        options: ImportOptions,
        progress: Progress,
    ) -> Result<String> {
        let url = match source.contains("://") {
            true => source.to_owned(),
            false => format!("http://{source}"),
        };
        let answer = self.registries.download(&url).await?;
        let status = answer.status();
        if !status.is_success() {
            let kind = match status.as_u16() {
                400 => Kind::Invalid,
                401 => Kind::Unauthorized,
                403 => Kind::Forbidden,
                404 => Kind::NotFound,
                _ => Kind::Internal,
            };
            return Err(EngineError::new(
                kind,
                format!("failed to GET {url} with status {status}"),
            ));
        }
        let total = answer.headers().get(CONTENT_LENGTH);
        let total = total.and_then(|value| value.to_str().ok()?.parse().ok());
        let total: i64 = total.unwrap_or(0);
        progress.send(ProgressEvent::status(format!("Downloading from {url}")));
        let mut received = 0;
        let mut told = 0;
        let pieces = answer.into_body().into_data_stream();
        // Whoever asked may go; what reads is a thread, and would go on.
        let gone = CancellationToken::new();
        let _guard = gone.clone().drop_guard();
        let pieces = stream::unfold((pieces, gone), |(mut pieces, gone)| async move {
            let piece = tokio::select! {
                piece = tokio::time::timeout(IDLE_TIMEOUT, pieces.next()) => match piece {
                    Ok(piece) => piece?.map_err(io::Error::other),
                    Err(_) => Err(io::Error::other("the server is silent")),
                },
                () = gone.cancelled() => Err(io::Error::other("the client is gone")),
            };
            Some((piece, (pieces, gone)))
        });
        let pieces = pieces.map(move |piece| {
            let piece = piece?;
            received += i64::try_from(piece.len()).unwrap_or(i64::MAX);
            if received - told >= TOLD_BYTES || received == total {
                told = received;
                progress.send(ProgressEvent {
                    id: None,
                    ..ProgressEvent::progress("", "Importing", received, total)
                });
            }
            Ok::<_, io::Error>(piece)
        });
        self.image_import(StreamReader::new(Box::pin(pieces)), options)
            .await
    }
}
