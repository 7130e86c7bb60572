//! One client of the control socket.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::ProcessKey;
use crate::protocol::AttachOptions;

/// A client that has this much unread output holds up the container's output.
pub const OUTBOX_BYTES_HIGH: usize = 1 << 20;
/// A client that has this much unread is let go; only reached in the short time
/// after the container's end, when nothing is held up any more.
pub const OUTBOX_BYTES_MAX: usize = 8 << 20;

/// What a connection is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sends requests.
    Control,
    /// Waits for the end of the container.
    WaitsForEnd,
    /// Waits for an exec it asked for to become its program, which then attaches
    /// it. What it sends meanwhile is left in the socket.
    StartsExec,
    /// Waits for the end of an exec.
    WaitsForExec(String),
    /// Carries the streams of a process.
    Attached {
        process: ProcessKey,
        options: AttachOptions,
    },
    /// Hears events.
    Subscribed,
}

/// A connected client.
pub struct Connection {
    socket: UnixStream,
    /// Bytes of a request that is not complete yet.
    pub inbox: Vec<u8>,
    outbox: VecDeque<u8>,
    pub role: Role,
    /// The client will send no more.
    pub input_ended: bool,
    /// The client is gone, but what it sent before is not all taken.
    pub hung_up: bool,
    /// To be closed when all is sent.
    pub finishing: bool,
    /// Since when it takes nothing although there is something.
    pub stalled_since: Option<Instant>,
}

impl Connection {
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            inbox: Vec::new(),
            outbox: VecDeque::new(),
            role: Role::Control,
            input_ended: false,
            hung_up: false,
            finishing: false,
            stalled_since: None,
        })
    }

    /// Bytes the client has not taken yet.
    pub fn unsent(&self) -> usize {
        self.outbox.len()
    }

    /// Queues bytes for the client.
    pub fn send(&mut self, bytes: &[u8]) {
        self.outbox.extend(bytes);
    }

    /// Sends what the client takes now. An error means that it is gone.
    pub fn flush(&mut self, now: Instant) -> io::Result<()> {
        while !self.outbox.is_empty() {
            let (front, _) = self.outbox.as_slices();
            match self.socket.write(front) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.outbox.drain(..count);
                    self.stalled_since = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stalled_since.get_or_insert(now);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // A burst must not leave its memory behind.
        self.outbox = VecDeque::new();
        Ok(())
    }

    /// Reads what the client sent; 0 is its end, `None` that there is nothing now.
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.socket.read(buffer) {
            Ok(count) => Ok(Some(count)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether it wants this kind of output of this process.
    pub fn wants(&self, process: ProcessKey, output: crate::log::Output) -> bool {
        match &self.role {
            Role::Attached {
                process: attached,
                options,
            } => {
                *attached == process
                    && match output {
                        crate::log::Output::Stdout => options.stdout,
                        crate::log::Output::Stderr => options.stderr,
                    }
            }
            _ => false,
        }
    }

    /// The process whose standard input it feeds.
    pub fn feeds(&self) -> Option<ProcessKey> {
        match &self.role {
            Role::Attached { process, options } if options.stdin => Some(*process),
            _ => None,
        }
    }

    /// Whether the other side may ask us anything: the daemon's user only.
    pub fn is_ours(&self) -> bool {
        use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
        let own = nix::unistd::geteuid().as_raw();
        getsockopt(&self.socket, PeerCredentials)
            .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
