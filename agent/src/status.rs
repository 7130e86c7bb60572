//! Statuses on their way to a manager: the latest of each task, until a manager has it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use skep_model::{TaskId, TaskStatus};
use tokio::sync::Notify;

/// Latest statuses, and which of them are still to be sent.
#[derive(Default)]
pub struct Statuses {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    latest: BTreeMap<TaskId, TaskStatus>,
    unsent: BTreeSet<TaskId>,
}

impl Statuses {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a task's newest status.
    pub fn put(&self, task: &TaskId, status: TaskStatus) {
        let mut inner = self.lock();
        inner.latest.insert(task.clone(), status);
        inner.unsent.insert(task.clone());
        drop(inner);
        self.changed.notify_one();
    }

    /// Forgets a task that is gone.
    pub fn forget(&self, task: &TaskId) {
        let mut inner = self.lock();
        inner.latest.remove(task);
        inner.unsent.remove(task);
    }

    /// A new session: the manager must hear everything again.
    pub fn send_all_again(&self) {
        let mut inner = self.lock();
        inner.unsent = inner.latest.keys().cloned().collect();
        drop(inner);
        self.changed.notify_one();
    }

    /// At most `max` statuses that no manager was sent yet.
    pub fn take(&self, max: usize) -> Vec<(TaskId, TaskStatus)> {
        let mut inner = self.lock();
        let ids: Vec<TaskId> = inner.unsent.iter().take(max).cloned().collect();
        ids.into_iter()
            .filter_map(|id| {
                inner.unsent.remove(&id);
                let status = inner.latest.get(&id)?.clone();
                Some((id, status))
            })
            .collect()
    }

    /// Resolves when there may be something to send.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}
