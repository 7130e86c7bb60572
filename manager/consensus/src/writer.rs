//! The one thread (or task) that owns the journal. Order in the queue is order on disk.

use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use openraft::storage::LogFlushed;
use tokio::sync::{mpsc, oneshot};

use crate::LogWriter;
use crate::journal::{Journal, JournalError};
use crate::log_store::Tail;
use crate::raft::{Entry, LogId, Types, Vote};

/// Jobs that may wait. Raft awaits its own writes, so few ever do.
const QUEUE: usize = 256;
/// Jobs taken at a time; appends among them that follow each other share one sync.
const GROUP: usize = 64;

pub(crate) type Done<T> = oneshot::Sender<Result<T, JournalError>>;

pub(crate) enum Job {
    Append {
        entries: Vec<Entry>,
        flushed: LogFlushed<Types>,
    },
    SaveVote {
        vote: Vote,
        done: Done<()>,
    },
    SaveCommitted {
        committed: Option<LogId>,
    },
    Truncate {
        from: u64,
        before: Option<LogId>,
        done: Done<()>,
    },
    Purge {
        to: LogId,
        done: Done<()>,
    },
    Read {
        range: Range<u64>,
        bytes_max: usize,
        done: Done<Vec<Entry>>,
    },
}

/// A handle to the writer; it ends when all handles are gone.
pub(crate) type Writer = mpsc::Sender<Job>;

/// Starts it. The receiver resolves when it has ended and the journal is closed.
pub(crate) fn start(
    journal: Journal,
    tail: Arc<Tail>,
    who: LogWriter,
) -> io::Result<(Writer, oneshot::Receiver<()>)> {
    let (jobs, mut queue) = mpsc::channel(QUEUE);
    let (ended, end) = oneshot::channel();
    let mut desk = Desk::new(journal, tail);
    let mut group = Vec::new();
    match who {
        LogWriter::Thread => {
            std::thread::Builder::new()
                .name("consensus-log".to_owned())
                .spawn(move || {
                    while queue.blocking_recv_many(&mut group, GROUP) > 0 {
                        desk.work_off(&mut group);
                    }
                    desk.close();
                    // Nobody may be waiting for the end.
                    let _ = ended.send(());
                })?;
        }
        LogWriter::Task => {
            tokio::spawn(async move {
                while queue.recv_many(&mut group, GROUP).await > 0 {
                    desk.work_off(&mut group);
                }
                desk.close();
                let _ = ended.send(());
            });
        }
    }
    Ok((jobs, end))
}

/// The journal, and what is not in it yet.
struct Desk {
    journal: Journal,
    tail: Arc<Tail>,
    /// How far the log is committed; written with the next append.
    committed: Option<LogId>,
    failed: Option<String>,
}

impl Desk {
    fn new(journal: Journal, tail: Arc<Tail>) -> Self {
        Self {
            journal,
            tail,
            committed: None,
            failed: None,
        }
    }

    fn work_off(&mut self, group: &mut Vec<Job>) {
        let mut jobs = group.drain(..).peekable();
        while let Some(job) = jobs.next() {
            // After a failure nothing more is written: what is on disk is no longer known.
            if let Some(reason) = &self.failed {
                refuse(job, reason);
                continue;
            }
            let mut appends = Vec::new();
            let job = match job {
                Job::Append { entries, flushed } => {
                    appends.push((entries, flushed));
                    while let Some(Job::Append { .. }) = jobs.peek() {
                        if let Some(Job::Append { entries, flushed }) = jobs.next() {
                            appends.push((entries, flushed));
                        }
                    }
                    None
                }
                Job::SaveCommitted { committed: newer } => {
                    self.committed = newer;
                    continue;
                }
                job => Some(job),
            };
            let worked = catch_unwind(AssertUnwindSafe(|| match job {
                None => append(
                    &mut self.journal,
                    self.committed.take(),
                    appends,
                    &self.tail,
                ),
                Some(job) => work(&mut self.journal, job),
            }));
            match worked {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => self.failed = Some(reason),
                Err(_panic) => self.failed = Some("the log's writer panicked".to_owned()),
            }
        }
    }

    fn close(mut self) {
        if self.failed.is_none()
            && let Err(error) = self.journal.save_committed(self.committed)
        {
            tracing::warn!(%error, "how far the log is committed was not saved");
        }
    }
}

type Append = (Vec<Entry>, LogFlushed<Types>);

/// Answers why nothing more may be written.
fn append(
    journal: &mut Journal,
    committed: Option<LogId>,
    appends: Vec<Append>,
    tail: &Tail,
) -> Result<(), String> {
    let written = journal
        .save_committed(committed)
        .and_then(|()| journal.append(appends.iter().flat_map(|(entries, _)| entries)));
    match written {
        Ok(()) => {
            for (entries, flushed) in appends {
                if let Some(last) = entries.last() {
                    tail.set_durable(last.log_id.index);
                }
                flushed.log_io_completed(Ok(()));
            }
            Ok(())
        }
        Err(error) => {
            let reason = error.to_string();
            for (_, flushed) in appends {
                flushed.log_io_completed(Err(io::Error::other(reason.clone())));
            }
            Err(reason)
        }
    }
}

fn work(journal: &mut Journal, job: Job) -> Result<(), String> {
    match job {
        Job::Append { .. } | Job::SaveCommitted { .. } => unreachable!("taken by the caller"),
        Job::SaveVote { vote, done } => answer(done, journal.save_vote(vote)),
        Job::Truncate { from, before, done } => answer(done, journal.truncate(from, before)),
        Job::Purge { to, done } => answer(done, journal.purge(to)),
        Job::Read {
            range,
            bytes_max,
            done,
        } => answer(done, journal.read(range, bytes_max)),
    }
}

fn answer<T>(done: Done<T>, result: Result<T, JournalError>) -> Result<(), String> {
    let failure = result.as_ref().err().map(ToString::to_string);
    // The asker may have gone.
    let _ = done.send(result);
    failure.map_or(Ok(()), Err)
}

fn refuse(job: Job, reason: &str) {
    let error = || {
        JournalError::Io(io::Error::other(format!(
            "the log has failed before: {reason}"
        )))
    };
    match job {
        Job::Append { flushed, .. } => {
            flushed.log_io_completed(Err(io::Error::other(reason.to_owned())));
        }
        Job::SaveCommitted { .. } => {}
        Job::SaveVote { done, .. } | Job::Truncate { done, .. } | Job::Purge { done, .. } => {
            let _ = done.send(Err(error()));
        }
        Job::Read { done, .. } => {
            let _ = done.send(Err(error()));
        }
    }
}
