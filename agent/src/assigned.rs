//! What this node is assigned at the moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_model::{
    Config, ConfigId, Network, NetworkId, NodeId, RegistryLogin, Secret, SecretId, ServiceId, Task,
    TaskId,
};
use skep_proto::assignment::{Item, LocalNode, Peer, ServiceOnNetwork};
use skep_proto::v1::Assignments;
use skep_proto::{DecodeError, decode};

/// The items of a node's assignments, by kind.
#[derive(Debug, Clone, Default)]
pub struct Assigned {
    /// Version of the last difference taken in.
    pub version: u64,
    pub tasks: BTreeMap<TaskId, Arc<Task>>,
    pub secrets: BTreeMap<SecretId, Arc<Secret>>,
    pub configs: BTreeMap<ConfigId, Arc<Config>>,
    pub networks: BTreeMap<NetworkId, Arc<Network>>,
    pub services: BTreeMap<(NetworkId, ServiceId), Arc<ServiceOnNetwork>>,
    pub peers: BTreeMap<NodeId, Arc<Peer>>,
    /// What to pull with, by registry.
    pub registry_logins: BTreeMap<String, Arc<RegistryLogin>>,
    pub local: Option<Arc<LocalNode>>,
}

/// Why a difference cannot be taken in.
#[derive(Debug, thiserror::Error)]
pub enum AssignError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// An older manager's word must not undo a newer one's.
    #[error("assignments of version {given} came after version {have}")]
    Older { given: u64, have: u64 },
}

impl Assigned {
    /// Takes a difference in, whole or not at all. What is of a kind that this version does not know is
    /// left out.
    pub fn apply(&self, change: &Assignments) -> Result<Self, AssignError> {
        if change.version < self.version {
            return Err(AssignError::Older {
                given: change.version,
                have: self.version,
            });
        }
        let mut next = if change.complete {
            Self::default()
        } else {
            self.clone()
        };
        next.version = change.version;
        for item in change.put.iter().filter(|item| Item::is_known(&item.key)) {
            next.put(decode("assignment", &item.value)?);
        }
        for key in &change.remove {
            next.remove(key);
        }
        Ok(next)
    }

    fn put(&mut self, item: Item) {
        match item {
            Item::Task(task) => drop(self.tasks.insert(task.id.clone(), Arc::new(*task))),
            Item::Secret(secret) => drop(self.secrets.insert(secret.id.clone(), Arc::new(secret))),
            Item::Config(config) => drop(self.configs.insert(config.id.clone(), Arc::new(config))),
            Item::Network(network) => {
                drop(self.networks.insert(network.id.clone(), Arc::new(*network)));
            }
            Item::Service(service) => {
                let key = (service.network.clone(), service.service.clone());
                self.services.insert(key, Arc::new(service));
            }
            Item::Peer(peer) => drop(self.peers.insert(peer.node.clone(), Arc::new(peer))),
            Item::Local(local) => self.local = Some(Arc::new(local)),
            Item::RegistryLogin(login) => {
                let host = login.spec.host.clone();
                self.registry_logins.insert(host, Arc::new(login));
            }
        }
    }

    fn remove(&mut self, key: &str) {
        let mut parts = key.splitn(3, '/');
        let kind = parts.next().unwrap_or_default();
        let id = parts.next().unwrap_or_default();
        match kind {
            "task" => drop(self.tasks.remove(id)),
            "secret" => drop(self.secrets.remove(id)),
            "config" => drop(self.configs.remove(id)),
            "network" => drop(self.networks.remove(id)),
            "service" => {
                let service = parts.next().unwrap_or_default();
                self.services
                    .remove(&(NetworkId::new(id), ServiceId::new(service)));
            }
            "peer" => drop(self.peers.remove(id)),
            "local" => self.local = None,
            "registry" => drop(self.registry_logins.remove(id)),
            // A newer manager may assign kinds that this agent does not know.
            _ => (),
        }
    }

    /// Services on one network.
    pub fn services_on<'a>(
        &'a self,
        network: &'a NetworkId,
    ) -> impl Iterator<Item = &'a ServiceOnNetwork> + 'a {
        self.services
            .range((network.clone(), ServiceId::default())..)
            .take_while(move |((on, _), _)| on == network)
            .map(|(_, service)| &**service)
    }

    /// The ingress network, if this node has been told of it.
    pub fn ingress(&self) -> Option<&Network> {
        self.networks
            .values()
            .find(|network| network.spec.ingress)
            .map(|network| &**network)
    }
}

#[cfg(test)]
mod tests {
    use skep_proto::encode;
    use skep_proto::v1::AssignmentItem;

    use super::*;

    fn put(item: &Item) -> AssignmentItem {
        AssignmentItem {
            key: item.key(),
            value: encode(item).into(),
        }
    }

    fn task(id: &str) -> Item {
        Item::Task(Box::new(Task {
            id: id.into(),
            ..Default::default()
        }))
    }

    #[test]
    fn differences_add_up_and_a_complete_set_starts_over() {
        let first = Assignments {
            version: 5,
            complete: true,
            put: vec![put(&task("a")), put(&task("b"))],
            remove: vec![],
        };
        let have = Assigned::default().apply(&first).unwrap();
        assert_eq!(have.tasks.len(), 2);
        let second = Assignments {
            version: 6,
            complete: false,
            put: vec![],
            remove: vec!["task/a".into()],
        };
        let have = have.apply(&second).unwrap();
        assert_eq!(
            have.tasks.keys().map(TaskId::as_str).collect::<Vec<_>>(),
            ["b"]
        );
        let third = Assignments {
            version: 7,
            complete: true,
            put: vec![put(&task("c"))],
            remove: vec![],
        };
        assert_eq!(have.apply(&third).unwrap().tasks.len(), 1);
        assert!(matches!(
            have.apply(&first),
            Err(AssignError::Older { given: 5, have: 6 })
        ));
    }

    #[test]
    fn a_kind_of_a_newer_manager_keeps_nothing_else_out() {
        let item = |key: &str| AssignmentItem {
            key: key.to_owned(),
            value: br#"{"Comet":{"id":"c"}}"#.to_vec().into(),
        };
        let set = |items| Assignments {
            version: 5,
            complete: true,
            put: items,
            remove: vec![],
        };
        let newer = set(vec![item("comet/c"), put(&task("a"))]);
        let have = Assigned::default().apply(&newer).unwrap();
        assert_eq!(have.tasks.len(), 1);
        // What it should know and cannot read is an error as before.
        let broken = set(vec![item("task/c"), put(&task("a"))]);
        assert!(Assigned::default().apply(&broken).is_err());
        let login = RegistryLogin::default();
        for known in [put(&task("a")), put(&Item::RegistryLogin(login))] {
            assert!(Item::is_known(&known.key), "{}", known.key);
        }
    }
}
