//! How long tokens may live, and the narrower bounds that were in force when some of them were issued.
//!
//! The denylist forgets a rule when no token that it denies could still pass, by the bound that was in force when the rule
//! was made. So a bound that grows must not let a token of that time live longer: it is held to the narrowest bound that
//! was in force since it was issued ([`Earlier`]). Who remembers that over a restart is `control/denylist`.

use std::time::Duration;

use crate::base::clock::UnixSeconds;

/// Tokens that say to be issued up to this long after a bound has grown are held to the one before: the largest leeway, by which
/// an issuer's clock, and the cutoff of a rule, may be ahead; and a minute, in which a revocation under way comes to its end.
pub const SETTLING: Duration = Duration::from_mins(6);

/// A bound is remembered this much longer than any token that needs it: clocks are put right now and then.
const KEPT_LONGER: Duration = Duration::from_mins(5);

/// Most earlier bounds of one issuer. Beyond that the two oldest become one, the narrower: that many within the life of one
/// token are a mistake.
pub const EARLIER_MAX: usize = 16;

/// How long tokens of an issuer may live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Longest `exp - iat`.
    pub max_lifetime: Duration,
    /// Clock skew allowed after `exp`.
    pub leeway: Duration,
}

impl Bound {
    /// How long a token may pass after it was issued.
    #[must_use]
    pub const fn whole(self) -> Duration {
        self.max_lifetime.saturating_add(self.leeway)
    }

    /// The narrower of both, in each part.
    #[must_use]
    pub fn narrower(self, other: Self) -> Self {
        Self {
            max_lifetime: self.max_lifetime.min(other.max_lifetime),
            leeway: self.leeway.min(other.leeway),
        }
    }

    /// The wider of both, in each part.
    #[must_use]
    pub fn wider(self, other: Self) -> Self {
        Self {
            max_lifetime: self.max_lifetime.max(other.max_lifetime),
            leeway: self.leeway.max(other.leeway),
        }
    }
}

/// The bound of tokens that were issued at a time or before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The last `iat` that it holds for.
    pub issued_until: UnixSeconds,
    /// Never wider than that of the next step, or than the one in force.
    pub bound: Bound,
}

/// Bounds that were narrower than the one in force, while tokens of their time could still pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Earlier {
    /// The last instant that any step holds for: nearly always long ago, so that one comparison is all.
    last: UnixSeconds,
    /// The oldest first; `issued_until` rises.
    steps: Box<[Step]>,
}

impl Earlier {
    /// The bound of a token by its `iat`, where `current` is the one in force.
    #[must_use]
    pub fn bound(&self, issued: UnixSeconds, current: Bound) -> Bound {
        if issued > self.last {
            return current;
        }
        self.steps
            .iter()
            .find(|step| issued <= step.issued_until)
            .map_or(current, |step| step.bound.narrower(current))
    }

    /// What is to be remembered when the bound in force was `old` and becomes `new` at `now`. Only what is narrower than all
    /// that came after it counts: a token can be denied by a rule of any time since it was issued.
    #[must_use]
    pub fn then(&self, old: Bound, new: Bound, now: UnixSeconds) -> Self {
        let issued_until = self.last.max(now.plus(SETTLING));
        let left = Step {
            issued_until,
            bound: old,
        };
        let before = self.steps.iter().copied();
        let mut after = new;
        let mut steps: Vec<Step> = vec![];
        for step in before.chain((old != new).then_some(left)).rev() {
            let bound = step.bound.narrower(after);
            let is_over = now >= step.issued_until.plus(after.whole()).plus(KEPT_LONGER);
            if bound != after && !is_over {
                // A clock that was set back: the narrower one holds for both.
                steps.retain(|later| later.issued_until != step.issued_until);
                steps.push(Step { bound, ..step });
                after = bound;
            }
        }
        steps.reverse();
        while steps.len() > EARLIER_MAX {
            steps[1].bound = steps[0].bound;
            steps.remove(0);
        }
        Self::from(steps)
    }

    /// The oldest first.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}

impl From<Vec<Step>> for Earlier {
    fn from(steps: Vec<Step>) -> Self {
        Self {
            last: steps
                .last()
                .map_or(UnixSeconds(0), |step| step.issued_until),
            steps: steps.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_000_000);

    fn bound(max_lifetime: u64, leeway: u64) -> Bound {
        Bound {
            max_lifetime: Duration::from_secs(max_lifetime),
            leeway: Duration::from_secs(leeway),
        }
    }

    fn after(seconds: u64) -> UnixSeconds {
        NOW.plus(Duration::from_secs(seconds))
    }

    /// The bounds in force one after the other, each from its instant on, and what is remembered after the last.
    #[track_caller]
    fn history(bounds: &[(u64, Bound)], expected: &[(u64, Bound)]) -> Earlier {
        let mut earlier = Earlier::default();
        for pair in bounds.windows(2) {
            earlier = earlier.then(pair[0].1, pair[1].1, after(pair[1].0));
        }
        let steps: Vec<_> = earlier
            .steps()
            .iter()
            .map(|step| (step.issued_until.since(NOW), step.bound))
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(at, bound)| (Duration::from_secs(*at) + SETTLING, *bound))
            .collect();
        assert_eq!(steps, expected);
        earlier
    }

    #[test]
    fn a_token_is_held_to_the_narrowest_bound_since_it_was_issued() {
        let (short, middle, long) = (bound(3600, 30), bound(7200, 30), bound(86400, 30));
        let earlier = history(
            &[(0, short), (100, middle), (200, long)],
            &[(100, short), (200, middle)],
        );
        for (issued, expected) in [
            (0, short),
            (100 + 360, short),
            (100 + 361, middle),
            (200 + 360, middle),
            (200 + 361, long),
        ] {
            assert_eq!(earlier.bound(after(issued), long), expected, "{issued}");
        }
        // A bound that was narrow for a while holds for tokens from before, too: rules of that while deny them.
        history(&[(0, long), (100, short), (200, long)], &[(200, short)]);
        history(&[(0, middle), (100, short), (200, long)], &[(200, short)]);
    }

    #[test]
    fn what_is_narrower_now_makes_what_was_before_of_no_account() {
        let (short, long) = (bound(3600, 30), bound(7200, 30));
        history(&[(0, short), (100, short)], &[]);
        history(&[(0, long), (100, short)], &[]);
        history(&[(0, short), (100, long), (200, short)], &[]);
        history(
            &[(0, short), (100, long), (200, bound(5000, 30))],
            &[(100, short)],
        );
    }

    #[test]
    fn lifetime_and_leeway_are_each_held_to_the_narrower() {
        history(
            &[(0, bound(3600, 30)), (100, bound(3600, 60))],
            &[(100, bound(3600, 30))],
        );
        history(
            &[(0, bound(3600, 60)), (100, bound(7200, 30))],
            &[(100, bound(3600, 30))],
        );
    }

    #[test]
    fn a_bound_is_remembered_until_no_token_of_its_time_can_pass_under_the_next() {
        let (short, long) = (bound(3600, 30), bound(7200, 30));
        let earlier = history(&[(0, short), (0, long)], &[(0, short)]);
        let over = after(0)
            .plus(SETTLING)
            .plus(Duration::from_secs(7230))
            .plus(KEPT_LONGER);
        let just_before = over.minus(Duration::from_secs(1));
        assert_eq!(earlier.then(long, long, just_before), earlier);
        assert_eq!(earlier.then(long, long, over), Earlier::default());
    }

    #[test]
    fn a_clock_that_is_set_back_makes_nothing_wider() {
        let (short, middle, long) = (bound(3600, 30), bound(7200, 30), bound(86400, 30));
        let earlier = Earlier::default().then(short, middle, after(1000));
        let earlier = earlier.then(middle, long, after(500));
        assert_eq!(earlier.bound(after(1000 + 360), long), short);
        assert_eq!(earlier.steps().len(), 1);
    }

    #[test]
    fn too_many_changes_make_the_oldest_narrower_and_none_wider() {
        let mut earlier = Earlier::default();
        for change in 0..100 {
            let (old, new) = (bound(10_000 + change, 0), bound(10_001 + change, 0));
            earlier = earlier.then(old, new, after(change));
        }
        assert_eq!(earlier.steps().len(), EARLIER_MAX);
        let current = bound(10_100, 0);
        assert_eq!(earlier.bound(after(0), current), bound(10_000, 0));
        assert_eq!(earlier.bound(after(99 + 360), current), bound(10_099, 0));
        for issued in 0..1000 {
            let strict = earlier.bound(after(issued), current);
            let exact = 10_000 + issued.saturating_sub(360).min(100);
            assert!(strict.max_lifetime.as_secs() <= exact, "{issued}");
        }
    }
}
