//! Whatever becomes of managers: the control API answers as if there were one copy of the cluster,
//! asked one thing after the other.
//!
//! Clients at each of five managers make, read, change and remove the same few objects, while
//! managers are killed, stand still and lose each other. What each asked and was told, and when, is
//! then put in an order in which all answers are right; there must be one.
//!
//! `SKEP_SEED` says which troubles and requests, `SKEP_LINEAR_SECS` for how long. The same seed makes
//! the same choices, not the same run: processes and packets keep their own time.

#[path = "linear/clients.rs"]
mod clients;
#[path = "linear/storm.rs"]
mod storm;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use clients::{Object, Recorder};
use skep_e2e::random::{Random, given};
use skep_e2e::{Cluster, eventually, secs};
use skep_linear::{Answer, Asked, Call, Operation, STEPS_MAX, Verdict, check, show, smallest};

const NODES: [&str; 5] = ["n1", "n2", "n3", "n4", "n5"];
const SEED: u64 = 20_261_129;
/// Two at each manager.
const CLIENTS: usize = 2 * NODES.len();
/// How long there are troubles.
const SECS: u64 = 60;
/// Changes that must have been made for the test to mean anything, for each object and minute.
const CHANGES_MIN: usize = 10;

#[test]
fn the_control_api_is_linearizable() {
    let Some(cluster) = Cluster::up(5, 5) else {
        return;
    };
    let c = &cluster;
    for node in NODES {
        c.wait_ready("n1", node, secs(30));
    }
    let (seed, within) = (given("SKEP_SEED", SEED), given("SKEP_LINEAR_SECS", SECS));
    println!("SKEP_SEED={seed} SKEP_LINEAR_SECS={within}");
    let recorder = Recorder::new(c, &NODES);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let recorder = &recorder;
            scope.spawn(move || recorder.live(client, seed));
        }
        // The clients end whatever becomes of the storm.
        let _ended = clients::Ended(&recorder.ended);
        let until = Instant::now() + secs(within);
        storm::rage(c, &NODES, &mut Random::new(seed), until);
    });
    assert!(recorder.ended.load(Ordering::Relaxed));
    for node in NODES {
        eventually(
            &format!("all nodes are ready, as {node} tells"),
            secs(60),
            || {
                NODES
                    .iter()
                    .try_for_each(|other| match c.node_state(node, other)? {
                        state if state == "ready" => Ok(()),
                        state => Err(format!("{other} is {state}")),
                    })
            },
        );
    }
    // In peace every manager tells the same.
    for object in Object::ALL {
        for (number, node) in NODES.iter().enumerate() {
            recorder.ask(CLIENTS + number, object, node, Asked::Read);
        }
    }
    let (histories, odd) = recorder.into_histories();
    for (object, history) in &histories {
        judge(*object, history, within);
    }
    assert!(
        odd.is_empty(),
        "answers that nobody can have expected: {odd:#?}"
    );
}

/// Panics with the smallest part of the history that one copy cannot have answered.
#[track_caller]
fn judge(object: Object, history: &[Operation<Call>], within: u64) {
    let model = object.model();
    let began = Instant::now();
    let verdict = check(&model, history, STEPS_MAX);
    println!(
        "{object}: {} in {:.2} s: {verdict:?}",
        counts(history),
        began.elapsed().as_secs_f64()
    );
    match verdict {
        Verdict::Linearizable => (),
        Verdict::Undecided => panic!("{object}: {STEPS_MAX} steps are not enough to tell"),
        Verdict::Violated => {
            let (shown, from_start) =
                smallest(&model, history, STEPS_MAX).unwrap_or_else(|| (history.to_vec(), true));
            let start = match from_start {
                true => "from its state before the test",
                false => "whatever its state was before",
            };
            panic!(
                "{object}: these cannot all be true of one copy, {start} (invoked, returned, in \
                 seconds):\n{}",
                show(&shown)
            );
        }
    }
    let done = |one: &&Operation<Call>| one.call.answer == Answer::Done;
    let changes = history.iter().filter(done).count();
    let least = CHANGES_MIN * usize::try_from(within / 60).unwrap_or(1).max(1);
    assert!(
        changes >= least,
        "{object}: only {changes} changes were made"
    );
    would_be_noticed(object, history);
}

/// The very history with one stale answer put in is refused: what is looked at is not nothing.
#[track_caller]
fn would_be_noticed(object: Object, history: &[Operation<Call>]) {
    let found = |one: &Operation<Call>| match one.call.answer {
        Answer::Found { value, version } => Some((value, version)),
        _ => None,
    };
    let last = history.iter().rev().find_map(found);
    let first = history.iter().find_map(found);
    let (Some(last), Some(first)) = (last, first) else {
        return;
    };
    if last.0 == first.0 {
        return;
    }
    let end = history
        .iter()
        .filter_map(|one| one.returned)
        .max()
        .unwrap_or(0);
    let mut wrong = history.to_vec();
    wrong.push(Operation {
        client: 99,
        invoked: end + 1,
        returned: Some(end + 2),
        call: Call {
            asked: Asked::Read,
            answer: Answer::Found {
                value: first.0,
                version: first.1,
            },
        },
    });
    let verdict = check(&object.model(), &wrong, STEPS_MAX);
    assert_eq!(
        verdict,
        Verdict::Violated,
        "{object}: a stale read is not noticed"
    );
}

fn counts(history: &[Operation<Call>]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for one in history {
        let word = match one.call.answer {
            Answer::Found { .. } => "found",
            Answer::Done | Answer::DoneAs { .. } => "done",
            Answer::Absent => "absent",
            Answer::Exists => "exists",
            Answer::Stale => "stale",
            Answer::Unknown => "unknown",
        };
        *counts.entry(word).or_default() += 1;
    }
    let parts = counts.iter().map(|(word, count)| format!("{count} {word}"));
    parts.collect::<Vec<_>>().join(", ")
}
