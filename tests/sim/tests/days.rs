//! Jobs with schedules, over days with faults; and mistakes made on purpose, which must be found.

use skep_model::Service;
use skep_sim::days::{Bug, run};
use skep_store::{Change, Commit, Object, Snapshot};
use std::sync::Arc;

/// Every moment of a schedule is settled once.
fn lives(part: u64) {
    let mut runs = 0;
    for seed in (part * 15)..(part * 15 + 15) {
        match run(seed, None) {
            Ok(counts) => runs += counts.runs,
            Err(failure) => panic!("{failure}"),
        }
    }
    assert!(runs > 150, "only {runs} runs were begun");
}

macro_rules! parts {
    ($($name:ident $part:literal)*) => {$(
        #[test]
        fn $name() {
            lives($part);
        }
    )*};
}

parts! {
    seeds_0_to_14 0
    seeds_15_to_29 1
    seeds_30_to_44 2
    seeds_45_to_59 3
}

#[test]
fn a_leader_that_forgets_what_it_started_is_found() {
    is_found("a run began for", |seen, commit| {
        each_begun(seen, commit, |old, new| {
            let (Some(had), Some(has)) = (&old.schedule, &mut new.schedule) else {
                return;
            };
            has.settled_until = had.settled_until;
        });
    });
}

#[test]
fn a_leader_that_settles_what_it_does_not_start_is_found() {
    is_found("are told of", |seen, commit| {
        each_begun(seen, commit, |old, new| {
            new.job_status.clone_from(&old.job_status);
            if let (Some(had), Some(has)) = (&old.schedule, &mut new.schedule) {
                has.runs.clone_from(&had.runs);
            }
        });
    });
}

#[test]
fn a_leader_that_looks_at_its_clock_only_is_found() {
    // What it was too late for it does not know.
    is_found("are told of", |seen, commit| {
        each_begun(seen, commit, |_, new| {
            if let Some(has) = &mut new.schedule {
                has.runs.retain(|run| !run.outcome.is_unstarted());
            }
        });
    });
}

/// Changes each service of the commit for which a run by its schedule begins.
fn each_begun(seen: &Snapshot, commit: &mut Commit, edit: impl Fn(&Service, &mut Service)) {
    for change in &mut commit.changes {
        let Change::Put(Object::Service(service)) = change else {
            continue;
        };
        let Some(old) = seen.service(&service.id) else {
            continue;
        };
        let newest = |one: &Service| {
            one.schedule
                .as_ref()
                .and_then(|one| one.last_started().cloned())
        };
        let begun = newest(service).filter(|run| run.scheduled_at.is_some());
        if begun.is_some_and(|run| Some(run.iteration) > newest(old).map(|run| run.iteration)) {
            edit(old, Arc::make_mut(service));
        }
    }
}

/// Some seed must find the bug, by what it breaks.
fn is_found(by: &str, bug: Bug) {
    let failures: Vec<String> = (0..20)
        .filter_map(|seed| run(seed, Some(bug)).err())
        .collect();
    assert!(
        failures.len() > 10,
        "only {} of 20 lives end: {failures:?}",
        failures.len()
    );
    assert!(
        failures.iter().any(|failure| failure.contains(by)),
        "{failures:?}"
    );
}
