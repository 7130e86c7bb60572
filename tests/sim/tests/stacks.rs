//! Stacks under random deploys; and mistakes made on purpose, which must show.

use skep_sim::stacks::{Bug, Counts, run};

#[test]
fn deploys_do_what_was_planned_wait_as_asked_and_go_back_whole() {
    let mut all = Counts::default();
    for seed in 0..25 {
        let counts = run(seed, None).unwrap_or_else(|what| panic!("{what}"));
        all.deployed += counts.deployed;
        all.refused += counts.refused;
        all.unchanged += counts.unchanged;
        all.rolled_back += counts.rolled_back;
        all.gates += counts.gates;
        all.adopted += counts.adopted;
    }
    assert!(
        all.refused > 10 && all.rolled_back > 10 && all.gates > 40 && all.adopted > 5,
        "{all:?}"
    );
}

#[test]
fn mistakes_are_found() {
    for bug in [Bug::BasisIsForgotten, Bug::NobodyWaits] {
        let found = (0..50).filter_map(|seed| run(seed, Some(bug)).err()).next();
        assert!(found.is_some(), "{bug:?} is not found");
    }
}
