//! A service on its way to what was asked: waits until it is there, or says why not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::lines::{Amount, Line, Lines, Sink};
use crate::client::{Call, segment};
use crate::cmd::service::schedule;
use crate::failure::{Failure, Outcome};
use crate::filter::Filters;
use crate::json::Json;
use crate::session::Session;

/// How often the service is looked at.
const POLL_PERIOD: Duration = Duration::from_millis(200);
/// How long a service must stay as it should be, when its update config says nothing.
const MONITOR_DEFAULT: Duration = Duration::from_secs(5);
/// With more tasks than this only the sum is shown.
const BARS_MAX: u64 = 20;
/// States a task goes through, in order, for its bar.
const STATES: [&str; 9] = [
    "new",
    "allocated",
    "pending",
    "assigned",
    "accepted",
    "preparing",
    "ready",
    "starting",
    "running",
];
/// Longest error a bar shows, in characters.
const ERROR_LEN_MAX: usize = 70;

/// Whether going back is what the user wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rollback {
    /// The command was a rollback.
    Asked,
    /// The service going back by itself is a failure of the command.
    Failure,
}

/// Waits until the service (id or name, as the user called it) has converged and has stayed so for its monitoring period.
pub async fn wait(session: &Session, id: &str, quiet: bool, rollback: Rollback) -> Outcome {
    let mut lines = Lines::new(session, Sink::Out);
    let mut say = |line: Line| if quiet { Ok(()) } else { lines.write(&line) };
    let mut converged_at: Option<Instant> = None;
    let mut rolls_back = false;
    let mut ended_back: Option<String> = None;
    let mut began = false;
    loop {
        let service = session
            .client
            .json(Call::get(format!("/services/{}", segment(id))))
            .await?;
        let message = service.str("UpdateStatus.Message").to_owned();
        match service.str("UpdateStatus.State") {
            "updating" => rolls_back = false,
            // The update ended between two looks; nothing more will change.
            "completed" if converged_at.is_none() && began => return finish(None, rollback),
            "paused" => {
                return Err(Failure::message(format!(
                    "service update paused: {message}"
                )));
            }
            "rollback_started" => {
                if !rolls_back && !message.is_empty() {
                    say(status("rollback", &message))?;
                }
                rolls_back = true;
            }
            "rollback_paused" => {
                return Err(Failure::message(format!(
                    "service rollback paused: {message}"
                )));
            }
            "rollback_completed" => {
                ended_back = Some(message);
                rolls_back = true;
            }
            _ => {}
        }
        let monitor = match service.int("Spec.UpdateConfig.Monitor") {
            0 => MONITOR_DEFAULT,
            nanos => Duration::from_nanos(nanos.unsigned_abs()),
        };
        if converged_at.is_some_and(|at| at.elapsed() >= monitor) {
            say(status("verify", &format!("Service {id} converged")))?;
            if let Some(message) = &ended_back {
                say(Line {
                    id: "rollback".to_owned(),
                    text: message.clone(),
                    ..Line::default()
                })?;
            }
            return finish(ended_back, rollback);
        }
        if let Some(text) = idle_schedule(&service) {
            return say(Line {
                text,
                ..Line::default()
            });
        }
        let view = look(session, &service).await?;
        if !began {
            // Lines get their places: the sum first, then the slots.
            say(view.sum(0, rolls_back))?;
            for slot in view.numbered() {
                say(status(&slot, " "))?;
            }
        }
        began = true;
        for line in view.lines(rolls_back) {
            say(line)?;
        }
        if view.done {
            if view.is_job {
                return say(Line {
                    text: "job complete".to_owned(),
                    ..Line::default()
                });
            }
            let at = *converged_at.get_or_insert_with(Instant::now);
            if let Some(left) = monitor.checked_sub(at.elapsed()) {
                let seconds = left.as_secs() + 1;
                say(status(
                    "verify",
                    &format!("Waiting {seconds} seconds to verify that tasks are stable..."),
                ))?;
            }
        } else if converged_at.take().is_some() {
            say(status("verify", "Detected task failure"))?;
        }
        tokio::select! {
            () = tokio::time::sleep(POLL_PERIOD) => {}
            _ = tokio::signal::ctrl_c() => {
                if converged_at.is_none() {
                    say(Line { text: "Operation continuing in background.".to_owned(), ..Line::default() })?;
                    say(Line { text: format!("Use `skep service ps {id}` to check progress."), ..Line::default() })?;
                }
                return Ok(());
            }
        }
    }
}

/// What a job with a schedule that is not running waits for.
fn idle_schedule(service: &Json) -> Option<String> {
    let is_idle = !service.str("JobStatus.FinishedAt").is_empty();
    (is_idle && schedule::is_scheduled(service)).then(|| match schedule::next(service) {
        Some(next) => format!("the next run is at {next}"),
        None => "no run begins while the schedule is suspended".to_owned(),
    })
}

fn finish(ended_back: Option<String>, rollback: Rollback) -> Outcome {
    match (ended_back, rollback) {
        (Some(message), Rollback::Failure) => {
            let why = if message.is_empty() {
                String::new()
            } else {
                format!(": {message}")
            };
            Err(Failure::message(format!("service update rolled back{why}")))
        }
        _ => Ok(()),
    }
}

/// A line that later ones with its id replace.
fn status(id: &str, text: &str) -> Line {
    Line {
        id: id.to_owned(),
        text: text.to_owned(),
        progress: Some(Amount::default()),
        replaces: true,
    }
}

/// One look at a service's tasks.
struct View {
    /// Tasks wanted; for jobs those that must complete.
    wanted: u64,
    /// The newest task of each slot or node, with what its bar is called.
    slots: BTreeMap<String, Json>,
    /// Tasks that are as they should be.
    good: u64,
    is_job: bool,
    done: bool,
}

async fn look(session: &Session, service: &Json) -> Outcome<View> {
    let filters = Filters::default()
        .with("service", service.str("ID"))
        .with("_up-to-date", "true");
    let tasks = session
        .client
        .json(Call::get("/tasks").query("filters", filters.to_query()))
        .await?;
    let nodes = session.client.json(Call::get("/nodes")).await?;
    let live: BTreeSet<&str> = nodes
        .list("")
        .iter()
        .filter(|node| node.str("Status.State") != "down")
        .map(|node| node.str("ID"))
        .collect();
    Ok(view(service, tasks.list(""), &live))
}

fn view(service: &Json, tasks: &[Json], live: &BTreeSet<&str>) -> View {
    let mode = service.at("Spec.Mode");
    let has = |name: &str| mode.get(name).is_some_and(|value| *value != Json::Null);
    let by_node = has("Global") || has("GlobalJob");
    let is_job = has("ReplicatedJob") || has("GlobalJob");
    let iteration = service.int("JobStatus.JobIteration.Index");
    let mut newest: BTreeMap<String, &Json> = BTreeMap::new();
    for task in tasks {
        if is_job && task.int("JobIteration.Index") != iteration {
            continue;
        }
        let node = task.str("NodeID");
        if by_node && (node.is_empty() || !live.contains(node)) {
            continue;
        }
        let key = if by_node {
            node.to_owned()
        } else {
            format!("{:020}", task.int("Slot"))
        };
        let entry = newest.entry(key).or_insert(task);
        if rank(task) > rank(entry) {
            *entry = task;
        }
    }
    let wanted = if by_node {
        newest
            .values()
            .filter(|task| is_job || wants_running(task))
            .count() as u64
    } else if is_job {
        mode.int("ReplicatedJob.TotalCompletions").max(0) as u64
    } else {
        match mode.at("Replicated.Replicas") {
            Json::Null => 1,
            _ => mode.int("Replicated.Replicas").max(0) as u64,
        }
    };
    let good = newest
        .values()
        .filter(|task| {
            let state = task.str("Status.State");
            if is_job {
                state == "complete"
            } else {
                state == "running" && wants_running(task) && (by_node || node_is_live(task, live))
            }
        })
        .count() as u64;
    // Tasks of a job that is done may be history already.
    let finished = is_job && !service.str("JobStatus.FinishedAt").is_empty();
    let good = if finished { wanted } else { good };
    // A global service with no task yet has not begun, unless no node could take one.
    let started = !by_node || wanted > 0 || live.is_empty();
    let slots = newest
        .into_iter()
        .enumerate()
        .map(|(index, (key, task))| {
            let name = if by_node {
                key.chars().take(12).collect()
            } else {
                format!("{}/{wanted}", index + 1)
            };
            (name, task.clone())
        })
        .collect();
    View {
        wanted,
        slots,
        good,
        is_job,
        done: started && good == wanted,
    }
}

fn node_is_live(task: &Json, live: &BTreeSet<&str>) -> bool {
    live.contains(task.str("NodeID"))
}

/// Newer and wanted tasks stand for their slot.
fn rank(task: &Json) -> (bool, skep_model::Timestamp) {
    (
        wants_running(task),
        skep_model::Timestamp::parse(task.str("CreatedAt")).unwrap_or_default(),
    )
}

fn wants_running(task: &Json) -> bool {
    STATES.contains(&task.str("DesiredState"))
}

impl View {
    /// Names of the bars that are there before their tasks are.
    fn numbered(&self) -> Vec<String> {
        let bars = self.bars().into_iter().map(|(name, _)| name);
        bars.filter(|name| name.contains('/')).collect()
    }

    /// Names of the bars with their tasks; none when there are too many.
    fn bars(&self) -> Vec<(String, Option<&Json>)> {
        if self.wanted > BARS_MAX || self.is_job && self.wanted == 0 {
            return Vec::new();
        }
        let numbered = self.slots.keys().all(|name| name.contains('/'));
        if numbered {
            (1..=self.wanted)
                .map(|index| {
                    let name = format!("{index}/{}", self.wanted);
                    let task = self.slots.get(&name);
                    (name, task)
                })
                .collect()
        } else {
            self.slots
                .iter()
                .map(|(name, task)| (name.clone(), Some(task)))
                .collect()
        }
    }

    /// How many tasks are as they should be.
    fn sum(&self, good: u64, rolls_back: bool) -> Line {
        let (id, what) = if self.is_job {
            ("job progress", "complete")
        } else {
            ("overall progress", "tasks")
        };
        let prefix = if rolls_back && !self.is_job {
            "rolling back update: "
        } else {
            ""
        };
        status(id, &format!("{prefix}{good} out of {} {what}", self.wanted))
    }

    fn lines(&self, rolls_back: bool) -> Vec<Line> {
        let mut lines = Vec::new();
        for (name, task) in self.bars() {
            lines.extend(task.and_then(|task| bar(&name, task, rolls_back)));
        }
        lines.push(self.sum(self.good, rolls_back));
        lines
    }
}

/// The bar of one task.
fn bar(name: &str, task: &Json, rolls_back: bool) -> Option<Line> {
    let error = task.str("Status.Err");
    if !error.is_empty() {
        let text: String = error.replace('\n', " ");
        return Some(status(name, &crate::human::ellipsis(&text, ERROR_LEN_MAX)));
    }
    let state = task.str("Status.State");
    if state == "complete" {
        return Some(status(name, "complete "));
    }
    let step = STATES.iter().position(|name| *name == state)? + 1;
    if !wants_running(task) && task.str("DesiredState") != "complete" {
        return None;
    }
    let current = if rolls_back {
        STATES.len() - step
    } else {
        step
    };
    Some(Line {
        id: name.to_owned(),
        text: format!("{state:9}"),
        progress: Some(Amount {
            current: current as i64,
            total: STATES.len() as i64,
            hides_counts: true,
            unit: String::new(),
        }),
        replaces: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn see(mode: serde_json::Value, tasks: serde_json::Value) -> View {
        let service = Json::of(&json!({"ID": "s", "Spec": {"Mode": mode}}));
        view(
            &service,
            Json::of(&tasks).list(""),
            &BTreeSet::from(["n1", "n2"]),
        )
    }

    fn task(slot: u64, node: &str, state: &str, desired: &str, minute: u32) -> serde_json::Value {
        json!({"Slot": slot, "NodeID": node, "Status": {"State": state}, "DesiredState": desired,
               "CreatedAt": format!("2026-01-01T00:{minute:02}:00Z")})
    }

    #[test]
    fn a_replicated_service_converges_when_each_slot_runs() {
        let mode = json!({"Replicated": {"Replicas": 2}});
        let view = see(
            mode.clone(),
            json!([
                task(1, "n1", "running", "running", 1),
                task(2, "n2", "starting", "running", 1)
            ]),
        );
        assert_eq!((view.good, view.wanted, view.done), (1, 2, false));
        let view = see(
            mode.clone(),
            json!([
                task(1, "n1", "running", "running", 1),
                task(2, "n2", "running", "running", 2),
                task(2, "n2", "failed", "shutdown", 1)
            ]),
        );
        assert!(view.done);
        let names: Vec<String> = view
            .lines(false)
            .into_iter()
            .map(|line| format!("{}: {}", line.id, line.text))
            .collect();
        assert_eq!(
            names,
            [
                "1/2: running  ",
                "2/2: running  ",
                "overall progress: 2 out of 2 tasks"
            ]
        );
        let view = see(
            mode,
            json!([
                task(1, "gone", "running", "running", 1),
                task(2, "n2", "running", "running", 2)
            ]),
        );
        assert!(!view.done, "a task on a node that is down does not count");
    }

    #[test]
    fn global_services_and_jobs() {
        let view = see(json!({"Global": {}}), json!([]));
        assert!(!view.done);
        let view = see(
            json!({"Global": {}}),
            json!([
                task(0, "n1", "running", "running", 1),
                task(0, "gone", "running", "running", 1)
            ]),
        );
        assert_eq!((view.good, view.wanted, view.done), (1, 1, true));
        let view = see(
            json!({"ReplicatedJob": {"TotalCompletions": 2}}),
            json!([
                task(1, "n1", "complete", "complete", 1),
                task(2, "n1", "running", "complete", 1)
            ]),
        );
        assert_eq!((view.good, view.done, view.is_job), (1, false, true));
        let job = json!({"Spec": {"Mode": {"ReplicatedJob": {"TotalCompletions": 2}}},
                         "JobStatus": {"FinishedAt": "2026-01-01T00:00:00Z"}});
        let view = self::view(&Json::of(&job), &[], &BTreeSet::new());
        assert!(view.done, "its tasks are history");
        let view = see(json!({"Replicated": {"Replicas": 0}}), json!([]));
        assert!(view.done);
    }
}
