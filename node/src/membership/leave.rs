//! Leaving a cluster: who may, who is told, and that nothing remains.

use std::sync::Arc;
use std::time::Duration;

use skep_model::{ControlError, Kind};
use tracing::warn;

use super::active::Active;
use super::skep_error_chain;

/// How long the other managers may take to let this node go.
const GOODBYE: Duration = Duration::from_secs(10);
/// How long tasks may take to stop.
const STOP_TASKS: Duration = Duration::from_secs(30);

/// Refuses managers that do not insist, with the texts Swarm's users know.
pub fn check(active: &Active, force: bool) -> Result<(), ControlError> {
    let Ok(manager) = active.manager() else {
        return Ok(());
    };
    if force {
        return Ok(());
    }
    let (reachable, unreachable) = manager.reachability();
    let mut text =
        "You are attempting to leave the swarm on a node that is participating as a manager. "
            .to_owned();
    if reachable <= 1 && unreachable == 0 {
        text.push_str("Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message. ");
        return Err(ControlError::new(Kind::Unavailable, text));
    }
    let total = reachable + unreachable;
    if reachable.saturating_sub(1) < total / 2 + 1 {
        text.push_str(&format!(
            "Removing this node leaves {} managers out of {total}. Without a Raft quorum your swarm will be inaccessible. ",
            reachable.saturating_sub(1)
        ));
    }
    text.push_str("The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. Use `--force` to suppress this message.");
    Err(ControlError::new(Kind::Unavailable, text))
}

/// Tells the cluster that this node goes, so that its tasks start elsewhere at once. A cluster
/// that cannot be told finds out by itself.
pub async fn say_goodbye(active: &Arc<Active>) {
    match tokio::time::timeout(GOODBYE, active.leave_log()).await {
        Ok(Ok(())) => (),
        Ok(Err(error)) => warn!(%error, "the cluster could not be told that this node leaves"),
        Err(_) => warn!("the cluster could not be told in time that this node leaves"),
    }
}

/// Stops everything that belongs to the membership and removes its files and networks.
pub async fn dissolve(active: &Arc<Active>) {
    active.end_session().await;
    active.worker().stop_all(STOP_TASKS).await;
    active.stop().await;
    active.remove_networks().await;
    if let Err(error) = active.files().remove() {
        warn!(
            error = skep_error_chain(&error),
            "files of the cluster that was left stay"
        );
    }
}
