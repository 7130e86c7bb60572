//! Versions of secrets and configs that were forgotten leave this manager's log and snapshots.

use std::sync::Arc;
use std::time::Duration;

use skep_model::payload::Payload;
use skep_model::{Config, Secret};
use skep_store::{Record, Snapshot};
use tracing::{info, warn};

use crate::manager::Core;

/// How long a snapshot may take.
const WITHIN: Duration = Duration::from_secs(60);
/// Pause before it is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Runs for as long as the manager does.
pub async fn follow(core: Arc<Core>) {
    let mut applied = core.machine.applied();
    // Nobody knows whether it was done before this start: it is done once more.
    let mut before = Snapshot::default();
    loop {
        applied.mark_unchanged();
        let now = core.machine.store().snapshot();
        if has_forgotten::<Secret>(&before, &now) || has_forgotten::<Config>(&before, &now) {
            match core.consensus.forget_history(WITHIN).await {
                Ok(()) => info!("forgotten versions have left the log"),
                Err(error) => {
                    warn!(%error, "forgotten versions are still in the log");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
        }
        before = now;
        if applied.changed().await.is_err() {
            return;
        }
    }
}

fn has_forgotten<P: Payload + Record>(before: &Snapshot, now: &Snapshot) -> bool {
    let mut changes = now.changes_since::<P>(before);
    changes.any(|(old, new)| {
        let forgotten = |payload: Option<&Arc<P>>| payload.map_or(0, |it| it.versions().forgotten);
        forgotten(new) > forgotten(old)
    })
}
