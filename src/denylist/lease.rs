//! For how long this gateway may trust its own denylist: until the lease ends that the relay renews. Without a fleet it never ends.
//!
//! The clock is the boot clock: a process that was stopped for an hour finds its lease over when it goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::clock::{BootMillis, Clock};

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

    /// Whether it is over. Without a fleet this is one load, and no clock is asked.
    #[must_use]
    pub fn is_over(&self, clock: &Clock) -> bool {
        !self.is_unlimited() && !self.holds(clock.boot())
    }

    /// Whether it was ever renewed, or needs no renewal.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.load(Ordering::Acquire) != 0
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
    use std::time::Duration;

    use super::*;
    use crate::base::clock::UnixSeconds;

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
        assert!(lease.has_begun() && !lease.is_over(&Clock::system()));
    }

    #[test]
    fn it_is_over_by_the_boot_clock_alone() {
        let (clock, hand) = Clock::manual(UnixSeconds(1000));
        let lease = Lease::ended();
        assert!(!lease.has_begun() && lease.is_over(&clock));
        lease.renew(clock.boot().plus(Duration::from_secs(30)));
        hand.set(UnixSeconds(1_000_000));
        assert!(lease.has_begun() && !lease.is_over(&clock));
        hand.advance(Duration::from_millis(29_999));
        assert!(!lease.is_over(&clock));
        hand.advance(Duration::from_millis(1));
        assert!(lease.is_over(&clock) && lease.has_begun());
    }
}
