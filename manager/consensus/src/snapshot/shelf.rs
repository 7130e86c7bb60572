//! The directory of snapshots: which one counts, and which may go.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::file::SnapshotError;
use super::{SnapshotFile, SnapshotSource, SnapshotWriter};
use crate::backend::sync_directory;
use crate::raft::{LogId, SnapshotMeta, StoredMembership};
use crate::vault::Vault;

const SUFFIX: &str = "snapshot";
const TEMPORARY: &str = "tmp";

pub(crate) struct Shelf {
    directory: PathBuf,
    vault: Vault,
    /// Old snapshots kept beside the current one.
    keep: AtomicUsize,
    inner: Mutex<Inner>,
}

struct Inner {
    current: Option<Arc<SnapshotFile>>,
    /// The directory may be another's by now: nothing is put into it any more.
    closed: bool,
}

impl Shelf {
    /// Opens the directory, removes what was never finished and verifies the newest snapshot.
    pub fn open(directory: &Path, vault: Vault, keep: usize) -> Result<Self, SnapshotError> {
        std::fs::create_dir_all(directory)?;
        for path in files(directory, TEMPORARY)? {
            std::fs::remove_file(path)?;
        }
        // Names begin with a padded generation, so the last one is the newest.
        let current = match files(directory, SUFFIX)?.pop() {
            Some(newest) => Some(Arc::new(SnapshotFile::open(&newest, &vault)?)),
            None => None,
        };
        Ok(Self {
            directory: directory.to_owned(),
            vault,
            keep: AtomicUsize::new(keep),
            inner: Mutex::new(Inner {
                current,
                closed: false,
            }),
        })
    }

    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    pub fn current(&self) -> Option<Arc<SnapshotFile>> {
        self.lock().current.clone()
    }

    /// From now on the shelf stays as it is, also when a snapshot is just being written.
    pub fn close(&self) {
        self.lock().closed = true;
    }

    /// Begins a snapshot of this member's own state.
    pub fn begin(
        &self,
        last_log_id: Option<LogId>,
        last_membership: StoredMembership,
        index: u64,
    ) -> io::Result<SnapshotWriter> {
        let position = last_log_id.map_or_else(String::new, |id| {
            format!("{:020}-{}", id.index, id.leader_id.term)
        });
        let random = u64::from_be_bytes(skep_pki::random_bytes());
        let meta = SnapshotMeta {
            last_log_id,
            last_membership,
            snapshot_id: format!("{position}-{random:016x}"),
        };
        self.begin_received(SnapshotSource { meta, index })
    }

    /// Begins to write down a snapshot that comes from the leader.
    pub fn begin_received(&self, source: SnapshotSource) -> io::Result<SnapshotWriter> {
        if self.lock().closed {
            return Err(closed());
        }
        let random = u64::from_be_bytes(skep_pki::random_bytes());
        let path = self.directory.join(format!("{random:016x}.{TEMPORARY}"));
        SnapshotWriter::create(path, self.vault.clone(), source)
    }

    /// Puts a finished snapshot on the shelf, durably, and removes those that are too many. An older one
    /// than the current is left to remove itself.
    pub fn adopt(&self, snapshot: &Arc<SnapshotFile>) -> io::Result<()> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(closed());
        }
        let current = inner.current.as_ref();
        let newest = current.and_then(|current| current.source.meta.last_log_id);
        if current.is_some() && snapshot.source.meta.last_log_id < newest {
            return Ok(());
        }
        let generation = match files(&self.directory, SUFFIX)?.last() {
            Some(last) => generation(last) + 1,
            None => 0,
        };
        let index = snapshot.source.meta.last_log_id.map_or(0, |id| id.index);
        let name = format!("{generation:020}-{index}.{SUFFIX}");
        snapshot.settle(&self.directory.join(name))?;
        sync_directory(&self.directory)?;
        inner.current = Some(Arc::clone(snapshot));
        self.remove_surplus(&inner)
    }

    /// Keeps so many old snapshots from now on, and removes those that are too many.
    pub fn set_keep(&self, keep: usize) -> io::Result<()> {
        let inner = self.lock();
        self.keep.store(keep, Ordering::SeqCst);
        match inner.closed {
            true => Ok(()),
            false => self.remove_surplus(&inner),
        }
    }

    /// Removes all old snapshots, this once.
    pub fn remove_old(&self) -> io::Result<()> {
        let inner = self.lock();
        match inner.closed {
            true => Ok(()),
            false => self.remove_but(&inner, 0),
        }
    }

    fn remove_surplus(&self, inner: &Inner) -> io::Result<()> {
        self.remove_but(inner, self.keep.load(Ordering::SeqCst))
    }

    /// Removes all but the current one and so many old ones.
    fn remove_but(&self, inner: &Inner, keep: usize) -> io::Result<()> {
        let current = inner.current.as_ref().map(|current| current.path());
        let mut settled = files(&self.directory, SUFFIX)?;
        settled.retain(|path| Some(path) != current.as_ref());
        let surplus = settled.len().saturating_sub(keep);
        for path in settled.drain(..surplus) {
            std::fs::remove_file(path)?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .expect("nothing panics while it holds the shelf")
    }
}

fn closed() -> io::Error {
    io::Error::other("the member is shutting down")
}

fn generation(path: &Path) -> u64 {
    path.file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.split('-').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// Files with a suffix, in order of their names.
fn files(directory: &Path, suffix: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == suffix)
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
