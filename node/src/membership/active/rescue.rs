//! A node whose certificate has run out gets another one, and is the node that it was.
//!
//! A manager has the cluster's root in its own log and needs nobody: when all managers were off for
//! too long there is nobody to ask. A worker asks a manager, with a join token.

use std::sync::Arc;

use skep_api::texts;
use skep_manager::{Manager, clock};
use skep_model::{ControlError, Kind, NodeRole, Timestamp};
use skep_pki::{Authority, Identity, JoinToken, request_certificate};
use tracing::info;

use super::{Active, internal};
use crate::membership::issue;

impl Active {
    /// Replaces a certificate that has run out; until when the next one is good.
    pub(crate) async fn rescue(self: &Arc<Self>, token: &str) -> Result<Timestamp, ControlError> {
        let renewing = self.renewing.lock().await;
        let identity = self.identity.load_full();
        if identity.not_after > clock::now() {
            return Err(ControlError::new(
                Kind::FailedPrecondition,
                format!(
                    "this node's certificate is good until {}: there is nothing to rescue",
                    identity.not_after
                ),
            ));
        }
        let next = match self.manager() {
            Ok(manager) => self.issued_by_own_log(&manager).await?,
            Err(_) => self.issued_by_managers(&identity, token).await?,
        };
        let until = next.not_after;
        self.put_to_use(next)?;
        drop(renewing);
        info!(%until, "a certificate that had run out is replaced");
        self.restart_session();
        Ok(until)
    }

    /// Has an error name the certificate, where that is why nobody is reached.
    pub(crate) fn explain(&self, error: ControlError) -> ControlError {
        let has_expired = self.identity.load().not_after <= clock::now();
        match error.kind {
            Kind::Unavailable if has_expired => {
                ControlError::new(Kind::Unavailable, texts::CERTIFICATES_EXPIRED)
            }
            _ => error,
        }
    }

    async fn issued_by_own_log(&self, manager: &Manager) -> Result<Identity, ControlError> {
        let refuse = |why: &str| Err(ControlError::new(Kind::FailedPrecondition, why));
        let snapshot = manager.snapshot(true).await?;
        let Some(cluster) = snapshot.cluster() else {
            return refuse("this manager's log holds no cluster: rescue another manager first");
        };
        let node = self.node();
        let is_manager = snapshot
            .node(&node)
            .is_some_and(|known| known.role == NodeRole::Manager);
        if !is_manager || cluster.removed_nodes.contains_key(&node) {
            return refuse(
                "this node is no manager any more: leave the swarm (`skep swarm leave --force`) and join again",
            );
        }
        let now = clock::now();
        let key = request_certificate().map_err(internal)?;
        let life = cluster.spec.ca_config.node_cert_expiry.duration();
        let cert = Authority::of(&cluster.root_ca)
            .and_then(|authority| {
                let role = NodeRole::Manager;
                authority.sign(&key.csr_pem, &node, role, &cluster.id, life, now)
            })
            .map_err(internal)?;
        Identity::from_pem(&cert, &key.key_pem, &cluster.root_ca.trusted()).map_err(internal)
    }

    async fn issued_by_managers(
        &self,
        identity: &Identity,
        token: &str,
    ) -> Result<Identity, ControlError> {
        if token.is_empty() {
            return Err(ControlError::invalid(
                "a worker is taken back against a join token: run `skep swarm rescue --token TOKEN`, with the token that `skep swarm join-token worker` shows on a manager",
            ));
        }
        let token: JoinToken =
            token
                .parse()
                .map_err(|error: skep_pki::token::TokenParseError| {
                    ControlError::invalid(error.to_string())
                })?;
        let managers = self.managers.borrow().clone();
        issue::certificate_after_the_end(&managers, identity, &token).await
    }
}
