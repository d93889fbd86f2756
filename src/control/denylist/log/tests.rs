//! The log as a whole: what is acknowledged is there after a restart, whatever the file and the disk went through.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use prometheus::HistogramOpts;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::super::record::{Origin, Outcome, Pinned, Way};
use super::super::records::{Records, Staged};
use super::super::service::testing::parts;
use super::super::service::{Parts, Revocations, revocations};
use super::super::standing::Standing;
use super::super::writer::{Query, RevokeError};
use super::record::tests::any_record;
use super::*;
use crate::base::clock::{Clock, ClockHand};
use crate::denylist::{self, Fingerprint, Fingerprinter, Kind, Pin, SetAt};

const NOW: UnixSeconds = UnixSeconds(1_795_417_570);

/// Room for every test.
const ENTRIES_MAX: usize = 100_000;

fn histogram() -> Histogram {
    Histogram::with_opts(HistogramOpts::new("x", "x")).unwrap()
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("denylist.log");
    (folder, path)
}

/// A log with its index, and without the writer.
struct Bare {
    index: IndexWriter,
    log: Log,
}

/// A record, or a rule that is gone.
type Change = Result<Record, RuleId>;

impl Bare {
    /// Opens at an instant at which nothing is over.
    fn open(path: &Path) -> Result<Self, OpenError> {
        let (_, mut index) = denylist::index(ENTRIES_MAX);
        let log = Log::open(path, None, &mut index, UnixSeconds(0), histogram())?;
        Ok(Self { index, log })
    }

    /// Writes one group, as the writer does.
    fn write(&mut self, changes: &[Change]) -> Result<(), CommitError> {
        let (mut bytes, mut at) = (vec![], vec![]);
        for change in changes {
            at.push(bytes.len() as u64);
            let first = bytes.is_empty();
            match change {
                Ok(record) => encode(&mut bytes, record, first),
                Err(id) => encode_gone(&mut bytes, *id, NOW, first),
            }
        }
        let length = bytes.len() as u64;
        let offset = self.log.append(bytes).blocking_recv().unwrap()?;
        self.log.count(changes.len() as u64, offset + length);
        for (change, at) in changes.iter().zip(at) {
            let id = change.as_ref().map_or_else(|id| *id, |record| record.id);
            let known = self.index.index().rule(id.kind, id.fingerprint).is_some();
            match change {
                Ok(record) => {
                    self.log.note(id, offset + at, known);
                    self.index.restore(record.rule());
                }
                Err(_) if known => {
                    self.log.forget(id);
                    self.index.lift(id.kind, id.fingerprint, None);
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Rewrites the log while `meanwhile` is written.
    fn compact(&mut self, meanwhile: &[Change]) {
        self.log.compact();
        if !meanwhile.is_empty() {
            self.write(meanwhile).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let edition = self.log.rewritten().await.unwrap();
            let mut adoption = self.log.adopt(edition);
            adoption.done().await.unwrap();
            let index = self.index.index();
            self.log
                .turn_to(adoption, |id| index.rule(id.kind, id.fingerprint).is_none());
        });
    }

    /// Asserts that log, index and list hold these records and no others.
    #[track_caller]
    fn holds(&self, model: &BTreeMap<RuleId, Record>) {
        let listed: Vec<_> = self
            .log
            .spots(None, ENTRIES_MAX)
            .records()
            .map(Result::unwrap)
            .collect();
        let expected: Vec<_> = model.values().cloned().collect();
        assert_eq!(listed, expected);
        assert_eq!(self.index.entries(), model.len());
        for (id, record) in model {
            let found = self.index.index().rule(id.kind, id.fingerprint);
            assert_eq!(found, Some(record.rule()));
            assert_eq!(self.log.get(*id), Ok(Some(record.clone())));
        }
    }
}

/// The rules after these changes.
fn model<'a>(changes: impl IntoIterator<Item = &'a Change>) -> BTreeMap<RuleId, Record> {
    let mut model = BTreeMap::new();
    for change in changes {
        match change {
            Ok(record) => model.insert(record.id, record.clone()),
            Err(id) => model.remove(id),
        };
    }
    model
}

fn any_change() -> impl Strategy<Value = Change> {
    // Few rules, so that they meet, and three of four changes are records.
    (any_record(12), 0..4_u8).prop_map(|(record, dice)| {
        if dice == 0 {
            Err(record.id)
        } else {
            Ok(record)
        }
    })
}

fn any_groups() -> impl Strategy<Value = Vec<Vec<Change>>> {
    prop::collection::vec(prop::collection::vec(any_change(), 1..6), 1..12)
}

/// Where each record of a log begins, and where the last ends; with each, whether it opens a group.
fn records_of(path: &Path) -> (Vec<(u64, bool)>, u64) {
    let file = File::open(path).unwrap();
    let mut found = vec![];
    let length = file.metadata().unwrap().len();
    let end = scan(&file, HEADER_BYTES..length, |offset, frame| {
        found.push((offset, frame.is_first()));
        Ok(())
    })
    .unwrap();
    (found, end)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_appended_is_replayed(
        groups in any_groups(),
        rewritten_at: prop::sample::Index,
        meanwhile in prop::collection::vec(any_change(), 0..6),
    ) {
        let (_folder, path) = folder();
        let mut bare = Bare::open(&path).unwrap();
        let salt = *bare.log.salt();
        let rewritten_at = rewritten_at.index(groups.len());
        let mut written = vec![];
        for (number, group) in groups.iter().enumerate() {
            bare.write(group).unwrap();
            written.extend(group.iter().cloned());
            if number == rewritten_at {
                let before = bare.log.records;
                bare.compact(&meanwhile);
                written.extend(meanwhile.iter().cloned());
                prop_assert!(bare.log.records <= before + meanwhile.len() as u64);
            }
            bare.holds(&model(&written));
        }
        let (records, length) = (bare.log.records, bare.log.view().bytes());
        drop(bare);
        let again = Bare::open(&path).unwrap();
        again.holds(&model(&written));
        prop_assert_eq!(again.log.salt(), &salt);
        prop_assert_eq!((again.log.records, again.log.view().bytes()), (records, length));
    }

    #[test]
    fn any_truncation_gives_a_prefix(groups in any_groups(), cut: prop::sample::Index) {
        let (_folder, path) = folder();
        let mut bare = Bare::open(&path).unwrap();
        for group in &groups {
            bare.write(group).unwrap();
        }
        drop(bare);
        let (records, end) = records_of(&path);
        let cut = HEADER_BYTES + cut.index(usize::try_from(end - HEADER_BYTES).unwrap() + 1) as u64;
        OpenOptions::new().write(true).open(&path).unwrap().set_len(cut).unwrap();
        let ends = records.iter().skip(1).map(|(at, _)| *at).chain([end]);
        let whole = ends.filter(|end| *end <= cut).count();
        let bare = Bare::open(&path).unwrap();
        bare.holds(&model(groups.iter().flatten().take(whole)));
        prop_assert_eq!(bare.log.records, whole as u64);
        prop_assert_eq!(std::fs::metadata(&path).unwrap().len(), bare.log.view().bytes());
    }

    #[test]
    fn no_file_panics(bytes: Vec<u8>, behind_header: bool, zeros in 0..600_usize) {
        let (_folder, path) = folder();
        let mut content = if behind_header { file::header([1; 16]) } else { vec![] };
        content.extend_from_slice(&bytes);
        content.resize(content.len() + zeros, 0);
        std::fs::write(&path, &content).unwrap();
        match Bare::open(&path) {
            // Nothing in it is a record, so all of it may be torn.
            Ok(bare) => {
                prop_assert!(behind_header);
                bare.holds(&BTreeMap::new());
                prop_assert_eq!(std::fs::read(&path).unwrap(), file::header([1; 16]));
            }
            Err(OpenError::NoLog(_)) => prop_assert!(!behind_header),
            Err(other) => panic!("{other}"),
        }
    }
}

fn user(number: u128) -> Record {
    Record {
        id: RuleId {
            fingerprint: Fingerprint::from_bits(number << 100),
            kind: Kind::User,
        },
        issuer: "https://id".into(),
        value: Some(number.to_string().into()),
        ending: Some(Span {
            cutoff: Cutoff::at(NOW),
            until: Until::at(NOW),
        }),
        standing: Standing::default(),
        pinned: None,
        reason: None,
        by: "ops".into(),
        at: NOW,
    }
}

/// Three groups of three users.
fn three_groups(path: &Path) -> Vec<Change> {
    let users: Vec<Change> = (0..9).map(|number| Ok(user(number))).collect();
    let mut bare = Bare::open(path).unwrap();
    for group in users.chunks(3) {
        bare.write(group).unwrap();
    }
    users
}

#[test]
fn damage_before_the_last_group_refuses_to_start_and_in_it_is_cut_off() {
    let (_folder, path) = folder();
    let users = three_groups(&path);
    let good = std::fs::read(&path).unwrap();
    let (records, _) = records_of(&path);
    let firsts: Vec<_> = records.iter().map(|(_, first)| *first).collect();
    assert_eq!(
        firsts,
        [true, false, false, true, false, false, true, false, false]
    );
    for (number, (offset, _)) in records.iter().enumerate() {
        // The checksum, the length, and the last byte.
        for place in [0, 4, 5, 50] {
            let mut bad = good.clone();
            bad[usize::try_from(*offset).unwrap() + place] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            match Bare::open(&path) {
                Ok(bare) => {
                    assert!(number >= 6, "record {number} is acknowledged for sure");
                    bare.holds(&model(&users[..number]));
                }
                Err(OpenError::Damaged {
                    path: named,
                    offset: at,
                }) => {
                    assert!(number < 6, "record {number} may be torn");
                    assert_eq!((named, at), (path.clone(), *offset));
                    assert_eq!(std::fs::read(&path).unwrap(), bad, "nothing was changed");
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn after_a_rewrite_every_record_is_beyond_tearing() {
    let (_folder, path) = folder();
    three_groups(&path);
    Bare::open(&path).unwrap().compact(&[]);
    let (records, _) = records_of(&path);
    assert_eq!(records.len(), 9);
    assert!(records.iter().all(|(_, first)| *first));
}

#[test]
fn more_than_a_group_of_rubbish_is_damage() {
    let (_folder, path) = folder();
    three_groups(&path);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let end = file.metadata().unwrap().len();
    file.set_len(end + file::GROUP_BYTES_MAX as u64 + 1)
        .unwrap();
    let error = Bare::open(&path).err().expect("no crash leaves that");
    assert!(
        matches!(error, OpenError::Damaged { offset, .. } if offset == end),
        "{error}"
    );
    file.set_len(end + file::GROUP_BYTES_MAX as u64).unwrap();
    Bare::open(&path).unwrap();
}

#[test]
fn only_a_log_is_opened() {
    let (_folder, path) = folder();
    let refused = |content: &[u8]| {
        std::fs::write(&path, content).unwrap();
        Bare::open(&path).err().expect("this is no log")
    };
    let good = file::header([1; 16]);
    assert!(matches!(refused(b""), OpenError::NoLog(_)));
    assert!(matches!(refused(&good[..39]), OpenError::NoLog(_)));
    assert!(matches!(refused(&[b'x'; 100]), OpenError::NoLog(_)));
    let mut damaged = good.clone();
    damaged[25] ^= 1;
    assert!(matches!(
        refused(&damaged),
        OpenError::Damaged { offset: 0, .. }
    ));
    let mut newer = good[..36].to_vec();
    newer[16] = 4;
    newer.extend_from_slice(&crc32c::crc32c(&newer).to_le_bytes());
    assert!(matches!(
        refused(&newer),
        OpenError::Version { version: 4, .. }
    ));
    std::fs::write(&path, good).unwrap();
    assert_eq!(Bare::open(&path).unwrap().log.salt(), &[1; 16]);
}

#[test]
fn one_process_has_it_and_nobody_else_reads_it() {
    let (_folder, path) = folder();
    let mut first = Bare::open(&path).unwrap();
    assert!(matches!(Bare::open(&path).err(), Some(OpenError::InUse(_))));
    first.compact(&[]);
    assert!(matches!(Bare::open(&path).err(), Some(OpenError::InUse(_))));
    for path in [&path, &file::beside(&path, ".lock")] {
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
    drop(first);
    Bare::open(&path).unwrap();
}

#[test]
fn a_gateway_that_joins_a_fleet_brings_its_rules() {
    let (_folder, path) = folder();
    let lone = Fingerprinter::new(Bare::open(&path).unwrap().log.salt());
    let fleet = Fingerprinter::new(&[7; 16]);
    let named = |make: &Fingerprinter, kind, value: &str| {
        let mut record = user(0);
        record.id.kind = kind;
        record.id.fingerprint = make.of(kind, &record.issuer, value);
        record.value = (kind != Kind::Issuer).then(|| value.into());
        if kind == Kind::Pin {
            record.ending = None;
            record.pinned = Some(Pinned {
                pin: Pin {
                    set: SetAt::from_micros(5),
                    session: make.of(Kind::Session, &record.issuer, "s1"),
                },
                session_id: "s1".into(),
            });
        }
        record
    };
    let kinds = Kind::ALL.map(|kind| (kind, if kind == Kind::Issuer { "" } else { "x" }));
    let rules = |make| kinds.map(|(kind, value)| named(make, kind, value));
    let mut over = named(&lone, Kind::User, "over");
    over.ending = Some(Span {
        cutoff: Cutoff::ALWAYS,
        until: Until::at(UnixSeconds(5)),
    });
    let changes: Vec<Change> = rules(&lone).into_iter().chain([over]).map(Ok).collect();
    Bare::open(&path).unwrap().write(&changes).unwrap();

    let open = || {
        let (_, mut index) = denylist::index(100);
        let now = UnixSeconds(1_000);
        let log = Log::open(&path, Some([7; 16]), &mut index, now, histogram());
        log.map(|log| (log, index))
    };
    for _ in 0..2 {
        let (log, index) = open().unwrap();
        assert_eq!(log.salt(), &[7; 16]);
        assert_eq!(index.entries(), kinds.len());
        for record in rules(&fleet) {
            assert_eq!(log.get(record.id), Ok(Some(record.clone())));
            let rule = index.index().rule(record.id.kind, record.id.fingerprint);
            assert_eq!(rule, Some(record.rule()));
        }
    }
}

/// A user whose rule is found by this name.
fn named_user(make: &Fingerprinter, name: &str) -> Record {
    let mut record = user(0);
    record.id.fingerprint = make.of(Kind::User, &record.issuer, name);
    record.value = Some(name.into());
    record
}

#[test]
fn a_long_log_joins_a_fleet_whole() {
    let (_folder, path) = folder();
    let lone = Fingerprinter::new(Bare::open(&path).unwrap().log.salt());
    let names: Vec<_> = (0..5000)
        .map(|number| format!("{number}{}", "x".repeat(600)))
        .collect();
    let changes: Vec<Change> = names
        .iter()
        .map(|name| Ok(named_user(&lone, name)))
        .collect();
    Bare::open(&path).unwrap().write(&changes).unwrap();
    let length = std::fs::metadata(&path).unwrap().len();
    assert!(length > 3 * 1024 * 1024, "it is written in several pieces");

    let fleet = Fingerprinter::new(&[7; 16]);
    // The second time it is one of the fleet.
    for _ in 0..2 {
        let (_, mut index) = denylist::index(ENTRIES_MAX);
        let log = Log::open(
            &path,
            Some([7; 16]),
            &mut index,
            UnixSeconds(1_000),
            histogram(),
        )
        .unwrap();
        assert_eq!(index.entries(), names.len());
        for name in &names {
            let record = named_user(&fleet, name);
            assert_eq!(log.get(record.id), Ok(Some(record)));
        }
    }
    assert_eq!(std::fs::metadata(&path).unwrap().len(), length);
}

#[test]
fn a_damaged_log_joins_no_fleet_and_a_torn_one_without_its_torn_end() {
    let (_folder, path) = folder();
    let lone = Fingerprinter::new(Bare::open(&path).unwrap().log.salt());
    let names = ["a", "b", "c"];
    for name in names {
        let change = Ok(named_user(&lone, name));
        Bare::open(&path).unwrap().write(&[change]).unwrap();
    }
    let good = std::fs::read(&path).unwrap();
    let (records, _) = records_of(&path);
    let flip = |number: usize| {
        let mut bad = good.clone();
        bad[usize::try_from(records[number].0).unwrap() + 5] ^= 0x10;
        std::fs::write(&path, &bad).unwrap();
        bad
    };
    let open = || {
        let (_, mut index) = denylist::index(100);
        let now = UnixSeconds(1_000);
        Log::open(&path, Some([7; 16]), &mut index, now, histogram())
    };
    for number in [0, 1] {
        let bad = flip(number);
        let at = records[number].0;
        let error = open().expect_err("rules would be lost");
        assert!(
            matches!(error, OpenError::Damaged { offset, .. } if offset == at),
            "{error}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), bad, "nothing was changed");
        assert!(!draft_path(&path).exists());
    }
    flip(2);
    let log = open().expect("it was never acknowledged");
    let fleet = Fingerprinter::new(&[7; 16]);
    let held = names.map(|name| {
        let found = log.get(named_user(&fleet, name).id).unwrap();
        found.is_some()
    });
    assert_eq!(held, [true, true, false]);
}

#[test]
fn what_a_fleet_could_not_recognise_keeps_a_log_out_of_it() {
    let (_folder, path) = folder();
    let mut nameless = user(0);
    nameless.id.kind = Kind::Token;
    nameless.value = Some(format!("{:032x}", nameless.id.fingerprint.bits()).into());
    Bare::open(&path).unwrap().write(&[Ok(nameless)]).unwrap();
    let before = std::fs::read(&path).unwrap();
    let (_, mut index) = denylist::index(100);
    let mut open = |now| Log::open(&path, Some([7; 16]), &mut index, now, histogram());
    let error = open(UnixSeconds(1)).expect_err("it would be lost");
    assert!(
        matches!(error, OpenError::Nameless { rules: 1, .. }),
        "{error}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), before, "nothing was changed");
    assert!(!draft_path(&path).exists());
    // Once it is over it is in nobody's way.
    let log = open(NOW.plus(2 * KEPT_LONGER)).expect("it is over");
    assert_eq!(log.salt(), &[7; 16]);
}

#[test]
fn every_new_log_has_another_salt() {
    let (_folder, path) = folder();
    let (_other, elsewhere) = folder();
    let (first, second) = (Bare::open(&path).unwrap(), Bare::open(&elsewhere).unwrap());
    assert_ne!(first.log.salt(), second.log.salt());
}

#[test]
fn what_was_over_is_not_read_again() {
    let (_folder, path) = folder();
    let mut bare = Bare::open(&path).unwrap();
    let mut blocked = user(2);
    blocked.standing = Standing::new(None, [(Cutoff::ALWAYS, SetAt::from_micros(1))]);
    bare.write(&[Ok(user(1)), Ok(blocked.clone())]).unwrap();
    drop(bare);
    let last = NOW.plus(KEPT_LONGER);
    for (now, expected) in [(last, 2), (last.plus(Duration::from_secs(1)), 1)] {
        let (_, mut index) = denylist::index(1);
        let log = Log::open(&path, None, &mut index, now, histogram()).unwrap();
        assert_eq!(index.entries(), expected, "the bound is for new rules");
        assert_eq!(log.places.len(), expected);
        assert_eq!(log.get(blocked.id), Ok(Some(blocked.clone())));
    }
}

#[test]
fn an_unfinished_rewrite_is_thrown_away() {
    let (_folder, path) = folder();
    let users = three_groups(&path);
    std::fs::write(draft_path(&path), "half").unwrap();
    Bare::open(&path).unwrap().holds(&model(&users));
    assert!(!draft_path(&path).exists());
}

#[test]
fn a_rewrite_that_fails_leaves_the_log_as_it_is() {
    let (_folder, path) = folder();
    let users = three_groups(&path);
    let mut bare = Bare::open(&path).unwrap();
    // Nothing can be created under this name.
    std::fs::create_dir(draft_path(&path)).unwrap();
    bare.log.compact();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    assert!(runtime.block_on(bare.log.rewritten()).is_none());
    bare.write(&[Ok(user(10))]).unwrap();
    let changes: Vec<_> = users.into_iter().chain([Ok(user(10))]).collect();
    bare.holds(&model(&changes));
    assert!(bare.log.compact_from > COMPACT_FROM, "not again at once");
}

#[test]
fn a_log_is_rewritten_when_more_than_half_is_dead_and_it_is_long() {
    let (_folder, path) = folder();
    let mut bare = Bare::open(&path).unwrap();
    for _ in 0..3 {
        bare.write(&[Ok(user(1))]).unwrap();
    }
    bare.log.compact_if_it_pays(1);
    assert!(bare.log.compaction.is_none(), "it is short");
    bare.log.compact_from = 0;
    bare.log.compact_if_it_pays(2);
    assert!(bare.log.compaction.is_none(), "two of three live");
    bare.log.compact_if_it_pays(0);
    assert!(bare.log.compaction.is_some());
}

#[test]
fn a_rule_forgotten_during_a_rewrite_stays_forgotten() {
    let (_folder, path) = folder();
    let users = three_groups(&path);
    let mut bare = Bare::open(&path).unwrap();
    bare.log.compact();
    let id = user(4).id;
    bare.log.forget(id);
    bare.index.lift(id.kind, id.fingerprint, None);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let edition = bare.log.rewritten().await.unwrap();
        let mut adoption = bare.log.adopt(edition);
        adoption.done().await.unwrap();
        let index = bare.index.index();
        bare.log
            .turn_to(adoption, |id| index.rule(id.kind, id.fingerprint).is_none());
    });
    let mut expected = model(&users);
    expected.remove(&id);
    bare.holds(&expected);
}

/// A disk that fails when told, and can be made to wait.
struct BadDisk {
    file: Arc<File>,
    mood: Arc<Mood>,
}

#[derive(Default)]
struct Mood {
    /// What the next calls answer; then all is well.
    write: Mutex<Option<io::ErrorKind>>,
    sync: Mutex<Option<io::ErrorKind>>,
    cut: Mutex<Option<io::ErrorKind>>,
    syncs: AtomicUsize,
    /// The next sync ends when the other end is dropped.
    gate: Mutex<Option<mpsc::Receiver<()>>>,
}

fn take(mood: &Mutex<Option<io::ErrorKind>>) -> io::Result<()> {
    mood.lock()
        .unwrap()
        .take()
        .map_or(Ok(()), |kind| Err(kind.into()))
}

impl Disk for BadDisk {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Err(error) = take(&self.mood.write) {
            // As much as there was room for.
            self.file.write_at(&bytes[..bytes.len() / 2], offset)?;
            return Err(error);
        }
        self.file.write_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        let gate = self.mood.gate.lock().unwrap().take();
        if let Some(gate) = gate {
            gate.recv().unwrap_err();
        }
        self.mood.syncs.fetch_add(1, Ordering::SeqCst);
        take(&self.mood.sync)?;
        self.file.sync()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        take(&self.mood.cut)?;
        self.file.cut(length)
    }
}

fn on_bad_disk(path: &Path) -> (Bare, Arc<Mood>) {
    let mood = Arc::new(Mood::default());
    let (_, mut index) = denylist::index(ENTRIES_MAX);
    let disk = |file: &Arc<File>| -> Box<dyn Disk> {
        Box::new(BadDisk {
            file: Arc::clone(file),
            mood: Arc::clone(&mood),
        })
    };
    let log = Log::open_on((path, None), &mut index, UnixSeconds(0), histogram(), disk).unwrap();
    (Bare { index, log }, mood)
}

#[test]
fn a_full_disk_refuses_one_group_and_leaves_nothing_of_it() {
    let (_folder, path) = folder();
    let (mut bare, mood) = on_bad_disk(&path);
    bare.write(&[Ok(user(1))]).unwrap();
    let length = bare.log.view().bytes();
    *mood.write.lock().unwrap() = Some(io::ErrorKind::StorageFull);
    assert_eq!(
        bare.write(&[Ok(user(2)), Ok(user(3))]),
        Err(CommitError::DiskFull)
    );
    assert_eq!(std::fs::metadata(&path).unwrap().len(), length);
    bare.write(&[Ok(user(4))]).unwrap();
    drop(bare);
    Bare::open(&path)
        .unwrap()
        .holds(&model(&[Ok(user(1)), Ok(user(4))]));
}

#[test]
fn every_other_failure_is_final() {
    type Fail = fn(&Mood);
    let failures: [Fail; 4] = [
        |mood| *mood.sync.lock().unwrap() = Some(io::ErrorKind::Other),
        |mood| *mood.write.lock().unwrap() = Some(io::ErrorKind::Other),
        |mood| {
            *mood.write.lock().unwrap() = Some(io::ErrorKind::StorageFull);
            *mood.cut.lock().unwrap() = Some(io::ErrorKind::Other);
        },
        |mood| {
            *mood.write.lock().unwrap() = Some(io::ErrorKind::StorageFull);
            *mood.sync.lock().unwrap() = Some(io::ErrorKind::Other);
        },
    ];
    for fail in failures {
        let (_folder, path) = folder();
        let (mut bare, mood) = on_bad_disk(&path);
        bare.write(&[Ok(user(1))]).unwrap();
        fail(&mood);
        assert_eq!(bare.write(&[Ok(user(2))]), Err(CommitError::Failed));
        assert_eq!(
            bare.write(&[Ok(user(3))]),
            Err(CommitError::Failed),
            "for good"
        );
        bare.log.compact();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let adopted = runtime.block_on(async {
            let edition = bare.log.rewritten().await.unwrap();
            bare.log.adopt(edition).done().await
        });
        assert_eq!(adopted, Err(CommitError::Failed), "a rewrite heals nothing");
        drop(bare);
        let again = Bare::open(&path).unwrap();
        assert_eq!(again.log.get(user(1).id), Ok(Some(user(1))));
        assert_eq!(again.log.get(user(3).id), Ok(None));
    }
}

/// A denylist at work.
struct Running {
    revocations: Revocations,
    failed: CancellationToken,
    shutdown: CancellationToken,
    writer: tokio::task::JoinHandle<()>,
    hand: ClockHand,
}

impl Running {
    fn start(bare: Bare) -> Self {
        let (clock, hand) = Clock::manual(NOW);
        let (revocations, writer) = revocations(Parts {
            fingerprinter: Fingerprinter::new(bare.log.salt()),
            log: Some(bare.log),
            ..parts("https://id", bare.index, clock)
        });
        let shutdown = CancellationToken::new();
        Self {
            revocations,
            failed: writer.failed(),
            writer: tokio::spawn(writer.run(shutdown.clone())),
            shutdown,
            hand,
        }
    }

    async fn post(&self, body: Value) -> Result<Vec<Outcome>, RevokeError> {
        let orders = self.revocations.read(&body).unwrap().orders;
        let written = self.revocations.revoke(orders, ops()).await?;
        Ok(written.outcomes)
    }

    async fn all(&self) -> Vec<Record> {
        let query = Query {
            limit: 1000,
            ..Query::default()
        };
        self.revocations.list(query).await.unwrap().records
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.writer.await.unwrap();
    }
}

fn ops() -> Origin {
    Origin {
        by: "ops".into(),
        way: Way::AdminApi,
    }
}

fn sub(name: &str) -> Value {
    json!({"iss": "https://id", "sub": name, "reason": "lost"})
}

#[tokio::test]
async fn a_restart_keeps_what_was_acknowledged_and_what_was_lifted() {
    let (_folder, path) = folder();
    let running = Running::start(Bare::open(&path).unwrap());
    running
        .post(json!({"rules": [sub("a"), sub("b")]}))
        .await
        .unwrap();
    let block = json!({"iss": "https://id", "sub": "a", "standing": true});
    let blocked = running.post(block.clone()).await.unwrap().remove(0).record;
    let lifted = running.revocations.lift(blocked.id, ops()).await.unwrap();
    assert!(lifted.rest.is_some());
    let key = json!({"iss": "https://id", "kid": "k"});
    let key = running.post(key).await.unwrap().remove(0).record;
    let lifted = running.revocations.lift(key.id, ops()).await.unwrap();
    assert_eq!(lifted.rest, None);
    // Forgotten before it was written: a request with a fault in its middle.
    let again = running
        .post(json!({"rules": [sub("a"), {"iss": "https://id", "sub": "c", "dry_run": true}]}));
    assert!(!again.await.unwrap()[0].created);
    let before = running.all().await;
    assert_eq!(before.len(), 2);
    running.stop().await;

    let running = Running::start(Bare::open(&path).unwrap());
    assert_eq!(running.all().await, before);
    for record in before {
        let rule = running
            .revocations
            .index()
            .rule(Kind::User, record.id.fingerprint);
        assert_eq!(rule.map(|rule| rule.span), Some(record.span()));
        assert!(!record.is_standing());
        assert_eq!(
            running.revocations.record(record.id).await,
            Ok(Some(record))
        );
    }
    running.stop().await;
}

#[tokio::test]
async fn saying_it_again_writes_nothing() {
    let (_folder, path) = folder();
    let running = Running::start(Bare::open(&path).unwrap());
    running.post(sub("a")).await.unwrap();
    let length = std::fs::metadata(&path).unwrap().len();
    running.post(sub("a")).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), length);
    running.hand.advance(Duration::from_secs(1));
    running.post(sub("a")).await.unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() > length);
    running.stop().await;
}

#[tokio::test]
async fn changes_that_come_during_a_sync_share_the_next_and_reading_goes_on() {
    const CHANGES: usize = 50;
    let (_folder, path) = folder();
    let (bare, mood) = on_bad_disk(&path);
    let running = Arc::new(Running::start(bare));
    running.post(sub("before")).await.unwrap();
    let syncs = mood.syncs.load(Ordering::SeqCst);
    let mut posts = tokio::task::JoinSet::new();
    let (closed, gate) = mpsc::channel::<()>();
    *mood.gate.lock().unwrap() = Some(gate);
    for number in 0..CHANGES {
        let running = Arc::clone(&running);
        posts.spawn(async move { running.post(sub(&number.to_string())).await.unwrap() });
    }
    // Each list is read on another thread, so the changes are on their way meanwhile.
    for _ in 0..10 {
        assert_eq!(
            running.all().await.len(),
            1,
            "nothing is true before it is on disk"
        );
        assert_eq!(running.revocations.index().entries(Kind::User), 1);
    }
    drop(closed);
    assert_eq!(posts.join_all().await.len(), CHANGES);
    let syncs = mood.syncs.load(Ordering::SeqCst) - syncs;
    assert!(
        (1..=3).contains(&syncs),
        "{syncs} syncs for {CHANGES} changes"
    );
    assert_eq!(running.all().await.len(), CHANGES + 1);
}

#[tokio::test]
async fn a_failed_sync_acknowledges_nothing_and_ends_the_gateway() {
    let (_folder, path) = folder();
    let (bare, mood) = on_bad_disk(&path);
    let running = Running::start(bare);
    running.post(sub("a")).await.unwrap();
    let epoch = running.revocations.index().epoch();
    assert!(!running.failed.is_cancelled());
    *mood.sync.lock().unwrap() = Some(io::ErrorKind::Other);
    for _ in 0..2 {
        let error = running.post(sub("b")).await.unwrap_err();
        assert_eq!(error, RevokeError::Commit(CommitError::Failed));
        assert!(running.failed.is_cancelled());
    }
    assert_eq!(
        running.revocations.index().epoch(),
        epoch,
        "nothing was applied"
    );
    assert_eq!(running.all().await.len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_full_disk_is_said_and_the_gateway_goes_on() {
    let (_folder, path) = folder();
    let (bare, mood) = on_bad_disk(&path);
    let running = Running::start(bare);
    *mood.write.lock().unwrap() = Some(io::ErrorKind::StorageFull);
    let error = running.post(sub("a")).await.unwrap_err();
    assert_eq!(error, RevokeError::Commit(CommitError::DiskFull));
    assert_eq!(running.all().await, []);
    assert!(!running.failed.is_cancelled());
    running.post(sub("a")).await.unwrap();
    assert_eq!(running.all().await.len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn pages_of_a_log_hold_everything_once_even_where_places_are_shared() {
    let (_folder, path) = folder();
    let users: Vec<Change> = (0..40_u128)
        .map(|number| {
            let mut record = user(0);
            // Four to a place.
            let bits = (number / 4) << 100 | (number % 4);
            record.id.fingerprint = Fingerprint::from_bits(bits);
            Ok(record)
        })
        .collect();
    let bare = tokio::task::spawn_blocking({
        let (users, path) = (users.clone(), path.clone());
        move || {
            let mut bare = Bare::open(&path).unwrap();
            bare.write(&users).unwrap();
            bare
        }
    });
    let running = Running::start(bare.await.unwrap());
    let (mut seen, mut after) = (vec![], None);
    loop {
        let query = Query {
            after,
            limit: 3,
            ..Query::default()
        };
        let page = running.revocations.list(query).await.unwrap();
        assert!(page.records.len() <= 3);
        seen.extend(page.records);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let expected: Vec<_> = model(&users).into_values().collect();
    assert_eq!(seen, expected);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_is_over_leaves_index_and_places() {
    let (_folder, path) = folder();
    let mut records = Records::on_disk(Bare::open(&path).unwrap().log);
    let mut group = records.group();
    group.put(Arc::new(user(1)));
    group.put(Arc::new(user(2)));
    group.take(user(2).id, NOW);
    assert_eq!(group.staged(user(2).id), Staged::Gone);
    let offset = records.commit(&mut group).unwrap().await.unwrap().unwrap();
    records.note(group, offset, |_| false);
    assert_eq!(records.get(user(1).id), Ok(Some(user(1))));
    assert_eq!(records.get(user(2).id), Ok(None));
    records.forget(user(1).id);
    assert_eq!(records.get(user(1).id), Ok(None));
}
