//! The agents whose sessions end on this manager, and what was heard from them.

mod execs;
mod located;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use skep_model::NodeId;
use skep_proto::v1::{
    Heard, Heartbeat, LogCancel, LogLines, LogSubscribe, TaskStatusReport, TaskUsage,
    manager_message,
};
use skep_store::Snapshot;
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::warn;

use crate::assignments::{Affected, Shared};
use crate::manager::Core;
use crate::rpc::exec::Ends;
use crate::usage::is_own;

/// Messages that may wait for one agent, beside its assignments.
const OUTGOING: usize = 64;
/// Log batches that may wait for one reader.
const LOG_BATCHES: usize = 1024;

/// Measurements that wait at most. They are fetched twice a second.
const USAGES_MAX: usize = 20_000;
/// Services that are to be measured are looked up this often at most.
const MEASURED_EVERY: Duration = Duration::from_secs(1);
/// Statuses that are handed on at a time: one commit has to carry them.
const STATUSES_MAX: usize = 2000;
/// Bytes of descriptions that are handed on at a time, for the same reason: after a change of the
/// root, or when its manager is back, every node describes itself at once.
const DESCRIPTIONS_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of one description; a node has a few thousand to say of itself.
const DESCRIPTION_BYTES_MAX: usize = 512 * 1024;

/// What was heard and not yet handed to the leader: the latest of each node and task. What has to
/// be written down is kept apart from signs of life, which must not wait for that.
#[derive(Default)]
struct Outbox {
    signs: BTreeMap<String, Heard>,
    descriptions: BTreeMap<String, Heard>,
    statuses: BTreeMap<String, TaskStatusReport>,
    usages: BTreeMap<String, TaskUsage>,
}

/// What the leader writes down.
#[derive(Default)]
pub struct Words {
    pub descriptions: Vec<Heard>,
    pub statuses: Vec<TaskStatusReport>,
}

/// The sessions of this manager.
#[derive(Default)]
pub struct Sessions {
    open: Mutex<HashMap<NodeId, Handle>>,
    outbox: Mutex<Outbox>,
    /// There are signs of life that somebody waits for.
    pub signs_came: Notify,
    /// There is something to be written down.
    pub words_came: Notify,
    logs: Mutex<HashMap<u64, mpsc::Sender<LogLines>>>,
    /// Processes that agents were told to start and whose streams they did not bring yet.
    execs: Mutex<HashMap<u64, (NodeId, oneshot::Sender<Ends>)>>,
    /// Questions about images that agents are asked, and where the answers go.
    questions: Mutex<HashMap<u64, located::Answers>>,
    next: AtomicU64,
    /// What the sessions have in common.
    common: ArcSwapOption<Shared>,
    /// Held while that is made.
    making: Mutex<()>,
    /// Services whose tasks are to be measured, in order, and when they were looked up.
    measured: Mutex<Option<(Instant, Arc<[String]>)>>,
}

struct Handle {
    session: u64,
    out: mpsc::Sender<manager_message::Content>,
    /// Its assignments may be others now.
    look: Arc<Notify>,
}

/// One session's end of what is said to all.
pub struct Calls {
    pub session: u64,
    /// What else the agent must be told. Ends when a newer session of the same node takes over.
    pub others: mpsc::Receiver<manager_message::Content>,
    /// The node's assignments may be others now.
    pub look: Arc<Notify>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sessions {
    /// Registers a session.
    pub fn open(&self, node: &NodeId) -> Calls {
        let (out, others) = mpsc::channel(OUTGOING);
        let session = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let look = Arc::new(Notify::new());
        let handle = Handle {
            session,
            out,
            look: Arc::clone(&look),
        };
        lock(&self.open).insert(node.clone(), handle);
        Calls {
            session,
            others,
            look,
        }
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

    /// Notes a sign of life, and what the node says of itself.
    pub fn heard(&self, mut heard: Heard) {
        let mut description = std::mem::take(&mut heard.description);
        if description.len() > DESCRIPTION_BYTES_MAX {
            let (node, bytes) = (&heard.node_id, description.len());
            warn!(
                node,
                bytes, "a node's description is too big and was dropped"
            );
            description.clear();
        }
        let mut outbox = lock(&self.outbox);
        let is_word = !description.is_empty();
        let is_awaited = heard.gone || heard.network_version > 0;
        if is_word {
            let word = Heard {
                node_id: heard.node_id.clone(),
                address: heard.address.clone(),
                description,
                ..Heard::default()
            };
            outbox.descriptions.insert(heard.node_id.clone(), word);
        }
        let known = outbox.signs.entry(heard.node_id.clone()).or_default();
        *known = Heard {
            gone: heard.gone || known.gone,
            network_version: heard.network_version.max(known.network_version),
            sent: heard.sent.max(known.sent),
            ..heard
        };
        drop(outbox);
        // That a node goes on living is told soon enough anyway.
        if is_word || is_awaited {
            self.signs_came.notify_one();
        }
        if is_word {
            self.words_came.notify_one();
        }
    }

    /// Notes what a node said of its tasks.
    pub fn reported(&self, statuses: Vec<TaskStatusReport>) {
        let mut outbox = lock(&self.outbox);
        for status in statuses {
            outbox.statuses.insert(status.task_id.clone(), status);
        }
        drop(outbox);
        self.words_came.notify_one();
    }

    /// Notes what a node said its tasks use: only of tasks that are known to be its own.
    pub fn used(&self, snapshot: &Snapshot, node: &NodeId, mut usages: Vec<TaskUsage>) {
        usages.retain(|usage| is_own(snapshot, node, usage));
        let mut outbox = lock(&self.outbox);
        for mut usage in usages {
            let is_known = outbox.usages.contains_key(&usage.task_id);
            if outbox.usages.len() >= USAGES_MAX && !is_known {
                continue;
            }
            usage.node_id = node.to_string();
            outbox.usages.insert(usage.task_id.clone(), usage);
        }
    }

    /// Takes the measurements to hand them on.
    pub fn take_usages(&self) -> Vec<TaskUsage> {
        let usages = std::mem::take(&mut lock(&self.outbox).usages);
        usages.into_values().collect()
    }

    /// The services whose tasks agents are to measure.
    pub fn measured(&self, core: &Core) -> Arc<[String]> {
        let mut measured = lock(&self.measured);
        if let Some((at, services)) = &*measured
            && at.elapsed() < MEASURED_EVERY
        {
            return Arc::clone(services);
        }
        let snapshot = core.machine.store().snapshot();
        let scaled = snapshot.services().filter(|one| one.spec.is_autoscaled());
        let mut services: Vec<String> = scaled.map(|one| one.id.to_string()).collect();
        services.sort();
        let services: Arc<[String]> = services.into();
        *measured = Some((Instant::now(), Arc::clone(&services)));
        services
    }

    /// Takes the signs of life to hand them on.
    pub fn take_signs(&self) -> Vec<Heard> {
        let signs = std::mem::take(&mut lock(&self.outbox).signs);
        signs.into_values().collect()
    }

    /// Puts back signs that could not be handed on, under anything newer. Signs of life are worth
    /// something only when they are fresh; farewells and what a node follows stay true.
    pub fn return_signs(&self, old: Vec<Heard>) {
        let mut outbox = lock(&self.outbox);
        for heard in old {
            if heard.gone || heard.network_version > 0 {
                let known = outbox.signs.entry(heard.node_id.clone());
                let known = known.or_insert_with(|| Heard {
                    // What is to be confirmed is said again.
                    sent: 0,
                    ..heard.clone()
                });
                known.network_version = known.network_version.max(heard.network_version);
            }
        }
        drop(outbox);
        self.signs_came.notify_one();
    }

    /// Takes what is to be written down, as much as one commit carries.
    pub fn take_words(&self) -> Words {
        let mut outbox = lock(&self.outbox);
        let (mut descriptions, mut bytes) = (Vec::new(), 0);
        while let Some(first) = outbox.descriptions.first_entry() {
            bytes += first.get().description.len();
            if bytes > DESCRIPTIONS_BYTES_MAX {
                self.words_came.notify_one();
                break;
            }
            descriptions.push(first.remove());
        }
        let mut statuses = std::mem::take(&mut outbox.statuses);
        if let Some(first) = statuses.keys().nth(STATUSES_MAX).cloned() {
            outbox.statuses = statuses.split_off(&first);
            self.words_came.notify_one();
        }
        Words {
            descriptions,
            statuses: statuses.into_values().collect(),
        }
    }

    /// Puts back what could not be written down, under anything newer.
    pub fn return_words(&self, old: Words) {
        let mut outbox = lock(&self.outbox);
        for heard in old.descriptions {
            let place = outbox.descriptions.entry(heard.node_id.clone());
            place.or_insert(heard);
        }
        for status in old.statuses {
            let place = outbox.statuses.entry(status.task_id.clone());
            place.or_insert(status);
        }
        drop(outbox);
        self.words_came.notify_one();
    }

    /// The common parts of assignments as of the last round.
    pub fn common(&self, core: &Core) -> Arc<Shared> {
        match self.common.load_full() {
            Some(made) => made,
            None => self.follow(core).0,
        }
    }

    /// The common parts of assignments as of now, and how many sessions were called because theirs
    /// may be others than before.
    pub fn follow(&self, core: &Core) -> (Arc<Shared>, usize) {
        let _turn = lock(&self.making);
        let made = self.common.load_full();
        let snapshot = core.machine.store().snapshot();
        let (next, affected) = match made {
            Some(made) if made.version() == snapshot.version().index => return (made, 0),
            Some(made) => made.follow(snapshot),
            None => Shared::default().follow(snapshot),
        };
        let next = Arc::new(next);
        self.common.store(Some(Arc::clone(&next)));
        (next, self.call(&affected))
    }

    fn call(&self, affected: &Affected) -> usize {
        let open = lock(&self.open);
        let concerned = |(node, handle): (&NodeId, &Handle)| {
            let is_concerned = affected.contains(node);
            if is_concerned {
                handle.look.notify_one();
            }
            is_concerned
        };
        match affected.nodes() {
            Some(nodes) if nodes.len() < open.len() => {
                let found = nodes.iter().filter_map(|node| open.get_key_value(node));
                found.filter(|found| concerned(*found)).count()
            }
            Some(_) | None => open.iter().filter(|found| concerned(*found)).count(),
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

    /// Tells an agent that whoever leads has heard its heartbeat sent then.
    pub fn confirm(&self, node: &NodeId, sent: u64) {
        if let Some(handle) = lock(&self.open).get(node) {
            let heartbeat = Heartbeat { sent };
            // One that is lost is made up for by the next.
            let _ = handle
                .out
                .try_send(manager_message::Content::Confirmed(heartbeat));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn described(node: &str, bytes: usize) -> Heard {
        Heard {
            node_id: node.to_owned(),
            description: vec![b'x'; bytes],
            ..Heard::default()
        }
    }

    #[test]
    fn descriptions_of_all_nodes_at_once_go_in_parts_that_a_commit_carries() {
        let sessions = Sessions::default();
        for at in 0..3000 {
            sessions.heard(described(&format!("n{at}"), 4000));
        }
        let mut nodes = std::collections::BTreeSet::new();
        loop {
            let words = sessions.take_words();
            let bytes = words.descriptions.iter().map(|one| one.description.len());
            assert!(bytes.sum::<usize>() <= DESCRIPTIONS_BYTES_MAX);
            if words.descriptions.is_empty() {
                break;
            }
            nodes.extend(words.descriptions.into_iter().map(|one| one.node_id));
        }
        assert_eq!(nodes.len(), 3000);
    }

    #[test]
    fn a_description_that_no_commit_carries_holds_up_nobody() {
        let sessions = Sessions::default();
        sessions.heard(described("a", DESCRIPTION_BYTES_MAX + 1));
        sessions.heard(described("b", DESCRIPTION_BYTES_MAX));
        let words = sessions.take_words().descriptions;
        let nodes: Vec<&str> = words.iter().map(|one| one.node_id.as_str()).collect();
        assert_eq!(nodes, ["b"]);
        assert_eq!(sessions.take_signs().len(), 2, "both live");
    }
}
