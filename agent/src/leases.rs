//! Until when tasks may run that must not outlast this node's contact with the managers.

use std::time::Duration;

use skep_engine::since_boot;
use tokio::sync::{Notify, watch};

/// What is known of the contact.
#[derive(Default)]
pub struct Leases {
    /// When the last heartbeat was sent that a leader has heard, as [`since_boot`] counts; zero
    /// before the first one of this daemon's life.
    confirmed: watch::Sender<Duration>,
    /// Somebody waits for the next confirmation.
    pub wanted: Notify,
}

/// How a task stands with its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// It needs none.
    Unbound,
    /// It may run.
    Held,
    /// This daemon has heard of no leader yet. What runs has the time that an earlier one has noted.
    Unknown,
    /// Its time is over.
    Lapsed,
}

impl Leases {
    /// Takes in that a leader has heard the heartbeat sent then.
    pub fn confirm(&self, sent: Duration) {
        // One of the node's life before it was started anew says nothing of this one.
        if sent > since_boot() {
            return;
        }
        self.confirmed.send_if_modified(|known| {
            let is_later = *known < sent;
            *known = sent.max(*known);
            is_later
        });
    }

    /// Wakes whoever waits for the next confirmation.
    pub fn follow(&self) -> watch::Receiver<Duration> {
        self.confirmed.subscribe()
    }

    /// Until when a task may run that may be cut off for so long; nothing when that is not known.
    pub fn until(&self, stop_after: Duration) -> Option<Duration> {
        let confirmed = *self.confirmed.borrow();
        (!confirmed.is_zero()).then(|| confirmed + stop_after)
    }

    /// How a task that may be cut off for so long stands now.
    pub fn stand(&self, stop_after: Option<Duration>) -> Lease {
        let Some(stop_after) = stop_after else {
            return Lease::Unbound;
        };
        match self.until(stop_after) {
            None => Lease::Unknown,
            Some(until) if since_boot() < until => Lease::Held,
            Some(_) => Lease::Lapsed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_from_when_the_heartbeat_was_sent() {
        let leases = Leases::default();
        let long = Duration::from_secs(3600);
        assert_eq!(leases.stand(None), Lease::Unbound);
        assert_eq!(leases.stand(Some(long)), Lease::Unknown);
        let sent = since_boot();
        leases.confirm(sent);
        assert_eq!(leases.stand(Some(long)), Lease::Held);
        assert_eq!(leases.stand(Some(Duration::ZERO)), Lease::Lapsed);
        // One that comes late takes nothing back.
        leases.confirm(sent / 2);
        assert_eq!(leases.until(long), Some(sent + long));
        leases.confirm(since_boot() + long);
        assert_eq!(leases.until(long), Some(sent + long), "of another life");
    }
}
