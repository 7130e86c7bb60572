//! Volumes of the `local` driver: directories that outlive containers.

pub(crate) mod driver;
mod local_mount;
mod ops;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use skep_model::Timestamp;

use crate::error::{EngineError, IoContext as _, Result};
use crate::locks::{Held, Ordered, Rank};
use crate::names;
use crate::record;
use crate::types::Volume;

/// `volumes/<name>/_data`, and `volume.json` beside it.
#[derive(Debug)]
pub(crate) struct VolumeStore {
    root: PathBuf,
    inner: Ordered<BTreeMap<String, Arc<VolumeRecord>>>,
    /// How many running containers use a volume that has a device of its own.
    mounted: Ordered<BTreeMap<String, usize>>,
}

/// What is kept of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeRecord {
    pub(crate) name: String,
    pub(crate) created: Timestamp,
    pub(crate) labels: Option<BTreeMap<String, String>>,
    pub(crate) options: Option<BTreeMap<String, String>>,
    /// Made for one container, with a random name.
    #[serde(default)]
    pub(crate) anonymous: bool,
}

/// Whether a volume was made or was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    New,
    Present,
}

/// Marks anonymous volumes, as docker does.
pub(crate) const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";

impl VolumeStore {
    /// Opens the store and removes what a crash left.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        record::make_directory(root, 0o700)?;
        // Root of a user namespace may leave programs here that belong to the host's root;
        // nobody else on the host may come to them.
        fs::set_permissions(root, fs::Permissions::from_mode(0o700))
            .during(|| format!("cannot close `{}`", root.display()))?;
        let mut volumes = BTreeMap::new();
        let what = || format!("cannot read `{}`", root.display());
        for entry in fs::read_dir(root).during(what)? {
            let path = entry.during(what)?.path();
            if !path.is_dir() {
                continue;
            }
            let loaded: Option<VolumeRecord> = record::load(&path.join("volume.json"))?;
            match loaded {
                Some(volume) => {
                    volumes.insert(volume.name.clone(), Arc::new(volume));
                }
                // The record is written last at creation and removed first at
                // removal: without one there is no volume.
                None => {
                    local_mount::unmount(&path.join("_data"))?;
                    record::remove_tree(&path)?;
                }
            }
        }
        Ok(Self {
            root: root.to_owned(),
            inner: Ordered::new(Rank::Volumes, volumes),
            mounted: Ordered::new(Rank::Mounted, BTreeMap::new()),
        })
    }

    fn lock(&self) -> Held<'_, BTreeMap<String, Arc<VolumeRecord>>> {
        self.inner.lock()
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where a volume's files are.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.directory(name).join("_data")
    }

    pub(crate) fn get(&self, name: &str) -> Result<Arc<VolumeRecord>> {
        self.lock()
            .get(name)
            .cloned()
            .ok_or_else(|| EngineError::no_such_volume(name))
    }

    pub(crate) fn all(&self) -> Vec<Arc<VolumeRecord>> {
        self.lock().values().cloned().collect()
    }

    /// Makes a volume unless one of this name is there. Blocking.
    pub(crate) fn ensure(&self, volume: VolumeRecord) -> Result<(Arc<VolumeRecord>, Made)> {
        let name = volume.name.clone();
        if !names::is_valid_name(&name) {
            return Err(EngineError::invalid(format!(
                "create {name}: \"{name}\" includes invalid characters for a local volume name, only \"{}\" are allowed. If you intended to pass a host directory, use absolute path",
                names::NAME_PATTERN
            )));
        }
        if let Some(options) = &volume.options {
            local_mount::check(options).map_err(|error| error.context(format!("create {name}")))?;
        }
        let mut volumes = self.lock();
        if let Some(present) = volumes.get(&name) {
            return Ok((Arc::clone(present), Made::Present));
        }
        record::make_directory(&self.data(&name), 0o755)?;
        record::save(&self.directory(&name).join("volume.json"), &volume)?;
        record::sync_directory(&self.root).during(|| format!("cannot make volume {name}"))?;
        let volume = Arc::new(volume);
        volumes.insert(name, Arc::clone(&volume));
        Ok((volume, Made::New))
    }

    /// Whether a volume shows a directory of the host.
    pub(crate) fn is_bound(&self, name: &str) -> bool {
        self.get(name).is_ok_and(|volume| {
            let options = volume.options.as_ref();
            options.is_some_and(local_mount::is_bind)
        })
    }

    /// Removes a volume and its files. Who still uses it is the caller's affair.
    /// Blocking.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let mut volumes = self.lock();
        if volumes.remove(name).is_none() {
            return Err(EngineError::no_such_volume(name));
        }
        let directory = self.directory(name);
        record::remove_file(&directory.join("volume.json"))?;
        drop(volumes);
        local_mount::unmount(&self.data(name))?;
        record::remove_tree(&directory)
    }

    /// Readies a volume for a container: mounts its device, if it has one.
    /// Blocking.
    pub(crate) fn acquire(&self, name: &str) -> Result<()> {
        let volume = self.get(name)?;
        let Some(options) = volume
            .options
            .as_ref()
            .filter(|o| local_mount::has_device(o))
        else {
            return Ok(());
        };
        let mut mounted = self.mounted.lock();
        let uses = mounted.entry(name.to_owned()).or_default();
        if *uses == 0 && !local_mount::is_mounted(&self.data(name)) {
            local_mount::mount(&self.data(name), options).map_err(|error| {
                error.context(format!(
                    "error while mounting volume '{}'",
                    self.data(name).display()
                ))
            })?;
        }
        *uses += 1;
        Ok(())
    }

    /// The other side of [`VolumeStore::acquire`]. Blocking.
    pub(crate) fn release(&self, name: &str) {
        let mut mounted = self.mounted.lock();
        let Some(uses) = mounted.get_mut(name) else {
            return;
        };
        *uses = uses.saturating_sub(1);
        if *uses == 0 {
            mounted.remove(name);
            if let Err(error) = local_mount::unmount(&self.data(name)) {
                tracing::warn!(%error, volume = name, "a volume's device stays mounted");
            }
        }
    }

    /// Unmounts devices that a crash left mounted: those of volumes that no
    /// container found again uses. Blocking.
    pub(crate) fn release_unused(&self) {
        for volume in self.all() {
            let has_device = volume.options.as_ref().is_some_and(local_mount::has_device);
            let mounted = self.mounted.lock();
            if !has_device || mounted.contains_key(&volume.name) {
                continue;
            }
            if let Err(error) = local_mount::unmount(&self.data(&volume.name)) {
                tracing::warn!(%error, volume = volume.name, "a volume's device stays mounted");
            }
        }
    }

    /// As the API shows it.
    pub(crate) fn show(&self, volume: &VolumeRecord) -> Volume {
        Volume {
            created_at: volume.created,
            driver: "local".into(),
            labels: volume.labels.clone(),
            mountpoint: self.data(&volume.name).display().to_string(),
            name: volume.name.clone(),
            options: volume.options.clone(),
            scope: "local".into(),
            usage_data: None,
        }
    }
}

/// Bytes of all files below a directory. Blocking.
pub(crate) fn tree_bytes(root: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut seen = std::collections::HashSet::new();
    let mut total = 0;
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                left.push(entry.path());
            } else if metadata.nlink() == 1 || seen.insert((metadata.dev(), metadata.ino())) {
                total += metadata.len();
            }
        }
    }
    total
}
