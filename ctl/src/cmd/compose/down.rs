//! `compose down`.

use std::collections::BTreeSet;

use skep_compose::{Project, ProjectService};

use super::names::Names;
use super::observed::{self, Container};
use super::project::{self, Loaded};
use super::{make, rehearsal, stop, tell, up};
use crate::client::{Call, segment};
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::session::Session;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let images = args.text("rmi");
    if !matches!(images, "" | "all" | "local") {
        return Err(Failure::message(format!(
            "invalid value for --rmi: {images:?}"
        )));
    }
    let named = args.positionals();
    let (project, loaded) = project::target(session, named)?;
    let how = How {
        remove_orphans: args.flag("remove-orphans"),
        volumes: args.flag("volumes"),
        images: images.to_owned(),
        timeout: args.int("timeout"),
    };
    take(session, &project, loaded.as_ref(), named, &how).await
}

/// What goes, beside containers and networks, and how.
#[derive(Debug, Default)]
pub struct How {
    pub remove_orphans: bool,
    pub volumes: bool,
    /// `all`, `local` or nothing.
    pub images: String,
    /// Seconds; none: the containers' own.
    pub timeout: Option<i64>,
}

/// Takes a project down, or services of it that are named.
pub async fn take(
    session: &Session,
    project: &str,
    loaded: Option<&Loaded>,
    named: &[String],
    how: &How,
) -> Outcome {
    let mut mine = observed::containers(session, project).await?;
    if let Some(loaded) = loaded {
        mine = going(&loaded.project, mine, how.remove_orphans);
    }
    if !named.is_empty() {
        mine.retain(|one| named.contains(&one.service));
    }
    let stopping = stop::How {
        timeout: how.timeout,
        project: loaded.map(|loaded| &loaded.project),
    };
    let mut did = !mine.is_empty();
    stop::take_away(session, &mine, &stopping, how.volumes).await?;
    if named.is_empty() {
        if how.volumes {
            did |= remove_volumes(session, project, loaded).await?;
        }
        did |= remove_networks(session, project, loaded).await?;
    }
    if !how.images.is_empty() {
        did |= remove_images(session, &mine, project, loaded, &how.images).await?;
    }
    if !did {
        session.warn(format!(
            "warning: no resource found to remove for project {project:?}."
        ));
    }
    Ok(())
}

/// Containers that go where the files are known: those of services that count. Services of
/// profiles that nobody asked for are neither of these nor orphans.
fn going(project: &Project, seen: Vec<Container>, with_orphans: bool) -> Vec<Container> {
    let orphans = match with_orphans {
        true => up::orphans_of(project, &seen),
        false => Vec::new(),
    };
    let counts = |one: &Container| project.services.contains_key(&one.service);
    let mut going = seen;
    going.retain(|one| counts(one) || orphans.iter().any(|orphan| orphan.id == one.id));
    going
}

/// Whether a network of the project goes: one that the files declare for services that count, or at
/// all with `all`, and any where there are no files.
fn takes_network(project: Option<&Project>, name: &str, all: bool) -> bool {
    let Some(project) = project else {
        return true;
    };
    let mut declared = project.networks.iter();
    declared.any(|(key, one)| {
        let joined = |service: &ProjectService| {
            let mut networks = service.networks.iter();
            networks.any(|joined| joined.network == *key)
        };
        !one.external && one.name == name && (all || project.services.values().any(joined))
    })
}

/// See [`takes_network`].
fn takes_volume(project: Option<&Project>, name: &str, all: bool) -> bool {
    let Some(project) = project else {
        return true;
    };
    let mut services = project.services.values();
    let mut declared = project.volumes.values();
    declared.any(|one| !one.external && one.name == name)
        && (all || services.any(|service| make::mounts(service, name)))
}

/// Whether a container's image was named after its service, rather than by somebody.
fn is_local(project: &str, container: &Container) -> bool {
    let image = container.listed.str("Image");
    let image = image.strip_suffix(":latest").unwrap_or(image);
    ['-', '_'].into_iter().any(|separator| {
        let names = Names { project, separator };
        image == names.image(&container.service, &ProjectService::default())
    })
}

async fn remove_networks(
    session: &Session,
    project: &str,
    loaded: Option<&Loaded>,
) -> Outcome<bool> {
    let mut did = false;
    let all = project::is_on(session, "all-resources");
    for (name, id) in observed::networks(session, project).await? {
        if !takes_network(loaded.map(|loaded| &loaded.project), &name, all) {
            continue;
        }
        did = true;
        tell(session, "Network", &name, "Removing");
        let call = Call::delete(format!("/networks/{}", segment(&id)));
        match rehearsal::done(session, call).await {
            Ok(()) => tell(session, "Network", &name, "Removed"),
            Err(failure) if failure.is_not_found() => tell(session, "Network", &name, "Removed"),
            // Somebody else's container is on it.
            Err(Failure::Daemon {
                code: 403 | 409, ..
            }) => {
                tell(session, "Network", &name, "Resource is still in use");
            }
            Err(failure) => {
                tell(session, "Network", &name, "Error");
                return Err(failure);
            }
        }
    }
    Ok(did)
}

async fn remove_volumes(
    session: &Session,
    project: &str,
    loaded: Option<&Loaded>,
) -> Outcome<bool> {
    let mut did = false;
    let all = project::is_on(session, "all-resources");
    for name in observed::volumes(session, project).await? {
        if !takes_volume(loaded.map(|loaded| &loaded.project), &name, all) {
            continue;
        }
        did = true;
        tell(session, "Volume", &name, "Removing");
        let call = Call::delete(format!("/volumes/{}", segment(&name)));
        match rehearsal::done(session, call).await {
            Ok(()) => tell(session, "Volume", &name, "Removed"),
            Err(failure) if failure.is_not_found() => tell(session, "Volume", &name, "Removed"),
            Err(Failure::Daemon { code: 409, .. }) => {
                tell(session, "Volume", &name, "Resource is still in use");
            }
            Err(failure) => {
                tell(session, "Volume", &name, "Error");
                return Err(failure);
            }
        }
    }
    Ok(did)
}

async fn remove_images(
    session: &Session,
    gone: &[Container],
    project: &str,
    loaded: Option<&Loaded>,
    which: &str,
) -> Outcome<bool> {
    let mut names: BTreeSet<String> = BTreeSet::new();
    match loaded {
        Some(loaded) => {
            for (key, service) in &loaded.project.services {
                if which != "all" && (service.image.is_some() || service.build.is_none()) {
                    continue;
                }
                // It may have been made with names of the other kind.
                let named = ['-', '_'].map(|separator| Names { project, separator });
                names.extend(named.map(|names| names.image(key, service)));
            }
        }
        None => {
            let used = gone
                .iter()
                .filter(|one| which == "all" || is_local(project, one));
            names.extend(used.map(|one| one.listed.str("Image").to_owned()));
        }
    }
    let mut did = false;
    for name in names {
        let is_there = observed::maybe(session, "images", &name, "/json");
        if rehearsal::is_on(session) && is_there.await?.is_none() {
            continue;
        }
        let call = Call::delete(format!("/images/{}", segment(&name)));
        match rehearsal::done(session, call).await {
            Ok(()) => {
                did = true;
                tell(session, "Image", &name, "Removed");
            }
            Err(failure) if failure.is_not_found() => {}
            Err(Failure::Daemon { code: 409, .. }) => {
                tell(session, "Image", &name, "Resource is still in use");
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(did)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use skep_compose::{ProjectEndpoint, ProjectNetwork, ProjectVolume};

    use super::*;
    use crate::json::Json;

    fn of(service: &str, image: &str) -> Container {
        Container {
            id: service.to_owned(),
            service: service.to_owned(),
            listed: Json::of(&json!({"Image": image})),
            ..Container::default()
        }
    }

    #[test]
    fn containers_of_other_profiles_stay() {
        let project = Project {
            services: [("web".to_owned(), ProjectService::default())].into(),
            disabled: [("extra".to_owned(), vec!["more".to_owned()])].into(),
            ..Project::default()
        };
        let left = |with_orphans| {
            let seen = ["web", "extra", "gone"].map(|name| of(name, "")).to_vec();
            let going = going(&project, seen, with_orphans).into_iter();
            going.map(|one| one.service).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(left(false), "web");
        assert_eq!(left(true), "web gone");
    }

    #[test]
    fn only_what_the_files_declare_for_services_is_taken() {
        let objects = [("own", false), ("other", true), ("unused", false)];
        let network = |(name, external): (&str, bool)| {
            let (name, body) = (name.to_owned(), Value::Null);
            (
                name.clone(),
                ProjectNetwork {
                    name,
                    external,
                    body,
                },
            )
        };
        let volume = |(name, external): (&str, bool)| {
            let (name, body) = (name.to_owned(), Value::Null);
            (
                name.clone(),
                ProjectVolume {
                    name,
                    external,
                    body,
                },
            )
        };
        let used = ["own", "other"];
        let service = ProjectService {
            networks: used
                .map(|name| ProjectEndpoint {
                    network: name.to_owned(),
                    aliases: Vec::new(),
                    settings: Value::Null,
                })
                .to_vec(),
            body: json!({"HostConfig": {
                "Mounts": used.map(|name| json!({"Type": "volume", "Source": name})),
            }}),
            ..ProjectService::default()
        };
        let project = Project {
            services: [("web".to_owned(), service)].into(),
            networks: objects.map(network).into(),
            volumes: objects.map(volume).into(),
            ..Project::default()
        };
        for (name, taken) in [
            ("own", true),
            ("other", false),
            ("unused", false),
            ("labelled", false),
        ] {
            let own = Some(&project);
            let declared = matches!(name, "own" | "unused");
            for (all, wanted) in [(false, taken), (true, declared)] {
                assert_eq!(takes_network(own, name, all), wanted, "{name} {all}");
                assert_eq!(takes_volume(own, name, all), wanted, "{name} {all}");
            }
            assert!(takes_network(None, name, false) && takes_volume(None, name, false));
        }
    }

    #[test]
    fn local_images_are_named_after_the_service() {
        assert!(is_local("post", &of("web", "post-web")));
        assert!(is_local("post", &of("web", "post_web:latest")));
        for image in ["postgres:16", "post-web:2", "post-web2", "post-db"] {
            assert!(!is_local("post", &of("web", image)), "{image}");
        }
    }
}
