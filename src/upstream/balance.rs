//! Which server gets a request.

use std::cell::{Cell, RefCell};

use fastrand::Rng;

/// `upstreams[].balance`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// One after the other.
    RoundRobin,
    /// The less busy one of two that chance has picked: a crowd that always ran to the least busy server would bury it
    /// before anybody saw ("The Power of Two Choices in Randomized Load Balancing", Mitzenmacher 2001).
    LeastRequests,
}

/// What one thread remembers to choose by.
#[derive(Debug)]
pub(super) struct Chooser {
    balance: Balance,
    /// Of [`Balance::RoundRobin`].
    turn: Cell<usize>,
    chance: RefCell<Rng>,
}

impl Chooser {
    /// Begins anywhere: threads and gateways that all began with the first server would go on in step.
    pub(super) fn new(balance: Balance, mut chance: Rng) -> Self {
        Self {
            balance,
            turn: Cell::new(chance.usize(..)),
            chance: RefCell::new(chance),
        }
    }

    /// One of `count` servers that `is_usable`, where each has its `load`; None if none is. Those that are not usable leave
    /// their share to all others alike.
    pub(super) fn choose(
        &self,
        count: usize,
        is_usable: impl Fn(usize) -> bool,
        load: impl Fn(usize) -> usize,
    ) -> Option<usize> {
        let usable = || (0..count).filter(|at| is_usable(*at));
        let size = usable().count();
        if size < 2 {
            return usable().next();
        }
        match self.balance {
            Balance::RoundRobin => {
                let turn = self.turn.get();
                self.turn.set(turn.wrapping_add(1));
                usable().nth(turn % size)
            }
            Balance::LeastRequests => {
                let (first, second) = two(&mut self.chance.borrow_mut(), size);
                // Others may see one of them fail in between.
                let first = usable().nth(first).or_else(|| usable().next())?;
                let second = usable().nth(second).unwrap_or(first);
                Some(if load(second) < load(first) {
                    second
                } else {
                    first
                })
            }
        }
    }
}

/// Two different numbers below `size`, which is at least 2.
fn two(chance: &mut Rng, size: usize) -> (usize, usize) {
    let first = chance.usize(..size);
    let second = chance.usize(..size - 1);
    (first, second + usize::from(second >= first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(chooser: &Chooser, usable: &[bool], loads: &[usize]) -> Vec<usize> {
        let mut shares = vec![0; usable.len()];
        for _ in 0..6000 {
            let at = chooser.choose(usable.len(), |at| usable[at], |at| loads[at]);
            shares[at.unwrap()] += 1;
        }
        shares
    }

    #[test]
    fn turns_are_shared_by_those_that_are_usable() {
        let chooser = Chooser::new(Balance::RoundRobin, Rng::with_seed(1));
        assert_eq!(shares(&chooser, &[true; 3], &[9, 0, 0]), [2000; 3]);
        // Not: the one behind the gap gets its turns.
        let usable = [true, false, true, true];
        assert_eq!(shares(&chooser, &usable, &[0; 4]), [2000, 0, 2000, 2000]);
    }

    #[test]
    fn threads_do_not_begin_in_step() {
        let first = |seed| {
            let chooser = Chooser::new(Balance::RoundRobin, Rng::with_seed(seed));
            chooser.choose(3, |_| true, |_| 0).unwrap()
        };
        let mut firsts: Vec<_> = (0..50).map(first).collect();
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts, [0, 1, 2]);
    }

    #[test]
    fn the_busiest_gets_nothing_and_the_least_busy_not_everything() {
        let chooser = Chooser::new(Balance::LeastRequests, Rng::with_seed(1));
        let shares = shares(&chooser, &[true; 3], &[1, 2, 3]);
        assert_eq!(shares[2], 0, "whoever it is compared with is less busy");
        assert!(
            shares[1] > 1800 && shares[1] < 2200,
            "a third of the pairs lack the first: {shares:?}"
        );
    }

    #[test]
    fn the_equally_busy_share() {
        let chooser = Chooser::new(Balance::LeastRequests, Rng::with_seed(1));
        let shares = shares(&chooser, &[true, true, false, true], &[5; 4]);
        for at in [0, 1, 3] {
            assert!(shares[at] > 1800 && shares[at] < 2200, "{shares:?}");
        }
        assert_eq!(shares[2], 0);
    }

    #[test]
    fn the_last_one_is_chosen_and_none_is_none() {
        for balance in [Balance::RoundRobin, Balance::LeastRequests] {
            let chooser = Chooser::new(balance, Rng::with_seed(1));
            assert_eq!(chooser.choose(3, |at| at == 2, |_| 7), Some(2));
            assert_eq!(chooser.choose(3, |_| false, |_| 0), None);
            assert_eq!(chooser.choose(0, |_| true, |_| 0), None);
        }
    }
}
