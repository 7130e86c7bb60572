//! Who was heard of, and when. Volatile: a restarted member has heard nobody.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::raft::StoredMembership;

/// When a leader was last heard, and when each follower last answered this member as leader.
pub(crate) struct Contacts {
    me: u64,
    inner: Mutex<Inner>,
}

struct Inner {
    /// A leader's word, or this member's start: until then there is nothing to compare with.
    leader_heard: Instant,
    heard_from: Option<u64>,
    /// By follower: the term in which it answered, and when what it answered was sent.
    answers: HashMap<u64, (u64, Instant)>,
    /// By follower: when it was last told that its leader lives.
    told: HashMap<u64, Instant>,
    /// When raft itself last sent something as leader.
    raft_sent: Instant,
}

impl Contacts {
    pub fn new(me: u64, now: Instant) -> Self {
        let inner = Inner {
            leader_heard: now,
            heard_from: None,
            answers: HashMap::new(),
            told: HashMap::new(),
            raft_sent: now,
        };
        Self {
            me,
            inner: Mutex::new(inner),
        }
    }

    /// A leader's message was accepted.
    pub fn leader_heard(&self, leader: u64, now: Instant) {
        let mut inner = self.lock();
        inner.leader_heard = now;
        inner.heard_from = Some(leader);
    }

    /// Since when no leader was heard.
    pub fn since_leader(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.lock().leader_heard)
    }

    /// Whether this very leader was heard within `window`.
    pub fn hears(&self, leader: u64, window: Duration, now: Instant) -> bool {
        let inner = self.lock();
        inner.heard_from == Some(leader)
            && now.saturating_duration_since(inner.leader_heard) <= window
    }

    /// Raft sends something to a follower.
    pub fn raft_sends(&self, now: Instant) {
        self.lock().raft_sent = now;
    }

    pub fn since_raft_sent(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.lock().raft_sent)
    }

    /// Whether it is time to tell a follower that its leader lives: within the last period it was
    /// neither told so nor has it answered anything. Counts as told if so.
    pub fn is_overdue(&self, follower: u64, term: u64, period: Duration, now: Instant) -> bool {
        let answered = self.since_answer(follower, term, now);
        let mut inner = self.lock();
        let told = inner
            .told
            .get(&follower)
            .map(|told| now.saturating_duration_since(*told));
        let overdue = answered.is_none_or(|answered| answered >= period)
            && told.is_none_or(|told| told >= period);
        if overdue {
            inner.told.insert(follower, now);
        }
        overdue
    }

    /// A follower accepted what this member sent it as leader of `term`.
    pub fn answered(&self, follower: u64, term: u64, sent: Instant) {
        let mut inner = self.lock();
        let answer = inner.answers.entry(follower).or_insert((term, sent));
        *answer = (*answer).max((term, sent));
    }

    pub fn since_answer(&self, follower: u64, term: u64, now: Instant) -> Option<Duration> {
        match self.lock().answers.get(&follower) {
            Some((answered, sent)) if *answered == term => {
                Some(now.saturating_duration_since(*sent))
            }
            _ => None,
        }
    }

    /// Whether a quorum answered this member as leader of `term` within `window`.
    pub fn has_quorum(
        &self,
        membership: &StoredMembership,
        term: u64,
        window: Duration,
        now: Instant,
    ) -> bool {
        is_quorum(membership, |voter| {
            voter == self.me
                || self
                    .since_answer(voter, term, now)
                    .is_some_and(|since| since <= window)
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .expect("nothing panics while it holds the contacts")
    }
}

/// Whether the voters that `counts` are a majority, in each half of a joint membership.
pub(crate) fn is_quorum(membership: &StoredMembership, counts: impl Fn(u64) -> bool) -> bool {
    let configs = membership.membership().get_joint_config();
    !configs.is_empty()
        && configs
            .iter()
            .all(|voters| voters.iter().filter(|voter| counts(**voter)).count() > voters.len() / 2)
}
