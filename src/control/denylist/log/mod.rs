//! The denylist on disk: an append-only log, because the way in is append, the way out one scan at start, and now and
//! then a rewrite. Records of people stay there; memory holds where they lie.
//!
//! `record` and `places` are plain data, `file` opens and reads, `committer` is the one thread that writes, `compact`
//! writes the next edition beside. The writer of the denylist decides what is written, and applies it afterwards.

mod committer;
mod compact;
mod file;
#[cfg(any(test, fuzzing))]
pub(crate) mod law;
mod places;
mod record;
mod rekey;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use prometheus::Histogram;
use tokio::sync::oneshot;

use self::committer::{Committer, Disk};
use self::compact::{Rewritten, rewrite};
use self::file::{HEADER_BYTES, check_tail, draft_path, fault, lock, record_at, scan};
use self::places::{Key, Places};
use self::rekey::rekey;
use super::record::{Record, RuleId};
use super::writer::KEPT_LONGER;
use crate::base::clock::UnixSeconds;
use crate::denylist::{Cutoff, IndexWriter, Kind, Rule, SHARDS, Span, Until, shard_of};

pub use self::committer::{CommitError, LogView};
pub use self::file::OpenError;
pub(super) use self::file::{beside, create_draft, publish_draft};
pub(super) use self::record::{decode, encode, encode_gone};

/// A log shorter than this is not rewritten: its scan takes no time.
const COMPACT_FROM: u64 = 8 * 1024 * 1024;

/// Records of the log that are put into the tables at once during the start: some 50 MB.
const BATCH: usize = 1024 * 1024;

/// A record that was good cannot be read. The log line says which and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record of the denylist's log cannot be read; the gateway's log says more")]
pub struct Unreadable;

/// The log of one gateway.
pub struct Log {
    path: PathBuf,
    salt: [u8; 16],
    /// To read from; the committer has it to write.
    file: Arc<File>,
    places: Places,
    /// Records in the file, dead ones included.
    records: u64,
    /// Where the last group ends that `places` knows. The committer may be further.
    known_to: u64,
    view: LogView,
    compaction: Option<Compaction>,
    /// Rewritten when it is longer than this, in bytes.
    compact_from: u64,
    committer: Committer,
    /// Last, so that it is given back when nobody writes any more.
    _lock: File,
}

/// A rewrite under way.
struct Compaction {
    done: oneshot::Receiver<io::Result<Rewritten>>,
    /// Rules that were forgotten since it began, which it does not know.
    forgotten: Vec<RuleId>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Compaction {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that rewrites the denylist's log panicked");
        }
    }
}

/// An edition that is ready to take the log's place, and what it does not know.
pub(super) struct Edition {
    rewritten: Box<Rewritten>,
    forgotten: Vec<RuleId>,
}

impl Log {
    /// Opens the log or makes one, and puts its rules into the index, except those that a running gateway would have
    /// forgotten at `now`. `salt`: that of the fleet; None: the log's own.
    pub fn open(
        path: &Path,
        salt: Option<[u8; 16]>,
        index: &mut IndexWriter,
        now: UnixSeconds,
        sync_seconds: Histogram,
    ) -> Result<Self, OpenError> {
        let now = now.minus(KEPT_LONGER);
        Self::open_on((path, salt), index, now, sync_seconds, |file| {
            Box::new(Arc::clone(file))
        })
    }

    fn open_on(
        (path, wanted): (&Path, Option<[u8; 16]>),
        index: &mut IndexWriter,
        now: UnixSeconds,
        sync_seconds: Histogram,
        disk: impl FnOnce(&Arc<File>) -> Box<dyn Disk>,
    ) -> Result<Self, OpenError> {
        let lock = lock(path)?;
        // What an unfinished rewrite left; most often nothing.
        let _ = std::fs::remove_file(draft_path(path));
        let (mut file, mut salt) = file::open(path, wanted)?;
        if let Some(wanted) = wanted
            && wanted != salt
        {
            file = rekey(path, &file, (salt, wanted), now)?;
            salt = wanted;
        }
        let length = file.metadata().map_err(fault(path, "read"))?.len();
        let mut places = Places::new();
        let (end, records) =
            replay(&file, length, index, &mut places, now).map_err(fault(path, "read"))?;
        check_tail(path, &file, end..length)?;
        if end < length {
            tracing::warn!(
                path = %path.display(),
                bytes = length - end,
                "the denylist's log ended in the middle of a write that was never acknowledged; it was cut off"
            );
            file.set_len(end).map_err(fault(path, "cut"))?;
        }
        // What was read may not be on the disk yet, and from now on it is believed.
        file.sync_all().map_err(fault(path, "sync"))?;
        let view = LogView::default();
        let committer = Committer::start(
            path.to_owned(),
            Arc::clone(&file),
            disk(&file),
            end,
            view.clone(),
            sync_seconds,
        )
        .map_err(fault(path, "start the thread that writes"))?;
        tracing::info!(
            path = %path.display(),
            rules = index.entries(),
            records,
            bytes = end,
            "the denylist's log is open"
        );
        if index.entries() > index.entries_max() {
            tracing::warn!(
                rules = index.entries(),
                entries_max = index.entries_max(),
                "the denylist's log holds more rules than denylist.max_entries; new ones are refused until some are over"
            );
        }
        Ok(Self {
            path: path.to_owned(),
            salt,
            file,
            places,
            records,
            known_to: end,
            view,
            compaction: None,
            compact_from: COMPACT_FROM,
            committer,
            _lock: lock,
        })
    }

    /// The salt of all fingerprints in it. Secret.
    #[must_use]
    pub const fn salt(&self) -> &[u8; 16] {
        &self.salt
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether no rule was ever written.
    pub(super) const fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// For status and metrics.
    #[must_use]
    pub fn view(&self) -> LogView {
        self.view.clone()
    }

    /// Writes one group; the answer is the offset of its first byte, and comes when it is on disk.
    pub(super) fn append(&self, group: Vec<u8>) -> oneshot::Receiver<Result<u64, CommitError>> {
        self.committer.append(group)
    }

    /// Counts the records of a group that is on disk now, up to `end`.
    pub(super) fn count(&mut self, records: u64, end: u64) {
        self.records += records;
        self.known_to = end;
    }

    /// The record of a rule.
    pub(super) fn get(&self, id: RuleId) -> Result<Option<Record>, Unreadable> {
        for offset in self.places.find(Key::of(id.fingerprint)) {
            let record = read(&self.file, offset)?;
            if let Some(record) = record.filter(|record| record.id == id) {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// Remembers where the last record of a rule lies. `known` says whether it had one before.
    pub(super) fn note(&mut self, id: RuleId, offset: u64, known: bool) {
        if known {
            self.take_out(id);
        }
        self.places.insert(Key::of(id.fingerprint), offset);
    }

    /// Forgets a rule that is there.
    pub(super) fn forget(&mut self, id: RuleId) {
        self.take_out(id);
        if let Some(compaction) = &mut self.compaction {
            compaction.forgotten.push(id);
        }
    }

    fn take_out(&mut self, id: RuleId) {
        take_out(&mut self.places, &self.file, id);
    }

    /// Where records lie, in the order of their fingerprints, from `after` on; about `most` of them.
    pub(super) fn spots(&self, after: Option<RuleId>, most: usize) -> Spots {
        let first = after.map_or(Key::of(crate::denylist::Fingerprint::default()), |id| {
            Key::of(id.fingerprint)
        });
        let mut spots: Vec<(Key, u64)> = vec![];
        for (key, offset) in self.places.from(first) {
            // Those that share a key stay together.
            if spots.len() >= most && spots.last().is_some_and(|(last, _)| *last != key) {
                break;
            }
            spots.push((key, offset));
        }
        Spots {
            file: Arc::clone(&self.file),
            places: spots,
            after,
        }
    }

    /// Begins a rewrite if more than half of a large log is dead.
    pub(super) fn compact_if_it_pays(&mut self, entries: usize) {
        let is_dead = self.records / 2 > entries as u64;
        if self.compaction.is_some() || !is_dead || self.view.bytes() < self.compact_from {
            return;
        }
        self.compact();
    }

    fn compact(&mut self) {
        let (answer, done) = oneshot::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let (path, file, salt) = (self.path.clone(), Arc::clone(&self.file), self.salt);
        let (places, known_to) = (self.places.clone(), self.known_to);
        let (view, told) = (self.view.clone(), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("jotgate-compact".into())
            .spawn(move || {
                // Nobody waits for it during shutdown.
                let _ = answer.send(rewrite(
                    &path,
                    &file,
                    salt,
                    (places, known_to),
                    &view,
                    &told,
                ));
            });
        match thread {
            Ok(thread) => {
                self.compaction = Some(Compaction {
                    done,
                    forgotten: vec![],
                    stop,
                    thread: Some(thread),
                });
            }
            Err(error) => tracing::warn!(%error, "the denylist's log cannot be rewritten"),
        }
    }

    /// Waits for the rewrite that is under way, for ever if there is none. None: it failed, and was said.
    pub(super) async fn rewritten(&mut self) -> Option<Edition> {
        let Some(compaction) = &mut self.compaction else {
            return std::future::pending().await;
        };
        let result = (&mut compaction.done).await;
        let mut compaction = self.compaction.take()?;
        match result {
            Ok(Ok(rewritten)) => Some(Edition {
                rewritten: Box::new(rewritten),
                forgotten: std::mem::take(&mut compaction.forgotten),
            }),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the denylist's log could not be rewritten; the old one goes on");
                self.compact_later();
                None
            }
            Err(_) => None,
        }
    }

    /// Not again before the log has grown by a quarter: a rewrite that fails costs as much as one that does not.
    pub(super) fn compact_later(&mut self) {
        let bytes = self.view.bytes();
        self.compact_from = bytes + bytes / 4 + COMPACT_FROM;
    }

    /// Puts the edition in the log's place.
    pub(super) fn adopt(&self, edition: Edition) -> Adoption {
        Adoption {
            forgotten: edition.forgotten,
            done: self.committer.adopt(edition.rewritten),
            edition: None,
        }
    }

    /// Reads from the new edition from now on, if it took the log's place. `is_gone` says which rules are.
    pub(super) fn turn_to(&mut self, adoption: Adoption, is_gone: impl Fn(RuleId) -> bool) {
        let Some(edition) = adoption.edition else {
            self.compact_later();
            return;
        };
        let before = self.records;
        self.file = edition.file;
        self.places = edition.places;
        self.records = edition.records;
        self.known_to = edition.length;
        self.compact_from = COMPACT_FROM;
        for id in adoption.forgotten.into_iter().filter(|id| is_gone(*id)) {
            // Not every one of them is there.
            if matches!(self.get(id), Ok(Some(_))) {
                self.take_out(id);
            }
        }
        tracing::info!(
            records = self.records,
            dead = before.saturating_sub(self.records),
            bytes = self.view.bytes(),
            "the denylist's log was rewritten"
        );
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("path", &self.path)
            .field("records", &self.records)
            .field("view", &self.view)
            .finish_non_exhaustive()
    }
}

/// An edition on its way into the log's place.
pub(super) struct Adoption {
    forgotten: Vec<RuleId>,
    done: oneshot::Receiver<Result<Option<Box<Rewritten>>, CommitError>>,
    /// Once it is there.
    edition: Option<Box<Rewritten>>,
}

impl Adoption {
    /// Waits until it is there, or will not be.
    pub(super) async fn done(&mut self) -> Result<(), CommitError> {
        // A log whose thread is gone has failed.
        let done = (&mut self.done).await.unwrap_or(Err(CommitError::Failed));
        self.edition = done?;
        Ok(())
    }
}

/// A part of the log that can be read while the log goes on, and even when it is replaced.
pub(super) struct Spots {
    file: Arc<File>,
    places: Vec<(Key, u64)>,
    after: Option<RuleId>,
}

impl Spots {
    /// The records, in the order of their identifiers. Reads as it goes.
    pub(super) fn records(&self) -> impl Iterator<Item = Result<Record, Unreadable>> + '_ {
        self.places
            .chunk_by(|(first, _), (second, _)| first == second)
            .flat_map(|same| {
                let mut records: Vec<_> = same
                    .iter()
                    .filter_map(|(_, offset)| read(&self.file, *offset).transpose())
                    .collect();
                records.sort_by_key(|record| record.as_ref().ok().map(|record| record.id));
                records
            })
            .filter(|record| match (record, self.after) {
                (Ok(record), Some(after)) => record.id > after,
                _ => true,
            })
    }
}

fn read(file: &File, offset: u64) -> Result<Option<Record>, Unreadable> {
    record_at(file, offset, |frame| frame.record()).map_err(|error| {
        tracing::error!(%error, offset, "a record of the denylist's log cannot be read");
        Unreadable
    })
}

/// Takes out a rule that is there. Where its place is beyond doubt nothing is read.
fn take_out(places: &mut Places, file: &File, id: RuleId) {
    let key = Key::of(id.fingerprint);
    let found: Vec<u64> = places.find(key).collect();
    let offset = match found.as_slice() {
        [only] => Some(*only),
        several => several
            .iter()
            .copied()
            .find(|offset| record_at(file, *offset, |frame| frame.id()).is_ok_and(|it| it == id)),
    };
    if let Some(offset) = offset {
        places.remove(key, offset);
    }
}

/// Reads every record into index and places. Returns where the last good one ends, and how many there are.
///
/// This thread reads and checks while another fills the tables, which is mostly waiting for memory. So records are put
/// into the index shard by shard, many at once: a shard fits into the processor's cache, all of them do not.
fn replay(
    file: &File,
    length: u64,
    index: &mut IndexWriter,
    places: &mut Places,
    now: UnixSeconds,
) -> io::Result<(u64, u64)> {
    // At the very beginning of time nothing would be over, not even what is gone.
    let now = UnixSeconds(now.0.max(1));
    let mut records = 0;
    let end = std::thread::scope(|scope| {
        let (sender, batches) = mpsc::sync_channel::<Batch>(1);
        let tables = scope.spawn(|| {
            for batch in batches {
                for record in batch.shards.into_iter().flatten() {
                    restore(record, file, index, places, now);
                }
            }
            index.sweep_all(now, |kind, fingerprint| {
                take_out(places, file, RuleId { fingerprint, kind });
            });
        });
        let mut batch = Batch::default();
        let end = scan(file, HEADER_BYTES..length, |offset, frame| {
            records += 1;
            batch.push(Seen {
                id: frame.id(),
                rule: frame.rule(),
                offset,
            });
            if batch.records == BATCH {
                // A thread that is gone panicked, and so will its join.
                let _ = sender.send(std::mem::take(&mut batch));
            }
            Ok(())
        });
        let _ = sender.send(batch);
        drop(sender);
        match tables.join() {
            Ok(()) => end,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    Ok((end, records))
}

/// One record during the start.
#[derive(Clone, Copy)]
struct Seen {
    id: RuleId,
    rule: Option<Rule>,
    offset: u64,
}

/// Records by the shard of the index that they go to, in their order: of one rule the last one counts.
struct Batch {
    shards: Vec<Vec<Seen>>,
    records: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            shards: std::iter::repeat_with(Vec::new).take(SHARDS).collect(),
            records: 0,
        }
    }
}

impl Batch {
    fn push(&mut self, seen: Seen) {
        self.shards[shard_of(seen.id.fingerprint)].push(seen);
        self.records += 1;
    }
}

fn restore(
    seen: Seen,
    file: &File,
    index: &mut IndexWriter,
    places: &mut Places,
    now: UnixSeconds,
) {
    // Denies nothing, and is over: swept at the end, because taking rules out one by one is slow.
    let gone = Span {
        cutoff: Cutoff::at(UnixSeconds(0)),
        until: Until::at(UnixSeconds(0)),
    };
    let RuleId { kind, fingerprint } = seen.id;
    let lives = seen.rule.filter(|rule| !rule.span.until.is_over(now));
    if lives.is_none() && kind == Kind::Pin {
        // Pins are not swept, and one is quickly taken out.
        if index.lift(kind, fingerprint, None) {
            take_out(places, file, seen.id);
        }
        return;
    }
    if lives.is_none() && index.index().rule(kind, fingerprint).is_none() {
        return;
    }
    let known = index.restore(lives.unwrap_or(Rule {
        kind,
        fingerprint,
        span: gone,
        pin: None,
    }));
    if known {
        take_out(places, file, seen.id);
    }
    places.insert(Key::of(fingerprint), seen.offset);
}
