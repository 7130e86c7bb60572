//! Applying commits: dumb, and the same on every manager.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_model::{Kind, TaskState, Version, state::Actor};

use crate::commit::{Change, Commit, TaskPatch, fill};
use crate::record::{Key, Object, Record};
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::watch::{Hub, Watch};

/// What became of one object.
#[derive(Debug, Clone, PartialEq)]
pub enum Delta {
    Created(Object),
    Updated { old: Object, new: Object },
    Removed(Object),
}

impl Delta {
    /// The key of the object it is about.
    pub fn key(&self) -> Key {
        match self {
            Self::Created(object) | Self::Updated { new: object, .. } | Self::Removed(object) => {
                object.key()
            }
        }
    }

    /// The object before the change.
    pub fn before(&self) -> Option<&Object> {
        match self {
            Self::Created(_) => None,
            Self::Updated { old, .. } | Self::Removed(old) => Some(old),
        }
    }

    /// The object after the change.
    pub fn after(&self) -> Option<&Object> {
        match self {
            Self::Created(new) | Self::Updated { new, .. } => Some(new),
            Self::Removed(_) => None,
        }
    }
}

/// One change, as watchers see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The log index of the commit it came with.
    pub version: Version,
    pub change: Delta,
}

/// What a commit did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Applied {
    pub version: Version,
    /// In order. An object may occur several times; dropped reports do not occur.
    pub events: Vec<Event>,
}

/// Why a commit was not applied. Nothing was changed; look at the state again and decide anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    #[error("{key} has version {found}, not {expected}")]
    Version { key: Key, expected: u64, found: u64 },
    #[error("name conflicts with an existing object: {kind} {name} already exists")]
    Name { kind: &'static str, name: String },
    #[error("{key} is in use by {user}")]
    InUse { key: Key, user: String },
    #[error("{key} does not exist")]
    Missing { key: Key },
    #[error("{key} changed its state meanwhile")]
    State { key: Key },
    #[error("{key} may not go from {from} to {to}")]
    Law {
        key: Key,
        from: TaskState,
        to: TaskState,
    },
}

impl Conflict {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Version { .. } | Self::State { .. } => Kind::OutOfSequence,
            Self::Name { .. } => Kind::Conflict,
            Self::InUse { .. } => Kind::FailedPrecondition,
            Self::Missing { .. } => Kind::NotFound,
            Self::Law { .. } => Kind::Internal,
        }
    }
}

/// Why a dump could not be read back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    #[error("a dump holds whole objects only")]
    NotAPut,
    #[error("name conflicts with an existing object: {kind} {name} already exists")]
    Name { kind: &'static str, name: String },
}

/// The replicated state on this manager. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Store {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    snapshot: Snapshot,
    hub: Hub,
}

impl Store {
    pub fn new() -> Self {
        Self::default()
    }

    /// The state now.
    pub fn snapshot(&self) -> Snapshot {
        self.lock().snapshot.clone()
    }

    /// Applies the commit that the log holds at `index`; all of it or nothing.
    ///
    /// Deterministic: every manager that applies the same log gets the same state and the same
    /// refusals.
    pub fn apply(&self, index: u64, commit: &Commit) -> Result<Applied, Conflict> {
        let mut inner = self.lock();
        let (state, events) = next(&inner.snapshot, Version::at(index), commit)?;
        inner.snapshot = Snapshot {
            state: Arc::new(state),
        };
        for event in &events {
            inner.hub.send(event);
        }
        inner.hub.wake();
        Ok(Applied {
            version: Version::at(index),
            events,
        })
    }

    /// The state now, and every change after it. A watcher that leaves more than `capacity`
    /// events unread is told [`crate::TooSlow`] and has to begin anew.
    pub fn watch(&self, capacity: usize) -> (Snapshot, Watch) {
        let mut inner = self.lock();
        let watch = inner.hub.subscribe(capacity);
        (inner.snapshot.clone(), watch)
    }

    /// Replaces the whole state by a dump. Every watcher is told that it was too slow.
    pub fn restore(
        &self,
        version: Version,
        changes: impl IntoIterator<Item = Change>,
    ) -> Result<(), RestoreError> {
        let mut state = State {
            version,
            ..State::default()
        };
        for change in changes {
            let Change::Put(object) = change else {
                return Err(RestoreError::NotAPut);
            };
            if let Some(kind) = name_taken(&state, &object) {
                return Err(RestoreError::Name {
                    kind,
                    name: object.name().unwrap_or_default().to_owned(),
                });
            }
            put(&mut state, object);
        }
        let mut inner = self.lock();
        inner.snapshot = Snapshot {
            state: Arc::new(state),
        };
        inner.hub.cut();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here is left half done: the state is replaced by one assignment.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state after `commit`.
pub(crate) fn next(
    before: &Snapshot,
    version: Version,
    commit: &Commit,
) -> Result<(State, Vec<Event>), Conflict> {
    for (key, expected) in &commit.expected {
        let found = before.version_of(key);
        if found != *expected {
            return Err(Conflict::Version {
                key: key.clone(),
                expected: expected.index,
                found: found.index,
            });
        }
    }
    let mut state = State::clone(&before.state);
    state.version = version;
    let mut events = Vec::with_capacity(commit.changes.len());
    for change in &commit.changes {
        if let Some(change) = apply_one(&mut state, version, change)? {
            events.push(Event { version, change });
        }
    }
    check_removed_are_unused(&state, commit)?;
    Ok((state, events))
}

fn apply_one(
    state: &mut State,
    version: Version,
    change: &Change,
) -> Result<Option<Delta>, Conflict> {
    match change {
        Change::Put(object) => {
            if let Some(kind) = name_taken(state, object) {
                let name = object.name().unwrap_or_default().to_owned();
                return Err(Conflict::Name { kind, name });
            }
            let object = at_version(object, version);
            if let Object::Task(task) = &object
                && let Some(old) = state.tasks.by_id.get(&task.id)
            {
                check_law(old, task)?;
            }
            let new = object.clone();
            Ok(Some(match put(state, object) {
                None => Delta::Created(new),
                Some(old) => Delta::Updated { old, new },
            }))
        }
        Change::Make(task) => {
            let key = || Key::Service(task.service_id.clone());
            let service = state.services.by_id.get(&task.service_id).cloned();
            let service = service.ok_or_else(|| Conflict::Missing { key: key() })?;
            let mut task = skep_model::Task::clone(task);
            fill(&mut task, &service);
            task.version = version;
            let task = Arc::new(task);
            match state.put(task.clone()) {
                None => Ok(Some(Delta::Created(Object::Task(task)))),
                Some(_) => Err(Conflict::State {
                    key: Key::Task(task.id.clone()),
                }),
            }
        }
        Change::Remove(key) => match remove(state, key) {
            None => Err(Conflict::Missing { key: key.clone() }),
            Some(old) => Ok(Some(Delta::Removed(old))),
        },
        Change::Patch(patch) => patch_task(state, version, patch).map(Some),
        Change::Report { task, node, status } => {
            let Some(old) = state.tasks.by_id.get(task).cloned() else {
                return Ok(None);
            };
            let from = old.status.state;
            let moves = from.may_become(status.state, Actor::Agent);
            // A later word on the same state: a new message, a container id, a health result.
            let refines = from == status.state && !from.is_terminal();
            if old.node_id != *node || !(moves || refines) || old.status == **status {
                return Ok(None);
            }
            let mut new = skep_model::Task::clone(&old);
            new.status.clone_from(status);
            if status.state == TaskState::Running && new.running_since.is_zero() {
                new.running_since = status.applied_at;
            }
            new.updated_at = status.applied_at;
            new.version = version;
            let new = Arc::new(new);
            state.put(new.clone());
            Ok(Some(Delta::Updated {
                old: Object::Task(old),
                new: Object::Task(new),
            }))
        }
    }
}

fn patch_task(state: &mut State, version: Version, patch: &TaskPatch) -> Result<Delta, Conflict> {
    let key = || Key::Task(patch.id.clone());
    let Some(old) = state.tasks.by_id.get(&patch.id).cloned() else {
        return Err(Conflict::Missing { key: key() });
    };
    let stale = patch.status_was.is_some_and(|was| was != old.status.state)
        || patch
            .desired_was
            .is_some_and(|was| was != old.desired_state);
    if stale {
        return Err(Conflict::State { key: key() });
    }
    let mut new = skep_model::Task::clone(&old);
    patch.write(&mut new);
    new.version = version;
    check_law(&old, &new)?;
    let new = Arc::new(new);
    state.put(new.clone());
    Ok(Delta::Updated {
        old: Object::Task(old),
        new: Object::Task(new),
    })
}

/// Whether somebody may make this move: who it was is checked when the commit is made.
fn check_law(old: &skep_model::Task, new: &skep_model::Task) -> Result<(), Conflict> {
    const ACTORS: [Actor; 5] = [
        Actor::Allocator,
        Actor::Scheduler,
        Actor::Agent,
        Actor::Enforcer,
        Actor::NodeMonitor,
    ];
    let refuse = |from, to| {
        Err(Conflict::Law {
            key: Key::Task(old.id.clone()),
            from,
            to,
        })
    };
    let (from, to) = (old.status.state, new.status.state);
    // One commit may carry a task through several states, so any chain of moves will do.
    let reachable = from == to
        || (from < to
            && (ACTORS.iter().any(|by| from.may_become(to, *by))
                || (from < TaskState::Assigned && !matches!(to, TaskState::Remove))));
    if !reachable {
        return refuse(from, to);
    }
    if new.desired_state < old.desired_state {
        return refuse(old.desired_state, new.desired_state);
    }
    Ok(())
}

fn check_removed_are_unused(state: &State, commit: &Commit) -> Result<(), Conflict> {
    let shared = |key: &Key| matches!(key, Key::Network(_) | Key::Secret(_) | Key::Config(_));
    let mut removed = commit
        .changes
        .iter()
        .filter_map(|change| match change {
            Change::Remove(key) if shared(key) => Some(key),
            _ => None,
        })
        .peekable();
    if removed.peek().is_none() {
        return Ok(());
    }
    let after = Snapshot {
        state: Arc::new(state.clone()),
    };
    let name = |service: &Arc<skep_model::Service>| format!("service {}", service.spec.name);
    for key in removed {
        let user = match key {
            Key::Network(id) => {
                let guest = after.attachments_on_network(id).next();
                let guest = guest.map(|place| format!("container {}", place.container.name));
                let service = after.services_on_network(id).next();
                service.map(name).or(guest)
            }
            Key::Secret(id) => after.services_with_secret(id).next().map(name),
            Key::Config(id) => after.services_with_config(id).next().map(name),
            Key::Cluster(_)
            | Key::Node(_)
            | Key::Service(_)
            | Key::Task(_)
            | Key::Stack(_)
            | Key::Attachment(_)
            | Key::RegistryLogin(_) => None,
        };
        if let Some(user) = user
            && after.version_of(key) == Version::default()
        {
            return Err(Conflict::InUse {
                key: key.clone(),
                user,
            });
        }
    }
    Ok(())
}

fn name_taken(state: &State, object: &Object) -> Option<&'static str> {
    fn taken<R: Record>(state: &State, record: &R) -> Option<&'static str> {
        state.name_holder(record).map(|_| R::KIND)
    }
    match object {
        Object::Service(record) => taken(state, &**record),
        Object::Network(record) => taken(state, &**record),
        Object::Secret(record) => taken(state, &**record),
        Object::Config(record) => taken(state, &**record),
        Object::Stack(record) => taken(state, &**record),
        Object::Attachment(record) => taken(state, &**record),
        Object::RegistryLogin(record) => taken(state, &**record),
        Object::Cluster(_) | Object::Node(_) | Object::Task(_) => None,
    }
}

fn at_version(object: &Object, version: Version) -> Object {
    fn stamped<R: Record>(record: &R, version: Version) -> Arc<R> {
        let mut record = record.clone();
        record.set_version(version);
        Arc::new(record)
    }
    match object {
        Object::Cluster(record) => Object::Cluster(stamped(&**record, version)),
        Object::Node(record) => Object::Node(stamped(&**record, version)),
        Object::Service(record) => Object::Service(stamped(&**record, version)),
        Object::Task(record) => Object::Task(stamped(&**record, version)),
        Object::Network(record) => Object::Network(stamped(&**record, version)),
        Object::Secret(record) => Object::Secret(stamped(&**record, version)),
        Object::Config(record) => Object::Config(stamped(&**record, version)),
        Object::Stack(record) => Object::Stack(stamped(&**record, version)),
        Object::Attachment(record) => Object::Attachment(stamped(&**record, version)),
        Object::RegistryLogin(record) => Object::RegistryLogin(stamped(&**record, version)),
    }
}

fn put(state: &mut State, object: Object) -> Option<Object> {
    match object {
        Object::Cluster(record) => state.put(record).map(Object::Cluster),
        Object::Node(record) => state.put(record).map(Object::Node),
        Object::Service(record) => state.put(record).map(Object::Service),
        Object::Task(record) => state.put(record).map(Object::Task),
        Object::Network(record) => state.put(record).map(Object::Network),
        Object::Secret(record) => state.put(record).map(Object::Secret),
        Object::Config(record) => state.put(record).map(Object::Config),
        Object::Stack(record) => state.put(record).map(Object::Stack),
        Object::Attachment(record) => state.put(record).map(Object::Attachment),
        Object::RegistryLogin(record) => state.put(record).map(Object::RegistryLogin),
    }
}

fn remove(state: &mut State, key: &Key) -> Option<Object> {
    match key {
        Key::Cluster(id) => state.remove(id).map(Object::Cluster),
        Key::Node(id) => state.remove(id).map(Object::Node),
        Key::Service(id) => state.remove(id).map(Object::Service),
        Key::Task(id) => state.remove(id).map(Object::Task),
        Key::Network(id) => state.remove(id).map(Object::Network),
        Key::Secret(id) => state.remove(id).map(Object::Secret),
        Key::Config(id) => state.remove(id).map(Object::Config),
        Key::Stack(id) => state.remove(id).map(Object::Stack),
        Key::Attachment(id) => state.remove(id).map(Object::Attachment),
        Key::RegistryLogin(id) => state.remove(id).map(Object::RegistryLogin),
    }
}
