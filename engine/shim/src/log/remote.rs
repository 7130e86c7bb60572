//! Logs that somebody else keeps: a syslog server or the journal of this host.
//!
//! Messages wait in a bounded queue, so that neither the container nor the shim ever
//! waits for them; what does not fit, or what nobody takes, is counted as lost.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Entry, Output, journal, syslog};
use crate::sys;

/// Bytes that may wait to be sent.
const QUEUE_BYTES_MAX: usize = 1 << 20;
/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Between two complaints about somebody who does not take it.
const TOLD_PERIOD: Duration = Duration::from_secs(600);
/// Between two attempts to connect again.
const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// Who keeps the log, and what each entry says about its container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemoteConfig {
    /// Docker's `syslog`.
    Syslog {
        address: Address,
        /// 0 (`kern`) to 23 (`local7`).
        facility: u8,
        #[serde(default)]
        format: SyslogFormat,
        tag: String,
        /// Name of this host in the formats that have one.
        hostname: String,
    },
    /// Docker's `journald`.
    Journal {
        socket: PathBuf,
        /// Fields of every entry, named as the journal wants them.
        fields: BTreeMap<String, String>,
    },
}

/// Where a syslog server listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    /// A socket of this host, of datagrams or else of a stream.
    Unix(PathBuf),
    Udp(SocketAddr),
    Tcp(SocketAddr),
}

impl fmt::Display for Address {
    /// As Go names a place to dial.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix {}", path.display()),
            Self::Udp(address) => write!(f, "udp {address}"),
            Self::Tcp(address) => write!(f, "tcp {address}"),
        }
    }
}

/// How a message is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyslogFormat {
    /// As local programs write to `/dev/log`: RFC 3164 without the host.
    #[default]
    Local,
    Rfc3164,
    /// With seconds.
    Rfc5424,
    /// With microseconds.
    Rfc5424Micro,
}

/// The way to whoever keeps the log.
enum Link {
    Down { retry: Instant },
    Connecting { socket: OwnedFd, until: Instant },
    Up(OwnedFd),
}

/// A log on its way.
pub struct Remote {
    config: RemoteConfig,
    link: Link,
    queue: VecDeque<Vec<u8>>,
    queued_bytes: usize,
    /// Bytes of the first message that a stream has taken already.
    sent: usize,
    lost: u64,
    /// When the last trouble was told.
    told: Option<Instant>,
}

impl Remote {
    /// Connects, so that a container with nobody to keep its log does not start.
    ///
    /// # Errors
    /// Nobody listens, or a TCP server does not answer within 5 s.
    pub fn open(config: RemoteConfig) -> io::Result<Self> {
        let mut remote = Self {
            link: Link::Down {
                retry: Instant::now(),
            },
            config,
            queue: VecDeque::new(),
            queued_bytes: 0,
            sent: 0,
            lost: 0,
            told: None,
        };
        remote.dial().map_err(|error| {
            let why = sys::errno_text(&error);
            io::Error::other(match &remote.config {
                RemoteConfig::Syslog { address, .. } => format!("dial {address}: connect: {why}"),
                RemoteConfig::Journal { socket, .. } => format!(
                    "journald is not enabled on this host ({}: {why})",
                    socket.display()
                ),
            })
        })?;
        Ok(remote)
    }

    /// Connects and waits until that is done.
    fn dial(&mut self) -> io::Result<()> {
        self.link = self.connect()?;
        if let Link::Connecting { socket, .. } = &self.link {
            sys::wait_writable(socket.as_fd(), CONNECT_MAX)?;
            sys::socket_error(socket.as_fd())?;
            self.connected();
        }
        Ok(())
    }

    /// Queues an entry.
    pub fn write(&mut self, output: Output, entry: &Entry<'_>) {
        let message = match &self.config {
            RemoteConfig::Syslog { .. } => syslog::message(&self.config, output, entry),
            RemoteConfig::Journal { fields, .. } => journal::message(fields, output, entry),
        };
        if self.queued_bytes + message.len() > QUEUE_BYTES_MAX {
            self.send();
        }
        if self.queued_bytes + message.len() > QUEUE_BYTES_MAX {
            self.lost += 1;
            return;
        }
        self.queued_bytes += message.len();
        self.queue.push_back(message);
    }

    /// Sends what can be sent now.
    pub fn send(&mut self) {
        while let (Link::Up(socket), Some(message)) = (&self.link, self.queue.front()) {
            match sys::send(socket.as_fd(), &message[self.sent..]) {
                Ok(count) if self.is_stream() && self.sent + count < message.len() => {
                    self.sent += count;
                }
                Ok(_) => self.take_first(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Too large for a datagram: nobody will ever take it.
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                    self.lost += 1;
                    self.take_first();
                }
                Err(error) => self.broken(&error),
            }
        }
        if self.queue.is_empty() {
            // A burst must not leave its memory behind.
            self.queue.shrink_to(16);
        }
    }

    /// The socket to wait for, if it is waited for.
    pub fn interest(&self) -> Option<BorrowedFd<'_>> {
        match &self.link {
            Link::Connecting { socket, .. } => Some(socket.as_fd()),
            Link::Up(socket) if !self.queue.is_empty() => Some(socket.as_fd()),
            _ => None,
        }
    }

    /// The socket became writable or broke.
    pub fn ready(&mut self) {
        if let Link::Connecting { socket, .. } = &self.link {
            match sys::socket_error(socket.as_fd()) {
                Ok(()) => self.connected(),
                Err(error) => self.broken(&error),
            }
        }
        self.send();
    }

    /// Sends, and connects again when it is time.
    pub fn tick(&mut self, now: Instant) {
        match &self.link {
            Link::Down { retry } if *retry <= now && !self.queue.is_empty() => {
                match self.connect() {
                    Ok(link) => self.link = link,
                    Err(error) => self.broken(&error),
                }
            }
            Link::Connecting { until, .. } if *until <= now => {
                self.broken(&io::ErrorKind::TimedOut.into());
            }
            _ => {}
        }
        self.send();
    }

    /// When [`Remote::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        match &self.link {
            Link::Down { retry } if !self.queue.is_empty() => Some(*retry),
            Link::Connecting { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// Whether all was sent.
    pub fn is_drained(&self) -> bool {
        self.queue.is_empty()
    }

    /// Entries that nobody took.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn take_first(&mut self) {
        if let Some(message) = self.queue.pop_front() {
            self.queued_bytes -= message.len();
        }
        self.sent = 0;
    }

    fn is_stream(&self) -> bool {
        matches!(&self.link, Link::Up(socket) if sys::is_stream(socket.as_fd()))
    }

    fn connected(&mut self) {
        let down = Link::Down {
            retry: Instant::now(),
        };
        self.link = match std::mem::replace(&mut self.link, down) {
            Link::Connecting { socket, .. } => Link::Up(socket),
            other => other,
        };
    }

    /// The link is gone. A message that was taken in part is lost: sent again it
    /// would be there one and a half times.
    fn broken(&mut self, error: &io::Error) {
        let now = Instant::now();
        if self.told.is_none_or(|told| now - told > TOLD_PERIOD) {
            eprintln!("sending the log: {error}");
            self.told = Some(now);
        }
        if self.sent > 0 {
            self.lost += 1;
            self.take_first();
        }
        self.link = Link::Down {
            retry: now + RETRY_PERIOD,
        };
    }

    fn connect(&self) -> io::Result<Link> {
        let address = match &self.config {
            RemoteConfig::Syslog { address, .. } => address,
            RemoteConfig::Journal { socket, .. } => {
                return sys::connect_unix(socket, false).map(Link::Up);
            }
        };
        match address {
            Address::Unix(path) => sys::connect_unix(path, false)
                .or_else(|error| match error.raw_os_error() {
                    Some(libc::EPROTOTYPE) => sys::connect_unix(path, true),
                    _ => Err(error),
                })
                .map(Link::Up),
            Address::Udp(address) => {
                let any = match address {
                    SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
                    SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
                };
                let socket = UdpSocket::bind(any)?;
                socket.connect(address)?;
                socket.set_nonblocking(true)?;
                Ok(Link::Up(socket.into()))
            }
            Address::Tcp(address) => Ok(Link::Connecting {
                socket: sys::begin_connect(*address)?,
                until: Instant::now() + CONNECT_MAX,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    fn entry(text: &str) -> Entry<'_> {
        Entry {
            text: text.as_bytes(),
            whole: true,
            time: "2025-01-01T00:00:00Z",
        }
    }

    fn syslog_to(address: Address) -> RemoteConfig {
        RemoteConfig::Syslog {
            address,
            facility: 3,
            format: SyslogFormat::Rfc5424,
            tag: "web".into(),
            hostname: "host".into(),
        }
    }

    fn until(what: &str, mut done: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !done() {
            assert!(Instant::now() < end, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_server_that_comes_back_is_found_again_and_nothing_waiting_is_lost() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut remote = Remote::open(syslog_to(Address::Tcp(address))).unwrap();
        remote.write(Output::Stdout, &entry("first"));
        remote.send();
        let (mut server, _) = listener.accept().unwrap();
        let mut bytes = [0; 512];
        let count = server.read(&mut bytes).unwrap();
        assert!(bytes[..count].ends_with(b"first\n"));
        drop((server, listener));
        // The kernel says so only after a first message into the void.
        until("the loss", || {
            remote.write(Output::Stdout, &entry("gone"));
            remote.send();
            matches!(remote.link, Link::Down { .. })
        });
        remote.write(Output::Stderr, &entry("later"));
        let listener = TcpListener::bind(address).unwrap();
        until("the next attempt", || {
            remote.tick(Instant::now());
            if remote.interest().is_some() {
                remote.ready();
            }
            remote.is_drained()
        });
        let (mut server, _) = listener.accept().unwrap();
        drop(remote);
        let mut text = String::new();
        server.read_to_string(&mut text).unwrap();
        assert!(text.ends_with("later\n"), "{text}");
    }

    #[test]
    fn a_keeper_that_takes_nothing_holds_nobody_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let keeper = UnixDatagram::bind(&path).unwrap();
        let mut remote = Remote::open(syslog_to(Address::Unix(path))).unwrap();
        let text = "x".repeat(8 << 10);
        for _ in 0..1000 {
            remote.write(Output::Stdout, &entry(&text));
        }
        assert!(remote.lost() > 0);
        assert!(remote.queued_bytes <= QUEUE_BYTES_MAX);
        // It takes them again: what waited arrives.
        let mut bytes = vec![0; 64 << 10];
        let mut arrived = 0;
        keeper.set_nonblocking(true).unwrap();
        until("the queue", || {
            while keeper.recv(&mut bytes).is_ok() {
                arrived += 1;
            }
            remote.send();
            remote.is_drained()
        });
        while keeper.recv(&mut bytes).is_ok() {
            arrived += 1;
        }
        assert_eq!(arrived + remote.lost(), 1000);
    }

    #[test]
    fn a_keeper_that_accepts_nobody_is_an_error_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let _keeper = UnixListener::bind(&path).unwrap();
        let waiting: Vec<_> = std::iter::from_fn(|| sys::connect_unix(&path, true).ok())
            .take(10_000)
            .collect();
        assert!(waiting.len() < 10_000, "the backlog has no end");
        assert!(Remote::open(syslog_to(Address::Unix(path))).is_err());
    }

    #[test]
    fn nobody_there_is_an_error_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let nowhere = Address::Unix(directory.path().join("log"));
        assert!(Remote::open(syslog_to(nowhere)).is_err());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert!(Remote::open(syslog_to(Address::Tcp(address))).is_err());
    }
}
