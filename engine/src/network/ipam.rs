//! Choosing subnets and addresses. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::config::AddressPool;
use crate::error::{EngineError, Result};
use crate::types::IpamConfig;

/// The first subnet of the pools that overlaps none of `used`.
pub(super) fn free_subnet(pools: &[AddressPool], used: &[IpNet], six: bool) -> Result<IpNet> {
    for pool in pools {
        if pool.base.addr().is_ipv6() != six {
            continue;
        }
        let Ok(mut subnets) = pool.base.subnets(pool.size) else {
            continue;
        };
        if let Some(free) = subnets.find(|subnet| !used.iter().any(|net| overlap(net, subnet))) {
            return Ok(free);
        }
    }
    Err(EngineError::not_found(
        "all predefined address pools have been fully subnetted",
    ))
}

/// A unique local IPv6 subnet that follows from a network's id.
pub(super) fn local_six(id: &str) -> IpNet {
    let digits: String = id.chars().take(14).collect();
    let number = u64::from_str_radix(&digits, 16).unwrap_or(1);
    // fd, then 56 bits of the id as global id and subnet.
    let high = (0xfd << 56) | (number & 0x00ff_ffff_ffff_ffff);
    let address = Ipv6Addr::from(u128::from(high) << 64);
    IpNet::V6(Ipv6Net::new_assert(address, 64))
}

pub(super) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Checks the address part of a create request and fills in gateways.
pub(super) fn complete(mut range: IpamConfig) -> Result<IpamConfig> {
    let subnet: IpNet = range.subnet.parse().map_err(|_| {
        EngineError::invalid(format!(
            "invalid network config:\ninvalid subnet {}: invalid CIDR block notation",
            range.subnet
        ))
    })?;
    if subnet.trunc() != subnet {
        return Err(EngineError::invalid(format!(
            "invalid network config:\ninvalid subnet {subnet}: it should be {}",
            subnet.trunc()
        )));
    }
    if !range.ip_range.is_empty() {
        let part: IpNet = range.ip_range.parse().map_err(|_| {
            EngineError::invalid(format!(
                "invalid network config:\ninvalid ip-range {}: invalid CIDR block notation",
                range.ip_range
            ))
        })?;
        if !subnet.contains(&part) {
            return Err(EngineError::invalid(format!(
                "invalid network config:\ninvalid ip-range {part}: parent subnet {subnet} doesn't contain ip-range"
            )));
        }
    }
    if range.gateway.is_empty() {
        range.gateway = first_host(subnet)
            .ok_or_else(|| EngineError::invalid(format!("subnet {subnet} has no room")))?
            .to_string();
    }
    // `172.20.0.1/16` is taken as well.
    let gateway = range.gateway.split('/').next().unwrap_or_default();
    for address in range
        .auxiliary_addresses
        .values()
        .map(String::as_str)
        .chain([gateway])
    {
        let inside = address
            .parse::<IpAddr>()
            .is_ok_and(|address| subnet.contains(&address));
        if !inside {
            return Err(EngineError::invalid(format!(
                "invalid network config:\ninvalid gateway or auxiliary address {address}: parent subnet {subnet} doesn't contain it"
            )));
        }
    }
    range.gateway = gateway.to_owned();
    Ok(range)
}

fn first_host(subnet: IpNet) -> Option<IpAddr> {
    match subnet {
        IpNet::V4(net) => net.hosts().next().map(IpAddr::V4),
        IpNet::V6(net) => net.hosts().nth(1).map(IpAddr::V6),
    }
}

/// An address of a range, with the subnet's prefix length.
pub(super) fn choose(
    range: &IpamConfig,
    wanted: Option<IpAddr>,
    taken: impl Fn(IpAddr) -> bool,
) -> Result<IpNet> {
    let broken = || EngineError::internal(format!("network has a broken subnet {}", range.subnet));
    let subnet: IpNet = range.subnet.parse().map_err(|_| broken())?;
    let reserved = |address: IpAddr| {
        let text = address.to_string();
        text == range.gateway
            || address == subnet.network()
            || (subnet.addr().is_ipv4() && address == subnet.broadcast())
            || range.auxiliary_addresses.values().any(|aux| *aux == text)
    };
    if let Some(address) = wanted {
        if !subnet.contains(&address) {
            return Err(EngineError::invalid(format!(
                "no configured subnet contains IP address {address}"
            )));
        }
        if taken(address) || reserved(address) {
            return Err(EngineError::forbidden("Address already in use"));
        }
        return with_prefix(address, subnet);
    }
    let part: IpNet = match range.ip_range.as_str() {
        "" => subnet,
        part => part.parse().map_err(|_| broken())?,
    };
    let free = |address: &IpAddr| !taken(*address) && !reserved(*address);
    let found = match part {
        IpNet::V4(net) => addresses_four(net).map(IpAddr::V4).find(free),
        IpNet::V6(net) => addresses_six(net).map(IpAddr::V6).find(free),
    };
    let address = found.ok_or_else(|| {
        EngineError::forbidden(format!(
            "no available IPv4 addresses on this network's address pools: {}",
            range.subnet
        ))
    })?;
    with_prefix(address, subnet)
}

fn with_prefix(address: IpAddr, subnet: IpNet) -> Result<IpNet> {
    IpNet::new(address, subnet.prefix_len())
        .map_err(|error| EngineError::internal("cannot make an address").because(error))
}

fn addresses_four(net: Ipv4Net) -> impl Iterator<Item = Ipv4Addr> {
    (u32::from(net.network())..=u32::from(net.broadcast())).map(Ipv4Addr::from)
}

/// At most 2^32 of them: nobody has more containers.
fn addresses_six(net: Ipv6Net) -> impl Iterator<Item = Ipv6Addr> {
    let first = u128::from(net.network());
    let last = u128::from(net.broadcast()).min(first + u128::from(u32::MAX));
    (first..=last).map(Ipv6Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn range(subnet: &str) -> IpamConfig {
        complete(IpamConfig {
            subnet: subnet.into(),
            ..IpamConfig::default()
        })
        .unwrap()
    }

    #[test]
    fn subnets_are_taken_in_order_and_never_overlap() {
        let pools = [AddressPool {
            base: net("10.1.0.0/16"),
            size: 24,
        }];
        let used = [
            net("10.1.0.0/24"),
            net("10.1.1.128/25"),
            net("192.0.2.0/24"),
        ];
        assert_eq!(
            free_subnet(&pools, &used, false).unwrap(),
            net("10.1.2.0/24")
        );
        assert!(free_subnet(&pools, &[net("10.0.0.0/8")], false).is_err());
        assert!(free_subnet(&pools, &[], true).is_err());
    }

    #[test]
    fn addresses_leave_gateway_network_and_broadcast_out() {
        let small = range("10.1.1.0/29");
        assert_eq!(small.gateway, "10.1.1.1");
        let mut taken: Vec<IpAddr> = Vec::new();
        while let Ok(address) = choose(&small, None, |a| taken.contains(&a)) {
            taken.push(address.addr());
        }
        let all: Vec<String> = taken.iter().map(ToString::to_string).collect();
        assert_eq!(
            all,
            ["10.1.1.2", "10.1.1.3", "10.1.1.4", "10.1.1.5", "10.1.1.6"]
        );
        assert!(choose(&small, Some("10.1.1.1".parse().unwrap()), |_| false).is_err());
        assert!(choose(&small, Some("10.1.2.1".parse().unwrap()), |_| false).is_err());
        assert_eq!(
            choose(&range("fd00::/64"), None, |_| false).unwrap(),
            net("fd00::2/64")
        );
    }

    #[test]
    fn requests_that_make_no_sense_are_refused() {
        let wrong = |subnet: &str, gateway: &str, part: &str| {
            complete(IpamConfig {
                subnet: subnet.into(),
                gateway: gateway.into(),
                ip_range: part.into(),
                ..IpamConfig::default()
            })
            .is_err()
        };
        assert!(wrong("x", "", ""));
        assert!(wrong("10.0.0.1/24", "", ""));
        assert!(wrong("10.0.0.0/24", "10.0.1.1", ""));
        assert!(wrong("10.0.0.0/24", "", "10.0.1.0/25"));
        assert!(!wrong("10.0.0.0/24", "10.0.0.9", "10.0.0.128/25"));
        let six = local_six("abcdef0123456789");
        assert!(six.to_string().starts_with("fdab:cdef:"), "{six}");
    }
}
