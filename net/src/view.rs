//! What one network namespace should hold, and what it was seen to hold.
//!
//! Both halves of the data plane are compiled to these values; `diff` compares
//! them, `apply` does the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::Mac;
use crate::nft::Table;

/// What a namespace should hold of ours.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub links: BTreeMap<String, Link>,
    pub addresses: BTreeSet<(String, IpNet)>,
    /// Permanent neighbour entries: device and address → hardware address.
    pub neighbours: BTreeMap<(String, IpAddr), Mac>,
    /// Permanent VXLAN forwarding entries: device and hardware address → node.
    pub forwarding: BTreeMap<(String, Mac), IpAddr>,
    pub routes: BTreeSet<Route>,
    pub rules: BTreeSet<Rule>,
    pub sysctls: Vec<Sysctl>,
    pub tables: Vec<Table>,
}

/// A link as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub kind: LinkKind,
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
    pub master: Option<String>,
    pub group: u32,
    pub alias: Option<String>,
    /// Options of a bridge's port; the link has a master then.
    pub port: Option<PortOptions>,
}

impl Link {
    pub fn new(kind: LinkKind) -> Self {
        Self {
            kind,
            mac: None,
            mtu: None,
            master: None,
            group: 0,
            alias: None,
            port: None,
        }
    }
}

/// How a link comes to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkKind {
    /// Made elsewhere (the other end of a veth, the loopback): only configured.
    Given,
    Bridge,
    Vxlan {
        vni: u32,
        local: IpAddr,
        port: u16,
        proxy: bool,
    },
    /// The host's end of a pair; the other end is placed in another namespace.
    Veth {
        peer: VethPeer,
    },
}

/// The far end of a veth pair at birth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VethPeer {
    pub netns: NsKey,
    pub ifname: String,
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
}

/// Options of a bridge port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortOptions {
    pub learning: bool,
    pub hairpin: bool,
    pub isolated: bool,
}

/// A namespace of this host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NsKey {
    /// The one the daemon runs in.
    Root,
    /// Pinned under our own directory.
    Pinned(String),
    /// Any other, by its file.
    File(std::path::PathBuf),
}

impl std::fmt::Display for NsKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Root => f.write_str("the root namespace"),
            Self::Pinned(name) => write!(f, "namespace `{name}`"),
            Self::File(path) => write!(f, "namespace `{}`", path.display()),
        }
    }
}

/// A route of ours; all bear our protocol number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Route {
    pub table: u32,
    /// The default route is the empty prefix of its family.
    pub to: IpNet,
    pub via: Option<IpAddr>,
    pub dev: String,
    pub source: Option<IpAddr>,
}

/// A policy rule: marked packets from a subnet look into a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rule {
    pub preference: u32,
    pub from: IpNet,
    pub mark: u32,
    pub mask: u32,
    pub table: u32,
}

/// A setting of the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sysctl {
    /// With slashes, as interfaces' names may hold dots.
    pub key: String,
    pub value: SysctlValue,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SysctlValue {
    Exactly(&'static str),
    AtLeast(u64),
}

impl Sysctl {
    pub fn new(key: impl Into<String>, value: &'static str) -> Self {
        Self {
            key: key.into(),
            value: SysctlValue::Exactly(value),
        }
    }

    pub fn at_least(key: impl Into<String>, value: u64) -> Self {
        Self {
            key: key.into(),
            value: SysctlValue::AtLeast(value),
        }
    }

    /// A container must not tell this host about routers (by the device it is
    /// connected to).
    pub fn no_router_advertisements(dev: &str) -> Self {
        Self::new(format!("net/ipv6/conf/{dev}/accept_ra"), "0")
    }

    /// The value to write over `present`, if it must be written.
    pub fn missing(&self, present: &str) -> Option<String> {
        match &self.value {
            SysctlValue::Exactly(value) => (*value != present).then(|| (*value).to_owned()),
            SysctlValue::AtLeast(value) => present
                .parse::<u64>()
                .is_ok_and(|present| present < *value)
                .then(|| value.to_string()),
        }
    }
}

/// What a namespace was seen to hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub links: BTreeMap<String, SeenLink>,
    pub addresses: BTreeSet<(String, IpNet)>,
    pub neighbours: BTreeMap<(String, IpAddr), Mac>,
    /// A hardware address may (wrongly) lead to several nodes.
    pub forwarding: BTreeSet<(String, Mac, IpAddr)>,
    /// Routes with our protocol number.
    pub routes: BTreeSet<Route>,
    pub rules: BTreeSet<Rule>,
    /// Present values of the wanted settings that exist.
    pub sysctls: BTreeMap<String, String>,
}

/// A link as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenLink {
    pub index: u32,
    pub name: String,
    /// `veth`, `bridge`, `vxlan`, …; empty for hardware and the loopback.
    pub kind: String,
    pub mac: Option<Mac>,
    pub mtu: u32,
    pub master: Option<u32>,
    pub group: u32,
    pub is_up: bool,
    pub alias: Option<String>,
    pub port: Option<PortOptions>,
    pub vxlan: Option<SeenVxlan>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenVxlan {
    pub vni: u32,
    pub local: Option<IpAddr>,
    pub port: u16,
    pub proxy: bool,
    pub learning: bool,
}

/// Which objects of a namespace are ours to delete when they are not wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Everything: an overlay's namespace is ours alone.
    Overlay,
    /// Nothing: what a container did to its own namespace is its business.
    Container,
    /// Ingress device and gateway legs of the root namespace.
    Mesh,
    /// Bridges and their ports in the root namespace.
    Bridges,
    /// Only what the wanted links of one visit name; nothing else is looked at.
    Partial,
}
