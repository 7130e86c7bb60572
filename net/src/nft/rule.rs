//! Rules, put together so that they read like the firewall language.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::expr::{Base, Cmp, Ct, Expr, Meta, NatKind, Reg, Reject, Verdict};
use crate::Proto;

const NFPROTO_IPV4: u32 = 2;
const NFPROTO_IPV6: u32 = 10;
const ARPHRD_ETHER: u16 = 1;
const RTN_LOCAL: u32 = 2;
const IFNAME_BYTES: usize = 16;

pub(crate) const CT_ESTABLISHED: u32 = 2;
pub(crate) const CT_RELATED: u32 = 4;
pub(crate) const CT_NEW: u32 = 8;
/// `IPS_DST_NAT`.
const CT_STATUS_DNAT: u32 = 1 << 5;

/// Where scratch values of matches go.
const R0: Reg = Reg(0);

/// Which way a packet crosses an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    In,
    Out,
}

/// How one of several is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// One after the other.
    InOrder,
    Random,
}

/// The address family a match is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ip {
    V4,
    V6,
}

impl Ip {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    const fn nfproto(self) -> u32 {
        match self {
            Self::V4 => NFPROTO_IPV4,
            Self::V6 => NFPROTO_IPV6,
        }
    }

    /// Address length in bytes, and in 32-bit registers.
    const fn length(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    const fn registers(self) -> u32 {
        self.length() / 4
    }

    fn source(self) -> (Base, u32) {
        (Base::Network, if self == Self::V4 { 12 } else { 8 })
    }

    fn destination(self) -> (Base, u32) {
        (Base::Network, if self == Self::V4 { 16 } else { 24 })
    }
}

/// A rule: expressions in order. The first that does not match ends it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule(pub Vec<Expr>);

impl Rule {
    pub fn new() -> Self {
        Self::default()
    }

    fn then(mut self, expr: Expr) -> Self {
        self.0.push(expr);
        self
    }

    fn compare(self, op: Cmp, value: impl Into<Vec<u8>>) -> Self {
        self.then(Expr::Cmp {
            reg: R0,
            op,
            value: value.into(),
        })
    }

    fn meta(self, key: Meta) -> Self {
        self.then(Expr::Meta { key, to: R0 })
    }

    fn load(self, (base, offset): (Base, u32), length: u32, to: Reg) -> Self {
        self.then(Expr::Payload {
            base,
            offset,
            length,
            to,
        })
    }

    // ---- matches ------------------------------------------------------------

    pub fn family(self, ip: Ip) -> Self {
        self.meta(Meta::NfProto)
            .compare(Cmp::Eq, [ip.nfproto() as u8])
    }

    pub fn protocol(self, proto: Proto) -> Self {
        self.meta(Meta::L4Proto).compare(Cmp::Eq, [proto.number()])
    }

    fn interface_op(self, direction: Direction, name: &str, op: Cmp) -> Self {
        let key = match direction {
            Direction::In => Meta::IifName,
            Direction::Out => Meta::OifName,
        };
        let mut padded = name.as_bytes().to_vec();
        padded.resize(IFNAME_BYTES, 0);
        self.meta(key).compare(op, padded)
    }

    pub fn interface(self, direction: Direction, name: &str) -> Self {
        self.interface_op(direction, name, Cmp::Eq)
    }

    /// The interface's name is this, or begins so when the name ends with `+`.
    pub fn interface_like(self, direction: Direction, name: &str) -> Self {
        let Some(prefix) = name.strip_suffix('+') else {
            return self.interface(direction, name);
        };
        let key = match direction {
            Direction::In => Meta::IifName,
            Direction::Out => Meta::OifName,
        };
        self.meta(key).compare(Cmp::Eq, prefix.as_bytes())
    }

    pub fn not_interface(self, direction: Direction, name: &str) -> Self {
        self.interface_op(direction, name, Cmp::Ne)
    }

    fn group_op(self, direction: Direction, group: u32, op: Cmp) -> Self {
        let key = match direction {
            Direction::In => Meta::IifGroup,
            Direction::Out => Meta::OifGroup,
        };
        self.meta(key).compare(op, group.to_ne_bytes())
    }

    pub fn group(self, direction: Direction, group: u32) -> Self {
        self.group_op(direction, group, Cmp::Eq)
    }

    pub fn not_group(self, direction: Direction, group: u32) -> Self {
        self.group_op(direction, group, Cmp::Ne)
    }

    fn prefix(self, at: fn(Ip) -> (Base, u32), net: IpNet) -> Self {
        let ip = Ip::of(net.addr());
        let (network, mask) = match net {
            IpNet::V4(net) => (
                net.network().octets().to_vec(),
                net.netmask().octets().to_vec(),
            ),
            IpNet::V6(net) => (
                net.network().octets().to_vec(),
                net.netmask().octets().to_vec(),
            ),
        };
        let rule = self.family(ip).load(at(ip), ip.length(), R0);
        let rule = match net.prefix_len() == net.max_prefix_len() {
            true => rule,
            false => rule.then(Expr::And { reg: R0, mask }),
        };
        rule.compare(Cmp::Eq, network)
    }

    /// The destination lies in this subnet (implies its family).
    pub fn to(self, net: IpNet) -> Self {
        self.prefix(Ip::destination, net)
    }

    /// The source lies in this subnet (implies its family).
    pub fn from(self, net: IpNet) -> Self {
        self.prefix(Ip::source, net)
    }

    /// The source is, or is not, in a set of addresses of this family.
    pub fn source_in(self, ip: Ip, set: &str, inside: bool) -> Self {
        self.family(ip)
            .load(ip.source(), ip.length(), R0)
            .then(Expr::Lookup {
                set: set.into(),
                from: R0,
                to: None,
                inverted: !inside,
            })
    }

    /// The destination is in a set of addresses of this family.
    pub fn destination_in(self, ip: Ip, set: &str) -> Self {
        self.family(ip)
            .load(ip.destination(), ip.length(), R0)
            .then(Expr::Lookup {
                set: set.into(),
                from: R0,
                to: None,
                inverted: false,
            })
    }

    pub fn destination_port(self, port: u16) -> Self {
        self.load((Base::Transport, 2), 2, R0)
            .compare(Cmp::Eq, port.to_be_bytes())
    }

    /// The destination (or source) is an address of this host, or is not.
    fn address_type(self, source: bool, op: Cmp) -> Self {
        self.then(Expr::AddressType { source, to: R0 })
            .compare(op, RTN_LOCAL.to_ne_bytes())
    }

    pub fn local_destination(self) -> Self {
        self.address_type(false, Cmp::Eq)
    }

    pub fn foreign_source(self) -> Self {
        self.address_type(true, Cmp::Ne)
    }

    fn bits(self, key: Ct, bits: u32) -> Self {
        self.then(Expr::Ct { key, to: R0 })
            .then(Expr::And {
                reg: R0,
                mask: bits.to_ne_bytes().to_vec(),
            })
            .compare(Cmp::Ne, [0; 4])
    }

    pub fn connection_state(self, bits: u32) -> Self {
        self.bits(Ct::State, bits)
    }

    /// The connection's destination was rewritten.
    pub fn redirected(self) -> Self {
        self.bits(Ct::Status, CT_STATUS_DNAT)
    }

    pub fn reply_direction(self) -> Self {
        self.then(Expr::Ct {
            key: Ct::Direction,
            to: R0,
        })
        .compare(Cmp::Eq, [1])
    }

    pub fn connection_mark(self, mark: u32, mask: u32) -> Self {
        self.then(Expr::Ct {
            key: Ct::Mark,
            to: R0,
        })
        .then(Expr::And {
            reg: R0,
            mask: mask.to_ne_bytes().to_vec(),
        })
        .compare(Cmp::Eq, mark.to_ne_bytes())
    }

    /// `address . protocol . destination port` (or without the address) is in a
    /// set; with a family the destination address comes first.
    pub fn service_in_set(self, ip: Option<Ip>, set: &str) -> Self {
        let (rule, _) = self.load_service(ip);
        rule.then(Expr::Lookup {
            set: set.into(),
            from: R0,
            to: None,
            inverted: false,
        })
    }

    /// `[source .] protocol . source port` is, or is not, in a set.
    pub fn sender_in_set(self, ip: Option<Ip>, set: &str, inside: bool) -> Self {
        let (rule, _) = self.load_end(ip.map(|ip| (ip, ip.source())), 0);
        rule.then(Expr::Lookup {
            set: set.into(),
            from: R0,
            to: None,
            inverted: !inside,
        })
    }

    fn load_service(self, ip: Option<Ip>) -> (Self, u32) {
        self.load_end(ip.map(|ip| (ip, ip.destination())), 2)
    }

    /// Loads `[address .] protocol . port`; says which register comes next.
    fn load_end(self, address: Option<(Ip, (Base, u32))>, port_at: u32) -> (Self, u32) {
        let (rule, next) = match address {
            Some((ip, at)) => (self.family(ip).load(at, ip.length(), R0), ip.registers()),
            None => (self, 0),
        };
        let rule = rule
            .then(Expr::Meta {
                key: Meta::L4Proto,
                to: Reg(next),
            })
            .load((Base::Transport, port_at), 2, Reg(next + 1));
        (rule, next + 2)
    }

    pub fn tcp_syn(self) -> Self {
        self.protocol(Proto::Tcp)
            .load((Base::Transport, 13), 1, R0)
            .then(Expr::And {
                reg: R0,
                mask: vec![0x02],
            })
            .compare(Cmp::Ne, [0])
    }

    /// The frame is for this hardware address (netdev tables).
    pub fn mac_destination(self, mac: crate::Mac) -> Self {
        self.load((Base::Link, 0), 6, R0).compare(Cmp::Eq, mac.0)
    }

    // ---- statements ---------------------------------------------------------

    pub fn verdict(self, verdict: Verdict) -> Self {
        self.then(Expr::Verdict(verdict))
    }

    pub fn count(self) -> Self {
        self.then(Expr::Counter)
    }

    pub fn accept(self) -> Self {
        self.verdict(Verdict::Accept)
    }

    pub fn drop(self) -> Self {
        self.verdict(Verdict::Drop)
    }

    pub fn reset(self) -> Self {
        self.then(Expr::Reject(Reject::TcpReset))
    }

    pub fn unreachable(self) -> Self {
        self.then(Expr::Reject(Reject::PortUnreachable))
    }

    pub fn notrack(self) -> Self {
        self.then(Expr::NoTrack)
    }

    pub fn masquerade(self) -> Self {
        self.then(Expr::Masquerade)
    }

    /// Masquerades under one of these ports, whatever the own one is.
    pub fn masquerade_within(self, ports: RangeInclusive<u16>) -> Self {
        let (first, last) = (R0, Reg(1));
        let port = |value: u16, to| Expr::Immediate {
            value: value.to_be_bytes().to_vec(),
            to,
        };
        self.then(port(*ports.start(), first))
            .then(port(*ports.end(), last))
            .then(Expr::MasqueradeWithin { first, last })
    }

    /// Goes on in the chain a verdict map has for `[destination .] protocol .
    /// destination port`.
    pub fn follow_service(self, ip: Option<Ip>, map: &str) -> Self {
        let (rule, _) = self.load_service(ip);
        rule.then(Expr::LookupVerdict {
            set: map.into(),
            from: R0,
        })
    }

    /// Goes on in the chain a verdict map has for the destination address.
    pub fn follow_destination(self, ip: Ip, map: &str) -> Self {
        self.family(ip)
            .load(ip.destination(), ip.length(), R0)
            .then(Expr::LookupVerdict {
                set: map.into(),
                from: R0,
            })
    }

    fn immediate_nat(self, kind: NatKind, to: IpAddr, port: Option<u16>) -> Self {
        let ip = Ip::of(to);
        let value = match to {
            IpAddr::V4(to) => to.octets().to_vec(),
            IpAddr::V6(to) => to.octets().to_vec(),
        };
        let port_reg = Reg(ip.registers());
        let rule = self.then(Expr::Immediate { value, to: R0 });
        let rule = match port {
            Some(port) => rule.then(Expr::Immediate {
                value: port.to_be_bytes().to_vec(),
                to: port_reg,
            }),
            None => rule,
        };
        rule.nat(kind, ip, port.map(|_| port_reg))
    }

    fn nat(self, kind: NatKind, ip: Ip, port: Option<Reg>) -> Self {
        self.then(Expr::Nat {
            kind,
            family: ip.nfproto(),
            address: R0,
            port,
        })
    }

    pub fn snat(self, to: IpAddr) -> Self {
        self.immediate_nat(NatKind::Source, to, None)
    }

    pub fn dnat(self, to: IpAddr, port: u16) -> Self {
        self.immediate_nat(NatKind::Destination, to, Some(port))
    }

    /// One of `count` slots of a map `destination . slot → address`.
    pub fn dnat_by_destination(self, ip: Ip, turn: Turn, count: u32, map: &str) -> Self {
        let to = Reg(ip.registers());
        self.family(ip)
            .load(ip.destination(), ip.length(), R0)
            .then(match turn {
                Turn::InOrder => Expr::Count { modulus: count, to },
                Turn::Random => Expr::Dice { modulus: count, to },
            })
            .then(Expr::Lookup {
                set: map.into(),
                from: R0,
                to: Some(R0),
                inverted: false,
            })
            .nat(NatKind::Destination, ip, None)
    }

    /// Round robin over `count` slots of a map
    /// `[destination .] protocol . port . slot → address . port`.
    pub fn dnat_by_service(self, ip: Ip, with_address: bool, count: u32, map: &str) -> Self {
        let (rule, next) = match with_address {
            true => self.load_service(Some(ip)),
            false => self.family(ip).load_service(None),
        };
        rule.then(Expr::Count {
            modulus: count,
            to: Reg(next),
        })
        .then(Expr::Lookup {
            set: map.into(),
            from: R0,
            to: Some(R0),
            inverted: false,
        })
        .nat(NatKind::Destination, ip, Some(Reg(ip.registers())))
    }

    /// Where a map `[destination .] protocol . port → address . port` says.
    pub fn dnat_published(self, ip: Ip, with_address: bool, map: &str) -> Self {
        let (rule, _) = match with_address {
            true => self.load_service(Some(ip)),
            false => self.family(ip).load_service(None),
        };
        rule.then(Expr::Lookup {
            set: map.into(),
            from: R0,
            to: Some(R0),
            inverted: false,
        })
        .nat(NatKind::Destination, ip, Some(Reg(ip.registers())))
    }

    fn load_source_mac(self) -> Self {
        self.meta(Meta::IifType)
            .compare(Cmp::Eq, ARPHRD_ETHER.to_ne_bytes())
            .load((Base::Link, 6), 6, R0)
    }

    fn map(self, map: &str) -> Self {
        self.then(Expr::Lookup {
            set: map.into(),
            from: R0,
            to: Some(R0),
            inverted: false,
        })
    }

    /// The original direction's zone by the frame's source MAC.
    pub fn zone_by_source_mac(self, map: &str) -> Self {
        self.load_source_mac().map(map).then(Expr::SetCt {
            key: Ct::Zone,
            from: R0,
            original: true,
        })
    }

    /// The connection's mark by the frame's source MAC.
    pub fn connection_mark_by_source_mac(self, map: &str) -> Self {
        self.load_source_mac().map(map).then(Expr::SetCt {
            key: Ct::Mark,
            from: R0,
            original: false,
        })
    }

    pub fn set_connection_mark(self, mark: u32) -> Self {
        self.then(Expr::Immediate {
            value: mark.to_ne_bytes().to_vec(),
            to: R0,
        })
        .then(Expr::SetCt {
            key: Ct::Mark,
            from: R0,
            original: false,
        })
    }

    pub fn mark_from_connection(self) -> Self {
        self.then(Expr::Ct {
            key: Ct::Mark,
            to: R0,
        })
        .then(Expr::SetMeta {
            key: Meta::Mark,
            from: R0,
        })
    }

    /// The frame's destination MAC by the packet's mark (netdev tables).
    pub fn destination_mac_by_mark(self, map: &str) -> Self {
        self.meta(Meta::Mark).map(map).then(Expr::SetPayload {
            base: Base::Link,
            offset: 0,
            length: 6,
            from: R0,
        })
    }

    /// Lowers a SYN's segment size to what the route carries.
    pub fn clamp_mss(self) -> Self {
        self.then(Expr::RouteMss { to: R0 })
            .then(Expr::SwapBytes16 { reg: R0 })
            .then(Expr::SetTcpMss { from: R0 })
    }
}
