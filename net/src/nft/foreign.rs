//! Firewall chains of others that drop what is forwarded: our links are let through
//! in there, since their verdict holds whatever our own tables accept.
//!
//! The rules are such as iptables would write, or it would refuse to read its own
//! tables from then on. They are known by the mark that all our rules bear.

use std::collections::BTreeSet;
use std::fmt;

use super::change::{BATCH_BEGIN, BATCH_END, DELETE_RULE, NEW_RULE, expressions, fingerprint};
use super::rule::{Direction, Rule};
use super::seen::{self, FINGERPRINT_KIND, GET_RULE, message};
use crate::KernelError;
use crate::netlink::socket::Socket;
use crate::netlink::wire::{self, CREATE, Message};

const HOOK_FORWARD: u32 = 2;
/// Families that forwarded packets of ours belong to, by number.
const FAMILIES: [(u8, &str); 3] = [(1, "inet"), (2, "ip"), (10, "ip6")];
/// Our own tables.
const OWN_PREFIX: &str = "sk-";

/// A base chain of somebody else on the forward hook.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Chain {
    family: u8,
    table: String,
    name: String,
    drops: bool,
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = FAMILIES.iter().find(|(number, _)| *number == self.family);
        let family = family.map_or("?", |(_, name)| name);
        write!(f, "{family} {} {}", self.table, self.name)
    }
}

/// A rule of such a chain.
struct Found {
    handle: Vec<u8>,
    /// `None`: not ours.
    fingerprint: Option<u64>,
    /// Whether nothing gets past it.
    ends: bool,
}

/// The chains that let nothing through by themselves.
pub(crate) fn closed(socket: &mut Socket) -> Result<Vec<Chain>, KernelError> {
    let mut closed = Vec::new();
    for chain in chains(socket)? {
        let ends = |rules: &[Found]| rules.last().is_some_and(|rule| rule.ends);
        if chain.drops || ends(&rules(socket, &chain)?) {
            closed.push(chain);
        }
    }
    Ok(closed)
}

/// What became of chains that were to let links through.
#[derive(Default)]
pub(crate) struct Opened {
    pub changed: Vec<Chain>,
    pub failed: Vec<(Chain, KernelError)>,
}

/// Lets links through the chains that drop what is forwarded, both ways; a name
/// that ends with `+` means all that begin so.
pub(crate) fn let_through(
    socket: &mut Socket,
    links: &BTreeSet<String>,
) -> Result<Opened, KernelError> {
    let mut opened = Opened::default();
    for chain in closed(socket)? {
        let present: BTreeSet<u64> = rules(socket, &chain)?
            .iter()
            .filter_map(|rule| rule.fingerprint)
            .collect();
        let missing: Vec<Message> = links
            .iter()
            .flat_map(|link| accepts(link))
            .filter(|rule| !present.contains(&fingerprint(rule)))
            .map(|rule| insert(&chain, &rule))
            .collect();
        if missing.is_empty() {
            continue;
        }
        match send(socket, missing) {
            Ok(()) => opened.changed.push(chain),
            Err(error) => opened.failed.push((chain, error)),
        }
    }
    Ok(opened)
}

/// Takes back the rules for these links, wherever they are.
pub(crate) fn take_back(
    socket: &mut Socket,
    links: &BTreeSet<String>,
) -> Result<Vec<Chain>, KernelError> {
    let rules_of_ours: BTreeSet<u64> = links
        .iter()
        .flat_map(|link| accepts(link))
        .map(|rule| fingerprint(&rule))
        .collect();
    let mut changed = Vec::new();
    for chain in chains(socket)? {
        let deletions: Vec<Message> = rules(socket, &chain)?
            .into_iter()
            .filter(|rule| {
                rule.fingerprint
                    .is_some_and(|mark| rules_of_ours.contains(&mark))
            })
            .map(|rule| of_chain(DELETE_RULE, 0, &chain).attr(3, &rule.handle))
            .collect();
        if !deletions.is_empty() {
            send(socket, deletions)?;
            changed.push(chain);
        }
    }
    Ok(changed)
}

fn accepts(link: &str) -> [Rule; 2] {
    [Direction::In, Direction::Out]
        .map(|direction| Rule::new().interface_like(direction, link).count().accept())
}

fn of_chain(kind: u16, flags: u16, chain: &Chain) -> Message {
    message(kind, flags, chain.family)
        .str(1, &chain.table)
        .str(2, &chain.name)
}

/// In front of all that is there.
fn insert(chain: &Chain, rule: &Rule) -> Message {
    let mut user_data = vec![FINGERPRINT_KIND, 8];
    user_data.extend(fingerprint(rule).to_be_bytes());
    expressions(of_chain(NEW_RULE, CREATE, chain), rule).attr(7, &user_data)
}

fn send(socket: &mut Socket, messages: Vec<Message>) -> Result<(), KernelError> {
    // The resource id of the marks, in network order, is the subsystem.
    let mark = |kind| Message::new(kind, 0, &[0, 0, 0, 10]);
    socket
        .transaction(mark(BATCH_BEGIN), messages, mark(BATCH_END))
        .map_err(|(_, error)| error)
}

fn chains(socket: &mut Socket) -> Result<Vec<Chain>, KernelError> {
    let mut found = Vec::new();
    for (family, _) in FAMILIES {
        for (table, name, hook) in seen::chains(socket, family)? {
            let Some(hook) = hook.filter(|hook| hook.number == HOOK_FORWARD) else {
                continue;
            };
            if !table.starts_with(OWN_PREFIX) {
                let drops = hook.drops;
                found.push(Chain {
                    family,
                    table,
                    name,
                    drops,
                });
            }
        }
    }
    Ok(found)
}

fn rules(socket: &mut Socket, chain: &Chain) -> Result<Vec<Found>, KernelError> {
    let request = message(GET_RULE, 0, chain.family)
        .str(1, &chain.table)
        .str(2, &chain.name);
    socket.dump(&request, |payload| {
        let attributes = payload.get(4..)?;
        let text = |kind| wire::find(attributes, kind).map(wire::text_of);
        let is_of_chain = text(1)? == chain.table && text(2)? == chain.name;
        is_of_chain.then_some(())?;
        Some(Found {
            handle: wire::find(attributes, 3)?.to_vec(),
            fingerprint: wire::find(attributes, 7).and_then(seen::fingerprint),
            ends: wire::find(attributes, 4).is_some_and(ends),
        })
    })
}

/// Whether a rule's expressions are, counters apart, a refusal of everything.
fn ends(expressions: &[u8]) -> bool {
    let mut refuses = false;
    for (_, expression) in wire::attributes(expressions) {
        let name = wire::find(expression, 1).map(wire::text_of);
        let data = wire::find(expression, 2).unwrap_or_default();
        match name.as_deref() {
            Some("counter") => {}
            Some("reject") => refuses = true,
            // `iptables -j REJECT`.
            Some("target") => {
                refuses = wire::find(data, 1).map(wire::text_of).as_deref() == Some("REJECT");
                if !refuses {
                    return false;
                }
            }
            Some("immediate") => {
                let verdict = wire::find_path(data, &[2, 2, 1]).and_then(wire::be32_of);
                refuses = verdict == Some(0);
                if !refuses {
                    return false;
                }
            }
            _ => return false,
        }
    }
    refuses
}
