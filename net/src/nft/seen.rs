//! What tables the kernel has and what is in ours.

use std::collections::BTreeMap;

use super::table::{Element, Family};
use crate::KernelError;
use crate::netlink::socket::Socket;
use crate::netlink::wire::{self, Message};

pub(super) const SUBSYSTEM: u16 = 10 << 8;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
pub(super) const GET_RULE: u16 = SUBSYSTEM | 7;
const GET_SET: u16 = SUBSYSTEM | 10;
const GET_SET_ELEMENTS: u16 = SUBSYSTEM | 13;

/// Our private kind of rule user data (the `nft` program skips kinds it does not
/// know): the fingerprint of what we sent.
pub(super) const FINGERPRINT_KIND: u8 = 0x5a;

const FLAG_SET_MAP: u32 = 8;
const DATA_VERDICT: u32 = 0xffff_ff00;
const NF_DROP: u32 = 0;

/// A table as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SeenTable {
    pub sets: BTreeMap<String, SeenSet>,
    pub chains: BTreeMap<String, SeenChain>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenSet {
    pub key_length: u32,
    /// `None`: not a map; 0: verdicts; else the length of the values.
    pub value_length: Option<u32>,
    pub elements: BTreeMap<Vec<u8>, Element>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenChain {
    pub hook: Option<SeenHook>,
    /// The fingerprint of every rule; `None` for a rule that is not ours.
    pub rules: Vec<Option<u64>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenHook {
    pub kind: String,
    pub number: u32,
    pub priority: i32,
    pub devices: Vec<String>,
    pub drops: bool,
}

fn nfgenmsg(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}

pub(super) fn message(kind: u16, flags: u16, family: u8) -> Message {
    Message::new(kind, flags, &nfgenmsg(family))
}

fn family_of(number: u8) -> Option<Family> {
    match number {
        1 => Some(Family::Inet),
        2 => Some(Family::Ip),
        5 => Some(Family::Netdev),
        _ => None,
    }
}

/// All tables of the families we use.
pub(crate) fn table_names(socket: &mut Socket) -> Result<Vec<(Family, String)>, KernelError> {
    socket.dump(&message(GET_TABLE, 0, 0), |payload| {
        let family = family_of(*payload.first()?)?;
        Some((family, wire::find(payload.get(4..)?, 1).map(wire::text_of)?))
    })
}

/// Everything in one table that exists.
pub(super) fn table(
    socket: &mut Socket,
    family: Family,
    name: &str,
) -> Result<SeenTable, KernelError> {
    let mut seen = SeenTable::default();
    for (table, chain, hook) in chains(socket, family as u8)? {
        if table == name {
            seen.chains.insert(
                chain,
                SeenChain {
                    hook,
                    rules: Vec::new(),
                },
            );
        }
    }
    let rules = socket.dump(
        &message(GET_RULE, 0, family as u8).str(1, name),
        |payload| {
            let attributes = payload.get(4..)?;
            let table = wire::find(attributes, 1).map(wire::text_of)?;
            let chain = wire::find(attributes, 2).map(wire::text_of)?;
            let fingerprint = wire::find(attributes, 7).and_then(fingerprint);
            (table == name).then_some((chain, fingerprint))
        },
    )?;
    for (chain, fingerprint) in rules {
        if let Some(chain) = seen.chains.get_mut(&chain) {
            chain.rules.push(fingerprint);
        }
    }
    let sets = socket.dump(&message(GET_SET, 0, family as u8).str(1, name), |payload| {
        let attributes = payload.get(4..)?;
        let number = |kind| wire::find(attributes, kind).and_then(wire::be32_of);
        let table = wire::find(attributes, 1).map(wire::text_of)?;
        let is_map = number(3).unwrap_or(0) & FLAG_SET_MAP != 0;
        let value_length = match number(6) {
            Some(DATA_VERDICT) => 0,
            _ => number(7).unwrap_or(0),
        };
        let set = SeenSet {
            key_length: number(5)?,
            value_length: is_map.then_some(value_length),
            elements: BTreeMap::new(),
        };
        (table == name).then_some((wire::find(attributes, 2).map(wire::text_of)?, set))
    })?;
    for (set, mut found) in sets {
        found.elements = elements(socket, family, name, &set)?;
        seen.sets.insert(set, found);
    }
    Ok(seen)
}

fn elements(
    socket: &mut Socket,
    family: Family,
    table: &str,
    set: &str,
) -> Result<BTreeMap<Vec<u8>, Element>, KernelError> {
    let request = message(GET_SET_ELEMENTS, 0, family as u8)
        .str(1, table)
        .str(2, set);
    let lists = socket.dump(&request, |payload| {
        let list = wire::find(payload.get(4..)?, 3)?;
        let elements: Vec<_> = wire::attributes(list)
            .filter_map(|(_, one)| element(one))
            .collect();
        Some(elements)
    })?;
    Ok(lists.into_iter().flatten().collect())
}

fn element(attributes: &[u8]) -> Option<(Vec<u8>, Element)> {
    let key = wire::find_path(attributes, &[1, 1])?.to_vec();
    let value = match wire::find(attributes, 2) {
        None => Element::Member,
        Some(data) => match wire::find(data, 1) {
            Some(bytes) => Element::Bytes(bytes.to_vec()),
            None => Element::Goto(wire::find_path(data, &[2, 2]).map(wire::text_of)?),
        },
    };
    Some((key, value))
}

pub(super) fn fingerprint(user_data: &[u8]) -> Option<u64> {
    match user_data {
        [FINGERPRINT_KIND, 8, hash @ ..] => wire::be64_of(hash),
        _ => None,
    }
}

pub(super) type NamedChain = (String, String, Option<SeenHook>);

pub(super) fn chains(socket: &mut Socket, family: u8) -> Result<Vec<NamedChain>, KernelError> {
    socket.dump(&message(GET_CHAIN, 0, family), |payload| {
        let attributes = payload.get(4..)?;
        let text = |kind| wire::find(attributes, kind).map(wire::text_of);
        let hook = wire::find(attributes, 4).and_then(|hook| {
            let number = |kind| wire::find(hook, kind).and_then(wire::be32_of);
            // A single device is told in both ways.
            let devices = match wire::find(hook, 4) {
                Some(list) => wire::attributes(list)
                    .map(|(_, name)| wire::text_of(name))
                    .collect(),
                None => wire::find(hook, 3).map(wire::text_of).into_iter().collect(),
            };
            Some(SeenHook {
                kind: text(7).unwrap_or_default(),
                number: number(1)?,
                priority: number(2)?.cast_signed(),
                devices,
                drops: wire::find(attributes, 5).and_then(wire::be32_of) == Some(NF_DROP),
            })
        });
        Some((text(1)?, text(3)?, hook))
    })
}
