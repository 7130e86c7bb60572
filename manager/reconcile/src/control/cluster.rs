//! The cluster's settings, and the rotation of its tokens and keys.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use skep_model::cluster::CaConfig;
use skep_model::id::{ID_LEN, base36};
use skep_model::limits::CERT_EXPIRY_SECS_MIN;
use skep_model::{Cluster, ClusterSpec, ControlError, Kind, Nanos, Random, Version};

use super::{Done, Door, check_version};

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
        check_authority(&cluster.spec.ca_config, &spec.ca_config)?;
        cluster.spec = spec.clone();
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
}

/// Refuses what would change the certificate authority: saying yes and doing nothing would leave
/// the cluster with the authority that somebody wants to be rid of.
pub fn check_authority(now: &CaConfig, wanted: &CaConfig) -> Done {
    let refuse = |what: &str| {
        let message = format!("{what} is not offered yet: nothing was changed");
        Err(ControlError::new(Kind::Unimplemented, message))
    };
    if wanted.force_rotate != now.force_rotate {
        return refuse("rotating the cluster's root certificate (`swarm ca --rotate`)");
    }
    if !wanted.signing_ca_cert.is_empty() || !wanted.signing_ca_key.is_empty() {
        return refuse("a root certificate of one's own (`swarm ca --ca-cert`)");
    }
    if !wanted.external_cas.is_empty() {
        return refuse("an external certificate authority (`--external-ca`)");
    }
    Ok(())
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
    let Some((pinned, _)) = token.rsplit_once('-') else {
        return Err(ControlError::new(
            Kind::Internal,
            "the cluster has no join token that could be rotated",
        ));
    };
    let mut bytes = [0u8; 16];
    fill(&mut bytes, random);
    Ok(format!("{pinned}-{:0>ID_LEN$}", base36(&bytes)))
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
