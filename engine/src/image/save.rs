//! `docker save`: an OCI layout that is also a docker archive.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::sync::Arc;

use serde_json::json;

use super::digest::Digest;
use super::manifest::{OCI_INDEX, OCI_MANIFEST};
use super::reference::Reference;
use super::store::{Image, ImageStore};
use crate::error::{IoContext as _, Result};
use crate::types::Descriptor;

/// Writes these images, each with the names it is saved under. Blocking.
pub(crate) fn save(
    store: &ImageStore,
    images: &[(Arc<Image>, Vec<Reference>)],
    output: impl Write,
) -> Result<()> {
    let what = || "cannot write the archive".to_owned();
    let mut builder = tar::Builder::new(output);
    let mut written: BTreeSet<Digest> = BTreeSet::new();
    let (mut index, mut entries, mut repositories) = (Vec::new(), Vec::new(), BTreeMap::new());
    add_directory(&mut builder, "blobs/").during(what)?;
    add_directory(&mut builder, "blobs/sha256/").during(what)?;
    for (image, names) in images {
        let record = &image.record;
        let mut blobs = vec![record.id.clone(), record.manifest.clone()];
        for layer in &record.layers {
            blobs.push(layer.digest.parse()?);
        }
        for digest in &blobs {
            if written.insert(digest.clone()) {
                let file = store.blobs.open_blob(digest)?;
                let size = store.blobs.size(digest)?;
                let path = format!("blobs/sha256/{}", digest.hex());
                add_file(&mut builder, &path, size, file).during(what)?;
            }
        }
        index.extend(index_entries(store, image, names)?);
        for name in names {
            if let Some(tag) = &name.tag {
                repositories
                    .entry(name.familiar_name())
                    .or_insert_with(BTreeMap::new)
                    .insert(
                        tag.clone(),
                        image.chain.last().map_or("", Digest::hex).to_owned(),
                    );
            }
        }
        entries.push(json!({
            "Config": format!("blobs/sha256/{}", record.id.hex()),
            "RepoTags": names.iter().map(Reference::familiar).collect::<Vec<_>>(),
            "Layers": record.layers.iter()
                .map(|layer| layer.digest.replacen("sha256:", "blobs/sha256/", 1))
                .collect::<Vec<_>>(),
        }));
    }
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": index});
    for (name, document) in [
        ("index.json", index),
        ("manifest.json", json!(entries)),
        ("oci-layout", json!({"imageLayoutVersion": "1.0.0"})),
        ("repositories", json!(repositories)),
    ] {
        let text = document.to_string();
        add_file(&mut builder, name, text.len() as u64, text.as_bytes()).during(what)?;
    }
    builder
        .into_inner()
        .and_then(|mut output| output.flush())
        .during(what)
}

/// One index entry for each name, or one without a name.
fn index_entries(
    store: &ImageStore,
    image: &Image,
    names: &[Reference],
) -> Result<Vec<Descriptor>> {
    let manifest = store
        .blobs
        .read(&image.record.manifest, super::manifest::DOCUMENT_BYTES_MAX)?;
    let said: super::manifest::Document =
        serde_json::from_slice(&manifest).during(|| "cannot read the manifest".into())?;
    let plain = Descriptor {
        media_type: match said.media_type.as_str() {
            "" => OCI_MANIFEST.into(),
            given => given.into(),
        },
        digest: image.record.manifest.to_string(),
        size: manifest.len() as i64,
        platform: Some(image.config.platform()),
        ..Descriptor::default()
    };
    if names.is_empty() {
        return Ok(vec![plain]);
    }
    Ok(names
        .iter()
        .map(|name| {
            let mut entry = plain.clone();
            entry
                .annotations
                .insert("io.containerd.image.name".into(), name.to_string());
            if let Some(tag) = &name.tag {
                entry
                    .annotations
                    .insert("org.opencontainers.image.ref.name".into(), tag.clone());
            }
            entry
        })
        .collect())
}

fn add_directory(builder: &mut tar::Builder<impl Write>, path: &str) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o755);
    header.set_size(0);
    builder.append_data(&mut header, path, std::io::empty())
}

fn add_file(
    builder: &mut tar::Builder<impl Write>,
    path: &str,
    size: u64,
    contents: impl Read,
) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(size);
    builder.append_data(&mut header, path, contents)
}
