//! `stack deploy --wait`: follows a deploy to its end, as the managers see it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use skep_model::rollout::{RolloutState, ServiceStage, StackProgress};

use crate::client::{Call, segment};
use crate::failure::{Failure, Outcome};
use crate::session::Session;

/// Exit statuses that say how a deploy ended.
pub const FAILED: u8 = 3;
pub const ROLLED_BACK: u8 = 4;
pub const TIMED_OUT: u8 = 5;

/// How often the stack is looked at.
const POLL_PERIOD: Duration = Duration::from_millis(200);
/// Managers that do not answer are asked again for so long: one of them may just be replaced.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the managers, who have the last word, are given beyond the time that was asked for.
const GRACE: Duration = Duration::from_secs(10);

/// Waits until the deploy of `name` has ended, and tells of each step. `timeout` is what the managers
/// were told.
pub async fn wait(
    session: &Session,
    name: &str,
    quiet: bool,
    timeout: Option<Duration>,
) -> Outcome {
    let began = Instant::now();
    let mut silent_since: Option<Instant> = None;
    let mut shown: BTreeMap<String, String> = BTreeMap::new();
    let mut back = false;
    loop {
        let progress = match ask(session, name).await {
            Ok(progress) => progress,
            Err(failure) if may_pass(&failure) => {
                let since = *silent_since.get_or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE {
                    return Err(failure);
                }
                pause().await?;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        silent_since = None;
        if !quiet {
            if progress.state == RolloutState::RollingBack && !back {
                back = true;
                session.say(format!("{name} is rolled back: {}", progress.message))?;
            }
            tell(session, &progress, &mut shown)?;
        }
        let ended = |status: u8, what: &str| {
            Err(Failure::Exit {
                status,
                message: format!("stack {name} {what}: {}", progress.message),
            })
        };
        match progress.state {
            RolloutState::Deployed => return Ok(()),
            RolloutState::Failed => return ended(FAILED, "failed"),
            RolloutState::TimedOut => return ended(TIMED_OUT, "is not deployed"),
            RolloutState::RolledBack => return ended(ROLLED_BACK, "was rolled back"),
            RolloutState::RollbackFailed => return ended(FAILED, "could not be rolled back"),
            RolloutState::Deploying | RolloutState::RollingBack => {}
        }
        let late = |timeout: Duration| began.elapsed() > timeout + GRACE;
        if progress.state == RolloutState::Deploying && timeout.is_some_and(late) {
            return ended(TIMED_OUT, "is not deployed");
        }
        pause().await?;
    }
}

async fn pause() -> Outcome {
    tokio::select! {
        () = tokio::time::sleep(POLL_PERIOD) => Ok(()),
        _ = tokio::signal::ctrl_c() => Err(Failure::Exit {
            status: 130,
            message: "the deploy goes on in the background".to_owned(),
        }),
    }
}

async fn ask(session: &Session, name: &str) -> Outcome<StackProgress> {
    let call = Call::get(format!("/skep/v1/stacks/{}/progress", segment(name)));
    match session.client.typed(call).await {
        Err(Failure::Daemon { message, .. }) if message == "page not found" => Err(
            Failure::message("this daemon does not tell how far a stack is"),
        ),
        answer => answer,
    }
}

fn may_pass(failure: &Failure) -> bool {
    match failure {
        Failure::Daemon { code, .. } => *code >= 500,
        Failure::Unreachable { .. } => true,
        _ => false,
    }
}

/// Says what of each service is new.
fn tell(
    session: &Session,
    progress: &StackProgress,
    shown: &mut BTreeMap<String, String>,
) -> Outcome {
    for service in &progress.services {
        let count = format!("{}/{}", service.running, service.wanted);
        let line = match (service.stage, service.message.as_str()) {
            (ServiceStage::Done, _) => format!("{}: done {count}", service.name),
            (stage, "") => format!("{}: {} {count}", service.name, stage.as_str()),
            (stage, message) => format!("{}: {} {count}: {message}", service.name, stage.as_str()),
        };
        if shown.get(&service.name) != Some(&line) {
            session.say(&line)?;
            shown.insert(service.name.clone(), line);
        }
    }
    Ok(())
}
