//! Says that requests pass though the denylist may be too old, and not for each of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::base::clock::BootMillis;
use crate::base::names::RouteName;

/// Between two lines: often enough to be seen by whoever looks, rare enough to read.
const PAUSE: Duration = Duration::from_mins(1);

/// When it was said last, by the boot clock in milliseconds; 0: never. Threads share it, so that it is said once for all.
#[derive(Debug, Default)]
pub struct StaleNotice(AtomicU64);

impl StaleNotice {
    /// A request has passed on that route.
    pub(super) fn passed(&self, route: &RouteName, now: BootMillis) {
        if self.is_due(now) {
            tracing::warn!(
                %route,
                "the denylist may be too old, and requests pass on routes with on_stale = \"allow\": what another gateway revoked \
                 may be let in. Is the relay reachable?"
            );
        }
    }

    fn is_due(&self, now: BootMillis) -> bool {
        let said = self.0.load(Ordering::Relaxed);
        let is_due = said == 0 || now.since(BootMillis(said)) >= PAUSE;
        // Of several threads at once, one says it.
        is_due
            && self
                .0
                .compare_exchange(said, now.0, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_a_minute() {
        let notice = StaleNotice::default();
        for (at, is_due) in [
            (5_000, true),
            (5_001, false),
            (64_999, false),
            (65_000, true),
            (65_000, false),
            (125_000, true),
        ] {
            assert_eq!(notice.is_due(BootMillis(at)), is_due, "{at}");
        }
    }
}
