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
    pub fn open(
        directory: &Path,
        member: u64,
        kind: Backend,
        vault: Vault,
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
        let recovered = journal.check()?;
        journal.last = recovered.last;
        journal.vote = recovered.vote;
        Ok((journal, recovered))
    }

    /// Opens every record, and compares the whole with the mark.
    fn check(&mut self) -> Result<Recovered, JournalError> {
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
mod tests {
    use std::os::unix::fs::FileExt;

    use bytes::Bytes;
    use openraft::EntryPayload;
    use skep_pki::{Sealer, SecretKey};

    use super::*;
    use crate::raft::Batch;

    const BACKENDS: [Backend; 2] = [Backend::Sled, Backend::Segments];

    fn entry(term: u64, index: u64) -> Entry {
        let command = Bytes::from(format!("command {index} ").repeat(20));
        let batch = Batch {
            commands: vec![command],
            taken: None,
        };
        let log_id = LogId::new(CommittedLeaderId::new(term, 1), index);
        Entry {
            log_id,
            payload: EntryPayload::Normal(batch),
        }
    }

    fn entries(term: u64, range: Range<u64>) -> Vec<Entry> {
        range.map(|index| entry(term, index)).collect()
    }

    struct Disk {
        directory: tempfile::TempDir,
        vault: Vault,
        kind: Backend,
    }

    impl Disk {
        fn new(kind: Backend) -> Self {
            let vault = Vault::new(Sealer::new(&SecretKey::generate()), 1);
            Self {
                directory: tempfile::tempdir().unwrap(),
                vault,
                kind,
            }
        }

        fn open(&self) -> Result<(Journal, Recovered), JournalError> {
            Journal::open(self.directory.path(), 1, self.kind, self.vault.clone())
        }

        /// The files that hold the log, with their content.
        fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
            let path = match self.kind {
                Backend::Sled => self.directory.path().join("sled/log"),
                Backend::Segments => self.directory.path().join("segments"),
            };
            let mut files = Vec::new();
            for entry in std::fs::read_dir(path).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    files.push((path.clone(), std::fs::read(path).unwrap()));
                }
            }
            files.sort();
            files
        }
    }

    #[test]
    fn everything_is_recovered() {
        for kind in BACKENDS {
            let disk = Disk::new(kind);
            let (mut journal, recovered) = disk.open().unwrap();
            assert_eq!(recovered, Recovered::default());
            let vote = Vote::new_committed(3, 1);
            journal.append(&entries(1, 0..20)).unwrap();
            journal.save_vote(vote).unwrap();
            journal.truncate(15, Some(entry(1, 14).log_id)).unwrap();
            journal.append(&entries(3, 15..30)).unwrap();
            journal.save_committed(Some(entry(3, 16).log_id)).unwrap();
            journal.purge(entry(1, 9).log_id).unwrap();
            drop(journal);
            let (journal, recovered) = disk.open().unwrap();
            let expected = Recovered {
                vote: Some(vote),
                committed: Some(entry(3, 16).log_id),
                purged: Some(entry(1, 9).log_id),
                last: Some(entry(3, 29).log_id),
            };
            assert_eq!(recovered, expected);
            let mut kept = entries(1, 10..15);
            kept.extend(entries(3, 15..30));
            let read = journal.read(0..100, usize::MAX).unwrap();
            assert!(
                read.iter()
                    .map(|entry| entry.log_id)
                    .eq(kept.iter().map(|entry| entry.log_id))
            );
            assert!(matches!(disk.open(), Err(JournalError::InUse)));
        }
    }

    #[test]
    fn a_directory_opens_for_its_member_and_key_only() {
        for kind in BACKENDS {
            let disk = Disk::new(kind);
            drop(disk.open().unwrap());
            let other_key = Vault::new(Sealer::new(&SecretKey::generate()), 1);
            let opened = Journal::open(disk.directory.path(), 1, kind, other_key);
            assert!(matches!(opened, Err(JournalError::WrongKey)));
            let opened = Journal::open(disk.directory.path(), 2, kind, disk.vault.clone());
            assert!(matches!(
                opened,
                Err(JournalError::OtherMember { found: 1 })
            ));
            assert!(disk.open().is_ok());
        }
    }

    /// Whatever bit flips, the log is refused or still whole; it never opens with less.
    #[test]
    fn a_flipped_bit_is_found_or_harmless() {
        for kind in BACKENDS {
            let disk = Disk::new(kind);
            let (mut journal, _) = disk.open().unwrap();
            for at in 0..40 {
                journal.append(&entries(1, at * 5..at * 5 + 5)).unwrap();
            }
            journal.save_vote(Vote::new(7, 2)).unwrap();
            drop(journal);
            let whole = disk.open().unwrap().1;
            let files = disk.files();
            let total: usize = files
                .iter()
                .flat_map(|(_, bytes)| bytes)
                .filter(|byte| **byte != 0)
                .count();
            let step = (total / 200).max(1);
            let mut refused = 0;
            for (path, bytes) in &files {
                // Not the emptiness between records.
                let written = (0..bytes.len()).filter(|at| bytes[*at] != 0);
                for at in written.step_by(step) {
                    let file = File::options().write(true).open(path).unwrap();
                    file.write_all_at(&[bytes[at] ^ 0x10], at as u64).unwrap();
                    match disk.open() {
                        Ok((journal, recovered)) => {
                            assert_eq!(recovered.last, whole.last, "{kind:?}, byte {at}");
                            assert_eq!(recovered.vote, whole.vote, "{kind:?}, byte {at}");
                            let read = journal.read(0..1000, usize::MAX).unwrap();
                            assert_eq!(read.len(), 200, "{kind:?}, byte {at}");
                        }
                        Err(JournalError::Damaged(_) | JournalError::Io(_)) => refused += 1,
                        Err(error) => panic!("{kind:?}, byte {at}: {error}"),
                    }
                    // Back to what it was, whatever the failed opening left.
                    for (path, _) in disk.files() {
                        std::fs::remove_file(path).unwrap();
                    }
                    for (path, bytes) in &files {
                        std::fs::write(path, bytes).unwrap();
                    }
                }
            }
            assert!(refused > 20, "{kind:?}: only {refused} flips were noticed");
            assert_eq!(disk.open().unwrap().1, whole, "{kind:?}");
        }
    }

    /// A store that comes up well-formed but shorter is what the mark is for.
    #[test]
    fn a_log_that_lost_its_tail_is_refused() {
        for kind in BACKENDS {
            let disk = Disk::new(kind);
            let (mut journal, _) = disk.open().unwrap();
            journal.append(&entries(1, 0..10)).unwrap();
            journal.save_vote(Vote::new(1, 1)).unwrap();
            drop(journal);
            let before = disk.files();
            let restore = |files: &[(PathBuf, Vec<u8>)]| {
                for (path, _) in disk.files() {
                    std::fs::remove_file(path).unwrap();
                }
                for (path, bytes) in files {
                    std::fs::write(path, bytes).unwrap();
                }
            };

            let (mut journal, _) = disk.open().unwrap();
            journal.append(&entries(1, 10..12)).unwrap();
            drop(journal);
            let after = disk.files();
            restore(&before);
            assert!(
                matches!(disk.open(), Err(JournalError::Damaged(_))),
                "{kind:?}: entries"
            );
            restore(&after);

            let (mut journal, _) = disk.open().unwrap();
            journal.save_vote(Vote::new(2, 3)).unwrap();
            drop(journal);
            restore(&after);
            assert!(
                matches!(disk.open(), Err(JournalError::Damaged(_))),
                "{kind:?}: vote"
            );
        }
    }

    /// The seal itself is damaged, beneath a store that finds nothing wrong.
    #[test]
    fn a_sealed_value_that_was_changed_is_refused() {
        for kind in BACKENDS {
            for index in [0_u64, 7, 19] {
                let disk = Disk::new(kind);
                let (mut journal, _) = disk.open().unwrap();
                journal.append(&entries(1, 0..20)).unwrap();
                drop(journal);
                let mut raw = backend::open(kind, disk.directory.path()).unwrap();
                let mut records = raw.read_range(index..20, usize::MAX).unwrap();
                let middle = records[0].1.len() / 2;
                records[0].1[middle] ^= 1;
                raw.truncate_from(index).unwrap();
                raw.append_batch(&records).unwrap();
                drop(raw);
                let Err(JournalError::Damaged(what)) = disk.open().map(|_| ()) else {
                    panic!("{kind:?}: entry {index} was believed");
                };
                assert!(what.contains(&format!("entry {index}:")), "{what}");
            }
        }
    }

    #[test]
    fn an_entry_moved_to_another_place_is_refused() {
        for kind in BACKENDS {
            let disk = Disk::new(kind);
            let (mut journal, _) = disk.open().unwrap();
            journal.append(&entries(1, 0..20)).unwrap();
            drop(journal);
            let mut raw = backend::open(kind, disk.directory.path()).unwrap();
            let mut records = raw.read_range(10..20, usize::MAX).unwrap();
            let (first, second) = (records[0].1.clone(), records[1].1.clone());
            (records[0].1, records[1].1) = (second, first);
            raw.truncate_from(10).unwrap();
            raw.append_batch(&records).unwrap();
            drop(raw);
            assert!(matches!(disk.open(), Err(JournalError::Damaged(_))));
        }
    }

    #[test]
    fn an_interrupted_purge_is_finished() {
        for kind in BACKENDS {
            let disk = Disk::new(kind);
            let (mut journal, _) = disk.open().unwrap();
            journal.append(&entries(1, 0..20)).unwrap();
            journal
                .put_meta(PURGED, &entry(1, 11).log_id, true)
                .unwrap();
            drop(journal);
            let (journal, recovered) = disk.open().unwrap();
            assert_eq!(recovered.purged, Some(entry(1, 11).log_id));
            assert_eq!(journal.backend.bounds().unwrap(), Some((12, 19)));
        }
    }
}
