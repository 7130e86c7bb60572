//! `compose start`, `stop`, `restart`, `kill`, `pause`, `unpause` and `rm`.

use skep_compose::Condition;

use super::observed::{self, Container};
use super::project::{self, Loaded};
use super::stop::{self as stopping};
use super::{hooks, make, order, rehearsal, tell_container, up, wait};
use crate::client::Call;
use crate::cmd::container::path;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::session::Session;

/// The project with the containers of the services named.
async fn found(
    session: &Session,
    args: &Args,
) -> Outcome<(String, Option<Loaded>, Vec<Container>)> {
    let named = args.positionals();
    let (name, loaded) = project::target(session, named)?;
    let all = observed::of_services(observed::containers(session, &name).await?, named, false);
    Ok((name, loaded, all))
}

/// A project without any container is a mistake for verbs that need some.
fn must_be(name: &str, containers: &[Container]) -> Outcome {
    if containers.is_empty() {
        return Err(Failure::message(format!(
            "no container found for project {name:?}: not found"
        )));
    }
    Ok(())
}

pub async fn start(session: &Session, args: &Args) -> Outcome {
    let (name, loaded, all) = found(session, args).await?;
    match loaded {
        None => {
            for one in all.iter().filter(|one| !one.is_running()) {
                act(session, one, "start", ("Starting", "Started"), &[]).await?;
            }
            must_be(&name, &all)?;
        }
        Some(loaded) => start_in_order(session, args.positionals(), &loaded, &all).await?,
    }
    match args.flag("wait") {
        true => wait::settled(session, &all, wait::until(args)).await,
        false => Ok(()),
    }
}

/// Starts the containers of services, each after what it needs has come to its condition.
async fn start_in_order(
    session: &Session,
    named: &[String],
    loaded: &Loaded,
    all: &[Container],
) -> Outcome {
    let wanted = order::wanted(&loaded.project, named, true)?;
    for key in order::sorted(&loaded.project, &wanted) {
        let own: Vec<&Container> = all.iter().filter(|one| one.service == key).collect();
        if own.is_empty() {
            if loaded.project.services[&key].replicas == 0 {
                continue;
            }
            return Err(Failure::message(format!(
                "service {key:?} has no container to start"
            )));
        }
        if own.iter().all(|one| one.is_running()) {
            continue;
        }
        for (needed, dependency) in &loaded.project.services[&key].depends_on {
            if dependency.condition == Condition::Started || !wanted.contains(needed) {
                continue;
            }
            let needed: Vec<Container> = all
                .iter()
                .filter(|one| one.service == *needed)
                .cloned()
                .collect();
            wait::wait_for(session, &needed, dependency.condition, None)
                .await
                .map_err(|why| Failure::message(format!("dependency failed to start: {why}")))?;
        }
        for one in own.into_iter().filter(|one| !one.is_running()) {
            make::start(session, loaded, one).await?;
        }
    }
    Ok(())
}

pub async fn stop(session: &Session, args: &Args) -> Outcome {
    let (_, loaded, all) = found(session, args).await?;
    let how = stopping::How {
        timeout: args.int("timeout"),
        project: loaded.as_ref().map(|loaded| &loaded.project),
    };
    stopping::stop(session, &all, &how).await
}

/// One verb of the API on one container.
async fn act(
    session: &Session,
    container: &Container,
    verb: &str,
    (before, after): (&str, &str),
    query: &[(&str, String)],
) -> Outcome {
    tell_container(session, &container.name, before);
    let mut call = Call::post(path(&container.id, &format!("/{verb}")));
    for (name, value) in query {
        call = call.query(name, value);
    }
    rehearsal::done(session, call).await?;
    tell_container(session, &container.name, after);
    Ok(())
}

pub async fn restart(session: &Session, args: &Args) -> Outcome {
    let named = args.positionals();
    let (name, loaded) = project::target(session, named)?;
    // With those that are to be started again whenever these are.
    let wanted: Vec<String> = match &loaded {
        Some(loaded) if !args.flag("no-deps") => order::restarted_with(&loaded.project, named),
        _ => named.to_vec(),
    };
    let all = observed::containers(session, &name).await?;
    let all = observed::of_services(all, &wanted, false);
    must_be(&name, &all)?;
    let timeout: Vec<(&str, String)> = args
        .int("timeout")
        .map(|seconds| ("t", seconds.to_string()))
        .into_iter()
        .collect();
    // What is needed first.
    let groups = stopping::groups(&all);
    for one in groups.iter().rev().flatten() {
        let service = loaded
            .as_ref()
            .and_then(|loaded| loaded.project.services.get(&one.service));
        if let Some(service) = service.filter(|_| one.state == "running") {
            hooks::run(session, &one.name, &one.id, &service.pre_stop).await?;
        }
        act(session, one, "restart", ("Restarting", "Started"), &timeout).await?;
        if let Some(service) = service {
            hooks::run(session, &one.name, &one.id, &service.post_start).await?;
        }
    }
    Ok(())
}

pub async fn kill(session: &Session, args: &Args) -> Outcome {
    let (name, loaded, all) = found(session, args).await?;
    let mut running: Vec<Container> = all.into_iter().filter(Container::is_running).collect();
    if let Some(loaded) = loaded.filter(|_| !args.flag("remove-orphans")) {
        let orphans = up::orphans_of(&loaded.project, &running);
        running.retain(|one| orphans.iter().all(|orphan| orphan.id != one.id));
    }
    must_be(&name, &running)?;
    let signal = args.maybe("signal").unwrap_or("SIGKILL").to_owned();
    for one in &running {
        let query = [("signal", signal.clone())];
        act(session, one, "kill", ("Killing", "Killed"), &query).await?;
    }
    Ok(())
}

pub async fn pause(session: &Session, args: &Args) -> Outcome {
    let (name, _, all) = found(session, args).await?;
    must_be(&name, &all)?;
    for one in all.iter().filter(|one| one.state == "running") {
        act(session, one, "pause", ("Pausing", "Paused"), &[]).await?;
    }
    Ok(())
}

pub async fn unpause(session: &Session, args: &Args) -> Outcome {
    let (name, _, all) = found(session, args).await?;
    must_be(&name, &all)?;
    for one in all.iter().filter(|one| one.state == "paused") {
        act(session, one, "unpause", ("Unpausing", "Unpaused"), &[]).await?;
    }
    Ok(())
}

pub async fn remove(session: &Session, args: &Args) -> Outcome {
    let named = args.positionals();
    let (name, loaded) = project::target(session, named)?;
    let mut all = observed::of_services(observed::containers(session, &name).await?, named, true);
    if args.flag("stop") {
        let how = stopping::How {
            timeout: None,
            project: loaded.as_ref().map(|loaded| &loaded.project),
        };
        stopping::stop(session, &all, &how).await?;
    } else {
        all.retain(|one| !one.is_running());
    }
    if all.is_empty() {
        session.warn("No stopped containers");
        return Ok(());
    }
    let names: Vec<&str> = all.iter().map(|one| one.name.as_str()).collect();
    let going = format!("Going to remove {}", names.join(", "));
    if args.flag("force") {
        session.say(going)?;
    } else if !session.confirm(&format!("{going}\nAre you sure?"))? {
        return Ok(());
    }
    let project = loaded.as_ref().map(|loaded| &loaded.project);
    stopping::remove(session, &all, project, args.flag("volumes")).await
}
