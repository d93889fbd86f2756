//! Law: append ∘ replay. What groups of changes were written, that is read, in their order. A crash in the last group
//! loses a part of that group alone and looks torn; damage before it looks like damage. And no bytes that anybody wrote
//! read as something else when they are written again.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;

use super::file::{is_torn, scan};
use super::record::{Frame, encode, encode_gone};
use crate::base::clock::UnixSeconds;
use crate::control::denylist::record::{Pinned, Record, RuleId};
use crate::control::denylist::standing::Standing;
use crate::denylist::{Cutoff, Fingerprint, Kind, Pin, SetAt, Span, Until};

/// Most changes, so that a run stays short.
const CHANGES_MAX: usize = 24;

/// A record, or a rule that is gone.
type Change = Result<Record, RuleId>;

/// Panics where the law is broken. The bytes choose the changes and the accident; they are also read as a log themselves.
pub(crate) fn holds(bytes: &[u8]) {
    what_is_accepted_is_written_again(bytes);
    let mut choice = Choice(bytes);
    let accident = choice.number();
    let mut groups: Vec<Vec<Change>> = vec![];
    for _ in 0..CHANGES_MAX {
        if choice.0.is_empty() {
            break;
        }
        let change = choice.change();
        match groups.last_mut() {
            Some(group) if choice.flag() => group.push(change),
            Some(_) | None => groups.push(vec![change]),
        }
    }
    let Some(last_group) = groups.last() else {
        return;
    };
    let mut log = vec![];
    let mut ends = vec![];
    let mut last_start = 0;
    for group in &groups {
        last_start = log.len();
        for (place, change) in group.iter().enumerate() {
            match change {
                Ok(record) => encode(&mut log, record, place == 0),
                Err(id) => encode_gone(&mut log, *id, UnixSeconds(7), place == 0),
            }
            ends.push(log.len());
        }
    }
    let changes: Vec<&Change> = groups.iter().flatten().collect();
    let (read, end) = replay(&log);
    assert_eq!(
        (read.iter().collect::<Vec<_>>(), end),
        (changes.clone(), log.len())
    );

    // A crash while the last group is written.
    let cut = last_start + accident % (log.len() - last_start);
    let (read, end) = replay(&log[..cut]);
    let whole = ends.iter().filter(|end| **end <= cut).count();
    assert_eq!(read.iter().collect::<Vec<_>>(), changes[..whole]);
    assert!(read.len() >= changes.len() - last_group.len());
    assert!(end == cut || looks_torn(&log[..cut], end), "cut at {cut}");

    // A bit that the disk changed, where another group was written after it.
    if last_start > 0 {
        let bit = accident % (last_start * 8);
        log[bit / 8] ^= 1 << (bit % 8);
        let (read, end) = replay(&log);
        let whole = ends.iter().filter(|end| **end <= bit / 8).count();
        assert_eq!(read.iter().collect::<Vec<_>>(), changes[..whole]);
        assert!(!looks_torn(&log, end), "bit {bit}");
    }
}

fn what_is_accepted_is_written_again(bytes: &[u8]) {
    for start in 0..bytes.len().min(64) {
        let Ok(frame) = Frame::read(&bytes[start..]) else {
            continue;
        };
        let mut again = vec![];
        match frame.record() {
            Some(record) => encode(&mut again, &record, frame.is_first()),
            None => encode_gone(&mut again, frame.id(), UnixSeconds(7), frame.is_first()),
        }
        let again = Frame::read(&again).expect("a record");
        assert_eq!(
            (again.id(), again.is_first()),
            (frame.id(), frame.is_first())
        );
        assert_eq!(
            (again.rule(), again.record()),
            (frame.rule(), frame.record())
        );
    }
}

/// What a log with these bytes says, and where its last good record ends.
fn replay(log: &[u8]) -> (Vec<Change>, usize) {
    let mut read = vec![];
    let end = with_file(log, |file| {
        scan(file, 0..log.len() as u64, |_, frame| {
            read.push(frame.record().ok_or(frame.id()));
            Ok(())
        })
    });
    (read, usize::try_from(end).expect("in memory"))
}

fn looks_torn(log: &[u8], end: usize) -> bool {
    with_file(log, |file| is_torn(file, end as u64..log.len() as u64))
}

/// A file without a name, which is gone when it is closed.
fn with_file<T>(bytes: &[u8], read: impl FnOnce(&File) -> io::Result<T>) -> T {
    thread_local! {
        static FILE: File = {
            let name = format!("jotgate-law-{}-{:?}", std::process::id(), std::thread::current().id());
            let path = std::env::temp_dir().join(name);
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create_new(true).open(&path);
            std::fs::remove_file(&path).and(file).expect("a file of its own")
        };
    }
    FILE.with(|file| {
        file.set_len(0)
            .and_then(|()| file.write_all_at(bytes, 0))
            .and_then(|()| read(file))
            .expect("a file that can be read and written")
    })
}

/// Makes something of any bytes; zeros when there are no more.
struct Choice<'a>(&'a [u8]);

impl<'a> Choice<'a> {
    fn bytes(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn octet(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    fn flag(&mut self) -> bool {
        self.octet() & 1 == 1
    }

    fn wide(&mut self) -> u64 {
        let octets = self.bytes(8).iter();
        octets.fold(0, |number, octet| (number << 8) | u64::from(*octet))
    }

    fn number(&mut self) -> usize {
        (usize::from(self.octet()) << 8) | usize::from(self.octet())
    }

    /// Half of them mean always, or until lifted.
    fn instant(&mut self) -> Option<UnixSeconds> {
        self.flag().then(|| UnixSeconds(self.octet().into()))
    }

    fn text(&mut self) -> String {
        let length = self.octet() % 24;
        String::from_utf8_lossy(self.bytes(length.into())).into_owned()
    }

    fn maybe_text(&mut self) -> Option<Box<str>> {
        self.flag().then(|| self.text().into())
    }

    fn id(&mut self) -> RuleId {
        RuleId {
            fingerprint: Fingerprint::from_bits(self.octet().into()),
            kind: Kind::ALL[usize::from(self.octet()) % Kind::ALL.len()],
        }
    }

    fn change(&mut self) -> Change {
        let id = self.id();
        if self.octet().is_multiple_of(8) {
            return Err(id);
        }
        let is_pin = id.kind == Kind::Pin;
        let cutoff = |at: Option<UnixSeconds>| at.map_or(Cutoff::ALWAYS, Cutoff::at);
        let orders = if is_pin { 0 } else { self.octet() % 4 };
        let orders: Vec<_> = (0..orders)
            .map(|_| (cutoff(self.instant()), SetAt::from_micros(self.wide())))
            .collect();
        let lifted = Some(self.octet()).filter(|set| !is_pin && *set > 0);
        let lifted = lifted.map(|set| SetAt::from_micros(set.into()));
        let standing = Standing::new(lifted, orders);
        let has_ending = !is_pin && (standing.cutoff().is_none() || self.flag());
        let ending = has_ending.then(|| Span {
            cutoff: cutoff(self.instant()),
            until: self.instant().map_or(Until::LIFTED, Until::at),
        });
        Ok(Record {
            id,
            issuer: self.text().into(),
            value: self.maybe_text(),
            ending,
            standing,
            pinned: is_pin.then(|| Pinned {
                pin: Pin {
                    set: SetAt::from_micros(self.wide()),
                    session: Fingerprint::from_bits(self.wide().into()),
                },
                session_id: self.text().into(),
            }),
            reason: self.maybe_text(),
            by: self.text().into(),
            at: UnixSeconds(self.wide()),
        })
    }
}
