//! By which bounds of token lives the denylist's rules are kept for each issuer, and were before, over restarts: tokens are
//! held to those of their time, because rules of that time were kept no longer (`token/bounds.rs`).
//!
//! What shrinks in the configuration counts for tokens at once, but rules are still kept by the wider bound until no token
//! of before could pass: else to take such a change back would refuse the tokens that were good before it.
//!
//! With a log the bounds stand in a file beside it, `….bounds`: a line with the CRC-32C of the rest, then JSON. It is written
//! before wider bounds come into force. Without a log a restart forgets every rule, and with them the bounds.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crc32c::crc32c;
use serde::{Deserialize, Serialize};

use super::log::{Log, beside, create_draft, publish_draft};
use super::order::IssuerLife;
use crate::base::clock::UnixSeconds;
use crate::base::file::read_bounded;
use crate::token::{Bound, EARLIER_MAX, Earlier, SETTLING, Step};

/// The first line up to the checksum, with the version of the format.
const MAGIC: &str = "jotgate bounds 1 ";

/// The whole file, where an operator says that no bound has grown while rules of the log could be alive.
const NONE: &str = "jotgate bounds none";

/// Largest file, in bytes: 10,000 issuers with as many bounds as are remembered.
const FILE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// An issuer that left the configuration is remembered for as long as a token of it could be valid if it came back, with
/// the longest life that can be configured (400 days), leeway and all.
const LEFT_REMEMBERED: Duration = Duration::from_hours(401 * 24);

/// Why the bounds cannot be remembered, and so neither a start nor a reload goes on.
#[derive(Debug, thiserror::Error)]
pub enum BoundsError {
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
    /// There are rules, and nobody knows by which bounds they were kept.
    #[error(
        "{} is missing, which says how long tokens were allowed to live when the rules of the log beside it were made. Put a \
         copy of it in its place; if there is none, and neither max_token_lifetime nor leeway of any issuer has grown since, \
         write the line \"{NONE}\" into it",
        .0.display()
    )]
    Missing(PathBuf),
    /// Not as it was written, or by a later version.
    #[error(
        "{} is damaged, or of another version of jotgate. It says how long tokens were allowed to live when the rules of the \
         log beside it were made. Put a copy of it in its place; if there is none, and neither max_token_lifetime nor leeway \
         of any issuer has grown since, write the line \"{NONE}\" into it",
        .0.display()
    )]
    Damaged(PathBuf),
    /// Nobody knows what is on disk.
    #[error("the bounds of token lives were not written to their end: {0}")]
    Unfinished(#[from] tokio::task::JoinError),
}

/// The bounds of every issuer, those of before included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    path: Option<PathBuf>,
    issuers: BTreeMap<Box<str>, Remembered>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Remembered {
    /// By which rules are kept.
    bound: Bound,
    /// Since when the configuration has asked for less in some part.
    wider_since: Option<UnixSeconds>,
    /// By which they were.
    earlier: Earlier,
    /// When it left the configuration.
    left: Option<UnixSeconds>,
}

impl Bounds {
    /// Those that are remembered beside the log.
    pub fn open(log: &Log) -> Result<Self, BoundsError> {
        let path = beside(log.path(), ".bounds");
        let issuers = match read_bounded(&path, FILE_BYTES_MAX) {
            Ok(content) => parse(&content).ok_or_else(|| BoundsError::Damaged(path.clone()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound && log.is_empty() => {
                BTreeMap::new()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BoundsError::Missing(path));
            }
            Err(source) => {
                return Err(BoundsError::Io {
                    path,
                    doing: "read",
                    source,
                });
            }
        };
        Ok(Self {
            path: Some(path),
            issuers,
        })
    }

    /// What is to be remembered when `lives` are in force from `now` on.
    #[must_use]
    pub fn then(&self, lives: &[IssuerLife], now: UnixSeconds) -> Self {
        let mut issuers = self.issuers.clone();
        for remembered in issuers.values_mut() {
            remembered.left.get_or_insert(now);
        }
        for life in lives {
            let before = issuers.remove(&*life.issuer);
            let remembered = Remembered::then(before, life.bound(), now);
            issuers.insert((&*life.issuer).into(), remembered);
        }
        let is_over =
            |left: Option<UnixSeconds>| left.is_some_and(|left| now.since(left) > LEFT_REMEMBERED);
        issuers.retain(|_, remembered| !is_over(remembered.left));
        Self {
            path: self.path.clone(),
            issuers,
        }
    }

    /// The bounds of before of one issuer.
    #[must_use]
    pub fn earlier(&self, issuer: &str) -> Earlier {
        self.issuers
            .get(issuer)
            .map_or_else(Earlier::default, |remembered| remembered.earlier.clone())
    }

    /// What rules of these issuers are kept by.
    #[must_use]
    pub fn lives(&self, configured: &[IssuerLife]) -> Vec<IssuerLife> {
        let kept = |life: &IssuerLife| {
            let remembered = self.issuers.get(&*life.issuer);
            let bound = remembered.map_or(life.bound(), |remembered| remembered.bound);
            IssuerLife {
                issuer: Arc::clone(&life.issuer),
                max_lifetime: bound.max_lifetime,
                leeway: bound.leeway,
            }
        };
        configured.iter().map(kept).collect()
    }

    /// Puts them on disk, where there is a log. Whoever reads the file, after a crash too, finds these or the ones before, whole.
    pub fn save(&self) -> Result<(), BoundsError> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        self.write(path).map_err(|source| BoundsError::Io {
            path: path.clone(),
            doing: "write",
            source,
        })
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let content = self.to_text()?;
        // What cannot be read again would keep the next start from going on.
        if content.len() > FILE_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut file = create_draft(path)?;
        file.write_all(&content)?;
        file.sync_all()?;
        publish_draft(path)
    }

    fn to_text(&self) -> io::Result<Vec<u8>> {
        let written: BTreeMap<&str, Written> = self
            .issuers
            .iter()
            .map(|(issuer, remembered)| (&**issuer, Written::from(remembered)))
            .collect();
        let json = serde_json::to_vec(&written)?;
        let mut content = format!("{MAGIC}{:08x}\n", crc32c(&json)).into_bytes();
        content.extend_from_slice(&json);
        content.push(b'\n');
        Ok(content)
    }
}

impl Remembered {
    fn then(before: Option<Self>, configured: Bound, now: UnixSeconds) -> Self {
        let Some(before) = before else {
            return Self {
                bound: configured,
                wider_since: None,
                earlier: Earlier::default(),
                left: None,
            };
        };
        let wider = before.bound.wider(configured);
        let wider_since =
            (wider != configured).then(|| before.wider_since.map_or(now, |since| since.min(now)));
        // The token that may live longest was issued just before the configuration asked for less.
        let is_over = wider_since
            .is_some_and(|since| now.since(since) > wider.whole().saturating_add(SETTLING));
        let bound = if is_over { configured } else { wider };
        Self {
            bound,
            wider_since: wider_since.filter(|_| !is_over),
            earlier: before.earlier.then(before.bound, bound, now),
            left: None,
        }
    }
}

/// An issuer as it stands in the file. All numbers are seconds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    max_lifetime: u64,
    leeway: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wider_since: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<WrittenStep>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenStep {
    issued_until: u64,
    max_lifetime: u64,
    leeway: u64,
}

impl From<&Remembered> for Written {
    fn from(remembered: &Remembered) -> Self {
        Self {
            max_lifetime: remembered.bound.max_lifetime.as_secs(),
            leeway: remembered.bound.leeway.as_secs(),
            wider_since: remembered.wider_since.map(|since| since.0),
            earlier: remembered
                .earlier
                .steps()
                .iter()
                .map(|step| WrittenStep {
                    issued_until: step.issued_until.0,
                    max_lifetime: step.bound.max_lifetime.as_secs(),
                    leeway: step.bound.leeway.as_secs(),
                })
                .collect(),
            left: remembered.left.map(|left| left.0),
        }
    }
}

fn parse(content: &[u8]) -> Option<BTreeMap<Box<str>, Remembered>> {
    let content = str::from_utf8(content).ok()?;
    if content.trim_end() == NONE {
        return Some(BTreeMap::new());
    }
    let (sum, json) = content.strip_prefix(MAGIC)?.split_once('\n')?;
    let json = json.strip_suffix('\n')?;
    if sum != format!("{:08x}", crc32c(json.as_bytes())) {
        return None;
    }
    let written: BTreeMap<Box<str>, Written> = serde_json::from_str(json).ok()?;
    written
        .into_iter()
        .map(|(issuer, written)| Some((issuer, remembered(&written)?)))
        .collect()
}

fn remembered(written: &Written) -> Option<Remembered> {
    let bound = |max_lifetime, leeway| Bound {
        max_lifetime: Duration::from_secs(max_lifetime),
        leeway: Duration::from_secs(leeway),
    };
    let steps: Vec<Step> = written
        .earlier
        .iter()
        .map(|step| Step {
            issued_until: UnixSeconds(step.issued_until),
            bound: bound(step.max_lifetime, step.leeway),
        })
        .collect();
    // The checksum says that we wrote it. This says that we could have.
    let rises = steps.is_sorted_by_key(|step| step.issued_until);
    (rises && steps.len() <= EARLIER_MAX).then(|| Remembered {
        bound: bound(written.max_lifetime, written.leeway),
        wider_since: written.wider_since.map(UnixSeconds),
        earlier: steps.into(),
        left: written.left.map(UnixSeconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denylist::index;

    const NOW: UnixSeconds = UnixSeconds(1_000_000);
    const LATER: UnixSeconds = UnixSeconds(2_000_000);

    fn life(issuer: &str, max_lifetime: u64) -> IssuerLife {
        IssuerLife {
            issuer: Arc::from(issuer),
            max_lifetime: Duration::from_secs(max_lifetime),
            leeway: Duration::from_secs(30),
        }
    }

    #[track_caller]
    fn check(bounds: &Bounds, issuer: &str, iat: UnixSeconds, current: u64, expected: u64) {
        let current = life(issuer, current).bound();
        let bound = bounds.earlier(issuer).bound(iat, current);
        assert_eq!(bound.max_lifetime.as_secs(), expected);
    }

    fn log(folder: &Path) -> Log {
        let histogram = crate::telemetry::metrics::Metrics::new().denylist_sync_seconds;
        Log::open(&folder.join("log"), None, &mut index(10).1, NOW, histogram).unwrap()
    }

    #[test]
    fn what_grows_is_remembered_for_its_issuer_alone() {
        let bounds = Bounds::default()
            .then(&[life("a", 100), life("b", 100)], NOW)
            .then(
                &[life("a", 500_000), life("b", 50), life("c", 500_000)],
                NOW,
            );
        check(&bounds, "a", NOW, 500_000, 100);
        check(&bounds, "b", NOW, 50, 50);
        check(&bounds, "b", NOW, 100, 100);
        check(&bounds, "c", NOW, 500_000, 500_000);
    }

    #[test]
    fn what_shrinks_is_kept_by_until_it_can_be_taken_back_no_more() {
        let kept = |bounds: &Bounds| bounds.lives(&[life("a", 100)])[0].max_lifetime.as_secs();
        let bounds = Bounds::default()
            .then(&[life("a", 1000)], NOW)
            .then(&[life("a", 100)], NOW);
        assert_eq!(kept(&bounds), 1000);
        let last = NOW.plus(SETTLING + Duration::from_secs(1030));
        let still = bounds.then(&[life("a", 100)], last);
        assert_eq!(kept(&still), 1000);
        check(&still.then(&[life("a", 1000)], last), "a", NOW, 1000, 1000);
        let over = last.plus(Duration::from_secs(1));
        let narrow = still.then(&[life("a", 100)], over);
        assert_eq!(kept(&narrow), 100);
        check(&narrow.then(&[life("a", 1000)], over), "a", over, 1000, 100);
        // One part grows while the other shrinks.
        let other = IssuerLife {
            leeway: Duration::from_mins(1),
            ..life("a", 500)
        };
        let mixed = bounds.then(std::slice::from_ref(&other), last);
        let both = mixed.lives(&[other])[0].bound();
        assert_eq!(
            (both.max_lifetime.as_secs(), both.leeway.as_secs()),
            (1000, 60)
        );
    }

    #[test]
    fn an_issuer_that_comes_back_is_held_to_what_it_left_with() {
        let long = 400 * 24 * 3600;
        let back = |after: Duration| {
            Bounds::default()
                .then(&[life("a", 100)], NOW)
                .then(&[], NOW)
                .then(&[], NOW.plus(after))
                .then(&[life("a", long)], NOW.plus(after))
        };
        check(&back(LEFT_REMEMBERED), "a", NOW, long, 100);
        let over = LEFT_REMEMBERED + Duration::from_secs(1);
        check(&back(over), "a", NOW, long, long);
    }

    #[test]
    fn they_come_back_from_disk_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path());
        let bounds = Bounds::open(&log).unwrap();
        assert!(bounds.issuers.is_empty());
        let bounds = bounds
            .then(&[life("a \"\n", 1000), life("b", 1)], NOW)
            .then(&[life("a \"\n", 2_000_000)], LATER)
            .then(&[life("a \"\n", 3_000_000)], LATER)
            .then(&[life("a \"\n", 10)], LATER);
        bounds.save().unwrap();
        let read = Bounds::open(&log).unwrap();
        assert_eq!(read, bounds);
        check(&read, "a \"\n", LATER, 3_000_000, 1000);
    }

    #[test]
    fn any_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path());
        let bounds = Bounds::open(&log)
            .unwrap()
            .then(&[life("a", 1000)], NOW)
            .then(&[life("a", 2_000_000)], LATER);
        bounds.save().unwrap();
        let path = folder.path().join("log.bounds");
        let whole = std::fs::read(&path).unwrap();
        let is_damaged = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            matches!(Bounds::open(&log), Err(BoundsError::Damaged(_)))
        };
        assert!(!is_damaged(&whole));
        for at in 0..whole.len() {
            assert!(is_damaged(&whole[..at]), "cut at {at}");
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            assert!(is_damaged(&flipped), "flipped at {at}");
        }
        assert!(is_damaged(b""));
        assert!(!is_damaged(b"jotgate bounds none\n"));
        assert!(Bounds::open(&log).unwrap().issuers.is_empty());
    }

    #[test]
    fn steps_that_we_never_write_are_damage_whatever_the_checksum_says() {
        let is_good = |steps: &[u64]| {
            let step =
                |until: &u64| format!(r#"{{"issued_until":{until},"max_lifetime":1,"leeway":0}}"#);
            let steps: Vec<_> = steps.iter().map(step).collect();
            let earlier = steps.join(",");
            let json = format!(r#"{{"a":{{"max_lifetime":9,"leeway":0,"earlier":[{earlier}]}}}}"#);
            parse(format!("{MAGIC}{:08x}\n{json}\n", crc32c(json.as_bytes())).as_bytes()).is_some()
        };
        assert!(is_good(&[1, 2, 3]));
        assert!(!is_good(&[1, 3, 2]));
        let most: Vec<u64> = (0..EARLIER_MAX as u64).collect();
        assert!(is_good(&most));
        assert!(!is_good(&[&most[..], &[99]].concat()));
    }

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path());
        let named = |len: usize| {
            let name = "x".repeat(len);
            Bounds::open(&log).unwrap().then(&[life(&name, 1)], NOW)
        };
        let nameless = named(0);
        let room = FILE_BYTES_MAX - nameless.to_text().unwrap().len();
        let too_large = named(room + 1);
        let largest = named(room);
        largest.save().unwrap();
        let Err(BoundsError::Io { source, .. }) = too_large.save() else {
            panic!("it was written");
        };
        assert_eq!(source.kind(), io::ErrorKind::FileTooLarge);
        assert!(Bounds::open(&log).unwrap() == largest, "and is as it was");
    }

    #[test]
    fn what_cannot_be_written_is_an_error_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path());
        let bounds = Bounds::open(&log).unwrap().then(&[life("a", 1)], NOW);
        bounds.save().unwrap();
        // Nobody can write a file where a folder is.
        std::fs::create_dir(folder.path().join("log.bounds.new")).unwrap();
        let next = bounds.then(&[life("a", 2)], NOW);
        assert!(matches!(next.save(), Err(BoundsError::Io { .. })));
        assert_eq!(Bounds::open(&log).unwrap(), bounds);
    }
}
