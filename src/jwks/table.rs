//! The table that requests read to find an issuer's keys, and its one writer.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

use super::key_set::KeySet;
use crate::base::clock::UnixSeconds;

/// What is known of an issuer's keys.
#[derive(Debug)]
pub enum KeysState {
    /// None was ever loaded: the gateway's fault, not the token's.
    NotLoaded,
    /// The newest good set.
    Loaded(KeySet),
    /// The last good set is too old to be trusted.
    Stale,
}

/// An issuer's keys, for readers. Reading waits for nobody.
pub struct KeyTable {
    state: ArcSwap<KeysState>,
    numbers: Numbers,
    tried: watch::Receiver<bool>,
}

/// Written by the writer alone; each is true by itself, and no two of them need to agree.
#[derive(Default)]
struct Numbers {
    edition: AtomicU64,
    fetches_ok: AtomicU64,
    fetches_failed: AtomicU64,
    /// 0: never.
    good_at: AtomicU64,
    /// 0: for ever.
    trusted_until: AtomicU64,
    keys: AtomicU64,
    skipped: AtomicU64,
}

/// How an issuer's keys are doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyStatus {
    /// Grows with every change of the usable keys.
    pub edition: u64,
    /// Good fetches since the start, counted.
    pub fetches_ok: u64,
    /// Failed ones.
    pub fetches_failed: u64,
    /// When the provider (or the file) last gave a good set.
    pub good_at: Option<UnixSeconds>,
    /// Usable keys.
    pub keys: u64,
    /// Entries of the newest set that are not used.
    pub skipped: u64,
}

/// The one writer of a [`KeyTable`].
#[derive(Debug)]
pub struct KeyTableWriter {
    table: Arc<KeyTable>,
    tried: watch::Sender<bool>,
    trusted_for: Option<Duration>,
}

/// What a new set changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Keys that were not there before.
    pub added: usize,
    /// Keys that are gone, with everything that they signed.
    pub retired: usize,
}

impl Change {
    /// Whether there was any.
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.added > 0 || self.retired > 0
    }
}

/// The state at one moment. Not to be held for long, least of all over an `.await`.
pub struct Current(Guard<Arc<KeysState>>);

impl Deref for Current {
    type Target = KeysState;

    fn deref(&self) -> &KeysState {
        &self.0
    }
}

impl KeyTable {
    /// An empty table and its writer.
    #[must_use]
    pub fn new() -> (Arc<Self>, KeyTableWriter) {
        let (tried, watcher) = watch::channel(false);
        let table = Arc::new(Self {
            state: ArcSwap::from_pointee(KeysState::NotLoaded),
            numbers: Numbers::default(),
            tried: watcher,
        });
        let writer = KeyTableWriter {
            table: Arc::clone(&table),
            tried,
            trusted_for: None,
        };
        (table, writer)
    }

    /// What is known now.
    #[must_use]
    pub fn current(&self) -> Current {
        Current(self.state.load())
    }

    /// Whether nobody has confirmed the keys for so long that they must not be trusted any more. Asked on every request,
    /// because the writer's task may be late, or hang in a fetch.
    #[must_use]
    pub fn is_overdue(&self, now: UnixSeconds) -> bool {
        let until = self.numbers.trusted_until.load(Ordering::Relaxed);
        until != 0 && now.0 >= until
    }

    /// Grows with every change of the usable keys, after the old ones are retired.
    #[must_use]
    pub fn edition(&self) -> u64 {
        self.numbers.edition.load(Ordering::Acquire)
    }

    /// For metrics and the admin API.
    #[must_use]
    pub fn status(&self) -> KeyStatus {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let good_at = read(&self.numbers.good_at);
        KeyStatus {
            edition: self.edition(),
            fetches_ok: read(&self.numbers.fetches_ok),
            fetches_failed: read(&self.numbers.fetches_failed),
            good_at: (good_at > 0).then_some(UnixSeconds(good_at)),
            keys: read(&self.numbers.keys),
            skipped: read(&self.numbers.skipped),
        }
    }

    /// Whether the first attempt to load keys has ended, well or badly. Before that a gateway is not
    /// ready; after it, a dead provider must not keep the routes of the others down.
    #[must_use]
    pub fn tried(&self) -> bool {
        *self.tried.borrow()
    }

    /// Returns when [`Self::tried`], or when the writer is gone.
    pub async fn until_tried(&self) {
        // An error means that the writer is gone: nobody will try any more.
        let _ = self.tried.clone().wait_for(|tried| *tried).await;
    }
}

impl fmt::Debug for KeyTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyTable")
            .field("state", &*self.current())
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl KeyTableWriter {
    /// The table that it writes.
    #[must_use]
    pub const fn table(&self) -> &Arc<KeyTable> {
        &self.table
    }

    /// Puts `set`, which was good at `good_at`, in the place of the old one.
    ///
    /// Keys that the old set had already stay the very same, so that what they verified is still
    /// known. Keys that are gone are retired after the swap and before this returns: a request that
    /// starts afterwards finds them neither in the table nor, by [`Key::is_live`], in any cache. The
    /// other order would let a request read the old set, and remember a verdict of a key that looks
    /// live only because nobody has retired it yet.
    ///
    /// [`Key::is_live`]: super::Key::is_live
    pub fn publish(&mut self, set: KeySet, good_at: UnixSeconds) -> Change {
        let old = self.table.state.load_full();
        let set = match &*old {
            KeysState::Loaded(old) => set.carried_over(old),
            // What was retired as stale stays retired: its keys come back as new ones.
            KeysState::NotLoaded | KeysState::Stale => set,
        };
        let numbers = &self.table.numbers;
        store(&numbers.keys, set.keys().len());
        store(&numbers.skipped, set.skipped().len());
        let count = set.keys().len();
        let new = Arc::new(KeysState::Loaded(set));
        self.table.state.store(Arc::clone(&new));
        let retired = retire_all_but(&old, &new);
        let before = match &*old {
            KeysState::Loaded(old) => old.keys().len(),
            KeysState::NotLoaded | KeysState::Stale => 0,
        };
        let change = Change {
            added: count - (before - retired),
            retired,
        };
        if change.is_some() {
            numbers.edition.fetch_add(1, Ordering::Release);
        }
        self.confirm(good_at);
        change
    }

    /// From the next confirmation on, keys that nobody confirms for `span` are overdue. Without this they never are.
    pub const fn trust_for(&mut self, span: Duration) {
        self.trusted_for = Some(span);
    }

    /// The same content was seen again.
    pub fn confirm(&mut self, good_at: UnixSeconds) {
        let numbers = &self.table.numbers;
        numbers.good_at.store(good_at.0, Ordering::Relaxed);
        if let Some(span) = self.trusted_for {
            numbers
                .trusted_until
                .store(good_at.plus(span).0, Ordering::Relaxed);
        }
    }

    /// Counts a fetch.
    pub fn count_fetch(&mut self, good: bool) {
        let numbers = &self.table.numbers;
        let number = if good {
            &numbers.fetches_ok
        } else {
            &numbers.fetches_failed
        };
        number.fetch_add(1, Ordering::Relaxed);
    }

    /// Retires every key. Does nothing where none was ever loaded.
    pub fn mark_stale(&mut self) {
        let old = self.table.state.load_full();
        if !matches!(*old, KeysState::Loaded(_)) {
            return;
        }
        let new = Arc::new(KeysState::Stale);
        self.table.state.store(Arc::clone(&new));
        retire_all_but(&old, &new);
        store(&self.table.numbers.keys, 0);
        store(&self.table.numbers.skipped, 0);
        self.table.numbers.edition.fetch_add(1, Ordering::Release);
    }

    /// The first attempt has ended.
    pub fn mark_tried(&mut self) {
        self.tried
            .send_if_modified(|tried| !std::mem::replace(tried, true));
    }
}

/// Retires the keys of `old` that `new` does not hold, and counts them.
fn retire_all_but(old: &KeysState, new: &KeysState) -> usize {
    let KeysState::Loaded(old) = old else {
        return 0;
    };
    let gone = old.keys().iter().filter(|key| match new {
        KeysState::Loaded(new) => !new.holds(key),
        KeysState::NotLoaded | KeysState::Stale => true,
    });
    gone.inspect(|key| key.retire()).count()
}

fn store(number: &AtomicU64, value: usize) {
    number.store(u64::try_from(value).unwrap_or(u64::MAX), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::super::key::Key;
    use super::super::{Algorithm, rfc_examples};
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_000);

    fn set(kids: &[&str]) -> KeySet {
        let entries: Vec<_> = kids
            .iter()
            .map(|kid| {
                let x = rfc_examples::ED_X;
                format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","kid":"{kid}"}}"#)
            })
            .collect();
        KeySet::parse(format!(r#"{{"keys":[{},7]}}"#, entries.join(",")).as_bytes()).unwrap()
    }

    fn key(table: &KeyTable, kid: &str) -> Option<Arc<Key>> {
        match &*table.current() {
            KeysState::Loaded(set) => set
                .candidates(Some(kid), Algorithm::EdDSA)
                .next()
                .map(Arc::clone),
            KeysState::NotLoaded | KeysState::Stale => None,
        }
    }

    #[test]
    fn an_unchanged_key_stays_the_very_same() {
        let (table, mut writer) = KeyTable::new();
        writer.publish(set(&["a", "b"]), NOW);
        let old = key(&table, "a").unwrap();
        let edition = table.edition();
        let change = writer.publish(set(&["b", "a"]), NOW);
        assert!(!change.is_some());
        assert_eq!(table.edition(), edition);
        assert!(Arc::ptr_eq(&old, &key(&table, "a").unwrap()));
        assert!(old.is_live());
    }

    #[test]
    fn a_removed_key_is_retired_when_publish_returns() {
        let (table, mut writer) = KeyTable::new();
        writer.publish(set(&["a", "b"]), NOW);
        let (a, b) = (key(&table, "a").unwrap(), key(&table, "b").unwrap());
        let edition = table.edition();
        let change = writer.publish(set(&["b", "c"]), NOW);
        assert_eq!(
            change,
            Change {
                added: 1,
                retired: 1
            }
        );
        assert!(!a.is_live());
        assert!(b.is_live());
        assert!(key(&table, "a").is_none());
        assert!(table.edition() > edition);
    }

    #[test]
    fn a_key_that_comes_back_is_a_new_one() {
        let (table, mut writer) = KeyTable::new();
        writer.publish(set(&["a"]), NOW);
        let first = key(&table, "a").unwrap();
        writer.publish(set(&["b"]), NOW);
        writer.publish(set(&["a"]), NOW);
        let second = key(&table, "a").unwrap();
        assert_ne!(first.id(), second.id());
        assert!(!first.is_live() && second.is_live());
    }

    #[test]
    fn stale_keys_are_retired_and_fresh_ones_replace_them() {
        let (table, mut writer) = KeyTable::new();
        writer.mark_stale();
        assert!(matches!(*table.current(), KeysState::NotLoaded));
        writer.publish(set(&["a"]), NOW);
        let old = key(&table, "a").unwrap();
        writer.mark_stale();
        assert!(matches!(*table.current(), KeysState::Stale));
        assert!(!old.is_live());
        assert_eq!(table.status().keys, 0);
        writer.publish(set(&["a"]), NOW);
        assert!(key(&table, "a").unwrap().is_live());
    }

    #[test]
    fn the_status_tells_what_happened() {
        let (table, mut writer) = KeyTable::new();
        assert_eq!(table.status(), KeyStatus::default());
        writer.count_fetch(false);
        writer.count_fetch(true);
        writer.count_fetch(true);
        writer.publish(set(&["a", "b"]), NOW);
        writer.confirm(UnixSeconds(2_000));
        assert_eq!(
            table.status(),
            KeyStatus {
                edition: 1,
                fetches_ok: 2,
                fetches_failed: 1,
                good_at: Some(UnixSeconds(2_000)),
                keys: 2,
                skipped: 1,
            }
        );
    }

    #[tokio::test]
    async fn the_first_attempt_is_told() {
        let (table, mut writer) = KeyTable::new();
        assert!(!table.tried());
        let waiter = tokio::spawn({
            let table = Arc::clone(&table);
            async move { table.until_tried().await }
        });
        writer.mark_tried();
        waiter.await.unwrap();
        assert!(table.tried());
    }

    #[tokio::test]
    async fn nobody_waits_for_a_writer_that_is_gone() {
        let (table, writer) = KeyTable::new();
        drop(writer);
        table.until_tried().await;
    }
}
