//! `compose push`, and `publish`, which there is not.

use skep_compose::ProjectService;

use super::{order, project, rehearsal, tell_line};
use crate::client::{Call, JsonLines, segment};
use crate::cmd::image::transfer::drain;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::reference::Reference;
use crate::session::Session;

pub async fn push(session: &Session, args: &Args) -> Outcome {
    let named = args.positionals();
    let loaded = project::load(session, named)?;
    let wanted = order::wanted(&loaded.project, named, !args.flag("include-deps"))?;
    let mut failures = Vec::new();
    for key in order::sorted(&loaded.project, &wanted) {
        let pushed = of_service(
            session,
            &key,
            &loaded.project.services[&key],
            args.flag("quiet"),
        );
        match pushed.await {
            Ok(()) => {}
            Err(failure) if args.flag("ignore-push-failures") => {
                tell_line(session, &key, &format!("Warning {failure}"));
            }
            Err(failure) => failures.push(failure),
        }
    }
    Failure::join(failures)
}

/// Pushes the images of a service that is built here and says what they are called.
pub async fn of_service(
    session: &Session,
    key: &str,
    service: &ProjectService,
    quiet: bool,
) -> Outcome {
    let (Some(image), Some(build)) = (&service.image, &service.build) else {
        if !quiet {
            tell_line(session, key, "Skipped");
        }
        return Ok(());
    };
    for name in [image].into_iter().chain(&build.tags) {
        let reference = Reference::required(name).map_err(Failure::Message)?;
        if reference.digest.is_some() {
            return Err(Failure::message(format!(
                "service {key:?}: cannot push {name}: a digest is no name to push to"
            )));
        }
        let reference = reference.with_default_tag();
        if !quiet {
            tell_line(session, key, &format!("Pushing {name}"));
        }
        let call = Call::post(format!("/images/{}/push", segment(&reference.name)))
            .query_text("tag", reference.tag.as_deref().unwrap_or(""))
            .header(
                "X-Registry-Auth",
                session.config.auth_header(&reference.to_string()),
            );
        if !rehearsal::is_on(session) {
            drain(JsonLines::of(session.client.send(call).await?)).await?;
        }
        if !quiet {
            tell_line(session, key, &format!("Pushed {name}"));
        }
    }
    Ok(())
}

pub async fn publish(_: &Session, _: &Args) -> Outcome {
    Err(Failure::message(
        "compose publish is not supported: registries are given images, and no compose files\nhint: `skep compose push` pushes the images, `skep compose config -o FILE` writes the files as one",
    ))
}
