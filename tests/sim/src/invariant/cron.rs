//! Every moment of a job's schedule is settled once: started, skipped or missed, and told so. A run
//! begins with its iteration, and none begins twice for one moment.

use std::collections::BTreeSet;

use skep_model::schedule::{RUNS_AT_ONCE_MAX, Run, ScheduleStatus};
use skep_model::timetable::{COUNTED_MAX, Timetable};
use skep_model::{Service, ServiceId, Timestamp};
use skep_store::{Delta, Event, Object, Snapshot};

/// The moments that runs were started for, over a whole life.
#[derive(Debug, Clone, Default)]
pub struct Started(BTreeSet<(ServiceId, Timestamp)>);

impl Started {
    /// Looks at what a commit has changed.
    pub fn after_commit(&mut self, events: &[Event]) -> Result<(), String> {
        for event in events {
            let Delta::Updated {
                old: Object::Service(old),
                new: Object::Service(new),
            } = &event.change
            else {
                continue;
            };
            self.after_change(old, new)
                .map_err(|what| format!("job {}: {what}", new.spec.name))?;
        }
        Ok(())
    }

    fn after_change(&mut self, old: &Service, new: &Service) -> Result<(), String> {
        let (Some(had), Some(has)) = (&old.schedule, &new.schedule) else {
            return Ok(());
        };
        let (from, to) = (had.settled_until, has.settled_until);
        if to < from {
            return Err(format!("what was settled until {from} is until {to}"));
        }
        let iteration = |service: &Service| {
            let status = service.job_status.as_ref();
            status.map_or(0, |status| status.job_iteration.index)
        };
        let begun = has.runs.iter().filter(|run| run.iteration > iteration(old));
        let begun: Vec<&Run> = begun.collect();
        if begun.len() as u64 != iteration(new) - iteration(old) || begun.len() > 1 {
            return Err(format!(
                "{} runs have begun at once: {begun:?}",
                begun.len()
            ));
        }
        let under_way = has.under_way().count();
        if under_way > RUNS_AT_ONCE_MAX {
            return Err(format!("{under_way} runs go on at once"));
        }
        if !old.spec.runs_when(&new.spec) {
            // Another timetable counts from now.
            return Ok(());
        }
        for moment in begun.iter().filter_map(|run| run.scheduled_at) {
            if moment != to || from == to {
                return Err(format!("a run began for {moment}, after {from} until {to}"));
            }
            if !self.0.insert((new.id.clone(), moment)) {
                return Err(format!("a run began twice for {moment}"));
            }
        }
        let Ok(Some(schedule)) = new.spec.schedule() else {
            return Err("its schedule cannot be read".to_owned());
        };
        let (moments, last) = moments(&schedule.timetable, from, to);
        if last != to {
            return Err(format!("{to} is no moment of its schedule"));
        }
        let scheduled = begun.iter().filter(|run| run.scheduled_at.is_some());
        let told = scheduled.count() as u64 + unstarted(had, has, from);
        match told == moments.min(COUNTED_MAX) {
            true => Ok(()),
            false => Err(format!(
                "from {from} to {to} there were {moments} moments, and {told} are told of: {:?}",
                has.runs
            )),
        }
    }
}

/// How many moments there are after `from` until `to`, and the last.
fn moments(timetable: &Timetable, from: Timestamp, to: Timestamp) -> (u64, Timestamp) {
    let (mut count, mut last) = (0, from);
    while let Some(next) = timetable.next_after(last).filter(|next| *next <= to) {
        (count, last) = (count + 1, next);
    }
    (count, last)
}

/// Moments after `from` that were told of as not started; those of before may be in the same entry.
fn unstarted(had: &ScheduleStatus, has: &ScheduleStatus, from: Timestamp) -> u64 {
    let recent = has.runs.iter().filter(|run| {
        run.outcome.is_unstarted() && run.scheduled_at.is_some_and(|moment| moment > from)
    });
    let recent: Vec<&Run> = recent.collect();
    let told: u64 = recent.iter().map(|run| run.count).sum();
    let merged = match (recent.last(), had.runs.first()) {
        (Some(run), Some(before)) if before.outcome == run.outcome => before.count,
        _ => 0,
    };
    told.saturating_sub(merged)
}

/// Nothing is due that nobody has looked at.
pub fn nothing_is_due(snapshot: &Snapshot, now: Timestamp) -> Result<(), String> {
    for service in snapshot.services() {
        if let Some(next) = service.next_run().filter(|next| *next <= now) {
            return Err(format!(
                "job {} was due at {next}, and it is {now}",
                service.spec.name
            ));
        }
    }
    Ok(())
}
