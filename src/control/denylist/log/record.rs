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
//! | 36 | 8 | cutoff and until of the ending part; all ones: always, until lifted |
//! | 44 | 4 | number of standing orders |
//! | 48 | 8 | lengths of issuer, value, reason and caller, which follow |
//!
//! With [`PIN`] the session's fingerprint (16 bytes), the instant of setting (8) and the length of the `sid` (2) stand
//! before the texts, and the `sid` after them. With [`STANDING`] the instant of the last lift (8; 0: none) stands there, and of
//! each order its cutoff (4) and the instant of setting (8).
//!
//! A record with none of these parts says that the rule is gone.

use crc32c::crc32c;

use crate::base::clock::UnixSeconds;
use crate::control::denylist::record::{Pinned, Record, RuleId, span};
use crate::control::denylist::standing::{ORDERS_MAX, Standing};
use crate::denylist::{Cutoff, Fingerprint, Kind, Pin, Rule, SetAt, Span, Until};

/// Opens a group: what was written and synced together. All of a group may be torn by a crash, but nothing before it.
const FIRST: u8 = 1;
/// Has a part that ends by itself.
const ENDING: u8 = 2;
/// Has a part that stays until it is lifted, or had one.
const STANDING: u8 = 4;
/// Has a value.
const VALUE: u8 = 8;
/// Has a reason.
const REASON: u8 = 16;
/// Spares one session: on every pin that is there, which has no other part, and on nothing else.
const PIN: u8 = 32;
/// Every flag there is.
const FLAGS: u8 = FIRST | ENDING | STANDING | VALUE | REASON | PIN;

/// Before the texts.
const FIXED: usize = 56;

/// What a pin has more.
const PINNED: usize = 26;

/// The instant of the last lift.
const LIFTED: usize = 8;

/// One standing order.
const ORDER: usize = 12;

/// Longest record: five texts whose lengths are 16-bit numbers.
pub(super) const RECORD_BYTES_MAX: usize =
    FIXED + PINNED + LIFTED + ORDERS_MAX * ORDER + 5 * u16::MAX as usize;

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
        (STANDING, record.standing != Standing::default()),
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
    let head = Head {
        flags,
        id: record.id,
        at: record.at,
    };
    let pinned = record.pinned.as_ref();
    write(into, &head, ending, &record.standing, texts, pinned);
}

/// Appends that a rule is gone. `first` opens a group.
pub(in super::super) fn encode_gone(into: &mut Vec<u8>, id: RuleId, at: UnixSeconds, first: bool) {
    let flags = if first { FIRST } else { 0 };
    let head = Head { flags, id, at };
    write(into, &head, [0; 2], &Standing::default(), [""; 4], None);
}

/// What every record has.
struct Head {
    flags: u8,
    id: RuleId,
    at: UnixSeconds,
}

/// The records that `bytes` are made of: at least one, each of a rule that is there, and nothing else.
pub(in super::super) fn decode(mut bytes: &[u8]) -> Option<Vec<Record>> {
    let mut records = vec![];
    while !bytes.is_empty() {
        let frame = Frame::read(bytes).ok()?;
        records.push(frame.record()?);
        bytes = &bytes[frame.len()..];
    }
    (!records.is_empty()).then_some(records)
}

fn write(
    into: &mut Vec<u8>,
    head: &Head,
    ending: [u32; 2],
    standing: &Standing,
    texts: [&str; 4],
    pinned: Option<&Pinned>,
) {
    let start = into.len();
    let session_id = pinned.map_or("", |pinned| bounded(&pinned.session_id));
    let texts_length: usize = texts.iter().map(|text| text.len()).sum();
    let pinned_length = pinned.map_or(0, |_| PINNED + session_id.len());
    let orders = standing.orders();
    let standing_length = if head.flags & STANDING == 0 {
        0
    } else {
        LIFTED + orders.len() * ORDER
    };
    let length = u32::try_from(FIXED + texts_length + pinned_length + standing_length)
        .expect("five texts of at most 65,535 bytes");
    into.extend_from_slice(&[0; 4]);
    into.extend_from_slice(&length.to_le_bytes());
    into.extend_from_slice(&[head.flags, head.id.kind as u8, 0, 0]);
    into.extend_from_slice(&head.id.fingerprint.bits().to_le_bytes());
    into.extend_from_slice(&head.at.0.to_le_bytes());
    let count = u32::try_from(orders.len()).expect("few orders");
    for part in [ending[0], ending[1], count] {
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
    if standing_length > 0 {
        let lifted = standing.lifted().map_or(0, SetAt::micros);
        into.extend_from_slice(&lifted.to_le_bytes());
        for (cutoff, set) in orders {
            into.extend_from_slice(&number(cutoff.instant()).to_le_bytes());
            into.extend_from_slice(&set.micros().to_le_bytes());
        }
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
    } else if number == 0 {
        Cutoff::NEVER
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
#[derive(Clone, Debug)]
pub(super) struct Frame<'a> {
    bytes: &'a [u8],
    id: RuleId,
    texts: [&'a str; 4],
    pin: Option<(Pin, &'a str)>,
    /// Empty most often, which takes no memory.
    standing: Standing,
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
            if bytes[8] & (ENDING | STANDING) != 0 {
                return None;
            }
            let (pin, after) = bytes[FIXED..].split_first_chunk::<PINNED>()?;
            (Some(pin), after)
        } else {
            (None, &bytes[FIXED..])
        };
        let count = u32::from_le_bytes([bytes[44], bytes[45], bytes[46], bytes[47]]);
        let (standing, after) = if bytes[8] & STANDING == 0 {
            (Standing::default(), after)
        } else {
            read_standing(count, after)?
        };
        if standing.orders().len() != usize::try_from(count).ok()? {
            return None;
        }
        // A lift without an order is remembered for a time.
        let is_bare_lift = bytes[8] & STANDING != 0 && standing.cutoff().is_none();
        if is_bare_lift && bytes[8] & ENDING == 0 {
            return None;
        }
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
            standing,
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

    /// The rule's span; None if it is gone.
    pub(super) fn span(&self) -> Option<Span> {
        span(self.ending(), &self.standing, self.pin.is_some())
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
            standing: self.standing.clone(),
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

/// The lift, and `count` orders in the one form in which they are written.
fn read_standing(count: u32, bytes: &[u8]) -> Option<(Standing, &[u8])> {
    let count = usize::try_from(count)
        .ok()
        .filter(|count| *count <= ORDERS_MAX)?;
    let (lifted, bytes) = bytes.split_first_chunk::<LIFTED>()?;
    let (orders, rest) = bytes.split_at_checked(count * ORDER)?;
    let orders: Vec<_> = orders
        .as_chunks::<ORDER>()
        .0
        .iter()
        .map(|order| {
            let (at, set) = order.split_at(4);
            let at = at.try_into().map_or(0, u32::from_le_bytes);
            let set = set.try_into().map_or(0, u64::from_le_bytes);
            (cutoff(at), SetAt::from_micros(set))
        })
        .collect();
    let lifted = match u64::from_le_bytes(*lifted) {
        0 => None,
        micros => Some(SetAt::from_micros(micros)),
    };
    let standing = Standing::new(lifted, orders.iter().copied());
    let is_written_so = standing.orders() == orders && standing != Standing::default();
    is_written_so.then_some((standing, rest))
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
        let standing = (
            prop::option::of(1..50_u64),
            prop::collection::vec((instant(), 1..99_u64), 0..4),
        );
        (
            0..keys,
            0..7_usize,
            ending,
            standing,
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
                    let (lifted, orders) = standing;
                    let orders = orders.into_iter().filter(|_| !is_pin);
                    let standing = Standing::new(
                        lifted.filter(|_| !is_pin).map(SetAt::from_micros),
                        orders.map(|(at, set)| (cutoff(at), SetAt::from_micros(set))),
                    );
                    let ending = ending.or(standing.cutoff().is_none().then_some((7, 8)));
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
                        standing,
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
                bytes[8] &= FLAGS & !PIN & !STANDING;
                bytes[9] %= 8;
                bytes[44..56].fill(0);
                bytes[48] = u8::try_from(bytes.len() - FIXED).unwrap();
                bytes[FIXED..].fill(b'x');
                seal(&mut bytes);
                let is_gone = bytes[8] & ENDING == 0;
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

    fn pin_of_alice() -> Record {
        Record {
            id: RuleId {
                fingerprint: Fingerprint::from_bits(5),
                kind: Kind::Pin,
            },
            issuer: "i".into(),
            value: Some("alice".into()),
            ending: None,
            standing: Standing::default(),
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
        }
    }

    #[test]
    fn a_pin_is_whole_or_no_record() {
        let record = pin_of_alice();
        let mut good = vec![];
        encode(&mut good, &record, true);
        assert_eq!(Frame::read(&good).unwrap().record(), Some(record));
        let user = Kind::User as u8;
        let changed: [(usize, u8); 5] = [
            (9, user),
            (8, good[8] & !PIN),
            (8, good[8] | STANDING),
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
    fn standing_orders_have_one_form_and_a_bare_lift_an_end() {
        let (early, late) = (SetAt::from_micros(5), SetAt::from_micros(6));
        let mut record = pin_of_alice();
        record.id.kind = Kind::User;
        record.pinned = None;
        let bytes_of = |record: &Record| {
            let mut bytes = vec![];
            encode(&mut bytes, record, true);
            bytes
        };
        let two = [(Cutoff::ALWAYS, early), (cutoff(9), late)];
        record.standing = Standing::new(Some(SetAt::from_micros(4)), two);
        let good = bytes_of(&record);
        assert_eq!(Frame::read(&good).unwrap().record(), Some(record.clone()));
        let orders = FIXED + LIFTED;
        for (at, byte) in [
            // More orders than there are, and fewer.
            (44, 3),
            (44, 1),
            // The first one is no longer earlier than the second.
            (orders + 4, 6),
            // It was lifted already.
            (FIXED, 5),
            // The wider one comes first.
            (orders, 1),
        ] {
            let mut bad = good.clone();
            assert_ne!(bad[at], byte);
            bad[at] = byte;
            if at == orders {
                bad[at..at + 4].copy_from_slice(&[1, 0, 0, 0]);
            }
            seal(&mut bad);
            assert_eq!(Frame::read(&bad).err(), Some(Flaw::Bad), "{at}");
        }

        record.standing.lift();
        record.ending = Some(Span {
            cutoff: Cutoff::NEVER,
            until: until(9),
        });
        let mut lift = bytes_of(&record);
        assert_eq!(Frame::read(&lift).unwrap().record(), Some(record));
        lift[8] &= !ENDING;
        seal(&mut lift);
        assert_eq!(Frame::read(&lift).err(), Some(Flaw::Bad));
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
            standing: Standing::new(
                Some(SetAt::from_micros(4)),
                [(Cutoff::ALWAYS, SetAt::from_micros(5))],
            ),
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
            "4f0000000f020000ab0000000000000000000000000000000300000000000000\
             01000000020000000100000001000100000001000400000000000000ffffffff\
             0500000000000000697662"
        );
    }
}
