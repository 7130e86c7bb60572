//! Subnets for networks that name none.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Where subnets come from when the cluster was given no pool.
pub fn default_pool() -> IpNet {
    IpNet::V4(Ipv4Net::new(Ipv4Addr::new(10, 0, 0, 0), 8).expect("8 is a prefix length"))
}

/// Whether two subnets share an address.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// A free subnet of `size` bits from the pools, tried in their order.
///
/// The very first subnet of a pool comes last: 10.0.0.0/24 is what home routers use.
pub fn choose(pools: &[IpNet], size: u8, taken: &[IpNet]) -> Option<IpNet> {
    pools.iter().find_map(|pool| match pool {
        IpNet::V4(pool) => choose_v4(*pool, size, taken),
        IpNet::V6(_) => None,
    })
}

fn choose_v4(pool: Ipv4Net, size: u8, taken: &[IpNet]) -> Option<IpNet> {
    let size = size.max(pool.prefix_len());
    let mut busy: Vec<(u64, u64)> = taken
        .iter()
        .filter_map(|net| match net {
            IpNet::V4(net) => Some((
                u64::from(u32::from(net.network())),
                u64::from(u32::from(net.broadcast())),
            )),
            IpNet::V6(_) => None,
        })
        .collect();
    busy.sort_unstable();
    let step = 1u64 << (32 - u32::from(size.min(32)));
    let start = u64::from(u32::from(pool.network()));
    let end = u64::from(u32::from(pool.broadcast()));
    let first_free = |from: u64| {
        let mut candidate = from;
        for (low, high) in &busy {
            if *high < candidate {
                continue;
            }
            if *low >= candidate + step {
                break;
            }
            candidate = (high / step + 1) * step;
        }
        (candidate + step - 1 <= end).then_some(candidate)
    };
    let found = first_free(start + step).or_else(|| first_free(start))?;
    let address = Ipv4Addr::from(u32::try_from(found).ok()?);
    Ipv4Net::new(address, size).ok().map(IpNet::V4)
}

/// A free /64 of unique local addresses; the cluster's id makes the site prefix.
pub fn choose_v6(cluster: &str, taken: &[IpNet]) -> Option<IpNet> {
    let site = (u128::from(0xfdu8) << 120) | (u128::from(fnv(cluster) & 0xff_ffff_ffff) << 80);
    (1..=u128::from(u16::MAX)).find_map(|subnet| {
        let address = Ipv6Addr::from(site | (subnet << 64));
        let net = IpNet::V6(Ipv6Net::new(address, 64).expect("64 is a prefix length"));
        taken
            .iter()
            .all(|other| !overlap(&net, other))
            .then_some(net)
    })
}

/// FNV-1a: spreads ids over site prefixes. Nobody's safety depends on it.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
