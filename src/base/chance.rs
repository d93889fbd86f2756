//! Chance: random numbers of the operating system, fetched many at a time, and shares of what is left to chance.

use std::fmt;

/// Bytes fetched at once: for some ten requests, and as many as the system gives without being interrupted.
const FETCH_BYTES: usize = 256;

/// Random numbers that nobody can foresee. Each thread has its own.
pub struct Chance {
    bytes: [u8; FETCH_BYTES],
    used: usize,
}

impl Default for Chance {
    fn default() -> Self {
        Self {
            bytes: [0; FETCH_BYTES],
            used: FETCH_BYTES,
        }
    }
}

impl Chance {
    /// So many random bytes, of which no other caller gets any.
    ///
    /// # Panics
    ///
    /// Never where the process could start: a system that has once given random numbers goes on to do so.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        const { assert!(N <= FETCH_BYTES) };
        if self.bytes.len() - self.used < N {
            getrandom::fill(&mut self.bytes).expect("it gave random numbers when we started");
            self.used = 0;
        }
        let mut taken = [0; N];
        taken.copy_from_slice(&self.bytes[self.used..self.used + N]);
        self.used += N;
        taken
    }

    /// Whether something happens that shall happen in `share` of all cases.
    pub fn happens(&mut self, share: Share) -> bool {
        match share.0 {
            0 => false,
            u64::MAX => true,
            below => u64::from_ne_bytes(self.bytes()) < below,
        }
    }
}

impl fmt::Debug for Chance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chance")
    }
}

/// From nothing to all, in steps of 2^-64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u64);

impl Share {
    /// All of it.
    pub const ALL: Self = Self(u64::MAX);

    /// A share from 0 to 1; none beyond.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a cast of floats stops at the bounds of its target, and a share is no exact number"
    )]
    pub fn of(number: f64) -> Option<Self> {
        let share = Self((number * u64::MAX as f64) as u64);
        (0.0..=1.0).contains(&number).then_some(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_never_given_twice() {
        let mut chance = Chance::default();
        let mut given: Vec<[u8; 24]> = (0..100).map(|_| chance.bytes()).collect();
        given.sort_unstable();
        given.dedup();
        assert_eq!(given.len(), 100);
    }

    #[test]
    fn a_share_is_met() {
        let mut chance = Chance::default();
        let mut happened = |share| {
            let share = Share::of(share).unwrap();
            (0..10_000).filter(|_| chance.happens(share)).count()
        };
        assert_eq!((happened(0.0), happened(1.0)), (0, 10_000));
        // Off by ten standard deviations or more: not in the life of this test.
        let half = happened(0.5);
        assert!((4_500..5_500).contains(&half), "{half}");
        let few = happened(0.01);
        assert!((1..200).contains(&few), "{few}");
    }

    #[test]
    fn what_is_beyond_nothing_and_all_is_no_share() {
        for wrong in [-0.1, 1.1, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(Share::of(wrong), None, "{wrong}");
        }
        assert_eq!(Share::of(1.0), Some(Share::ALL));
    }
}
