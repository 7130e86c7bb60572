//! One bridge network of this host: device, firewall table, endpoints.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use crate::desired::bridge::{BoundPort, BridgeEndpoint, BridgeNetwork};
use crate::names::{self, BRIDGE_ALIAS_PREFIX};
use crate::netlink::entry::MAIN_TABLE;
use crate::nft::{
    Bytes, CT_ESTABLISHED, CT_RELATED, Chain,
    Direction::{In, Out},
    Family, Field, Hook, Ip, Rule, Set, Table,
};
use crate::plan::{default_prefix, link_local_gateway, not_from_loopback6};
use crate::view::{Link, LinkKind, NsKey, PortOptions, Route, Sysctl, VethPeer, Wanted};
use crate::{Mac, NetError};

/// The longest name a device can have.
const IFNAME_MAX: usize = 15;
const BEFORE_RAW: i32 = -301;

/// Refuses what cannot be built, before anything is.
pub(crate) fn check(network: &BridgeNetwork) -> Result<(), NetError> {
    let name = device(network);
    let invalid = |reason: String| {
        let object = format!("bridge network `{}`", network.id);
        Err(NetError::Invalid { object, reason })
    };
    let is_plain = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    if name.is_empty()
        || name.len() > IFNAME_MAX
        || !name.chars().all(is_plain)
        || name.starts_with('.')
    {
        return invalid(format!("`{name}` is no name for an interface"));
    }
    if !(68..=65_535).contains(&network.mtu) {
        return invalid(format!("MTU {} is out of range", network.mtu));
    }
    Ok(())
}

/// The bridge device's name.
pub(crate) fn device(network: &BridgeNetwork) -> String {
    network
        .bridge
        .clone()
        .unwrap_or_else(|| names::bridge(&network.id))
}

/// Adds the network itself to what the root namespace should hold.
/// `filtered`: frames between ports of a bridge pass the IP firewall
/// (`bridge-nf-call-iptables`).
pub(crate) fn network(
    wanted: &mut Wanted,
    network: &BridgeNetwork,
    published: &[(IpAddr, BoundPort)],
) {
    let name = device(network);
    let link = Link {
        mac: network.gateways.first().map(|net| Mac::of(net.addr())),
        mtu: Some(network.mtu),
        alias: Some(format!("{BRIDGE_ALIAS_PREFIX}{}", network.id)),
        ..Link::new(LinkKind::Bridge)
    };
    wanted.links.insert(name.clone(), link);
    for net in &network.gateways {
        wanted.addresses.insert((name.clone(), *net));
    }
    wanted.sysctls.push(Sysctl::new("net/ipv4/ip_forward", "1"));
    wanted.sysctls.push(Sysctl::new(
        format!("net/ipv4/conf/{name}/route_localnet"),
        "1",
    ));
    wanted.sysctls.push(Sysctl::no_router_advertisements(&name));
    if network.gateways.iter().any(|net| net.addr().is_ipv6()) {
        // Whoever forwards asks for neighbours from a link-local address; this
        // one is usable at once.
        let link_local = (name.clone(), link_local_gateway());
        wanted.addresses.insert(link_local);
        wanted
            .sysctls
            .push(Sysctl::new("net/ipv6/conf/all/forwarding", "1"));
    }
    wanted.tables.push(table(network, &name, published));
}

/// Adds an endpoint's port to what the root namespace should hold.
pub(crate) fn port(
    wanted: &mut Wanted,
    network: &BridgeNetwork,
    endpoint: &BridgeEndpoint,
    filtered: bool,
) {
    let peer = VethPeer {
        netns: NsKey::File(endpoint.netns.clone()),
        ifname: endpoint.ifname.clone(),
        mac: endpoint
            .mac
            .or_else(|| endpoint.addresses.first().map(|net| Mac::of(net.addr()))),
        mtu: Some(network.mtu),
    };
    // A frame that comes back to the container it left (its own published port)
    // must be let out of the port it came in by. Ports that are filtered are told
    // apart by the firewall instead of isolated: an isolated port would drop a
    // redirected frame too.
    let options = PortOptions {
        learning: true,
        hairpin: true,
        isolated: !network.icc && !filtered,
    };
    let link = Link {
        mtu: Some(network.mtu),
        master: Some(device(network)),
        port: Some(options),
        ..Link::new(LinkKind::Veth { peer })
    };
    wanted.links.insert(names::bridge_port(&endpoint.id), link);
}

/// What the container's namespace should hold of this endpoint.
pub(crate) fn inside(network: &BridgeNetwork, endpoint: &BridgeEndpoint) -> Wanted {
    let mut wanted = Wanted::default();
    let dev = || endpoint.ifname.clone();
    wanted.links.insert(dev(), Link::new(LinkKind::Given));
    for net in &endpoint.addresses {
        wanted.addresses.insert((dev(), *net));
    }
    if endpoint.default_route && !network.internal {
        for gateway in gateways(network, endpoint) {
            wanted.routes.insert(Route {
                table: MAIN_TABLE,
                to: default_prefix(gateway),
                via: Some(gateway),
                dev: dev(),
                source: None,
            });
        }
    }
    wanted
}

/// One gateway of each family the endpoint has an address of.
pub(crate) fn gateways(network: &BridgeNetwork, endpoint: &BridgeEndpoint) -> Vec<IpAddr> {
    let mut gateways = Vec::new();
    for ip in Ip::BOTH {
        let has = |net: &&IpNet| Ip::of(net.addr()) == ip;
        let gateway = network.gateways.iter().find(has);
        if endpoint.addresses.iter().any(|net| has(&net)) {
            gateways.extend(gateway.map(|net| net.addr()));
        }
    }
    gateways
}

// ---- the table --------------------------------------------------------------

/// `published`: container address and the port bound for it.
fn table(network: &BridgeNetwork, dev: &str, published: &[(IpAddr, BoundPort)]) -> Table {
    let mut table = Table::new(Family::Inet, names::bridge_table(&network.id));
    let service = [Field::Proto, Field::Port];
    let mut everywhere = [
        Set::map("pub4", &service, &[Field::Ip4, Field::Port]),
        Set::map("pub6", &service, &[Field::Ip6, Field::Port]),
    ];
    let mut somewhere = [
        Set::map(
            "pubip4",
            &[Field::Ip4, Field::Proto, Field::Port],
            &[Field::Ip4, Field::Port],
        ),
        Set::map(
            "pubip6",
            &[Field::Ip6, Field::Proto, Field::Port],
            &[Field::Ip6, Field::Port],
        ),
    ];
    for (container, port) in published {
        let family = usize::from(container.is_ipv6());
        if port.host_ip.is_ipv6() != container.is_ipv6() || network.internal {
            continue;
        }
        let target = Bytes::new().ip(*container).port(port.target);
        if port.host_ip.is_unspecified() {
            let key = Bytes::new().service(port.proto, port.host_port);
            everywhere[family].put(key, target);
        } else {
            let key = Bytes::new()
                .ip(port.host_ip)
                .service(port.proto, port.host_port);
            somewhere[family].put(key, target);
        }
    }
    let redirect = || -> Vec<Rule> {
        Ip::BOTH
            .into_iter()
            .zip(["4", "6"])
            .flat_map(|(ip, digit)| {
                let local = || Rule::new().local_destination();
                [
                    local().dnat_published(ip, true, &format!("pubip{digit}")),
                    local().dnat_published(ip, false, &format!("pub{digit}")),
                ]
            })
            .collect()
    };
    table.sets.extend(everywhere.into_iter().chain(somewhere));
    table.chain(Chain::base(
        "pre-raw",
        Hook::filter_prerouting(BEFORE_RAW),
        guard(network, dev),
    ));
    table.chain(Chain::base("pre-nat", Hook::nat_prerouting(), redirect()));
    let mut local = vec![not_from_loopback6()];
    local.extend(redirect());
    table.chain(Chain::base("out-nat", Hook::nat_output(), local));
    table.chain(Chain::base(
        "fwd-filter",
        Hook::filter_forward(0),
        forward(network, dev),
    ));
    table.chain(Chain::base(
        "post-nat",
        Hook::nat_postrouting(),
        post_nat(network, dev),
    ));
    table
}

fn loopback() -> IpNet {
    IpNet::V4(Ipv4Net::new_assert([127, 0, 0, 0].into(), 8))
}

/// Outsiders cannot route straight to a container's address. Without masquerade
/// the answers to containers arrive under that address too, so only the forward
/// chain, which knows connections, can tell.
fn guard(network: &BridgeNetwork, dev: &str) -> Vec<Rule> {
    let mut rules = vec![Rule::new().interface(In, dev).to(loopback()).drop()];
    if network.masquerade || network.internal {
        rules.extend(network.gateways.iter().map(|net| {
            Rule::new()
                .not_interface(In, dev)
                .not_interface(In, "lo")
                .to(net.trunc())
                .drop()
        }));
    }
    rules
}

fn forward(network: &BridgeNetwork, dev: &str) -> Vec<Rule> {
    let within = || Rule::new().interface(In, dev).interface(Out, dev);
    let mut rules = Vec::new();
    if network.internal {
        rules.push(
            Rule::new()
                .interface(In, dev)
                .not_interface(Out, dev)
                .drop(),
        );
        rules.push(
            Rule::new()
                .not_interface(In, dev)
                .interface(Out, dev)
                .drop(),
        );
    }
    let inward = || Rule::new().interface(Out, dev);
    rules.push(
        inward()
            .connection_state(CT_ESTABLISHED | CT_RELATED)
            .accept(),
    );
    rules.push(inward().redirected().accept());
    rules.push(match network.icc {
        true => within().accept(),
        false => within().drop(),
    });
    rules.push(inward().drop());
    rules
}

fn post_nat(network: &BridgeNetwork, dev: &str) -> Vec<Rule> {
    let mut rules = vec![
        Rule::new()
            .from(loopback())
            .interface(Out, dev)
            .masquerade(),
    ];
    for net in &network.gateways {
        let from_here = || Rule::new().from(net.trunc());
        // Back into the network it came from, by way of a published port. The
        // interface it came in by is not known here for bridged frames.
        rules.push(from_here().interface(Out, dev).redirected().masquerade());
        if network.masquerade && !network.internal {
            rules.push(from_here().not_interface(Out, dev).masquerade());
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Proto;

    fn network() -> BridgeNetwork {
        BridgeNetwork {
            id: "web".into(),
            bridge: None,
            gateways: vec![
                "172.20.0.1/16".parse().unwrap(),
                "fd20::1/64".parse().unwrap(),
            ],
            mtu: 1500,
            internal: false,
            icc: true,
            masquerade: true,
        }
    }

    fn bound(host_ip: &str) -> BoundPort {
        let host_ip = host_ip.parse().unwrap();
        BoundPort {
            proto: Proto::Tcp,
            target: 80,
            host_ip,
            host_port: 8080,
        }
    }

    #[test]
    fn ports_go_to_the_container_address_of_their_family() {
        let container: IpAddr = "172.20.0.2".parse().unwrap();
        let published = [
            (container, bound("0.0.0.0")),
            (container, bound("::")),
            (container, bound("10.9.9.9")),
        ];
        let counts = |network: &BridgeNetwork| {
            let table = table(network, "sk-web", &published);
            table
                .sets
                .iter()
                .map(|set| set.elements.len())
                .collect::<Vec<_>>()
        };
        assert_eq!(counts(&network()), [1, 0, 1, 0]);
        assert_eq!(
            counts(&BridgeNetwork {
                internal: true,
                ..network()
            }),
            [0, 0, 0, 0]
        );
    }

    #[test]
    fn gateways_are_of_the_endpoints_families() {
        let mut endpoint = BridgeEndpoint {
            id: "e".into(),
            name: "c".into(),
            network: "web".into(),
            netns: "/nowhere".into(),
            ifname: "eth0".into(),
            addresses: vec!["172.20.0.2/16".parse().unwrap()],
            mac: None,
            default_route: true,
            ports: Vec::new(),
        };
        assert_eq!(gateways(&network(), &endpoint).len(), 1);
        endpoint.addresses.push("fd20::2/64".parse().unwrap());
        assert_eq!(gateways(&network(), &endpoint).len(), 2);
        assert_eq!(inside(&network(), &endpoint).routes.len(), 2);
        let internal = BridgeNetwork {
            internal: true,
            ..network()
        };
        assert_eq!(inside(&internal, &endpoint).routes.len(), 0);
    }

    #[test]
    fn names_that_are_no_names_are_refused() {
        let named = |name: &str| BridgeNetwork {
            bridge: Some(name.into()),
            ..network()
        };
        assert!(check(&named("docker0")).is_ok());
        for bad in ["", "a-name-that-is-too-long", "a/b", ".."] {
            assert!(check(&named(bad)).is_err(), "{bad}");
        }
    }
}
