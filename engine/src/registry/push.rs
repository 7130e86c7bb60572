//! Pushing an image: blobs the registry does not have, then the manifest.

use std::io::Read as _;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

use super::client::{Answer, Registries, Repository, resolve};
use crate::error::{EngineError, IoContext as _, Result};
use crate::image::digest::Digest;
use crate::image::manifest::{DOCUMENT_BYTES_MAX, Document, OCI_MANIFEST};
use crate::image::reference::Reference;
use crate::image::store::{Image, ImageStore};
use crate::options::RegistryAuth;
use crate::streams::Progress;
use crate::types::ProgressEvent;

/// Blobs sent at the same time.
const UPLOADS_MAX: usize = 3;
/// Bytes read from disk at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Pushes an image under a tag; the digest of its manifest. Call during an
/// activity of the store.
pub(crate) async fn push(
    store: &Arc<ImageStore>,
    registries: &Registries,
    image: &Image,
    target: &Reference,
    auth: &RegistryAuth,
    progress: &Progress,
) -> Result<(Digest, u64)> {
    let repository = registries.repository(target, auth, true);
    let repository = &repository;
    let record = &image.record;
    for layer in &record.layers {
        let digest: Digest = layer.digest.parse()?;
        progress.send(ProgressEvent::about(digest.short(), "Preparing"));
    }
    let mut blobs: Vec<(Digest, bool)> = Vec::new();
    for layer in &record.layers {
        let digest: Digest = layer.digest.parse()?;
        if !blobs.iter().any(|(known, _)| *known == digest) {
            blobs.push((digest, true));
        }
    }
    blobs.push((record.id.clone(), false));
    futures_util::stream::iter(blobs)
        .map(|(digest, shown)| async move {
            let silent = Progress::none();
            let progress = if shown { progress } else { &silent };
            upload(store, repository, &digest, progress).await
        })
        .buffer_unordered(UPLOADS_MAX)
        .try_collect::<Vec<()>>()
        .await?;
    let manifest = store.blobs.read(&record.manifest, DOCUMENT_BYTES_MAX)?;
    let said: Document =
        serde_json::from_slice(&manifest).during(|| "cannot read the manifest".into())?;
    let media_type = match said.media_type.as_str() {
        "" => OCI_MANIFEST.to_owned(),
        given => given.to_owned(),
    };
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&media_type) {
        headers.insert(CONTENT_TYPE, value);
    }
    let tag = target.tag.as_deref().unwrap_or("latest");
    let path = repository.path(&format!("manifests/{tag}"));
    let size = manifest.len() as u64;
    let answer = repository
        .request(Method::PUT, &path, headers, Some(manifest.into()))
        .await?;
    if !answer.response.status().is_success() {
        return Err(refused(repository, answer).await);
    }
    Ok((record.manifest.clone(), size))
}

async fn upload(
    store: &Arc<ImageStore>,
    repository: &Repository<'_>,
    digest: &Digest,
    progress: &Progress,
) -> Result<()> {
    let path = repository.path(&format!("blobs/{digest}"));
    let there = repository
        .request(Method::HEAD, &path, HeaderMap::new(), None)
        .await?;
    if there.response.status() == StatusCode::OK {
        progress.send(ProgressEvent::about(digest.short(), "Layer already exists"));
        return Ok(());
    }
    let path = repository.path("blobs/uploads/");
    let begun = repository
        .request(Method::POST, &path, HeaderMap::new(), Some(Bytes::new()))
        .await?;
    if begun.response.status() != StatusCode::ACCEPTED {
        return Err(refused(repository, begun).await);
    }
    let location = begun
        .response
        .headers()
        .get(LOCATION)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| EngineError::unavailable("registry names no place for the upload"))?;
    let url = resolve(&format!("{}{path}", begun.endpoint.base), location);
    let separator = if url.contains('?') { '&' } else { '?' };
    let url = format!("{url}{separator}digest={digest}");
    let size = store.blobs.size(digest)?;
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    let body = file_body(store, digest, size, progress.clone())?;
    let token = repository.token(&begun.endpoint);
    let response = repository
        .follow(
            &begun.endpoint,
            Method::PUT,
            &url,
            &headers,
            token,
            Some(body),
        )
        .await?;
    if response.status() != StatusCode::CREATED {
        let answer = Answer {
            endpoint: begun.endpoint,
            response,
        };
        return Err(refused(repository, answer).await);
    }
    progress.send(ProgressEvent::about(digest.short(), "Pushed"));
    Ok(())
}

/// A blob's bytes, read as they are sent.
fn file_body(
    store: &Arc<ImageStore>,
    digest: &Digest,
    size: u64,
    progress: Progress,
) -> Result<super::transport::Body> {
    let file = store.blobs.open_blob(digest)?;
    let short = digest.short().to_owned();
    let total = i64::try_from(size).unwrap_or(i64::MAX);
    let pieces = futures_util::stream::unfold((file, 0i64), move |(mut file, sent)| {
        let (short, progress) = (short.clone(), progress.clone());
        async move {
            let read = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; PIECE_BYTES];
                let count = file.read(&mut piece)?;
                piece.truncate(count);
                Ok::<_, std::io::Error>((file, piece))
            })
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)));
            match read {
                Ok((_, piece)) if piece.is_empty() => None,
                Ok((file, piece)) => {
                    let sent = sent + piece.len() as i64;
                    progress.send(ProgressEvent::progress(short, "Pushing", sent, total));
                    Some((Ok(Frame::data(Bytes::from(piece))), (file, sent)))
                }
                Err(error) => {
                    tracing::warn!(%error, "a blob cannot be read");
                    None
                }
            }
        }
    });
    Ok(BodyExt::boxed(StreamBody::new(pieces)))
}

async fn refused(repository: &Repository<'_>, answer: Answer) -> EngineError {
    match answer.response.status() {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            EngineError::unauthorized("denied: requested access to the resource is denied")
        }
        _ => repository.refused(answer, "").await,
    }
}
