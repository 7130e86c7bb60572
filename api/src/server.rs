//! Listening: connections in, requests to the path table, answers out, and an orderly end.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue, SERVER};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, warn};

use crate::handshake::{Accepted, opened, quick};
use crate::query::{Query, unescape};
use crate::reply::Reply;
use crate::request_body::RequestBody;
use crate::request_line::Escaped;
use crate::route;
use crate::state::{ApiState, Call};
use crate::status::{ApiError, Outcome};
use crate::version;

/// Connections served at once, over all listeners; more wait to be accepted. Each event stream,
/// log follower or wait of a client is one.
const CONNECTIONS_MAX: usize = 8192;
/// Hijacked connections (attach, exec) at once.
const HIJACKS_MAX: usize = 4096;
/// A client must have sent the whole head of a request within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);
/// How long requests under way may go on after the server was told to stop.
const GRACE: Duration = Duration::from_secs(3);
/// Pause after a failed accept: out of descriptors, most likely.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Where clients connect to.
#[derive(Debug)]
pub enum Listener {
    Unix(UnixListener),
    /// Without encryption and without checks: only for networks that nobody else is on.
    Tcp(TcpListener),
    /// As the configuration wants it, with certificates of clients or without.
    Tls(TcpListener, Arc<ServerConfig>),
}

/// Serves until `stop` is cancelled, and returns once every connection has ended. Requests under
/// way get three seconds; streams are cut then.
///
/// Also carries the cluster's changes into the engine's event bus while it runs.
pub async fn serve(listeners: Vec<Listener>, state: Arc<ApiState>, stop: CancellationToken) {
    let tasks = Tasks::new(stop.clone());
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    tasks.spawn(crate::cluster_events::carry(state.clone()));
    for listener in listeners {
        let (state, tasks, permits) = (state.clone(), tasks.clone(), permits.clone());
        tasks
            .clone()
            .spawn(async move { accept(listener, state, tasks, permits).await });
    }
    stop.cancelled().await;
    tasks.tracker.close();
    tasks.tracker.wait().await;
}

/// Work that outlives the request that began it, ended with the server.
#[derive(Debug, Clone)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    hijacks: Arc<Semaphore>,
}

impl Tasks {
    fn new(stop: CancellationToken) -> Self {
        Self {
            tracker: TaskTracker::new(),
            stop,
            hijacks: Arc::new(Semaphore::new(HIJACKS_MAX)),
        }
    }

    /// Runs `work` until it ends or the server stops.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => (),
                () = work => (),
            }
        });
    }

    /// The right to hold one hijacked connection.
    pub fn hijack(&self) -> Outcome<OwnedSemaphorePermit> {
        self.hijacks
            .clone()
            .try_acquire_owned()
            .map_err(|_| ApiError::unavailable("too many attached clients, try again later"))
    }
}

async fn accept(listener: Listener, state: Arc<ApiState>, tasks: Tasks, permits: Arc<Semaphore>) {
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else {
            return;
        };
        let accepted = match &listener {
            Listener::Unix(listener) => {
                let accepted = listener.accept().await;
                accepted.map(|(stream, _)| Accepted::Ready(Box::new(stream)))
            }
            Listener::Tcp(listener) => {
                let accepted = listener.accept().await;
                accepted.map(|(stream, _)| Accepted::Ready(Box::new(quick(stream))))
            }
            Listener::Tls(listener, config) => listener
                .accept()
                .await
                .map(|(stream, from)| Accepted::Encrypted(quick(stream), from, config.clone())),
        };
        match accepted {
            Ok(accepted) => {
                let (state, work) = (state.clone(), tasks.clone());
                tasks.tracker.spawn(async move {
                    if let Some(stream) = opened(accepted, &work.stop).await {
                        connection(stream, state, work).await;
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connection(stream: Box<dyn Stream>, state: Arc<ApiState>, tasks: Tasks) {
    let stop = tasks.stop.clone();
    let service = service_fn(move |request| answer(request, state.clone(), tasks.clone()));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        // Scripts search for `Content-Type`, as Go writes it.
        .title_case_headers(true)
        .serve_connection(TokioIo::new(Escaped::new(stream)), service)
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(GRACE, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection broke off");
    }
}

/// Never fails: what goes wrong becomes an answer.
async fn answer(
    mut request: Request<Incoming>,
    state: Arc<ApiState>,
    tasks: Tasks,
) -> Result<Reply, Infallible> {
    let version = state.about.version.clone();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let upgrade = request
        .headers()
        .contains_key(http::header::UPGRADE)
        .then(|| hyper::upgrade::on(&mut request));
    let outcome = match version::split(&path) {
        Err(error) => Err(error),
        Ok((version, rest)) => {
            let (head, body) = request.into_parts();
            // Who waits for "100 Continue" has sent nothing yet, and need not.
            let waits = head.headers.contains_key(http::header::EXPECT);
            let (body, unread) = RequestBody::new(body);
            let call = Call {
                state,
                version,
                query: Query::parse(head.uri.query().unwrap_or_default()),
                headers: head.headers,
                body: Some(body),
                upgrade,
                tasks,
            };
            let segments: Vec<String> = rest.split('/').skip(1).map(unescape).collect();
            let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
            let outcome = route::find(call, &method, &segments).await;
            if !waits {
                unread.drain().await;
            }
            outcome
        }
    };
    let mut reply = outcome.unwrap_or_else(|error| {
        match error.status() {
            StatusCode::INTERNAL_SERVER_ERROR => {
                error!(%method, path, error = error.message(), "request failed");
            }
            status => debug!(%method, path, %status, error = error.message(), "request refused"),
        }
        error.reply()
    });
    decorate(&mut reply, &version);
    Ok(reply)
}

/// The headers that every answer carries.
fn decorate(reply: &mut Reply, version: &str) {
    let headers = reply.headers_mut();
    for (name, value) in [
        ("api-version", version::ApiVersion::MAX.to_string()),
        ("docker-experimental", "false".to_owned()),
        ("ostype", "linux".to_owned()),
    ] {
        let value = HeaderValue::from_str(&value).expect("letters and digits make a header");
        headers.insert(HeaderName::from_static(name), value);
    }
    if let Ok(value) = HeaderValue::from_str(&format!("skep/{version}")) {
        headers.insert(SERVER, value);
    }
}
