//! `compose up`, `create` and `scale`.

use std::collections::{BTreeMap, BTreeSet};

use skep_compose::{Condition, Project};
use tokio::sync::mpsc;

use super::attached::Attached;
use super::body::{self, Peers};
use super::image::{self, Policy};
use super::make::{self, Maker};
use super::observed::{self, Container};
use super::plan::{Action, Recreate, Wanted, plan};
use super::project::{self, Loaded};
use super::watch::{Followed, Watch};
use super::{develop, foreground, order, rehearsal, stop, tell_container, wait};
use crate::client::Call;
use crate::cmd::container::path;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::session::Session;

/// What is to become of the project's containers.
#[derive(Debug, Clone, Default)]
pub struct Goal {
    /// Services asked for by name; empty: all.
    pub named: Vec<String>,
    /// Whether what they need is left alone.
    pub no_deps: bool,
    pub no_start: bool,
    pub recreate: Recreate,
    pub recreate_deps: Recreate,
    pub renews_volumes: bool,
    pub remove_orphans: bool,
    pub scale: BTreeMap<String, u64>,
    /// Seconds.
    pub timeout: Option<i64>,
    pub images: Policy,
    /// Also asked for, and not to be started by us: what `run` makes itself.
    pub deps_only: bool,
}

impl Goal {
    fn of(args: &Args) -> Outcome<Self> {
        let both = |one: &str, other: &str| -> Outcome {
            if args.flag(one) && args.flag(other) {
                return Err(Failure::message(format!(
                    "--{one} and --{other} are incompatible"
                )));
            }
            Ok(())
        };
        both("build", "no-build")?;
        both("force-recreate", "no-recreate")?;
        both("always-recreate-deps", "no-recreate")?;
        let pull = args.text("pull");
        if !matches!(
            pull,
            "" | "policy" | "always" | "missing" | "never" | "build"
        ) {
            return Err(args.invalid("pull", pull, "want always, missing, never or build"));
        }
        Ok(Self {
            named: args.positionals().to_vec(),
            no_deps: args.flag("no-deps"),
            no_start: args.flag("no-start"),
            recreate: match (args.flag("force-recreate"), args.flag("no-recreate")) {
                (true, _) => Recreate::Always,
                (_, true) => Recreate::Never,
                _ => Recreate::Diverged,
            },
            recreate_deps: match (args.flag("always-recreate-deps"), args.flag("no-recreate")) {
                (true, _) => Recreate::Always,
                (_, true) => Recreate::Never,
                _ => Recreate::Diverged,
            },
            renews_volumes: args.flag("renew-anon-volumes"),
            remove_orphans: args.flag("remove-orphans"),
            scale: args.each("scale", scale_of)?.into_iter().collect(),
            timeout: args.int("timeout"),
            images: Policy {
                pull: if pull == "policy" {
                    String::new()
                } else {
                    pull.to_owned()
                },
                build: args.flag("build"),
                no_build: args.flag("no-build"),
                quiet_pull: args.flag("quiet-pull"),
                quiet_build: args.flag("quiet-build"),
            },
            deps_only: false,
        })
    }
}

/// `SERVICE=NUMBER`.
fn scale_of(text: &str) -> Result<(String, u64), String> {
    let wrong = || format!("invalid scale specifier: {text}: want SERVICE=NUMBER");
    let (service, number) = text.split_once('=').ok_or_else(wrong)?;
    Ok((service.to_owned(), number.parse().map_err(|_| wrong())?))
}

pub async fn create(session: &Session, args: &Args) -> Outcome {
    let mut goal = Goal::of(args)?;
    goal.no_start = true;
    let loaded = project::load(session, &goal.named)?;
    converge(session, &loaded, &goal, None).await.map(drop)
}

pub async fn scale(session: &Session, args: &Args) -> Outcome {
    let mut scale = BTreeMap::new();
    for text in args.positionals() {
        let (service, number) = scale_of(text).map_err(Failure::Message)?;
        scale.insert(service, number);
    }
    let named: Vec<String> = scale.keys().cloned().collect();
    let loaded = project::load(session, &named)?;
    let goal = Goal {
        named,
        scale,
        no_deps: args.flag("no-deps"),
        ..Goal::default()
    };
    converge(session, &loaded, &goal, None).await.map(drop)
}

pub async fn up(session: &Session, args: &Args) -> Outcome {
    let goal = Goal::of(args)?;
    let waits = args.flag("wait");
    let detach = args.flag("detach") || waits || goal.no_start;
    let aborts = args.flag("abort-on-container-exit") || args.given("exit-code-from");
    let failure_aborts = args.flag("abort-on-container-failure");
    let attaches = args.given("attach") || args.flag("attach-dependencies");
    let watches = args.flag("watch");
    if detach && (aborts || failure_aborts || attaches || watches) {
        return Err(Failure::message(
            "--detach cannot be combined with --abort-on-container-exit, --abort-on-container-failure, --exit-code-from, --attach, --attach-dependencies or --watch",
        ));
    }
    if args.given("attach") && args.flag("attach-dependencies") {
        return Err(Failure::message(
            "--attach and --attach-dependencies are incompatible",
        ));
    }
    let loaded = project::load(session, &goal.named)?;
    for flag in ["exit-code-from", "attach", "no-attach"] {
        for name in args.list(flag) {
            if !loaded.project.services.contains_key(&name) {
                return Err(Failure::message(format!("no such service: {name}")));
            }
        }
    }
    if detach {
        let containers = converge(session, &loaded, &goal, None).await?;
        if waits {
            wait::settled(session, &containers, wait::until(args)).await?;
        }
        return Ok(());
    }
    if rehearsal::is_on(session) {
        converge(session, &loaded, &goal, None).await?;
        return session
            .say("end of 'compose up' output, interactive run is not supported in dry-run mode");
    }
    let attached = Attached {
        only: args.list("attach"),
        left_out: args.list("no-attach"),
        named: match args.flag("attach-dependencies") {
            true => Vec::new(),
            false => goal.named.clone(),
        },
    };
    let shows = |service: &str| attached.shows(&loaded.project, service);
    let watching = match watches {
        true => Some(develop::Watching::of(&loaded, &goal.named, args)?),
        false => None,
    };
    let mut watch = Watch::new(session, &loaded.project.name);
    watch.timestamps = args.flag("timestamps");
    watch.prefix = !args.flag("no-log-prefix");
    watch.color &= !args.flag("no-color");
    watch.aborts = aborts;
    watch.aborts_on_failure = failure_aborts;
    let exit_from = args.text("exit-code-from");
    foreground::run(session, &loaded, &goal, watch, &shows, exit_from, watching).await
}

/// Tells of containers that are to be followed.
pub type Tell = mpsc::UnboundedSender<Followed>;

/// Brings the project where `goal` wants it; the containers of the services asked for, in the
/// order they were started.
pub async fn converge(
    session: &Session,
    loaded: &Loaded,
    goal: &Goal,
    tell: Option<&Tell>,
) -> Outcome<Vec<Container>> {
    let project = &loaded.project;
    for (name, number) in &goal.scale {
        let Some(service) = project.services.get(name) else {
            return Err(Failure::message(format!("no such service: {name}")));
        };
        if *number > 1
            && let Some(container) = &service.container_name
        {
            return Err(Failure::message(format!(
                "The {name:?} service is using the custom container name {container:?}. Docker requires each container to have a unique name. Remove the custom name to scale the service"
            )));
        }
    }
    let mut wanted = order::wanted(project, &goal.named, goal.no_deps)?;
    if goal.deps_only {
        wanted.retain(|name| !goal.named.contains(name));
    }
    let keys = order::sorted(project, &wanted);
    let images = image::ensure(session, loaded, &keys, &goal.images).await?;
    let mut seen = observed::containers(session, &project.name).await?;
    read_neighbours(session, project, &mut seen).await?;
    orphans(session, loaded, &seen, goal).await?;
    make::networks(session, project, &keys).await?;
    make::volumes(session, project, &keys).await?;
    let services: Vec<Wanted> = keys
        .iter()
        .map(|key| wanted_of(loaded, key, goal, &images[key].1))
        .collect();
    let actions = plan(loaded.names(), &services, &seen);
    let mut peers = Peers::new();
    for one in seen.iter().filter(|one| !one.oneoff) {
        let peer = (one.name.clone(), one.id.clone());
        peers.entry(one.service.clone()).or_default().push(peer);
    }
    let mut maker = Maker {
        session,
        loaded,
        images,
        peers,
        renews_volumes: goal.renews_volumes,
        timeout: goal.timeout,
    };
    let mut made: BTreeMap<String, Vec<(Container, Start)>> = BTreeMap::new();
    for key in &keys {
        let mut own = Vec::new();
        for action in &actions[key] {
            own.extend(act(&mut maker, key, action, &seen, goal).await?);
        }
        made.insert(key.clone(), own);
    }
    if !goal.no_start {
        start_all(session, loaded, &keys, &made, tell).await?;
    }
    Ok(keys
        .iter()
        .flat_map(|key| made.remove(key).unwrap_or_default())
        .map(|(container, _)| container)
        .collect())
}

/// Reads in whose namespaces containers of services live that share those of another one's.
async fn read_neighbours(session: &Session, project: &Project, seen: &mut [Container]) -> Outcome {
    for container in seen.iter_mut().filter(|one| !one.oneoff) {
        let Some(service) = project.services.get(&container.service) else {
            continue;
        };
        let shared = &service.shared;
        let modes = [
            (&shared.network, "HostConfig.NetworkMode"),
            (&shared.pid, "HostConfig.PidMode"),
            (&shared.ipc, "HostConfig.IpcMode"),
        ];
        let paths: Vec<&str> = modes
            .into_iter()
            .filter(|(mode, _)| {
                let mode = mode.as_deref();
                mode.is_some_and(|mode| mode.starts_with("service:"))
            })
            .map(|(_, path)| path)
            .collect();
        if paths.is_empty() {
            continue;
        }
        let made = observed::inspect(session, &container.id).await?;
        container.lives_in = paths
            .into_iter()
            .filter_map(|path| made.str(path).strip_prefix("container:"))
            .map(str::to_owned)
            .collect();
    }
    Ok(())
}

/// Whether a container has to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// For the first time.
    New,
    Again,
    Restart,
    Runs,
}

fn wanted_of(loaded: &Loaded, key: &str, goal: &Goal, image: &str) -> Wanted {
    let service = &loaded.project.services[key];
    let named = goal.named.is_empty() || goal.named.iter().any(|name| name == key);
    let shared = &service.shared;
    Wanted {
        service: key.to_owned(),
        scale: goal.scale.get(key).copied().unwrap_or(service.replicas),
        hash: body::hash(&loaded.project, service),
        image: image.to_owned(),
        container_name: service.container_name.clone().unwrap_or_default(),
        recreate: if named {
            goal.recreate
        } else {
            goal.recreate_deps
        },
        lives_in: [&shared.network, &shared.pid, &shared.ipc]
            .into_iter()
            .flatten()
            .filter_map(|mode| mode.strip_prefix("service:"))
            .map(str::to_owned)
            .collect(),
        restarts_with: service
            .depends_on
            .iter()
            .filter(|(_, dependency)| dependency.restart)
            .map(|(name, _)| name.clone())
            .collect(),
    }
}

/// Does one thing; the container that is there afterwards.
async fn act(
    maker: &mut Maker<'_>,
    key: &str,
    action: &Action,
    seen: &[Container],
    goal: &Goal,
) -> Outcome<Option<(Container, Start)>> {
    let known = |id: &str| {
        let known = seen.iter().find(|one| one.id == id);
        known.cloned().unwrap_or_default()
    };
    Ok(match action {
        Action::Create { number, name } => {
            Some((maker.create(key, *number, name).await?, Start::New))
        }
        Action::Recreate { id, number, name } => {
            Some((maker.recreate(key, id, *number, name).await?, Start::New))
        }
        Action::Keep { id, name, running } => {
            let word = if *running { "Running" } else { "Created" };
            tell_container(maker.session, name, word);
            let start = if *running { Start::Runs } else { Start::Again };
            Some((known(id), start))
        }
        Action::Restart { id } => Some((known(id), Start::Restart)),
        Action::Remove { id } => {
            let how = stop::How {
                timeout: goal.timeout,
                project: Some(&maker.loaded.project),
            };
            let gone = known(id);
            if let Some(peers) = maker.peers.get_mut(key) {
                peers.retain(|(_, peer)| peer != id);
            }
            stop::take_away(maker.session, &[gone], &how, false).await?;
            None
        }
    })
}

/// Starts the containers, each service after what it needs has come to its condition.
async fn start_all(
    session: &Session,
    loaded: &Loaded,
    keys: &[String],
    made: &BTreeMap<String, Vec<(Container, Start)>>,
    tell: Option<&Tell>,
) -> Outcome {
    if let Some(tell) = tell {
        // Prefixes are as wide as the longest name.
        for (container, start) in made.values().flatten() {
            let _ = tell.send(Followed::named(container, *start == Start::Runs));
        }
    }
    for key in keys {
        let own = &made[key];
        if own.iter().any(|(_, start)| *start != Start::Runs) {
            for (name, dependency) in &loaded.project.services[key].depends_on {
                let Some(needed) = made.get(name) else {
                    continue;
                };
                let containers: Vec<Container> = needed
                    .iter()
                    .map(|(container, _)| container.clone())
                    .collect();
                if dependency.condition == Condition::Started {
                    continue;
                }
                let came = wait::wait_for(session, &containers, dependency.condition, None).await;
                match came {
                    Ok(()) => {}
                    Err(why) if !dependency.required => {
                        session.warn(format!(
                            "warning: optional dependency {name:?} failed to start: {why}"
                        ));
                    }
                    Err(why) if dependency.condition == Condition::CompletedSuccessfully => {
                        return Err(why);
                    }
                    Err(why) => {
                        return Err(Failure::message(format!(
                            "dependency failed to start: {why}"
                        )));
                    }
                }
            }
        }
        for (container, start) in own {
            let since = crate::cmd::task::now();
            match start {
                Start::Runs => continue,
                Start::New | Start::Again => make::start(session, loaded, container).await?,
                Start::Restart => {
                    tell_container(session, &container.name, "Restarting");
                    let call = Call::post(path(&container.id, "/restart"));
                    rehearsal::done(session, call).await?;
                    tell_container(session, &container.name, "Started");
                }
            }
            if let Some(tell) = tell {
                let since = (*start != Start::New).then_some(since);
                let _ = tell.send(Followed::started(container, since));
            }
        }
    }
    Ok(())
}

/// Containers of services that the files no longer have.
async fn orphans(session: &Session, loaded: &Loaded, seen: &[Container], goal: &Goal) -> Outcome {
    let project = &loaded.project;
    let orphans: Vec<Container> = orphans_of(project, seen);
    if orphans.is_empty() {
        return Ok(());
    }
    if goal.remove_orphans {
        let how = stop::How {
            timeout: goal.timeout,
            project: None,
        };
        return stop::take_away(session, &orphans, &how, false).await;
    }
    let is_quiet = session
        .env
        .get("COMPOSE_IGNORE_ORPHANS")
        .is_some_and(|value| project::is_true(value));
    if !is_quiet && !goal.deps_only {
        let names: BTreeSet<&str> = orphans.iter().map(|one| one.name.as_str()).collect();
        let names: Vec<&str> = names.into_iter().collect();
        session.warn(format!(
            "warning: found orphan containers ([{}]) for this project. If you removed or renamed this service in your compose file, you can run this command with the --remove-orphans flag to clean it up.",
            names.join(" ")
        ));
    }
    Ok(())
}

/// See [`orphans`].
pub fn orphans_of(project: &skep_compose::Project, seen: &[Container]) -> Vec<Container> {
    seen.iter()
        .filter(|one| {
            !project.services.contains_key(&one.service)
                && !project.disabled.contains_key(&one.service)
        })
        .cloned()
        .collect()
}
