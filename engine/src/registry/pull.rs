//! Pulling an image: manifest, configuration, layers in parallel, then unpacking
//! in order.

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _};
use skep_model::image_source::ImageSource;

use super::authorize::NO_CREDENTIALS;
use super::blob::{check_size, download_alone};
use super::client::{Fetched, Registries};
use super::growing::Growing;
use super::peers::{Holders, Peers};
use super::source::Source;
use crate::error::{EngineError, Result};
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

/// Indexes inside indexes.
const NESTING_MAX: usize = 4;

/// What pulls share.
#[derive(Debug, Default)]
pub(crate) struct Downloads {
    /// How long the blobs are that are being downloaded.
    pub(super) growing: Growing,
    /// One download per blob at a time; who comes second finds it there.
    pub(super) turns: Turns<Digest>,
    /// One unpacking per image at a time.
    unpacking: Turns<Digest>,
}

impl Downloads {
    /// How long the blobs are that are being downloaded.
    pub(crate) fn growing(&self) -> Growing {
        self.growing.clone()
    }
}

/// What a pull found out.
#[derive(Debug)]
pub(crate) struct Pulled {
    pub(crate) image: Arc<Image>,
    /// Digest of what the name stands for (index or manifest).
    pub(crate) digest: Digest,
    /// Whether the name stood for this image here before.
    pub(crate) up_to_date: bool,
    /// Whether no registry has said that the name stands for this image.
    pub(crate) own: bool,
    /// Whether another host gave it.
    pub(crate) by_peer: bool,
}

/// One image to be pulled.
pub(crate) struct Pull<'a> {
    pub(crate) store: &'a Arc<ImageStore>,
    pub(crate) registries: &'a Registries,
    pub(crate) downloads: &'a Downloads,
    /// Who else may have it, if anybody is to be asked.
    pub(crate) peers: Option<Arc<dyn Peers>>,
    pub(crate) reference: &'a Reference,
    pub(crate) options: &'a PullOptions,
    pub(crate) progress: &'a Progress,
}

impl Pull<'_> {
    /// Pulls it. Call during an activity of the store.
    pub(crate) async fn run(&self) -> Result<Pulled> {
        if let Some(pulled) = self.present() {
            return Ok(pulled);
        }
        let source = self.options.source.unwrap_or(ImageSource::RegistryOnly);
        let peers = self.peers.clone().filter(|_| source.asks_peers());
        let Some(peers) = peers else {
            return match source.asks_registry() {
                true => self.by_registry(false).await,
                false => Err(EngineError::unavailable(
                    "this node may ask its peers only, and has none",
                )),
            };
        };
        match source {
            ImageSource::RegistryOnly => self.by_registry(false).await,
            ImageSource::PeersOnly => self.by_peers(peers, false).await,
            ImageSource::PeersFirst => match self.by_peers(Arc::clone(&peers), false).await {
                Ok(pulled) => Ok(pulled),
                Err(none) => {
                    let pulled = self.by_registry(false).await;
                    pulled.map_err(|error| both(&error, &none))
                }
            },
            ImageSource::RegistryFirst => match self.by_registry(true).await {
                Ok(pulled) => Ok(pulled),
                Err(error) => {
                    // A registry in trouble does not make a tag the word of whoever answers.
                    let is_tag = self.reference.digest.is_none();
                    let only_own = is_tag || is_refusal(&error.to_string());
                    let pulled = self.by_peers(peers, only_own).await;
                    pulled.map_err(|none| both(&error, &none))
                }
            },
        }
    }

    /// Content never changes under a digest: what is here need not be asked for.
    fn present(&self) -> Option<Pulled> {
        let (store, reference) = (self.store, self.reference);
        let digest = reference.digest.as_ref()?;
        let named = store.named(&reference.with_digest(digest.clone()));
        let own = named.is_none();
        // Under another name only where the name is all that is asked for.
        let other = || {
            store
                .by_digest(digest)
                .filter(|_| self.options.source.is_some())
        };
        let image = named.or_else(other)?;
        manifest::platform_fits(&image.config.platform(), &self.wanted()).then(|| Pulled {
            image,
            digest: digest.clone(),
            up_to_date: true,
            own,
            by_peer: false,
        })
    }

    fn wanted(&self) -> Platform {
        self.options.platform.clone().unwrap_or_else(host_platform)
    }

    /// Asks the registry with what there is to show to it, the image's own credentials first.
    async fn by_registry(&self, has_peers: bool) -> Result<Pulled> {
        let options = self.options;
        with_credentials(
            options.auth.clone(),
            options.other_auth.clone(),
            |auth| async move { self.by_registry_as(&auth, has_peers).await },
        )
        .await
    }

    /// A registry that cannot be reached is given up early where somebody else can be asked.
    async fn by_registry_as(&self, auth: &RegistryAuth, has_peers: bool) -> Result<Pulled> {
        let reference = self.reference;
        let repository = self.registries.repository(reference, auth, false);
        let repository = match has_peers {
            true => repository.into_courtesy(),
            false => repository,
        };
        let top = repository.manifest(&which(reference)).await?;
        self.obtain(&Source::Registry(&repository), top).await
    }

    async fn by_peers(&self, peers: Arc<dyn Peers>, only_own: bool) -> Result<Pulled> {
        let reference = match &self.reference.digest {
            Some(digest) => self.reference.with_digest(digest.clone()),
            None => self.reference.clone(),
        };
        let digest = reference.digest.as_ref();
        let holders = Holders::find(peers, &reference.to_string(), digest, only_own).await?;
        let top = holders.document(&holders.digest).await?;
        let pulled = self.obtain(&Source::Peers(&holders), top).await?;
        Ok(Pulled {
            own: !holders.confirmed,
            by_peer: true,
            ..pulled
        })
    }

    /// Gets what a manifest or index names.
    async fn obtain(&self, source: &Source<'_>, top: Fetched) -> Result<Pulled> {
        let (store, reference, progress) = (self.store, self.reference, self.progress);
        let tag = reference.tag.clone().unwrap_or_else(|| which(reference));
        progress.send(ProgressEvent {
            progress_detail: None,
            ..ProgressEvent::about(tag, format!("Pulling from {}", reference.path()))
        });
        let digest = top.digest.clone();
        let index = top.bytes.clone();
        let (bytes, config, layers) = choose(source, top, &self.wanted(), reference).await?;
        if index != bytes {
            // Other hosts ask for it by the same digest.
            let blobs = store.blobs.clone();
            blocking(move || blobs.put(&index).map(drop)).await?;
        }
        let id = manifest::digest_of(&config)?;
        let before = store.named(&local_name(reference, &digest));
        let image = match store.get(&id) {
            Some(image) => image,
            None => {
                let parts = self.fetch(source, bytes, &config, layers).await?;
                let _turn = self.downloads.unpacking.take(&id).await;
                unpack(store, parts, progress).await?
            }
        };
        let up_to_date = before.is_some_and(|before| before.id() == image.id());
        Ok(Pulled {
            image,
            digest,
            up_to_date,
            own: false,
            by_peer: false,
        })
    }

    /// Downloads the configuration and all layers that are not here.
    async fn fetch(
        &self,
        source: &Source<'_>,
        manifest: Vec<u8>,
        config: &Descriptor,
        layers: Vec<Descriptor>,
    ) -> Result<Parts> {
        let (store, progress) = (self.store, self.progress);
        let silent = Progress::none();
        if config.size > DOCUMENT_BYTES_MAX as i64 {
            return Err(EngineError::invalid("image configuration is too large"));
        }
        self.download(source, config, &silent).await?;
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
            let have = store.blobs.has(&manifest::digest_of(layer)?)
                && store.layers.get(&chain_id)?.is_some();
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
            .map(|(layer, _)| self.download(source, layer, progress))
            .collect();
        futures_util::stream::iter(missing)
            .buffer_unordered(source.downloads_max())
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
        &self,
        source: &Source<'_>,
        blob: &Descriptor,
        progress: &Progress,
    ) -> Result<()> {
        let (store, downloads) = (self.store, self.downloads);
        let digest = manifest::digest_of(blob)?;
        check_size(&digest, blob.size)?;
        let _turn = downloads.turns.take(&digest).await;
        if store.blobs.has(&digest) {
            progress.send(ProgressEvent::about(digest.short(), "Download complete"));
            return Ok(());
        }
        let lease = match source {
            Source::Registry(_) => self.by_sharers(&digest, blob.size, progress).await,
            Source::Peers(_) | Source::Peer(..) => Some(None),
        };
        if let Some(lease) = lease {
            let place = (store, downloads);
            let blob = (&digest, blob.size);
            let downloaded = download_alone(place, source, blob, progress).await;
            if let Some(lease) = lease {
                lease.end(downloaded.is_ok()).await;
            }
            downloaded?;
        }
        progress.send(ProgressEvent::about(digest.short(), "Download complete"));
        Ok(())
    }
}

/// Whether an error's text is a registry's word that this is not for whoever asked. What it keeps for
/// some is not to be had from a neighbour then. Many say of what they keep for others that there is none.
fn is_refusal(text: &str) -> bool {
    let no_manifest = text.contains("manifest for ") && text.contains(" not found: ");
    no_manifest || text.contains("name unknown") || is_denial(text)
}

/// Asks a registry with the image's own credentials, and with those that the cluster keeps for the
/// registry where there are none or they are refused. Where the cluster's are all there is and they are
/// refused, as when they have run out, nobody asks: what is for everybody needs none.
///
/// # Errors
/// Of the last credentials that were shown.
pub async fn with_credentials<T, Asked>(
    own: RegistryAuth,
    of_cluster: Option<RegistryAuth>,
    ask: impl Fn(RegistryAuth) -> Asked,
) -> Result<T>
where
    Asked: Future<Output = Result<T>>,
{
    let Some(of_cluster) = of_cluster else {
        return ask(own).await;
    };
    if own.is_empty() {
        return match ask(of_cluster).await {
            Err(error) if is_denial(&error.to_string()) => {
                ask(RegistryAuth::default()).await.map_err(|_| error)
            }
            first => first,
        };
    }
    match ask(own).await {
        Err(error) if is_denial(&error.to_string()) => ask(of_cluster).await,
        first => first,
    }
}

/// Whether it is about who asked, as far as the registry says so.
pub(crate) fn is_denial(text: &str) -> bool {
    let denied = text.contains("pull access denied") || text.contains(": unauthorized: ");
    denied || text.contains(NO_CREDENTIALS)
}

/// Why neither the registry nor another host gave an image.
fn both(registry: &EngineError, peers: &EngineError) -> EngineError {
    EngineError::new(registry.kind(), format!("{registry}; {peers}"))
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
    source: &Source<'_>,
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
                document = source.document(&digest).await?;
            }
        }
    }
    Err(EngineError::invalid(format!(
        "the index of {} has too many levels",
        reference.familiar()
    )))
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn auth(name: &str) -> RegistryAuth {
        RegistryAuth {
            username: name.to_owned(),
            ..RegistryAuth::default()
        }
    }

    /// Who asked, and what came of it, where a registry says `answer` to whom.
    async fn asked(
        own: &str,
        of_cluster: Option<&str>,
        answer: impl Fn(&str) -> Result<()>,
    ) -> (Vec<String>, Result<()>) {
        let who = Mutex::new(Vec::new());
        let ask = |auth: RegistryAuth| {
            who.lock().unwrap().push(auth.username.clone());
            let answer = answer(&auth.username);
            async move { answer }
        };
        let outcome = with_credentials(auth(own), of_cluster.map(auth), ask).await;
        (who.into_inner().unwrap(), outcome)
    }

    #[tokio::test]
    async fn what_is_for_everybody_is_had_without_the_clusters_credentials() {
        let denied = |who: &str| {
            Err(EngineError::unauthorized(format!(
                "Get \"x\": unauthorized: {who}"
            )))
        };
        let public = |who: &str| match who {
            "" => Ok(()),
            who => denied(who),
        };
        let (who, outcome) = asked("", Some("cluster"), public).await;
        assert_eq!(who, ["cluster", ""]);
        assert!(outcome.is_ok());
        let (who, outcome) = asked("", Some("cluster"), denied).await;
        assert_eq!(who, ["cluster", ""]);
        let told = outcome.unwrap_err().to_string();
        assert!(told.ends_with("unauthorized: cluster"), "{told}");
        let (who, _) = asked("own", Some("cluster"), denied).await;
        assert_eq!(who, ["own", "cluster"]);
        let (who, _) = asked("own", None, denied).await;
        assert_eq!(who, ["own"]);
        // Of trouble that is not about who asks, asking again helps nobody.
        let gone = |_: &str| Err(EngineError::unavailable("connection refused"));
        let (who, _) = asked("", Some("cluster"), gone).await;
        assert_eq!(who, ["cluster"]);
    }
}
