//! More processes in a running container: how they start, deliver and end.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use super::connection::Role;
use super::processes::Process;
use super::requests::refuse;
use super::{ProcessKey, Supervisor};
use crate::capabilities;
use crate::config::Seccomp;
use crate::container::{self, ExecPlan, Program, Stdio};
use crate::failure::{Context as _, failure};
use crate::protocol::{
    AttachOptions, Event, ExecSpec, ExecStatus, Refusal, RefusalKind, Response, StartFailure,
    encode_frame,
};
use crate::streams::{Streams, Wanted};

/// Execs that run at a time.
const EXECS_MAX: usize = 512;
/// How long after the end of an exec its output may come from others who share it.
const EXEC_DRAIN: Duration = Duration::from_millis(500);
/// Ended execs whose exit codes are kept.
const ENDED_EXECS_MAX: usize = 64;

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
    pub(super) fn start_exec(&mut self, requester: u64, spec: ExecSpec) -> Result<(), Refusal> {
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
            variables: &self.variables,
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
            user: self.mapping()?,
            stdio,
            program,
            open_files: self.open_files,
            oom_score_adj: self.oom_score_adj,
        })
    }

    /// An exec became its program.
    pub(super) fn exec_executed(&mut self, key: u64) {
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

    /// An exec could not become its program.
    pub(super) fn exec_failed(&mut self, key: u64, failed: &StartFailure) {
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
