//! A small HTTP client for the Docker Engine API: one connection for each request.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::json::Json;

/// Newest API version this client knows.
pub const API_VERSION: (u32, u32) = (1, 50);
/// What a whole answer may measure; streams are read in pieces and have no bound.
const ANSWER_BYTES_MAX: usize = 64 << 20;

pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// One request.
pub struct Call {
    method: Method,
    path: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    body: Option<Body>,
    wrong: Option<String>,
}

impl Call {
    /// `path` is already encoded; see [`segment`].
    fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: Vec::new(),
            headers: Vec::new(),
            body: None,
            wrong: None,
        }
    }

    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    pub fn put(path: impl Into<String>) -> Self {
        Self::new(Method::PUT, path)
    }

    pub fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path)
    }

    pub fn head(path: impl Into<String>) -> Self {
        Self::new(Method::HEAD, path)
    }

    pub fn query(mut self, name: &str, value: impl ToString) -> Self {
        self.query.push((name.to_owned(), value.to_string()));
        self
    }

    /// A query parameter that is left out when false.
    pub fn query_if(self, name: &str, value: bool) -> Self {
        if value { self.query(name, "1") } else { self }
    }

    /// A query parameter that is left out when empty.
    pub fn query_text(self, name: &str, value: &str) -> Self {
        if value.is_empty() {
            self
        } else {
            self.query(name, value)
        }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn header_maybe(self, name: &str, value: Option<String>) -> Self {
        match value {
            Some(value) => self.header(name, value),
            None => self,
        }
    }

    pub fn json(mut self, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(text) => {
                self.headers
                    .push(("Content-Type".to_owned(), "application/json".to_owned()));
                self.body = Some(
                    Full::new(Bytes::from(text))
                        .map_err(|never| match never {})
                        .boxed_unsync(),
                );
            }
            Err(error) => self.wrong = Some(error.to_string()),
        }
        self
    }

    /// A tar archive or other bytes as the body.
    pub fn body(mut self, content_type: &str, body: Body) -> Self {
        self.headers
            .push(("Content-Type".to_owned(), content_type.to_owned()));
        self.body = Some(body);
        self
    }
}

/// Everything after the scheme and host that must not stand in a path as it is.
fn encode(text: &str, keep: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "-_.~".contains(c) || keep.contains(c) {
            out.push(c);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// One piece of a path that the user named.
pub fn segment(text: &str) -> String {
    encode(text, ":@/")
}

/// The daemon, reached when first asked.
pub struct Client {
    host: Host,
    headers: BTreeMap<String, String>,
    /// Version the user insists on.
    pinned: Option<String>,
    version: OnceCell<String>,
}

impl Client {
    pub fn new(host: Host, headers: BTreeMap<String, String>, pinned: Option<String>) -> Self {
        Self {
            host,
            headers,
            pinned,
            version: OnceCell::new(),
        }
    }

    pub fn host(&self) -> &str {
        &self.host.name
    }

    /// A connection of its own, nothing said on it.
    pub async fn connect(&self) -> Outcome<Box<dyn crate::host::Stream>> {
        let stream = self.host.connect().await;
        stream.map_err(|error| self.unreachable(&error))
    }

    /// The API version both sides speak: `1.50`.
    pub async fn version(&self) -> Outcome<&str> {
        let version = self.version.get_or_try_init(|| async {
            if let Some(pinned) = &self.pinned {
                return Ok(pinned.clone());
            }
            let answer = self
                .exchange(Call::head("/_ping"), "/_ping".to_owned())
                .await?;
            let offered = answer
                .headers()
                .get("Api-Version")
                .and_then(|value| value.to_str().ok())
                .and_then(|text| {
                    let (major, minor) = text.split_once('.')?;
                    Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
                });
            let (major, minor) = offered.unwrap_or((1, 24)).min(API_VERSION);
            Ok(format!("{major}.{minor}"))
        });
        version.await.map(String::as_str)
    }

    /// Sends a call and gives the answer if it is a good one; the body is still to be read.
    pub async fn send(&self, call: Call) -> Outcome<Response<Incoming>> {
        let path = if call.path.starts_with("/skep/") || call.path == "/_ping" {
            call.path.clone()
        } else {
            format!("/v{}{}", self.version().await?, call.path)
        };
        let answer = self.exchange(call, path).await?;
        check(answer).await
    }

    /// The whole answer as text.
    pub async fn text(&self, call: Call) -> Outcome<String> {
        let answer = self.send(call).await?;
        let bytes = collect(answer.into_body()).await?;
        String::from_utf8(bytes.to_vec())
            .map_err(|_| Failure::message("the daemon's answer is not UTF-8"))
    }

    pub async fn json(&self, call: Call) -> Outcome<Json> {
        let answer = self.send(call).await?;
        let bytes = collect(answer.into_body()).await?;
        if bytes.is_empty() {
            return Ok(Json::Null);
        }
        Json::parse(&bytes).map_err(|error| unreadable(&error))
    }

    pub async fn typed<T: DeserializeOwned>(&self, call: Call) -> Outcome<T> {
        let answer = self.send(call).await?;
        let bytes = collect(answer.into_body()).await?;
        serde_json::from_slice(&bytes).map_err(|error| unreadable(&error))
    }

    /// A call whose answer says nothing but that it was done.
    pub async fn done(&self, call: Call) -> Outcome {
        let answer = self.send(call).await?;
        collect(answer.into_body()).await.map(drop)
    }

    /// A call that turns its connection into a plain stream of bytes.
    pub async fn hijack(&self, call: Call) -> Outcome<TokioIo<Upgraded>> {
        let path = format!("/v{}{}", self.version().await?, call.path);
        let call = call
            .header("Connection", "Upgrade")
            .header("Upgrade", "tcp");
        let answer = self.exchange(call, path).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let status = check(answer).await?.status().as_u16();
            return Err(Failure::message(format!(
                "unable to upgrade to tcp, received {status}"
            )));
        }
        hyper::upgrade::on(answer)
            .await
            .map(TokioIo::new)
            .map_err(|error| self.broken(&error))
    }

    async fn exchange(&self, call: Call, path: String) -> Outcome<Response<Incoming>> {
        if let Some(wrong) = call.wrong {
            return Err(Failure::message(wrong));
        }
        let mut target = path;
        for (index, (name, value)) in call.query.iter().enumerate() {
            target.push(if index == 0 { '?' } else { '&' });
            target.push_str(&format!("{}={}", encode(name, ""), encode(value, "")));
        }
        let mut request = Request::builder()
            .method(call.method)
            .uri(target)
            .header(header::HOST, "api.moby.localhost")
            .header(
                header::USER_AGENT,
                concat!("skep/", env!("CARGO_PKG_VERSION"), " (linux)"),
            );
        for (name, value) in self
            .headers
            .iter()
            .chain(call.headers.iter().map(|(name, value)| (name, value)))
        {
            let value = HeaderValue::from_str(value).map_err(|_| {
                Failure::message(format!(
                    "header {name} has characters that no header may have"
                ))
            })?;
            request = request.header(name.as_str(), value);
        }
        let body = call.body.unwrap_or_else(|| {
            Full::new(Bytes::new())
                .map_err(|never| match never {})
                .boxed_unsync()
        });
        let request = request
            .body(body)
            .map_err(|error| Failure::message(error.to_string()))?;
        let stream = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(&error))?;
        // Ends by itself when the answer has been read or the sender is gone.
        tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| self.broken(&error))?;
        Ok(answer)
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        let host = self.host.name.clone();
        match error.kind() {
            io::ErrorKind::PermissionDenied => Failure::message(format!(
                "permission denied while trying to connect to the Docker daemon socket at {host}: {error}"
            )),
            io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::TimedOut => Failure::Unreachable {
                host,
                cause: String::new(),
            },
            _ => Failure::Unreachable {
                host,
                cause: error.to_string(),
            },
        }
    }

    fn broken(&self, error: &hyper::Error) -> Failure {
        let cause = std::error::Error::source(error)
            .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        Failure::Unreachable {
            host: self.host.name.clone(),
            cause,
        }
    }
}

fn unreadable(error: &serde_json::Error) -> Failure {
    Failure::message(format!("the daemon's answer cannot be read: {error}"))
}

/// Reads a body to its end.
pub async fn collect(body: Incoming) -> Outcome<Bytes> {
    Limited::new(body, ANSWER_BYTES_MAX)
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| Failure::message(format!("error reading the daemon's answer: {error}")))
}

/// Turns an error answer into a failure.
async fn check(answer: Response<Incoming>) -> Outcome<Response<Incoming>> {
    let status = answer.status();
    if !status.is_client_error() && !status.is_server_error() {
        return Ok(answer);
    }
    let body = collect(answer.into_body()).await?;
    let message = match Json::parse(&body) {
        Ok(json) if json.get("message").is_some() => json.str("message").to_owned(),
        _ => String::from_utf8_lossy(&body).trim().to_owned(),
    };
    let message = if message.is_empty() {
        format!(
            "{} ({})",
            status.canonical_reason().unwrap_or("unknown"),
            status.as_u16()
        )
    } else {
        message
    };
    Err(Failure::Daemon {
        code: status.as_u16(),
        message,
    })
}

/// The pieces of a body as they arrive.
pub struct Chunks(Incoming);

impl Chunks {
    pub fn of(answer: Response<Incoming>) -> Self {
        Self(answer.into_body())
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Outcome<Option<Bytes>> {
        while let Some(frame) = self.0.frame().await {
            let frame = frame.map_err(|error| {
                Failure::message(format!("error reading the daemon's answer: {error}"))
            })?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// A line of a JSON stream is shorter than this.
const LINE_BYTES_MAX: usize = 16 << 20;

/// Values of a stream of JSON lines.
pub struct JsonLines {
    chunks: Chunks,
    pending: Vec<u8>,
    ended: bool,
}

impl JsonLines {
    pub fn of(answer: Response<Incoming>) -> Self {
        Self {
            chunks: Chunks::of(answer),
            pending: Vec::new(),
            ended: false,
        }
    }

    /// The next value; `None` at the end.
    pub async fn next(&mut self) -> Outcome<Option<Json>> {
        loop {
            let end = self.pending.iter().position(|byte| *byte == b'\n');
            let line: Vec<u8> = match end {
                Some(end) => self.pending.drain(..=end).collect(),
                None if self.ended => std::mem::take(&mut self.pending),
                None => {
                    if self.pending.len() > LINE_BYTES_MAX {
                        return Err(Failure::message(
                            "the daemon's answer has a line without end",
                        ));
                    }
                    match self.chunks.next().await? {
                        Some(chunk) => self.pending.extend_from_slice(&chunk),
                        None => self.ended = true,
                    }
                    continue;
                }
            };
            if line.iter().all(u8::is_ascii_whitespace) {
                if self.ended && self.pending.is_empty() {
                    return Ok(None);
                }
                continue;
            }
            return Json::parse(&line)
                .map(Some)
                .map_err(|error| unreadable(&error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries_are_encoded() {
        assert_eq!(segment("a b/c:d@e?f"), "a%20b/c:d@e%3Ff");
        assert_eq!(
            encode("{\"a\":[\"b\"]}", ""),
            "%7B%22a%22%3A%5B%22b%22%5D%7D"
        );
    }
}
