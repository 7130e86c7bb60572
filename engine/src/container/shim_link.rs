//! Connections to shims for async code: the blocking client makes them, tokio
//! reads them.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use skep_shim::protocol::{
    Event, RefusalKind, Request, Response, read_frame, take_frame, write_frame,
};
use skep_shim::{ClientError, ShimClient};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

use crate::error::{EngineError, Kind, Result};
use crate::streams::blocking;

/// How long a shim may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A shim's error in the engine's terms.
pub(super) fn client_error(error: ClientError) -> EngineError {
    match error {
        ClientError::Refused(refusal) => {
            let kind = match refusal.kind {
                RefusalKind::Invalid => Kind::Invalid,
                RefusalKind::NotFound => Kind::NotFound,
                RefusalKind::Conflict => Kind::Conflict,
                RefusalKind::Internal => Kind::Internal,
                RefusalKind::Exhausted => Kind::Unavailable,
            };
            let error = EngineError::new(kind, refusal.message);
            match refusal.exit_code {
                Some(code) => error.with_exit_code(code),
                None => error,
            }
        }
        error @ ClientError::Gone { .. } => {
            EngineError::conflict("container is not running").because(error)
        }
        error => EngineError::internal("cannot talk to the container's shim").because(error),
    }
}

/// Calls a shim from async code.
pub(super) async fn call<T, F>(shim: ShimClient, call: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce(&ShimClient) -> Result<T, ClientError> + Send + 'static,
{
    blocking(move || call(&shim).map_err(client_error)).await
}

/// A stream from the blocking client for async use.
pub(super) fn to_async(stream: StdStream) -> Result<UnixStream> {
    let broken =
        |error: io::Error| EngineError::internal("cannot use the shim's stream").because(error);
    stream.set_nonblocking(true).map_err(broken)?;
    UnixStream::from_std(stream).map_err(broken)
}

/// What happens to one container.
pub(super) struct Events {
    stream: UnixStream,
    buffer: Vec<u8>,
}

/// Follows a shim's events; `None` when no shim listens.
pub(super) async fn subscribe(socket: PathBuf) -> Result<Option<Events>> {
    let connected = blocking(move || match connect(&socket) {
        Ok(stream) => Ok(Some(stream)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(EngineError::internal("cannot follow the shim").because(error)),
    })
    .await?;
    connected
        .map(|stream| {
            Ok(Events {
                stream: to_async(stream)?,
                buffer: Vec::new(),
            })
        })
        .transpose()
}

/// Subscribes by hand, since the client keeps its streams to itself. Goes through
/// an open directory: an address holds 107 bytes, our paths more.
fn connect(socket: &Path) -> io::Result<StdStream> {
    let directory = File::open(socket.parent().unwrap_or(Path::new("/")))?;
    let name = socket.file_name().unwrap_or_default();
    let short = Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(name);
    let stream = StdStream::connect(short)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    write_frame(&stream, &Request::Subscribe)?;
    match read_frame::<Response>(&stream)? {
        Some(Response::Ok) => Ok(stream),
        Some(other) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("unexpected answer {other:?}"),
        )),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

impl Events {
    /// The next event; `None` when the connection ends. May be dropped while it
    /// waits without losing anything.
    pub(super) async fn next(&mut self) -> io::Result<Option<Event>> {
        loop {
            if let Some(event) = take_frame(&mut self.buffer)? {
                return Ok(Some(event));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}
