//! Drives the state machine: applies, dumps and restores it for openraft.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use openraft::storage::RaftStateMachine;
use openraft::{
    AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, StorageIOError,
};
use tokio::sync::watch;

use crate::StateMachine;
use crate::raft::{Answers, Entry, LogId, SnapshotMeta, StorageError, StoredMembership, Types};
use crate::snapshot::{Shelf, SnapshotFile};

/// What the state machine has seen.
#[derive(Debug, Clone, Default)]
struct Applied {
    log_id: Option<LogId>,
    membership: StoredMembership,
    /// Commands applied since the cluster began.
    index: u64,
}

pub(crate) struct Applier {
    machine: Arc<dyn StateMachine>,
    shelf: Arc<Shelf>,
    applied: Applied,
    /// Tells those who wait for a command to be applied.
    index: watch::Sender<u64>,
}

impl Applier {
    /// Restores the machine from the newest snapshot, if there is one.
    pub fn open(
        machine: Arc<dyn StateMachine>,
        shelf: Arc<Shelf>,
    ) -> Result<(Self, watch::Receiver<u64>), String> {
        let (index, applied_index) = watch::channel(0);
        let mut applier = Self {
            machine,
            shelf,
            applied: Applied::default(),
            index,
        };
        if let Some(snapshot) = applier.shelf.current() {
            applier.restore(&snapshot)?;
        }
        Ok((applier, applied_index))
    }

    fn restore(&mut self, snapshot: &SnapshotFile) -> Result<(), String> {
        restore(&*self.machine, &self.shelf, snapshot)?;
        self.restored(snapshot);
        Ok(())
    }

    fn restored(&mut self, snapshot: &SnapshotFile) {
        let meta = &snapshot.source.meta;
        self.applied = Applied {
            log_id: meta.last_log_id,
            membership: meta.last_membership.clone(),
            index: snapshot.source.index,
        };
        self.index.send_replace(self.applied.index);
    }

    fn apply_entry(&mut self, entry: &Entry) -> Result<Answers, String> {
        let answers = match &entry.payload {
            EntryPayload::Blank => Answers::default(),
            EntryPayload::Membership(membership) => {
                self.applied.membership =
                    StoredMembership::new(Some(entry.log_id), membership.clone());
                Answers::default()
            }
            EntryPayload::Normal(batch) => {
                let mut answers = Vec::with_capacity(batch.commands.len());
                for command in &batch.commands {
                    self.applied.index += 1;
                    let index = self.applied.index;
                    let machine = &self.machine;
                    // Half an application is no state to go on from, so this member stops.
                    let answer = catch_unwind(AssertUnwindSafe(|| machine.apply(index, command)))
                        .map_err(|_| {
                        format!("the state machine panicked at command {index}")
                    })?;
                    answers.push(answer);
                }
                Answers(answers)
            }
        };
        self.applied.log_id = Some(entry.log_id);
        Ok(answers)
    }
}

/// Feeds a snapshot to the machine. It was verified before, so an error on the way is news.
fn restore(
    machine: &dyn StateMachine,
    shelf: &Shelf,
    snapshot: &SnapshotFile,
) -> Result<(), String> {
    let mut pieces = snapshot
        .pieces(shelf.vault())
        .map_err(|error| error.to_string())?;
    let mut failure = None;
    let mut chunks = std::iter::from_fn(|| {
        let mut chunk = Vec::new();
        loop {
            match pieces.next()? {
                Ok(piece) if chunk.is_empty() && piece.ends_chunk => return Some(piece.bytes),
                Ok(piece) => {
                    chunk.extend_from_slice(&piece.bytes);
                    if piece.ends_chunk {
                        return Some(chunk);
                    }
                }
                Err(error) => {
                    failure = Some(error.to_string());
                    return None;
                }
            }
        }
    });
    let restored = machine.restore(snapshot.source.index, &mut chunks);
    // What the machine left is read too: the end of the file is part of its check.
    for _ in chunks {}
    match failure {
        Some(failure) => Err(failure),
        None => restored,
    }
}

impl RaftStateMachine<Types> for Applier {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.applied.log_id, self.applied.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Answers>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut answers = Vec::new();
        for entry in entries {
            let answer = self
                .apply_entry(&entry)
                .map_err(|error| StorageIOError::apply(entry.log_id, AnyError::error(error)))?;
            answers.push(answer);
        }
        self.index.send_if_modified(|index| {
            let changed = *index != self.applied.index;
            *index = self.applied.index;
            changed
        });
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            dump: Mutex::new(Some(self.machine.dump())),
            applied: self.applied.clone(),
            shelf: Arc::clone(&self.shelf),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Arc<SnapshotFile>>, StorageError> {
        // Snapshots arrive through `Consensus::handle_snapshot`, whole.
        Err(StorageIOError::write_snapshot(None, AnyError::error("not received in parts")).into())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Arc<SnapshotFile>>,
    ) -> Result<(), StorageError> {
        let failed = |error: String| {
            StorageError::from(StorageIOError::write_snapshot(
                Some(meta.signature()),
                AnyError::error(error),
            ))
        };
        let shelf = Arc::clone(&self.shelf);
        let machine = Arc::clone(&self.machine);
        let file = Arc::clone(&snapshot);
        // Durable first: if this member dies half way, it restores from the file.
        tokio::task::spawn_blocking(move || {
            shelf.adopt(&file).map_err(|error| error.to_string())?;
            restore(&*machine, &shelf, &file)
        })
        .await
        .map_err(|error| failed(error.to_string()))?
        .map_err(failed)?;
        self.restored(&snapshot);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        Ok(self.shelf.current().map(|file| Snapshot {
            meta: file.source.meta.clone(),
            snapshot: Box::new(file),
        }))
    }
}

type Dump = Box<dyn Iterator<Item = Vec<u8>> + Send>;

/// Writes a dump into a file, aside of the async threads.
pub(crate) struct Builder {
    dump: Mutex<Option<Dump>>,
    applied: Applied,
    shelf: Arc<Shelf>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let dump = self
            .dump
            .lock()
            .expect("nothing panics while it holds a dump")
            .take();
        let applied = self.applied.clone();
        let shelf = Arc::clone(&self.shelf);
        let written = tokio::task::spawn_blocking(move || -> io::Result<Arc<SnapshotFile>> {
            let dump = dump.ok_or_else(|| io::Error::other("a snapshot is built once"))?;
            let mut writer = shelf.begin(applied.log_id, applied.membership, applied.index)?;
            for chunk in dump {
                writer.chunk(&chunk)?;
            }
            let bytes = writer.bytes();
            let file = Arc::new(writer.finish()?);
            shelf.adopt(&file)?;
            tracing::info!(index = applied.index, bytes, "snapshot taken");
            Ok(file)
        })
        .await
        .map_err(io::Error::other)
        .flatten();
        let file = written
            .map_err(|error| StorageIOError::write_snapshot(None, AnyError::error(error)))?;
        Ok(Snapshot {
            meta: file.source.meta.clone(),
            snapshot: Box::new(file),
        })
    }
}
