//! The file: opened by one process alone, read from its first record to its last good one.
//!
//! It begins with a header of 40 bytes: `jotgate denylist`, the version of the format, the salt of the fingerprints, and
//! the CRC-32C of all that. Records follow. A group is what was written before one sync, and the next group is written
//! after it. So a crash can tear the last group and no other, and this tells a torn tail from damage: after a torn record
//! no group begins.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc32c::crc32c;

use super::record::{Flaw, Frame, RECORD_BYTES_MAX};

const MAGIC: &[u8; 16] = b"jotgate denylist";

/// Raised when the form of header or records changes.
const VERSION: u32 = 3;

/// Where the first record lies.
pub(super) const HEADER_BYTES: u64 = HEADER as u64;

const HEADER: usize = 40;

/// Largest group, in bytes: more than 10,000 orders of the longest names. A torn tail is never longer.
pub(super) const GROUP_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes read at once.
const CHUNK: usize = 1024 * 1024;

/// The log holds who may not come in, and the salt is a secret.
const MODE: u32 = 0o600;

/// Why the log cannot be used, and so the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system refuses something.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The system's word.
        source: io::Error,
    },
    /// Two writers would destroy it.
    #[error("{} is used by another process; each gateway needs a file of its own", .0.display())]
    InUse(PathBuf),
    /// Something else lies there.
    #[error("{} is no denylist log; name another file, or move it away", .0.display())]
    NoLog(PathBuf),
    /// A later version wrote it.
    #[error(
        "{} has version {version} of the format and this program knows {VERSION}; use the version of jotgate that wrote it",
        path.display()
    )]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// Acknowledged revocations may be lost.
    #[error(
        "{} is damaged at byte {offset}, and revocations lie behind it. Put a copy of the file in its place; or move it away, start \
         without its revocations, and revoke again what must stay revoked",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where the first bad record begins.
        offset: u64,
    },
    /// Rules that the fleet could not recognise.
    #[error(
        "{} holds {rules} revocations of tokens without jti that were made while this gateway stood alone, and which the fleet could not \
         recognise; the last of them is over at {until} (seconds since 1970). Start with denylist.redis after that, or move the file away",
        path.display()
    )]
    Nameless {
        /// Which file.
        path: PathBuf,
        /// How many.
        rules: usize,
        /// When the last one is over, in seconds since 1970.
        until: u64,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

/// Names the file and the deed in an error.
pub(super) fn fault(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io {
        path: path.to_owned(),
        doing,
        source,
    }
}

/// A file that stands beside the log.
pub(in super::super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Where a new edition of the log is written before it takes its place.
pub(super) fn draft_path(path: &Path) -> PathBuf {
    beside(path, ".new")
}

/// Takes the log for this process until the file that is returned is closed. The lock lies beside the log, because the log
/// itself is replaced now and then.
pub(super) fn lock(path: &Path) -> Result<File, OpenError> {
    let lock_path = beside(path, ".lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(MODE)
        .open(&lock_path)
        .map_err(fault(&lock_path, "open"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
        Err(TryLockError::Error(source)) => Err(fault(&lock_path, "lock")(source)),
    }
}

/// An empty file for a new edition of `path`, readable for nobody else. What a crash left there is overwritten.
pub(in super::super) fn create_draft(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .mode(MODE)
        .open(draft_path(path))
}

/// Puts the draft, which is synced, in the place of `path`, for good.
pub(in super::super) fn publish_draft(path: &Path) -> io::Result<()> {
    std::fs::rename(draft_path(path), path)?;
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

/// The log at `path` and the salt in its header; a new one, with the salt that is wanted, if there is none.
pub(super) fn open(
    path: &Path,
    wanted: Option<[u8; 16]>,
) -> Result<(Arc<File>, [u8; 16]), OpenError> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => {
            let salt = read_header(&file, path)?;
            Ok((Arc::new(file), salt))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut salt = wanted.unwrap_or_default();
            if wanted.is_none() {
                getrandom::fill(&mut salt).map_err(OpenError::Random)?;
            }
            let create = || {
                let file = create_draft(path)?;
                file.write_all_at(&header(salt), 0)?;
                file.sync_all()?;
                publish_draft(path)?;
                Ok(file)
            };
            let file = create().map_err(fault(path, "create"))?;
            tracing::info!(path = %path.display(), "a new denylist log");
            Ok((Arc::new(file), salt))
        }
        Err(source) => Err(fault(path, "open")(source)),
    }
}

/// The header of a log.
pub(super) fn header(salt: [u8; 16]) -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&salt);
    header.extend_from_slice(&crc32c(&header).to_le_bytes());
    header
}

fn read_header(file: &File, path: &Path) -> Result<[u8; 16], OpenError> {
    let mut bytes = [0; HEADER];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => {}
        // An empty file, too: a log never is, so its rules are gone, or it never was one.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(OpenError::NoLog(path.to_owned()));
        }
        Err(source) => return Err(fault(path, "read")(source)),
    }
    let (checked, sum) = bytes.split_at(36);
    if checked[..16] != *MAGIC {
        return Err(OpenError::NoLog(path.to_owned()));
    }
    if crc32c(checked).to_le_bytes() != sum {
        return Err(OpenError::Damaged {
            path: path.to_owned(),
            offset: 0,
        });
    }
    let version = u32::from_le_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]);
    if version != VERSION {
        return Err(OpenError::Version {
            path: path.to_owned(),
            version,
        });
    }
    let mut salt = [0; 16];
    salt.copy_from_slice(&bytes[20..36]);
    Ok(salt)
}

/// Reads every record of the range, and returns where the last good one ends.
pub(super) fn scan(
    file: &File,
    range: Range<u64>,
    mut each: impl FnMut(u64, &Frame<'_>) -> io::Result<()>,
) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK.max(2 * RECORD_BYTES_MAX)];
    let (mut filled, mut offset) = (0, range.start);
    loop {
        let read_at = offset + filled as u64;
        let wanted = usize::try_from(range.end - read_at).unwrap_or(usize::MAX);
        let wanted = wanted.min(buffer.len() - filled);
        let read = read_up_to(file, &mut buffer[filled..filled + wanted], read_at)?;
        filled += read;
        let mut done = 0;
        loop {
            match Frame::read(&buffer[done..filled]) {
                Ok(frame) => {
                    each(offset + done as u64, &frame)?;
                    done += frame.len();
                }
                Err(Flaw::Short) if read > 0 => break,
                Err(Flaw::Short | Flaw::Bad) => return Ok(offset + done as u64),
            }
        }
        buffer.copy_within(done..filled, 0);
        filled -= done;
        offset += done as u64;
    }
}

fn read_up_to(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < into.len() {
        match file.read_at(&mut into[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// Refuses what follows the last good record, unless it is nothing, or what a crash left of the last group.
pub(super) fn check_tail(path: &Path, file: &File, tail: Range<u64>) -> Result<(), OpenError> {
    if tail.is_empty() || is_torn(file, tail.clone()).map_err(fault(path, "read"))? {
        return Ok(());
    }
    Err(OpenError::Damaged {
        path: path.to_owned(),
        offset: tail.start,
    })
}

/// Whether what follows the last good record can be what a crash left of the last group.
pub(super) fn is_torn(file: &File, tail: Range<u64>) -> io::Result<bool> {
    let length = tail.end - tail.start;
    let Some(length) = usize::try_from(length)
        .ok()
        .filter(|length| *length <= GROUP_BYTES_MAX)
    else {
        return Ok(false);
    };
    let mut bytes = vec![0; length];
    let read = read_up_to(file, &mut bytes, tail.start)?;
    let begins_a_group = |at| Frame::read(&bytes[at..read]).is_ok_and(|frame| frame.is_first());
    Ok(!(1..read).any(begins_a_group))
}

/// Hands the one record at `offset` to `look`.
pub(super) fn record_at<T>(
    file: &File,
    offset: u64,
    look: impl FnOnce(Frame<'_>) -> T,
) -> io::Result<T> {
    // Enough for nearly all: one call.
    let mut bytes = [0; 512];
    let read = read_up_to(file, &mut bytes, offset)?;
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the record is damaged");
    match Frame::read(&bytes[..read]) {
        Ok(frame) => Ok(look(frame)),
        Err(Flaw::Short) if read == bytes.len() => {
            let mut bytes = vec![0; RECORD_BYTES_MAX];
            let read = read_up_to(file, &mut bytes, offset)?;
            let frame = Frame::read(&bytes[..read]).map_err(|_| damaged())?;
            Ok(look(frame))
        }
        Err(Flaw::Short | Flaw::Bad) => Err(damaged()),
    }
}
