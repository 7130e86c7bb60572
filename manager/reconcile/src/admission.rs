//! Whether a token admits a node, and as what.

use sha2::{Digest as _, Sha256};
use skep_model::{Cluster, ControlError, Kind, NodeRole, Timestamp};
use skep_store::{Commit, Snapshot, Transaction};

use crate::nodes::{NewNode, put_new};

/// Swarm's text for a token that is not one of the cluster's.
const WRONG: &str = "A valid join token is necessary to join this cluster";

/// What is kept of a token that is not to be shown again: 128 random bits need no salt.
pub fn token_digest(token: &str) -> String {
    hex::encode(Sha256::digest(token.as_bytes()))
}

/// The commit that takes in a node that shows `token`; its role is the token's. A token that is
/// counted is counted in the same commit, so that no two nodes come in by its last use.
pub fn admit(
    snapshot: &Snapshot,
    token: &str,
    mut new: NewNode,
    now: Timestamp,
) -> Result<(Option<Commit>, NodeRole), ControlError> {
    let Some(cluster) = snapshot.cluster() else {
        return Err(ControlError::new(
            Kind::Unavailable,
            "the cluster is not known here yet",
        ));
    };
    let mut tx = Transaction::new(snapshot, now);
    // Digests are compared, whose differences tell nothing of the tokens'.
    let shown = token_digest(token);
    let ordinary = [
        (&cluster.join_tokens.manager, NodeRole::Manager),
        (&cluster.join_tokens.worker, NodeRole::Worker),
    ];
    let ordinary = ordinary
        .into_iter()
        .find(|(known, _)| !known.is_empty() && token_digest(known) == shown);
    let role = match ordinary {
        Some((_, role)) => role,
        None => {
            let (used, role) = used(cluster, &shown, now)?;
            tx.put(used).expect("there is one cluster");
            role
        }
    };
    new.role = role;
    put_new(&mut tx, snapshot, new, now);
    Ok((tx.commit(), role))
}

/// The cluster after one of its own tokens was used once, and the token's role.
fn used(
    cluster: &Cluster,
    digest: &str,
    now: Timestamp,
) -> Result<(Cluster, NodeRole), ControlError> {
    let mut cluster = Cluster::clone(cluster);
    let mut issued = cluster.issued_tokens.iter_mut();
    let Some(token) = issued.find(|token| token.digest == digest) else {
        return Err(ControlError::invalid(WRONG));
    };
    if let Some(end) = token.end(now) {
        return Err(ControlError::invalid(format!(
            "{WRONG}: token {} is none any more, {end}. Ask a manager for another one",
            token.id
        )));
    }
    token.uses += 1;
    token.used_at = now;
    let role = token.role;
    Ok((cluster, role))
}
