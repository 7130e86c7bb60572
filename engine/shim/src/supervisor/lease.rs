//! A container that may run only as long as somebody says so: it is stopped when that time is over,
//! whether anybody still asks for it or not.

use std::time::{Duration, Instant};

use super::Supervisor;
use super::requests::refuse;
use crate::protocol::{Refusal, RefusalKind, Response};
use crate::time::since_boot;

/// A machine that slept is awake for so long at most before it notices: the loop's own clock stood
/// still meanwhile.
const LOOK: Duration = Duration::from_secs(1);

/// Between two tries to stop one that does not run yet or any more.
const RETRY: Duration = Duration::from_millis(50);

/// Until when the container may run.
pub struct Lease {
    /// As [`since_boot`] counts.
    until: Duration,
    /// Between stop signal and kill.
    grace: Duration,
    /// When the stop signal was sent.
    stopped: Option<Instant>,
}

impl Lease {
    pub fn next_deadline(&self, now: Instant) -> Instant {
        let due = match self.stopped {
            Some(at) => at + self.grace,
            None => now + self.until.saturating_sub(since_boot()).min(LOOK),
        };
        // What could not be done is tried again, not at once.
        match due > now {
            true => due,
            false => now + RETRY,
        }
    }
}

impl Supervisor {
    /// Lets the container run until then, and no longer unless told again.
    pub(super) fn lease(&mut self, until: Duration, grace: Duration) -> Result<Response, Refusal> {
        // Whether that was noticed or not: somebody may count on it.
        let is_over = |lease: &Lease| lease.stopped.is_some() || since_boot() >= lease.until;
        let is_over = self.running().is_ok() && self.lease.as_ref().is_some_and(is_over);
        if self.ending.is_some() || is_over {
            let text = format!("container {} is being stopped", self.config.id);
            return Err(refuse(RefusalKind::Conflict, text));
        }
        self.lease = Some(Lease {
            until,
            grace,
            stopped: None,
        });
        Ok(Response::Ok)
    }

    /// Stops a container whose time is over.
    pub(super) fn tick_lease(&mut self, now: Instant) {
        if self.ending.is_some() {
            self.lease = None;
        }
        let Some(lease) = &self.lease else { return };
        let is_over = match lease.stopped {
            Some(at) => now >= at + lease.grace,
            None => since_boot() >= lease.until,
        };
        if !is_over {
            return;
        }
        match lease.stopped {
            Some(_) => {
                // Once more only if that should fail.
                if self.signal(libc::SIGKILL, false).is_ok() {
                    self.lease = None;
                }
            }
            None => {
                let signal = self.config.stop_signal;
                if self.signal(signal, false).is_ok()
                    && let Some(lease) = &mut self.lease
                {
                    lease.stopped = Some(now);
                }
            }
        }
    }
}
