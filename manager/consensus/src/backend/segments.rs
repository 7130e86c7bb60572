//! The log as plain append-only files: the oracle for sled, and an alternative to it.
//!
//! A file is a header and frames `[length u32][crc32 u32][kind u8 + body]`, little endian. Replaying all
//! files in order gives the log. A new file begins with every named value, so that the oldest
//! files can go once no live entry lies in them; only the oldest may go, since a later file may
//! hold the truncation of an earlier file's entries. A bad frame at the very end is a write that
//! was torn: it ends the log there (whether something acknowledged was lost is the journal's to
//! notice); anywhere else it is damage.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{BackendError, LogBackend, VALUE_BYTES_MAX, sync_directory};

const MAGIC: &[u8; 8] = b"skeplog1";
const FRAME_HEADER: usize = 8;
/// A new file is begun when the last one is larger.
const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;

const ENTRY: u8 = 1;
const TRUNCATE: u8 = 2;
const PURGE: u8 = 3;
const META: u8 = 4;

#[derive(Debug, Clone, Copy)]
struct Position {
    segment: u64,
    /// Where the value begins and how long it is.
    offset: u64,
    len: u32,
    /// Of the value alone, kept in memory: a value that changed on disk since is noticed.
    crc: u32,
}

struct Segment {
    file: File,
    path: PathBuf,
    /// Bytes that count; what lies behind them was torn.
    len: u64,
}

pub(crate) struct Segments {
    directory: PathBuf,
    segments: BTreeMap<u64, Segment>,
    entries: BTreeMap<u64, Position>,
    meta: BTreeMap<String, Vec<u8>>,
    /// The last file still has bytes behind its valid end.
    torn: bool,
}

impl Segments {
    pub fn open(directory: &Path) -> Result<Self, BackendError> {
        std::fs::create_dir_all(directory)?;
        let mut backend = Self {
            directory: directory.to_owned(),
            segments: BTreeMap::new(),
            entries: BTreeMap::new(),
            meta: BTreeMap::new(),
            torn: false,
        };
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            let number = path
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.strip_suffix(".seg"))
                .and_then(|name| u64::from_str_radix(name, 16).ok());
            if let Some(number) = number {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        for pair in numbers.windows(2) {
            if pair[0] + 1 != pair[1] {
                return Err(BackendError::Damaged(format!(
                    "segment {:x} is missing",
                    pair[0] + 1
                )));
            }
        }
        let last = numbers.last().copied();
        for number in numbers {
            backend.replay(number, Some(number) == last)?;
        }
        if backend.segments.is_empty() {
            backend.begin_segment(0)?;
        }
        Ok(backend)
    }

    fn replay(&mut self, number: u64, is_last: bool) -> Result<(), BackendError> {
        let path = self.path(number);
        let file = File::options().read(true).write(true).open(&path)?;
        let bytes = std::fs::read(&path)?;
        let mut at = MAGIC.len();
        if !bytes.starts_with(MAGIC) {
            // A file whose header is torn never held anything that was acknowledged.
            if !is_last {
                return Err(BackendError::Damaged(format!(
                    "segment {number:x} has no header"
                )));
            }
            at = 0;
        }
        let mut good = at;
        while at != 0 {
            match frame(&bytes, at) {
                Some((body, next)) => {
                    self.replay_frame(number, at + FRAME_HEADER, body)?;
                    at = next;
                    good = next;
                }
                None if at == bytes.len() => break,
                None if is_last => break,
                None => {
                    return Err(BackendError::Damaged(format!(
                        "segment {number:x} is damaged at byte {at}"
                    )));
                }
            }
        }
        if is_last {
            self.torn = good < bytes.len() || good == 0;
        }
        self.segments.insert(
            number,
            Segment {
                file,
                path,
                len: good as u64,
            },
        );
        Ok(())
    }

    fn replay_frame(&mut self, number: u64, at: usize, body: &[u8]) -> Result<(), BackendError> {
        let bad = || BackendError::Damaged(format!("segment {number:x} has a malformed record"));
        let (kind, rest) = body.split_first().ok_or_else(bad)?;
        let index = || -> Result<(u64, &[u8]), BackendError> {
            let (index, value) = rest.split_first_chunk::<8>().ok_or_else(bad)?;
            Ok((u64::from_le_bytes(*index), value))
        };
        match *kind {
            ENTRY => {
                let (index, value) = index()?;
                self.expect_next(index)?;
                let position = Position {
                    segment: number,
                    offset: (at + 9) as u64,
                    len: u32::try_from(value.len()).map_err(|_| bad())?,
                    crc: crc32fast::hash(value),
                };
                self.entries.insert(index, position);
            }
            TRUNCATE => drop(self.entries.split_off(&index()?.0)),
            PURGE => self.entries = self.entries.split_off(&(index()?.0 + 1)),
            META => {
                let (len, rest) = rest.split_first().ok_or_else(bad)?;
                let (key, value) = rest.split_at_checked(usize::from(*len)).ok_or_else(bad)?;
                let key = std::str::from_utf8(key).map_err(|_| bad())?;
                self.meta.insert(key.to_owned(), value.to_vec());
            }
            _ => return Err(bad()),
        }
        Ok(())
    }

    fn expect_next(&self, index: u64) -> Result<(), BackendError> {
        match self.entries.last_key_value() {
            Some((last, _)) if last + 1 != index => Err(BackendError::Damaged(format!(
                "the log has a hole between {last} and {index}"
            ))),
            _ => Ok(()),
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:016x}.seg"))
    }

    fn begin_segment(&mut self, number: u64) -> Result<(), BackendError> {
        let path = self.path(number);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)?;
        let mut bytes = MAGIC.to_vec();
        for (key, value) in &self.meta {
            push_frame(&mut bytes, &meta_body(key, value));
        }
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        sync_directory(&self.directory)?;
        self.segments.insert(
            number,
            Segment {
                file,
                path,
                len: bytes.len() as u64,
            },
        );
        self.torn = false;
        Ok(())
    }

    /// Writes frames behind the log's end and answers where they begin.
    fn write(&mut self, frames: &[u8], sync: bool) -> Result<(u64, u64), BackendError> {
        let (number, len) = self.last();
        if self.torn && len == 0 {
            self.begin_segment(number)?;
        } else if self.torn {
            let segment = self
                .segments
                .get(&number)
                .expect("the last segment is there");
            segment.file.set_len(len)?;
            segment.file.sync_all()?;
            self.torn = false;
            // What was torn may be the named values at this file's head, on which the removal of
            // older files relies: they are written again.
            let mut values = Vec::new();
            for (key, value) in &self.meta {
                push_frame(&mut values, &meta_body(key, value));
            }
            self.write(&values, true)?;
        }
        if self.last().1 > SEGMENT_BYTES {
            let segment = self
                .segments
                .get(&number)
                .expect("the last segment is there");
            segment.file.sync_data()?;
            self.begin_segment(number + 1)?;
        }
        let (number, at) = self.last();
        let segment = self
            .segments
            .get_mut(&number)
            .expect("the last segment is there");
        segment.file.write_all_at(frames, at)?;
        if sync {
            segment.file.sync_data()?;
        }
        segment.len = at + frames.len() as u64;
        Ok((number, at))
    }

    fn last(&self) -> (u64, u64) {
        let (number, segment) = self
            .segments
            .last_key_value()
            .expect("there is always a segment");
        (*number, segment.len)
    }

    fn drop_dead_segments(&mut self) -> Result<(), BackendError> {
        let mut removed = false;
        while self.segments.len() > 1 {
            let (number, segment) = self
                .segments
                .first_key_value()
                .expect("there is always a segment");
            if self
                .entries
                .values()
                .any(|position| position.segment == *number)
            {
                break;
            }
            std::fs::remove_file(&segment.path)?;
            removed = true;
            self.segments.pop_first();
        }
        if removed {
            sync_directory(&self.directory)?;
        }
        Ok(())
    }
}

/// The frame at `at` and where the next one begins, if it is whole.
fn frame(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let (header, rest) = bytes.get(at..)?.split_first_chunk::<FRAME_HEADER>()?;
    let [a, b, c, d, e, f, g, h] = *header;
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    let crc = u32::from_le_bytes([e, f, g, h]);
    let body = rest.get(..len)?;
    (len > 0 && crc32fast::hash(body) == crc).then_some((body, at + FRAME_HEADER + len))
}

fn push_frame(frames: &mut Vec<u8>, body: &[u8]) {
    let len = u32::try_from(body.len()).expect("values are at most 64 MiB");
    frames.extend_from_slice(&len.to_le_bytes());
    frames.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    frames.extend_from_slice(body);
}

fn index_body(kind: u8, index: u64, value: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(9 + value.len());
    body.push(kind);
    body.extend_from_slice(&index.to_le_bytes());
    body.extend_from_slice(value);
    body
}

fn meta_body(key: &str, value: &[u8]) -> Vec<u8> {
    let mut body = vec![META, u8::try_from(key.len()).expect("names are short")];
    body.extend_from_slice(key.as_bytes());
    body.extend_from_slice(value);
    body
}

impl LogBackend for Segments {
    fn append_batch(&mut self, records: &[(u64, Vec<u8>)]) -> Result<(), BackendError> {
        let mut frames = Vec::new();
        let mut places = Vec::new();
        let mut expected = self.entries.last_key_value().map(|(last, _)| last + 1);
        for (index, value) in records {
            if value.len() > VALUE_BYTES_MAX {
                return Err(BackendError::Io(io::Error::other(
                    "a log value is too large",
                )));
            }
            if expected.is_some_and(|expected| expected != *index) {
                return Err(BackendError::Damaged(format!(
                    "entry {index} would leave a hole"
                )));
            }
            expected = Some(index + 1);
            let value_at = frames.len() + FRAME_HEADER + 9;
            push_frame(&mut frames, &index_body(ENTRY, *index, value));
            places.push((*index, value_at as u64, value.len(), crc32fast::hash(value)));
        }
        let (segment, at) = self.write(&frames, true)?;
        for (index, offset, len, crc) in places {
            let len = u32::try_from(len).expect("values are at most 64 MiB");
            self.entries.insert(
                index,
                Position {
                    segment,
                    offset: at + offset,
                    len,
                    crc,
                },
            );
        }
        Ok(())
    }

    fn read_range(
        &self,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, BackendError> {
        let mut records = Vec::new();
        let mut bytes = 0;
        if range.is_empty() {
            return Ok(records);
        }
        for (index, position) in self.entries.range(range) {
            if bytes >= bytes_max && !records.is_empty() {
                break;
            }
            let segment = self.segments.get(&position.segment).ok_or_else(|| {
                BackendError::Damaged(format!("the segment of entry {index} is gone"))
            })?;
            let mut value = vec![0; position.len as usize];
            segment.file.read_exact_at(&mut value, position.offset)?;
            if crc32fast::hash(&value) != position.crc {
                return Err(BackendError::Damaged(format!(
                    "entry {index} changed on disk"
                )));
            }
            bytes += value.len();
            records.push((*index, value));
        }
        Ok(records)
    }

    fn truncate_from(&mut self, from: u64) -> Result<(), BackendError> {
        let mut frames = Vec::new();
        push_frame(&mut frames, &index_body(TRUNCATE, from, &[]));
        self.write(&frames, true)?;
        drop(self.entries.split_off(&from));
        Ok(())
    }

    fn purge_to(&mut self, to: u64) -> Result<(), BackendError> {
        let mut frames = Vec::new();
        push_frame(&mut frames, &index_body(PURGE, to, &[]));
        self.write(&frames, true)?;
        self.entries = self.entries.split_off(&(to + 1));
        self.drop_dead_segments()
    }

    fn put_meta(&mut self, key: &str, value: &[u8], sync: bool) -> Result<(), BackendError> {
        let mut frames = Vec::new();
        push_frame(&mut frames, &meta_body(key, value));
        self.write(&frames, sync)?;
        self.meta.insert(key.to_owned(), value.to_vec());
        Ok(())
    }

    fn get_meta(&self, key: &str) -> Result<Option<Vec<u8>>, BackendError> {
        Ok(self.meta.get(key).cloned())
    }

    fn bounds(&self) -> Result<Option<(u64, u64)>, BackendError> {
        let first = self.entries.first_key_value();
        let last = self.entries.last_key_value();
        Ok(first
            .zip(last)
            .map(|((first, _), (last, _))| (*first, *last)))
    }
}
