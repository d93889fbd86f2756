//! Says that requests pass though the denylist may be too old, and not for each of them.

use std::time::Duration;

use crate::base::clock::BootMillis;
use crate::base::names::RouteName;
use crate::base::seldom::Seldom;

/// Between two lines: often enough to be seen by whoever looks, rare enough to read.
const PAUSE: Duration = Duration::from_mins(1);

/// When it was said last, by the boot clock. Threads share it, so that it is said once for all.
#[derive(Debug)]
pub struct StaleNotice(Seldom);

impl Default for StaleNotice {
    fn default() -> Self {
        Self(Seldom::new(PAUSE))
    }
}

impl StaleNotice {
    /// A request has passed on that route.
    pub(super) fn passed(&self, route: &RouteName, now: BootMillis) {
        if self.0.is_due(now.0) {
            tracing::warn!(
                %route,
                "the denylist may be too old, and requests pass on routes with on_stale = \"allow\": what another gateway revoked \
                 may be let in. Is the relay reachable?"
            );
        }
    }
}
