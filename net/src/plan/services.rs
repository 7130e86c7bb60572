//! The tables inside a task's namespace: service addresses and the resolver.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::desired::cluster::Vip;
use crate::names::{self, DNS_TABLE, SERVICE_TABLE};
use crate::nft::{Bytes, Chain, Family, Field, Hook, Ip, Rule, Set, Table, Turn};
use crate::{Proto, plan};

/// With more services than this in a namespace, those with equally many backends share a chain: the
/// kernel takes seconds to make ten thousand chains. What they share is also a counter, which takes
/// turns over all of them, so backends are chosen at random then.
const CHAINS_MAX: usize = 2000;

/// The address containers ask names at.
/// Where containers ask for names.
pub(crate) const RESOLVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 11));
pub(crate) const RESOLVER_PORT: u16 = 53;

/// The table that spreads connections to service addresses over their backends.
/// `seed` (the namespace's name) decides where the round robin begins, so that
/// many fresh tasks do not all meet the same backend first.
pub(crate) fn services(seed: &str, services: &[Vip]) -> Table {
    let mut table = Table::new(Family::Inet, SERVICE_TABLE);
    let mut backends = [
        Set::map("be4", &[Field::Ip4, Field::Number], &[Field::Ip4]),
        Set::map("be6", &[Field::Ip6, Field::Number], &[Field::Ip6]),
    ];
    let mut vips = [
        Set::verdicts("vip4", &[Field::Ip4]),
        Set::verdicts("vip6", &[Field::Ip6]),
    ];
    let mut empty = [
        Set::new("noep4", &[Field::Ip4]),
        Set::new("noep6", &[Field::Ip6]),
    ];
    let mut chains = Vec::new();
    let mut known = BTreeSet::new();
    let mut shared = BTreeSet::new();
    let of_many = services.len() > CHAINS_MAX;

    for service in services {
        if !known.insert(service.vip) {
            continue;
        }
        let ip = Ip::of(service.vip);
        let family = usize::from(ip == Ip::V6);
        let slots = slots(seed, service);
        if slots.is_empty() {
            empty[family].add(Bytes::new().ip(service.vip));
            continue;
        }
        let count = slots.len() as u32;
        let (chain, turn) = match of_many {
            false => (chain_name(service.vip), Turn::InOrder),
            true => (format!("svc{ip:?}-{count}"), Turn::Random),
        };
        for (slot, backend) in slots.iter().enumerate() {
            backends[family].put(
                Bytes::new().ip(service.vip).number(slot as u32),
                Bytes::new().ip(*backend),
            );
        }
        vips[family].goto(Bytes::new().ip(service.vip), &chain);
        if shared.insert(chain.clone()) {
            let map = &backends[family].name;
            let rule = Rule::new().dnat_by_destination(ip, turn, count, map);
            chains.push(Chain::plain(chain, vec![rule]));
        }
    }

    let follow = Ip::BOTH.into_iter().zip(&vips);
    let follow = follow
        .map(|(ip, map)| Rule::new().follow_destination(ip, &map.name))
        .collect();
    let refuse = Ip::BOTH.into_iter().zip(&empty).flat_map(|(ip, set)| {
        [
            Rule::new()
                .destination_in(ip, &set.name)
                .protocol(Proto::Tcp)
                .reset(),
            Rule::new().destination_in(ip, &set.name).unreachable(),
        ]
    });
    chains.push(Chain::base("nat-out", Hook::nat_output(), follow));
    chains.push(Chain::base(
        "filter-out",
        Hook::filter_output(0),
        refuse.collect(),
    ));
    table
        .sets
        .extend(backends.into_iter().chain(vips).chain(empty));
    table.chains = chains;
    table
}

/// The backends in the order of their slots: sorted, then turned by a number that
/// differs between tasks and services.
fn slots(seed: &str, service: &Vip) -> Vec<IpAddr> {
    let same_family = |ip: &&IpAddr| ip.is_ipv4() == service.vip.is_ipv4();
    let backends: BTreeSet<IpAddr> = service
        .backends
        .iter()
        .filter(same_family)
        .copied()
        .collect();
    let mut slots: Vec<IpAddr> = backends.into_iter().collect();
    if !slots.is_empty() {
        let turn = names::hash(format!("{seed} {}", service.vip).as_bytes());
        let length = slots.len() as u64;
        slots.rotate_left((turn % length) as usize);
    }
    slots
}

/// Chains cannot be named by addresses; their digits do.
fn chain_name(vip: IpAddr) -> String {
    match vip {
        IpAddr::V4(ip) => format!("svc-{:08x}", u32::from(ip)),
        IpAddr::V6(ip) => format!("svc-{:032x}", u128::from(ip)),
    }
}

/// The table that leads queries to the resolver's own ports.
pub(crate) fn resolver(udp: u16, tcp: u16) -> Table {
    let mut table = Table::new(Family::Inet, DNS_TABLE);
    let rule = |proto, port| {
        Rule::new()
            .to(plan::host_prefix(RESOLVER))
            .protocol(proto)
            .destination_port(RESOLVER_PORT)
            .dnat(RESOLVER, port)
    };
    let rules = vec![rule(Proto::Udp, udp), rule(Proto::Tcp, tcp)];
    table.chain(Chain::base("nat-out", Hook::nat_output(), rules));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(backends: &[&str]) -> Vip {
        Vip {
            vip: "10.0.1.2".parse().unwrap(),
            backends: backends.iter().map(|ip| ip.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn slots_are_the_backends_turned_differently_per_task() {
        let service = vip(&["10.0.1.7", "10.0.1.5", "10.0.1.6", "10.0.1.6", "fd00::1"]);
        let firsts: BTreeSet<_> = (0..30)
            .map(|n| slots(&format!("t-{n}"), &service)[0])
            .collect();
        assert_eq!(firsts.len(), 3);
        let mut all = slots("t-1", &service);
        all.sort();
        assert_eq!(
            all.iter().map(IpAddr::to_string).collect::<Vec<_>>(),
            ["10.0.1.5", "10.0.1.6", "10.0.1.7"]
        );
    }

    #[test]
    fn a_service_without_backends_refuses_and_has_no_chain() {
        let table = services("t-1", &[vip(&[])]);
        assert_eq!(table.chains.len(), 2);
        let elements = |name: &str| {
            table
                .sets
                .iter()
                .find(|set| set.name == name)
                .unwrap()
                .elements
                .len()
        };
        assert_eq!(
            (elements("noep4"), elements("vip4"), elements("be4")),
            (1, 0, 0)
        );
    }
}
