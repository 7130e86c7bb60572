//! Issues certificates: to new nodes against a join token, to members against their old one.

use std::sync::Arc;
use std::time::Duration;

use skep_model::node::NodeDescription;
use skep_model::{Availability, Cluster, NodeId, NodeRole};
use skep_pki::authority::AuthorityError;
use skep_pki::rescue::former_holder;
use skep_pki::{Authority, Peer, same_secret};
use skep_proto::decode;
use skep_proto::v1::ca_client::CaClient;
use skep_proto::v1::ca_server::Ca;
use skep_proto::v1::{Empty, IssueReply, IssueRequest, RootReply};
use skep_reconcile::NewNode;
use skep_store::{Commit, Snapshot};
use tonic::{Request, Response, Status};
use tracing::info;

use crate::caller::{is_forwarded, mark_forwarded, verify};
use crate::clock;
use crate::external::{Authorities, Wanted};
use crate::manager::Core;
use crate::submit::{self, CommitError};

/// A commit that lost a race is made anew this often.
const ATTEMPTS_MAX: usize = 8;

pub struct CaService(pub Arc<Core>);

#[tonic::async_trait]
impl Ca for CaService {
    async fn get_root(&self, _request: Request<Empty>) -> Result<Response<RootReply>, Status> {
        let snapshot = self.0.machine.store().snapshot();
        let cluster = cluster(&snapshot)?;
        Ok(Response::new(RootReply {
            root_pem: cluster.root_ca.cert.clone(),
        }))
    }

    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueReply>, Status> {
        let peer = verify(&request, &self.0)?.map(|verified| verified.peer);
        let forwarded = is_forwarded(&request);
        let leader = submit::leader_elsewhere(&self.0)
            .await
            .map_err(|error| skep_proto::status::from_control(&error))?;
        match leader {
            None => issue(&self.0, peer, &request.into_inner())
                .await
                .map(Response::new),
            Some(_) if forwarded => Err(Status::unavailable(submit::NO_LEADER)),
            Some(leader) => {
                let mut call = Request::new(request.into_inner());
                mark_forwarded(&mut call, peer.as_ref());
                CaClient::new(self.0.connector.channel(&leader.address))
                    .issue(call)
                    .await
            }
        }
    }
}

fn cluster(snapshot: &Snapshot) -> Result<&Arc<Cluster>, Status> {
    snapshot
        .cluster()
        .ok_or_else(|| Status::unavailable("the cluster is not known here yet"))
}

async fn issue(
    core: &Arc<Core>,
    peer: Option<Peer>,
    request: &IssueRequest,
) -> Result<IssueReply, Status> {
    // A leader that is none any more might know of an older role.
    let snapshot = submit::read(core, false)
        .await
        .map_err(|error| skep_proto::status::from_control(&error))?;
    let cluster = Arc::clone(cluster(&snapshot)?);
    let (node, role, new) = match peer {
        Some(peer) => {
            let (node, role) = renewed(&snapshot, &peer)?;
            (node, role, None)
        }
        None if !request.expired_cert_pem.is_empty() => {
            let (node, role) = rescued(core, &snapshot, request)?;
            (node, role, None)
        }
        None => {
            let new = stranger(&cluster, request)?;
            // Whether it may come in is decided again with its admission: signing takes its time, and a
            // node that is not signed for must not be listed.
            let (_, role) = admission(&snapshot, request, &new)?;
            (new.id.clone(), role, Some(new))
        }
    };
    let peer = Peer {
        node: node.clone(),
        role,
        cluster: core.cluster.clone(),
    };
    let cert_pem = sign(core, &cluster, &request.csr_pem, &peer).await?;
    if let Some(new) = new
        && admitted(core, request, &new).await? != role
    {
        return Err(Status::unavailable(
            "the join token was changed meanwhile: try again",
        ));
    }
    // The observed role follows the certificate; a demotion has set it before.
    if role == NodeRole::Manager {
        record_role(core, &node).await?;
    }
    info!(%node, ?role, "certificate issued");
    Ok(IssueReply {
        cert_pem,
        root_pem: cluster.root_ca.trusted(),
        node_id: node.to_string(),
    })
}

/// Signs a request, or has it signed by the authority outside that the cluster names.
async fn sign(
    core: &Core,
    cluster: &Cluster,
    csr_pem: &str,
    peer: &Peer,
) -> Result<String, Status> {
    let now = clock::now();
    let life = match cluster.spec.ca_config.node_cert_expiry.duration() {
        Duration::ZERO => Duration::from_secs(2160 * 3600),
        life => life.max(Duration::from_secs(
            u64::try_from(skep_model::limits::CERT_EXPIRY_SECS_MIN).unwrap_or(3600),
        )),
    };
    let refused = |error: skep_model::ControlError| skep_proto::status::from_control(&error);
    if let Some(outside) = Authorities::of(cluster).map_err(refused)? {
        let wanted = Wanted {
            csr_pem,
            peer,
            life,
            now,
        };
        let member = core.connector.config();
        return outside.sign(&member, wanted).await.map_err(refused);
    }
    let internal = |error: AuthorityError| Status::internal(error.to_string());
    let authority = Authority::of(&cluster.root_ca).map_err(internal)?;
    authority
        .sign(csr_pem, &peer.node, peer.role, &peer.cluster, life, now)
        .map_err(|error| Status::invalid_argument(error.to_string()))
}

/// A member asks for its next certificate: the same node, in the role it should have now.
fn renewed(snapshot: &Snapshot, peer: &Peer) -> Result<(NodeId, NodeRole), Status> {
    let Some(node) = snapshot.node(&peer.node) else {
        return Err(Status::not_found("the node was removed from the cluster"));
    };
    Ok((peer.node.clone(), crate::roles::next(node, peer.role)))
}

/// A member whose certificate has run out shows it, and a token that would admit it anew: the same
/// node, in the role it should have now.
fn rescued(
    core: &Core,
    snapshot: &Snapshot,
    request: &IssueRequest,
) -> Result<(NodeId, NodeRole), Status> {
    let cluster = cluster(snapshot)?;
    let roots = cluster.root_ca.trusted();
    let peer = former_holder(&request.expired_cert_pem, &roots, &request.csr_pem)
        .map_err(|error| Status::permission_denied(error.to_string()))?;
    if peer.cluster != core.cluster {
        return Err(Status::permission_denied(
            "the certificate belongs to another cluster",
        ));
    }
    if cluster.removed_nodes.contains_key(&peer.node) {
        return Err(Status::not_found("the node was removed from the cluster"));
    }
    let (node, role) = renewed(snapshot, &peer)?;
    let tokens = &cluster.join_tokens;
    let admits_managers = same_secret(&request.token, &tokens.manager);
    let admits_workers = same_secret(&request.token, &tokens.worker);
    match (role, admits_managers, admits_workers) {
        (_, true, _) | (NodeRole::Worker, _, true) => {
            info!(%node, "a member whose certificate has run out is back");
            Ok((node, role))
        }
        (NodeRole::Manager, false, true) => Err(Status::invalid_argument(
            "this node is a manager: the join token of managers is necessary",
        )),
        (_, false, false) => Err(Status::invalid_argument(
            "A valid join token is necessary to join this cluster",
        )),
    }
}

/// A stranger as the node that it would be.
fn stranger(cluster: &Cluster, request: &IssueRequest) -> Result<NewNode, Status> {
    let mut description: NodeDescription = decode("node description", &request.description)
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    // Until it says so itself: a rotation of the root need not wait for a node that never had a
    // certificate of the old one.
    description.tls_info = cluster.tls_info.clone();
    let availability = match request.availability.as_str() {
        "" | "active" => Availability::Active,
        "pause" => Availability::Pause,
        "drain" => Availability::Drain,
        other => {
            return Err(Status::invalid_argument(format!(
                "invalid availability: {other}"
            )));
        }
    };
    Ok(NewNode {
        id: NodeId::random(&mut clock::random()),
        availability,
        description,
        ..NewNode::default()
    })
}

/// The commit that takes a stranger in, and the role that its token is for.
fn admission(
    snapshot: &Snapshot,
    request: &IssueRequest,
    new: &NewNode,
) -> Result<(Option<Commit>, NodeRole), Status> {
    skep_reconcile::admit(snapshot, &request.token, new.clone(), clock::now())
        .map_err(|error| skep_proto::status::from_control(&error))
}

/// A stranger with a token becomes a node.
async fn admitted(
    core: &Arc<Core>,
    request: &IssueRequest,
    new: &NewNode,
) -> Result<NodeRole, Status> {
    for _ in 0..ATTEMPTS_MAX {
        let snapshot = core.machine.store().snapshot();
        let (commit, role) = admission(&snapshot, request, new)?;
        let Some(commit) = commit else {
            return Ok(role);
        };
        match submit::propose(core, &commit).await {
            Ok(()) => return Ok(role),
            Err(CommitError::Conflict { .. }) => (),
            Err(error) => return Err(skep_proto::status::from_control(&submit::describe(&error))),
        }
    }
    Err(Status::unavailable(
        "the node could not be added: too many changes at once, try again",
    ))
}

async fn record_role(core: &Arc<Core>, node: &NodeId) -> Result<(), Status> {
    for _ in 0..ATTEMPTS_MAX {
        let snapshot = core.machine.store().snapshot();
        let known = snapshot.node(node);
        if known.is_none_or(|node| node.role == NodeRole::Manager) {
            return Ok(());
        }
        let status = known.and_then(|node| node.manager_status.clone());
        let commit = crate::roles::record_role(&snapshot, node, NodeRole::Manager, status);
        let Some(commit) = commit else { return Ok(()) };
        match submit::propose(core, &commit).await {
            Ok(()) => return Ok(()),
            Err(CommitError::Conflict { .. }) => (),
            Err(error) => return Err(skep_proto::status::from_control(&submit::describe(&error))),
        }
    }
    Err(Status::unavailable(
        "the node's role could not be noted: try again",
    ))
}
