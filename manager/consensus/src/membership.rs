//! Changes of the membership, one at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::contact::Contacts;
use crate::raft::{LogId, Raft, StoredMembership};
use crate::standing::{Duty, Standing};
use crate::{Member, MembershipError, Timing};

/// Entries a learner may be behind when it becomes a voter.
const LAG_MAX: u64 = 100;

pub(crate) struct Membership {
    pub me: u64,
    pub raft: Raft,
    pub standing: Arc<Standing>,
    pub contacts: Arc<Contacts>,
    pub timing: Timing,
    /// Held by the one change that is under way; the others wait in order.
    pub turn: Mutex<()>,
}

type Changed = Result<(), MembershipError>;

impl Membership {
    pub async fn add_learner(&self, member: Member) -> Changed {
        let deadline = self.deadline();
        let _turn = self.take_turn(deadline).await?;
        let nodes = |member: Member| BTreeMap::from([(member.id, member)]);
        match self.find(member.id) {
            None => {
                self.change(ChangeMembers::AddNodes(nodes(member)), true, deadline)
                    .await
            }
            Some(known) if known.node != member.node => Err(MembershipError::Exists {
                id: known.id,
                node: known.node,
            }),
            Some(known) if known.address == member.address => Ok(()),
            Some(_) => {
                self.change(ChangeMembers::SetNodes(nodes(member)), true, deadline)
                    .await
            }
        }
    }

    pub async fn update_address(&self, id: u64, address: String) -> Changed {
        let deadline = self.deadline();
        let _turn = self.take_turn(deadline).await?;
        let known = self.find(id).ok_or(MembershipError::NoSuchMember { id })?;
        if known.address == address {
            return Ok(());
        }
        let nodes = BTreeMap::from([(id, Member { address, ..known })]);
        self.change(ChangeMembers::SetNodes(nodes), true, deadline)
            .await
    }

    pub async fn promote(&self, id: u64) -> Changed {
        let deadline = self.deadline();
        let _turn = self.take_turn(deadline).await?;
        self.find(id).ok_or(MembershipError::NoSuchMember { id })?;
        if self.membership().voter_ids().any(|voter| voter == id) {
            return Ok(());
        }
        self.caught_up(id, deadline).await?;
        self.change(
            ChangeMembers::AddVoterIds(BTreeSet::from([id])),
            true,
            deadline,
        )
        .await
    }

    pub async fn remove(&self, id: u64) -> Changed {
        let deadline = self.deadline();
        let _turn = self.take_turn(deadline).await?;
        self.find(id).ok_or(MembershipError::NoSuchMember { id })?;
        if self.membership().voter_ids().any(|voter| voter == id) {
            self.may_lose(id)?;
            let voters = BTreeSet::from([id]);
            self.change(ChangeMembers::RemoveVoters(voters), false, deadline)
                .await?;
        }
        if id != self.me && self.find(id).is_some() {
            let nodes = BTreeSet::from([id]);
            self.change(ChangeMembers::RemoveNodes(nodes), true, deadline)
                .await?;
        }
        Ok(())
    }

    /// Ends a change that an earlier leader left half way, if nothing else is going on.
    pub async fn finish_joint(&self) {
        let Ok(_turn) = self.turn.try_lock() else {
            return;
        };
        if self.standing.duty() == Duty::Lead
            && let Err(error) = self.leave_joint(self.deadline()).await
        {
            tracing::warn!(%error, "an unfinished change of the membership stays unfinished");
        }
    }

    async fn leave_joint(&self, deadline: Instant) -> Changed {
        let membership = self.membership();
        match membership.membership().get_joint_config().as_slice() {
            [_, .., wanted] => {
                let change = ChangeMembers::ReplaceAllVoters(wanted.clone());
                self.change_once(change, true, deadline).await
            }
            _ => Ok(()),
        }
    }

    async fn take_turn(
        &self,
        deadline: Instant,
    ) -> Result<tokio::sync::MutexGuard<'_, ()>, MembershipError> {
        let turn = timeout_at(deadline, self.turn.lock())
            .await
            .map_err(|_| MembershipError::Unavailable)?;
        if self.standing.is_stopped() {
            return Err(MembershipError::Stopped);
        }
        if self.standing.duty() == Duty::Follow {
            return Err(MembershipError::NotLeader {
                leader: self.standing.leader(),
            });
        }
        self.leave_joint(deadline).await?;
        Ok(turn)
    }

    async fn change(
        &self,
        change: ChangeMembers<u64, Member>,
        retain: bool,
        deadline: Instant,
    ) -> Changed {
        self.change_once(change, retain, deadline).await?;
        // The second step of a change can fail alone.
        self.leave_joint(deadline).await
    }

    async fn change_once(
        &self,
        change: ChangeMembers<u64, Member>,
        retain: bool,
        deadline: Instant,
    ) -> Changed {
        loop {
            let changing = self.raft.change_membership(change.clone(), retain);
            let Ok(changed) = timeout_at(deadline, changing).await else {
                return Err(MembershipError::Unavailable);
            };
            match changed {
                Ok(changed) => {
                    self.shown(changed.log_id, deadline).await;
                    return Ok(());
                }
                Err(RaftError::Fatal(_)) => return Err(MembershipError::Stopped),
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                    return Err(MembershipError::NotLeader {
                        leader: forward.leader_node,
                    });
                }
                // A change that an earlier leader began is not committed yet.
                Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_),
                ))) => self.pause(deadline).await?,
                Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::LearnerNotFound(missing),
                ))) => {
                    return Err(MembershipError::NoSuchMember {
                        id: missing.node_id,
                    });
                }
                Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::EmptyMembership(_),
                ))) => return Err(MembershipError::LastVoter { id: self.me }),
            }
        }
    }

    /// Waits until a change that was made is shown: who asks next looks there, and openraft tells of it
    /// a moment later than it answers.
    async fn shown(&self, change: LogId, deadline: Instant) {
        let mut metrics = self.raft.server_metrics();
        let shown = metrics.wait_for(|now| *now.membership_config.log_id() >= Some(change));
        // It was made in either case.
        let _ = timeout_at(deadline, shown).await;
    }

    /// Waits until a learner has nearly all of the log and answers.
    async fn caught_up(&self, id: u64, deadline: Instant) -> Changed {
        loop {
            let (last, matched) = {
                let metrics = self.raft.metrics();
                let metrics = metrics.borrow();
                let matched = metrics
                    .replication
                    .as_ref()
                    .and_then(|replication| replication.get(&id))
                    .and_then(|matched| matched.map(|matched| matched.index + 1));
                (
                    metrics.last_log_index.map_or(0, |last| last + 1),
                    matched.unwrap_or(0),
                )
            };
            let lag = last.saturating_sub(matched);
            if lag <= LAG_MAX && matched > 0 && self.is_reachable(id) {
                return Ok(());
            }
            if self.standing.duty() == Duty::Follow {
                return Err(MembershipError::NotLeader {
                    leader: self.standing.leader(),
                });
            }
            self.pause(deadline)
                .await
                .map_err(|_| MembershipError::Behind { id, lag })?;
        }
    }

    /// Whether the voters that would remain without `id` can go on.
    fn may_lose(&self, id: u64) -> Changed {
        let remaining: Vec<u64> = self
            .membership()
            .voter_ids()
            .filter(|voter| *voter != id)
            .collect();
        if remaining.is_empty() {
            return Err(MembershipError::LastVoter { id });
        }
        let reachable = remaining
            .iter()
            .filter(|voter| self.is_reachable(**voter))
            .count();
        if reachable <= remaining.len() / 2 {
            let remaining = remaining.len();
            return Err(MembershipError::WouldLoseQuorum {
                id,
                reachable,
                remaining,
            });
        }
        Ok(())
    }

    fn is_reachable(&self, id: u64) -> bool {
        let now = Instant::now();
        let since = self.contacts.since_answer(id, self.standing.term(), now);
        id == self.me || since.is_some_and(|since| since <= self.timing.election_max)
    }

    fn find(&self, id: u64) -> Option<Member> {
        let membership = self.membership();
        let node = membership.membership().get_node(&id)?;
        Some(Member { id, ..node.clone() })
    }

    fn membership(&self) -> Arc<StoredMembership> {
        self.raft
            .server_metrics()
            .borrow()
            .membership_config
            .clone()
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timing.membership
    }

    async fn pause(&self, deadline: Instant) -> Changed {
        let pause: Duration = self.timing.heartbeat / 2;
        if Instant::now() + pause >= deadline {
            return Err(MembershipError::Unavailable);
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }
}
