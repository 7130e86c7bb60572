//! Whether and when a container that ended is started again.

use std::time::Duration;

use crate::types::RestartPolicy;

const FIRST_DELAY: Duration = Duration::from_millis(100);
const DELAY_MAX: Duration = Duration::from_secs(60);
/// A run this long is a success, and the delay begins anew.
const SETTLED: Duration = Duration::from_secs(10);

/// How an end looks to the policy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    pub(crate) exit_code: i64,
    pub(crate) ran: Duration,
    /// Somebody asked for it: no policy acts against that.
    pub(crate) stopped_by_hand: bool,
}

/// The delay before the latest restart; zero before the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    delay: Duration,
}

impl Backoff {
    fn next(self, ran: Duration) -> Self {
        let before = if ran >= SETTLED {
            Duration::ZERO
        } else {
            self.delay
        };
        let delay = match before {
            Duration::ZERO => FIRST_DELAY,
            before => (before * 2).min(DELAY_MAX),
        };
        Self { delay }
    }

    pub(crate) fn delay(self) -> Duration {
        self.delay
    }
}

/// The back-off to wait before starting again; `None` to leave it.
pub(crate) fn after_exit(
    policy: &RestartPolicy,
    end: End,
    restarts: i64,
    backoff: Backoff,
) -> Option<Backoff> {
    if end.stopped_by_hand {
        return None;
    }
    let again = match policy.name.as_str() {
        "always" | "unless-stopped" => true,
        "on-failure" => {
            let max = policy.maximum_retry_count;
            end.exit_code != 0 && (max == 0 || restarts < max)
        }
        _ => false,
    };
    again.then(|| backoff.next(end.ran))
}

/// Whether a container that does not run is started when the engine is opened.
pub(crate) fn at_open(
    policy: &RestartPolicy,
    exit_code: i64,
    by_hand: bool,
    ran_once: bool,
) -> bool {
    match policy.name.as_str() {
        "always" => ran_once,
        "unless-stopped" => ran_once && !by_hand,
        "on-failure" => ran_once && !by_hand && exit_code != 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str, max: i64) -> RestartPolicy {
        RestartPolicy {
            name: name.into(),
            maximum_retry_count: max,
        }
    }

    fn end(exit_code: i64) -> End {
        End {
            exit_code,
            ran: Duration::from_secs(1),
            stopped_by_hand: false,
        }
    }

    #[test]
    fn each_policy_restarts_what_it_says() {
        let restarts = |name: &str, max: i64, code: i64, count: i64| {
            after_exit(&policy(name, max), end(code), count, Backoff::default()).is_some()
        };
        assert!(restarts("always", 0, 0, 100));
        assert!(restarts("unless-stopped", 0, 0, 100));
        assert!(restarts("on-failure", 0, 1, 100));
        assert!(!restarts("on-failure", 0, 0, 0));
        assert!(restarts("on-failure", 2, 1, 1));
        assert!(!restarts("on-failure", 2, 1, 2));
        assert!(!restarts("no", 0, 1, 0));
        assert!(!restarts("", 0, 1, 0));
    }

    #[test]
    fn nobody_is_restarted_against_a_stop() {
        let stopped = End {
            stopped_by_hand: true,
            ..end(137)
        };
        assert_eq!(
            after_exit(&policy("always", 0), stopped, 0, Backoff::default()),
            None
        );
        assert!(at_open(&policy("always", 0), 0, true, true));
        assert!(!at_open(&policy("unless-stopped", 0), 0, true, true));
    }

    #[test]
    fn the_delay_doubles_up_to_a_minute_and_a_long_run_resets_it() {
        let mut backoff = Backoff::default();
        let mut delays = Vec::new();
        for _ in 0..12 {
            backoff = after_exit(&policy("always", 0), end(1), 0, backoff).unwrap();
            delays.push(backoff.delay());
        }
        assert_eq!(delays[0], Duration::from_millis(100));
        assert_eq!(delays[3], Duration::from_millis(800));
        assert_eq!(delays[11], DELAY_MAX);
        let long = End {
            ran: Duration::from_secs(11),
            ..end(1)
        };
        let reset = after_exit(&policy("always", 0), long, 0, backoff).unwrap();
        assert_eq!(reset.delay(), FIRST_DELAY);
    }
}
