//! Every bug that is put in on purpose is found, by the invariant that is there for it.

use skep_sim::Sabotage;

/// Worlds that are tried; most bugs show in the first few.
const SEEDS: u64 = 60;

fn is_found(sabotage: Sabotage, words: &str) {
    let mut others = Vec::new();
    for seed in 0..SEEDS {
        if let Err(failure) = skep_sim::run_with(seed, Some(sabotage), &mut |_| ()) {
            if failure.what.contains(words) {
                println!("{sabotage:?}: {failure}");
                return;
            }
            others.push(failure.to_string());
        }
    }
    panic!("{sabotage:?} is not found in {SEEDS} worlds by its invariant: {others:#?}");
}

macro_rules! bugs {
    ($($name:ident $sabotage:ident $words:literal)*) => {$(
        #[test]
        fn $name() {
            is_found(Sabotage::$sabotage, $words);
        }
    )*};
}

bugs! {
    a_leader_that_takes_all_to_follow TakeAllToFollow "although packets of"
    tasks_that_are_placed_anywhere PlaceAnywhere "was placed on"
    tasks_that_are_sent_away_from_their_volumes LoseHomes "its volumes"
    a_service_that_is_never_rebalanced NeverRebalance "is not even"
    a_watcher_that_loses_events LoseEvents "the watcher"
    a_host_that_loses_messages LoseMessages "session of"
    a_host_that_keeps_secrets KeepSecrets "without a task that uses it"
}
