//! What each node lacks for a task that has none, in words: the filters' own questions, all of them
//! and with numbers.

use std::fmt::Write as _;

use skep_model::resources::GenericResource;
use skep_model::volume_home::VolumeHomes;
use skep_model::{Availability, NodeId, NodeState, Task};

use super::filter::{Request, has_plugin};
use super::home::whereabouts;
use super::table::{Entry, NodeTable};

/// One node's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub node: NodeId,
    /// What is in the way; empty where the task could be.
    pub reasons: Vec<String>,
}

/// Asks every node for `task`, whose slot may have a home.
pub fn examine(table: &NodeTable, task: &Task, homes: &VolumeHomes) -> Vec<Verdict> {
    let request = Request::of(task, table);
    let home = homes.get(&task.slot).filter(|_| task.slot != 0);
    let verdict = |entry: &Entry| {
        let mut reasons = reasons(&request, entry);
        if let Some(home) = home.filter(|home| home.node_id != entry.node.id) {
            reasons.push(whereabouts(task.slot, home));
        }
        Verdict {
            node: entry.node.id.clone(),
            reasons,
        }
    };
    table.entries().map(verdict).collect()
}

fn reasons(request: &Request, entry: &Entry) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(unavailable(entry));
    room(request, entry, &mut found);
    for (kind, name) in &request.plugins {
        if !has_plugin(entry, kind, name) {
            found.push(format!("has no {} plugin {name:?}", kind.to_lowercase()));
        }
    }
    match &request.constraints {
        None => found.push("a constraint cannot be read".to_owned()),
        Some(constraints) => {
            let unmet = constraints.iter().filter(|one| !one.matches(&entry.node));
            found.extend(unmet.map(|one| format!("does not meet {one}")));
        }
    }
    for (name, is_wanted) in &request.beside {
        match (is_wanted, entry.runs(name)) {
            (true, false) => found.push(format!("does not meet service=={name}")),
            (false, true) => found.push(format!("does not meet service!={name}")),
            (true, true) | (false, false) => (),
        }
    }
    if !request.runs_on(&entry.node.description.platform) {
        let has = &entry.node.description.platform;
        let wanted: Vec<String> = request.platforms.iter().map(ToString::to_string).collect();
        let wanted = wanted.join(", ");
        found.push(format!("runs {has}, the image is for {wanted}"));
    }
    let encryption = &entry.node.description.encryption;
    if request.encrypted && !encryption.is_able() {
        found.push(format!("cannot encrypt: {}", encryption.why_not()));
    }
    if request.has_variables && !entry.node.description.knows_variables {
        found.push("is of a version that has no secrets as variables: upgrade it".to_owned());
    }
    if request.needs_stores && !entry.node.description.asks_stores {
        found.push("is of a version that asks no outside stores of secrets: upgrade it".to_owned());
    }
    let taken = request.host_ports.iter().filter(|one| entry.has_port(one));
    found.extend(taken.map(|port| format!("port {}/{} is taken", port.number, port.protocol)));
    let here = u64::from(entry.active_of(&request.service));
    if request.max_replicas > 0 && here >= request.max_replicas {
        let most = request.max_replicas;
        found.push(format!("has {here} of at most {most} tasks of the service"));
    }
    found
}

pub(super) fn unavailable(entry: &Entry) -> Option<String> {
    let state = match entry.node.status.state {
        NodeState::Ready => match entry.node.spec.availability {
            Availability::Active => return None,
            Availability::Pause => "is paused",
            Availability::Drain => "is drained",
        },
        NodeState::Down => "is down",
        NodeState::Disconnected => "is disconnected",
        NodeState::Unknown => "has not been heard of yet",
    };
    Some(state.to_owned())
}

fn room(request: &Request, entry: &Entry, found: &mut Vec<String>) {
    let (wanted, has) = (&request.reservations, &entry.node.description.resources);
    let (cpus, free) = (wanted.nano_cpus.0, entry.free_cpus());
    if cpus > free && cpus != 0 {
        let (wanted, free) = (decimal(cpus), decimal(free.max(0)));
        let all = decimal(has.nano_cpus.0);
        found.push(format!("{wanted} CPUs wanted, {free} of {all} free"));
    }
    let (memory, free) = (wanted.memory_bytes.0, entry.free_memory());
    if memory > free && memory != 0 {
        let (wanted, free) = (mebibytes(memory), mebibytes(free.max(0)));
        let all = mebibytes(has.memory_bytes.0);
        found.push(format!("{wanted} memory wanted, {free} of {all} free"));
    }
    for one in &wanted.generic_resources {
        if entry.generic.grant(std::slice::from_ref(one)).is_none() {
            found.push(match one {
                GenericResource::Named { kind, value } => format!("{kind} {value} is not free"),
                GenericResource::Discrete { kind, value } => {
                    let free = entry.generic.free(kind);
                    format!("{value} {kind} wanted, {free} free")
                }
            });
        }
    }
}

/// Billionths as a decimal number.
fn decimal(nanos: i64) -> String {
    let mut text = (nanos / 1_000_000_000).to_string();
    let rest = nanos % 1_000_000_000;
    if rest != 0 {
        let _ = write!(text, ".{rest:09}");
        text.truncate(text.trim_end_matches('0').len());
    }
    text
}

/// Bytes as docker writes sizes of memory.
fn mebibytes(bytes: i64) -> String {
    const MIB: i64 = 1 << 20;
    match bytes {
        bytes if bytes % (1 << 30) == 0 => format!("{} GiB of", bytes >> 30),
        bytes if bytes >= MIB => format!("{} MiB of", bytes / MIB),
        bytes => format!("{bytes} bytes of"),
    }
}
