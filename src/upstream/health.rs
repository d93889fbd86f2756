//! What health checks ask, and what they say of a server after some of them.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::StatusCode;

/// `upstreams[].health`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Path and query of the request.
    pub path: Box<str>,
    /// From one check to the next, give or take a tenth. Default 5 s.
    pub interval: Duration,
    /// For one check, connecting included. At most `interval`. Default 2 s.
    pub timeout: Duration,
    /// So many good ones in a row make a server healthy. Default 2.
    pub healthy_after: u32,
    /// So many bad ones in a row make it unhealthy. Default 3.
    pub unhealthy_after: u32,
    /// Good answers. Default 200 to 299.
    pub status: RangeInclusive<u16>,
}

impl Health {
    /// Whether an answer is a good one.
    #[must_use]
    pub fn is_good(&self, status: StatusCode) -> bool {
        self.status.contains(&status.as_u16())
    }

    /// How long to wait for the next check. `chance` is uniform over all of `u32`. Gateways that began together do not ask
    /// together for ever.
    #[must_use]
    pub fn wait(&self, chance: u32) -> Duration {
        let share = f64::from(chance) / f64::from(u32::MAX);
        self.interval.mul_f64(0.9 + 0.2 * share)
    }
}

/// What the checks of one server have shown.
#[derive(Clone, Copy, Debug)]
pub struct Streak {
    is_healthy: bool,
    /// Checks in a row that say the opposite.
    against: u32,
    is_first: bool,
}

impl Streak {
    /// A server is healthy until a check fails: a gateway that has just started must not refuse everybody.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            is_healthy: true,
            against: 0,
            is_first: true,
        }
    }

    /// Takes one more check, and says what the server is now, if that is new. The first check alone is believed at once.
    pub const fn take(&mut self, is_good: bool, health: &Health) -> Option<bool> {
        let is_first = self.is_first;
        self.is_first = false;
        if is_good == self.is_healthy {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let bound = if self.is_healthy {
            health.unhealthy_after
        } else {
            health.healthy_after
        };
        if self.against < bound && !is_first {
            return None;
        }
        self.is_healthy = is_good;
        self.against = 0;
        Some(is_good)
    }
}

impl Default for Streak {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        Health {
            path: "/".into(),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            healthy_after: 2,
            unhealthy_after: 3,
            status: 200..=204,
        }
    }

    #[track_caller]
    fn check(checks: &str, expected: &str) {
        let mut streak = Streak::new();
        let said = checks
            .chars()
            .map(|check| match streak.take(check == '+', &health()) {
                None => '.',
                Some(true) => 'u',
                Some(false) => 'd',
            });
        assert_eq!(said.collect::<String>(), expected, "{checks}");
    }

    #[test]
    fn some_in_a_row_change_it() {
        check("+--+----", "......d.");
        check("+---+-++++", "...d...u..");
        check("+---++---", "...d.u..d");
    }

    #[test]
    fn the_first_is_believed_at_once() {
        check("--", "d.");
        check("-++", "d.u");
        check("+-", "..");
    }

    #[test]
    fn bounds_of_statuses_are_good() {
        let good = |status| health().is_good(StatusCode::from_u16(status).unwrap());
        assert!(good(200) && good(204));
        assert!(!good(199) && !good(205));
    }

    #[test]
    fn waits_differ_by_a_tenth() {
        let health = health();
        assert_eq!(health.wait(0), Duration::from_secs(9));
        assert_eq!(health.wait(u32::MAX), Duration::from_secs(11));
    }
}
