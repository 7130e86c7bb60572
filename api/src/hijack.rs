//! Attach and exec: the connection stops being HTTP and becomes the process's own streams.

use std::future::Future;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Response, StatusCode, header};
use hyper::ext::ReasonPhrase;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use skep_engine::{Attachment, EngineError, StdStream};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::OwnedSemaphorePermit;
use tracing::debug;

use crate::frames;
use crate::reply::{self, Body, Reply};
use crate::state::Call;
use crate::status::{ApiError, Outcome};

/// Bytes of input read at once.
const INPUT_BYTES: usize = 32 << 10;

/// The right to hold one hijacked connection; empty for a client that reads a plain answer.
pub(crate) struct Seat {
    /// Given back when the seat is dropped.
    _permit: Option<OwnedSemaphorePermit>,
}

/// Takes a seat before anything is attached, so that a refusal leaves nothing behind.
///
/// # Errors
/// Input over a connection that stays HTTP, or too many attached clients.
pub(crate) fn reserve(call: &Call, wants_input: bool) -> Outcome<Seat> {
    match &call.upgrade {
        Some(_) => call.tasks.hijack().map(|permit| Seat {
            _permit: Some(permit),
        }),
        None if wants_input => Err(ApiError::invalid(
            "attaching standard input needs a connection that can be upgraded: send the headers 'Connection: Upgrade' and 'Upgrade: tcp'",
        )),
        None => Ok(Seat { _permit: None }),
    }
}

/// Hands the connection over to `attachment`.
///
/// A client that did not ask for an upgrade gets the output as the body of a plain answer; see
/// [`reserve`] for what it cannot have.
pub(crate) fn attached(mut call: Call, seat: Seat, attachment: Attachment) -> Outcome {
    let tty = attachment.tty;
    let content_type = frames::content_type(call.version, tty);
    match call.upgrade.take() {
        Some(upgrade) => {
            call.tasks.spawn(async move {
                match upgrade.await {
                    Ok(stream) => pump(stream, attachment).await,
                    Err(error) => debug!(%error, "client went before the upgrade"),
                }
                drop(seat);
            });
            Ok(switched(content_type))
        }
        None => {
            let chunks = attachment
                .output
                .map(move |frame| frame.map(|frame| frames::encode(tty, frame.stream, frame.data)));
            Ok(reply::stream::<_, EngineError>(content_type, chunks))
        }
    }
}

/// Hands the connection over to what `start` gives. The client has the head of the answer before
/// anything is started: some clients read that head through a buffer, and would lose output that
/// came with it.
///
/// What cannot be started says so on the stream; its status is read from the exec afterwards. `raw`
/// output is not framed.
pub(crate) async fn started<F>(mut call: Call, seat: Seat, raw: bool, start: F) -> Outcome
where
    F: Future<Output = Result<Option<Attachment>, EngineError>> + Send + 'static,
{
    let content_type = frames::content_type(call.version, raw);
    let Some(upgrade) = call.upgrade.take() else {
        return match start.await {
            Ok(Some(attachment)) => attached(call, seat, framed(attachment, raw)),
            Ok(None) => reply::ok(),
            Err(error) => {
                let data = failure(raw, &error);
                let chunk = futures_util::stream::once(async { Ok::<_, EngineError>(data) });
                Ok(reply::stream(content_type, chunk))
            }
        };
    };
    call.tasks.spawn(async move {
        match upgrade.await {
            Ok(stream) => match start.await {
                Ok(Some(attachment)) => pump(stream, framed(attachment, raw)).await,
                Ok(None) => (),
                Err(error) => {
                    let mut stream = TokioIo::new(stream);
                    let _ = stream.write_all(&failure(raw, &error)).await;
                    let _ = stream.shutdown().await;
                }
            },
            Err(error) => debug!(%error, "client went before the upgrade"),
        }
        drop(seat);
    });
    Ok(switched(content_type))
}

/// The same streams, framed or not.
fn framed(attachment: Attachment, raw: bool) -> Attachment {
    Attachment {
        tty: raw,
        ..attachment
    }
}

/// An error as the process's output.
fn failure(raw: bool, error: &EngineError) -> Bytes {
    frames::encode(raw, StdStream::Stdout, Bytes::from(format!("{error}\r\n")))
}

fn switched(content_type: &'static str) -> Reply {
    let mut reply: Response<Body> = reply::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = reply.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, content_type),
        (header::CONNECTION, "Upgrade"),
        (header::UPGRADE, "tcp"),
    ] {
        headers.insert(name, http::HeaderValue::from_static(value));
    }
    reply
        .extensions_mut()
        .insert(ReasonPhrase::from_static(b"UPGRADED"));
    reply
}

/// Carries output until the process closes it, and input until the client does. The client's
/// half-close closes the process's input and nothing else.
async fn pump(stream: Upgraded, attachment: Attachment) {
    let Attachment {
        tty,
        mut output,
        input,
    } = attachment;
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(stream));

    let send = async {
        while let Some(Ok(frame)) = output.next().await {
            let data = frames::encode(tty, frame.stream, frame.data);
            to_client.write_all(&data).await?;
            to_client.flush().await?;
        }
        to_client.shutdown().await
    };
    let receive = async {
        let mut input = input;
        let mut buffer = vec![0; INPUT_BYTES];
        loop {
            match from_client.read(&mut buffer).await {
                Ok(0) => {
                    close(&mut input).await;
                    // The output decides when the session is over.
                    std::future::pending::<()>().await;
                }
                Ok(count) => {
                    if !pass(&mut input, &buffer[..count]).await {
                        // Nobody reads it; the client may still want the output.
                        input = None;
                    }
                }
                Err(_) => return,
            }
        }
    };
    tokio::select! {
        sent = send => {
            if let Err(error) = sent {
                debug!(%error, "client went while attached");
            }
        }
        () = receive => (),
    }
}

type Input = Option<std::pin::Pin<Box<dyn AsyncWrite + Send>>>;

async fn close(input: &mut Input) {
    if let Some(mut input) = input.take() {
        let _ = input.shutdown().await;
    }
}

/// Whether the process still takes input; without any, what comes is thrown away.
async fn pass(input: &mut Input, data: &[u8]) -> bool {
    match input {
        None => true,
        Some(input) => match input.write_all(data).await {
            Ok(()) => input.flush().await.is_ok(),
            Err(_) => false,
        },
    }
}
