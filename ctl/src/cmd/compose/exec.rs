//! `compose exec` and `cp`.

use super::observed::{self, Container};
use super::{project, rehearsal};
use crate::cmd::container;
use crate::cmd::container::exec::How;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::session::Session;

pub async fn exec(session: &Session, args: &Args) -> Outcome {
    rehearsal::refuse(session, "exec", "what a command does is not known before")?;
    let (service, command) = container::exec::target(args);
    let (project, _) = project::target(session, &[])?;
    let index = args.uint("index").unwrap_or(0);
    let found = observed::one(session, &project, service, index).await?;
    let detach = args.flag("detach");
    // A terminal unless it is not wanted, or there is none.
    let tty = !args.flag("no-tty") && args.flag_or("tty", true) && session.streams.in_is_terminal;
    let how = How {
        detach,
        interactive: args.flag_or("interactive", true),
        tty: tty && !detach,
    };
    let made_at = container::path(&found.id, "/exec");
    container::exec::within_as(session, args, made_at, command, &how).await
}

pub async fn cp(session: &Session, args: &Args) -> Outcome {
    rehearsal::refuse(session, "cp", "files are copied or not")?;
    let (source, target) = (args.positional(0), args.positional(1));
    match (in_service(source), in_service(target)) {
        (Some((service, path)), None) => {
            let found = containers_of(session, args, service).await?;
            let from = format!("{}:{path}", found[0].id);
            container::cp::between(session, args, &from, target).await
        }
        (None, Some((service, path))) => {
            // All of a service's containers are to be the same.
            for one in containers_of(session, args, service).await? {
                let to = format!("{}:{path}", one.id);
                container::cp::between(session, args, source, &to).await?;
            }
            Ok(())
        }
        _ => container::cp::between(session, args, source, target).await,
    }
}

/// `SERVICE:PATH`, unless it looks like a path here.
fn in_service(place: &str) -> Option<(&str, &str)> {
    let (service, path) = place.split_once(':')?;
    (!service.is_empty() && !service.contains(['/', '.'])).then_some((service, path))
}

/// The containers of a service that `--index` and `--all` mean; one at least.
async fn containers_of(session: &Session, args: &Args, service: &str) -> Outcome<Vec<Container>> {
    let (project, _) = project::target(session, &[])?;
    let index = args.uint("index").unwrap_or(0);
    let all = observed::containers(session, &project).await?;
    let mut own = observed::of_services(all, &[service.to_owned()], args.flag("all"));
    own.retain(|one| index == 0 || one.number == index);
    if own.is_empty() {
        return Err(Failure::message(format!(
            "no container found for service {service:?}"
        )));
    }
    Ok(own)
}
