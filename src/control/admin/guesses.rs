//! Wrong secrets: how many of them one address may try. A program that goes on with an old secret tries one, however often.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::base::address::AddressBlock;
use crate::base::clock::UnixSeconds;
use crate::base::failures::{Budget, Failures, Noted};

/// A person mistypes a few times. At this pace a secret of 40 random bits lasts for a hundred thousand years, and ours have
/// 16 bytes at least.
const BUDGET: Budget = Budget {
    failures: 10,
    per: Duration::from_mins(1),
};

/// Wrong secrets that are known again. More programs with different old secrets than these do not call one gateway.
const KNOWN: usize = 64;

/// Who has tried what.
#[derive(Debug)]
pub(super) struct Guesses {
    failures: Failures,
    /// Seeded at random: what is remembered of a wrong secret, which may be nearly right, tells nothing of it.
    hasher: RandomState,
    known: [AtomicU64; KNOWN],
    next: AtomicUsize,
}

impl Guesses {
    pub(super) fn new() -> Self {
        Self {
            failures: Failures::new(BUDGET),
            hasher: RandomState::new(),
            known: [const { AtomicU64::new(0) }; KNOWN],
            next: AtomicUsize::new(0),
        }
    }

    /// How long secrets from this address are not even looked at.
    pub(super) fn barred(&self, client: IpAddr, now: UnixSeconds) -> Option<Duration> {
        self.failures.barred(AddressBlock::from(client), now)
    }

    /// `sent` was wrong.
    pub(super) fn note(&self, client: IpAddr, sent: &[u8], now: UnixSeconds) {
        let hash = self.hasher.hash_one(sent);
        let same = |known: &AtomicU64| known.load(Ordering::Relaxed) == hash;
        if self.known.iter().any(same) {
            return;
        }
        let at = self.next.fetch_add(1, Ordering::Relaxed) % KNOWN;
        self.known[at].store(hash, Ordering::Relaxed);
        if self.failures.note(AddressBlock::from(client), now) == Noted::NoRoom {
            tracing::warn!("too many addresses try secrets of the admin API to count them all");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_795_417_570);

    #[test]
    fn ten_secrets_may_be_tried_and_one_more_after_six_seconds() {
        let guesses = Guesses::new();
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse::<IpAddr>().unwrap());
        for number in 0..9_u8 {
            guesses.note(one, &[number], NOW);
        }
        assert_eq!(guesses.barred(one, NOW), None);
        guesses.note(one, b"tenth", NOW);
        let wait = Duration::from_secs(6);
        assert_eq!(guesses.barred(one, NOW), Some(wait));
        assert_eq!(guesses.barred(other, NOW), None);
        assert_eq!(guesses.barred(one, NOW.plus(wait)), None);
    }

    #[test]
    fn the_same_wrong_secret_again_is_no_new_guess() {
        let guesses = Guesses::new();
        let client = "192.0.2.1".parse().unwrap();
        for _ in 0..1000 {
            guesses.note(client, b"the secret of last year", NOW);
        }
        assert_eq!(guesses.barred(client, NOW), None);
    }
}
