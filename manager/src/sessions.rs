//! The agents whose sessions end on this manager, and what was heard from them.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_model::NodeId;
use skep_proto::v1::{Heard, LogCancel, LogLines, LogSubscribe, TaskStatusReport, manager_message};
use tokio::sync::{Notify, mpsc};

use crate::assignments::Shared;
use crate::manager::Core;

/// Messages that may wait for one agent, beside its assignments.
const OUTGOING: usize = 64;
/// Log batches that may wait for one reader.
const LOG_BATCHES: usize = 1024;

/// What was heard and not yet handed to the leader: the latest of each node and task.
#[derive(Default)]
pub struct Outbox {
    pub heard: BTreeMap<String, Heard>,
    pub statuses: BTreeMap<String, TaskStatusReport>,
}

/// The sessions of this manager.
#[derive(Default)]
pub struct Sessions {
    open: Mutex<HashMap<NodeId, Handle>>,
    outbox: Mutex<Outbox>,
    /// Something is in the outbox.
    pub outbox_filled: Notify,
    logs: Mutex<HashMap<u64, mpsc::Sender<LogLines>>>,
    next: AtomicU64,
    common: Mutex<Option<Arc<Shared>>>,
}

struct Handle {
    session: u64,
    out: mpsc::Sender<manager_message::Content>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sessions {
    /// Registers a session. The receiver yields what else the agent must be told; it ends when
    /// a newer session of the same node takes over.
    pub fn open(&self, node: &NodeId) -> (u64, mpsc::Receiver<manager_message::Content>) {
        let (out, receiver) = mpsc::channel(OUTGOING);
        let session = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        lock(&self.open).insert(node.clone(), Handle { session, out });
        (session, receiver)
    }

    /// Forgets a session, unless a newer one has taken its place.
    pub fn close(&self, node: &NodeId, session: u64) {
        let mut open = lock(&self.open);
        if open
            .get(node)
            .is_some_and(|handle| handle.session == session)
        {
            open.remove(node);
        }
    }

    /// Notes a sign of life.
    pub fn heard(&self, heard: Heard) {
        let mut outbox = lock(&self.outbox);
        let entry = outbox.heard.entry(heard.node_id.clone()).or_default();
        let description = if heard.description.is_empty() {
            std::mem::take(&mut entry.description)
        } else {
            heard.description
        };
        *entry = Heard {
            description,
            gone: heard.gone || entry.gone,
            network_version: heard.network_version.max(entry.network_version),
            ..heard
        };
        drop(outbox);
        self.outbox_filled.notify_one();
    }

    /// Notes what a node said of its tasks.
    pub fn reported(&self, statuses: Vec<TaskStatusReport>) {
        let mut outbox = lock(&self.outbox);
        for status in statuses {
            outbox.statuses.insert(status.task_id.clone(), status);
        }
        drop(outbox);
        self.outbox_filled.notify_one();
    }

    /// Takes the outbox to hand it on.
    pub fn take_outbox(&self) -> Outbox {
        std::mem::take(&mut *lock(&self.outbox))
    }

    /// Puts back what could not be handed on, under anything newer.
    pub fn return_outbox(&self, old: Outbox) {
        let mut outbox = lock(&self.outbox);
        for (key, heard) in old.heard {
            let entry = outbox.heard.entry(key).or_insert_with(|| heard.clone());
            if entry.description.is_empty() {
                entry.description = heard.description;
            }
            entry.network_version = entry.network_version.max(heard.network_version);
        }
        for (key, status) in old.statuses {
            outbox.statuses.entry(key).or_insert(status);
        }
    }

    /// The common parts of assignments as of now, made once per version.
    pub fn common(&self, core: &Core) -> Arc<Shared> {
        let snapshot = core.machine.store().snapshot();
        let mut common = lock(&self.common);
        match &*common {
            Some(made) if made.version() == snapshot.version().index => Arc::clone(made),
            Some(_) | None => {
                let made = Arc::new(Shared::new(snapshot));
                *common = Some(Arc::clone(&made));
                made
            }
        }
    }

    /// Asks a node for log lines. `None` when its session does not end here.
    pub fn subscribe_logs(
        &self,
        node: &NodeId,
        tasks: Vec<String>,
        options: Vec<u8>,
    ) -> Option<LogSubscription<'_>> {
        let out = lock(&self.open).get(node)?.out.clone();
        let subscription = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, lines) = mpsc::channel(LOG_BATCHES);
        lock(&self.logs).insert(subscription, sender);
        let message = LogSubscribe {
            subscription,
            tasks,
            options,
        };
        if out
            .try_send(manager_message::Content::LogSubscribe(message))
            .is_err()
        {
            lock(&self.logs).remove(&subscription);
            return None;
        }
        Some(LogSubscription {
            sessions: self,
            subscription,
            out,
            lines,
        })
    }

    /// Hands log lines to whoever asked. A reader that falls behind by a whole queue is cut off,
    /// which it notices, rather than holding up the agent's heartbeats.
    pub fn deliver_logs(&self, lines: LogLines) {
        let mut logs = lock(&self.logs);
        let subscription = lines.subscription;
        if logs
            .get(&subscription)
            .is_some_and(|reader| reader.try_send(lines).is_err())
        {
            logs.remove(&subscription);
        }
    }
}

/// One open log subscription; dropping it ends it.
pub struct LogSubscription<'a> {
    sessions: &'a Sessions,
    subscription: u64,
    out: mpsc::Sender<manager_message::Content>,
    lines: mpsc::Receiver<LogLines>,
}

impl LogSubscription<'_> {
    /// The next lines; `None` when the session is gone.
    pub async fn next(&mut self) -> Option<LogLines> {
        tokio::select! {
            lines = self.lines.recv() => lines,
            () = self.out.closed() => None,
        }
    }
}

impl Drop for LogSubscription<'_> {
    fn drop(&mut self) {
        lock(&self.sessions.logs).remove(&self.subscription);
        let cancel = LogCancel {
            subscription: self.subscription,
        };
        let _ = self
            .out
            .try_send(manager_message::Content::LogCancel(cancel));
    }
}
