//! Encrypted overlays: who has which address in a tunnel, what is kept back, what
//! must change in a tunnel's configuration.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use skep_wg::PublicKey;
use skep_wg::uapi::{Config, PeerConfig};

use crate::desired::cluster::{HostState, Overlay, Peer};
use crate::desired::tunnel::{Encryption, Tunnel};
use crate::names::{GUARD_TABLE, TUNNELS};
use crate::nft::{
    Bytes, Chain,
    Direction::{self, In, Out},
    Family, Field, Hook, Rule, Set, Table,
};
use crate::view::{Link, LinkKind, Wanted};
use crate::{NetError, Proto};

/// Where nodes have their addresses inside tunnels: RFC 2544's range, which no
/// network uses, twice 16 bits: one half for even generations, one for odd ones.
const RANGE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15);
/// In front of everything, the mesh's own look at frames included.
const FIRST: i32 = -310;

/// A node's address in the tunnel of a generation.
pub(crate) fn address(generation: u64, node: u16) -> Ipv4Addr {
    let half = u32::from(generation % 2 == 1) << 16;
    Ipv4Addr::from(u32::from(RANGE.addr()) | half | u32::from(node))
}

/// The half of the range that a generation has.
fn half(generation: u64, node: u16) -> Ipv4Net {
    Ipv4Net::new_assert(address(generation, node), RANGE.prefix_len() + 1)
}

/// Everybody's addresses in tunnels, this node's included.
pub(crate) fn addresses(state: &HostState) -> impl Iterator<Item = IpAddr> {
    state.encryption.tunnels.iter().flat_map(|tunnel| {
        let nodes = tunnel.peers.iter().map(|peer| peer.index);
        nodes
            .chain([state.node.index])
            .map(|node| IpAddr::V4(address(tunnel.generation, node)))
    })
}

/// Where the frames of an overlay leave from, and the overlay with the places they
/// go to: for an encrypted one addresses in the tunnel, and no others. Nodes whose
/// key is not known yet are left out. Without a tunnel there is no way.
pub(crate) fn way<'a>(
    state: &HostState,
    overlay: &'a Overlay,
) -> Result<(IpAddr, Cow<'a, Overlay>), NetError> {
    if !overlay.encrypted {
        return Ok((state.node.vtep, Cow::Borrowed(overlay)));
    }
    let Some(tunnel) = state.encryption.in_use() else {
        return Err(NetError::Unsupported {
            object: format!("encryption of overlay network `{}`", overlay.id),
            reason: match state.encryption.missing.as_str() {
                "" => "no manager has told this node which keys are used".into(),
                missing => missing.into(),
            },
        });
    };
    let inside: BTreeMap<IpAddr, IpAddr> = state
        .peers
        .iter()
        .filter_map(|peer| Some((peer.vtep, to_peer(tunnel, peer)?)))
        .collect();
    let mut overlay = overlay.clone();
    overlay.remote.retain_mut(|endpoint| {
        let found = inside.get(&endpoint.vtep);
        found.is_some_and(|address| {
            endpoint.vtep = *address;
            true
        })
    });
    let own = IpAddr::V4(address(tunnel.generation, state.node.index));
    Ok((own, Cow::Owned(overlay)))
}

fn to_peer(tunnel: &Tunnel, peer: &Peer) -> Option<IpAddr> {
    let knows = tunnel.peers.iter().any(|known| known.index == peer.index);
    knows.then(|| IpAddr::V4(address(tunnel.generation, peer.index)))
}

/// Where this node's ingress frames leave from.
pub(crate) fn ingress_local(state: &HostState) -> IpAddr {
    match state.encryption.in_use() {
        Some(tunnel) if state.encryption.ingress => {
            IpAddr::V4(address(tunnel.generation, state.node.index))
        }
        _ => state.node.vtep,
    }
}

/// Where ingress frames for a peer go; nowhere when its key is not known, or when
/// it is of the other address family.
pub(crate) fn ingress_remote(state: &HostState, peer: &Peer) -> Option<IpAddr> {
    if state.encryption.ingress {
        return to_peer(state.encryption.in_use()?, peer);
    }
    (peer.vtep.is_ipv4() == state.node.vtep.is_ipv4()).then_some(peer.vtep)
}

/// The table that keeps clear frames of encrypted networks from leaving and from
/// coming in, whatever becomes of tunnels and forwarding entries.
pub(crate) fn guard(data_port: u16, encryption: &Encryption) -> Option<Table> {
    if encryption.vnis.is_empty() && encryption.tunnels.is_empty() {
        return None;
    }
    let mut table = Table::new(Family::Inet, GUARD_TABLE);
    let mut vnis = Set::new("encvni", &[Field::Vni]);
    for vni in &encryption.vnis {
        vnis.add(Bytes::new().vni(*vni));
    }
    table.set(vnis);
    let frame = |direction: Direction| {
        let frame = Rule::new().protocol(Proto::Udp).destination_port(data_port);
        TUNNELS
            .iter()
            .fold(frame, |rule, tunnel| rule.not_interface(direction, tunnel))
    };
    let rules = |direction: Direction| {
        let in_clear = frame(direction).vni_in("encvni").drop();
        let range = IpNet::V4(RANGE);
        // Addresses of tunnels mean something inside of tunnels only.
        let astray = match direction {
            In => frame(direction).from(range),
            Out => frame(direction).to(range),
        };
        vec![in_clear, astray.drop()]
    };
    table.chain(Chain::base("in", Hook::filter_prerouting(FIRST), rules(In)));
    table.chain(Chain::base("out", Hook::filter_output(FIRST), rules(Out)));
    Some(table)
}

/// The interface of a tunnel, which is made elsewhere, as it should be set up.
pub(crate) fn interface(name: &str, tunnel: &Tunnel, node: u16) -> Wanted {
    let mut wanted = Wanted::default();
    let link = Link {
        mtu: Some(tunnel.mtu),
        ..Link::new(LinkKind::Given)
    };
    wanted.links.insert(name.into(), link);
    // The prefix makes the route to all others.
    let own = IpNet::V4(half(tunnel.generation, node));
    wanted.addresses.insert((name.into(), own));
    wanted
}

/// How the tunnel is to be configured.
pub(crate) fn config(tunnel: &Tunnel) -> Config {
    let peers: BTreeMap<PublicKey, PeerConfig> = tunnel
        .peers
        .iter()
        .map(|peer| {
            let config = PeerConfig {
                public_key: peer.public_key,
                remove: false,
                endpoint: Some(peer.endpoint),
                allowed: Some(address(tunnel.generation, peer.index).into()),
            };
            (peer.public_key, config)
        })
        .collect();
    Config {
        private_key: Some(tunnel.private_key.clone()),
        listen_port: Some(tunnel.port),
        peers: peers.into_values().collect(),
    }
}

/// What must change so that `seen` becomes `wanted`: nothing of a peer that is
/// right already, whose session goes on.
pub(crate) fn difference(wanted: &Config, seen: &Config) -> Config {
    let known: BTreeMap<PublicKey, &PeerConfig> = seen
        .peers
        .iter()
        .map(|peer| (peer.public_key, peer))
        .collect();
    let gone = seen.peers.iter().filter(|peer| {
        let mut all = wanted.peers.iter();
        !all.any(|wanted| wanted.public_key == peer.public_key)
    });
    let gone = gone.map(|peer| PeerConfig {
        public_key: peer.public_key,
        remove: true,
        endpoint: None,
        allowed: None,
    });
    let changed = wanted
        .peers
        .iter()
        .filter(|peer| known.get(&peer.public_key) != Some(peer));
    Config {
        private_key: wanted
            .private_key
            .clone()
            .filter(|key| seen.private_key.as_ref() != Some(key)),
        listen_port: wanted
            .listen_port
            .filter(|port| seen.listen_port != Some(*port)),
        // An address is free before its next owner takes it.
        peers: gone.chain(changed.cloned()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use skep_wg::PrivateKey;

    use super::*;
    use crate::Mac;
    use crate::desired::cluster::{LocalNode, RemoteEndpoint};
    use crate::desired::tunnel::TunnelPeer;

    fn tunnel(generation: u64, peers: &[u16]) -> Tunnel {
        Tunnel {
            generation,
            private_key: PrivateKey::new([9; 32]),
            port: 4790,
            mtu: 1420,
            peers: peers
                .iter()
                .map(|index| TunnelPeer {
                    index: *index,
                    public_key: PublicKey::new([*index as u8; 32]),
                    endpoint: format!("10.77.0.{index}:4790").parse().unwrap(),
                })
                .collect(),
        }
    }

    fn state(used: u64, tunnels: Vec<Tunnel>) -> HostState {
        let mut state = HostState::empty(LocalNode {
            index: 1,
            vtep: "10.77.0.1".parse().unwrap(),
            data_port: 4789,
            ingress: None,
            ingress_vni: crate::names::INGRESS_VNI,
            ingress_mtu: 1450,
            addresses: Vec::new(),
        });
        state.peers = [2u16, 3]
            .map(|index| Peer {
                index,
                vtep: format!("10.77.0.{index}").parse().unwrap(),
                addresses: Vec::new(),
                ingress_ip4: None,
                ingress_ip6: None,
            })
            .into();
        state.encryption.tunnels = tunnels;
        state.encryption.used = used;
        state
    }

    fn overlay(encrypted: bool) -> Overlay {
        let remote = |ip: &str, vtep: &str| RemoteEndpoint {
            ips: vec![ip.parse().unwrap()],
            mac: Mac::of(ip.parse().unwrap()),
            vtep: vtep.parse().unwrap(),
            node: 0,
        };
        Overlay {
            id: "net".into(),
            vni: 5000,
            mtu: 1370,
            subnets: Vec::new(),
            encrypted,
            remote: vec![
                remote("10.0.1.2", "10.77.0.2"),
                remote("10.0.1.3", "10.77.0.3"),
            ],
        }
    }

    #[test]
    fn every_node_has_an_address_in_each_half() {
        assert_eq!(address(0, 1).to_string(), "198.18.0.1");
        assert_eq!(address(7, 60_000).to_string(), "198.19.234.96");
        assert_eq!(half(3, 258).to_string(), "198.19.1.2/16");
    }

    #[test]
    fn frames_of_encrypted_networks_go_by_the_tunnel_in_use_or_not_at_all() {
        let both = state(1, vec![tunnel(0, &[2, 3]), tunnel(1, &[2])]);
        let overlay = overlay(true);
        let (own, led) = way(&both, &overlay).unwrap();
        assert_eq!(own.to_string(), "198.19.0.1");
        let to: Vec<_> = led.remote.iter().map(|one| one.vtep.to_string()).collect();
        assert_eq!(to, ["198.19.0.2"], "of node 3 no key is known");
        let mut none = state(1, vec![tunnel(0, &[2, 3])]);
        none.encryption.missing = "switched off".into();
        let error = way(&none, &overlay).unwrap_err();
        assert!(error.to_string().ends_with("switched off"), "{error}");
    }

    #[test]
    fn clear_networks_are_left_alone() {
        let state = state(0, Vec::new());
        let overlay = overlay(false);
        let (own, led) = way(&state, &overlay).unwrap();
        assert_eq!((own, &*led), (state.node.vtep, &overlay));
    }

    #[test]
    fn the_ingress_network_goes_by_the_tunnel_when_it_is_encrypted() {
        let mut state = state(0, vec![tunnel(0, &[2])]);
        assert_eq!(ingress_local(&state), state.node.vtep);
        state.encryption.ingress = true;
        assert_eq!(ingress_local(&state).to_string(), "198.18.0.1");
        let to = |at: usize| ingress_remote(&state, &state.peers[at]);
        assert_eq!(to(0).unwrap().to_string(), "198.18.0.2");
        assert_eq!(to(1), None);
    }

    #[test]
    fn the_guard_stays_while_there_is_anything_to_guard() {
        let mut encryption = Encryption::default();
        assert_eq!(guard(4789, &encryption), None);
        encryption.vnis = [5000, 4096].into();
        let table = guard(4789, &encryption).unwrap();
        let keys: Vec<_> = table.sets[0].elements.keys().cloned().collect();
        assert_eq!(keys, [vec![0, 0x10, 0], vec![0, 0x13, 0x88]]);
        assert_eq!(table.chains.len(), 2);
    }

    #[test]
    fn only_what_differs_is_changed_and_the_gone_go_first() {
        let wanted = config(&tunnel(0, &[2, 3]));
        assert_eq!(difference(&wanted, &wanted), Config::default());
        let mut seen = config(&tunnel(0, &[3, 4]));
        seen.peers[0].endpoint = Some("10.77.0.9:4790".parse().unwrap());
        seen.listen_port = Some(1);
        let change = difference(&wanted, &seen);
        assert_eq!((change.private_key, change.listen_port), (None, Some(4790)));
        let said: Vec<_> = change
            .peers
            .iter()
            .map(|peer| (peer.public_key.bytes()[0], peer.remove))
            .collect();
        assert_eq!(said, [(4, true), (2, false), (3, false)]);
    }
}
