//! Brings what the sessions heard to the leader, in batches: one log entry carries many statuses.
//!
//! Signs of life go a way of their own. They are not written down, and must not wait for anything
//! that is. What tasks use goes another one: it costs no sign of life, however much it is.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use skep_model::node::NodeDescription;
use skep_model::{NodeId, NodeState, TaskId, TaskStatus};
use skep_proto::decode;
use skep_proto::v1::{Heard, RelayReply, RelayRequest, TaskStatusReport, TaskUsage};
use skep_reconcile::NodeWord;
use skep_store::Snapshot;
use tonic::{Request, Response, Status};
use tracing::{debug, warn};

use crate::clock;
use crate::manager::Core;
use crate::sessions::Sessions;
use crate::submit::{self, CommitError};

/// Reports are collected this long.
const BATCH_TIME: Duration = Duration::from_millis(5);
/// Signs of life that nobody waits for are collected this long.
const SIGNS_TIME: Duration = Duration::from_millis(100);
/// What tasks use is collected this long.
const USAGES_TIME: Duration = Duration::from_millis(500);
/// Pause after the leader could not be reached.
const RETRY: Duration = Duration::from_millis(100);
/// How long the leader may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long the other managers may take to confirm that the leader leads.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);
/// A commit of reports that lost a race is made anew this often.
const ATTEMPTS_MAX: usize = 8;

/// Brings signs of life to the leader, for as long as the manager runs.
pub async fn run_signs(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.sessions.signs_came.notified() => tokio::time::sleep(BATCH_TIME).await,
            () = tokio::time::sleep(SIGNS_TIME) => (),
        }
        let Some(request) = next_signs(&core.sessions) else {
            continue;
        };
        let heard = request.heard.clone();
        match hand_on(&core, request).await {
            Ok(reply) => {
                let confirmed: BTreeSet<&String> = reply.confirmed.iter().collect();
                for sign in heard
                    .iter()
                    .filter(|sign| confirmed.contains(&sign.node_id))
                {
                    let node = NodeId::new(&sign.node_id);
                    core.sessions.confirm(&node, sign.sent);
                }
            }
            Err(status) => {
                debug!(%status, "signs of life wait for a leader");
                core.sessions.return_signs(heard);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// The signs of life that are to be handed on now, and nothing else.
pub fn next_signs(sessions: &Sessions) -> Option<RelayRequest> {
    let heard = sessions.take_signs();
    (!heard.is_empty()).then(|| RelayRequest {
        heard,
        ..RelayRequest::default()
    })
}

/// What tasks use that is to be handed on now, and nothing else.
pub fn next_usages(sessions: &Sessions) -> Option<RelayRequest> {
    let usages = sessions.take_usages();
    (!usages.is_empty()).then(|| RelayRequest {
        usages,
        ..RelayRequest::default()
    })
}

/// Brings what tasks use to the leader, for as long as the manager runs. What does not arrive is
/// followed by other measurements.
pub async fn run_usages(core: Arc<Core>) {
    loop {
        tokio::time::sleep(USAGES_TIME).await;
        let Some(request) = next_usages(&core.sessions) else {
            continue;
        };
        if let Err(status) = hand_on(&core, request).await {
            debug!(%status, "measurements did not reach the leader and were dropped");
        }
    }
}

/// Brings to the leader what it has to write down, for as long as the manager runs.
pub async fn run_words(core: Arc<Core>) {
    loop {
        core.sessions.words_came.notified().await;
        tokio::time::sleep(BATCH_TIME).await;
        let words = core.sessions.take_words();
        let request = RelayRequest {
            heard: words.descriptions.clone(),
            statuses: words.statuses.clone(),
            ..RelayRequest::default()
        };
        if let Err(status) = hand_on(&core, request).await {
            debug!(%status, "reports wait for a leader");
            core.sessions.return_words(words);
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn hand_on(core: &Arc<Core>, request: RelayRequest) -> Result<RelayReply, Status> {
    let leader = submit::leader_elsewhere(core)
        .await
        .map_err(|error| skep_proto::status::from_control(&error))?;
    match leader {
        None => take_in(core, request).await,
        Some(leader) => {
            let mut client = submit::control_client(core, &leader);
            match tokio::time::timeout(TIMEOUT, client.relay(Request::new(request))).await {
                Ok(reply) => reply.map(Response::into_inner),
                Err(_) => Err(Status::deadline_exceeded("the leader did not answer")),
            }
        }
    }
}

/// On the leader: notes the signs of life, and commits statuses and descriptions.
pub async fn take_in(core: &Arc<Core>, request: RelayRequest) -> Result<RelayReply, Status> {
    if note_signs(core, &request.heard) {
        core.leader_wake.notify_one();
    }
    let confirmed = match request.heard.iter().any(|heard| heard.sent > 0) {
        true => {
            still_leads(core).await?;
            living(&core.machine.store().snapshot(), &request.heard)
        }
        false => Vec::new(),
    };
    note_usages(core, &request.usages);
    describe(core, &request.heard).await?;
    if !request.statuses.is_empty() {
        record(core, &request.statuses).await?;
    }
    let snapshot = core.machine.store().snapshot();
    let removed = snapshot.cluster().map(|cluster| &cluster.removed_nodes);
    let heard = request.heard.iter().map(|heard| &heard.node_id);
    let removed =
        heard.filter(|node| removed.is_some_and(|removed| removed.contains_key(node.as_str())));
    Ok(RelayReply {
        removed: removed.cloned().collect(),
        confirmed,
    })
}

/// Whose signs of life are to be confirmed. For one that is down by the state tasks may be started
/// elsewhere at any moment: it has to be up again first.
fn living(snapshot: &Snapshot, heard: &[Heard]) -> Vec<String> {
    let is_down = |node: &str| {
        let node = snapshot.node(&NodeId::new(node));
        node.is_none_or(|node| node.status.state == NodeState::Down)
    };
    let asked = heard.iter().filter(|heard| heard.sent > 0);
    let living = asked.filter(|heard| !is_down(&heard.node_id));
    living.map(|heard| heard.node_id.clone()).collect()
}

/// Nodes go by what is confirmed to them: that their signs of life were heard by a manager that led
/// afterwards, so that whoever leads next counts from later.
async fn still_leads(core: &Core) -> Result<(), Status> {
    let barrier = core.consensus.read_barrier();
    match tokio::time::timeout(CONFIRM_TIMEOUT, barrier).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Status::unavailable(error.to_string())),
        Err(_) => Err(Status::unavailable("the managers do not answer")),
    }
}

/// Notes what tasks have used.
fn note_usages(core: &Core, all: &[TaskUsage]) {
    let (snapshot, now) = (core.machine.store().snapshot(), clock::now());
    let mut usages = core.usages.lock().unwrap_or_else(PoisonError::into_inner);
    for usage in all {
        usages.note(&snapshot, usage, now);
    }
}

/// Notes the signs of life. Says whether something is to be done about one of them.
fn note_signs(core: &Core, all: &[Heard]) -> bool {
    let snapshot = core.machine.store().snapshot();
    let now = clock::now();
    let mut liveness = core.liveness.lock().unwrap_or_else(PoisonError::into_inner);
    let mut networks = core.networks.lock().unwrap_or_else(PoisonError::into_inner);
    let mut is_news = false;
    for heard in all.iter().filter(|heard| is_sign(heard)) {
        let node = NodeId::new(&heard.node_id);
        let is_up = |known: &Arc<skep_model::Node>| known.status.state == NodeState::Ready;
        is_news |=
            heard.gone || heard.network_version > 0 || !snapshot.node(&node).is_some_and(is_up);
        if heard.network_version > 0 {
            // One that comes late, by way of another manager, takes nothing back.
            let known = networks.entry(node.clone()).or_default();
            *known = heard.network_version.max(*known);
        }
        match heard.gone {
            true => liveness.gone(&node),
            false => liveness.heard(&node, now),
        }
    }
    is_news
}

/// Whether this is said of the present. What a node says of itself may have waited for a while, but a
/// manager of an earlier version tells it together with farewells and what the node follows.
fn is_sign(heard: &Heard) -> bool {
    heard.description.is_empty() || heard.gone || heard.network_version > 0
}

/// Commits what nodes say of themselves and where they are heard from, all at once.
async fn describe(core: &Arc<Core>, all: &[Heard]) -> Result<(), Status> {
    let words = words(all);
    for _ in 0..ATTEMPTS_MAX {
        let snapshot = core.machine.store().snapshot();
        let commit = skep_reconcile::describe_nodes(&snapshot, &words, clock::now());
        let Some(commit) = commit else { return Ok(()) };
        match submit::propose(core, &commit).await {
            Ok(()) => return Ok(()),
            Err(CommitError::Conflict { .. }) => (),
            Err(error) => return Err(skep_proto::status::from_control(&submit::describe(&error))),
        }
    }
    Err(Status::unavailable("too many changes of nodes at once"))
}

/// What is to be written down of nodes. A session begins with a description, and is from one address:
/// mere signs of life have nothing to add, and so never wait for a commit.
fn words(all: &[Heard]) -> Vec<NodeWord> {
    let described = all.iter().filter(|heard| !heard.description.is_empty());
    described
        .map(|heard| {
            let description = decode::<NodeDescription>("node description", &heard.description);
            NodeWord {
                id: NodeId::new(&heard.node_id),
                // One bad description must not hold up the others.
                description: description
                    .inspect_err(|error| {
                        let node = &heard.node_id;
                        warn!(node, %error, "a node's description was dropped");
                    })
                    .ok(),
                addr: heard.address.clone(),
            }
        })
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_life_have_nothing_to_be_written_down() {
        let heard = |description: &str| Heard {
            node_id: "n".to_owned(),
            address: "192.0.2.1".to_owned(),
            description: description.into(),
            ..Heard::default()
        };
        assert_eq!(words(&[heard("")]), []);
        let words = words(&[heard(r#"{"Hostname":"one"}"#), heard("nonsense")]);
        let hosts = words.iter().map(|word| {
            let description = word.description.as_ref();
            description.map(|description| description.hostname.as_str())
        });
        assert_eq!(hosts.collect::<Vec<_>>(), [Some("one"), None]);
        assert!(words.iter().all(|word| word.addr == "192.0.2.1"));
    }

    #[test]
    fn farewells_and_what_is_followed_count_also_with_a_description() {
        let described = Heard {
            description: b"{}".to_vec(),
            ..Heard::default()
        };
        assert!(is_sign(&Heard::default()));
        assert!(!is_sign(&described));
        for more in [
            Heard {
                gone: true,
                ..described.clone()
            },
            Heard {
                network_version: 7,
                ..described.clone()
            },
        ] {
            assert!(is_sign(&more), "{more:?}");
        }
    }
}
