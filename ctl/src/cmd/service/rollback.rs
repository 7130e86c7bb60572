//! `service rollback`.

use super::{Back, UpdateOptions, fetch, preview, store};
use crate::cmd::stack::is_skep;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::progress::service::{Rollback, wait};
use crate::session::Session;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let name = args.positional(0);
    let service = fetch(session, name).await?;
    let options = UpdateOptions {
        back: Some(way_back(session, args.uint("to")).await?),
        ..UpdateOptions::default()
    };
    if args.flag("dry-run") {
        return preview::show(session, &service, &service.spec, options).await;
    }
    store(session, &service, &service.spec, options).await?;
    session.say(name)?;
    if args.flag("detach") {
        return Ok(());
    }
    wait(session, name, args.flag("quiet"), Rollback::Asked).await
}

/// Where a rollback leads, as the daemon can do it: dockerd knows only the spec of before.
pub async fn way_back(session: &Session, to: Option<u64>) -> Outcome<Back> {
    match (is_skep(session).await?, to) {
        (_, Some(0)) => Err(Failure::message("--to: revisions count from 1")),
        (true, to) => Ok(Back::Revision(to.unwrap_or(0))),
        (false, None) => Ok(Back::Previous),
        (false, Some(_)) => Err(Failure::message(
            "--to: this daemon keeps no revisions; without the flag it goes back to the previous spec",
        )),
    }
}
