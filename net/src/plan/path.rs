//! How nodes reach each other inside an overlay: a link-local address on its bridge, which the
//! kernel answers for, whether a daemon runs or not. It costs no address of the network.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

use crate::Mac;
use crate::desired::cluster::{HostState, Overlay};
use crate::names::{OVERLAY_BRIDGE, OVERLAY_VXLAN};
use crate::view::Wanted;

/// A node's hardware address on the bridge of every overlay.
pub(crate) fn mac(node: u16) -> Mac {
    let [high, low] = node.to_be_bytes();
    Mac([0x02, 0x53, 0x4b, 0x00, high, low])
}

/// A node's address on the bridge of every overlay.
pub(crate) fn address(node: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x534b, node)
}

/// The other nodes on an overlay, and where their frames go.
pub(crate) fn peers(overlay: &Overlay, own: u16) -> BTreeMap<u16, IpAddr> {
    let remote = overlay.remote.iter();
    remote
        .filter(|endpoint| endpoint.node != 0 && endpoint.node != own)
        .map(|endpoint| (endpoint.node, endpoint.vtep))
        .collect()
}

/// Adds this node's address on an overlay, and the way to those of the others.
pub(crate) fn add(wanted: &mut Wanted, state: &HostState, overlay: &Overlay) {
    let bridge = || OVERLAY_BRIDGE.to_owned();
    let own = state.node.index;
    if let Some(link) = wanted.links.get_mut(OVERLAY_BRIDGE) {
        link.mac = Some(mac(own));
    }
    let net = IpNet::V6(Ipv6Net::new_assert(address(own), 64));
    wanted.addresses.insert((bridge(), net));
    for (node, vtep) in peers(overlay, own) {
        wanted
            .forwarding
            .insert((OVERLAY_VXLAN.to_owned(), mac(node)), vtep);
        wanted
            .neighbours
            .insert((bridge(), address(node).into()), mac(node));
    }
}
