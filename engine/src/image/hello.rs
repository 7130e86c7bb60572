//! The image that needs no registry: made of the shim's own program, which is a
//! small web server when it is called `hello`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use skep_model::{Nanos, Timestamp};

use super::assemble::{Parts, assemble};
use super::load::layer_descriptor;
use super::manifest::{ConfigFile, History, RootFs, host_platform};
use super::reference::Reference;
use super::store::{Image, ImageStore};
use crate::error::{IoContext as _, Result};
use crate::types::{Empty, HealthConfig, ImageConfig};

/// Its name.
pub(crate) const NAME: &str = "skep/hello:latest";
/// Always the same moment, so that the same program gives the same image.
const CREATED: Timestamp = Timestamp::from_secs(1_767_225_600);

/// Makes the image of this program, unless it is there, and names it. Call
/// during an activity. Blocking.
pub(crate) fn ensure(store: &Arc<ImageStore>, program: &[u8]) -> Result<Arc<Image>> {
    let what = || format!("cannot make {NAME}");
    let layer = archive(program).during(what)?;
    let size = layer.len() as u64;
    let blob = store.blobs.put(&layer)?;
    let platform = host_platform();
    let config = ConfigFile {
        architecture: platform.architecture,
        variant: platform.variant,
        os: platform.os,
        created: CREATED,
        config: ImageConfig {
            entrypoint: Some(vec!["/hello".to_owned()].into()),
            exposed_ports: BTreeMap::from([("8080/tcp".to_owned(), Empty {})]),
            healthcheck: Some(HealthConfig {
                test: ["CMD", "/hello", "check"].map(str::to_owned).to_vec(),
                interval: Nanos::from_secs(1),
                ..HealthConfig::default()
            }),
            working_dir: "/".into(),
            ..ImageConfig::default()
        },
        rootfs: RootFs {
            kind: "layers".into(),
            diff_ids: vec![blob.clone()],
        },
        history: vec![History {
            created: CREATED,
            created_by: "COPY hello /hello".into(),
            ..History::default()
        }],
        ..ConfigFile::default()
    };
    let parts = Parts {
        config: serde_json::to_vec(&config).during(what)?,
        layers: vec![layer_descriptor(&store.blobs, &blob, size)?],
        manifest: None,
        parent: None,
        step: None,
    };
    let image = assemble(store, parts, |_, _| {})?;
    store.name(&NAME.parse::<Reference>()?, image.id(), crate::clock::now())?;
    Ok(image)
}

fn archive(program: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(program.len() as u64);
    header.set_mtime(u64::try_from(CREATED.0 / 1_000_000_000).unwrap_or(0));
    builder.append_data(&mut header, "hello", program)?;
    let mut archive = builder.into_inner()?;
    archive.flush()?;
    Ok(archive)
}
