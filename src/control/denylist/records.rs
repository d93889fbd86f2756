//! What the rules mean to people, one record for each entry of the index: on disk where there is a log, else in memory.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use foldhash::fast::RandomState;
use tokio::sync::oneshot;

use super::log::{self, Adoption, CommitError, Edition, Log, Unreadable};
use super::record::{Record, RuleId};
use super::writer::{Page, Query};
use crate::base::clock::UnixSeconds;
use crate::denylist::Rule;

/// Most records looked at for one page of a list, so that a search for something rare ends.
const LOOKED_AT_MAX: usize = 20_000;

/// The records of all rules.
#[derive(Debug)]
pub(super) enum Records {
    Memory(BTreeMap<RuleId, Arc<Record>>),
    Log(Box<Log>),
}

/// What a group says of one rule, and where that lies in its bytes. No record: the rule is gone.
type Stage = (Option<Arc<Record>>, usize);

/// Changes that are written together, and become true together.
pub(super) struct Group {
    /// What the log gets. None without a log.
    bytes: Option<Vec<u8>>,
    length: u64,
    /// The last state of each rule in it. A rule's fingerprint is a keyed hash already.
    staged: HashMap<RuleId, Stage, RandomState>,
    /// What each change put out of its place, in order, so that a change that cannot be made whole is taken back whole.
    journal: Vec<(RuleId, Option<Stage>)>,
    /// For all of which there must be room.
    pub(super) rules: Vec<Rule>,
}

/// How far a group had come.
pub(super) struct Mark {
    length: usize,
    changes: usize,
    rules: usize,
}

/// What a group says of a rule.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Staged<'a> {
    Nothing,
    Gone,
    Is(&'a Arc<Record>),
}

impl Group {
    /// How much it will write.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.as_ref().map_or(0, Vec::len)
    }

    /// What it says of that rule.
    pub(super) fn staged(&self, id: RuleId) -> Staged<'_> {
        match self.staged.get(&id) {
            None => Staged::Nothing,
            Some((None, _)) => Staged::Gone,
            Some((Some(record), _)) => Staged::Is(record),
        }
    }

    pub(super) fn put(&mut self, record: Arc<Record>) {
        let at = self.write(|bytes, first| log::encode(bytes, &record, first));
        self.stage(record.id, (Some(record), at));
    }

    pub(super) fn take(&mut self, id: RuleId, now: UnixSeconds) {
        let at = self.write(|bytes, first| log::encode_gone(bytes, id, now, first));
        self.stage(id, (None, at));
    }

    /// Where to go back to with [`Group::undo`].
    pub(super) fn mark(&self) -> Mark {
        Mark {
            length: self.bytes(),
            changes: self.journal.len(),
            rules: self.rules.len(),
        }
    }

    /// Takes back everything since the mark.
    pub(super) fn undo(&mut self, mark: &Mark) {
        for (id, before) in self.journal.drain(mark.changes..).rev() {
            match before {
                Some(before) => self.staged.insert(id, before),
                None => self.staged.remove(&id),
            };
        }
        if let Some(bytes) = &mut self.bytes {
            bytes.truncate(mark.length);
            self.length = bytes.len() as u64;
        }
        self.rules.truncate(mark.rules);
    }

    fn stage(&mut self, id: RuleId, stage: Stage) {
        let before = self.staged.insert(id, stage);
        self.journal.push((id, before));
    }

    fn write(&mut self, encode: impl FnOnce(&mut Vec<u8>, bool)) -> usize {
        let Some(bytes) = &mut self.bytes else {
            return 0;
        };
        let at = bytes.len();
        encode(bytes, at == 0);
        self.length = bytes.len() as u64;
        at
    }
}

impl Records {
    pub(super) fn in_memory() -> Self {
        Self::Memory(BTreeMap::new())
    }

    pub(super) fn on_disk(log: Log) -> Self {
        Self::Log(Box::new(log))
    }

    /// An empty group.
    pub(super) fn group(&self) -> Group {
        Group {
            bytes: matches!(self, Self::Log(_)).then(Vec::new),
            length: 0,
            staged: HashMap::default(),
            journal: vec![],
            rules: vec![],
        }
    }

    pub(super) fn get(&self, id: RuleId) -> Result<Option<Record>, Unreadable> {
        match self {
            Self::Memory(records) => Ok(records.get(&id).map(|record| Record::clone(record))),
            Self::Log(log) => log.get(id),
        }
    }

    /// Begins to write the group. None if there is nothing to write.
    pub(super) fn commit(
        &self,
        group: &mut Group,
    ) -> Option<oneshot::Receiver<Result<u64, CommitError>>> {
        let bytes = group.bytes.take().filter(|bytes| !bytes.is_empty())?;
        match self {
            Self::Memory(_) => None,
            Self::Log(log) => Some(log.append(bytes)),
        }
    }

    /// Takes over the group that lies at `offset` of the log. `known` says which rules were there before.
    pub(super) fn note(&mut self, group: Group, offset: u64, known: impl Fn(RuleId) -> bool) {
        match self {
            Self::Memory(records) => {
                for (id, (record, _)) in group.staged {
                    match record {
                        Some(record) => records.insert(id, record),
                        None => records.remove(&id),
                    };
                }
            }
            Self::Log(log) => {
                if !group.journal.is_empty() {
                    log.count(group.journal.len() as u64, offset + group.length);
                }
                for (id, (record, at)) in group.staged {
                    let known = known(id);
                    if record.is_some() {
                        log.note(id, offset + at as u64, known);
                    } else if known {
                        log.forget(id);
                    }
                }
            }
        }
    }

    /// Drops the record of a rule that the index has forgotten.
    pub(super) fn forget(&mut self, id: RuleId) {
        match self {
            Self::Memory(records) => drop(records.remove(&id)),
            Self::Log(log) => log.forget(id),
        }
    }

    /// Looks for a page. Reading a log for that takes a while, so somebody else does it.
    pub(super) fn list(&self, query: Query, answer: oneshot::Sender<Result<Page, Unreadable>>) {
        match self {
            Self::Memory(records) => {
                let start = query.after.map_or(Bound::Unbounded, Bound::Excluded);
                let records = records.range((start, Bound::Unbounded));
                let _ = answer.send(page(&query, records.map(|(_, record)| Ok(&**record))));
            }
            Self::Log(log) => {
                // One more than is looked at, so that the page knows that there is more; and the one that `after` names.
                let spots = log.spots(query.after, LOOKED_AT_MAX + 2);
                tokio::task::spawn_blocking(move || answer.send(page(&query, spots.records())));
            }
        }
    }

    /// See [`Log::compact_if_it_pays`].
    pub(super) fn compact_if_it_pays(&mut self, entries: usize) {
        if let Self::Log(log) = self {
            log.compact_if_it_pays(entries);
        }
    }

    /// See [`Log::rewritten`].
    pub(super) async fn rewritten(&mut self) -> Option<Edition> {
        match self {
            Self::Memory(_) => std::future::pending().await,
            Self::Log(log) => log.rewritten().await,
        }
    }

    /// See [`Log::adopt`].
    pub(super) fn adopt(&self, edition: Edition) -> Option<Adoption> {
        match self {
            Self::Memory(_) => None,
            Self::Log(log) => Some(log.adopt(edition)),
        }
    }

    /// See [`Log::turn_to`].
    pub(super) fn turn_to(&mut self, adoption: Adoption, is_gone: impl Fn(RuleId) -> bool) {
        if let Self::Log(log) = self {
            log.turn_to(adoption, is_gone);
        }
    }
}

/// The first records that the query means.
fn page<R: Borrow<Record>>(
    query: &Query,
    records: impl Iterator<Item = Result<R, Unreadable>>,
) -> Result<Page, Unreadable> {
    let mut page = Page::default();
    let mut last = None;
    for (looked_at, record) in records.enumerate() {
        if page.records.len() == query.limit || looked_at == LOOKED_AT_MAX {
            page.next = last;
            break;
        }
        let record = record?;
        let record = record.borrow();
        if query.matches(record) {
            page.records.push(record.clone());
        }
        last = Some(record.id);
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::super::order::{IssuerLife, Order};
    use super::super::record::{Origin, Way};
    use super::*;
    use crate::denylist::{Fingerprinter, Kind};

    fn record(user: &str, reason: &str) -> Arc<Record> {
        let life = IssuerLife {
            issuer: "https://id".into(),
            max_lifetime: std::time::Duration::from_hours(1),
            leeway: std::time::Duration::ZERO,
        };
        let now = UnixSeconds(1_000_000);
        let order = Order {
            reason: Some(reason.into()),
            ..Order::named(
                &Fingerprinter::new(&[1; 16]),
                &life,
                (Kind::User, user),
                None,
                false,
                now,
            )
        };
        let origin = Origin {
            by: "ops".into(),
            way: Way::AdminApi,
        };
        Arc::new(Record::new(&order, &origin, now))
    }

    #[test]
    fn a_change_that_is_taken_back_leaves_the_group_as_it_was() {
        let mut group = Group {
            bytes: Some(vec![]),
            length: 0,
            staged: HashMap::default(),
            journal: vec![],
            rules: vec![],
        };
        let (alice, bob) = (record("alice", "first"), record("bob", "first"));
        group.put(Arc::clone(&alice));
        group.rules.push(alice.rule());
        let (mark, bytes) = (group.mark(), group.bytes.clone());

        group.put(record("alice", "second"));
        group.put(Arc::clone(&bob));
        group.take(alice.id, UnixSeconds(1_000_001));
        group.rules.push(bob.rule());
        assert_eq!(group.staged(alice.id), Staged::Gone);
        group.undo(&mark);

        assert_eq!(group.staged(alice.id), Staged::Is(&alice));
        assert_eq!(group.staged(bob.id), Staged::Nothing);
        assert_eq!(group.bytes, bytes);
        assert_eq!(group.length, bytes.unwrap().len() as u64);
        assert_eq!((group.journal.len(), group.rules.len()), (1, 1));
    }
}
