//! `service scale`.

use skep_model::service::ServiceMode;

use super::{UpdateOptions, fetch, store};
use crate::failure::{Failure, Outcome};
use crate::flags::{Args, parse_uint};
use crate::progress::service::{Rollback, wait};
use crate::session::Session;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    for argument in args.positionals() {
        if !argument.contains('=') {
            return Err(Failure::message(format!(
                "invalid scale specifier '{argument}'.\nSee 'skep service scale --help'.\n\nUsage:  {}\n\n{}",
                crate::help::usage_line(args.def(), args.path()),
                args.def().about
            )));
        }
    }
    let mut failures = Vec::new();
    let mut scaled = Vec::new();
    for argument in args.positionals() {
        let (name, count) = argument.split_once('=').unwrap_or((argument, ""));
        match scale(session, name, count).await {
            Ok(()) => scaled.push(name),
            Err(failure) => failures.push(Failure::message(format!("{name}: {failure}"))),
        }
    }
    if !args.flag("detach") {
        for name in scaled {
            if let Err(failure) = wait(session, name, false, Rollback::Failure).await {
                failures.push(Failure::message(format!("{name}: {failure}")));
            }
        }
    }
    Failure::join(failures)
}

/// Sets how many tasks a service has.
async fn scale(session: &Session, name: &str, count: &str) -> Outcome {
    let count = parse_uint(count)
        .map_err(|why| Failure::message(format!("invalid replicas value {count}: {why}")))?;
    let mut service = fetch(session, name).await?;
    match &mut service.spec.mode {
        ServiceMode::Replicated(mode) => mode.replicas = Some(count),
        ServiceMode::ReplicatedJob(mode) => mode.total_completions = Some(count),
        ServiceMode::Global(_) | ServiceMode::GlobalJob(_) => {
            return Err(Failure::message(
                "scale can only be used with replicated or replicated-job mode",
            ));
        }
    }
    store(session, &service, &service.spec, UpdateOptions::default()).await?;
    session.say(format!("{name} scaled to {count}"))
}
