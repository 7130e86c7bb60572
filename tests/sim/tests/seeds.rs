//! Two hundred worlds, in eight parts so that they run side by side.

fn run(part: u64) {
    let mut busy = 0;
    for seed in (part * 25)..(part * 25 + 25) {
        match skep_sim::run(seed, &mut |_| ()) {
            Ok(outcome) => busy += usize::from(outcome.commits > 100 && outcome.requests > 10),
            Err(failure) => panic!("{failure}"),
        }
    }
    assert!(
        busy * 2 > 25,
        "most worlds see some action, but only {busy} did"
    );
}

macro_rules! parts {
    ($($name:ident $part:literal)*) => {$(
        #[test]
        fn $name() {
            run($part);
        }
    )*};
}

parts! {
    seeds_0_to_24 0
    seeds_25_to_49 1
    seeds_50_to_74 2
    seeds_75_to_99 3
    seeds_100_to_124 4
    seeds_125_to_149 5
    seeds_150_to_174 6
    seeds_175_to_199 7
}
