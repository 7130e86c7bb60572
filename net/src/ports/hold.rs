//! The bound sockets that hold ports.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::Proto;

/// Whether the kernel has SCTP sockets.
pub(crate) fn speaks_sctp() -> bool {
    bind(Proto::Sctp, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)).is_ok()
}

/// Binds a port so that nobody else can have it, if nobody has it yet.
pub(super) fn bind(proto: Proto, address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let (kind, number) = match proto {
        Proto::Tcp => (libc::SOCK_STREAM, libc::IPPROTO_TCP),
        Proto::Udp => (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
        Proto::Sctp => (libc::SOCK_STREAM, libc::IPPROTO_SCTP),
    };
    // SAFETY: plain integers in; a non-negative result is a fresh descriptor that
    // nobody else owns.
    let socket = unsafe {
        let fd = libc::socket(family, kind | libc::SOCK_CLOEXEC, number);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    if address.is_ipv6() {
        option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    if proto == Proto::Udp {
        // Nobody reads from it; keep what gets lost in it small.
        option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, 1)?;
        return bind_to(&socket, address).map(|()| socket);
    }
    // Old connections of a program that has ended must not be in the way, but
    // listening programs must: so bind as servers do, listen for a moment to find
    // out, and stay bound alone. Connections are refused from then on.
    option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    bind_to(&socket, address)?;
    // SAFETY: listen and shutdown take an open descriptor and integers.
    unsafe {
        if libc::listen(socket.as_raw_fd(), 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        if proto == Proto::Tcp && libc::shutdown(socket.as_raw_fd(), libc::SHUT_RD) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 0)?;
    Ok(socket)
}

fn option(socket: &OwnedFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the value is a live integer of the size given; the kernel reads it.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(&value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn bind_to(socket: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    let rc = match address {
        SocketAddr::V4(address) => {
            let name = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from(*address.ip()).to_be(),
                },
                sin_zero: [0; 8],
            };
            let size = size_of_val(&name) as libc::socklen_t;
            // SAFETY: `name` is a whole address of the size given.
            unsafe { libc::bind(fd, std::ptr::from_ref(&name).cast(), size) }
        }
        SocketAddr::V6(address) => {
            let name = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr {
                    s6_addr: address.ip().octets(),
                },
                sin6_scope_id: 0,
            };
            let size = size_of_val(&name) as libc::socklen_t;
            // SAFETY: `name` is a whole address of the size given.
            unsafe { libc::bind(fd, std::ptr::from_ref(&name).cast(), size) }
        }
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
