//! Pulling an image: manifest, configuration, layers in parallel, then unpacking
//! in order.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _};
use http::header::LINK;
use http::{HeaderMap, Method};

use super::client::{Fetched, Registries, Repository, SMALL_BODY_MAX, collect, next_chunk};
use crate::error::{EngineError, IoContext as _, Kind, Result};
use crate::image::assemble::{Parts, assemble};
use crate::image::digest::{Digest, chain_ids};
use crate::image::manifest::{
    self, ConfigFile, DOCUMENT_BYTES_MAX, Document, Kind as DocumentKind, host_platform,
};
use crate::image::reference::Reference;
use crate::image::store::{Image, ImageStore};
use crate::options::{PullOptions, RegistryAuth};
use crate::streams::{Progress, blocking};
use crate::turns::Turns;
use crate::types::{Descriptor, DistributionInspect, Platform, ProgressEvent};

/// How often a layer is tried.
const ATTEMPTS_MAX: u32 = 5;
/// Time between progress lines of one layer.
const REPORT_PERIOD: Duration = Duration::from_millis(100);
/// Indexes inside indexes.
const NESTING_MAX: usize = 4;
/// Tags of one repository pulled at once.
const TAGS_MAX: usize = 10_000;
/// Largest layer taken.
const LAYER_BYTES_MAX: i64 = 1 << 40;

/// What pulls share.
#[derive(Debug, Default)]
pub(crate) struct Downloads {
    /// One download per blob at a time; who comes second finds it there.
    turns: Turns<Digest>,
    /// One unpacking per image at a time.
    unpacking: Turns<Digest>,
}

/// What a pull found out.
#[derive(Debug)]
pub(crate) struct Pulled {
    pub(crate) image: Arc<Image>,
    /// Digest of what the name stands for at the registry (index or manifest).
    pub(crate) digest: Digest,
    /// Whether the name stood for this image here before.
    pub(crate) up_to_date: bool,
}

/// Pulls one image. Call during an activity of the store.
pub(crate) async fn pull(
    store: &Arc<ImageStore>,
    registries: &Registries,
    downloads: &Downloads,
    reference: &Reference,
    options: &PullOptions,
    progress: &Progress,
) -> Result<Pulled> {
    let wanted = options.platform.clone().unwrap_or_else(host_platform);
    let which = which(reference);
    // Content never changes under a digest: what is here need not be asked for.
    if let Some(digest) = &reference.digest
        && let Some(image) = store.named(&reference.with_digest(digest.clone()))
        && manifest::platform_fits(&image.config.platform(), &wanted)
    {
        return Ok(Pulled {
            image,
            digest: digest.clone(),
            up_to_date: true,
        });
    }
    let tag = reference.tag.clone().unwrap_or_else(|| which.clone());
    let repository = registries.repository(reference, &options.auth, false);
    let top = repository.manifest(&which).await?;
    progress.send(ProgressEvent {
        progress_detail: None,
        ..ProgressEvent::about(tag, format!("Pulling from {}", reference.path()))
    });
    let digest = top.digest.clone();
    let (bytes, config, layers) = choose(&repository, top, &wanted, reference).await?;
    let id = manifest::digest_of(&config)?;
    let before = store.named(&local_name(reference, &digest));
    let image = match store.get(&id) {
        Some(image) => image,
        None => {
            let parts = fetch(
                store,
                &repository,
                downloads,
                bytes,
                &config,
                layers,
                progress,
            )
            .await?;
            let _turn = downloads.unpacking.take(&id).await;
            unpack(store, parts, progress).await?
        }
    };
    let up_to_date = before.is_some_and(|before| before.id() == image.id());
    Ok(Pulled {
        image,
        digest,
        up_to_date,
    })
}

/// `latest`, a tag or a digest, as the registry is asked for it.
fn which(reference: &Reference) -> String {
    match (&reference.digest, &reference.tag) {
        (Some(digest), _) => digest.to_string(),
        (None, Some(tag)) => tag.clone(),
        (None, None) => "latest".into(),
    }
}

/// The name a pulled image gets here.
pub(crate) fn local_name(reference: &Reference, digest: &Digest) -> Reference {
    match (&reference.digest, &reference.tag) {
        (None, Some(_)) => reference.clone(),
        _ => reference.with_digest(digest.clone()),
    }
}

fn short(layer: &Descriptor) -> String {
    layer
        .digest
        .parse::<Digest>()
        .map_or_else(|_| layer.digest.clone(), |digest| digest.short().to_owned())
}

/// The manifest for the platform: its bytes, its configuration, its layers.
async fn choose(
    repository: &Repository<'_>,
    top: Fetched,
    wanted: &Platform,
    reference: &Reference,
) -> Result<(Vec<u8>, Descriptor, Vec<Descriptor>)> {
    let mut document = top;
    for _ in 0..NESTING_MAX {
        match Document::parse(&document.bytes)? {
            DocumentKind::Image { config, layers } => {
                return Ok((document.bytes, *config, layers));
            }
            DocumentKind::Index { manifests } => {
                let Some(chosen) = manifest::select(&manifests, wanted) else {
                    return Err(EngineError::not_found(format!(
                        "no matching manifest for {}/{}{} in the manifest list entries",
                        wanted.os,
                        wanted.architecture,
                        match wanted.variant.as_str() {
                            "" => String::new(),
                            variant => format!("/{variant}"),
                        }
                    )));
                };
                let digest = manifest::digest_of(chosen)?;
                document = repository.manifest(digest.as_str()).await?;
            }
        }
    }
    Err(EngineError::invalid(format!(
        "the index of {} has too many levels",
        reference.familiar()
    )))
}

/// Downloads the configuration and all layers that are not here.
async fn fetch(
    store: &Arc<ImageStore>,
    repository: &Repository<'_>,
    downloads: &Downloads,
    manifest: Vec<u8>,
    config: &Descriptor,
    layers: Vec<Descriptor>,
    progress: &Progress,
) -> Result<Parts> {
    let silent = Progress::none();
    if config.size > DOCUMENT_BYTES_MAX as i64 {
        return Err(EngineError::invalid("image configuration is too large"));
    }
    download(store, repository, downloads, config, &silent).await?;
    let config = store
        .blobs
        .read(&manifest::digest_of(config)?, DOCUMENT_BYTES_MAX)?;
    let parsed = ConfigFile::parse(&config)?;
    if parsed.rootfs.diff_ids.len() != layers.len() {
        return Err(EngineError::invalid(
            "layers from manifest don't match image configuration",
        ));
    }
    let mut present = Vec::new();
    for (layer, chain_id) in layers.iter().zip(chain_ids(&parsed.rootfs.diff_ids)) {
        let have =
            store.blobs.has(&manifest::digest_of(layer)?) && store.layers.get(&chain_id)?.is_some();
        let what = if have {
            "Already exists"
        } else {
            "Pulling fs layer"
        };
        progress.send(ProgressEvent::about(short(layer), what));
        present.push(have);
    }
    // A list of futures rather than a lazy stream: closures kept across an await
    // make the whole future unusable in a spawned task.
    let missing: Vec<_> = layers
        .iter()
        .zip(present)
        .filter(|(_, present)| !present)
        .map(|(layer, _)| download(store, repository, downloads, layer, progress))
        .collect();
    futures_util::stream::iter(missing)
        .buffer_unordered(repository.downloads_max())
        .try_collect::<Vec<()>>()
        .await?;
    Ok(Parts {
        config,
        layers,
        manifest: Some(manifest),
        parent: None,
        step: None,
    })
}

async fn download(
    store: &Arc<ImageStore>,
    repository: &Repository<'_>,
    downloads: &Downloads,
    blob: &Descriptor,
    progress: &Progress,
) -> Result<()> {
    let digest = manifest::digest_of(blob)?;
    if !(0..=LAYER_BYTES_MAX).contains(&blob.size) {
        return Err(EngineError::invalid(format!(
            "blob {digest} has an impossible size of {} bytes",
            blob.size
        )));
    }
    let _turn = downloads.turns.take(&digest).await;
    if store.blobs.has(&digest) {
        progress.send(ProgressEvent::about(digest.short(), "Download complete"));
        return Ok(());
    }
    let mut attempt = 0;
    loop {
        attempt += 1;
        match download_once(store, repository, &digest, blob.size, progress).await {
            Ok(()) => break,
            Err(error) if error.kind() == Kind::Unavailable && attempt < ATTEMPTS_MAX => {
                tracing::warn!(%error, %digest, attempt, "download is tried again");
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
            Err(error) => return Err(error),
        }
    }
    progress.send(ProgressEvent::about(digest.short(), "Download complete"));
    Ok(())
}

async fn download_once(
    store: &Arc<ImageStore>,
    repository: &Repository<'_>,
    digest: &Digest,
    size: i64,
    progress: &Progress,
) -> Result<()> {
    let blobs = store.blobs.clone();
    let wanted = digest.clone();
    let mut writer = blocking(move || blobs.resume(&wanted)).await?;
    let total = u64::try_from(size).unwrap_or(0);
    if writer.length() > total {
        writer.restart()?;
    }
    if writer.length() < total || total == 0 {
        let (resumed, response) = repository.blob(digest, writer.length()).await?;
        if !resumed && writer.length() > 0 {
            writer.restart()?;
        }
        let mut body = response.into_body();
        let mut reported = Instant::now();
        while let Some(chunk) = next_chunk(&mut body).await? {
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
    blocking(move || writer.commit(Some(&expected)).map(|_| ())).await
}

async fn unpack(store: &Arc<ImageStore>, parts: Parts, progress: &Progress) -> Result<Arc<Image>> {
    let (store, progress) = (Arc::clone(store), progress.clone());
    blocking(move || {
        assemble(&store, parts, |layer, done| {
            progress.send(match done {
                None => ProgressEvent::progress(short(layer), "Extracting", 0, layer.size),
                Some(_) => ProgressEvent::about(short(layer), "Pull complete"),
            });
        })
    })
    .await
}

/// Every tag of a repository, as its registry lists them.
pub(crate) async fn tags(
    registries: &Registries,
    reference: &Reference,
    auth: &RegistryAuth,
) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Page {
        #[serde(default)]
        tags: Option<Vec<String>>,
    }
    let repository = registries.repository(reference, auth, false);
    let mut tags = Vec::new();
    let mut next = Some(repository.path("tags/list"));
    while let Some(path) = next.take() {
        let answer = repository
            .request(Method::GET, &path, HeaderMap::new(), None)
            .await?;
        if !answer.response.status().is_success() {
            return Err(repository.refused(answer, "").await);
        }
        next = answer
            .response
            .headers()
            .get(LINK)
            .and_then(|value| next_page(value.to_str().ok()?));
        let page: Page = serde_json::from_slice(&collect(answer.response, SMALL_BODY_MAX).await?)
            .map_err(|error| {
            EngineError::unavailable("the registry's list of tags is not one").because(error)
        })?;
        tags.extend(page.tags.unwrap_or_default());
        if tags.len() > TAGS_MAX {
            return Err(EngineError::invalid(format!(
                "{} has more than {TAGS_MAX} tags",
                reference.familiar_name()
            )));
        }
    }
    Ok(tags)
}

/// The path in `</v2/…>; rel="next"`.
fn next_page(link: &str) -> Option<String> {
    let (target, rest) = link.strip_prefix('<')?.split_once('>')?;
    let path = match target.split_once("://") {
        Some((_, rest)) => &rest[rest.find('/')?..],
        None => target,
    };
    rest.contains("next").then(|| path.to_owned())
}

/// What a name stands for at its registry, and for which platforms.
///
/// Where the image `is_here`, a registry that cannot be reached is given up early: the answer only
/// pins what would run anyway.
pub(crate) async fn inspect(
    registries: &Registries,
    reference: &Reference,
    auth: &RegistryAuth,
    is_here: bool,
) -> Result<DistributionInspect> {
    let repository = registries.repository(reference, auth, false);
    let repository = if is_here {
        repository.into_courtesy()
    } else {
        repository
    };
    let top = repository.manifest(&which(reference)).await?;
    let descriptor = Descriptor {
        media_type: top.media_type.clone(),
        digest: top.digest.to_string(),
        size: top.bytes.len() as i64,
        ..Descriptor::default()
    };
    let platforms = match Document::parse(&top.bytes)? {
        DocumentKind::Index { manifests } => {
            manifests.into_iter().filter_map(|m| m.platform).collect()
        }
        DocumentKind::Image { config, .. } => {
            let digest = manifest::digest_of(&config)?;
            let (_, response) = repository.blob(&digest, 0).await?;
            let bytes = super::client::collect(response, DOCUMENT_BYTES_MAX).await?;
            if Digest::of(&bytes) != digest {
                return Err(EngineError::invalid(format!(
                    "image configuration is not {digest}"
                )));
            }
            vec![ConfigFile::parse(&bytes)?.platform()]
        }
    };
    Ok(DistributionInspect {
        descriptor,
        platforms,
    })
}
