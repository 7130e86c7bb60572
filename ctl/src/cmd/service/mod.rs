//! `skep service`.

pub mod autoscale;
pub mod create;
pub mod digest;
pub mod exec;
pub mod history;
pub mod inspect;
pub mod lists;
pub mod logs;
pub mod ls;
mod pretty;
pub mod preview;
pub mod ps;
pub mod rebalance;
pub mod references;
pub mod rollback;
pub mod runs;
pub mod scale;
pub mod schedule;
pub mod spec;
pub mod update;

use serde::Serialize;
use skep_model::Service;

use crate::client::{Call, segment};
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::session::Session;

pub async fn fetch(session: &Session, name: &str) -> Outcome<Service> {
    session
        .client
        .typed(Call::get(format!("/services/{}", segment(name))))
        .await
}

/// How an update is sent.
#[derive(Debug, Clone, Default)]
pub struct UpdateOptions {
    /// The `X-Registry-Auth` header.
    pub registry_auth: Option<String>,
    pub back: Option<Back>,
}

/// Where a rollback leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Back {
    /// To the spec of before, as dockerd has it.
    Previous,
    /// To a revision by its number; 0 is the one before.
    Revision(u64),
}

/// The request that `update` and `preview` take alike.
fn with_options(
    call: Call,
    service: &Service,
    spec: &impl Serialize,
    options: UpdateOptions,
) -> Call {
    let mut call = call.query("version", service.version.index).json(spec);
    if options.registry_auth.is_none() {
        call = call.query("registryAuthFrom", "spec");
    }
    call = match options.back {
        None => call,
        Some(Back::Previous) => call.query("rollback", "previous"),
        Some(Back::Revision(number)) => {
            call.query("rollback", "revision").query("revision", number)
        }
    };
    call.header_maybe("X-Registry-Auth", options.registry_auth)
}

/// Sends a new spec and prints the daemon's warnings.
pub async fn store(
    session: &Session,
    service: &Service,
    spec: &impl Serialize,
    options: UpdateOptions,
) -> Outcome {
    let path = format!("/services/{}/update", segment(service.id.as_str()));
    let call = with_options(Call::post(path), service, spec, options);
    let answer = session.client.json(call).await?;
    for warning in answer.texts("Warnings") {
        session.warn(warning);
    }
    Ok(())
}

pub async fn remove(session: &Session, args: &Args) -> Outcome {
    let mut failures = Vec::new();
    for name in args.positionals() {
        let call = Call::delete(format!("/services/{}", segment(name)));
        match session.client.json(call).await {
            Ok(answer) => {
                session.say(name)?;
                for warning in answer.texts("Warnings") {
                    session.warn(warning);
                }
            }
            Err(failure) => failures.push(failure),
        }
    }
    Failure::join(failures)
}
