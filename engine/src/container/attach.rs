//! `docker attach` and `docker resize`: a client's streams and a process's.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use skep_shim::protocol::AttachOptions as ShimAttach;
use skep_shim::stdcopy;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::record::Status;
use super::{Container, shim_link, spec};
use crate::engine::Engine;
use crate::error::{EngineError, IoContext as _, Result};
use crate::options::{AttachOptions, LogOptions};
use crate::streams::{Attachment, OutputFrame, OutputStream, StdStream};

/// Pieces of output waiting for a slow client. A process whose client does not
/// read is stopped by its full pipe, as with any terminal.
const PIECES_MAX: usize = 16;
/// Bytes of input waiting for a slow process.
const INPUT_BYTES: usize = 64 << 10;
const PIECE: usize = 32 << 10;
/// Largest piece a shim sends.
const FRAME_BYTES_MAX: u32 = 16 << 20;

impl Engine {
    /// Connects to a container's main process. To one that is not started yet, it
    /// connects before the first byte is written.
    pub async fn container_attach(&self, name: &str, options: AttachOptions) -> Result<Attachment> {
        let container = self.containers.find(name)?;
        let (tty, open_stdin, status) = {
            let inner = container.lock();
            let config = &inner.record.config;
            (config.tty, config.open_stdin, inner.record.state.status)
        };
        let keys = DetachKeys::parse(options.detach_keys.as_deref().unwrap_or_default())?;
        match status {
            Status::Paused => {
                return Err(EngineError::conflict(format!(
                    "container {name} is paused, unpause the container before attach"
                )));
            }
            Status::Restarting => container.must_live()?,
            _ => {}
        }
        let wanted = ShimAttach {
            stdin: options.stdin && open_stdin,
            stdout: options.stdout,
            stderr: options.stderr,
        };
        let (sender, receiver) = mpsc::channel(PIECES_MAX);
        let (input, theirs) = match options.stream && wanted.stdin {
            true => {
                let (ours, theirs) = duplex(INPUT_BYTES);
                (Some(ours), Some(theirs))
            }
            false => (None, None),
        };
        // Connected before the log is read, so that nothing is missed in between.
        let ready = match (options.stream, status.is_live()) {
            (false, _) => None,
            (true, true) => {
                let stream =
                    shim_link::call(container.shim(), move |shim| shim.attach(wanted)).await?;
                Some(Ready::Now(shim_link::to_async(stream)?))
            }
            (true, false) => {
                let (tell, told) = oneshot::channel();
                container.lock().waiting.push(tell);
                Some(Ready::Later(told))
            }
        };
        // Who wants neither stream gets nothing, and no error.
        if options.logs && (options.stdout || options.stderr) {
            self.replay(&container, &options, &sender).await?;
        }
        let detached = CancellationToken::new();
        let engine = Arc::downgrade(&self.shared());
        let (target, keys) = (Arc::clone(&container), tty.then_some(keys));
        self.spawn(async move {
            let stream = match ready {
                None => return,
                Some(Ready::Now(stream)) => stream,
                Some(Ready::Later(told)) => {
                    // Dropping `go` lets the start go on.
                    let Ok(go) = told.await else { return };
                    let attached =
                        shim_link::call(target.shim(), move |shim| shim.attach(wanted)).await;
                    let stream = attached.and_then(shim_link::to_async);
                    drop(go);
                    match stream {
                        Ok(stream) => stream,
                        Err(error) => {
                            let _ = sender.send(Err(error)).await;
                            return;
                        }
                    }
                }
            };
            let token = detached.clone();
            tokio::select! {
                () = pump(stream, tty, sender, theirs, keys, token) => {}
                () = detached.cancelled() => {
                    if let Some(engine) = engine.upgrade() {
                        engine.container_event(&target, "detach", &[]);
                    }
                }
            }
        });
        self.container_event(&container, "attach", &[]);
        Ok(Attachment {
            tty,
            output: OutputStream::new(receiver),
            input: input.map(|input| Box::pin(input) as _),
        })
    }

    /// Sends what the log has so far.
    async fn replay(
        &self,
        container: &Container,
        options: &AttachOptions,
        sender: &mpsc::Sender<Result<OutputFrame>>,
    ) -> Result<()> {
        let logs = LogOptions {
            stdout: options.stdout,
            stderr: options.stderr,
            ..LogOptions::default()
        };
        let (_, mut lines) = self.container_logs(&container.id, logs).await?;
        let sender = sender.clone();
        self.spawn(async move {
            while let Some(Ok(line)) = lines.next().await {
                let frame = OutputFrame {
                    stream: line.stream,
                    data: line.line,
                };
                if sender.send(Ok(frame)).await.is_err() {
                    return;
                }
            }
        });
        Ok(())
    }

    /// Changes the size of a container's terminal.
    pub async fn container_resize(&self, name: &str, height: u32, width: u32) -> Result<()> {
        let container = self.containers.find(name)?;
        container.must_live()?;
        let Some(size) = spec::console_size(height, width) else {
            return Err(EngineError::invalid(format!(
                "invalid terminal size {width}x{height}"
            )));
        };
        shim_link::call(container.shim(), move |shim| shim.resize(None, size)).await?;
        self.container_event(
            &container,
            "resize",
            &[("height", height.to_string()), ("width", width.to_string())],
        );
        Ok(())
    }
}

enum Ready {
    Now(UnixStream),
    Later(oneshot::Receiver<super::AttachNow>),
}

/// Carries output to the client and input to the process until the output ends.
pub(super) async fn pump(
    stream: UnixStream,
    tty: bool,
    output: mpsc::Sender<Result<OutputFrame>>,
    input: Option<DuplexStream>,
    keys: Option<DetachKeys>,
    detached: CancellationToken,
) {
    let (reader, writer) = stream.into_split();
    let feed = async move {
        match input {
            Some(input) => feed(input, writer, keys, detached).await,
            // Without input the write side stays open: closing it means the end
            // of the process's standard input.
            None => {
                let _writer = writer;
                std::future::pending::<()>().await;
            }
        }
        // Input that ended does not end the output.
        std::future::pending::<()>().await;
    };
    let client = output.clone();
    tokio::select! {
        result = drain(reader, tty, &output) => {
            if let Err(error) = result {
                let _ = output.send(Err(error)).await;
            }
        }
        () = feed => {}
        () = client.closed() => {}
    }
}

/// Output to the client, taken apart unless it is a terminal's.
async fn drain(
    mut reader: OwnedReadHalf,
    tty: bool,
    output: &mpsc::Sender<Result<OutputFrame>>,
) -> Result<()> {
    let what = || "cannot read the container's output".to_owned();
    let mut buffer = BytesMut::with_capacity(PIECE);
    loop {
        buffer.reserve(PIECE);
        if reader.read_buf(&mut buffer).await.during(what)? == 0 {
            return Ok(());
        }
        while let Some(frame) = take(&mut buffer, tty)? {
            if output.send(Ok(frame)).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// The next whole piece of output in the buffer.
fn take(buffer: &mut BytesMut, tty: bool) -> Result<Option<OutputFrame>> {
    if tty {
        return Ok((!buffer.is_empty()).then(|| OutputFrame {
            stream: StdStream::Stdout,
            data: buffer.split().freeze(),
        }));
    }
    let Some(header) = buffer.get(..8) else {
        return Ok(None);
    };
    let header: [u8; 8] = header.try_into().expect("eight bytes were asked for");
    let (stream, length) = stdcopy::parse_header(header);
    if length > FRAME_BYTES_MAX {
        return Err(EngineError::internal("the container's output is garbled"));
    }
    let end = 8 + length as usize;
    if buffer.len() < end {
        buffer.reserve(end - buffer.len());
        return Ok(None);
    }
    let data: Bytes = buffer.split_to(end).freeze().slice(8..);
    Ok(Some(OutputFrame {
        stream: match stream {
            stdcopy::STDERR => StdStream::Stderr,
            _ => StdStream::Stdout,
        },
        data,
    }))
}

/// Input to the process; its end closes the process's standard input.
async fn feed(
    mut input: DuplexStream,
    mut writer: OwnedWriteHalf,
    mut keys: Option<DetachKeys>,
    detached: CancellationToken,
) {
    let mut buffer = vec![0; PIECE];
    loop {
        let count = match input.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        let (pass, detach) = match &mut keys {
            Some(keys) => keys.feed(&buffer[..count]),
            None => (buffer[..count].to_vec(), false),
        };
        if writer.write_all(&pass).await.is_err() {
            return;
        }
        if detach {
            detached.cancel();
            return;
        }
    }
    let _ = writer.shutdown().await;
}

/// Watches typed bytes for the sequence that detaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DetachKeys {
    sequence: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    /// Reads `ctrl-p,ctrl-q` and the like; empty is that default.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let text = if text.is_empty() {
            "ctrl-p,ctrl-q"
        } else {
            text
        };
        let mut sequence = Vec::new();
        for key in text.split(',') {
            let byte = match (key.as_bytes(), key.strip_prefix("ctrl-")) {
                ([byte], _) => *byte,
                (_, Some(key)) => match key.as_bytes() {
                    [letter @ b'a'..=b'z'] => letter - b'a' + 1,
                    [b'@'] => 0,
                    [symbol @ b'['..=b'_'] => symbol - b'[' + 27,
                    _ => return Err(invalid_keys(text)),
                },
                _ => return Err(invalid_keys(text)),
            };
            sequence.push(byte);
        }
        Ok(Self {
            sequence,
            matched: 0,
        })
    }

    /// What of the typed bytes goes to the process, and whether to detach.
    fn feed(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut pass = Vec::with_capacity(typed.len());
        for byte in typed {
            if *byte == self.sequence[self.matched] {
                self.matched += 1;
                if self.matched == self.sequence.len() {
                    self.matched = 0;
                    return (pass, true);
                }
                continue;
            }
            pass.extend_from_slice(&self.sequence[..self.matched]);
            self.matched = 0;
            if *byte == self.sequence[0] && self.sequence.len() > 1 {
                self.matched = 1;
            } else {
                pass.push(*byte);
            }
        }
        (pass, false)
    }
}

fn invalid_keys(text: &str) -> EngineError {
    EngineError::invalid(format!("Invalid detach keys ({text}) provided"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_detaches_and_everything_else_passes() {
        let mut keys = DetachKeys::parse("").unwrap();
        assert_eq!(keys.feed(b"ab"), (b"ab".to_vec(), false));
        assert_eq!(keys.feed(&[16]), (vec![], false));
        assert_eq!(keys.feed(b"x"), (vec![16, b'x'], false));
        assert_eq!(keys.feed(&[16, 16, 17]), (vec![16], true));
        let mut own = DetachKeys::parse("ctrl-@,x,ctrl-]").unwrap();
        assert_eq!(own.feed(&[0, b'x', 29]), (vec![], true));
        for wrong in ["ctrl-", "ctrl-1", "ab", "a,,b"] {
            assert!(DetachKeys::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn output_is_taken_apart_at_its_headers() {
        let mut buffer = BytesMut::new();
        buffer.extend_from_slice(&stdcopy::header(stdcopy::STDOUT, 2));
        buffer.extend_from_slice(b"hi");
        buffer.extend_from_slice(&stdcopy::header(stdcopy::STDERR, 3));
        buffer.extend_from_slice(b"no");
        let first = take(&mut buffer, false).unwrap().unwrap();
        assert_eq!(
            (first.stream, &first.data[..]),
            (StdStream::Stdout, &b"hi"[..])
        );
        assert_eq!(take(&mut buffer, false).unwrap(), None);
        buffer.extend_from_slice(b"!");
        let second = take(&mut buffer, false).unwrap().unwrap();
        assert_eq!(
            (second.stream, &second.data[..]),
            (StdStream::Stderr, &b"no!"[..])
        );
        buffer.extend_from_slice(&stdcopy::header(stdcopy::STDOUT, u32::MAX));
        assert!(take(&mut buffer, false).is_err());
    }
}
