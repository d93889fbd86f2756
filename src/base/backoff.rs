//! Waiting longer after each failure, with jitter so that a fleet does not come back in step.

use std::time::Duration;

/// Doubles from `first` to `last`; each wait is drawn from the upper half of its step.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    last: Duration,
    failures: u32,
}

impl Backoff {
    /// Starts at `first`, ends at `last`.
    #[must_use]
    pub const fn new(first: Duration, last: Duration) -> Self {
        Self {
            first,
            last,
            failures: 0,
        }
    }

    /// Forgets the failures.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// How long to wait after one more failure. `chance` is uniform over all of `u32`.
    pub fn next(&mut self, chance: u32) -> Duration {
        let step = self
            .first
            .saturating_mul(1 << self.failures.min(20))
            .min(self.last);
        self.failures = self.failures.saturating_add(1);
        let half = step / 2;
        half + half.mul_f64(f64::from(chance) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_last_and_never_beyond() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));
        let waits: Vec<_> = (0..10).map(|_| backoff.next(u32::MAX)).collect();
        assert_eq!(waits[0], Duration::from_secs(1));
        assert_eq!(waits[3], Duration::from_secs(8));
        assert_eq!(waits[9], Duration::from_mins(1));
        backoff.reset();
        assert_eq!(backoff.next(0), Duration::from_millis(500));
    }
}
