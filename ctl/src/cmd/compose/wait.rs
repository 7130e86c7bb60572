//! Waiting for what a service depends on.

use std::time::Duration;

use skep_compose::Condition;
use tokio::time::Instant;

use super::observed::{Container, inspect};
use super::{rehearsal, tell_container};
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::session::Session;

/// How often a container is looked at.
const PERIOD: Duration = Duration::from_millis(100);

/// Where a container is on the way to a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stand {
    Reached,
    NotYet,
    Never(String),
}

/// `has_check`: whether the container's health is told of.
fn stand(condition: Condition, state: &str, health: Option<&str>, code: i64, name: &str) -> Stand {
    let ended = matches!(state, "exited" | "dead" | "removing");
    match condition {
        Condition::Started if ended => Stand::Never(format!("container {name} exited ({code})")),
        Condition::Started if state == "running" => Stand::Reached,
        Condition::Started => Stand::NotYet,
        Condition::Healthy => match (health, ended) {
            (_, true) => Stand::Never(format!("container {name} exited ({code})")),
            (None, false) => {
                Stand::Never(format!("container {name} has no healthcheck configured"))
            }
            (Some("healthy"), false) => Stand::Reached,
            (Some("unhealthy"), false) => Stand::Never(format!("container {name} is unhealthy")),
            (Some(_), false) => Stand::NotYet,
        },
        Condition::CompletedSuccessfully if ended && code == 0 => Stand::Reached,
        Condition::CompletedSuccessfully if ended => Stand::Never(format!("exit {code}")),
        Condition::CompletedSuccessfully => Stand::NotYet,
    }
}

/// Waits until all containers are there, or one never will be. `until` ends the wait.
pub async fn wait_for(
    session: &Session,
    containers: &[Container],
    condition: Condition,
    until: Option<Instant>,
) -> Outcome {
    let reached = match condition {
        Condition::Started => "Started",
        Condition::Healthy => "Healthy",
        Condition::CompletedSuccessfully => "Exited",
    };
    for container in containers {
        tell_container(session, &container.name, "Waiting");
    }
    for container in containers {
        // Nobody comes to anything in a rehearsal.
        while !rehearsal::is_on(session) {
            let now = inspect(session, &container.id).await?;
            let health = match now.str("State.Health.Status") {
                "" | "none" => None,
                health => Some(health),
            };
            let code = now.int("State.ExitCode");
            match stand(
                condition,
                now.str("State.Status"),
                health,
                code,
                &container.name,
            ) {
                Stand::Reached => break,
                Stand::NotYet => {}
                Stand::Never(why) => {
                    tell_container(session, &container.name, "Error");
                    return Err(Failure::message(match condition {
                        Condition::CompletedSuccessfully => format!(
                            "service {:?} didn't complete successfully: {why}",
                            container.service
                        ),
                        _ => why,
                    }));
                }
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(Failure::message(
                    "application not healthy after the time it was given",
                ));
            }
            tokio::time::sleep(PERIOD).await;
        }
        tell_container(session, &container.name, reached);
    }
    Ok(())
}

/// When `--wait-timeout` is over.
pub fn until(args: &Args) -> Option<Instant> {
    args.int("wait-timeout")
        .and_then(|seconds| u64::try_from(seconds).ok())
        .filter(|seconds| *seconds > 0)
        .map(|seconds| Instant::now() + Duration::from_secs(seconds))
}

/// For `up --wait`: each container healthy, or running where it has no check.
pub async fn settled(
    session: &Session,
    containers: &[Container],
    until: Option<Instant>,
) -> Outcome {
    if rehearsal::is_on(session) {
        return Ok(());
    }
    for container in containers {
        let now = inspect(session, &container.id).await?;
        let checked = !matches!(now.str("State.Health.Status"), "" | "none");
        let condition = if checked {
            Condition::Healthy
        } else {
            Condition::Started
        };
        wait_for(session, std::slice::from_ref(container), condition, until).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_reached_or_never_will_be() {
        use Condition::{CompletedSuccessfully as Completed, Healthy, Started};
        let of = |condition, state, health, code| stand(condition, state, health, code, "a");
        let never = |why: &str| Stand::Never(why.to_owned());
        for (found, wanted) in [
            (of(Started, "running", None, 0), Stand::Reached),
            (of(Started, "created", None, 0), Stand::NotYet),
            (
                of(Started, "exited", None, 2),
                never("container a exited (2)"),
            ),
            (of(Healthy, "running", Some("starting"), 0), Stand::NotYet),
            (of(Healthy, "running", Some("healthy"), 0), Stand::Reached),
            (
                of(Healthy, "running", Some("unhealthy"), 0),
                never("container a is unhealthy"),
            ),
            (
                of(Healthy, "running", None, 0),
                never("container a has no healthcheck configured"),
            ),
            (
                of(Healthy, "exited", Some("starting"), 1),
                never("container a exited (1)"),
            ),
            (of(Completed, "running", None, 0), Stand::NotYet),
            (of(Completed, "exited", None, 0), Stand::Reached),
            (of(Completed, "exited", None, 3), never("exit 3")),
        ] {
            assert_eq!(found, wanted);
        }
    }
}
