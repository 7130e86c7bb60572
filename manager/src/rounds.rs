//! Calls the sessions when their assignments may be others, in rounds: what changes at about the
//! same time is told at once.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use crate::manager::Core;

/// Changes are collected this long before anybody is told.
const SETTLE: Duration = Duration::from_millis(5);
/// What a session costs that has to look. So long after a round nobody is called again, or those
/// who are called often would keep the others from their turn.
const PER_SESSION: Duration = Duration::from_micros(100);
/// Nobody waits longer than this for the next round.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Runs for as long as the manager does.
pub async fn run(core: Arc<Core>) {
    let mut applied = core.machine.applied();
    while applied.changed().await.is_ok() {
        tokio::time::sleep(SETTLE).await;
        applied.mark_unchanged();
        let following = Arc::clone(&core);
        // Aside of the threads that hear heartbeats.
        let called = tokio::task::spawn_blocking(move || {
            let (_, called) = following.sessions.follow(&following);
            called
        });
        match called.await {
            Ok(called) => {
                let sessions = u32::try_from(called).unwrap_or(u32::MAX);
                tokio::time::sleep(PER_SESSION.saturating_mul(sessions).min(PAUSE_MAX)).await;
            }
            Err(error) => warn!(%error, "a round of assignments was not made"),
        }
    }
}
