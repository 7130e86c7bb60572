//! Changes and reads: on the leader directly, on a follower through the leader, once.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use skep_consensus::{Member, ProposeError, ReadError};
use skep_model::payload::{PayloadId, VersionChange};
use skep_model::secret_store::changed;
use skep_model::{ControlError, ControlRequest, ControlResponse, Kind};
use skep_proto::v1::control_client::ControlClient;
use skep_proto::v1::{ControlPayload, control_reply};
use skep_proto::{MESSAGE_BYTES_MAX, decode, encode, status};
use skep_store::{Commit, Snapshot};
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::caller::mark_forwarded;
use crate::clock;
use crate::machine::{Outcome, decode_outcome, encode_command};
use crate::manager::Core;
use crate::quorum;

/// A change that lost a race is decided anew this often.
const ATTEMPTS_MAX: usize = 16;
/// How long a request waits for a leader to be known, as after an election.
const LEADER_WAIT: Duration = Duration::from_secs(5);
/// Pause before a request looks for a leader again.
const RETRY: Duration = Duration::from_millis(50);
/// How long a forwarded request may take.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a read may wait for this replica to catch up.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Swarm's text for a cluster that cannot decide.
pub const NO_LEADER: &str = "The swarm does not have a leader. It's possible that too few managers \
     are online. Make sure more than half of the managers are online.";

/// Why a commit is not in the state.
#[derive(Debug)]
pub enum CommitError {
    /// Decide anew: something it relied on has changed.
    Conflict {
        kind: Kind,
        message: String,
    },
    Propose(ProposeError),
}

/// Says a commit's failure in the terms of a request.
pub fn describe(error: &CommitError) -> ControlError {
    match error {
        CommitError::Conflict { kind, message } => ControlError::new(*kind, message.clone()),
        CommitError::Propose(ProposeError::NotLeader { .. } | ProposeError::Unavailable) => {
            ControlError::new(Kind::Unavailable, NO_LEADER)
        }
        CommitError::Propose(error @ (ProposeError::Busy | ProposeError::Stopped)) => {
            ControlError::new(Kind::Unavailable, error.to_string())
        }
        CommitError::Propose(error @ ProposeError::TooBig { .. }) => {
            ControlError::new(Kind::Exhausted, error.to_string())
        }
    }
}

/// Puts a commit into the log and waits until it is applied here.
pub async fn propose(core: &Core, commit: &Commit) -> Result<(), CommitError> {
    propose_command(core, encode_command(commit)).await
}

/// [`propose`] for a commit that is encoded already.
pub async fn propose_command(core: &Core, command: Vec<u8>) -> Result<(), CommitError> {
    let bytes = core
        .consensus
        .propose(command)
        .await
        .map_err(CommitError::Propose)?;
    match decode_outcome(&bytes) {
        Outcome::Applied => Ok(()),
        Outcome::Conflict { kind, message } => Err(CommitError::Conflict { kind, message }),
    }
}

/// The replicated state as this manager has it: current, unless `stale` is good enough. Waits out
/// an election.
pub async fn read(core: &Core, stale: bool) -> Result<Snapshot, ControlError> {
    let outcome = read_unnamed(core, stale).await;
    quorum::name_missing(core, outcome).await
}

async fn read_unnamed(core: &Core, stale: bool) -> Result<Snapshot, ControlError> {
    if !stale {
        let deadline = tokio::time::Instant::now() + LEADER_WAIT;
        loop {
            retry_without_leader(core, || async { Ok(()) }).await?;
            let current = async {
                let index = core.consensus.leader_read_index().await?;
                core.consensus.wait_applied(index, READ_TIMEOUT).await
            };
            match current.await {
                Ok(()) => break,
                Err(ReadError::NotLeader { .. } | ReadError::Unavailable)
                    if tokio::time::Instant::now() < deadline =>
                {
                    tokio::time::sleep(RETRY).await;
                }
                Err(ReadError::NotLeader { .. } | ReadError::Unavailable) => {
                    return Err(ControlError::new(Kind::Unavailable, NO_LEADER));
                }
                Err(error @ ReadError::Stopped) => {
                    return Err(ControlError::new(Kind::Unavailable, error.to_string()));
                }
            }
        }
    }
    Ok(core.machine.store().snapshot())
}

/// Waits, with a bound, until a leader is known.
async fn retry_without_leader<F, T>(
    core: &Core,
    then: impl FnOnce() -> F,
) -> Result<T, ControlError>
where
    F: Future<Output = Result<T, ControlError>>,
{
    let mut leadership = core.consensus.leadership();
    let known = leadership.wait_for(|now| now.leader.is_some());
    // The guard on the value must not live across the next await.
    let patience = core.leaderless.left_of(LEADER_WAIT);
    let found = matches!(tokio::time::timeout(patience, known).await, Ok(Ok(_)));
    if found {
        then().await
    } else {
        Err(ControlError::new(Kind::Unavailable, NO_LEADER))
    }
}

/// The leader, if it is another manager. Waits for one to be known.
pub async fn leader_elsewhere(core: &Core) -> Result<Option<Member>, ControlError> {
    retry_without_leader(core, || async {
        let now = core.consensus.leadership().borrow().clone();
        Ok(if now.is_me { None } else { now.leader })
    })
    .await
}

/// A client for the leader's control service.
pub fn control_client(core: &Core, leader: &Member) -> ControlClient<Channel> {
    ControlClient::new(core.connector.channel(&leader.address))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Decides a request on the leader. `forwarded` requests are not handed on again.
pub async fn submit(
    core: &Arc<Core>,
    request: ControlRequest,
    forwarded: bool,
) -> Result<ControlResponse, ControlError> {
    let unknown = stores_of(core, &request).map_err(ControlError::invalid)?;
    let outcome = submit_unnamed(core, request, forwarded).await;
    let outcome = outcome.map(|mut response| {
        // Whoever forwarded it has its own word of that.
        response.warnings.extend(unknown.filter(|_| !forwarded));
        response
    });
    match forwarded {
        // Who forwarded it goes by the words.
        true => outcome,
        false => quorum::name_missing(core, outcome).await,
    }
}

/// Refuses what a store of this node does not take, and says which store it does not have.
fn stores_of(core: &Core, request: &ControlRequest) -> Result<Option<String>, String> {
    let ControlRequest::ChangeVersion { object, change, .. } = request else {
        let warnings = core.stores.check(request)?;
        return Ok((!warnings.is_empty()).then(|| warnings.join("\n")));
    };
    let (PayloadId::Secret(id), VersionChange::Anew(changes)) = (object, change) else {
        return Ok(None);
    };
    let snapshot = core.machine.store().snapshot();
    let mut spec = match snapshot.secret(id) {
        Some(secret) => secret.spec.clone(),
        None => return Ok(None),
    };
    if let Some(driver) = &mut spec.driver {
        driver.options = changed(&driver.options, changes);
    }
    match spec.origin() {
        Some(origin) => core.stores.check_origin(&spec.name, &origin),
        None => Ok(None),
    }
}

async fn submit_unnamed(
    core: &Arc<Core>,
    request: ControlRequest,
    forwarded: bool,
) -> Result<ControlResponse, ControlError> {
    let deadline = tokio::time::Instant::now() + LEADER_WAIT;
    loop {
        let outcome = match leader_elsewhere(core).await? {
            None => submit_here(core, &request).await,
            Some(_) if forwarded => Err(ControlError::new(Kind::Unavailable, NO_LEADER)),
            Some(leader) => forward(core, &leader, &request).await,
        };
        match outcome {
            // Nothing was taken in: the leader has changed under our hands.
            Err(error)
                if error.kind == Kind::Unavailable
                    && error.message == NO_LEADER
                    && !forwarded
                    && tokio::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(RETRY).await;
            }
            outcome => return outcome,
        }
    }
}

async fn submit_here(
    core: &Arc<Core>,
    request: &ControlRequest,
) -> Result<ControlResponse, ControlError> {
    // Removing a manager needs a change of the membership first.
    if let ControlRequest::RemoveNode { id, force } = request {
        crate::roles::before_remove(core, id, *force).await?;
    }
    if let ControlRequest::UpdateNode { id, spec, .. } = request {
        crate::roles::before_update(core, id, spec)?;
    }
    if let ControlRequest::UpdateCluster { spec, .. } = request
        && let Some(cluster) = core.machine.store().snapshot().cluster()
    {
        let member = core.connector.config();
        crate::external::before_update(&cluster.root_ca, spec, &member).await?;
    }
    let mut last = None;
    let mut is_current = false;
    for _ in 0..ATTEMPTS_MAX {
        let (commit, response) = match decide(core, request) {
            Ok(decided) if !decided.0.is_empty() => decided,
            decided if is_current => return decided.map(|(_, response)| response),
            // What is refused, or changes nothing, goes through no log that would tell whether
            // another manager leads by now and knows better.
            _ => {
                confirm_leading(core).await?;
                is_current = true;
                continue;
            }
        };
        match propose(core, &commit).await {
            Ok(()) => return Ok(response),
            Err(error @ CommitError::Conflict { .. }) => last = Some(describe(&error)),
            // Known not to have been taken in: may be decided by the next leader.
            Err(error @ CommitError::Propose(ProposeError::NotLeader { .. })) => {
                return Err(describe(&error));
            }
            // May have been taken in: to decide it again could do it twice.
            Err(CommitError::Propose(ProposeError::Unavailable)) => {
                return Err(ControlError::new(
                    Kind::Unavailable,
                    "no quorum of managers answered in time: the change may or may not have been made",
                ));
            }
            Err(error) => return Err(describe(&error)),
        }
    }
    Err(last.unwrap_or_else(|| ControlError::new(Kind::OutOfSequence, "update out of sequence")))
}

/// Decides a request by what this manager knows.
fn decide(
    core: &Core,
    request: &ControlRequest,
) -> Result<(Commit, ControlResponse), ControlError> {
    let snapshot = core.machine.store().snapshot();
    let now = clock::now();
    let next_root = crate::root::for_request(request, &snapshot, now)?;
    skep_reconcile::control::execute_with_root(
        request,
        next_root,
        &snapshot,
        now,
        &mut clock::random(),
    )
}

/// Waits until this manager knows everything that was acknowledged before.
async fn confirm_leading(core: &Core) -> Result<(), ControlError> {
    let confirmed = core.consensus.read_barrier().await;
    confirmed.map(drop).map_err(|error| match error {
        ReadError::NotLeader { .. } | ReadError::Unavailable => {
            ControlError::new(Kind::Unavailable, NO_LEADER)
        }
        ReadError::Stopped => ControlError::new(Kind::Unavailable, error.to_string()),
    })
}

async fn forward(
    core: &Arc<Core>,
    leader: &Member,
    request: &ControlRequest,
) -> Result<ControlResponse, ControlError> {
    let mut call = Request::new(ControlPayload {
        payload: encode(request),
    });
    mark_forwarded(&mut call, None);
    let mut client = control_client(core, leader);
    let reply = match tokio::time::timeout(FORWARD_TIMEOUT, client.submit(call)).await {
        Ok(Ok(reply)) => reply.into_inner(),
        // Nothing was sent: the leader is gone, and the next one may be asked.
        Ok(Err(status)) if was_not_sent(&status) => {
            return Err(ControlError::new(Kind::Unavailable, NO_LEADER));
        }
        Ok(Err(status)) if is_refusal(&status) => return Err(status::to_control(&status)),
        Ok(Err(_)) => return Err(unanswered(leader, "was lost before it answered")),
        Err(_) => return Err(unanswered(leader, "did not answer in time")),
    };
    let unreadable =
        |error: skep_proto::DecodeError| ControlError::new(Kind::Internal, error.to_string());
    match reply.outcome {
        Some(control_reply::Outcome::Response(bytes)) => {
            decode("control response", &bytes).map_err(unreadable)
        }
        Some(control_reply::Outcome::Error(bytes)) => {
            Err(decode("control error", &bytes).unwrap_or_else(unreadable))
        }
        None => Err(ControlError::new(
            Kind::Internal,
            "the leader's answer is empty",
        )),
    }
}

/// The error of a request that the leader may have decided.
fn unanswered(leader: &Member, how: &str) -> ControlError {
    let message = format!(
        "the leader at {} {how}: the change may or may not have been made",
        leader.address
    );
    ControlError::new(Kind::Unavailable, message)
}

/// Whether the other side itself refused a call. What ends a call that was sent otherwise is the
/// connection, and says nothing about what became of the request.
fn is_refusal(status: &tonic::Status) -> bool {
    let is_own = std::error::Error::source(status).is_none();
    let is_lost = matches!(
        status.code(),
        Code::Unknown
            | Code::Internal
            | Code::Unavailable
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::DataLoss
    );
    is_own && !is_lost
}

/// Whether a call failed before anything went to the other side.
fn was_not_sent(status: &tonic::Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use skep_proto::v1::Empty;
    use skep_proto::v1::ca_client::CaClient;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tonic::Status;

    use super::*;

    /// A request that was on its way when the leader died was answered with a bare `transport error`,
    /// as if the daemon had failed and nothing been done.
    #[tokio::test]
    async fn a_connection_that_ends_is_no_refusal() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // It hears the call, and dies.
            let _ = stream.read(&mut [0; 64]).await;
        });
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .connect()
            .await
            .unwrap();
        let status = CaClient::new(channel).get_root(Empty {}).await.unwrap_err();
        assert!(!is_refusal(&status), "{status:?}");
        assert!(!was_not_sent(&status), "{status:?}");
    }

    #[test]
    fn what_the_leader_says_is_passed_on() {
        assert!(is_refusal(&Status::permission_denied("no")));
        assert!(!is_refusal(&Status::unavailable("it stops")));
        let leader = Member {
            address: "10.0.0.1:2377".to_owned(),
            ..Member::default()
        };
        let error = unanswered(&leader, "was lost before it answered");
        assert_eq!(error.kind, Kind::Unavailable);
        assert_eq!(
            error.message,
            "the leader at 10.0.0.1:2377 was lost before it answered: the change may or may not \
             have been made"
        );
    }
}
