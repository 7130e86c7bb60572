//! The ports this node answers on: where, who stands behind them, and their part
//! of the table that makes the routing mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::Proto;
use crate::desired::cluster::{HostAddress, HostState, Source};
use crate::names;
use crate::nft::{Bytes, Chain, Field, Ip, Rule, Set, Table};
use crate::plan::{host_prefix, task};

/// The ports that systems give out by default, where hardly anybody publishes one.
const ASIDE: RangeInclusive<u16> = 32_768..=60_999;

/// Who answers on a published port: address and port of each backend.
type Backends = BTreeSet<(IpAddr, u16)>;

/// Where a port answers: on one address, or on all of a family (the unspecified
/// one).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At {
    pub proto: Proto,
    pub port: u16,
    pub ip: IpAddr,
}

impl At {
    /// Whether one of the known ones answers where this one would.
    fn overlaps(self, known: &BTreeSet<Self>) -> bool {
        // The first of its family.
        let all = Self {
            ip: unspecified(self.ip),
            ..self
        };
        if self != all {
            return known.contains(&self) || known.contains(&all);
        }
        let last = Self {
            ip: match self.ip {
                IpAddr::V4(_) => Ipv4Addr::BROADCAST.into(),
                IpAddr::V6(_) => Ipv6Addr::from(u128::MAX).into(),
            },
            ..self
        };
        known.range(all..=last).next().is_some()
    }

    /// The same port on all addresses of either family, if this one is such a port.
    pub fn twins(self) -> impl Iterator<Item = Self> {
        let all = [
            Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ];
        let is_one = self.ip.is_unspecified();
        all.into_iter()
            .filter(move |_| is_one)
            .map(move |ip| Self { ip, ..self })
    }

    /// Chains cannot be named by addresses; their digits do.
    fn chain(&self) -> String {
        let Self { proto, port, ip } = self;
        match ip {
            ip if ip.is_unspecified() => format!("pub-{proto}-{port}"),
            IpAddr::V4(ip) => format!("pub-{proto}-{port}-{:08x}", u32::from(*ip)),
            IpAddr::V6(ip) => format!("pub-{proto}-{port}-{:032x}", u128::from(*ip)),
        }
    }

    /// How maps know it.
    fn key(&self) -> Bytes {
        let key = match self.ip.is_unspecified() {
            true => Bytes::new(),
            false => Bytes::new().ip(self.ip),
        };
        key.service(self.proto, self.port)
    }
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { proto, port, ip } = self;
        match ip {
            ip if ip.is_unspecified() => write!(f, "{port}/{proto}"),
            ip => write!(f, "{}/{proto}", std::net::SocketAddr::new(*ip, *port)),
        }
    }
}

/// What a port leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// All of the family that the port is asked in.
    pub backends: Backends,
    pub source: Source,
}

/// The ports this node serves: those whose reservation succeeded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Served {
    pub ports: BTreeMap<At, Answer>,
    /// Ports that another one of the state has already, as an interface and an
    /// address can turn out to be the same.
    pub doubled: BTreeSet<At>,
}

impl Served {
    /// Every port the state wants served here, with who answers: cluster-wide
    /// ones and, where those do not hold the number, this node's own. `own` are
    /// the addresses of this node's interfaces.
    pub fn of(state: &HostState, own: &[(String, IpNet)]) -> Self {
        let mut served = Self::default();
        let mut cluster_wide = BTreeSet::new();
        for port in &state.published {
            for ip in addresses(&port.host, own) {
                let at = At {
                    proto: port.proto,
                    port: port.port,
                    ip,
                };
                if at.overlaps(&cluster_wide) {
                    served.doubled.insert(at);
                    continue;
                }
                cluster_wide.insert(at);
                let answer = Answer {
                    backends: alike(ip, port.backends.iter().copied()),
                    source: port.source,
                };
                served.ports.insert(at, answer);
            }
        }
        for leg in state
            .sandboxes
            .iter()
            .filter_map(|sandbox| sandbox.gateway.as_ref())
        {
            for port in &leg.host_ports {
                for ip in addresses(&port.host, own) {
                    let at = At {
                        proto: port.proto,
                        port: port.published,
                        ip,
                    };
                    if at.overlaps(&cluster_wide) {
                        continue;
                    }
                    let reached = task::reached_at(leg).into_iter();
                    let backends = alike(ip, reached.map(|ip| (ip, port.target)));
                    served
                        .ports
                        .entry(at)
                        .or_default()
                        .backends
                        .extend(backends);
                }
            }
        }
        served
    }

    /// What a connection to this address and port leads to.
    pub fn answer(&self, proto: Proto, ip: IpAddr, port: u16) -> Option<&Answer> {
        let at = |ip| self.ports.get(&At { proto, port, ip });
        at(ip).or_else(|| at(unspecified(ip)))
    }
}

/// The address that stands for all of this one's family.
fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// The addresses that a port answers on. `own` are those of this node's interfaces.
pub(crate) fn addresses(host: &HostAddress, own: &[(String, IpNet)]) -> Vec<IpAddr> {
    match host {
        HostAddress::All => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        HostAddress::Ip(ip) => vec![*ip],
        HostAddress::Interface(name) => own
            .iter()
            .filter(|(dev, _)| dev == name)
            .map(|(_, net)| net.addr())
            // Only half an address, and never the whole of a client's.
            .filter(|ip| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()))
            .collect(),
    }
}

fn alike(ip: IpAddr, backends: impl Iterator<Item = (IpAddr, u16)>) -> Backends {
    backends
        .filter(|(backend, _)| backend.is_ipv4() == ip.is_ipv4())
        .collect()
}

/// A chain and slots for every published port, and the maps that lead to them.
pub(super) fn sets(table: &mut Table, node: u16, snat_mark: u32, served: &Served) {
    let slot = [Field::Proto, Field::Port, Field::Number];
    let service = [Field::Proto, Field::Port];
    let with = |ip: Ip, fields: &[Field]| [&[address(ip)], fields].concat();
    let mut published = Set::verdicts("pub", &service);
    // Kept from what comes from `[::1]`.
    let mut listens = Set::new("pub6", &service);
    let mut chains: BTreeMap<String, Vec<Rule>> = BTreeMap::new();
    for ip in Ip::BOTH {
        let n = if ip == Ip::V4 { 4 } else { 6 };
        let value = [address(ip), Field::Port];
        let mut at_all = (
            Set::map(&format!("be{n}"), &slot, &value),
            Set::new(&format!("noep{n}"), &service),
        );
        let mut at_one = (
            Set::map(&format!("beat{n}"), &with(ip, &slot), &value),
            Set::new(&format!("noepat{n}"), &with(ip, &service)),
        );
        let mut published_at = Set::verdicts(&format!("pubat{n}"), &with(ip, &service));
        let of_family = served.ports.iter().filter(|(at, _)| Ip::of(at.ip) == ip);
        for (at, answer) in of_family.filter(|(_, answer)| !answer.source.is_relayed()) {
            let is_all = at.ip.is_unspecified();
            let (slots, empty) = match is_all {
                true => &mut at_all,
                false => &mut at_one,
            };
            if is_all && ip == Ip::V6 {
                listens.add(at.key());
            }
            let backends = turned(node, at.port, &answer.backends);
            if backends.is_empty() {
                empty.add(at.key());
                continue;
            }
            for (slot, (backend, target)) in backends.iter().enumerate() {
                slots.put(
                    at.key().number(slot as u32),
                    Bytes::new().ip(*backend).port(*target),
                );
            }
            let leads = match is_all {
                true => &mut published,
                false => &mut published_at,
            };
            leads.goto(at.key(), &at.chain());
            let rules = chains.entry(at.chain()).or_default();
            if answer.source == Source::Snat {
                rules.push(Rule::new().family(ip).set_connection_mark(snat_mark));
            }
            let count = backends.len() as u32;
            rules.push(Rule::new().dnat_by_service(ip, !is_all, count, &slots.name));
        }
        table
            .sets
            .extend([at_all.0, at_all.1, at_one.0, at_one.1, published_at]);
    }
    table.set(published);
    table.set(listens);
    senders(table, served);
    for (name, rules) in chains {
        table.chain(Chain::plain(name, rules));
    }
}

fn address(ip: Ip) -> Field {
    match ip {
        Ip::V4 => Field::Ip4,
        Ip::V6 => Field::Ip6,
    }
}

/// The backends in the order of their slots, beginning at another one on every
/// node.
fn turned(node: u16, port: u16, backends: &Backends) -> Vec<(IpAddr, u16)> {
    let mut turned: Vec<_> = backends.iter().copied().collect();
    if !turned.is_empty() {
        let turn = names::hash(&[node.to_be_bytes(), port.to_be_bytes()].concat());
        let length = turned.len() as u64;
        turned.rotate_left((turn % length) as usize);
    }
    turned
}

/// What a task sends by itself, or too late, keeps its port's number on the way out, but not that of
/// a published port where others answer: the client's next datagram to it would be taken for an
/// answer to that task. So there are sets of those numbers, and of those who may have them.
fn senders(table: &mut Table, served: &Served) {
    let service = [Field::Proto, Field::Port];
    let mut taken = Set::new("taken", &service);
    let mut answers = Ip::BOTH.map(|ip| {
        let key = [&[address(ip)], &service[..]].concat();
        Set::new(answering(ip), &key)
    });
    let datagrams = served.ports.iter().filter(|(at, _)| at.proto == Proto::Udp);
    for (at, answer) in datagrams {
        taken.add(Bytes::new().service(at.proto, at.port));
        let alike = answer.backends.iter().filter(|(_, port)| *port == at.port);
        for (ip, port) in alike {
            let key = Bytes::new().ip(*ip).service(at.proto, *port);
            answers[usize::from(ip.is_ipv6())].add(key);
        }
    }
    table.set(taken);
    table.sets.extend(answers);
}

const fn answering(ip: Ip) -> &'static str {
    match ip {
        Ip::V4 => "answering4",
        Ip::V6 => "answering6",
    }
}

/// Gives what a rule has of tasks' datagrams another port where theirs is taken.
pub(super) fn step_aside(ip: Ip, of_tasks: Rule) -> Rule {
    of_tasks
        .sender_in_set(None, "taken", true)
        .sender_in_set(Some(ip), answering(ip), false)
        .masquerade_within(ASIDE)
}

/// Leads what is for a published port of this host to its chain.
pub(super) fn follow() -> Vec<Rule> {
    let local = || Rule::new().local_destination();
    vec![
        local().follow_service(Some(Ip::V4), "pubat4"),
        local().follow_service(Some(Ip::V6), "pubat6"),
        local().follow_service(None, "pub"),
    ]
}

/// A published port without backends refuses at once, and so does every one that
/// is asked at `[::1]`: there is no `route_localnet` for it.
pub(super) fn refuse() -> Vec<Rule> {
    let local = |ip| Rule::new().local_destination().family(ip);
    let loopback = || Rule::new().to(host_prefix(Ipv6Addr::LOCALHOST.into()));
    let empty: [&dyn Fn() -> Rule; 5] = [
        &|| loopback().service_in_set(None, "pub6"),
        &|| local(Ip::V4).service_in_set(None, "noep4"),
        &|| local(Ip::V6).service_in_set(None, "noep6"),
        &|| local(Ip::V4).service_in_set(Some(Ip::V4), "noepat4"),
        &|| local(Ip::V6).service_in_set(Some(Ip::V6), "noepat6"),
    ];
    empty
        .into_iter()
        .flat_map(|empty| [empty().protocol(Proto::Tcp).reset(), empty().unreachable()])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16, ip: &str) -> At {
        At {
            proto: Proto::Tcp,
            port,
            ip: ip.parse().unwrap(),
        }
    }

    #[test]
    fn all_addresses_of_a_family_overlap_each_of_them() {
        let known: BTreeSet<At> = [
            at(80, "10.0.0.1"),
            at(80, "255.255.255.255"),
            at(81, "0.0.0.0"),
            at(82, "::"),
            at(83, "fd00::1"),
        ]
        .into();
        for (port, ip, overlaps) in [
            (80, "10.0.0.1", true),
            (80, "10.0.0.2", false),
            (80, "0.0.0.0", true),
            (80, "::", false),
            (81, "0.0.0.0", true),
            (81, "10.0.0.1", true),
            (81, "fd00::1", false),
            (82, "fd00::1", true),
            (82, "10.0.0.1", false),
            (83, "::", true),
            (83, "0.0.0.0", false),
            (79, "0.0.0.0", false),
            (84, "::", false),
        ] {
            assert_eq!(at(port, ip).overlaps(&known), overlaps, "{ip} {port}");
        }
        let other = At {
            proto: Proto::Udp,
            ..at(81, "10.0.0.1")
        };
        assert!(!other.overlaps(&known));
    }

    #[test]
    fn a_port_on_all_addresses_has_a_twin() {
        let both = [at(80, "0.0.0.0"), at(80, "::")];
        assert_eq!(both[0].twins().collect::<Vec<_>>(), both);
        assert_eq!(both[1].twins().collect::<Vec<_>>(), both);
        assert_eq!(at(80, "10.0.0.1").twins().count(), 0);
    }
}
