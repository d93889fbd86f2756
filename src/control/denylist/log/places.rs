//! Where the last record of each rule lies in the log: some nine bytes a rule in memory, so that the records themselves
//! stay on disk.
//!
//! A word holds 24 bits of the fingerprint and 40 of the offset; 14 more bits of the fingerprint choose the bucket. Words
//! of a bucket are sorted, so rules are found by halving and listed in the order of their fingerprints. Two rules in a
//! billion share all 38 bits: whoever needs to know reads the record.

use std::ops::Range;

use crate::denylist::Fingerprint;

const BUCKET_BITS: u32 = 14;
const TAG_BITS: u32 = 24;

/// Bits of an offset.
const OFFSET_BITS: u32 = u64::BITS - TAG_BITS;

/// A log is never longer, in bytes: 1 TiB.
pub(super) const LOG_BYTES_MAX: u64 = 1 << OFFSET_BITS;

/// A full bucket grows by this part of itself.
const GROWTH: usize = 8;

/// Offsets by fingerprint. Of fingerprints that share their first bits it holds all offsets, without saying whose is which.
#[derive(Clone)]
pub(super) struct Places {
    buckets: Box<[Vec<u64>]>,
}

/// The bits that are kept of a fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    bucket: usize,
    tag: u64,
}

impl Key {
    pub(super) const fn of(fingerprint: Fingerprint) -> Self {
        let bits = (fingerprint.bits() >> (u128::BITS - BUCKET_BITS - TAG_BITS)) as u64;
        Self {
            bucket: (bits >> TAG_BITS) as usize,
            tag: bits & ((1 << TAG_BITS) - 1),
        }
    }

    const fn word(self, offset: u64) -> u64 {
        self.tag << OFFSET_BITS | offset
    }
}

impl Places {
    pub(super) fn new() -> Self {
        Self {
            buckets: vec![vec![]; 1 << BUCKET_BITS].into(),
        }
    }

    /// The words with that key.
    fn range(&self, key: Key) -> Range<usize> {
        let bucket = &self.buckets[key.bucket];
        let start = bucket.partition_point(|word| *word < key.word(0));
        let same = bucket[start..]
            .iter()
            .take_while(|word| **word >> OFFSET_BITS == key.tag)
            .count();
        start..start + same
    }

    /// Every offset of a rule with that key: nearly always one or none.
    pub(super) fn find(&self, key: Key) -> impl Iterator<Item = u64> + '_ {
        self.buckets[key.bucket][self.range(key)]
            .iter()
            .map(|word| word & (LOG_BYTES_MAX - 1))
    }

    pub(super) fn insert(&mut self, key: Key, offset: u64) {
        debug_assert!(offset < LOG_BYTES_MAX, "the committer refuses longer logs");
        let bucket = &mut self.buckets[key.bucket];
        if bucket.len() == bucket.capacity() {
            bucket.reserve_exact((bucket.len() / GROWTH).max(1));
        }
        let at = bucket.partition_point(|word| *word < key.word(offset));
        bucket.insert(at, key.word(offset));
    }

    /// Says whether it was there.
    pub(super) fn remove(&mut self, key: Key, offset: u64) -> bool {
        let bucket = &mut self.buckets[key.bucket];
        let Ok(at) = bucket.binary_search(&key.word(offset)) else {
            return false;
        };
        bucket.remove(at);
        if bucket.len() < bucket.capacity() / 2 {
            bucket.shrink_to(bucket.len() + bucket.len() / GROWTH);
        }
        true
    }

    /// Every offset from that key on, in the order of the keys.
    pub(super) fn from(&self, key: Key) -> impl Iterator<Item = (Key, u64)> + '_ {
        self.buckets[key.bucket..]
            .iter()
            .zip(key.bucket..)
            .flat_map(|(words, bucket)| {
                words.iter().map(move |word| {
                    let tag = word >> OFFSET_BITS;
                    (Key { bucket, tag }, word & (LOG_BYTES_MAX - 1))
                })
            })
            .skip_while(move |(other, _)| *other < key)
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.buckets.iter().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn key(number: u128) -> Key {
        Key::of(Fingerprint::from_bits(number << 90))
    }

    #[test]
    fn keys_are_in_the_order_of_fingerprints() {
        let mut last = None;
        for shift in 90..128 {
            let key = Key::of(Fingerprint::from_bits(1 << shift));
            assert!(last < Some(key), "{shift}");
            last = Some(key);
        }
        assert_eq!(key(1), Key::of(Fingerprint::from_bits(3 << 89)));
    }

    proptest! {
        #[test]
        fn it_holds_what_a_set_holds(
            steps in prop::collection::vec((any::<bool>(), 0..20_u128, 0..4_u64), 0..200),
            from in 0..20_u128,
        ) {
            let (mut places, mut model) = (Places::new(), BTreeSet::new());
            for (insert, number, offset) in steps {
                // Numbers of several buckets, and of one.
                let key = key(number << (number % 3 * 12));
                if insert {
                    if model.insert((key, offset)) {
                        places.insert(key, offset);
                    }
                } else {
                    prop_assert_eq!(places.remove(key, offset), model.remove(&(key, offset)));
                }
            }
            prop_assert_eq!(places.len(), model.len());
            let from = key(from);
            let found: Vec<_> = places.from(from).collect();
            let expected: Vec<_> = model.range((from, 0)..).copied().collect();
            prop_assert_eq!(found, expected);
            let found: Vec<_> = places.find(from).collect();
            let expected: Vec<_> = model.range((from, 0)..=(from, 9)).map(|(_, at)| *at).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
