//! `service run` and `service runs`.

use std::time::{Duration, Instant};

use skep_model::Timestamp;
use skep_model::schedule::{Run, RunOutcome, ServiceRuns};
use skep_model::timetable::COUNTED_MAX;

use super::fetch;
use crate::client::{Call, segment};
use crate::cmd::task::now;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::human;
use crate::progress::service::{Rollback, wait};
use crate::session::Session;
use crate::table::{self, Listing, Row};

/// How long after its last task a run may be told as one that goes on.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);

const RUNS: Listing = Listing {
    kind: "*service.runContext",
    columns: &[
        ("Run", "RUN"),
        ("Scheduled", "SCHEDULED"),
        ("Started", "STARTED"),
        ("Took", "TOOK"),
        ("Outcome", "OUTCOME"),
        ("Completed", "COMPLETED"),
        ("Failed", "FAILED"),
    ],
    table: "{{.Run}}\t{{.Scheduled}}\t{{.Started}}\t{{.Took}}\t{{.Outcome}}\t{{.Completed}}\t{{.Failed}}",
    quiet: "{{.Run}}",
    raw: &[],
};

fn not_there(failure: Failure) -> Failure {
    match failure {
        Failure::Daemon { message, .. } if message == "page not found" => {
            Failure::message("this daemon has no schedules")
        }
        other => other,
    }
}

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let name = args.positional(0);
    let service = fetch(session, name).await?;
    let path = format!("/skep/v1/services/{}/run", segment(service.id.as_str()));
    let answer = session.client.json(Call::post(path)).await;
    for warning in answer.map_err(not_there)?.texts("Warnings") {
        session.warn(warning);
    }
    session.say(name)?;
    if args.flag("detach") {
        return Ok(());
    }
    let begun = fetch(session, name).await?.job_status.unwrap_or_default();
    wait(session, name, args.flag("quiet"), Rollback::Failure).await?;
    let iteration = begun.job_iteration.index;
    let asked = Instant::now();
    // Its tasks have ended; that the run has is written by the next step of the managers.
    let run = loop {
        let schedule = fetch(session, name).await?.schedule.unwrap_or_default();
        let mut runs = schedule.runs.into_iter();
        let run = runs.find(|run| run.iteration == iteration);
        let goes_on = run
            .as_ref()
            .is_some_and(|run| run.outcome == RunOutcome::Running);
        if !goes_on || asked.elapsed() > SETTLED_WITHIN {
            break run;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    match run {
        Some(run) if run.outcome == RunOutcome::Complete => {
            session.say(format!("run {iteration} complete"))
        }
        Some(run) => Err(Failure::message(format!(
            "run {iteration} {}: {} of its tasks failed, {} completed",
            run.outcome.as_str(),
            run.failed,
            run.completed
        ))),
        // A job without a schedule.
        None => Ok(()),
    }
}

pub async fn list(session: &Session, args: &Args) -> Outcome {
    let name = args.positional(0);
    let call = Call::get(format!("/skep/v1/services/{}/runs", segment(name)));
    let told: ServiceRuns = session.client.typed(call).await.map_err(not_there)?;
    let format = crate::cmd::format_of(session, args, "");
    let quiet = args.flag("quiet");
    let started = |run: &&Run| !quiet || run.iteration > 0;
    let rows = told.runs.iter().filter(started).map(|run| row(run, now()));
    let rows = rows.collect();
    session.print(&table::render(&RUNS, &format, quiet, rows)?)
}

fn row(run: &Run, now: Timestamp) -> Row {
    let number = match run.iteration {
        0 => String::new(),
        iteration => iteration.to_string(),
    };
    let scheduled = match run.scheduled_at {
        Some(at) => human::go_time(at).replace(" +0000 UTC", "Z"),
        None => "by hand".to_owned(),
    };
    let outcome = match run.count {
        0 | 1 => run.outcome.as_str().to_owned(),
        count if count >= COUNTED_MAX => {
            format!("{} ({count} times or more)", run.outcome.as_str())
        }
        count => format!("{} ({count} times)", run.outcome.as_str()),
    };
    let took = run.started_at.map(|at| {
        let until = run.finished_at.unwrap_or(now);
        human::age(until.since(at))
    });
    let counts = |count: u64| match (run.iteration, run.finished_at) {
        (0, _) | (_, None) => String::new(),
        _ => count.to_string(),
    };
    let started = run.started_at.map(|at| human::ago(at, now));
    Row::new([
        ("Run", number.as_str().into()),
        ("Scheduled", scheduled.into()),
        ("Started", started.unwrap_or_default().into()),
        ("Took", took.unwrap_or_default().into()),
        ("Outcome", outcome.into()),
        ("Completed", counts(run.completed).into()),
        ("Failed", counts(run.failed).into()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_tell_when_they_were_due_and_what_came_of_them() {
        let at = |text: &str| Some(Timestamp::parse(text).unwrap());
        let runs = [
            Run {
                iteration: 8,
                started_at: at("2026-03-01T10:12:00Z"),
                ..Run::default()
            },
            Run {
                scheduled_at: at("2026-03-01T10:10:00Z"),
                outcome: RunOutcome::Skipped,
                count: 3,
                ..Run::default()
            },
            Run {
                iteration: 7,
                scheduled_at: at("2026-03-01T09:40:00Z"),
                started_at: at("2026-03-01T09:40:00.2Z"),
                finished_at: at("2026-03-01T10:11:00Z"),
                outcome: RunOutcome::Failed,
                completed: 1,
                failed: 2,
                count: 1,
            },
        ];
        let now = Timestamp::parse("2026-03-01T10:12:30Z").unwrap();
        let rows = runs.iter().map(|run| row(run, now)).collect();
        let shown = table::render(&RUNS, "", false, rows).unwrap();
        let lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
        assert_eq!(
            lines,
            [
                "RUN       SCHEDULED              STARTED          TOOK         OUTCOME             COMPLETED   FAILED",
                "8         by hand                30 seconds ago   30 seconds   running",
                "          2026-03-01 10:10:00Z                                 skipped (3 times)",
                "7         2026-03-01 09:40:00Z   32 minutes ago   30 minutes   failed              1           2",
            ]
        );
    }
}
