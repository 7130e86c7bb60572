//! Histories that could have come of one copy, and histories that could not.

use skep_linear::{Answer, Asked, Call, Operation, STEPS_MAX, Verdict, Versioned, check, smallest};

fn done(client: usize, times: (u64, u64), asked: Asked, answer: Answer) -> Operation<Call> {
    Operation {
        client,
        invoked: times.0,
        returned: Some(times.1),
        call: Call { asked, answer },
    }
}

fn unknown(client: usize, invoked: u64, asked: Asked) -> Operation<Call> {
    Operation {
        client,
        invoked,
        returned: None,
        call: Call {
            asked,
            answer: Answer::Unknown,
        },
    }
}

fn read(client: usize, times: (u64, u64), value: u64, version: u64) -> Operation<Call> {
    done(client, times, Asked::Read, Answer::Found { value, version })
}

fn create(client: usize, times: (u64, u64), value: u64) -> Operation<Call> {
    done(client, times, Asked::Create { value }, Answer::Done)
}

fn update(client: usize, times: (u64, u64), version: u64, value: u64) -> Operation<Call> {
    done(
        client,
        times,
        Asked::Update { value, version },
        Answer::Done,
    )
}

fn verdict(history: &[Operation<Call>]) -> Verdict {
    check(&Versioned::default(), history, STEPS_MAX)
}

#[track_caller]
fn holds(history: &[Operation<Call>]) {
    assert_eq!(verdict(history), Verdict::Linearizable);
}

#[track_caller]
fn is_refused(history: &[Operation<Call>]) {
    assert_eq!(verdict(history), Verdict::Violated);
}

#[test]
fn one_client_reads_what_it_wrote() {
    holds(&[]);
    holds(&[
        create(0, (1, 2), 10),
        read(0, (3, 4), 10, 7),
        update(0, (5, 6), 7, 11),
        read(0, (7, 8), 11, 9),
    ]);
}

#[test]
fn concurrent_reads_may_see_a_change_or_not() {
    let made = create(0, (1, 2), 10);
    let seen = read(0, (3, 4), 10, 7);
    let change = update(0, (5, 20), 7, 11);
    holds(&[
        made.clone(),
        seen.clone(),
        change.clone(),
        read(1, (6, 7), 10, 7),
        read(2, (8, 9), 11, 9),
    ]);
    // But not first and then no longer.
    is_refused(&[
        made,
        seen,
        change,
        read(1, (6, 7), 11, 9),
        read(2, (8, 9), 10, 7),
    ]);
}

#[test]
fn a_stale_read_is_refused() {
    is_refused(&[
        create(0, (1, 2), 10),
        read(0, (3, 4), 10, 7),
        update(0, (5, 6), 7, 11),
        read(1, (7, 8), 10, 7),
    ]);
}

#[test]
fn a_lost_write_is_refused() {
    is_refused(&[
        create(0, (1, 2), 10),
        done(1, (3, 4), Asked::Read, Answer::Absent),
    ]);
}

#[test]
fn two_updates_of_one_version_are_refused() {
    let both = |second: u64| {
        [
            create(0, (1, 2), 10),
            read(0, (3, 4), 10, 7),
            update(0, (5, 9), 7, 11),
            update(1, (6, 8), second, 12),
        ]
    };
    is_refused(&both(7));
    holds(&both(8));
}

#[test]
fn a_version_that_goes_back_is_refused() {
    is_refused(&[
        create(0, (1, 2), 10),
        read(0, (3, 4), 10, 7),
        update(0, (5, 6), 7, 11),
        read(0, (7, 8), 11, 6),
    ]);
    is_refused(&[
        create(0, (1, 2), 10),
        read(0, (3, 4), 10, 7),
        read(0, (5, 6), 10, 8),
    ]);
}

#[test]
fn versions_of_some_objects_move_by_themselves() {
    let model = Versioned {
        value: Some(0),
        moves: true,
    };
    let history = [
        read(0, (1, 2), 0, 7),
        read(0, (3, 4), 0, 8),
        update(0, (5, 6), 8, 1),
    ];
    assert_eq!(check(&model, &history, STEPS_MAX), Verdict::Linearizable);
    let back = [read(0, (1, 2), 0, 8), read(0, (3, 4), 0, 7)];
    assert_eq!(check(&model, &back, STEPS_MAX), Verdict::Violated);
    let lost = [update(0, (1, 2), 8, 1), read(0, (3, 4), 0, 9)];
    assert_eq!(check(&model, &lost, STEPS_MAX), Verdict::Violated);
}

#[test]
fn what_is_unknown_may_happen_late_or_never() {
    let begun = [create(0, (1, 2), 10), read(0, (3, 4), 10, 7)];
    let unknown = unknown(
        1,
        5,
        Asked::Update {
            value: 11,
            version: 7,
        },
    );
    let with =
        |more: &[Operation<Call>]| [&begun[..], std::slice::from_ref(&unknown), more].concat();
    holds(&with(&[read(0, (6, 7), 10, 7)]));
    holds(&with(&[read(0, (6, 7), 11, 9)]));
    holds(&with(&[read(0, (6, 7), 10, 7), read(0, (8, 9), 11, 9)]));
    // Once, if at all, and not after somebody else has changed that version.
    is_refused(&with(&[read(0, (6, 7), 11, 9), read(0, (8, 9), 10, 10)]));
    is_refused(&with(&[
        update(2, (6, 7), 7, 12),
        read(0, (8, 9), 12, 9),
        read(0, (10, 11), 11, 12),
    ]));
    // And not before it was asked for.
    let early = [&begun[..], &[read(2, (4, 5), 11, 9)]].concat();
    let late = Operation {
        invoked: 6,
        ..unknown
    };
    is_refused(&[&early[..], &[late]].concat());
}

#[test]
fn a_change_made_twice_is_refused() {
    is_refused(&[
        create(0, (1, 2), 10),
        read(0, (3, 4), 10, 7),
        update(0, (5, 6), 7, 11),
        read(1, (7, 8), 11, 9),
        update(1, (9, 10), 9, 12),
        read(1, (11, 12), 11, 13),
    ]);
}

#[test]
fn refusals_are_answers_too() {
    let exists = |times| done(1, times, Asked::Create { value: 99 }, Answer::Exists);
    let removed = |times| done(0, times, Asked::Remove, Answer::Done);
    holds(&[create(0, (1, 2), 10), exists((3, 4)), removed((5, 6))]);
    is_refused(&[create(0, (1, 2), 10), removed((3, 4)), exists((5, 6))]);
    is_refused(&[exists((1, 2))]);
    let stale = |version| {
        done(
            1,
            (5, 6),
            Asked::Update { value: 99, version },
            Answer::Stale,
        )
    };
    let begun = [create(0, (1, 2), 10), read(0, (3, 4), 10, 7)];
    is_refused(&[&begun[..], &[stale(7)]].concat());
    holds(&[&begun[..], &[stale(6)]].concat());
    let gone = done(1, (5, 6), Asked::Remove, Answer::Absent);
    is_refused(&[&begun[..], &[gone]].concat());
}

#[test]
fn unconditional_writes_replace_whatever_is_there() {
    let write =
        |times, value, version| done(0, times, Asked::Write { value }, Answer::DoneAs { version });
    holds(&[
        write((1, 2), 1, 5),
        write((3, 4), 2, 6),
        read(1, (5, 6), 2, 6),
    ]);
    is_refused(&[
        write((1, 2), 1, 5),
        write((3, 4), 2, 6),
        read(1, (5, 6), 1, 5),
    ]);
    is_refused(&[write((1, 2), 1, 5), write((3, 4), 2, 4)]);
}

#[test]
fn a_search_without_steps_says_so() {
    let history = [create(0, (1, 2), 10), read(0, (3, 4), 10, 7)];
    assert_eq!(
        check(&Versioned::default(), &history, 1),
        Verdict::Undecided
    );
}

/// Five clients update in turn while all others look, for a long time, with outcomes unknown now
/// and then; one read in the middle is of the value before.
fn long(stale_at: Option<u64>) -> Vec<Operation<Call>> {
    let mut history = vec![create(0, (0, 1), 0), read(0, (2, 3), 0, 1)];
    for round in 1..400 {
        let begin = round * 100;
        let client = usize::try_from(round % 5).unwrap();
        history.push(update(client, (begin, begin + 60), round, round));
        if round % 10 == 0 {
            let lost = Asked::Update {
                value: 10_000 + round,
                version: round,
            };
            history.push(unknown(6, begin + 5, lost));
        }
        for other in 0..5 {
            history.push(read(
                other,
                (begin + 70, begin + 90 + other as u64),
                round,
                round + 1,
            ));
        }
        if stale_at == Some(round) {
            history.push(read(7, (begin + 65, begin + 95), round - 1, round));
        }
    }
    history
}

#[test]
fn long_histories_are_decided() {
    holds(&long(None));
    is_refused(&long(Some(200)));
}

#[test]
fn of_a_violation_the_smallest_part_is_shown() {
    let (shown, from_start) = smallest(&Versioned::default(), &long(Some(200)), STEPS_MAX).unwrap();
    assert!(!from_start, "what was before does not matter");
    let certain: Vec<String> = shown
        .iter()
        .filter(|one| one.returned.is_some())
        .map(|one| one.call.to_string())
        .collect();
    assert_eq!(
        certain,
        ["update 200 to 200 -> done", "read -> 199 in version 200"]
    );
    assert!(smallest(&Versioned::default(), &long(None), STEPS_MAX).is_none());
}
