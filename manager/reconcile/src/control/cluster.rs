//! The cluster's settings, and the rotation of its tokens and keys.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use skep_model::external_ca::pin_root;
use skep_model::id::{ID_LEN, base36};
use skep_model::limits::CERT_EXPIRY_SECS_MIN;
use skep_model::{Cluster, ClusterSpec, ControlError, Kind, Nanos, Random, Version};

use super::authority::{RootWish, check_external, root_wish};
use super::{Done, Door, check_version};

/// First characters of a join token.
pub(super) const TOKEN: &str = "SWMTKN-1-";

/// Which secrets are to be made anew.
pub(super) struct Rotate {
    pub worker_token: bool,
    pub manager_token: bool,
    pub unlock_key: bool,
    pub data_keys: bool,
}

impl Door<'_> {
    pub(super) fn update_cluster(
        &mut self,
        version: Version,
        spec: &ClusterSpec,
        rotate: Rotate,
    ) -> Done {
        let Some(cluster) = self.tx.cluster() else {
            return Err(ControlError::not_found("cluster not found"));
        };
        let mut cluster = Cluster::clone(cluster);
        check_version(version, cluster.version)?;
        check_cluster(spec)?;
        spec.node_expiry()?;
        // What was stored before there were bounds may be sent back as it was.
        if spec.raft != cluster.spec.raft {
            spec.raft.check()?;
        }
        let mut spec = spec.clone();
        pin_authorities(&mut cluster, &mut spec);
        self.update_root(&mut cluster, &spec)?;
        let before = cluster.spec.ca_config.node_cert_expiry;
        cluster.longest_cert_expiry = cluster.longest_cert_expiry.max(before);
        cluster.spec = spec;
        // Secrets are no settings, and a certificate without its key would be a wish of its own.
        cluster.spec.ca_config.signing_ca_cert.clear();
        cluster.spec.ca_config.signing_ca_key.clear();
        if rotate.worker_token {
            let token = rotated(&cluster.join_tokens.worker, self.random)?;
            cluster.join_tokens.worker = token;
        }
        if rotate.manager_token {
            let token = rotated(&cluster.join_tokens.manager, self.random)?;
            cluster.join_tokens.manager = token;
        }
        if rotate.data_keys {
            self.rotate_data_keys(&mut cluster)?;
        }
        let locks = cluster.spec.encryption_config.auto_lock_managers;
        if !locks {
            cluster.unlock_key.clear();
        } else if rotate.unlock_key || cluster.unlock_key.is_empty() {
            cluster.unlock_key = unlock_key(self.random);
        }
        self.put(cluster)
    }

    /// Begins, replaces or ends the rotation of the root as the settings want it.
    fn update_root(&mut self, cluster: &mut Cluster, spec: &ClusterSpec) -> Done {
        match (
            root_wish(&cluster.root_ca, &spec.ca_config)?,
            self.next_root.take(),
        ) {
            (RootWish::Keep, _) => (),
            (_, Some(next)) => {
                cluster.root_rotation_in_progress = next.root_ca.rotation.is_some();
                cluster.root_ca = next.root_ca;
                cluster.tls_info = next.tls_info;
            }
            (RootWish::Generate | RootWish::Take { .. } | RootWish::Adopt { .. }, None) => {
                return Err(ControlError::new(
                    Kind::Internal,
                    "no root certificate was made for this update",
                ));
            }
        }
        let before = &cluster.spec.ca_config;
        check_external(before, &spec.ca_config, &cluster.root_ca)
    }
}

/// Has every external authority name its root, those that are there already first: they sign for the
/// root that is there now, not for one that comes later.
fn pin_authorities(cluster: &mut Cluster, wanted: &mut ClusterSpec) {
    let present = &cluster.root_ca.cert;
    let known = &mut cluster.spec.ca_config.external_cas;
    pin_root(known, &[], present);
    pin_root(&mut wanted.ca_config.external_cas, known, present);
}

fn check_cluster(spec: &ClusterSpec) -> Done {
    if spec.ca_config.node_cert_expiry < Nanos::from_secs(CERT_EXPIRY_SECS_MIN) {
        return Err(ControlError::invalid(
            "minimum certificate expiry time is: 1h0m0s",
        ));
    }
    if spec.dispatcher.heartbeat_period.0 <= 0 {
        return Err(ControlError::invalid(
            "heartbeat time period cannot be a negative duration",
        ));
    }
    Ok(())
}

/// The same token with a new secret: the part that pins the root certificate stays.
fn rotated(token: &str, random: &mut dyn Random) -> Result<String, ControlError> {
    let pinned = token
        .strip_prefix(TOKEN)
        .and_then(|rest| rest.rsplit_once('-'));
    let Some((pinned, _)) = pinned else {
        return Err(ControlError::new(
            Kind::Internal,
            "the cluster has no join token that could be rotated",
        ));
    };
    Ok(join_token(pinned, random))
}

/// A fresh join token for the root that `pinned` stands for.
pub(crate) fn join_token(pinned: &str, random: &mut dyn Random) -> String {
    let mut bytes = [0u8; 16];
    fill(&mut bytes, random);
    format!("{TOKEN}{pinned}-{:0>ID_LEN$}", base36(&bytes))
}

/// A key that unlocks managers: 32 random bytes.
fn unlock_key(random: &mut dyn Random) -> String {
    let mut bytes = [0u8; 32];
    fill(&mut bytes, random);
    format!("SWMKEY-1-{}", STANDARD_NO_PAD.encode(bytes))
}

fn fill(bytes: &mut [u8], random: &mut dyn Random) {
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&random.next_u64().to_be_bytes()[..chunk.len()]);
    }
}
