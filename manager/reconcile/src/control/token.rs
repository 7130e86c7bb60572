//! Join tokens that end by themselves: made, and ended before their time.

use std::time::Duration;

use skep_model::id::random_id;
use skep_model::token::{Revealed, TOKENS_MAX};
use skep_model::{Cluster, ControlError, IssuedToken, Kind, Nanos, NodeRole};

use super::cluster::{TOKEN, join_token};
use super::{Done, Door};
use crate::admission::token_digest;

/// A token is good for at least so long, and at most: a year.
const LIFE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(365 * 24 * 3600));
/// Characters of a token's id.
const ID_LEN: usize = 12;
/// So long a token that has ended is kept, so that whoever tries it is told why it is refused.
const MEMORY: Duration = Duration::from_secs(7 * 24 * 3600);

impl Door<'_> {
    /// The answer holds the token itself, which nobody can ask for later.
    pub(super) fn create_join_token(
        &mut self,
        role: NodeRole,
        expires_after: Nanos,
        uses_max: u64,
    ) -> Done {
        let mut cluster = self.cluster()?;
        if expires_after.0 == 0 && uses_max == 0 {
            return Err(ControlError::invalid(
                "a token that never ends is the ordinary one: say how long it is good for (`--expires`), or for how many nodes (`--uses`)",
            ));
        }
        let life = expires_after.duration();
        if expires_after.0 < 0 || (expires_after.0 > 0 && !(LIFE.0..=LIFE.1).contains(&life)) {
            return Err(ControlError::invalid(
                "invalid expiry of a join token: want one second to 8760h (`--expires`)",
            ));
        }
        let now = self.now;
        let is_remembered = |token: &IssuedToken| match token.end(now) {
            None => true,
            Some(_) => token.expires_at.max(token.used_at).plus(MEMORY) > now,
        };
        cluster.issued_tokens.retain(is_remembered);
        if cluster.issued_tokens.len() >= TOKENS_MAX {
            return Err(ControlError::new(
                Kind::Exhausted,
                format!(
                    "the cluster has {TOKENS_MAX} join tokens already: remove some with `skep swarm join-token rm`"
                ),
            ));
        }
        let ordinary = cluster.join_tokens.worker.strip_prefix(TOKEN);
        let Some((pinned, _)) = ordinary.and_then(|rest| rest.rsplit_once('-')) else {
            return Err(ControlError::new(
                Kind::Internal,
                "the cluster has no join token that says which root it pins",
            ));
        };
        let token = join_token(pinned, self.random);
        let mut id = random_id(self.random);
        id.truncate(ID_LEN);
        cluster.issued_tokens.push(IssuedToken {
            id: id.clone(),
            role,
            created_at: now,
            expires_at: match expires_after.0 {
                0 => Default::default(),
                _ => now.plus(life),
            },
            uses_max,
            digest: token_digest(&token),
            ..IssuedToken::default()
        });
        self.response.id = id;
        self.response.token = Revealed(token);
        self.put(cluster)
    }

    pub(super) fn remove_join_token(&mut self, id: &str) -> Done {
        let mut cluster = self.cluster()?;
        let meant = |token: &&IssuedToken| !id.is_empty() && token.id.starts_with(id);
        let found: Vec<String> = cluster
            .issued_tokens
            .iter()
            .filter(meant)
            .map(|token| token.id.clone())
            .collect();
        match found.as_slice() {
            [] => Err(ControlError::not_found(format!(
                "join token {id} not found"
            ))),
            [found] => {
                cluster.issued_tokens.retain(|token| token.id != *found);
                self.response.id.clone_from(found);
                self.put(cluster)
            }
            _ => Err(ControlError::invalid(format!(
                "join token {id} is ambiguous ({} matches found)",
                found.len()
            ))),
        }
    }

    fn cluster(&self) -> Result<Cluster, ControlError> {
        let cluster = self.tx.cluster();
        cluster
            .map(|cluster| Cluster::clone(cluster))
            .ok_or_else(|| ControlError::not_found("cluster not found"))
    }
}
