//! What a node was told, and the way from there to what it is to be told.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use bytes::Bytes;
use skep_model::payload::{Payload as _, PayloadId};
use skep_model::registry_login::host_of;
use skep_model::{Config, NodeId, RegistryLogin, Secret, Task};
use skep_proto::assignment::Item;
use skep_proto::encode;
use skep_proto::v1::{AssignmentItem, Assignments};

use super::task::{as_assigned, is_assigned};
use super::{Part, Shared};

/// What one node was told last, item by item. Items that others have as well are kept by reference,
/// of its own only what is needed to see that they are others now.
#[derive(Debug, Default)]
pub struct Told {
    /// Nothing before the complete set.
    items: Option<BTreeMap<Arc<str>, Mark>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Mark {
    Whole(Bytes),
    /// Of a secret or config: which of its payloads were told.
    Payload {
        version: u64,
        numbers: Numbers,
    },
    /// Of credentials for a registry.
    RegistryLogin {
        version: u64,
    },
    /// Of a task, which changes more often than what is told of it.
    Task {
        version: u64,
        digest: u64,
    },
}

/// One item of what a node is assigned, as cheap as it can be had.
enum Source<'a> {
    Part(&'a Part),
    Local(Part),
    Task(&'a Arc<Task>),
    Secret(&'a Arc<Secret>, Numbers),
    Config(&'a Arc<Config>, Numbers),
    RegistryLogin(&'a Arc<RegistryLogin>),
}

/// Numbers of versions of a payload.
type Numbers = BTreeSet<u64>;

impl Source<'_> {
    fn key(&self) -> Arc<str> {
        match self {
            Self::Part(part) => Arc::clone(&part.key),
            Self::Local(part) => Arc::clone(&part.key),
            Self::Task(task) => format!("task/{}", task.id).into(),
            Self::Secret(secret, _) => format!("secret/{}", secret.id).into(),
            Self::Config(config, _) => format!("config/{}", config.id).into(),
            Self::RegistryLogin(login) => format!("registry/{}", login.spec.host).into(),
        }
    }

    /// How to know the item again, and its encoded form if it is not what `before` says.
    fn compare(&self, before: Option<&Mark>) -> (Mark, Option<Bytes>) {
        let payload = |version: u64, numbers: &Numbers, item: &dyn Fn() -> Item| {
            let numbers = numbers.clone();
            let mark = Mark::Payload { version, numbers };
            let is_news = before != Some(&mark);
            (mark, is_news.then(|| encode(&item()).into()))
        };
        match self {
            Self::Part(part) => whole(&part.value, before),
            Self::Local(part) => whole(&part.value, before),
            Self::Secret(secret, numbers) => payload(secret.version.index, numbers, &|| {
                Item::Secret(secret.only(|number| numbers.contains(&number)))
            }),
            Self::Config(config, numbers) => payload(config.version.index, numbers, &|| {
                Item::Config(config.only(|number| numbers.contains(&number)))
            }),
            Self::RegistryLogin(login) => {
                let version = login.version.index;
                let mark = Mark::RegistryLogin { version };
                let is_news = before != Some(&mark);
                let item = || Item::RegistryLogin(RegistryLogin::clone(login));
                (mark, is_news.then(|| encode(&item()).into()))
            }
            Self::Task(task) => {
                let version = task.version.index;
                match before {
                    Some(mark @ Mark::Task { version: known, .. }) if *known == version => {
                        return (mark.clone(), None);
                    }
                    _ => (),
                }
                let value = encode(&Item::Task(Box::new(as_assigned(task))));
                let digest = digest(&value);
                let is_same =
                    matches!(before, Some(Mark::Task { digest: known, .. }) if *known == digest);
                let mark = Mark::Task { version, digest };
                (mark, (!is_same).then(|| value.into()))
            }
        }
    }
}

fn whole(value: &Bytes, before: Option<&Mark>) -> (Mark, Option<Bytes>) {
    let is_same = matches!(before, Some(Mark::Whole(known))
        if (known.as_ptr(), known.len()) == (value.as_ptr(), value.len()) || known == value);
    let mark = Mark::Whole(value.clone());
    (mark, (!is_same).then(|| value.clone()))
}

fn digest(bytes: &[u8]) -> u64 {
    let mut digest = DefaultHasher::new();
    bytes.hash(&mut digest);
    digest.finish()
}

impl Told {
    /// What `node` must be told now, a complete set first; nothing when it knows everything.
    pub fn next(&mut self, shared: &Shared, node: &NodeId) -> Option<Assignments> {
        let is_first = self.items.is_none();
        let mut before = self.items.take().unwrap_or_default();
        let mut items = BTreeMap::new();
        let mut put = Vec::new();
        for source in shared.sources(node) {
            let key = source.key();
            let (mark, value) = source.compare(before.remove(&key).as_ref());
            if let Some(value) = value {
                put.push(AssignmentItem {
                    key: key.to_string(),
                    value,
                });
            }
            items.insert(key, mark);
        }
        self.items = Some(items);
        let remove: Vec<String> = before.into_keys().map(|key| key.to_string()).collect();
        let is_news = is_first || !put.is_empty() || !remove.is_empty();
        is_news.then(|| Assignments {
            version: shared.version(),
            complete: is_first,
            put,
            remove,
        })
    }
}

impl Shared {
    /// Everything that `node` is assigned, each key once.
    fn sources<'a>(&'a self, node: &'a NodeId) -> Vec<Source<'a>> {
        let mut sources = Vec::new();
        let Some(found) = self.snapshot.node(node) else {
            return sources;
        };
        sources.push(Source::Local(Part::new(&Item::Local(self.local(found)))));
        let mut numbers = BTreeMap::new();
        let mut registries = BTreeSet::new();
        for task in self
            .snapshot
            .tasks_on_node(node)
            .filter(|task| is_assigned(task))
        {
            sources.push(Source::Task(task));
            // A task that has ended, or is to end, gets no secret.
            if task.is_live() {
                add_payloads(&mut numbers, task);
                registries.insert(host_of(task.spec.image()));
            }
        }
        sources.extend(self.payloads(numbers));
        let logins = registries
            .into_iter()
            .filter(|_| found.description.takes_registry_logins)
            .filter_map(|host| self.snapshot.by_name::<RegistryLogin>(&host));
        sources.extend(logins.map(Source::RegistryLogin));
        let networks = self.networks_of(node);
        for network in &networks {
            sources.extend(self.on_network(network).map(Source::Part));
        }
        sources.extend(self.peers_of(node, &networks).into_iter().map(Source::Part));
        sources
    }

    fn payloads(&self, numbers: BTreeMap<PayloadId, Numbers>) -> impl Iterator<Item = Source<'_>> {
        numbers
            .into_iter()
            .filter_map(|(object, numbers)| match object {
                PayloadId::Secret(id) => Some(Source::Secret(self.snapshot.secret(&id)?, numbers)),
                PayloadId::Config(id) => Some(Source::Config(self.snapshot.config(&id)?, numbers)),
            })
    }
}

/// The versions of payloads that a task is to see: an agent gets no others.
fn add_payloads(numbers: &mut BTreeMap<PayloadId, Numbers>, task: &Task) {
    for one in task
        .spec
        .container()
        .into_iter()
        .flat_map(|it| it.payloads())
    {
        let wanted = task.version_wanted(one.object.as_str(), one.pin);
        numbers.entry(one.object).or_default().insert(wanted);
    }
}
