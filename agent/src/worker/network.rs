//! Keeps the host's network as assigned, and says what is wrong with it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skep_engine::Guest;
use skep_model::NetworkId;
use skep_model::node::NetworkProblem;
use skep_net::{Failure, NetError};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::{Worker, lock};
use crate::assigned::Assigned;
use crate::{network, paths};

/// Changes of the network are collected this long before they are put into effect.
const SETTLE: Duration = Duration::from_millis(10);
/// The host's network is compared with what it should be this often even when nothing changed:
/// somebody else may have changed it.
const REPAIR: Duration = Duration::from_secs(2);

/// Failures that are told of at the same time.
const FAILURES_MAX: usize = 50;

/// What is wrong with a node's networks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    /// Of the ways to other nodes.
    paths: Vec<NetworkProblem>,
    /// Of what is to be on this host.
    unmade: Vec<NetworkProblem>,
}

impl Problems {
    /// All of them.
    pub fn all(&self) -> Vec<NetworkProblem> {
        [self.unmade.clone(), self.paths.clone()].concat()
    }
}

impl Worker {
    /// What is wrong with this node's networks, now and later.
    pub fn problems(&self) -> watch::Receiver<Problems> {
        self.problems.subscribe()
    }

    /// Takes in what is wrong with the ways to other nodes.
    pub(crate) fn tell_paths(&self, paths: Vec<NetworkProblem>) {
        self.problems.send_if_modified(|known| {
            paths::log_changes(&known.paths, &paths);
            let changed = known.paths != paths;
            known.paths = paths;
            changed
        });
    }

    /// Takes in what of the host's network could not be made.
    fn tell_failures(&self, failures: &[Failure]) {
        let mut unmade: Vec<NetworkProblem> = failures
            .iter()
            .take(FAILURES_MAX)
            .map(|failure| NetworkProblem {
                message: format!("{}: {}", failure.object, failure.error.chain()),
                ..NetworkProblem::default()
            })
            .collect();
        unmade.sort();
        unmade.dedup();
        self.problems.send_if_modified(|known| {
            let changed = known.unmade != unmade;
            known.unmade = unmade;
            changed
        });
    }

    /// Keeps the host's network as assigned: after each change, and every two seconds against
    /// changes by others.
    pub async fn keep_network(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.network_changed.notified() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(REPAIR) => (),
            }
            self.apply_network().await;
        }
    }

    /// Changes the host's network, alone and away from the runtime's threads. What has begun is
    /// finished, also when nobody waits for it any more.
    pub(super) async fn change_network<T, E>(
        self: &Arc<Self>,
        change: impl FnOnce(&Self) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<NetError> + Send + 'static,
    {
        let not_possible = |reason: String| {
            E::from(NetError::Invalid {
                object: "the host's network".to_owned(),
                reason,
            })
        };
        let turn = Arc::clone(&self.network).lock_owned().await;
        if *turn {
            return Err(not_possible("this node has left its cluster".to_owned()));
        }
        let worker = Arc::clone(self);
        let changed = tokio::task::spawn_blocking(move || {
            let outcome = change(&worker);
            drop(turn);
            outcome
        });
        changed
            .await
            .unwrap_or_else(|error| Err(not_possible(error.to_string())))
    }

    /// Leaves the host's network to others, for good: nothing of it is changed afterwards.
    pub async fn give_up_network(&self) {
        *self.network.lock().await = true;
    }

    pub(super) async fn apply_network(self: &Arc<Self>) {
        let followed = self.change_network(|worker| {
            let assigned = worker.assigned();
            let sandboxes = lock(&worker.sandboxes).clone();
            let guests = worker.present_guests();
            let mtu = worker.underlay_mtu();
            let state = network::host_state(&assigned, &sandboxes, &guests, mtu);
            let Some(mut state) = state else {
                return Ok(None);
            };
            let version = assigned.version;
            let began = std::time::Instant::now();
            worker.write_zones(&assigned);
            state.encryption = worker.keys.follow(&worker.host, &assigned, mtu);
            let (report, stale) = worker.host.follow(&state);
            debug!(version, sandboxes = sandboxes.len(), took = ?began.elapsed(), "network followed");
            Ok::<_, NetError>(Some((version, report, stale)))
        });
        match followed.await {
            Ok(None) => (),
            Ok(Some((version, report, stale))) => {
                for change in &report.changes {
                    debug!(change, "network");
                }
                for failure in &report.failures {
                    warn!(object = failure.object, error = %failure.error.chain(), "network");
                }
                self.tell_failures(&report.failures);
                // A port that another program of this host holds leads nobody anywhere.
                // Nor does a firewall that is not ours keep anybody from following.
                let harmless = |failure: &Failure| {
                    matches!(failure.error, NetError::PublishedPort { .. })
                        || failure.object == "firewalls"
                };
                let follows = report.failures.iter().all(harmless);
                self.cutter.cut(stale, follows.then_some(version));
            }
            Err(error) => warn!(%error, "the host's network could not be compared"),
        }
    }

    /// Plain containers on networks of the cluster, as far as their namespaces are there.
    fn present_guests(&self) -> Vec<Guest> {
        let mut guests = self.engine.guests();
        guests.retain(|guest| self.host.namespaces().exists(&guest.netns));
        guests
    }

    /// Leads a plain container's places into its namespace.
    pub(crate) async fn wire(self: &Arc<Self>, guest: &Guest) -> Result<(), NetError> {
        // An encrypted network's tunnel is there before the network is.
        let assigned = self.assigned();
        let is_encrypted = guest.endpoints.iter().any(|endpoint| {
            let network = assigned.networks.get(endpoint.network.as_str());
            network.is_some_and(|network| network.spec.is_encrypted())
        });
        if is_encrypted {
            self.apply_network().await;
        }
        let guest = guest.clone();
        let wired = self.change_network(move |worker| {
            let assigned = worker.assigned();
            worker.write_zones(&assigned);
            let sandbox = network::guest::sandbox(&guest, &assigned);
            let overlays = network::guest::overlays_of(&guest, &assigned);
            worker.host.prepare_sandbox(&sandbox, &overlays).map(drop)
        });
        let wired = wired.await;
        self.network_changed.notify_one();
        wired
    }

    /// Has the host's network compared soon.
    pub(crate) fn network_is_different(&self) {
        self.network_changed.notify_one();
    }

    pub(super) fn write_zones(&self, assigned: &Assigned) {
        let directory = self.run_dir.join("dns");
        if let Err(error) = std::fs::create_dir_all(&directory) {
            warn!(%error, directory = %directory.display(), "zone files cannot be written");
            return;
        }
        let mut wanted = BTreeSet::new();
        for network in assigned
            .networks
            .values()
            .filter(|network| !network.spec.ingress)
        {
            let path = self.zone_path(&network.id);
            if let Err(error) = network::zone(network, assigned).write_if_changed(&path) {
                warn!(%error, network = %network.spec.name, "a zone file could not be written");
            }
            wanted.insert(path);
        }
        // Zones of networks that are gone. Other files here belong to others.
        for entry in std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            let is_ours = path
                .extension()
                .is_some_and(|extension| extension == "zone")
                && path
                    .file_stem()
                    .is_some_and(|stem| stem.len() == skep_model::id::ID_LEN);
            if is_ours && !wanted.contains(&path) {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    pub(crate) fn zone_path(&self, network: &NetworkId) -> PathBuf {
        network::zone_path(&self.run_dir, network)
    }
}
