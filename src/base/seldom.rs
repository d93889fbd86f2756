//! Something that would be said far too often: at most once in so much time, whichever thread asks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::clock::millis;

/// When it may be said again.
#[derive(Debug)]
pub struct Seldom {
    pause_ms: u64,
    /// By the clock of whoever asks.
    silent_until_ms: AtomicU64,
}

impl Seldom {
    /// It was never said. Between two times there is at least `pause`.
    #[must_use]
    pub fn new(pause: Duration) -> Self {
        Self {
            pause_ms: millis(pause),
            silent_until_ms: AtomicU64::new(0),
        }
    }

    /// Whether it is said now. `now_ms`: of any clock that never goes back, always the same one. Of several threads at once, one
    /// says it.
    pub fn is_due(&self, now_ms: u64) -> bool {
        let next = now_ms.saturating_add(self.pause_ms);
        self.silent_until_ms
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
                (now_ms >= until).then_some(next)
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_in_its_pause() {
        for start in [0, 5_000] {
            let seldom = Seldom::new(Duration::from_mins(1));
            for (at, is_due) in [
                (0, true),
                (0, false),
                (1, false),
                (59_999, false),
                (60_000, true),
                (60_000, false),
                (200_000, true),
                (259_999, false),
            ] {
                assert_eq!(seldom.is_due(start + at), is_due, "{start} + {at}");
            }
        }
    }

    #[test]
    fn of_threads_that_ask_together_one_says_it() {
        let seldom = Seldom::new(Duration::from_mins(1));
        let said = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        said.fetch_add(u64::from(seldom.is_due(7)), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(said.into_inner(), 1);
    }
}
