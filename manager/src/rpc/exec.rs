//! Processes in containers of tasks on any node: the manager that was asked finds the one that holds
//! the node's session, and that one passes frames on between it and the agent.

use std::sync::Arc;
use std::time::Duration;

use skep_model::NodeId;
use skep_proto::MESSAGE_BYTES_MAX;
use skep_proto::v1::exec_client::ExecClient;
use skep_proto::v1::exec_frame::Content;
use skep_proto::v1::exec_server::Exec;
use skep_proto::v1::{Empty, ExecEnded, ExecFrame, ExecOpen};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::caller::require_manager;
use crate::manager::Core;

/// Frames that may wait in one direction.
const FRAMES: usize = 16;
/// How long another manager may take to say whether it holds a node's session.
const HELD_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the caller may take to choose among those who hold it.
const GO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the agent may take to bring the streams, and then to start the program.
const ATTEND_TIMEOUT: Duration = Duration::from_secs(5);
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Frames on their way out.
pub type Frames = ReceiverStream<Result<ExecFrame, Status>>;

/// One end of a process's streams.
pub struct Ends {
    pub incoming: Streaming<ExecFrame>,
    pub out: mpsc::Sender<Result<ExecFrame, Status>>,
}

/// A process that was started, as the manager that was asked has it.
pub struct Running {
    pub incoming: Streaming<ExecFrame>,
    pub out: mpsc::Sender<ExecFrame>,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    pub message: String,
    /// What its exit code is to be, when the node has tried.
    pub exit_code: Option<i64>,
}

pub struct ExecService(pub Arc<Core>);

/// A frame with this content.
pub fn frame(content: Content) -> ExecFrame {
    ExecFrame {
        content: Some(content),
    }
}

fn failed(error: impl Into<String>) -> ExecFrame {
    frame(Content::Ended(ExecEnded {
        exit_code: None,
        error: error.into(),
    }))
}

#[tonic::async_trait]
impl Exec for ExecService {
    type RunStream = Frames;

    async fn run(
        &self,
        request: Request<Streaming<ExecFrame>>,
    ) -> Result<Response<Self::RunStream>, Status> {
        require_manager(&request, &self.0)?;
        let mut incoming = request.into_inner();
        let Some(Content::Open(open)) = first(&mut incoming).await? else {
            return Err(Status::invalid_argument("it begins with what is wanted"));
        };
        let (out, frames) = mpsc::channel(FRAMES);
        let core = Arc::clone(&self.0);
        tokio::spawn(async move {
            let ends = Ends { incoming, out };
            serve(&core, open, ends).await;
        });
        Ok(Response::new(ReceiverStream::new(frames)))
    }
}

async fn first(incoming: &mut Streaming<ExecFrame>) -> Result<Option<Content>, Status> {
    let message = tokio::time::timeout(GO_TIMEOUT, incoming.message()).await;
    let message = message.map_err(|_| Status::deadline_exceeded("nothing came"))??;
    Ok(message.and_then(|frame| frame.content))
}

/// Says whether this manager holds the node's session, and if so and told to, carries the streams.
async fn serve(core: &Core, open: ExecOpen, mut asker: Ends) {
    let node = NodeId::new(&open.node_id);
    let held = core.sessions.holds(&node);
    let answer = frame(Content::Held(held));
    if asker.out.send(Ok(answer)).await.is_err() || !held {
        return;
    }
    if !matches!(first(&mut asker.incoming).await, Ok(Some(Content::Go(_)))) {
        return;
    }
    let agent = match core.sessions.start_exec(&node, open) {
        Some(mut call) => tokio::time::timeout(ATTEND_TIMEOUT, call.answered()).await,
        None => Ok(None),
    };
    let Ok(Some(agent)) = agent else {
        let error = format!("node {node} does not take commands: it is busy, cut off or too old");
        let _ = asker.out.send(Ok(failed(error))).await;
        return;
    };
    let Ends { mut incoming, out } = agent;
    let to_agent = async { carry(&mut asker.incoming, &out).await };
    let to_asker = async {
        carry(&mut incoming, &asker.out).await;
    };
    // The asker may have nothing more to say and still listen; when it has gone, so does the rest.
    tokio::select! {
        () = to_asker => (),
        () = async { to_agent.await; asker.out.closed().await } => (),
    }
}

async fn carry(from: &mut Streaming<ExecFrame>, to: &mpsc::Sender<Result<ExecFrame, Status>>) {
    while let Ok(Some(frame)) = from.message().await {
        if to.send(Ok(frame)).await.is_err() {
            return;
        }
    }
}

/// An agent brings the streams of a process that it was told to start.
pub async fn attend(
    core: &Core,
    node: &NodeId,
    mut incoming: Streaming<ExecFrame>,
) -> Result<Response<Frames>, Status> {
    let Some(Content::Attend(exec)) = first(&mut incoming).await? else {
        return Err(Status::invalid_argument("it begins with its number"));
    };
    let waiting = core.sessions.take_exec(node, exec);
    let waiting = waiting.ok_or_else(|| Status::not_found("nobody waits for it any more"))?;
    let (out, frames) = mpsc::channel(FRAMES);
    let gone = |_| Status::not_found("nobody waits for it any more");
    waiting.send(Ends { incoming, out }).map_err(gone)?;
    Ok(Response::new(ReceiverStream::new(frames)))
}

/// Starts a process on whichever node the task is; resolves once it was executed.
pub async fn start_anywhere(core: &Arc<Core>, open: ExecOpen) -> Result<Running, Failed> {
    let refused = |message: String| Failed {
        message,
        exit_code: None,
    };
    let mut asked = JoinSet::new();
    for part in core.consensus.members() {
        let (core, open) = (Arc::clone(core), open.clone());
        asked.spawn(async move {
            let ask = ask(&core, &part.member.address, open);
            tokio::time::timeout(HELD_TIMEOUT, ask).await.ok().flatten()
        });
    }
    let mut refusal = refused(format!("node {} is not available", open.node_id));
    while let Some(answer) = asked.join_next().await {
        let Some(holder) = answer.ok().flatten() else {
            continue;
        };
        match go(holder, &open.node_id).await {
            Ok(running) => return Ok(running),
            // A manager may still hold a session that the node has given up for another.
            Err((failed, Tried::Not)) => refusal = failed,
            Err((failed, Tried::Perhaps)) => return Err(failed),
        }
    }
    Err(refusal)
}

/// Whether something may have been started.
enum Tried {
    Not,
    Perhaps,
}

/// Has the one that holds the node's session start it.
async fn go(mut running: Running, node: &str) -> Result<Running, (Failed, Tried)> {
    let refused = |message: String| Failed {
        message,
        exit_code: None,
    };
    let unavailable = || refused(format!("node {node} is not available"));
    let go = frame(Content::Go(Empty {}));
    if running.out.send(go).await.is_err() {
        return Err((unavailable(), Tried::Not));
    }
    match tokio::time::timeout(START_TIMEOUT, running.incoming.message()).await {
        Ok(Ok(Some(answer))) => match answer.content {
            Some(Content::Started(_)) => Ok(running),
            Some(Content::Ended(ended)) => {
                let tried = match ended.exit_code {
                    Some(_) => Tried::Perhaps,
                    None => Tried::Not,
                };
                let failed = Failed {
                    message: ended.error,
                    exit_code: ended.exit_code,
                };
                Err((failed, tried))
            }
            _ => {
                let message = "the node said something unknown".to_owned();
                Err((refused(message), Tried::Perhaps))
            }
        },
        Ok(Ok(None)) => Err((unavailable(), Tried::Perhaps)),
        Ok(Err(status)) => Err((refused(status.message().to_owned()), Tried::Perhaps)),
        Err(_) => {
            let within = START_TIMEOUT.as_secs();
            let message = format!("node {node} did not start it within {within} s");
            Err((refused(message), Tried::Perhaps))
        }
    }
}

/// A stream to a manager that holds the node's session.
async fn ask(core: &Core, address: &str, open: ExecOpen) -> Option<Running> {
    let (out, outgoing) = mpsc::channel(FRAMES);
    out.send(frame(Content::Open(open))).await.ok()?;
    let mut client = ExecClient::new(core.connector.channel(address))
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let reply = client.run(ReceiverStream::new(outgoing)).await.ok()?;
    let mut incoming = reply.into_inner();
    let answer = incoming.message().await.ok().flatten()?;
    matches!(answer.content, Some(Content::Held(true))).then_some(Running { incoming, out })
}
