//! Holds sessions with agents: tells them what to run, hears how it goes.

use std::sync::Arc;
use std::time::Duration;

use skep_model::{NodeId, NodeRole, Timestamp};
use skep_pki::Peer;
use skep_proto::v1::dispatcher_server::Dispatcher;
use skep_proto::v1::{
    AdmitReply, AdmitRequest, AgentMessage, ClaimReply, ClaimRequest, ControlPayload, ControlReply,
    Empty, ExecFrame, Heard, LocateReply, LocateRequest, ManagerMessage, ManagerPeer, Managers,
    Measure, Roots, SecretAnswer, SecretQuestion, Welcome, agent_message, manager_message,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info};

use crate::assignments::Told;
use crate::caller::require;
use crate::manager::Core;
use crate::rpc::{attach, exec, images, secrets};
use crate::sessions::Calls;

/// The first message must come within this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a node may be unknown before it is sent elsewhere.
const KNOWN_WITHIN: Duration = Duration::from_secs(1);
/// A manager without a leader for this long sends its agents elsewhere.
const LEADERLESS_MAX: Duration = Duration::from_secs(6);
/// An agent that says nothing for so many heartbeat periods is gone.
const SILENT_PERIODS_MAX: u32 = 5;
/// Messages that may wait for a slow agent.
const OUTGOING: usize = 16;

pub struct DispatcherService(pub Arc<Core>);

#[tonic::async_trait]
impl Dispatcher for DispatcherService {
    type SessionStream = ReceiverStream<Result<ManagerMessage, Status>>;
    type ExecStream = exec::Frames;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let verified = require(&request, &self.0)?;
        let address = verified
            .address
            .map(|address| address.ip().to_string())
            .unwrap_or_default();
        let (out, outgoing) = mpsc::channel(OUTGOING);
        let session = Session {
            core: Arc::clone(&self.0),
            peer: verified.peer,
            address,
            out,
            told: Told::default(),
            managers: Vec::new(),
            word: Word::default(),
            network: Network::default(),
        };
        tokio::spawn(session.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn attach(
        &self,
        request: Request<ControlPayload>,
    ) -> Result<Response<ControlReply>, Status> {
        let node = require(&request, &self.0)?.peer.node;
        let payload = request.into_inner().payload;
        Ok(Response::new(
            attach::answer(&self.0, &node, &payload).await,
        ))
    }

    async fn exec(
        &self,
        request: Request<Streaming<ExecFrame>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let node = require(&request, &self.0)?.peer.node;
        exec::attend(&self.0, &node, request.into_inner()).await
    }

    async fn locate(
        &self,
        request: Request<LocateRequest>,
    ) -> Result<Response<LocateReply>, Status> {
        let node = require(&request, &self.0)?.peer.node;
        let mut holders = images::locate_anywhere(&self.0, request.into_inner()).await;
        holders.retain(|holder| holder.node_id != node.as_str());
        Ok(Response::new(LocateReply { holders }))
    }

    async fn admit(&self, request: Request<AdmitRequest>) -> Result<Response<AdmitReply>, Status> {
        require(&request, &self.0)?;
        let reply = images::admit(&self.0, &request.into_inner().node_id);
        Ok(Response::new(reply))
    }

    async fn claim(&self, request: Request<ClaimRequest>) -> Result<Response<ClaimReply>, Status> {
        let node = require(&request, &self.0)?.peer.node;
        let claim = ClaimRequest {
            node_id: node.to_string(),
            ..request.into_inner()
        };
        images::claim(&self.0, claim).await.map(Response::new)
    }

    async fn fetch_secret(
        &self,
        request: Request<SecretQuestion>,
    ) -> Result<Response<SecretAnswer>, Status> {
        let caller = require(&request, &self.0)?;
        let answer = secrets::answer(&self.0, caller, request.into_inner()).await?;
        Ok(Response::new(answer))
    }
}

struct Session {
    core: Arc<Core>,
    peer: Peer,
    address: String,
    out: mpsc::Sender<Result<ManagerMessage, Status>>,
    told: Told,
    managers: Vec<ManagerPeer>,
    word: Word,
    network: Network,
}

/// What the agent was told last beside its assignments.
#[derive(Default)]
struct Word {
    /// The role for which a new certificate was asked.
    role: Option<NodeRole>,
    /// The order for a certificate of another issuer that was passed on.
    renewal: Option<Timestamp>,
    /// The roots to trust.
    roots: String,
    /// The services whose tasks are to be measured.
    measured: Arc<[String]>,
}

/// How far the node's packets and names follow the state.
#[derive(Default)]
struct Network {
    /// The version up to which the agent was told everything.
    told: u64,
    /// The version of the last difference sent to it.
    sent: u64,
    /// The version that it has put into effect.
    applied: u64,
    /// The versions that somebody waits for all nodes to follow, in order.
    awaited: Arc<[u64]>,
    /// What the leader was told last.
    reported: u64,
}

impl Network {
    /// What the leader must be told now: only what somebody waits for.
    fn news(&mut self) -> Option<u64> {
        // An agent with nothing left to do follows everything that was no news to it.
        let followed = if self.applied >= self.sent {
            self.told
        } else {
            self.applied
        };
        let reached = self.awaited.iter().rfind(|at| **at <= followed);
        reached.filter(|at| self.reported < **at)?;
        self.reported = followed;
        Some(followed)
    }
}

impl Session {
    async fn run(mut self, incoming: Streaming<AgentMessage>) {
        if let Err(status) = self.hold(incoming).await {
            debug!(node = %self.peer.node, %status, "session ended");
            let _ = self.out.send(Err(status)).await;
        }
    }

    async fn hold(&mut self, mut incoming: Streaming<AgentMessage>) -> Result<(), Status> {
        let hello = tokio::time::timeout(HELLO_TIMEOUT, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello came"))??;
        let Some(agent_message::Content::Hello(hello)) = hello.and_then(|message| message.content)
        else {
            return Err(Status::invalid_argument("a session begins with a hello"));
        };
        self.await_membership().await?;
        let node = self.peer.node.clone();
        let mut calls = self.core.sessions.open(&node);
        info!(%node, address = self.address, "session opened");
        self.hear(hello.description, false);
        let held = self.serve(&mut incoming, &mut calls).await;
        self.core.sessions.close(&node, calls.session);
        held
    }

    async fn serve(
        &mut self,
        incoming: &mut Streaming<AgentMessage>,
        calls: &mut Calls,
    ) -> Result<(), Status> {
        let period = self.heartbeat();
        let heartbeat_ms = u32::try_from(period.as_millis()).unwrap_or(u32::MAX);
        self.tell(manager_message::Content::Welcome(Welcome {
            session_id: calls.session.to_string(),
            heartbeat_ms,
        }))
        .await?;
        let mut leadership = self.core.consensus.leadership();
        let mut leaderless_since: Option<Instant> = None;
        let mut heard_at = Instant::now();
        self.check_duty()?;
        // Not older than what another manager may have told the agent just now.
        self.core.sessions.follow(&self.core);
        self.tell_changes().await?;
        // One for all rounds: an agent's signs of life come as often.
        let mut members_at = interval_at(Instant::now() + period, period);
        members_at.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = Instant::now();
            leaderless_since = match leadership.borrow().leader {
                Some(_) => None,
                None => leaderless_since.or(Some(now)),
            };
            if leaderless_since.is_some_and(|since| now - since > LEADERLESS_MAX) {
                return Err(Status::unavailable("this manager has lost its leader"));
            }
            if now - heard_at > period * SILENT_PERIODS_MAX {
                return Err(Status::unavailable("the agent is silent"));
            }
            tokio::select! {
                message = incoming.message() => match message? {
                    Some(message) => {
                        heard_at = Instant::now();
                        if !self.take(message) {
                            return Ok(());
                        }
                    }
                    None => return Ok(()),
                },
                () = calls.look.notified() => {
                    self.check_duty()?;
                    self.tell_changes().await?;
                }
                other = calls.others.recv() => match other {
                    Some(content) => self.tell(content).await?,
                    None => return Err(Status::aborted("a newer session of this node took over")),
                },
                _ = leadership.changed() => {
                    // A new leader has heard nothing yet.
                    self.network.reported = 0;
                    self.report_network();
                }
                // The log's members are no part of the state: nothing is applied when they change.
                _ = members_at.tick() => {
                    self.tell_managers().await?;
                    self.tell_measured().await?;
                }
                () = self.out.closed() => return Ok(()),
            }
        }
    }

    /// A manager that is to be a worker soon loses its vote and hears nothing any more: its agents,
    /// the one on its own node first of all, must not be declared down for that.
    fn check_duty(&self) -> Result<(), Status> {
        let snapshot = self.core.machine.store().snapshot();
        let own = snapshot.node(&self.core.node);
        if own.is_some_and(|own| own.spec.role == NodeRole::Worker) {
            return Err(Status::unavailable("this manager is to be a worker"));
        }
        Ok(())
    }

    /// Waits for a while to know the node: it may have been taken in a moment ago.
    async fn await_membership(&self) -> Result<(), Status> {
        let mut applied = self.core.machine.applied();
        let deadline = Instant::now() + KNOWN_WITHIN;
        loop {
            applied.mark_unchanged();
            match self.check_membership() {
                Err(status) if status.code() == tonic::Code::Unavailable => {
                    let changed = tokio::time::timeout_at(deadline, applied.changed()).await;
                    if !matches!(changed, Ok(Ok(()))) {
                        return Err(status);
                    }
                }
                known => return known,
            }
        }
    }

    /// Refuses a node only on evidence: a replica that lags may not know a new node yet.
    fn check_membership(&self) -> Result<(), Status> {
        let snapshot = self.core.machine.store().snapshot();
        let removed = snapshot
            .cluster()
            .is_some_and(|cluster| cluster.removed_nodes.contains_key(&self.peer.node));
        if removed {
            return Err(Status::not_found("the node was removed from the cluster"));
        }
        // One without a number cannot be told who it is.
        let is_known = |node: &Arc<skep_model::Node>| node.index != 0;
        if !snapshot.node(&self.peer.node).is_some_and(is_known) {
            return Err(Status::unavailable(
                "this manager does not know the node yet",
            ));
        }
        Ok(())
    }

    fn heartbeat(&self) -> Duration {
        let snapshot = self.core.machine.store().snapshot();
        let period = snapshot
            .cluster()
            .map(|cluster| cluster.spec.dispatcher.heartbeat_period.duration());
        crate::leader::heartbeat(period)
    }

    /// Takes one message. False ends the session.
    fn take(&mut self, message: AgentMessage) -> bool {
        match message.content {
            Some(agent_message::Content::Heartbeat(beat)) => self.hear_beat(beat.sent),
            Some(agent_message::Content::Description(description)) => self.hear(description, false),
            Some(agent_message::Content::Statuses(batch)) => {
                // A node speaks for its own tasks only.
                let own = self.peer.node.as_str();
                let statuses = batch
                    .statuses
                    .into_iter()
                    .filter(|status| status.node_id == own)
                    .collect();
                self.core.sessions.reported(statuses);
            }
            Some(agent_message::Content::Usages(said)) => {
                let snapshot = self.core.machine.store().snapshot();
                let node = &self.peer.node;
                self.core.sessions.used(&snapshot, node, said.usages);
            }
            Some(agent_message::Content::Logs(lines)) => self.core.sessions.deliver_logs(lines),
            Some(agent_message::Content::Located(located)) => {
                self.core.sessions.located(&self.peer.node, located);
            }
            Some(agent_message::Content::Goodbye(_)) => {
                self.hear(Vec::new(), true);
                return false;
            }
            Some(agent_message::Content::Applied(applied)) => {
                self.network.applied = applied.version;
                self.report_network();
            }
            Some(agent_message::Content::Hello(_)) | None => {}
        }
        true
    }

    fn hear_beat(&self, sent: u64) {
        self.core.sessions.heard(Heard {
            node_id: self.peer.node.to_string(),
            address: self.address.clone(),
            sent,
            ..Default::default()
        });
    }

    fn hear(&self, description: Vec<u8>, gone: bool) {
        self.core.sessions.heard(Heard {
            node_id: self.peer.node.to_string(),
            address: self.address.clone(),
            description,
            gone,
            ..Default::default()
        });
    }

    /// Tells the leader how far this node follows, when somebody waits for that.
    fn report_network(&mut self) {
        if let Some(network_version) = self.network.news() {
            self.core.sessions.heard(Heard {
                node_id: self.peer.node.to_string(),
                address: self.address.clone(),
                network_version,
                ..Default::default()
            });
        }
    }

    async fn tell(&self, content: manager_message::Content) -> Result<(), Status> {
        let message = ManagerMessage {
            content: Some(content),
        };
        self.out
            .send(Ok(message))
            .await
            .map_err(|_| Status::cancelled("the agent has gone"))
    }

    /// Tells everything that is news to the agent.
    async fn tell_changes(&mut self) -> Result<(), Status> {
        let common = self.core.sessions.common(&self.core);
        let node: NodeId = self.peer.node.clone();
        if !common.is_member(&node) {
            self.tell(manager_message::Content::Removed(Empty {}))
                .await?;
            return Err(Status::not_found("the node was removed from the cluster"));
        }
        self.tell_managers().await?;
        self.tell_roots(common.trusted_roots()).await?;
        let wanted = common.role_wanted(&node, self.peer.role);
        let renewal = common.renewal_due(&node);
        let role_changes =
            wanted.is_some_and(|role| role != self.peer.role) && self.word.role != wanted;
        let issuer_changes = renewal.is_some() && self.word.renewal != renewal;
        if role_changes || issuer_changes {
            (self.word.role, self.word.renewal) = (wanted, renewal);
            self.tell(manager_message::Content::Renew(Empty {})).await?;
        }
        let change = self.told.next(&common, &node);
        self.network.told = common.version();
        self.network.awaited = Arc::clone(common.awaited());
        match change {
            Some(change) => {
                self.network.sent = change.version;
                self.tell(manager_message::Content::Assignments(change))
                    .await
            }
            None => {
                self.report_network();
                Ok(())
            }
        }
    }

    /// Tells the agent which roots to trust, with each session and each change.
    async fn tell_roots(&mut self, roots: String) -> Result<(), Status> {
        if roots.is_empty() || roots == self.word.roots {
            return Ok(());
        }
        self.word.roots.clone_from(&roots);
        self.tell(manager_message::Content::Roots(Roots { pem: roots }))
            .await
    }

    /// Tells the agent what to measure, when that is other than before.
    async fn tell_measured(&mut self) -> Result<(), Status> {
        let services = self.core.sessions.measured(&self.core);
        if services == self.word.measured {
            return Ok(());
        }
        self.word.measured = Arc::clone(&services);
        self.tell(manager_message::Content::Measure(Measure {
            services: services.to_vec(),
        }))
        .await
    }

    async fn tell_managers(&mut self) -> Result<(), Status> {
        let managers = self.managers_now();
        if managers == self.managers {
            return Ok(());
        }
        self.managers.clone_from(&managers);
        self.tell(manager_message::Content::Managers(Managers { managers }))
            .await
    }

    fn managers_now(&self) -> Vec<ManagerPeer> {
        let members = self.core.consensus.members();
        members
            .into_iter()
            .filter(|part| part.part == skep_consensus::Part::Voter)
            .map(|part| ManagerPeer {
                node_id: part.member.node,
                address: part.member.address,
                raft_id: part.member.id,
            })
            .collect()
    }
}
