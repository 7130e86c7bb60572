//! Verbs that reach one container of a service: `compose attach`, `export` and `commit`.

use super::{observed, project, rehearsal};
use crate::cmd::container;
use crate::failure::Outcome;
use crate::flags::Args;
use crate::session::Session;

/// The container that the first argument and `--index` name.
async fn named(session: &Session, args: &Args) -> Outcome<String> {
    let (project, _) = project::target(session, &[])?;
    let index = args.uint("index").unwrap_or(0);
    let found = observed::one(session, &project, args.positional(0), index).await?;
    Ok(found.id)
}

pub async fn attach(session: &Session, args: &Args) -> Outcome {
    rehearsal::refuse(session, "attach", "there is nothing to be seen")?;
    let id = named(session, args).await?;
    container::attach::to(session, args, &id).await
}

pub async fn export(session: &Session, args: &Args) -> Outcome {
    rehearsal::refuse(session, "export", "the archive is all it makes")?;
    let id = named(session, args).await?;
    container::show::export_of(session, args, &id).await
}

pub async fn commit(session: &Session, args: &Args) -> Outcome {
    rehearsal::refuse(session, "commit", "the image is all it makes")?;
    let id = named(session, args).await?;
    container::commit::of(session, args, &id).await
}
