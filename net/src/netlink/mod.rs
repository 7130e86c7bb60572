//! Speaking to the kernel: rtnetlink, the netlink socket and connection tracking.

pub(crate) mod conntrack;
pub(crate) mod entry;
pub(crate) mod link;
pub(crate) mod socket;
pub(crate) mod wire;
pub(crate) mod wireguard;

use std::io;

use socket::Socket;

/// Brings up the loopback interface of this thread's namespace.
pub(crate) fn loopback_up() -> io::Result<()> {
    // The loopback is the first device of every namespace.
    let up = link::Change {
        up: true,
        ..link::Change::default()
    };
    Socket::open(libc::NETLINK_ROUTE)?
        .request(link::change(1, &up))
        .map_err(|error| io::Error::from_raw_os_error(error.errno))
}
