//! Whether frames reach the other nodes: every overlay is tried from end to end, with a frame of
//! any size and with one as large as the network allows.

use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::host::lock;
use crate::names::{self, INGRESS_DEVICE, OVERLAY_BRIDGE};
use crate::plan::path;
use crate::view::NsKey;
use crate::{Host, NetError};

/// Headers of IPv6 and of an ICMPv6 echo (RFC 4443 §4.1).
const HEADERS: usize = 40 + 8;
const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;
/// Bytes that say which probe it is.
const TOKEN: usize = 8;
/// Nodes that one network is tried towards.
const PROBES_MAX: usize = 4096;
/// Nodes that are asked before answers are taken again.
const BATCH: usize = 32;
/// Bytes of answers that may wait: of one batch from every node, and of strangers.
const BUFFER: libc::c_int = 4 << 20;

/// A way from this node to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path {
    /// The overlay's id; empty for the ingress network.
    pub network: String,
    /// Cluster-wide number of the other node.
    pub node: u16,
}

/// What came back on one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// A small frame came back.
    pub small: bool,
    /// A frame of the network's full size came back.
    pub full: bool,
}

/// One network's socket and who is asked through it.
struct Ground {
    network: String,
    key: NsKey,
    device: &'static str,
    mtu: u32,
    peers: Vec<(u16, Ipv6Addr)>,
}

impl Host {
    /// Tries every way to the other nodes that the last state had, and waits at most `patience`
    /// for the answers. `tag` tells the probes of this call from others. Empty where this host
    /// has no IPv6: the probes are IPv6 inside the networks, whatever is outside.
    pub fn try_paths(
        &self,
        tag: u16,
        patience: Duration,
    ) -> Result<BTreeMap<Path, Heard>, NetError> {
        let mut heard = BTreeMap::new();
        let mut sockets = Vec::new();
        for ground in self.grounds() {
            let opened = self
                .ground
                .open(&ground.key)
                .and_then(|netns| netns.run(|| open(ground.device)));
            let Ok(Ok((socket, scope))) = opened else {
                // The network is being taken down, or not up yet.
                continue;
            };
            // Grounds that are asked already go on answering meanwhile.
            sockets.push((ground.network.clone(), socket));
            for (count, (node, address)) in ground.peers.iter().take(PROBES_MAX).enumerate() {
                if count % BATCH == 0 {
                    take(&sockets, tag, &mut heard);
                }
                let path = Path {
                    network: ground.network.clone(),
                    node: *node,
                };
                heard.insert(path, Heard::default());
                for is_full in [false, true] {
                    let length = match is_full {
                        true => (ground.mtu as usize).saturating_sub(HEADERS).max(TOKEN),
                        false => TOKEN,
                    };
                    let message = request(tag, *node, is_full, length);
                    // One that cannot be sent is one that does not come back.
                    if let Some((_, socket)) = sockets.last() {
                        let _ = send(socket, *address, scope, &message);
                    }
                }
            }
        }
        collect(&sockets, tag, Instant::now() + patience, &mut heard);
        Ok(heard)
    }

    fn grounds(&self) -> Vec<Ground> {
        if !self.capabilities().ipv6 {
            return Vec::new();
        }
        let cluster = lock(&self.cluster);
        let Some(state) = cluster.state() else {
            return Vec::new();
        };
        let own = state.node.index;
        let mut grounds: Vec<Ground> = state
            .overlays
            .iter()
            .map(|overlay| Ground {
                network: overlay.id.clone(),
                key: NsKey::Pinned(names::overlay_netns(&overlay.id)),
                device: OVERLAY_BRIDGE,
                mtu: overlay.mtu,
                peers: path::peers(overlay, own)
                    .into_keys()
                    .map(|node| (node, path::address(node)))
                    .collect(),
            })
            .collect();
        let has_ingress6 = state
            .node
            .ingress
            .as_ref()
            .is_some_and(|own| own.ip6.is_some());
        if has_ingress6 {
            let peers = state.peers.iter();
            grounds.push(Ground {
                network: String::new(),
                key: NsKey::Root,
                device: INGRESS_DEVICE,
                mtu: state.node.ingress_mtu,
                peers: peers
                    .filter_map(|peer| Some((peer.index, peer.ingress_ip6?)))
                    .collect(),
            });
        }
        grounds.retain(|ground| !ground.peers.is_empty());
        grounds
    }
}

/// A raw ICMPv6 socket on a device of the calling thread's namespace, and the device's index.
fn open(device: &str) -> io::Result<(OwnedFd, u32)> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain calls of the kernel; the descriptor is owned from here on.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_INET6, kind, libc::IPPROTO_ICMPV6);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let name = std::ffi::CString::new(device)?;
    // SAFETY: `name` is a C string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    // Bound to the device: answers of other networks are none of ours.
    let bytes = name.as_bytes_with_nul();
    // SAFETY: the pointer and the length are those of `bytes`.
    let bound = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            bytes.as_ptr().cast(),
            bytes.len() as libc::socklen_t,
        )
    };
    if bound != 0 {
        return Err(io::Error::last_os_error());
    }
    // Beyond what the system allows everybody, if we may; as much as there is, if not.
    let size = BUFFER;
    for option in [libc::SO_RCVBUFFORCE, libc::SO_RCVBUF] {
        // SAFETY: pointer and length are those of `size`.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const size).cast(),
                size_of_val(&size) as libc::socklen_t,
            )
        };
        if set == 0 {
            break;
        }
    }
    Ok((socket, index))
}

/// An echo request; the kernel fills in its checksum.
fn request(tag: u16, node: u16, is_full: bool, length: usize) -> Vec<u8> {
    let [tag_high, tag_low] = tag.to_be_bytes();
    let [high, low] = node.to_be_bytes();
    let mut message = vec![ECHO_REQUEST, 0, 0, 0, tag_high, tag_low, 0, 0];
    message.extend([b's', b'k', b'e', b'p', high, low, u8::from(is_full), 0]);
    message.resize(8 + length, 0x55);
    message
}

/// Which probe an answer belongs to.
fn answered(message: &[u8], tag: u16) -> Option<(u16, bool)> {
    let [
        ECHO_REPLY,
        0,
        _,
        _,
        high,
        low,
        _,
        _,
        b's',
        b'k',
        b'e',
        b'p',
        node_high,
        node_low,
        full,
        ..,
    ] = *message
    else {
        return None;
    };
    (u16::from_be_bytes([high, low]) == tag)
        .then(|| (u16::from_be_bytes([node_high, node_low]), full == 1))
}

fn send(socket: &OwnedFd, to: Ipv6Addr, scope: u32, message: &[u8]) -> io::Result<()> {
    // SAFETY: all zeros is a valid value of this plain structure.
    let mut address: libc::sockaddr_in6 = unsafe { mem::zeroed() };
    address.sin6_family = libc::AF_INET6 as libc::sa_family_t;
    address.sin6_addr.s6_addr = to.octets();
    address.sin6_scope_id = if to.is_unicast_link_local() { scope } else { 0 };
    // SAFETY: pointers and lengths are those of `message` and `address`.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            message.as_ptr().cast(),
            message.len(),
            0,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_in6>() as libc::socklen_t,
        )
    };
    match sent {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Takes answers until all have come or time is up.
fn collect(
    sockets: &[(String, OwnedFd)],
    tag: u16,
    until: Instant,
    heard: &mut BTreeMap<Path, Heard>,
) {
    loop {
        take(sockets, tag, heard);
        let is_complete = heard.values().all(|heard| heard.small && heard.full);
        let left = until.saturating_duration_since(Instant::now());
        if is_complete || left.is_zero() {
            return;
        }
        let mut polled: Vec<libc::pollfd> = sockets
            .iter()
            .map(|(_, socket)| libc::pollfd {
                fd: socket.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            })
            .collect();
        let wait = i32::try_from(left.as_millis()).unwrap_or(i32::MAX).max(1);
        // SAFETY: pointer and length are those of `polled`.
        let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, wait) };
        if ready < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return;
        }
    }
}

/// Takes the answers that have come.
fn take(sockets: &[(String, OwnedFd)], tag: u16, heard: &mut BTreeMap<Path, Heard>) {
    for (network, socket) in sockets {
        while let Some((node, is_full)) = receive(socket, tag) {
            let path = Path {
                network: network.clone(),
                node,
            };
            let Some(heard) = heard.get_mut(&path) else {
                continue;
            };
            match is_full {
                true => heard.full = true,
                false => heard.small = true,
            }
        }
    }
}

/// The next answer that has arrived; strangers' messages are passed over.
fn receive(socket: &OwnedFd, tag: u16) -> Option<(u16, bool)> {
    let mut bytes = [0u8; 64];
    loop {
        // SAFETY: pointer and length are those of `bytes`; what does not fit is dropped.
        let count = unsafe {
            libc::recv(
                socket.as_raw_fd(),
                bytes.as_mut_ptr().cast(),
                bytes.len(),
                libc::MSG_DONTWAIT,
            )
        };
        let count = usize::try_from(count).ok()?;
        if let Some(probe) = answered(&bytes[..count.min(bytes.len())], tag) {
            return Some(probe);
        }
    }
}

/// Where a path leads, for messages.
impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.network.as_str() {
            "" => write!(f, "node {} through the ingress network", self.node),
            network => write!(f, "node {} through network {network}", self.node),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_from_what_others_ask_and_answer() {
        let mut message = request(7, 300, true, 20);
        assert_eq!(message.len(), 28);
        assert_eq!(answered(&message, 7), None, "a request is no answer");
        message[0] = ECHO_REPLY;
        assert_eq!(answered(&message, 7), Some((300, true)));
        assert_eq!(answered(&message, 8), None, "another's probe");
        assert_eq!(answered(&message[..12], 7), None);
        let address: std::net::IpAddr = path::address(1).into();
        assert_eq!(address.to_string(), "fe80::534b:1");
        assert_eq!(path::mac(258).to_string(), "02:53:4b:00:01:02");
    }
}
