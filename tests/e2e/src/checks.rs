//! Several checks on one cluster, since a cluster takes seconds. A failed one does not hide those
//! after it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// The checks of one test. Call [`Checks::end`] after the last.
#[must_use]
#[derive(Default)]
pub struct Checks {
    failed: Vec<String>,
    ended: bool,
}

/// One that was not ended would hide what failed.
impl Drop for Checks {
    fn drop(&mut self) {
        assert!(
            self.ended || std::thread::panicking(),
            "the checks were not ended"
        );
    }
}

impl Checks {
    pub fn new() -> Self {
        Self::default()
    }

    /// Does a check, whose name is a sentence. `SKEP_E2E_CHECK` names a part of the ones to be done.
    pub fn check(&mut self, sentence: &str, check: impl FnOnce()) {
        if let Ok(part) = std::env::var("SKEP_E2E_CHECK")
            && !sentence.contains(&part)
        {
            println!("skipped: not asked for: {sentence}");
            return;
        }
        let began = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(check));
        let word = if outcome.is_ok() { "ok    " } else { "FAILED" };
        println!("{word} {:6.1} s  {sentence}", began.elapsed().as_secs_f64());
        if outcome.is_err() {
            eprintln!("FAILED: {sentence}");
            self.failed.push(sentence.to_owned());
        }
    }

    /// Fails the test if a check failed.
    #[track_caller]
    pub fn end(mut self) {
        self.ended = true;
        assert!(
            self.failed.is_empty(),
            "failed:\n  {}",
            self.failed.join("\n  ")
        );
    }
}
