//! The log in sled 0.34.
//!
//! What sled leaves open and is closed here: `flush` does not make file sizes nor the disk's own
//! cache durable, so its file is synced a second time through a descriptor of our own; values over
//! a quarter of a segment become files that are never synced, so values are cut into parts small
//! enough that a whole leaf stays below that (and should such files appear, they are synced too).
//! It panics on some kinds of damage; every call is caught.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use sled::{Batch, Db, IVec, Mode, Tree};

use super::{BackendError, LogBackend, VALUE_BYTES_MAX, sync_directory};

/// Bytes of one stored part. A leaf holds at most about twenty of them before it is split.
const PART_BYTES: usize = 32 * 1024;
/// A quarter of it is the largest page kept inside the file.
const SEGMENT_BYTES: usize = 4 * 1024 * 1024;
const CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// Keys removed by one batch.
const REMOVE_BATCH: usize = 2048;
/// sled lets go of its file a moment after it is dropped.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// A file larger than this and four times its content is written anew at open.
const COMPACT_ABOVE_BYTES: u64 = 256 * 1024 * 1024;

pub(crate) struct SledBackend {
    log: Tree,
    meta: Tree,
    database: Db,
    /// sled's own file, opened again for `fdatasync`.
    file: File,
    blobs: PathBuf,
    blobs_seen: Option<SystemTime>,
}

impl SledBackend {
    pub fn open(directory: &Path) -> Result<Self, BackendError> {
        std::fs::create_dir_all(directory)?;
        let path = directory.join("log");
        finish_swap(directory, &path)?;
        let mut opened = Self::open_at(&path)?;
        if opened.is_mostly_garbage()? {
            opened = opened.compact(directory, &path)?;
        }
        Ok(opened)
    }

    fn open_at(path: &Path) -> Result<Self, BackendError> {
        let deadline = Instant::now() + LOCK_WAIT;
        let database = loop {
            let config = sled::Config::new()
                .path(path)
                .mode(Mode::HighThroughput)
                .cache_capacity(CACHE_BYTES)
                .segment_size(SEGMENT_BYTES)
                .flush_every_ms(None);
            match guard(|| config.open()) {
                Ok(database) => break database,
                Err(BackendError::Io(error))
                    if error.to_string().contains("could not acquire lock")
                        && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => return Err(error),
            }
        };
        let log = guard(|| database.open_tree("log"))?;
        let meta = guard(|| database.open_tree("meta"))?;
        let mut opened = Self {
            log,
            meta,
            database,
            file: File::options()
                .read(true)
                .write(true)
                .open(path.join("db"))?,
            blobs: path.join("blobs"),
            blobs_seen: None,
        };
        opened.sync()?;
        sync_directory(path)?;
        if let Some(parent) = path.parent() {
            sync_directory(parent)?;
        }
        Ok(opened)
    }

    fn sync(&mut self) -> Result<(), BackendError> {
        guard(|| self.database.flush())?;
        self.file.sync_data()?;
        self.sync_blobs()
    }

    fn sync_blobs(&mut self) -> Result<(), BackendError> {
        let changed = match std::fs::metadata(&self.blobs) {
            Ok(metadata) => Some(metadata.modified()?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        if changed == self.blobs_seen {
            return Ok(());
        }
        for entry in std::fs::read_dir(&self.blobs)? {
            match File::open(entry?.path()) {
                Ok(file) => file.sync_all()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        sync_directory(&self.blobs)?;
        self.blobs_seen = changed;
        Ok(())
    }

    fn is_mostly_garbage(&self) -> Result<bool, BackendError> {
        let size = guard(|| self.database.size_on_disk())?;
        if size < COMPACT_ABOVE_BYTES {
            return Ok(false);
        }
        let mut live = 0;
        for pair in self.log.iter() {
            let (key, value) = guard(|| pair)?;
            live += (key.len() + value.len()) as u64;
        }
        Ok(size > 4 * live)
    }

    /// Copies what is live into a fresh database and swaps the two: sled's file never shrinks.
    fn compact(self, directory: &Path, path: &Path) -> Result<Self, BackendError> {
        let fresh_path = directory.join("log.fresh");
        remove_if_there(&fresh_path)?;
        {
            let mut fresh = Self::open_at(&fresh_path)?;
            for (from, to) in [(&self.log, &fresh.log), (&self.meta, &fresh.meta)] {
                for pair in from.iter() {
                    let (key, value) = guard(|| pair)?;
                    guard(|| to.insert(key, value))?;
                }
            }
            fresh.sync()?;
        }
        drop(self);
        std::fs::rename(path, directory.join("log.old"))?;
        std::fs::rename(&fresh_path, path)?;
        sync_directory(directory)?;
        remove_if_there(&directory.join("log.old"))?;
        Self::open_at(path)
    }

    /// Removes the keys that `keys` yields, in that order.
    fn remove(
        &mut self,
        keys: impl Iterator<Item = sled::Result<IVec>>,
    ) -> Result<(), BackendError> {
        let mut keys = keys.peekable();
        while keys.peek().is_some() {
            let mut batch = Batch::default();
            let mut count = 0;
            let mut last_index = None;
            // A batch ends between two entries, so that no entry loses only some of its parts.
            while let Some(key) = keys.peek() {
                let index = match key {
                    Ok(key) => index_of(key)?,
                    Err(_) => 0,
                };
                if count >= REMOVE_BATCH && last_index != Some(index) {
                    break;
                }
                let key = keys.next().expect("it was peeked");
                batch.remove(guard(|| key)?);
                last_index = Some(index);
                count += 1;
            }
            guard(|| self.log.apply_batch(batch))?;
        }
        self.sync()
    }
}

/// Finishes or undoes a swap that a crash interrupted.
fn finish_swap(directory: &Path, path: &Path) -> Result<(), BackendError> {
    let old = directory.join("log.old");
    let fresh = directory.join("log.fresh");
    if !path.exists() && old.exists() {
        std::fs::rename(&old, path)?;
        sync_directory(directory)?;
    }
    remove_if_there(&fresh)?;
    remove_if_there(&old)
}

fn remove_if_there(path: &Path) -> Result<(), BackendError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Calls sled, turning its panics into damage.
fn guard<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, BackendError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(sled::Error::Io(error))) => Err(BackendError::Io(error)),
        Ok(Err(error)) => Err(BackendError::Damaged(format!("sled: {error}"))),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no reason given");
            Err(BackendError::Damaged(format!("sled gave up: {text}")))
        }
    }
}

fn key(index: u64, part: u16) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&index.to_be_bytes());
    key[8..].copy_from_slice(&part.to_be_bytes());
    key
}

fn index_of(key: &[u8]) -> Result<u64, BackendError> {
    split_key(key).map(|(index, _)| index)
}

fn split_key(key: &[u8]) -> Result<(u64, u16), BackendError> {
    let bytes: [u8; 10] = key
        .try_into()
        .map_err(|_| BackendError::Damaged(format!("a log key has {} bytes", key.len())))?;
    let [a, b, c, d, e, f, g, h, i, j] = bytes;
    Ok((
        u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        u16::from_be_bytes([i, j]),
    ))
}

impl LogBackend for SledBackend {
    fn append_batch(&mut self, records: &[(u64, Vec<u8>)]) -> Result<(), BackendError> {
        let mut batch = Batch::default();
        for (index, value) in records {
            if value.len() > VALUE_BYTES_MAX {
                return Err(BackendError::Io(io::Error::other(
                    "a log value is too large",
                )));
            }
            // The first part begins with the number of parts.
            let parts = value.len().div_ceil(PART_BYTES).max(1);
            let count = u16::try_from(parts).expect("64 MiB are 2048 parts");
            for part in 0..count {
                let start = usize::from(part) * PART_BYTES;
                let piece = &value[start..value.len().min(start + PART_BYTES)];
                if part == 0 {
                    let mut first = count.to_be_bytes().to_vec();
                    first.extend_from_slice(piece);
                    batch.insert(&key(*index, part), first);
                } else {
                    batch.insert(&key(*index, part), piece);
                }
            }
        }
        guard(|| self.log.apply_batch(batch))?;
        self.sync()
    }

    fn read_range(
        &self,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, BackendError> {
        let mut records: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut bytes = 0;
        let mut missing = 0_u16;
        if range.is_empty() {
            return Ok(records);
        }
        for pair in self.log.range(key(range.start, 0)..key(range.end, 0)) {
            let (key, value) = guard(|| pair)?;
            let (index, part) = split_key(&key)?;
            if part == 0 {
                if missing != 0 {
                    return Err(BackendError::Damaged(format!(
                        "entry before {index} lacks parts"
                    )));
                }
                if let Some((last, _)) = records.last()
                    && last + 1 != index
                {
                    return Err(BackendError::Damaged(format!(
                        "the log has a hole between {last} and {index}"
                    )));
                }
                if bytes >= bytes_max && !records.is_empty() {
                    return Ok(records);
                }
                let (count, piece) = value
                    .split_at_checked(2)
                    .ok_or_else(|| BackendError::Damaged(format!("entry {index} is too short")))?;
                missing = u16::from_be_bytes([count[0], count[1]]).wrapping_sub(1);
                bytes += piece.len();
                records.push((index, piece.to_vec()));
            } else {
                let Some((last, collected)) = records.last_mut() else {
                    return Err(BackendError::Damaged(format!(
                        "entry {index} lacks its start"
                    )));
                };
                if *last != index || missing == 0 {
                    return Err(BackendError::Damaged(format!(
                        "entry {index} has parts too many"
                    )));
                }
                missing -= 1;
                bytes += value.len();
                collected.extend_from_slice(&value);
            }
        }
        if missing != 0 {
            return Err(BackendError::Damaged(
                "the last entry read lacks parts".to_owned(),
            ));
        }
        Ok(records)
    }

    fn truncate_from(&mut self, from: u64) -> Result<(), BackendError> {
        // From the end, so that what is left by a crash has no hole.
        let keys = self.log.range(key(from, 0)..).keys().rev();
        self.remove(keys)
    }

    fn purge_to(&mut self, to: u64) -> Result<(), BackendError> {
        let keys = self.log.range(..key(to + 1, 0)).keys();
        self.remove(keys)
    }

    fn put_meta(&mut self, key: &str, value: &[u8], sync: bool) -> Result<(), BackendError> {
        guard(|| self.meta.insert(key, value))?;
        if sync {
            self.sync()?;
        }
        Ok(())
    }

    fn get_meta(&self, key: &str) -> Result<Option<Vec<u8>>, BackendError> {
        Ok(guard(|| self.meta.get(key))?.map(|value| value.to_vec()))
    }

    fn bounds(&self) -> Result<Option<(u64, u64)>, BackendError> {
        let first = guard(|| self.log.first())?;
        let last = guard(|| self.log.last())?;
        match (first, last) {
            (Some((first, _)), Some((last, _))) => Ok(Some((index_of(&first)?, index_of(&last)?))),
            _ => Ok(None),
        }
    }
}
