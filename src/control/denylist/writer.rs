//! The task that owns the denylist: writes rules, keeps what they mean, forgets what is over.
//!
//! The way of a rule: log, relay, apply, acknowledge. This gateway has neither log nor relay, so a rule is applied and
//! acknowledged. What is not acknowledged may be lost; what is acknowledged denies every request that starts later.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::order::Order;
use super::record::{Origin, Outcome, Record, RuleId};
use crate::base::clock::{Clock, UnixSeconds};
use crate::denylist::{
    Fingerprint, Fingerprinter, Full, IndexWriter, Kind, Rule, SHARDS, TokenKeys, shard_range,
};

/// One of the 64 shards is swept in each step, so a rule is forgotten about a minute after its end, and no step is long.
const SWEEP_STEP: Duration = Duration::from_secs(1);

/// Rules are kept this much longer than they say: the largest leeway. A token dated ahead by as much as the leeway
/// allows lives that much longer, and clocks are put right now and then.
const KEPT_LONGER: Duration = Duration::from_mins(5);

/// Most records looked at for one page of a list, so that a search for something rare does not hold up revocations.
const LOOKED_AT_MAX: usize = 20_000;

/// Requests that wait for the writer. More wait at their own end.
pub(super) const INBOX: usize = 64;

/// The writer's task has ended: the gateway is shutting down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gateway is stopping")]
pub struct Stopped;

/// Why nothing was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevokeError {
    /// No room.
    #[error(transparent)]
    Full(#[from] Full),
    /// Too late.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Why nothing was lifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LiftError {
    /// No such rule.
    #[error("there is no such rule")]
    Unknown,
    /// Tokens, sessions and users are revoked for good.
    #[error("the rule ends by itself and cannot be taken back; the cure is a new login")]
    NotStanding,
    /// Too late.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Which rules to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Of one kind only.
    pub kind: Option<Kind>,
    /// Of one issuer only.
    pub issuer: Option<String>,
    /// With this value only.
    pub value: Option<String>,
    /// Those after this one.
    pub after: Option<RuleId>,
    /// At most so many.
    pub limit: usize,
}

impl Query {
    fn matches(&self, record: &Record) -> bool {
        self.kind.is_none_or(|kind| record.id.kind == kind)
            && self
                .issuer
                .as_deref()
                .is_none_or(|issuer| *record.issuer == *issuer)
            && (self.value.is_none() || record.value.as_deref() == self.value.as_deref())
    }
}

/// A part of the list. It may be short, or even empty, while there is more.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// In the order of their fingerprints.
    pub records: Vec<Record>,
    /// Where to go on; None at the end.
    pub next: Option<RuleId>,
}

/// What the denylist says of one token.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Every rule that denies it, the narrowest first.
    pub denied_by: Vec<Record>,
}

pub(super) enum Message {
    Write {
        orders: Vec<Order>,
        origin: Origin,
        answer: oneshot::Sender<Result<Vec<Outcome>, Full>>,
    },
    Lift {
        id: RuleId,
        origin: Origin,
        answer: oneshot::Sender<Result<Option<Record>, LiftError>>,
    },
    Read {
        id: RuleId,
        answer: oneshot::Sender<Option<Record>>,
    },
    List {
        query: Query,
        answer: oneshot::Sender<Page>,
    },
    Check {
        keys: TokenKeys,
        answer: oneshot::Sender<Verdict>,
    },
}

/// The one writer. Give it a task: [`Writer::run`].
pub struct Writer {
    index: IndexWriter,
    /// One for each entry of the index.
    records: BTreeMap<RuleId, Record>,
    fingerprinter: Fingerprinter,
    clock: Clock,
    inbox: mpsc::Receiver<Message>,
    next_shard: usize,
    /// When everything was last swept because there was no room.
    swept_all_at: Option<UnixSeconds>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("index", &self.index)
            .field("records", &self.records.len())
            .finish_non_exhaustive()
    }
}

impl Writer {
    pub(super) fn new(
        index: IndexWriter,
        fingerprinter: Fingerprinter,
        clock: Clock,
        inbox: mpsc::Receiver<Message>,
    ) -> Self {
        Self {
            index,
            records: BTreeMap::new(),
            fingerprinter,
            clock,
            inbox,
            next_shard: 0,
            swept_all_at: None,
        }
    }

    /// Works until shutdown, and then finishes what was already asked.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut steps = tokio::time::interval(SWEEP_STEP);
        steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => self.inbox.close(),
                _ = steps.tick() => {
                    self.sweep();
                    continue;
                }
                message = self.inbox.recv() => match message {
                    Some(message) => {
                        self.handle(message);
                        continue;
                    }
                    None => return,
                },
            }
            while let Some(message) = self.inbox.recv().await {
                self.handle(message);
            }
            return;
        }
    }

    /// Who no longer waits for an answer has not undone the question: the answer may go nowhere.
    fn handle(&mut self, message: Message) {
        match message {
            Message::Write {
                orders,
                origin,
                answer,
            } => {
                let _ = answer.send(self.write(&orders, &origin));
            }
            Message::Lift { id, origin, answer } => {
                let _ = answer.send(self.lift(id, &origin));
            }
            Message::Read { id, answer } => {
                let _ = answer.send(self.records.get(&id).cloned());
            }
            Message::List { query, answer } => {
                let _ = answer.send(self.list(&query));
            }
            Message::Check { keys, answer } => {
                let _ = answer.send(self.check(&keys));
            }
        }
    }

    /// All orders or none.
    fn write(&mut self, orders: &[Order], origin: &Origin) -> Result<Vec<Outcome>, Full> {
        let now = self.clock.now();
        let rules: Vec<Rule> = orders
            .iter()
            .filter(|order| !order.dry_run)
            .map(Order::rule)
            .collect();
        if !rules.is_empty() {
            self.apply(&rules, now)?;
        }
        Ok(orders
            .iter()
            .map(|order| self.note(order, origin, now))
            .collect())
    }

    /// Makes the rules visible to every request that starts from now on.
    fn apply(&mut self, rules: &[Rule], now: UnixSeconds) -> Result<(), Full> {
        match self.index.apply(rules) {
            Err(_) if self.swept_all_at != Some(now) => {
                self.swept_all_at = Some(now);
                self.index.sweep_all(now.minus(KEPT_LONGER));
                for shard in 0..SHARDS {
                    self.forget(shard, now);
                }
                self.index.apply(rules)
            }
            result => result,
        }
        .inspect_err(|full| {
            tracing::error!(
                entries_max = full.entries_max,
                "revocations are refused: the denylist is full; raise denylist.max_entries"
            );
        })
    }

    /// Keeps what an order means, and writes the audit line.
    fn note(&mut self, order: &Order, origin: &Origin, now: UnixSeconds) -> Outcome {
        let known = self.records.get(&order.id);
        let created = known.is_none();
        let record = match known {
            None => Record::new(order, origin, now),
            Some(known) => {
                let mut merged = known.clone();
                merged.merge(order, origin, now);
                merged
            }
        };
        if !order.dry_run {
            audit("revoke", &record, order.reason.as_deref(), origin);
            self.records.insert(order.id, record.clone());
        }
        Outcome {
            record,
            created,
            dry_run: order.dry_run,
        }
    }

    /// Takes back the standing part of a rule. What is left ends by itself.
    fn lift(&mut self, id: RuleId, origin: &Origin) -> Result<Option<Record>, LiftError> {
        let record = self.records.get(&id).ok_or(LiftError::Unknown)?;
        if !record.is_standing() {
            return Err(LiftError::NotStanding);
        }
        let rest = record.without_standing(self.clock.now().minus(KEPT_LONGER));
        self.index
            .lift(id.kind, id.fingerprint, rest.as_ref().map(Record::span));
        audit("lift", record, None, origin);
        match &rest {
            Some(rest) => self.records.insert(id, rest.clone()),
            None => self.records.remove(&id),
        };
        Ok(rest)
    }

    fn list(&self, query: &Query) -> Page {
        if let Some(ids) = self.ids_named(query) {
            let records = ids
                .into_iter()
                .filter(|id| query.after.is_none_or(|after| *id > after))
                .filter_map(|id| self.records.get(&id))
                .filter(|record| query.matches(record))
                .cloned()
                .collect();
            return Page {
                records,
                next: None,
            };
        }
        let mut page = Page::default();
        let start = query.after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = None;
        for (looked_at, (id, record)) in self.records.range((start, Bound::Unbounded)).enumerate() {
            if page.records.len() == query.limit || looked_at == LOOKED_AT_MAX {
                page.next = last;
                break;
            }
            if query.matches(record) {
                page.records.push(record.clone());
            }
            last = Some(*id);
        }
        page
    }

    /// The keys that a query can mean when it says everything, so that "is this user revoked?" needs no search.
    fn ids_named(&self, query: &Query) -> Option<Vec<RuleId>> {
        let kind = query.kind?;
        let issuer = query.issuer.as_deref()?;
        let value = match (&query.value, kind) {
            (Some(value), _) => value,
            (None, Kind::Issuer) => "",
            (None, Kind::Token | Kind::Session | Kind::User | Kind::Client | Kind::Key) => {
                return None;
            }
        };
        let mut ids = vec![self.fingerprinter.of(kind, issuer, value)];
        // The value of a token without `jti` is its fingerprint.
        if let (Kind::Token, Ok(bits)) = (kind, u128::from_str_radix(value, 16)) {
            ids.push(Fingerprint::from_bits(bits));
        }
        ids.sort_unstable();
        Some(
            ids.into_iter()
                .map(|fingerprint| RuleId { fingerprint, kind })
                .collect(),
        )
    }

    fn check(&self, keys: &TokenKeys) -> Verdict {
        let denied_by = keys
            .iter()
            .filter_map(|(kind, fingerprint)| self.index.index().rule(kind, fingerprint))
            .filter(|rule| rule.denies(keys))
            .filter_map(|rule| {
                self.records.get(&RuleId {
                    fingerprint: rule.fingerprint,
                    kind: rule.kind,
                })
            })
            .cloned()
            .collect();
        Verdict { denied_by }
    }

    /// One step of the round.
    fn sweep(&mut self) {
        let now = self.clock.now();
        let shard = self.next_shard;
        self.next_shard = (shard + 1) % SHARDS;
        self.index.sweep(shard, now.minus(KEPT_LONGER));
        self.forget(shard, now);
    }

    /// Drops the records whose rules the index has forgotten.
    fn forget(&mut self, shard: usize, now: UnixSeconds) {
        let (first, last) = shard_range(shard).into_inner();
        let ids = RuleId {
            fingerprint: first,
            kind: Kind::ALL[0],
        }..=RuleId {
            fingerprint: last,
            kind: Kind::ALL[Kind::ALL.len() - 1],
        };
        let index = self.index.index();
        self.records
            .extract_if(ids, |id, record| {
                record.span().until.is_over(now) && index.rule(id.kind, id.fingerprint).is_none()
            })
            .for_each(drop);
    }
}

/// Who, by which way, what, why, until: one line for each accepted rule.
fn audit(event: &str, record: &Record, reason: Option<&str>, origin: &Origin) {
    let span = record.span();
    tracing::info!(
        target: "jotgate::audit",
        event,
        by = &*origin.by,
        way = origin.way.as_str(),
        id = %record.id,
        kind = record.id.kind.as_str(),
        iss = &*record.issuer,
        value = record.value.as_deref(),
        reason,
        cutoff = span.cutoff.instant().map(|at| at.0),
        until = span.until.instant().map(|at| at.0),
        standing = record.is_standing(),
    );
}
