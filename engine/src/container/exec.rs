//! `docker exec`.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use skep_shim::protocol::{AttachOptions as ShimAttach, ExecSpec};
use tokio::io::duplex;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::attach::{DetachKeys, pump};
use super::record::Status;
use super::{Container, merge, shim_link, spec};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::locks::{Held, Ordered, Rank};
use crate::names;
use crate::options::ExecStart;
use crate::streams::{Attachment, OutputStream};
use crate::types::{ExecConfig, ExecInspect, ExecProcess};

/// Ended execs remembered for `inspect`.
const REMEMBERED_MAX: usize = 4096;
const PIECES_MAX: usize = 16;
const INPUT_BYTES: usize = 64 << 10;
/// How long a change of the terminal's size waits for an exec to start.
const START_WAIT: std::time::Duration = std::time::Duration::from_secs(10);

/// An exec that is about to be started by whoever holds this.
#[derive(Debug)]
pub struct ReservedExec {
    engine: Arc<Engine>,
    exec: Exec,
    container: Arc<Container>,
    id: String,
    is_launched: bool,
}

impl ReservedExec {
    /// Starts it; see [`Engine::exec_start`].
    pub async fn start(mut self, options: ExecStart) -> Result<Option<Attachment>> {
        self.is_launched = true;
        let container = Arc::clone(&self.container);
        self.engine
            .launch(&self.id, &self.exec, container, options)
            .await
    }
}

impl Drop for ReservedExec {
    /// Whoever wanted it is gone before anything was started.
    fn drop(&mut self) {
        if !self.is_launched {
            self.engine
                .execs
                .step(&self.id, &[Phase::Starting], Phase::Ended(126), None);
        }
    }
}

/// All execs of this engine's life, by id.
#[derive(Debug)]
pub(crate) struct ExecTable {
    inner: Ordered<BTreeMap<String, Exec>>,
    /// Told of every change of a phase.
    moved: Notify,
}

#[derive(Debug, Clone)]
struct Exec {
    container: String,
    config: ExecConfig,
    /// Order of creation.
    number: u64,
    phase: Phase,
    pid: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Created,
    Starting,
    Running,
    Ended(i64),
}

impl Default for ExecTable {
    fn default() -> Self {
        Self {
            inner: Ordered::new(Rank::Execs, BTreeMap::new()),
            moved: Notify::new(),
        }
    }
}

impl ExecTable {
    fn lock(&self) -> Held<'_, BTreeMap<String, Exec>> {
        self.inner.lock()
    }

    fn get(&self, id: &str) -> Result<Exec> {
        self.lock()
            .get(id)
            .cloned()
            .ok_or_else(|| EngineError::no_such_exec(id))
    }

    fn insert(&self, id: String, container: &str, config: ExecConfig) {
        let mut execs = self.lock();
        let number = execs.values().map(|exec| exec.number).max().unwrap_or(0) + 1;
        if execs.len() >= REMEMBERED_MAX {
            let oldest = execs
                .iter()
                .filter(|(_, exec)| !matches!(exec.phase, Phase::Starting | Phase::Running))
                .min_by_key(|(_, exec)| exec.number)
                .map(|(id, _)| id.clone());
            if let Some(oldest) = oldest {
                execs.remove(&oldest);
            }
        }
        execs.insert(
            id,
            Exec {
                container: container.to_owned(),
                config,
                number,
                phase: Phase::Created,
                pid: 0,
            },
        );
    }

    /// Moves on from one phase; false if it is not in it.
    fn step(&self, id: &str, from: &[Phase], to: Phase, pid: Option<i64>) -> bool {
        let mut execs = self.lock();
        let Some(exec) = execs.get_mut(id) else {
            return false;
        };
        if !from.contains(&exec.phase) {
            return false;
        }
        exec.phase = to;
        if let Some(pid) = pid {
            exec.pid = pid;
        }
        self.moved.notify_waiters();
        true
    }

    /// An exec that is not, or no longer, being started.
    async fn settled(&self, id: &str) -> Result<Exec> {
        let wait = async {
            loop {
                let mut moved = pin!(self.moved.notified());
                moved.as_mut().enable();
                let exec = self.get(id)?;
                if exec.phase != Phase::Starting {
                    return Ok(exec);
                }
                moved.await;
            }
        };
        tokio::time::timeout(START_WAIT, wait)
            .await
            .map_err(|_| EngineError::internal("timeout waiting for exec session ready"))?
    }

    /// The execs that run in a container.
    pub(super) fn running_in(&self, container: &str) -> Vec<String> {
        self.lock()
            .iter()
            .filter(|(_, exec)| {
                exec.container == container
                    && matches!(exec.phase, Phase::Running | Phase::Starting)
            })
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Notes that a container's execs ended with it.
    pub(super) fn forget(&self, container: &str) {
        let mut execs = self.lock();
        execs.retain(|_, exec| exec.container != container || exec.phase != Phase::Created);
        for exec in execs
            .values_mut()
            .filter(|exec| exec.container == container)
        {
            if !matches!(exec.phase, Phase::Ended(_)) {
                exec.phase = Phase::Ended(137);
            }
        }
    }
}

impl Engine {
    /// Makes an exec in a running container; its id.
    pub async fn exec_create(&self, container: &str, config: ExecConfig) -> Result<String> {
        let name = container;
        let container = self.containers.find(name)?;
        if config.cmd.is_empty() {
            return Err(EngineError::invalid("No exec command specified"));
        }
        may_exec(&container, name)?;
        DetachKeys::parse(&config.detach_keys)?;
        let id = names::new_id(&mut rand::rng());
        let command = config.cmd.join(" ");
        self.execs.insert(id.clone(), &container.id, config);
        self.container_event(
            &container,
            &format!("exec_create: {command}"),
            &[("execID", id.clone())],
        );
        Ok(id)
    }

    /// Makes an exec one that is being started: nobody else can start it, and it counts as running.
    /// What comes of it is for [`ReservedExec::start`] to say.
    pub fn exec_reserve(&self, id: &str) -> Result<ReservedExec> {
        let exec = self.execs.get(id)?;
        let container = self.containers.find(&exec.container)?;
        may_exec(&container, &container.id)?;
        if !self
            .execs
            .step(id, &[Phase::Created], Phase::Starting, None)
        {
            return Err(EngineError::conflict(format!(
                "exec {id} has already been started"
            )));
        }
        Ok(ReservedExec {
            engine: self.shared(),
            exec,
            container,
            id: id.to_owned(),
            is_launched: false,
        })
    }

    /// Starts an exec; `None` when detached. When this returns, its program was
    /// executed.
    pub async fn exec_start(&self, id: &str, options: ExecStart) -> Result<Option<Attachment>> {
        self.exec_reserve(id)?.start(options).await
    }

    async fn launch(
        &self,
        id: &str,
        exec: &Exec,
        container: Arc<Container>,
        options: ExecStart,
    ) -> Result<Option<Attachment>> {
        let config = &exec.config;
        let command = config.cmd.join(" ");
        let record = container.record();
        let mut env = merge::environment(&record.config, &self.linked_environment(&record));
        // The shim adds them, but for those that this exec says itself.
        merge::hide(&mut env, record.hidden_variables.iter().map(String::as_str));
        let spec = exec_spec(id, env, config, &options);
        let attached = spec.streams != ShimAttach::default();
        self.container_event(
            &container,
            &format!("exec_start: {command}"),
            &[("execID", id.to_owned())],
        );
        let started = shim_link::call(container.shim(), move |shim| shim.exec(&spec)).await;
        let started = match started {
            Ok(started) => started,
            Err(error) => {
                let code = i64::from(error.exit_code().unwrap_or(126));
                self.execs
                    .step(id, &[Phase::Starting], Phase::Ended(code), None);
                return Err(error.context(
                    "OCI runtime exec failed: exec failed: unable to start container process",
                ));
            }
        };
        let pid = Some(i64::from(started.pid));
        self.execs.step(id, &[Phase::Starting], Phase::Running, pid);
        if !attached {
            return Ok(None);
        }
        let stream = shim_link::to_async(started.stream)?;
        let (sender, receiver) = mpsc::channel(PIECES_MAX);
        let (input, theirs) = match config.attach_stdin {
            true => {
                let (ours, theirs) = duplex(INPUT_BYTES);
                (Some(ours), Some(theirs))
            }
            false => (None, None),
        };
        let tty = config.tty;
        let keys = tty
            .then(|| DetachKeys::parse(&config.detach_keys))
            .transpose()?;
        let engine = Arc::downgrade(&self.shared());
        let (id, target) = (id.to_owned(), Arc::clone(&container));
        self.spawn(async move {
            let detached = CancellationToken::new();
            let token = detached.clone();
            // Kept until the exit code is known: the client reads the end of the
            // output and asks for the code at once.
            let last = sender.clone();
            tokio::select! {
                () = pump(stream, tty, sender, theirs, keys, token) => {
                    let exec = id.clone();
                    let ended = shim_link::call(target.shim(), move |shim| {
                        shim.exec_wait(&exec, Some(EXIT_CODE_WAIT))
                    })
                    .await;
                    if let (Ok(code), Some(engine)) = (ended, engine.upgrade()) {
                        engine.exec_ended(&target, &id, i64::from(code));
                    }
                }
                () = detached.cancelled() => {
                    if let Some(engine) = engine.upgrade() {
                        engine.container_event(&target, "exec_detach", &[("execID", id)]);
                    }
                }
            }
            drop(last);
        });
        Ok(Some(Attachment {
            tty,
            output: OutputStream::new(receiver),
            input: input.map(|input| Box::pin(input) as _),
        }))
    }

    /// Notes the end of an exec, once.
    pub(super) fn exec_ended(&self, container: &Container, id: &str, code: i64) {
        let from = [Phase::Starting, Phase::Running];
        if self.execs.step(id, &from, Phase::Ended(code), None) {
            self.container_event(
                container,
                "exec_die",
                &[("execID", id.to_owned()), ("exitCode", code.to_string())],
            );
        }
    }

    /// Changes the size of an exec's terminal.
    pub async fn exec_resize(&self, id: &str, height: u32, width: u32) -> Result<()> {
        // Clients set the size as soon as they hear that the exec starts.
        let exec = self.execs.settled(id).await?;
        let container = self.containers.find(&exec.container)?;
        let Some(size) = spec::console_size(height, width) else {
            return Err(EngineError::invalid(format!(
                "invalid terminal size {width}x{height}"
            )));
        };
        let id = id.to_owned();
        shim_link::call(container.shim(), move |shim| shim.resize(Some(&id), size)).await
    }

    /// One exec.
    pub async fn exec_inspect(&self, id: &str) -> Result<ExecInspect> {
        let exec = self.execs.get(id)?;
        let config = &exec.config;
        Ok(ExecInspect {
            id: id.to_owned(),
            running: matches!(exec.phase, Phase::Running | Phase::Starting),
            exit_code: match exec.phase {
                Phase::Ended(code) => Some(code),
                _ => None,
            },
            process_config: ExecProcess {
                tty: config.tty,
                entrypoint: config.cmd.first().cloned().unwrap_or_default(),
                arguments: config.cmd.iter().skip(1).cloned().collect(),
                privileged: config.privileged,
                user: config.user.clone(),
            },
            open_stdin: config.attach_stdin,
            open_stderr: config.attach_stderr,
            open_stdout: config.attach_stdout,
            can_remove: matches!(exec.phase, Phase::Ended(_)),
            container_id: exec.container.clone(),
            detach_keys: config.detach_keys.clone(),
            pid: exec.pid,
        })
    }
}

/// How long the exit code of an exec whose output ended may take: a process may
/// close its output and go on.
const EXIT_CODE_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

/// Refuses what is not running; `name` is what the caller called it.
fn may_exec(container: &Container, name: &str) -> Result<()> {
    container.must_live()?;
    match container.status() {
        Status::Paused => Err(EngineError::conflict(format!(
            "Container {name} is paused, unpause the container before exec"
        ))),
        _ => Ok(()),
    }
}

fn exec_spec(id: &str, mut env: Vec<String>, config: &ExecConfig, options: &ExecStart) -> ExecSpec {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    if config.tty && !env.iter().any(|variable| variable.starts_with("TERM=")) {
        env.push("TERM=xterm".into());
    }
    merge::overlay(&mut env, &config.env);
    let (height, width) = options
        .console_size
        .or(config.console_size)
        .unwrap_or_default();
    ExecSpec {
        id: id.to_owned(),
        args: config.cmd.clone(),
        env,
        user: given(&config.user),
        cwd: given(&config.working_dir),
        terminal: config.tty,
        console_size: spec::console_size(height, width),
        privileged: config.privileged,
        streams: match options.detach {
            true => ShimAttach::default(),
            false => ShimAttach {
                stdin: config.attach_stdin,
                stdout: config.attach_stdout,
                stderr: config.attach_stderr,
            },
        },
    }
}
