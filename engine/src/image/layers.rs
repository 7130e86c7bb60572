//! Unpacked layers, one directory for each stack of layers they stand on.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::compression::{HashingReader, decompress};
use super::digest::Digest;
use crate::error::{EngineError, IoContext as _, Result};
use crate::record;
use crate::tree::{self, Root, unpack};

/// Digits of the chain id that name the directory. Short, since the paths of all
/// layers of a container must fit into one page of mount options.
const NAME_DIGITS: usize = 16;

/// `layers/<short>/fs`, and `layer.json` beside it.
#[derive(Debug, Clone)]
pub(crate) struct LayerStore {
    root: PathBuf,
}

/// One unpacked layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layer {
    /// Names this layer and all below it.
    pub(crate) chain_id: Digest,
    /// Digest of the layer's own archive, uncompressed.
    pub(crate) diff_id: Digest,
    /// Bytes of its files.
    pub(crate) size: u64,
}

impl LayerStore {
    /// Opens the store and removes what a crash left.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        record::make_directory(root, 0o710)?;
        let store = Self {
            root: root.to_owned(),
        };
        for name in store.names()? {
            if name.ends_with(".tmp") || name.ends_with(".old") {
                record::remove_tree(&store.root.join(name))?;
            }
        }
        Ok(store)
    }

    fn names(&self) -> Result<Vec<String>> {
        let what = || format!("cannot read `{}`", self.root.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.root).during(what)? {
            names.push(
                entry
                    .during(what)?
                    .file_name()
                    .to_string_lossy()
                    .into_owned(),
            );
        }
        Ok(names)
    }

    fn directory(&self, chain_id: &Digest) -> PathBuf {
        self.root.join(&chain_id.hex()[..NAME_DIGITS])
    }

    /// Where the layer's files are.
    pub(crate) fn files(&self, chain_id: &Digest) -> PathBuf {
        self.directory(chain_id).join("fs")
    }

    /// The layer, if it is there.
    pub(crate) fn get(&self, chain_id: &Digest) -> Result<Option<Layer>> {
        let layer: Option<Layer> = record::load(&self.directory(chain_id).join("layer.json"))?;
        match layer {
            Some(layer) if layer.chain_id != *chain_id => Err(EngineError::internal(format!(
                "layers {chain_id} and {} have the same short name",
                layer.chain_id
            ))),
            layer => Ok(layer),
        }
    }

    /// Unpacks a layer's archive on top of `below` (chain ids, base first), unless
    /// it is there. Refuses an archive whose digest is not `diff_id`. Blocking.
    pub(crate) fn unpack(
        &self,
        chain_id: &Digest,
        diff_id: &Digest,
        below: &[Digest],
        blob: impl Read + Send + 'static,
    ) -> Result<Layer> {
        if let Some(layer) = self.get(chain_id)? {
            return Ok(layer);
        }
        let temporary = self.root.join(format!(
            "{}.{}.tmp",
            &chain_id.hex()[..NAME_DIGITS],
            &crate::names::new_id(&mut rand::rng())[..8]
        ));
        let unpacked = self.unpack_into(&temporary, chain_id, diff_id, below, blob);
        let placed = unpacked.and_then(|layer| {
            let place = self.directory(chain_id);
            let what = || format!("cannot place layer {diff_id}");
            match fs::rename(&temporary, &place) {
                Ok(()) => record::sync_directory(&self.root).during(what)?,
                // Somebody else unpacked it meanwhile.
                Err(_) if self.get(chain_id)?.is_some() => record::remove_tree(&temporary)?,
                Err(error) => return Err(EngineError::internal(what()).because(error)),
            }
            Ok(layer)
        });
        if placed.is_err()
            && let Err(error) = record::remove_tree(&temporary)
        {
            tracing::warn!(%error, "part of a layer was left");
        }
        placed
    }

    fn unpack_into(
        &self,
        temporary: &Path,
        chain_id: &Digest,
        diff_id: &Digest,
        below: &[Digest],
        blob: impl Read + Send + 'static,
    ) -> Result<Layer> {
        let what = || format!("failed to register layer: {diff_id}");
        let files = temporary.join("fs");
        record::make_directory(temporary, 0o710)?;
        record::make_directory(&files, 0o755)?;
        let lower: Vec<PathBuf> = below.iter().rev().map(|chain| self.files(chain)).collect();
        let lower = unpack::open_lower(&lower).during(what)?;
        let (unpacked, digest) = tree::confined(Root::Directory(files), move || {
            let (_, plain) = decompress(blob).during(|| "cannot decompress".into())?;
            let mut hashing = HashingReader::new(plain);
            let options = unpack::Options {
                layer: true,
                lower,
                ..unpack::Options::default()
            };
            let unpacked =
                unpack::unpack(&mut hashing, options).during(|| "cannot unpack".into())?;
            Ok((unpacked, hashing.finish().0))
        })
        .map_err(|error| error.context(what()))?;
        if digest != *diff_id {
            return Err(EngineError::invalid(format!(
                "layers from manifest don't match image configuration: {digest} is not {diff_id}"
            )));
        }
        let layer = Layer {
            chain_id: chain_id.clone(),
            diff_id: diff_id.clone(),
            size: unpacked.bytes,
        };
        record::save(&temporary.join("layer.json"), &layer)?;
        // One call for all the files, instead of one for each.
        let directory = File::open(temporary).during(what)?;
        sync_file_system(&directory).during(what)?;
        Ok(layer)
    }

    /// Takes a layer away under its name; the directory returned is left to be
    /// deleted, which takes longer.
    pub(crate) fn discard(&self, chain_id: &Digest) -> Result<Option<PathBuf>> {
        let place = self.directory(chain_id);
        let old = self.root.join(format!(
            "{}.{}.old",
            &chain_id.hex()[..NAME_DIGITS],
            &crate::names::new_id(&mut rand::rng())[..8]
        ));
        match fs::rename(&place, &old) {
            Ok(()) => Ok(Some(old)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                Err(EngineError::internal(format!("cannot remove layer {chain_id}")).because(error))
            }
        }
    }

    /// All layers there are.
    pub(crate) fn all(&self) -> Result<Vec<Layer>> {
        let mut all = Vec::new();
        for name in self.names()? {
            if let Some(layer) = record::load(&self.root.join(name).join("layer.json"))? {
                all.push(layer);
            }
        }
        Ok(all)
    }
}

fn sync_file_system(file: &File) -> std::io::Result<()> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: a system call on a descriptor that `file` keeps open.
    match unsafe { libc::syncfs(file.as_fd().as_raw_fd()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
