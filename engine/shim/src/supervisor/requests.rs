//! What clients ask, and what comes of it.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use super::connection::Role;
use super::execs::Exec;
use super::processes::Process;
use super::{ProcessKey, Supervisor};
use crate::config::ConsoleSize;
use crate::protocol::{Event, ProcessInfo, Refusal, RefusalKind, Request, Response, encode_frame};
use crate::sys;

impl Supervisor {
    pub(super) fn answer(&mut self, key: u64, request: Request) {
        let response = match request {
            Request::Status => Ok(Response::Status(Box::new(self.status()))),
            Request::Signal { signal, all } => self.signal(signal, all),
            Request::Resize { exec, size } => self.resize(exec.as_deref(), size),
            Request::Lease { until_ms, grace_ms } => self.lease(
                Duration::from_millis(until_ms),
                Duration::from_millis(grace_ms),
            ),
            Request::Pause => self.pause(),
            Request::Resume => self.resume(),
            Request::Processes => self.list_processes(),
            Request::Update(limits) => self
                .running()
                .and_then(|_| {
                    self.group
                        .update(&limits)
                        .map_err(|error| refuse(RefusalKind::Internal, sys::errno_text(&error)))
                })
                .map(|()| Response::Ok),
            Request::ExecSignal { id, signal } => self.signal_exec(&id, signal),
            Request::ExecWait { id } => match self.find_exec(&id) {
                Ok(exec) => match (exec.done, exec.process.exit) {
                    (true, Some(exit)) => Ok(Response::ExecExited { code: exit.code }),
                    _ => return self.set_role(key, Role::WaitsForExec(id)),
                },
                Err(refusal) => Err(refusal),
            },
            Request::Wait => return self.set_role(key, Role::WaitsForEnd),
            Request::Attach(options) => {
                let role = Role::Attached {
                    process: ProcessKey::Main,
                    options,
                };
                self.set_role(key, role);
                Ok(Response::Ok)
            }
            Request::Subscribe => {
                self.set_role(key, Role::Subscribed);
                self.respond(key, &Response::Ok);
                if let Some(health) = self.checks.status().cloned() {
                    self.send_event(key, &Event::Health(health));
                }
                return;
            }
            Request::Exec(spec) => match self.start_exec(key, *spec) {
                // The answer follows when it has become its program.
                Ok(()) => return,
                Err(refusal) => Err(refusal),
            },
        };
        self.respond(key, &response.unwrap_or_else(Response::Refused));
    }

    pub(super) fn set_role(&mut self, key: u64, role: Role) {
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.role = role;
        }
    }

    fn send_event(&mut self, key: u64, event: &Event) {
        if let (Some(connection), Ok(frame)) = (self.connections.get_mut(&key), encode_frame(event))
        {
            connection.send(&frame);
        }
    }

    /// The main process, if it runs its program.
    pub(super) fn running(&self) -> Result<&Process, Refusal> {
        match &self.main {
            Some(main)
                if self.ending.is_none()
                    && main.process.channel.is_none()
                    && main.process.exit.is_none() =>
            {
                Ok(&main.process)
            }
            _ => Err(refuse(
                RefusalKind::Conflict,
                format!("container {} is not running", self.config.id),
            )),
        }
    }

    pub(super) fn find_exec(&self, id: &str) -> Result<&Exec, Refusal> {
        self.execs
            .values()
            .rev()
            .find(|exec| exec.spec.id == id)
            .ok_or_else(|| {
                refuse(
                    RefusalKind::NotFound,
                    format!("No such exec instance: {id}"),
                )
            })
    }

    pub(super) fn signal(&mut self, signal: i32, all: bool) -> Result<Response, Refusal> {
        let main = self.running()?;
        let internal =
            |error: std::io::Error| refuse(RefusalKind::Internal, sys::errno_text(&error));
        if !(1..=64).contains(&signal) {
            return Err(refuse(
                RefusalKind::Invalid,
                format!("invalid signal: {signal}"),
            ));
        }
        if all {
            for pid in self.group.processes().map_err(internal)? {
                // SAFETY: no pointers; the pid was in the container a moment ago.
                unsafe { libc::kill(pid, signal) };
            }
        } else {
            sys::pidfd_send_signal(main.pidfd.as_fd(), signal).map_err(internal)?;
        }
        if signal == libc::SIGKILL && self.paused {
            // The frozen cannot die.
            self.group.freeze(false).map_err(internal)?;
            self.paused = false;
        }
        Ok(Response::Ok)
    }

    fn signal_exec(&self, id: &str, signal: i32) -> Result<Response, Refusal> {
        let exec = self.find_exec(id)?;
        sys::pidfd_send_signal(exec.process.pidfd.as_fd(), signal)
            .map(|()| Response::Ok)
            .map_err(|error| refuse(RefusalKind::Conflict, sys::errno_text(&error)))
    }

    fn resize(&self, exec: Option<&str>, size: ConsoleSize) -> Result<Response, Refusal> {
        let process = match exec {
            Some(id) => &self.find_exec(id)?.process,
            None => self.running()?,
        };
        let terminal = process.streams.get_terminal().ok_or_else(|| {
            refuse(
                RefusalKind::Conflict,
                "cannot resize a process without a terminal",
            )
        })?;
        sys::set_window_size(terminal, size.height, size.width)
            .map(|()| Response::Ok)
            .map_err(|error| refuse(RefusalKind::Internal, sys::errno_text(&error)))
    }

    fn pause(&mut self) -> Result<Response, Refusal> {
        self.running()?;
        if self.paused {
            return Err(refuse(
                RefusalKind::Conflict,
                format!("Container {} is already paused", self.config.id),
            ));
        }
        // Before it is frozen, or the check could not die.
        self.checks.set_paused(true, Instant::now());
        self.group
            .freeze(true)
            .map_err(|error| refuse(RefusalKind::Internal, sys::errno_text(&error)))?;
        self.paused = true;
        self.write_status();
        Ok(Response::Ok)
    }

    fn resume(&mut self) -> Result<Response, Refusal> {
        self.running()?;
        if !self.paused {
            return Err(refuse(
                RefusalKind::Conflict,
                format!("Container {} is not paused", self.config.id),
            ));
        }
        self.group
            .freeze(false)
            .map_err(|error| refuse(RefusalKind::Internal, sys::errno_text(&error)))?;
        self.paused = false;
        self.checks.set_paused(false, Instant::now());
        self.write_status();
        Ok(Response::Ok)
    }

    fn list_processes(&self) -> Result<Response, Refusal> {
        self.running()?;
        let pids = self
            .group
            .processes()
            .map_err(|error| refuse(RefusalKind::Internal, sys::errno_text(&error)))?;
        let exec_of = |pid| {
            let mut execs = self.execs.values();
            let exec = execs.find(|exec| exec.process.pid == pid && exec.process.exit.is_none());
            exec.map(|exec| exec.spec.id.clone())
        };
        Ok(Response::Processes(
            pids.into_iter()
                .map(|pid| ProcessInfo {
                    pid,
                    exec: exec_of(pid),
                })
                .collect(),
        ))
    }
}

/// A refusal with this text.
pub(super) fn refuse(kind: RefusalKind, message: impl Into<String>) -> Refusal {
    Refusal {
        kind,
        message: message.into(),
        exit_code: None,
    }
}
