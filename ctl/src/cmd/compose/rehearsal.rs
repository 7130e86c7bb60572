//! `--dry-run`: what would be done is told, and nothing is.
//!
//! What is asked of the daemon is asked all the same; what would change something goes through
//! [`done`]. Objects that would have been made are called by their names.

use super::project;
use crate::client::Call;
use crate::failure::{Failure, Outcome};
use crate::session::Session;

/// The flag.
const FLAG: &str = "dry-run";

/// What lines of a rehearsal begin with, as compose has it.
const MARK: &str = " DRY-RUN MODE - ";

/// Whether this is one.
pub fn is_on(session: &Session) -> bool {
    project::is_on(session, FLAG)
}

/// What stands before a line that tells what happens.
pub fn mark(session: &Session) -> &'static str {
    match is_on(session) {
        true => MARK,
        false => "",
    }
}

/// Makes a call that changes something; not in a rehearsal.
pub async fn done(session: &Session, call: Call) -> Outcome {
    match is_on(session) {
        true => Ok(()),
        false => session.client.done(call).await,
    }
}

/// Refuses a verb that nothing can be told about without doing it.
pub fn refuse(session: &Session, verb: &str, why: &str) -> Outcome {
    match is_on(session) {
        true => Err(Failure::message(format!(
            "--{FLAG} is not supported by `compose {verb}`: {why}"
        ))),
        false => Ok(()),
    }
}
