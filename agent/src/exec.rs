//! Processes in containers of this node's tasks for whoever asked through a manager.

use std::sync::Arc;
use std::time::Duration;

use skep_engine::types::ExecConfig;
use skep_engine::{Attachment, EngineError, ExecStart as EngineStart, OutputFrame, StdStream};
use skep_model::TaskId;
use skep_proto::decode;
use skep_proto::v1::dispatcher_client::DispatcherClient;
use skep_proto::v1::exec_frame::Content;
use skep_proto::v1::{Empty, ExecEnded, ExecFrame, ExecOpen, ExecStart};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use tracing::debug;

use crate::worker::Worker;

/// Processes at once that a manager asked for; more are answered with an error.
const EXECS_MAX: usize = 64;
/// Frames to the manager that may wait.
const FRAMES: usize = 16;
/// How long the manager may take to hear the last of them.
const LAST_WORD_MAX: Duration = Duration::from_secs(5);

/// Starts what one manager asks for. What was started goes on when the session moves to another.
pub struct Execs {
    worker: Arc<Worker>,
    manager: Channel,
    seats: Arc<Semaphore>,
}

impl Execs {
    pub fn new(worker: Arc<Worker>, manager: Channel) -> Self {
        Self {
            worker,
            manager,
            seats: Arc::new(Semaphore::new(EXECS_MAX)),
        }
    }

    /// Starts a process and brings its streams.
    pub fn start(&self, wanted: ExecStart) {
        let (worker, manager) = (Arc::clone(&self.worker), self.manager.clone());
        let seat = Arc::clone(&self.seats).try_acquire_owned().ok();
        tokio::spawn(async move {
            if let Err(status) = attend(&worker, manager, wanted, seat).await {
                debug!(%status, "the streams of a process were not brought");
            }
        });
    }
}

fn frame(content: Content) -> ExecFrame {
    ExecFrame {
        content: Some(content),
    }
}

async fn attend(
    worker: &Worker,
    manager: Channel,
    wanted: ExecStart,
    seat: Option<OwnedSemaphorePermit>,
) -> Result<(), tonic::Status> {
    let (out, outgoing) = mpsc::channel(FRAMES);
    let _ = out.send(frame(Content::Attend(wanted.exec))).await;
    let mut client = DispatcherClient::new(manager);
    let reply = client.exec(ReceiverStream::new(outgoing)).await?;
    let open = wanted.open.unwrap_or_default();
    let mut incoming = reply.into_inner();
    let ended = match seat {
        Some(_) => run(worker, open, &out, &mut incoming).await,
        None => Err(EngineError::unavailable(format!(
            "{EXECS_MAX} commands run on this node already"
        ))),
    };
    let ended = match ended {
        Ok(exit_code) => ExecEnded {
            exit_code,
            error: String::new(),
        },
        Err(error) => ExecEnded {
            exit_code: error.exit_code().map(i64::from),
            error: error.to_string(),
        },
    };
    let _ = out.send(frame(Content::Ended(ended))).await;
    drop(out);
    // To let go of its answers is to take back the call, and what is on its way with it.
    let heard = async { while let Ok(Some(_)) = incoming.message().await {} };
    let _ = tokio::time::timeout(LAST_WORD_MAX, heard).await;
    Ok(())
}

/// Its exit code; `None` when it goes on without anybody listening.
async fn run(
    worker: &Worker,
    open: ExecOpen,
    out: &mpsc::Sender<ExecFrame>,
    incoming: &mut Streaming<ExecFrame>,
) -> skep_engine::Result<Option<i64>> {
    let config: ExecConfig = decode("exec configuration", &open.config)
        .map_err(|error| EngineError::invalid(error.to_string()))?;
    let assigned = worker.assigned();
    let task = assigned.tasks.get(&TaskId::new(&open.task_id));
    let task = task.ok_or_else(|| {
        EngineError::not_found(format!(
            "task {} is not on this node any more",
            open.task_id
        ))
    })?;
    let engine = &worker.engine;
    let start = EngineStart {
        detach: open.detach,
        tty: config.tty,
        console_size: open.size.map(|size| (size.height, size.width)),
    };
    let id = engine.exec_create(&task.container_name(), config).await?;
    let attachment = engine.exec_start(&id, start).await?;
    let _ = out.send(frame(Content::Started(Empty {}))).await;
    if let Some(Attachment { output, input, .. }) = attachment {
        let resized = |height, width| engine.exec_resize(&id, height, width);
        tokio::select! {
            () = say(output, out) => (),
            () = hear(incoming, input, resized) => return Ok(None),
        }
    }
    Ok(engine.exec_inspect(&id).await?.exit_code)
}

/// Sends what the process prints, until it has ended or nobody listens.
async fn say(mut output: skep_engine::OutputStream, out: &mpsc::Sender<ExecFrame>) {
    while let Some(Ok(OutputFrame { stream, data })) = output.next().await {
        let content = match stream {
            StdStream::Stdout => Content::Stdout(data.to_vec()),
            StdStream::Stderr => Content::Stderr(data.to_vec()),
        };
        if out.send(frame(content)).await.is_err() {
            return;
        }
    }
}

/// Takes input and sizes of the terminal, until the one who asked has gone.
async fn hear<F>(
    incoming: &mut Streaming<ExecFrame>,
    mut input: Option<std::pin::Pin<Box<dyn AsyncWrite + Send>>>,
    resize: impl Fn(u32, u32) -> F,
) where
    F: Future<Output = skep_engine::Result<()>>,
{
    while let Ok(Some(frame)) = incoming.message().await {
        match (frame.content, &mut input) {
            (Some(Content::Stdin(data)), Some(writer)) => {
                let written = async {
                    writer.write_all(&data).await?;
                    writer.flush().await
                };
                // Nobody reads it; the output may still be wanted.
                if written.await.is_err() {
                    input = None;
                }
            }
            (Some(Content::StdinEnd(_)), Some(writer)) => {
                let _ = writer.shutdown().await;
                input = None;
            }
            (Some(Content::Resize(size)), _) => {
                if let Err(error) = resize(size.height, size.width).await {
                    debug!(%error, "the size of a terminal was not changed");
                }
            }
            _ => (),
        }
    }
}
