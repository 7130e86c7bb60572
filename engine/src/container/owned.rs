//! The volumes that go with a container's directory when the power fails.
//!
//! A directory without a record was never a whole container, or is none any more;
//! the next open removes it. Its anonymous volumes are elsewhere, so their names are
//! noted in it before they are made, and before a removal that takes them along.

use std::collections::BTreeSet;
use std::path::Path;

use super::ContainerRecord;
use crate::error::Result;
use crate::record as file;
use crate::volume::VolumeStore;

const NAME: &str = "owned-volumes.json";

/// Notes the volumes that go with this directory. Blocking.
pub(crate) fn note(directory: &Path, volumes: &[&str]) -> Result<()> {
    match volumes {
        [] => forget(directory),
        volumes => file::save(&directory.join(NAME), &volumes),
    }
}

/// From now on none does. Blocking.
pub(crate) fn forget(directory: &Path) -> Result<()> {
    file::remove_file(&directory.join(NAME))
}

/// Removes what is left of a container without a record, its volumes first. Those in
/// `used` are by now of others too. Blocking.
pub(crate) fn remove_leftover(
    directory: &Path,
    volumes: &VolumeStore,
    used: &BTreeSet<&str>,
) -> Result<()> {
    let owned: Vec<String> = file::load(&directory.join(NAME))?.unwrap_or_default();
    for name in owned {
        if volumes.get(&name).is_ok() && !used.contains(name.as_str()) {
            volumes.remove(&name)?;
        }
    }
    file::remove_tree(directory)
}

impl ContainerRecord {
    /// Names of the volumes that were made for it alone.
    pub(crate) fn anonymous_volumes(&self) -> impl Iterator<Item = &str> {
        self.mounts
            .iter()
            .filter(|mount| mount.anonymous && mount.point.kind == "volume")
            .map(|mount| mount.point.name.as_str())
    }
}
