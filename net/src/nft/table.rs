//! A firewall table as it should be.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::rule::Rule;
use crate::{Mac, Proto};

/// The address family a table belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Family {
    Inet = 1,
    Ip = 2,
    Netdev = 5,
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Netdev => "netdev",
        })
    }
}

/// A table with everything in it. It is made equal to this as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub family: Family,
    pub name: String,
    pub sets: Vec<Set>,
    pub chains: Vec<Chain>,
}

impl Table {
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Self {
            family,
            name: name.into(),
            sets: Vec::new(),
            chains: Vec::new(),
        }
    }

    pub fn set(&mut self, set: Set) {
        self.sets.push(set);
    }

    pub fn chain(&mut self, chain: Chain) {
        self.chains.push(chain);
    }
}

/// One component of a key or value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Ip4,
    Ip6,
    Mac,
    Proto,
    Port,
    /// A 32-bit number in host order: a mark, or a slot of a round robin.
    Number,
    Zone,
    /// A VXLAN network's number.
    Vni,
}

impl Field {
    /// The number by which the `nft` program knows the type; for its listing only.
    const fn type_number(self) -> u32 {
        match self {
            Self::Ip4 => 7,
            Self::Ip6 => 8,
            Self::Mac => 9,
            Self::Proto => 12,
            Self::Port => 13,
            Self::Number => 19,
            Self::Zone | Self::Vni => 4,
        }
    }

    const fn length(self) -> usize {
        match self {
            Self::Proto => 1,
            Self::Port | Self::Zone => 2,
            Self::Vni => 3,
            Self::Ip4 | Self::Number => 4,
            Self::Mac => 6,
            Self::Ip6 => 16,
        }
    }
}

/// Whether the `nft` program is to print this in the host's byte order (1) or the
/// network's (2).
pub(super) fn byte_order(fields: &[Field]) -> u32 {
    match fields {
        [Field::Number | Field::Zone] => 1,
        _ => 2,
    }
}

/// Length in bytes: one field as it is, several each padded to whole registers.
pub(super) fn fields_length(fields: &[Field]) -> u32 {
    let length = match fields {
        [one] => one.length(),
        many => many
            .iter()
            .map(|field| field.length().next_multiple_of(4))
            .sum(),
    };
    length as u32
}

pub(super) fn fields_type(fields: &[Field]) -> u32 {
    fields
        .iter()
        .fold(0, |number, field| (number << 6) | field.type_number())
}

/// A named set, or a map when it has values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Set {
    pub name: String,
    pub key: Vec<Field>,
    pub value: Value,
    pub elements: BTreeMap<Vec<u8>, Element>,
}

/// What a set's elements lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Nothing: a set.
    None,
    Fields(Vec<Field>),
    /// A chain to go on in.
    Verdict,
}

/// What one element leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    Member,
    Bytes(Vec<u8>),
    Goto(String),
}

impl Set {
    pub fn new(name: &str, key: &[Field]) -> Self {
        Self {
            name: name.into(),
            key: key.to_vec(),
            value: Value::None,
            elements: BTreeMap::new(),
        }
    }

    pub fn map(name: &str, key: &[Field], value: &[Field]) -> Self {
        Self {
            value: Value::Fields(value.to_vec()),
            ..Self::new(name, key)
        }
    }

    pub fn verdicts(name: &str, key: &[Field]) -> Self {
        Self {
            value: Value::Verdict,
            ..Self::new(name, key)
        }
    }

    pub fn add(&mut self, key: Bytes) {
        self.elements.insert(key.0, Element::Member);
    }

    pub fn put(&mut self, key: Bytes, value: Bytes) {
        self.elements.insert(key.0, Element::Bytes(value.0));
    }

    pub fn goto(&mut self, key: Bytes, chain: &str) {
        self.elements.insert(key.0, Element::Goto(chain.into()));
    }
}

/// A key or value, component by component.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bytes(Vec<u8>);

impl Bytes {
    pub fn new() -> Self {
        Self::default()
    }

    /// Components after the first begin at whole registers.
    fn push(mut self, bytes: &[u8]) -> Self {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self.0.extend_from_slice(bytes);
        self
    }

    /// A concatenation ends at a whole register too.
    fn padded(mut self) -> Self {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub fn ip(self, ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => self.push(&ip.octets()),
            IpAddr::V6(ip) => self.push(&ip.octets()),
        }
    }

    pub fn mac(self, mac: Mac) -> Self {
        self.push(&mac.0)
    }

    pub fn number(self, number: u32) -> Self {
        self.push(&number.to_ne_bytes())
    }

    pub fn vni(self, vni: u32) -> Self {
        self.push(&vni.to_be_bytes()[1..])
    }

    pub fn zone(self, zone: u16) -> Self {
        self.push(&zone.to_ne_bytes())
    }

    /// `protocol . port`, always inside a concatenation.
    pub fn service(self, proto: Proto, port: u16) -> Self {
        self.push(&[proto.number()]).port(port)
    }

    /// A port, always inside a concatenation.
    pub fn port(self, port: u16) -> Self {
        self.push(&port.to_be_bytes()).padded()
    }
}

/// A chain; with a hook it is one the kernel enters by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub name: String,
    pub hook: Option<Hook>,
    pub rules: Vec<Rule>,
}

/// Where a chain is hooked in. The policy is always to accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    /// `filter` or `nat`.
    pub kind: &'static str,
    pub number: u32,
    pub priority: i32,
    /// The device, for netdev tables.
    pub device: Option<String>,
}

impl Hook {
    const fn new(kind: &'static str, number: u32, priority: i32) -> Self {
        Self {
            kind,
            number,
            priority,
            device: None,
        }
    }

    pub const fn filter_prerouting(priority: i32) -> Self {
        Self::new("filter", 0, priority)
    }

    pub const fn filter_input() -> Self {
        Self::new("filter", 1, 0)
    }

    pub const fn filter_forward(priority: i32) -> Self {
        Self::new("filter", 2, priority)
    }

    pub const fn filter_output(priority: i32) -> Self {
        Self::new("filter", 3, priority)
    }

    pub const fn nat_prerouting() -> Self {
        Self::new("nat", 0, -100)
    }

    pub const fn nat_output() -> Self {
        Self::new("nat", 3, -100)
    }

    pub const fn nat_postrouting() -> Self {
        Self::new("nat", 4, 100)
    }

    pub fn egress(device: &str) -> Self {
        Self {
            device: Some(device.into()),
            ..Self::new("filter", 1, 0)
        }
    }
}

impl Chain {
    pub fn base(name: &str, hook: Hook, rules: Vec<Rule>) -> Self {
        Self {
            name: name.into(),
            hook: Some(hook),
            rules,
        }
    }

    pub fn plain(name: impl Into<String>, rules: Vec<Rule>) -> Self {
        Self {
            name: name.into(),
            hook: None,
            rules,
        }
    }
}
