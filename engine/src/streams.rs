//! The streams the engine hands out, and the bridges between blocking code and
//! them.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;

use crate::error::{EngineError, Result};
use crate::types::ProgressEvent;

/// Chunks waiting between a blocking producer and a slow client.
const CHUNKS_MAX: usize = 16;
/// Bytes per chunk of an archive.
const CHUNK_BYTES: usize = 64 << 10;
/// Progress lines waiting for a slow client; more are dropped, never waited for.
const PROGRESS_LINES_MAX: usize = 1024;

macro_rules! receiver_stream {
    ($(#[$doc:meta])* $name:ident of $item:ty) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name {
            receiver: mpsc::Receiver<$item>,
        }

        impl $name {
            /// Of what the other end of a channel sends.
            pub fn new(receiver: mpsc::Receiver<$item>) -> Self {
                Self { receiver }
            }

            /// The next item; `None` at the end.
            pub async fn next(&mut self) -> Option<$item> {
                self.receiver.recv().await
            }
        }

        impl Stream for $name {
            type Item = $item;

            fn poll_next(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<Option<Self::Item>> {
                self.receiver.poll_recv(context)
            }
        }
    };
}

receiver_stream! {
    /// Bytes of an archive being made. An error ends it.
    ByteStream of Result<Bytes>
}

receiver_stream! {
    /// Lines of a container's log. Ends at the last line, or with `follow` when
    /// the container has ended. Dropping it stops the reading.
    LogStream of Result<LogFrame>
}

receiver_stream! {
    /// What an attached process prints. Ends when it has ended or detached.
    OutputStream of Result<OutputFrame>
}

receiver_stream! {
    /// Resource use, one reading a second. Ends when the container is removed.
    StatsStream of Result<crate::types::Stats>
}

/// Which of a process's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StdStream {
    Stdout,
    Stderr,
}

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFrame {
    pub stream: StdStream,
    /// Nanoseconds since the epoch.
    pub at: skep_model::Timestamp,
    /// The line with its newline, if it had one; no timestamp in front.
    pub line: Bytes,
    /// Labels and variables the log options asked to keep (`details`).
    pub attributes: std::collections::BTreeMap<String, String>,
}

/// A piece of output as the process wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputFrame {
    /// A terminal has stdout only.
    pub stream: StdStream,
    pub data: Bytes,
}

/// A connection to a process: its output, and its input if that was asked for.
pub struct Attachment {
    /// Whether the process has a terminal: send output raw, without framing.
    pub tty: bool,
    pub output: OutputStream,
    /// Shutting it down closes the process's stdin. Ends with an error of kind
    /// `UnexpectedEof`-free `BrokenPipe` once the process is gone.
    pub input: Option<Pin<Box<dyn tokio::io::AsyncWrite + Send>>>,
}

impl std::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attachment")
            .field("tty", &self.tty)
            .field("input", &self.input.is_some())
            .finish_non_exhaustive()
    }
}

/// Where progress lines of a long operation go.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    sender: Option<mpsc::Sender<ProgressEvent>>,
}

impl Progress {
    /// Nobody listens.
    pub fn none() -> Self {
        Self::default()
    }

    /// A listener; it ends when the operation has. When it is slow, lines that say
    /// how far something is are dropped rather than waited for.
    pub fn channel() -> (Self, mpsc::Receiver<ProgressEvent>) {
        let (sender, receiver) = mpsc::channel(PROGRESS_LINES_MAX);
        (
            Self {
                sender: Some(sender),
            },
            receiver,
        )
    }

    pub fn send(&self, event: ProgressEvent) {
        let Some(sender) = &self.sender else { return };
        // How far something is will be said again; what happened will not, so
        // for that there is always room.
        let repeats = event.progress.is_some();
        if !repeats || sender.capacity() > PROGRESS_LINES_MAX / 2 {
            let _ = sender.try_send(event);
        }
    }
}

impl Progress {
    /// Sends a line that must not be lost: waits for a slow client. False when
    /// nobody listens any more.
    pub(crate) async fn deliver(&self, event: ProgressEvent) -> bool {
        match &self.sender {
            Some(sender) => sender.send(event).await.is_ok(),
            None => true,
        }
    }
}

/// Runs blocking code and waits for it.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(EngineError::unavailable("the engine is shutting down")),
    }
}

/// Makes an archive on a blocking thread; the stream ends with its error if it
/// fails. The work is abandoned when the stream is dropped.
pub(crate) fn produce<F>(work: F) -> ByteStream
where
    F: FnOnce(&mut ChunkWriter) -> Result<()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    tokio::task::spawn_blocking(move || {
        let mut writer = ChunkWriter {
            sender: sender.clone(),
            buffer: Vec::with_capacity(CHUNK_BYTES),
        };
        let result = work(&mut writer).and_then(|()| {
            writer
                .flush()
                .map_err(|error| EngineError::internal("cannot write").because(error))
        });
        if let Err(error) = result {
            let _ = sender.blocking_send(Err(error));
        }
    });
    ByteStream::new(receiver)
}

impl ChunkWriter {
    /// Another writer to the same stream, for another thread. What this one has
    /// not flushed stays with it.
    pub(crate) fn again(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            buffer: Vec::new(),
        }
    }
}

/// The writing end of [`produce`].
pub(crate) struct ChunkWriter {
    sender: mpsc::Sender<Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Write for ChunkWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::replace(
            &mut self.buffer,
            Vec::with_capacity(CHUNK_BYTES),
        ));
        self.sender
            .blocking_send(Ok(chunk))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the reader is gone"))
    }
}
