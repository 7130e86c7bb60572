//! A service that is scaled by itself, under loads that change; and mistakes made on purpose.

use skep_sim::load::{Bug, run};

#[test]
fn replicas_follow_the_load_and_nothing_else() {
    let (mut up, mut down, mut unmeasured) = (0, 0, 0);
    for seed in 0..40 {
        match run(seed, None) {
            Ok(counts) => {
                up += counts.up;
                down += counts.down;
                unmeasured += counts.unmeasured;
            }
            Err(failure) => panic!("{failure}"),
        }
    }
    assert!(
        up > 50 && down > 50 && unmeasured > 50,
        "{up} up, {down} down, {unmeasured} silent"
    );
}

#[test]
fn a_leader_that_takes_silence_for_idleness_is_found() {
    is_found(Bug::SilenceIsIdle, "were silent");
}

#[test]
fn a_new_leader_that_relies_on_what_it_has_not_seen_is_found() {
    is_found(Bug::NewLeaderKnows, "by a leader of");
}

fn is_found(bug: Bug, by: &str) {
    let failures: Vec<String> = (0..20)
        .filter_map(|seed| run(seed, Some(bug)).err())
        .collect();
    assert!(
        failures.iter().any(|failure| failure.contains(by)),
        "{} of 20 lives end: {failures:?}",
        failures.len()
    );
}
