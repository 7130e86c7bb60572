//! `skep container`, and `run`, `ps`, `exec` and the others that need no group.

pub mod attach;
pub mod commit;
pub mod config;
pub mod cp;
pub mod create;
mod devices;
pub mod exec;
mod exit;
pub mod logs;
pub mod ls;
pub mod run;
pub mod show;
mod signals;
pub mod start;
pub mod state;
pub mod stats;
mod streams;

use std::future::Future;

use crate::client::segment;
use crate::failure::{Failure, Outcome};
use crate::session::Session;

/// The path of a container, or of what is below it.
pub fn path(name: &str, rest: &str) -> String {
    format!("/containers/{}{rest}", segment(name))
}

/// Does something with each container, says the names of those it was done with, and reports the
/// others together.
pub async fn each<'n, F>(
    session: &Session,
    names: &'n [String],
    act: impl Fn(&'n str) -> F,
) -> Outcome
where
    F: Future<Output = Outcome>,
{
    let mut failures = Vec::new();
    for name in names {
        match act(name).await {
            Ok(()) => session.say(name)?,
            Err(failure) => failures.push(failure),
        }
    }
    Failure::join(failures)
}
