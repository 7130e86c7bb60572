//! Processes that agents are told to start, until they have brought their streams.

use std::sync::atomic::Ordering;

use skep_model::NodeId;
use skep_proto::v1::{ExecOpen, ExecStart, manager_message};
use tokio::sync::oneshot;

use super::{Sessions, lock};
use crate::rpc::exec::Ends;

impl Sessions {
    /// Whether a node's session ends here.
    pub fn holds(&self, node: &NodeId) -> bool {
        lock(&self.open).contains_key(node)
    }

    /// Tells an agent to start a process; `None` when its session does not end here, or it does not
    /// listen.
    pub fn start_exec(&self, node: &NodeId, open: ExecOpen) -> Option<ExecCall<'_>> {
        let out = lock(&self.open).get(node)?.out.clone();
        let exec = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, ends) = oneshot::channel();
        lock(&self.execs).insert(exec, (node.clone(), sender));
        let call = ExecCall {
            sessions: self,
            exec,
            ends,
        };
        let start = ExecStart {
            exec,
            open: Some(open),
        };
        out.try_send(manager_message::Content::ExecStart(start))
            .is_ok()
            .then_some(call)
    }

    /// Who waits for the streams of a process that this node was told to start.
    pub fn take_exec(&self, node: &NodeId, exec: u64) -> Option<oneshot::Sender<Ends>> {
        let mut execs = lock(&self.execs);
        let is_its_own = execs.get(&exec).is_some_and(|(told, _)| told == node);
        let (_, sender) = is_its_own.then(|| execs.remove(&exec)).flatten()?;
        Some(sender)
    }
}

/// A process that an agent was told to start; dropping it, nobody waits for its streams any more.
pub struct ExecCall<'a> {
    sessions: &'a Sessions,
    exec: u64,
    ends: oneshot::Receiver<Ends>,
}

impl ExecCall<'_> {
    /// The agent's end of it; `None` when there will be none.
    pub async fn answered(&mut self) -> Option<Ends> {
        (&mut self.ends).await.ok()
    }
}

impl Drop for ExecCall<'_> {
    fn drop(&mut self) {
        lock(&self.sessions.execs).remove(&self.exec);
    }
}
