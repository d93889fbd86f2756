//! The wall clock, handed in as a value so that tests move it by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// Tells the time. Clones tell the same time.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    System,
    Manual(Arc<AtomicU64>),
}

/// Moves a manual [`Clock`].
#[derive(Clone, Debug)]
pub struct ClockHand(Arc<AtomicU64>);

impl Clock {
    /// The clock of the machine.
    #[must_use]
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `start` until its hand is moved.
    #[must_use]
    pub fn manual(start: UnixSeconds) -> (Self, ClockHand) {
        let now = Arc::new(AtomicU64::new(start.0));
        (Self(Source::Manual(Arc::clone(&now))), ClockHand(now))
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
            Source::Manual(now) => Duration::from_secs(now.load(Ordering::Relaxed)),
        }
    }
}

impl ClockHand {
    /// Moves the clock forward.
    pub fn advance(&self, span: Duration) {
        self.0.fetch_add(span.as_secs(), Ordering::Relaxed);
    }

    /// Sets the clock, forward or back.
    pub fn set(&self, to: UnixSeconds) {
        self.0.store(to.0, Ordering::Relaxed);
    }
}
