//! What must hold, one file each.

use skep_store::{Event, Snapshot};

use crate::host::Host;

mod addresses;
mod containers;
mod converged;
mod gone;
mod history;
mod identical;
mod law;
mod ports;
mod slots;
mod vnis;

pub use converged::service_converged;
pub use identical::replicas_identical;

/// Holds for every commit that was applied.
pub fn after_commit(events: &[Event]) -> Result<(), String> {
    law::states_only_grow(events)
}

/// Holds at every moment.
pub fn always(snapshot: &Snapshot, hosts: &[Host]) -> Result<(), String> {
    addresses::no_address_twice(snapshot)?;
    containers::no_address_twice_among_processes(snapshot, hosts)?;
    ports::no_port_twice(snapshot)?;
    slots::no_slot_has_two_processes(snapshot, hosts)?;
    vnis::no_vni_twice_or_too_early(snapshot)
}

/// Holds once peace has lasted.
pub fn in_the_end(snapshot: &Snapshot, hosts: &[Host]) -> Result<(), String> {
    converged::everything(snapshot)?;
    gone::nothing_is_left_of_removed_things(snapshot, hosts)?;
    addresses::nothing_leaked(snapshot)?;
    history::is_bounded(snapshot)
}
