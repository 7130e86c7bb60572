//! What is wished for the expiry of secrets.

use skep_model::expiry::Expiry;
use skep_model::{ControlError, Secret, SecretId, Timestamp};

use super::{Done, Door, not_found};

impl Door<'_> {
    /// Refuses a moment that is over: nobody could be reminded of it. Files that are deployed again,
    /// and revisions that are gone back to, may have one.
    pub(super) fn refuse_past(&self, wish: Option<&Expiry>) -> Done {
        self.refuse_another_past(wish, Timestamp::ZERO)
    }

    /// The same where there is a moment already, which a client may have sent back.
    pub(super) fn refuse_another_past(&self, wish: Option<&Expiry>, had: Timestamp) -> Done {
        match wish.filter(|wish| !wish.at.is_zero() && wish.at != had && wish.at <= self.now) {
            None => Ok(()),
            Some(wish) => Err(ControlError::invalid(format!(
                "Expiry: {} is over: give a time to come",
                wish.at
            ))),
        }
    }

    /// Has a secret expire as is wished now that it may have a next version: it had `number` before.
    pub(super) fn settle_expiry(
        &mut self,
        id: &SecretId,
        number: u64,
        wish: Option<&Expiry>,
    ) -> Done {
        use skep_model::payload::Payload as _;

        let known = self.tx.find::<Secret>(id.as_str()).map_err(not_found)?;
        let mut secret = Secret::clone(known);
        let had = match (&secret.spec.expiry, secret.number() == number) {
            (Some(had), false) => had.renewed(self.now),
            (had, _) => had.clone(),
        };
        wish.map_or(Ok(()), Expiry::check)?;
        let expiry = Expiry::settled(wish, had.as_ref(), self.now);
        if expiry == secret.spec.expiry {
            return Ok(());
        }
        set(&mut secret, expiry);
        self.put(secret)
    }
}

/// What of a file's wish is to be done where the revision before `said` something and there is `had`.
///
/// A moment is the present version's alone. One that was said before has been done: since then the
/// secret may have had a next version, or been given another moment, which stays.
pub(super) fn anew(
    wish: Option<&Expiry>,
    said: Option<&Expiry>,
    had: Option<&Expiry>,
) -> Option<Expiry> {
    let wish = wish?;
    match said.filter(|said| !wish.at.is_zero() && said.at == wish.at) {
        None => Some(wish.clone()),
        Some(said) if said == wish => None,
        Some(_) => had.map(|had| Expiry {
            at: had.at,
            ..wish.clone()
        }),
    }
}

/// What was told of another time is told no more.
pub(super) fn set(secret: &mut Secret, expiry: Option<Expiry>) {
    let at = |expiry: &Option<Expiry>| expiry.as_ref().map(|expiry| expiry.at);
    if at(&expiry) != at(&secret.spec.expiry) {
        secret.reminded = None;
    }
    secret.spec.expiry = expiry;
}
