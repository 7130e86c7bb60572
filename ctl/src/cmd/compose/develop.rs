//! `compose watch`: containers follow the files on this machine, as `develop.watch` says.
//!
//! Files are looked at again and again; it takes no help of the kernel, so it works on every file
//! system.

mod again;
mod due;
mod tree;

use std::time::Duration;

use skep_compose::{ProjectBuild, ProjectHook, ProjectWatch, WatchAction};

use self::again::Again;
use self::due::{Copied, Due};
use self::tree::{Changes, Tree, Watched};
use super::observed::{self, Container};
use super::project::{self, Loaded};
use super::up::{Goal, Tell, converge};
use super::watch::Followed;
use super::{build, hooks, labels, order, rehearsal, tell_container};
use crate::client::Call;
use crate::cmd::container::cp::{Problem, archive_body};
use crate::cmd::container::path;
use crate::failure::{Failure, Outcome};
use crate::filter::Filters;
use crate::flags::Args;
use crate::session::Session;

/// How often files are looked at.
const PERIOD: Duration = Duration::from_millis(500);
/// So many looks wait for a writer to come to an end; then what is there counts.
const SETTLING_LOOKS_MAX: usize = 20;
/// Paths of one command that removes them; a command's length has a bound.
const REMOVED_AT_ONCE_MAX: usize = 500;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    rehearsal::refuse(
        session,
        "watch",
        "files are followed by changing containers",
    )?;
    let named = args.positionals();
    let loaded = project::load(session, named)?;
    let watching = Watching::of(&loaded, named, args)?;
    if !args.flag("no-up") {
        let goal = Goal {
            named: named.to_vec(),
            ..Goal::default()
        };
        converge(session, &loaded, &goal, None).await?;
    }
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| {
        signal(kind)
            .map_err(|error| Failure::message(format!("cannot listen for signals: {error}")))
    };
    let (mut interrupt, mut terminate) = (
        listen(SignalKind::interrupt())?,
        listen(SignalKind::terminate())?,
    );
    tokio::select! {
        watched = watching.run(session, &loaded, None) => watched,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

/// The services whose files are watched.
pub struct Watching {
    watches: Vec<Watch>,
    how: How,
}

impl Watching {
    /// Looks at the files of services that are named, or of all, as they are now.
    ///
    /// # Errors
    /// There is nothing to watch, or what there is cannot be.
    pub fn of(loaded: &Loaded, named: &[String], args: &Args) -> Outcome<Self> {
        let wanted = order::wanted(&loaded.project, named, true)?;
        let mut watches = Vec::new();
        for key in order::sorted(&loaded.project, &wanted) {
            if !loaded.project.services[&key].watch.is_empty() {
                watches.push(Watch::of(loaded, key)?);
            }
        }
        if watches.is_empty() {
            return Err(Failure::message(
                "none of the selected services is configured for watch\nhint: add a `develop.watch` section to one",
            ));
        }
        let how = How {
            quiet: args.flag("quiet") || args.flag("quiet-build"),
            prune: args.flag_or("prune", true),
        };
        Ok(Self { watches, how })
    }

    /// Follows changes until it is dropped. Containers that are made anew are told of.
    pub async fn run(mut self, session: &Session, loaded: &Loaded, tell: Option<&Tell>) -> Outcome {
        let to = To {
            session,
            loaded,
            tell,
        };
        for watch in &mut self.watches {
            watch.follow(&to, &self.how).await;
        }
        session.warn("Watch enabled");
        loop {
            tokio::time::sleep(PERIOD).await;
            for watch in &mut self.watches {
                watch.follow(&to, &self.how).await;
            }
        }
    }
}

/// What changes are done to.
struct To<'a> {
    session: &'a Session,
    loaded: &'a Loaded,
    tell: Option<&'a Tell>,
}

struct How {
    quiet: bool,
    /// Whether images that a build leaves without a name go.
    prune: bool,
}

/// A service whose files are watched.
struct Watch {
    key: String,
    rules: Vec<(ProjectWatch, Watched)>,
    /// The files of each rule as they were last acted upon.
    seen: Vec<Tree>,
    /// Whether what is to be there from the beginning was copied.
    has_begun: bool,
    /// Files that could not be acted upon, and when that is tried again.
    failed: Option<(Vec<Tree>, Again)>,
    /// Why the last look saw nothing.
    blind: String,
}

impl Watch {
    fn of(loaded: &Loaded, key: String) -> Outcome<Self> {
        let service = &loaded.project.services[&key];
        let context = service
            .build
            .as_ref()
            .map(|build: &ProjectBuild| build.context.as_str());
        let mut rules = Vec::new();
        for rule in &service.watch {
            if rule.action == WatchAction::Rebuild && service.build.is_none() {
                return Err(Failure::message(format!(
                    "can't watch service {key:?} with action rebuild without a build context"
                )));
            }
            if !std::path::Path::new(&rule.path).exists() {
                return Err(Failure::message(format!(
                    "service {key:?} watches {}, which is not there",
                    rule.path
                )));
            }
            rules.push((rule.clone(), Watched::of(rule, context)?));
        }
        let mut watch = Self {
            key,
            rules,
            seen: Vec::new(),
            has_begun: false,
            failed: None,
            blind: String::new(),
        };
        watch.seen = watch.look()?;
        Ok(watch)
    }

    fn look(&self) -> Outcome<Vec<Tree>> {
        self.rules
            .iter()
            .map(|(_, watched)| watched.look())
            .collect()
    }

    /// What is to be there from the beginning.
    fn first(&self) -> Due {
        let nothing = Tree::new();
        let first: Vec<(&ProjectWatch, Changes)> = self
            .rules
            .iter()
            .zip(&self.seen)
            .filter(|((rule, _), _)| rule.initial_sync && rule.action.copies())
            .map(|((rule, _), tree)| (rule, Changes::between(&nothing, tree)))
            .collect();
        Due {
            execs: Vec::new(),
            restart: false,
            ..Due::of(&first)
        }
    }

    /// What follows from how files are now.
    fn next(&self, now: &[Tree]) -> Due {
        let changed: Vec<(&ProjectWatch, Changes)> = self
            .rules
            .iter()
            .zip(self.seen.iter().zip(now))
            .map(|((rule, _), (before, after))| (rule, Changes::between(before, after)))
            .collect();
        Due::of(&changed)
    }

    /// Looks whether something has changed, and does what follows. What fails is told and not
    /// forgotten: it is tried again, and is part of what the next change leads to.
    async fn follow(&mut self, to: &To<'_>, how: &How) {
        match self.settled().await {
            Ok(Some(now)) => self.bring(to, how, now).await,
            Ok(None) => {}
            Err(failure) => {
                let why = failure.to_string();
                if self.blind != why {
                    self.warn(to, &why);
                    self.blind = why;
                }
            }
        }
    }

    /// The files as they are once nobody writes any more, where there is something to do.
    async fn settled(&mut self) -> Outcome<Option<Vec<Tree>>> {
        let mut now = self.look()?;
        self.blind.clear();
        if self.has_begun && now == self.seen {
            self.failed = None;
            return Ok(None);
        }
        match &mut self.failed {
            Some((files, again)) if *files == now => {
                return Ok(again.is_due().then_some(now));
            }
            _ => self.failed = None,
        }
        if now == self.seen {
            return Ok(Some(now));
        }
        for _ in 0..SETTLING_LOOKS_MAX {
            tokio::time::sleep(PERIOD).await;
            let again = self.look()?;
            if again == now {
                break;
            }
            now = again;
        }
        Ok(Some(now))
    }

    /// Has containers follow the files as they are now.
    async fn bring(&mut self, to: &To<'_>, how: &How, now: Vec<Tree>) {
        if !self.has_begun {
            let first = self.first();
            match self.act(to, how, &first).await {
                Ok(()) => (self.has_begun, self.failed) = (true, None),
                Err(failure) => return self.note_failure(to, &failure, now, true),
            }
        }
        let due = self.next(&now);
        match self.act(to, how, &due).await {
            Ok(()) => (self.seen, self.failed) = (now, None),
            Err(failure) => self.note_failure(to, &failure, now, !due.rebuild),
        }
    }

    fn note_failure(&mut self, to: &To<'_>, failure: &Failure, now: Vec<Tree>, is_cheap: bool) {
        for (seen, now) in self.seen.iter_mut().zip(&now) {
            tree::doubt(seen, now);
        }
        let mut again = self
            .failed
            .take()
            .map(|(_, again)| again)
            .unwrap_or_default();
        let then = match again.failed(is_cheap) {
            true => "it is tried again",
            false => "the next change is another chance",
        };
        self.failed = Some((now, again));
        self.warn(to, &format!("{failure}; {then}"));
    }

    fn warn(&self, to: &To<'_>, what: &str) {
        let key = &self.key;
        to.session.warn(format!("warning: service {key:?}: {what}"));
    }

    async fn act(&self, to: &To<'_>, how: &How, due: &Due) -> Outcome {
        let session = to.session;
        let key = &self.key;
        if due.is_empty() {
            return Ok(());
        }
        if due.rebuild {
            session.warn(format!(
                "Rebuilding service {key:?} after changes were detected..."
            ));
            rebuild(to, key, how).await?;
            session.warn(format!("service {key:?} successfully built"));
            return Ok(());
        }
        let all = observed::containers(session, &to.loaded.project.name).await?;
        let mut own = observed::of_services(all, std::slice::from_ref(key), false);
        own.retain(Container::is_running);
        if own.is_empty() {
            return Err(Failure::message("it has no running container to change"));
        }
        let count = due.copies.len() + due.removes.len();
        if count > 0 {
            session.warn(format!(
                "Syncing service {key:?} after {count} changes were detected"
            ));
        }
        for one in &own {
            copy(session, one, &due.copies).await?;
            remove(session, one, &due.removes).await?;
            hooks::run(session, &one.name, &one.id, &due.execs).await?;
            if due.restart {
                tell_container(session, &one.name, "Restarting");
                let since = crate::cmd::task::now();
                let call = Call::post(path(&one.id, "/restart"));
                session.client.done(call).await?;
                tell_container(session, &one.name, "Started");
                if let Some(tell) = to.tell {
                    let _ = tell.send(Followed::started(one, Some(since)));
                }
            }
        }
        Ok(())
    }
}

async fn copy(session: &Session, container: &Container, copies: &[Copied]) -> Outcome {
    if copies.is_empty() {
        return Ok(());
    }
    let problem = Problem::default();
    let copies = copies.to_vec();
    let body = archive_body(problem.clone(), move |tar| {
        tar.follow_symlinks(false);
        for one in &copies {
            let name = one.to.trim_start_matches('/');
            match tar.append_path_with_name(&one.from, name) {
                // Gone meanwhile, which the next look sees.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    });
    let call = Call::put(path(&container.id, "/archive"))
        .query("path", "/")
        .body("application/x-tar", body);
    let sent = session.client.done(call).await;
    if let Some(why) = problem.lock().map_or(None, |mut why| why.take()) {
        return Err(Failure::message(why));
    }
    sent
}

async fn remove(session: &Session, container: &Container, paths: &[String]) -> Outcome {
    for some in paths.chunks(REMOVED_AT_ONCE_MAX) {
        let mut command = ["rm", "-rf", "--"].map(str::to_owned).to_vec();
        command.extend(some.iter().cloned());
        let hook = ProjectHook {
            command,
            user: "0".to_owned(),
            privileged: false,
            working_dir: String::new(),
            environment: Vec::new(),
        };
        hooks::run(session, &container.name, &container.id, &[hook]).await?;
    }
    Ok(())
}

async fn rebuild(to: &To<'_>, key: &str, how: &How) -> Outcome {
    let (session, loaded) = (to.session, to.loaded);
    let quietly = build::How {
        quiet: how.quiet,
        ..build::How::default()
    };
    build::one(session, loaded, key, &quietly).await?;
    let goal = Goal {
        named: vec![key.to_owned()],
        no_deps: true,
        ..Goal::default()
    };
    converge(session, loaded, &goal, to.tell).await?;
    if how.prune {
        let own = format!("{}={}", labels::PROJECT, loaded.project.name);
        let filters = Filters::default()
            .with("dangling", "true")
            .with("label", &own);
        let call = Call::post("/images/prune").query("filters", filters.to_query());
        session.client.done(call).await?;
    }
    Ok(())
}
