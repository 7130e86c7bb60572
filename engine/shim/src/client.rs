//! The engine's side of a shim's control socket. Blocking, with deadlines: call it
//! from a thread that may wait.
//!
//! Each call opens its own connection, so calls do not wait for one another.

use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cgroup::Limits;
use crate::config::ConsoleSize;
use crate::exit::ExitRecord;
use crate::protocol::{
    AttachOptions, Event, ExecSpec, ProcessInfo, Refusal, Request, Response, Status, read_frame,
    write_frame,
};

/// How long a call waits for its answer unless told otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a call brought no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: the container is over (read its exit record) or was never
    /// prepared.
    #[error("no shim at `{}`", socket.display())]
    Gone { socket: PathBuf },
    /// The deadline passed.
    #[error("the shim at `{}` did not answer in time", socket.display())]
    Timeout { socket: PathBuf },
    /// The shim said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The connection broke, or something else spoke on it.
    #[error("talking to the shim at `{}`", socket.display())]
    Broken {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A shim that may be asked things.
#[derive(Clone, Debug)]
pub struct ShimClient {
    socket: PathBuf,
    timeout: Duration,
}

/// An exec that was started.
#[derive(Debug)]
pub struct ExecStream {
    /// Its process id as the host sees it.
    pub pid: i32,
    /// Its streams, if any were asked for.
    pub stream: UnixStream,
}

impl ShimClient {
    /// A client of the shim at this socket. Does not connect yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// The same with another deadline for each call.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The present state. A cheap way to ask whether the shim is alive.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn status(&self) -> Result<Status, ClientError> {
        match self.ask(&Request::Status)? {
            Response::Status(status) => Ok(*status),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Sends a signal (by number) to the main process, or to every process of the
    /// container.
    ///
    /// # Errors
    /// See [`ClientError`]; a container that does not run is a `Conflict`.
    pub fn signal(&self, signal: i32, all: bool) -> Result<(), ClientError> {
        self.done(&Request::Signal { signal, all })
    }

    /// Changes the size of the terminal of the main process, or of an exec.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn resize(&self, exec: Option<&str>, size: ConsoleSize) -> Result<(), ClientError> {
        self.done(&Request::Resize {
            exec: exec.map(str::to_owned),
            size,
        })
    }

    /// Joins the main process's streams, from now on (what was written before is
    /// in the log). Also works on a prepared container, so nothing is missed.
    /// The returned stream has no deadlines; it ends after the last output.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn attach(&self, options: AttachOptions) -> Result<UnixStream, ClientError> {
        let stream = self.connect(Some(self.timeout))?;
        match self.exchange(&stream, &Request::Attach(options))? {
            Response::Ok => self.without_deadlines(stream),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Starts one more process. When this returns, the program was executed.
    ///
    /// # Errors
    /// See [`ClientError`]; a program that could not be executed is a `Refused`
    /// with docker's text and exit code.
    pub fn exec(&self, spec: &ExecSpec) -> Result<ExecStream, ClientError> {
        let stream = self.connect(Some(self.timeout))?;
        match self.exchange(&stream, &Request::Exec(Box::new(spec.clone())))? {
            Response::ExecStarted { pid } => Ok(ExecStream {
                pid,
                stream: self.without_deadlines(stream)?,
            }),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Waits until an exec has ended; its exit code (128 + n for signal n).
    /// `deadline` absent waits as long as it runs.
    ///
    /// # Errors
    /// See [`ClientError`]; a container that ends first is `Gone` or `Broken`.
    pub fn exec_wait(&self, id: &str, deadline: Option<Duration>) -> Result<i32, ClientError> {
        let stream = self.connect(deadline)?;
        match self.exchange(&stream, &Request::ExecWait { id: id.to_owned() })? {
            Response::ExecExited { code } => Ok(code),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Sends a signal to an exec's process.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn exec_signal(&self, id: &str, signal: i32) -> Result<(), ClientError> {
        self.done(&Request::ExecSignal {
            id: id.to_owned(),
            signal,
        })
    }

    /// Waits until the container is over: log flushed, exit record written, cgroup
    /// gone. `deadline` absent waits as long as it runs. `Gone` means it was over
    /// before: read the exit record.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn wait(&self, deadline: Option<Duration>) -> Result<ExitRecord, ClientError> {
        let stream = self.connect(deadline)?;
        match self.exchange(&stream, &Request::Wait)? {
            Response::Exited(record) => Ok(record),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Freezes all processes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn pause(&self) -> Result<(), ClientError> {
        self.done(&Request::Pause)
    }

    /// Thaws them.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn resume(&self) -> Result<(), ClientError> {
        self.done(&Request::Resume)
    }

    /// All processes of the container.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn processes(&self) -> Result<Vec<ProcessInfo>, ClientError> {
        match self.ask(&Request::Processes)? {
            Response::Processes(processes) => Ok(processes),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Changes limits of the running container; absent ones stay.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn update(&self, limits: &Limits) -> Result<(), ClientError> {
        self.done(&Request::Update(Box::new(limits.clone())))
    }

    /// Lets it run until then, as [`crate::time::since_boot`] counts, and no longer unless told again.
    ///
    /// # Errors
    /// See [`ClientError`]; one that is being stopped takes no more time.
    pub fn lease(&self, until: Duration, grace: Duration) -> Result<(), ClientError> {
        let millis = |length: Duration| u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        self.done(&Request::Lease {
            until_ms: millis(until),
            grace_ms: millis(grace),
        })
    }

    /// Follows what happens to the container. The present health, if any, comes
    /// first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn subscribe(&self) -> Result<Subscription, ClientError> {
        let stream = self.connect(Some(self.timeout))?;
        match self.exchange(&stream, &Request::Subscribe)? {
            Response::Ok => Ok(Subscription {
                stream: self.without_deadlines(stream)?,
            }),
            other => Err(self.unexpected(&other)),
        }
    }

    fn done(&self, request: &Request) -> Result<(), ClientError> {
        match self.ask(request)? {
            Response::Ok => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    fn ask(&self, request: &Request) -> Result<Response, ClientError> {
        let stream = self.connect(Some(self.timeout))?;
        self.exchange(&stream, request)
    }

    fn connect(&self, deadline: Option<Duration>) -> Result<UnixStream, ClientError> {
        let stream = connect_by_directory(&self.socket).map_err(|source| self.failed(source))?;
        stream
            .set_write_timeout(Some(self.timeout))
            .and_then(|()| stream.set_read_timeout(deadline))
            .map_err(|source| self.failed(source))?;
        Ok(stream)
    }

    fn exchange(&self, stream: &UnixStream, request: &Request) -> Result<Response, ClientError> {
        write_frame(stream, request).map_err(|source| self.failed(source))?;
        let response = read_frame(stream)
            .map_err(|source| self.failed(source))?
            .ok_or_else(|| self.failed(io::ErrorKind::UnexpectedEof.into()))?;
        match response {
            Response::Refused(refusal) => Err(refusal.into()),
            response => Ok(response),
        }
    }

    fn without_deadlines(&self, stream: UnixStream) -> Result<UnixStream, ClientError> {
        stream
            .set_write_timeout(None)
            .and_then(|()| stream.set_read_timeout(None))
            .map_err(|source| self.failed(source))?;
        Ok(stream)
    }

    fn failed(&self, source: io::Error) -> ClientError {
        let socket = self.socket.clone();
        match source.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => ClientError::Gone { socket },
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Timeout { socket },
            _ => ClientError::Broken { socket, source },
        }
    }

    fn unexpected(&self, response: &Response) -> ClientError {
        ClientError::Broken {
            socket: self.socket.clone(),
            source: io::Error::new(
                io::ErrorKind::InvalidData,
                format!("unexpected answer {response:?}"),
            ),
        }
    }
}

/// Events of one container, in order.
#[derive(Debug)]
pub struct Subscription {
    stream: UnixStream,
}

impl Subscription {
    /// The next event; `None` after the last. Waits as long as it takes.
    ///
    /// # Errors
    /// The connection broke.
    pub fn next_event(&mut self) -> io::Result<Option<Event>> {
        read_frame(&self.stream)
    }

    /// A second handle whose `shutdown` ends a waiting [`Subscription::next_event`].
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn closer(&self) -> io::Result<SubscriptionCloser> {
        self.stream.try_clone().map(SubscriptionCloser)
    }
}

/// Ends a subscription from another thread.
#[derive(Debug)]
pub struct SubscriptionCloser(UnixStream);

impl SubscriptionCloser {
    /// Makes the subscription end now.
    pub fn close(self) {
        // It may be closed already; then there is nothing to end.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Connects through an open directory, as socket addresses are at most 107 bytes
/// long and container directories often are longer.
fn connect_by_directory(socket: &Path) -> io::Result<UnixStream> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "socket path has no file name");
    let directory = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC)
        .open(socket.parent().ok_or_else(invalid)?)?;
    let name = socket.file_name().ok_or_else(invalid)?;
    let short = Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(name);
    UnixStream::connect(short)
}
