//! Keeps the cluster's networks for the engine's own containers: asks managers for places, wires
//! them, and gives back what was left.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use skep_engine::types::NetworkInspect;
use skep_engine::{EngineError, Guest, GuestIdentity, SharedNetworks};
use skep_model::{
    AttachReply, AttachRequest, ControlError, GuestContainer, Kind, Network, NetworkId,
};
use skep_proto::v1::dispatcher_client::DispatcherClient;
use skep_proto::v1::{ControlPayload, control_reply};
use skep_proto::{decode, encode, status};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

use crate::network::guest::{self, Place};
use crate::worker::Worker;

/// How long a request waits for a session with some manager.
const MANAGER_WAIT: Duration = Duration::from_secs(5);
/// How long a manager may take for an answer.
const ANSWER_WAIT: Duration = Duration::from_secs(15);
/// How long this node may take to hear of a network it has a place on.
const ASSIGNMENT_WAIT: Duration = Duration::from_secs(8);
/// Requests that may wait.
const QUEUE: usize = 1024;
/// Places are compared with the managers' idea of them this often; a difference must be seen so
/// many times before anything is done about it, since what is under way looks like one.
const LOOK: (Duration, i32) = (Duration::from_secs(2), 3);
/// Looks that are left out after an attempt that failed.
const REST: i32 = 30;
/// How long a container's start waits for its turn and for the answer.
const ASK_WAIT: Duration = Duration::from_secs(45);

type Answer = Result<AttachReply, ControlError>;

/// A request in its turn: a place is given back before it is asked for again.
struct Ask {
    request: AttachRequest,
    answer: Option<oneshot::Sender<Answer>>,
}

/// What the engine is given.
pub struct Keeper {
    worker: Arc<Worker>,
    queue: mpsc::Sender<Ask>,
    runtime: Handle,
}

/// The requests of a [`Keeper`], to be carried out by [`keep`].
pub struct Requests(mpsc::Receiver<Ask>);

impl Keeper {
    /// A keeper for a worker, and its requests. Needs to be called on a runtime.
    pub fn new(worker: Arc<Worker>) -> (Self, Requests) {
        let (queue, requests) = mpsc::channel(QUEUE);
        let keeper = Self {
            worker,
            queue,
            runtime: Handle::current(),
        };
        (keeper, Requests(requests))
    }

    /// Has a request carried out in its turn.
    fn ask(&self, request: AttachRequest) -> Answer {
        let stopped = || ControlError::new(Kind::Unavailable, "this node is leaving its cluster");
        self.runtime.block_on(async {
            let (answer, heard) = oneshot::channel();
            let ask = Ask {
                request,
                answer: Some(answer),
            };
            let answered = async {
                self.queue.send(ask).await.map_err(|_| stopped())?;
                heard.await.map_err(|_| stopped())?
            };
            let late = || ControlError::new(Kind::Unavailable, "no manager answered in time");
            tokio::time::timeout(ASK_WAIT, answered)
                .await
                .unwrap_or_else(|_| Err(late()))
        })
    }
}

impl SharedNetworks for Keeper {
    fn find(&self, given: &str) -> Result<NetworkInspect, EngineError> {
        let request = AttachRequest::Find {
            network: given.to_owned(),
        };
        let found = self.runtime.block_on(call(&self.worker, &request));
        match found.map_err(|error| explained(given, error))? {
            AttachReply::Found(network) => Ok(shown(&network)),
            other => Err(unexpected(&other)),
        }
    }

    fn reserve(
        &self,
        network: &str,
        container: &GuestIdentity,
        addresses: &[IpAddr],
    ) -> Result<Vec<IpNet>, EngineError> {
        let request = AttachRequest::Attach {
            network: NetworkId::new(network),
            container: Box::new(described(container)),
            addresses: addresses.to_vec(),
        };
        match self
            .ask(request)
            .map_err(|error| explained(network, error))?
        {
            AttachReply::Attached(place) => Ok(crate::network::parse_all(&place.addresses)),
            other => Err(unexpected(&other)),
        }
    }

    fn wire(&self, guest: &Guest) -> Result<(), EngineError> {
        self.runtime.block_on(async {
            self.told_of(guest).await?;
            self.worker
                .wire(guest)
                .await
                .map_err(|error| EngineError::internal(error.chain()))
        })
    }

    fn release(&self, network: &str, container: &str) {
        let request = AttachRequest::Detach {
            network: NetworkId::new(network),
            container: container.to_owned(),
        };
        let ask = Ask {
            request,
            answer: None,
        };
        // Where the queue is full, the next look finds the place without its container.
        if self.queue.try_send(ask).is_err() {
            debug!(container, network, "a place is given back later");
        }
        self.worker.network_is_different();
    }
}

impl Keeper {
    /// Waits until this node knows all networks of a guest.
    async fn told_of(&self, guest: &Guest) -> Result<(), EngineError> {
        let mut assigned = self.worker.assignments();
        let wait = assigned.wait_for(|assigned| {
            let mut endpoints = guest.endpoints.iter();
            endpoints.all(|one| assigned.networks.contains_key(one.network.as_str()))
        });
        match tokio::time::timeout(ASSIGNMENT_WAIT, wait).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(EngineError::new(
                skep_engine::Kind::Unavailable,
                "no manager has told this node of the container's network in time",
            )),
        }
    }
}

/// Carries out requests one after the other, and looks after places that were left, for as long
/// as the node is a member.
pub async fn keep(worker: Arc<Worker>, mut requests: Requests) {
    let mut seen: BTreeMap<Place, i32> = BTreeMap::new();
    let mut look = tokio::time::interval(LOOK.0);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ask = requests.0.recv() => match ask {
                Some(ask) => {
                    if let AttachRequest::Attach { network, container, .. } = &ask.request {
                        seen.remove(&(network.clone(), container.id.clone()));
                    }
                    carry_out(&worker, ask).await;
                }
                None => return,
            },
            _ = look.tick() => tidy(&worker, &mut seen).await,
        }
    }
}

async fn carry_out(worker: &Worker, ask: Ask) {
    // What nobody waits for is found again by the next look.
    if ask.answer.is_none() && worker.manager().borrow().is_none() {
        return;
    }
    let outcome = call(worker, &ask.request).await;
    match ask.answer {
        Some(answer) => {
            // Whoever asked may have gone: the place is found without a container later.
            let _ = answer.send(outcome);
        }
        None => {
            if let Err(error) = outcome {
                debug!(%error, "a place is given back later");
            }
        }
    }
}

/// Sets right what has been wrong for a while.
async fn tidy(worker: &Worker, seen: &mut BTreeMap<Place, i32>) {
    if worker.manager().borrow().is_none() {
        return;
    }
    let mut drift = guest::drift(&worker.engine.places(), &worker.assigned());
    seen.retain(|place, _| drift.orphans.contains(place) || drift.missing.contains_key(place));
    let mut is_due = |place: &Place| {
        let times = seen.entry(place.clone()).or_default();
        *times += 1;
        *times >= LOOK.1
    };
    let orphans: Vec<Place> = drift
        .orphans
        .iter()
        .filter(|place| is_due(place))
        .cloned()
        .collect();
    drift.missing.retain(|place, _| is_due(place));
    for (network, container) in orphans {
        warn!(%network, container, "a place on a network has lost its container");
        let back = AttachRequest::Detach { network, container };
        if let Err(error) = call(worker, &back).await {
            debug!(%error, "a place is given back later");
            return;
        }
    }
    for ((network, id), (identity, addresses)) in drift.missing {
        let place = (network.clone(), id);
        let again = AttachRequest::Attach {
            network,
            container: Box::new(described(&identity)),
            addresses,
        };
        if let Err(error) = call(worker, &again).await {
            warn!(container = identity.name, %error, "a container has lost its place on a network");
            seen.insert(place, -REST);
            if error.kind == Kind::Unavailable {
                return;
            }
        }
    }
}

/// Asks the manager that this node has a session with.
async fn call(worker: &Worker, request: &AttachRequest) -> Answer {
    let unavailable = |text: &str| ControlError::new(Kind::Unavailable, text);
    let mut managers = worker.manager();
    // The guard on the value must not live across the next await.
    let known = async {
        let known = managers.wait_for(Option::is_some).await.ok();
        known.and_then(|known| known.clone())
    };
    let channel = tokio::time::timeout(MANAGER_WAIT, known)
        .await
        .ok()
        .flatten();
    let channel = channel.ok_or_else(|| unavailable("no manager answers this node"))?;
    let payload = ControlPayload {
        payload: encode(request),
    };
    let mut client = DispatcherClient::new(channel);
    let reply = tokio::time::timeout(ANSWER_WAIT, client.attach(payload))
        .await
        .map_err(|_| unavailable("the manager did not answer in time"))?
        .map_err(|answer| status::to_control(&answer))?;
    let unreadable =
        |error: skep_proto::DecodeError| ControlError::new(Kind::Internal, error.to_string());
    match reply.into_inner().outcome {
        Some(control_reply::Outcome::Response(bytes)) => {
            decode("attach reply", &bytes).map_err(unreadable)
        }
        Some(control_reply::Outcome::Error(bytes)) => {
            Err(decode("control error", &bytes).unwrap_or_else(unreadable))
        }
        None => Err(ControlError::new(
            Kind::Internal,
            "the manager's answer is empty",
        )),
    }
}

fn described(container: &GuestIdentity) -> GuestContainer {
    GuestContainer {
        id: container.id.clone(),
        name: container.name.clone(),
        hostname: container.hostname.clone(),
        aliases: container.aliases.clone(),
    }
}

fn unexpected(reply: &AttachReply) -> EngineError {
    EngineError::internal(format!("the manager answered something else: {reply:?}"))
}

/// A manager's refusal in dockerd's words.
fn explained(network: &str, error: ControlError) -> EngineError {
    let kind = match error.kind {
        Kind::NotFound => skep_engine::Kind::NotFound,
        Kind::PermissionDenied | Kind::FailedPrecondition => skep_engine::Kind::Forbidden,
        Kind::Invalid => skep_engine::Kind::Invalid,
        Kind::Unavailable => skep_engine::Kind::Unavailable,
        _ => skep_engine::Kind::Internal,
    };
    let text = match error.kind {
        Kind::PermissionDenied => format!(
            "Could not attach to network {network}: rpc error: code = PermissionDenied desc = {}",
            error.message
        ),
        _ => error.message,
    };
    EngineError::new(kind, text)
}

/// A network as the engine needs to know it.
fn shown(network: &Network) -> NetworkInspect {
    NetworkInspect {
        name: network.spec.name.clone(),
        id: network.id.to_string(),
        scope: "swarm".to_owned(),
        driver: "overlay".to_owned(),
        enable_ipv4: true,
        enable_ipv6: network.spec.ipv6_enabled,
        internal: network.spec.internal,
        attachable: network.spec.attachable,
        ..NetworkInspect::default()
    }
}
