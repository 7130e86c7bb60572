//! Many proposers, one entry at a time.
//!
//! Raft as used here writes and syncs each entry by itself, so commands that wait while one entry
//! is on its way travel together in the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::error::ClientWriteError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::raft::{Batch, Raft, Types};
use crate::standing::{Duty, Standing};
use crate::{BATCH_BYTES_MAX, BATCH_COMMANDS_MAX, COMMAND_BYTES_MAX, ProposeError};

/// Commands that may wait.
const WAITING_MAX: usize = 4096;
/// Bytes of commands that may wait, in KiB.
const WAITING_KIB_MAX: usize = 64 * 1024;
/// Entries whose outcome is still awaited after leadership was lost.
const ORPHANS_MAX: usize = 16;

type Answer = Result<Vec<u8>, ProposeError>;
type Outcome =
    Result<openraft::raft::ClientWriteResponse<Types>, ClientWriteError<u64, crate::Member>>;

struct Proposal {
    command: Bytes,
    answer: oneshot::Sender<Answer>,
    deadline: Instant,
    /// Its share of what may wait; given back when it is answered.
    _room: OwnedSemaphorePermit,
}

/// Where proposers put their commands.
#[derive(Clone)]
pub(crate) struct Proposals {
    queue: mpsc::Sender<Proposal>,
    room: Arc<Semaphore>,
    patience: Duration,
}

impl Proposals {
    pub async fn propose(&self, command: Vec<u8>) -> Answer {
        if command.len() > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooBig {
                bytes: command.len(),
                max: COMMAND_BYTES_MAX,
            });
        }
        let deadline = Instant::now() + self.patience;
        let kib = u32::try_from(command.len() / 1024 + 1).expect("at most 8 MiB");
        let room = Arc::clone(&self.room).acquire_many_owned(kib);
        let room = match timeout_at(deadline, room).await {
            Ok(room) => room.map_err(|_| ProposeError::Stopped)?,
            Err(_) => return Err(ProposeError::Busy),
        };
        let (answer, answered) = oneshot::channel();
        let proposal = Proposal {
            command: command.into(),
            answer,
            deadline,
            _room: room,
        };
        match timeout_at(deadline, self.queue.send(proposal)).await {
            Ok(sent) => sent.map_err(|_| ProposeError::Stopped)?,
            Err(_) => return Err(ProposeError::Busy),
        }
        match timeout_at(deadline, answered).await {
            Ok(answer) => answer.unwrap_or(Err(ProposeError::Stopped)),
            Err(_) => Err(ProposeError::Unavailable),
        }
    }
}

pub(crate) struct Batcher {
    queue: mpsc::Receiver<Proposal>,
    raft: Raft,
    standing: Arc<Standing>,
    /// Taken from the queue, but too large for the batch before.
    carried: Option<Proposal>,
    orphans: JoinSet<()>,
}

/// A batcher to run, and the way to it.
pub(crate) fn new(raft: Raft, standing: Arc<Standing>, patience: Duration) -> (Batcher, Proposals) {
    let (sender, queue) = mpsc::channel(WAITING_MAX);
    let room = Arc::new(Semaphore::new(WAITING_KIB_MAX));
    let batcher = Batcher {
        queue,
        raft,
        standing,
        carried: None,
        orphans: JoinSet::new(),
    };
    (
        batcher,
        Proposals {
            queue: sender,
            room,
            patience,
        },
    )
}

impl Batcher {
    pub async fn run(mut self) {
        while let Some(batch) = self.next_batch().await {
            match self.standing.duty() {
                Duty::Lead => self.commit(batch).await,
                Duty::Follow => {
                    let leader = self.standing.leader();
                    answer_all(batch, &ProposeError::NotLeader { leader });
                }
            }
        }
    }

    /// What waits now, up to the bounds of one entry.
    async fn next_batch(&mut self) -> Option<Vec<Proposal>> {
        let first = match self.carried.take() {
            Some(carried) => carried,
            None => self.queue.recv().await?,
        };
        // Those who were just answered often have more to say: they join this batch, not the next.
        tokio::task::yield_now().await;
        let mut bytes = first.command.len();
        let mut batch = vec![first];
        while batch.len() < BATCH_COMMANDS_MAX
            && let Ok(next) = self.queue.try_recv()
        {
            // Given up by its proposer before it was sent: it never happened.
            if next.answer.is_closed() {
                continue;
            }
            if bytes + next.command.len() > BATCH_BYTES_MAX {
                self.carried = Some(next);
                break;
            }
            bytes += next.command.len();
            batch.push(next);
        }
        Some(batch)
    }

    async fn commit(&mut self, batch: Vec<Proposal>) {
        let taken = Arc::new(AtomicBool::new(false));
        let commands = batch
            .iter()
            .map(|proposal| proposal.command.clone())
            .collect();
        let entry = Batch {
            commands,
            taken: Some(Arc::clone(&taken)),
        };
        let Ok(mut outcome) = self.raft.client_write_ff(entry).await else {
            return answer_all(batch, &ProposeError::Stopped);
        };
        let deadline = batch
            .iter()
            .map(|proposal| proposal.deadline)
            .max()
            .unwrap_or_else(Instant::now);
        tokio::select! {
            biased;
            outcome = &mut outcome => return settle(batch, outcome.ok(), &taken),
            () = self.standing.until_follow() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
        // No longer leading, or without a quorum: the entry's fate is left to the next leader.
        // Its proposers go on waiting, the others need not.
        while self.orphans.try_join_next().is_some() {}
        if self.orphans.len() >= ORPHANS_MAX {
            return answer_all(batch, &ProposeError::Unavailable);
        }
        self.orphans.spawn(async move {
            match timeout_at(deadline, outcome).await {
                Ok(outcome) => settle(batch, outcome.ok(), &taken),
                Err(_) => answer_all(batch, &ProposeError::Unavailable),
            }
        });
    }
}

/// Gives each proposer its own answer.
fn settle(batch: Vec<Proposal>, outcome: Option<Outcome>, taken: &AtomicBool) {
    match outcome {
        Some(Ok(response)) if response.data.0.len() == batch.len() => {
            for (proposal, answer) in batch.into_iter().zip(response.data.0) {
                // A proposer may have gone.
                let _ = proposal.answer.send(Ok(answer));
            }
        }
        // Refused at the door: it was never written. Once it was, even its removal here does not
        // mean that no later leader finds it elsewhere.
        Some(Err(ClientWriteError::ForwardToLeader(forward))) if !taken.load(Ordering::SeqCst) => {
            answer_all(
                batch,
                &ProposeError::NotLeader {
                    leader: forward.leader_node,
                },
            );
        }
        Some(_) => answer_all(batch, &ProposeError::Unavailable),
        None => answer_all(batch, &ProposeError::Stopped),
    }
}

fn answer_all(batch: Vec<Proposal>, error: &ProposeError) {
    for proposal in batch {
        // A proposer may have gone.
        let _ = proposal.answer.send(Err(error.clone()));
    }
}
