//! One overlay network's namespace: a bridge, a VXLAN device that knows every
//! remote endpoint, a port for every local one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::desired::cluster::{LocalEndpoint, Overlay};
use crate::names::{self, OVERLAY_BRIDGE, OVERLAY_VXLAN};
use crate::view::{Link, LinkKind, NsKey, PortOptions, Sysctl, VethPeer, Wanted};
use crate::{Mac, NetError};

/// Sandboxed bridges only switch: nothing of the host's filtering concerns them.
const PORT: PortOptions = PortOptions {
    learning: true,
    hairpin: false,
    isolated: false,
};
/// Who is where is told by the managers, never learned from frames.
const VXLAN_PORT: PortOptions = PortOptions {
    learning: false,
    hairpin: false,
    isolated: false,
};

/// Refuses what cannot be built, before anything is.
pub(crate) fn check(overlay: &Overlay) -> Result<(), NetError> {
    let object = || format!("overlay network `{}`", overlay.id);
    let invalid = |reason: String| {
        Err(NetError::Invalid {
            object: object(),
            reason,
        })
    };
    if !(names::INGRESS_VNI..1 << 24).contains(&overlay.vni) {
        return invalid(format!("VNI {} is out of range", overlay.vni));
    }
    if !(576..=65_535).contains(&overlay.mtu) {
        return invalid(format!("MTU {} is out of range", overlay.mtu));
    }
    Ok(())
}

/// What the network's namespace should hold.
pub(crate) fn namespace<'a>(
    vtep: IpAddr,
    data_port: u16,
    overlay: &Overlay,
    local: impl IntoIterator<Item = (&'a str, &'a LocalEndpoint)>,
) -> Wanted {
    let mut wanted = Wanted::default();
    let bridge = Link {
        mtu: Some(overlay.mtu),
        ..Link::new(LinkKind::Bridge)
    };
    wanted.links.insert(OVERLAY_BRIDGE.into(), bridge);
    let kind = LinkKind::Vxlan {
        vni: overlay.vni,
        local: vtep,
        port: data_port,
        proxy: true,
    };
    let vxlan = Link {
        mtu: Some(overlay.mtu),
        master: Some(OVERLAY_BRIDGE.into()),
        port: Some(VXLAN_PORT),
        ..Link::new(kind)
    };
    wanted.links.insert(OVERLAY_VXLAN.into(), vxlan);

    let mut here = BTreeSet::new();
    for (netns, endpoint) in local {
        here.extend(endpoint.ips.iter().map(|net| net.addr()));
        let (name, link) = port(overlay, netns, endpoint);
        wanted.links.insert(name, link);
    }
    // An endpoint that has come here is not elsewhere any more, whatever an
    // older list says.
    let remote = overlay
        .remote
        .iter()
        .filter(|endpoint| endpoint.vtep != vtep && endpoint.vtep.is_ipv4() == vtep.is_ipv4())
        .filter(|endpoint| !endpoint.ips.iter().any(|ip| here.contains(ip)));
    for endpoint in remote {
        let dev = || OVERLAY_VXLAN.to_owned();
        wanted
            .forwarding
            .insert((dev(), endpoint.mac), endpoint.vtep);
        for ip in &endpoint.ips {
            wanted.neighbours.insert((dev(), *ip), endpoint.mac);
        }
    }

    wanted.sysctls = ["iptables", "ip6tables", "arptables"]
        .into_iter()
        .map(|table| Sysctl::new(format!("net/bridge/bridge-nf-call-{table}"), "0"))
        .collect();
    wanted.sysctls.push(Sysctl::new("net/ipv4/ip_forward", "0"));
    wanted
}

/// The network's end of one task's veth.
fn port(overlay: &Overlay, netns: &str, endpoint: &LocalEndpoint) -> (String, Link) {
    let peer = VethPeer {
        netns: NsKey::Pinned(netns.into()),
        ifname: endpoint.ifname.clone(),
        mac: mac_of(endpoint),
        mtu: Some(overlay.mtu),
    };
    let link = Link {
        mtu: Some(overlay.mtu),
        master: Some(OVERLAY_BRIDGE.into()),
        port: Some(PORT),
        ..Link::new(LinkKind::Veth { peer })
    };
    (names::overlay_port(&endpoint.id), link)
}

/// The endpoint's hardware address.
pub(crate) fn mac_of(endpoint: &LocalEndpoint) -> Option<Mac> {
    endpoint
        .mac
        .or_else(|| endpoint.ips.first().map(|net| Mac::of(net.addr())))
}

/// The local endpoints of each network.
pub(crate) fn by_network<'a>(
    sandboxes: impl IntoIterator<Item = &'a crate::TaskSandbox>,
) -> BTreeMap<&'a str, Vec<(&'a str, &'a LocalEndpoint)>> {
    let mut all: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for sandbox in sandboxes {
        for endpoint in &sandbox.endpoints {
            all.entry(&endpoint.network)
                .or_default()
                .push((sandbox.netns.as_str(), endpoint));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::cluster::RemoteEndpoint;

    fn overlay() -> Overlay {
        let remote = |ip: &str, vtep: &str| {
            let ip: IpAddr = ip.parse().unwrap();
            RemoteEndpoint {
                ips: vec![ip],
                mac: Mac::of(ip),
                vtep: vtep.parse().unwrap(),
                node: 0,
            }
        };
        Overlay {
            id: "net".into(),
            vni: 5000,
            mtu: 1450,
            subnets: vec!["10.0.1.0/24".parse().unwrap()],
            encrypted: false,
            remote: vec![
                remote("10.0.1.7", "10.77.0.2"),
                remote("10.0.1.8", "10.77.0.1"),
                remote("10.0.1.5", "10.77.0.3"),
            ],
        }
    }

    #[test]
    fn what_is_here_is_not_looked_for_elsewhere() {
        let endpoint = LocalEndpoint {
            id: "ep".into(),
            network: "net".into(),
            ips: vec!["10.0.1.5/24".parse().unwrap()],
            mac: None,
            ifname: "eth0".into(),
        };
        let vtep = "10.77.0.1".parse().unwrap();
        let wanted = namespace(vtep, 4789, &overlay(), [("t-1", &endpoint)]);
        let known: Vec<_> = wanted
            .neighbours
            .keys()
            .map(|(_, ip)| ip.to_string())
            .collect();
        assert_eq!(known, ["10.0.1.7"]);
        assert_eq!(wanted.forwarding.len(), 1);
        assert_eq!(wanted.links.len(), 3);
    }

    #[test]
    fn wild_numbers_are_refused() {
        assert!(check(&overlay()).is_ok());
        assert!(
            check(&Overlay {
                vni: 4095,
                ..overlay()
            })
            .is_err()
        );
        assert!(
            check(&Overlay {
                vni: 1 << 24,
                ..overlay()
            })
            .is_err()
        );
        assert!(
            check(&Overlay {
                mtu: 10,
                ..overlay()
            })
            .is_err()
        );
    }
}
