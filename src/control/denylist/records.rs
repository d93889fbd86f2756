//! What the rules mean to people, one record for each entry of the index: on disk where there is a log, else in memory.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

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
    Memory(BTreeMap<RuleId, Record>),
    Log(Box<Log>),
}

/// Changes that are written together, and become true together.
pub(super) struct Group {
    /// What the log gets. None without a log.
    bytes: Option<Vec<u8>>,
    records: u64,
    length: u64,
    /// The last state of each rule in it, and where it lies in `bytes`. None: the rule is gone.
    staged: HashMap<RuleId, (Option<Record>, usize)>,
    /// For all of which there must be room.
    pub(super) rules: Vec<Rule>,
}

/// What a group says of a rule.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Staged<'a> {
    Nothing,
    Gone,
    Is(&'a Record),
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

    pub(super) fn put(&mut self, record: Record) {
        let at = self.write(|bytes, first| log::encode(bytes, &record, first));
        self.staged.insert(record.id, (Some(record), at));
    }

    pub(super) fn take(&mut self, id: RuleId, now: UnixSeconds) {
        let at = self.write(|bytes, first| log::encode_gone(bytes, id, now, first));
        self.staged.insert(id, (None, at));
    }

    fn write(&mut self, encode: impl FnOnce(&mut Vec<u8>, bool)) -> usize {
        self.records += 1;
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
            records: 0,
            length: 0,
            staged: HashMap::new(),
            rules: vec![],
        }
    }

    pub(super) fn get(&self, id: RuleId) -> Result<Option<Record>, Unreadable> {
        match self {
            Self::Memory(records) => Ok(records.get(&id).cloned()),
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
                if group.records > 0 {
                    log.count(group.records, offset + group.length);
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
                let _ = answer.send(page(&query, records.map(|(_, record)| Ok(record))));
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
