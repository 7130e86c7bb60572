//! The session with a manager: says what this node is and how its tasks fare, hears what it
//! should run. Any manager will do, and a lost one is replaced by the next.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use skep_model::NodeId;
use skep_model::disconnect::OnDisconnect;
use skep_model::node::NodeDescription;
use skep_proto::connect::Connector;
use skep_proto::v1::dispatcher_client::DispatcherClient;
use skep_proto::v1::{
    AgentMessage, Applied, Assignments, Heartbeat, Hello, ManagerPeer, StatusBatch,
    TaskStatusReport, agent_message, manager_message,
};
use skep_proto::{MESSAGE_BYTES_MAX, encode};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tracing::{debug, info, warn};

use crate::assigned::Assigned;
use crate::exec::Execs;
use crate::logs::Subscriptions;
use crate::peers::Answers;
use crate::usage::Meter;
use crate::worker::Worker;

/// Messages to the manager that may wait.
const OUTGOING: usize = 64;
/// Statuses in one message.
const STATUSES_PER_BATCH_MAX: usize = 1024;
/// Pause before the next manager is tried, doubled with each failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Managers are tried in vain so often before other addresses of their nodes are tried as well.
const ROUNDS: usize = 3;
/// A manager that neither welcomes nor assigns for this long is given up.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);

/// What the node must act on.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentEvent {
    /// The certificate is to be renewed: the node's role or the cluster's root has changed.
    Renew,
    /// The cluster's roots to trust from now on, PEM.
    Roots(String),
    /// The node was removed from the cluster.
    Removed,
    /// The managers as of now.
    Managers(Vec<ManagerPeer>),
}

/// What a session needs.
pub struct Session {
    pub node: NodeId,
    pub connector: Arc<Connector>,
    /// `address:port` of managers, the one to prefer first.
    pub managers: watch::Receiver<Vec<String>>,
    pub description: watch::Receiver<NodeDescription>,
    pub worker: Arc<Worker>,
    pub events: mpsc::Sender<AgentEvent>,
}

enum Ended {
    /// Try the next manager.
    Lost(Status),
    /// The node was removed: no manager will talk to it again.
    Removed,
}

/// Whom to try next. Pure.
#[derive(Debug, Default)]
struct Tries {
    turn: usize,
    /// Since the last session that lasted.
    in_vain: usize,
}

impl Tries {
    /// The managers in turn; once that was in vain for a while, one of the `others` after each round,
    /// which may take its time to fail.
    fn next<'a>(&mut self, managers: &'a [String], others: &'a [String]) -> Option<String> {
        let count = managers.len().max(1);
        let patient = self.in_vain.checked_sub(count * ROUNDS);
        self.in_vain += 1;
        let other = patient.filter(|late| late % (count + 1) == 0);
        if let Some(late) = other.filter(|_| !others.is_empty()) {
            return others.get(late / (count + 1) % others.len()).cloned();
        }
        let next = managers.get(self.turn % count).cloned();
        self.turn = self.turn.wrapping_add(1);
        next
    }
}

/// The other addresses of nodes that managers are on: one may have moved to it.
fn elsewhere(managers: &[String], assigned: &Assigned) -> Vec<String> {
    let known: Vec<SocketAddr> = managers
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect();
    let mut others = Vec::new();
    for peer in assigned.peers.values() {
        let ips = || peer.addresses.iter().chain(&peer.address).copied();
        let manager = known.iter().find(|known| ips().any(|ip| ip == known.ip()));
        let Some(manager) = manager else { continue };
        others.extend(ips().map(|ip| SocketAddr::new(ip, manager.port())));
    }
    others.sort();
    others.dedup();
    others.retain(|address| !known.contains(address));
    others.iter().map(SocketAddr::to_string).collect()
}

impl Session {
    /// Keeps a session with some manager until the node is removed or the future is dropped.
    pub async fn run(mut self) {
        let (mut tries, mut pause) = (Tries::default(), RETRY.0);
        loop {
            let managers = self.managers.borrow().clone();
            let others = elsewhere(&managers, &self.worker.assigned());
            if let Some(address) = tries.next(&managers, &others) {
                let began = tokio::time::Instant::now();
                let ended = self.hold(&address).await;
                self.worker.set_manager(None);
                match ended {
                    Ended::Removed => {
                        let _ = self.events.send(AgentEvent::Removed).await;
                        return;
                    }
                    Ended::Lost(status) => {
                        debug!(manager = address, %status, "session ended");
                    }
                }
                // A session that lasted proves the manager is good; begin anew without delay.
                if began.elapsed() > WELCOME_TIMEOUT {
                    pause = RETRY.0;
                    tries.in_vain = 0;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY.1),
                _ = self.managers.changed() => (),
            }
        }
    }

    async fn hold(&mut self, address: &str) -> Ended {
        let (out, outgoing) = mpsc::channel(OUTGOING);
        let description = self.description.borrow_and_update().clone();
        let hello = agent_message::Content::Hello(Hello {
            description: encode(&description),
        });
        if out.send(message(hello)).await.is_err() {
            return Ended::Lost(Status::internal("the outgoing queue is closed"));
        }
        let channel = self.connector.channel(address);
        let mut client = DispatcherClient::new(channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let opening = client.session(ReceiverStream::new(outgoing));
        let mut incoming = match tokio::time::timeout(WELCOME_TIMEOUT, opening).await {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => return ended(status),
            Err(_) => return Ended::Lost(Status::deadline_exceeded("no answer to the session")),
        };
        let mut logs = Subscriptions::new(Arc::clone(&self.worker), out.clone());
        let execs = Execs::new(Arc::clone(&self.worker), channel.clone());
        let meter = Meter::new(Arc::clone(&self.worker), out.clone());
        let answers = Answers::new(Arc::clone(&self.worker), out.clone());
        // Until the welcome names the period, beat often enough for any.
        let mut beat = tokio::time::interval(Duration::from_secs(1));
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // A manager that leads a different life now must hear everything again.
        let mut complete = false;
        let mut followed = self.worker.followed();
        let deadline = tokio::time::sleep(WELCOME_TIMEOUT);
        tokio::pin!(deadline);
        loop {
            let content = tokio::select! {
                received = incoming.message() => match received {
                    Ok(Some(received)) => received.content,
                    Ok(None) => return Ended::Lost(Status::unavailable("the manager ended the session")),
                    Err(status) => return ended(status),
                },
                _ = beat.tick() => {
                    if !self.beat(&out) {
                        return Ended::Lost(Status::unavailable("the manager takes no messages"));
                    }
                    continue;
                }
                () = self.worker.leases.wanted.notified(), if complete => {
                    if !self.beat(&out) {
                        return Ended::Lost(Status::unavailable("the manager takes no messages"));
                    }
                    continue;
                }
                Ok(()) = followed.changed(), if complete => {
                    let version = *followed.borrow_and_update();
                    let applied = agent_message::Content::Applied(Applied { version });
                    if out.send(message(applied)).await.is_err() {
                        return Ended::Lost(Status::unavailable("the manager takes no messages"));
                    }
                    continue;
                }
                () = self.worker.statuses.changed(), if complete => {
                    if !self.send_statuses(&out).await {
                        return Ended::Lost(Status::unavailable("the manager takes no messages"));
                    }
                    continue;
                }
                Ok(()) = self.description.changed() => {
                    let bytes = encode(&*self.description.borrow_and_update());
                    let _ = out.send(message(agent_message::Content::Description(bytes))).await;
                    continue;
                }
                () = &mut deadline, if !complete => {
                    return Ended::Lost(Status::deadline_exceeded("no assignments came"));
                }
            };
            match content {
                Some(manager_message::Content::Welcome(welcome)) => {
                    info!(
                        manager = address,
                        session = welcome.session_id,
                        "session opened"
                    );
                    let period = Duration::from_millis(u64::from(welcome.heartbeat_ms.max(100)));
                    beat = tokio::time::interval(period);
                    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                }
                Some(manager_message::Content::Assignments(change)) => {
                    if let Err(status) = self.take(&change, complete).await {
                        return Ended::Lost(status);
                    }
                    if !complete {
                        complete = true;
                        self.worker.set_manager(Some(channel.clone()));
                        self.worker.statuses.send_all_again();
                    }
                }
                Some(manager_message::Content::Managers(managers)) => {
                    let _ = self
                        .events
                        .send(AgentEvent::Managers(managers.managers))
                        .await;
                }
                Some(manager_message::Content::LogSubscribe(wanted)) => logs.open(wanted),
                Some(manager_message::Content::LogCancel(cancel)) => {
                    logs.close(cancel.subscription)
                }
                Some(manager_message::Content::Confirmed(heartbeat)) => {
                    let sent = Duration::from_nanos(heartbeat.sent);
                    self.worker.leases.confirm(sent);
                }
                Some(manager_message::Content::ExecStart(wanted)) => execs.start(wanted),
                Some(manager_message::Content::Locate(asked)) => answers.answer(asked),
                Some(manager_message::Content::Renew(_)) => {
                    let _ = self.events.send(AgentEvent::Renew).await;
                }
                Some(manager_message::Content::Roots(roots)) => {
                    let _ = self.events.send(AgentEvent::Roots(roots.pem)).await;
                }
                Some(manager_message::Content::Measure(wanted)) => meter.want(wanted.services),
                Some(manager_message::Content::Removed(_)) => return Ended::Removed,
                // A newer manager may say things that this agent does not know.
                None => (),
            }
        }
    }

    /// Says that the node lives. False when the manager does not listen any more.
    fn beat(&self, out: &mpsc::Sender<AgentMessage>) -> bool {
        let assigned = self.worker.assigned();
        let has_leases = assigned
            .tasks
            .values()
            .any(|task| OnDisconnect::of(&task.labels).stop_after.is_some());
        let sent = match has_leases {
            true => u64::try_from(skep_engine::since_boot().as_nanos()).unwrap_or(0),
            false => 0,
        };
        let beat = agent_message::Content::Heartbeat(Heartbeat { sent });
        out.try_send(message(beat)).is_ok()
    }

    async fn take(&self, change: &Assignments, had_complete: bool) -> Result<(), Status> {
        if !had_complete && !change.complete {
            return Err(Status::failed_precondition(
                "a session begins with a complete set",
            ));
        }
        let next = self.worker.assigned().apply(change).map_err(|error| {
            warn!(%error, "assignments were not taken");
            Status::failed_precondition(error.to_string())
        })?;
        self.worker.assign(Arc::new(next)).await;
        Ok(())
    }

    /// Sends what was not sent yet. False when the manager does not listen any more.
    async fn send_statuses(&self, out: &mpsc::Sender<AgentMessage>) -> bool {
        loop {
            let batch = self.worker.statuses.take(STATUSES_PER_BATCH_MAX);
            if batch.is_empty() {
                return true;
            }
            let statuses = batch
                .iter()
                .map(|(task, status)| TaskStatusReport {
                    node_id: self.node.to_string(),
                    task_id: task.to_string(),
                    status: encode(status),
                })
                .collect();
            let content = agent_message::Content::Statuses(StatusBatch { statuses });
            if out.send(message(content)).await.is_err() {
                return false;
            }
        }
    }
}

pub(crate) fn message(content: agent_message::Content) -> AgentMessage {
    AgentMessage {
        content: Some(content),
    }
}

fn ended(status: Status) -> Ended {
    // `NotFound` is what a manager says to a node that was removed.
    if status.code() == Code::NotFound {
        Ended::Removed
    } else {
        Ended::Lost(status)
    }
}

#[cfg(test)]
mod tests {
    use skep_proto::assignment::Peer;

    use super::*;

    fn texts(all: &[&str]) -> Vec<String> {
        all.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn managers_are_tried_in_turn_and_other_addresses_late() {
        let (managers, others) = (texts(&["a", "b"]), texts(&["x", "y"]));
        let mut tries = Tries::default();
        let mut tried = |count: usize, others: &[String]| -> String {
            (0..count)
                .filter_map(|_| tries.next(&managers, others))
                .collect()
        };
        assert_eq!(tried(6, &others), "ababab");
        assert_eq!(tried(9, &others), "xabyabxab");
        assert_eq!(tried(3, &[]), "aba");
        tries.in_vain = 0;
        assert_eq!(tries.next(&managers, &others).as_deref(), Some("b"));
        assert_eq!(Tries::default().next(&[], &[]), None);
    }

    #[test]
    fn a_manager_may_be_at_any_address_of_its_node() {
        let peer = |node: &str, address: &str, addresses: &[&str]| Peer {
            node: node.into(),
            index: 1,
            vtep: None,
            ingress_addresses: Vec::new(),
            address: address.parse().ok(),
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            keys: Vec::new(),
        };
        let mut assigned = Assigned::default();
        for peer in [
            peer(
                "manager",
                "192.0.2.1",
                &["192.0.2.1", "192.0.2.9", "fd00::1"],
            ),
            peer("worker", "192.0.2.2", &["192.0.2.2", "192.0.2.8"]),
        ] {
            assigned.peers.insert(peer.node.clone(), Arc::new(peer));
        }
        let managers = texts(&["192.0.2.1:2377", "somewhere:2377"]);
        assert_eq!(
            elsewhere(&managers, &assigned),
            ["192.0.2.9:2377", "[fd00::1]:2377"]
        );
    }
}
