//! Docker's health check as a state machine: when to check next, and what a result
//! means. Running the check is the supervisor's business.

use std::time::Duration;

use crate::config::HealthCheck;
use crate::protocol::{Health, HealthResult, HealthStatus};

/// Results kept.
pub const RESULTS_MAX: usize = 5;
/// Bytes of output kept of each.
pub const OUTPUT_BYTES_MAX: usize = 4096;

const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_START_INTERVAL: Duration = Duration::from_secs(5);
const DEFAULT_RETRIES: u32 = 3;

/// The health of one container.
#[derive(Debug)]
pub struct Monitor {
    command: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
    status: HealthStatus,
}

impl Monitor {
    /// A monitor for this check; `None` when there is nothing to run.
    pub fn new(check: &HealthCheck) -> Option<Self> {
        let command = match check.test.split_first() {
            Some((kind, arguments)) if !arguments.is_empty() => match kind.as_str() {
                "CMD" => arguments.to_vec(),
                "CMD-SHELL" => {
                    let mut command = if check.shell.is_empty() {
                        vec!["/bin/sh".to_owned(), "-c".to_owned()]
                    } else {
                        check.shell.clone()
                    };
                    command.extend_from_slice(arguments);
                    command
                }
                _ => return None,
            },
            _ => return None,
        };
        let or = |nanos, default| match nanos {
            0 => default,
            nanos => Duration::from_nanos(nanos),
        };
        Some(Self {
            command,
            interval: or(check.interval_ns, DEFAULT_INTERVAL),
            timeout: or(check.timeout_ns, DEFAULT_TIMEOUT),
            start_period: Duration::from_nanos(check.start_period_ns),
            start_interval: or(check.start_interval_ns, DEFAULT_START_INTERVAL),
            retries: match check.retries {
                0 => DEFAULT_RETRIES,
                retries => retries,
            },
            status: HealthStatus {
                status: Health::Starting,
                failing_streak: 0,
                log: Vec::new(),
            },
        })
    }

    /// What to run.
    pub fn command(&self) -> &[String] {
        &self.command
    }

    /// How long one check may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How long to wait before the next check, this long after the start.
    pub fn next_in(&self, since_start: Duration) -> Duration {
        if since_start < self.start_period && self.status.status == Health::Starting {
            self.start_interval
        } else {
            self.interval
        }
    }

    /// The present state.
    pub fn status(&self) -> &HealthStatus {
        &self.status
    }

    /// Takes in a result of a check begun this long after the start. Says whether
    /// the state changed.
    pub fn record(&mut self, mut result: HealthResult, begun: Duration) -> bool {
        let before = self.status.status;
        if result.exit_code == 0 {
            self.status.failing_streak = 0;
            self.status.status = Health::Healthy;
        } else if before != Health::Starting || begun >= self.start_period {
            self.status.failing_streak = self.status.failing_streak.saturating_add(1);
            if self.status.failing_streak >= self.retries {
                self.status.status = Health::Unhealthy;
            }
        }
        cut(&mut result.output);
        self.status.log.push(result);
        if self.status.log.len() > RESULTS_MAX {
            self.status.log.remove(0);
        }
        self.status.status != before
    }
}

/// Cuts output to its bound, at the end of a character.
fn cut(output: &mut String) {
    if output.len() > OUTPUT_BYTES_MAX {
        output.truncate(output.floor_char_boundary(OUTPUT_BYTES_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn monitor() -> Monitor {
        Monitor::new(&HealthCheck {
            test: vec!["CMD-SHELL".into(), "true".into()],
            interval_ns: 10 * SECOND,
            retries: 2,
            start_period_ns: 60 * SECOND,
            start_interval_ns: SECOND,
            ..HealthCheck::default()
        })
        .unwrap()
    }

    fn result(exit_code: i32) -> HealthResult {
        HealthResult {
            start: String::new(),
            end: String::new(),
            exit_code,
            output: "x".repeat(5000),
        }
    }

    #[test]
    fn none_and_empty_are_no_check() {
        for test in [&[][..], &["NONE"], &["CMD"], &["FLY", "x"]] {
            let check = HealthCheck {
                test: test.iter().map(|&word| word.into()).collect(),
                ..HealthCheck::default()
            };
            assert!(Monitor::new(&check).is_none(), "{test:?}");
        }
        assert_eq!(monitor().command(), ["/bin/sh", "-c", "true"]);
    }

    #[test]
    fn failures_in_the_start_period_do_not_count() {
        let mut monitor = monitor();
        for second in 0..10 {
            assert!(!monitor.record(result(1), Duration::from_secs(second)));
        }
        assert_eq!(monitor.status().failing_streak, 0);
        assert!(!monitor.record(result(1), Duration::from_secs(60)));
        assert!(monitor.record(result(1), Duration::from_secs(70)));
        assert_eq!(monitor.status().status, Health::Unhealthy);
        assert_eq!(monitor.status().log.len(), RESULTS_MAX);
        assert_eq!(monitor.status().log[0].output.len(), OUTPUT_BYTES_MAX);
    }

    #[test]
    fn a_success_ends_the_start_and_a_failure_then_counts() {
        let mut monitor = monitor();
        assert_eq!(monitor.next_in(Duration::ZERO), Duration::from_secs(1));
        assert!(monitor.record(result(0), Duration::from_secs(1)));
        assert_eq!(monitor.status().status, Health::Healthy);
        assert_eq!(
            monitor.next_in(Duration::from_secs(2)),
            Duration::from_secs(10)
        );
        assert!(!monitor.record(result(3), Duration::from_secs(2)));
        assert_eq!(monitor.status().failing_streak, 1);
        assert!(monitor.record(result(3), Duration::from_secs(3)));
        assert!(monitor.record(result(0), Duration::from_secs(4)));
        assert_eq!(monitor.status().failing_streak, 0);
    }
}
