//! The addresses of one subnet.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Which addresses of a subnet are taken.
///
/// Addresses are handed out upwards, and from the bottom again once the top is reached, so that an
/// address rests for a while after its task: peers may still send to it.
#[derive(Debug, Clone)]
pub struct AddressPool {
    subnet: IpNet,
    first: u128,
    last: u128,
    taken: BTreeSet<u128>,
    /// The highest address that was ever seen in use.
    highest: u128,
}

impl AddressPool {
    /// The pool of `subnet`, of which only `range` is handed out. The network's own address, the
    /// broadcast address and `gateway` never are.
    pub fn new(subnet: IpNet, range: Option<IpNet>, gateway: Option<IpAddr>) -> Self {
        let net = range.unwrap_or(subnet);
        let lowest = number(subnet.network());
        let highest = number(subnet.broadcast());
        let mut pool = Self {
            subnet,
            first: number(net.network()).max(lowest + 1),
            last: number(net.broadcast()),
            taken: BTreeSet::new(),
            highest: 0,
        };
        // An IPv6 subnet has no broadcast address.
        if matches!(subnet, IpNet::V4(_)) {
            pool.last = pool.last.min(highest.saturating_sub(1));
        }
        if let Some(gateway) = gateway {
            pool.reserve(gateway);
        }
        pool
    }

    /// Notes that an address is in use.
    pub fn mark(&mut self, address: IpAddr) {
        if self.subnet.contains(&address) {
            let address = number(address);
            self.taken.insert(address);
            self.highest = self.highest.max(address);
        }
    }

    /// Keeps an address from being handed out, without moving on to the ones after it.
    pub fn reserve(&mut self, address: IpAddr) {
        if self.subnet.contains(&address) {
            self.taken.insert(number(address));
        }
    }

    /// Notes that an address was in use until recently: it is not the next one handed out.
    pub fn remember(&mut self, address: IpAddr) {
        if self.subnet.contains(&address) {
            self.highest = self.highest.max(number(address));
        }
    }

    pub fn is_taken(&self, address: IpAddr) -> bool {
        self.taken.contains(&number(address))
    }

    /// Takes a free address; nothing when all are in use.
    pub fn take(&mut self) -> Option<IpNet> {
        let upwards = self.first.max(self.highest.saturating_add(1));
        let free = self
            .free_from(upwards)
            .or_else(|| self.free_from(self.first))?;
        self.taken.insert(free);
        self.highest = self.highest.max(free);
        let address = match self.subnet {
            IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(free).ok()?)),
            IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(free)),
        };
        IpNet::new(address, self.subnet.prefix_len()).ok()
    }

    /// Takes this very address; nothing when it is no host of the subnet, or in use.
    pub fn take_this(&mut self, address: IpAddr) -> Option<IpNet> {
        let wanted = number(address);
        let is_host = match self.subnet {
            IpNet::V4(net) => address != net.network() && address != net.broadcast(),
            IpNet::V6(net) => address != net.network(),
        };
        if !self.holds(address) || !is_host || !self.taken.insert(wanted) {
            return None;
        }
        IpNet::new(address, self.subnet.prefix_len()).ok()
    }

    /// Whether the pool's addresses are IPv4 ones.
    pub fn is_v4(&self) -> bool {
        matches!(self.subnet, IpNet::V4(_))
    }

    /// Whether an address is in the pool's subnet.
    pub fn holds(&self, address: IpAddr) -> bool {
        self.subnet.contains(&address)
    }

    fn free_from(&self, start: u128) -> Option<u128> {
        let mut candidate = start;
        for taken in self.taken.range(start..) {
            if *taken != candidate {
                break;
            }
            candidate = candidate.checked_add(1)?;
        }
        (candidate <= self.last).then_some(candidate)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// The first address of a subnet: its gateway unless the user names another.
pub fn default_gateway(subnet: IpNet) -> IpAddr {
    match subnet {
        IpNet::V4(net) => IpAddr::V4(Ipv4Addr::from(u32::from(net.network()).wrapping_add(1))),
        IpNet::V6(net) => IpAddr::V6(Ipv6Addr::from(u128::from(net.network()).wrapping_add(1))),
    }
}
