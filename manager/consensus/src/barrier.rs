//! Linearizable reads: readers that wait while one question goes to the quorum share the next.

use std::sync::Arc;
use std::time::Duration;

use openraft::error::{CheckIsLeaderError, RaftError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::ReadError;
use crate::raft::Raft;
use crate::standing::{Duty, Standing};

/// Readers that may wait.
const WAITING_MAX: usize = 4096;

type Answer = Result<u64, ReadError>;

struct Reader {
    answer: oneshot::Sender<Answer>,
    deadline: Instant,
}

#[derive(Clone)]
pub(crate) struct Readers {
    queue: mpsc::Sender<Reader>,
    patience: Duration,
}

impl Readers {
    pub async fn barrier(&self) -> Answer {
        let deadline = Instant::now() + self.patience;
        let (answer, answered) = oneshot::channel();
        match timeout_at(deadline, self.queue.send(Reader { answer, deadline })).await {
            Ok(sent) => sent.map_err(|_| ReadError::Stopped)?,
            Err(_) => return Err(ReadError::Unavailable),
        }
        match timeout_at(deadline, answered).await {
            Ok(answer) => answer.unwrap_or(Err(ReadError::Stopped)),
            Err(_) => Err(ReadError::Unavailable),
        }
    }
}

pub(crate) struct Barrier {
    queue: mpsc::Receiver<Reader>,
    raft: Raft,
    standing: Arc<Standing>,
    applied: watch::Receiver<u64>,
    /// Between two questions that failed.
    pause: Duration,
}

pub(crate) fn new(
    raft: Raft,
    standing: Arc<Standing>,
    applied: watch::Receiver<u64>,
    patience: Duration,
    pause: Duration,
) -> (Barrier, Readers) {
    let (sender, queue) = mpsc::channel(WAITING_MAX);
    (
        Barrier {
            queue,
            raft,
            standing,
            applied,
            pause,
        },
        Readers {
            queue: sender,
            patience,
        },
    )
}

impl Barrier {
    pub async fn run(mut self) {
        let mut readers = Vec::new();
        while self.queue.recv_many(&mut readers, WAITING_MAX).await > 0 {
            let answer = self.ask(&readers).await;
            for reader in readers.drain(..) {
                // A reader may have gone.
                let _ = reader.answer.send(answer.clone());
            }
        }
    }

    async fn ask(&self, readers: &[Reader]) -> Answer {
        let deadline = readers
            .iter()
            .map(|reader| reader.deadline)
            .max()
            .unwrap_or_else(Instant::now);
        loop {
            if self.standing.duty() == Duty::Follow {
                return Err(ReadError::NotLeader {
                    leader: self.standing.leader(),
                });
            }
            let asked = timeout_at(deadline, self.raft.ensure_linearizable());
            match asked.await {
                // It has waited until everything up to there is applied.
                Ok(Ok(_)) => return Ok(*self.applied.borrow()),
                Ok(Err(RaftError::Fatal(_))) => return Err(ReadError::Stopped),
                Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(forward)))) => {
                    return Err(ReadError::NotLeader {
                        leader: forward.leader_node,
                    });
                }
                // One late answer on a loaded machine is no reason to refuse a read.
                Ok(Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_)))) => {
                    if Instant::now() + self.pause >= deadline
                        || readers.iter().all(|reader| reader.answer.is_closed())
                    {
                        return Err(ReadError::Unavailable);
                    }
                    tokio::time::sleep(self.pause).await;
                }
                Err(_) => return Err(ReadError::Unavailable),
            }
        }
    }
}
