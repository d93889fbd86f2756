//! Who failed too often in too short a time: barred for a while. A table of fixed size, in which only failures write;
//! to ask costs a look at one or two cache lines.
//!
//! Each failure is a debt that is paid back evenly (the generic cell rate algorithm, ITU-T I.371): whoever owes the whole
//! budget is barred until there is room for one more failure.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::address::AddressBlock;
use super::clock::UnixSeconds;

/// How often one address may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// So often at once.
    pub failures: u32,
    /// In this time all of it is paid back.
    pub per: Duration,
}

/// Addresses that share a set. Each search looks at all of them, and eight fill a cache line.
const WAYS: usize = 8;

/// Sets of a table: 65,536 addresses in 1.1 MiB. To keep it full takes that many addresses, each failing again before its
/// last failure is paid back.
const SETS: usize = 8192;

/// No address. See [`AddressBlock::number`].
const FREE: u64 = u64::MAX;

/// The failures of every address.
pub struct Failures {
    /// One failure is paid back in this time, in milliseconds.
    interval: u64,
    /// The whole budget is, in milliseconds.
    span: u64,
    /// Seeded at random, so that nobody can choose addresses that meet in one set.
    hasher: RandomState,
    sets: Box<[Set]>,
}

#[repr(align(64))]
struct Set {
    blocks: [AtomicU64; WAYS],
    /// When each has paid back everything, in milliseconds since 1970.
    paid_at: [AtomicU64; WAYS],
    writing: Mutex<()>,
}

/// Whether a failure could be written down.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// It is.
    Yes,
    /// There was no room: every address of its set owes more. Nobody else's debt is forgotten for it.
    NoRoom,
}

impl Failures {
    /// None yet.
    #[must_use]
    pub fn new(budget: Budget) -> Self {
        Self::with_sets(budget, SETS)
    }

    fn with_sets(budget: Budget, sets: usize) -> Self {
        let per = u64::try_from(budget.per.as_millis()).unwrap_or(u64::MAX);
        let failures = u64::from(budget.failures.max(1));
        let interval = (per / failures).max(1);
        Self {
            interval,
            span: interval.saturating_mul(failures),
            hasher: RandomState::new(),
            sets: (0..sets).map(|_| Set::new()).collect(),
        }
    }

    /// How long the address is barred, if it is. In whole seconds, as the clock has them.
    #[must_use]
    pub fn barred(&self, block: AddressBlock, now: UnixSeconds) -> Option<Duration> {
        let paid_at = self.set(block).find(block)?;
        let wait = (self.debt(paid_at, now) + self.interval).checked_sub(self.span)?;
        (wait > 0).then(|| Duration::from_secs(wait.div_ceil(1000)))
    }

    /// The address has failed.
    pub fn note(&self, block: AddressBlock, now: UnixSeconds) -> Noted {
        let set = self.set(block);
        // Nothing below can panic half way.
        let _writing = set.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let owed = |way: &AtomicU64| self.debt(way.load(Ordering::Relaxed), now);
        let later = |debt: u64| millis(now).saturating_add((debt + self.interval).min(self.span));
        let own = |at: &AtomicU64| at.load(Ordering::Relaxed) == block.number();
        if let Some(way) = set.blocks.iter().position(own) {
            let paid_at = &set.paid_at[way];
            paid_at.store(later(owed(paid_at)), Ordering::Release);
            return Noted::Yes;
        }
        let least = (0..WAYS).min_by_key(|&way| owed(&set.paid_at[way]));
        let Some(way) = least.filter(|&way| owed(&set.paid_at[way]) <= self.interval) else {
            return Noted::NoRoom;
        };
        // Whoever reads meanwhile finds the old address, none, or the new one, and never one with the debt of the other.
        set.blocks[way].store(FREE, Ordering::Relaxed);
        set.paid_at[way].store(later(0), Ordering::Release);
        set.blocks[way].store(block.number(), Ordering::Release);
        Noted::Yes
    }

    /// What is not paid back yet, in milliseconds. More than the whole budget is a word of a clock that was set back since.
    fn debt(&self, paid_at: u64, now: UnixSeconds) -> u64 {
        let debt = paid_at.saturating_sub(millis(now));
        if debt > self.span { 0 } else { debt }
    }

    fn set(&self, block: AddressBlock) -> &Set {
        let hash = self.hasher.hash_one(block);
        let sets = self.sets.len() as u64;
        let at = usize::try_from(hash % sets).expect("below the number of sets");
        &self.sets[at]
    }
}

const fn millis(now: UnixSeconds) -> u64 {
    now.0.saturating_mul(1000)
}

impl Set {
    fn new() -> Self {
        Self {
            blocks: std::array::from_fn(|_| AtomicU64::new(FREE)),
            paid_at: std::array::from_fn(|_| AtomicU64::new(0)),
            writing: Mutex::new(()),
        }
    }

    /// When this address has paid back everything.
    fn find(&self, block: AddressBlock) -> Option<u64> {
        let own = |at: &AtomicU64| at.load(Ordering::Acquire) == block.number();
        let way = self.blocks.iter().position(own)?;
        let paid_at = self.paid_at[way].load(Ordering::Acquire);
        // Still its own: what was read between is its debt, and not that of who came after it.
        own(&self.blocks[way]).then_some(paid_at)
    }
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failures").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_795_417_570);

    /// Ten failures, one paid back each second.
    const BUDGET: Budget = Budget {
        failures: 10,
        per: Duration::from_secs(10),
    };

    fn client(number: u32) -> AddressBlock {
        IpAddr::V4(Ipv4Addr::from_bits(number)).into()
    }

    fn fail(failures: &Failures, client: AddressBlock, times: u32, now: UnixSeconds) {
        for _ in 0..times {
            assert_eq!(failures.note(client, now), Noted::Yes);
        }
    }

    #[test]
    fn who_spends_the_budget_is_barred_until_one_failure_is_paid_back() {
        let failures = Failures::new(BUDGET);
        let second = Duration::from_secs(1);
        fail(&failures, client(1), 9, NOW);
        assert_eq!(failures.barred(client(1), NOW), None);
        fail(&failures, client(1), 1, NOW);
        assert_eq!(failures.barred(client(1), NOW), Some(second));
        assert_eq!(failures.barred(client(2), NOW), None, "nobody else");
        let later = NOW.plus(second);
        assert_eq!(failures.barred(client(1), later), None);
        fail(&failures, client(1), 1, later);
        assert_eq!(failures.barred(client(1), later), Some(second));
        let rested = later.plus(Duration::from_secs(10));
        fail(&failures, client(1), 9, rested);
        assert_eq!(failures.barred(client(1), rested), None, "all is paid back");
    }

    #[test]
    fn failures_of_requests_that_ran_together_lengthen_nothing() {
        let failures = Failures::new(BUDGET);
        fail(&failures, client(1), 100, NOW);
        let wait = failures.barred(client(1), NOW);
        assert_eq!(wait, Some(Duration::from_secs(1)));
    }

    #[test]
    fn who_waits_as_long_as_told_is_not_barred_any_more() {
        // A failure is paid back in 0.3 s, 1 s, 1.5 s and 7 s.
        for (failures, per) in [(1000, 300), (10, 10), (2, 3), (1, 7)] {
            let budget = Budget {
                failures,
                per: Duration::from_secs(per),
            };
            let table = Failures::new(budget);
            fail(&table, client(1), failures, NOW);
            let wait = table.barred(client(1), NOW).expect("the budget is spent");
            let before = NOW.plus(wait.saturating_sub(Duration::from_secs(1)));
            assert!(table.barred(client(1), before).is_some(), "{budget:?}");
            assert_eq!(table.barred(client(1), NOW.plus(wait)), None, "{budget:?}");
        }
    }

    #[test]
    fn a_crowd_forgets_nobody_who_owes_more_than_one_failure() {
        let failures = Failures::with_sets(BUDGET, 1);
        let ways = u32::try_from(WAYS).unwrap();
        for number in 0..ways {
            fail(&failures, client(number), 10, NOW);
        }
        for number in 1000..2000 {
            assert_eq!(failures.note(client(number), NOW), Noted::NoRoom);
        }
        for number in 0..ways {
            assert!(failures.barred(client(number), NOW).is_some(), "{number}");
        }
        let rested = NOW.plus(Duration::from_secs(9));
        fail(&failures, client(1000), 10, rested);
        assert!(failures.barred(client(1000), rested).is_some());
    }

    #[test]
    fn of_those_who_owe_one_failure_one_makes_room() {
        let failures = Failures::with_sets(BUDGET, 1);
        fail(&failures, client(0), 2, NOW);
        for number in 1..1000 {
            fail(&failures, client(number), 1, NOW);
        }
        fail(&failures, client(0), 8, NOW);
        assert!(failures.barred(client(0), NOW).is_some());
    }

    #[test]
    fn a_clock_that_is_set_back_bars_nobody_for_longer() {
        let failures = Failures::new(BUDGET);
        fail(&failures, client(1), 10, NOW);
        let before = NOW.minus(Duration::from_hours(1));
        assert_eq!(failures.barred(client(1), before), None);
        fail(&failures, client(1), 10, before);
        assert!(failures.barred(client(1), before).is_some());
    }

    #[test]
    fn threads_count_together() {
        let failures = Failures::new(Budget {
            failures: 4000,
            per: Duration::from_secs(4000),
        });
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| fail(&failures, client(1), 1000, NOW));
            }
        });
        let wait = Some(Duration::from_secs(1));
        assert_eq!(failures.barred(client(1), NOW), wait, "not one is lost");
    }
}
