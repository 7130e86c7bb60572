//! Images as files: `load`, `save`, `import`.

use std::io::Write;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use crate::client::{Body, Call, Chunks, JsonLines};
use crate::failure::{Failure, Outcome};
use crate::files;
use crate::flags::Args;
use crate::human;
use crate::progress::lines::{Sink, show_stream};
use crate::reference;
use crate::session::Session;

/// A reader as a request's body.
pub fn body_of(reader: impl AsyncRead + Send + 'static) -> Body {
    let frames = ReaderStream::with_capacity(reader, 64 << 10).map(|chunk| chunk.map(Frame::data));
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

/// A file as a request's body.
async fn file_body(path: &str) -> Outcome<Body> {
    let file = tokio::fs::File::open(path)
        .await
        .map_err(|error| Failure::message(format!("open {path}: {}", files::reason(&error))))?;
    Ok(body_of(file))
}

/// stdin as a request's body.
pub fn input_body(session: &Session) -> Body {
    match &session.streams.input {
        Some(bytes) => Full::new(Bytes::from(bytes.clone()))
            .map_err(|never| match never {})
            .boxed_unsync(),
        None => body_of(tokio::io::stdin()),
    }
}

pub async fn load(session: &Session, args: &Args) -> Outcome {
    let body = match args.text("input") {
        "" if session.streams.in_is_terminal => {
            return Err(Failure::message(
                "requested load from stdin, but stdin is empty",
            ));
        }
        "" => input_body(session),
        path => file_body(path).await?,
    };
    let quiet = args.flag("quiet") || !session.streams.out_is_terminal;
    let call = Call::post("/images/load")
        .query("quiet", if quiet { "1" } else { "0" })
        .query_text("platform", &super::platform_query(args.text("platform"))?)
        .body("application/x-tar", body);
    let stream = JsonLines::of(session.client.send(call).await?);
    show_stream(session, Sink::Out, stream, |_| {}).await
}

pub async fn import(session: &Session, args: &Args) -> Outcome {
    let source = args.positional(0);
    let (repository, tag) =
        reference::repository_and_tag(args.positional(1)).map_err(Failure::Message)?;
    let is_url = source.starts_with("http://") || source.starts_with("https://");
    let mut call = Call::post("/images/create")
        .query("fromSrc", if is_url { source } else { "-" })
        .query_text("repo", &repository)
        .query_text("tag", &tag)
        .query_text("message", args.text("message"))
        .query_text("platform", args.text("platform"));
    for change in args.list("change") {
        call = call.query("changes", change);
    }
    if source == "-" {
        call = call.body("text/plain", input_body(session));
    } else if !is_url {
        call = call.body("text/plain", file_body(source).await?);
    }
    let stream = JsonLines::of(session.client.send(call).await?);
    show_stream(session, Sink::Out, stream, |_| {}).await
}

pub async fn save(session: &Session, args: &Args) -> Outcome {
    let output = args.text("output");
    if output.is_empty() && session.streams.out_is_terminal {
        return Err(Failure::message(
            "cowardly refusing to save to a terminal. Use the -o flag or redirect",
        ));
    }
    let mut call = Call::get("/images/get")
        .query_text("platform", &super::platform_query(args.text("platform"))?);
    for name in args.positionals() {
        call = call.query("names", name);
    }
    let chunks = Chunks::of(session.client.send(call).await?);
    write_out(session, chunks, output).await
}

/// Writes a download to a file, or to stdout. The file appears when it is whole.
pub async fn write_out(session: &Session, mut chunks: Chunks, path: &str) -> Outcome {
    if path.is_empty() {
        while let Some(chunk) = chunks.next().await? {
            session.print_bytes(&chunk)?;
        }
        return Ok(());
    }
    let wrong = |error: std::io::Error| {
        Failure::message(format!(
            "failed to save to {}: {}",
            human::quote(path),
            files::reason(&error)
        ))
    };
    // A device or a pipe is written to; only files are replaced.
    if std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        let mut target = std::fs::OpenOptions::new()
            .write(true)
            .open(path)
            .map_err(wrong)?;
        while let Some(chunk) = chunks.next().await? {
            target.write_all(&chunk).map_err(wrong)?;
        }
        return Ok(());
    }
    let partial = format!("{path}.partial-{}", std::process::id());
    let mut file = std::fs::File::create(&partial).map_err(wrong)?;
    let written = async {
        while let Some(chunk) = chunks.next().await? {
            file.write_all(&chunk).map_err(wrong)?;
        }
        file.sync_all().map_err(wrong)?;
        std::fs::rename(&partial, path).map_err(wrong)
    }
    .await;
    if written.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    written
}
