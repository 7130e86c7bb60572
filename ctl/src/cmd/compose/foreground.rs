//! A foreground `up`: what containers say, until they have ended or the user has enough.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::develop::Watching;
use super::project::Loaded;
use super::up::{Goal, Tell, converge};
use super::watch::Watch;
use super::{observed, order, stop, tell_container};
use crate::client::Call;
use crate::cmd::container::{exit, path};
use crate::failure::{Failure, Outcome};
use crate::session::Session;

/// Why a foreground `up` comes to its end.
enum End {
    /// All containers have ended.
    All,
    /// One has ended with this status, which ends the others.
    First(i64),
    /// The user has enough.
    Signal,
}

/// How long what was still said when containers stopped may take to arrive.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Makes and starts the containers. Where files are watched, that goes on until the user has
/// enough.
async fn begin(
    session: &Session,
    loaded: &Loaded,
    goal: &Goal,
    tell: &Tell,
    watching: Option<Watching>,
) -> Outcome {
    converge(session, loaded, goal, Some(tell)).await?;
    match watching {
        Some(watching) => watching.run(session, loaded, Some(tell)).await,
        None => Ok(()),
    }
}

/// Shows what the containers say until they have ended, or the user has enough.
pub async fn run(
    session: &Session,
    loaded: &Loaded,
    goal: &Goal,
    watch: Watch<'_>,
    shows: &dyn Fn(&str) -> bool,
    exit_from: &str,
    watching: Option<Watching>,
) -> Outcome {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| {
        signal(kind)
            .map_err(|error| Failure::message(format!("cannot listen for signals: {error}")))
    };
    let (mut interrupts, mut terminates) = (
        listen(SignalKind::interrupt())?,
        listen(SignalKind::terminate())?,
    );
    let (tell, told) = mpsc::unbounded_channel();
    let (tell_first, mut first) = mpsc::unbounded_channel();
    let (cancel, cancelled) = oneshot::channel::<()>();
    let started = async {
        let started = tokio::select! {
            started = begin(session, loaded, goal, &tell, watching) => started,
            // Nothing more is started; what is said is still shown.
            Ok(()) = cancelled => Ok(()),
        };
        drop(tell);
        started
    };
    let both = async {
        let (started, watched) = tokio::join!(started, watch.run(told, shows, tell_first));
        started?;
        watched
    };
    tokio::pin!(both);
    let mut all_said = false;
    let end = tokio::select! {
        ended = &mut both => {
            ended?;
            all_said = true;
            first.try_recv().map_or(End::All, End::First)
        }
        Some(code) = first.recv() => End::First(code),
        _ = interrupts.recv() => End::Signal,
        _ = terminates.recv() => End::Signal,
    };
    match end {
        End::All => return Ok(()),
        End::First(_) => session.warn("Aborting on container exit..."),
        End::Signal => session.warn("Gracefully Stopping... press Ctrl+C again to force"),
    }
    let _ = cancel.send(());
    let wanted = order::wanted(&loaded.project, &goal.named, goal.no_deps)?;
    let mut containers = observed::containers(session, &loaded.project.name).await?;
    containers.retain(|one| !one.oneoff && wanted.contains(&one.service));
    let how = stop::How {
        timeout: goal.timeout,
        project: Some(&loaded.project),
    };
    let stopped = async {
        tokio::select! {
            stopped = stop::stop(session, &containers, &how) => stopped,
            _ = interrupts.recv() => {
                for one in &containers {
                    let _ = session.client.done(Call::post(path(&one.id, "/kill"))).await;
                    tell_container(session, &one.name, "Killed");
                }
                Ok(())
            }
        }
    };
    let last_words = async {
        // The one that ended may have been the last one.
        if !all_said {
            let _ = (&mut both).await;
        }
    };
    tokio::pin!(stopped, last_words);
    tokio::select! {
        stopped = &mut stopped => {
            stopped?;
            let _ = tokio::time::timeout(LAST_WORDS, last_words).await;
        }
        () = &mut last_words => stopped.await?,
    }
    // What was being made at that moment may have come after the look.
    let mut late = observed::containers(session, &loaded.project.name).await?;
    late.retain(|one| !one.oneoff && one.is_running() && wanted.contains(&one.service));
    if !late.is_empty() {
        stop::stop(session, &late, &how).await?;
    }
    let code = match end {
        End::First(code) if exit_from.is_empty() => code,
        End::First(code) => match containers.iter().find(|one| one.service == exit_from) {
            Some(from) => {
                let from = observed::inspect(session, &from.id).await?;
                from.int("State.ExitCode")
            }
            None => code,
        },
        End::All | End::Signal => INTERRUPTED,
    };
    exit::pass_on(code)
}

/// The status after an interrupt: 128 + SIGINT.
const INTERRUPTED: i64 = 130;
