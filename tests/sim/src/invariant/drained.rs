//! A task with endpoints is told to stop only when no node leads anybody to it any more: every node that was
//! ready when the task left balancers and names has them in its packets without it.

use std::collections::BTreeMap;

use skep_model::{NodeState, TaskId, TaskState};
use skep_store::{Delta, Event, Object, Snapshot};

use crate::host::Host;

/// With which commit each task has begun to drain.
#[derive(Default)]
pub struct Drains {
    begun: BTreeMap<TaskId, u64>,
}

impl Drains {
    pub fn follow(&mut self, events: &[Event]) {
        for event in events {
            match &event.change {
                Delta::Updated {
                    old: Object::Task(old),
                    new: Object::Task(new),
                } if old.desired_state <= TaskState::Running
                    && new.desired_state > TaskState::Running =>
                {
                    self.begun.insert(new.id.clone(), event.version.index);
                }
                Delta::Removed(Object::Task(task)) => drop(self.begun.remove(&task.id)),
                _ => (),
            }
        }
    }

    /// Looks at those that were told to stop just now because all nodes are said to follow.
    pub(super) fn none_stops_early(
        &self,
        snapshot: &Snapshot,
        hosts: &[Host],
    ) -> Result<(), String> {
        for (id, container) in hosts.iter().flat_map(|host| &host.containers) {
            let Some(begun) = self.begun.get(id).filter(|_| container.stops_as_drained()) else {
                continue;
            };
            let Some(task) = snapshot.task(id) else {
                continue;
            };
            for host in hosts.iter().filter(|host| host.is_heard()) {
                let was_ready = snapshot.node(&host.id).is_some_and(|node| {
                    node.status.state == NodeState::Ready
                        && node.status.since <= task.draining_since
                });
                let packets = host.assigned.packets();
                if was_ready && packets < *begun {
                    return Err(format!(
                        "task {id} of {} is told to stop although packets of {} follow version \
                         {packets} only, and it left balancers in {begun}",
                        task.service_name, host.id
                    ));
                }
            }
        }
        Ok(())
    }
}
