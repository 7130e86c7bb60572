//! Log lines of a service or task, for the API.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use skep_api::cluster::{LogLine, LogOptions, LogSource, LogStream};
use skep_manager::Manager;
use skep_manager::rpc::logs::{Piece, Wanted};
use skep_model::{ControlError, Kind, NodeId, ServiceId, TaskId, TaskState};
use skep_proto::log::LogRecord;
use skep_proto::{decode, encode};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Lines that may wait for a reader.
const LINES: usize = 256;

/// Follows the lines of a service's tasks or of one task.
pub async fn open(
    manager: &Arc<Manager>,
    source: LogSource,
    options: LogOptions,
) -> Result<LogStream, ControlError> {
    let snapshot = manager.snapshot(false).await?;
    let mut nodes: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
    let mut services: BTreeMap<TaskId, ServiceId> = BTreeMap::new();
    let mut add = |task: &skep_model::Task| {
        // Tasks that never got as far as a container have no lines.
        if !task.node_id.is_empty() && task.status.state >= TaskState::Ready {
            nodes
                .entry(task.node_id.clone())
                .or_default()
                .push(task.id.to_string());
            services.insert(task.id.clone(), task.service_id.clone());
        }
    };
    match &source {
        LogSource::Service(id) => snapshot.tasks_of_service(id).for_each(|task| add(task)),
        LogSource::Task(id) => match snapshot.task(id) {
            Some(task) => add(task),
            None => return Err(ControlError::not_found(format!("task {id} not found"))),
        },
    }
    let options = skep_proto::log::LogOptions {
        follow: options.follow,
        stdout: options.stdout,
        stderr: options.stderr,
        since: options.since,
        until: options.until,
        tail: options.tail,
    };
    let mut pieces = manager.logs(Wanted {
        nodes,
        options: encode(&options),
    });
    let (out, lines) = mpsc::channel(LINES);
    tokio::spawn(async move {
        while let Some(piece) = pieces.recv().await {
            for line in unpack(&piece, &services) {
                if out.send(line).await.is_err() {
                    return;
                }
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(lines)))
}

fn unpack(
    piece: &Piece,
    services: &BTreeMap<TaskId, ServiceId>,
) -> Vec<Result<LogLine, ControlError>> {
    let mut lines: Vec<Result<LogLine, ControlError>> = Vec::with_capacity(piece.lines.len() + 1);
    for bytes in &piece.lines {
        lines.push(match decode::<LogRecord>("log line", bytes) {
            Ok(record) => Ok(LogLine {
                node: piece.node.clone(),
                service: services.get(&record.task).cloned().unwrap_or_default(),
                task: record.task,
                is_stderr: record.is_stderr,
                at: record.at,
                data: Bytes::from(record.data),
                details: record.details,
            }),
            Err(error) => Err(ControlError::new(Kind::Internal, error.to_string())),
        });
    }
    if !piece.error.is_empty() {
        lines.push(Err(ControlError::new(
            Kind::Unavailable,
            piece.error.clone(),
        )));
    }
    lines
}
