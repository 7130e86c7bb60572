//! Images for other hosts: which ones are here whole, and their content by digest.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::watch;

use super::digest::Digest;
use super::manifest::{DOCUMENT_BYTES_MAX, Document, Kind, OCI_INDEX, OCI_MANIFEST};
use super::reference::Reference;
use super::store::Image;
use skep_model::Timestamp;

use crate::engine::Engine;
use crate::error::{EngineError, IoContext as _, Result};
use crate::registry::{OwnedImage, Peers, blob};
use crate::streams::{ByteStream, blocking, produce};
use crate::types::{Descriptor, DistributionInspect};

/// Bytes read at a time.
const PIECE_BYTES: usize = 64 << 10;
/// Searches for blobs at once.
const QUESTIONS_MAX: usize = 8;
/// How long a blob that is being downloaded may stay as long as it is.
const GROWTH_WAIT: Duration = Duration::from_secs(30);

impl Engine {
    /// Takes over who else may have images, `None` when nobody does any more.
    pub fn set_peers(&self, peers: Option<Arc<dyn Peers>>) {
        *self.peers.lock().unwrap_or_else(PoisonError::into_inner) = peers;
    }

    /// Who else may have images.
    pub fn peers(&self) -> Option<Arc<dyn Peers>> {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.clone()
    }

    /// The image that a name with a tag or digest stands for here, if it is here whole. With `only_own`,
    /// unless a registry of that name ever gave or took it.
    ///
    /// The name may be a blob's bare digest as well.
    pub async fn image_owned(&self, name: &str, only_own: bool) -> Result<Option<OwnedImage>> {
        if let Ok(digest) = name.parse::<Digest>() {
            let blobs = self.images.blobs.clone();
            return blocking(move || {
                let size = blobs.has(&digest).then(|| blobs.size(&digest));
                let size = size.transpose()?;
                Ok(size.map(|size| OwnedImage {
                    digest: digest.to_string(),
                    size: i64::try_from(size).unwrap_or(i64::MAX),
                    ..OwnedImage::default()
                }))
            })
            .await;
        }
        let reference = name.parse::<Reference>()?.or_latest();
        let engine = self.shared();
        blocking(move || engine.owned(&reference, only_own)).await
    }

    fn owned(&self, reference: &Reference, only_own: bool) -> Result<Option<OwnedImage>> {
        let store = &self.images;
        let found = match &reference.digest {
            Some(digest) => store.by_digest(digest),
            None => store.named(reference),
        };
        let Some(image) = found.filter(|image| self.is_whole(image)) else {
            return Ok(None);
        };
        let confirmed = !store.is_own(reference, image.id());
        if only_own && confirmed {
            return Ok(None);
        }
        let digest = match &reference.digest {
            Some(digest) if store.blobs.has(digest) => digest.clone(),
            Some(_) => return Ok(None),
            None => image.record.manifest.clone(),
        };
        let bytes = store.blobs.read(&digest, DOCUMENT_BYTES_MAX)?;
        let named_at = store.named_at(reference).unwrap_or(Timestamp::ZERO);
        Ok(Some(OwnedImage {
            digest: digest.to_string(),
            size: bytes.len() as i64,
            media_type: match Document::parse(&bytes)? {
                Kind::Image { .. } => OCI_MANIFEST,
                Kind::Index { .. } => OCI_INDEX,
            }
            .to_owned(),
            platform: image.config.platform(),
            named_at,
            confirmed,
            on_manager: false,
        }))
    }

    fn is_whole(&self, image: &Image) -> bool {
        let blobs = &self.images.blobs;
        let has = |digest: &str| digest.parse().is_ok_and(|digest| blobs.has(&digest));
        let record = &image.record;
        blobs.has(&record.id)
            && blobs.has(&record.manifest)
            && record.layers.iter().all(|layer| has(&layer.digest))
    }

    /// Whether an image of this host never came from a registry, nor went to one, under this name.
    pub fn image_is_own(&self, name: &str) -> bool {
        let Ok(image) = self.images.find(name) else {
            return false;
        };
        let Ok(reference) = name.parse::<Reference>() else {
            return true;
        };
        self.images.is_own(&reference, image.id())
    }

    /// Whether an image was built, loaded or tagged here under this name, and never came from elsewhere
    /// or went to a registry.
    pub fn image_is_made_here(&self, name: &str) -> bool {
        let reference = name.parse::<Reference>().map(Reference::or_latest);
        self.image_is_own(name)
            && !reference.is_ok_and(|reference| self.images.is_by_peer(&reference))
    }

    /// Which of these blobs are neither here nor on another host.
    pub async fn blobs_missing(&self, digests: &[String]) -> Result<Vec<String>> {
        let mut elsewhere = Vec::new();
        for given in digests {
            let digest: Digest = given.parse()?;
            if !self.images.blobs.has(&digest) {
                elsewhere.push(given.clone());
            }
        }
        let Some(peers) = self.peers() else {
            return Ok(elsewhere);
        };
        let questions = elsewhere.into_iter().map(|given| {
            let peers = Arc::clone(&peers);
            async move {
                let found = peers.find(&given, false).await;
                found
                    .map_or(true, |offers| offers.is_empty())
                    .then_some(given)
            }
        });
        let missing: Vec<Option<String>> = futures_util::stream::iter(questions)
            .buffered(QUESTIONS_MAX)
            .collect()
            .await;
        Ok(missing.into_iter().flatten().collect())
    }

    /// Gets a blob that another host has.
    pub(crate) async fn blob_from_peers(&self, digest: &Digest) -> Result<()> {
        let none = || EngineError::not_found(format!("blob {digest} was left out, and is nowhere"));
        let peers = self.peers().ok_or_else(none)?;
        blob::blob_from_peers(&self.images, &self.downloads, peers, digest)
            .await
            .map_err(|error| none().because(error))
    }

    /// A blob from an offset on. One that is being downloaded is followed until that ends, whether or not
    /// it is whole then.
    ///
    /// # Errors
    /// Not found where it is not here; invalid where it is shorter.
    pub async fn blob_read(&self, digest: &str, offset: u64) -> Result<ByteStream> {
        let digest: Digest = digest.parse()?;
        let (blobs, growing) = (self.images.blobs.clone(), self.downloads.growing());
        let opened = blocking(move || {
            // What is removed or renamed while it is read stays until then.
            if let Some(growth) = growing.follow(&digest)
                && let Ok(file) = blobs.open_part(&digest)
            {
                return Ok((file, Some(growth)));
            }
            if !blobs.has(&digest) {
                return Err(EngineError::not_found(format!("blob {digest} is not here")));
            }
            let (file, size) = (blobs.open_blob(&digest)?, blobs.size(&digest)?);
            match offset <= size {
                true => Ok((file, None)),
                false => Err(EngineError::invalid(format!(
                    "blob {digest} has {size} bytes, not {offset}"
                ))),
            }
        });
        let (mut file, mut growth) = opened.await?;
        let runtime = tokio::runtime::Handle::current();
        Ok(produce(move |output| {
            let what = || "cannot read a blob".to_owned();
            file.seek(SeekFrom::Start(offset)).during(what)?;
            let mut piece = vec![0; PIECE_BYTES];
            loop {
                // Before it is read, so that nothing comes in between unseen.
                let has_ended = growth.as_mut().is_none_or(|growth| {
                    growth.mark_unchanged();
                    growth.has_changed().is_err()
                });
                let count = file.read(&mut piece).during(what)?;
                output.write_all(&piece[..count]).during(what)?;
                match &mut growth {
                    Some(growth) if count == 0 && !has_ended => {
                        output.flush().during(what)?;
                        runtime.block_on(grown(growth))?;
                    }
                    _ if count == 0 => return Ok(()),
                    _ => (),
                }
            }
        }))
    }
}

/// Waits until there is more of a blob, or its download has ended.
async fn grown(growth: &mut watch::Receiver<u64>) -> Result<()> {
    match tokio::time::timeout(GROWTH_WAIT, growth.changed()).await {
        Ok(_) => Ok(()),
        Err(_) => Err(EngineError::unavailable("the download has stopped")),
    }
}

impl OwnedImage {
    /// As a registry's answer about it would be.
    pub fn inspect(&self) -> DistributionInspect {
        DistributionInspect {
            descriptor: Descriptor {
                media_type: self.media_type.clone(),
                digest: self.digest.clone(),
                size: self.size,
                ..Descriptor::default()
            },
            platforms: vec![self.platform.clone()],
        }
    }
}
