//! Reading: the cluster as it was at one version.

use std::ops::Bound;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use skep_model::{
    Attachment, AttachmentId, Cluster, Config, ConfigId, Network, NetworkId, Node, NodeId,
    RegistryLogin, RegistryLoginId, Secret, SecretId, Service, ServiceId, Stack, StackId, Task,
    TaskId, Version,
};

use crate::commit::Change;
use crate::record::{Key, Object, Record};
use crate::state::State;

/// The whole state at one version. A clone is a pointer; nothing in it ever changes.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub(crate) state: Arc<State>,
}

/// Why text names no single object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    #[error("{kind} {given} not found")]
    NotFound { kind: &'static str, given: String },
    #[error("{kind} {given} is ambiguous ({matches} matches found)")]
    Ambiguous {
        kind: &'static str,
        given: String,
        matches: usize,
    },
}

macro_rules! tables {
    ($($record:ident $id:ident $one:ident $all:ident;)*) => {
        impl Snapshot {
            $(
                #[doc = concat!("The ", stringify!($one), " with this id.")]
                pub fn $one(&self, id: &$id) -> Option<&Arc<$record>> {
                    self.get::<$record>(id)
                }

                #[doc = concat!("Every ", stringify!($one), ", in the order of ids.")]
                pub fn $all(&self) -> impl DoubleEndedIterator<Item = &Arc<$record>> {
                    self.all::<$record>()
                }
            )*
        }
    };
}

tables! {
    Node NodeId node nodes;
    Service ServiceId service services;
    Task TaskId task tasks;
    Network NetworkId network networks;
    Secret SecretId secret secrets;
    Config ConfigId config configs;
    Stack StackId stack stacks;
    Attachment AttachmentId attachment attachments;
    RegistryLogin RegistryLoginId registry_login registry_logins;
}

impl Snapshot {
    /// The log index of the last commit in here.
    pub fn version(&self) -> Version {
        self.state.version
    }

    /// The object with this id.
    pub fn get<R: Record>(&self, id: &R::Id) -> Option<&Arc<R>> {
        R::table(&self.state).by_id.get(id)
    }

    /// What is different in this snapshot than in `older`: (before, after) for each object of
    /// the kind that was made, changed or removed. Costs little when little is different.
    pub fn changes_since<'a, R: Record>(
        &'a self,
        older: &'a Self,
    ) -> impl Iterator<Item = (Option<&'a Arc<R>>, Option<&'a Arc<R>>)> + 'a {
        let before = &R::table(&older.state).by_id;
        before
            .diff(&R::table(&self.state).by_id)
            .map(|item| match item {
                DiffItem::Add(_, new) => (None, Some(new)),
                DiffItem::Update { old, new } => (Some(old.1), Some(new.1)),
                DiffItem::Remove(_, old) => (Some(old), None),
            })
    }

    /// Every object of a kind, in the order of ids.
    pub fn all<R: Record>(&self) -> impl DoubleEndedIterator<Item = &Arc<R>> {
        R::table(&self.state).by_id.values()
    }

    /// How many objects of a kind there are.
    pub fn count<R: Record>(&self) -> usize {
        R::table(&self.state).by_id.len()
    }

    /// The object that has this name, without regard to case.
    pub fn by_name<R: Record>(&self, name: &str) -> Option<&Arc<R>> {
        let id = R::table(&self.state).by_name.get(&name.to_lowercase())?;
        self.get(id)
    }

    /// Objects whose id starts with `prefix`, in the order of ids.
    pub fn by_id_prefix<'a, 'b: 'a, R: Record>(
        &'a self,
        prefix: &'b str,
    ) -> impl Iterator<Item = &'a Arc<R>> {
        R::table(&self.state)
            .by_id
            .range::<_, str>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(id, _)| {
                let id: &str = std::borrow::Borrow::borrow(*id);
                id.starts_with(prefix)
            })
            .map(|(_, record)| record)
    }

    /// What the CLI means by `given`: a whole id, a name, or the start of exactly one id.
    pub fn find<R: Record>(&self, given: &str) -> Result<&Arc<R>, FindError> {
        let not_found = || FindError::NotFound {
            kind: R::KIND,
            given: given.to_owned(),
        };
        if given.is_empty() {
            return Err(not_found());
        }
        if let Some(record) = R::table(&self.state).by_id.get::<str>(given) {
            return Ok(record);
        }
        if let Some(record) = self.by_name::<R>(given) {
            return Ok(record);
        }
        let matches: Vec<R::Id> = self
            .by_id_prefix::<R>(given)
            .map(|record| record.id().clone())
            .collect();
        match matches.as_slice() {
            [] => Err(not_found()),
            [id] => self.get::<R>(id).ok_or_else(not_found),
            several => Err(FindError::Ambiguous {
                kind: R::KIND,
                given: given.to_owned(),
                matches: several.len(),
            }),
        }
    }

    /// [`Snapshot::find`] for nodes, which are also known by host name.
    pub fn find_node(&self, given: &str) -> Result<&Arc<Node>, FindError> {
        if let Some(node) = self.state.nodes.by_id.get::<str>(given) {
            return Ok(node);
        }
        let named: Vec<_> = self
            .nodes()
            .filter(|node| !given.is_empty() && node.description.hostname == given)
            .collect();
        match named.as_slice() {
            [] => self.find::<Node>(given),
            [node] => Ok(node),
            several => Err(FindError::Ambiguous {
                kind: "node",
                given: given.to_owned(),
                matches: several.len(),
            }),
        }
    }

    /// The object behind a key.
    pub fn object(&self, key: &Key) -> Option<Object> {
        match key {
            Key::Cluster(id) => self.get::<Cluster>(id).cloned().map(Object::Cluster),
            Key::Node(id) => self.get::<Node>(id).cloned().map(Object::Node),
            Key::Service(id) => self.get::<Service>(id).cloned().map(Object::Service),
            Key::Task(id) => self.get::<Task>(id).cloned().map(Object::Task),
            Key::Network(id) => self.get::<Network>(id).cloned().map(Object::Network),
            Key::Secret(id) => self.get::<Secret>(id).cloned().map(Object::Secret),
            Key::Config(id) => self.get::<Config>(id).cloned().map(Object::Config),
            Key::Stack(id) => self.get::<Stack>(id).cloned().map(Object::Stack),
            Key::Attachment(id) => self.get::<Attachment>(id).cloned().map(Object::Attachment),
            Key::RegistryLogin(id) => {
                let login = self.get::<RegistryLogin>(id).cloned();
                login.map(Object::RegistryLogin)
            }
        }
    }

    /// The version of the object behind a key; 0 when there is none.
    pub fn version_of(&self, key: &Key) -> Version {
        self.object(key)
            .map_or(Version::default(), |object| object.version())
    }

    /// The cluster's one object; absent before `init`.
    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.all::<Cluster>().next()
    }

    /// The network that carries published ports.
    pub fn ingress_network(&self) -> Option<&Arc<Network>> {
        self.networks().find(|network| network.spec.ingress)
    }

    /// A service's tasks, in the order of slots.
    pub fn tasks_of_service<'a>(
        &'a self,
        service: &'a ServiceId,
    ) -> impl Iterator<Item = &'a Arc<Task>> + 'a {
        let first = (service.clone(), 0, TaskId::default());
        self.state
            .by_slot
            .range(first..)
            .take_while(move |(owner, _, _)| owner == service)
            .filter_map(|(_, _, task)| self.task(task))
    }

    /// The tasks of one slot of a service.
    pub fn tasks_of_slot<'a>(
        &'a self,
        service: &'a ServiceId,
        slot: u64,
    ) -> impl Iterator<Item = &'a Arc<Task>> + 'a {
        let first = (service.clone(), slot, TaskId::default());
        self.state
            .by_slot
            .range(first..)
            .take_while(move |(owner, at, _)| owner == service && *at == slot)
            .filter_map(|(_, _, task)| self.task(task))
    }

    /// Ids of every service that has tasks, whether the service still exists or not.
    pub fn services_with_tasks(&self) -> Vec<ServiceId> {
        let mut found: Vec<ServiceId> = Vec::new();
        let mut rest = self.state.by_slot.iter();
        let mut next = rest.next().map(|(service, _, _)| service.clone());
        while let Some(service) = next {
            // Past every task of this service: its largest key is (service, MAX, anything).
            let after = (service.clone(), u64::MAX, TaskId::new("\u{10ffff}"));
            next = self
                .state
                .by_slot
                .range(after..)
                .next()
                .map(|(service, _, _)| service.clone());
            found.push(service);
        }
        found
    }

    /// The tasks a node was given, ended ones included.
    pub fn tasks_on_node<'a>(
        &'a self,
        node: &'a NodeId,
    ) -> impl Iterator<Item = &'a Arc<Task>> + 'a {
        let first = (node.clone(), TaskId::default());
        self.state
            .by_node
            .range(first..)
            .take_while(move |(owner, _)| owner == node)
            .filter_map(|(_, task)| self.task(task))
    }

    /// Tasks whose observed state is before `Assigned`.
    pub fn waiting_tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.state.waiting.iter().filter_map(|id| self.task(id))
    }

    /// Tasks that are to be forgotten once they have stopped.
    pub fn leaving_tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.state.leaving.iter().filter_map(|id| self.task(id))
    }

    /// Tasks whose stop waits until every node has stopped leading others to them.
    pub fn draining_tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.state.draining.iter().filter_map(|id| self.task(id))
    }

    /// Tasks that hold an address on a network.
    pub fn tasks_on_network<'a>(
        &'a self,
        network: &'a NetworkId,
    ) -> impl Iterator<Item = &'a Arc<Task>> + 'a {
        let first = (network.clone(), TaskId::default());
        self.state
            .attached
            .range(first..)
            .take_while(move |(owner, _)| owner == network)
            .filter_map(|(_, task)| self.task(task))
    }

    /// Plain containers that have a place on a network.
    pub fn attachments_on_network<'a>(
        &'a self,
        network: &'a NetworkId,
    ) -> impl Iterator<Item = &'a Arc<Attachment>> + 'a {
        let first = (network.clone(), AttachmentId::default());
        self.state
            .guests
            .range(first..)
            .take_while(move |(owner, _)| owner == network)
            .filter_map(|(_, place)| self.attachment(place))
    }

    /// Services whose spec names this network.
    pub fn services_on_network<'a>(
        &'a self,
        network: &'a NetworkId,
    ) -> impl Iterator<Item = &'a Arc<Service>> + 'a {
        let first = (network.clone(), ServiceId::default());
        self.state
            .network_users
            .range(first..)
            .take_while(move |(owner, _)| owner == network)
            .filter_map(|(_, service)| self.service(service))
    }

    /// Services whose spec names this secret.
    pub fn services_with_secret<'a>(
        &'a self,
        secret: &'a SecretId,
    ) -> impl Iterator<Item = &'a Arc<Service>> + 'a {
        let first = (secret.clone(), ServiceId::default());
        self.state
            .secret_users
            .range(first..)
            .take_while(move |(owner, _)| owner == secret)
            .filter_map(|(_, service)| self.service(service))
    }

    /// Services whose spec names this config.
    pub fn services_with_config<'a>(
        &'a self,
        config: &'a ConfigId,
    ) -> impl Iterator<Item = &'a Arc<Service>> + 'a {
        let first = (config.clone(), ServiceId::default());
        self.state
            .config_users
            .range(first..)
            .take_while(move |(owner, _)| owner == config)
            .filter_map(|(_, service)| self.service(service))
    }

    /// The whole state as `Put` changes, at most `chunk` to a piece, versions kept: what
    /// [`crate::Store::restore`] reads.
    pub fn dump(&self, chunk: usize) -> impl Iterator<Item = Vec<Change>> + use<> {
        let state = self.state.clone();
        let mut keys = self.keys().into_iter();
        let snapshot = Snapshot { state };
        std::iter::from_fn(move || {
            let piece: Vec<Change> = keys
                .by_ref()
                .take(chunk.max(1))
                .filter_map(|key| snapshot.object(&key))
                .map(Change::Put)
                .collect();
            (!piece.is_empty()).then_some(piece)
        })
    }

    /// The keys of everything stored.
    pub fn keys(&self) -> Vec<Key> {
        fn add<R: Record>(snapshot: &Snapshot, keys: &mut Vec<Key>) {
            keys.extend(snapshot.all::<R>().map(|record| R::key(record.id())));
        }
        let mut keys = Vec::new();
        add::<Cluster>(self, &mut keys);
        add::<Node>(self, &mut keys);
        add::<Network>(self, &mut keys);
        add::<Secret>(self, &mut keys);
        add::<Config>(self, &mut keys);
        add::<Service>(self, &mut keys);
        add::<Stack>(self, &mut keys);
        add::<Task>(self, &mut keys);
        add::<Attachment>(self, &mut keys);
        add::<RegistryLogin>(self, &mut keys);
        keys
    }

    /// Whether two snapshots hold the same objects at the same versions.
    pub fn same_content(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.keys(), other.keys());
        ours == theirs && ours.iter().all(|key| self.object(key) == other.object(key))
    }
}
