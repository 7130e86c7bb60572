//! What is known when nobody leads: for how long already, and which managers do not answer.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skep_consensus::{Member, Part};
use skep_model::{ControlError, Kind, NodeId};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::manager::Core;
use crate::submit::NO_LEADER;

/// How long a manager that is asked whether it is there may take.
const ANSWER_WITHIN: Duration = Duration::from_millis(400);
/// A request waits so long at least, for a leader that is just being told.
const PATIENCE_MIN: Duration = Duration::from_millis(100);

/// Since when no leader is known.
#[derive(Debug, Default)]
pub struct Leaderless(Mutex<Option<Instant>>);

impl Leaderless {
    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much of `patience` is left: a cluster that has had no leader for long is not waited for
    /// by every request anew.
    pub fn left_of(&self, patience: Duration) -> Duration {
        let since = *self.lock();
        let waited = since.map_or(Duration::ZERO, |since| since.elapsed());
        patience.saturating_sub(waited).max(PATIENCE_MIN)
    }
}

/// Notes when leaders come and go, for as long as the manager runs.
pub async fn follow(core: Arc<Core>) {
    let mut leadership = core.consensus.leadership();
    loop {
        let known = leadership.borrow_and_update().leader.is_some();
        {
            let mut since = core.leaderless.lock();
            *since = match known {
                true => None,
                false => Some(since.unwrap_or_else(Instant::now)),
            };
        }
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

/// Other managers that have a vote and take no connection.
pub async fn missing(core: &Core) -> Vec<Member> {
    let voters = core.consensus.metrics().members.into_iter();
    let mut asked = JoinSet::new();
    for voter in voters.filter(|one| one.part == Part::Voter) {
        if voter.member.id == core.raft_id {
            continue;
        }
        asked.spawn(async move {
            let answers = match voter.member.address.parse::<SocketAddr>() {
                Ok(address) => {
                    let connected = TcpStream::connect(address);
                    let connected = tokio::time::timeout(ANSWER_WITHIN, connected).await;
                    matches!(connected, Ok(Ok(_)))
                }
                Err(_) => false,
            };
            (!answers).then_some(voter.member)
        });
    }
    let mut missing: Vec<Member> = asked.join_all().await.into_iter().flatten().collect();
    missing.sort();
    missing
}

/// Swarm's text, and who is missing.
pub async fn no_leader(core: &Core) -> ControlError {
    let missing = missing(core).await;
    let snapshot = core.machine.store().snapshot();
    let names: Vec<String> = missing
        .iter()
        .map(|member| {
            let node = snapshot.node(&NodeId::new(&member.node));
            match node.map(|node| node.description.hostname.as_str()) {
                None | Some("") => format!("{} at {}", member.node, member.address),
                Some(name) => format!("{name} at {}", member.address),
            }
        })
        .collect();
    let message = match names.as_slice() {
        [] => NO_LEADER.to_owned(),
        names => format!("{NO_LEADER} Not reached: {}.", names.join(", ")),
    };
    ControlError::new(Kind::Unavailable, message)
}

/// Says in an error that there is no leader which managers are missing.
pub async fn name_missing<T>(
    core: &Core,
    outcome: Result<T, ControlError>,
) -> Result<T, ControlError> {
    match outcome {
        Err(error) if error.kind == Kind::Unavailable && error.message == NO_LEADER => {
            Err(no_leader(core).await)
        }
        outcome => outcome,
    }
}
