//! What a journal must notice.

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

/// One that takes little room.
fn short(term: u64, index: u64) -> Entry {
    Entry {
        payload: EntryPayload::Blank,
        ..entry(term, index)
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
        Journal::open(
            self.directory.path(),
            1,
            self.kind,
            self.vault.clone(),
            drop,
        )
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
        let opened = Journal::open(disk.directory.path(), 1, kind, other_key, drop);
        assert!(matches!(opened, Err(JournalError::WrongKey)));
        let opened = Journal::open(disk.directory.path(), 2, kind, disk.vault.clone(), drop);
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

/// A log so small that every bit of it can be tried, with what says how far it went.
#[test]
fn every_flipped_bit_of_a_small_log_is_found_or_harmless() {
    let disk = Disk::new(Backend::Segments);
    let (mut journal, _) = disk.open().unwrap();
    journal.save_vote(Vote::new(3, 1)).unwrap();
    journal.append(&entries(3, 0..2)).unwrap();
    journal.append(&[short(3, 2)]).unwrap();
    // What is last could pass for a write that was torn.
    journal.save_vote(Vote::new(7, 2)).unwrap();
    drop(journal);
    let whole = disk.open().unwrap().1;
    let mut files = disk.files();
    for name in ["mark", "identity"] {
        let path = disk.directory.path().join(name);
        files.push((path.clone(), std::fs::read(path).unwrap()));
    }
    let (mut refused, mut tried) = (0, 0);
    for (path, bytes) in &files {
        for bit in 0..bytes.len() * 8 {
            // The mark has room that nothing is in.
            if path.ends_with("mark") && bytes[bit / 8] == 0 {
                continue;
            }
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(path, &flipped).unwrap();
            tried += 1;
            match disk.open() {
                Ok((journal, recovered)) => {
                    assert_eq!(recovered.last, whole.last, "{path:?}, bit {bit}");
                    assert_eq!(recovered.vote, whole.vote, "{path:?}, bit {bit}");
                    let read = journal.read(0..1000, usize::MAX).unwrap();
                    assert_eq!(read.len(), 3, "{path:?}, bit {bit}");
                }
                Err(
                    JournalError::Damaged(_)
                    | JournalError::WrongKey
                    | JournalError::OtherMember { .. },
                ) => refused += 1,
                Err(error) => panic!("{path:?}, bit {bit}: {error}"),
            }
            for (path, bytes) in &files {
                if std::fs::read(path).ok().as_ref() != Some(bytes) {
                    std::fs::write(path, bytes).unwrap();
                }
            }
            // What the failed opening made beside them.
            for (path, _) in disk.files() {
                if files.iter().all(|(known, _)| *known != path) {
                    std::fs::remove_file(path).unwrap();
                }
            }
        }
    }
    assert!(
        refused > tried / 2,
        "only {refused} of {tried} were noticed"
    );
    assert_eq!(disk.open().unwrap().1, whole);
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
