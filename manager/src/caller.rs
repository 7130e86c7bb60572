//! Who calls, and what they may ask for.

use std::net::SocketAddr;

use skep_model::{ClusterId, NodeId, NodeRole};
use skep_pki::Peer;
use skep_proto::listen::Caller;
use tonic::{Request, Status};

use crate::manager::Core;

/// What a node is told that was removed: agents take it for the end of their membership.
const REMOVED: &str =
    "the node was removed from the cluster: its certificate is no longer accepted";
/// Metadata key under which a manager that forwards a call names the original caller.
const FORWARDED: &str = "skep-forwarded-peer";

/// The verified caller of a request.
#[derive(Debug, Clone)]
pub struct Verified {
    /// The node that asks; the original one when a manager forwarded the call.
    pub peer: Peer,
    /// Address of the connection, for records.
    pub address: Option<SocketAddr>,
    /// Whether a manager forwarded the call: it is never forwarded twice.
    pub forwarded: bool,
}

/// Who is at the other end of the connection, if they have a certificate of this cluster. A node that
/// was removed has none that counts, until it has run out.
fn connected<T>(request: &Request<T>, core: &Core) -> Result<Option<(Peer, SocketAddr)>, Status> {
    let caller = request.extensions().get::<Caller>();
    let Some((caller, der)) = caller.and_then(|it| Some((it, it.certificate.as_deref()?))) else {
        return Ok(None);
    };
    let peer = Peer::from_der(der)
        .map_err(|_| Status::permission_denied("the certificate cannot be read"))?;
    if peer.cluster != core.cluster {
        return Err(Status::permission_denied(
            "the certificate belongs to another cluster",
        ));
    }
    refuse_removed(core, &peer.node)?;
    Ok(Some((peer, caller.address)))
}

fn refuse_removed(core: &Core, node: &NodeId) -> Result<(), Status> {
    let snapshot = core.machine.store().snapshot();
    let cluster = snapshot.cluster();
    match cluster.is_some_and(|cluster| cluster.removed_nodes.contains_key(node)) {
        true => Err(Status::not_found(REMOVED)),
        false => Ok(()),
    }
}

/// Who calls, if they have a certificate of this cluster.
pub fn verify<T>(request: &Request<T>, core: &Core) -> Result<Option<Verified>, Status> {
    let Some((peer, address)) = connected(request, core)? else {
        return Ok(None);
    };
    match request.metadata().get(FORWARDED) {
        None => Ok(Some(Verified {
            peer,
            address: Some(address),
            forwarded: false,
        })),
        Some(original) if peer.role == NodeRole::Manager => {
            let original = original.to_str().unwrap_or_default();
            let Some(peer) = read_forwarded(original, &core.cluster)? else {
                return Ok(None);
            };
            refuse_removed(core, &peer.node)?;
            Ok(Some(Verified {
                peer,
                address: None,
                forwarded: true,
            }))
        }
        Some(_) => Err(Status::permission_denied("only managers may forward calls")),
    }
}

/// Whether a manager forwarded this call, on behalf of whomever.
pub fn is_forwarded<T>(request: &Request<T>) -> bool {
    request.metadata().contains_key(FORWARDED)
}

/// Who calls; a certificate is required.
pub fn require<T>(request: &Request<T>, core: &Core) -> Result<Verified, Status> {
    verify(request, core)?
        .ok_or_else(|| Status::unauthenticated("a certificate of this cluster is required"))
}

/// Who calls; a manager's certificate is required.
pub fn require_manager<T>(request: &Request<T>, core: &Core) -> Result<Verified, Status> {
    let verified = require(request, core)?;
    if verified.peer.role != NodeRole::Manager {
        return Err(Status::permission_denied(
            "only managers may call this method",
        ));
    }
    Ok(verified)
}

/// The connection itself must be a manager's; whom it speaks for does not matter here.
pub fn require_manager_connection<T>(request: &Request<T>, core: &Core) -> Result<(), Status> {
    match connected(request, core)? {
        Some((peer, _)) if peer.role == NodeRole::Manager => Ok(()),
        Some(_) | None => Err(Status::permission_denied(
            "only managers may call this method",
        )),
    }
}

/// Marks `request` as forwarded on behalf of `peer` (`None`: a caller without certificate).
pub fn mark_forwarded<T>(request: &mut Request<T>, peer: Option<&Peer>) {
    let text = peer.map_or_else(
        || "none".to_owned(),
        |peer| {
            format!(
                "{}/{}",
                skep_pki::authority::role_name(peer.role),
                peer.node
            )
        },
    );
    let value = text.parse().expect("ids and role names are ASCII");
    request.metadata_mut().insert(FORWARDED, value);
}

fn read_forwarded(text: &str, cluster: &ClusterId) -> Result<Option<Peer>, Status> {
    let wrong = || Status::invalid_argument("the forwarded caller cannot be read");
    if text == "none" {
        return Ok(None);
    }
    let (role, node) = text.split_once('/').ok_or_else(wrong)?;
    let role = match role {
        skep_pki::authority::MANAGER_NAME => NodeRole::Manager,
        skep_pki::authority::WORKER_NAME => NodeRole::Worker,
        _ => return Err(wrong()),
    };
    Ok(Some(Peer {
        node: NodeId::new(node),
        role,
        cluster: cluster.clone(),
    }))
}
