//! Makes tables as they should be: the difference as a value, then one
//! transaction.

use std::collections::BTreeMap;

use super::expr::{self, Verdict};
use super::rule::Rule;
use super::seen::{self, FINGERPRINT_KIND, SUBSYSTEM, SeenHook, SeenSet, SeenTable, message};
use super::table::{
    Chain, Element, Family, Field, Hook, Set, Table, Value, byte_order, fields_length, fields_type,
};
use crate::NetError;
use crate::netlink::socket::Socket;
use crate::netlink::wire::{APPEND, CREATE, Message};

const NEW_TABLE: u16 = SUBSYSTEM;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const DELETE_CHAIN: u16 = SUBSYSTEM | 5;
pub(super) const NEW_RULE: u16 = SUBSYSTEM | 6;
pub(super) const DELETE_RULE: u16 = SUBSYSTEM | 8;
const NEW_SET: u16 = SUBSYSTEM | 9;
const DELETE_SET: u16 = SUBSYSTEM | 11;
const NEW_SET_ELEMENTS: u16 = SUBSYSTEM | 12;
const DELETE_SET_ELEMENTS: u16 = SUBSYSTEM | 14;
pub(super) const BATCH_BEGIN: u16 = 0x10;
pub(super) const BATCH_END: u16 = 0x11;

const DATA_VERDICT: u32 = 0xffff_ff00;
const FLAG_SET_MAP: u32 = 8;
/// An attribute's length has 16 bits; the largest element takes about 100 bytes.
const ELEMENTS_PER_MESSAGE: usize = 400;

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Op<'a> {
    AddTable,
    DeleteTable,
    AddSet(&'a Set),
    DeleteSet(String),
    AddElements(&'a Set, Vec<(Vec<u8>, Element)>),
    DeleteElements(String, Vec<Vec<u8>>),
    AddChain(&'a Chain),
    DeleteChain(String),
    FlushChain(String),
    AddRule(&'a str, &'a Rule),
}

impl Op<'_> {
    /// The object an error of this step is about.
    fn object(&self) -> String {
        match self {
            Self::AddTable | Self::DeleteTable => "table".into(),
            Self::AddSet(set) => format!("set `{}`", set.name),
            Self::DeleteSet(name) => format!("set `{name}`"),
            Self::AddElements(set, _) => format!("elements of set `{}`", set.name),
            Self::DeleteElements(name, _) => format!("elements of set `{name}`"),
            Self::AddChain(chain) => format!("chain `{}`", chain.name),
            Self::DeleteChain(name) | Self::FlushChain(name) => format!("chain `{name}`"),
            Self::AddRule(chain, _) => format!("rule in chain `{chain}`"),
        }
    }
}

/// How the report of a table that was made or changed begins.
pub(crate) const CHANGED_TABLE: &str = "change table ";

/// Makes the wanted tables as they should be and deletes those that are `ours`
/// and not wanted. Every table is tried; the first failure is returned after
/// that. Returns what was changed.
pub(crate) fn reconcile(
    socket: &mut Socket,
    wanted: &[Table],
    ours: impl Fn(Family, &str) -> bool,
) -> Result<Vec<String>, NetError> {
    let present = seen::table_names(socket).map_err(|source| look("tables", source))?;
    let mut changes = Vec::new();
    let mut failure = None;
    for table in wanted {
        let exists = present
            .iter()
            .any(|(family, name)| (*family, name) == (table.family, &table.name));
        match reconcile_table(socket, table, exists) {
            Ok(true) => {
                changes.push(format!("{CHANGED_TABLE}`{} {}`", table.family, table.name));
            }
            Ok(false) => {}
            Err(error) => {
                failure.get_or_insert(error);
            }
        }
    }
    for (family, name) in present {
        let is_wanted = wanted
            .iter()
            .any(|table| (table.family, &table.name) == (family, &name));
        if is_wanted || !ours(family, &name) {
            continue;
        }
        match send(socket, family, &name, &[Op::DeleteTable]) {
            Ok(()) => changes.push(format!("delete table `{family} {name}`")),
            Err(error) => {
                failure.get_or_insert(error);
            }
        }
    }
    failure.map_or(Ok(changes), Err)
}

fn look(object: &str, source: crate::KernelError) -> NetError {
    NetError::Kernel {
        action: "list",
        object: object.into(),
        source,
    }
}

fn reconcile_table(socket: &mut Socket, wanted: &Table, exists: bool) -> Result<bool, NetError> {
    let seen = match exists {
        false => None,
        true => Some(
            seen::table(socket, wanted.family, &wanted.name).map_err(|source| {
                look(
                    &format!("table `{} {}`", wanted.family, wanted.name),
                    source,
                )
            })?,
        ),
    };
    let ops = diff(wanted, seen.as_ref());
    if ops.is_empty() {
        return Ok(false);
    }
    send(socket, wanted.family, &wanted.name, &ops).map(|()| true)
}

fn send(socket: &mut Socket, family: Family, table: &str, ops: &[Op<'_>]) -> Result<(), NetError> {
    let mut messages = Vec::new();
    let mut origin = Vec::new();
    for (position, op) in ops.iter().enumerate() {
        let spelled = spell(op, family, table);
        origin.extend(std::iter::repeat_n(position, spelled.len()));
        messages.extend(spelled);
    }
    // The resource id of the marks, in network order, is the subsystem.
    let mark = |kind| Message::new(kind, 0, &[0, 0, 0, 10]);
    socket
        .transaction(mark(BATCH_BEGIN), messages, mark(BATCH_END))
        .map_err(|(position, source)| {
            let part = position
                .and_then(|at| origin.get(at))
                .map(|at| ops[*at].object());
            let part = part.map(|part| format!(", {part}")).unwrap_or_default();
            NetError::Kernel {
                action: "change",
                object: format!("table `{family} {table}`{part}"),
                source,
            }
        })
}

// ---- deciding ---------------------------------------------------------------

fn diff<'a>(wanted: &'a Table, seen: Option<&SeenTable>) -> Vec<Op<'a>> {
    match seen {
        Some(seen) if is_compatible(wanted, seen) => changes(wanted, seen),
        Some(_) => {
            let mut ops = vec![Op::DeleteTable, Op::AddTable];
            ops.extend(changes(wanted, &SeenTable::default()));
            ops
        }
        None => {
            let mut ops = vec![Op::AddTable];
            ops.extend(changes(wanted, &SeenTable::default()));
            ops
        }
    }
}

/// Whether no set changes its type and no chain its hook; those cannot be changed
/// in place.
fn is_compatible(wanted: &Table, seen: &SeenTable) -> bool {
    let sets = wanted.sets.iter().all(|set| {
        seen.sets.get(&set.name).is_none_or(|found| {
            found.key_length == fields_length(&set.key) && found.value_length == value_length(set)
        })
    });
    let chains = wanted.chains.iter().all(|chain| {
        seen.chains
            .get(&chain.name)
            .is_none_or(|found| same_hook(chain.hook.as_ref(), found.hook.as_ref()))
    });
    sets && chains
}

fn value_length(set: &Set) -> Option<u32> {
    match &set.value {
        Value::None => None,
        Value::Fields(fields) => Some(fields_length(fields)),
        Value::Verdict => Some(0),
    }
}

fn same_hook(wanted: Option<&Hook>, seen: Option<&SeenHook>) -> bool {
    match (wanted, seen) {
        (None, None) => true,
        (Some(wanted), Some(seen)) => {
            wanted.kind == seen.kind
                && wanted.number == seen.number
                && wanted.priority == seen.priority
                && wanted.device.iter().eq(seen.devices.iter())
                && !seen.drops
        }
        _ => false,
    }
}

/// What must be added before it is referred to comes first, what must lose its
/// references before it is deleted comes last.
fn changes<'a>(wanted: &'a Table, seen: &SeenTable) -> Vec<Op<'a>> {
    let mut ops = Vec::new();
    let none = BTreeMap::new();
    let present = |set: &Set| {
        seen.sets
            .get(&set.name)
            .map_or(&none, |found| &found.elements)
    };

    ops.extend(
        wanted
            .sets
            .iter()
            .filter(|set| !seen.sets.contains_key(&set.name))
            .map(Op::AddSet),
    );
    ops.extend(
        wanted
            .chains
            .iter()
            .filter(|chain| !seen.chains.contains_key(&chain.name))
            .map(Op::AddChain),
    );
    for set in &wanted.sets {
        let present = present(set);
        let gone: Vec<_> = present
            .iter()
            .filter(|(key, value)| set.elements.get(*key) != Some(value))
            .map(|(key, _)| key.clone())
            .collect();
        if !gone.is_empty() {
            ops.push(Op::DeleteElements(set.name.clone(), gone));
        }
    }
    for chain in &wanted.chains {
        let fingerprints = chain.rules.iter().map(|rule| Some(fingerprint(rule)));
        let found = seen
            .chains
            .get(&chain.name)
            .map(|found| found.rules.as_slice());
        if found.unwrap_or_default().iter().copied().eq(fingerprints) {
            continue;
        }
        if found.is_some_and(|rules| !rules.is_empty()) {
            ops.push(Op::FlushChain(chain.name.clone()));
        }
        ops.extend(
            chain
                .rules
                .iter()
                .map(|rule| Op::AddRule(&chain.name, rule)),
        );
    }
    for set in &wanted.sets {
        let present = present(set);
        let new: Vec<_> = set
            .elements
            .iter()
            .filter(|(key, value)| present.get(*key) != Some(value))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !new.is_empty() {
            ops.push(Op::AddElements(set, new));
        }
    }
    for (name, SeenSet { elements, .. }) in &seen.sets {
        if !wanted.sets.iter().any(|set| set.name == *name) && !elements.is_empty() {
            ops.push(Op::DeleteElements(
                name.clone(),
                elements.keys().cloned().collect(),
            ));
        }
    }
    let stale_chains = || {
        seen.chains
            .keys()
            .filter(|name| !wanted.chains.iter().any(|chain| chain.name == **name))
    };
    ops.extend(stale_chains().cloned().map(Op::FlushChain));
    ops.extend(stale_chains().cloned().map(Op::DeleteChain));
    ops.extend(
        seen.sets
            .keys()
            .filter(|name| !wanted.sets.iter().any(|set| set.name == **name))
            .cloned()
            .map(Op::DeleteSet),
    );
    ops
}

/// A number that tells a rule from any other: kept with the rule in the kernel.
pub(super) fn fingerprint(rule: &Rule) -> u64 {
    crate::names::hash(expressions(message(NEW_RULE, 0, 0), rule).payload())
}

// ---- spelling ---------------------------------------------------------------

pub(super) fn expressions(m: Message, rule: &Rule) -> Message {
    m.nest(4, |m| m.each(&rule.0, |m, expr| expr.write(m)))
}

fn spell(op: &Op<'_>, family: Family, table: &str) -> Vec<Message> {
    let new = |kind, flags| message(kind, flags, family as u8).str(1, table);
    match op {
        Op::AddTable => vec![new(NEW_TABLE, CREATE)],
        Op::DeleteTable => vec![new(DELETE_TABLE, 0)],
        Op::AddSet(set) => vec![add_set(new(NEW_SET, CREATE), set)],
        Op::DeleteSet(name) => vec![new(DELETE_SET, 0).str(2, name)],
        Op::AddElements(set, elements) => elements
            .chunks(ELEMENTS_PER_MESSAGE)
            .map(|some| {
                new(NEW_SET_ELEMENTS, CREATE)
                    .str(2, &set.name)
                    .nest(3, |m| {
                        m.each(some, |m, (key, value)| element(m, key, value))
                    })
            })
            .collect(),
        Op::DeleteElements(name, keys) => keys
            .chunks(ELEMENTS_PER_MESSAGE)
            .map(|some| {
                new(DELETE_SET_ELEMENTS, 0).str(2, name).nest(3, |m| {
                    m.each(some, |m, key| element(m, key, &Element::Member))
                })
            })
            .collect(),
        Op::AddChain(chain) => vec![add_chain(new(NEW_CHAIN, CREATE), chain)],
        Op::DeleteChain(name) => vec![new(DELETE_CHAIN, 0).str(3, name)],
        Op::FlushChain(name) => vec![new(DELETE_RULE, 0).str(2, name)],
        Op::AddRule(chain, rule) => {
            let mut user_data = vec![FINGERPRINT_KIND, 8];
            user_data.extend(fingerprint(rule).to_be_bytes());
            let m = new(NEW_RULE, CREATE | APPEND).str(2, chain);
            vec![expressions(m, rule).attr(7, &user_data)]
        }
    }
}

fn add_set(m: Message, set: &Set) -> Message {
    let flags = if set.value == Value::None {
        0
    } else {
        FLAG_SET_MAP
    };
    let m = m
        .str(2, &set.name)
        .be32(3, flags)
        .be32(4, fields_type(&set.key))
        .be32(5, fields_length(&set.key))
        // A number by which later messages of the transaction could name the set;
        // we name it by its name, but the kernel demands one.
        .be32(10, 1);
    let mut user_data = order_note(0, &set.key);
    let m = match &set.value {
        Value::None => m,
        Value::Fields(fields) => {
            user_data.extend(order_note(1, fields));
            m.be32(6, fields_type(fields))
                .be32(7, fields_length(fields))
        }
        Value::Verdict => m.be32(6, DATA_VERDICT).be32(7, 16),
    };
    m.attr(13, &user_data)
}

/// A note for the `nft` program's listing: kind, length, byte order.
fn order_note(kind: u8, fields: &[Field]) -> Vec<u8> {
    let mut note = vec![kind, 4];
    note.extend(byte_order(fields).to_ne_bytes());
    note
}

fn element(m: Message, key: &[u8], value: &Element) -> Message {
    m.nest(1, |m| {
        let m = expr::bytes(m, 1, key);
        match value {
            Element::Member => m,
            Element::Bytes(bytes) => expr::bytes(m, 2, bytes),
            Element::Goto(chain) => m.nest(2, |m| expr::verdict(m, &Verdict::Goto(chain.clone()))),
        }
    })
}

fn add_chain(m: Message, chain: &Chain) -> Message {
    let m = m.str(3, &chain.name);
    match &chain.hook {
        None => m,
        Some(hook) => m
            .nest(4, |m| {
                m.be32(1, hook.number)
                    .be32(2, hook.priority.cast_unsigned())
                    .with(hook.device.as_deref(), |m, device| m.str(3, device))
            })
            .be32(5, 1)
            .str(7, hook.kind),
    }
}

#[cfg(test)]
mod tests;
