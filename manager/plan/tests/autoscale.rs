//! How many replicas are decided for, by what is measured.

use std::time::Duration;

use skep_model::Timestamp;
use skep_model::autoscale::{Autoscale, Target};
use skep_plan::autoscale::{Decision, Lately, Measured, UP_EVERY, decide};

const WINDOW: Duration = Duration::from_secs(60);

/// One to twenty replicas of half a processor each.
fn half_a_processor() -> Autoscale {
    Autoscale {
        min: 1,
        max: 20,
        targets: vec![Target::Cpu { nanos: 500.0 }],
        window: WINDOW,
    }
}

fn tasks(each: f64, measured: u64, ready: u64) -> Measured {
    Measured::Tasks {
        sum: each * measured as f64,
        measured,
        ready,
    }
}

fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(1000 + secs)
}

fn first(current: u64, measured: Measured) -> u64 {
    let mut lately = Lately::default();
    decide(
        &half_a_processor(),
        current,
        &[measured],
        &mut lately,
        at(0),
    )
    .replicas
}

/// After that has been so for a window.
fn lasting(current: u64, measured: Measured) -> u64 {
    let mut lately = Lately::default();
    let mut replicas = current;
    for secs in (0..=60).step_by(5) {
        let wanted = half_a_processor();
        let decided = decide(&wanted, current, &[measured], &mut lately, at(secs));
        if secs < 60 {
            assert!(decided.replicas >= current, "too early: {decided:?}");
        }
        replicas = decided.replicas;
    }
    replicas
}

#[test]
fn replicas_follow_what_they_use_outside_of_a_tenth() {
    for (each, wanted) in [(500.0, 4), (549.0, 4), (451.0, 4), (551.0, 5), (900.0, 8)] {
        assert_eq!(first(4, tasks(each, 4, 4)), wanted, "{each}");
    }
    for (each, wanted) in [
        (451.0, 4),
        (440.0, 4),
        (375.0, 3),
        (376.0, 4),
        (100.0, 1),
        (0.0, 1),
    ] {
        assert_eq!(lasting(4, tasks(each, 4, 4)), wanted, "{each}");
    }
}

#[test]
fn steps_upwards_are_bounded_in_size_and_time() {
    assert_eq!(first(1, tasks(10_000.0, 1, 1)), 5);
    assert_eq!(first(8, tasks(5000.0, 8, 8)), 16);
    assert_eq!(
        first(15, tasks(5000.0, 15, 15)),
        20,
        "no more than the most"
    );
    let mut lately = Lately::default();
    let mut next = |current, secs| {
        let measured = [tasks(10_000.0, current, current)];
        decide(
            &half_a_processor(),
            current,
            &measured,
            &mut lately,
            at(secs),
        )
        .replicas
    };
    assert_eq!(next(1, 0), 5);
    assert_eq!(next(5, 5), 5, "the new ones have to start");
    assert_eq!(next(5, i64::try_from(UP_EVERY.as_secs()).unwrap()), 10);
}

#[test]
fn what_starts_uses_nothing_yet_and_is_no_reason_for_fewer() {
    // One of four is ready and busy: the others may be enough.
    assert_eq!(first(4, tasks(1000.0, 1, 1)), 4);
    assert_eq!(first(4, tasks(4000.0, 1, 1)), 8);
    assert_eq!(lasting(4, tasks(0.0, 1, 1)), 3);
}

#[test]
fn what_is_not_measured_never_scales_down() {
    for missing in [
        Measured::Unknown,
        tasks(0.0, 0, 4),
        tasks(10.0, 3, 4),
        tasks(0.0, 0, 0),
        Measured::Whole(f64::NAN),
        Measured::Whole(-1.0),
    ] {
        assert_eq!(lasting(4, missing), 4, "{missing:?}");
    }
    let mut wanted = half_a_processor();
    wanted.targets.push(Target::Memory { bytes: 100.0 });
    let mut lately = Lately::default();
    for secs in (0..200).step_by(5) {
        let measured = [tasks(10.0, 4, 4), Measured::Unknown];
        assert_eq!(
            decide(&wanted, 4, &measured, &mut lately, at(secs)).replicas,
            4
        );
    }
}

#[test]
fn the_target_that_asks_for_most_counts() {
    let mut wanted = half_a_processor();
    wanted.targets.push(Target::Query {
        url: "http://p:9090".to_owned(),
        query: "up".to_owned(),
        value: 10.0,
    });
    let measured = [tasks(500.0, 4, 4), Measured::Whole(63.0)];
    let decided = decide(&wanted, 4, &measured, &mut Lately::default(), at(0));
    assert_eq!(
        decided,
        Decision {
            replicas: 7,
            because: "query asks for 7".to_owned()
        }
    );
}

#[test]
fn a_peak_holds_replicas_for_a_window() {
    let mut lately = Lately::default();
    let wanted = half_a_processor();
    let mut next = |each: f64, secs| {
        let measured = [tasks(each, 4, 4)];
        decide(&wanted, 4, &measured, &mut lately, at(secs)).replicas
    };
    for secs in (0..100).step_by(5) {
        let each = match secs {
            // Three would have been enough but for this.
            50 => 480.0,
            _ => 300.0,
        };
        assert_eq!(next(each, secs), 4, "{secs}");
    }
    assert_eq!(next(300.0, 110), 4);
    assert_eq!(next(300.0, 111), 3);
}

#[test]
fn bounds_hold_at_once_and_nothing_is_left_alone() {
    assert_eq!(first(30, Measured::Unknown), 20);
    let mut wanted = half_a_processor();
    wanted.min = 3;
    let mut lately = Lately::default();
    let mut few = |current| decide(&wanted, current, &[Measured::Unknown], &mut lately, at(0));
    assert_eq!(few(1).replicas, 3);
    assert_eq!(few(0).replicas, 0, "switched off by hand");
}

#[test]
fn a_clock_that_goes_back_begins_anew() {
    let mut lately = Lately::default();
    let wanted = half_a_processor();
    let mut next = |secs| {
        let measured = [tasks(100.0, 4, 4)];
        decide(&wanted, 4, &measured, &mut lately, at(secs)).replicas
    };
    assert_eq!(next(59), 4);
    assert_eq!(next(0), 4);
    assert_eq!(next(59), 4);
    assert_eq!(next(60), 1);
}
