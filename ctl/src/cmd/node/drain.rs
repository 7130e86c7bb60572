//! `node update --availability drain --wait`: until the node's tasks have ended and run elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::cmd::task::{self, Names};
use crate::failure::{Failure, Outcome};
use crate::filter::Filters;
use crate::json::Json;
use crate::session::Session;

/// How often the tasks are looked at.
const POLL_PERIOD: Duration = Duration::from_millis(250);
/// Tasks named when the wait is given up.
const NAMED_MAX: usize = 10;
/// States of a task that something may still run of.
const ALIVE: [&str; 6] = [
    "assigned",
    "accepted",
    "preparing",
    "ready",
    "starting",
    "running",
];

/// A slot of a service: its id and the slot's number.
type Place = (String, i64);

/// What a node had to do before it was drained.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Slots that its tasks filled. Tasks of global services have none.
    places: BTreeSet<Place>,
}

/// Looks at a node's work. To be asked before the node is drained.
pub async fn look(session: &Session, node: &str) -> Outcome<Work> {
    let tasks = task::list(session, &Filters::default().with("node", node)).await?;
    Ok(work(&tasks))
}

fn work(tasks: &[Json]) -> Work {
    let alive = tasks
        .iter()
        .filter(|task| is_alive(task) && is_wanted(task));
    let places = alive.map(place).filter(|(_, slot)| *slot != 0);
    Work {
        places: places.collect(),
    }
}

/// Waits until nothing of the node's work is there any more, and all of it is done elsewhere.
pub async fn wait(
    session: &Session,
    name: &str,
    node: &str,
    work: &Work,
    timeout: Option<Duration>,
) -> Outcome {
    let began = Instant::now();
    let mut said = String::new();
    loop {
        let here = task::list(session, &Filters::default().with("node", node)).await?;
        let stopping: Vec<&Json> = here.iter().filter(|task| is_alive(task)).collect();
        let mut elsewhere = Vec::new();
        let services: BTreeSet<&String> = work.places.iter().map(|(service, _)| service).collect();
        for service in services {
            elsewhere.extend(tasks_of(session, service).await?);
        }
        let waiting = waiting(&elsewhere, work);
        if stopping.is_empty() && waiting.is_empty() {
            return session.say(format!("Node {name} is drained."));
        }
        let progress = format!(
            "{} to stop, {} to run elsewhere",
            counted(stopping.len()),
            counted(waiting.len())
        );
        if progress != said {
            session.say(format!("Node {name}: {progress}"))?;
            said = progress;
        }
        if timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
            let reason = why(session, &stopping, &waiting).await?;
            return Err(Failure::message(format!(
                "node {name} is not drained yet: {reason}"
            )));
        }
        tokio::time::sleep(POLL_PERIOD).await;
    }
}

/// All tasks of a service; none once it is gone.
async fn tasks_of(session: &Session, service: &str) -> Outcome<Vec<Json>> {
    match task::list(session, &Filters::default().with("service", service)).await {
        Err(failure) if failure.is_not_found() => Ok(Vec::new()),
        answer => answer,
    }
}

/// The places of a node's work that nothing runs in, with the task that is to. A place that nobody
/// wants filled any more is not waited for.
fn waiting<'a>(tasks: &'a [Json], work: &Work) -> Vec<&'a Json> {
    let mut wanted: BTreeMap<Place, &Json> = BTreeMap::new();
    let mut filled = BTreeSet::new();
    for task in tasks
        .iter()
        .filter(|task| work.places.contains(&place(task)))
    {
        if is_done(task) {
            filled.insert(place(task));
        } else if is_wanted(task) {
            wanted.insert(place(task), task);
        }
    }
    wanted.retain(|place, _| !filled.contains(place));
    wanted.into_values().collect()
}

async fn why(session: &Session, stopping: &[&Json], waiting: &[&Json]) -> Outcome<String> {
    let mut names = Names::new(false);
    let mut reasons = Vec::new();
    for task in stopping.iter().chain(waiting).take(NAMED_MAX) {
        let name = task::name_of(session, &mut names, task).await?;
        let state = match task.str("Status.Err") {
            "" => task.str("Status.State"),
            error => error,
        };
        reasons.push(format!("{name} ({state})"));
    }
    let more = (stopping.len() + waiting.len()).saturating_sub(NAMED_MAX);
    if more > 0 {
        reasons.push(format!("{more} more"));
    }
    Ok(reasons.join(", "))
}

fn counted(tasks: usize) -> String {
    match tasks {
        1 => "1 task".to_owned(),
        tasks => format!("{tasks} tasks"),
    }
}

fn place(task: &Json) -> Place {
    (task.str("ServiceID").to_owned(), task.int("Slot"))
}

fn is_alive(task: &Json) -> bool {
    ALIVE.contains(&task.str("Status.State"))
}

/// Whether the task is to run, or, of a job, to complete.
fn is_wanted(task: &Json) -> bool {
    let ended = [
        "complete", "shutdown", "failed", "rejected", "orphaned", "remove",
    ];
    ["ready", "running", "complete"].contains(&task.str("DesiredState"))
        && !ended.contains(&task.str("Status.State"))
}

/// Whether the task does what it is to do.
fn is_done(task: &Json) -> bool {
    let state = task.str("Status.State");
    state == "complete" && task.str("DesiredState") == "complete"
        || state == "running" && is_wanted(task)
}

/// The flags of `node update` that belong to a drain.
pub fn check(wait: bool, timeout: bool, availability: Option<&str>) -> Outcome {
    if timeout && !wait {
        return Err(Failure::message("--timeout can only be used with --wait"));
    }
    if wait && availability.is_none_or(|word| !word.eq_ignore_ascii_case("drain")) {
        return Err(Failure::message(
            "--wait can only be used with --availability drain",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn task(service: &str, slot: i64, state: &str, desired: &str) -> Json {
        Json::of(&json!({"ServiceID": service, "Slot": slot,
                         "Status": {"State": state}, "DesiredState": desired}))
    }

    #[test]
    fn places_are_waited_for_until_something_runs_there_or_nobody_wants_it() {
        let before = [
            task("web", 1, "running", "running"),
            task("web", 2, "running", "running"),
            task("web", 3, "running", "shutdown"),
            task("all", 0, "running", "running"),
            task("job", 1, "running", "complete"),
        ];
        let work = work(&before);
        assert_eq!(work.places.len(), 3);
        let after = |tasks: &[Json]| {
            let waiting = waiting(tasks, &work);
            waiting.iter().map(|task| place(task)).collect::<Vec<_>>()
        };
        let stopped = task("web", 1, "shutdown", "shutdown");
        let pending = task("web", 1, "pending", "running");
        let runs = task("web", 1, "running", "running");
        assert_eq!(
            after(&[stopped.clone(), pending.clone()]),
            [("web".into(), 1)]
        );
        assert_eq!(after(&[stopped.clone(), runs]), []);
        assert_eq!(after(&[stopped]), [], "its service wants less");
        assert_eq!(
            after(&[task("job", 1, "starting", "complete")]),
            [("job".into(), 1)]
        );
        assert_eq!(after(&[task("job", 1, "complete", "complete")]), []);
        assert_eq!(after(&[task("other", 1, "pending", "running")]), []);
    }

    #[test]
    fn flags_that_belong_together() {
        assert!(check(true, true, Some("Drain")).is_ok());
        assert!(check(false, false, None).is_ok());
        assert!(check(true, false, None).is_err());
        assert!(check(true, false, Some("active")).is_err());
        assert!(check(false, true, Some("drain")).is_err());
    }
}
