//! What the relay writes into Redis: entries of the stream, which are records of the log as they are on disk, and what a member says of
//! itself. Everything is sealed; what does not open, or does not read, is nobody's.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::fleet::Member;
use super::link::{EntryId, Run};
use super::seal::{Purpose, Seal};
use crate::base::clock::{UnixSeconds, millis};
use crate::control::denylist::log::{decode, encode};
use crate::control::denylist::record::Record;

/// Most rules in one entry.
pub(super) const RULES_MAX: usize = 512;

/// An entry takes no more rules when it has so many bytes: 512 of usual length are 70 KB. One rule of the longest names is 320 KB.
const ENTRY_BYTES: usize = 256 * 1024;

/// Packs records into as few entries as there must be.
pub(super) fn entries<'a>(
    records: impl Iterator<Item = &'a Arc<Record>>,
    seal: &Seal,
) -> Vec<Bytes> {
    let (mut entries, mut body, mut rules) = (vec![], vec![], 0);
    for record in records {
        encode(&mut body, record, true);
        rules += 1;
        if rules == RULES_MAX || body.len() >= ENTRY_BYTES {
            entries.push(seal.close(Purpose::Entry, &body));
            body.clear();
            rules = 0;
        }
    }
    if rules > 0 {
        entries.push(seal.close(Purpose::Entry, &body));
    }
    entries
}

/// The records of an entry. None: the fleet did not write it.
pub(super) fn records(payload: &[u8], seal: &Seal) -> Option<Vec<Record>> {
    decode(seal.open(Purpose::Entry, payload)?)
}

/// A member, and what the relay needs besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) member: Member,
    /// For how long it needs entries to stay in the stream.
    pub(super) retention_s: u64,
    /// Which process it is: two with one name have different ones.
    pub(super) instance: u64,
}

/// As it is written. Later versions may say more.
#[derive(Serialize, Deserialize)]
struct Written<'a> {
    // Whoever writes into Redis says what an epoch is: it may need escapes.
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    version: Cow<'a, str>,
    #[serde(borrow)]
    server: Cow<'a, str>,
    #[serde(borrow)]
    epoch: Cow<'a, str>,
    applied: (u64, u64),
    entries: u64,
    in_sync: bool,
    at: u64,
    max_staleness_ms: u64,
    shares_name: bool,
    retention_s: u64,
    instance: u64,
}

/// A report, sealed.
pub(super) fn close_report(report: &Report, seal: &Seal) -> Bytes {
    let member = &report.member;
    let written = Written {
        name: Cow::Borrowed(&member.name),
        version: Cow::Borrowed(&member.version),
        server: Cow::Borrowed(&member.run.server),
        epoch: Cow::Borrowed(&member.run.epoch),
        applied: (member.applied.ms, member.applied.sequence),
        entries: member.entries,
        in_sync: member.in_sync,
        at: member.at.0,
        max_staleness_ms: millis(member.max_staleness),
        shares_name: member.shares_name,
        retention_s: report.retention_s,
        instance: report.instance,
    };
    let body = serde_json::to_vec(&written).expect("strings and numbers are JSON");
    seal.close(Purpose::Member, &body)
}

/// The report of `name`. None: it is not of this fleet, or was moved to another name.
pub(super) fn open_report(name: &str, payload: &[u8], seal: &Seal) -> Option<Report> {
    let written: Written<'_> = serde_json::from_slice(seal.open(Purpose::Member, payload)?).ok()?;
    (written.name == name).then(|| Report {
        member: Member {
            name: written.name.into(),
            version: written.version.into(),
            run: Run {
                server: written.server.into(),
                epoch: written.epoch.into(),
            },
            applied: EntryId {
                ms: written.applied.0,
                sequence: written.applied.1,
            },
            entries: written.entries,
            in_sync: written.in_sync,
            at: UnixSeconds(written.at),
            max_staleness: Duration::from_millis(written.max_staleness_ms),
            shares_name: written.shares_name,
        },
        retention_s: written.retention_s,
        instance: written.instance,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::denylist::order::{IssuerLife, Order};
    use crate::control::denylist::record::{Origin, Way};
    use crate::control::denylist::relay::seal::keys_of;
    use crate::denylist::{Fingerprinter, Kind};

    fn seal() -> Seal {
        keys_of(b"a secret of at least 32 bytes ...", "jotgate").1
    }

    fn user(name: &str) -> Arc<Record> {
        let life = IssuerLife {
            issuer: "https://id".into(),
            max_lifetime: std::time::Duration::from_hours(1),
            leeway: std::time::Duration::ZERO,
        };
        let make = Fingerprinter::new(&[1; 16]);
        let now = UnixSeconds(1_000_000);
        let order = Order::named(&make, &life, (Kind::User, name), None, false, now);
        let origin = Origin {
            by: "ops".into(),
            way: Way::AdminApi,
        };
        Arc::new(Record::new(&order, &origin, now))
    }

    #[test]
    fn entries_hold_so_many_rules_and_give_them_back_in_order() {
        let users: Vec<_> = (0..=RULES_MAX)
            .map(|number| user(&number.to_string()))
            .collect();
        let packed = entries(users.iter(), &seal());
        assert_eq!(packed.len(), 2);
        let back: Vec<_> = packed
            .iter()
            .flat_map(|entry| records(entry, &seal()).expect("ours"))
            .collect();
        assert!(back.iter().eq(users.iter().map(|user| &**user)));
        assert!(entries([].into_iter(), &seal()).is_empty());
        // Long names fill an entry sooner.
        let long: Vec<_> = (0..10)
            .map(|number| user(&format!("{number}{}", "x".repeat(60_000))))
            .collect();
        assert_eq!(entries(long.iter(), &seal()).len(), 2);
    }

    #[test]
    fn what_the_fleet_did_not_write_is_no_entry() {
        let mut body = vec![];
        encode(&mut body, &user("a"), true);
        let close = |body: &[u8]| seal().close(Purpose::Entry, body);
        assert!(records(&close(&body), &seal()).is_some());
        let other = keys_of(b"another secret of 32 bytes .......", "jotgate").1;
        assert!(records(&other.close(Purpose::Entry, &body), &seal()).is_none());
        assert!(records(&close(&body[..body.len() - 1]), &seal()).is_none());
        body.push(0);
        assert!(
            records(&close(&body), &seal()).is_none(),
            "something behind it"
        );
        assert!(records(&close(b""), &seal()).is_none(), "nothing in it");
        // A rule that is gone has no place here: a lift is a record of its own.
        let mut gone = vec![];
        crate::control::denylist::log::encode_gone(&mut gone, user("a").id, UnixSeconds(1), true);
        assert!(records(&close(&gone), &seal()).is_none());
    }

    #[test]
    fn a_report_is_its_members_own() {
        let report = Report {
            member: Member {
                name: "a".into(),
                version: "0.1.0".into(),
                run: Run {
                    server: "s".into(),
                    epoch: "\"e\\\n".into(),
                },
                applied: EntryId { ms: 5, sequence: 6 },
                entries: 7,
                in_sync: true,
                at: UnixSeconds(8),
                max_staleness: Duration::from_millis(10),
                shares_name: true,
            },
            retention_s: 9,
            instance: 11,
        };
        let closed = close_report(&report, &seal());
        assert_eq!(open_report("a", &closed, &seal()), Some(report));
        assert_eq!(open_report("b", &closed, &seal()), None);
        let other = keys_of(b"another secret of 32 bytes .......", "jotgate").1;
        assert_eq!(open_report("a", &closed, &other), None);
        let entry = seal().close(Purpose::Entry, &closed[33..]);
        assert_eq!(open_report("a", &entry, &seal()), None);
    }
}
