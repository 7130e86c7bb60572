//! Log lines of tasks on any node: the manager that was asked asks all managers, each asks the
//! agents whose sessions it holds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use skep_model::NodeId;
use skep_proto::MESSAGE_BYTES_MAX;
use skep_proto::v1::logs_client::LogsClient;
use skep_proto::v1::logs_server::Logs;
use skep_proto::v1::{LogChunk, LogRequest, NodeTasks};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::caller::require_manager;
use crate::manager::Core;

/// Pieces that may wait for a reader.
const PIECES: usize = 64;
/// How long another manager may take to say whether it holds a node's session.
const HELD_TIMEOUT: Duration = Duration::from_secs(3);

/// Whose lines are wanted.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Tasks by node.
    pub nodes: BTreeMap<NodeId, Vec<String>>,
    /// JSON of `LogOptions`.
    pub options: Vec<u8>,
}

/// Lines of one node, or why there are none.
#[derive(Debug, Clone)]
pub struct Piece {
    pub node: NodeId,
    /// JSON of `LogRecord` each.
    pub lines: Vec<Vec<u8>>,
    pub error: String,
}

pub struct LogsService(pub Arc<Core>);

#[tonic::async_trait]
impl Logs for LogsService {
    type FollowStream = ReceiverStream<Result<LogChunk, Status>>;

    async fn follow(
        &self,
        request: Request<LogRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        require_manager(&request, &self.0)?;
        let request = request.into_inner();
        let (out, chunks) = mpsc::channel(PIECES);
        let core = Arc::clone(&self.0);
        tokio::spawn(async move {
            let mut running = JoinSet::new();
            for node in request.nodes {
                let (core, out, options) =
                    (Arc::clone(&core), out.clone(), request.options.clone());
                running.spawn(async move {
                    tokio::select! {
                        () = follow_here(&core, node, options, &out) => (),
                        () = out.closed() => (),
                    }
                });
            }
            while running.join_next().await.is_some() {}
        });
        Ok(Response::new(ReceiverStream::new(chunks)))
    }
}

/// Follows one node's tasks if its session ends here. Says first whether it does.
async fn follow_here(
    core: &Core,
    node: NodeTasks,
    options: Vec<u8>,
    out: &mpsc::Sender<Result<LogChunk, Status>>,
) {
    let id = NodeId::new(&node.node_id);
    let chunk = LogChunk {
        node_id: node.node_id,
        ..Default::default()
    };
    let subscription = core.sessions.subscribe_logs(&id, node.tasks, options);
    let held = LogChunk {
        held: subscription.is_some(),
        end: subscription.is_none(),
        ..chunk.clone()
    };
    if out.send(Ok(held)).await.is_err() {
        return;
    }
    let Some(mut subscription) = subscription else {
        return;
    };
    loop {
        let (lines, error, end) = match subscription.next().await {
            Some(lines) => (lines.lines, lines.error, lines.end),
            None => (Vec::new(), "the node's session ended".to_owned(), true),
        };
        let next = LogChunk {
            lines,
            error,
            end,
            held: true,
            ..chunk.clone()
        };
        if out.send(Ok(next)).await.is_err() || end {
            return;
        }
    }
}

/// Follows tasks on whichever nodes they run. A node that cannot be asked is named in a piece
/// with an error; the others are not held up. The stream ends when all nodes are done.
pub fn follow_everywhere(core: Arc<Core>, wanted: Wanted) -> mpsc::Receiver<Piece> {
    let (out, pieces) = mpsc::channel(PIECES);
    tokio::spawn(async move {
        let request = LogRequest {
            nodes: wanted
                .nodes
                .iter()
                .map(|(node, tasks)| NodeTasks {
                    node_id: node.to_string(),
                    tasks: tasks.clone(),
                })
                .collect(),
            options: wanted.options,
        };
        let members = core.consensus.members();
        // Each manager tells of each node once whether it holds it: count the noes.
        let (verdicts, mut told) = mpsc::channel::<(String, bool)>(PIECES);
        let mut running = JoinSet::new();
        for part in &members {
            let (core, request) = (Arc::clone(&core), request.clone());
            let (out, verdicts) = (out.clone(), verdicts.clone());
            let address = part.member.address.clone();
            running.spawn(async move {
                tokio::select! {
                    () = follow_at(&core, &address, request, &out, &verdicts) => (),
                    () = out.closed() => (),
                }
            });
        }
        drop(verdicts);
        let mut missing: BTreeMap<String, usize> = wanted
            .nodes
            .keys()
            .map(|node| (node.to_string(), members.len()))
            .collect();
        while let Some((node, held)) = told.recv().await {
            if held {
                missing.remove(&node);
            } else if let Some(left) = missing.get_mut(&node) {
                *left -= 1;
                if *left == 0 {
                    let error = format!("node {node} is not available");
                    let piece = Piece {
                        node: NodeId::new(&node),
                        lines: Vec::new(),
                        error,
                    };
                    let _ = out.send(piece).await;
                }
            }
        }
        while running.join_next().await.is_some() {}
    });
    pieces
}

async fn follow_at(
    core: &Core,
    address: &str,
    request: LogRequest,
    out: &mpsc::Sender<Piece>,
    verdicts: &mpsc::Sender<(String, bool)>,
) {
    let mut unheard: Vec<String> = request
        .nodes
        .iter()
        .map(|node| node.node_id.clone())
        .collect();
    let mut client = LogsClient::new(core.connector.channel(address))
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    if let Ok(Ok(reply)) = tokio::time::timeout(HELD_TIMEOUT, client.follow(request)).await {
        let mut chunks = reply.into_inner();
        while let Ok(Some(chunk)) = chunks.message().await {
            if let Some(at) = unheard.iter().position(|node| *node == chunk.node_id) {
                unheard.swap_remove(at);
                let _ = verdicts.send((chunk.node_id.clone(), chunk.held)).await;
            }
            if !chunk.lines.is_empty() || !chunk.error.is_empty() {
                let piece = Piece {
                    node: NodeId::new(&chunk.node_id),
                    lines: chunk.lines,
                    error: chunk.error,
                };
                if out.send(piece).await.is_err() {
                    return;
                }
            }
        }
    }
    for node in unheard {
        let _ = verdicts.send((node, false)).await;
    }
}
