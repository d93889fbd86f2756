//! How long somebody may keep us waiting: in one piece, and byte by byte. A timeout that begins anew with each byte is
//! none against one byte a minute; a rate that is only measured from the beginning lets whoever was quick once trickle
//! on for hours. So waiting takes from an account, and bytes pay into it, up to what it held at first.

use std::time::Duration;

use super::clock::millis;

/// The account of one direction of one peer. Instants are those of `base::deadline`, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// What the account holds at first, and at most.
    most: Duration,
    left: Duration,
    /// Bytes that pay for one second; 0: any byte pays for everything.
    rate: u64,
    /// We have waited since then.
    since: Option<u64>,
}

impl Patience {
    /// Waits for `most` in one piece, and for as long as bytes come at `rate` a second on average; at rate 0 for as long
    /// as any come.
    #[must_use]
    pub const fn new(most: Duration, rate: u64) -> Self {
        Self {
            most,
            left: most,
            rate,
            since: None,
        }
    }

    /// We wait, from `now` on or still. Says when it has been too long.
    pub fn wait(&mut self, now: u64) -> u64 {
        let left = millis(self.left);
        self.since.get_or_insert(now).saturating_add(left)
    }

    /// So many bytes came, and we wait no longer.
    pub fn came(&mut self, now: u64, bytes: usize) {
        if let Some(since) = self.since.take() {
            let waited = Duration::from_millis(now.saturating_sub(since));
            self.left = self.left.saturating_sub(waited);
        }
        if self.left == self.most || bytes == 0 {
            return;
        }
        let pays_for = (bytes as u64)
            .saturating_mul(NANOS_PER_SECOND)
            .checked_div(self.rate)
            .map_or(self.most, Duration::from_nanos);
        self.left = self.left.saturating_add(pays_for).min(self.most);
    }
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    /// When it has been too long for somebody who sends `bytes` every `pause` milliseconds; None: not within a day.
    fn given_up_at(mut patience: Patience, pause: u64, bytes: usize) -> Option<u64> {
        let mut now = 0;
        while now < 24 * 60 * 60 * 1000 {
            let over = patience.wait(now);
            now += pause;
            if over < now {
                return Some(over);
            }
            patience.came(now, bytes);
        }
        None
    }

    #[test]
    fn silence_is_given_up_in_its_time() {
        let mut patience = Patience::new(MINUTE, 240);
        assert_eq!(patience.wait(5), 60_005);
        assert_eq!(patience.wait(50_000), 60_005, "it is the same wait");
    }

    #[test]
    fn a_trickle_is_given_up_and_the_least_rate_is_not() {
        let patience = Patience::new(MINUTE, 240);
        for (pause, bytes, ends) in [
            (1000, 1, true),
            (59_000, 1, true),
            (1000, 200, true),
            (1000, 240, false),
            (100, 24, false),
            (59_000, 59 * 240, false),
        ] {
            let end = given_up_at(patience, pause, bytes);
            assert_eq!(
                end.is_some(),
                ends,
                "{bytes} bytes every {pause} ms: {end:?}"
            );
        }
    }

    #[test]
    fn a_trickle_without_a_rate_goes_on() {
        let patience = Patience::new(MINUTE, 0);
        assert_eq!(given_up_at(patience, 59_000, 1), None);
        assert_eq!(given_up_at(patience, 61_000, 1), Some(60_000));
    }

    #[test]
    fn who_was_quick_has_no_more_than_the_whole_account() {
        let mut patience = Patience::new(MINUTE, 240);
        patience.came(0, usize::MAX);
        assert_eq!(patience.wait(0), 60_000);
        patience.came(50_000, 1_000_000);
        assert_eq!(patience.wait(50_000), 110_000);
    }

    #[test]
    fn what_is_not_waited_for_costs_nothing() {
        let mut patience = Patience::new(MINUTE, 240);
        patience.wait(0);
        patience.came(1000, 240);
        assert_eq!(patience.wait(10_000_000), 10_060_000);
    }

    proptest! {
        #[test]
        fn nobody_waits_longer_than_the_account_and_what_was_paid(
            waits in prop::collection::vec((0..90_000_u64, 0..100_000_usize), 1..50),
            rate in 1..10_000_u64,
        ) {
            let mut patience = Patience::new(MINUTE, rate);
            let (mut now, mut waited, mut paid) = (0, 0, 0);
            for (wait, bytes) in waits {
                let over = patience.wait(now);
                prop_assert!(over - now <= 60_000);
                let until = over.min(now + wait);
                waited += until - now;
                prop_assert!(waited <= 60_000 + paid * 1000 / rate + 1);
                now = until;
                patience.came(now, bytes);
                paid += bytes as u64;
            }
        }
    }
}
