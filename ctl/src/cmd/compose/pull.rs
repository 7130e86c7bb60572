//! `compose pull`.

use super::project::{self, Loaded};
use super::{image, observed, order, tell_line, together};
use crate::failure::Outcome;
use crate::flags::Args;
use crate::session::Session;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let policy = args.text("policy");
    if !matches!(policy, "" | "missing" | "always") {
        return Err(args.invalid("policy", policy, "want missing or always"));
    }
    let loaded = project::load(session, args.positionals())?;
    let wanted = wanted(session, args, &loaded).await?;
    let quiet = args.flag("quiet");
    let ignores = args.flag("ignore-pull-failures");
    let pulls = wanted.iter().map(|(key, image)| {
        let service = &loaded.project.services[key];
        async move {
            match image::pull(session, key, image, &service.platform, quiet).await {
                Err(failure) if ignores || service.build.is_some() => {
                    tell_line(session, key, &format!("Warning {failure}"));
                    Ok(())
                }
                pulled => pulled,
            }
        }
    });
    let limit = match args.flag("no-parallel") {
        true => 1,
        false => together::limit(session),
    };
    together::all(limit, pulls).await
}

/// Services with the images that are to be pulled, each once. Says what is left out, and why.
async fn wanted(session: &Session, args: &Args, loaded: &Loaded) -> Outcome<Vec<(String, String)>> {
    let project = &loaded.project;
    let alone = !args.flag("include-deps");
    let services = order::wanted(project, args.positionals(), alone)?;
    let mut wanted: Vec<(String, String)> = Vec::new();
    for key in order::sorted(project, &services) {
        let service = &project.services[&key];
        let skip = |why: &str| {
            if !args.flag("quiet") {
                tell_line(session, &key, &format!("Skipped - {why}"));
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
        if wanted.iter().any(|(_, other)| other == image) {
            skip(&format!(
                "Image is already being pulled by another service: {image}"
            ));
            continue;
        }
        let is_there = async { observed::maybe(session, "images", image, "/json").await };
        if args.text("policy") == "missing" && is_there.await?.is_some() {
            skip("Image is already present locally");
            continue;
        }
        wanted.push((key, image.clone()));
    }
    Ok(wanted)
}
