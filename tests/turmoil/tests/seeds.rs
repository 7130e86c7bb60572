//! Some seeds; `SKEP_TURMOIL_SEEDS=A..B` says which others.

use std::ops::Range;

use skep_turmoil::Bug;

/// Seeds where none are asked for.
const SEEDS: Range<u64> = 0..8;

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("SKEP_TURMOIL_SEEDS") else {
        return SEEDS;
    };
    let wanted = text
        .split_once("..")
        .and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    wanted.unwrap_or_else(|| panic!("SKEP_TURMOIL_SEEDS={text} is not FROM..TO"))
}

fn run(members: u64) {
    let is_twice = std::env::var_os("SKEP_TURMOIL_TWICE").is_some();
    let mut failures = Vec::new();
    let (mut terms, mut runs) = (0, 0);
    for seed in seeds() {
        let mut tell = |line: String| println!("{line}");
        let outcome = skep_turmoil::run(seed, members, &mut tell);
        match &outcome {
            Ok(outcome) => {
                println!("seed {seed}, {members} members: {outcome:?}");
                terms += outcome.terms;
                runs += 1;
            }
            Err(failure) => {
                println!("{failure}");
                failures.push(failure.to_string());
            }
        }
        if is_twice {
            let again = skep_turmoil::run(seed, members, &mut |_| ());
            let word = if again == outcome {
                "the same"
            } else {
                "another"
            };
            println!("seed {seed}, {members} members, again: {word}");
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(
        terms > runs,
        "in most runs leaders change: {terms} terms in {runs}"
    );
}

#[test]
fn three_members() {
    run(3);
}

#[test]
fn five_members() {
    run(5);
}

/// What is looked at is not nothing: reads that ask nobody are found.
#[test]
fn reads_without_the_barrier_are_found() {
    for seed in 0..20 {
        let run = skep_turmoil::run_with(seed, 3, Some(Bug::BlindReads), &mut |_| ());
        if let Err(failure) = run {
            println!("{failure}");
            assert!(failure.what.contains("cannot all be true"), "{failure}");
            return;
        }
    }
    panic!("nobody noticed stale reads");
}
