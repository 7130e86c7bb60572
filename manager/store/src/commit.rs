//! A commit: the changes one transaction makes, as raft carries them.

use serde::{Deserialize, Serialize};
use skep_model::payload::InPlace;
use skep_model::resources::GenericResource;
use skep_model::serde_help::is_zero;
use skep_model::service::Endpoint;
use skep_model::task::NetworkAttachment;
use skep_model::{NodeId, TaskId, TaskState, TaskStatus, Timestamp, Version};

use crate::record::{Key, Object};

/// One transaction's effect. Applied wholly or, when something it relied on has changed, not at all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// Versions the named objects must still have; 0 stands for "must not exist".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expected: Vec<(Key, Version)>,
    pub changes: Vec<Change>,
}

impl Commit {
    /// Whether applying this would change nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// One change of a [`Commit`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// The object becomes this; its version is set when it is applied.
    Put(Object),
    /// A new task of a service. What it has from the service is left out and filled in when the
    /// change is applied: container spec, labels and, once it is allocated, the endpoint. Services
    /// with thousands of tasks would otherwise send the same spec thousands of times.
    Make(Box<skep_model::Task>),
    /// The object is gone.
    Remove(Key),
    /// Some fields of a task change.
    Patch(Box<TaskPatch>),
    /// What a node said of one of its tasks. Dropped without harm when the task is gone, is on
    /// another node, or may not move there: reports race with everything and must not fail a batch.
    Report {
        task: TaskId,
        node: NodeId,
        status: Box<TaskStatus>,
    },
}

/// Whether a task in this state has been given its service's endpoint.
fn has_endpoint(task: &skep_model::Task) -> bool {
    task.status.state >= TaskState::Pending
}

/// `task` without what it has from `service`; nothing when it has something of its own there.
pub(crate) fn strip(
    task: &skep_model::Task,
    service: &skep_model::Service,
) -> Option<skep_model::Task> {
    let endpoint = has_endpoint(task).then_some(&service.endpoint);
    let same = task.spec.container_spec == service.spec.task_template.container_spec
        && task.labels == service.spec.labels
        && task.endpoint.as_ref() == endpoint;
    same.then(|| {
        let mut task = task.clone();
        task.spec.container_spec = None;
        task.labels.clear();
        task.endpoint = None;
        task
    })
}

/// The opposite of [`strip`].
pub(crate) fn fill(task: &mut skep_model::Task, service: &skep_model::Service) {
    let template = &service.spec.task_template;
    task.spec
        .container_spec
        .clone_from(&template.container_spec);
    task.labels.clone_from(&service.spec.labels);
    task.endpoint = has_endpoint(task).then(|| service.endpoint.clone());
}

/// The fields of a task that change during its life; absent ones stay.
///
/// Tasks are by far the most written objects and carry a whole spec, so most writes of one travel
/// like this. A patch does not rely on the task's version but on the two fields that race.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskPatch {
    pub id: TaskId,
    /// Observed state before this change; given with `status` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_was: Option<TaskState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<TaskStatus>,
    /// Desired state before this change; given with `desired_state` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_was: Option<TaskState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_state: Option<TaskState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachments: Option<Vec<NetworkAttachment>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generic_resources: Option<Vec<GenericResource>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_not_before: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining_since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_place: Option<Vec<InPlace>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes_expected: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub updated_at: Timestamp,
}

impl TaskPatch {
    /// The patch that turns `old` into `new`, or nothing when the difference needs a whole task.
    pub fn between(old: &skep_model::Task, new: &skep_model::Task) -> Option<Self> {
        let status = (old.status != new.status).then(|| new.status.clone());
        let desired = (old.desired_state != new.desired_state).then_some(new.desired_state);
        let patch = Self {
            id: old.id.clone(),
            status_was: status.is_some().then_some(old.status.state),
            status,
            desired_was: desired.is_some().then_some(old.desired_state),
            desired_state: desired,
            node_id: (old.node_id != new.node_id).then(|| new.node_id.clone()),
            attachments: (old.attachments != new.attachments).then(|| new.attachments.clone()),
            endpoint: match (&old.endpoint, &new.endpoint) {
                (before, after) if before == after => None,
                (_, Some(endpoint)) => Some(endpoint.clone()),
                (_, None) => return None,
            },
            generic_resources: (old.generic_resources != new.generic_resources)
                .then(|| new.generic_resources.clone()),
            start_not_before: (old.start_not_before != new.start_not_before)
                .then_some(new.start_not_before),
            draining_since: (old.draining_since != new.draining_since)
                .then_some(new.draining_since),
            drained_at: (old.drained_at != new.drained_at).then_some(new.drained_at),
            in_place: (old.in_place != new.in_place).then(|| new.in_place.clone()),
            volumes_expected: (old.volumes_expected != new.volumes_expected)
                .then(|| new.volumes_expected.clone()),
            updated_at: new.updated_at,
        };
        let mut patched = old.clone();
        patch.write(&mut patched);
        patched.version = new.version;
        (patched == *new).then_some(patch)
    }

    /// Writes the given fields into `task`.
    pub fn write(&self, task: &mut skep_model::Task) {
        if let Some(status) = &self.status {
            task.status.clone_from(status);
        }
        if let Some(desired) = self.desired_state {
            task.desired_state = desired;
        }
        if let Some(node) = &self.node_id {
            task.node_id = node.clone();
        }
        if let Some(attachments) = &self.attachments {
            task.attachments.clone_from(attachments);
        }
        if let Some(endpoint) = &self.endpoint {
            task.endpoint = Some(endpoint.clone());
        }
        if let Some(granted) = &self.generic_resources {
            task.generic_resources.clone_from(granted);
        }
        if let Some(at) = self.start_not_before {
            task.start_not_before = at;
        }
        if let Some(at) = self.draining_since {
            task.draining_since = at;
        }
        if let Some(at) = self.drained_at {
            task.drained_at = at;
        }
        if let Some(orders) = &self.in_place {
            task.in_place.clone_from(orders);
        }
        if let Some(volumes) = &self.volumes_expected {
            task.volumes_expected.clone_from(volumes);
        }
        task.updated_at = self.updated_at;
    }
}
