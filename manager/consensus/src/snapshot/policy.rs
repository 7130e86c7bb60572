//! When a snapshot is due: after so many entries since the last one. How many can be changed while
//! the member runs, which openraft's own policy cannot.

use std::time::Duration;

use tokio::sync::watch;

use crate::raft::{LogId, Raft};

/// A snapshot that is being built is looked after this often: it is asked for but once meanwhile.
const BUILDING: Duration = Duration::from_secs(1);

/// Whether the log has grown by so many entries since the last snapshot.
fn is_due(applied: Option<LogId>, snapshot: Option<LogId>, every: u64) -> bool {
    let entries = |id: Option<LogId>| id.map_or(0, |id| id.index + 1);
    entries(applied).saturating_sub(entries(snapshot)) >= every.max(1)
}

/// Asks for snapshots when they are due, until the member stops.
pub(crate) async fn run(raft: Raft, mut every: watch::Receiver<u64>) {
    let mut metrics = raft.data_metrics();
    loop {
        let (due, last) = {
            let now = metrics.borrow_and_update();
            let every = *every.borrow_and_update();
            (is_due(now.last_applied, now.snapshot, every), now.snapshot)
        };
        if due {
            if raft.trigger().snapshot().await.is_err() {
                return;
            }
            let built = metrics.wait_for(|now| now.snapshot != last);
            // The guard on the value must not live across the next await.
            let ended = matches!(tokio::time::timeout(BUILDING, built).await, Ok(Err(_)));
            if ended {
                return;
            }
            continue;
        }
        let ended = tokio::select! {
            changed = metrics.changed() => changed.is_err(),
            changed = every.changed() => changed.is_err(),
        };
        if ended {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;

    #[test]
    fn a_snapshot_is_due_after_so_many_entries() {
        let at = |index: u64| Some(LogId::new(CommittedLeaderId::new(1, 1), index));
        // The first entry has index 0.
        assert!(!is_due(at(8), None, 10));
        assert!(is_due(at(9), None, 10));
        assert!(!is_due(at(18), at(9), 10));
        assert!(is_due(at(19), at(9), 10));
        assert!(is_due(at(400), at(9), 10));
        assert!(!is_due(None, None, 0), "nothing was written");
        // A follower that was just given a snapshot is not behind it.
        assert!(!is_due(at(9), at(20), 10));
    }
}
