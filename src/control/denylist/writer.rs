//! The task that owns the denylist: writes rules, keeps what they mean, forgets what is over.
//!
//! The way of a rule: log, apply, acknowledge; in a fleet the relay takes it from the outbox then, and whoever asked waits for as
//! much as it wants. What is not acknowledged may be lost; what is acknowledged denies every request that starts later, and with a log
//! also after a restart. What comes from other gateways goes the same way, but not back.
//!
//! Changes that come while the log syncs wait, and then share the next sync. One group is under way at a time, so what a
//! change finds is what was acknowledged, or what stands before it in its own group.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::log::{Adoption, CommitError, Edition, Log, Unreadable};
use super::order::Order;
use super::record::{Origin, Outcome, Record, RuleId};
use super::records::{Group, Records, Staged};
use super::relay::Ways;
use super::standing::Standing;
use crate::base::clock::{Clock, UnixSeconds};
use crate::denylist::{
    Fingerprint, Fingerprinter, Full, IndexWriter, Kind, Rule, SHARDS, SetAt, TokenKeys,
};
use crate::telemetry::audit;

/// One of the 64 shards is swept in each step, so a rule is forgotten about a minute after its end, and no step is long.
const SWEEP_STEP: Duration = Duration::from_secs(1);

/// Rules are kept this much longer than they say: the largest leeway. A token dated ahead by as much as the leeway
/// allows lives that much longer, and clocks are put right now and then.
pub(super) const KEPT_LONGER: Duration = Duration::from_mins(5);

/// In a fleet a lift is remembered for so long. A gateway that was away for longer, and comes back with its log, brings the order back.
pub(super) const LIFT_KEPT: Duration = Duration::from_hours(30 * 24);

/// Changes that wait for a sync. More wait in the inbox.
const WAITING_MAX: usize = 1024;

/// A group takes no more changes when it has so many bytes: a sync of this takes milliseconds.
const GROUP_BYTES: usize = 4 * 1024 * 1024;

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
    /// Not written to the log.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// What was known of the rule is needed, and lost.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
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
    /// Not written to the log.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// What was known of the rule is needed, and lost.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// Too late.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Why there is nothing to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It is there, and cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
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
    /// Also those that were lifted, which only other gateways need to know.
    pub with_lifted: bool,
}

impl Query {
    pub(super) fn matches(&self, record: &Record) -> bool {
        (self.with_lifted || !record.is_lifted())
            && self.kind.is_none_or(|kind| record.id.kind == kind)
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

/// Orders that were written.
#[derive(Clone, Debug)]
pub struct Written {
    /// One for each order.
    pub outcomes: Vec<Outcome>,
    /// Counts the groups of this gateway's changes; the relay says how far it has come.
    pub sequence: u64,
}

/// A standing order that was lifted.
#[derive(Clone, Debug)]
pub struct Lifted {
    /// What is left of the rule, if anything is.
    pub rest: Option<Record>,
    /// See [`Written::sequence`].
    pub sequence: u64,
}

/// What the denylist says of one token.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Every rule that denies it, the narrowest first.
    pub denied_by: Vec<Record>,
}

pub(super) enum Message {
    Change(Change),
    Read {
        id: RuleId,
        answer: oneshot::Sender<Result<Option<Record>, Unreadable>>,
    },
    /// Also one that was lifted.
    Recall {
        id: RuleId,
        answer: oneshot::Sender<Result<Option<Record>, Unreadable>>,
    },
    List {
        query: Query,
        answer: oneshot::Sender<Result<Page, Unreadable>>,
    },
    Check {
        keys: TokenKeys,
        answer: oneshot::Sender<Result<Verdict, Unreadable>>,
    },
}

/// What takes a sync.
pub(super) enum Change {
    Write {
        orders: Vec<Order>,
        origin: Origin,
        answer: oneshot::Sender<Result<Written, RevokeError>>,
    },
    Lift {
        id: RuleId,
        origin: Origin,
        answer: oneshot::Sender<Result<Lifted, LiftError>>,
    },
    /// What other gateways wrote.
    Merge {
        records: Vec<Record>,
        answer: oneshot::Sender<Result<Vec<RuleId>, MergeError>>,
    },
}

/// Why rules of other gateways were not taken over. Each of them denies less here than it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MergeError {
    /// No room.
    #[error(transparent)]
    Full(#[from] Full),
    /// Not written to the log.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// What was known of a rule is needed, and lost.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// Too late.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl Change {
    /// Who no longer waits for an answer has not undone the question: the answer may go nowhere.
    fn refuse(self, error: CommitError) {
        match self {
            Self::Write { answer, .. } => drop(answer.send(Err(error.into()))),
            Self::Lift { answer, .. } => drop(answer.send(Err(error.into()))),
            Self::Merge { answer, .. } => drop(answer.send(Err(error.into()))),
        }
    }
}

/// A change whose outcome is known, and that is done when its group is on disk.
enum Step {
    Written {
        orders: Vec<Order>,
        outcomes: Vec<Outcome>,
        origin: Origin,
        answer: oneshot::Sender<Result<Written, RevokeError>>,
    },
    Lifted {
        lifted: Arc<Record>,
        rest: Option<Record>,
        origin: Origin,
        answer: oneshot::Sender<Result<Lifted, LiftError>>,
    },
    Merged {
        rules: Vec<Rule>,
        covered: Vec<RuleId>,
        answer: oneshot::Sender<Result<Vec<RuleId>, MergeError>>,
    },
}

/// What the log is doing.
enum Busy {
    Idle,
    /// Writes a group.
    Commit {
        steps: Vec<Step>,
        group: Group,
        done: oneshot::Receiver<Result<u64, CommitError>>,
    },
    /// Changes places with its next edition. Places of records move, so no group is written meanwhile.
    Adopt(Adoption),
}

/// Tells how long tokens of an issuer may pass after they were issued; None if it is not configured.
pub(super) type Lives = Box<dyn Fn(&str) -> Option<Duration> + Send + Sync>;

/// The one writer. Give it a task: [`Writer::run`].
pub struct Writer {
    index: IndexWriter,
    /// One for each entry of the index.
    records: Records,
    fingerprinter: Fingerprinter,
    clock: Clock,
    inbox: mpsc::Receiver<Message>,
    /// None: this gateway stands alone.
    fleet: Option<Ways>,
    /// How long tokens of an issuer may pass here after they were issued.
    lives: Lives,
    /// Cancelled when nothing can be acknowledged any more.
    failed: CancellationToken,
    waiting: VecDeque<Change>,
    busy: Busy,
    /// Ready to be adopted.
    edition: Option<Edition>,
    next_shard: usize,
    /// Groups finished.
    sequence: u64,
    /// When everything was last swept because there was no room.
    swept_all_at: Option<UnixSeconds>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("index", &self.index)
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}

/// What happened while the writer waited.
enum Event {
    Shutdown,
    Tick,
    /// The outbox is no longer crowded.
    Room,
    Committed(Result<u64, CommitError>),
    Adopted(Result<(), CommitError>),
    Rewritten(Option<Edition>),
    Asked(Option<Message>),
}

impl Writer {
    pub(super) fn new(
        index: IndexWriter,
        log: Option<Log>,
        fingerprinter: Fingerprinter,
        clock: Clock,
        inbox: mpsc::Receiver<Message>,
        fleet: Option<Ways>,
        lives: Lives,
    ) -> Self {
        Self {
            index,
            records: log.map_or_else(Records::in_memory, Records::on_disk),
            fingerprinter,
            clock,
            inbox,
            fleet,
            lives,
            failed: CancellationToken::new(),
            waiting: VecDeque::new(),
            busy: Busy::Idle,
            edition: None,
            next_shard: 0,
            sequence: 0,
            swept_all_at: None,
        }
    }

    /// Goes on where another one ended.
    #[cfg(test)]
    pub(super) fn remember(&mut self, records: Records) {
        self.records = records;
    }

    /// Cancelled when the log has failed: nothing is acknowledged any more, and the gateway should end.
    #[must_use]
    pub fn failed(&self) -> CancellationToken {
        self.failed.clone()
    }

    /// Works until shutdown, and then finishes what was already asked.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut steps = tokio::time::interval(SWEEP_STEP);
        steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut closing, mut open) = (false, true);
        loop {
            self.work();
            let busy = !matches!(self.busy, Busy::Idle);
            if !open && !busy && self.waiting.is_empty() {
                return;
            }
            let crowded = self
                .fleet
                .as_ref()
                .is_some_and(|ways| ways.outbox.is_crowded());
            let has_room = self.waiting.len() < WAITING_MAX;
            let event = tokio::select! {
                () = shutdown.cancelled(), if !closing => Event::Shutdown,
                _ = steps.tick() => Event::Tick,
                event = done(&mut self.busy), if busy => event,
                edition = self.records.rewritten() => Event::Rewritten(edition),
                event = from_fleet(self.fleet.as_mut(), crowded), if has_room => event,
                message = self.inbox.recv(), if open && !crowded && has_room => Event::Asked(message),
            };
            match event {
                Event::Shutdown => {
                    closing = true;
                    self.inbox.close();
                }
                Event::Room => {}
                Event::Tick => self.sweep(),
                Event::Committed(result) => self.committed(result),
                Event::Adopted(result) => self.adopted(result),
                Event::Rewritten(edition) => self.edition = edition,
                Event::Asked(Some(message)) => self.handle(message),
                Event::Asked(None) => open = false,
            }
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Change(change) => {
                self.waiting.push_back(change);
                // What is there already shares the group.
                while self.waiting.len() < WAITING_MAX
                    && let Ok(message) = self.inbox.try_recv()
                {
                    match message {
                        Message::Change(change) => self.waiting.push_back(change),
                        question => self.answer(question),
                    }
                }
            }
            question => self.answer(question),
        }
    }

    /// Answers what needs no sync.
    fn answer(&mut self, question: Message) {
        match question {
            Message::Change(change) => self.waiting.push_back(change),
            Message::Read { id, answer } => {
                let record = self.records.get(id);
                let _ = answer.send(record.map(|record| record.filter(|it| !it.is_lifted())));
            }
            Message::Recall { id, answer } => {
                let _ = answer.send(self.records.get(id));
            }
            Message::List { query, answer } => {
                if let Some(ids) = self.ids_named(&query) {
                    let _ = answer.send(self.page_of(ids, &query));
                } else {
                    self.records.list(query, answer);
                }
            }
            Message::Check { keys, answer } => {
                let _ = answer.send(self.check(&keys));
            }
        }
    }

    /// Gives the log something to do, if it has nothing and something waits.
    fn work(&mut self) {
        while matches!(self.busy, Busy::Idle) {
            if let Some(edition) = self.edition.take()
                && let Some(adoption) = self.records.adopt(edition)
            {
                self.busy = Busy::Adopt(adoption);
                return;
            }
            if self.waiting.is_empty() {
                return;
            }
            self.start_group();
        }
    }

    fn start_group(&mut self) {
        let mut group = self.records.group();
        let mut steps = vec![];
        while group.bytes() < GROUP_BYTES
            && let Some(change) = self.waiting.pop_front()
        {
            if self.failed.is_cancelled() {
                change.refuse(CommitError::Failed);
            } else if let Some(step) = self.prepare(change, &mut group) {
                steps.push(step);
            }
        }
        match self.records.commit(&mut group) {
            None => self.finish(steps, group, 0),
            Some(done) => self.busy = Busy::Commit { steps, group, done },
        }
    }

    fn committed(&mut self, result: Result<u64, CommitError>) {
        let Busy::Commit { steps, group, .. } = std::mem::replace(&mut self.busy, Busy::Idle)
        else {
            return;
        };
        match result {
            Ok(offset) => self.finish(steps, group, offset),
            Err(error) => {
                if error == CommitError::Failed {
                    self.failed.cancel();
                }
                for step in steps {
                    match step {
                        Step::Written { answer, .. } => drop(answer.send(Err(error.into()))),
                        Step::Lifted { answer, .. } => drop(answer.send(Err(error.into()))),
                        Step::Merged { answer, .. } => drop(answer.send(Err(error.into()))),
                    }
                }
            }
        }
    }

    fn adopted(&mut self, result: Result<(), CommitError>) {
        if result.is_err() {
            self.failed.cancel();
        }
        let Busy::Adopt(adoption) = std::mem::replace(&mut self.busy, Busy::Idle) else {
            return;
        };
        let index = self.index.index();
        self.records
            .turn_to(adoption, |id| index.rule(id.kind, id.fingerprint).is_none());
    }

    /// Works out what a change will be. None: it was answered, because it will be nothing.
    fn prepare(&mut self, change: Change, group: &mut Group) -> Option<Step> {
        match change {
            Change::Write {
                orders,
                origin,
                answer,
            } => match self.write(&orders, &origin, group) {
                Ok(outcomes) => Some(Step::Written {
                    orders,
                    outcomes,
                    origin,
                    answer,
                }),
                Err(error) => {
                    let _ = answer.send(Err(error));
                    None
                }
            },
            Change::Merge { records, answer } => match self.merge(records, group) {
                Ok((rules, covered)) => Some(Step::Merged {
                    rules,
                    covered,
                    answer,
                }),
                Err(error) => {
                    let _ = answer.send(Err(error));
                    None
                }
            },
            Change::Lift { id, origin, answer } => match self.lift(id, group) {
                Ok((lifted, rest)) => Some(Step::Lifted {
                    lifted,
                    rest,
                    origin,
                    answer,
                }),
                Err(error) => {
                    let _ = answer.send(Err(error));
                    None
                }
            },
        }
    }

    /// All of them or none. Answers with the rules, and with those of which the records say all that is known here.
    fn merge(
        &mut self,
        records: Vec<Record>,
        group: &mut Group,
    ) -> Result<(Vec<Rule>, Vec<RuleId>), MergeError> {
        let mark = group.mark();
        let before = group.rules.len();
        let merged = self.stage_merge(records, group);
        match merged {
            Ok(covered) => Ok((group.rules[before..].to_vec(), covered)),
            Err(error) => {
                group.undo(&mark);
                Err(error)
            }
        }
    }

    fn stage_merge(
        &mut self,
        records: Vec<Record>,
        group: &mut Group,
    ) -> Result<Vec<RuleId>, MergeError> {
        let now = self.clock.now();
        let mut covered = Vec::with_capacity(records.len());
        for mut record in records {
            // Elsewhere they may live shorter; here the rule must last as long as they do here.
            if let Some(life) = (self.lives)(&record.issuer) {
                record.last_for(life);
            }
            let record = record;
            let id = record.id;
            let rule = record.rule();
            if rule.span.until.is_over(now.minus(KEPT_LONGER)) {
                covered.push(id);
                continue;
            }
            // What is the same is not worth reading: most often it was read before.
            let here = self.index.index().rule(id.kind, id.fingerprint);
            let is_plain = record.standing == Standing::default();
            if is_plain && here == Some(rule) && group.staged(id) == Staged::Nothing {
                covered.push(id);
                continue;
            }
            let merged = match self.known(id, group)? {
                None => record.clone(),
                Some(known) => {
                    let mut merged = Record::clone(&known);
                    merged.absorb(&record);
                    if merged.is_same_rule(&known) {
                        if merged.is_same_rule(&record) {
                            covered.push(id);
                        }
                        continue;
                    }
                    merged
                }
            };
            if merged.is_same_rule(&record) {
                covered.push(id);
            }
            group.rules.push(merged.rule());
            group.put(Arc::new(merged));
        }
        self.make_room(group, now)?;
        Ok(covered)
    }

    /// All orders or none.
    fn write(
        &mut self,
        orders: &[Order],
        origin: &Origin,
        group: &mut Group,
    ) -> Result<Vec<Outcome>, RevokeError> {
        let mark = group.mark();
        let outcomes = self.stage(orders, origin, group);
        if outcomes.is_err() {
            group.undo(&mark);
        }
        outcomes
    }

    fn stage(
        &mut self,
        orders: &[Order],
        origin: &Origin,
        group: &mut Group,
    ) -> Result<Vec<Outcome>, RevokeError> {
        let now = self.clock.now();
        let mut outcomes = Vec::with_capacity(orders.len());
        for order in orders {
            let known = self.known(order.id, group)?;
            let created = known.as_ref().is_none_or(|known| known.is_lifted());
            let record = match &known {
                None => Arc::new(Record::new(order, origin, now)),
                Some(known) => {
                    let mut merged = Record::clone(known);
                    merged.merge(order, origin, now);
                    Arc::new(merged)
                }
            };
            if !order.dry_run {
                if known.as_ref() != Some(&record) {
                    group.put(Arc::clone(&record));
                }
                group.rules.push(record.rule());
            }
            outcomes.push(Outcome {
                record,
                created,
                dry_run: order.dry_run,
            });
        }
        self.make_room(group, now)?;
        Ok(outcomes)
    }

    /// The record as it will be when the changes before this one are done.
    fn known(&self, id: RuleId, group: &Group) -> Result<Option<Arc<Record>>, Unreadable> {
        match group.staged(id) {
            Staged::Is(record) => return Ok(Some(Arc::clone(record))),
            Staged::Gone => return Ok(None),
            Staged::Nothing => {}
        }
        // Most rules are new: nothing is read for them.
        if self.index.index().rule(id.kind, id.fingerprint).is_none() {
            return Ok(None);
        }
        Ok(self.records.get(id)?.map(Arc::new))
    }

    /// Sees to it that the rules of the group will find room in the index.
    fn make_room(&mut self, group: &Group, now: UnixSeconds) -> Result<(), Full> {
        let mut room = self.index.room_for(&group.rules);
        if room.is_err() && self.swept_all_at != Some(now) {
            self.swept_all_at = Some(now);
            let records = &mut self.records;
            self.index
                .sweep_all(now.minus(KEPT_LONGER), |kind, fingerprint| {
                    records.forget(RuleId { fingerprint, kind });
                });
            room = self.index.room_for(&group.rules);
        }
        room.inspect_err(|full| {
            tracing::error!(
                entries_max = full.entries_max,
                "revocations are refused: the denylist is full; raise denylist.max_entries"
            );
        })
    }

    /// Takes back the standing part of a rule. What is left ends by itself.
    fn lift(
        &mut self,
        id: RuleId,
        group: &mut Group,
    ) -> Result<(Arc<Record>, Option<Record>), LiftError> {
        let known = self.known(id, group)?.filter(|known| !known.is_lifted());
        let record = known.ok_or(LiftError::Unknown)?;
        if !record.is_standing() {
            return Err(LiftError::NotStanding);
        }
        let now = self.clock.now();
        // Alone nobody brings it back.
        let kept = if self.fleet.is_some() {
            LIFT_KEPT
        } else {
            Duration::ZERO
        };
        let rest = record.without_standing(now, kept);
        match &rest {
            Some(rest) => group.put(Arc::new(rest.clone())),
            None => group.take(id, now),
        }
        Ok((record, rest))
    }

    /// Makes what is on disk visible to every request that starts from now on, and then says so.
    fn finish(&mut self, steps: Vec<Step>, group: Group, offset: u64) {
        self.sequence += 1;
        let sequence = self.sequence;
        let mut for_others = vec![];
        let index = self.index.index();
        self.records.note(group, offset, |id| {
            index.rule(id.kind, id.fingerprint).is_some()
        });
        for step in steps {
            match step {
                Step::Written {
                    orders,
                    outcomes,
                    origin,
                    answer,
                } => {
                    let real = outcomes.iter().filter(|outcome| !outcome.dry_run);
                    let rules: Vec<Rule> = real.map(|outcome| outcome.record.rule()).collect();
                    if !rules.is_empty() {
                        self.index
                            .apply(&rules)
                            .expect("room was made, and nobody else adds rules");
                    }
                    let accepted = orders.iter().zip(&outcomes);
                    audit::write(accepted.filter(|(order, _)| !order.dry_run).map(
                        |(order, outcome)| {
                            let reason = order.reason.as_deref();
                            line("revoke", &outcome.record, reason, &origin)
                        },
                    ));
                    for_others.extend(real_records(&outcomes));
                    let _ = answer.send(Ok(Written { outcomes, sequence }));
                }
                Step::Lifted {
                    lifted,
                    rest,
                    origin,
                    answer,
                } => {
                    let RuleId { kind, fingerprint } = lifted.id;
                    if let Some(rest) = &rest {
                        self.index
                            .set(&[rest.rule()])
                            .expect("it is there already, in another form");
                        for_others.push(Arc::new(rest.clone()));
                    } else {
                        self.index.lift(kind, fingerprint, None);
                    }
                    audit::write([line("lift", &lifted, None, &origin)]);
                    let rest = rest.filter(|rest| !rest.is_lifted());
                    let _ = answer.send(Ok(Lifted { rest, sequence }));
                }
                Step::Merged {
                    rules,
                    covered,
                    answer,
                } => {
                    if !rules.is_empty() {
                        self.index
                            .set(&rules)
                            .expect("room was made, and nobody else adds rules");
                    }
                    let _ = answer.send(Ok(covered));
                }
            }
        }
        if let Some(ways) = &self.fleet {
            ways.outbox.put(sequence, for_others);
        }
    }

    /// The keys that a query can mean when it says everything, so that "is this user revoked?" needs no search.
    fn ids_named(&self, query: &Query) -> Option<Vec<RuleId>> {
        let kind = query.kind?;
        let issuer = query.issuer.as_deref()?;
        let value = match (&query.value, kind) {
            (Some(value), _) => value,
            (None, Kind::Issuer) => "",
            (
                None,
                Kind::Token | Kind::Session | Kind::User | Kind::Client | Kind::Key | Kind::Pin,
            ) => return None,
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

    fn page_of(&self, ids: Vec<RuleId>, query: &Query) -> Result<Page, Unreadable> {
        let mut page = Page::default();
        for id in ids {
            if query.after.is_none_or(|after| id > after) {
                let record = self.records.get(id)?;
                page.records
                    .extend(record.filter(|record| query.matches(record)));
            }
        }
        Ok(page)
    }

    fn check(&self, keys: &TokenKeys) -> Result<Verdict, Unreadable> {
        let denying = keys
            .iter()
            .filter_map(|(kind, fingerprint)| self.index.index().rule(kind, fingerprint))
            .filter(|rule| rule.denies(keys));
        let mut denied_by = vec![];
        for Rule {
            kind, fingerprint, ..
        } in denying
        {
            denied_by.extend(self.records.get(RuleId { fingerprint, kind })?);
        }
        Ok(Verdict { denied_by })
    }

    /// One step of the round.
    fn sweep(&mut self) {
        // Records are on the move, or about to be: what is forgotten now would be there again.
        if self.edition.is_some() || matches!(self.busy, Busy::Adopt(_)) {
            return;
        }
        let now = self.clock.now();
        let shard = self.next_shard;
        self.next_shard = (shard + 1) % SHARDS;
        let records = &mut self.records;
        self.index
            .sweep(shard, now.minus(KEPT_LONGER), |kind, fingerprint| {
                records.forget(RuleId { fingerprint, kind });
            });
        let before = SetAt::new(now.minus(LIFT_KEPT), None);
        self.index
            .sweep_lifted_pins(shard, before, |kind, fingerprint| {
                records.forget(RuleId { fingerprint, kind });
            });
        if self.edition.is_none() {
            self.records.compact_if_it_pays(self.index.entries());
        }
    }
}

/// Waits for what the log is doing.
async fn done(busy: &mut Busy) -> Event {
    // A log whose thread is gone has failed.
    match busy {
        Busy::Idle => std::future::pending().await,
        Busy::Commit { done, .. } => {
            Event::Committed(done.await.unwrap_or(Err(CommitError::Failed)))
        }
        Busy::Adopt(adoption) => Event::Adopted(adoption.done().await),
    }
}

/// Waits for the relay's next question, or for room in the outbox.
async fn from_fleet(ways: Option<&mut Ways>, crowded: bool) -> Event {
    let Some(ways) = ways else {
        return std::future::pending().await;
    };
    tokio::select! {
        () = ways.outbox.room(), if crowded => Event::Room,
        Some(message) = ways.inbox.recv() => Event::Asked(Some(message)),
        else => std::future::pending().await,
    }
}

fn real_records(outcomes: &[Outcome]) -> impl Iterator<Item = Arc<Record>> + '_ {
    let real = outcomes.iter().filter(|outcome| !outcome.dry_run);
    real.map(|outcome| Arc::clone(&outcome.record))
}

/// One line for each accepted rule.
fn line<'a>(
    event: &'static str,
    record: &'a Record,
    reason: Option<&'a str>,
    origin: &'a Origin,
) -> audit::Line<'a, RuleId> {
    let span = record.span();
    audit::Line {
        event,
        by: &origin.by,
        way: origin.way.as_str(),
        id: record.id,
        kind: record.id.kind.as_str(),
        iss: &record.issuer,
        value: record.value.as_deref(),
        except_sid: record.pinned.as_ref().map(|pinned| &*pinned.session_id),
        reason,
        cutoff: span.cutoff.instant().map(|at| at.0),
        until: span.until.instant().map(|at| at.0),
        standing: record.is_standing(),
    }
}
