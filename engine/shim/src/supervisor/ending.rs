//! From the end of the main process to nothing: the rest is killed, the output read
//! to its end, the cgroup removed, the record written, waiters told.

use std::time::{Duration, Instant};

use super::connection::Role;
use super::{ProcessKey, Supervisor};
use crate::exit::ExitRecord;
use crate::protocol::{Event, Response, StartAnswer, StartFailure, encode_frame};
use crate::time;

/// Between two looks at whether everything is dead, drained or removed: at first the
/// kernel needs some hundred microseconds only, later there is no hurry.
const PERIOD_MIN: Duration = Duration::from_micros(200);
const PERIOD_MAX: Duration = Duration::from_millis(20);
/// How long killing may take; a process in an uninterruptible wait cannot be killed.
const KILL_MAX: Duration = Duration::from_secs(10);
/// How long output may go on after everything was killed, if somebody outside the
/// container holds the pipe.
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// How long the kernel may keep the cgroup busy.
const REMOVE_MAX: Duration = Duration::from_secs(5);
/// How long a client may take nothing of the last output.
pub const LINGER_MAX: Duration = Duration::from_secs(10);

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Killing,
    Draining,
    Removing,
    /// All is recorded; only clients' last output is left.
    Recorded,
}

/// The end of a container.
pub struct Ending {
    stage: Stage,
    stage_since: Instant,
    /// The container never ran, for this reason.
    failed: Option<StartFailure>,
    /// What went wrong on the way.
    complaints: Vec<String>,
    oom_kills: u64,
}

impl Ending {
    pub fn new(failed: Option<StartFailure>) -> Self {
        Self {
            stage: Stage::Killing,
            stage_since: Instant::now(),
            failed,
            complaints: Vec::new(),
            oom_kills: 0,
        }
    }

    pub fn next_deadline(&self) -> Instant {
        let now = Instant::now();
        match self.stage {
            Stage::Recorded => now + LINGER_MAX,
            _ => now + (self.lasted(now) / 4).clamp(PERIOD_MIN, PERIOD_MAX),
        }
    }

    pub fn is_recorded(&self) -> bool {
        self.stage == Stage::Recorded
    }

    /// Whether whoever keeps the log has had its time to take the rest.
    pub fn has_lingered(&self, now: Instant) -> bool {
        self.lasted(now) > LINGER_MAX
    }

    fn enter(&mut self, stage: Stage, now: Instant) {
        self.stage = stage;
        self.stage_since = now;
    }

    fn lasted(&self, now: Instant) -> Duration {
        now.duration_since(self.stage_since)
    }
}

impl Supervisor {
    /// The main process ended.
    pub(super) fn main_ended(&mut self) {
        if let Some(main) = &mut self.main {
            main.finished_at = time::now();
        }
        self.checks.stop();
        if self.ending.is_none() {
            self.ending = Some(Ending::new(None));
        }
    }

    /// Goes as far as it can.
    pub(super) fn tick_ending(&mut self, now: Instant) {
        loop {
            let Some(mut ending) = self.ending.take() else {
                return;
            };
            let before = ending.stage;
            match before {
                Stage::Killing => self.kill_all(&mut ending, now),
                Stage::Draining => self.drain_all(&mut ending, now),
                Stage::Removing => self.remove_group(&mut ending, now),
                Stage::Recorded => {}
            }
            let stage = ending.stage;
            self.ending = Some(ending);
            if stage == before {
                break;
            }
            if stage == Stage::Recorded {
                self.record();
            }
        }
    }

    fn kill_all(&mut self, ending: &mut Ending, now: Instant) {
        if self.paused || self.group.is_frozen().unwrap_or(false) {
            // The frozen cannot die.
            let _ = self.group.freeze(false);
            self.paused = false;
        }
        let alive = self.group.processes().unwrap_or_default();
        let unreaped = self
            .main
            .as_ref()
            .is_some_and(|main| main.process.exit.is_none());
        if alive.is_empty() && !unreaped {
            return self.all_killed(ending, now);
        }
        if let Err(error) = self.group.kill()
            && alive.is_empty()
        {
            eprintln!("killing what is left: {error}");
        }
        if let Some(main) = &self.main
            && unreaped
        {
            use std::os::fd::AsFd as _;
            // It may have ended by now; then there is nothing to kill.
            let _ = crate::sys::pidfd_send_signal(main.process.pidfd.as_fd(), libc::SIGKILL);
        }
        self.reap();
        if ending.lasted(now) > KILL_MAX {
            ending
                .complaints
                .push(format!("processes could not be killed: {alive:?}"));
            self.all_killed(ending, now);
        }
    }

    fn all_killed(&mut self, ending: &mut Ending, now: Instant) {
        ending.oom_kills = self.group.oom_kills();
        // Removing the group looks like a want of memory to whoever watches it.
        self.out_of_memory = None;
        ending.enter(Stage::Draining, now);
    }

    fn drain_all(&mut self, ending: &mut Ending, now: Instant) {
        self.drain(ProcessKey::Main);
        let over = self
            .main
            .as_ref()
            .is_none_or(|main| main.process.streams.ended());
        if over || ending.lasted(now) > DRAIN_MAX {
            self.finish_log();
            if let Some(main) = &mut self.main {
                main.process.streams = crate::streams::Streams::default();
            }
            ending.enter(Stage::Removing, now);
        }
    }

    fn remove_group(&mut self, ending: &mut Ending, now: Instant) {
        match self.group.remove() {
            Ok(()) => ending.enter(Stage::Recorded, now),
            Err(error) if ending.lasted(now) > REMOVE_MAX => {
                ending
                    .complaints
                    .push(format!("removing the cgroup: {error}"));
                ending.enter(Stage::Recorded, now);
            }
            Err(_) => {}
        }
    }

    /// Writes how it ended and tells everyone. Whoever hears of the end may at once
    /// start the container anew, so everything of it must be given up before.
    fn record(&mut self) {
        self.dns = None;
        self.netns = None;
        let Some(ending) = &self.ending else {
            return;
        };
        if let Some(failed) = &ending.failed {
            let answer = StartAnswer::Failed(failed.clone());
            self.stop_listening();
            self.connections.clear();
            return self.answer_engine(&answer);
        }
        let record = self.exit_record(ending);
        // Before the socket goes: whoever finds nobody there looks for the record.
        if let Err(error) = record.write(&self.config.paths.exit) {
            eprintln!("writing the exit record: {error}");
        }
        self.stop_listening();
        self.publish(&Event::Exited(record.clone()));
        let answer = encode_frame(&Response::Exited(record));
        for connection in self.connections.values_mut() {
            if let (Role::WaitsForEnd, Ok(frame)) = (&connection.role, &answer) {
                connection.send(frame);
            }
            connection.finishing = true;
        }
    }

    fn stop_listening(&mut self) {
        self.listener = None;
        // A socket that is gone already is no loss.
        let _ = std::fs::remove_file(&self.config.paths.socket);
    }

    fn exit_record(&self, ending: &Ending) -> ExitRecord {
        let main = self.main.as_ref();
        let exit = main.and_then(|main| main.process.exit);
        ExitRecord {
            id: self.config.id.clone(),
            pid: main.map_or(0, |main| main.process.pid),
            exit_code: exit.map_or(255, |exit| exit.code),
            signal: exit.and_then(|exit| exit.signal),
            oom_killed: ending.oom_kills > 0,
            error: ending.complaints.join("; "),
            started_at: main.map_or(String::new(), |main| main.started_at.clone()),
            finished_at: main.map_or(String::new(), |main| main.finished_at.clone()),
        }
    }
}
