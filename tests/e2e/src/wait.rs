//! Waiting for a condition that has a name.

use std::fmt::Display;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How many times as long as promised to wait, where machines are busy with other things.
const PATIENCE: &str = "SKEP_E2E_PATIENCE";

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(25);

/// So many seconds.
pub const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A time that is promised, as long as it may be here: `SKEP_E2E_PATIENCE` times as long, if set.
pub fn patient(within: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    let factor = FACTOR.get_or_init(|| match std::env::var(PATIENCE) {
        Ok(text) => text.parse().expect("SKEP_E2E_PATIENCE is a whole number"),
        Err(_) => 1,
    });
    within * *factor
}

/// Looks until there is an answer, and returns it. After `within`, with [`patient`] patience, it
/// panics with the name of the condition and the last reason why it did not hold. It looks at
/// least once.
#[track_caller]
pub fn eventually<T, E: Display>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> Result<T, E>,
) -> T {
    let began = Instant::now();
    let within = patient(within);
    loop {
        match look() {
            Ok(answer) => return answer,
            Err(why) if began.elapsed() > within => {
                panic!("not within {within:?}: {what}: {why}")
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// `Ok` when a condition holds, else the text.
pub fn holds(condition: bool, why_not: impl Display) -> Result<(), String> {
    if condition {
        Ok(())
    } else {
        Err(why_not.to_string())
    }
}
