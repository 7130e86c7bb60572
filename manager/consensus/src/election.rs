//! Decides when this member asks for an election, and how it answers others who consider one.
//!
//! openraft 0.9 has no pre-vote: a member that was cut off would come back with a higher term and
//! unseat a healthy leader. So openraft's own timer is off, and an election is begun only after a
//! majority said that it hears no leader either and would accept this member's log.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::ServerState;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use crate::contact::{Contacts, is_quorum};
use crate::log_store::Tail;
use crate::network::Network;
use crate::raft::{LogId, Raft, StoredMembership, Vote};
use crate::standing::Standing;
use crate::wire::{Answer, Message};
use crate::{Member, Timing};

/// A leader whose disk stands still for this many election time-outs is given up.
const STALL_ELECTIONS: u32 = 8;

pub(crate) struct Elections {
    pub me: u64,
    pub raft: Raft,
    pub contacts: Arc<Contacts>,
    pub network: Arc<Network>,
    pub standing: Arc<Standing>,
    pub tail: Arc<Tail>,
    pub timing: Timing,
    /// Where the random parts of waits come from.
    pub dice: Mutex<StdRng>,
}

impl Elections {
    /// Whether this member would vote for one whose log ends at `last`.
    pub fn would_vote(&self, last: Option<LogId>) -> bool {
        let leads = self.standing.holds_office() && self.standing.has_quorum();
        let hears = self.contacts.since_leader(Instant::now()) < self.timing.election_min;
        !leads && !hears && last >= self.tail.last()
    }

    pub async fn run(self: Arc<Self>) {
        let mut metrics = self.raft.server_metrics();
        // How long this member waits for a silent leader, drawn anew for each election.
        let mut patience = self.patience();
        let mut not_before = Instant::now();
        let mut tick = tokio::time::interval(self.timing.heartbeat / 3);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                // The raft is gone.
                changed = metrics.changed() => if changed.is_err() { return },
                _ = tick.tick() => {}
            }
            let now = Instant::now();
            let (membership, leads, vote) = {
                let metrics = metrics.borrow_and_update();
                let leads = metrics.state == ServerState::Leader;
                (metrics.membership_config.clone(), leads, metrics.vote)
            };
            if leads {
                self.keep_alive(&membership, vote, now);
            }
            let voters: Vec<u64> = membership.voter_ids().collect();
            if leads || !voters.contains(&self.me) {
                patience = self.patience();
                continue;
            }
            // A single voter has nobody to wait for.
            let alone = voters == [self.me];
            let silence = self.contacts.since_leader(now);
            if now < not_before || (!alone && silence < patience) {
                continue;
            }
            if alone || self.majority_would_vote(&membership).await {
                tracing::info!(me = self.me, "asking for an election");
                if self.raft.trigger().elect().await.is_err() {
                    return;
                }
                patience = self.patience();
                not_before = Instant::now() + patience;
            } else {
                // Nobody was disturbed by the question, so it is soon asked again.
                let heartbeat = self.timing.heartbeat;
                not_before = Instant::now() + heartbeat + heartbeat.mul_f64(self.dice().random());
            }
        }
    }

    /// A random time between the shortest and the longest election time-out.
    fn patience(&self) -> Duration {
        let range = self.timing.election_min..self.timing.election_max;
        self.dice().random_range(range)
    }

    fn dice(&self) -> MutexGuard<'_, StdRng> {
        self.dice
            .lock()
            .expect("nothing panics while it holds the dice")
    }

    /// Heartbeats, sent aside of raft: while raft waits for a disk, here or there, leader and
    /// follower say nothing to each other, and a disk that takes a second is no reason for an
    /// election. One that takes much longer is: then this is silent too.
    fn keep_alive(&self, membership: &StoredMembership, vote: Vote, now: Instant) {
        let stall_max = self.timing.election_max * STALL_ELECTIONS;
        if self.standing.is_leaving() || self.contacts.since_raft_sent(now) > stall_max {
            return;
        }
        let term = vote.leader_id().term;
        for (id, node) in membership.nodes().filter(|(id, _)| **id != self.me) {
            if !self
                .contacts
                .is_overdue(*id, term, self.timing.heartbeat, now)
            {
                continue;
            }
            let member = Member {
                id: *id,
                ..node.clone()
            };
            let network = Arc::clone(&self.network);
            // Bounded by its time-out, so at most a few of them for each member.
            tokio::spawn(async move {
                let limit = network.timing.election_min;
                let answer = network.ask(&member, Message::Alive { vote }, limit).await;
                if matches!(answer, Ok(Answer::Alive { accepted: true })) {
                    network
                        .contacts
                        .answered(member.id, vote.leader_id().term, now);
                }
            });
        }
    }

    async fn majority_would_vote(&self, membership: &StoredMembership) -> bool {
        let last = self.tail.last();
        let mut willing = vec![self.me];
        let mut asked: FuturesUnordered<_> = membership
            .voter_ids()
            .filter(|voter| *voter != self.me)
            .filter_map(|voter| {
                let node = membership.membership().get_node(&voter)?;
                Some(Member {
                    id: voter,
                    ..node.clone()
                })
            })
            .map(|member| async move {
                let question = Message::PreVote { last };
                let answer = self
                    .network
                    .ask(&member, question, self.timing.election_min)
                    .await;
                (
                    member.id,
                    matches!(answer, Ok(Answer::PreVote { granted: true })),
                )
            })
            .collect();
        while let Some((voter, granted)) = asked.next().await {
            if granted {
                willing.push(voter);
            }
            if is_quorum(membership, |voter| willing.contains(&voter)) {
                return true;
            }
        }
        false
    }
}
