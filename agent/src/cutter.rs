//! Cuts flows that have outlived what they led to, beside everything else, and says which version of
//! the assignments packets follow.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_net::{Host, Report, StaleFlows};
use tokio::sync::watch;
use tracing::{debug, warn};

/// Connections drain, so nobody has to wait until they are cut; with very many of them that takes a
/// while. Datagrams go where they went until they are cut: only then does this node follow.
pub(crate) struct Cutter {
    host: Arc<Host>,
    followed: watch::Sender<u64>,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    /// To be looked for among datagrams and among all flows.
    stale: StaleFlows,
    /// What is followed once the datagrams are cut.
    version: Option<u64>,
    is_busy: bool,
}

impl Cutter {
    pub fn new(host: Arc<Host>) -> Arc<Self> {
        Arc::new(Self {
            host,
            followed: watch::Sender::new(0),
            pending: Mutex::default(),
        })
    }

    /// The version of the assignments that packets follow.
    pub fn followed(&self) -> watch::Receiver<u64> {
        self.followed.subscribe()
    }

    /// Has flows cut soon, and then says that a version is followed.
    pub fn cut(self: &Arc<Self>, stale: StaleFlows, version: Option<u64>) {
        {
            let mut pending = self.lock();
            pending.stale.add(stale);
            pending.version = version.or(pending.version);
            if pending.is_busy {
                return;
            }
            pending.is_busy = true;
        }
        let own = Arc::clone(self);
        tokio::task::spawn_blocking(move || own.work());
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut left = StaleFlows::default();
        loop {
            let (stale, version) = {
                let mut pending = self.lock();
                let next = (std::mem::take(&mut pending.stale), pending.version.take());
                if next.0.is_empty() && next.1.is_none() && left.is_empty() {
                    pending.is_busy = false;
                    return;
                }
                next
            };
            // What others wait for comes first.
            if stale.is_empty() && version.is_none() {
                tell(&self.host.cut_stale(&std::mem::take(&mut left)));
                continue;
            }
            tell(&self.host.cut_stale_datagrams(&stale));
            left.add(stale);
            if let Some(version) = version {
                self.followed.send_replace(version);
            }
        }
    }
}

fn tell(report: &Report) {
    for change in &report.changes {
        debug!(change, "network");
    }
    for failure in &report.failures {
        warn!(object = failure.object, error = %failure.error.chain(), "network");
    }
}
