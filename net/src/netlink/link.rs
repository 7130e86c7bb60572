//! Links: the messages that make and change them, and what a dump says of them.

use std::net::IpAddr;
use std::os::fd::RawFd;

use super::socket::Socket;
use super::wire::{self, CREATE, EXCL, Message};
use crate::view::{PortOptions, SeenLink, SeenVxlan};
use crate::{InterfaceCounters, KernelError, Mac};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_STATS64: u16 = 23;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;

const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;

const INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;

const BRIDGE_MCAST_SNOOPING: u16 = 23;
const PORT_HAIRPIN: u16 = 4;
const PORT_LEARNING: u16 = 8;
const PORT_ISOLATED: u16 = 33;

const VXLAN_ID: u16 = 1;
const VXLAN_LOCAL: u16 = 4;
const VXLAN_LEARNING: u16 = 7;
const VXLAN_PROXY: u16 = 11;
const VXLAN_PORT: u16 = 15;
const VXLAN_LOCAL6: u16 = 17;

const VETH_PEER: u16 = 1;
const VLAN_MODE: u16 = 1;

/// How a link is born.
pub(crate) enum Birth<'a> {
    Bridge,
    Vxlan {
        vni: u32,
        local: IpAddr,
        port: u16,
        proxy: bool,
    },
    Veth {
        peer: &'a str,
        peer_netns: RawFd,
        peer_mac: Option<Mac>,
        mtu: Option<u32>,
    },
    /// macvlan in this mode, child of the link with this index.
    Macvlan {
        parent: u32,
        mode: u32,
    },
    /// ipvlan in this mode, child of the link with this index.
    Ipvlan {
        parent: u32,
        mode: u16,
    },
    /// A kind that needs no settings.
    Plain(&'a str),
}

fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// Keeps a link that only switches from giving itself an IPv6 address and talking
/// by it. To be sent before the link goes up.
pub(crate) fn no_link_local(index: u32) -> Message {
    Message::new(RTM_NEWLINK, 0, &ifinfo(index, 0, 0)).nest(IFLA_AF_SPEC, |m| {
        m.nest(libc::AF_INET6 as u16, |m| {
            m.u8(INET6_ADDR_GEN_MODE, ADDR_GEN_MODE_NONE)
        })
    })
}

/// Makes a link, in `netns` if given (the device still belongs to the socket's
/// namespace where that matters: the UDP socket of a VXLAN).
pub(crate) fn create(
    name: &str,
    mac: Option<Mac>,
    mtu: Option<u32>,
    netns: Option<RawFd>,
    birth: &Birth<'_>,
) -> Message {
    let message = Message::new(RTM_NEWLINK, CREATE | EXCL, &ifinfo(0, 0, 0))
        .str(IFLA_IFNAME, name)
        .with(mac, |m, mac| m.attr(IFLA_ADDRESS, &mac.0))
        .with(mtu, |m, mtu| m.u32(IFLA_MTU, mtu))
        .with(netns, |m, fd| m.u32(IFLA_NET_NS_FD, fd.cast_unsigned()));
    let kind = |m: Message, kind: &str| m.attr(INFO_KIND, kind.as_bytes());
    match birth {
        Birth::Bridge => message.nest(IFLA_LINKINFO, |m| {
            kind(m, "bridge").nest(INFO_DATA, |m| m.u8(BRIDGE_MCAST_SNOOPING, 0))
        }),
        Birth::Vxlan {
            vni,
            local,
            port,
            proxy,
        } => message.nest(IFLA_LINKINFO, |m| {
            kind(m, "vxlan").nest(INFO_DATA, |m| {
                let attribute = if local.is_ipv4() {
                    VXLAN_LOCAL
                } else {
                    VXLAN_LOCAL6
                };
                m.u32(VXLAN_ID, *vni)
                    .ip(attribute, *local)
                    .u8(VXLAN_LEARNING, 0)
                    .u8(VXLAN_PROXY, u8::from(*proxy))
                    .be16(VXLAN_PORT, *port)
            })
        }),
        Birth::Veth {
            peer,
            peer_netns,
            peer_mac,
            mtu,
        } => message.nest(IFLA_LINKINFO, |m| {
            kind(m, "veth").nest(INFO_DATA, |m| {
                m.nest(VETH_PEER, |m| {
                    m.raw(&ifinfo(0, 0, 0))
                        .str(IFLA_IFNAME, peer)
                        .with(*peer_mac, |m, mac| m.attr(IFLA_ADDRESS, &mac.0))
                        .with(*mtu, |m, mtu| m.u32(IFLA_MTU, mtu))
                        .u32(IFLA_NET_NS_FD, peer_netns.cast_unsigned())
                })
            })
        }),
        Birth::Plain(name) => message.nest(IFLA_LINKINFO, |m| kind(m, name)),
        Birth::Macvlan { parent, mode } => {
            message.u32(IFLA_LINK, *parent).nest(IFLA_LINKINFO, |m| {
                kind(m, "macvlan").nest(INFO_DATA, |m| m.u32(VLAN_MODE, *mode))
            })
        }
        Birth::Ipvlan { parent, mode } => {
            message.u32(IFLA_LINK, *parent).nest(IFLA_LINKINFO, |m| {
                kind(m, "ipvlan").nest(INFO_DATA, |m| m.u16(VLAN_MODE, *mode))
            })
        }
    }
}

/// Changes of a link that exists; `None` leaves a property alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
    pub master: Option<u32>,
    pub group: Option<u32>,
    pub alias: Option<String>,
    /// Of a VXLAN: where its frames leave from, of the same address family as before.
    pub local: Option<IpAddr>,
    pub up: bool,
}

pub(crate) fn change(index: u32, change: &Change) -> Message {
    let up = if change.up { libc::IFF_UP as u32 } else { 0 };
    Message::new(RTM_NEWLINK, 0, &ifinfo(index, up, up))
        .with(change.mac, |m, mac| m.attr(IFLA_ADDRESS, &mac.0))
        .with(change.mtu, |m, mtu| m.u32(IFLA_MTU, mtu))
        .with(change.group, |m, group| m.u32(IFLA_GROUP, group))
        .with(change.alias.as_deref(), |m, alias| {
            m.attr(IFLA_IFALIAS, alias.as_bytes())
        })
        .with(change.master, |m, master| m.u32(IFLA_MASTER, master))
        .with(change.local, |m, local| {
            let attribute = if local.is_ipv4() {
                VXLAN_LOCAL
            } else {
                VXLAN_LOCAL6
            };
            m.nest(IFLA_LINKINFO, |m| {
                m.attr(INFO_KIND, b"vxlan")
                    .nest(INFO_DATA, |m| m.ip(attribute, local))
            })
        })
}

/// Sets the options of a bridge port.
pub(crate) fn port_options(index: u32, options: PortOptions) -> Message {
    Message::new(RTM_NEWLINK, 0, &ifinfo(index, 0, 0)).nest(IFLA_LINKINFO, |m| {
        m.attr(INFO_SLAVE_KIND, b"bridge")
            .nest(INFO_SLAVE_DATA, |m| {
                m.u8(PORT_HAIRPIN, u8::from(options.hairpin))
                    .u8(PORT_LEARNING, u8::from(options.learning))
                    .u8(PORT_ISOLATED, u8::from(options.isolated))
            })
    })
}

pub(crate) fn delete(index: u32) -> Message {
    Message::new(RTM_DELLINK, 0, &ifinfo(index, 0, 0))
}

fn get_all() -> Message {
    Message::new(RTM_GETLINK, 0, &ifinfo(0, 0, 0))
}

/// All links of the socket's namespace.
pub(crate) fn list(socket: &mut Socket) -> Result<Vec<SeenLink>, KernelError> {
    socket.dump(&get_all(), seen)
}

fn mac_of(bytes: &[u8]) -> Option<Mac> {
    Some(Mac(bytes.try_into().ok()?))
}

fn seen(payload: &[u8]) -> Option<SeenLink> {
    let index = wire::u32_at(payload, 4)?;
    let flags = wire::u32_at(payload, 8)?;
    let attributes = payload.get(16..)?;
    let get = |kind| wire::find(attributes, kind);
    let number = |kind| get(kind).and_then(|value| wire::u32_at(value, 0));
    let info = get(IFLA_LINKINFO).unwrap_or_default();
    let kind = wire::find(info, INFO_KIND)
        .map(wire::text_of)
        .unwrap_or_default();
    let data = wire::find(info, INFO_DATA).unwrap_or_default();
    let flag = |bytes, kind| wire::find(bytes, kind).is_some_and(|value| value.first() == Some(&1));
    let is_port = wire::find(info, INFO_SLAVE_KIND)
        .map(wire::text_of)
        .as_deref()
        == Some("bridge");
    let slave = wire::find(info, INFO_SLAVE_DATA).unwrap_or_default();
    Some(SeenLink {
        index,
        name: get(IFLA_IFNAME).map(wire::text_of)?,
        mac: get(IFLA_ADDRESS).and_then(mac_of),
        mtu: number(IFLA_MTU).unwrap_or(0),
        master: number(IFLA_MASTER),
        group: number(IFLA_GROUP).unwrap_or(0),
        is_up: flags & libc::IFF_UP as u32 != 0,
        alias: get(IFLA_IFALIAS).map(wire::text_of),
        port: is_port.then(|| PortOptions {
            learning: flag(slave, PORT_LEARNING),
            hairpin: flag(slave, PORT_HAIRPIN),
            isolated: flag(slave, PORT_ISOLATED),
        }),
        vxlan: (kind == "vxlan").then(|| SeenVxlan {
            vni: wire::find(data, VXLAN_ID)
                .and_then(|v| wire::u32_at(v, 0))
                .unwrap_or(0),
            local: wire::find(data, VXLAN_LOCAL)
                .or_else(|| wire::find(data, VXLAN_LOCAL6))
                .and_then(wire::ip_of),
            port: wire::find(data, VXLAN_PORT)
                .and_then(wire::be16_of)
                .unwrap_or(0),
            proxy: flag(data, VXLAN_PROXY),
            learning: flag(data, VXLAN_LEARNING),
        }),
        kind,
    })
}

/// The counters of all links but the loopback, by name.
pub(crate) fn counters(socket: &mut Socket) -> Result<Vec<InterfaceCounters>, KernelError> {
    let mut all = socket.dump(&get_all(), |payload| {
        let flags = wire::u32_at(payload, 8)?;
        let attributes = payload.get(16..)?;
        let stats = wire::find(attributes, IFLA_STATS64)?;
        if flags & libc::IFF_LOOPBACK as u32 != 0 {
            return None;
        }
        // struct rtnl_link_stats64: packets, bytes, errors and dropped, each for
        // both directions.
        let at = |index: usize| {
            let bytes = stats.get(index * 8..index * 8 + 8)?;
            Some(u64::from_ne_bytes(bytes.try_into().ok()?))
        };
        Some(InterfaceCounters {
            name: wire::find(attributes, IFLA_IFNAME).map(wire::text_of)?,
            rx_packets: at(0)?,
            tx_packets: at(1)?,
            rx_bytes: at(2)?,
            tx_bytes: at(3)?,
            rx_errors: at(4)?,
            tx_errors: at(5)?,
            rx_dropped: at(6)?,
            tx_dropped: at(7)?,
        })
    })?;
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}
