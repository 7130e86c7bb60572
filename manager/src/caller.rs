//! Who calls, and what they may ask for.

use skep_model::{ClusterId, NodeId, NodeRole};
use skep_pki::Peer;
use skep_proto::listen::Caller;
use tonic::{Request, Status};

/// Metadata key under which a manager that forwards a call names the original caller.
const FORWARDED: &str = "skep-forwarded-peer";

/// The verified caller of a request.
#[derive(Debug, Clone)]
pub struct Verified {
    /// The node that asks; the original one when a manager forwarded the call.
    pub peer: Peer,
    /// Address of the connection, for records.
    pub address: Option<std::net::SocketAddr>,
    /// Whether a manager forwarded the call: it is never forwarded twice.
    pub forwarded: bool,
}

/// Who calls, if they have a certificate of this cluster.
pub fn verify<T>(request: &Request<T>, cluster: &ClusterId) -> Result<Option<Verified>, Status> {
    let caller = request.extensions().get::<Caller>();
    let Some(der) = caller.and_then(|caller| caller.certificate.as_deref()) else {
        return Ok(None);
    };
    let peer = Peer::from_der(der)
        .map_err(|_| Status::permission_denied("the certificate cannot be read"))?;
    if peer.cluster != *cluster {
        return Err(Status::permission_denied(
            "the certificate belongs to another cluster",
        ));
    }
    let address = caller.map(|caller| caller.address);
    match request.metadata().get(FORWARDED) {
        None => Ok(Some(Verified {
            peer,
            address,
            forwarded: false,
        })),
        Some(original) if peer.role == NodeRole::Manager => {
            let original = original.to_str().unwrap_or_default();
            let peer = read_forwarded(original, cluster)?;
            Ok(peer.map(|peer| Verified {
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
pub fn require<T>(request: &Request<T>, cluster: &ClusterId) -> Result<Verified, Status> {
    verify(request, cluster)?
        .ok_or_else(|| Status::unauthenticated("a certificate of this cluster is required"))
}

/// Who calls; a manager's certificate is required.
pub fn require_manager<T>(request: &Request<T>, cluster: &ClusterId) -> Result<Verified, Status> {
    let verified = require(request, cluster)?;
    if verified.peer.role != NodeRole::Manager {
        return Err(Status::permission_denied(
            "only managers may call this method",
        ));
    }
    Ok(verified)
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
