//! Processes in tasks' containers on any node, for the API.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use skep_api::cluster::ExecRequest;
use skep_engine::{Attachment, OutputFrame, OutputStream, StdStream};
use skep_manager::Manager;
use skep_manager::rpc::exec::{Running, frame};
use skep_model::{ControlError, Kind};
use skep_proto::encode;
use skep_proto::v1::exec_frame::Content;
use skep_proto::v1::{Empty, ExecFrame, ExecOpen, TerminalSize};
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tracing::debug;

/// Pieces of output that may wait for the client.
const PIECES: usize = 16;
/// Bytes of input that may wait, and that one frame carries at most.
const INPUT_BYTES: usize = 64 << 10;
/// The exit code of a process of which nothing is heard any more, as ssh has it.
const LOST: i64 = 255;

/// Starts a process; resolves once its program was executed.
pub async fn start(
    manager: &Arc<Manager>,
    request: ExecRequest,
) -> Result<Option<Attachment>, ControlError> {
    let (task, config) = (&request.task, &request.config);
    let open = ExecOpen {
        node_id: task.node_id.to_string(),
        task_id: task.id.to_string(),
        config: encode(config),
        detach: request.detach,
        size: request
            .console_size
            .map(|(height, width)| TerminalSize { height, width }),
    };
    let running = manager.exec(open).await.map_err(|failed| {
        if let Some(code) = failed.exit_code {
            let _ = request.exit.set(code);
        }
        ControlError::new(Kind::Unavailable, failed.message)
    })?;
    if request.detach {
        request.left.store(true, Ordering::Relaxed);
        return Ok(None);
    }
    let (sender, receiver) = mpsc::channel(PIECES);
    let (input, theirs) = match config.attach_stdin {
        true => {
            let (ours, theirs) = duplex(INPUT_BYTES);
            (Some(ours), Some(theirs))
        }
        false => (None, None),
    };
    let tty = config.tty;
    let Running { mut incoming, out } = running;
    let (node, exit, resizes) = (task.node_id.to_string(), request.exit, request.resizes);
    let left = request.left;
    tokio::spawn(async move {
        let hear = async {
            while let Ok(Some(frame)) = incoming.message().await {
                match frame.content {
                    Some(Content::Ended(ended)) => {
                        settle(&exit, ended.exit_code);
                        return;
                    }
                    content => {
                        if let Some(piece) = piece(content)
                            && sender.send(Ok(piece)).await.is_err()
                        {
                            return;
                        }
                    }
                }
            }
            settle(&exit, Some(LOST));
            let text = format!("node {node} is not heard of any more; the command may go on\r\n");
            let data = Bytes::from(text);
            let stream = StdStream::Stderr;
            let _ = sender.send(Ok(OutputFrame { stream, data })).await;
        };
        let resize = pass_sizes(resizes, &out);
        tokio::select! {
            () = hear => (),
            // The client has gone: so do our ends, and the node's with them.
            () = sender.closed() => (),
            _ = async { tokio::join!(pass_input(theirs, &out), resize) } => (),
        }
        left.store(true, Ordering::Relaxed);
    });
    Ok(Some(Attachment {
        tty,
        output: OutputStream::new(receiver),
        input: input.map(|input| Box::pin(input) as _),
    }))
}

/// Notes the exit code, if it has one: what was detached from goes on.
fn settle(exit: &OnceLock<i64>, code: Option<i64>) {
    if let Some(code) = code
        && exit.set(code).is_err()
    {
        debug!(code, "the exit code of a process was told twice");
    }
}

fn piece(content: Option<Content>) -> Option<OutputFrame> {
    let (stream, data) = match content? {
        Content::Stdout(data) => (StdStream::Stdout, data),
        Content::Stderr(data) => (StdStream::Stderr, data),
        _ => return None,
    };
    let data = Bytes::from(data);
    Some(OutputFrame { stream, data })
}

/// Passes input on until it ends. Never resolves: the output decides when it is over.
async fn pass_input(input: Option<DuplexStream>, out: &mpsc::Sender<ExecFrame>) {
    if let Some(mut input) = input {
        let mut buffer = vec![0; INPUT_BYTES];
        while let Ok(count @ 1..) = input.read(&mut buffer).await {
            let content = Content::Stdin(buffer[..count].to_vec());
            if out.send(frame(content)).await.is_err() {
                break;
            }
        }
        let _ = out.send(frame(Content::StdinEnd(Empty {}))).await;
    }
    std::future::pending().await
}

async fn pass_sizes(mut resizes: mpsc::Receiver<(u32, u32)>, out: &mpsc::Sender<ExecFrame>) {
    while let Some((height, width)) = resizes.recv().await {
        let content = Content::Resize(TerminalSize { height, width });
        let _ = out.send(frame(content)).await;
    }
}
