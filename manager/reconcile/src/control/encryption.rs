//! Which networks are encrypted, and the replacement of their keys on demand.

use skep_model::encryption::{ENCRYPTED_OPTION, asked_for};
use skep_model::mount::Driver;
use skep_model::{Cluster, ControlError, Kind, NetworkSpec, NodeState};

use super::{Done, Door};

/// So many nodes are named that cannot encrypt.
const NAMED_MAX: usize = 3;

impl Door<'_> {
    /// The spec with what the cluster wants of networks that do not say. Refuses an encrypted
    /// network that no node could carry.
    pub(super) fn with_encryption(&self, spec: &NetworkSpec) -> Result<NetworkSpec, ControlError> {
        let mut spec = spec.clone();
        let by_default = self
            .tx
            .cluster()
            .is_some_and(|cluster| cluster.spec.encryption_config.encrypt_networks);
        if asked_for(&spec)?.is_none() && by_default {
            let driver = spec.driver.get_or_insert_with(|| Driver {
                name: "overlay".to_owned(),
                ..Driver::default()
            });
            driver
                .options
                .insert(ENCRYPTED_OPTION.to_owned(), "true".to_owned());
        }
        if spec.is_encrypted() {
            self.check_encryption(&spec.name)?;
        }
        Ok(spec)
    }

    fn check_encryption(&self, network: &str) -> Done {
        let ready = || {
            let nodes = self.tx.nodes();
            nodes.filter(|node| node.status.state == NodeState::Ready)
        };
        if ready().any(|node| node.description.encryption.is_able()) {
            return Ok(());
        }
        let mut reasons: Vec<String> = ready()
            .take(NAMED_MAX)
            .map(|node| {
                let reason = node.description.encryption.why_not();
                format!("{}: {reason}", node.description.hostname)
            })
            .collect();
        match ready().count() {
            0 => reasons.push("no node is ready".to_owned()),
            all if all > NAMED_MAX => reasons.push(format!("and {} more", all - NAMED_MAX)),
            _ => {}
        }
        Err(ControlError::new(
            Kind::FailedPrecondition,
            format!(
                "network {network} cannot be encrypted: no node of the cluster is able to ({}). Create it with `--opt {ENCRYPTED_OPTION}=false`, or make a node able to",
                reasons.join("; ")
            ),
        ))
    }

    /// The first step of new keys; the others follow when the nodes have.
    pub(super) fn rotate_data_keys(&self, cluster: &mut Cluster) -> Done {
        if !self.tx.networks().any(|one| one.spec.is_encrypted()) {
            return Err(ControlError::new(
                Kind::FailedPrecondition,
                "no network is encrypted: there are no keys to replace",
            ));
        }
        cluster.data_keys.begin(self.now);
        Ok(())
    }
}
