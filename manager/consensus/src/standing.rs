//! Whether this member leads, as seen from outside: raft's own view and who was heard lately.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use openraft::ServerState;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::contact::Contacts;
use crate::raft::{Raft, ServerMetrics};
use crate::{Leadership, Member, MemberPart, Part, Stopped, Timing};

/// What to do with a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    Lead,
    Follow,
}

pub(crate) struct Standing {
    me: u64,
    raft: Raft,
    contacts: Arc<Contacts>,
    timing: Timing,
    metrics: watch::Receiver<ServerMetrics>,
    leadership: watch::Sender<Leadership>,
    stopped: watch::Sender<Option<Stopped>>,
    /// Another member is being asked to lead: nothing new is begun.
    leaving: AtomicBool,
}

impl Standing {
    pub fn new(me: u64, raft: Raft, contacts: Arc<Contacts>, timing: Timing) -> Self {
        let metrics = raft.server_metrics();
        Self {
            me,
            raft,
            contacts,
            timing,
            metrics,
            leadership: watch::Sender::new(Leadership::default()),
            stopped: watch::Sender::new(None),
            leaving: AtomicBool::new(false),
        }
    }

    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    pub fn leader(&self) -> Option<Member> {
        self.leadership.borrow().leader.clone()
    }

    pub fn stopped(&self) -> watch::Receiver<Option<Stopped>> {
        self.stopped.subscribe()
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.borrow().is_some()
    }

    /// The first reason counts.
    pub fn stop(&self, why: Stopped) {
        self.stopped.send_if_modified(|stopped| {
            let first = stopped.is_none();
            if first {
                *stopped = Some(why);
            }
            first
        });
        self.publish();
    }

    pub fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Ordering::SeqCst);
    }

    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    /// Whether raft says that this member leads, be it with a quorum or without.
    pub fn holds_office(&self) -> bool {
        self.metrics.borrow().state == ServerState::Leader
    }

    /// Proposals are taken while a quorum answers; without one they would wait in vain.
    pub fn duty(&self) -> Duty {
        if self.holds_office() && !self.is_leaving() && self.has_quorum() {
            Duty::Lead
        } else {
            Duty::Follow
        }
    }

    /// Resolves when this member does not lead any more, or not with a quorum.
    pub async fn until_follow(&self) {
        let mut leadership = self.leadership.subscribe();
        let mut led = false;
        // An error means that the publisher is gone, and with it this member.
        let _ = leadership
            .wait_for(|now| {
                led |= now.is_me;
                let other_leads = now
                    .leader
                    .as_ref()
                    .is_some_and(|leader| leader.id != self.me);
                other_leads || (led && !now.is_me)
            })
            .await;
    }

    pub fn term(&self) -> u64 {
        self.metrics.borrow().vote.leader_id().term
    }

    pub fn has_quorum(&self) -> bool {
        let metrics = self.metrics.borrow();
        let term = metrics.vote.leader_id().term;
        let window = self.timing.election_max;
        self.contacts
            .has_quorum(&metrics.membership_config, term, window, Instant::now())
    }

    pub fn members(&self) -> Vec<MemberPart> {
        let metrics = self.metrics.borrow();
        let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
        metrics
            .membership_config
            .nodes()
            .map(|(id, member)| MemberPart {
                member: Member {
                    id: *id,
                    ..member.clone()
                },
                part: if voters.contains(id) {
                    Part::Voter
                } else {
                    Part::Learner
                },
            })
            .collect()
    }

    pub async fn other_members(&self, known: &[MemberPart]) -> Option<Vec<MemberPart>> {
        let mut metrics = self.metrics.clone();
        loop {
            metrics.mark_unchanged();
            let members = self.members();
            if members != known {
                return Some(members);
            }
            metrics.changed().await.ok()?;
        }
    }

    /// Keeps the published leadership true until raft ends.
    pub async fn run(self: Arc<Self>) {
        let mut metrics = self.metrics.clone();
        let mut tick = tokio::time::interval(self.timing.heartbeat / 2);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Either way leads to the same look, so it does not matter which is seen first.
            tokio::select! {
                biased;
                changed = metrics.changed() => if changed.is_err() {
                    self.stop(Stopped::Failed("raft has ended".to_owned()));
                    return;
                },
                _ = tick.tick() => {}
            }
            if let Err(fatal) = &self.raft.metrics().borrow().running_state {
                self.stop(Stopped::Failed(fatal.to_string()));
                return;
            }
            self.publish();
        }
    }

    fn publish(&self) {
        let now = self.observe();
        let changed = self.leadership.send_if_modified(|leadership| {
            let changed = *leadership != now;
            leadership.clone_from(&now);
            changed
        });
        if changed {
            let leader = now.leader.as_ref().map(|leader| leader.node.as_str());
            tracing::info!(
                term = now.term,
                leader,
                is_me = now.is_me,
                "leadership changed"
            );
        }
    }

    fn observe(&self) -> Leadership {
        let metrics = self.metrics.borrow();
        let term = metrics.vote.leader_id().term;
        let nobody = Leadership {
            term,
            leader: None,
            is_me: false,
        };
        if self.is_stopped() {
            return nobody;
        }
        let now = Instant::now();
        let window = self.timing.election_max;
        let Some(leader) = metrics.current_leader else {
            return nobody;
        };
        let is_me = leader == self.me;
        let heard = if is_me {
            metrics.state == ServerState::Leader
                && self
                    .contacts
                    .has_quorum(&metrics.membership_config, term, window, now)
        } else {
            self.contacts.hears(leader, window, now)
        };
        if !heard {
            return nobody;
        }
        let member = metrics.membership_config.membership().get_node(&leader);
        let leader = member.map(|member| Member {
            id: leader,
            ..member.clone()
        });
        // A leader that was removed leads until that is committed, but is no member any more.
        Leadership {
            term,
            is_me: is_me && leader.is_some(),
            leader,
        }
    }
}
