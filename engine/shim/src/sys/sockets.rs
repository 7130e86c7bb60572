//! Sockets that never hold their caller up, and the time of day people here read.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, UnixAddr, connect, getsockopt,
    socket, sockopt,
};

/// Begins a TCP connection; writable means that it is made or has failed, which
/// [`socket_error`] tells.
pub fn begin_connect(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let stream = socket(family, SockType::Stream, flags, None)?;
    match connect(stream.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(stream),
        Err(error) => Err(error.into()),
    }
}

/// Connects to a socket of this host, of a stream or of datagrams, without waiting: one
/// whose queue is full is an error.
pub fn connect_unix(path: &Path, stream: bool) -> io::Result<OwnedFd> {
    let kind = match stream {
        true => SockType::Stream,
        false => SockType::Datagram,
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, kind, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

/// Waits until a socket can be written to.
///
/// # Errors
/// `TimedOut` after `timeout`.
pub fn wait_writable(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
    let mut wanted = [PollFd::new(fd, PollFlags::POLLOUT)];
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    match poll(&mut wanted, timeout)? {
        0 => Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
        _ => Ok(()),
    }
}

/// What has happened to a socket since it was last asked.
pub fn socket_error(fd: BorrowedFd<'_>) -> io::Result<()> {
    match getsockopt(&fd, sockopt::SocketError)? {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

/// Sends what the kernel takes now; a reader that is gone is an error and no signal.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    Ok(nix::sys::socket::send(fd.as_raw_fd(), bytes, flags)?)
}

/// Whether a socket carries a stream, and not messages.
pub fn is_stream(fd: impl AsFd) -> bool {
    getsockopt(&fd.as_fd(), sockopt::SockType).is_ok_and(|kind| kind == SockType::Stream)
}

/// A moment, in seconds since 1970, in the time zone of this host.
pub fn local_time(seconds: i64) -> libc::tm {
    // SAFETY: all zero is a valid tm, and a null zone name is one.
    let mut local: libc::tm = unsafe { mem::zeroed() };
    // SAFETY: both pointers are to live values of their types.
    unsafe { libc::localtime_r(&raw const seconds, &raw mut local) };
    local
}
