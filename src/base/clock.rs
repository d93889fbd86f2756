//! The wall clock and the boot clock, handed in as one value so that tests move them by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Seconds since 1970-01-01T00:00:00Z, without leap seconds: the `NumericDate` of RFC 7519
/// section 2, cut to whole seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixSeconds(pub u64);

impl UnixSeconds {
    /// The last instant of the year 9999. A later date in a token is a mistake or an attack.
    pub const MAX: Self = Self(253_402_300_799);

    /// This instant plus `span`, at most [`u64::MAX`] seconds.
    #[must_use]
    pub const fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span.as_secs()))
    }

    /// This instant minus `span`, at least 0.
    #[must_use]
    pub const fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span.as_secs()))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }
}

/// Whole milliseconds of a span, at most [`u64::MAX`].
#[must_use]
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since the machine started. It goes on while the process is stopped or the machine sleeps, and nobody sets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootMillis(pub u64);

impl BootMillis {
    /// This instant plus `span`, at most [`u64::MAX`] milliseconds.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(millis(span)))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Tells the time. Clones tell the same time.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    System,
    Manual(Arc<Manual>),
}

#[derive(Debug)]
struct Manual {
    unix_s: AtomicU64,
    boot_ms: AtomicU64,
}

/// Moves a manual [`Clock`].
#[derive(Clone, Debug)]
pub struct ClockHand(Arc<Manual>);

#[cfg(target_os = "linux")]
const BOOT_CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const BOOT_CLOCK: ClockId = ClockId::Monotonic;

/// Where manual boot clocks begin: a machine that has been up for an hour.
const MANUAL_BOOT_MS: u64 = 3_600_000;

impl Clock {
    /// The clock of the machine.
    #[must_use]
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `start` until its hand is moved.
    #[must_use]
    pub fn manual(start: UnixSeconds) -> (Self, ClockHand) {
        let manual = Arc::new(Manual {
            unix_s: AtomicU64::new(start.0),
            boot_ms: AtomicU64::new(MANUAL_BOOT_MS),
        });
        (Self(Source::Manual(Arc::clone(&manual))), ClockHand(manual))
    }

    /// The time now. A machine clock before 1970 reads as 0: every token is then not yet valid.
    #[must_use]
    pub fn now(&self) -> UnixSeconds {
        UnixSeconds(self.since_1970().as_secs())
    }

    /// The same as exactly as the machine tells it, for what is written down.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that asks the machine"
    )]
    pub fn since_1970(&self) -> Duration {
        match &self.0 {
            Source::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
            Source::Manual(manual) => Duration::from_secs(manual.unix_s.load(Ordering::Relaxed)),
        }
    }

    /// The boot clock now: `CLOCK_BOOTTIME` of Linux. Elsewhere `CLOCK_MONOTONIC`, which on some systems stands still while the
    /// machine sleeps.
    #[must_use]
    pub fn boot(&self) -> BootMillis {
        match &self.0 {
            Source::System => {
                let now = clock_gettime(BOOT_CLOCK);
                // Neither is ever negative.
                let ms = now.tv_sec.saturating_mul(1000) + now.tv_nsec / 1_000_000;
                BootMillis(u64::try_from(ms).unwrap_or(0))
            }
            Source::Manual(manual) => BootMillis(manual.boot_ms.load(Ordering::Relaxed)),
        }
    }
}

impl ClockHand {
    /// Moves the wall clock forward, in whole seconds, and the boot clock with it.
    pub fn advance(&self, span: Duration) {
        self.0.unix_s.fetch_add(span.as_secs(), Ordering::Relaxed);
        self.0.boot_ms.fetch_add(millis(span), Ordering::Relaxed);
    }

    /// Sets the wall clock, forward or back. The boot clock is nobody's to set.
    pub fn set(&self, to: UnixSeconds) {
        self.0.unix_s.store(to.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_clock_goes_on_with_the_hand_and_is_not_set() {
        let (clock, hand) = Clock::manual(UnixSeconds(1000));
        let began = clock.boot();
        hand.advance(Duration::from_millis(2500));
        assert_eq!(clock.boot().since(began), Duration::from_millis(2500));
        assert_eq!(clock.now(), UnixSeconds(1002));
        hand.set(UnixSeconds(5));
        assert_eq!(clock.boot(), began.plus(Duration::from_millis(2500)));
        assert_eq!(clock.now(), UnixSeconds(5));
    }

    #[test]
    fn the_machines_boot_clock_never_goes_back() {
        let clock = Clock::system();
        let began = clock.boot();
        assert!(began > BootMillis(0) && clock.boot() >= began);
    }
}
