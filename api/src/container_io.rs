//! What goes into and comes out of containers: logs, attach, statistics, archives.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use http::HeaderValue;
use skep_engine::types::PathStat;
use skep_engine::{AttachOptions, EngineError, LogOptions, PutArchiveOptions};

use crate::frames;
use crate::hijack;
use crate::reply::{self, Reply};
use crate::state::Call;
use crate::status::{ApiError, Outcome};
use crate::version::ApiVersion;
use crate::websocket;

/// `GET /containers/{id}/logs`
pub(crate) async fn logs(call: Call, name: String) -> Outcome {
    let query = &call.query;
    let options = LogOptions {
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        follow: query.flag("follow"),
        since: query.time("since")?,
        until: query.time("until")?,
        // What is no number is all, as for dockerd.
        tail: tail(query.text("tail")).unwrap_or_default(),
    };
    if !(options.stdout || options.stderr) {
        return Err(ApiError::invalid(
            "Bad parameters: you must choose at least one stream",
        ));
    }
    let (timestamps, details) = (query.flag("timestamps"), query.flag("details"));
    let (tty, lines) = call.engine().container_logs(&name, options).await?;
    let chunks = lines.map(move |line| {
        line.map(|line| {
            let text = frames::log_line(
                line.line,
                timestamps.then_some(line.at),
                details.then_some(&line.attributes),
            );
            frames::encode(tty, line.stream, text)
        })
    });
    let content_type = frames::content_type(call.version, tty);
    Ok(reply::stream::<_, EngineError>(content_type, chunks))
}

/// The `tail` parameter of a service's logs: a number, or `all`. A negative number is all.
pub(crate) fn tail<T: std::str::FromStr>(text: &str) -> Outcome<Option<T>> {
    if matches!(text, "" | "all") || text.starts_with('-') {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        ApiError::invalid(format!(
            "invalid value for parameter 'tail': '{text}' is neither a number nor 'all'"
        ))
    })
}

/// `POST /containers/{id}/attach`
pub(crate) async fn attach(call: Call, name: String) -> Outcome {
    let query = &call.query;
    let keys = query.text("detachKeys");
    let stdin = query.flag("stdin");
    let seat = hijack::reserve(&call, stdin)?;
    let options = AttachOptions {
        stdin,
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        stream: query.flag("stream"),
        logs: query.flag("logs"),
        detach_keys: (!keys.is_empty()).then(|| keys.to_owned()),
    };
    let attachment = call.engine().container_attach(&name, options).await?;
    hijack::attached(call, seat, attachment)
}

/// `GET /containers/{id}/attach/ws`. Before API 1.42 every stream is attached, whatever is asked for.
pub(crate) async fn attach_websocket(call: Call, name: String) -> Outcome {
    let query = &call.query;
    let every = call.version < ApiVersion::new(1, 42);
    let keys = query.text("detachKeys");
    let options = AttachOptions {
        stdin: every || query.flag("stdin"),
        stdout: every || query.flag("stdout"),
        stderr: every || query.flag("stderr"),
        stream: query.flag("stream"),
        logs: query.flag("logs"),
        detach_keys: (!keys.is_empty()).then(|| keys.to_owned()),
    };
    let handshake = websocket::Handshake::of(&call)?;
    let attachment = call.engine().container_attach(&name, options).await?;
    handshake.attached(call, attachment)
}

/// `GET /containers/{id}/stats`
pub(crate) async fn stats(call: Call, name: String) -> Outcome {
    if !call.query.flag_or("stream", true) {
        let one_shot = call.query.flag("one-shot");
        return reply::json(&call.engine().container_stats(&name, one_shot).await?);
    }
    if call.query.flag("one-shot") {
        return Err(ApiError::invalid(
            "cannot have stream=true and one-shot=true",
        ));
    }
    let readings = call.engine().container_stats_stream(&name).await?;
    let chunks = readings.map(|reading| reading.map(|reading| reply::line(&reading)));
    Ok(reply::stream::<_, EngineError>(reply::JSON, chunks))
}

/// `GET /containers/{id}/export`
pub(crate) async fn export(call: Call, name: String) -> Outcome {
    let archive = call.engine().container_export(&name).await?;
    Ok(reply::stream("application/octet-stream", archive))
}

fn path(call: &Call) -> Outcome<&str> {
    match call.query.text("path") {
        "" => Err(ApiError::invalid("bad parameter: 'path' cannot be empty")),
        path => Ok(path),
    }
}

fn with_stat(mut reply: Reply, stat: &PathStat) -> Outcome {
    let text = serde_json::to_string(stat)
        .map_err(|error| ApiError::invalid(format!("cannot describe the path: {error}")))?;
    let value =
        HeaderValue::from_str(&STANDARD.encode(text)).expect("base64 is made of header characters");
    reply
        .headers_mut()
        .insert("x-docker-container-path-stat", value);
    Ok(reply)
}

/// `HEAD /containers/{id}/archive`
pub(crate) async fn archive_stat(call: Call, name: String) -> Outcome {
    let stat = call
        .engine()
        .container_path_stat(&name, path(&call)?)
        .await?;
    with_stat(reply::ok()?, &stat)
}

/// `GET /containers/{id}/archive`
pub(crate) async fn archive_get(call: Call, name: String) -> Outcome {
    let (stat, archive) = call
        .engine()
        .container_get_archive(&name, path(&call)?)
        .await?;
    with_stat(reply::stream("application/x-tar", archive), &stat)
}

/// `PUT /containers/{id}/archive`
pub(crate) async fn archive_put(mut call: Call, name: String) -> Outcome {
    let body = call.reader();
    let options = PutArchiveOptions {
        no_overwrite_dir_non_dir: call.query.flag("noOverwriteDirNonDir"),
        copy_uid_gid: call.query.flag("copyUIDGID"),
    };
    call.engine()
        .container_put_archive(&name, path(&call)?, options, body)
        .await?;
    reply::ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_is_a_number_or_all() {
        assert_eq!(tail::<u64>("5").unwrap(), Some(5));
        assert_eq!(tail::<u64>("all").unwrap(), None);
        assert_eq!(tail::<u64>("").unwrap(), None);
        assert_eq!(tail::<u64>("-1").unwrap(), None);
        assert!(tail::<u64>("many").is_err());
    }
}
