//! Certificates for this node: the first one against a join token, later ones against the one
//! before.

use std::sync::Arc;
use std::time::Duration;

use skep_model::node::NodeDescription;
use skep_model::{Availability, ControlError, Kind};
use skep_pki::rescue::request_with_same_key;
use skep_pki::tls::{anonymous_client_config, unverified_client_config};
use skep_pki::{Identity, JoinToken, request_certificate};
use skep_proto::connect::{Connector, open_once};
use skep_proto::v1::ca_client::CaClient;
use skep_proto::v1::{Empty, IssueReply, IssueRequest};
use skep_proto::{encode, status};
use tonic::Code;

/// How long one question may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a new node brings.
pub struct Wish {
    pub token: JoinToken,
    pub description: NodeDescription,
    pub availability: Availability,
}

fn internal(error: impl std::fmt::Display) -> ControlError {
    ControlError::new(Kind::Internal, error.to_string())
}

/// Asks the managers at `remotes`, one after the other, to take this node in.
pub async fn first_certificate(remotes: &[String], wish: &Wish) -> Result<Identity, ControlError> {
    let mut last = ControlError::invalid("at least 1 RemoteAddr is required to join");
    for remote in remotes {
        match ask(remote, wish).await {
            Ok(identity) => return Ok(identity),
            // Another manager of the same cluster would say the same.
            Err(error) if error.kind != Kind::Unavailable => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn ask(remote: &str, wish: &Wish) -> Result<Identity, ControlError> {
    let mut stranger = CaClient::new(open_once(
        remote,
        unverified_client_config().map_err(internal)?,
    ));
    let root = within(remote, stranger.get_root(Empty {})).await?.root_pem;
    if !wish.token.pins(&root) {
        return Err(ControlError::invalid(format!(
            "remote CA does not match fingerprint. Expected: {}. The token belongs to another cluster, or somebody else answers at {remote}",
            wish.token.pinned()
        )));
    }
    let key = request_certificate().map_err(internal)?;
    let config = anonymous_client_config(&root).map_err(internal)?;
    let mut manager = CaClient::new(open_once(remote, config));
    let request = IssueRequest {
        csr_pem: key.csr_pem,
        token: wish.token.reveal(),
        description: encode(&wish.description),
        expired_cert_pem: String::new(),
        availability: match wish.availability {
            Availability::Active => "active",
            Availability::Pause => "pause",
            Availability::Drain => "drain",
        }
        .to_owned(),
    };
    let reply = within(remote, manager.issue(request)).await?;
    // The pinned root vouches for the answer, and so for the next root during a rotation.
    Identity::from_pem(&reply.cert_pem, &key.key_pem, &reply.root_pem).map_err(internal)
}

/// Asks for the next certificate of a member.
pub async fn next_certificate(
    connector: &Arc<Connector>,
    managers: &[String],
) -> Result<Identity, ControlError> {
    let mut last = ControlError::new(Kind::Unavailable, "no manager is known");
    for address in managers {
        let key = request_certificate().map_err(internal)?;
        let request = IssueRequest {
            csr_pem: key.csr_pem,
            ..Default::default()
        };
        let mut client = CaClient::new(connector.channel(address));
        let reply: Result<IssueReply, ControlError> = within(address, client.issue(request)).await;
        match reply {
            Ok(reply) => {
                return Identity::from_pem(&reply.cert_pem, &key.key_pem, &reply.root_pem)
                    .map_err(internal);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Asks for the next certificate of a member whose last one, which `identity` holds, has run out.
pub async fn certificate_after_the_end(
    managers: &[String],
    identity: &Identity,
    token: &JoinToken,
) -> Result<Identity, ControlError> {
    let key = request_with_same_key(identity).map_err(internal)?;
    let mut last = ControlError::new(Kind::Unavailable, "no manager is known");
    for address in managers {
        let config = anonymous_client_config(&identity.root_pem).map_err(internal)?;
        let mut manager = CaClient::new(open_once(address, config));
        let request = IssueRequest {
            csr_pem: key.csr_pem.clone(),
            token: token.reveal(),
            expired_cert_pem: identity.cert_pem.clone(),
            ..Default::default()
        };
        match within(address, manager.issue(request)).await {
            Ok(reply) => {
                return Identity::from_pem(&reply.cert_pem, &key.key_pem, &reply.root_pem)
                    .map_err(internal);
            }
            Err(error) if error.kind != Kind::Unavailable => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn within<T>(
    remote: &str,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, ControlError> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(answer)) if answer.code() == Code::Unavailable => {
            let reason = match std::error::Error::source(&answer) {
                Some(cause) => super::skep_error_chain(cause),
                None => answer.message().to_owned(),
            };
            Err(ControlError::new(
                Kind::Unavailable,
                format!("could not connect to the manager at {remote}: {reason}"),
            ))
        }
        Ok(Err(answer)) => Err(status::to_control(&answer)),
        Err(_) => Err(ControlError::new(
            Kind::Unavailable,
            format!("the manager at {remote} did not answer in time"),
        )),
    }
}
