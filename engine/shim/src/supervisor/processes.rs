//! The processes of a container: their words on the way to their programs, their
//! output, their ends.

use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::connection::OUTBOX_BYTES_MAX;
use super::{ProcessKey, Supervisor};
use crate::container::{Channel, Launched, Word};
use crate::log::Output;
use crate::stdcopy;
use crate::streams::{Read, Streams};
use crate::time;

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
        if key == ProcessKey::Main && self.log.is_kept() {
            let log = &mut self.log;
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
        let log = &mut self.log;
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
}
