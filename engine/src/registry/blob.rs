//! One blob's way here: in parts, from where it stopped, until it has its digest.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::peers::{Holder, Holders, Peers};
use super::pull::Downloads;
use super::source::{Again, Source};
use crate::error::{EngineError, IoContext as _, Kind, Result};
use crate::image::digest::Digest;
use crate::image::store::ImageStore;
use crate::streams::{Progress, blocking};
use crate::types::ProgressEvent;

/// How often a blob is tried.
const ATTEMPTS_MAX: u32 = 5;
/// Largest blob taken.
const BLOB_BYTES_MAX: i64 = 1 << 40;
/// Time between progress lines of one blob.
const REPORT_PERIOD: Duration = Duration::from_millis(100);

/// Refuses a blob that is said to have more bytes than any has.
pub(super) fn check_size(digest: &Digest, size: i64) -> Result<()> {
    match (0..=BLOB_BYTES_MAX).contains(&size) {
        true => Ok(()),
        false => Err(EngineError::invalid(format!(
            "blob {digest} has an impossible size of {size} bytes"
        ))),
    }
}

/// Gets a blob that other hosts have, by its digest alone.
pub(crate) async fn blob_from_peers(
    store: &Arc<ImageStore>,
    downloads: &Downloads,
    peers: Arc<dyn Peers>,
    digest: &Digest,
) -> Result<()> {
    let _turn = downloads.turns.take(digest).await;
    if store.blobs.has(digest) {
        return Ok(());
    }
    let holders = Holders::find(peers, digest.as_str(), Some(digest), false).await?;
    check_size(digest, holders.size)?;
    let (source, blob) = (Source::Peers(&holders), (digest, holders.size));
    download_alone((store, downloads), &source, blob, &Progress::none()).await
}

/// Downloads a blob, as often as that is worth trying; `blob` is its digest and size.
pub(super) async fn download_alone(
    place: (&Arc<ImageStore>, &Downloads),
    source: &Source<'_>,
    (digest, size): (&Digest, i64),
    progress: &Progress,
) -> Result<()> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let mut part = Part::default();
        let tried = download_once(place, source, (digest, size), progress, &mut part);
        let Err(error) = tried.await else {
            return Ok(());
        };
        let again = match error.kind() {
            // What was there before may be what is wrong.
            Kind::Invalid if part.resumed => Again::AtOnce,
            _ => source.after_failure(digest, part.from.as_ref(), &error),
        };
        if again == Again::Never || attempt >= ATTEMPTS_MAX {
            return Err(error);
        }
        tracing::warn!(%error, %digest, attempt, "download is tried again");
        if again == Again::Later {
            pause(digest, attempt, progress).await;
        }
    }
}

/// Where what came of a blob in one attempt is from.
#[derive(Default)]
pub(super) struct Part {
    /// A part was there before.
    resumed: bool,
    from: Option<Holder>,
}

/// Waits before a download is tried again, and says so.
async fn pause(digest: &Digest, attempt: u32, progress: &Progress) {
    let wait = 1 << attempt.min(4);
    for left in (1..=wait).rev() {
        let text = format!(
            "Retrying in {left} second{}",
            if left == 1 { "" } else { "s" }
        );
        progress.send(ProgressEvent::about(digest.short(), text));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Fetches a blob, or the rest of it; `blob` is its digest and size.
pub(super) async fn download_once(
    (store, downloads): (&Arc<ImageStore>, &Downloads),
    source: &Source<'_>,
    (digest, size): (&Digest, i64),
    progress: &Progress,
    part: &mut Part,
) -> Result<()> {
    let blobs = store.blobs.clone();
    let wanted = digest.clone();
    let mut writer = blocking(move || blobs.resume(&wanted)).await?;
    let total = u64::try_from(size).unwrap_or(0);
    if writer.length() > total {
        writer.restart()?;
    }
    // Until it is whole and in its place.
    let growth = downloads.growing.begin(digest, writer.length());
    if writer.length() < total || total == 0 {
        let (resumed, mut body) = source.blob(digest, writer.length()).await?;
        if !resumed && writer.length() > 0 {
            writer.restart()?;
        }
        part.resumed = writer.length() > 0;
        part.from = body.holder().cloned();
        let mut reported = Instant::now();
        while let Some(chunk) = body.next().await? {
            if writer.length() + chunk.len() as u64 > total {
                return Err(EngineError::invalid(format!(
                    "blob {digest} is longer than its {size} bytes"
                )));
            }
            // A write of one chunk into the page cache is shorter than handing
            // it to another thread.
            writer
                .write_all(&chunk)
                .during(|| format!("cannot write blob {digest}"))?;
            growth.reached(writer.length());
            if reported.elapsed() >= REPORT_PERIOD {
                reported = Instant::now();
                let done = i64::try_from(writer.length()).unwrap_or(size);
                progress.send(ProgressEvent::progress(
                    digest.short(),
                    "Downloading",
                    done,
                    size,
                ));
            }
        }
        if writer.length() < total {
            return Err(EngineError::unavailable(format!(
                "blob {digest} ended after {} of {size} bytes",
                writer.length()
            )));
        }
    }
    progress.send(ProgressEvent::about(digest.short(), "Verifying Checksum"));
    let expected = digest.clone();
    let committed = blocking(move || writer.commit(Some(&expected)).map(|_| ())).await;
    drop(growth);
    committed
}
