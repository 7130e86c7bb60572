//! What clients ask, and what comes of it.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::time::Instant;

use super::connection::{Connection, Role};
use super::poll::Ready;
use super::processes::{Exec, Process};
use super::{BUFFER_BYTES, ProcessKey, Supervisor};
use crate::capabilities;
use crate::config::{ConsoleSize, Seccomp};
use crate::container::{self, ExecPlan, Program, Stdio};
use crate::failure::{Context as _, failure};
use crate::protocol::{
    AttachOptions, Event, ExecSpec, FRAME_BYTES_MAX, ProcessInfo, Refusal, RefusalKind, Request,
    Response, StartFailure, encode_frame, take_frame,
};
use crate::streams::{Streams, Wanted};
use crate::sys;

/// Execs that run at a time.
const EXECS_MAX: usize = 512;
/// Clients accepted before others get their turn.
const ACCEPT_BATCH: usize = 16;

impl Supervisor {
    pub(super) fn accept(&mut self) {
        for _ in 0..ACCEPT_BATCH {
            let Some(Ok((socket, _))) = self.listener.as_ref().map(UnixListener::accept) else {
                return;
            };
            let Ok(connection) = Connection::new(socket) else {
                continue;
            };
            if connection.is_ours() {
                self.next_connection += 1;
                self.connections.insert(self.next_connection, connection);
            }
        }
    }

    /// A client sent something, takes something, or is gone.
    pub(super) fn serve(&mut self, key: u64, ready: Ready) {
        if ready.readable {
            self.receive(key);
        } else if ready.closed {
            let leftover = self
                .connections
                .get(&key)
                .is_some_and(|connection| !connection.input_ended && !self.may_read(connection));
            match self.connections.get_mut(&key) {
                Some(connection) if leftover => connection.hung_up = true,
                Some(_) => self.disconnect(key),
                None => {}
            }
        }
        // Writing is tried for all at the end of each turn.
    }

    fn receive(&mut self, key: u64) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        let feeds = connection.feeds();
        let is_stream = matches!(connection.role, Role::Attached { .. });
        let room = feeds
            .and_then(|process| self.process(process))
            .map_or(BUFFER_BYTES, |process| process.streams.input_room());
        let mut buffer = std::mem::take(&mut self.buffer);
        let limit = room.min(buffer.len());
        let received = self
            .connections
            .get_mut(&key)
            .map(|connection| connection.receive(&mut buffer[..limit]));
        match received {
            Some(Ok(Some(0))) => self.input_ended(key),
            Some(Ok(Some(count))) if is_stream => {
                if let Some(process) = feeds.and_then(|process| self.process_mut(process)) {
                    process.streams.push_input(&buffer[..count]);
                }
            }
            Some(Ok(Some(count))) => {
                let too_much = self.connections.get_mut(&key).is_some_and(|connection| {
                    connection.inbox.extend_from_slice(&buffer[..count]);
                    connection.inbox.len() > FRAME_BYTES_MAX + BUFFER_BYTES
                });
                if too_much {
                    self.disconnect(key);
                }
                self.take_requests(key);
            }
            Some(Ok(None)) | None => {}
            Some(Err(_)) => self.disconnect(key),
        }
        self.buffer = buffer;
    }

    /// The client will send no more.
    fn input_ended(&mut self, key: u64) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        connection.input_ended = true;
        let fed = connection.feeds();
        // Whoever listens to output may stop talking; all others are gone.
        let listens = matches!(&connection.role,
            Role::Attached { options, .. } if options.stdout || options.stderr);
        if connection.hung_up || !listens {
            connection.finishing = true;
        }
        if let Some(process) = fed {
            self.end_input_of(process);
        }
    }

    /// Whoever fed this process stopped. The main process's input ends with its
    /// first client only if that was asked for.
    fn end_input_of(&mut self, key: ProcessKey) {
        if key == ProcessKey::Main && !self.config.process.stdin_once {
            return;
        }
        if let Some(process) = self.process_mut(key) {
            process.streams.end_input();
        }
    }

    pub(super) fn disconnect(&mut self, key: u64) {
        if let Some(connection) = self.connections.remove(&key)
            && let Some(process) = connection.feeds()
            && !connection.input_ended
        {
            self.end_input_of(process);
        }
    }

    /// Sends what clients take, and lets go of those who are gone, done or stuck.
    pub(super) fn flush_connections(&mut self, now: Instant) {
        let stall_max = self.stall_max();
        let gone: Vec<u64> = self
            .connections
            .iter_mut()
            .filter_map(|(&key, connection)| {
                let broken = connection.flush(now).is_err();
                let done = connection.finishing && connection.unsent() == 0;
                let stuck = connection
                    .stalled_since
                    .is_some_and(|since| now.duration_since(since) > stall_max);
                (broken || done || stuck).then_some(key)
            })
            .collect();
        for key in gone {
            self.disconnect(key);
        }
    }

    pub(super) fn take_requests(&mut self, key: u64) {
        loop {
            let Some(connection) = self.connections.get_mut(&key) else {
                return;
            };
            if connection.role != Role::Control {
                // What follows an attach at once is input already.
                let early = std::mem::take(&mut connection.inbox);
                if let Some(process) = connection.feeds()
                    && let Some(process) = self.process_mut(process)
                {
                    process.streams.push_input(&early);
                } else if let Some(connection) = self.connections.get_mut(&key) {
                    connection.inbox = early;
                }
                return;
            }
            match take_frame::<Request>(&mut connection.inbox) {
                Ok(Some(request)) => self.answer(key, request),
                Ok(None) => return,
                Err(error) => {
                    let refusal = refuse(RefusalKind::Invalid, error.to_string());
                    self.respond(key, &Response::Refused(refusal));
                    if let Some(connection) = self.connections.get_mut(&key) {
                        connection.finishing = true;
                        connection.input_ended = true;
                    }
                    return;
                }
            }
        }
    }

    pub(super) fn respond(&mut self, key: u64, response: &Response) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        match encode_frame(response) {
            Ok(frame) => connection.send(&frame),
            Err(error) => {
                eprintln!("answering: {error}");
                connection.finishing = true;
            }
        }
    }

    fn answer(&mut self, key: u64, request: Request) {
        let response = match request {
            Request::Status => Ok(Response::Status(Box::new(self.status()))),
            Request::Signal { signal, all } => self.signal(signal, all),
            Request::Resize { exec, size } => self.resize(exec.as_deref(), size),
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

    fn set_role(&mut self, key: u64, role: Role) {
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
    fn running(&self) -> Result<&Process, Refusal> {
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

    fn find_exec(&self, id: &str) -> Result<&Exec, Refusal> {
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

    fn signal(&mut self, signal: i32, all: bool) -> Result<Response, Refusal> {
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

    fn start_exec(&mut self, requester: u64, spec: ExecSpec) -> Result<(), Refusal> {
        self.running()?;
        if self.paused {
            return Err(refuse(
                RefusalKind::Conflict,
                format!(
                    "Container {} is paused, unpause the container before exec",
                    self.config.id
                ),
            ));
        }
        if self.find_exec(&spec.id).is_ok() {
            return Err(refuse(
                RefusalKind::Conflict,
                format!("exec {} exists already", spec.id),
            ));
        }
        let live = self.execs.values().filter(|exec| !exec.done).count();
        if live >= EXECS_MAX {
            return Err(refuse(
                RefusalKind::Exhausted,
                format!("more than {EXECS_MAX} execs at a time"),
            ));
        }
        let process = self.launch_exec(&spec).map_err(|failed| Refusal {
            kind: RefusalKind::Internal,
            message: failed.message,
            exit_code: Some(failed.exit_code),
        })?;
        self.next_exec += 1;
        self.set_role(requester, Role::StartsExec);
        self.execs.insert(
            self.next_exec,
            Exec {
                spec,
                process,
                requester: Some(requester),
                ended: None,
                done: false,
            },
        );
        Ok(())
    }

    fn launch_exec(&self, spec: &ExecSpec) -> Result<Process, StartFailure> {
        let AttachOptions {
            stdin,
            stdout,
            stderr,
        } = spec.streams;
        let (streams, stdio) = if spec.terminal {
            Streams::terminal(spec.console_size)
        } else {
            Streams::pipes(Wanted {
                stdin,
                stdout,
                stderr,
            })
            .context(|| "making pipes")?
        };
        let main = &self.config.process;
        let mut program = self.program_like_main(
            &spec.args,
            if spec.env.is_empty() {
                &main.env
            } else {
                &spec.env
            },
            spec.user.as_deref().unwrap_or(&main.user),
            spec.cwd.as_deref().unwrap_or(&main.cwd),
        );
        let all: Vec<String>;
        if spec.privileged {
            all = capabilities::ALL.iter().map(|&name| name.into()).collect();
            program.capabilities = &all;
            program.seccomp = &Seccomp::Unconfined;
        }
        let launched =
            container::launch_exec(self.exec_plan(program, stdio)?, self.group.as_ref())?;
        Ok(Process::new(launched, streams))
    }

    /// A program with the rights of the main process.
    pub(super) fn program_like_main<'a>(
        &'a self,
        args: &'a [String],
        env: &'a [String],
        user: &'a str,
        cwd: &'a str,
    ) -> Program<'a> {
        let main = &self.config.process;
        Program {
            args,
            env,
            cwd,
            user,
            additional_groups: &main.additional_groups,
            capabilities: &main.capabilities,
            seccomp: if self.config.privileged {
                &Seccomp::Unconfined
            } else {
                &self.config.seccomp
            },
            no_new_privileges: main.no_new_privileges,
            rlimits: &main.rlimits,
            init: None,
        }
    }

    pub(super) fn exec_plan<'a>(
        &'a self,
        program: Program<'a>,
        stdio: Stdio,
    ) -> Result<ExecPlan<'a>, StartFailure> {
        let main = self
            .main
            .as_ref()
            .ok_or_else(|| failure("the container is not running"))?;
        Ok(ExecPlan {
            container: main.process.pidfd.as_fd(),
            stdio,
            program,
            open_files: self.open_files,
            oom_score_adj: self.oom_score_adj,
        })
    }
}

fn refuse(kind: RefusalKind, message: impl Into<String>) -> Refusal {
    Refusal {
        kind,
        message: message.into(),
        exit_code: None,
    }
}
