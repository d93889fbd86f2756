//! Turns the log of a gateway that stood alone into one of a fleet: the same rules under the fleet's salt, so that they have the same
//! identifiers everywhere. Done once, beside the old file, which stays until the new one is whole.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use super::file::{
    HEADER_BYTES, OpenError, check_tail, create_draft, draft_path, fault, header, publish_draft,
    scan,
};
use super::record::encode;
use crate::base::clock::UnixSeconds;
use crate::control::denylist::record::{Record, RuleId};
use crate::denylist::{Fingerprinter, Kind, Pin};

/// Bytes written at once.
const CHUNK: usize = 1024 * 1024;

/// Writes the rules of `old` that are not over at `now` under another salt, in the place of the log at `path`.
pub(super) fn rekey(
    path: &Path,
    old: &File,
    (from, to): ([u8; 16], [u8; 16]),
    now: UnixSeconds,
) -> Result<Arc<File>, OpenError> {
    let length = old.metadata().map_err(fault(path, "read"))?.len();
    let mut newest: HashMap<RuleId, u64> = HashMap::new();
    let end = scan(old, HEADER_BYTES..length, |offset, frame| {
        newest.insert(frame.id(), offset);
        Ok(())
    })
    .map_err(fault(path, "read"))?;
    check_tail(path, old, end..length)?;
    let salts = (Fingerprinter::new(&from), Fingerprinter::new(&to));
    let draft = create_draft(path).map_err(fault(path, "create"))?;
    let mut pending = header(to);
    let (mut written, mut rules) = (0_u64, 0_u64);
    let mut nameless: Vec<UnixSeconds> = vec![];
    scan(old, HEADER_BYTES..end, |offset, frame| {
        let alive = newest.get(&frame.id()) == Some(&offset);
        let record = frame
            .record()
            .filter(|record| alive && !record.span().until.is_over(now));
        let Some(record) = record else {
            return Ok(());
        };
        match renamed(record, &salts) {
            Ok(record) => {
                encode(&mut pending, &record, true);
                rules += 1;
            }
            Err(until) => nameless.push(until),
        }
        if pending.len() >= CHUNK {
            draft.write_all_at(&pending, written)?;
            written += pending.len() as u64;
            pending.clear();
        }
        Ok(())
    })
    .map_err(fault(path, "rewrite"))?;
    if let Some(until) = nameless.iter().max() {
        let _ = std::fs::remove_file(draft_path(path));
        return Err(OpenError::Nameless {
            path: path.to_owned(),
            rules: nameless.len(),
            until: until.0,
        });
    }
    let publish = || -> io::Result<()> {
        draft.write_all_at(&pending, written)?;
        draft.sync_all()?;
        publish_draft(path)
    };
    publish().map_err(fault(path, "rewrite"))?;
    tracing::info!(
        path = %path.display(),
        rules,
        "the denylist's log was rewritten for the fleet's secret"
    );
    Ok(Arc::new(draft))
}

/// The same rule under another salt. A token without `jti` is known by a hash under the old one and cannot be named anew; it is over then.
fn renamed(
    mut record: Record,
    (from, to): &(Fingerprinter, Fingerprinter),
) -> Result<Record, UnixSeconds> {
    let RuleId { kind, fingerprint } = record.id;
    let value = record.value.as_deref().unwrap_or_default();
    if from.of(kind, &record.issuer, value) != fingerprint {
        let until = record.span().until.instant();
        return Err(until.unwrap_or(UnixSeconds::MAX));
    }
    record.id.fingerprint = to.of(kind, &record.issuer, value);
    if let Some(pinned) = &mut record.pinned
        && pinned.pin.session != Pin::NOBODY
    {
        pinned.pin.session = to.of(Kind::Session, &record.issuer, &pinned.session_id);
    }
    Ok(record)
}
