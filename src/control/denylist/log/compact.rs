//! Rewrites the log without what is dead, on a thread of its own, while the old one goes on: copy what lives, then what
//! was appended meanwhile, again and again until little is left. The committer copies that little and changes places.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::committer::LogView;
use super::file::{HEADER_BYTES, create_draft, draft_path, header, record_at, scan};
use super::places::{Key, Places};

/// Bytes written at once.
const CHUNK: usize = 1024 * 1024;

/// What the committer copies while acknowledgements wait, in bytes: a millisecond or so.
const LITTLE: u64 = 1024 * 1024;

/// Rounds of catching up. Who writes faster than this thread copies has to wait for the rest.
const ROUNDS_MAX: usize = 8;

/// A new edition of the log, still beside the old one.
pub(super) struct Rewritten {
    pub(super) file: Arc<File>,
    pub(super) places: Places,
    /// Records in the new file.
    pub(super) records: u64,
    /// Length of the new file.
    pub(super) length: u64,
    /// Everything before it in the old file was copied, or is dead.
    copied_to: u64,
}

/// Writes beside the log at `path` what of `old` lives: before `end`, what `places` names; all that comes after. Stops
/// early when told.
pub(super) fn rewrite(
    path: &Path,
    old: &File,
    salt: [u8; 16],
    known: (Places, u64),
    view: &LogView,
    stop: &AtomicBool,
) -> io::Result<Rewritten> {
    let rewritten = attempt(path, old, salt, known, view, stop);
    if rewritten.is_err() {
        // It may not even be there; and what is left is overwritten by the next.
        let _ = std::fs::remove_file(draft_path(path));
    }
    rewritten
}

fn attempt(
    path: &Path,
    old: &File,
    salt: [u8; 16],
    (mut places, end): (Places, u64),
    view: &LogView,
    stop: &AtomicBool,
) -> io::Result<Rewritten> {
    let file = create_draft(path)?;
    let mut pending = header(salt);
    let (mut written, mut records) = (0_u64, 0_u64);
    let scanned = scan(old, HEADER_BYTES..end, |offset, frame| {
        let key = Key::of(frame.id().fingerprint);
        // Records only move towards the start, past places that were looked at already: an offset is never taken for another's.
        if places.remove(key, offset) {
            places.insert(key, written + pending.len() as u64);
            records += 1;
            // All of this is synced before anybody reads it, so none of it may count as a torn group.
            frame.copy_as_first(&mut pending);
        }
        if pending.len() >= CHUNK {
            if stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            file.write_all_at(&pending, written)?;
            written += pending.len() as u64;
            pending.clear();
        }
        Ok(())
    })?;
    whole(scanned, end)?;
    file.write_all_at(&pending, written)?;
    let mut rewritten = Rewritten {
        file: Arc::new(file),
        places,
        records,
        length: written + pending.len() as u64,
        copied_to: end,
    };
    for _ in 0..ROUNDS_MAX {
        let to = view.bytes();
        rewritten.catch_up(old, to)?;
        // Most of the sync is done here, too.
        rewritten.file.sync_data()?;
        if view.bytes() - to < LITTLE {
            break;
        }
    }
    Ok(rewritten)
}

impl Rewritten {
    /// Copies what was appended to the old file up to `to`, whole groups as they are.
    pub(super) fn catch_up(&mut self, old: &File, to: u64) -> io::Result<()> {
        let start = self.length;
        let mut chunk = vec![0; CHUNK];
        while self.copied_to < to {
            let part = usize::try_from(to - self.copied_to)
                .unwrap_or(CHUNK)
                .min(CHUNK);
            old.read_exact_at(&mut chunk[..part], self.copied_to)?;
            self.file.write_all_at(&chunk[..part], self.length)?;
            self.copied_to += part as u64;
            self.length += part as u64;
        }
        let (file, places, records) = (&self.file, &mut self.places, &mut self.records);
        let scanned = scan(file, start..self.length, |offset, frame| {
            let (id, key) = (frame.id(), Key::of(frame.id().fingerprint));
            let mut before = None;
            for place in places.find(key) {
                if record_at(file, place, |frame| frame.id())? == id {
                    before = Some(place);
                }
            }
            if let Some(before) = before {
                places.remove(key, before);
            }
            if frame.span().is_some() {
                places.insert(key, offset);
            }
            *records += 1;
            Ok(())
        })?;
        whole(scanned, self.length)
    }
}

/// A bad record that was good when the log was opened: the disk forgets. The old file stays, and its start will say where.
fn whole(scanned: u64, end: u64) -> io::Result<()> {
    if scanned == end {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a record at byte {scanned} has gone bad"),
    ))
}
