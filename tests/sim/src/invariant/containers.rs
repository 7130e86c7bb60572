//! No two processes anywhere in the cluster have the same address on a network.
//!
//! This looks at what really runs, not at what the managers believe.

use std::collections::BTreeMap;

use skep_store::Snapshot;

use crate::host::Host;

pub(super) fn no_address_twice_among_processes(
    snapshot: &Snapshot,
    hosts: &[Host],
) -> Result<(), String> {
    let mut seen = BTreeMap::new();
    for host in hosts {
        // A host that was removed while it was cut off is nobody's any more.
        if snapshot.node(&host.id).is_none() || !host.on {
            continue;
        }
        for (task, container) in host.containers.iter().filter(|(_, c)| c.runs()) {
            for (network, address) in &container.addresses {
                if snapshot.network(network).is_none() {
                    continue;
                }
                let key = (network.clone(), address.clone());
                if let Some(other) = seen.insert(key, task.clone()) {
                    return Err(format!(
                        "containers of tasks {other} and {task} ({}) both run with {address}",
                        container.service
                    ));
                }
            }
        }
    }
    Ok(())
}
