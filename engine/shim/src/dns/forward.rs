//! One question on its way to the host's resolvers and back.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::sys;

/// How long one resolver may take before the next is asked.
const TRY_TIMEOUT: Duration = Duration::from_secs(2);
/// How often each resolver is asked.
pub const ROUNDS: usize = 2;
/// Who gets an answer.
#[derive(Clone, Copy, Debug)]
pub enum Asker {
    Udp(SocketAddr),
    Client(u32),
}

/// A question on its way to the host's resolvers.
pub struct Forward {
    pub asker: Asker,
    /// As the container asked it.
    pub query: Vec<u8>,
    /// As the resolver sees it, under another id.
    pub asked: Vec<u8>,
    pub link: Link,
    /// Which attempt this is; the resolver is this modulo their number.
    pub attempt: usize,
    pub deadline: Instant,
}

/// The way to a resolver.
pub enum Link {
    Udp(UdpSocket),
    Tcp {
        stream: TcpStream,
        outbox: Vec<u8>,
        inbox: Vec<u8>,
    },
}

impl Forward {
    /// Asks the resolver whose turn it is, skipping those that cannot be reached at
    /// all. Gives the question back when there is none left.
    pub fn begin(
        asker: Asker,
        query: Vec<u8>,
        upstreams: &[SocketAddr],
        mut attempt: usize,
        now: Instant,
    ) -> Result<Self, (Asker, Vec<u8>)> {
        while attempt < ROUNDS * upstreams.len() {
            // A new socket and id for each try: port and id together are what a
            // forger would have to guess.
            let asked = skep_dns::with_id(&query, sys::random_u64() as u16);
            let upstream = upstreams[attempt % upstreams.len()];
            let link = match asker {
                Asker::Udp(_) => Link::udp(upstream, &asked),
                Asker::Client(_) => Link::tcp(upstream, &asked),
            };
            if let Ok(link) = link {
                return Ok(Self {
                    asker,
                    query,
                    asked,
                    link,
                    attempt,
                    deadline: now + TRY_TIMEOUT,
                });
            }
            attempt += 1;
        }
        Err((asker, query))
    }

    /// An answer, if it is there whole.
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<Vec<u8>>> {
        let would_block = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        match &mut self.link {
            Link::Udp(socket) => match socket.recv(buffer) {
                Ok(length) => Ok(Some(buffer[..length].to_vec())),
                Err(error) if would_block(&error) => Ok(None),
                Err(error) => Err(error),
            },
            Link::Tcp {
                stream,
                outbox,
                inbox,
            } => {
                if !outbox.is_empty() {
                    match stream.write(outbox) {
                        Ok(count) => drop(outbox.drain(..count)),
                        Err(error)
                            if would_block(&error)
                                || error.kind() == io::ErrorKind::NotConnected => {}
                        Err(error) => return Err(error),
                    }
                }
                match stream.read(buffer) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(length) => inbox.extend_from_slice(&buffer[..length]),
                    Err(error)
                        if would_block(&error) || error.kind() == io::ErrorKind::NotConnected => {}
                    Err(error) => return Err(error),
                }
                Ok(take_message(inbox))
            }
        }
    }
}

impl Link {
    fn udp(upstream: SocketAddr, query: &[u8]) -> io::Result<Self> {
        let any: SocketAddr = if upstream.is_ipv4() {
            ([0; 4], 0).into()
        } else {
            ([0_u16; 8], 0).into()
        };
        let socket = UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        socket.connect(upstream)?;
        socket.send(query)?;
        Ok(Self::Udp(socket))
    }

    fn tcp(upstream: SocketAddr, query: &[u8]) -> io::Result<Self> {
        use nix::errno::Errno;
        use nix::sys::socket::{
            AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket,
        };
        use std::os::fd::AsRawFd as _;
        let family = if upstream.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd: OwnedFd = socket(family, SockType::Stream, flags, None)?;
        match connect(fd.as_raw_fd(), &SockaddrStorage::from(upstream)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let length = u16::try_from(query.len()).map_err(io::Error::other)?;
        let mut outbox = length.to_be_bytes().to_vec();
        outbox.extend_from_slice(query);
        Ok(Self::Tcp {
            stream: TcpStream::from(fd),
            outbox,
            inbox: Vec::new(),
        })
    }
}

/// Takes one message with its length before it.
pub fn take_message(inbox: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes(inbox.get(..2)?.try_into().ok()?));
    let message = inbox.get(2..2 + length)?.to_vec();
    inbox.drain(..2 + length);
    Some(message)
}
