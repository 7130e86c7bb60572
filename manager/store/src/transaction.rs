//! Changing: an overlay over a snapshot that ends as a [`Commit`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;

use skep_model::{
    ControlError, Kind, Task, TaskId, TaskState, TaskStatus, Timestamp, Version, state::Actor,
};

use crate::commit::{Change, Commit, TaskPatch, strip};
use crate::record::{Key, Object, Record};
use crate::snapshot::Snapshot;

/// Why a write was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    #[error("name conflicts with an existing object: {kind} {name} already exists")]
    Name { kind: &'static str, name: String },
    #[error("{kind} {id} not found")]
    NotFound { kind: &'static str, id: String },
    #[error("{by:?} may not move task {task} from {from} to {to}")]
    Law {
        task: TaskId,
        from: TaskState,
        to: TaskState,
        by: Actor,
    },
    #[error("desired state of task {task} may not go from {from} back to {to}")]
    Desired {
        task: TaskId,
        from: TaskState,
        to: TaskState,
    },
}

impl TransactionError {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Name { .. } => Kind::Conflict,
            Self::NotFound { .. } => Kind::NotFound,
            Self::Law { .. } | Self::Desired { .. } => Kind::Internal,
        }
    }
}

impl From<TransactionError> for ControlError {
    fn from(error: TransactionError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

/// Changes to be. Reading from it ([`Snapshot`]'s methods) sees its own writes.
#[derive(Debug, Clone)]
pub struct Transaction {
    base: Snapshot,
    view: Snapshot,
    now: Timestamp,
    /// What was written, and the order of first writing.
    touched: BTreeMap<Key, usize>,
    /// What was relied on without being written.
    relied: BTreeMap<Key, Version>,
}

impl Deref for Transaction {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.view
    }
}

impl Transaction {
    /// Starts from `base`; `now` becomes the time of what is written.
    pub fn new(base: &Snapshot, now: Timestamp) -> Self {
        Self {
            base: base.clone(),
            view: base.clone(),
            now,
            touched: BTreeMap::new(),
            relied: BTreeMap::new(),
        }
    }

    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The state the transaction started from.
    pub fn base(&self) -> &Snapshot {
        &self.base
    }

    /// The state with the writes so far.
    pub fn view(&self) -> &Snapshot {
        &self.view
    }

    /// How many objects were written so far.
    pub fn len(&self) -> usize {
        self.touched.len()
    }

    /// Whether this object was written.
    pub fn is_touched(&self, key: &Key) -> bool {
        self.touched.contains_key(key)
    }

    pub fn is_empty(&self) -> bool {
        self.touched.is_empty()
    }

    /// Creates or replaces an object. Its version and times are set here: the caller's do not
    /// matter. Writing what is already there writes nothing.
    ///
    /// Tasks: a new one may start in any state; an existing one keeps its observed state (see
    /// [`Transaction::move_task`]) and its desired state may only grow.
    pub fn put<R: Record>(&mut self, mut record: R) -> Result<(), TransactionError> {
        let key = R::key(record.id());
        let old = self.view.get::<R>(record.id()).cloned();
        if let Some(old) = &old {
            record.stamp(old.version(), old.created_at(), old.updated_at());
            if **old == record {
                return Ok(());
            }
        }
        if self.view.state.name_holder(&record).is_some() {
            return Err(TransactionError::Name {
                kind: R::KIND,
                name: record.name().unwrap_or_default().to_owned(),
            });
        }
        let version = old.as_ref().map_or(Version::default(), |old| old.version());
        let created_at = old.as_ref().map_or(self.now, |old| old.created_at());
        record.stamp(version, created_at, self.now);
        let record = Arc::new(record);
        if let (Object::Task(new), Some(Object::Task(old))) =
            (R::wrap(record.clone()), old.map(R::wrap))
        {
            if new.status.state != old.status.state {
                return Err(law(&old, new.status.state, Actor::Scheduler));
            }
            check_desired(&old, new.desired_state)?;
        }
        self.touch(key);
        Arc::make_mut(&mut self.view.state).put(record);
        Ok(())
    }

    /// Changes a task through `change`, on behalf of `by`. Refused when `by` may not make the
    /// move of the observed state, or the desired state would shrink.
    pub fn update_task(
        &mut self,
        id: &TaskId,
        by: Actor,
        change: impl FnOnce(&mut Task),
    ) -> Result<(), TransactionError> {
        let Some(old) = self.view.task(id).cloned() else {
            return Err(TransactionError::NotFound {
                kind: "task",
                id: id.to_string(),
            });
        };
        let mut new = Task::clone(&old);
        change(&mut new);
        if new == *old {
            return Ok(());
        }
        let (from, to) = (old.status.state, new.status.state);
        if from != to && !from.may_become(to, by) {
            return Err(law(&old, to, by));
        }
        check_desired(&old, new.desired_state)?;
        new.stamp(old.version, old.created_at, self.now);
        self.touch(Key::Task(id.clone()));
        Arc::make_mut(&mut self.view.state).put(Arc::new(new));
        Ok(())
    }

    /// Gives a task a new observed status.
    pub fn move_task(
        &mut self,
        id: &TaskId,
        by: Actor,
        status: TaskStatus,
    ) -> Result<(), TransactionError> {
        self.update_task(id, by, |task| task.status = status)
    }

    /// Raises a task's desired state; asking for a lower one than it has changes nothing.
    pub fn raise_desired(
        &mut self,
        id: &TaskId,
        desired: TaskState,
    ) -> Result<(), TransactionError> {
        let now = self.now;
        self.update_task(id, Actor::Scheduler, |task| {
            if desired > task.desired_state {
                task.desired_state = desired;
                if desired > TaskState::Running && task.draining_since.is_zero() {
                    task.draining_since = now;
                }
            }
        })
    }

    /// Removes an object.
    pub fn remove<R: Record>(&mut self, id: &R::Id) -> Result<Arc<R>, TransactionError> {
        if self.view.get::<R>(id).is_none() {
            return Err(TransactionError::NotFound {
                kind: R::KIND,
                id: id.to_string(),
            });
        }
        self.touch(R::key(id));
        Ok(Arc::make_mut(&mut self.view.state)
            .remove(id)
            .expect("just looked at"))
    }

    /// Makes the commit depend on this object staying as it is, although it is not written.
    pub fn rely_on(&mut self, key: Key) {
        let version = self.base.version_of(&key);
        self.relied.insert(key, version);
    }

    /// The changes, or nothing when everything is as it was.
    pub fn commit(mut self) -> Option<Commit> {
        let touched = std::mem::take(&mut self.touched);
        let mut touched: Vec<(Key, usize)> = touched.into_iter().collect();
        touched.sort_by_key(|(_, order)| *order);
        let mut commit = Commit::default();
        // A name may move from a removed object to a new one: removals go first. New tasks take
        // from their service what is left out of them: services come before tasks.
        let mut puts = Vec::new();
        touched.sort_by_key(|(key, _)| matches!(key, Key::Task(_)));
        for (key, _) in touched {
            let (old, new) = (self.base.object(&key), self.view.object(&key));
            let version = old.as_ref().map_or(Version::default(), Object::version);
            match (old, new) {
                (None, None) => continue,
                (Some(old), Some(new)) if old == new => continue,
                (Some(Object::Task(old)), Some(Object::Task(new))) => {
                    match TaskPatch::between(&old, &new) {
                        Some(patch) => puts.push(Change::Patch(Box::new(patch))),
                        None => {
                            commit.expected.push((key, version));
                            puts.push(Change::Put(Object::Task(new)));
                        }
                    }
                }
                (Some(_), None) => {
                    commit.expected.push((key.clone(), version));
                    commit.changes.push(Change::Remove(key));
                }
                (None, Some(Object::Task(task))) => {
                    commit.expected.push((key, version));
                    let service = self.view.service(&task.service_id);
                    match service.and_then(|service| strip(&task, service)) {
                        Some(stripped) => {
                            // What is left out must be the same when it is filled in again.
                            let service = Key::Service(task.service_id.clone());
                            let version = self.base.version_of(&service);
                            self.relied.insert(service, version);
                            puts.push(Change::Make(Box::new(stripped)));
                        }
                        None => puts.push(Change::Put(Object::Task(task))),
                    }
                }
                (_, Some(new)) => {
                    commit.expected.push((key, version));
                    puts.push(Change::Put(new));
                }
            }
        }
        commit.changes.append(&mut puts);
        if commit.changes.is_empty() {
            return None;
        }
        let known: BTreeSet<Key> = commit.expected.iter().map(|(key, _)| key.clone()).collect();
        let relied = self.relied.into_iter();
        commit
            .expected
            .extend(relied.filter(|(key, _)| !known.contains(key)));
        Some(commit)
    }

    fn touch(&mut self, key: Key) {
        let order = self.touched.len();
        self.touched.entry(key).or_insert(order);
    }
}

fn law(task: &Task, to: TaskState, by: Actor) -> TransactionError {
    TransactionError::Law {
        task: task.id.clone(),
        from: task.status.state,
        to,
        by,
    }
}

fn check_desired(old: &Task, to: TaskState) -> Result<(), TransactionError> {
    if to < old.desired_state {
        return Err(TransactionError::Desired {
            task: old.id.clone(),
            from: old.desired_state,
            to,
        });
    }
    Ok(())
}
