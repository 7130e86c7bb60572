//! Containers that may run only as long as somebody says so.

mod common;

use std::time::Duration;

use common::{Container, cannot_run, launcher};
use skep_shim::ClientError;
use skep_shim::time::since_boot;

const LONG: Duration = Duration::from_secs(3600);
const MILLI: Duration = Duration::from_millis(1);

#[test]
fn what_nobody_lets_run_is_told_to_stop_and_then_killed() {
    if cannot_run() {
        return;
    }
    let polite = Container::shell("trap 'echo told; exit 7' TERM; while :; do sleep 0.01; done");
    polite.start();
    polite.client().lease(since_boot() + LONG, LONG).unwrap();
    polite
        .client()
        .lease(since_boot() + 200 * MILLI, LONG)
        .unwrap();
    assert_eq!(polite.wait().exit_code, 7);
    assert_eq!(polite.output(), "told\n");

    let stubborn = Container::shell("trap '' TERM; while :; do sleep 0.01; done");
    stubborn.start();
    stubborn
        .client()
        .lease(since_boot() + 100 * MILLI, 100 * MILLI)
        .unwrap();
    assert_eq!(stubborn.wait().exit_code, 137);
}

#[test]
fn a_paused_one_does_not_outlast_its_lease() {
    if cannot_run() {
        return;
    }
    let container = Container::new(&["sleep", "100"]);
    container.start();
    container.client().pause().unwrap();
    container
        .client()
        .lease(since_boot() + 100 * MILLI, 100 * MILLI)
        .unwrap();
    assert_eq!(container.wait().exit_code, 137);
}

#[test]
fn a_prepared_one_takes_a_lease_that_is_over_and_does_not_run_for_long() {
    if cannot_run() {
        return;
    }
    let container = Container::shell("trap '' TERM; while :; do sleep 0.01; done");
    let prepared = launcher().prepare(&container.write_config()).unwrap();
    container.client().lease(since_boot(), 50 * MILLI).unwrap();
    prepared.start(&[]).unwrap();
    assert_eq!(container.wait().exit_code, 137);
}

#[test]
fn one_that_is_being_stopped_takes_no_more_time() {
    if cannot_run() {
        return;
    }
    let container =
        Container::shell("trap 'echo told' TERM; echo ready; while :; do sleep 0.01; done");
    container.start();
    let says = |what: &str| {
        common::until(what, || container.output().ends_with(what).then_some(()));
    };
    says("ready\n");
    container.client().lease(since_boot(), 500 * MILLI).unwrap();
    says("told\n");
    let late = container.client().lease(since_boot() + LONG, LONG);
    assert!(matches!(late, Err(ClientError::Refused(_))), "{late:?}");
    assert_eq!(container.wait().exit_code, 137);
}
