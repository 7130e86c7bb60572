//! What the API asks of this node's membership.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use skep_api::cluster::{
    BackupInput, BackupStream, Cluster, ExecRequest, InitRequest, JoinRequest, LocalCluster,
    LocalState, LogOptions, LogSource, LogStream, RestoreRequest, Restored,
};
use skep_api::texts;
use skep_engine::{Attachment, OwnedImage};
use skep_manager::clock;
use skep_model::audit::NetworkAudit;
use skep_model::preview::ServicePreview;
use skep_model::rollout::StackProgress;
use skep_model::stack::StackPlan;
use skep_model::why::Why;
use skep_model::{ControlError, ControlRequest, ControlResponse, Kind, NodeId, Timestamp};
use skep_pki::unlock::UnlockKey;
use skep_store::Snapshot;

use super::making::JOIN_TIMEOUT;
use super::{
    LOCKED_LEAVE, Membership, State, WRONG_UNLOCK_KEY, backup, clock_random, exec, internal, leave,
    logs,
};

/// A task of a removed service that has not stopped for so long is told of by `network check`.
const LEAKED_AFTER: Duration = Duration::from_secs(600);

#[async_trait]
impl Cluster for Membership {
    fn local(&self) -> LocalCluster {
        match &*self.inner.state.borrow() {
            State::Inactive => LocalCluster::default(),
            State::Pending => LocalCluster {
                state: LocalState::Pending,
                ..Default::default()
            },
            State::Locked => LocalCluster {
                state: LocalState::Locked,
                ..Default::default()
            },
            State::Failed(error) => LocalCluster {
                state: LocalState::Error,
                error: error.clone(),
                ..Default::default()
            },
            State::Active(active) => active.local(),
        }
    }

    async fn init(&self, request: InitRequest) -> Result<NodeId, ControlError> {
        let _changing = self.inner.changing.lock().await;
        if request.force_new_cluster
            && let Ok(active) = self.active()
        {
            return self.renew_cluster(&active, &request).await;
        }
        self.refuse_member()?;
        self.inner.state.send_replace(State::Pending);
        let outcome = self.make(request).await;
        self.settle(outcome).await
    }

    async fn join(&self, request: JoinRequest) -> Result<(), ControlError> {
        let _changing = self.inner.changing.lock().await;
        self.refuse_member()?;
        self.inner.state.send_replace(State::Pending);
        let outcome = match tokio::time::timeout(JOIN_TIMEOUT, self.enter(request)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ControlError::new(
                Kind::Unavailable,
                "Timeout was reached before node joined. Nothing was changed on this node; check the manager's address and port, and try again.",
            )),
        };
        self.settle(outcome).await
    }

    async fn leave(&self, force: bool) -> Result<(), ControlError> {
        let _changing = self.inner.changing.lock().await;
        let state = self.inner.state.borrow().clone();
        match state {
            State::Inactive | State::Pending => {
                return Err(ControlError::new(Kind::Unavailable, texts::NOT_PART));
            }
            State::Locked if !force => {
                return Err(ControlError::new(Kind::Unavailable, LOCKED_LEAVE));
            }
            State::Locked | State::Failed(_) => self.inner.files.remove()?,
            State::Active(active) => {
                leave::check(&active, force)?;
                leave::say_goodbye(&active).await;
                leave::dissolve(&active).await;
            }
        }
        self.inner.state.send_replace(State::Inactive);
        Ok(())
    }

    async fn unlock(&self, key: &str) -> Result<(), ControlError> {
        let _changing = self.inner.changing.lock().await;
        let state = self.inner.state.borrow().clone();
        match state {
            State::Inactive => Err(ControlError::new(Kind::Unavailable, texts::NOT_PART)),
            State::Pending | State::Active(_) | State::Failed(_) => {
                Err(ControlError::new(Kind::Conflict, "swarm is not locked"))
            }
            State::Locked => {
                let opens = match key.parse::<UnlockKey>() {
                    Ok(key) => self.inner.files.unlock(&key)?,
                    Err(_) => false,
                };
                if !opens {
                    return Err(ControlError::new(Kind::Unauthenticated, WRONG_UNLOCK_KEY));
                }
                let Some(saved) = self.inner.files.load()? else {
                    return Err(internal("the membership's files are gone"));
                };
                self.take_up(saved).await;
                self.active().map(drop)
            }
        }
    }

    async fn rescue(&self, token: &str) -> Result<Timestamp, ControlError> {
        self.active()?.rescue(token).await
    }

    async fn backup(&self, passphrase: String) -> Result<BackupStream, ControlError> {
        self.take_backup(passphrase).await
    }

    async fn restore(
        &self,
        request: RestoreRequest,
        input: BackupInput,
    ) -> Result<Restored, ControlError> {
        self.refuse_member()?;
        // A passphrase, a slow client, a damaged file: nothing waits for them, and nothing is changed.
        let loaded = backup::load(request.passphrase.clone(), input).await?;
        let membership = self.clone();
        // A client that goes away meanwhile must not leave half a membership behind.
        let restoring = tokio::spawn(async move {
            let _changing = membership.inner.changing.lock().await;
            membership.refuse_member()?;
            membership.inner.state.send_replace(State::Pending);
            let outcome = membership.restore_from(request, loaded).await;
            membership.settle(outcome).await
        });
        restoring.await.map_err(internal)?
    }

    async fn unlock_key(&self) -> Result<String, ControlError> {
        let snapshot = self.snapshot(false).await?;
        Ok(snapshot
            .cluster()
            .map(|cluster| cluster.unlock_key.clone())
            .unwrap_or_default())
    }

    async fn snapshot(&self, stale: bool) -> Result<Snapshot, ControlError> {
        let active = self.active()?;
        let snapshot = active.manager()?.snapshot(stale).await;
        snapshot.map_err(|error| active.explain(error))
    }

    async fn audit(&self) -> Result<NetworkAudit, ControlError> {
        let snapshot = self.snapshot(false).await?;
        let settled = Timestamp(
            clock::now()
                .0
                .saturating_sub(LEAKED_AFTER.as_nanos() as i64),
        );
        Ok(skep_reconcile::audit::audit(&snapshot, settled))
    }

    fn networks_here(&self) -> Vec<Arc<skep_model::Network>> {
        let active = self.active().ok();
        let assigned = active.map(|active| active.worker().assigned());
        assigned.map_or(Vec::new(), |assigned| {
            assigned.networks.values().cloned().collect()
        })
    }

    async fn locate(&self, image: &str, only_own: bool) -> Vec<OwnedImage> {
        let Ok(active) = self.active() else {
            return Vec::new();
        };
        active.locate(image, only_own).await
    }

    fn watch(&self) -> Option<skep_store::Watch> {
        Some(self.active().ok()?.manager().ok()?.watch())
    }

    async fn submit(&self, request: ControlRequest) -> Result<ControlResponse, ControlError> {
        let active = self.active()?;
        let response = active.manager()?.submit(request).await;
        response.map_err(|error| active.explain(error))
    }

    async fn preview(&self, request: ControlRequest) -> Result<ServicePreview, ControlError> {
        let snapshot = self.snapshot(false).await?;
        skep_reconcile::preview(&request, &snapshot, clock::now(), &mut clock_random())
    }

    async fn plan_stack(&self, request: ControlRequest) -> Result<StackPlan, ControlError> {
        let snapshot = self.snapshot(false).await?;
        skep_reconcile::plan_stack(&request, &snapshot, clock::now(), &mut clock_random())
    }

    async fn stack_progress(&self, name: &str) -> Result<Option<StackProgress>, ControlError> {
        let snapshot = self.snapshot(false).await?;
        Ok(skep_reconcile::stack_progress(&snapshot, name))
    }

    async fn why(&self, object: Option<&str>, sort: &str) -> Result<Why, ControlError> {
        self.reasons(object, sort).await
    }

    async fn exec(&self, request: ExecRequest) -> Result<Option<Attachment>, ControlError> {
        let manager = self.active()?.manager()?;
        exec::start(&manager, request).await
    }

    async fn logs(
        &self,
        source: LogSource,
        options: LogOptions,
    ) -> Result<LogStream, ControlError> {
        let manager = self.active()?.manager()?;
        logs::open(&manager, source, options).await
    }
}
