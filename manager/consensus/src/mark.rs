//! A witness beside the log: how far it was on disk, and which vote was given.
//!
//! A store that loses its tail, be it by a damaged file or by a recovery that is content with
//! less, comes up as a shorter but well-formed log, and a member that forgot acknowledged entries or
//! a vote can break the whole cluster. So each finished write is noted here, in a file of two slots
//! written in turn. The note is written after the log is on disk and is not synced: it may lag behind
//! the log after a power failure, never run ahead. Before the log is cut on purpose, the note is
//! lowered and synced first.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::backend::sync_directory;
use crate::raft::{LogId, Vote};
use crate::vault::{Place, Vault};

/// One slot lies in one sector of any disk.
const SLOT_BYTES: u64 = 4096;
const SLOTS: u8 = 2;

/// What the log must at least hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mark {
    sequence: u64,
    pub last: Option<LogId>,
    pub vote: Option<Vote>,
}

pub(crate) struct MarkFile {
    file: File,
    vault: Vault,
    mark: Mark,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum MarkError {
    #[error("the mark beside the log does not open")]
    Damaged,
    #[error("the mark beside the log is missing")]
    Missing,
    #[error("the disk failed: {0}")]
    Io(#[from] io::Error),
}

impl MarkFile {
    /// Makes the file of a new member.
    pub fn create(path: &Path, vault: Vault) -> Result<Self, MarkError> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        let mut mark = Self {
            file,
            vault,
            mark: Mark::default(),
        };
        mark.note(None, None)?;
        mark.note(None, None)?;
        mark.file.sync_all()?;
        if let Some(directory) = path.parent() {
            sync_directory(directory)?;
        }
        Ok(mark)
    }

    pub fn open(path: &Path, vault: Vault) -> Result<Self, MarkError> {
        let file = match File::options().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(MarkError::Missing);
            }
            opened => opened?,
        };
        // One slot may be torn by a power failure; the other one then still holds.
        let mark = (0..SLOTS)
            .filter_map(|slot| read_slot(&file, &vault, slot))
            .max_by_key(|mark| mark.sequence)
            .ok_or(MarkError::Damaged)?;
        Ok(Self { file, vault, mark })
    }

    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Notes where the log is. Survives the process at once, a power failure a little later.
    pub fn note(&mut self, last: Option<LogId>, vote: Option<Vote>) -> Result<(), MarkError> {
        let mark = Mark {
            sequence: self.mark.sequence + 1,
            last,
            vote,
        };
        let slot = u8::from(mark.sequence % 2 == 1);
        let plain = postcard::to_stdvec(&mark).expect("a mark is plain numbers");
        let sealed = self.vault.seal(Place::Mark { slot }, &plain);
        let len = u16::try_from(sealed.len()).expect("a mark is about a hundred bytes");
        let mut bytes = len.to_be_bytes().to_vec();
        bytes.extend_from_slice(&sealed);
        self.file
            .write_all_at(&bytes, u64::from(slot) * SLOT_BYTES)?;
        self.mark = mark;
        Ok(())
    }

    /// Notes that the log is about to become shorter; on disk when it returns.
    pub fn lower(&mut self, last: Option<LogId>) -> Result<(), MarkError> {
        self.note(last, self.mark.vote)?;
        Ok(self.file.sync_data()?)
    }
}

fn read_slot(file: &File, vault: &Vault, slot: u8) -> Option<Mark> {
    let at = u64::from(slot) * SLOT_BYTES;
    let mut len = [0; 2];
    file.read_exact_at(&mut len, at).ok()?;
    let mut sealed = vec![0; usize::from(u16::from_be_bytes(len))];
    file.read_exact_at(&mut sealed, at + 2).ok()?;
    let plain = vault.open(Place::Mark { slot }, &sealed).ok()?;
    postcard::from_bytes(&plain).ok()
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;
    use skep_pki::{Sealer, SecretKey};

    use super::*;

    fn log_id(index: u64) -> Option<LogId> {
        Some(LogId::new(CommittedLeaderId::new(1, 1), index))
    }

    #[test]
    fn the_newest_note_that_opens_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mark");
        let vault = Vault::new(Sealer::new(&SecretKey::generate()), 1);
        let mut mark = MarkFile::create(&path, vault.clone()).unwrap();
        for index in 1..=5 {
            mark.note(log_id(index), None).unwrap();
        }
        assert_eq!(
            MarkFile::open(&path, vault.clone()).unwrap().mark().last,
            log_id(5)
        );

        // The write of the newest slot is torn: the one before counts.
        let slot = u64::from(mark.mark().sequence % 2 == 1);
        mark.file
            .write_all_at(b"torn", slot * SLOT_BYTES + 8)
            .unwrap();
        assert_eq!(
            MarkFile::open(&path, vault.clone()).unwrap().mark().last,
            log_id(4)
        );

        mark.file
            .write_all_at(b"torn", (1 - slot) * SLOT_BYTES + 8)
            .unwrap();
        assert!(matches!(
            MarkFile::open(&path, vault.clone()),
            Err(MarkError::Damaged)
        ));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(
            MarkFile::open(&path, vault),
            Err(MarkError::Missing)
        ));
    }
}
