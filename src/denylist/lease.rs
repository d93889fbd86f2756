//! For how long this gateway may trust its own denylist: until the lease ends that the relay renews. Without a fleet it never ends.
//!
//! The clock is that of the machine since its start (`CLOCK_BOOTTIME`): it goes on while the process is stopped or the machine sleeps, and
//! nobody sets it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Milliseconds since the machine started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootMillis(pub u64);

impl BootMillis {
    /// This instant plus `span`.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(ms))
    }
}

/// Until when the denylist may be trusted. Read by every request, written by the relay. Clones are the same lease.
#[derive(Clone, Debug)]
pub struct Lease(Arc<AtomicU64>);

impl Lease {
    /// Without a fleet: what this gateway knows is all there is.
    #[must_use]
    pub fn unlimited() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }

    /// In a fleet: nothing is trusted before the first renewal.
    #[must_use]
    pub fn ended() -> Self {
        Self(Arc::new(AtomicU64::new(0)))
    }

    /// Whether it ever ends, and so whether anybody needs to look at a clock.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        self.0.load(Ordering::Acquire) == u64::MAX
    }

    /// Whether it still holds.
    #[must_use]
    pub fn holds(&self, now: BootMillis) -> bool {
        now.0 < self.0.load(Ordering::Acquire)
    }

    /// When it ends.
    #[must_use]
    pub fn until(&self) -> BootMillis {
        BootMillis(self.0.load(Ordering::Acquire))
    }

    /// Renews it. It never becomes shorter, and an unlimited one stays so.
    pub fn renew(&self, until: BootMillis) {
        self.0
            .fetch_max(until.0.min(u64::MAX - 1), Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_until_its_end_and_is_never_cut() {
        let lease = Lease::ended();
        assert!(!lease.is_unlimited() && !lease.holds(BootMillis(0)));
        lease.renew(BootMillis(0).plus(Duration::from_secs(30)));
        assert!(lease.holds(BootMillis(29_999)) && !lease.holds(BootMillis(30_000)));
        lease.renew(BootMillis(10_000));
        assert_eq!(lease.until(), BootMillis(30_000));
    }

    #[test]
    fn without_a_fleet_it_never_ends() {
        let lease = Lease::unlimited();
        lease.renew(BootMillis(5));
        assert!(lease.is_unlimited() && lease.holds(BootMillis(u64::MAX - 1)));
    }
}
