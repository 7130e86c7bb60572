//! VXLAN network ids, node indexes and MTUs.

use std::collections::BTreeSet;

use skep_model::cluster::RestingVni;
use skep_model::limits::{VNI_FIRST, VNI_LAST};
use skep_model::{Node, NodeState, Timestamp};

/// Highest node index: the data plane has 16 bits and keeps the top for itself.
pub const NODE_INDEX_LAST: u16 = 60_000;
/// MTU of an overlay whose nodes have not told theirs.
pub const MTU_DEFAULT: u32 = 1450;
/// What VXLAN over IPv4 takes from the underlay's MTU.
const VXLAN_OVERHEAD: u32 = 50;
/// What VXLAN over IPv6 takes.
const VXLAN_V6_OVERHEAD: u32 = 70;
/// What encryption takes on top.
const ENCRYPTION_OVERHEAD: u32 = 80;
/// Smallest MTU that IPv6 accepts on a link.
const MTU_MIN: u32 = 1280;

/// Whether a removed network's id must not be used yet: a node that has not heard of the removal
/// may still send frames under it. `lost`: some member is out of reach.
pub fn rests(rest: &RestingVni, now: Timestamp, lost: bool) -> bool {
    lost || rest.until > now
}

/// Whether some member is out of reach, so that nobody knows what its data plane still does.
pub fn is_any_lost<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> bool {
    let mut nodes = nodes.into_iter();
    nodes.any(|node| node.status.state != NodeState::Ready)
}

/// The lowest network id that is neither in use nor resting.
pub fn choose_vni(
    used: &BTreeSet<u32>,
    resting: &[RestingVni],
    now: Timestamp,
    lost: bool,
) -> Option<u32> {
    let rests: BTreeSet<u32> = resting
        .iter()
        .filter(|rest| rests(rest, now, lost))
        .map(|rest| rest.vni)
        .collect();
    (VNI_FIRST..=VNI_LAST).find(|vni| !used.contains(vni) && !rests.contains(vni))
}

/// The lowest node index that no listed node has.
pub fn choose_index(used: &BTreeSet<u16>) -> Option<u16> {
    (1..=NODE_INDEX_LAST).find(|index| !used.contains(index))
}

/// MTU of a network made now: what the narrowest underlay leaves.
pub fn mtu<'a>(nodes: impl IntoIterator<Item = &'a Node>, encrypted: bool) -> u32 {
    let inner = nodes
        .into_iter()
        .filter(|node| node.description.data_path_mtu > 0)
        .map(|node| {
            let v6 = node
                .description
                .data_path_addr
                .is_some_and(|address| address.is_ipv6());
            let overhead = match v6 {
                true => VXLAN_V6_OVERHEAD,
                false => VXLAN_OVERHEAD,
            };
            node.description.data_path_mtu.saturating_sub(overhead)
        })
        .min()
        .unwrap_or(MTU_DEFAULT);
    let encryption = match encrypted {
        true => ENCRYPTION_OVERHEAD,
        false => 0,
    };
    inner.saturating_sub(encryption).max(MTU_MIN)
}
