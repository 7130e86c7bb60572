//! What secrets of outside stores hold, for the nodes whose tasks need it: asked of the store here, or of
//! a manager that has it.

use std::sync::Arc;
use std::time::Duration;

use skep_model::payload::Payload as _;
use skep_model::secret_store::STORE_WORDS;
use skep_model::{NodeId, SecretId};
use skep_pki::Peer;
use skep_proto::v1::dispatcher_client::DispatcherClient;
use skep_proto::v1::secret_answer::Outcome;
use skep_proto::v1::{Empty, SecretAnswer, SecretQuestion};
use skep_store::Snapshot;
use tokio::time::Instant;
use tonic::{Code, Request, Status};

use crate::caller::{Verified, mark_forwarded};
use crate::manager::Core;
use crate::stores::{ANSWER_WITHIN, Need};

/// How long another manager may take: its store, and before that the turn.
const ELSEWHERE_WITHIN: Duration = ANSWER_WITHIN
    .saturating_mul(2)
    .saturating_add(Duration::from_secs(2));

/// How long asking all the other managers may take.
const ALL_WITHIN: Duration = Duration::from_secs(40);
/// How long a task may not be known here yet.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);
/// Characters of what a store says that are told.
const REASON_MAX: usize = 400;

/// Answers a node, or a manager that asks for one.
pub async fn answer(
    core: &Arc<Core>,
    caller: Verified,
    question: SecretQuestion,
) -> Result<SecretAnswer, Status> {
    let (snapshot, need) = need_by_now(core, &caller.peer.node, &question).await?;
    let outcome = match core.stores.fetch(&need).await {
        Some(Ok(bytes)) => Outcome::Data(bytes.to_vec()),
        Some(Err(why)) => {
            let me = name(&snapshot, &core.node);
            let why: String = why.chars().take(REASON_MAX).collect();
            Outcome::Reason(format!(
                "{STORE_WORDS}{}: {why} (asked by manager {me})",
                need.origin.store
            ))
        }
        None if caller.forwarded => Outcome::NotHere(Empty {}),
        None => elsewhere(core, &snapshot, &caller.peer, &question, &need.origin.store).await,
    };
    Ok(SecretAnswer {
        outcome: Some(outcome),
    })
}

/// The same as [`need`], of a state that may be a moment behind: the node, or the manager that asks for
/// it, may have heard of its task elsewhere.
async fn need_by_now(
    core: &Arc<Core>,
    node: &NodeId,
    question: &SecretQuestion,
) -> Result<(Snapshot, Need), Status> {
    let mut applied = core.machine.applied();
    let deadline = Instant::now() + KNOWN_WITHIN;
    loop {
        applied.mark_unchanged();
        let snapshot = core.machine.store().snapshot();
        let refused = match need(&snapshot, node, question) {
            Ok(need) => return Ok((snapshot, need)),
            Err(refused) => refused,
        };
        match tokio::time::timeout_at(deadline, applied.changed()).await {
            Ok(Ok(())) => (),
            Ok(Err(_)) | Err(_) => return Err(refused),
        }
    }
}

/// What a node asks for, if a task of its own is to see it now: nobody else is told.
pub fn need(snapshot: &Snapshot, node: &NodeId, question: &SecretQuestion) -> Result<Need, Status> {
    let refused = || {
        Status::permission_denied("no task that this node is to run needs that version of a secret")
    };
    let task = snapshot
        .task(&question.task_id.as_str().into())
        .ok_or_else(refused)?;
    let id = SecretId::new(&question.secret_id);
    let container = task.spec.container().ok_or_else(refused)?;
    let mut references = container.secrets.iter();
    let is_wanted = references.any(|one| {
        one.secret_id == id && task.version_wanted(id.as_str(), &one.version) == question.number
    });
    if task.node_id != *node || !task.is_live() || !is_wanted {
        return Err(refused());
    }
    let secret = snapshot.secret(&id).ok_or_else(refused)?;
    let origin = secret.origin_of(question.number).ok_or_else(|| {
        Status::failed_precondition(format!(
            "secret {} has no version {} in a store",
            secret.payload_name(),
            question.number
        ))
    })?;
    Ok(Need {
        secret: Arc::clone(secret),
        number: question.number,
        origin,
        task: Arc::clone(task),
        service: snapshot.service(&task.service_id).cloned(),
        hostname: name(snapshot, node),
    })
}

/// Asks the other managers, the leader first, until one has the store.
async fn elsewhere(
    core: &Arc<Core>,
    snapshot: &Snapshot,
    peer: &Peer,
    question: &SecretQuestion,
    store: &str,
) -> Outcome {
    let mut without = vec![name(snapshot, &core.node)];
    let mut silent = Vec::new();
    let mut refused = None;
    let deadline = Instant::now() + ALL_WITHIN;
    let leader = core.consensus.leadership().borrow().leader.clone();
    let mut members = core.consensus.members();
    members.retain(|part| part.member.id != core.raft_id);
    members.sort_by_key(|part| leader.as_ref().is_none_or(|it| it.id != part.member.id));
    for part in members {
        let manager = name(snapshot, &NodeId::new(&part.member.node));
        let mut request = Request::new(question.clone());
        mark_forwarded(&mut request, Some(peer));
        let mut client = DispatcherClient::new(core.connector.channel(&part.member.address));
        let within = deadline.min(Instant::now() + ELSEWHERE_WITHIN);
        let asked = tokio::time::timeout_at(within, client.fetch_secret(request)).await;
        let status = match asked {
            Ok(Ok(answer)) => match answer.into_inner().outcome {
                Some(Outcome::NotHere(_)) | None => {
                    without.push(manager);
                    continue;
                }
                // Another one may come to its store where this one does not.
                Some(outcome @ Outcome::Reason(_)) => {
                    refused.get_or_insert(outcome);
                    continue;
                }
                Some(outcome @ Outcome::Data(_)) => return outcome,
            },
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("it does not answer in time"),
        };
        match status.code() {
            // One of before knows of no stores.
            Code::Unimplemented => without.push(manager),
            _ => silent.push(format!("{manager}: {}", status.message())),
        }
    }
    if let Some(refused) = refused {
        return refused;
    }
    let mut why = format!(
        "{STORE_WORDS}{store}: no manager has it: not {} (skep daemon --secret-store {store}=…)",
        without.join(", ")
    );
    if !silent.is_empty() {
        why.push_str(&format!("; not heard: {}", silent.join(", ")));
    }
    Outcome::Reason(why)
}

/// The host name of a node, or its id.
fn name(snapshot: &Snapshot, id: &NodeId) -> String {
    let name = snapshot
        .node(id)
        .map(|node| node.description.hostname.as_str());
    match name {
        None | Some("") => id.to_string(),
        Some(name) => name.to_owned(),
    }
}
