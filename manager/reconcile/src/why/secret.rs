//! What is amiss with secrets.

use skep_model::expiry::Stage;
use skep_model::payload::Payload as _;
use skep_model::why::{Cause, Trouble};
use skep_model::{Secret, Timestamp};

use super::words;

/// That a secret expires soon, or has.
pub(super) fn cause(secret: &Secret, now: Timestamp) -> Option<Cause> {
    let expiry = secret.spec.expiry.as_ref()?;
    let name = &secret.spec.name;
    let number = secret.number();
    let (trouble, message) = match expiry.stage(now) {
        Stage::Good => return None,
        Stage::Expiring => (
            Trouble::SecretExpiring,
            format!("version {number} expires at {}", expiry.at),
        ),
        Stage::Expired => (
            Trouble::SecretExpired,
            format!(
                "version {number} has expired at {}; tasks go on with it",
                expiry.at
            ),
        ),
    };
    Some(Cause {
        subject: format!("secret {name}"),
        trouble,
        message,
        advice: words::advice(trouble).replace("SECRET", name),
        ..Cause::default()
    })
}
