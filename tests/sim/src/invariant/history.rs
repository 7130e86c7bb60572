//! No slot keeps more tasks than the history's limit.

use std::collections::BTreeMap;

use skep_store::Snapshot;

pub(super) fn is_bounded(snapshot: &Snapshot) -> Result<(), String> {
    let limit = snapshot
        .cluster()
        .map_or(5, |cluster| cluster.task_history_limit());
    let mut slots: BTreeMap<_, i64> = BTreeMap::new();
    for task in snapshot.tasks() {
        let node = (task.slot == 0).then_some(&task.node_id);
        *slots
            .entry((&task.service_name, task.slot, node))
            .or_default() += 1;
    }
    for ((service, slot, _), tasks) in slots {
        if tasks > limit {
            return Err(format!(
                "slot {slot} of {service} keeps {tasks} tasks, more than {limit}"
            ));
        }
    }
    Ok(())
}
