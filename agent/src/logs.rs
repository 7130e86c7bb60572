//! Log lines of this node's tasks for whoever asked through a manager.

use std::collections::HashMap;
use std::sync::Arc;

use skep_engine::{LogFrame, LogOptions as EngineLogOptions, StdStream};
use skep_model::TaskId;
use skep_proto::log::{LogOptions, LogRecord};
use skep_proto::v1::{AgentMessage, LogLines, LogSubscribe, agent_message};
use skep_proto::{decode, encode};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_stream::StreamExt;

use crate::session::message;
use crate::worker::Worker;

/// Subscriptions of one session at once; more are answered with an error.
const SUBSCRIPTIONS_MAX: usize = 64;
/// Lines sent in one message.
const LINES_PER_MESSAGE_MAX: usize = 256;

/// The open subscriptions of a session. Dropping it ends them.
pub struct Subscriptions {
    worker: Arc<Worker>,
    out: mpsc::Sender<AgentMessage>,
    open: HashMap<u64, AbortHandle>,
    running: JoinSet<()>,
}

impl Subscriptions {
    pub fn new(worker: Arc<Worker>, out: mpsc::Sender<AgentMessage>) -> Self {
        Self {
            worker,
            out,
            open: HashMap::new(),
            running: JoinSet::new(),
        }
    }

    /// Starts sending the lines of the named tasks.
    pub fn open(&mut self, wanted: LogSubscribe) {
        self.open.retain(|_, handle| !handle.is_finished());
        while self.running.try_join_next().is_some() {}
        let (worker, out) = (Arc::clone(&self.worker), self.out.clone());
        let id = wanted.subscription;
        if self.open.len() >= SUBSCRIPTIONS_MAX {
            let error = "too many log subscriptions are open on this node".to_owned();
            let _ = out.try_send(lines(LogLines {
                subscription: id,
                lines: vec![],
                end: true,
                error,
            }));
            return;
        }
        let handle = self.running.spawn(async move {
            let error = follow(&worker, &out, &wanted)
                .await
                .err()
                .unwrap_or_default();
            let _ = out
                .send(lines(LogLines {
                    subscription: id,
                    lines: vec![],
                    end: true,
                    error,
                }))
                .await;
        });
        self.open.insert(id, handle);
    }

    /// Ends a subscription that nobody reads any more.
    pub fn close(&mut self, id: u64) {
        if let Some(handle) = self.open.remove(&id) {
            handle.abort();
        }
    }
}

fn lines(content: LogLines) -> AgentMessage {
    message(agent_message::Content::Logs(content))
}

/// Sends the lines of all named tasks. Those that cannot be read are named at the end.
async fn follow(
    worker: &Arc<Worker>,
    out: &mpsc::Sender<AgentMessage>,
    wanted: &LogSubscribe,
) -> Result<(), String> {
    let options: LogOptions =
        decode("log options", &wanted.options).map_err(|error| error.to_string())?;
    let mut tasks = JoinSet::new();
    for id in &wanted.tasks {
        let (worker, out, options) = (Arc::clone(worker), out.clone(), options.clone());
        let (id, subscription) = (TaskId::new(id), wanted.subscription);
        tasks.spawn(async move { follow_task(&worker, &out, &id, subscription, options).await });
    }
    let mut errors = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        if let Ok(Err(error)) = ended {
            errors.push(error);
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors.join("; "))
    }
}

async fn follow_task(
    worker: &Arc<Worker>,
    out: &mpsc::Sender<AgentMessage>,
    id: &TaskId,
    subscription: u64,
    options: LogOptions,
) -> Result<(), String> {
    let assigned = worker.assigned();
    let Some(task) = assigned.tasks.get(id) else {
        return Ok(());
    };
    let wanted = EngineLogOptions {
        stdout: options.stdout,
        stderr: options.stderr,
        follow: options.follow,
        since: options.since,
        until: options.until,
        tail: options
            .tail
            .map(|lines| usize::try_from(lines).unwrap_or(usize::MAX)),
    };
    let named = |error: skep_engine::EngineError| format!("task {}: {error}", task.name());
    let (_, mut stream) = worker
        .engine
        .container_logs(&task.container_name(), wanted)
        .await
        .map_err(named)?;
    let mut batch = Vec::new();
    while let Some(frame) = stream.next().await {
        batch.push(record(id, frame.map_err(named)?));
        // Whatever is there already goes into the same message.
        while batch.len() < LINES_PER_MESSAGE_MAX {
            match ready_now(&mut stream) {
                Some(frame) => batch.push(record(id, frame.map_err(named)?)),
                None => break,
            }
        }
        let content = LogLines {
            subscription,
            lines: std::mem::take(&mut batch),
            end: false,
            error: String::new(),
        };
        if out.send(lines(content)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// The next frame if one is ready now.
fn ready_now(stream: &mut skep_engine::LogStream) -> Option<skep_engine::Result<LogFrame>> {
    let mut next = std::pin::pin!(StreamExt::next(stream));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match next.as_mut().poll(&mut context) {
        std::task::Poll::Ready(frame) => frame,
        std::task::Poll::Pending => None,
    }
}

fn record(task: &TaskId, frame: LogFrame) -> Vec<u8> {
    encode(&LogRecord {
        task: task.clone(),
        is_stderr: frame.stream == StdStream::Stderr,
        at: frame.at,
        data: frame.line.to_vec(),
        details: frame.attributes.into_iter().collect(),
    })
}
