//! No two holders have the same address on a network, and nobody holds one that is not its: what
//! `network check` looks at.

use skep_model::Timestamp;
use skep_reconcile::audit::audit;
use skep_store::Snapshot;

pub(super) fn no_address_twice(snapshot: &Snapshot) -> Result<(), String> {
    clean(snapshot, Timestamp::ZERO)
}

/// After peace only what lives holds addresses.
pub(super) fn nothing_leaked(snapshot: &Snapshot) -> Result<(), String> {
    clean(snapshot, Timestamp(i64::MAX))
}

fn clean(snapshot: &Snapshot, settled: Timestamp) -> Result<(), String> {
    match audit(snapshot, settled).findings.into_iter().next() {
        None => Ok(()),
        Some(finding) => Err(format!("{}: {}", finding.network, finding.message)),
    }
}
