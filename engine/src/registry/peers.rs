//! Images from other hosts that have them, where no registry gives them.
//!
//! Whoever knows those hosts is handed to the engine. Nothing that they send is believed: all of it is
//! asked for by its digest, and counts once it has that.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use skep_model::Timestamp;

use super::client::Fetched;
use crate::error::{EngineError, Result};
use crate::image::digest::Digest;
use crate::image::manifest::DOCUMENT_BYTES_MAX;
use crate::streams::ByteStream;
use crate::types::Platform;

/// How often a search is repeated when nobody who was found can be reached.
const SEARCHES_MAX: u32 = 3;
/// Pause before a search is repeated.
const SEARCH_PAUSE: Duration = Duration::from_millis(500);
/// How long those who have an image may be too busy to give it.
const BUSY_MAX: Duration = Duration::from_secs(600);
/// How often those who give a document may break off.
const BREAKS_MAX: u32 = 5;

/// The other hosts.
pub trait Peers: Send + Sync + 'static {
    /// Hosts that have an image whole. `image` is a name with a tag or a digest, in full
    /// (`docker.io/library/app:1`). With `only_own`, those alone where it came from no registry of that
    /// name.
    ///
    /// # Errors
    /// Nobody can say.
    fn find<'a>(&'a self, image: &'a str, only_own: bool) -> BoxFuture<'a, Result<Vec<Offer>>>;

    /// The bytes of a blob from an offset on.
    fn read<'a>(
        &'a self,
        holder: &'a Holder,
        digest: &'a str,
        offset: u64,
    ) -> BoxFuture<'a, Result<ByteStream, Refusal>>;

    /// Says something of a blob that a registry has, and hears whether this host is to download it there,
    /// or from whom it is to be had.
    ///
    /// # Errors
    /// Nobody can say.
    fn claim<'a>(&'a self, digest: &'a str, claim: Claim) -> BoxFuture<'a, Result<Verdict>>;
}

/// What this host says of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It wants it. These gave nothing when it asked them.
    Wants { in_vain: Vec<String> },
    /// It downloads it, and has so many bytes.
    Loads { bytes: u64 },
    /// It has it.
    Has,
    /// It could not download it.
    Failed,
}

/// What it is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Download it from its registry.
    Load,
    /// Read it from one of these.
    Read(Vec<Holder>),
    /// Nothing.
    Noted,
}

/// A host that has something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// Its id.
    pub host: String,
    /// `address:port`.
    pub address: String,
}

/// An image that a host has.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    pub holder: Holder,
    pub image: OwnedImage,
}

/// An image that is whole on a host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OwnedImage {
    /// Of its manifest, or of the index that it was asked for by.
    pub digest: String,
    /// Bytes and type of what has that digest.
    pub size: i64,
    pub media_type: String,
    pub platform: Platform,
    /// When it got the name that it was asked for by.
    pub named_at: Timestamp,
    /// Whether a registry gave or took it in the repository that was asked for.
    pub confirmed: bool,
    /// Whether it is on a manager.
    pub on_manager: bool,
}

/// Why a host does not give a blob.
#[derive(Debug)]
pub enum Refusal {
    /// It gives as many as it can already.
    Busy,
    Failed(EngineError),
}

/// What an image's name stands for: as most lately said by any manager, and where none has it, by anybody.
/// Whoever holds a manager decides what runs anyway; a worker has no say beside one. Pure.
pub fn newest<'a>(images: impl IntoIterator<Item = &'a OwnedImage>) -> Option<&'a OwnedImage> {
    let images = images.into_iter();
    images.max_by_key(|image| (image.on_manager, image.named_at, &image.digest))
}

/// The same where the registry that is to say it gives no answer: nothing, if that registry is known to
/// have images of this name. Pure.
pub fn newest_own<'a>(
    images: impl IntoIterator<Item = &'a OwnedImage> + Clone,
) -> Option<&'a OwnedImage> {
    let mut all = images.clone().into_iter();
    match all.any(|image| image.confirmed) {
        true => None,
        false => newest(images),
    }
}

/// Those who have one image, for the length of a pull.
pub(crate) struct Holders {
    peers: Arc<dyn Peers>,
    /// As it is searched for.
    image: String,
    only_own: bool,
    /// What everybody means by it.
    pub(crate) digest: Digest,
    /// How long that is, as they say.
    pub(crate) size: i64,
    /// Whether a registry gave it to one of them, under this name.
    pub(crate) confirmed: bool,
    left: Mutex<Vec<Holder>>,
    /// Those who gave something else than was asked for.
    blamed: Mutex<BTreeSet<Holder>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Holders {
    /// Searches for an image; an error of kind not found where nobody has it.
    pub(crate) async fn find(
        peers: Arc<dyn Peers>,
        image: &str,
        digest: Option<&Digest>,
        only_own: bool,
    ) -> Result<Self> {
        // What a tag means is not asked of those alone who say that it is theirs.
        let asked_own = only_own && digest.is_some();
        let offers = peers.find(image, asked_own).await?;
        if offers.is_empty() {
            return Err(EngineError::not_found("no node of the cluster has it"));
        }
        let images = offers.iter().map(|offer| &offer.image);
        let digest = match digest {
            Some(digest) => digest.clone(),
            None => {
                let chosen = match only_own {
                    true => newest_own(images.clone()),
                    false => newest(images.clone()),
                };
                let chosen = chosen.ok_or_else(|| {
                    EngineError::not_found(
                        "its registry alone says what the tag stands for, since it gave the image to nodes of the cluster",
                    )
                })?;
                chosen.digest.parse()?
            }
        };
        let same = images.filter(|image| image.digest == digest.as_str());
        let size = same.clone().map(|image| image.size).max().unwrap_or(0);
        let confirmed = same.clone().any(|image| image.confirmed);
        let left = of_digest(offers, &digest);
        Ok(Self {
            peers,
            image: image.to_owned(),
            only_own,
            digest,
            size,
            confirmed,
            left: Mutex::new(left),
            blamed: Mutex::default(),
        })
    }

    /// A manifest or index, checked.
    pub(crate) async fn document(&self, digest: &Digest) -> Result<Fetched> {
        let mut breaks = 0;
        loop {
            let (holder, mut stream) = self.open(digest, 0).await?;
            let mut bytes = Vec::new();
            let mut broken = None;
            while let Some(chunk) = stream.next().await {
                match chunk {
                    Ok(chunk) if (bytes.len() + chunk.len()) as u64 <= DOCUMENT_BYTES_MAX => {
                        bytes.extend_from_slice(&chunk);
                    }
                    Ok(_) => break,
                    Err(error) => {
                        broken = Some(error);
                        break;
                    }
                }
            }
            match broken {
                None if Digest::of(&bytes) == *digest => {
                    return Ok(Fetched {
                        bytes,
                        media_type: String::new(),
                        digest: digest.clone(),
                    });
                }
                None => self.blame(&holder, digest),
                Some(error) => {
                    tracing::warn!(%error, host = holder.host, %digest, "a peer broke off");
                    breaks += 1;
                    if breaks >= BREAKS_MAX {
                        return Err(error);
                    }
                    self.forget(&holder);
                }
            }
        }
    }

    /// A blob from whoever gives it first.
    pub(crate) async fn open(&self, digest: &Digest, offset: u64) -> Result<(Holder, ByteStream)> {
        let began = Instant::now();
        let mut searches = 0;
        let mut last = None;
        loop {
            let mut is_busy = false;
            for holder in self.in_some_order() {
                match self.peers.read(&holder, digest.as_str(), offset).await {
                    Ok(stream) => return Ok((holder, stream)),
                    Err(Refusal::Busy) => is_busy = true,
                    Err(Refusal::Failed(error)) => {
                        tracing::warn!(%error, host = holder.host, %digest, "a peer gives nothing");
                        self.forget(&holder);
                        last = Some(error);
                    }
                }
            }
            searches += u32::from(!is_busy);
            if searches > SEARCHES_MAX || began.elapsed() > BUSY_MAX {
                let error = EngineError::not_found(format!(
                    "no node of the cluster that has it gives {digest}"
                ));
                return Err(match last {
                    Some(last) => error.because(last),
                    None => error,
                });
            }
            // Others may have it by now.
            tokio::time::sleep(SEARCH_PAUSE).await;
            if let Ok(offers) = self.peers.find(&self.image, self.only_own).await {
                let mut found = of_digest(offers, &self.digest);
                let blamed = lock(&self.blamed).clone();
                found.retain(|holder| !blamed.contains(holder));
                *lock(&self.left) = found;
            }
        }
    }

    /// Somebody gave something else than was asked for, and is asked for nothing more.
    pub(crate) fn blame(&self, holder: &Holder, digest: &Digest) {
        tracing::warn!(
            host = holder.host,
            address = holder.address,
            %digest,
            "a peer gave content that is not what its digest says; it is damaged there"
        );
        lock(&self.blamed).insert(holder.clone());
        self.forget(holder);
    }

    pub(crate) fn forget(&self, holder: &Holder) {
        lock(&self.left).retain(|left| left != holder);
    }

    /// Hosts that pull at the same time are not to ask the same one first.
    fn in_some_order(&self) -> Vec<Holder> {
        let mut left = lock(&self.left).clone();
        if !left.is_empty() {
            let first = rand::random_range(0..left.len());
            left.rotate_left(first);
        }
        left
    }
}

fn of_digest(offers: Vec<Offer>, digest: &Digest) -> Vec<Holder> {
    let meant = |offer: &Offer| offer.image.digest == digest.as_str();
    let offers = offers.into_iter().filter(meant);
    offers.map(|offer| offer.holder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(digest: &str, named_at: i64, confirmed: bool, on_manager: bool) -> OwnedImage {
        OwnedImage {
            digest: digest.to_owned(),
            named_at: Timestamp(named_at),
            confirmed,
            on_manager,
            ..OwnedImage::default()
        }
    }

    #[test]
    fn a_worker_does_not_say_what_a_manager_knows_better() {
        let digest = |found: Option<&OwnedImage>| found.map(|image| image.digest.clone());
        let worker = image("worker", i64::MAX, false, false);
        let manager = image("manager", 1, false, true);
        let both = [worker.clone(), manager];
        assert_eq!(digest(newest(&both)).as_deref(), Some("manager"));
        assert_eq!(digest(newest_own(&both)).as_deref(), Some("manager"));
        let confirmed = [worker, image("old", 1, true, false)];
        assert_eq!(digest(newest(&confirmed)).as_deref(), Some("worker"));
        assert_eq!(digest(newest_own(&confirmed)), None, "its registry says it");
        assert_eq!(digest(newest(&[])), None);
    }

    /// One host that breaks off whatever it begins.
    struct Breaking(Digest);

    impl Peers for Breaking {
        fn find<'a>(&'a self, _: &'a str, _: bool) -> BoxFuture<'a, Result<Vec<Offer>>> {
            let holder = Holder {
                host: "h0".to_owned(),
                address: "h0:7946".to_owned(),
            };
            let image = image(self.0.as_str(), 1, false, false);
            Box::pin(async { Ok(vec![Offer { holder, image }]) })
        }

        fn read<'a>(
            &'a self,
            _: &'a Holder,
            _: &'a str,
            _: u64,
        ) -> BoxFuture<'a, Result<ByteStream, Refusal>> {
            Box::pin(async {
                let (sender, receiver) = tokio::sync::mpsc::channel(1);
                let broken = Err(EngineError::unavailable("broke off"));
                let _ = sender.send(broken).await;
                Ok(ByteStream::new(receiver))
            })
        }

        fn claim<'a>(&'a self, _: &'a str, _: Claim) -> BoxFuture<'a, Result<Verdict>> {
            Box::pin(async { Ok(Verdict::Noted) })
        }
    }

    #[tokio::test]
    async fn one_that_breaks_off_each_time_is_not_asked_for_ever() {
        let digest = Digest::of(b"document");
        let peers = Arc::new(Breaking(digest.clone()));
        let holders = Holders::find(peers, "app:1", None, false).await.unwrap();
        let error = holders.document(&digest).await.unwrap_err();
        assert_eq!(error.to_string(), "broke off");
    }
}
