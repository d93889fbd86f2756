//! The pins: of each pinned user the one session that is spared. Read by requests as wait-free as the tables of the index,
//! and for nothing while there are none.
//!
//! There are far fewer of them than of other rules, and a pin is larger than a slot of a table. So each shard is a map
//! that the one writer copies, changes and publishes. Left to others: the epoch, and the bound (`index`).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;

use super::rule::{Fingerprint, Pin, SetAt};

/// Parts of the table. A million pins make a thousand of each, and copying those takes some ten microseconds.
const SHARDS: usize = 1024;

type Shard = HashMap<Fingerprint, Pin, RandomState>;

pub(super) struct Pins {
    shards: Box<[ArcSwap<Shard>]>,
    /// So that no pins cost one load.
    entries: AtomicUsize,
}

impl Pins {
    pub(super) fn new() -> Self {
        let empty = Arc::new(Shard::default());
        Self {
            shards: std::iter::repeat_with(|| ArcSwap::new(Arc::clone(&empty)))
                .take(SHARDS)
                .collect(),
            entries: AtomicUsize::new(0),
        }
    }

    /// The pin of a user.
    pub(super) fn find(&self, user: Fingerprint) -> Option<Pin> {
        if self.entries() == 0 {
            return None;
        }
        self.shard(user).load().get(&user).copied()
    }

    pub(super) fn entries(&self) -> usize {
        self.entries.load(Ordering::Acquire)
    }

    /// What the entries take, without what an allocator adds.
    pub(super) fn bytes(&self) -> usize {
        if self.entries() == 0 {
            return 0;
        }
        self.shards
            .iter()
            .map(|shard| shard.load().capacity() * size_of::<(Fingerprint, Pin)>())
            .sum()
    }

    /// Sets a pin, unless a newer one is there.
    pub(super) fn put(&self, user: Fingerprint, pin: Pin) {
        let shard = self.shard(user);
        let mut changed = Shard::clone(&shard.load());
        let before = changed.get(&user).copied();
        changed.insert(user, before.map_or(pin, |before| before.max(pin)));
        shard.store(Arc::new(changed));
        if before.is_none() {
            self.entries.fetch_add(1, Ordering::Release);
        }
    }

    /// Puts a pin in place of what is there, while nobody reads. Says whether there was one.
    pub(super) fn restore(&self, user: Fingerprint, pin: Pin) -> bool {
        let shard = self.shard(user);
        // Copying the shard for each of a million pins would take a while.
        let mut whole = shard.swap(Arc::default());
        let known = Arc::make_mut(&mut whole).insert(user, pin).is_some();
        shard.store(whole);
        if !known {
            self.entries.fetch_add(1, Ordering::Release);
        }
        known
    }

    /// Takes a pin away. Says whether there was one.
    pub(super) fn lift(&self, user: Fingerprint) -> bool {
        let shard = self.shard(user);
        let mut changed = Shard::clone(&shard.load());
        if changed.remove(&user).is_none() {
            return false;
        }
        changed.shrink_to_fit();
        shard.store(Arc::new(changed));
        self.entries.fetch_sub(1, Ordering::Release);
        true
    }

    /// Takes away what was lifted before `before` in one of `parts` equal parts of the table.
    pub(super) fn sweep(
        &self,
        part: usize,
        parts: usize,
        before: SetAt,
        mut gone: impl FnMut(Fingerprint),
    ) {
        if self.entries() == 0 {
            return;
        }
        let is_over = |pin: &Pin| pin.is_lifted() && pin.set < before;
        for shard in self.shards.iter().skip(part).step_by(parts) {
            let pins = shard.load();
            if !pins.values().any(is_over) {
                continue;
            }
            let mut changed = Shard::clone(&pins);
            changed.retain(|user, pin| {
                let over = is_over(pin);
                if over {
                    gone(*user);
                }
                !over
            });
            changed.shrink_to_fit();
            self.entries
                .fetch_sub(pins.len() - changed.len(), Ordering::Release);
            shard.store(Arc::new(changed));
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the remainder is below SHARDS"
    )]
    fn shard(&self, user: Fingerprint) -> &ArcSwap<Shard> {
        // Salted, so as even as can be.
        &self.shards[(user.low % SHARDS as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn user(number: u64) -> Fingerprint {
        // The second half shares the shards of the first.
        Fingerprint::from_bits(u128::from(number % 8) | (u128::from(number / 8) << 64))
    }

    fn pin(set: u64, session: u64) -> Pin {
        Pin {
            set: SetAt::from_micros(set),
            session: Fingerprint::from_bits(session.into()),
        }
    }

    #[test]
    fn without_pins_it_weighs_nothing() {
        let pins = Pins::new();
        assert_eq!(
            (pins.find(user(1)), pins.entries(), pins.bytes()),
            (None, 0, 0)
        );
        pins.put(user(1), pin(1, 1));
        assert!(pins.bytes() > 0);
        assert!(pins.lift(user(1)));
        assert_eq!(
            (pins.find(user(1)), pins.entries(), pins.bytes()),
            (None, 0, 0)
        );
    }

    #[test]
    fn what_was_lifted_long_ago_goes_and_nothing_else() {
        let pins = Pins::new();
        let lifted = |set| Pin {
            session: Pin::NOBODY,
            ..pin(set, 0)
        };
        for (number, pin) in [
            (1, lifted(4)),
            (2, lifted(5)),
            (3, pin(4, 1)),
            (9, lifted(3)),
        ] {
            pins.put(user(number), pin);
        }
        let mut gone = vec![];
        for part in 0..64 {
            pins.sweep(part, 64, SetAt::from_micros(5), |user| gone.push(user));
        }
        gone.sort_unstable();
        assert_eq!(gone, [user(1), user(9)]);
        assert_eq!(pins.entries(), 2);
        assert!(pins.find(user(2)).is_some() && pins.find(user(3)).is_some());
    }

    #[test]
    fn what_is_restored_replaces_what_is_there() {
        let pins = Pins::new();
        assert!(!pins.restore(user(1), pin(9, 1)));
        assert!(pins.restore(user(1), pin(2, 2)), "as the log's order says");
        assert_eq!(pins.find(user(1)), Some(pin(2, 2)));
        assert_eq!(pins.entries(), 1);
    }

    proptest! {
        #[test]
        fn the_order_of_setting_does_not_matter(
            writes in prop::collection::vec((0..16_u64, 0..4_u64, 0..4_u64), 0..60),
            lifted in 0..16_u64,
        ) {
            let (there, back) = (Pins::new(), Pins::new());
            let mut model = std::collections::BTreeMap::<u64, Pin>::new();
            for &(number, set, session) in &writes {
                let pin = pin(set, session);
                there.put(user(number), pin);
                model.entry(number).and_modify(|known| *known = pin.max(*known)).or_insert(pin);
            }
            for &(number, set, session) in writes.iter().rev() {
                back.put(user(number), pin(set, session));
            }
            for pins in [&there, &back] {
                prop_assert_eq!(pins.entries(), model.len());
                for number in 0..16 {
                    prop_assert_eq!(pins.find(user(number)), model.get(&number).copied());
                }
            }
            prop_assert_eq!(there.lift(user(lifted)), model.contains_key(&lifted));
            for number in (0..16).filter(|number| *number != lifted) {
                prop_assert_eq!(there.find(user(number)), model.get(&number).copied());
            }
            prop_assert_eq!(there.find(user(lifted)), None);
        }
    }
}
