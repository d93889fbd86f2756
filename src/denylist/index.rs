//! Every live rule, exact, and read by requests without a lock, a wait or an allocation of the reader's own.
//!
//! Each kind has 64 shards, each a table with open addressing that one writer fills: eight one-byte tags lie in one
//! word, so one load answers "none of these eight" for most tokens. A slot is written before its tag is published, and
//! never again used for another key, so a reader sees a whole rule or none. What shrinks or grows is built beside
//! and published whole, one shard at a time.
//!
//! The epoch makes repeated asking nearly free: the writer adds rules, then raises the epoch, then its caller
//! acknowledges. Whoever found a token clean at an epoch need not look again until it changes. A request that starts
//! after the acknowledgement is denied.
//!
//! Left to others: what rules mean (`control/denylist`), time (comes in as an argument), and whose token it is.

use std::array;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;

use super::pins::Pins;
use super::rule::{Cutoff, Fingerprint, KEYS, Kind, Rule, SetAt, Span, TokenKeys, Until};
use crate::base::clock::UnixSeconds;

/// Parts of each kind's table. Growth copies one part, so 64 keeps the pause and the doubled memory below 2 % of the whole.
pub const SHARDS: usize = 64;

/// Tags in one word.
const GROUP: usize = 8;

/// Most slots of a group that are filled on average. One free slot in eight ends most searches in the first group.
const FILL: usize = 7;

/// A shard that is full grows by this part: seldom enough that each rule is copied six times in all, little enough that an entry costs
/// 31 bytes on average and 34 at most.
const GROWTH: usize = 6;

/// A sweep rebuilds a shard of which at least this part is over.
const SWEEP: usize = 8;

const LOW_BITS: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// What requests read. Made by [`index`] together with its one writer.
pub struct Index {
    /// One for each kind but [`Kind::Pin`].
    tables: [Table; KEYS],
    pins: Pins,
    epoch: AtomicU64,
}

/// Adds and forgets rules. There is one for each [`Index`].
#[derive(Debug)]
pub struct IndexWriter {
    index: Arc<Index>,
    entries_max: usize,
}

/// The denylist has no room for these rules. None of them was added, and none was dropped for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the denylist is full: {entries_max} rules; raise denylist.max_entries")]
pub struct Full {
    /// As configured.
    pub entries_max: usize,
}

/// An empty index for at most `entries_max` rules, and its one writer.
#[must_use]
pub fn index(entries_max: usize) -> (Arc<Index>, IndexWriter) {
    let index = Arc::new(Index {
        tables: array::from_fn(|_| Table::new()),
        pins: Pins::new(),
        epoch: AtomicU64::new(Index::NEVER + 1),
    });
    let writer = IndexWriter {
        index: Arc::clone(&index),
        entries_max,
    };
    (index, writer)
}

impl Index {
    /// No epoch: what a cache entry starts with.
    pub const NEVER: u64 = 0;

    /// Which kind of rule denies the token; the narrowest, where several do.
    #[must_use]
    pub fn check(&self, token: &TokenKeys) -> Option<Kind> {
        token
            .iter()
            .find(|&(kind, key)| match kind {
                Kind::Pin => self
                    .pins
                    .find(key)
                    .is_some_and(|pin| token.is_other_session(pin)),
                _ => self.tables[kind.place()]
                    .find(key)
                    .is_some_and(|span| token.is_cut_off(span.cutoff)),
            })
            .map(|(kind, _)| kind)
    }

    /// [`Index::check`] for a token that is kept in a cache: `clean_at` lies beside it, starts as [`Index::NEVER`], and
    /// spares the look-up while the epoch stays the same.
    #[must_use]
    pub fn is_denied_since(&self, token: &TokenKeys, clean_at: &AtomicU64) -> Option<Kind> {
        self.since(clean_at, || self.check(token))
    }

    /// The epoch comes first. Loaded after the look-up it could be that of a rule which the look-up missed.
    fn since(&self, clean_at: &AtomicU64, look_up: impl FnOnce() -> Option<Kind>) -> Option<Kind> {
        let epoch = self.epoch();
        if clean_at.load(Ordering::Relaxed) == epoch {
            return None;
        }
        let denied = look_up();
        if denied.is_none() {
            clean_at.store(epoch, Ordering::Relaxed);
        }
        denied
    }

    /// Rises with every change that may deny a token which was clean before. Never [`Index::NEVER`].
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Makes every cache entry ask again, for changes outside of this index such as a key that is gone. Anyone may: it
    /// costs look-ups and nothing else.
    pub fn raise_epoch(&self) {
        // A full barrier, so that the rules are seen before anything that the caller does next, such as acknowledging.
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// The rule with that key.
    #[must_use]
    pub fn rule(&self, kind: Kind, fingerprint: Fingerprint) -> Option<Rule> {
        if kind == Kind::Pin {
            return Some(Rule::pin(fingerprint, self.pins.find(fingerprint)?));
        }
        let span = self.tables[kind.place()].find(fingerprint)?;
        Some(Rule {
            kind,
            fingerprint,
            span,
            pin: None,
        })
    }

    /// How many rules of a kind there are, those that are over but not yet swept included.
    #[must_use]
    pub fn entries(&self, kind: Kind) -> usize {
        match kind {
            Kind::Pin => self.pins.entries(),
            _ => self.tables[kind.place()].entries.load(Ordering::Acquire),
        }
    }

    /// How many rules there are of all kinds.
    #[must_use]
    pub fn total(&self) -> usize {
        Kind::ALL.iter().map(|&kind| self.entries(kind)).sum()
    }

    /// Memory of the tables, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.tables
            .iter()
            .flat_map(|table| &table.shards)
            .map(|shard| shard.load().bytes())
            .sum::<usize>()
            + self.pins.bytes()
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index")
            .field("epoch", &self.epoch())
            .field("entries", &Kind::ALL.map(|kind| self.entries(kind)))
            .finish_non_exhaustive()
    }
}

impl IndexWriter {
    /// What requests read.
    #[must_use]
    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Adds the rules, or merges them with those of the same key, and raises the epoch. All of them or none: acknowledge
    /// after this, never before.
    pub fn apply(&mut self, rules: &[Rule]) -> Result<(), Full> {
        self.put_all(rules, Span::merge)
    }

    /// Puts each rule in the place of the one with its key, narrower or wider, and raises the epoch. Of pins the newer one stays. All
    /// of them or none.
    pub fn set(&mut self, rules: &[Rule]) -> Result<(), Full> {
        self.put_all(rules, |_, span| span)
    }

    /// `both`: what becomes of the span that is there and the one that comes.
    fn put_all(&mut self, rules: &[Rule], both: impl Fn(Span, Span) -> Span) -> Result<(), Full> {
        self.room_for(rules)?;
        for rule in rules {
            match rule.pin {
                None => {
                    let table = &self.index.tables[rule.kind.place()];
                    table.put_with(rule.fingerprint, rule.span, |known| both(known, rule.span));
                }
                Some(pin) => self.index.pins.put(rule.fingerprint, pin),
            }
        }
        self.index.raise_epoch();
        Ok(())
    }

    /// Whether [`IndexWriter::apply`] would take these rules.
    pub fn room_for(&self, rules: &[Rule]) -> Result<(), Full> {
        if self.has_room(rules) {
            Ok(())
        } else {
            Err(Full {
                entries_max: self.entries_max,
            })
        }
    }

    fn has_room(&self, rules: &[Rule]) -> bool {
        let room = self.entries_max.saturating_sub(self.entries());
        if rules.len() <= room {
            return true;
        }
        let mut new: Vec<_> = rules
            .iter()
            .map(|rule| (rule.kind, rule.fingerprint))
            .filter(|&(kind, key)| self.index.rule(kind, key).is_none())
            .collect();
        new.sort_unstable();
        new.dedup();
        new.len() <= room
    }

    /// How many rules there are.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.index.total()
    }

    /// The most there may be.
    #[must_use]
    pub const fn entries_max(&self) -> usize {
        self.entries_max
    }

    /// Takes a rule away, or puts a narrower one in its place. Says whether there was one. The epoch stays: what was
    /// clean is clean.
    pub fn lift(&mut self, kind: Kind, fingerprint: Fingerprint, rest: Option<Span>) -> bool {
        match kind {
            Kind::Pin => self.index.pins.lift(fingerprint),
            _ => self.index.tables[kind.place()].lift(fingerprint, rest),
        }
    }

    /// Puts back a rule as it was before a restart, in place of what is there, while no request is served yet: no epoch,
    /// and no bound, because what was acknowledged once is never refused. Says whether there was one.
    pub fn restore(&mut self, rule: Rule) -> bool {
        match rule.pin {
            None => {
                let table = &self.index.tables[rule.kind.place()];
                table.put_with(rule.fingerprint, rule.span, |_| rule.span)
            }
            Some(pin) => self.index.pins.restore(rule.fingerprint, pin),
        }
    }

    /// Forgets rules of one shard that are over (pins never are), where it pays: a whole round over all [`SHARDS`] leaves at most one
    /// in eight behind, and none of a shard where all are over. Says each rule that is gone.
    pub fn sweep(
        &mut self,
        shard: usize,
        now: UnixSeconds,
        mut gone: impl FnMut(Kind, Fingerprint),
    ) {
        for (kind, table) in Kind::ALL.into_iter().zip(&self.index.tables) {
            table.sweep(shard, now, SWEEP, |key| gone(kind, key));
        }
    }

    /// Forgets pins of one part of [`SHARDS`] that were lifted before `before`. Says each that is gone.
    pub fn sweep_lifted_pins(
        &mut self,
        shard: usize,
        before: SetAt,
        mut gone: impl FnMut(Kind, Fingerprint),
    ) {
        self.index
            .pins
            .sweep(shard, SHARDS, before, |user| gone(Kind::Pin, user));
    }

    /// Forgets every rule that is over: what to try before saying that there is no room.
    pub fn sweep_all(&mut self, now: UnixSeconds, mut gone: impl FnMut(Kind, Fingerprint)) {
        for (kind, table) in Kind::ALL.into_iter().zip(&self.index.tables) {
            for shard in 0..SHARDS {
                table.sweep(shard, now, usize::MAX, |key| gone(kind, key));
            }
        }
    }
}

/// The rules of one kind. Only the one [`IndexWriter`] calls what changes it.
struct Table {
    shards: [ArcSwap<Storage>; SHARDS],
    /// So that a kind without rules costs one load.
    entries: AtomicUsize,
}

impl Table {
    fn new() -> Self {
        let empty = Arc::new(Storage::with_room(0));
        Self {
            shards: array::from_fn(|_| ArcSwap::new(Arc::clone(&empty))),
            entries: AtomicUsize::new(0),
        }
    }

    fn find(&self, key: Fingerprint) -> Option<Span> {
        if self.entries.load(Ordering::Acquire) == 0 {
            return None;
        }
        let storage = self.shards[shard_of(key)].load();
        storage
            .find(key)
            .map(|slot| unpack(slot.span.load(Ordering::Acquire)))
    }

    /// Adds a rule, or changes the one that is there. Says whether there was one.
    fn put_with(&self, key: Fingerprint, span: Span, change: impl FnOnce(Span) -> Span) -> bool {
        let shard = &self.shards[shard_of(key)];
        let storage = shard.load();
        if let Some(slot) = storage.find(key) {
            let changed = change(unpack(slot.span.load(Ordering::Relaxed)));
            slot.span.store(pack(changed), Ordering::Release);
            return true;
        }
        if storage.has_room() {
            storage.insert(key, pack(span));
        } else {
            let entries = storage.entries();
            let bigger = storage.copied(entries + (entries / GROWTH).max(1), |_, _| true);
            bigger.insert(key, pack(span));
            shard.store(Arc::new(bigger));
        }
        self.entries.fetch_add(1, Ordering::Release);
        false
    }

    fn lift(&self, key: Fingerprint, rest: Option<Span>) -> bool {
        let shard = &self.shards[shard_of(key)];
        let storage = shard.load();
        let Some(slot) = storage.find(key) else {
            return false;
        };
        if let Some(rest) = rest {
            slot.span.store(pack(rest), Ordering::Release);
        } else {
            let without = storage.copied(storage.entries() - 1, |other, _| other != key);
            shard.store(Arc::new(without));
            self.entries.fetch_sub(1, Ordering::Release);
        }
        true
    }

    /// Rebuilds a shard if of `part` entries one or more are over.
    fn sweep(
        &self,
        shard: usize,
        now: UnixSeconds,
        part: usize,
        mut gone: impl FnMut(Fingerprint),
    ) {
        let shard = &self.shards[shard];
        let storage = shard.load();
        let over = storage
            .iter()
            .filter(|(_, span)| unpack(*span).until.is_over(now))
            .count();
        if over == 0 || over.saturating_mul(part) < storage.entries() {
            return;
        }
        let is_over = |span| unpack(span).until.is_over(now);
        let rest = storage.copied(storage.entries() - over, |_, span| !is_over(span));
        shard.store(Arc::new(rest));
        self.entries.fetch_sub(over, Ordering::Release);
        for (key, _) in storage.iter().filter(|(_, span)| is_over(*span)) {
            gone(key);
        }
    }
}

/// One edition of a shard. It only ever gains entries; what loses some is another storage.
struct Storage {
    /// Eight to a word; 0 is free, a taken one has its highest bit set.
    tags: Box<[AtomicU64]>,
    /// Eight to a group.
    slots: Box<[Slot]>,
    /// Read and written by the writer alone.
    entries: AtomicUsize,
}

#[derive(Default)]
struct Slot {
    high: AtomicU64,
    low: AtomicU64,
    /// Cutoff and until in one word, so that they change together.
    span: AtomicU64,
}

impl Storage {
    fn with_room(entries: usize) -> Self {
        let groups = entries.div_ceil(FILL);
        let slots = || Slot::default();
        Self {
            tags: (0..groups).map(|_| AtomicU64::new(0)).collect(),
            slots: std::iter::repeat_with(slots).take(groups * GROUP).collect(),
            entries: AtomicUsize::new(0),
        }
    }

    fn entries(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    fn has_room(&self) -> bool {
        self.entries() < self.tags.len() * FILL
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.tags) + size_of_val(&*self.slots)
    }

    fn find(&self, key: Fingerprint) -> Option<&Slot> {
        let tag = LOW_BITS * u64::from(tag_of(key));
        for group in self.groups_from(key) {
            let word = self.tags[group].load(Ordering::Acquire);
            // A byte of `same` is zero where the tag matches. The classic test for a zero byte may also name one above
            // a true match; comparing the key sorts that out.
            let same = word ^ tag;
            let mut matches = same.wrapping_sub(LOW_BITS) & !same & HIGH_BITS;
            while matches != 0 {
                let slot = &self.slots[group * GROUP + byte_of(matches)];
                if slot.high.load(Ordering::Relaxed) == key.high
                    && slot.low.load(Ordering::Relaxed) == key.low
                {
                    return Some(slot);
                }
                matches &= matches - 1;
            }
            if word & HIGH_BITS != HIGH_BITS {
                return None;
            }
        }
        None
    }

    /// Adds a key that is not there yet. The caller knows that there is room.
    fn insert(&self, key: Fingerprint, span: u64) {
        for group in self.groups_from(key) {
            let word = self.tags[group].load(Ordering::Relaxed);
            let free = !word & HIGH_BITS;
            if free == 0 {
                continue;
            }
            let byte = byte_of(free);
            let slot = &self.slots[group * GROUP + byte];
            slot.high.store(key.high, Ordering::Relaxed);
            slot.low.store(key.low, Ordering::Relaxed);
            slot.span.store(span, Ordering::Relaxed);
            // From here on readers see the slot, whole.
            let tagged = word | (u64::from(tag_of(key)) << (byte * 8));
            self.tags[group].store(tagged, Ordering::Release);
            self.entries.store(self.entries() + 1, Ordering::Relaxed);
            return;
        }
        unreachable!("one slot in eight is free");
    }

    /// Every group once, from where the key belongs.
    fn groups_from(&self, key: Fingerprint) -> impl Iterator<Item = usize> + use<> {
        let groups = self.tags.len();
        let first = scale(key.low, groups);
        (first..groups).chain(0..first)
    }

    /// Every entry: its key and its packed span.
    fn iter(&self) -> impl Iterator<Item = (Fingerprint, u64)> + '_ {
        self.slots.iter().enumerate().filter_map(|(place, slot)| {
            let word = self.tags[place / GROUP].load(Ordering::Relaxed);
            let taken = (word >> (place % GROUP * 8)) & 0x80 != 0;
            taken.then(|| {
                let key = Fingerprint {
                    high: slot.high.load(Ordering::Relaxed),
                    low: slot.low.load(Ordering::Relaxed),
                };
                (key, slot.span.load(Ordering::Relaxed))
            })
        })
    }

    /// Another storage with those entries that `keep` says, and room for `entries`.
    fn copied(&self, entries: usize, keep: impl Fn(Fingerprint, u64) -> bool) -> Self {
        let copy = Self::with_room(entries);
        for (key, span) in self.iter().filter(|&(key, span)| keep(key, span)) {
            copy.insert(key, span);
        }
        copy
    }
}

const SHARD_SHIFT: u32 = 128 - SHARDS.trailing_zeros();

/// The shard of a fingerprint, in every kind: its first six bits. Whoever adds many rules at once does well to add them
/// shard by shard.
#[must_use]
pub const fn shard_of(key: Fingerprint) -> usize {
    (key.high >> (SHARD_SHIFT - 64)) as usize
}

/// Seven other bits, and the mark of a taken slot.
const fn tag_of(key: Fingerprint) -> u8 {
    (key.high & 0x7f) as u8 | 0x80
}

/// The place of the lowest byte with its highest bit set.
const fn byte_of(high_bits: u64) -> usize {
    high_bits.trailing_zeros() as usize / 8
}

/// Spreads a number over 0 up to `groups`, without a division.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the product's upper half is below groups"
)]
const fn scale(number: u64, groups: usize) -> usize {
    ((number as u128 * groups as u128) >> 64) as usize
}

const fn pack(span: Span) -> u64 {
    ((span.cutoff.0 as u64) << 32) | span.until.0 as u64
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the two halves that pack put together"
)]
const fn unpack(packed: u64) -> Span {
    Span {
        cutoff: Cutoff((packed >> 32) as u32),
        until: Until(packed as u32),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::rule::tests::FINGERPRINTER;
    use super::super::rule::{Pin, SetAt};
    use super::*;
    use crate::token::Claims;

    /// A token of its own user, session and so on, all named by one number.
    fn token(number: u64, issued: u64) -> TokenKeys {
        let name: Box<str> = number.to_string().into();
        let claims = Claims {
            issuer: "https://id".into(),
            audiences: vec![],
            expires: UnixSeconds(issued + 60),
            not_before: None,
            issued: Some(UnixSeconds(issued)),
            token_id: Some(name.clone()),
            session_id: Some(name.clone()),
            subject: Some(name.clone()),
            client: Some(name.clone()),
            scopes: vec![],
            all: Value::Null,
        };
        TokenKeys::of(&FINGERPRINTER(), &claims, Some(&name), b"h.p")
    }

    fn rule(kind: Kind, number: u64, cutoff: u32, until: u32) -> Rule {
        let value = match kind {
            Kind::Issuer => String::new(),
            Kind::Token | Kind::Session | Kind::User | Kind::Client | Kind::Key | Kind::Pin => {
                number.to_string()
            }
        };
        Rule {
            kind,
            fingerprint: FINGERPRINTER().of(kind, "https://id", &value),
            span: Span {
                cutoff: Cutoff(cutoff),
                until: Until(until),
            },
            pin: None,
        }
    }

    /// Spares one session of the user that the number names.
    fn pin(number: u64, session: u64) -> Rule {
        let pin = Pin {
            set: SetAt::new(UnixSeconds(session), None),
            session: rule(Kind::Session, session, 0, 0).fingerprint,
        };
        Rule::pin(rule(Kind::Pin, number, 0, 0).fingerprint, pin)
    }

    fn user(number: u64, cutoff: u32, until: u32) -> Rule {
        rule(Kind::User, number, cutoff, until)
    }

    #[test]
    fn an_empty_index_denies_nothing_and_weighs_nothing() {
        let (index, _writer) = index(10);
        assert_eq!(index.check(&token(1, 100)), None);
        assert_eq!(index.bytes(), 0);
    }

    #[test]
    fn each_kind_denies() {
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Pin) {
            let (index, mut writer) = index(10);
            writer.apply(&[rule(kind, 1, 100, 200)]).unwrap();
            assert_eq!(index.check(&token(1, 100)), Some(kind));
            assert_eq!(index.check(&token(1, 101)), None, "issued after {kind}");
            assert_eq!(index.entries(kind), 1);
        }
    }

    #[test]
    fn a_pin_denies_counts_and_is_lifted_without_a_trace_on_the_user() {
        let (index, mut writer) = index(2);
        writer.apply(&[user(1, 50, 200)]).unwrap();
        let clean_at = AtomicU64::new(Index::NEVER);
        let keys = token(1, 100);
        assert_eq!(index.is_denied_since(&keys, &clean_at), None);
        writer.apply(&[pin(1, 2)]).unwrap();
        assert_eq!(index.is_denied_since(&keys, &clean_at), Some(Kind::Pin));
        assert_eq!(index.check(&token(2, 100)), None, "another user");
        let full = Err(Full { entries_max: 2 });
        assert_eq!(writer.apply(&[pin(2, 2)]), full, "pins count");
        assert_eq!(writer.apply(&[user(2, 5, 9)]), full);
        assert_eq!((index.entries(Kind::Pin), writer.entries()), (1, 2));
        writer.apply(&[pin(1, 3)]).expect("no more room is needed");
        assert_eq!(
            index.rule(Kind::Pin, pin(1, 3).fingerprint),
            Some(pin(1, 3))
        );
        writer.apply(&[pin(1, 2)]).expect("an old one");
        assert_eq!(
            index.rule(Kind::Pin, pin(1, 3).fingerprint),
            Some(pin(1, 3))
        );
        writer.sweep_all(UnixSeconds(201), |kind, _| assert_eq!(kind, Kind::User));
        assert_eq!(index.check(&keys), Some(Kind::Pin));
        assert!(writer.lift(Kind::Pin, pin(1, 3).fingerprint, None));
        assert!(!writer.lift(Kind::Pin, pin(1, 3).fingerprint, None));
        assert_eq!((index.check(&keys), writer.entries()), (None, 0));
    }

    #[test]
    fn the_narrowest_kind_is_named() {
        let (index, mut writer) = index(10);
        writer
            .apply(&[
                rule(Kind::Issuer, 0, 100, 200),
                rule(Kind::Session, 1, 100, 200),
            ])
            .unwrap();
        assert_eq!(index.check(&token(1, 100)), Some(Kind::Session));
        assert_eq!(index.check(&token(2, 100)), Some(Kind::Issuer));
    }

    #[test]
    fn a_full_index_takes_all_of_a_batch_or_nothing() {
        let (index, mut writer) = index(3);
        writer.apply(&[user(1, 5, 9), user(2, 5, 9)]).unwrap();
        let epoch = index.epoch();
        assert_eq!(
            writer.apply(&[user(3, 5, 9), user(4, 5, 9)]),
            Err(Full { entries_max: 3 })
        );
        assert_eq!(index.check(&token(3, 5)), None, "nothing of the batch");
        assert_eq!(index.epoch(), epoch);
        writer
            .apply(&[user(3, 5, 9), user(3, 6, 9), user(1, 7, 9)])
            .expect("known keys and duplicates need no room");
        assert_eq!(writer.entries(), 3);
        assert_eq!(index.check(&token(1, 7)), Some(Kind::User));
        assert_eq!(index.check(&token(2, 5)), Some(Kind::User), "still there");
    }

    #[test]
    fn a_sweep_forgets_what_is_over_and_nothing_else() {
        let (index, mut writer) = index(10_000);
        let rules: Vec<_> = (0..2000)
            .map(|n| user(n, 5, if n % 2 == 0 { 9 } else { 10 }))
            .collect();
        writer.apply(&rules).unwrap();
        for shard in 0..SHARDS {
            writer.sweep(shard, UnixSeconds(10), |_, _| ());
        }
        assert_eq!(writer.entries(), 1000);
        for number in 0..2000 {
            let expected = (number % 2 == 1).then_some(Kind::User);
            assert_eq!(index.check(&token(number, 5)), expected, "{number}");
        }
        for shard in 0..SHARDS {
            writer.sweep(shard, UnixSeconds(11), |_, _| ());
        }
        assert_eq!(writer.entries(), 0);
        assert_eq!(index.bytes(), 0, "memory is given back");
    }

    #[test]
    fn a_sweep_says_what_is_gone() {
        let (_, mut writer) = index(100);
        let over = [user(1, 5, 9), rule(Kind::Session, 1, 5, 9)];
        writer.apply(&over).unwrap();
        writer.apply(&[user(2, 5, 10)]).unwrap();
        let mut gone = vec![];
        writer.sweep_all(UnixSeconds(10), |kind, key| gone.push((kind, key)));
        gone.sort_unstable();
        let mut expected = over.map(|rule| (rule.kind, rule.fingerprint));
        expected.sort_unstable();
        assert_eq!(gone, expected);
    }

    #[test]
    fn what_is_restored_replaces_what_is_there_whatever_the_bound() {
        let (index, mut writer) = index(1);
        assert!(!writer.restore(user(1, u32::MAX, u32::MAX)));
        assert!(writer.restore(user(1, 5, 9)));
        assert!(!writer.restore(user(2, 5, 9)));
        assert_eq!(writer.entries(), 2);
        assert_eq!(index.check(&token(1, 6)), None);
        assert_eq!(index.check(&token(1, 5)), Some(Kind::User));
        assert_eq!(
            writer.room_for(&[user(3, 5, 9)]),
            Err(Full { entries_max: 1 })
        );
    }

    #[test]
    fn a_sweep_leaves_a_shard_with_few_that_are_over_until_room_is_needed() {
        let (index, mut writer) = index(10_000);
        let mut rules: Vec<_> = (0..6400).map(|n| user(n, 5, 100)).collect();
        rules[0].span.until = Until(9);
        writer.apply(&rules).unwrap();
        for shard in 0..SHARDS {
            writer.sweep(shard, UnixSeconds(10), |_, _| ());
        }
        assert_eq!(writer.entries(), 6400);
        writer.sweep_all(UnixSeconds(10), |_, _| ());
        assert_eq!(writer.entries(), 6399);
        assert_eq!(index.check(&token(0, 5)), None);
        assert_eq!(index.check(&token(1, 5)), Some(Kind::User));
    }

    #[test]
    fn lifting_takes_one_rule_away_or_narrows_it() {
        let (index, mut writer) = index(1000);
        let rules: Vec<_> = (0..500).map(|n| user(n, u32::MAX, u32::MAX)).collect();
        writer.apply(&rules).unwrap();
        assert!(writer.lift(Kind::User, rules[7].fingerprint, None));
        assert!(!writer.lift(Kind::User, rules[7].fingerprint, None));
        assert!(!writer.lift(Kind::Client, rules[8].fingerprint, None));
        let rest = user(8, 50, 100).span;
        assert!(writer.lift(Kind::User, rules[8].fingerprint, Some(rest)));
        assert_eq!(writer.entries(), 499);
        assert_eq!(index.check(&token(7, 5)), None);
        assert_eq!(index.check(&token(8, 51)), None);
        assert_eq!(index.check(&token(8, 50)), Some(Kind::User));
        assert_eq!(index.check(&token(9, 51)), Some(Kind::User));
    }

    #[test]
    fn an_entry_costs_about_31_bytes() {
        let entries = 100_000;
        let (index, mut writer) = index(entries);
        let mut costs: Vec<usize> = vec![];
        for number in 0..entries as u64 {
            let fingerprint = Fingerprint {
                high: number.wrapping_mul(0x9e37_79b9_7f4a_7c15),
                low: number.wrapping_mul(0xd1b5_4a32_d192_ed03),
            };
            let rule = Rule {
                fingerprint,
                ..user(0, 5, 9)
            };
            writer.apply(&[rule]).unwrap();
            if number > 50_000 && number % 1000 == 0 {
                let entries = usize::try_from(number).unwrap() + 1;
                costs.push(index.bytes() * 100 / entries);
            }
        }
        let mean = costs.iter().sum::<usize>() / costs.len();
        let (least, most) = (2857, 3150);
        assert!(
            (least..=most).contains(&mean),
            "{mean} hundredths of a byte"
        );
        assert!(costs.iter().all(|cost| *cost < 3600), "{costs:?}");
        assert_eq!(index.entries(Kind::User), entries);
    }

    #[test]
    fn what_was_clean_is_not_looked_up_again_until_the_epoch_rises() {
        let (index, mut writer) = index(10);
        let clean_at = AtomicU64::new(Index::NEVER);
        assert_eq!(index.is_denied_since(&token(1, 5), &clean_at), None);
        assert_eq!(clean_at.load(Ordering::Relaxed), index.epoch());
        // Put behind the epoch's back: not seen, which shows that nothing was looked up.
        let Rule {
            fingerprint, span, ..
        } = user(1, 5, 9);
        index.tables[Kind::User.place()].put_with(fingerprint, span, |known| known.merge(span));
        assert_eq!(index.is_denied_since(&token(1, 5), &clean_at), None);
        index.raise_epoch();
        assert_eq!(
            index.is_denied_since(&token(1, 5), &clean_at),
            Some(Kind::User)
        );
        writer.apply(&[user(2, 5, 9)]).unwrap();
        assert_eq!(
            index.is_denied_since(&token(1, 5), &clean_at),
            Some(Kind::User),
            "a denied token is never remembered as clean"
        );
    }

    #[test]
    fn an_acknowledged_rule_is_never_missed_while_shards_grow_and_shrink() {
        const RULES: u64 = 20_000;
        let (index, mut writer) = index(100_000);
        let tokens: Arc<[TokenKeys]> = (0..RULES).map(|number| token(number, 5)).collect();
        let clean_at: Arc<[AtomicU64]> = (0..RULES).map(|_| AtomicU64::new(Index::NEVER)).collect();
        let acknowledged = Arc::new(AtomicU64::new(0));
        let readers: Vec<_> = (0..3)
            .map(|reader| {
                let (index, tokens) = (Arc::clone(&index), Arc::clone(&tokens));
                let (clean_at, acknowledged) = (Arc::clone(&clean_at), Arc::clone(&acknowledged));
                std::thread::spawn(move || {
                    let mut random = 0x1234_5678_9abc_def1_u64 + reader;
                    let mut asked = 0_u64;
                    loop {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        let known = acknowledged.load(Ordering::Acquire);
                        // Half of them are the newest: those that are still warm.
                        let wanted = if random & 1 == 0 {
                            (random >> 1) % RULES
                        } else {
                            known.saturating_sub(1 + (random >> 1) % 4)
                        };
                        let place = usize::try_from(wanted).unwrap();
                        let verdict = index.is_denied_since(&tokens[place], &clean_at[place]);
                        if wanted < known {
                            assert_eq!(verdict, Some(Kind::User), "missed {wanted} of {known}");
                            asked += 1;
                        }
                        if known == RULES {
                            return asked;
                        }
                    }
                })
            })
            .collect();
        for number in 0..RULES {
            // Noise that is over at once makes the sweeps rebuild what the readers read.
            writer
                .apply(&[
                    user(number, 5, 1000),
                    user(RULES + number, 5, 1),
                    rule(Kind::Session, RULES + number, 5, 1),
                ])
                .unwrap();
            acknowledged.store(number + 1, Ordering::Release);
            if number % 3 == 0 {
                let noise = user(RULES + number, 5, 1).fingerprint;
                writer.lift(Kind::User, noise, None);
            }
            writer.sweep(
                usize::try_from(number).unwrap() % SHARDS,
                UnixSeconds(10),
                |_, _| (),
            );
        }
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
        writer.sweep_all(UnixSeconds(10), |_, _| ());
        assert_eq!(index.entries(Kind::User), usize::try_from(RULES).unwrap());
        assert_eq!(index.entries(Kind::Session), 0);
    }

    #[test]
    fn a_rule_that_comes_between_look_up_and_remembering_is_not_lost() {
        let (index, mut writer) = index(10);
        let clean_at = AtomicU64::new(Index::NEVER);
        let missed = index.since(&clean_at, || {
            let missed = index.check(&token(1, 5));
            writer.apply(&[user(1, 5, 9)]).unwrap();
            missed
        });
        assert_eq!(missed, None, "this request was earlier");
        let next = index.is_denied_since(&token(1, 5), &clean_at);
        assert_eq!(next, Some(Kind::User));
    }

    #[test]
    fn no_token_is_remembered_as_clean_while_its_rule_is_being_added() {
        const ROUNDS: usize = 100;
        const BATCH: usize = 2000;
        let (index, mut writer) = index(ROUNDS * BATCH);
        // The rule of the round comes last in a long batch, so that the reader asks many times in between.
        let rounds: Vec<(TokenKeys, Vec<Rule>)> = (0..ROUNDS as u64)
            .map(|round| {
                let noise = |number| user(1_000_000 + round * BATCH as u64 + number, 5, 9);
                let mut rules: Vec<_> = (1..BATCH as u64).map(noise).collect();
                rules.push(user(round, 5, 9));
                (token(round, 5), rules)
            })
            .collect();
        let clean_at: Vec<_> = (0..ROUNDS).map(|_| AtomicU64::new(Index::NEVER)).collect();
        let (round, asked) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                loop {
                    let round = round.load(Ordering::Acquire);
                    let Some((keys, _)) = rounds.get(round) else {
                        return;
                    };
                    let _ = index.is_denied_since(keys, &clean_at[round]);
                    asked.store(round + 1, Ordering::Release);
                }
            });
            for (number, (keys, rules)) in rounds.iter().enumerate() {
                while asked.load(Ordering::Acquire) <= number {
                    std::hint::spin_loop();
                }
                writer.apply(rules).unwrap();
                let verdict = index.is_denied_since(keys, &clean_at[number]);
                round.store(number + 1, Ordering::Release);
                if verdict != Some(Kind::User) {
                    round.store(ROUNDS, Ordering::Release);
                }
                assert_eq!(verdict, Some(Kind::User), "round {number}");
            }
        });
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        (0..6_usize, 0..40_u64, 0..8_u32, 0..8_u32).prop_map(|(kind, number, cutoff, until)| {
            let number = if Kind::ALL[kind] == Kind::Issuer {
                0
            } else {
                number
            };
            // Issuer rules would hide all others, so they catch only the oldest tokens.
            let cutoff = if Kind::ALL[kind] == Kind::Issuer {
                0
            } else {
                cutoff
            };
            rule(Kind::ALL[kind], number, cutoff, until)
        })
    }

    fn model(rules: &[Rule]) -> BTreeMap<(Kind, Fingerprint), Span> {
        let mut model: BTreeMap<_, Span> = BTreeMap::new();
        for rule in rules {
            model
                .entry((rule.kind, rule.fingerprint))
                .and_modify(|span| *span = span.merge(rule.span))
                .or_insert(rule.span);
        }
        model
    }

    proptest! {
        #[test]
        fn any_order_and_repetition_gives_the_same_verdicts(
            rules in prop::collection::vec(any_rule(), 1..200),
            shuffled in any::<prop::sample::Index>(),
            split in any::<prop::sample::Index>(),
            now in 0..10_u64,
        ) {
            let mut model = model(&rules);
            // A part first, then everything from another start, so that the part comes twice.
            let (index, mut writer) = index(1000);
            writer.apply(&rules[..split.index(rules.len())]).unwrap();
            let mut turned = rules.clone();
            turned.rotate_left(shuffled.index(rules.len()));
            turned.reverse();
            for batch in turned.chunks(7) {
                writer.apply(batch).unwrap();
            }
            for swept in [false, true] {
                if swept {
                    writer.sweep_all(UnixSeconds(now), |_, _| ());
                    model.retain(|_, span| !span.until.is_over(UnixSeconds(now)));
                }
                prop_assert_eq!(writer.entries(), model.len());
                for (number, issued) in (0..41).flat_map(|n| (0..9).map(move |at| (n, at))) {
                    let token = token(number, issued);
                    let expected = token
                        .iter()
                        .find(|key| model.get(key).is_some_and(|span| token.is_cut_off(span.cutoff)))
                        .map(|(kind, _)| kind);
                    prop_assert_eq!(index.check(&token), expected);
                }
                for (&(kind, fingerprint), &span) in &model {
                    prop_assert_eq!(index.rule(kind, fingerprint), Some(Rule { kind, fingerprint, span, pin: None }));
                }
            }
        }
    }
}
