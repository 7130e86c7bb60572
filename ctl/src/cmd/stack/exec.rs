//! `stack exec`: a command in a task of one of a stack's services.

use super::{check_name, full_name, services_of};
use crate::cmd::service;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::session::Session;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let name = check_name(args.positional(0))?;
    let services = services_of(session, name).await?;
    let names: Vec<String> = services
        .iter()
        .map(|service| service.str("Spec.Name").to_owned())
        .collect();
    if names.is_empty() {
        return Err(Failure::message(format!("nothing found in stack: {name}")));
    }
    // `web.2` is a slot of the service.
    let given = args.positional(1);
    let (short, slot) = match given.rsplit_once('.') {
        Some((short, slot)) if slot.parse::<u64>().is_ok() => (short, format!(".{slot}")),
        _ => (given, String::new()),
    };
    let target = full_name(name, short, &names)? + &slot;
    service::exec::in_task(session, args, &target, &args.positionals()[2..]).await
}
