//! Tells of secrets that expire: once that it will be soon, and once that it is over.
//!
//! What was told is noted in the secret, in the very change that tells of it, so that no leader
//! says it again and none has to have been there. Nothing stops for it: who forgets to replace a
//! password must not lose the service as well.

use skep_model::expiry::{Reminded, Stage};
use skep_model::{Secret, Timestamp};
use skep_store::{Commit, Snapshot, Transaction};

/// Secrets told of in one commit; the others have their turn with the next look.
const TOLD_MAX: usize = 50;

/// What is to be told now, if anything is. To be asked again and again by whoever leads.
pub fn remind(snapshot: &Snapshot, now: Timestamp) -> Option<Commit> {
    let mut tx = Transaction::new(snapshot, now);
    let due = snapshot.secrets().filter_map(|secret| {
        let reminded = news(secret, now)?;
        Some(Secret {
            reminded: Some(reminded),
            ..Secret::clone(secret)
        })
    });
    for secret in due.take(TOLD_MAX) {
        tx.put(secret).expect("it keeps its name");
    }
    tx.commit()
}

/// What is to be told of a secret and was not yet. A clock that goes back takes nothing back.
fn news(secret: &Secret, now: Timestamp) -> Option<Reminded> {
    let expiry = secret.spec.expiry.as_ref()?;
    let stage = expiry.stage(now);
    let told = secret.reminded.as_ref();
    let told = told.filter(|told| told.at == expiry.at);
    let is_news = match stage {
        Stage::Good => false,
        Stage::Expiring => told.is_none(),
        Stage::Expired => told.is_none_or(|told| !told.expired),
    };
    is_news.then(|| Reminded {
        at: expiry.at,
        expired: stage == Stage::Expired,
    })
}
