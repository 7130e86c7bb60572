//! Where the log's records lie: five blocking calls, owned by one thread.
//!
//! Values are opaque here; sealing and meaning are the journal's. Two implementations pass one
//! suite: sled, and plain segment files.

mod segments;
mod sled;
#[cfg(test)]
mod suite;

use std::io;
use std::ops::Range;
use std::path::Path;

pub(crate) use self::segments::Segments;
pub(crate) use self::sled::SledBackend;
use crate::Backend;

/// Values up to this size are taken; the largest entry is far below.
pub(crate) const VALUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why a backend cannot go on. After one, the backend is not used again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackendError {
    #[error("{0}")]
    Damaged(String),
    #[error("the disk failed: {0}")]
    Io(#[from] io::Error),
}

/// A log of opaque values at consecutive indexes, and a few named values.
pub(crate) trait LogBackend: Send {
    /// Writes values at consecutive indexes that continue the log (or start it). On disk when it
    /// returns, together with everything written before.
    fn append_batch(&mut self, records: &[(u64, Vec<u8>)]) -> Result<(), BackendError>;

    /// Values from `range`, in order, until `bytes_max` is reached (at least one). Indexes that are not
    /// there are left out at the ends; a hole is damage.
    fn read_range(
        &self,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, BackendError>;

    /// Removes `from` and everything after it. On disk when it returns; a crash on the way leaves
    /// a log without holes.
    fn truncate_from(&mut self, from: u64) -> Result<(), BackendError>;

    /// Removes everything up to and including `to`. A crash on the way leaves no holes.
    fn purge_to(&mut self, to: u64) -> Result<(), BackendError>;

    /// Sets a named value; on disk when it returns if `sync`, else with the next write that is.
    fn put_meta(&mut self, key: &str, value: &[u8], sync: bool) -> Result<(), BackendError>;

    fn get_meta(&self, key: &str) -> Result<Option<Vec<u8>>, BackendError>;

    /// First and last index.
    fn bounds(&self) -> Result<Option<(u64, u64)>, BackendError>;
}

/// Opens the backend in a directory of its own.
pub(crate) fn open(kind: Backend, directory: &Path) -> Result<Box<dyn LogBackend>, BackendError> {
    Ok(match kind {
        Backend::Sled => Box::new(SledBackend::open(&directory.join("sled"))?),
        Backend::Segments => Box::new(Segments::open(&directory.join("segments"))?),
    })
}

/// Makes a rename or a new file in `directory` last.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    std::fs::File::open(directory)?.sync_all()
}
