//! What happens to packets: encrypted for the peer they are for, taken from the
//! peer they must come from.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};

use crate::uapi::{Config, PeerConfig};
use crate::{PrivateKey, PublicKey};

/// Room for the largest packet with what encryption adds.
pub(crate) const BUFFER_BYTES: usize = 65_535 + 256;
/// Handshakes a second before strangers must prove their address. Each is counted
/// twice, when its peer is looked for and when the peer takes it.
const HANDSHAKES_PER_SECOND: u64 = 1000;
/// More peers than a cluster has nodes.
pub(crate) const PEERS_MAX: usize = 65_536;

/// Where something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    /// To a peer's endpoint, encrypted.
    Network(SocketAddr),
    /// To this host's kernel, in clear.
    Host,
}

/// The tunnel of one generation.
#[derive(Default)]
pub(crate) struct Device {
    identity: Option<Identity>,
    listen_port: Option<u16>,
    peers: BTreeMap<PublicKey, Peer>,
    by_index: HashMap<u32, PublicKey>,
    by_address: HashMap<IpAddr, PublicKey>,
    next_index: u32,
    buffer: Vec<u8>,
}

struct Identity {
    key: PrivateKey,
    limiter: Arc<RateLimiter>,
}

struct Peer {
    tunnel: Tunn,
    index: u32,
    endpoint: Option<SocketAddr>,
    allowed: Option<IpAddr>,
}

impl Device {
    pub fn new() -> Self {
        Self {
            buffer: vec![0; BUFFER_BYTES],
            ..Self::default()
        }
    }

    /// Takes a change in. A peer that is new here is greeted at once: whichever
    /// end learns of the other last makes the session, and nobody's first packet
    /// waits for a retry.
    pub fn set(&mut self, config: &Config, mut emit: impl FnMut(To, &[u8])) {
        if let Some(port) = config.listen_port {
            self.listen_port = Some(port);
        }
        if let Some(key) = &config.private_key {
            self.set_key(key);
        }
        for peer in &config.peers {
            self.set_peer(peer, &mut emit);
        }
    }

    fn set_key(&mut self, key: &PrivateKey) {
        if self.identity.as_ref().is_some_and(|own| own.key == *key) {
            return;
        }
        let public = key.public().point();
        let limiter = Arc::new(RateLimiter::new(&public, HANDSHAKES_PER_SECOND));
        for peer in self.peers.values_mut() {
            peer.tunnel
                .set_static_private(key.secret(), public, Some(Arc::clone(&limiter)));
        }
        self.identity = Some(Identity {
            key: key.clone(),
            limiter,
        });
    }

    fn set_peer(&mut self, config: &PeerConfig, emit: &mut impl FnMut(To, &[u8])) {
        let key = config.public_key;
        if config.remove {
            if let Some(peer) = self.peers.remove(&key) {
                self.by_index.remove(&peer.index);
                self.forget_address(&key, peer.allowed);
            }
            return;
        }
        let Some(identity) = &self.identity else {
            return;
        };
        let is_new = !self.peers.contains_key(&key);
        if is_new {
            if self.peers.len() >= PEERS_MAX {
                return;
            }
            // 24 bits: far more than there ever are peers in one process's life.
            self.next_index = (self.next_index + 1) & 0x00ff_ffff;
            let index = self.next_index;
            let limiter = Some(Arc::clone(&identity.limiter));
            let secret = identity.key.secret();
            let tunnel = Tunn::new(secret, key.point(), None, None, index, limiter);
            let peer = Peer {
                tunnel,
                index,
                endpoint: None,
                allowed: None,
            };
            self.by_index.insert(index, key);
            self.peers.insert(key, peer);
        }
        let peer = self.peers.get_mut(&key).expect("it was just put there");
        peer.endpoint = config.endpoint.or(peer.endpoint);
        let before = peer.allowed;
        if let Some(address) = config.allowed
            && before != Some(address)
        {
            peer.allowed = Some(address);
            self.forget_address(&key, before);
            // Whoever had the address before has it no more.
            if let Some(other) = self.by_address.insert(address, key)
                && let Some(other) = self.peers.get_mut(&other)
            {
                other.allowed = None;
            }
        }
        if is_new {
            let Self { peers, buffer, .. } = self;
            let peer = peers.get_mut(&key).expect("it was just put there");
            let greeting = peer.tunnel.format_handshake_initiation(buffer, false);
            give_out(greeting, peer.endpoint, emit);
        }
    }

    fn forget_address(&mut self, key: &PublicKey, address: Option<IpAddr>) {
        if let Some(address) = address
            && self.by_address.get(&address) == Some(key)
        {
            self.by_address.remove(&address);
        }
    }

    /// The configuration as it is.
    pub fn get(&self) -> Config {
        Config {
            private_key: self.identity.as_ref().map(|identity| identity.key.clone()),
            listen_port: self.listen_port,
            peers: self
                .peers
                .iter()
                .map(|(key, peer)| PeerConfig {
                    public_key: *key,
                    remove: false,
                    endpoint: peer.endpoint,
                    allowed: peer.allowed,
                })
                .collect(),
        }
    }

    /// A packet of this host.
    pub fn outgoing(&mut self, packet: &[u8], mut emit: impl FnMut(To, &[u8])) {
        let to = Tunn::dst_address(packet);
        let Some(key) = to.and_then(|to| self.by_address.get(&to)) else {
            return;
        };
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let encrypted = peer.tunnel.encapsulate(packet, &mut self.buffer);
        give_out(encrypted, peer.endpoint, &mut emit);
    }

    /// A datagram from the network.
    pub fn incoming(&mut self, from: IpAddr, datagram: &[u8], mut emit: impl FnMut(To, &[u8])) {
        let Some(identity) = &self.identity else {
            return;
        };
        // Looked at before a peer is: only that tells whose it is. Cookies are asked
        // for by the peer's own look, which knows where to send them.
        let mut cookie = [0; 64];
        let verified = identity
            .limiter
            .verify_packet(Some(from), datagram, &mut cookie);
        let Ok(packet) = verified else { return };
        let by_index = |index: u32| self.by_index.get(&(index >> 8)).copied();
        let key = match &packet {
            Packet::HandshakeInit(first) => {
                let secret = identity.key.secret();
                let public = identity.key.public().point();
                let half = parse_handshake_anon(&secret, &public, first);
                half.ok()
                    .map(|half| PublicKey::new(half.peer_static_public))
            }
            Packet::HandshakeResponse(packet) => by_index(packet.receiver_idx),
            Packet::PacketCookieReply(packet) => by_index(packet.receiver_idx),
            Packet::PacketData(packet) => by_index(packet.receiver_idx),
        };
        let Some(peer) = key.and_then(|key| self.peers.get_mut(&key)) else {
            return;
        };
        let result = peer
            .tunnel
            .decapsulate(Some(from), datagram, &mut self.buffer);
        match result {
            TunnResult::WriteToTunnelV4(packet, source) => {
                if peer.allowed == Some(IpAddr::V4(source)) {
                    emit(To::Host, packet);
                }
            }
            TunnResult::WriteToTunnelV6(packet, source) => {
                if peer.allowed == Some(IpAddr::V6(source)) {
                    emit(To::Host, packet);
                }
            }
            TunnResult::Err(_) => return,
            TunnResult::WriteToNetwork(_) | TunnResult::Done => {
                give_out(result, peer.endpoint, &mut emit);
            }
        }
        // There may be a session now that packets have waited for.
        loop {
            let waiting = peer.tunnel.decapsulate(None, &[], &mut self.buffer);
            if !give_out(waiting, peer.endpoint, &mut emit) {
                break;
            }
        }
    }

    /// Time has passed: handshakes are repeated, sessions renewed. To be called a
    /// few times a second.
    pub fn tick(&mut self, mut emit: impl FnMut(To, &[u8])) {
        if let Some(identity) = &self.identity {
            identity.limiter.reset_count();
        }
        for peer in self.peers.values_mut() {
            // A tunnel that has expired wakes with the next packet.
            let due = peer.tunnel.update_timers(&mut self.buffer);
            give_out(due, peer.endpoint, &mut emit);
        }
    }
}

/// Sends what is for the network; whether there was anything.
fn give_out(
    result: TunnResult<'_>,
    endpoint: Option<SocketAddr>,
    emit: &mut impl FnMut(To, &[u8]),
) -> bool {
    match (result, endpoint) {
        (TunnResult::WriteToNetwork(datagram), Some(endpoint)) => {
            emit(To::Network(endpoint), datagram);
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "10.0.0.1:4790";
    const B: &str = "10.0.0.2:4790";

    fn key(number: u8) -> PrivateKey {
        PrivateKey::new([number; 32])
    }

    fn peer(number: u8, endpoint: &str, allowed: &str) -> PeerConfig {
        PeerConfig {
            public_key: key(number).public(),
            remove: false,
            endpoint: Some(endpoint.parse().unwrap()),
            allowed: Some(allowed.parse().unwrap()),
        }
    }

    fn device(number: u8) -> Device {
        let mut device = Device::new();
        let config = Config {
            private_key: Some(key(number)),
            listen_port: Some(4790),
            peers: Vec::new(),
        };
        device.set(&config, |_, _| unreachable!("nobody is there"));
        device
    }

    fn peers(peers: Vec<PeerConfig>) -> Config {
        Config {
            peers,
            ..Config::default()
        }
    }

    /// A UDP packet as far as a tunnel looks at it.
    fn packet(from: [u8; 4], to: [u8; 4], text: &str) -> Vec<u8> {
        let length = 20 + text.len() as u8;
        let mut packet = vec![0x45, 0, 0, length, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend([from, to].concat());
        packet.extend(text.as_bytes());
        packet
    }

    type Sent = Vec<(To, Vec<u8>)>;

    fn keep(sent: &mut Sent) -> impl FnMut(To, &[u8]) + '_ {
        |to, bytes| sent.push((to, bytes.to_vec()))
    }

    /// Carries datagrams to and fro until there are none; what each host was given.
    fn carry(a: &mut Device, b: &mut Device, mut on_the_way: Sent) -> (Sent, Sent) {
        let (mut at_a, mut at_b) = (Sent::new(), Sent::new());
        while let Some((to, datagram)) = on_the_way.pop() {
            let To::Network(to) = to else {
                unreachable!("only datagrams are carried")
            };
            let mut out = Sent::new();
            let host = if to == B.parse().unwrap() {
                b.incoming("10.0.0.1".parse().unwrap(), &datagram, keep(&mut out));
                &mut at_b
            } else {
                a.incoming("10.0.0.2".parse().unwrap(), &datagram, keep(&mut out));
                &mut at_a
            };
            for (to, bytes) in out {
                match to {
                    To::Host => host.push((to, bytes)),
                    To::Network(_) => on_the_way.insert(0, (to, bytes)),
                }
            }
        }
        (at_a, at_b)
    }

    fn pair() -> (Device, Device) {
        let (mut a, mut b) = (device(1), device(2));
        let mut sent = Sent::new();
        a.set(&peers(vec![peer(2, B, "198.18.0.2")]), keep(&mut sent));
        assert_eq!(sent.len(), 1, "a greeting, which is lost");
        sent.clear();
        b.set(&peers(vec![peer(1, A, "198.18.0.1")]), keep(&mut sent));
        carry(&mut a, &mut b, sent);
        (a, b)
    }

    const FROM: [u8; 4] = [198, 18, 0, 1];
    const TO: [u8; 4] = [198, 18, 0, 2];

    #[test]
    fn packets_go_through_encrypted_once_both_know_each_other() {
        let (mut a, mut b) = pair();
        let packet = packet(FROM, TO, "a marked text");
        let mut sent = Sent::new();
        a.outgoing(&packet, keep(&mut sent));
        assert_eq!(sent.len(), 1, "the session is there already");
        let marked = |bytes: &[u8]| bytes.windows(8).any(|part| part == b"a marked");
        assert!(!marked(&sent[0].1));
        let (_, at_b) = carry(&mut a, &mut b, sent);
        assert_eq!(at_b, [(To::Host, packet)]);
    }

    #[test]
    fn what_waits_for_a_session_is_sent_with_it() {
        let (mut a, mut b) = (device(1), device(2));
        let mut lost = Sent::new();
        a.set(&peers(vec![peer(2, B, "198.18.0.2")]), keep(&mut lost));
        a.outgoing(&packet(FROM, TO, "early"), keep(&mut lost));
        let mut sent = Sent::new();
        b.set(&peers(vec![peer(1, A, "198.18.0.1")]), keep(&mut sent));
        let (_, at_b) = carry(&mut a, &mut b, sent);
        assert_eq!(at_b, [(To::Host, packet(FROM, TO, "early"))]);
    }

    #[test]
    fn a_peer_speaks_for_its_own_address_only() {
        let (mut a, mut b) = pair();
        let mut sent = Sent::new();
        a.outgoing(&packet([198, 18, 0, 9], TO, "forged"), keep(&mut sent));
        let (_, at_b) = carry(&mut a, &mut b, sent);
        assert_eq!(at_b, []);
        let mut sent = Sent::new();
        a.outgoing(&packet(FROM, [198, 18, 0, 7], "nobody"), keep(&mut sent));
        assert_eq!(sent, []);
    }

    #[test]
    fn a_stranger_and_a_removed_peer_are_not_heard() {
        let (mut a, mut b) = pair();
        let remove = PeerConfig {
            remove: true,
            ..peer(1, A, "198.18.0.1")
        };
        b.set(&peers(vec![remove]), |_, _| unreachable!("it is gone"));
        let mut sent = Sent::new();
        a.outgoing(&packet(FROM, TO, "late"), keep(&mut sent));
        assert_eq!(carry(&mut a, &mut b, sent), (vec![], vec![]));
        assert_eq!(b.get().peers, []);
        let mut stranger = device(3);
        let mut sent = Sent::new();
        let to_a = peers(vec![peer(1, A, "198.18.0.1")]);
        stranger.set(&to_a, keep(&mut sent));
        for (_, greeting) in sent {
            let from = "10.0.0.3".parse().unwrap();
            a.incoming(from, &greeting, |_, _| panic!("a stranger was answered"));
        }
    }

    #[test]
    fn an_endpoint_that_moves_takes_the_session_along() {
        let (mut a, _) = pair();
        let moved = peer(2, "10.0.0.9:4790", "198.18.0.2");
        a.set(&peers(vec![moved]), |_, _| unreachable!("it is known"));
        let mut sent = Sent::new();
        a.outgoing(&packet(FROM, TO, "x"), keep(&mut sent));
        assert_eq!(sent[0].0, To::Network("10.0.0.9:4790".parse().unwrap()));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_taken_or_dropped(bytes in proptest::collection::vec(0u8.., 0..200)) {
            let (mut a, _) = pair();
            a.incoming("10.0.0.2".parse().unwrap(), &bytes, |_, _| {});
            a.outgoing(&bytes, |_, _| {});
        }
    }
}
