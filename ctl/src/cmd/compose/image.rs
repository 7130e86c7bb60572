//! Images of a project: there, pulled or built before containers are made.

use std::collections::{BTreeMap, BTreeSet};

use skep_compose::ProjectService;

use super::project::Loaded;
use super::{build, config, observed, rehearsal, tell, tell_line, together};
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
    loaded: &Loaded,
    services: &[String],
    policy: &Policy,
) -> Outcome<Images> {
    let mut images = Images::new();
    let mut ways = Vec::new();
    for key in services {
        let service = &loaded.project.services[key];
        let image = loaded.names().image(key, service);
        let there = observed::maybe(session, "images", &image, "/json").await?;
        ways.push((key, way(service, policy, there.is_some())));
        let id = there.map_or_else(String::new, |there| there.str("Id").to_owned());
        images.insert(key.clone(), (image, id));
    }
    let of = |key: &String| images[key].0.clone();
    let (pulled, built) = sorted_out(&ways, of)?;
    let pulls = pulled.iter().map(|(image, key)| {
        let platform = &loaded.project.services[*key].platform;
        pull(session, key, image, platform, policy.quiet_pull)
    });
    together::all(together::limit(session), pulls).await?;
    for (key, _) in ways.iter().filter(|(_, way)| *way == Way::Build) {
        let how = build::How {
            quiet: policy.quiet_build,
            ..build::How::default()
        };
        build::one(session, loaded, key, &how).await?;
    }
    for (image, id) in images.values_mut() {
        let is_built = built.contains(image);
        if is_built || pulled.contains_key(image) {
            *id = match rehearsal::is_on(session) {
                true => id_expected(session, image, id, is_built).await?,
                false => id_of(session, image).await?,
            };
        }
    }
    Ok(images)
}

/// Images to pull, each for one service that wants it, and images that are built. What one service
/// builds others neither pull nor miss.
fn sorted_out<'a>(
    ways: &[(&'a String, Way)],
    of: impl Fn(&String) -> String,
) -> Outcome<(BTreeMap<String, &'a String>, BTreeSet<String>)> {
    let built: BTreeSet<String> = ways
        .iter()
        .filter(|(_, way)| *way == Way::Build)
        .map(|(key, _)| of(key))
        .collect();
    let mut pulled = BTreeMap::new();
    for (key, way) in ways {
        let image = of(key);
        if built.contains(&image) {
            continue;
        }
        match way {
            Way::Keep | Way::Build => {}
            Way::Pull => drop(pulled.entry(image).or_insert(*key)),
            Way::Missing => {
                return Err(Failure::message(format!(
                    "service {key:?}: no such image: {image}\nhint: pull or build it, or leave out what forbids that"
                )));
            }
        }
    }
    Ok((pulled, built))
}

/// The id of an image that was pulled or built.
async fn id_of(session: &Session, image: &str) -> Outcome<String> {
    match observed::maybe(session, "images", image, "/json").await? {
        Some(there) => Ok(there.str("Id").to_owned()),
        None => Err(Failure::message(format!("no such image: {image}"))),
    }
}

/// The id that an image will have, as far as a rehearsal knows: the present one where the registry
/// has no other, nothing where there is none, and else one that no container is made of.
async fn id_expected(
    session: &Session,
    image: &str,
    present: &str,
    is_built: bool,
) -> Outcome<String> {
    if present.is_empty() {
        return Ok(String::new());
    }
    if !is_built {
        let digest = config::digest(session, image).await?;
        let digest = digest.rsplit('@').next().unwrap_or_default();
        let there = observed::maybe(session, "images", present, "/json").await?;
        let is_same = there.is_some_and(|there| {
            let known = there.texts("RepoDigests");
            known.iter().any(|one| one.ends_with(digest))
        });
        if is_same {
            return Ok(present.to_owned());
        }
    }
    Ok("rehearsed".to_owned())
}

/// Pulls the image of a service. In a rehearsal the registry is asked whether it has it.
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
        tell_line(session, key, "Pulling ");
    }
    let pulled = match rehearsal::is_on(session) {
        true => config::digest(session, image).await.map(drop),
        false => transfer::fetch(session, &reference, platform, None).await,
    };
    match &pulled {
        Ok(()) if !quiet => tell_line(session, key, "Pulled "),
        Ok(()) => {}
        Err(_) => tell(session, "Image", image, "Error"),
    }
    pulled
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
