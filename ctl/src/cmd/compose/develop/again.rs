//! When what failed is tried again. Decides only.

/// So often is tried by itself, and about a minute long; then the next change is another chance.
const TRIES_MAX: u32 = 6;

/// Failures in a row over the same files.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Again {
    failures: u32,
    /// Looks to go until the next try.
    looks_left: u32,
}

impl Again {
    /// Notes a failure; true where it is tried again by itself. What costs much is not.
    pub fn failed(&mut self, is_cheap: bool) -> bool {
        self.failures = self.failures.saturating_add(1);
        let tries = is_cheap && self.failures <= TRIES_MAX;
        self.looks_left = match tries {
            true => 1 << self.failures,
            false => u32::MAX,
        };
        tries
    }

    /// Notes a look at files that are as they were; true when the next try is due.
    pub fn is_due(&mut self) -> bool {
        if self.looks_left == u32::MAX {
            return false;
        }
        self.looks_left = self.looks_left.saturating_sub(1);
        self.looks_left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_become_rarer_and_come_to_an_end() {
        let mut again = Again::default();
        let mut waited = Vec::new();
        while again.failed(true) {
            let looks = (1..1000).find(|_| again.is_due());
            waited.push(looks.unwrap());
        }
        assert_eq!(waited, [2, 4, 8, 16, 32, 64]);
        assert!((0..1000).all(|_| !again.is_due()));
    }

    #[test]
    fn what_costs_much_waits_for_a_change() {
        let mut again = Again::default();
        assert!(!again.failed(false));
        assert!((0..1000).all(|_| !again.is_due()));
    }
}
