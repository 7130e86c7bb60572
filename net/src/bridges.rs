//! The engine's half: bridge networks, endpoints of plain containers, published
//! ports, macvlan and ipvlan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use crate::apply::{Outcome, delete_named, open_socket};
use crate::desired::bridge::{
    BoundPort, BridgeEndpoint, BridgeNetwork, BridgeState, VlanEndpoint, VlanMode,
};
use crate::host::lock;
use crate::names::{self, BRIDGE_ALIAS_PREFIX, BRIDGE_TABLE_PREFIX};
use crate::netlink::conntrack::Which;
use crate::netlink::entry::MAIN_TABLE;
use crate::netlink::link::{self, Birth};
use crate::nft::{self, Family};
use crate::plan::{bridge, default_prefix};
use crate::ports::Asker;
use crate::view::{Link, LinkKind, NsKey, Route, Scope, Wanted};
use crate::{Host, Mac, NetError, Proto, Report, sysctl};

const MACVLAN_PRIVATE: u32 = 1;
const MACVLAN_VEPA: u32 = 2;
const MACVLAN_BRIDGE: u32 = 4;
const MACVLAN_PASSTHRU: u32 = 8;
const IPVLAN_L2: u16 = 0;
const IPVLAN_L3: u16 = 1;

/// What the engine has asked for so far.
#[derive(Default)]
pub(crate) struct Bridges {
    networks: BTreeMap<String, BridgeNetwork>,
    endpoints: BTreeMap<String, BridgeEndpoint>,
}

impl Host {
    /// Makes everything of the engine's half as desired, after a restart above
    /// all: bridges, endpoints and published ports. What is not in `desired` is
    /// removed. Goes on past failures.
    pub fn apply_bridges(&self, desired: &BridgeState) -> Report {
        let mut bridges = lock(&self.bridges);
        let mut report = Report::default();
        let gone: Vec<String> = bridges
            .endpoints
            .keys()
            .filter(|id| !desired.endpoints.iter().any(|endpoint| endpoint.id == **id))
            .cloned()
            .collect();
        for id in gone {
            lock(&self.ports).release(&id);
        }
        bridges.networks.clear();
        bridges.endpoints.clear();
        for network in &desired.networks {
            match bridge::check(network) {
                Ok(()) => {
                    bridges.networks.insert(network.id.clone(), network.clone());
                }
                Err(error) => report.fail(format!("bridge {}", network.id), error),
            }
        }
        for endpoint in &desired.endpoints {
            let ready = bridges
                .network(&endpoint.network)
                .and_then(|_| crate::Netns::open(&endpoint.netns))
                .and_then(|_| self.hold_ports(endpoint));
            match ready {
                Ok(_) => {
                    bridges
                        .endpoints
                        .insert(endpoint.id.clone(), endpoint.clone());
                }
                Err(error) => report.fail(format!("endpoint {}", endpoint.id), error),
            }
        }
        let wanted = self.bridges_wanted(&bridges, bridges.networks.keys());
        let outcome = self.reconcile_ends(&NsKey::Root, &wanted, Scope::Bridges);
        absorb(&mut report, "bridges", outcome);
        self.let_through(bridges.networks.values().map(bridge::device), &mut report);
        for endpoint in bridges.endpoints.values() {
            match bridges.network(&endpoint.network) {
                Ok(network) => {
                    let object = format!("endpoint {}", endpoint.id);
                    absorb(&mut report, &object, self.inside_bridge(network, endpoint));
                }
                Err(error) => report.fail(format!("endpoint {}", endpoint.id), error),
            }
        }
        report
    }

    /// Makes or repairs one bridge network.
    pub fn ensure_bridge(&self, network: &BridgeNetwork) -> Result<(), NetError> {
        bridge::check(network)?;
        let mut bridges = lock(&self.bridges);
        let before = bridges.networks.insert(network.id.clone(), network.clone());
        let wanted = self.bridges_wanted(&bridges, [&network.id]);
        let made = self
            .reconcile_ends(&NsKey::Root, &wanted, Scope::Partial)
            .into_result();
        if made.is_err() && before.is_none() {
            bridges.networks.remove(&network.id);
            let _ = self.delete_bridge(&network.id);
        }
        made?;
        // The network is there; a firewall that drops its packets is told by `info`.
        self.let_through([bridge::device(network)], &mut Report::default());
        Ok(())
    }

    /// Removes a bridge network; its endpoints should be disconnected before.
    /// Unknown is fine. A bridge that was there before us stays.
    pub fn remove_bridge(&self, network: &str) -> Result<(), NetError> {
        let mut bridges = lock(&self.bridges);
        self.delete_bridge(network)?;
        if let Some(gone) = bridges.networks.remove(network) {
            let mut report = Report::default();
            self.shut([bridge::device(&gone)], &mut report);
            report.into_result()?;
        }
        Ok(())
    }

    /// Connects a container to a bridge network and publishes its ports: all of
    /// it or nothing. Returns the ports as bound, in the order of the requests.
    /// Calling it again repairs and returns the same ports.
    pub fn connect(&self, endpoint: &BridgeEndpoint) -> Result<Vec<BoundPort>, NetError> {
        let mut bridges = lock(&self.bridges);
        let network = bridges.network(&endpoint.network)?.clone();
        crate::Netns::open(&endpoint.netns)?;
        let bound = self.hold_ports(endpoint)?;
        bridges
            .endpoints
            .insert(endpoint.id.clone(), endpoint.clone());

        let mut wanted = self.network_wanted(&bridges, &network);
        bridge::port(&mut wanted, &network, endpoint, self.is_filtered());
        let mut outcome = self.reconcile_ends(&NsKey::Root, &wanted, Scope::Partial);
        outcome.absorb(self.inside_bridge(&network, endpoint));
        if let Err(error) = outcome.into_result() {
            let _ = self.unplug(&mut bridges, &endpoint.id);
            return Err(error);
        }
        // Flows of the time before the port was published would bypass it.
        let udp: BTreeSet<u16> = bound
            .iter()
            .filter(|port| port.proto == Proto::Udp)
            .map(|port| port.host_port)
            .collect();
        if !udp.is_empty() {
            let which = Which::Protocol(Proto::Udp.number());
            let _ = self.cut(&NsKey::Root, which, move |flow| {
                !flow.is_redirected && udp.contains(&flow.to_port)
            });
        }
        Ok(bound)
    }

    /// Unpublishes an endpoint's ports, cuts its flows and removes its link.
    /// Unknown is fine.
    pub fn disconnect(&self, endpoint: &str) -> Result<(), NetError> {
        self.unplug(&mut lock(&self.bridges), endpoint)
    }

    /// The ports an endpoint holds now.
    pub fn bound_ports(&self, endpoint: &str) -> Vec<BoundPort> {
        lock(&self.ports).of(endpoint)
    }

    /// Replaces the ports published for an endpoint that is connected, keeping
    /// its link as it is. All of them or nothing; returns them as bound.
    pub fn publish(
        &self,
        endpoint: &str,
        ports: &[crate::PortRequest],
    ) -> Result<Vec<BoundPort>, NetError> {
        let known = lock(&self.bridges).endpoints.get(endpoint).cloned();
        let Some(known) = known else {
            return Err(NetError::NotFound {
                object: format!("endpoint `{endpoint}`"),
            });
        };
        self.connect(&BridgeEndpoint {
            ports: ports.to_vec(),
            ..known
        })
    }

    /// Connects a container to a macvlan or ipvlan network. The link goes with
    /// the namespace or by `disconnect_vlan`.
    pub fn connect_vlan(&self, endpoint: &VlanEndpoint) -> Result<(), NetError> {
        let key = NsKey::File(endpoint.netns.clone());
        let object = || format!("link `{}` on `{}`", endpoint.ifname, endpoint.parent);
        let failed = |action| {
            move |source| NetError::Kernel {
                action,
                object: object(),
                source,
            }
        };
        let netns = self.ground.open(&key)?;
        let present = self.ground.with_socket(&key, |socket| {
            let links = link::list(socket).map_err(failed("list"))?;
            Ok(links.into_iter().any(|link| link.name == endpoint.ifname))
        })?;
        if !present {
            self.ground.with_socket(&NsKey::Root, |socket| {
                let links = link::list(socket).map_err(failed("list"))?;
                let parent = links.iter().find(|link| link.name == endpoint.parent);
                let parent = parent.ok_or_else(|| NetError::NotFound {
                    object: format!("parent interface `{}`", endpoint.parent),
                })?;
                let birth = vlan_birth(endpoint.mode, parent.index);
                let own = endpoint.addresses.first().map(|net| Mac::of(net.addr()));
                let mac = match birth {
                    Birth::Ipvlan { .. } => None,
                    _ => endpoint.mac.or(own),
                };
                let netns = Some(netns.as_fd().as_raw_fd());
                socket
                    .request(link::create(
                        &endpoint.ifname,
                        mac,
                        endpoint.mtu,
                        netns,
                        &birth,
                    ))
                    .map_err(|error| match error.errno {
                        libc::EOPNOTSUPP => NetError::Unsupported {
                            object: object(),
                            reason: "the kernel does not know this kind of link".into(),
                        },
                        _ => failed("create")(error),
                    })
            })?;
        }
        let mut wanted = Wanted::default();
        let dev = || endpoint.ifname.clone();
        wanted.links.insert(dev(), Link::new(LinkKind::Given));
        wanted
            .addresses
            .extend(endpoint.addresses.iter().map(|net| (dev(), *net)));
        wanted
            .routes
            .extend(endpoint.gateways.iter().map(|gateway| Route {
                table: MAIN_TABLE,
                to: default_prefix(*gateway),
                via: Some(*gateway),
                dev: dev(),
                source: None,
            }));
        let outcome = self
            .ground
            .reconcile(&key, &wanted, Scope::Container, &BTreeSet::new());
        if outcome.failures.is_empty() || present {
            return outcome.into_result().map(drop);
        }
        let _ = self.disconnect_vlan(endpoint);
        outcome.into_result().map(drop)
    }

    /// Removes a macvlan or ipvlan link. Unknown is fine.
    pub fn disconnect_vlan(&self, endpoint: &VlanEndpoint) -> Result<(), NetError> {
        let key = NsKey::File(endpoint.netns.clone());
        match self
            .ground
            .with_socket(&key, |socket| delete_named(socket, &endpoint.ifname))
        {
            Err(NetError::NotFound { .. }) => Ok(()),
            removed => removed,
        }
    }

    fn hold_ports(&self, endpoint: &BridgeEndpoint) -> Result<Vec<BoundPort>, NetError> {
        let asker = Asker {
            owner: &endpoint.id,
            name: &endpoint.name,
        };
        self.ground
            .root
            .run(|| lock(&self.ports).hold_all(&asker, &endpoint.ports))?
    }

    /// Whether frames between ports of a bridge pass the IP firewall here.
    fn is_filtered(&self) -> bool {
        let setting = self
            .ground
            .root
            .run(|| sysctl::get("net/bridge/bridge-nf-call-iptables"));
        matches!(setting, Ok(Some(value)) if value == "1")
    }

    /// What the root namespace should hold of one network, without its ports.
    fn network_wanted(&self, bridges: &Bridges, network: &BridgeNetwork) -> Wanted {
        let mut wanted = Wanted::default();
        let ports = lock(&self.ports);
        let mut published: Vec<(IpAddr, BoundPort)> = Vec::new();
        for endpoint in bridges
            .endpoints
            .values()
            .filter(|one| one.network == network.id)
        {
            for port in ports.of(&endpoint.id) {
                let same_family = |ip: &IpAddr| ip.is_ipv4() == port.host_ip.is_ipv4();
                let addresses = endpoint.addresses.iter().map(|net| net.addr());
                published.extend(
                    addresses
                        .filter(same_family)
                        .take(1)
                        .map(|ip| (ip, port.clone())),
                );
            }
        }
        bridge::network(&mut wanted, network, &published);
        let name = bridge::device(network);
        if self.is_foreign(&name) {
            wanted.links.insert(name, Link::new(LinkKind::Given));
        }
        wanted
    }

    fn bridges_wanted<'a>(
        &self,
        bridges: &Bridges,
        networks: impl IntoIterator<Item = &'a String>,
    ) -> Wanted {
        let filtered = self.is_filtered();
        let mut all = Wanted::default();
        for network in networks
            .into_iter()
            .filter_map(|id| bridges.networks.get(id))
        {
            let mut wanted = self.network_wanted(bridges, network);
            for endpoint in bridges
                .endpoints
                .values()
                .filter(|one| one.network == network.id)
            {
                bridge::port(&mut wanted, network, endpoint, filtered);
            }
            all.links.extend(wanted.links);
            all.addresses.extend(wanted.addresses);
            all.routes.extend(wanted.routes);
            all.sysctls.extend(wanted.sysctls);
            all.tables.extend(wanted.tables);
        }
        all
    }

    /// A bridge that was there before us: used, but neither changed nor deleted.
    fn is_foreign(&self, name: &str) -> bool {
        let links = self
            .look(|socket, _| link::list(socket))
            .unwrap_or_default();
        links.iter().any(|link| {
            let ours = link
                .alias
                .as_deref()
                .is_some_and(|alias| alias.starts_with(BRIDGE_ALIAS_PREFIX));
            link.name == name && link.kind == "bridge" && !ours && !name.starts_with("sk-")
        })
    }

    fn inside_bridge(&self, network: &BridgeNetwork, endpoint: &BridgeEndpoint) -> Outcome {
        let wanted = bridge::inside(network, endpoint);
        let key = NsKey::File(endpoint.netns.clone());
        self.ground
            .reconcile(&key, &wanted, Scope::Container, &BTreeSet::new())
    }

    fn unplug(&self, bridges: &mut Bridges, id: &str) -> Result<(), NetError> {
        let endpoint = bridges.endpoints.remove(id);
        let mut failure = None;
        let had_ports = !lock(&self.ports).of(id).is_empty();
        lock(&self.ports).release(id);
        let network = endpoint
            .as_ref()
            .and_then(|one| bridges.networks.get(&one.network))
            .cloned();
        if let (Some(network), true) = (network, had_ports) {
            let wanted = self.network_wanted(bridges, &network);
            let done =
                self.ground
                    .reconcile(&NsKey::Root, &wanted, Scope::Partial, &BTreeSet::new());
            failure = done.into_result().err();
        }
        let removed = self.ground.with_socket(&NsKey::Root, |socket| {
            delete_named(socket, &names::bridge_port(id))
        });
        failure = failure.or(removed.err());
        if let Some(endpoint) = endpoint {
            let own: BTreeSet<IpAddr> = endpoint.addresses.iter().map(|net| net.addr()).collect();
            let cut = self.cut(&NsKey::Root, Which::All, move |flow| {
                own.contains(&flow.from) || own.contains(&flow.answered_by)
            });
            failure = failure.or(cut.err());
        }
        failure.map_or(Ok(()), Err)
    }

    fn delete_bridge(&self, id: &str) -> Result<(), NetError> {
        let alias = format!("{BRIDGE_ALIAS_PREFIX}{id}");
        let own_name = names::bridge(id);
        self.ground.with_socket(&NsKey::Root, |socket| {
            let failed = |source| NetError::Kernel {
                action: "delete",
                object: format!("bridge network `{id}`"),
                source,
            };
            let links = link::list(socket).map_err(failed)?;
            let is_bridge = |link: &&crate::view::SeenLink| {
                let ours = link.alias.as_deref() == Some(&alias) || link.name == own_name;
                link.kind == "bridge" && ours
            };
            let Some(found) = links.iter().find(is_bridge) else {
                return Ok(());
            };
            let is_port = |link: &&crate::view::SeenLink| {
                link.master == Some(found.index) && link.name.starts_with(names::BRIDGE_PORT_PREFIX)
            };
            for link in links.iter().filter(is_port).chain([found]) {
                match socket.request(link::delete(link.index)) {
                    Err(error) if error.errno != libc::ENODEV => return Err(failed(error)),
                    _ => {}
                }
            }
            Ok(())
        })?;
        let table = names::bridge_table(id);
        debug_assert!(table.starts_with(BRIDGE_TABLE_PREFIX));
        self.ground.root.run(|| {
            let mut socket = open_socket(libc::NETLINK_NETFILTER)?;
            nft::reconcile(&mut socket, &[], |family, name| {
                family == Family::Inet && name == table
            })
            .map(drop)
        })?
    }
}

impl Bridges {
    fn network(&self, id: &str) -> Result<&BridgeNetwork, NetError> {
        self.networks.get(id).ok_or_else(|| NetError::NotFound {
            object: format!("bridge network `{id}`"),
        })
    }
}

fn vlan_birth(mode: VlanMode, parent: u32) -> Birth<'static> {
    match mode {
        VlanMode::MacvlanBridge => Birth::Macvlan {
            parent,
            mode: MACVLAN_BRIDGE,
        },
        VlanMode::MacvlanPrivate => Birth::Macvlan {
            parent,
            mode: MACVLAN_PRIVATE,
        },
        VlanMode::MacvlanVepa => Birth::Macvlan {
            parent,
            mode: MACVLAN_VEPA,
        },
        VlanMode::MacvlanPassthru => Birth::Macvlan {
            parent,
            mode: MACVLAN_PASSTHRU,
        },
        VlanMode::IpvlanL2 => Birth::Ipvlan {
            parent,
            mode: IPVLAN_L2,
        },
        VlanMode::IpvlanL3 => Birth::Ipvlan {
            parent,
            mode: IPVLAN_L3,
        },
    }
}

fn absorb(report: &mut Report, object: &str, outcome: Outcome) {
    report.changes.extend(outcome.changes);
    for error in outcome.failures {
        report.fail(object, error);
    }
}
