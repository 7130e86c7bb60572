//! This node's certificate and the lock on its keys, kept as the cluster wants them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use skep_manager::clock;
use skep_model::{ControlError, NodeRole};
use skep_pki::Identity;
use skep_pki::tls::{client_config, server_config};
use skep_pki::unlock::UnlockKey;
use tracing::{info, warn};

use super::{Active, RENEW_RETRY, internal, lock};
use crate::membership::{issue, skep_error_chain};

/// The unlock key is compared with the cluster's this often even when nothing seems to change, and
/// at most this often.
const LOCK_LOOK: Duration = Duration::from_secs(1);
const LOCK_SETTLE: Duration = Duration::from_millis(10);

impl Active {
    /// Has this manager's secrets lie on disk as the cluster wants it: with autolock under the
    /// unlock key, else, and on workers, plain.
    pub(super) async fn keep_lock(self: Arc<Self>) {
        loop {
            self.wait_for_change().await;
            let Some(wanted) = self.wanted_lock().await else {
                continue;
            };
            let files = self.files.clone();
            let followed = tokio::task::spawn_blocking(move || files.follow_lock(wanted.as_ref()));
            match followed.await {
                Ok(Ok(())) => (),
                Ok(Err(error)) => warn!(
                    error = skep_error_chain(&error),
                    "the manager's keys could not be put under the unlock key"
                ),
                Err(error) => warn!(%error, "the manager's keys could not be looked at"),
            }
        }
    }

    /// Waits until the cluster's state has changed, or for a while.
    pub(super) async fn wait_for_change(&self) {
        let Ok(manager) = self.manager() else {
            return tokio::time::sleep(LOCK_LOOK).await;
        };
        let mut applied = manager.core().machine.applied();
        drop(manager);
        let _ = tokio::time::timeout(LOCK_LOOK, applied.changed()).await;
        // Many changes come at once.
        tokio::time::sleep(LOCK_SETTLE).await;
    }

    /// The unlock key in force, `Some(None)` without one; nothing while that is not known.
    pub(super) async fn wanted_lock(&self) -> Option<Option<UnlockKey>> {
        let Ok(manager) = self.manager() else {
            return Some(None);
        };
        let snapshot = manager.snapshot(true).await.ok()?;
        let cluster = snapshot.cluster()?;
        if !cluster.spec.encryption_config.auto_lock_managers {
            return Some(None);
        }
        cluster.unlock_key.parse().ok().map(Some)
    }

    pub(super) async fn renew_in_time(self: Arc<Self>) {
        loop {
            let chance = lock(&self.saved).renew_chance;
            let at = self.identity.load().renew_at(chance);
            // Looked at again now and then: clocks jump.
            let pause = at
                .since(clock::now())
                .clamp(RENEW_RETRY, Duration::from_secs(3600));
            tokio::time::sleep(pause).await;
            if at <= clock::now()
                && let Err(error) = self.renew().await
            {
                warn!(%error, "the certificate could not be renewed yet");
            }
        }
    }

    /// Gets the next certificate and puts it to use; starts or stops the manager if the role in
    /// it is another one.
    pub(super) async fn renew(self: &Arc<Self>) -> Result<(), ControlError> {
        let _renewing = self.renewing.lock().await;
        let before = self.identity.load().peer.role;
        let managers = self.managers.borrow().clone();
        let identity = issue::next_certificate(&self.connector, &managers).await?;
        let role = identity.peer.role;
        self.put_to_use(identity)?;
        info!(?role, "certificate renewed");
        match (before, role) {
            (NodeRole::Worker, NodeRole::Manager) => {
                self.become_manager().await?;
                self.restart_session();
            }
            (NodeRole::Manager, NodeRole::Worker) => {
                self.become_worker().await?;
                self.restart_session();
            }
            (NodeRole::Worker, NodeRole::Worker) | (NodeRole::Manager, NodeRole::Manager) => {
                // A vote that was refused while the node's role changed is asked for again.
                let has_vote = self.has_vote.load(Ordering::SeqCst);
                if role == NodeRole::Manager && (self.saved().raft_id == 0 || !has_vote) {
                    self.become_manager().await?;
                    self.restart_session();
                }
            }
        }
        Ok(())
    }

    /// Trusts other roots from now on.
    pub(super) async fn trust(&self, roots: &str) -> Result<(), ControlError> {
        // A certificate that is just being issued comes with roots that may be older.
        let _renewing = self.renewing.lock().await;
        let identity = self.identity.load_full();
        if identity.root_pem == roots {
            return Ok(());
        }
        self.put_to_use(identity.trusting(roots).map_err(internal)?)?;
        info!("trusting the cluster's new root");
        Ok(())
    }

    /// Has an identity take the place of the one before: on disk, for connections from now on, and in
    /// what the node says of itself. Connections that there are go on.
    pub(super) fn put_to_use(&self, identity: Identity) -> Result<(), ControlError> {
        let client = client_config(&identity).map_err(internal)?;
        let server = server_config(&identity).map_err(internal)?;
        self.files.save_identity(&identity)?;
        self.client_tls.store(client);
        self.server_tls.store(server);
        let told = identity.tls_info();
        self.identity.store(Arc::new(identity));
        self.connector.forget_all();
        self.description.send_if_modified(|description| {
            let changed = description.tls_info != told;
            description.tls_info = told;
            changed
        });
        Ok(())
    }
}
