//! Schedules of jobs: when they run next, and what has become of their last runs.

use skep_model::Service;
use skep_model::schedule::{Run, RunOutcome};
use skep_model::timetable::COUNTED_MAX;
use skep_model::why::{Cause, Trouble};

/// What is added to the summary of a service; empty for one without a schedule.
pub(super) fn summary(service: &Service) -> String {
    match (service.spec.schedule(), service.next_run()) {
        (Ok(Some(schedule)), _) if schedule.suspended => "; its schedule is suspended".to_owned(),
        (Ok(Some(_)), Some(next)) => format!("; runs next at {next}"),
        _ => String::new(),
    }
}

/// The last run that did not complete, and runs since then that were not started.
pub(super) fn causes(service: &Service) -> Vec<Cause> {
    let Some(status) = service.schedule.as_ref() else {
        return Vec::new();
    };
    let cause = |trouble, message, since, advice: &str| Cause {
        subject: service.spec.name.clone(),
        trouble,
        message,
        advice: advice.to_owned(),
        since,
        ..Cause::default()
    };
    let mut causes = Vec::new();
    for run in status
        .runs
        .iter()
        .take_while(|run| run.outcome.is_unstarted())
    {
        let (what, advice) = match run.outcome {
            RunOutcome::Skipped => (
                "skipped: another one was not finished",
                "`service runs` lists them; --schedule-concurrency replace stops the run that is there",
            ),
            _ => (
                "missed: nobody could start them in time",
                "`service run` starts one now; --schedule-catch-up says how late a run may be",
            ),
        };
        let message = format!("{} {what}", counted(run));
        causes.push(cause(
            Trouble::RunsUnstarted,
            message,
            run.scheduled_at.unwrap_or_default(),
            advice,
        ));
    }
    if let Some(run) = status.last_started()
        && run.outcome == RunOutcome::Failed
    {
        causes.push(cause(
            Trouble::RunFailed,
            format!(
                "run {} failed: {} of its tasks failed, {} completed",
                run.iteration, run.failed, run.completed
            ),
            run.finished_at.unwrap_or_default(),
            "`service ps` and `service logs` show the failed tasks; `service run` runs it again",
        ));
    }
    causes
}

fn counted(run: &Run) -> String {
    match run.count {
        0 | 1 => "1 run was".to_owned(),
        count if count >= COUNTED_MAX => format!("{count} runs or more were"),
        count => format!("{count} runs were"),
    }
}
