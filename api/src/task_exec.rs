//! Exec in containers of tasks on any node. Not part of Docker's API, but what is made here is then
//! started, resized and inspected as any exec.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde_json::json;
use skep_engine::types::{ExecConfig, ExecInspect, ExecProcess};
use skep_engine::{EngineError, ExecStart};
use skep_model::{ControlError, Kind, Service, Task, TaskState};
use skep_store::Snapshot;
use tokio::sync::mpsc;

use crate::cluster::ExecRequest;
use crate::hijack;
use crate::reply;
use crate::state::Call;
use crate::status::{ApiError, Outcome};
use crate::tasks;

/// Execs remembered for `inspect`.
const REMEMBERED_MAX: usize = 1024;
/// Changes of a terminal's size that may wait for its start.
const RESIZES_MAX: usize = 8;

/// The execs in tasks that were made through this daemon, the oldest first.
#[derive(Default)]
pub struct TaskExecs {
    known: Mutex<VecDeque<Arc<TaskExec>>>,
}

/// One of them.
pub(crate) struct TaskExec {
    id: String,
    task: Arc<Task>,
    config: ExecConfig,
    resize: mpsc::Sender<(u32, u32)>,
    /// Taken by whoever starts it.
    resizes: Mutex<Option<mpsc::Receiver<(u32, u32)>>>,
    exit: Arc<OnceLock<i64>>,
    left: Arc<AtomicBool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TaskExecs {
    /// The exec of this id, if it is one of these.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<TaskExec>> {
        lock(&self.known).iter().find(|exec| exec.id == id).cloned()
    }

    fn add(&self, task: Arc<Task>, config: ExecConfig) -> String {
        let (resize, resizes) = mpsc::channel(RESIZES_MAX);
        let id = skep_engine::random_id();
        let exec = TaskExec {
            id: id.clone(),
            task,
            config,
            resize,
            resizes: Mutex::new(Some(resizes)),
            exit: Arc::default(),
            left: Arc::default(),
        };
        let mut known = lock(&self.known);
        if known.len() >= REMEMBERED_MAX {
            let at = known.iter().position(|exec| !exec.is_running());
            known.remove(at.unwrap_or(0));
        }
        known.push_back(Arc::new(exec));
        id
    }
}

impl TaskExec {
    /// As far as is known: the end of what nobody listens to is not heard of.
    fn is_running(&self) -> bool {
        let is_started = lock(&self.resizes).is_none();
        is_started && self.exit.get().is_none() && !self.left.load(Ordering::Relaxed)
    }

    fn inspect(&self) -> ExecInspect {
        let config = &self.config;
        let status = self.task.status.container_status.as_ref();
        ExecInspect {
            id: self.id.clone(),
            running: self.is_running(),
            exit_code: self.exit.get().copied(),
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
            can_remove: self.exit.get().is_some(),
            container_id: status
                .map(|status| status.container_id.clone())
                .unwrap_or_default(),
            detach_keys: config.detach_keys.clone(),
            // Of another host's processes.
            pid: 0,
        }
    }
}

/// `POST /skep/v1/tasks/{id}/exec`: the id may be a task's, and as well the name of a slot (`web.2`)
/// or a service, which stand for a task of theirs that runs.
pub(crate) async fn create(mut call: Call, given: String) -> Outcome {
    let config: ExecConfig = call.json().await?;
    if config.cmd.is_empty() {
        return Err(ApiError::invalid("No exec command specified"));
    }
    let task = running(&call.snapshot().await?, &given)?;
    let id = call.state.task_execs.add(task, config);
    reply::created(&json!({ "Id": id }))
}

/// The task that is meant; it runs.
fn running(snapshot: &Snapshot, given: &str) -> Outcome<Arc<Task>> {
    let runs = |task: &&Arc<Task>| task.status.state == TaskState::Running && task.is_live();
    if let Ok(service) = snapshot.find::<Service>(given) {
        let first = snapshot
            .tasks_of_service(&service.id)
            .filter(runs)
            .min_by_key(|task| (task.slot, task.node_id.clone()));
        let none = || ApiError::conflict(format!("no task of service {given} is running"));
        return first.cloned().ok_or_else(none);
    }
    let slot = snapshot.tasks().filter(runs);
    if let Some(task) = slot.into_iter().find(|task| task.name() == given) {
        return Ok(Arc::clone(task));
    }
    let task = tasks::find(snapshot, given)?;
    match runs(&&task) {
        true => Ok(task),
        false => Err(ApiError::conflict(format!(
            "task {} is not running: it is {}",
            task.container_name(),
            task.status.state
        ))),
    }
}

/// `POST /exec/{id}/start` for one of these.
pub(crate) async fn start(call: Call, exec: Arc<TaskExec>, options: ExecStart) -> Outcome {
    let seat = match options.detach {
        true => None,
        false => Some(hijack::reserve(&call, exec.config.attach_stdin)?),
    };
    let resizes = lock(&exec.resizes)
        .take()
        .ok_or_else(|| ApiError::conflict(format!("exec {} has already been started", exec.id)))?;
    let request = ExecRequest {
        task: Arc::clone(&exec.task),
        config: exec.config.clone(),
        detach: options.detach,
        console_size: options.console_size.or(exec.config.console_size),
        resizes,
        exit: Arc::clone(&exec.exit),
        left: Arc::clone(&exec.left),
    };
    let cluster = Arc::clone(call.cluster());
    let begin = async move {
        let begun = cluster.exec(request).await;
        if begun.is_err() {
            // As docker has it for what could not be started; the node's own word counts more.
            let _ = exec.exit.set(126);
        }
        begun.map_err(as_engine_says)
    };
    match seat {
        Some(seat) => hijack::started(call, seat, options.tty, begin).await,
        None => {
            begin.await?;
            reply::ok()
        }
    }
}

fn as_engine_says(error: ControlError) -> EngineError {
    let kind = match error.kind {
        Kind::NotFound => skep_engine::Kind::NotFound,
        Kind::Invalid => skep_engine::Kind::Invalid,
        Kind::Unavailable => skep_engine::Kind::Unavailable,
        _ => skep_engine::Kind::Internal,
    };
    EngineError::new(kind, error.message)
}

/// `POST /exec/{id}/resize` for one of these.
pub(crate) fn resize(exec: &TaskExec, height: u32, width: u32) -> Outcome {
    match exec.resize.try_send((height, width)) {
        Ok(()) => reply::ok(),
        Err(_) => Err(ApiError::conflict(format!(
            "exec {} takes no size of a terminal now",
            exec.id
        ))),
    }
}

/// `GET /exec/{id}/json` for one of these.
pub(crate) fn inspect(exec: &TaskExec) -> Outcome {
    reply::json(&exec.inspect())
}
