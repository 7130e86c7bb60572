//! The little HTTP that bringing a cluster up needs: JSON over a unix socket, and plain GET over
//! TCP for the demo.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::DevError;

/// An answer longer than this is none of ours.
const BODY_BYTES_MAX: usize = 16 << 20;
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Sends a request to the API on `socket`. Errors carry the daemon's message.
pub async fn call(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, DevError> {
    let failed = |message: String| DevError::Api {
        what: format!("{method} {path}"),
        message,
    };
    let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
    let exchange = async {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|error| error.to_string())?;
        let request = Request::builder()
            .method(&method)
            .uri(versioned(path))
            .header("host", "skep")
            .header("content-type", "application/json")
            .body(Full::new(bytes))
            .map_err(|error| error.to_string())?;
        send(stream, request).await
    };
    let (status, body) = match tokio::time::timeout(TIMEOUT, exchange).await {
        Ok(outcome) => outcome.map_err(failed)?,
        Err(_) => return Err(failed("no answer in time".to_owned())),
    };
    let value: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    if (200..300).contains(&status) {
        return Ok(value);
    }
    let message = value["message"]
        .as_str()
        .map_or_else(|| format!("status {status}"), str::to_owned);
    Err(failed(message))
}

/// Docker's paths carry the version; our own do not.
fn versioned(path: &str) -> String {
    if path.starts_with("/skep/") {
        path.to_owned()
    } else {
        format!("/v1.50{path}")
    }
}

/// Gets a page; its body as text.
pub async fn page(address: Ipv4Addr, port: u16, within: Duration) -> Result<String, String> {
    let exchange = async {
        let stream = TcpStream::connect((address, port))
            .await
            .map_err(|error| error.to_string())?;
        let request = Request::builder()
            .uri("/")
            .header("host", format!("{address}:{port}"))
            .header("connection", "close")
            .body(Full::new(Bytes::new()))
            .map_err(|error| error.to_string())?;
        let (status, body) = send(stream, request).await?;
        match status {
            200 => Ok(String::from_utf8_lossy(&body).into_owned()),
            other => Err(format!("status {other}")),
        }
    };
    tokio::time::timeout(within, exchange)
        .await
        .unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(u16, Bytes), String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let driving = tokio::spawn(connection);
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| error.to_string())?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), BODY_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| error.to_string())?
        .to_bytes();
    drop(sender);
    driving.abort();
    Ok((status, body))
}
