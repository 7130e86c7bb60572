//! Containers stopped and removed, those that need others first.

use std::collections::{BTreeMap, BTreeSet};

use skep_compose::Project;

use super::observed::Container;
use super::{body, hooks, labels, observed, order, rehearsal, tell_container, together};
use crate::client::{Call, segment};
use crate::cmd::container::path;
use crate::failure::{Failure, Outcome};
use crate::json::Json;
use crate::session::Session;

/// Containers in groups, each of which goes before the next. What needs what is read from the
/// labels, so that it is known without the files.
pub fn groups(containers: &[Container]) -> Vec<Vec<Container>> {
    let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for container in containers {
        let labels = container.listed.text_map("Labels");
        let written = labels.get(labels::DEPENDS_ON).map_or("", String::as_str);
        let needed = written
            .split(',')
            .filter_map(|entry| entry.split(':').next())
            .filter(|name| !name.is_empty())
            .map(str::to_owned);
        needs
            .entry(container.service.clone())
            .or_default()
            .extend(needed);
    }
    order::groups(&needs)
        .into_iter()
        .rev()
        .map(|group| {
            let own = containers.iter().filter(|one| group.contains(&one.service));
            own.cloned().collect()
        })
        .collect()
}

/// How containers are stopped.
#[derive(Default)]
pub struct How<'a> {
    /// Seconds; none: the container's own.
    pub timeout: Option<i64>,
    /// For what is run before.
    pub project: Option<&'a Project>,
}

async fn stop_one(session: &Session, container: &Container, how: &How<'_>) -> Outcome {
    tell_container(session, &container.name, "Stopping");
    let service = how
        .project
        .and_then(|project| project.services.get(&container.service));
    if let Some(service) = service.filter(|_| !container.oneoff && container.state == "running") {
        hooks::run(session, &container.name, &container.id, &service.pre_stop).await?;
    }
    let mut call = Call::post(path(&container.id, "/stop"));
    if let Some(seconds) = how.timeout {
        call = call.query("t", seconds);
    }
    match rehearsal::done(session, call).await {
        Ok(()) => {}
        Err(failure) if failure.is_not_found() => {}
        Err(failure) => {
            tell_container(session, &container.name, "Error");
            return Err(failure);
        }
    }
    tell_container(session, &container.name, "Stopped");
    Ok(())
}

/// Stops what runs.
pub async fn stop(session: &Session, containers: &[Container], how: &How<'_>) -> Outcome {
    let limit = together::limit(session);
    for group in groups(containers) {
        let running = group
            .iter()
            .filter(|one| one.is_running() || one.state.is_empty());
        together::all(limit, running.map(|one| stop_one(session, one, how))).await?;
    }
    Ok(())
}

/// Removes volumes without a name that a container has mounted. One that it got from the
/// container before it counts as named to the daemon, which would leave it behind. What the files
/// declare has a name, whatever that looks like.
pub async fn remove_unnamed(
    session: &Session,
    container: &Json,
    project: Option<&Project>,
) -> Outcome {
    for (name, _) in body::unnamed(container) {
        if is_declared(project, &name) {
            continue;
        }
        let Some(volume) = observed::maybe(session, "volumes", &name, "").await? else {
            continue;
        };
        if !volume.text_map("Labels").contains_key(labels::ANONYMOUS) {
            continue;
        }
        let call = Call::delete(format!("/volumes/{}", segment(&name)));
        match rehearsal::done(session, call).await {
            // Gone with the container, or another one's as well.
            Ok(())
            | Err(Failure::Daemon {
                code: 404 | 409, ..
            }) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

fn is_declared(project: Option<&Project>, volume: &str) -> bool {
    project.is_some_and(|project| project.volumes.values().any(|one| one.name == volume))
}

/// Removes containers that are stopped already.
pub async fn remove(
    session: &Session,
    containers: &[Container],
    project: Option<&Project>,
    volumes: bool,
) -> Outcome {
    let each = containers.iter().map(|container| async move {
        tell_container(session, &container.name, "Removing");
        let call = Call::delete(path(&container.id, ""))
            .query("force", "1")
            .query_if("v", volumes);
        match rehearsal::done(session, call).await {
            Ok(()) => {}
            Err(failure) if failure.is_not_found() => {}
            Err(failure) => {
                tell_container(session, &container.name, "Error");
                return Err(failure);
            }
        }
        if volumes {
            remove_unnamed(session, &container.listed, project).await?;
        }
        tell_container(session, &container.name, "Removed");
        Ok(())
    });
    together::all(together::limit(session), each).await
}

/// Stops and removes.
pub async fn take_away(
    session: &Session,
    containers: &[Container],
    how: &How<'_>,
    volumes: bool,
) -> Outcome {
    let limit = together::limit(session);
    for group in groups(containers) {
        let running = group.iter().filter(|one| one.is_running());
        together::all(limit, running.map(|one| stop_one(session, one, how))).await?;
        remove(session, &group, how.project, volumes).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use skep_compose::ProjectVolume;

    use super::*;

    #[test]
    fn a_declared_volume_has_a_name_even_if_it_looks_like_none() {
        let name = "a".repeat(64);
        let volume = ProjectVolume {
            name: name.clone(),
            external: true,
            body: serde_json::Value::Null,
        };
        let project = Project {
            volumes: [("data".to_owned(), volume)].into(),
            ..Project::default()
        };
        assert!(is_declared(Some(&project), &name));
        assert!(!is_declared(Some(&project), &"b".repeat(64)));
        assert!(!is_declared(None, &name));
    }
}
