//! `docker import`: a root file system archive becomes an image of one layer.

use std::io::Read;
use std::sync::Arc;

use super::assemble::{Parts, assemble};
use super::changes;
use super::compression::{HashingReader, decompress};
use super::digest::Digest;
use super::load::layer_descriptor;
use super::manifest::{ConfigFile, History, RootFs, host_platform};
use super::store::{Image, ImageStore};
use crate::clock;
use crate::error::{IoContext as _, Result};
use crate::options::ImportOptions;
use crate::types::ImageConfig;

/// Makes the image; its name is the caller's affair. Call during an activity.
/// Blocking.
pub(crate) fn import(
    store: &Arc<ImageStore>,
    mut archive: impl Read,
    options: &ImportOptions,
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
