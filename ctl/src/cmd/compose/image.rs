//! Images of a project: there, pulled or built before containers are made.

use std::collections::BTreeMap;

use skep_compose::{Project, ProjectService};

use super::observed;
use super::{build, tell};
use crate::cmd::image::transfer;
use crate::failure::{Failure, Outcome};
use crate::reference::Reference;
use crate::session::Session;

/// References and ids by service.
pub type Images = BTreeMap<String, (String, String)>;

/// How to come by images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// `--pull`: instead of what services say; empty: nothing instead.
    pub pull: String,
    /// `--build`: also where there is one already.
    pub build: bool,
    /// `--no-build`: not even where there is none.
    pub no_build: bool,
    pub quiet_pull: bool,
    pub quiet_build: bool,
}

/// What is done about one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Keep,
    Pull,
    Build,
    /// It is not there, and nobody may get it.
    Missing,
}

/// The image's name: its own, or one made of the project's and the service's.
pub fn name(project: &str, key: &str, service: &ProjectService) -> String {
    service
        .image
        .clone()
        .unwrap_or_else(|| format!("{project}-{key}"))
}

/// What to do about the image of a service.
pub fn way(service: &ProjectService, policy: &Policy, is_there: bool) -> Way {
    let pull = match policy.pull.as_str() {
        "" if service.pull_policy.is_empty() => "missing",
        "" => &service.pull_policy,
        given => given,
    };
    let builds = service.build.is_some() && !policy.no_build;
    if builds && (policy.build || pull == "build") {
        return Way::Build;
    }
    match (is_there, pull) {
        (_, "always") if service.build.is_none() => Way::Pull,
        (true, _) => Way::Keep,
        (false, _) if builds => Way::Build,
        (false, "never") => Way::Missing,
        (false, _) if service.build.is_some() => Way::Missing,
        (false, _) => Way::Pull,
    }
}

/// Makes sure of the images of services.
pub async fn ensure(
    session: &Session,
    project: &Project,
    services: &[String],
    policy: &Policy,
) -> Outcome<Images> {
    let mut images = Images::new();
    for key in services {
        let service = &project.services[key];
        let image = name(&project.name, key, service);
        let there = observed::maybe(session, "images", &image, "/json").await?;
        match way(service, policy, there.is_some()) {
            Way::Keep => {}
            Way::Pull => pull(session, key, &image, &service.platform, policy.quiet_pull).await?,
            Way::Build => {
                let how = build::How {
                    quiet: policy.quiet_build,
                    ..build::How::default()
                };
                build::one(session, project, key, &how).await?;
            }
            Way::Missing => {
                return Err(Failure::message(format!(
                    "service {key:?}: no such image: {image}\nhint: pull or build it, or leave out what forbids that"
                )));
            }
        }
        let id = match there {
            Some(there) if way(service, policy, true) == Way::Keep => there,
            _ => observed::maybe(session, "images", &image, "/json")
                .await?
                .ok_or_else(|| Failure::message(format!("no such image: {image}")))?,
        };
        images.insert(key.clone(), (image, id.str("Id").to_owned()));
    }
    Ok(images)
}

/// Pulls the image of a service.
pub async fn pull(
    session: &Session,
    key: &str,
    image: &str,
    platform: &str,
    quiet: bool,
) -> Outcome {
    let reference = Reference::required(image).map_err(Failure::Message)?;
    let reference = match reference.digest {
        Some(_) => reference,
        None => reference.with_default_tag(),
    };
    if !quiet {
        session.warn(format!(" {key} Pulling "));
    }
    match transfer::fetch(session, &reference, platform, None).await {
        Ok(()) => {
            if !quiet {
                session.warn(format!(" {key} Pulled "));
            }
            Ok(())
        }
        Err(failure) => {
            tell(session, "Image", image, "Error");
            Err(failure)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_compose::ProjectBuild;

    #[test]
    fn images_are_kept_pulled_or_built() {
        let plain = ProjectService::default();
        let built = ProjectService {
            build: Some(ProjectBuild::default()),
            ..plain.clone()
        };
        let default = Policy::default();
        let with = |pull: &str| Policy {
            pull: pull.to_owned(),
            ..Policy::default()
        };
        let forced = Policy {
            build: true,
            ..Policy::default()
        };
        let forbidden = Policy {
            no_build: true,
            ..Policy::default()
        };
        for (service, policy, there, wanted) in [
            (&plain, &default, true, Way::Keep),
            (&plain, &default, false, Way::Pull),
            (&plain, &with("always"), true, Way::Pull),
            (&plain, &with("never"), false, Way::Missing),
            (&plain, &forced, true, Way::Keep),
            (&built, &default, false, Way::Build),
            (&built, &default, true, Way::Keep),
            (&built, &forced, true, Way::Build),
            (&built, &forbidden, false, Way::Missing),
            (&built, &with("build"), true, Way::Build),
            (&built, &with("always"), true, Way::Keep),
        ] {
            assert_eq!(
                way(service, policy, there),
                wanted,
                "{service:?} {policy:?} {there}"
            );
        }
    }
}
