//! The wall clock and the random numbers of the running program: the only place that draws
//! either. Everything that decides gets them as arguments.

use rand::RngCore;
use skep_model::Timestamp;

/// The present moment.
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// A source of random numbers for ids and choices.
pub fn random() -> impl FnMut() -> u64 {
    let mut source = rand::rng();
    move || source.next_u64()
}
