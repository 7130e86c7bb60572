//! One snapshot file.
//!
//! `magic`, then records `[length u32][sealed]`, then `[0xFFFFFFFF][sha256 of everything before]`. The
//! first record is the header, the last one the footer with counts and the digest of the content;
//! between them lie pieces of the state machine's chunks. Each record's seal names the snapshot
//! and the record's number, so none can be lost, moved or taken from another file.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::SNAPSHOT_CHUNK_BYTES;
use crate::raft::SnapshotMeta;
use crate::vault::{Place, Vault};

const MAGIC: &[u8; 8] = b"skepsnp1";
const END: u32 = u32::MAX;
/// First byte of a record: part of a chunk, end of a chunk, footer.
const PART: u8 = 0;
const CHUNK_END: u8 = 1;
const FOOTER: u8 = 2;
/// Bytes of the largest record: a piece and its seal, or a header with a large membership.
const RECORD_BYTES_MAX: u32 = 1024 * 1024;

/// Why a snapshot cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("snapshot `{name}`: {what}")]
    Damaged { name: String, what: String },
    #[error("the disk failed: {0}")]
    Io(#[from] io::Error),
}

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SnapshotSource {
    pub meta: SnapshotMeta,
    /// The last command in it.
    pub index: u64,
}

/// What a snapshot holds, counted over its pieces.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Content {
    pub pieces: u64,
    pub bytes: u64,
    pub digest: [u8; 32],
}

/// A part of a chunk of the state machine's dump; chunks may be larger than what travels at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The chunk ends with it.
    pub ends_chunk: bool,
    pub bytes: Vec<u8>,
}

impl Piece {
    pub fn encode(&self) -> Vec<u8> {
        let mut encoded = Vec::with_capacity(1 + self.bytes.len());
        encoded.push(if self.ends_chunk { CHUNK_END } else { PART });
        encoded.extend_from_slice(&self.bytes);
        encoded
    }

    pub fn decode(encoded: &[u8]) -> Option<Self> {
        let (kind, bytes) = encoded.split_first()?;
        let is_piece = matches!(*kind, PART | CHUNK_END) && bytes.len() <= SNAPSHOT_CHUNK_BYTES;
        is_piece.then(|| Self {
            ends_chunk: *kind == CHUNK_END,
            bytes: bytes.to_vec(),
        })
    }
}

/// A finished file. A temporary one removes itself when nobody holds it any more.
#[derive(Debug)]
pub(crate) struct SnapshotFile {
    pub source: SnapshotSource,
    pub content: Content,
    /// Kept open: a follower may still be reading what the shelf has already removed.
    file: Arc<File>,
    path: Mutex<PathBuf>,
    temporary: Mutex<bool>,
}

impl SnapshotFile {
    pub fn path(&self) -> PathBuf {
        self.path
            .lock()
            .expect("nothing panics while it holds a path")
            .clone()
    }

    /// Renames the file to where it stays.
    pub fn settle(&self, path: &Path) -> io::Result<()> {
        let mut current = self
            .path
            .lock()
            .expect("nothing panics while it holds a path");
        if *current != path {
            std::fs::rename(&*current, path)?;
            path.clone_into(&mut current);
        }
        *self
            .temporary
            .lock()
            .expect("nothing panics while it holds a flag") = false;
        Ok(())
    }

    /// Reads the pieces, verifying all the while. The last item is an error unless the file was whole.
    pub fn pieces(&self, vault: &Vault) -> Result<Pieces, SnapshotError> {
        let name = name_of(&self.path());
        let mut reader = Reader::open(Arc::clone(&self.file), name, vault.clone())?;
        let source = reader.header()?;
        if source != self.source {
            return Err(reader.damaged("the header changed"));
        }
        Ok(Pieces {
            reader,
            counter: Counter::default(),
            content: None,
            failed: false,
        })
    }

    /// Opens a file and verifies all of it.
    pub fn open(path: &Path, vault: &Vault) -> Result<Self, SnapshotError> {
        let file = Arc::new(File::open(path)?);
        let mut reader = Reader::open(Arc::clone(&file), name_of(path), vault.clone())?;
        let source = reader.header()?;
        let mut pieces = Pieces {
            reader,
            counter: Counter::default(),
            content: None,
            failed: false,
        };
        for piece in &mut pieces {
            piece?;
        }
        let content = pieces
            .content
            .take()
            .expect("a file without error ends with its footer");
        Ok(Self {
            source,
            content,
            file,
            path: Mutex::new(path.to_owned()),
            temporary: Mutex::new(false),
        })
    }
}

impl Drop for SnapshotFile {
    fn drop(&mut self) {
        if *self
            .temporary
            .lock()
            .expect("nothing panics while it holds a flag")
        {
            // Left-overs are removed at the next open.
            let _ = std::fs::remove_file(self.path());
        }
    }
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Counts and digests pieces, the same way on both ends of a transfer.
#[derive(Default, Clone)]
pub(crate) struct Counter {
    pieces: u64,
    bytes: u64,
    digest: Sha256,
}

impl Counter {
    pub fn count(&mut self, encoded: &[u8]) {
        self.pieces += 1;
        self.bytes += encoded.len() as u64;
        self.digest.update((encoded.len() as u64).to_be_bytes());
        self.digest.update(encoded);
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn content(self) -> Content {
        Content {
            pieces: self.pieces,
            bytes: self.bytes,
            digest: self.digest.finalize().into(),
        }
    }
}

/// Writes a file under a temporary name.
pub(crate) struct SnapshotWriter {
    out: BufWriter<File>,
    digest: Sha256,
    path: PathBuf,
    vault: Vault,
    source: SnapshotSource,
    records: u64,
    counter: Counter,
    finished: bool,
}

impl SnapshotWriter {
    pub fn create(path: PathBuf, vault: Vault, source: SnapshotSource) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)?;
        let mut writer = Self {
            out: BufWriter::with_capacity(256 * 1024, file),
            digest: Sha256::new(),
            path,
            vault,
            source,
            records: 0,
            counter: Counter::default(),
            finished: false,
        };
        writer.write(MAGIC)?;
        let header = postcard::to_stdvec(&writer.source).map_err(io::Error::other)?;
        writer.record(&header)?;
        Ok(writer)
    }

    /// Writes one chunk of a dump.
    pub fn chunk(&mut self, chunk: &[u8]) -> io::Result<()> {
        let mut rest = chunk;
        loop {
            let (bytes, after) = rest.split_at(rest.len().min(SNAPSHOT_CHUNK_BYTES));
            rest = after;
            self.piece(&Piece {
                ends_chunk: rest.is_empty(),
                bytes: bytes.to_vec(),
            })?;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    pub fn piece(&mut self, piece: &Piece) -> io::Result<()> {
        let encoded = piece.encode();
        self.counter.count(&encoded);
        self.record(&encoded)
    }

    pub fn bytes(&self) -> u64 {
        self.counter.bytes()
    }

    /// Ends the file and makes it durable, still under its temporary name.
    pub fn finish(mut self) -> io::Result<SnapshotFile> {
        let content = self.counter.clone().content();
        let footer = postcard::to_stdvec(&content).map_err(io::Error::other)?;
        self.record(&[&[FOOTER], footer.as_slice()].concat())?;
        self.write(&END.to_be_bytes())?;
        let digest: [u8; 32] = self.digest.clone().finalize().into();
        self.out.write_all(&digest)?;
        self.out.flush()?;
        let file = Arc::new(self.out.get_ref().try_clone()?);
        file.sync_all()?;
        self.finished = true;
        Ok(SnapshotFile {
            source: self.source.clone(),
            content,
            file,
            path: Mutex::new(self.path.clone()),
            temporary: Mutex::new(true),
        })
    }

    fn record(&mut self, plain: &[u8]) -> io::Result<()> {
        let id = &self.source.meta.snapshot_id;
        let sealed = self.vault.seal(
            Place::Snapshot {
                id,
                record: self.records,
            },
            plain,
        );
        self.records += 1;
        let len = u32::try_from(sealed.len())
            .ok()
            .filter(|len| *len <= RECORD_BYTES_MAX)
            .ok_or_else(|| io::Error::other("a snapshot record is too large"))?;
        // The id is needed to open the first record, so it stands before it.
        if self.records == 1 {
            let id = id.clone();
            let id_len = u8::try_from(id.len()).map_err(io::Error::other)?;
            self.write(&[id_len])?;
            self.write(id.as_bytes())?;
        }
        self.write(&len.to_be_bytes())?;
        self.write(&sealed)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.out.write_all(bytes)
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.finished {
            // Left-overs are removed at the next open.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Reads a shared file from a position of its own.
struct At {
    file: Arc<File>,
    position: u64,
}

impl Read for At {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(bytes, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

struct Reader {
    input: BufReader<At>,
    digest: Sha256,
    name: String,
    vault: Vault,
    id: String,
    records: u64,
}

impl Reader {
    fn open(file: Arc<File>, name: String, vault: Vault) -> Result<Self, SnapshotError> {
        let mut reader = Self {
            input: BufReader::with_capacity(256 * 1024, At { file, position: 0 }),
            digest: Sha256::new(),
            name,
            vault,
            id: String::new(),
            records: 0,
        };
        let mut magic = [0; 8];
        reader.read(&mut magic)?;
        if magic != *MAGIC {
            return Err(reader.damaged("not a snapshot"));
        }
        let mut len = [0; 1];
        reader.read(&mut len)?;
        let mut id = vec![0; usize::from(len[0])];
        reader.read(&mut id)?;
        reader.id = String::from_utf8(id).map_err(|_| reader.damaged("the name is no text"))?;
        Ok(reader)
    }

    fn header(&mut self) -> Result<SnapshotSource, SnapshotError> {
        let plain = self
            .record()?
            .ok_or_else(|| self.damaged("there is no header"))?;
        let source: SnapshotSource =
            postcard::from_bytes(&plain).map_err(|_| self.damaged("the header is malformed"))?;
        if source.meta.snapshot_id != self.id {
            return Err(self.damaged("the header is another snapshot's"));
        }
        Ok(source)
    }

    /// The next record, or `None` at the verified end of the file.
    fn record(&mut self) -> Result<Option<Vec<u8>>, SnapshotError> {
        let mut len = [0; 4];
        self.read(&mut len)?;
        let len = u32::from_be_bytes(len);
        if len == END {
            let expected: [u8; 32] = self.digest.clone().finalize().into();
            let mut found = [0; 32];
            self.read(&mut found)?;
            let mut beyond = [0; 1];
            if found != expected || self.input.read(&mut beyond)? != 0 {
                return Err(self.damaged("the digest does not match"));
            }
            return Ok(None);
        }
        if len > RECORD_BYTES_MAX {
            return Err(self.damaged("a record is too large"));
        }
        let mut sealed = vec![0; len as usize];
        self.read(&mut sealed)?;
        let place = Place::Snapshot {
            id: &self.id,
            record: self.records,
        };
        let plain = self
            .vault
            .open(place, &sealed)
            .map_err(|error| self.damaged(&format!("record {}: {error}", self.records)))?;
        self.records += 1;
        Ok(Some(plain))
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), SnapshotError> {
        match self.input.read_exact(bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged("the file ends early"))
            }
            Err(error) => Err(error.into()),
            Ok(()) => {
                self.digest.update(&*bytes);
                Ok(())
            }
        }
    }

    fn damaged(&self, what: &str) -> SnapshotError {
        SnapshotError::Damaged {
            name: self.name.clone(),
            what: what.to_owned(),
        }
    }
}

/// The pieces of a file; ends after an error, and without one only if the file was whole.
pub(crate) struct Pieces {
    reader: Reader,
    counter: Counter,
    content: Option<Content>,
    failed: bool,
}

impl Pieces {
    fn next_piece(&mut self) -> Result<Option<Piece>, SnapshotError> {
        let Some(plain) = self.reader.record()? else {
            return Err(self.reader.damaged("there is no footer"));
        };
        if let Some((&FOOTER, footer)) = plain.split_first() {
            let content: Content = postcard::from_bytes(footer)
                .map_err(|_| self.reader.damaged("the footer is malformed"))?;
            if content != self.counter.clone().content() || self.reader.record()?.is_some() {
                return Err(self.reader.damaged("the footer does not match"));
            }
            self.content = Some(content);
            return Ok(None);
        }
        self.counter.count(&plain);
        Piece::decode(&plain)
            .map(Some)
            .ok_or_else(|| self.reader.damaged("a piece is malformed"))
    }
}

impl Iterator for Pieces {
    type Item = Result<Piece, SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.content.is_some() {
            return None;
        }
        let piece = self.next_piece().transpose();
        self.failed = matches!(piece, Some(Err(_)));
        piece
    }
}
