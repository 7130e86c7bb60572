//! Waiting for a condition that has a name.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(25);

/// So many seconds.
pub const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Looks until there is an answer, and returns it. After `within` it panics with the name of the
/// condition and the last reason why it did not hold. It looks at least once.
#[track_caller]
pub fn eventually<T, E: Display>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> Result<T, E>,
) -> T {
    let began = Instant::now();
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
