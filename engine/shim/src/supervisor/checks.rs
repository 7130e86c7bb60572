//! Runs the health check when its time has come and reports what it says.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use super::processes::Process;
use super::{ProcessKey, Supervisor};
use crate::config::HealthCheck;
use crate::container;
use crate::health::{Monitor, OUTPUT_BYTES_MAX};
use crate::protocol::{Event, HealthResult, HealthStatus, StartFailure};
use crate::streams::{Streams, Wanted};
use crate::{sys, time};

/// Exit code of a check that took too long or could not run.
const NO_RESULT: i32 = -1;

/// The health check of a container, if it has one.
pub struct Checks {
    monitor: Option<Monitor>,
    started: Option<Instant>,
    next: Option<Instant>,
    running: Option<Running>,
}

/// A check under way.
struct Running {
    process: Process,
    begun: Instant,
    start: String,
    deadline: Instant,
    output: Vec<u8>,
    /// It was killed: for taking too long, or because its result is not wanted.
    killed: Option<Killed>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Killed {
    TooLong,
    Unwanted,
}

impl Checks {
    pub fn new(check: Option<&HealthCheck>) -> Self {
        Self {
            monitor: check.and_then(Monitor::new),
            started: None,
            next: None,
            running: None,
        }
    }

    pub fn status(&self) -> Option<&HealthStatus> {
        self.monitor.as_ref().map(Monitor::status)
    }

    pub fn running(&self) -> Option<&Process> {
        self.running.as_ref().map(|running| &running.process)
    }

    pub fn running_mut(&mut self) -> Option<&mut Process> {
        self.running.as_mut().map(|running| &mut running.process)
    }

    /// The first check comes one interval after the start.
    pub fn container_started(&mut self, now: Instant) {
        self.started = Some(now);
        self.schedule(now);
    }

    /// No more checks.
    pub fn stop(&mut self) {
        self.next = None;
        self.started = None;
        if let Some(running) = &mut self.running {
            running.kill(Killed::Unwanted);
        }
    }

    /// The container stands still or goes on. A check that was caught in it says
    /// nothing about health.
    pub fn set_paused(&mut self, paused: bool, now: Instant) {
        if paused {
            if let Some(running) = &mut self.running {
                running.kill(Killed::Unwanted);
            }
        } else {
            self.schedule(now);
        }
    }

    pub fn next_deadline(&self, paused: bool) -> Option<Instant> {
        if paused {
            return None;
        }
        match &self.running {
            Some(running) if running.killed.is_some() => None,
            Some(running) => Some(running.deadline),
            None => self.next,
        }
    }

    /// Keeps output up to its bound.
    pub fn take_output(&mut self, bytes: &[u8]) {
        if let Some(running) = &mut self.running {
            let room = OUTPUT_BYTES_MAX.saturating_sub(running.output.len());
            running.output.extend(&bytes[..bytes.len().min(room)]);
        }
    }

    fn schedule(&mut self, now: Instant) {
        self.next = match (&self.monitor, self.started) {
            (Some(monitor), Some(started)) => {
                Some(now + monitor.next_in(now.duration_since(started)))
            }
            _ => None,
        };
    }
}

impl Running {
    fn kill(&mut self, why: Killed) {
        if self.killed.is_none() {
            self.killed = Some(why);
            // It may have ended by itself just now.
            let _ = sys::pidfd_send_signal(self.process.pidfd.as_fd(), libc::SIGKILL);
        }
    }
}

impl Supervisor {
    /// Begins a check that is due, ends one that takes too long.
    pub(super) fn tick_checks(&mut self, now: Instant) {
        if self.paused || self.ending.is_some() {
            return;
        }
        match &mut self.checks.running {
            Some(running) if now >= running.deadline => running.kill(Killed::TooLong),
            Some(_) => {}
            None if self.checks.next.is_some_and(|next| now >= next) => self.begin_check(now),
            None => {}
        }
    }

    fn begin_check(&mut self, now: Instant) {
        self.checks.next = None;
        let Some(monitor) = &self.checks.monitor else {
            return;
        };
        let timeout = monitor.timeout();
        let command = monitor.command().to_vec();
        let start = time::now();
        match self.launch_check(&command) {
            Ok(process) => {
                self.checks.running = Some(Running {
                    process,
                    begun: now,
                    start,
                    deadline: now + timeout,
                    output: Vec::new(),
                    killed: None,
                });
            }
            Err(failed) => self.record_check(failed_result(start, &failed), now),
        }
    }

    fn launch_check(&self, command: &[String]) -> Result<Process, StartFailure> {
        use crate::failure::Context as _;
        let (streams, stdio) = Streams::pipes(Wanted {
            stdin: false,
            stdout: true,
            stderr: true,
        })
        .context(|| "making pipes")?;
        let wanted = &self.config.process;
        let program = self.program_like_main(command, &wanted.env, &wanted.user, &wanted.cwd);
        let plan = self.exec_plan(program, stdio)?;
        let launched = container::launch_exec(plan, self.group.as_ref())?;
        Ok(Process::new(launched, streams))
    }

    /// The check could not become its program.
    pub(super) fn check_failed(&mut self, failed: &StartFailure) {
        // Its end will be reaped without being the result.
        if let Some(running) = self.checks.running.take() {
            self.record_check(failed_result(running.start, failed), running.begun);
        }
    }

    /// The check ended with this code.
    pub(super) fn check_ended(&mut self, exit_code: i32) {
        self.drain(ProcessKey::Check);
        let Some(running) = self.checks.running.take() else {
            return;
        };
        let output = String::from_utf8_lossy(&running.output).into_owned();
        let (exit_code, output) = match running.killed {
            Some(Killed::Unwanted) => return self.checks.schedule(Instant::now()),
            Some(Killed::TooLong) => {
                let timeout = self
                    .checks
                    .monitor
                    .as_ref()
                    .map_or(Duration::ZERO, Monitor::timeout);
                let mut text = format!(
                    "Health check exceeded timeout ({})",
                    time::go_duration(timeout)
                );
                if !output.is_empty() {
                    text.push_str(": ");
                    text.push_str(&output);
                }
                (NO_RESULT, text)
            }
            None => (exit_code, output),
        };
        let result = HealthResult {
            start: running.start,
            end: time::now(),
            exit_code,
            output,
        };
        self.record_check(result, running.begun);
    }

    fn record_check(&mut self, result: HealthResult, begun: Instant) {
        let now = Instant::now();
        let (Some(monitor), Some(started)) = (&mut self.checks.monitor, self.checks.started) else {
            return;
        };
        monitor.record(result, begun.saturating_duration_since(started));
        let status = monitor.status().clone();
        self.checks.schedule(now);
        self.write_status();
        self.publish(&Event::Health(status));
    }
}

fn failed_result(start: String, failed: &StartFailure) -> HealthResult {
    HealthResult {
        start,
        end: time::now(),
        exit_code: NO_RESULT,
        output: format!("OCI runtime exec failed: exec failed: {}", failed.message),
    }
}
