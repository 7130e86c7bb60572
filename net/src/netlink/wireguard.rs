//! The kernel's WireGuard: its devices are links, their configuration has a family
//! of generic netlink of its own (`linux/wireguard.h`).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use skep_wg::uapi::{Config, PeerConfig};
use skep_wg::{PrivateKey, PublicKey};

use super::socket::{Socket, errno};
use super::wire::{self, ACK, Message};
use crate::KernelError;

const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

const WG_CMD_GET_DEVICE: u8 = 0;
const WG_CMD_SET_DEVICE: u8 = 1;
const VERSION: u8 = 1;

const DEVICE_IFNAME: u16 = 2;
const DEVICE_PRIVATE_KEY: u16 = 3;
const DEVICE_LISTEN_PORT: u16 = 6;
const DEVICE_PEERS: u16 = 8;

const PEER_PUBLIC_KEY: u16 = 1;
const PEER_FLAGS: u16 = 3;
const PEER_ENDPOINT: u16 = 4;
const PEER_KEEPALIVE: u16 = 5;
const PEER_ALLOWED_IPS: u16 = 9;
const FLAG_REMOVE: u32 = 1;
const FLAG_REPLACE_ALLOWED: u32 = 2;

const ALLOWED_FAMILY: u16 = 1;
const ALLOWED_ADDRESS: u16 = 2;
const ALLOWED_PREFIX: u16 = 3;

/// Peers in one message: far below what an attribute's 16-bit length holds.
const PEERS_PER_MESSAGE: usize = 200;
/// Length of a generic netlink header.
const GENL_HEADER: usize = 4;

/// A generic netlink socket that knows the family's number.
pub(crate) struct Wireguard {
    socket: Socket,
    family: u16,
}

impl Wireguard {
    /// Asks for the family in the socket's namespace; fails where there is none.
    pub fn open(mut socket: Socket) -> Result<Self, KernelError> {
        let ask = Message::new(GENL_ID_CTRL, 0, &header(CTRL_CMD_GETFAMILY))
            .str(CTRL_ATTR_FAMILY_NAME, "wireguard");
        let answer = socket.ask(ask)?;
        let family = answer
            .get(GENL_HEADER..)
            .and_then(|attributes| wire::find(attributes, CTRL_ATTR_FAMILY_ID))
            .and_then(|value| wire::u16_at(value, 0))
            .ok_or_else(|| errno(libc::EPROTO))?;
        Ok(Self { socket, family })
    }

    /// The configuration of a device.
    pub fn get(&mut self, name: &str) -> Result<Config, KernelError> {
        let ask = Message::new(self.family, 0, &header(WG_CMD_GET_DEVICE)).str(DEVICE_IFNAME, name);
        let mut parts = self.socket.dump(&ask, |payload| {
            Some(parse(payload.get(GENL_HEADER..).unwrap_or_default()))
        })?;
        // A long list of peers, or of one peer's addresses, comes in several parts.
        let mut config = Config::default();
        let mut peers: BTreeMap<PublicKey, PeerConfig> = BTreeMap::new();
        for part in &mut parts {
            config.private_key = config.private_key.or(part.private_key.take());
            config.listen_port = config.listen_port.or(part.listen_port);
            for peer in part.peers.drain(..) {
                let known = peers.entry(peer.public_key).or_insert_with(|| peer.clone());
                known.endpoint = known.endpoint.or(peer.endpoint);
                known.allowed = known.allowed.or(peer.allowed);
            }
        }
        config.peers = peers.into_values().collect();
        Ok(config)
    }

    /// Changes the configuration of a device. Peers are greeted, so that whichever
    /// end learns of the other last makes the session: the first keepalive is sent
    /// at once, and there are no further ones.
    pub fn set(&mut self, name: &str, config: &Config) -> Result<(), KernelError> {
        for message in spell(self.family, name, config) {
            self.socket.request(message)?;
        }
        Ok(())
    }
}

fn header(command: u8) -> [u8; GENL_HEADER] {
    [command, VERSION, 0, 0]
}

fn spell(family: u16, name: &str, config: &Config) -> Vec<Message> {
    let device = || Message::new(family, ACK, &header(WG_CMD_SET_DEVICE)).str(DEVICE_IFNAME, name);
    let mut messages = Vec::new();
    if config.private_key.is_some() || config.listen_port.is_some() {
        let head = device()
            .with(config.private_key.as_ref(), |m, key| {
                m.attr(DEVICE_PRIVATE_KEY, key.bytes())
            })
            .with(config.listen_port, |m, port| {
                m.u16(DEVICE_LISTEN_PORT, port)
            });
        messages.push(head);
    }
    for peers in config.peers.chunks(PEERS_PER_MESSAGE) {
        for greet in [true, false] {
            let kept = peers.iter().filter(|peer| greet || !peer.remove);
            messages.push(device().nest(DEVICE_PEERS, |m| {
                m.each(kept, |m, peer| m.nest(0, |m| spell_peer(m, peer, greet)))
            }));
        }
    }
    messages
}

fn spell_peer(m: Message, peer: &PeerConfig, greet: bool) -> Message {
    let m = m.attr(PEER_PUBLIC_KEY, peer.public_key.bytes());
    if peer.remove {
        return m.u32(PEER_FLAGS, FLAG_REMOVE);
    }
    if !greet {
        return m.u16(PEER_KEEPALIVE, 0);
    }
    m.u32(PEER_FLAGS, FLAG_REPLACE_ALLOWED)
        .with(peer.endpoint, |m, endpoint| {
            m.attr(PEER_ENDPOINT, &socket_address(endpoint))
        })
        .with(peer.allowed, |m, allowed| {
            m.nest(PEER_ALLOWED_IPS, |m| {
                m.nest(0, |m| {
                    m.u16(ALLOWED_FAMILY, u16::from(wire::family_of(allowed)))
                        .ip(ALLOWED_ADDRESS, allowed)
                        .u8(ALLOWED_PREFIX, if allowed.is_ipv4() { 32 } else { 128 })
                })
            })
        })
        .u16(PEER_KEEPALIVE, 1)
}

/// `struct sockaddr_in` or `sockaddr_in6`.
fn socket_address(address: SocketAddr) -> Vec<u8> {
    let mut bytes = u16::from(wire::family_of(address.ip()))
        .to_ne_bytes()
        .to_vec();
    bytes.extend(address.port().to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => {
            bytes.extend(ip.octets());
            bytes.extend([0; 8]);
        }
        IpAddr::V6(ip) => {
            bytes.extend([0; 4]);
            bytes.extend(ip.octets());
            bytes.extend([0; 4]);
        }
    }
    bytes
}

fn socket_address_of(bytes: &[u8]) -> Option<SocketAddr> {
    let port = wire::be16_of(bytes.get(2..)?)?;
    let ip = match i32::from(wire::u16_at(bytes, 0)?) {
        libc::AF_INET => {
            let octets: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            IpAddr::V4(Ipv4Addr::from(octets))
        }
        libc::AF_INET6 => {
            let octets: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn key_of(bytes: &[u8]) -> Option<[u8; 32]> {
    bytes.try_into().ok()
}

/// One part of an answer, without the header.
fn parse(attributes: &[u8]) -> Config {
    let get = |kind| wire::find(attributes, kind);
    let peers = wire::attributes(get(DEVICE_PEERS).unwrap_or_default());
    Config {
        private_key: get(DEVICE_PRIVATE_KEY)
            .and_then(key_of)
            // A device without a key shows zeros.
            .filter(|bytes| *bytes != [0; 32])
            .map(PrivateKey::new),
        listen_port: get(DEVICE_LISTEN_PORT).and_then(|value| wire::u16_at(value, 0)),
        peers: peers.filter_map(|(_, peer)| parse_peer(peer)).collect(),
    }
}

fn parse_peer(peer: &[u8]) -> Option<PeerConfig> {
    let allowed = wire::find(peer, PEER_ALLOWED_IPS).unwrap_or_default();
    let first = wire::attributes(allowed).next();
    Some(PeerConfig {
        public_key: PublicKey::new(key_of(wire::find(peer, PEER_PUBLIC_KEY)?)?),
        remove: false,
        endpoint: wire::find(peer, PEER_ENDPOINT).and_then(socket_address_of),
        allowed: first
            .and_then(|(_, address)| wire::find(address, ALLOWED_ADDRESS))
            .and_then(wire::ip_of),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8, endpoint: &str, remove: bool) -> PeerConfig {
        PeerConfig {
            public_key: PublicKey::new([number; 32]),
            remove,
            endpoint: (!remove).then(|| endpoint.parse().unwrap()),
            allowed: (!remove).then(|| IpAddr::from([198, 18, 0, number])),
        }
    }

    fn attributes_of(message: &Message) -> Vec<u8> {
        let bytes = message.clone().finish(1, 0).unwrap();
        bytes[wire::HEADER + GENL_HEADER..].to_vec()
    }

    #[test]
    fn what_is_set_is_spelt_as_an_answer_is_read() {
        let config = Config {
            private_key: Some(PrivateKey::new([3; 32])),
            listen_port: Some(4790),
            peers: vec![
                peer(4, "10.77.0.4:4790", false),
                peer(5, "[fd77::5]:4790", false),
            ],
        };
        let messages = spell(33, "sk-wg0", &config);
        assert_eq!(
            messages.len(),
            3,
            "the device, the peers, no more keepalives"
        );
        let head = parse(&attributes_of(&messages[0]));
        assert_eq!(head.private_key, config.private_key);
        assert_eq!(head.listen_port, config.listen_port);
        assert_eq!(parse(&attributes_of(&messages[1])).peers, config.peers);
        let last = attributes_of(&messages[2]);
        let peers = wire::find(&last, DEVICE_PEERS).unwrap();
        for (_, peer) in wire::attributes(peers) {
            assert_eq!(wire::find(peer, PEER_KEEPALIVE), Some(&[0, 0][..]));
            assert_eq!(wire::find(peer, PEER_ALLOWED_IPS), None);
        }
    }

    #[test]
    fn peers_are_removed_by_name_and_lists_are_cut_into_parts() {
        let config = Config {
            peers: vec![peer(4, "", true)],
            ..Config::default()
        };
        let messages = spell(33, "sk-wg0", &config);
        let first = attributes_of(&messages[0]);
        let flags = wire::find_path(&first, &[DEVICE_PEERS, 0, PEER_FLAGS]);
        assert_eq!(
            flags.and_then(|flags| wire::u32_at(flags, 0)),
            Some(FLAG_REMOVE)
        );
        let many = Config {
            peers: (0..500)
                .map(|number| peer(number as u8, "10.77.0.4:4790", false))
                .collect(),
            ..Config::default()
        };
        let messages = spell(33, "sk-wg0", &many);
        assert_eq!(messages.len(), 6);
        assert!(messages.iter().all(|m| m.clone().finish(1, 0).is_some()));
    }

    #[test]
    fn answers_that_are_cut_short_are_read_as_far_as_they_go() {
        assert_eq!(parse(&[]), Config::default());
        assert_eq!(socket_address_of(&[2, 0, 1]), None);
    }
}
