//! A task as its own agent sees it, and as others see its endpoints.

use skep_model::{Task, TaskState, TaskStatus, Timestamp, Version};

use super::{Affected, Shared};

impl Shared {
    /// Notes the nodes whose own tasks are others than before.
    pub(super) fn follow_tasks(&mut self, before: &Self, affected: &mut Affected) {
        for (old, new) in self.snapshot.changes_since::<Task>(&before.snapshot) {
            if let (Some(old), Some(new)) = (old, new)
                && is_same_to_its_node(old, new)
            {
                continue;
            }
            for task in old.into_iter().chain(new) {
                affected.add(&task.node_id);
            }
        }
    }
}

/// Whether a node has this task.
pub(super) fn is_assigned(task: &Task) -> bool {
    task.status.state >= TaskState::Assigned
}

/// Whether its node has to be on its networks. One that has ended needs none.
pub(super) fn needs_networks(task: &Task) -> bool {
    is_assigned(task) && !task.status.state.is_terminal()
}

/// A task as its agent needs to know it. What the agent itself reports is left out, so that its
/// own words do not come back to it as news; only an end is told, which it must not undo.
pub(super) fn as_assigned(task: &Task) -> Task {
    Task {
        status: TaskStatus {
            state: state_told(task),
            ..TaskStatus::default()
        },
        version: Version::default(),
        updated_at: Timestamp::ZERO,
        running_since: Timestamp::ZERO,
        ..task.clone()
    }
}

fn state_told(task: &Task) -> TaskState {
    match task.status.state {
        state if state.is_terminal() || state < TaskState::Assigned => state,
        _ => TaskState::Assigned,
    }
}

/// Whether [`as_assigned`] is the same of both, found out without making it.
fn is_same_to_its_node(old: &Task, new: &Task) -> bool {
    // Named one by one: a new field has to be thought of here.
    let Task {
        id,
        version: _,
        created_at,
        updated_at: _,
        labels,
        spec,
        service_id,
        service_name,
        slot,
        node_id,
        status: _,
        desired_state,
        attachments,
        endpoint,
        generic_resources,
        job_iteration,
        spec_version,
        start_not_before,
        draining_since,
        drained_at,
        running_since: _,
        restarts,
        by_update,
        in_place,
        volumes_expected,
    } = old;
    state_told(old) == state_told(new)
        && *desired_state == new.desired_state
        && *drained_at == new.drained_at
        && *draining_since == new.draining_since
        && *start_not_before == new.start_not_before
        && *node_id == new.node_id
        && *slot == new.slot
        && *restarts == new.restarts
        && *by_update == new.by_update
        && *in_place == new.in_place
        && *volumes_expected == new.volumes_expected
        && *created_at == new.created_at
        && *spec_version == new.spec_version
        && *job_iteration == new.job_iteration
        && *id == new.id
        && *service_id == new.service_id
        && *service_name == new.service_name
        && *attachments == new.attachments
        && *generic_resources == new.generic_resources
        && *endpoint == new.endpoint
        && *labels == new.labels
        && *spec == new.spec
}

/// Whether others see the same endpoints of a task.
pub(super) fn is_same_endpoint(old: &Task, new: &Task) -> bool {
    let container = |task: &Task| {
        let status = task.status.container_status.clone();
        status.map(|status| status.container_id)
    };
    old.node_id == new.node_id
        && old.attachments == new.attachments
        && old.status.state.is_terminal() == new.status.state.is_terminal()
        && old.serves() == new.serves()
        && (old.slot, &old.service_name) == (new.slot, &new.service_name)
        && (old.attachments.is_empty() || container(old) == container(new))
}
