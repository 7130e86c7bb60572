//! Answers: JSON, nothing, or a stream.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use serde::Serialize;

use crate::status::{ApiError, Outcome};

/// Why a body broke off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;
/// An answer.
pub type Reply = Response<Body>;

/// Content type of everything that is not said otherwise.
pub const JSON: &str = "application/json";

/// A body that is there at once.
pub fn full(data: impl Into<Bytes>) -> Body {
    Full::new(data.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// An answer without a body.
pub fn empty(status: StatusCode) -> Reply {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply
}

/// 204 without a body.
pub fn no_content() -> Outcome {
    Ok(empty(StatusCode::NO_CONTENT))
}

/// 200 without a body.
pub fn ok() -> Outcome {
    Ok(empty(StatusCode::OK))
}

/// 200 with a JSON body.
pub fn json(value: &impl Serialize) -> Outcome {
    json_with(StatusCode::OK, value)
}

/// 201 with a JSON body.
pub fn created(value: &impl Serialize) -> Outcome {
    json_with(StatusCode::CREATED, value)
}

fn json_with(status: StatusCode, value: &impl Serialize) -> Outcome {
    let mut text = serde_json::to_vec(value).map_err(|error| {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the answer has no JSON form: {error}"),
        )
    })?;
    text.push(b'\n');
    Ok(Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, JSON)
        .body(full(text))
        .expect("a status and a constant header make a response"))
}

/// 200 with a body that comes in pieces. The stream is dropped when the client goes.
pub fn stream<S, E>(content_type: &'static str, chunks: S) -> Reply
where
    S: Stream<Item = Result<Bytes, E>> + Send + 'static,
    E: Into<BodyError> + 'static,
{
    let frames = chunks.map(|chunk| chunk.map(Frame::data).map_err(Into::into));
    Response::builder()
        .header(header::CONTENT_TYPE, content_type)
        .body(StreamBody::new(frames).boxed_unsync())
        .expect("a constant header makes a response")
}

/// One JSON value as a line of a stream.
pub fn line(value: &impl Serialize) -> Bytes {
    let mut text = serde_json::to_vec(value).unwrap_or_else(|error| {
        serde_json::json!({ "error": error.to_string() })
            .to_string()
            .into_bytes()
    });
    text.push(b'\n');
    Bytes::from(text)
}
