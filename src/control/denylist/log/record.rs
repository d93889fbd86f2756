//! One record of the log: the whole state of a rule after a change, so that the last record of a rule is all there is to
//! know of it. Bytes in, bytes out; files are left to the neighbours.
//!
//! All numbers are little-endian.
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 4 | CRC-32C of everything after it |
//! | 4 | 4 | length of the record, with these eight bytes |
//! | 8 | 1 | [`FIRST`], [`ENDING`], [`STANDING`], [`VALUE`], [`REASON`], [`PIN`] |
//! | 9 | 1 | kind, as its place in [`Kind::ALL`] |
//! | 10 | 2 | 0 |
//! | 12 | 16 | fingerprint |
//! | 28 | 8 | changed at |
//! | 36 | 12 | cutoff and until of the ending part, cutoff of the standing part; all ones: always, until lifted |
//! | 48 | 8 | lengths of issuer, value, reason and caller, which follow |
//!
//! With [`PIN`] the session's fingerprint (16 bytes), the instant of setting (8) and the length of the `sid` (2) stand
//! before the texts, and the `sid` after them.
//!
//! A record with neither part says that the rule is gone.

use crc32c::crc32c;

use crate::base::clock::UnixSeconds;
use crate::control::denylist::record::{Pinned, Record, RuleId, both};
use crate::denylist::{Cutoff, Fingerprint, Kind, Pin, Rule, SetAt, Span, Until};

/// Opens a group: what was written and synced together. All of a group may be torn by a crash, but nothing before it.
const FIRST: u8 = 1;
/// Has a part that ends by itself.
const ENDING: u8 = 2;
/// Has a part that stays until it is lifted.
const STANDING: u8 = 4;
/// Has a value.
const VALUE: u8 = 8;
/// Has a reason.
const REASON: u8 = 16;
/// Spares one session: on every pin that is there, which has the standing part and no other, and on nothing else.
const PIN: u8 = 32;
/// Every flag there is.
const FLAGS: u8 = FIRST | ENDING | STANDING | VALUE | REASON | PIN;

/// Before the texts.
const FIXED: usize = 56;

/// What a pin has more.
const PINNED: usize = 26;

/// Longest record: five texts whose lengths are 16-bit numbers.
pub(super) const RECORD_BYTES_MAX: usize = FIXED + PINNED + 5 * u16::MAX as usize;

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// More bytes could make it one.
    Short,
    /// Nothing could.
    Bad,
}

/// Appends the state of a rule. `first` opens a group.
pub(in super::super) fn encode(into: &mut Vec<u8>, record: &Record, first: bool) {
    let mut flags = 0;
    for (flag, is_set) in [
        (FIRST, first),
        (ENDING, record.ending.is_some()),
        (STANDING, record.standing.is_some()),
        (VALUE, record.value.is_some()),
        (REASON, record.reason.is_some()),
        (PIN, record.pinned.is_some()),
    ] {
        flags |= if is_set { flag } else { 0 };
    }
    let texts = [
        &*record.issuer,
        record.value.as_deref().unwrap_or_default(),
        record.reason.as_deref().unwrap_or_default(),
        &*record.by,
    ]
    .map(bounded);
    let ending = record.ending.map_or([0; 2], |span| {
        [number(span.cutoff.instant()), number(span.until.instant())]
    });
    let standing = record.standing.map_or(0, |cutoff| number(cutoff.instant()));
    let parts = [ending[0], ending[1], standing];
    let pinned = record.pinned.as_ref();
    write(into, flags, record.id, record.at, parts, texts, pinned);
}

/// Appends that a rule is gone. `first` opens a group.
pub(in super::super) fn encode_gone(into: &mut Vec<u8>, id: RuleId, at: UnixSeconds, first: bool) {
    let flags = if first { FIRST } else { 0 };
    write(into, flags, id, at, [0; 3], [""; 4], None);
}

fn write(
    into: &mut Vec<u8>,
    flags: u8,
    id: RuleId,
    at: UnixSeconds,
    parts: [u32; 3],
    texts: [&str; 4],
    pinned: Option<&Pinned>,
) {
    let start = into.len();
    let session_id = pinned.map_or("", |pinned| bounded(&pinned.session_id));
    let texts_length: usize = texts.iter().map(|text| text.len()).sum();
    let pinned_length = pinned.map_or(0, |_| PINNED + session_id.len());
    let length = u32::try_from(FIXED + texts_length + pinned_length)
        .expect("five texts of at most 65,535 bytes");
    into.extend_from_slice(&[0; 4]);
    into.extend_from_slice(&length.to_le_bytes());
    into.extend_from_slice(&[flags, id.kind as u8, 0, 0]);
    into.extend_from_slice(&id.fingerprint.bits().to_le_bytes());
    into.extend_from_slice(&at.0.to_le_bytes());
    for part in parts {
        into.extend_from_slice(&part.to_le_bytes());
    }
    let length_of = |text: &str| u16::try_from(text.len()).expect("texts are bounded");
    for text in texts {
        into.extend_from_slice(&length_of(text).to_le_bytes());
    }
    if let Some(Pinned { pin, .. }) = pinned {
        into.extend_from_slice(&pin.session.bits().to_le_bytes());
        into.extend_from_slice(&pin.set.micros().to_le_bytes());
        into.extend_from_slice(&length_of(session_id).to_le_bytes());
    }
    for text in texts {
        into.extend_from_slice(text.as_bytes());
    }
    into.extend_from_slice(session_id.as_bytes());
    seal(&mut into[start..]);
}

fn seal(record: &mut [u8]) {
    let sum = crc32c(&record[4..]);
    record[..4].copy_from_slice(&sum.to_le_bytes());
}

/// Values and reasons are far shorter. What stands in the configuration could be longer in theory, and is then cut: the
/// fingerprint says whose rule it is.
fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(u16::MAX.into())]
}

/// All ones stand for no instant. [`Cutoff`] and [`Until`] hold 32 bits, too.
fn number(instant: Option<UnixSeconds>) -> u32 {
    instant.map_or(u32::MAX, |at| u32::try_from(at.0).unwrap_or(u32::MAX - 1))
}

fn cutoff(number: u32) -> Cutoff {
    if number == u32::MAX {
        Cutoff::ALWAYS
    } else {
        Cutoff::at(UnixSeconds(number.into()))
    }
}

fn until(number: u32) -> Until {
    if number == u32::MAX {
        Until::LIFTED
    } else {
        Until::at(UnixSeconds(number.into()))
    }
}

/// The bytes of one record, checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    bytes: &'a [u8],
    id: RuleId,
    texts: [&'a str; 4],
    pin: Option<(Pin, &'a str)>,
}

impl<'a> Frame<'a> {
    /// The record that `bytes` begin with.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Flaw> {
        let head = bytes.first_chunk::<8>().ok_or(Flaw::Short)?;
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if !(FIXED..=RECORD_BYTES_MAX).contains(&length) {
            return Err(Flaw::Bad);
        }
        let bytes = bytes.get(..length).ok_or(Flaw::Short)?;
        let sum = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        if crc32c(&bytes[4..]) != sum {
            return Err(Flaw::Bad);
        }
        Self::parse(bytes).ok_or(Flaw::Bad)
    }

    /// What the checksum covers was written by us, or by somebody who can count.
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let kind = *Kind::ALL.get(usize::from(bytes[9]))?;
        if bytes[8] & !FLAGS != 0 || bytes[10..12] != [0, 0] {
            return None;
        }
        let is_pin = bytes[8] & PIN != 0;
        let is_gone = bytes[8] & (ENDING | STANDING | PIN) == 0;
        if !is_gone && is_pin != (kind == Kind::Pin) {
            return None;
        }
        let (pin, after) = if is_pin {
            if bytes[8] & (ENDING | STANDING) != STANDING {
                return None;
            }
            let (pin, after) = bytes[FIXED..].split_first_chunk::<PINNED>()?;
            (Some(pin), after)
        } else {
            (None, &bytes[FIXED..])
        };
        let mut rest = std::str::from_utf8(after).ok()?;
        let mut texts = [""; 4];
        for (place, text) in texts.iter_mut().enumerate() {
            let at = 48 + 2 * place;
            let length = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
            (*text, rest) = rest.split_at_checked(length.into())?;
        }
        let id = RuleId {
            fingerprint: Fingerprint::from_bits(u128::from_le_bytes(
                bytes[12..28].try_into().ok()?,
            )),
            kind,
        };
        let pin = match pin {
            None => None,
            Some(pin) => {
                let session_id;
                let length = u16::from_le_bytes([pin[24], pin[25]]);
                (session_id, rest) = rest.split_at_checked(length.into())?;
                let session = u128::from_le_bytes(pin[..16].try_into().ok()?);
                let set = u64::from_le_bytes(pin[16..24].try_into().ok()?);
                let pin = Pin {
                    set: SetAt::from_micros(set),
                    session: Fingerprint::from_bits(session),
                };
                Some((pin, session_id))
            }
        };
        rest.is_empty().then_some(Self {
            bytes,
            id,
            texts,
            pin,
        })
    }

    /// Whose rule.
    pub(super) const fn id(&self) -> RuleId {
        self.id
    }

    /// Bytes of the record.
    pub(super) const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it opens a group.
    pub(super) const fn is_first(&self) -> bool {
        self.has(FIRST)
    }

    const fn has(&self, flag: u8) -> bool {
        self.bytes[8] & flag != 0
    }

    fn part(&self, place: usize) -> u32 {
        let at = 36 + 4 * place;
        let bytes = &self.bytes[at..at + 4];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    fn ending(&self) -> Option<Span> {
        self.has(ENDING).then(|| Span {
            cutoff: cutoff(self.part(0)),
            until: until(self.part(1)),
        })
    }

    fn standing(&self) -> Option<Cutoff> {
        self.has(STANDING).then(|| cutoff(self.part(2)))
    }

    /// The rule's span; None if it is gone.
    pub(super) fn span(&self) -> Option<Span> {
        both(self.ending(), self.standing())
    }

    /// The rule as requests see it; None if it is gone.
    pub(super) fn rule(&self) -> Option<Rule> {
        Some(Rule {
            kind: self.id.kind,
            fingerprint: self.id.fingerprint,
            span: self.span()?,
            pin: self.pin.map(|(pin, _)| pin),
        })
    }

    /// The rule as people see it; None if it is gone.
    pub(super) fn record(&self) -> Option<Record> {
        self.span()?;
        let [issuer, value, reason, by] = self.texts;
        let at = self.bytes[28..36].try_into().ok()?;
        Some(Record {
            id: self.id,
            issuer: issuer.into(),
            value: self.has(VALUE).then(|| value.into()),
            ending: self.ending(),
            standing: self.standing(),
            pinned: self.pin.map(|(pin, session_id)| Pinned {
                pin,
                session_id: session_id.into(),
            }),
            reason: self.has(REASON).then(|| reason.into()),
            by: by.into(),
            at: UnixSeconds(u64::from_le_bytes(at)),
        })
    }

    /// Appends a copy that opens a group of its own.
    pub(super) fn copy_as_first(&self, into: &mut Vec<u8>) {
        let start = into.len();
        into.extend_from_slice(self.bytes);
        into[start + 8] |= FIRST;
        seal(&mut into[start..]);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    /// Any record, among `keys` rules.
    pub(in super::super) fn any_record(keys: u128) -> impl Strategy<Value = Record> {
        let instant = || prop_oneof![Just(u32::MAX), 0..1000_u32];
        let ending = prop::option::of((instant(), 1..u32::MAX));
        let texts = (
            ".{0,20}",
            prop::option::of(".{0,20}"),
            prop::option::of(".{0,9}"),
            ".{0,9}",
        );
        (
            0..keys,
            0..7_usize,
            ending,
            prop::option::of(instant()),
            texts,
            any::<u64>(),
            (any::<u64>(), 0..9_u128, ".{0,9}"),
        )
            .prop_map(
                |(
                    key,
                    kind,
                    ending,
                    standing,
                    (issuer, value, reason, by),
                    at,
                    (set, session, sid),
                )| {
                    let kind = Kind::ALL[kind];
                    let is_pin = kind == Kind::Pin;
                    let standing = if is_pin { Some(u32::MAX) } else { standing };
                    let ending = ending.or(standing.is_none().then_some((7, 8)));
                    let ending = ending.filter(|_| !is_pin);
                    Record {
                        id: RuleId {
                            // A few share their first bits, and so their place.
                            fingerprint: Fingerprint::from_bits(key << (key % 2 * 100)),
                            kind,
                        },
                        issuer: issuer.into(),
                        value: value.map(Into::into),
                        ending: ending.map(|(from, to)| Span {
                            cutoff: cutoff(from),
                            until: until(to),
                        }),
                        standing: standing.map(cutoff),
                        pinned: is_pin.then(|| Pinned {
                            pin: Pin {
                                set: SetAt::from_micros(set),
                                session: Fingerprint::from_bits(session),
                            },
                            session_id: sid.into(),
                        }),
                        reason: reason.map(Into::into),
                        by: by.into(),
                        at: UnixSeconds(at),
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(record in any_record(1000), first: bool, after: Vec<u8>) {
            let mut bytes = vec![];
            encode(&mut bytes, &record, first);
            let length = bytes.len();
            bytes.extend_from_slice(&after);
            let frame = Frame::read(&bytes).unwrap();
            prop_assert_eq!((frame.len(), frame.is_first(), frame.id()), (length, first, record.id));
            prop_assert_eq!(frame.rule(), Some(record.rule()));
            prop_assert_eq!(frame.record(), Some(record));
            let mut copy = vec![];
            frame.copy_as_first(&mut copy);
            let copy = Frame::read(&copy).unwrap();
            prop_assert!(copy.is_first());
            prop_assert_eq!(copy.record(), frame.record());
            for cut in 0..length {
                prop_assert_eq!(Frame::read(&bytes[..cut]).err(), Some(Flaw::Short));
            }
        }

        #[test]
        fn one_changed_bit_is_seen(record in any_record(1000), bit: prop::sample::Index) {
            let mut bytes = vec![];
            encode(&mut bytes, &record, true);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Frame::read(&bytes).is_err());
        }

        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), seal_it: bool) {
            if seal_it && bytes.len() >= FIXED {
                // As if somebody had written it on purpose.
                let length = u32::try_from(bytes.len()).unwrap();
                bytes[4..8].copy_from_slice(&length.to_le_bytes());
                bytes[10..12].fill(0);
                bytes[8] &= FLAGS & !PIN;
                bytes[9] %= 8;
                bytes[48..56].fill(0);
                bytes[48] = u8::try_from(bytes.len() - FIXED).unwrap();
                bytes[FIXED..].fill(b'x');
                seal(&mut bytes);
                let is_gone = bytes[8] & (ENDING | STANDING) == 0;
                let is_kind = bytes[9] < 6 || bytes[9] == 6 && is_gone;
                prop_assert_eq!(Frame::read(&bytes).is_ok(), is_kind);
            }
            if let Ok(frame) = Frame::read(&bytes) {
                let _ = (frame.span(), frame.record());
            }
        }
    }

    #[test]
    fn gone_is_gone() {
        let id = RuleId {
            fingerprint: Fingerprint::from_bits(5),
            kind: Kind::Key,
        };
        let mut bytes = vec![];
        encode_gone(&mut bytes, id, UnixSeconds(9), true);
        let frame = Frame::read(&bytes).unwrap();
        assert_eq!((frame.id(), frame.is_first()), (id, true));
        assert_eq!((frame.span(), frame.record()), (None, None));
    }

    #[test]
    fn a_pin_is_whole_or_no_record() {
        let record = Record {
            id: RuleId {
                fingerprint: Fingerprint::from_bits(5),
                kind: Kind::Pin,
            },
            issuer: "i".into(),
            value: Some("alice".into()),
            ending: None,
            standing: Some(Cutoff::ALWAYS),
            pinned: Some(Pinned {
                pin: Pin {
                    set: SetAt::from_micros(7),
                    session: Fingerprint::from_bits(6),
                },
                session_id: "s1".into(),
            }),
            reason: None,
            by: "ops".into(),
            at: UnixSeconds(9),
        };
        let mut good = vec![];
        encode(&mut good, &record, true);
        assert_eq!(Frame::read(&good).unwrap().record(), Some(record));
        let user = Kind::User as u8;
        let changed: [(usize, u8); 5] = [
            (9, user),
            (8, good[8] & !PIN),
            (8, good[8] & !STANDING),
            (8, good[8] | ENDING),
            // The length of the sid.
            (FIXED + 24, 3),
        ];
        for (at, byte) in changed {
            let mut bad = good.clone();
            assert_ne!(bad[at], byte);
            bad[at] = byte;
            seal(&mut bad);
            assert_eq!(Frame::read(&bad).err(), Some(Flaw::Bad), "{at}");
        }
    }

    #[test]
    fn zeros_are_no_record() {
        assert_eq!(Frame::read(&[0; 100]).err(), Some(Flaw::Bad));
    }

    #[test]
    fn the_format_stays() {
        // Logs on disk have this form: a change here needs another version in the header.
        let record = Record {
            id: RuleId {
                fingerprint: Fingerprint::from_bits(0xab),
                kind: Kind::User,
            },
            issuer: "i".into(),
            value: Some("v".into()),
            ending: Some(Span {
                cutoff: cutoff(1),
                until: until(2),
            }),
            standing: Some(Cutoff::ALWAYS),
            pinned: None,
            reason: None,
            by: "b".into(),
            at: UnixSeconds(3),
        };
        let mut bytes = vec![];
        encode(&mut bytes, &record, true);
        let mut hex = String::new();
        for byte in &bytes[4..] {
            write!(hex, "{byte:02x}").unwrap();
        }
        assert_eq!(
            hex,
            "3b0000000f020000ab0000000000000000000000000000000300000000000000\
             0100000002000000ffffffff0100010000000100697662"
        );
    }
}
