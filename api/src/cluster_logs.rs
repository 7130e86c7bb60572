//! `/services/{id}/logs` and `/tasks/{id}/logs`: lines from whichever nodes have them.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use skep_engine::StdStream;
use skep_model::{ControlError, TaskSpec};

use crate::cluster::{LogLine, LogOptions, LogSource, LogStream};
use crate::container_io::tail;
use crate::frames;
use crate::reply::{self, BodyError};
use crate::services;
use crate::state::Call;
use crate::status::{ApiError, Outcome};
use crate::tasks;

/// Stream number of a frame that ends the client's reading with an error.
const SYSTEM_ERROR: u8 = 3;
/// Reasons for missing lines that are kept to be told at the end.
const REASONS_MAX: usize = 16;

/// `GET /services/{id}/logs`
pub(crate) async fn service(call: Call, given: String) -> Outcome {
    let snapshot = call.snapshot().await?;
    let service = services::find(&snapshot, &given)?;
    let tty = has_tty(&service.spec.task_template);
    logs(call, LogSource::Service(service.id.clone()), tty).await
}

/// `GET /tasks/{id}/logs`
pub(crate) async fn task(call: Call, given: String) -> Outcome {
    let snapshot = call.snapshot().await?;
    let task = tasks::find(&snapshot, &given)?;
    let tty = has_tty(&task.spec);
    logs(call, LogSource::Task(task.id.clone()), tty).await
}

fn has_tty(spec: &TaskSpec) -> bool {
    spec.container().is_some_and(|container| container.tty)
}

async fn logs(call: Call, source: LogSource, tty: bool) -> Outcome {
    let query = &call.query;
    let options = LogOptions {
        follow: query.flag("follow"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        since: query.time("since")?,
        until: query.time("until")?,
        tail: tail(query.text("tail"))?,
    };
    if !(options.stdout || options.stderr) {
        return Err(ApiError::invalid(
            "Bad parameters: you must choose at least one stream",
        ));
    }
    let look = Look {
        tty,
        timestamps: query.flag("timestamps"),
        details: query.flag("details"),
    };
    let lines = call.cluster().logs(source, options).await?;
    let chunks = encoded(lines, look).map(Ok::<_, BodyError>);
    Ok(reply::stream(
        frames::content_type(call.version, tty),
        chunks,
    ))
}

/// How lines are to look.
#[derive(Clone, Copy)]
struct Look {
    tty: bool,
    timestamps: bool,
    details: bool,
}

/// Lines as they come. What is missing is told at the end: clients stop reading there.
fn encoded(
    lines: LogStream,
    look: Look,
) -> impl futures_util::Stream<Item = Bytes> + Send + 'static {
    let start = Some((lines, Vec::<String>::new()));
    futures_util::stream::unfold(start, move |state| async move {
        let (mut lines, mut reasons) = state?;
        loop {
            match lines.next().await {
                Some(Ok(line)) => return Some((encode(line, look), Some((lines, reasons)))),
                Some(Err(ControlError { message, .. })) => {
                    if reasons.len() < REASONS_MAX && !reasons.contains(&message) {
                        reasons.push(message);
                    }
                }
                None if reasons.is_empty() => return None,
                None => return Some((incomplete(&reasons, look.tty), None)),
            }
        }
    })
}

fn encode(line: LogLine, look: Look) -> Bytes {
    let stream = match line.is_stderr {
        true => StdStream::Stderr,
        false => StdStream::Stdout,
    };
    let attributes = look.details.then(|| {
        let mut all: BTreeMap<String, String> = line.details.into_iter().collect();
        // Ours come last: a container must not pass for another.
        for (key, value) in [
            ("node", line.node.as_str()),
            ("service", line.service.as_str()),
            ("task", line.task.as_str()),
        ] {
            all.insert(format!("com.docker.swarm.{key}.id"), value.to_owned());
        }
        all
    });
    let text = frames::log_line(
        line.data,
        look.timestamps.then_some(line.at),
        attributes.as_ref(),
    );
    frames::encode(look.tty, stream, text)
}

fn incomplete(reasons: &[String], tty: bool) -> Bytes {
    let text = format!(
        "Error grabbing logs: rpc error: code = Unknown desc = warning: incomplete log stream. some logs could not be retrieved for the following reasons: {}\n",
        reasons.join(", ")
    );
    if tty {
        return Bytes::from(text);
    }
    let mut out = BytesMut::with_capacity(8 + text.len());
    out.put_slice(&[SYSTEM_ERROR, 0, 0, 0]);
    out.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    out.put_slice(text.as_bytes());
    out.freeze()
}
