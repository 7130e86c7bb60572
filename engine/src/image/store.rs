//! All images of this host: what is there, under which names, and who still
//! needs which blob and layer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use skep_model::Timestamp;

use super::blobs::BlobStore;
use super::digest::{Digest, chain_ids};
use super::layers::LayerStore;
use super::manifest::{ConfigFile, DOCUMENT_BYTES_MAX};
use super::reference::Reference;
use crate::error::{EngineError, IoContext as _, Result};
use crate::locks::{Held, Ordered, Rank};
use crate::record;
use crate::types::Descriptor;

/// What is kept of an image besides its blobs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// Digest of the configuration.
    pub(crate) id: Digest,
    /// Digest of the manifest that `push` and `save` give out.
    pub(crate) manifest: Digest,
    /// Blobs of the layers, base first, as the manifest names them.
    pub(crate) layers: Vec<Descriptor>,
    /// Bytes of all files in all layers.
    pub(crate) size: u64,
    /// When it came here.
    pub(crate) added: Timestamp,
    /// Image a `commit` or a step of a build was made on.
    #[serde(default)]
    pub(crate) parent: Option<Digest>,
    /// Of a step of a build: names the instruction and all that it depends on, so
    /// that the same step on the same parent finds this image again.
    #[serde(default)]
    pub(crate) step: Option<Digest>,
}

/// An image.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) record: ImageRecord,
    pub(crate) config: ConfigFile,
    /// Base first.
    pub(crate) chain: Vec<Digest>,
}

impl Image {
    pub(crate) fn id(&self) -> &Digest {
        &self.record.id
    }
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Named {
    id: Digest,
    at: Timestamp,
    /// Of a name with a digest: no registry gave it, the image was made here or on another host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    own: bool,
    /// Another host gave it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    by_peer: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct ImageStore {
    root: PathBuf,
    pub(crate) blobs: BlobStore,
    pub(crate) layers: LayerStore,
    inner: Ordered<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    images: BTreeMap<Digest, Arc<Image>>,
    /// Full names, `docker.io/library/busybox:latest` or with `@digest`.
    names: BTreeMap<String, Named>,
    /// Pulls, loads and the like that go on.
    activities: usize,
}

impl ImageStore {
    /// Opens the store below `data_root`, and removes blobs and layers that no
    /// image needs. `in_use` are chain ids that containers stand on.
    pub(crate) fn open(data_root: &Path, in_use: &BTreeSet<Digest>) -> Result<Self> {
        let root = data_root.join("images");
        let blobs = BlobStore::open(&root)?;
        let layers = LayerStore::open(&data_root.join("layers"))?;
        record::make_directory(&root.join("records"), 0o700)?;
        let store = Self {
            inner: Ordered::new(Rank::Images, Inner::default()),
            root,
            blobs,
            layers,
        };
        let mut inner = Inner {
            names: record::load(&store.names_file())?.unwrap_or_default(),
            ..Inner::default()
        };
        let records = store.root.join("records");
        let what = || format!("cannot read `{}`", records.display());
        for entry in fs::read_dir(&records).during(what)? {
            let path = entry.during(what)?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                record::remove_file(&path)?;
                continue;
            }
            match store.read_image(&path) {
                Ok(image) => {
                    inner.images.insert(image.id().clone(), Arc::new(image));
                }
                // A damaged image must not keep the others from being used; it
                // can be pulled again.
                Err(error) => tracing::error!(%error, path = %path.display(), "image is damaged"),
            }
        }
        inner
            .names
            .retain(|_, named| inner.images.contains_key(&named.id));
        for path in store.discard(&inner, in_use)? {
            record::remove_tree(&path)?;
        }
        *store.lock() = inner;
        Ok(store)
    }

    fn read_image(&self, path: &Path) -> Result<Image> {
        let record: ImageRecord = record::load(path)?
            .ok_or_else(|| EngineError::internal(format!("`{}` is gone", path.display())))?;
        self.image_of(record)
    }

    fn image_of(&self, record: ImageRecord) -> Result<Image> {
        let config = ConfigFile::parse(&self.blobs.read(&record.id, DOCUMENT_BYTES_MAX)?)?;
        let chain = chain_ids(&config.rootfs.diff_ids);
        for chain_id in &chain {
            if self.layers.get(chain_id)?.is_none() {
                return Err(EngineError::internal(format!(
                    "layer {chain_id} is missing"
                )));
            }
        }
        Ok(Image {
            record,
            config,
            chain,
        })
    }

    fn lock(&self) -> Held<'_, Inner> {
        self.inner.lock()
    }

    fn names_file(&self) -> PathBuf {
        self.root.join("tags.json")
    }

    fn record_file(&self, id: &Digest) -> PathBuf {
        self.root.join("records").join(format!("{}.json", id.hex()))
    }

    fn save_names(&self, inner: &Inner) -> Result<()> {
        record::save(&self.names_file(), &inner.names)
    }

    /// Keeps everything from being swept until the guard is dropped: new blobs and
    /// layers have nobody yet that needs them.
    pub(crate) fn activity(self: &Arc<Self>) -> Activity {
        self.lock().activities += 1;
        Activity {
            store: Arc::clone(self),
        }
    }

    /// Adds an image whose blobs and layers are there, during an activity.
    pub(crate) fn add(&self, record: ImageRecord) -> Result<Arc<Image>> {
        let image = Arc::new(self.image_of(record)?);
        let mut inner = self.lock();
        if let Some(present) = inner.images.get(image.id()) {
            return Ok(Arc::clone(present));
        }
        record::save(&self.record_file(image.id()), &image.record)?;
        inner.images.insert(image.id().clone(), Arc::clone(&image));
        Ok(image)
    }

    /// Gives an image a name (with tag or digest). Says which image had it before.
    pub(crate) fn name(
        &self,
        name: &Reference,
        id: &Digest,
        now: Timestamp,
    ) -> Result<Option<Digest>> {
        self.name_of(name, id, now, (false, false))
    }

    /// Gives an image a name that it was pulled by: whether no registry has confirmed it, and whether
    /// another host gave it.
    pub(crate) fn name_pulled(
        &self,
        name: &Reference,
        id: &Digest,
        now: Timestamp,
        how: (bool, bool),
    ) -> Result<()> {
        self.name_of(name, id, now, how).map(drop)
    }

    fn name_of(
        &self,
        name: &Reference,
        id: &Digest,
        now: Timestamp,
        (own, by_peer): (bool, bool),
    ) -> Result<Option<Digest>> {
        let mut inner = self.lock();
        if !inner.images.contains_key(id) {
            return Err(EngineError::no_such_image(id.as_str()));
        }
        let named = Named {
            id: id.clone(),
            at: now,
            own,
            by_peer,
        };
        let key = name.to_string();
        let before = match inner.names.get(&key) {
            // What a registry has confirmed stays so.
            Some(present) if present.id == *id && (own || !present.own) => {
                return Ok(Some(id.clone()));
            }
            present => present.map(|named| named.id.clone()),
        };
        inner.names.insert(key, named);
        self.save_names(&inner)?;
        Ok(before)
    }

    /// Takes names away; says which were there.
    pub(crate) fn unname(&self, names: &[Reference]) -> Result<Vec<Reference>> {
        let mut inner = self.lock();
        let gone: Vec<Reference> = names
            .iter()
            .filter(|name| inner.names.remove(&name.to_string()).is_some())
            .cloned()
            .collect();
        if !gone.is_empty() {
            self.save_names(&inner)?;
        }
        Ok(gone)
    }

    /// Removes an image and its names, unless it is gone already.
    pub(crate) fn remove(&self, id: &Digest) -> Result<Option<Arc<Image>>> {
        let mut inner = self.lock();
        let Some(image) = inner.images.remove(id) else {
            return Ok(None);
        };
        inner.names.retain(|_, named| named.id != *id);
        self.save_names(&inner)?;
        record::remove_file(&self.record_file(id))?;
        Ok(Some(image))
    }

    /// Removes blobs and layers that no image and no container (`in_use`, chain
    /// ids) needs. Put off while an [`Activity`] goes on; the next call does it.
    /// Blocking.
    pub(crate) fn sweep(&self, in_use: impl FnOnce() -> BTreeSet<Digest>) -> Result<()> {
        let inner = self.lock();
        if inner.activities > 0 {
            return Ok(());
        }
        let discarded = self.discard(&inner, &in_use())?;
        drop(inner);
        discarded
            .iter()
            .try_for_each(|path| record::remove_tree(path))
    }

    /// Unlinks what nobody needs; says which directories are left to delete.
    fn discard(&self, inner: &Inner, in_use: &BTreeSet<Digest>) -> Result<Vec<PathBuf>> {
        let mut layers: BTreeSet<&Digest> = in_use.iter().collect();
        let mut blobs: BTreeSet<&str> = BTreeSet::new();
        for image in inner.images.values() {
            layers.extend(&image.chain);
            blobs.insert(image.record.id.as_str());
            blobs.insert(image.record.manifest.as_str());
            blobs.extend(
                image
                    .record
                    .layers
                    .iter()
                    .map(|layer| layer.digest.as_str()),
            );
        }
        // An index that an image was pulled by is what other hosts ask for.
        let digests = inner.names.keys().filter_map(|name| name.rsplit_once('@'));
        blobs.extend(digests.map(|(_, digest)| digest));
        let mut discarded = Vec::new();
        for layer in self.layers.all()? {
            if !layers.contains(&layer.chain_id) {
                discarded.extend(self.layers.discard(&layer.chain_id)?);
            }
        }
        for digest in self.blobs.all()? {
            if !blobs.contains(digest.as_str()) {
                self.blobs.remove(&digest)?;
            }
        }
        Ok(discarded)
    }

    /// All images.
    pub(crate) fn all(&self) -> Vec<Arc<Image>> {
        self.lock().images.values().cloned().collect()
    }

    /// The image with this id.
    pub(crate) fn get(&self, id: &Digest) -> Option<Arc<Image>> {
        self.lock().images.get(id).cloned()
    }

    /// Whether another image was made on this one.
    pub(crate) fn has_children(&self, id: &Digest) -> bool {
        self.lock()
            .images
            .values()
            .any(|image| image.record.parent.as_ref() == Some(id))
    }

    /// The newest image that this step of a build made on this parent.
    pub(crate) fn built(&self, parent: Option<&Digest>, step: &Digest) -> Option<Arc<Image>> {
        self.lock()
            .images
            .values()
            .filter(|image| {
                image.record.step.as_ref() == Some(step) && image.record.parent.as_ref() == parent
            })
            .max_by_key(|image| image.config.created)
            .cloned()
    }

    /// What a name stands for.
    pub(crate) fn named(&self, name: &Reference) -> Option<Arc<Image>> {
        let inner = self.lock();
        let named = inner.names.get(&name.to_string())?;
        inner.images.get(&named.id).cloned()
    }

    /// The image that a digest stands for: of its manifest, or of an index it was pulled by.
    pub(crate) fn by_digest(&self, digest: &Digest) -> Option<Arc<Image>> {
        let inner = self.lock();
        let mut images = inner.images.values();
        if let Some(image) = images.find(|image| image.record.manifest == *digest) {
            return Some(Arc::clone(image));
        }
        let is_named = |name: &str| {
            name.rsplit_once('@')
                .is_some_and(|(_, of)| of == digest.as_str())
        };
        let (_, named) = inner.names.iter().find(|(name, _)| is_named(name))?;
        inner.images.get(&named.id).cloned()
    }

    /// Whether no registry ever gave or took this image in this repository.
    pub(crate) fn is_own(&self, repository: &Reference, id: &Digest) -> bool {
        let start = format!("{}@", repository.repository());
        let inner = self.lock();
        let mut names = inner.names.iter();
        !names.any(|(name, named)| named.id == *id && !named.own && name.starts_with(&start))
    }

    /// Whether an image got this name from another host.
    pub(crate) fn is_by_peer(&self, name: &Reference) -> bool {
        let inner = self.lock();
        let named = inner.names.get(&name.to_string());
        named.is_some_and(|named| named.by_peer)
    }

    /// When a name came to stand for what it does here.
    pub(crate) fn named_at(&self, name: &Reference) -> Option<Timestamp> {
        self.lock()
            .names
            .get(&name.to_string())
            .map(|named| named.at)
    }

    /// The names with tags that a repository has here.
    pub(crate) fn tags_of(&self, repository: &Reference) -> Vec<Reference> {
        let inner = self.lock();
        inner
            .names
            .keys()
            .filter_map(|name| name.parse::<Reference>().ok())
            .filter(|name| name.tag.is_some() && name.repository() == *repository)
            .collect()
    }

    /// All names of an image: with tags, with digests, and when it last got one.
    pub(crate) fn names_of(&self, id: &Digest) -> (Vec<Reference>, Vec<Reference>, Timestamp) {
        let inner = self.lock();
        let (mut tags, mut digests, mut last) = (Vec::new(), Vec::new(), Timestamp::ZERO);
        for (name, named) in &inner.names {
            if named.id != *id {
                continue;
            }
            let Ok(reference) = name.parse::<Reference>() else {
                continue;
            };
            if reference.tag.is_some() {
                last = last.max(named.at);
                tags.push(reference);
            } else {
                digests.push(reference);
            }
        }
        (tags, digests, last)
    }

    /// Finds an image by name, `sha256:` id, or unique prefix of an id.
    pub(crate) fn find(&self, given: &str) -> Result<Arc<Image>> {
        if let Ok(digest) = given.parse::<Digest>() {
            return self
                .get(&digest)
                .ok_or_else(|| EngineError::no_such_image(given));
        }
        let reference = given.parse::<Reference>();
        if let Ok(reference) = &reference {
            let inner = self.lock();
            // With both, the digest decides; the tag is only said.
            let wanted = match &reference.digest {
                Some(digest) => reference.with_digest(digest.clone()),
                None => reference.clone().or_latest(),
            };
            if let Some(named) = inner.names.get(&wanted.to_string())
                && let Some(image) = inner.images.get(&named.id)
            {
                return Ok(Arc::clone(image));
            }
        }
        let digits = given.strip_prefix("sha256:").unwrap_or(given);
        let looks_like_id = !digits.is_empty()
            && digits.len() <= 64
            && digits
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if looks_like_id {
            let inner = self.lock();
            let mut found = inner
                .images
                .values()
                .filter(|image| image.id().hex().starts_with(digits));
            match (found.next(), found.next()) {
                (Some(image), None) => return Ok(Arc::clone(image)),
                (Some(_), Some(_)) => {
                    return Err(EngineError::not_found(format!(
                        "No such image: {given}: ambiguous id prefix"
                    )));
                }
                _ => {}
            }
        } else {
            reference?;
        }
        let shown = given
            .parse::<Reference>()
            .map_or_else(|_| given.to_owned(), |r| r.or_latest().familiar());
        Err(EngineError::no_such_image(&shown))
    }
}

/// See [`ImageStore::activity`].
#[derive(Debug)]
pub(crate) struct Activity {
    store: Arc<ImageStore>,
}

impl Drop for Activity {
    fn drop(&mut self) {
        self.store.lock().activities -= 1;
    }
}
