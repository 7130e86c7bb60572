//! Cuts flows that have outlived what they led to, beside everything else, and says which version of
//! the assignments packets follow.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_net::{Host, Report, StaleFlows};
use tokio::sync::watch;
use tracing::{debug, warn};

/// Datagrams go where they went until they are cut: only then does this node follow. Connections
/// drain, so nobody waits until they are cut; where very many are remembered that takes a while,
/// and is done beside.
pub(crate) struct Cutter {
    host: Arc<Host>,
    followed: watch::Sender<u64>,
    datagrams: Mutex<Datagrams>,
    connections: Mutex<Pending>,
}

/// What is to be looked for, and whether somebody is at it.
#[derive(Default)]
struct Pending {
    stale: StaleFlows,
    is_busy: bool,
}

#[derive(Default)]
struct Datagrams {
    pending: Pending,
    /// What is followed once they are cut.
    version: Option<u64>,
}

impl Cutter {
    pub fn new(host: Arc<Host>) -> Arc<Self> {
        Arc::new(Self {
            host,
            followed: watch::Sender::new(0),
            datagrams: Mutex::default(),
            connections: Mutex::default(),
        })
    }

    /// The version of the assignments that packets follow.
    pub fn followed(&self) -> watch::Receiver<u64> {
        self.followed.subscribe()
    }

    /// Has flows cut soon, and says that a version is followed as soon as it is.
    pub fn cut(self: &Arc<Self>, stale: StaleFlows, version: Option<u64>) {
        let begins = {
            let mut datagrams = lock(&self.datagrams);
            datagrams.pending.stale.add(stale);
            datagrams.version = version.or(datagrams.version);
            !std::mem::replace(&mut datagrams.pending.is_busy, true)
        };
        if begins {
            let own = Arc::clone(self);
            tokio::task::spawn_blocking(move || own.cut_datagrams());
        }
    }

    fn cut_datagrams(self: &Arc<Self>) {
        loop {
            let (stale, version) = {
                let mut datagrams = lock(&self.datagrams);
                let stale = std::mem::take(&mut datagrams.pending.stale);
                let version = datagrams.version.take();
                if stale.is_empty() && version.is_none() {
                    datagrams.pending.is_busy = false;
                    return;
                }
                (stale, version)
            };
            tell(&self.host.cut_stale_datagrams(&stale));
            if let Some(version) = version {
                self.followed.send_replace(version);
            }
            if !stale.is_empty() {
                self.cut_soon(stale);
            }
        }
    }

    /// Has connections cut, too.
    fn cut_soon(self: &Arc<Self>, stale: StaleFlows) {
        let begins = {
            let mut connections = lock(&self.connections);
            connections.stale.add(stale);
            !std::mem::replace(&mut connections.is_busy, true)
        };
        if begins {
            let own = Arc::clone(self);
            tokio::task::spawn_blocking(move || own.cut_all());
        }
    }

    fn cut_all(&self) {
        loop {
            let stale = {
                let mut connections = lock(&self.connections);
                let stale = std::mem::take(&mut connections.stale);
                if stale.is_empty() {
                    connections.is_busy = false;
                    return;
                }
                stale
            };
            tell(&self.host.cut_stale(&stale));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tell(report: &Report) {
    for change in &report.changes {
        debug!(change, "network");
    }
    for failure in &report.failures {
        warn!(object = failure.object, error = %failure.error.chain(), "network");
    }
}
