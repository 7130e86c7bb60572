//! `stack logs`: lines of all services of a stack, as they come.

use futures_util::future::join_all;

use super::{check_name, services_of};
use crate::cmd::service::logs;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::session::Session;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let name = check_name(args.positional(0))?;
    let services = services_of(session, name).await?;
    if services.is_empty() {
        return Err(Failure::message(format!("nothing found in stack: {name}")));
    }
    let mut names: Vec<String> = services
        .iter()
        .map(|service| service.str("Spec.Name").to_owned())
        .collect();
    names.sort();
    let chosen = &args.positionals()[1..];
    if !chosen.is_empty() {
        names = chosen
            .iter()
            .map(|given| super::full_name(name, given, &names))
            .collect::<Outcome<_>>()?;
    }
    let mut sources = Vec::new();
    for service in &names {
        let source = logs::find(session, service).await?;
        match source.tty && !args.flag("raw") {
            true => session.warn(format!(
                "{service} has a terminal: its logs are shown with --raw only"
            )),
            false => sources.push(source),
        }
    }
    let all = sources
        .into_iter()
        .map(|source| logs::follow(session, args, source));
    let failures = join_all(all).await.into_iter().filter_map(Result::err);
    Failure::join(failures.collect())
}
