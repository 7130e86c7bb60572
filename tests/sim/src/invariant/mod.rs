//! What must hold, one file each.

use skep_store::{Event, Snapshot};

use crate::host::Host;

mod addresses;
mod beside;
mod containers;
mod converged;
pub mod cron;
mod drained;
mod even;
mod gone;
mod history;
mod homes;
mod identical;
mod law;
mod ports;
mod secrets;
mod slots;
mod streams;
mod vnis;

pub use converged::service_converged;
pub use drained::Drains;
pub use even::Failures;
pub use identical::replicas_identical;
pub use streams::{Watcher, hosts_know_everything};

/// Holds for every commit that was applied. States: what it was decided from, before it, after it.
pub fn after_commit(events: &[Event], states: [&Snapshot; 3]) -> Result<(), String> {
    law::states_only_grow(events)?;
    beside::tasks_are_placed_as_asked(events, states)?;
    homes::tasks_return_to_their_volumes(events, states[2])
}

/// Holds at every moment.
pub fn always(snapshot: &Snapshot, hosts: &[Host], drains: &Drains) -> Result<(), String> {
    addresses::no_address_twice(snapshot)?;
    containers::no_address_twice_among_processes(snapshot, hosts)?;
    ports::no_port_twice(snapshot)?;
    slots::no_slot_has_two_processes(snapshot, hosts)?;
    vnis::no_vni_twice_or_too_early(snapshot)?;
    drains.none_stops_early(snapshot, hosts)?;
    streams::nobody_is_confused(hosts)?;
    secrets::are_only_where_needed(snapshot, hosts)
}

/// Holds once peace has lasted.
pub fn in_the_end(snapshot: &Snapshot, hosts: &[Host], failures: &Failures) -> Result<(), String> {
    converged::everything(snapshot)?;
    gone::nothing_is_left_of_removed_things(snapshot, hosts)?;
    addresses::nothing_leaked(snapshot)?;
    history::is_bounded(snapshot)?;
    even::automatic_services_are(snapshot, failures)
}
