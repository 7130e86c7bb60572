//! `compose pull`.

use super::{image, order, project};
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::session::Session;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let policy = args.text("policy");
    if !matches!(policy, "" | "missing" | "always") {
        return Err(args.invalid("policy", policy, "want missing or always"));
    }
    let named = args.positionals();
    let loaded = project::load(session, named)?;
    let wanted = order::wanted(&loaded.project, named, !args.flag("include-deps"))?;
    let quiet = args.flag("quiet");
    let mut failures = Vec::new();
    let mut done = Vec::new();
    for key in order::sorted(&loaded.project, &wanted) {
        let service = &loaded.project.services[&key];
        let skip = |why: &str| {
            if !quiet {
                session.warn(format!(" {key} Skipped - {why}"));
            }
        };
        let Some(image) = &service.image else {
            skip("No image to be pulled");
            continue;
        };
        if service.build.is_some() && args.flag("ignore-buildable") {
            skip("Image can be built");
            continue;
        }
        if matches!(service.pull_policy.as_str(), "never" | "build") {
            skip("Image is not to be pulled");
            continue;
        }
        if done.contains(&image) {
            skip(&format!(
                "Image is already being pulled by another service: {image}"
            ));
            continue;
        }
        let is_there = async { super::observed::maybe(session, "images", image, "/json").await };
        if policy == "missing" && is_there.await?.is_some() {
            skip("Image is already present locally");
            continue;
        }
        match image::pull(session, &key, image, &service.platform, quiet).await {
            Ok(()) => done.push(image),
            Err(failure) if args.flag("ignore-pull-failures") || service.build.is_some() => {
                session.warn(format!(" {key} Warning {failure}"));
            }
            Err(failure) => failures.push(failure),
        }
    }
    Failure::join(failures)
}
