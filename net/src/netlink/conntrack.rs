//! Connection tracking entries: found by what they lead to, and cut.

use std::net::IpAddr;

use super::socket::Socket;
use super::wire::{self, Message};
use crate::KernelError;

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOCOL_INFO: u16 = 4;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;

/// `CTA_FILTER_F_CTA_PROTO_NUM`: only flows of the protocol that is given.
const FILTER_PROTOCOL: u32 = 1 << 3;

const STATUS_DNAT: u32 = 1 << 5;

/// `TCP_CONNTRACK_LAST_ACK` (linux/netfilter/nf_conntrack_tcp.h); later states are those of
/// connections that are over.
const TCP_LAST_ACK: u8 = 6;

/// One tracked flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    /// IP protocol number.
    pub protocol: u8,
    pub from: IpAddr,
    pub from_port: u16,
    /// Where the client meant to go.
    pub to: IpAddr,
    pub to_port: u16,
    /// Who answers; differs from `to` when the destination was rewritten.
    pub answered_by: IpAddr,
    pub answered_by_port: u16,
    /// Whom the answers are for; differs from `from` when the source was rewritten.
    pub answered_to: IpAddr,
    pub answered_to_port: u16,
    pub is_redirected: bool,
    key: Key,
}

/// What names the entry when it is deleted, as the kernel spelled it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    family: u8,
    original: Vec<u8>,
    zone: Option<Vec<u8>>,
    id: Option<Vec<u8>>,
}

/// Which flows the kernel tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    All,
    /// Those of one IP protocol: the kernel leaves out the rest by itself (Linux 5.8; an older one
    /// tells of all).
    Protocol(u8),
}

/// All tracked flows of the socket's namespace that `keep` says yes to. TCP connections that are
/// over are left out: there is nothing to cut any more, and the kernel takes such an entry away by
/// itself as soon as the client uses the port again. An entry is named by its addresses and its
/// place in memory, and the new connection can have both: it would be cut instead.
pub(crate) fn flows(
    socket: &mut Socket,
    which: Which,
    mut keep: impl FnMut(&Flow) -> bool,
) -> Result<Vec<Flow>, KernelError> {
    let of_family = |family: i32| Message::new(GET, 0, &[family as u8, 0, 0, 0]);
    let requests = match which {
        // Of all families in one walk through the table.
        Which::All => vec![of_family(libc::AF_UNSPEC)],
        // A filter is for one family.
        Which::Protocol(number) => [libc::AF_INET, libc::AF_INET6]
            .map(|family| of_protocol(of_family(family), number))
            .into(),
    };
    let mut found = Vec::new();
    for request in requests {
        let more = socket.dump(&request, |payload| {
            flow(payload).filter(|flow| which.covers(flow) && keep(flow))
        })?;
        found.extend(more);
    }
    Ok(found)
}

impl Which {
    fn covers(self, flow: &Flow) -> bool {
        match self {
            Self::All => true,
            Self::Protocol(number) => flow.protocol == number,
        }
    }
}

fn of_protocol(request: Message, number: u8) -> Message {
    request
        .nest(TUPLE_ORIGINAL, |m| m.nest(2, |m| m.u8(1, number)))
        .nest(FILTER, |m| m.u32(1, FILTER_PROTOCOL))
}

/// Forgets flows; the next packet of each is treated as a first one.
pub(crate) fn cut(socket: &mut Socket, flows: &[Flow]) -> Result<usize, KernelError> {
    let requests = flows
        .iter()
        .map(|flow| {
            let key = &flow.key;
            Message::new(DELETE, 0, &[key.family, 0, 0, 0])
                .nest(TUPLE_ORIGINAL, |m| m.raw(&key.original))
                .with(key.zone.as_deref(), |m, zone| m.attr(ZONE, zone))
                .with(key.id.as_deref(), |m, id| m.attr(ID, id))
        })
        .collect();
    // A flow that ended by itself meanwhile is as good as cut.
    let failed = socket.batch(requests)?;
    match failed
        .into_iter()
        .find(|(_, error)| error.errno != libc::ENOENT)
    {
        Some((_, error)) => Err(error),
        None => Ok(flows.len()),
    }
}

struct Tuple {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
}

fn tuple(bytes: &[u8]) -> Option<Tuple> {
    let addresses = wire::find(bytes, 1)?;
    let transport = wire::find(bytes, 2)?;
    let ip = |v4, v6| {
        wire::find(addresses, v4)
            .or_else(|| wire::find(addresses, v6))
            .and_then(wire::ip_of)
    };
    let port = |kind| {
        wire::find(transport, kind)
            .and_then(wire::be16_of)
            .unwrap_or(0)
    };
    Some(Tuple {
        source: ip(1, 3)?,
        destination: ip(2, 4)?,
        protocol: *wire::find(transport, 1)?.first()?,
        source_port: port(2),
        destination_port: port(3),
    })
}

fn flow(payload: &[u8]) -> Option<Flow> {
    let attributes = payload.get(4..)?;
    let original_bytes = wire::find(attributes, TUPLE_ORIGINAL)?;
    let original = tuple(original_bytes)?;
    let reply = tuple(wire::find(attributes, TUPLE_REPLY)?)?;
    if tcp_state(attributes).is_some_and(|state| state >= TCP_LAST_ACK) {
        return None;
    }
    let status = wire::find(attributes, STATUS)
        .and_then(wire::be32_of)
        .unwrap_or(0);
    let own = |kind| wire::find(attributes, kind).map(<[u8]>::to_vec);
    Some(Flow {
        protocol: original.protocol,
        from: original.source,
        from_port: original.source_port,
        to: original.destination,
        to_port: original.destination_port,
        answered_by: reply.source,
        answered_by_port: reply.source_port,
        answered_to: reply.destination,
        answered_to_port: reply.destination_port,
        is_redirected: status & STATUS_DNAT != 0,
        key: Key {
            family: *payload.first()?,
            original: original_bytes.to_vec(),
            zone: own(ZONE),
            id: own(ID),
        },
    })
}

fn tcp_state(attributes: &[u8]) -> Option<u8> {
    let tcp = wire::find(wire::find(attributes, PROTOCOL_INFO)?, 1)?;
    wire::find(tcp, 1)?.first().copied()
}

#[cfg(test)]
impl Flow {
    /// A flow that was redirected when it is answered by another than asked.
    pub fn sample(protocol: u8, to: (IpAddr, u16), answered_by: (IpAddr, u16)) -> Self {
        let client = (IpAddr::from([192, 0, 2, 7]), 5555);
        Self {
            protocol,
            from: client.0,
            from_port: client.1,
            to: to.0,
            to_port: to.1,
            answered_by: answered_by.0,
            answered_by_port: answered_by.1,
            answered_to: client.0,
            answered_to_port: client.1,
            is_redirected: to != answered_by,
            key: Key {
                family: 2,
                original: Vec::new(),
                zone: None,
                id: None,
            },
        }
    }

    /// What somebody sent out under another name.
    pub fn masqueraded(protocol: u8, from: (IpAddr, u16), seen_as: (IpAddr, u16)) -> Self {
        let client = (IpAddr::from([192, 0, 2, 7]), 5555);
        Self {
            from: from.0,
            from_port: from.1,
            answered_to: seen_as.0,
            answered_to_port: seen_as.1,
            ..Self::sample(protocol, client, client)
        }
    }
}
