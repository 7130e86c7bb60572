//! The processes of a container: their words on the way to their programs, their
//! output, their ends.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::connection::{OUTBOX_BYTES_MAX, Role};
use super::{ProcessKey, Supervisor};
use crate::container::{Channel, Launched, Word};
use crate::log::Output;
use crate::protocol::{
    Event, ExecSpec, ExecStatus, Refusal, RefusalKind, Response, StartFailure, encode_frame,
};
use crate::stdcopy;
use crate::streams::{Read, Streams};
use crate::time;

/// How long after the end of an exec its output may come from others who share it.
const EXEC_DRAIN: Duration = Duration::from_millis(500);
/// Ended execs whose exit codes are kept.
const ENDED_EXECS_MAX: usize = 64;

/// A process and its streams.
pub struct Process {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// Open until it has become its program.
    pub channel: Option<Channel>,
    pub streams: Streams,
    /// How it ended.
    pub exit: Option<Exit>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// 128 + n for signal n.
    pub code: i32,
    pub signal: Option<i32>,
}

impl Process {
    pub fn new(launched: Launched, streams: Streams) -> Self {
        Self {
            pid: launched.pid,
            pidfd: launched.pidfd,
            channel: Some(launched.channel),
            streams,
            exit: None,
        }
    }
}

/// The main process.
pub struct Main {
    pub process: Process,
    /// Empty until it runs.
    pub started_at: String,
    pub started: Instant,
    /// Set when it ended.
    pub finished_at: String,
}

/// One more process.
pub struct Exec {
    pub spec: ExecSpec,
    pub process: Process,
    /// Who waits to hear whether it started.
    pub requester: Option<u64>,
    /// When it ended.
    pub ended: Option<Instant>,
    /// All is delivered; only the exit code is left.
    pub done: bool,
}

impl Exec {
    pub fn status(&self) -> ExecStatus {
        ExecStatus {
            id: self.spec.id.clone(),
            pid: self.process.pid,
            exit_code: self.process.exit.map(|exit| exit.code),
        }
    }

    /// When waiting for more output of it ends.
    pub fn deadline(&self) -> Option<Instant> {
        match self.ended {
            Some(ended) if !self.done => Some(ended + EXEC_DRAIN),
            _ => None,
        }
    }
}

impl Supervisor {
    /// All processes under supervision.
    pub(super) fn processes(&self) -> impl Iterator<Item = (ProcessKey, &Process)> {
        let main = self
            .main
            .iter()
            .map(|main| (ProcessKey::Main, &main.process));
        let execs = self
            .execs
            .iter()
            .map(|(&key, exec)| (ProcessKey::Exec(key), &exec.process));
        let check = self
            .checks
            .running()
            .map(|process| (ProcessKey::Check, process));
        main.chain(execs).chain(check)
    }

    pub(super) fn process(&self, key: ProcessKey) -> Option<&Process> {
        match key {
            ProcessKey::Main => self.main.as_ref().map(|main| &main.process),
            ProcessKey::Exec(key) => self.execs.get(&key).map(|exec| &exec.process),
            ProcessKey::Check => self.checks.running(),
        }
    }

    pub(super) fn process_mut(&mut self, key: ProcessKey) -> Option<&mut Process> {
        match key {
            ProcessKey::Main => self.main.as_mut().map(|main| &mut main.process),
            ProcessKey::Exec(key) => self.execs.get_mut(&key).map(|exec| &mut exec.process),
            ProcessKey::Check => self.checks.running_mut(),
        }
    }

    /// A child on its way to its program said something.
    pub(super) fn hear_child(&mut self, key: ProcessKey) {
        let Some(process) = self.process_mut(key) else {
            return;
        };
        let Some(channel) = &process.channel else {
            return;
        };
        let word = channel.receive().unwrap_or_else(|error| {
            Word::Failed(crate::failure::failure(format!(
                "listening to the child: {error}"
            )))
        });
        match word {
            Word::Terminal(master) => {
                if let Err(error) = process.streams.set_terminal(master) {
                    eprintln!("taking the terminal over: {error}");
                }
            }
            Word::Executed => {
                process.channel = None;
                match key {
                    ProcessKey::Main => self.main_executed(),
                    ProcessKey::Exec(key) => self.exec_executed(key),
                    ProcessKey::Check => {}
                }
            }
            Word::Failed(failed) => {
                process.channel = None;
                match key {
                    ProcessKey::Main => self.main_failed(failed),
                    ProcessKey::Exec(key) => self.exec_failed(key, &failed),
                    ProcessKey::Check => self.check_failed(&failed),
                }
            }
        }
    }

    fn exec_executed(&mut self, key: u64) {
        let Some(exec) = self.execs.get_mut(&key) else {
            return;
        };
        let pid = exec.process.pid;
        let streams = exec.spec.streams;
        let Some(requester) = exec.requester.take() else {
            return;
        };
        self.respond(requester, &Response::ExecStarted { pid });
        if let Some(connection) = self.connections.get_mut(&requester) {
            connection.role = Role::Attached {
                process: ProcessKey::Exec(key),
                options: streams,
            };
            connection.finishing = !(streams.stdin || streams.stdout || streams.stderr);
        }
        self.take_requests(requester);
    }

    fn exec_failed(&mut self, key: u64, failed: &StartFailure) {
        let Some(exec) = self.execs.remove(&key) else {
            return;
        };
        let id = exec.spec.id;
        let refusal = Refusal {
            kind: RefusalKind::Invalid,
            message: failed.message.clone(),
            exit_code: Some(failed.exit_code),
        };
        if let Some(requester) = exec.requester {
            if let Some(connection) = self.connections.get_mut(&requester) {
                connection.role = Role::Control;
            }
            self.respond(requester, &Response::Refused(refusal));
            self.take_requests(requester);
        }
        self.answer_exec_waiters(&id, failed.exit_code);
    }

    /// Reads an output once and passes it on. Says whether there was something.
    pub(super) fn read_output(&mut self, key: ProcessKey, output: Output) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = self.process_mut(key).map_or(Read::End, |process| {
            process.streams.read(output, &mut buffer)
        });
        if let Read::Bytes(count) = read {
            self.pass_on(key, output, &buffer[..count]);
        }
        self.buffer = buffer;
        matches!(read, Read::Bytes(_))
    }

    fn pass_on(&mut self, key: ProcessKey, output: Output, bytes: &[u8]) {
        if key == ProcessKey::Main
            && let Some(log) = &mut self.log
        {
            let now = time::now();
            self.lines[output as usize].push(bytes, &now, |entry| log.write(output, entry));
        }
        if key == ProcessKey::Check {
            self.checks.take_output(bytes);
        }
        let is_terminal = self
            .process(key)
            .is_some_and(|process| process.streams.get_terminal().is_some());
        let stream = match output {
            Output::Stdout => stdcopy::STDOUT,
            Output::Stderr => stdcopy::STDERR,
        };
        let header = stdcopy::header(stream, bytes.len() as u32);
        self.connections.retain(|_, connection| {
            if connection.wants(key, output) {
                if !is_terminal {
                    connection.send(&header);
                }
                connection.send(bytes);
            }
            connection.unsent() <= OUTBOX_BYTES_MAX
        });
    }

    /// Ends the log's unfinished lines.
    pub(super) fn finish_log(&mut self) {
        let Some(log) = &mut self.log else {
            return;
        };
        let now = time::now();
        for output in [Output::Stdout, Output::Stderr] {
            self.lines[output as usize].finish(&now, |entry| log.write(output, entry));
        }
        log.flush();
    }

    /// Takes note of every child that has ended. Strangers the kernel has given us,
    /// as we are sub-reaper, are only reaped.
    pub(super) fn reap(&mut self) {
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(status) => status,
            };
            let (pid, exit) = match status {
                WaitStatus::Exited(pid, code) => (pid, Exit { code, signal: None }),
                WaitStatus::Signaled(pid, signal, _) => {
                    let signal = signal as i32;
                    (
                        pid,
                        Exit {
                            code: 128 + signal,
                            signal: Some(signal),
                        },
                    )
                }
                _ => continue,
            };
            let ended = self
                .processes()
                .find(|(_, process)| process.pid == pid.as_raw() && process.exit.is_none())
                .map(|(key, _)| key);
            if let Some(key) = ended {
                self.process_ended(key, exit);
            }
        }
    }

    fn process_ended(&mut self, key: ProcessKey, exit: Exit) {
        // Its last words may still be unread, among them that it failed to start.
        let mut heard = 0;
        while self
            .process(key)
            .is_some_and(|process| process.channel.is_some())
            && heard < 4
        {
            self.hear_child(key);
            heard += 1;
        }
        let Some(process) = self.process_mut(key) else {
            return;
        };
        process.exit = Some(exit);
        match key {
            ProcessKey::Main => self.main_ended(),
            ProcessKey::Exec(key) => {
                if let Some(exec) = self.execs.get_mut(&key) {
                    exec.ended = Some(Instant::now());
                }
            }
            ProcessKey::Check => self.check_ended(exit.code),
        }
    }

    /// Finishes execs that have ended and whose output is read.
    pub(super) fn tick_execs(&mut self, now: Instant) {
        let ended: Vec<(u64, Instant)> = self
            .execs
            .iter()
            .filter(|(_, exec)| !exec.done)
            .filter_map(|(&key, exec)| exec.ended.map(|ended| (key, ended)))
            .collect();
        for (key, ended) in ended {
            self.drain(ProcessKey::Exec(key));
            let over = self
                .execs
                .get(&key)
                .is_some_and(|exec| exec.process.streams.ended());
            if over || now >= ended + EXEC_DRAIN {
                self.finish_exec(key);
            }
        }
    }

    /// Reads what the outputs of a process hold now.
    pub(super) fn drain(&mut self, key: ProcessKey) {
        for output in [Output::Stdout, Output::Stderr] {
            // A pipe holds at most 1 MiB; more comes from somebody who goes on
            // writing, and is read in its turn.
            for _ in 0..32 {
                if !self.read_output(key, output) {
                    break;
                }
            }
        }
    }

    fn finish_exec(&mut self, key: u64) {
        let Some(exec) = self.execs.get_mut(&key) else {
            return;
        };
        exec.done = true;
        exec.process.streams = Streams::default();
        let id = exec.spec.id.clone();
        let code = exec.process.exit.map_or(0, |exit| exit.code);
        for connection in self.connections.values_mut() {
            let attached = matches!(&connection.role,
                Role::Attached { process, .. } if *process == ProcessKey::Exec(key));
            connection.finishing |= attached;
        }
        self.answer_exec_waiters(&id, code);
        self.publish(&Event::ExecExited { id, code });
        let done: Vec<u64> = self
            .execs
            .iter()
            .filter(|(_, exec)| exec.done)
            .map(|(&key, _)| key)
            .collect();
        let surplus = done.len().saturating_sub(ENDED_EXECS_MAX);
        for key in &done[..surplus] {
            self.execs.remove(key);
        }
    }

    fn answer_exec_waiters(&mut self, id: &str, code: i32) {
        let Ok(frame) = encode_frame(&Response::ExecExited { code }) else {
            return;
        };
        for connection in self.connections.values_mut() {
            if matches!(&connection.role, Role::WaitsForExec(waiting) if waiting == id) {
                connection.send(&frame);
                connection.role = Role::Control;
            }
        }
    }
}
