//! What is on a member's disk, beside its snapshots: identity, log, vote.
//!
//! Blocking, owned by one thread. Every value is sealed for its place; everything is opened and
//! checked once when the journal is opened. Nothing is ever repaired: a journal that does not hold
//! what it must is [`JournalError::Damaged`].

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use openraft::CommittedLeaderId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Backend;
use crate::backend::{self, BackendError, LogBackend, sync_directory};
use crate::mark::{MarkError, MarkFile};
use crate::raft::{Entry, LogId, Vote};
use crate::vault::{Place, Vault};

/// First byte of a stored entry.
const ENTRY_FORMAT: u8 = 1;
/// What lies before a stored entry's seal: format, term, leader.
const ENTRY_HEADER: usize = 17;
/// Bytes of stored entries checked at a time when the journal is opened.
const CHECK_BYTES: usize = 8 * 1024 * 1024;

const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";

#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("{0}")]
    Damaged(String),
    #[error("the key does not open the identity in the directory")]
    WrongKey,
    #[error("the directory is in use")]
    InUse,
    #[error("the directory belongs to member {found}")]
    OtherMember { found: u64 },
    #[error("the disk failed: {0}")]
    Io(#[from] io::Error),
}

impl From<BackendError> for JournalError {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Damaged(what) => Self::Damaged(what),
            BackendError::Io(error) => Self::Io(error),
        }
    }
}

impl From<MarkError> for JournalError {
    fn from(error: MarkError) -> Self {
        match error {
            MarkError::Io(error) => Self::Io(error),
            error => Self::Damaged(error.to_string()),
        }
    }
}

impl From<JournalError> for io::Error {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Io(error) => error,
            error => io::Error::other(error.to_string()),
        }
    }
}

/// Written last when a directory is set up: a directory without it is new.
#[derive(Serialize, Deserialize)]
struct Identity {
    member: u64,
    backend: u8,
}

/// What an opened journal holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Recovered {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    /// The last entry, or what was purged when there is none.
    pub last: Option<LogId>,
}

pub(crate) struct Journal {
    backend: Box<dyn LogBackend>,
    vault: Vault,
    mark: MarkFile,
    last: Option<LogId>,
    vote: Option<Vote>,
    /// Held until the journal is dropped, after the backend.
    _lock: File,
}

impl Journal {
    /// Opens the directory and shows each entry of the log, in order, to `seen`.
    pub fn open(
        directory: &Path,
        member: u64,
        kind: Backend,
        vault: Vault,
        seen: impl FnMut(Entry),
    ) -> Result<(Self, Recovered), JournalError> {
        std::fs::create_dir_all(directory)?;
        let lock = lock(&directory.join("lock"))?;
        let is_new = !check_identity(directory, member, kind, &vault)?;
        let backend = backend::open(kind, directory)?;
        let mark_path = directory.join("mark");
        let mark = if is_new {
            if backend.bounds()?.is_some() || backend.get_meta(VOTE)?.is_some() {
                return Err(JournalError::Damaged(
                    "there is a log but no identity".to_owned(),
                ));
            }
            let mark = MarkFile::create(&mark_path, vault.clone())?;
            write_identity(directory, member, kind, &vault)?;
            mark
        } else {
            MarkFile::open(&mark_path, vault.clone())?
        };
        let mut journal = Self {
            backend,
            vault,
            mark,
            last: None,
            vote: None,
            _lock: lock,
        };
        let recovered = journal.check(seen)?;
        journal.last = recovered.last;
        journal.vote = recovered.vote;
        Ok((journal, recovered))
    }

    /// Opens every record, and compares the whole with the mark.
    fn check(&mut self, mut seen: impl FnMut(Entry)) -> Result<Recovered, JournalError> {
        let vote: Option<Vote> = self.meta(VOTE)?;
        let committed: Option<LogId> = self.meta(COMMITTED)?;
        let purged: Option<LogId> = self.meta(PURGED)?;
        let mark = self.mark.mark().clone();
        let mut last = purged;

        if let Some((first, end)) = self.backend.bounds()? {
            let kept = purged.map_or(0, |purged| purged.index + 1);
            if first < kept {
                // A purge was interrupted: it is written down before anything is deleted.
                self.backend.purge_to(kept - 1)?;
            }
            if first > kept {
                return Err(JournalError::Damaged(format!(
                    "the log begins at entry {first} and not at {kept}"
                )));
            }
            let mut next = kept;
            while next <= end {
                let entries = self.read(next..end + 1, CHECK_BYTES)?;
                if entries.is_empty() {
                    return Err(JournalError::Damaged(format!("entry {next} is missing")));
                }
                for entry in entries {
                    if entry.log_id.index != next || last > Some(entry.log_id) {
                        return Err(JournalError::Damaged(format!(
                            "entry {next} is out of order"
                        )));
                    }
                    let marked = mark.last.filter(|marked| marked.index == next);
                    if marked.is_some_and(|marked| marked != entry.log_id) {
                        return Err(JournalError::Damaged(format!(
                            "entry {next} is not the one that was written"
                        )));
                    }
                    last = Some(entry.log_id);
                    next += 1;
                    seen(entry);
                }
            }
        }

        if vote < mark.vote {
            return Err(JournalError::Damaged(
                "a vote that was given is not there".to_owned(),
            ));
        }
        if last.map(|last| last.index) < mark.last.map(|last| last.index) {
            return Err(JournalError::Damaged(format!(
                "the log ends at entry {} but was written up to entry {}",
                last.map_or_else(|| "none".to_owned(), |last| last.index.to_string()),
                mark.last.map_or(0, |last| last.index),
            )));
        }
        if committed > last {
            return Err(JournalError::Damaged(
                "the log ends before what was committed".to_owned(),
            ));
        }
        Ok(Recovered {
            vote,
            committed,
            purged,
            last,
        })
    }

    /// Appends entries that continue the log; on disk when it returns.
    pub fn append<'a>(
        &mut self,
        entries: impl IntoIterator<Item = &'a Entry>,
    ) -> Result<(), JournalError> {
        let mut records = Vec::new();
        let mut last = self.last;
        for entry in entries {
            let index = entry.log_id.index;
            if last.map_or(0, |last| last.index + 1) != index {
                return Err(JournalError::Damaged(format!(
                    "entry {index} would leave a hole"
                )));
            }
            records.push((index, self.seal_entry(entry)?));
            last = Some(entry.log_id);
        }
        if records.is_empty() {
            return Ok(());
        }
        self.backend.append_batch(&records)?;
        self.last = last;
        Ok(self.mark.note(self.last, self.vote)?)
    }

    pub fn save_vote(&mut self, vote: Vote) -> Result<(), JournalError> {
        self.put_meta(VOTE, &vote, true)?;
        self.vote = Some(vote);
        Ok(self.mark.note(self.last, self.vote)?)
    }

    /// Not synced: it reaches the disk with the next write that is.
    pub fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), JournalError> {
        match committed {
            Some(committed) => self.put_meta(COMMITTED, &committed, false),
            None => Ok(()),
        }
    }

    /// Removes `from` and everything behind it; `before` is the entry that is then the last.
    pub fn truncate(&mut self, from: u64, before: Option<LogId>) -> Result<(), JournalError> {
        self.mark.lower(before)?;
        self.backend.truncate_from(from)?;
        self.last = before;
        Ok(())
    }

    /// Removes everything up to `to`, which may lie beyond the log's end.
    pub fn purge(&mut self, to: LogId) -> Result<(), JournalError> {
        self.put_meta(PURGED, &to, true)?;
        self.backend.purge_to(to.index)?;
        if self.last.is_none_or(|last| last.index < to.index) {
            self.last = Some(to);
        }
        Ok(self.mark.note(self.last, self.vote)?)
    }

    /// Entries from `range` until `bytes_max`, at least one if there is one.
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>, JournalError> {
        let records = self.backend.read_range(range, bytes_max)?;
        records
            .into_iter()
            .map(|(index, record)| self.open_entry(index, &record))
            .collect()
    }

    fn seal_entry(&self, entry: &Entry) -> Result<Vec<u8>, JournalError> {
        let LogId { leader_id, index } = entry.log_id;
        let plain = postcard::to_stdvec(entry)
            .map_err(|error| io::Error::other(format!("entry {index}: {error}")))?;
        let place = Place::Entry {
            index,
            term: leader_id.term,
            leader: leader_id.node_id,
        };
        let sealed = self.vault.seal(place, &plain);
        let mut record = Vec::with_capacity(ENTRY_HEADER + sealed.len());
        record.push(ENTRY_FORMAT);
        record.extend_from_slice(&leader_id.term.to_be_bytes());
        record.extend_from_slice(&leader_id.node_id.to_be_bytes());
        record.extend_from_slice(&sealed);
        Ok(record)
    }

    fn open_entry(&self, index: u64, record: &[u8]) -> Result<Entry, JournalError> {
        let damaged = |why: &str| JournalError::Damaged(format!("entry {index}: {why}"));
        let (header, sealed) = record
            .split_first_chunk::<ENTRY_HEADER>()
            .ok_or_else(|| damaged("the record is too short"))?;
        let [format, term @ .., l0, l1, l2, l3, l4, l5, l6, l7] = *header;
        if format != ENTRY_FORMAT {
            return Err(damaged("the record has an unknown format"));
        }
        let term = u64::from_be_bytes(term);
        let leader = u64::from_be_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
        let plain = self
            .vault
            .open(
                Place::Entry {
                    index,
                    term,
                    leader,
                },
                sealed,
            )
            .map_err(|error| damaged(&error.to_string()))?;
        let entry: Entry =
            postcard::from_bytes(&plain).map_err(|error| damaged(&error.to_string()))?;
        if entry.log_id != LogId::new(CommittedLeaderId::new(term, leader), index) {
            return Err(damaged("the record is another entry's"));
        }
        Ok(entry)
    }

    fn meta<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, JournalError> {
        let Some(record) = self.backend.get_meta(key)? else {
            return Ok(None);
        };
        let damaged = |error: String| JournalError::Damaged(format!("record `{key}`: {error}"));
        let plain = self
            .vault
            .open(Place::Meta { key }, &record)
            .map_err(|error| damaged(error.to_string()))?;
        postcard::from_bytes(&plain)
            .map(Some)
            .map_err(|error| damaged(error.to_string()))
    }

    fn put_meta<T: Serialize>(
        &mut self,
        key: &str,
        value: &T,
        sync: bool,
    ) -> Result<(), JournalError> {
        let plain = postcard::to_stdvec(value).expect("votes and log ids are plain numbers");
        let sealed = self.vault.seal(Place::Meta { key }, &plain);
        Ok(self.backend.put_meta(key, &sealed, sync)?)
    }
}

fn lock(path: &Path) -> Result<File, JournalError> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalError::InUse),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

fn backend_number(kind: Backend) -> u8 {
    match kind {
        Backend::Sled => 1,
        Backend::Segments => 2,
    }
}

fn identity_path(directory: &Path) -> PathBuf {
    directory.join("identity")
}

/// Whether there is an identity; an error when it is another's.
fn check_identity(
    directory: &Path,
    member: u64,
    kind: Backend,
    vault: &Vault,
) -> Result<bool, JournalError> {
    let record = match std::fs::read(identity_path(directory)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        record => record?,
    };
    let plain = vault
        .open(Place::Identity, &record)
        .map_err(|_| JournalError::WrongKey)?;
    let identity: Identity = postcard::from_bytes(&plain)
        .map_err(|error| JournalError::Damaged(format!("identity: {error}")))?;
    if identity.member != member {
        return Err(JournalError::OtherMember {
            found: identity.member,
        });
    }
    if identity.backend != backend_number(kind) {
        return Err(JournalError::Damaged(
            "the log was written by another backend".to_owned(),
        ));
    }
    Ok(true)
}

fn write_identity(
    directory: &Path,
    member: u64,
    kind: Backend,
    vault: &Vault,
) -> Result<(), JournalError> {
    let identity = Identity {
        member,
        backend: backend_number(kind),
    };
    let plain = postcard::to_stdvec(&identity).expect("an identity is two numbers");
    let fresh = directory.join("identity.tmp");
    let mut file = File::create(&fresh)?;
    file.write_all(&vault.seal(Place::Identity, &plain))?;
    file.sync_all()?;
    std::fs::rename(&fresh, identity_path(directory))?;
    Ok(sync_directory(directory)?)
}

#[cfg(test)]
mod tests;
