//! The door: one host's data plane.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::apply::{Ground, open_socket};
use crate::bridges::Bridges;
use crate::cluster::Cluster;
use crate::encryption::Processes;
use crate::netlink::entry::{self, Names};
use crate::netlink::link;
use crate::netlink::socket::Socket;
use crate::nft;
use crate::passage::Passage;
use crate::plan::default_prefix;
use crate::ports::Ports;
use crate::relay::Relay;
use crate::sockets::{self, Connections};
use crate::view::{NsKey, Route};
use crate::{Capabilities, EncryptionChoice, KernelError, Namespaces, NetError, Netns, Report};

/// How this daemon's data plane is set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostConfig {
    /// The daemon's runtime directory; namespaces are pinned under `netns` in it.
    pub run_dir: PathBuf,
    /// Where gateway legs get their addresses; the first one is the gateway.
    /// It is local to the node and must not overlap what its tasks want to reach.
    pub gateway_subnet: Ipv4Net,
    /// Where gateway legs get their IPv6 addresses, see `gateway_address6`. As
    /// local to the node, and masqueraded like the other.
    pub gateway_subnet6: Ipv6Net,
    /// The upper eight bits of our packet marks.
    pub mark_tag: u8,
    /// What is started as `PROGRAM relay DIRECTORY` while ports need the PROXY
    /// protocol spoken; `None`: such ports are not served.
    #[serde(default)]
    pub relay: Option<PathBuf>,
    /// What may encrypt between nodes.
    #[serde(default)]
    pub encryption: EncryptionChoice,
    /// The program that is a tunnel's process when it is called `wireguard`.
    pub program: PathBuf,
}

impl HostConfig {
    /// Defaults: 172.18.0.0/16, fd73:6b65:7000::/64, tag 0x5a, encryption by
    /// what there is, this very program.
    pub fn new(run_dir: impl Into<PathBuf>) -> Self {
        Self {
            run_dir: run_dir.into(),
            gateway_subnet: Ipv4Net::new_assert(Ipv4Addr::new(172, 18, 0, 0), 16),
            gateway_subnet6: Ipv6Net::new_assert(
                Ipv6Addr::new(0xfd73, 0x6b65, 0x7000, 0, 0, 0, 0, 0),
                64,
            ),
            mark_tag: 0x5a,
            relay: None,
            encryption: EncryptionChoice::Auto,
            program: "/proc/self/exe".into(),
        }
    }
}

/// What went through an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceCounters {
    /// The interface's name inside its namespace.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Errors on receiving.
    pub rx_errors: u64,
    /// Packets dropped on receiving.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Errors on sending.
    pub tx_errors: u64,
    /// Packets dropped on sending.
    pub tx_dropped: u64,
}

/// The lowest free address for a gateway leg: not the network's own, not the
/// gateway's (the first host address), not the broadcast address. `None`: full.
pub fn next_gateway_address(subnet: Ipv4Net, used: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    subnet
        .hosts()
        .skip(1)
        .find(|address| !used.contains(address))
}

/// The IPv6 address of the gateway leg that has this IPv4 address: as far from the
/// beginning of its subnet, so that there is nothing more to choose or to keep.
pub fn gateway_address6(config: &HostConfig, ip4: Ipv4Addr) -> Ipv6Addr {
    let offset = u32::from(ip4).wrapping_sub(config.gateway_subnet.network().into());
    Ipv6Addr::from(u128::from(config.gateway_subnet6.network()) | u128::from(offset))
}

/// The data plane of the host (or namespace) that the daemon runs in. Methods
/// may be called from any thread, in any namespace; calls that change the same
/// thing wait for one another.
pub struct Host {
    pub(crate) config: HostConfig,
    pub(crate) ground: Ground,
    pub(crate) cluster: Mutex<Cluster>,
    pub(crate) bridges: Mutex<Bridges>,
    pub(crate) ports: Mutex<Ports>,
    pub(crate) relay: Mutex<Relay>,
    pub(crate) passage: Mutex<Passage>,
    pub(crate) tunnels: Mutex<Processes>,
    capabilities: OnceLock<Capabilities>,
}

/// A panic elsewhere must not stop the data plane; what the locks guard is valid
/// between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Host {
    /// Opens the data plane of the namespace the calling thread is in. Changes
    /// nothing yet.
    pub fn open(config: HostConfig) -> Result<Self, NetError> {
        let subnets = [
            (IpNet::V4(config.gateway_subnet), 29),
            // The whole of an IPv4 range fits in.
            (IpNet::V6(config.gateway_subnet6), 96),
        ];
        for (subnet, longest) in subnets {
            if subnet.prefix_len() > longest {
                return Err(NetError::Invalid {
                    object: format!("gateway subnet {subnet}"),
                    reason: "it is too small".into(),
                });
            }
        }
        let ground = Ground {
            namespaces: Namespaces::new(&config.run_dir),
            root: Netns::current()?,
            root_socket: Mutex::new(open_socket(libc::NETLINK_ROUTE)?),
        };
        Ok(Self {
            relay: Mutex::new(Relay::new(&config)),
            config,
            ground,
            cluster: Mutex::default(),
            bridges: Mutex::default(),
            passage: Mutex::default(),
            ports: Mutex::default(),
            tunnels: Mutex::default(),
            capabilities: OnceLock::new(),
        })
    }

    /// How it was set up.
    pub fn config(&self) -> &HostConfig {
        &self.config
    }

    /// Whether this host speaks IPv6 now.
    pub fn speaks_ip6(&self) -> bool {
        let off = self
            .ground
            .root
            .run(|| crate::sysctl::get("net/ipv6/conf/all/disable_ipv6"));
        off.is_ok_and(|off| off.as_deref() == Some("0"))
    }

    /// The pinned namespaces: for making a container's namespace before its
    /// endpoints are connected, and for removing it after they are disconnected.
    pub fn namespaces(&self) -> &Namespaces {
        &self.ground.namespaces
    }

    /// The TCP connections of a task's namespace.
    pub fn connections(&self, netns: &str) -> Result<Connections, NetError> {
        sockets::connections(&self.ground.namespaces.open(netns)?)
    }

    /// What this host can do; probed once, but for the firewalls of others.
    pub fn capabilities(&self) -> Capabilities {
        let mut found = self
            .capabilities
            .get_or_init(|| crate::probe::probe(&self.ground))
            .clone();
        if let Some(closed) = self.closed_chains() {
            found.foreign_forward_drops = closed;
        }
        found
    }

    /// Removes everything of ours from this host: both halves, all pinned
    /// namespaces. For leaving a cluster for good; containers must be gone.
    pub fn remove_everything(&self) -> Report {
        let mut report = self.remove_cluster();
        let bridges: Vec<String> = lock(&self.passage).links().cloned().collect();
        self.shut(bridges, &mut report);
        let bridges = self.apply_bridges(&crate::BridgeState::default());
        report.changes.extend(bridges.changes);
        report.failures.extend(bridges.failures);
        match self.ground.namespaces.list() {
            Ok(names) => {
                for name in names {
                    let removed = self.remove_namespace(&name);
                    report.part(format!("namespace {name}"), removed);
                }
            }
            Err(error) => report.fail("namespaces", error),
        }
        report
    }

    /// Leads queries to 127.0.0.11:53 inside a namespace to the ports its
    /// resolver listens on (UDP, TCP), on 127.0.0.11.
    pub fn redirect_dns(&self, netns: &Path, udp: u16, tcp: u16) -> Result<(), NetError> {
        let table = crate::plan::services::resolver(udp, tcp);
        Netns::open(netns)?.run(|| {
            let mut socket = open_socket(libc::NETLINK_NETFILTER)?;
            nft::reconcile(&mut socket, &[table], |_, _| false).map(drop)
        })?
    }

    /// Replaces the default routes of a container: `gateways` through `ifname`,
    /// at most one per family. Families not given lose the one we gave them.
    pub fn set_default_routes(
        &self,
        netns: &Path,
        ifname: &str,
        gateways: &[IpAddr],
    ) -> Result<(), NetError> {
        let key = NsKey::File(netns.to_owned());
        self.ground.with_socket(&key, |socket| {
            let look = |source| NetError::Kernel {
                action: "look at",
                object: key.to_string(),
                source,
            };
            let links = link::list(socket).map_err(look)?;
            let names: Names = links
                .iter()
                .map(|link| (link.index, link.name.clone()))
                .collect();
            let wanted: BTreeSet<Route> = gateways
                .iter()
                .map(|gateway| Route {
                    table: entry::MAIN_TABLE,
                    to: default_prefix(*gateway),
                    via: Some(*gateway),
                    dev: ifname.to_owned(),
                    source: None,
                })
                .collect();
            let is_default =
                |route: &&Route| route.table == entry::MAIN_TABLE && route.to.prefix_len() == 0;
            let seen = entry::our_routes(socket, &names).map_err(look)?;
            let index = |dev: &str| {
                links
                    .iter()
                    .find(|link| link.name == dev)
                    .map(|link| link.index)
            };
            for route in seen
                .iter()
                .filter(is_default)
                .filter(|route| !wanted.contains(*route))
            {
                let Some(index) = index(&route.dev) else {
                    continue;
                };
                match socket.request(entry::delete_route(index, route)) {
                    Err(error) if error.errno != libc::ESRCH => {
                        let object = format!("{route} in {key}");
                        return Err(NetError::Kernel {
                            action: "delete",
                            object,
                            source: error,
                        });
                    }
                    _ => {}
                }
            }
            for route in wanted.difference(&seen) {
                let object = format!("{route} in {key}");
                let index = index(ifname).ok_or_else(|| NetError::NotFound {
                    object: format!("link `{ifname}` in {key}"),
                })?;
                socket
                    .request(entry::set_route(index, route))
                    .map_err(|source| NetError::Kernel {
                        action: "set",
                        object,
                        source,
                    })?;
            }
            Ok(())
        })
    }

    /// The counters of every interface in a namespace but the loopback, by name.
    pub fn counters(&self, netns: &Path) -> Result<Vec<InterfaceCounters>, NetError> {
        let key = NsKey::File(netns.to_owned());
        self.ground.with_socket(&key, |socket| {
            link::counters(socket).map_err(|source| NetError::Kernel {
                action: "read",
                object: format!("counters in {key}"),
                source,
            })
        })
    }

    /// The subnets this host has routes to (default routes left out) and the one
    /// of the gateway legs: a new network's subnet should not overlap them.
    pub fn routed_subnets(&self) -> Result<Vec<IpNet>, NetError> {
        self.look(|socket, names| {
            let routes = entry::main_routes(socket, names)?;
            let is_subnet = |net: &IpNet| {
                let is_link_local =
                    matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local());
                net.prefix_len() > 0 && !is_link_local
            };
            let subnets: BTreeSet<IpNet> = routes
                .into_iter()
                .map(|route| route.to)
                .filter(is_subnet)
                .chain([
                    IpNet::V4(self.config.gateway_subnet),
                    IpNet::V6(self.config.gateway_subnet6),
                ])
                .collect();
            Ok(subnets.into_iter().collect())
        })
    }

    /// The address this host would use towards another one, and the MTU of the
    /// interface on the way.
    pub fn route_to(&self, peer: IpAddr) -> Result<(IpAddr, u32), NetError> {
        self.look(|socket, _| {
            let (index, source) = entry::lookup(socket, peer)?;
            let links = link::list(socket)?;
            let mtu = links
                .iter()
                .find(|link| link.index == index)
                .map_or(1500, |link| link.mtu);
            Ok((source, mtu))
        })
    }

    /// MTU of the interface that carries one of this host's own addresses; 1500 when none does.
    pub fn mtu_of(&self, own: IpAddr) -> Result<u32, NetError> {
        self.look(|socket, names| {
            let addresses = entry::addresses(socket, names)?;
            let carrier = addresses.into_iter().find(|(_, net)| net.addr() == own);
            let links = link::list(socket)?;
            let mtu = carrier.and_then(|(name, _)| links.iter().find(|link| link.name == name));
            Ok(mtu.map_or(1500, |link| link.mtu))
        })
    }

    /// Looks at the root namespace.
    pub(crate) fn look<T: Send>(
        &self,
        f: impl FnOnce(&mut Socket, &Names) -> Result<T, KernelError> + Send,
    ) -> Result<T, NetError> {
        self.ground.with_socket(&NsKey::Root, |socket| {
            let links = link::list(socket);
            let looked = links.and_then(|links| {
                let names = links
                    .into_iter()
                    .map(|link| (link.index, link.name))
                    .collect();
                f(socket, &names)
            });
            looked.map_err(|source| NetError::Kernel {
                action: "look at",
                object: NsKey::Root.to_string(),
                source,
            })
        })
    }

    /// Takes a pinned namespace off every network and removes it: links first, so
    /// that a process left inside cannot answer any more.
    pub(crate) fn remove_namespace(&self, name: &str) -> Result<Vec<String>, NetError> {
        if self.ground.namespaces.exists(name) {
            self.ground
                .with_socket(&NsKey::Pinned(name.to_owned()), delete_our_kinds)?;
        }
        self.ground.namespaces.delete(name)?;
        Ok(vec![format!("delete namespace `{name}`")])
    }

    /// The veths of `ends` (name here → where and how its far end is called)
    /// whose far end is missing.
    pub(crate) fn lost_peers<'a>(
        &self,
        ends: impl IntoIterator<Item = (&'a NsKey, &'a str, String)>,
    ) -> BTreeSet<String> {
        let mut seen: BTreeMap<NsKey, BTreeSet<String>> = BTreeMap::new();
        let mut lost = BTreeSet::new();
        for (key, ifname, name) in ends {
            let names = seen.entry(key.clone()).or_insert_with(|| {
                let links = self.ground.with_socket(key, |socket| {
                    link::list(socket).map_err(|source| NetError::Kernel {
                        action: "list",
                        object: format!("links of {key}"),
                        source,
                    })
                });
                links
                    .unwrap_or_default()
                    .into_iter()
                    .map(|link| link.name)
                    .collect()
            });
            if !names.contains(ifname) {
                lost.insert(name);
            }
        }
        lost
    }
}

/// Deletes every virtual link of kinds we give to namespaces.
fn delete_our_kinds(socket: &mut Socket) -> Result<(), NetError> {
    let failed = |object: String| {
        move |source| NetError::Kernel {
            action: "delete",
            object,
            source,
        }
    };
    let links = link::list(socket).map_err(failed("links".into()))?;
    for found in links {
        let ours = ["veth", "vxlan", "bridge", "macvlan", "ipvlan"];
        if !ours.contains(&found.kind.as_str()) {
            continue;
        }
        match socket.request(link::delete(found.index)) {
            Err(error) if error.errno != libc::ENODEV => {
                return Err(failed(format!("link `{}`", found.name))(error));
            }
            _ => {}
        }
    }
    Ok(())
}
