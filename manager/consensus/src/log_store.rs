//! The log as openraft wants to see it: the end of it in memory, all of it behind the writer.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    AnyError, ErrorSubject, ErrorVerb, LogState, OptionalSend, RaftLogReader, StorageIOError,
};
use tokio::sync::oneshot;

use crate::journal::{JournalError, Recovered};
use crate::raft::{Batch, Entry, LogId, StorageError, Types, Vote, entry_bytes};
use crate::writer::{Job, Writer};

/// Bytes of entries kept in memory for followers and for applying.
const TAIL_BYTES: usize = 32 * 1024 * 1024;
/// Bytes of entries sent to a follower at a time, unless one entry alone is larger.
const SEND_BYTES: usize = 1024 * 1024;
/// Bytes read from disk at a time.
const READ_BYTES: usize = 8 * 1024 * 1024;

/// The end of the log, in memory.
#[derive(Default)]
pub(crate) struct Tail {
    inner: Mutex<TailInner>,
}

#[derive(Default)]
struct TailInner {
    entries: BTreeMap<u64, Entry>,
    bytes: usize,
    /// Entries up to here may be forgotten: the disk has them.
    durable: Option<u64>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// Bytes appended since the last purge, which is what a snapshot would free.
    appended: u64,
}

impl Tail {
    /// Takes in the next entry of a log that is being opened.
    pub fn recover(&self, entry: Entry) {
        let mut inner = self.lock();
        inner.durable = Some(entry.log_id.index);
        inner.push(entry);
        inner.forget_old();
    }

    /// The log is open, and this is what it holds.
    pub fn opened(&self, recovered: &Recovered) {
        let mut inner = self.lock();
        inner.purged = recovered.purged;
        inner.last = recovered.last;
        inner.durable = recovered.last.map(|last| last.index);
        inner.appended = 0;
    }

    pub fn set_durable(&self, index: u64) {
        self.lock().durable = Some(index);
    }

    /// The last entry of the log.
    pub fn last(&self) -> Option<LogId> {
        self.lock().last
    }

    /// Takes the count of bytes appended since it was last taken or the log was last purged, if
    /// it is above `limit`.
    pub fn take_appended_above(&self, limit: u64) -> bool {
        let mut inner = self.lock();
        let above = inner.appended > limit;
        if above {
            inner.appended = 0;
        }
        above
    }

    fn lock(&self) -> MutexGuard<'_, TailInner> {
        self.inner
            .lock()
            .expect("nothing panics while it holds the tail")
    }
}

impl TailInner {
    fn push(&mut self, entry: Entry) {
        let bytes = entry_bytes(&entry);
        self.bytes += bytes;
        self.appended += bytes as u64;
        self.last = Some(entry.log_id);
        self.entries.insert(entry.log_id.index, entry);
    }

    fn forget_old(&mut self) {
        while self.bytes > TAIL_BYTES
            && let Some(first) = self.entries.first_entry()
            && Some(*first.key()) <= self.durable
        {
            self.bytes -= entry_bytes(&first.remove());
        }
    }

    fn recount(&mut self) {
        self.bytes = self.entries.values().map(entry_bytes).sum();
    }
}

#[derive(Clone)]
pub(crate) struct LogStore {
    tail: Arc<Tail>,
    writer: Writer,
    recovered: Recovered,
}

impl LogStore {
    pub fn new(tail: Arc<Tail>, writer: Writer, recovered: Recovered) -> Self {
        Self {
            tail,
            writer,
            recovered,
        }
    }

    async fn job<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, JournalError>>) -> Job,
        subject: ErrorSubject<u64>,
        verb: ErrorVerb,
    ) -> Result<T, StorageError> {
        let (done, answer) = oneshot::channel();
        let result = match self.writer.send(job(done)).await {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(gone())),
            Err(_) => Err(gone()),
        };
        result.map_err(|error| StorageIOError::new(subject, verb, AnyError::error(error)).into())
    }

    /// Entries `[from, to)` that are there, until `bytes_max`, at least one.
    async fn entries(
        &self,
        from: u64,
        to: u64,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut next = from;
        loop {
            let older = {
                let inner = self.tail.lock();
                let purged = inner.purged.map_or(0, |purged| purged.index + 1);
                let end = to.min(inner.last.map_or(0, |last| last.index + 1));
                next = next.max(purged);
                if next >= end {
                    return Ok(found);
                }
                let cached = inner
                    .entries
                    .first_key_value()
                    .map_or(end, |(first, _)| *first);
                if cached <= next {
                    for entry in inner.entries.range(next..end).map(|(_, entry)| entry) {
                        if bytes >= bytes_max && !found.is_empty() {
                            break;
                        }
                        bytes += entry_bytes(entry);
                        found.push(entry.clone());
                    }
                    return Ok(found);
                }
                next..end.min(cached)
            };
            let read = self
                .job(
                    |done| Job::Read {
                        range: older,
                        bytes_max: READ_BYTES.min(bytes_max),
                        done,
                    },
                    ErrorSubject::LogIndex(next),
                    ErrorVerb::Read,
                )
                .await?;
            // Purged or truncated in the meantime: what is left is looked at again.
            let Some(last) = read.last() else {
                return Ok(found);
            };
            next = last.log_id.index + 1;
            bytes += read.iter().map(entry_bytes).sum::<usize>();
            found.extend(read);
            if bytes >= bytes_max {
                return Ok(found);
            }
        }
    }
}

fn gone() -> JournalError {
    JournalError::Io(std::io::Error::other("the log is closed"))
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.entries(from, to, usize::MAX).await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        self.entries(start, end, SEND_BYTES).await
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let inner = self.tail.lock();
        Ok(LogState {
            last_purged_log_id: inner.purged,
            last_log_id: inner.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        self.job(
            |done| Job::SaveVote { vote, done },
            ErrorSubject::Vote,
            ErrorVerb::Write,
        )
        .await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.recovered.vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.writer
            .send(Job::SaveCommitted { committed })
            .await
            .map_err(|_| StorageIOError::write(AnyError::error(gone())).into())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.recovered.committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        flushed: LogFlushed<Types>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        {
            let mut inner = self.tail.lock();
            for entry in &entries {
                let mut kept = entry.clone();
                if let openraft::EntryPayload::Normal(Batch { taken, .. }) = &mut kept.payload {
                    *taken = None;
                }
                if let openraft::EntryPayload::Normal(batch) = &entry.payload {
                    batch.mark_taken();
                }
                inner.push(kept);
            }
            inner.forget_old();
        }
        self.writer
            .send(Job::Append { entries, flushed })
            .await
            .map_err(|_| StorageIOError::write_logs(AnyError::error(gone())).into())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let from = log_id.index;
        let before = match from.checked_sub(1) {
            None => None,
            Some(index) => {
                let purged = self.tail.lock().purged;
                match purged {
                    Some(purged) if purged.index >= index => Some(purged),
                    _ => self
                        .entries(index, from, 1)
                        .await?
                        .first()
                        .map(|entry| entry.log_id),
                }
            }
        };
        {
            let mut inner = self.tail.lock();
            drop(inner.entries.split_off(&from));
            inner.recount();
            inner.last = before;
            inner.durable = inner.durable.min(before.map(|before| before.index));
        }
        let job = |done| Job::Truncate { from, before, done };
        self.job(job, ErrorSubject::Log(log_id), ErrorVerb::Delete)
            .await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        {
            let mut inner = self.tail.lock();
            inner.entries = inner.entries.split_off(&(log_id.index + 1));
            inner.recount();
            inner.appended = 0;
            inner.purged = inner.purged.max(Some(log_id));
            if inner.last.is_none_or(|last| last.index < log_id.index) {
                inner.last = Some(log_id);
                inner.durable = Some(log_id.index);
            }
        }
        let job = |done| Job::Purge { to: log_id, done };
        self.job(job, ErrorSubject::Log(log_id), ErrorVerb::Delete)
            .await
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use openraft::{CommittedLeaderId, EntryPayload};
    use skep_pki::{Sealer, SecretKey};

    use super::*;
    use crate::journal::Journal;
    use crate::vault::Vault;
    use crate::writer;
    use crate::{Backend, LogWriter};

    fn entry(index: u64) -> Entry {
        let commands = vec![Bytes::from(vec![7; 100_000])];
        Entry {
            log_id: LogId::new(CommittedLeaderId::new(1, 1), index),
            payload: EntryPayload::Normal(Batch {
                commands,
                taken: None,
            }),
        }
    }

    /// A log of 40 entries of which `kept` and later ones are in memory.
    fn open(directory: &std::path::Path, kind: Backend, kept: u64) -> LogStore {
        let vault = Vault::new(Sealer::new(&SecretKey::from_bytes([1; 32])), 1);
        let tail = Tail::default();
        let seen = |entry: Entry| {
            if entry.log_id.index >= kept {
                tail.recover(entry);
            }
        };
        let (mut journal, mut recovered) = Journal::open(directory, 1, kind, vault, seen).unwrap();
        if recovered.last.is_none() {
            journal
                .append(&(0..40).map(entry).collect::<Vec<_>>())
                .unwrap();
            recovered.last = Some(entry(39).log_id);
        }
        tail.opened(&recovered);
        let tail = Arc::new(tail);
        let (writer, _) = writer::start(journal, Arc::clone(&tail), LogWriter::Thread).unwrap();
        LogStore::new(tail, writer, recovered)
    }

    fn indexes(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.log_id.index).collect()
    }

    #[tokio::test]
    async fn entries_come_from_disk_and_memory_as_one() {
        for kind in [Backend::Sled, Backend::Segments] {
            for kept in [0, 20, 40] {
                let directory = tempfile::tempdir().unwrap();
                let mut log = open(directory.path(), kind, kept);
                let all = log.try_get_log_entries(0..100).await.unwrap();
                assert_eq!(indexes(&all), (0..40).collect::<Vec<_>>());
                assert_eq!(
                    indexes(&log.try_get_log_entries(18..=22).await.unwrap()),
                    [18, 19, 20, 21, 22]
                );
                assert!(log.try_get_log_entries(40..50).await.unwrap().is_empty());
                // Bounded in bytes, and never empty.
                let some = log.limited_get_log_entries(5, 40).await.unwrap();
                assert_eq!(some[0].log_id.index, 5);
                assert!(
                    (10..=12).contains(&some.len()),
                    "{kind:?}, {kept}: {}",
                    some.len()
                );
                log.purge(entry(9).log_id).await.unwrap();
                log.truncate(entry(30).log_id).await.unwrap();
                let left = log.try_get_log_entries(..).await.unwrap();
                assert_eq!(indexes(&left), (10..30).collect::<Vec<_>>());
                let state = log.get_log_state().await.unwrap();
                assert_eq!(state.last_purged_log_id, Some(entry(9).log_id));
                assert_eq!(state.last_log_id, Some(entry(29).log_id));
            }
        }
    }

    /// Damaged while the member runs: the read fails, and the log with it.
    #[tokio::test]
    async fn damage_is_found_when_it_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = open(directory.path(), Backend::Segments, 40);
        let path = directory.path().join("segments/0000000000000000.seg");
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(log.try_get_log_entries(0..40).await.is_err());
        let vote = Vote::new(1, 1);
        assert!(
            log.save_vote(&vote).await.is_err(),
            "nothing is written after damage"
        );
    }
}
