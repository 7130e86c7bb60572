//! Moving images: pull, push, load, save, import. Progress is a stream of JSON lines.

use std::future::Future;

use bytes::Bytes;
use futures_util::StreamExt;
use skep_engine::types::ProgressEvent;
use skep_engine::{ByteStream, EngineError, ImportOptions, LoadOptions, Progress, PullOptions};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::images::{fits, reference};
use crate::platform;
use crate::reply::{self, BodyError};
use crate::state::Call;
use crate::status::{ApiError, Outcome};
use crate::version::ApiVersion;

/// `POST /images/create`: a pull, or an import when `fromSrc` is there.
pub(crate) async fn create(call: Call) -> Outcome {
    if call.query.has("fromImage") {
        pull(call).await
    } else {
        import(call).await
    }
}

async fn pull(call: Call) -> Outcome {
    let image = call.query.text("fromImage");
    let wanted = reference(image, call.query.text("tag"))?;
    let options = PullOptions {
        platform: platform::parse(call.query.text("platform"))?,
        auth: call.registry_auth()?,
        other_auth: None,
        source: None,
    };
    let (progress, lines) = Progress::channel();
    let engine = call.engine().clone();
    let named = wanted.contains('@')
        || wanted
            .rsplit('/')
            .next()
            .is_some_and(|last| last.contains(':'));
    if !named {
        let work = async move { engine.image_pull_all(&wanted, options, progress).await };
        return follow(work, lines).await;
    }
    let work = async move {
        engine
            .image_pull(&wanted, options, progress)
            .await
            .map(drop)
    };
    follow(work, lines).await
}

/// `POST /images/{name}/push`
pub(crate) async fn push(call: Call, name: String) -> Outcome {
    let image = reference(&name, call.query.text("tag"))?;
    fits(&call, ApiVersion::new(1, 46), std::slice::from_ref(&image)).await?;
    let auth = call.registry_auth()?;
    let (progress, lines) = Progress::channel();
    let engine = call.engine().clone();
    let work = async move { engine.image_push(&image, auth, progress).await };
    follow(work, lines).await
}

/// `POST /images/load`
pub(crate) async fn load(mut call: Call) -> Outcome {
    let options = LoadOptions {
        platform: match call.version < ApiVersion::new(1, 48) {
            true => None,
            false => platform::parse(call.query.text("platform"))?,
        },
        layers: !call.query.flag_or("quiet", true),
        partial: false,
    };
    let archive = call.reader();
    let (progress, lines) = Progress::channel();
    let engine = call.engine().clone();
    // As dockerd's, the answer is 200 whatever is wrong with the archive: clients look for the reason
    // in its lines.
    let work = async move {
        let failed = progress.clone();
        if let Err(error) = engine.image_load(archive, options, progress).await {
            failed.send(ProgressEvent::error(error.to_string()));
        }
        Ok(())
    };
    follow(work, lines).await
}

async fn import(mut call: Call) -> Outcome {
    let source = call.query.text("fromSrc").to_owned();
    if source.is_empty() {
        return Err(ApiError::invalid(
            "either fromImage or fromSrc must be given",
        ));
    }
    let message = match call.query.text("message") {
        "" => format!("Imported from {source}"),
        message => message.to_owned(),
    };
    let options = ImportOptions {
        repo: call.query.text("repo").to_owned(),
        tag: call.query.text("tag").to_owned(),
        message,
        changes: call.query.all("changes"),
        platform: platform::parse(call.query.text("platform"))?,
    };
    let engine = call.engine().clone();
    if source != "-" {
        let (progress, lines) = Progress::channel();
        let work = async move {
            let id = engine
                .image_import_url(&source, options, progress.clone())
                .await?;
            progress.send(ProgressEvent::status(id));
            Ok(())
        };
        return follow(work, lines).await;
    }
    let id = engine.image_import(call.reader(), options).await?;
    let line = progress_line(&ProgressEvent::status(id));
    let lines = futures_util::stream::once(async move { Ok::<_, BodyError>(line) });
    Ok(reply::stream(reply::JSON, lines))
}

/// `GET /images/{name}/get` and `GET /images/get`
pub(crate) async fn save(call: Call, name: Option<String>) -> Outcome {
    let names = match name {
        Some(name) => vec![name],
        None => call.query.all("names"),
    };
    if names.is_empty() {
        return Err(ApiError::invalid("no image was named to save"));
    }
    fits(&call, ApiVersion::new(1, 48), &names).await?;
    let archive: ByteStream = call.engine().image_save(&names).await?;
    Ok(reply::stream("application/x-tar", archive))
}

/// Streams progress while `work` runs. A failure before the first line is an answer of its own,
/// a later one the last line. The work is abandoned when the client goes.
pub(crate) async fn follow<F>(work: F, mut lines: mpsc::Receiver<ProgressEvent>) -> Outcome
where
    F: Future<Output = Result<(), EngineError>> + Send + 'static,
{
    let mut work = AbortOnDropHandle::new(tokio::spawn(work));
    let Some(first) = lines.recv().await else {
        return match (&mut work).await {
            Ok(Ok(())) => Ok(reply::stream(
                reply::JSON,
                futures_util::stream::empty::<Result<Bytes, BodyError>>(),
            )),
            Ok(Err(error)) => Err(ApiError::transfer(&error)),
            Err(_) => Err(ApiError::unavailable("the transfer was broken off")),
        };
    };
    let started = futures_util::stream::iter([progress_line(&first)]);
    let rest = futures_util::stream::unfold(Some((work, lines)), |state| async move {
        let (mut work, mut lines) = state?;
        if let Some(event) = lines.recv().await {
            return Some((progress_line(&event), Some((work, lines))));
        }
        let failure = match (&mut work).await {
            Ok(Ok(())) => return None,
            Ok(Err(error)) => {
                let mut line = ProgressEvent::error(error.to_string());
                if let (Some(detail), Some(code)) = (&mut line.error_detail, error.exit_code()) {
                    detail.code = i64::from(code);
                }
                line
            }
            Err(_) => ProgressEvent::error("the transfer was broken off"),
        };
        Some((progress_line(&failure), None))
    });
    let chunks = started.chain(rest).map(Ok::<_, BodyError>);
    Ok(reply::stream(reply::JSON, chunks))
}

fn progress_line(event: &ProgressEvent) -> Bytes {
    let mut text = serde_json::to_vec(event).unwrap_or_default();
    text.extend_from_slice(b"\r\n");
    Bytes::from(text)
}
