//! From the desired state of a host to what each of its namespaces should hold.
//! Pure.

pub(crate) mod bridge;
mod ingress;
pub(crate) mod mesh;
pub(crate) mod overlay;
pub(crate) mod path;
pub(crate) mod published;
pub(crate) mod services;
pub(crate) mod task;
pub(crate) mod tunnel;

use std::net::IpAddr;

use ipnet::IpNet;

use crate::nft::Rule;

/// The prefix that holds one address only.
pub(crate) fn host_prefix(ip: IpAddr) -> IpNet {
    IpNet::from(ip)
}

/// The default route's destination in this address's family.
pub(crate) fn default_prefix(of: IpAddr) -> IpNet {
    match of {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

/// `[::1]` cannot be redirected (there is no `route_localnet` for it): left alone,
/// it refuses, and clients go on to 127.0.0.1.
pub(crate) fn not_from_loopback6() -> Rule {
    Rule::new()
        .to(host_prefix(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)))
        .accept()
}

/// The address a gateway has on every link of its own that speaks IPv6.
pub(crate) fn link_local_gateway() -> IpNet {
    IpNet::V6(ipnet::Ipv6Net::new_assert(
        crate::names::LINK_LOCAL_GATEWAY,
        64,
    ))
}
