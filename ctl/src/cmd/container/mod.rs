//! `skep container`, and `run`, `ps`, `exec` and the others that need no group.

pub mod attach;
pub mod commit;
pub mod config;
pub mod cp;
pub mod create;
mod devices;
pub mod exec;
pub mod exit;
pub mod logs;
pub mod ls;
pub mod run;
pub mod show;
mod signals;
pub mod start;
pub mod state;
pub mod stats;
pub mod streams;

use std::future::Future;

use futures_util::{StreamExt, stream};

use crate::client::segment;
use crate::failure::{Failure, Outcome};
use crate::session::Session;

/// The path of a container, or of what is below it.
pub fn path(name: &str, rest: &str) -> String {
    format!("/containers/{}{rest}", segment(name))
}

/// So many containers are asked at a time: stopping one may take its whole grace period.
const ACTS_AT_ONCE_MAX: usize = 50;

/// Does something with each container at once, says the names of those it was done with in their
/// order, and reports the others together.
pub async fn each<'n, F>(
    session: &Session,
    names: &'n [String],
    act: impl Fn(&'n str) -> F,
) -> Outcome
where
    F: Future<Output = Outcome>,
{
    let mut failures = Vec::new();
    let mut done = stream::iter(names.iter().map(|name| act(name))).buffered(ACTS_AT_ONCE_MAX);
    for name in names {
        match done.next().await {
            Some(Ok(())) => session.say(name)?,
            Some(Err(failure)) => failures.push(failure),
            None => break,
        }
    }
    Failure::join(failures)
}
