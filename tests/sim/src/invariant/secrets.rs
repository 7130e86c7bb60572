//! A host has a secret exactly while it has a live task that uses it. One that was removed is nowhere: its service
//! went before, and its tasks are about to.

use std::collections::BTreeSet;

use skep_model::{SecretId, Task};
use skep_store::Snapshot;

use crate::host::Host;

pub(super) fn are_only_where_needed(snapshot: &Snapshot, hosts: &[Host]) -> Result<(), String> {
    for host in hosts {
        let live = host.assigned.tasks().filter(|task| task.is_live());
        let used: BTreeSet<&SecretId> = live.flat_map(used_by).collect();
        let held: BTreeSet<&SecretId> = host.assigned.secrets().map(|one| &one.id).collect();
        if let Some(secret) = held.difference(&used).next() {
            return Err(format!(
                "{} has the secret {secret} without a task that uses it",
                host.id
            ));
        }
        let mut missing = used.difference(&held);
        if let Some(secret) = missing.find(|secret| snapshot.secret(secret).is_some()) {
            return Err(format!(
                "{} has a task that uses the secret {secret}, and not the secret",
                host.id
            ));
        }
    }
    Ok(())
}

fn used_by(task: &Task) -> impl Iterator<Item = &SecretId> {
    let references = task.spec.container().map(|container| &container.secrets);
    references
        .into_iter()
        .flatten()
        .map(|reference| &reference.secret_id)
}
