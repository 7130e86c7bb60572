//! Runs of jobs that have a schedule: when one begins, is skipped or missed, and what came of it.
//!
//! A run is an iteration of the job. What was due is settled in the service itself, in the change that
//! begins the iteration: a leader that comes later, or whose change was lost, sees exactly what is
//! left to do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use skep_model::schedule::{
    Concurrency, RUNS_AT_ONCE_MAX, RUNS_KEPT_MAX, Run, RunOutcome, Schedule, ScheduleStatus,
};
use skep_model::service::JobStatus;
use skep_model::{NodeId, Service, ServiceSpec, Task, TaskState, Timestamp, Version};

use super::restart::{earlier, ended_by_itself};
use super::{Action, Plan, ServiceView, in_order, iteration};

/// A clock that was further ahead than this was wrong, and what was due by it is not waited for.
const AHEAD_MAX: Duration = Duration::from_secs(24 * 3600);

/// What became due, and when to look again.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Advance {
    /// The service as it should be stored, when that changes.
    pub service: Option<Service>,
    pub wake_at: Option<Timestamp>,
}

/// A run that was asked for cannot begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRun {
    #[error("service {0} is not a job: its mode is neither replicated-job nor global-job")]
    NotAJob(String),
    #[error(
        "run {iteration} of service {service} is not finished, and its schedule forbids two at once: wait for it, or say --schedule-concurrency replace or allow"
    )]
    Busy { service: String, iteration: u64 },
    #[error("{RUNS_AT_ONCE_MAX} runs of service {0} are not finished: no more go on at once")]
    TooMany(String),
}

/// The status of a job that is made: one with a schedule waits for its time.
pub fn first(spec: &ServiceSpec, now: Timestamp) -> (Option<JobStatus>, Option<ScheduleStatus>) {
    let scheduled = spec.is_scheduled();
    let job = spec.mode.is_job().then(|| JobStatus {
        last_execution: (!scheduled).then_some(now),
        finished_at: scheduled.then_some(now),
        ..JobStatus::default()
    });
    let schedule = scheduled.then(|| ScheduleStatus {
        settled_until: now,
        ..ScheduleStatus::default()
    });
    (job, schedule)
}

/// Takes in that the service has another spec than `had`: another timetable, or one that goes on after
/// a pause, counts from now.
pub fn turned(service: &mut Service, had: &ServiceSpec, now: Timestamp) {
    if !service.spec.is_scheduled() {
        service.schedule = None;
        return;
    }
    let is_new = service.schedule.is_none() || !had.runs_when(&service.spec);
    let status = service.schedule.get_or_insert_default();
    if is_new {
        status.settled_until = match is_ahead(status.settled_until, now) {
            true => now,
            false => status.settled_until.max(now),
        };
    }
}

/// Begins a run that somebody asked for.
///
/// # Errors
/// The service is no job, or has a run that may not be disturbed.
pub fn begin_now(service: &mut Service, tasks: &[Arc<Task>], now: Timestamp) -> Result<(), NoRun> {
    let name = || service.spec.name.clone();
    if !service.spec.mode.is_job() {
        return Err(NoRun::NotAJob(name()));
    }
    let schedule = service.spec.schedule().ok().flatten();
    // A job without a schedule begins anew, as it does when it is changed.
    let concurrency = schedule.map_or(Concurrency::Replace, |schedule| schedule.concurrency);
    match concurrency {
        Concurrency::Forbid if !is_idle(service) => {
            let runs = service.schedule.iter().flat_map(ScheduleStatus::under_way);
            let oldest = runs.last().map(|run| run.iteration);
            Err(NoRun::Busy {
                service: name(),
                iteration: oldest.unwrap_or(iteration(service).index),
            })
        }
        Concurrency::Allow if is_full(service) => Err(NoRun::TooMany(name())),
        concurrency => {
            begin(service, tasks, None, concurrency, now);
            Ok(())
        }
    }
}

/// Starts, skips or passes over what is due. Pure: the same state and time give the same.
pub fn advance(
    service: &Service,
    tasks: &[Arc<Task>],
    schedule: &Schedule,
    now: Timestamp,
) -> Advance {
    let mut changed = service.clone();
    let status = changed.schedule.get_or_insert_with(|| ScheduleStatus {
        settled_until: now,
        ..ScheduleStatus::default()
    });
    if is_ahead(status.settled_until, now) {
        status.settled_until = now;
    }
    if !schedule.suspended {
        settle(&mut changed, tasks, schedule, now);
    }
    let wake_at = changed.schedule.as_ref().and_then(|status| {
        let next = schedule.timetable.next_after(status.settled_until);
        next.filter(|_| !schedule.suspended)
    });
    Advance {
        wake_at,
        service: (changed != *service).then_some(changed),
    }
}

fn settle(service: &mut Service, tasks: &[Arc<Task>], schedule: &Schedule, now: Timestamp) {
    let has_place = match schedule.concurrency {
        Concurrency::Forbid => is_idle(service),
        Concurrency::Replace => true,
        Concurrency::Allow => !is_full(service),
    };
    let Some(status) = &mut service.schedule else {
        return;
    };
    let Some(due) = schedule.timetable.due(status.settled_until, now) else {
        return;
    };
    status.settled_until = due.latest;
    let unstarted = |outcome, count| Run {
        scheduled_at: Some(due.latest),
        outcome,
        count,
        ..Run::default()
    };
    let late = now.since(due.latest);
    let is_late = schedule.catch_up.is_some_and(|most| late > most);
    match (is_late, has_place) {
        (true, _) => note(status, unstarted(RunOutcome::Missed, due.count)),
        (false, false) => note(status, unstarted(RunOutcome::Skipped, due.count)),
        (false, true) => {
            if due.count > 1 {
                // One run stands for all that were missed; it is the latest of them.
                note(status, unstarted(RunOutcome::Missed, due.count - 1));
            }
            let scheduled_at = Some(due.latest);
            begin(service, tasks, scheduled_at, schedule.concurrency, now);
        }
    }
}

/// Adds to the runs what was not started; such in a row are one.
fn note(status: &mut ScheduleStatus, run: Run) {
    match status.runs.first_mut() {
        Some(last) if last.outcome == run.outcome => {
            last.count = last.count.saturating_add(run.count);
            last.scheduled_at = run.scheduled_at;
        }
        _ => remember(status, run),
    }
}

fn remember(status: &mut ScheduleStatus, run: Run) {
    status.runs.insert(0, run);
    if status.runs.len() > RUNS_KEPT_MAX {
        // The run under way is told of until it is over.
        let oldest = status
            .runs
            .iter()
            .rposition(|run| run.outcome != RunOutcome::Running);
        status.runs.remove(oldest.unwrap_or(RUNS_KEPT_MAX));
    }
}

fn begin(
    service: &mut Service,
    tasks: &[Arc<Task>],
    scheduled_at: Option<Timestamp>,
    concurrency: Concurrency,
    now: Timestamp,
) {
    if concurrency != Concurrency::Allow {
        let runs = service.schedule.iter().flat_map(ScheduleStatus::under_way);
        let replaced: Vec<u64> = runs.map(|run| run.iteration).collect();
        for iteration in replaced.into_iter().map(Version::at) {
            let counts = (completions(tasks, iteration), failures(tasks, iteration));
            close(service, iteration, RunOutcome::Replaced, counts, now);
        }
    }
    let next = iteration(service).index + 1;
    service.job_status = Some(JobStatus {
        job_iteration: Version::at(next),
        last_execution: Some(now),
        ..JobStatus::default()
    });
    if let Some(status) = &mut service.schedule {
        let run = Run {
            iteration: next,
            scheduled_at,
            started_at: Some(now),
            count: u64::from(scheduled_at.is_some()),
            ..Run::default()
        };
        remember(status, run);
    }
}

/// Notes what came of a run under way: how many tasks completed and failed.
fn close(
    service: &mut Service,
    iteration: Version,
    outcome: RunOutcome,
    counts: (u64, u64),
    now: Timestamp,
) {
    let runs = service
        .schedule
        .iter_mut()
        .flat_map(|status| &mut status.runs);
    let is_it =
        |run: &&mut Run| run.iteration == iteration.index && run.outcome == RunOutcome::Running;
    for run in runs.filter(is_it) {
        run.outcome = outcome;
        run.finished_at = Some(now);
        (run.completed, run.failed) = counts;
    }
}

/// The service once its run is over.
pub(super) fn finished(
    view: &ServiceView<'_>,
    outcome: RunOutcome,
    completed: u64,
) -> Box<Service> {
    let mut service = view.service.clone();
    let iteration = iteration(&service);
    let counts = (completed, failures(view.tasks, iteration));
    close(&mut service, iteration, outcome, counts, view.now);
    let status = service.job_status.get_or_insert_default();
    status.finished_at = Some(view.now);
    status.completed = completed;
    Box::new(service)
}

/// Whether no run is under way.
fn is_idle(service: &Service) -> bool {
    let status = service.job_status.as_ref();
    let mut runs = service.schedule.iter().flat_map(ScheduleStatus::under_way);
    status.is_some_and(|status| status.finished_at.is_some()) && runs.next().is_none()
}

/// Whether as many runs are under way as may be.
fn is_full(service: &Service) -> bool {
    let runs = service.schedule.iter().flat_map(ScheduleStatus::under_way);
    runs.count() >= RUNS_AT_ONCE_MAX
}

/// Earlier runs that are under way beside the present iteration.
fn beside(service: &Service) -> Vec<Version> {
    let present = iteration(service);
    let runs = service.schedule.iter().flat_map(ScheduleStatus::under_way);
    let earlier = runs.map(|run| Version::at(run.iteration));
    earlier.filter(|iteration| *iteration != present).collect()
}

/// Whether this iteration is of an earlier run that is still under way.
pub(crate) fn is_beside(service: &Service, iteration: Option<Version>) -> bool {
    let scheduled = service.schedule.is_some();
    iteration.is_some_and(|iteration| scheduled && beside(service).contains(&iteration))
}

fn is_ahead(settled_until: Timestamp, now: Timestamp) -> bool {
    settled_until > now.plus(AHEAD_MAX)
}

/// How many tasks of an iteration have completed, as far as they are kept: while it runs they all are.
fn completions(tasks: &[Arc<Task>], iteration: Version) -> u64 {
    let current = |task: &&Arc<Task>| task.job_iteration.unwrap_or_default() == iteration;
    let done = |task: &&Arc<Task>| task.status.state == TaskState::Complete;
    tasks.iter().filter(current).filter(done).count() as u64
}

/// How many tasks of an iteration have failed, those of before included that are no longer kept.
fn failures(tasks: &[Arc<Task>], iteration: Version) -> u64 {
    let mut slots: BTreeMap<(u64, Option<&NodeId>), Vec<&Arc<Task>>> = BTreeMap::new();
    let current = |task: &&Arc<Task>| task.job_iteration.unwrap_or_default() == iteration;
    for task in tasks.iter().filter(current) {
        let node = (task.slot == 0).then_some(&task.node_id);
        slots.entry((task.slot, node)).or_default().push(task);
    }
    let of_slot = |mut slot: Vec<&Arc<Task>>| {
        slot.sort_by_key(|task| in_order(task));
        let Some(newest) = slot.last() else { return 0 };
        let failed = ended_by_itself(newest) && newest.status.state != TaskState::Complete;
        earlier(newest, slot.iter().map(|task| &***task)) + u64::from(failed)
    };
    slots.into_values().map(of_slot).sum()
}

/// Plans each run that is under way as if it were alone, by `one`, and follows the schedule.
pub(super) fn plan(view: &ServiceView<'_>, one: fn(&ServiceView<'_>) -> Plan) -> Plan {
    let beside = beside(view.service);
    let iteration = |task: &Arc<Task>| task.job_iteration.unwrap_or_default();
    let (others, present): (Vec<_>, Vec<_>) = view
        .tasks
        .iter()
        .cloned()
        .partition(|task| beside.contains(&iteration(task)));
    let mut plan = one(&ServiceView {
        tasks: &present,
        ..*view
    });
    for earlier in beside {
        let service = plan.service.as_deref().unwrap_or(view.service).clone();
        let alone = Service {
            job_status: Some(JobStatus {
                job_iteration: earlier,
                ..JobStatus::default()
            }),
            ..service.clone()
        };
        let tasks = others.iter().filter(|task| iteration(task) == earlier);
        let tasks: Vec<_> = tasks.cloned().collect();
        let mut part = one(&ServiceView {
            service: &alone,
            tasks: &tasks,
            budget: view.budget.saturating_sub(plan.made),
            ..*view
        });
        if let Some(finished) = part.service.take() {
            plan.service = Some(Box::new(Service {
                schedule: finished.schedule,
                ..service
            }));
        }
        plan.add(part, earlier);
    }
    follow(view, &mut plan);
    plan
}

/// Follows the schedule after a look at the tasks: what they have come to is in `plan`.
fn follow(view: &ServiceView<'_>, plan: &mut Plan) {
    let service = plan.service.as_deref().unwrap_or(view.service);
    // Labels that say nothing sensible were refused at the door.
    let Ok(Some(schedule)) = service.spec.schedule() else {
        return;
    };
    let was = iteration(service);
    let advance = advance(service, view.tasks, &schedule, view.now);
    if let Some(at) = advance.wake_at {
        plan.wake(at);
    }
    let Some(changed) = advance.service else {
        return;
    };
    if iteration(&changed) != was {
        // The tasks of the run are made at the next look, which is due at once.
        plan.actions
            .retain(|action| !matches!(action, Action::Create(_)));
        plan.unfinished = true;
    }
    plan.service = Some(Box::new(changed));
}
