//! `docker load`: archives as `docker save` writes them, and OCI layouts.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::assemble::{Parts, assemble};
use super::blobs::BlobStore;
use super::compression::{Compression, decompress};
use super::digest::Digest;
use super::manifest::{
    self, DOCUMENT_BYTES_MAX, Document, Kind, LAYERS_MAX, OCI_LAYER, host_platform,
};
use super::reference::Reference;
use super::store::{Image, ImageStore};
use crate::error::{EngineError, IoContext as _, Result};
use crate::options::LoadOptions;
use crate::streams::Progress;
use crate::tree::{guard::HeaderGuard, paths};
use crate::types::{Descriptor, Platform, ProgressEvent};

/// The member of a partial archive that names what it leaves out: paths, and digests of the files.
const LEFT_OUT: &str = "skep-left-out.json";
/// Most files in such an archive.
const MEMBERS_MAX: usize = 10_000;
/// Links followed until one is a circle.
const LINKS_MAX: usize = 16;
/// Indexes inside indexes.
const NESTING_MAX: usize = 4;

/// One entry of a docker archive's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// What a member of the archive is.
enum Member {
    Blob(Digest, u64),
    Link(PathBuf),
}

/// The members, already in the blob store.
struct Archive<'a> {
    blobs: &'a BlobStore,
    members: BTreeMap<PathBuf, Member>,
}

/// Loads all images of an archive and says which on `progress`. What a partial one leaves out is had
/// from `elsewhere`, unless it is here. Call during an activity. Blocking.
pub(crate) fn load(
    store: &Arc<ImageStore>,
    archive: impl Read + Send,
    options: &LoadOptions,
    elsewhere: &dyn Fn(&Digest) -> Result<()>,
    progress: &Progress,
) -> Result<Vec<Arc<Image>>> {
    let mut archive = receive(&store.blobs, archive)?;
    if options.partial {
        archive.complete(elsewhere)?;
    }
    let loaded = if archive.find(Path::new("manifest.json")).is_some() {
        load_docker(store, &archive, options, progress)?
    } else if archive.find(Path::new("index.json")).is_some() {
        load_layout(store, &archive, options, progress)?
    } else {
        return Err(EngineError::invalid(
            "invalid archive: it has neither manifest.json nor index.json",
        ));
    };
    if let (true, Some(wanted)) = (loaded.is_empty(), &options.platform) {
        return Err(EngineError::not_found(format!(
            "the archive has no image for the requested platform ({})",
            platform_text(wanted)
        )));
    }
    let mut images = Vec::new();
    for (image, names) in loaded {
        for name in &names {
            let before = store.name(name, image.id(), crate::clock::now())?;
            if let Some(before) = before.filter(|before| before != image.id()) {
                progress.send(ProgressEvent::stream(format!(
                    "The image {} already exists, renaming the old one with ID {before} to empty string\n",
                    name.familiar()
                )));
            }
            progress.send(ProgressEvent::stream(format!(
                "Loaded image: {}\n",
                name.familiar()
            )));
        }
        if names.is_empty() {
            progress.send(ProgressEvent::stream(format!(
                "Loaded image ID: {}\n",
                image.id()
            )));
        }
        images.push(image);
    }
    Ok(images)
}

/// Stores every file of the archive as a blob under its digest.
fn receive(blobs: &BlobStore, archive: impl Read + Send) -> Result<Archive<'_>> {
    let what = || "Error processing tar file".to_owned();
    let (_, plain) = decompress(archive).during(what)?;
    let mut archive = tar::Archive::new(HeaderGuard::new(plain));
    let mut members = BTreeMap::new();
    for entry in archive.entries().during(what)? {
        let mut entry = entry.during(what)?;
        let path = paths::inside(&entry.path_bytes())
            .map_err(|error| EngineError::invalid(what()).because(error))?;
        let kind = entry.header().entry_type();
        let member = if kind.is_file() {
            let mut writer = blobs.writer()?;
            std::io::copy(&mut entry, &mut writer).during(what)?;
            let (digest, size) = writer.commit(None)?;
            Member::Blob(digest, size)
        } else if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name().during(what)?.unwrap_or_default();
            let base = match path.parent() {
                Some(parent) if kind.is_symlink() => parent.to_owned(),
                _ => PathBuf::new(),
            };
            Member::Link(lexical(&base.join(target)))
        } else {
            continue;
        };
        members.insert(path, member);
        if members.len() > MEMBERS_MAX {
            return Err(EngineError::invalid("invalid archive: too many files"));
        }
    }
    Ok(Archive { blobs, members })
}

/// A path without `.` and `..`, which cannot climb above the archive.
fn lexical(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::Normal(name) => clean.push(name),
            std::path::Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

impl Archive<'_> {
    fn find(&self, path: &Path) -> Option<(&Digest, u64)> {
        let mut path = lexical(path);
        for _ in 0..LINKS_MAX {
            match self.members.get(&path)? {
                Member::Blob(digest, size) => return Some((digest, *size)),
                Member::Link(target) => path.clone_from(target),
            }
        }
        None
    }

    /// Takes in what was left out of it.
    fn complete(&mut self, elsewhere: &dyn Fn(&Digest) -> Result<()>) -> Result<()> {
        if self.find(Path::new(LEFT_OUT)).is_none() {
            return Ok(());
        }
        let left_out: BTreeMap<String, Digest> = serde_json::from_slice(&self.read(LEFT_OUT)?)
            .map_err(|error| EngineError::invalid(format!("invalid {LEFT_OUT}")).because(error))?;
        for (path, digest) in left_out {
            if !self.blobs.has(&digest) {
                elsewhere(&digest)?;
            }
            let size = self.blobs.size(&digest)?;
            let path = lexical(Path::new(&path));
            self.members
                .entry(path)
                .or_insert(Member::Blob(digest, size));
            if self.members.len() > MEMBERS_MAX {
                return Err(EngineError::invalid("invalid archive: too many files"));
            }
        }
        Ok(())
    }

    fn expect(&self, path: &str) -> Result<(&Digest, u64)> {
        self.find(Path::new(path)).ok_or_else(|| {
            EngineError::invalid(format!("invalid archive: it does not have `{path}`"))
        })
    }

    fn read(&self, path: &str) -> Result<Vec<u8>> {
        self.blobs.read(self.expect(path)?.0, DOCUMENT_BYTES_MAX)
    }
}

/// Each image and the names it is to get.
type Loaded = Vec<(Arc<Image>, Vec<Reference>)>;

/// Whether an image is of the platform asked for.
fn fits(wanted: Option<&Platform>, config: &[u8]) -> Result<bool> {
    let Some(wanted) = wanted else {
        return Ok(true);
    };
    let config = manifest::ConfigFile::parse(config)?;
    Ok(config.os == wanted.os
        && config.architecture == wanted.architecture
        && (wanted.variant.is_empty() || config.variant == wanted.variant))
}

/// Says of each layer that it is here, where somebody wants to know.
fn tell<'a>(
    options: &LoadOptions,
    progress: &'a Progress,
) -> impl FnMut(&Descriptor, Option<u64>) + use<'a> {
    let is_told = options.layers;
    move |layer, unpacked| {
        if let (true, Some(_)) = (is_told, unpacked) {
            let hex = layer.digest.rsplit(':').next().unwrap_or_default();
            let id = hex.get(..12).unwrap_or(hex);
            progress.send(ProgressEvent::progress(
                id,
                "Loading layer",
                layer.size,
                layer.size,
            ));
        }
    }
}

fn load_docker(
    store: &Arc<ImageStore>,
    archive: &Archive<'_>,
    options: &LoadOptions,
    progress: &Progress,
) -> Result<Loaded> {
    let entries: Vec<DockerEntry> = serde_json::from_slice(&archive.read("manifest.json")?)
        .map_err(|error| EngineError::invalid("invalid manifest.json").because(error))?;
    let mut loaded = Vec::new();
    for entry in entries {
        if entry.layers.len() > LAYERS_MAX {
            return Err(EngineError::invalid(
                "invalid manifest.json: too many layers",
            ));
        }
        let config = archive.read(&entry.config)?;
        if !fits(options.platform.as_ref(), &config)? {
            continue;
        }
        let mut layers = Vec::new();
        for path in &entry.layers {
            let (digest, size) = archive.expect(path)?;
            layers.push(layer_descriptor(&store.blobs, digest, size)?);
        }
        let image = assemble(
            store,
            Parts {
                config,
                layers,
                manifest: None,
                parent: None,
                step: None,
            },
            tell(options, progress),
        )?;
        let names = entry.repo_tags.unwrap_or_default();
        let names: Result<Vec<Reference>> = names
            .iter()
            .map(|name| name.parse::<Reference>().map(Reference::or_latest))
            .collect();
        loaded.push((image, names?));
    }
    Ok(loaded)
}

/// A layer as a manifest names it; its compression is in the bytes.
pub(crate) fn layer_descriptor(
    blobs: &BlobStore,
    digest: &Digest,
    size: u64,
) -> Result<Descriptor> {
    let mut first = Vec::new();
    blobs
        .open_blob(digest)?
        .take(4)
        .read_to_end(&mut first)
        .during(|| format!("cannot read blob {digest}"))?;
    Ok(Descriptor {
        media_type: format!("{OCI_LAYER}{}", Compression::of(&first).suffix()),
        digest: digest.to_string(),
        size: i64::try_from(size).unwrap_or(i64::MAX),
        ..Descriptor::default()
    })
}

fn load_layout(
    store: &Arc<ImageStore>,
    archive: &Archive<'_>,
    options: &LoadOptions,
    progress: &Progress,
) -> Result<Loaded> {
    let wanted = options.platform.clone().unwrap_or_else(host_platform);
    let Kind::Index { manifests } = Document::parse(&archive.read("index.json")?)? else {
        return Err(EngineError::invalid("invalid index.json: not an index"));
    };
    let mut loaded = Vec::new();
    for descriptor in manifests {
        let annotation = |name: &str| descriptor.annotations.get(name).map(String::as_str);
        let mut names = Vec::new();
        if let Some(name) = annotation("io.containerd.image.name") {
            names.push(name.parse::<Reference>()?.or_latest());
        } else if let Some(name) = annotation("org.opencontainers.image.ref.name") {
            // Only a tag by the specification, a whole name in practice.
            names.extend(
                name.parse::<Reference>()
                    .ok()
                    .filter(|_| name.contains([':', '/']))
                    .map(Reference::or_latest),
            );
        }
        let Some((manifest, config, layers)) = pick(archive, &descriptor, &wanted, 0)? else {
            return Err(EngineError::not_found(format!(
                "image {} was found but does not provide the platform ({})",
                descriptor.digest,
                platform_text(&wanted)
            )));
        };
        for layer in &layers {
            blob(archive, layer)?;
        }
        let config = archive
            .blobs
            .read(&blob(archive, &config)?, DOCUMENT_BYTES_MAX)?;
        if !fits(options.platform.as_ref(), &config)? {
            continue;
        }
        let image = assemble(
            store,
            Parts {
                config,
                layers,
                manifest: Some(manifest),
                parent: None,
                step: None,
            },
            tell(options, progress),
        )?;
        loaded.push((image, names));
    }
    Ok(loaded)
}

fn platform_text(platform: &Platform) -> String {
    format!("{}/{}", platform.os, platform.architecture)
}

/// A manifest's bytes, its configuration and its layers.
type Picked = (Vec<u8>, Descriptor, Vec<Descriptor>);

/// The manifest for a platform below a descriptor.
fn pick(
    archive: &Archive<'_>,
    descriptor: &Descriptor,
    wanted: &Platform,
    depth: usize,
) -> Result<Option<Picked>> {
    if depth > NESTING_MAX {
        return Err(EngineError::invalid(
            "invalid archive: index in index in index",
        ));
    }
    let bytes = archive
        .blobs
        .read(&blob(archive, descriptor)?, DOCUMENT_BYTES_MAX)?;
    match Document::parse(&bytes)? {
        Kind::Image { config, layers } => Ok(Some((bytes, *config, layers))),
        Kind::Index { manifests } => match manifest::select(&manifests, wanted) {
            Some(chosen) => pick(archive, chosen, wanted, depth + 1),
            None => Ok(None),
        },
    }
}

/// The blob a descriptor names, if the archive has it with that digest and size.
fn blob(archive: &Archive<'_>, descriptor: &Descriptor) -> Result<Digest> {
    let digest: Digest = descriptor.digest.parse()?;
    let (found, size) = archive.expect(&format!("blobs/sha256/{}", digest.hex()))?;
    if *found != digest || i64::try_from(size) != Ok(descriptor.size) {
        return Err(EngineError::invalid(format!(
            "invalid archive: blob {digest} is not what its name says"
        )));
    }
    Ok(digest)
}
