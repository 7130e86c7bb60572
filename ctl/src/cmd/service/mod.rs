//! `skep service`.

pub mod create;
pub mod digest;
pub mod inspect;
pub mod lists;
pub mod logs;
pub mod ls;
mod pretty;
pub mod ps;
pub mod references;
pub mod scale;
pub mod spec;
pub mod update;

use serde::Serialize;
use skep_model::Service;

use crate::client::{Call, segment};
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::progress;
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
    pub rollback: bool,
}

/// Sends a new spec and prints the daemon's warnings.
pub async fn store(
    session: &Session,
    service: &Service,
    spec: &impl Serialize,
    options: UpdateOptions,
) -> Outcome {
    let mut call = Call::post(format!("/services/{}/update", segment(service.id.as_str())))
        .query("version", service.version.index)
        .json(spec);
    if options.registry_auth.is_none() {
        call = call.query("registryAuthFrom", "spec");
    }
    if options.rollback {
        call = call.query("rollback", "previous");
    }
    let answer = session
        .client
        .json(call.header_maybe("X-Registry-Auth", options.registry_auth))
        .await?;
    for warning in answer.texts("Warnings") {
        session.warn(warning);
    }
    Ok(())
}

pub async fn remove(session: &Session, args: &Args) -> Outcome {
    let mut failures = Vec::new();
    for name in args.positionals() {
        match session
            .client
            .done(Call::delete(format!("/services/{}", segment(name))))
            .await
        {
            Ok(()) => session.say(name)?,
            Err(failure) => failures.push(failure),
        }
    }
    Failure::join(failures)
}

pub async fn rollback(session: &Session, args: &Args) -> Outcome {
    let name = args.positional(0);
    let service = fetch(session, name).await?;
    let options = UpdateOptions {
        rollback: true,
        ..UpdateOptions::default()
    };
    store(session, &service, &service.spec, options).await?;
    session.say(name)?;
    if args.flag("detach") {
        return Ok(());
    }
    progress::service::wait(
        session,
        name,
        args.flag("quiet"),
        progress::service::Rollback::Asked,
    )
    .await
}
