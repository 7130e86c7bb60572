//! The content-addressed store of blobs: manifests, configurations, layers.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use super::digest::Digest;
use crate::error::{EngineError, IoContext as _, Result};
use crate::record;

/// How long an unfinished download is kept for resuming.
const PARTIAL_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// `blobs/sha256/<hex>`, and `ingest/` for what is not whole yet.
#[derive(Debug, Clone)]
pub(crate) struct BlobStore {
    blobs: PathBuf,
    ingest: PathBuf,
}

impl BlobStore {
    /// Opens the store below this directory and removes what a crash left.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let store = Self {
            blobs: root.join("blobs/sha256"),
            ingest: root.join("ingest"),
        };
        record::make_directory(&store.blobs, 0o700)?;
        record::make_directory(&store.ingest, 0o700)?;
        store.remove_leftovers()?;
        Ok(store)
    }

    fn remove_leftovers(&self) -> Result<()> {
        let what = || format!("cannot read `{}`", self.ingest.display());
        for entry in fs::read_dir(&self.ingest).during(what)? {
            let entry = entry.during(what)?;
            let resumable = entry.path().extension().is_some_and(|ext| ext == "part")
                && entry
                    .metadata()
                    .and_then(|metadata| metadata.modified())
                    .is_ok_and(|modified| {
                        SystemTime::now()
                            .duration_since(modified)
                            .unwrap_or_default()
                            < PARTIAL_AGE_MAX
                    });
            if !resumable {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    record::remove_tree(&entry.path())?;
                } else {
                    record::remove_file(&entry.path())?;
                }
            }
        }
        Ok(())
    }

    /// Where a blob is, or would be.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<File> {
        File::open(self.path(digest)).during(|| format!("cannot open blob {digest}"))
    }

    pub(crate) fn size(&self, digest: &Digest) -> Result<u64> {
        let metadata =
            fs::metadata(self.path(digest)).during(|| format!("cannot open blob {digest}"))?;
        Ok(metadata.len())
    }

    /// A small blob as bytes.
    pub(crate) fn read(&self, digest: &Digest, bytes_max: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_blob(digest)?
            .take(bytes_max + 1)
            .read_to_end(&mut bytes)
            .during(|| format!("cannot read blob {digest}"))?;
        if bytes.len() as u64 > bytes_max {
            return Err(EngineError::invalid(format!(
                "blob {digest} is larger than {bytes_max} bytes"
            )));
        }
        Ok(bytes)
    }

    /// Stores these bytes.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if !self.has(&digest) {
            let mut writer = self.writer()?;
            writer
                .write_all(bytes)
                .during(|| format!("cannot write blob {digest}"))?;
            writer.commit(Some(&digest))?;
        }
        Ok(digest)
    }

    /// A new blob of unknown digest.
    pub(crate) fn writer(&self) -> Result<BlobWriter> {
        let path = self
            .ingest
            .join(format!("{}.tmp", crate::names::new_id(&mut rand::rng())));
        BlobWriter::create(self.clone(), path, false)
    }

    /// A blob of known digest; goes on where an earlier attempt stopped. One
    /// writer at a time per digest: the caller sees to it.
    pub(crate) fn resume(&self, digest: &Digest) -> Result<BlobWriter> {
        let path = self.ingest.join(format!("{}.part", digest.hex()));
        BlobWriter::create(self.clone(), path, true)
    }

    /// What there is of one that is being resumed.
    pub(crate) fn open_part(&self, digest: &Digest) -> Result<File> {
        let path = self.ingest.join(format!("{}.part", digest.hex()));
        File::open(path).during(|| format!("cannot open blob {digest}"))
    }

    pub(crate) fn remove(&self, digest: &Digest) -> Result<()> {
        record::remove_file(&self.path(digest))
    }

    /// All blobs there are.
    pub(crate) fn all(&self) -> Result<Vec<Digest>> {
        let what = || format!("cannot read `{}`", self.blobs.display());
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.blobs).during(what)? {
            let name = entry.during(what)?.file_name();
            if let Ok(digest) = format!("sha256:{}", name.to_string_lossy()).parse() {
                all.push(digest);
            }
        }
        Ok(all)
    }
}

/// A blob being written; it exists only after [`BlobWriter::commit`].
pub(crate) struct BlobWriter {
    store: BlobStore,
    file: File,
    path: PathBuf,
    hash: Sha256,
    length: u64,
    /// Whether to keep the file for a later attempt when dropped uncommitted.
    keep: bool,
    committed: bool,
}

impl BlobWriter {
    fn create(store: BlobStore, path: PathBuf, resume: bool) -> Result<Self> {
        let what = || format!("cannot write `{}`", path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(!resume)
            .open(&path)
            .during(what)?;
        let mut hash = Sha256::new();
        // What is there already is hashed again: it may be damaged, and then the
        // digest will not match and the file is thrown away.
        let length = io::copy(&mut file, &mut hash).during(what)?;
        Ok(Self {
            store,
            file,
            path,
            hash,
            length,
            keep: resume,
            committed: false,
        })
    }

    /// Bytes so far, those of earlier attempts included.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Begins anew.
    pub(crate) fn restart(&mut self) -> Result<()> {
        use std::io::Seek as _;
        let what = || format!("cannot write `{}`", self.path.display());
        self.file.set_len(0).during(what)?;
        self.file.rewind().during(what)?;
        self.hash = Sha256::new();
        self.length = 0;
        Ok(())
    }

    /// Makes the blob exist, if it is the expected one.
    pub(crate) fn commit(mut self, expected: Option<&Digest>) -> Result<(Digest, u64)> {
        let digest = Digest::from_hash(&self.hash.clone().finalize());
        if let Some(expected) = expected
            && *expected != digest
        {
            self.keep = false;
            return Err(EngineError::invalid(format!(
                "filesystem layer verification failed for digest {expected}"
            )));
        }
        let what = || format!("cannot write blob {digest}");
        self.file.sync_all().during(what)?;
        fs::rename(&self.path, self.store.path(&digest)).during(what)?;
        self.committed = true;
        record::sync_directory(&self.store.blobs).during(what)?;
        Ok((digest, self.length))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.file.write(data)?;
        self.hash.update(&data[..count]);
        self.length += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if !self.committed && !self.keep {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_there_only_when_its_digest_matches() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        let digest = store.put(b"hello").unwrap();
        assert_eq!(store.read(&digest, 10).unwrap(), b"hello");
        assert!(store.read(&digest, 4).is_err());

        let mut wrong = store.writer().unwrap();
        wrong.write_all(b"other").unwrap();
        assert!(wrong.commit(Some(&digest)).is_err());
        assert_eq!(store.all().unwrap(), [digest]);
        assert_eq!(fs::read_dir(&store.ingest).unwrap().count(), 0);
    }

    #[test]
    fn an_unfinished_download_goes_on_where_it_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        let digest = Digest::of(b"hello world");
        let mut first = store.resume(&digest).unwrap();
        first.write_all(b"hello ").unwrap();
        drop(first);

        let store = BlobStore::open(directory.path()).unwrap();
        let mut second = store.resume(&digest).unwrap();
        assert_eq!(second.length(), 6);
        second.write_all(b"world").unwrap();
        second.commit(Some(&digest)).unwrap();
        assert!(store.has(&digest));
    }

    #[test]
    fn a_crash_leaves_nothing_that_stays() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        fs::write(store.ingest.join("x.tmp"), "half").unwrap();
        fs::create_dir(store.ingest.join("y")).unwrap();
        BlobStore::open(directory.path()).unwrap();
        assert_eq!(fs::read_dir(&store.ingest).unwrap().count(), 0);
    }
}
