//! Makes an image of a configuration and the blobs of its layers.

use std::sync::Arc;

use super::digest::{Digest, chain_ids};
use super::manifest::{ConfigFile, Document, OCI_CONFIG};
use super::store::{Image, ImageRecord, ImageStore};
use crate::error::{EngineError, Result};
use crate::types::Descriptor;

/// What an image is made of. Blobs are in the store.
pub(crate) struct Parts {
    /// The configuration's bytes, as they are hashed.
    pub(crate) config: Vec<u8>,
    /// Base first; as many as the configuration has diff ids.
    pub(crate) layers: Vec<Descriptor>,
    /// The manifest's bytes if somebody made one; otherwise we do.
    pub(crate) manifest: Option<Vec<u8>>,
    pub(crate) parent: Option<Digest>,
    /// What made it of its parent, if a build did.
    pub(crate) step: Option<Digest>,
}

/// Unpacks the layers that are not there yet and adds the image. Call during an
/// activity. `step` is told before (`None`) and after (`Some(size)`) each layer.
/// Blocking.
pub(crate) fn assemble(
    store: &ImageStore,
    parts: Parts,
    mut step: impl FnMut(&Descriptor, Option<u64>),
) -> Result<Arc<Image>> {
    let config = ConfigFile::parse(&parts.config)?;
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != parts.layers.len() {
        return Err(EngineError::invalid(format!(
            "invalid image: the configuration names {} layers, the manifest {}",
            diff_ids.len(),
            parts.layers.len()
        )));
    }
    let chain = chain_ids(diff_ids);
    let mut size = 0;
    for (number, (chain_id, diff_id)) in chain.iter().zip(diff_ids).enumerate() {
        let blob = &parts.layers[number];
        step(blob, None);
        let layer = match store.layers.get(chain_id)? {
            Some(layer) => layer,
            None => {
                let file = store.blobs.open_blob(&blob.digest.parse()?)?;
                store
                    .layers
                    .unpack(chain_id, diff_id, &chain[..number], file)?
            }
        };
        step(blob, Some(layer.size));
        size += layer.size;
    }
    let id = store.blobs.put(&parts.config)?;
    let manifest = parts.manifest.unwrap_or_else(|| {
        let descriptor = Descriptor {
            media_type: OCI_CONFIG.into(),
            digest: id.to_string(),
            size: parts.config.len() as i64,
            ..Descriptor::default()
        };
        Document::image(descriptor, parts.layers.clone())
    });
    let manifest = store.blobs.put(&manifest)?;
    store.add(ImageRecord {
        id,
        manifest,
        layers: parts.layers,
        size,
        added: crate::clock::now(),
        parent: parts.parent,
        step: parts.step,
    })
}
