//! The tables and their indexes, as persistent maps: a copy costs a few pointers.
//!
//! Ordered maps throughout, so that every replica iterates in the same order.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use skep_model::{
    Attachment, AttachmentId, Cluster, Config, ConfigId, Network, NetworkId, Node, NodeId,
    RegistryLogin, Secret, SecretId, Service, ServiceId, Stack, Task, TaskId, TaskState, Version,
};

use crate::record::Record;

/// One kind's objects, by id and by lower-case name.
#[derive(Debug, Clone)]
pub struct Table<R: Record> {
    pub(crate) by_id: OrdMap<R::Id, Arc<R>>,
    pub(crate) by_name: OrdMap<String, R::Id>,
}

impl<R: Record> Default for Table<R> {
    fn default() -> Self {
        Self {
            by_id: OrdMap::new(),
            by_name: OrdMap::new(),
        }
    }
}

/// Everything the cluster remembers at one version.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub(crate) version: Version,
    pub(crate) clusters: Table<Cluster>,
    pub(crate) nodes: Table<Node>,
    pub(crate) services: Table<Service>,
    pub(crate) tasks: Table<Task>,
    pub(crate) networks: Table<Network>,
    pub(crate) secrets: Table<Secret>,
    pub(crate) configs: Table<Config>,
    pub(crate) stacks: Table<Stack>,
    pub(crate) attachments: Table<Attachment>,
    pub(crate) registry_logins: Table<RegistryLogin>,
    /// Tasks in the order service, slot, task.
    pub(crate) by_slot: OrdSet<(ServiceId, u64, TaskId)>,
    /// Tasks with a node.
    pub(crate) by_node: OrdSet<(NodeId, TaskId)>,
    /// Tasks whose observed state is before `Assigned`.
    pub(crate) waiting: OrdSet<TaskId>,
    /// Tasks whose desired state is `Remove`.
    pub(crate) leaving: OrdSet<TaskId>,
    /// Tasks whose stop waits until every node has stopped leading others to them.
    pub(crate) draining: OrdSet<TaskId>,
    /// Services that name a network, secret or config in their spec.
    pub(crate) network_users: OrdSet<(NetworkId, ServiceId)>,
    pub(crate) secret_users: OrdSet<(SecretId, ServiceId)>,
    pub(crate) config_users: OrdSet<(ConfigId, ServiceId)>,
    /// Tasks that hold an address on a network.
    pub(crate) attached: OrdSet<(NetworkId, TaskId)>,
    /// Plain containers that have a place on a network.
    pub(crate) guests: OrdSet<(NetworkId, AttachmentId)>,
}

impl State {
    /// Puts `record` in place of whatever has its id.
    pub(crate) fn put<R: Record>(&mut self, record: Arc<R>) -> Option<Arc<R>> {
        let table = R::table_mut(self);
        let old = table.by_id.insert(record.id().clone(), record.clone());
        let old_name = old.as_deref().and_then(Record::name);
        if old_name != record.name() {
            if let Some(name) = old_name {
                table.by_name.remove(&name.to_lowercase());
            }
            if let Some(name) = record.name() {
                table
                    .by_name
                    .insert(name.to_lowercase(), record.id().clone());
            }
        }
        R::reindex(self, old.as_deref(), Some(&record));
        old
    }

    /// Takes the object with this id out.
    pub(crate) fn remove<R: Record>(&mut self, id: &R::Id) -> Option<Arc<R>> {
        let table = R::table_mut(self);
        let old = table.by_id.remove(id)?;
        if let Some(name) = old.name() {
            table.by_name.remove(&name.to_lowercase());
        }
        R::reindex(self, Some(&old), None);
        Some(old)
    }

    /// The id of another object that already has `record`'s name.
    pub(crate) fn name_holder<R: Record>(&self, record: &R) -> Option<R::Id> {
        let name = record.name()?;
        let holder = R::table(self).by_name.get(&name.to_lowercase())?;
        (holder != record.id()).then(|| holder.clone())
    }

    pub(crate) fn index_service(&mut self, old: Option<&Service>, new: Option<&Service>) {
        if let Some(service) = old {
            for network in networks_of(service) {
                self.network_users.remove(&(network, service.id.clone()));
            }
            for secret in secrets_of(service) {
                self.secret_users.remove(&(secret, service.id.clone()));
            }
            for config in configs_of(service) {
                self.config_users.remove(&(config, service.id.clone()));
            }
        }
        if let Some(service) = new {
            for network in networks_of(service) {
                self.network_users.insert((network, service.id.clone()));
            }
            for secret in secrets_of(service) {
                self.secret_users.insert((secret, service.id.clone()));
            }
            for config in configs_of(service) {
                self.config_users.insert((config, service.id.clone()));
            }
        }
    }

    pub(crate) fn index_attachment(&mut self, old: Option<&Attachment>, new: Option<&Attachment>) {
        let key = |place: &Attachment| (place.network_id.clone(), place.id.clone());
        if let Some(place) = old {
            self.guests.remove(&key(place));
        }
        if let Some(place) = new {
            self.guests.insert(key(place));
        }
    }

    pub(crate) fn index_task(&mut self, old: Option<&Task>, new: Option<&Task>) {
        let slot = |task: &Task| (task.service_id.clone(), task.slot, task.id.clone());
        // Whether `is` ended to hold, and whether it began to.
        let turned = |is: fn(&Task) -> bool| {
            let (before, after) = (old.is_some_and(is), new.is_some_and(is));
            (before && !after, !before && after)
        };
        let (waits_no_more, waits_now) = turned(|task| task.status.state < TaskState::Assigned);
        let (leaves_no_more, leaves_now) = turned(|task| task.desired_state == TaskState::Remove);
        let (drains_no_more, drains_now) = turned(Task::is_draining);
        match (old, new) {
            (None, Some(task)) => {
                self.by_slot.insert(slot(task));
            }
            (Some(task), None) => {
                self.by_slot.remove(&slot(task));
            }
            (Some(before), Some(after)) if before.slot != after.slot => {
                self.by_slot.remove(&slot(before));
                self.by_slot.insert(slot(after));
            }
            (Some(_), Some(_)) | (None, None) => (),
        }
        let any = old.or(new);
        if let Some(task) = any.filter(|_| waits_no_more) {
            self.waiting.remove(&task.id);
        }
        if let Some(task) = any.filter(|_| waits_now) {
            self.waiting.insert(task.id.clone());
        }
        if let Some(task) = any.filter(|_| leaves_no_more) {
            self.leaving.remove(&task.id);
        }
        if let Some(task) = any.filter(|_| leaves_now) {
            self.leaving.insert(task.id.clone());
        }
        if let Some(task) = any.filter(|_| drains_no_more) {
            self.draining.remove(&task.id);
        }
        if let Some(task) = any.filter(|_| drains_now) {
            self.draining.insert(task.id.clone());
        }
        let old_node = old.map(|task| &task.node_id).filter(|id| !id.is_empty());
        let new_node = new.map(|task| &task.node_id).filter(|id| !id.is_empty());
        if old_node != new_node {
            if let (Some(node), Some(task)) = (old_node, old) {
                self.by_node.remove(&(node.clone(), task.id.clone()));
            }
            if let (Some(node), Some(task)) = (new_node, new) {
                self.by_node.insert((node.clone(), task.id.clone()));
            }
        }
        if old.map(|task| &task.attachments) != new.map(|task| &task.attachments) {
            if let Some(task) = old {
                for attachment in &task.attachments {
                    self.attached
                        .remove(&(attachment.network_id.clone(), task.id.clone()));
                }
            }
            if let Some(task) = new {
                for attachment in &task.attachments {
                    self.attached
                        .insert((attachment.network_id.clone(), task.id.clone()));
                }
            }
        }
    }
}

/// Networks that a service's spec names.
pub(crate) fn networks_of(service: &Service) -> impl Iterator<Item = NetworkId> {
    let spec = &service.spec;
    spec.networks
        .iter()
        .chain(&spec.task_template.networks)
        .map(|attachment| NetworkId::new(&attachment.target))
}

fn secrets_of(service: &Service) -> impl Iterator<Item = SecretId> {
    service
        .spec
        .task_template
        .container()
        .into_iter()
        .flat_map(|container| &container.secrets)
        .map(|reference| reference.secret_id.clone())
}

fn configs_of(service: &Service) -> impl Iterator<Item = ConfigId> {
    service
        .spec
        .task_template
        .container()
        .into_iter()
        .flat_map(|container| &container.configs)
        .map(|reference| reference.config_id.clone())
}
