//! Brings what the sessions heard to the leader, in batches: one log entry carries many
//! statuses.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use skep_model::node::NodeDescription;
use skep_model::{NodeId, TaskId, TaskStatus};
use skep_proto::decode;
use skep_proto::v1::{RelayRequest, TaskStatusReport};
use skep_reconcile::NodeReport;
use tonic::{Request, Status};
use tracing::{debug, warn};

use crate::clock;
use crate::manager::Core;
use crate::sessions::Outbox;
use crate::submit::{self, CommitError};

/// Reports are collected this long.
const BATCH_TIME: Duration = Duration::from_millis(5);
/// Pause after the leader could not be reached.
const RETRY: Duration = Duration::from_millis(100);
/// How long the leader may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A commit of reports that lost a race is made anew this often.
const ATTEMPTS_MAX: usize = 8;

/// Runs for as long as the manager does.
pub async fn run(core: Arc<Core>) {
    loop {
        core.sessions.outbox_filled.notified().await;
        tokio::time::sleep(BATCH_TIME).await;
        let outbox = core.sessions.take_outbox();
        let request = RelayRequest {
            heard: outbox.heard.values().cloned().collect(),
            statuses: outbox.statuses.values().cloned().collect(),
        };
        if let Err(status) = hand_on(&core, request).await {
            debug!(%status, "reports wait for a leader");
            core.sessions.return_outbox(fresh(outbox));
            core.sessions.outbox_filled.notify_one();
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// What may be handed on later: signs of life are worth something only when they are fresh,
/// descriptions, farewells and what a node follows stay true.
fn fresh(mut outbox: Outbox) -> Outbox {
    outbox.heard.retain(|_, heard| {
        !heard.description.is_empty() || heard.gone || heard.network_version > 0
    });
    outbox
}

async fn hand_on(core: &Arc<Core>, request: RelayRequest) -> Result<(), Status> {
    let leader = submit::leader_elsewhere(core)
        .await
        .map_err(|error| skep_proto::status::from_control(&error))?;
    match leader {
        None => take_in(core, request).await.map(drop),
        Some(leader) => {
            let mut client = submit::control_client(core, &leader);
            match tokio::time::timeout(TIMEOUT, client.relay(Request::new(request))).await {
                Ok(reply) => reply.map(drop),
                Err(_) => Err(Status::deadline_exceeded("the leader did not answer")),
            }
        }
    }
}

/// On the leader: notes the signs of life, and commits statuses and descriptions. Returns the
/// nodes among those heard that are no longer members.
pub async fn take_in(core: &Arc<Core>, request: RelayRequest) -> Result<Vec<String>, Status> {
    let now = clock::now();
    {
        let mut liveness = core.liveness.lock().unwrap_or_else(PoisonError::into_inner);
        let mut networks = core.networks.lock().unwrap_or_else(PoisonError::into_inner);
        for heard in &request.heard {
            let node = NodeId::new(&heard.node_id);
            if heard.network_version > 0 {
                networks.insert(node.clone(), heard.network_version);
            }
            if heard.gone {
                liveness.gone(&node)
            } else {
                liveness.heard(&node, now)
            }
        }
    }
    core.leader_wake.notify_one();
    for heard in &request.heard {
        let description = match heard.description.as_slice() {
            [] => None,
            bytes => Some(read::<NodeDescription>("node description", bytes)?),
        };
        describe(
            core,
            &NodeId::new(&heard.node_id),
            description,
            &heard.address,
        )
        .await?;
    }
    if !request.statuses.is_empty() {
        record(core, &request.statuses).await?;
    }
    let snapshot = core.machine.store().snapshot();
    let removed = snapshot.cluster().map(|cluster| &cluster.removed_nodes);
    Ok(request
        .heard
        .iter()
        .filter(|heard| removed.is_some_and(|removed| removed.contains_key(heard.node_id.as_str())))
        .map(|heard| heard.node_id.clone())
        .collect())
}

fn read<T: serde::de::DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, Status> {
    decode(what, bytes).map_err(|error| Status::invalid_argument(error.to_string()))
}

/// Commits what a node says of itself and where it is heard from.
async fn describe(
    core: &Arc<Core>,
    node: &NodeId,
    description: Option<NodeDescription>,
    address: &str,
) -> Result<(), Status> {
    for _ in 0..ATTEMPTS_MAX {
        let snapshot = core.machine.store().snapshot();
        let Some(known) = snapshot.node(node) else {
            return Ok(());
        };
        let now = clock::now();
        let commit = match &description {
            Some(description) if *description != known.description => {
                skep_reconcile::describe_node(&snapshot, node, description.clone(), now)
            }
            Some(_) | None if !address.is_empty() && known.status.addr != address => {
                let report = NodeReport {
                    state: known.status.state,
                    message: known.status.message.clone(),
                    addr: address.to_owned(),
                };
                skep_reconcile::record_node_states(&snapshot, &[(node.clone(), report)], now)
            }
            Some(_) | None => None,
        };
        let Some(commit) = commit else { return Ok(()) };
        match submit::propose(core, &commit).await {
            // Once more: the address may be news as well, or the race was lost.
            Ok(()) | Err(CommitError::Conflict { .. }) => (),
            Err(error) => return Err(skep_proto::status::from_control(&submit::describe(&error))),
        }
    }
    Ok(())
}

async fn record(core: &Arc<Core>, reports: &[TaskStatusReport]) -> Result<(), Status> {
    let mut read_reports = Vec::with_capacity(reports.len());
    for report in reports {
        let status: TaskStatus = match decode("task status", &report.status) {
            Ok(status) => status,
            Err(error) => {
                // One bad report must not hold up the others.
                warn!(task = report.task_id, %error, "a task status was dropped");
                continue;
            }
        };
        read_reports.push((
            TaskId::new(&report.task_id),
            NodeId::new(&report.node_id),
            status,
        ));
    }
    let snapshot = core.machine.store().snapshot();
    let commit = skep_reconcile::record_statuses(&snapshot, &read_reports, clock::now());
    let Some(commit) = commit else { return Ok(()) };
    match submit::propose(core, &commit).await {
        // Reports never conflict: those that came too late are dropped one by one.
        Ok(()) | Err(CommitError::Conflict { .. }) => Ok(()),
        Err(error) => Err(skep_proto::status::from_control(&submit::describe(&error))),
    }
}
