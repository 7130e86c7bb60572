//! `compose wait`.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::observed::{self, Container};
use super::{down, project};
use crate::cmd::container::exit::{self, Exit};
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::session::Session;

/// Waits until the containers of services that run have stopped, those of `run` with them. The
/// status is that of the last one.
pub async fn run(session: &Session, args: &Args) -> Outcome {
    let named = args.positionals();
    let (project, loaded) = project::target(session, named)?;
    let mut all =
        observed::of_services(observed::containers(session, &project).await?, named, true);
    all.retain(Container::is_running);
    if all.is_empty() {
        return Err(Failure::message(format!(
            "no containers for project {project:?}"
        )));
    }
    let mut waiting: FuturesUnordered<_> = all
        .iter()
        .map(|one| async move {
            let exit = Exit::begin(session, &one.id, "not-running").await?;
            Ok::<_, Failure>((&one.id, exit.status().await?))
        })
        .collect();
    let mut code = 0;
    while let Some(ended) = waiting.next().await {
        let (id, status) = ended?;
        session.say(format!("container {id:?} exited with status code {status}"))?;
        code = status;
    }
    if args.flag("down-project") {
        let how = down::How {
            remove_orphans: true,
            ..down::How::default()
        };
        down::take(session, &project, loaded.as_ref(), &[], &how).await?;
    }
    exit::pass_on(code)
}
