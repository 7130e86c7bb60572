//! What members and clients tell the test beside the network: all of it is in one thread.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skep_linear::{Call, Operation};

use crate::machine::Registers;

/// A note board.
#[derive(Default)]
pub struct Shared {
    /// All members vote.
    pub is_ready: AtomicBool,
    /// Faults are over.
    pub is_peace: AtomicBool,
    /// Values are told apart.
    values: AtomicU64,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    failures: Vec<String>,
    leaders: BTreeMap<u64, u64>,
    histories: BTreeMap<u8, Vec<Operation<Call>>>,
    /// Acknowledged commands by their index.
    acknowledged: BTreeMap<u64, Vec<u8>>,
    machines: BTreeMap<u64, Arc<Registers>>,
}

impl Shared {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is not as it must be.
    pub fn fail(&self, what: String) {
        self.notes().failures.push(what);
    }

    pub fn first_failure(&self) -> Option<String> {
        self.notes().failures.first().cloned()
    }

    pub fn next_value(&self) -> u64 {
        self.values.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A member says that it leads this term.
    pub fn leads(&self, term: u64, member: u64) {
        let mut notes = self.notes();
        let known = *notes.leaders.entry(term).or_insert(member);
        if known != member {
            let what = format!("members {known} and {member} both led term {term}");
            notes.failures.push(what);
        }
    }

    pub fn terms(&self) -> usize {
        self.notes().leaders.len()
    }

    /// A member has opened its log, into this machine.
    pub fn opened(&self, member: u64, machine: Arc<Registers>) {
        self.notes().machines.insert(member, machine);
    }

    pub fn machines(&self) -> BTreeMap<u64, Arc<Registers>> {
        self.notes().machines.clone()
    }

    pub fn note(&self, key: u8, operation: Operation<Call>) {
        self.notes()
            .histories
            .entry(key)
            .or_default()
            .push(operation);
    }

    pub fn histories(&self) -> BTreeMap<u8, Vec<Operation<Call>>> {
        self.notes().histories.clone()
    }

    pub fn acknowledge(&self, index: u64, command: Vec<u8>) {
        let mut notes = self.notes();
        if let Some(other) = notes.acknowledged.insert(index, command.clone()) {
            let what = format!("{other:?} and {command:?} were both acknowledged as {index}");
            notes.failures.push(what);
        }
    }

    pub fn acknowledged(&self) -> BTreeMap<u64, Vec<u8>> {
        self.notes().acknowledged.clone()
    }
}

/// The moment in the simulation, the same for all hosts, in nanoseconds.
pub fn now() -> u64 {
    let elapsed = turmoil::sim_elapsed().unwrap_or(Duration::ZERO);
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}
