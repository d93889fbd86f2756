//! The relay over one pair of links: one for commands, one that blocks until there is something to read.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fleet::{Member, RelayState};
use super::link::{Carrier, Entry, EntryId, Link, LinkFault, Run, Sight};
use super::payload::{self, RULES_MAX, Report, open_report};
use super::{Place, Relay, Twin};
use crate::base::backoff::Backoff;
use crate::base::clock::{UnixSeconds, millis};
use crate::control::denylist::record::{Record, RuleId};
use crate::control::denylist::writer::{Change, MergeError, Message, Page, Query};
use crate::denylist::{BootMillis, Fingerprint, Kind, Until};

/// Read again after every reconnect. More than any hiccup of one server; what is longer is another run.
const OVERLAP: Duration = Duration::from_mins(1);

/// Entries of one read: some megabytes at most.
const READ_ENTRIES: usize = 64;

/// A read without anything to read ends after this, so that a link that broke silently is noticed.
const READ_BLOCK: Duration = Duration::from_secs(1);

/// Own changes that come within this time share an entry. A person does not notice, and Redis has a fraction of the work.
const GATHER: Duration = Duration::from_millis(2);

/// Records sent in one go.
const PUBLISH_RECORDS: usize = 16 * RULES_MAX;

/// Entries of one step of that: a megabyte at most.
const SEND_ENTRIES: usize = 4;

/// Records on one page when everything is compared with the stream.
const PAGE: usize = 4096;

/// Reports in one `max_staleness`: five may be lost before the lease ends.
const REPORTS: u32 = 6;

/// A report that says what was applied comes this long after the one before, at least …
const REPORT_GAP: Duration = Duration::from_millis(5);

/// … and this much longer for each member, so that a large fleet does not keep Redis busy with reports.
const REPORT_GAP_EACH: Duration = Duration::from_micros(100);

/// While others may know more, they are looked for this often.
const SETTLE_STEP: Duration = Duration::from_millis(100);

/// A new gateway follows an epoch only when it is older than this part of `max_staleness`: twice the time in which those that were there
/// notice it, and publish what they have.
const NEWCOMER: u32 = 3;

/// What does not fit is tried again after this: something may be over by then.
const FULL_STEP: Duration = Duration::from_secs(1);

/// How often the stream is trimmed and rules that outlive its entries are looked after. Each gateway does, with jitter.
const UPKEEP: Duration = Duration::from_secs(20);

/// Own changes that are still in the outbox at shutdown may take this long.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A machine's clock that differs this much from that of Redis is told.
const OFFSET_TOLD: Duration = Duration::from_secs(5);

/// Why a session is over.
pub(super) enum Ended {
    /// It is time to end.
    Shutdown,
    /// Something may be lost: everything is compared again, at once.
    Changed,
    /// No use trying at once.
    Fault(LinkFault),
}

impl From<LinkFault> for Ended {
    fn from(fault: LinkFault) -> Self {
        Self::Fault(fault)
    }
}

type Reading<L> = Pin<Box<dyn Future<Output = Read<L>> + Send>>;

/// What came of one read.
struct Read<L> {
    reader: L,
    entries: Result<Vec<Entry>, LinkFault>,
    /// What was known to be there when it began: if it comes back empty, there is nothing more up to here.
    known_last: EntryId,
}

/// Reading the whole stream, and what it says.
struct Survey {
    /// Rules of which the stream says all that is known here.
    covered: HashSet<RuleId>,
    /// Everything up to this was there at the beginning.
    to: EntryId,
    /// Own changes until it began. Later ones wait in the outbox: of what is covered nobody knows whether before or after them.
    sequence: u64,
    export: Option<Export>,
}

/// Going through all rules, from a place of one's own: when all gateways do it at once, each sends another part first.
struct Export {
    start: RuleId,
    after: Option<RuleId>,
    /// The end was met, and what lies before `start` is left.
    is_round: bool,
}

/// One session.
pub(super) struct Session<'a, C: Carrier> {
    relay: &'a mut Relay<C>,
    link: C::Link,
    /// Where the next read begins.
    cursor: EntryId,
    /// The newest entry that the server spoke of.
    last: EntryId,
    /// The server's clock, and when it said so.
    server_ms: (u64, BootMillis),
    survey: Option<Survey>,
    /// The oldest report whose answer is not caught up with yet: when it was sent, and what there was.
    proof: Option<(BootMillis, EntryId)>,
    /// What was read and does not fit.
    held: Option<(Vec<Entry>, EntryId)>,
    held_until: Instant,
    /// When members are looked at next.
    look_at: Instant,
    reported_at: Instant,
    report_at: Instant,
    upkeep_at: Instant,
    gathered_at: Option<Instant>,
}

impl<'a, C: Carrier> Session<'a, C> {
    /// Connects and follows until something ends it.
    pub(super) async fn follow(
        relay: &'a mut Relay<C>,
        shutdown: &CancellationToken,
        backoff: &mut Backoff,
    ) -> Ended {
        let opened = tokio::select! {
            () = shutdown.cancelled() => return Ended::Shutdown,
            opened = Self::open(relay) => opened,
        };
        match opened {
            Ok((mut session, reader)) => {
                backoff.reset();
                let ended = session.work(reader, shutdown).await;
                if matches!(ended, Ended::Shutdown) {
                    session.leave().await;
                }
                ended
            }
            Err(ended) => ended,
        }
    }

    async fn open(relay: &'a mut Relay<C>) -> Result<(Self, C::Link), Ended> {
        let link = relay.carrier.connect().await?;
        let mut reader = relay.carrier.connect().await?;
        let now = Instant::now();
        let mut session = Self {
            link,
            cursor: EntryId::default(),
            last: EntryId::default(),
            server_ms: (0, BootMillis::default()),
            survey: None,
            proof: None,
            held: None,
            held_until: now,
            look_at: now,
            reported_at: now,
            report_at: now,
            upkeep_at: now + UPKEEP,
            gathered_at: None,
            relay,
        };
        let sight = session.link.look().await?;
        session.note(&sight);
        let sight = session.founded(sight).await?;
        if reader.look().await?.run != sight.run {
            return Err(Ended::Changed);
        }
        session.begin(sight).await?;
        Ok((session, reader))
    }

    /// Sees to it that the stream has an epoch.
    async fn founded(&mut self, mut sight: Sight) -> Result<Sight, Ended> {
        let since = self.relay.boot();
        if sight.run.epoch.is_empty() && !self.relay.has_state {
            tracing::info!(
                wait = ?self.relay.options.max_staleness,
                "the fleet's stream is new; this gateway has no rules, and waits for one that has some"
            );
        }
        while sight.run.epoch.is_empty() {
            let waited = self.relay.boot().since(since);
            // Whoever has nothing gives those that have something the time to come first.
            if self.relay.has_state || waited >= self.relay.options.max_staleness {
                let epoch = format!("{:016x}-{}", (self.relay.options.chance)(), sight.now_ms);
                // So that others see that somebody has yet to say what it knows.
                self.relay.place.is_reconciled = false;
                self.report().await?;
                self.link.found(&epoch).await?;
            } else {
                self.relay.view.state = RelayState::Settling;
                self.relay.show();
                tokio::time::sleep(SETTLE_STEP).await;
            }
            sight = self.link.look().await?;
            self.note(&sight);
        }
        Ok(sight)
    }

    /// Decides from where to read.
    async fn begin(&mut self, sight: Sight) -> Result<(), Ended> {
        // Those that were there before, too: what Redis lost may be they.
        let known = self.relay.members.clone();
        self.look_at_members().await?;
        let place = &self.relay.place;
        let goes_on = place.is_reconciled && place.run == sight.run && place.applied <= sight.last;
        if goes_on && !self.relay.outbox.is_overflown() {
            let newest = place.applied.ms.min(sight.now_ms);
            let from = newest.saturating_sub(millis(OVERLAP));
            self.cursor = EntryId {
                ms: from,
                sequence: 0,
            };
            // Not in sync before the overlap was read.
            self.relay.place.applied = self.cursor;
            self.relay.view.state = RelayState::Following;
            self.relay.outbox.serve(true);
        } else {
            if self.relay.place.run != sight.run {
                let own = self.relay.hand.name();
                self.relay.members.miss(known);
                let suspects = self.relay.members.behind(&sight.run, &own);
                // Who comes new does not know whom to wait for, if the epoch is new, too.
                let is_new = self.relay.place.run == Run::default();
                let grace_ms = millis(self.relay.options.max_staleness / NEWCOMER);
                let ripe_ms = founded_ms(&sight.run.epoch).saturating_add(grace_ms);
                self.relay.lasting.clear();
                // Ids may be given again.
                self.relay.measured = EntryId::default();
                self.relay.place = Place {
                    run: sight.run.clone(),
                    suspects,
                    since: self.relay.boot(),
                    ripe_ms: if is_new { ripe_ms } else { 0 },
                    ..Place::default()
                };
            }
            self.relay.place.applied = EntryId::default();
            self.relay.place.is_reconciled = false;
            self.survey = Some(Survey {
                covered: HashSet::new(),
                to: sight.last,
                sequence: self.relay.outbox.begin_anew(),
                export: None,
            });
            self.relay.view.state = RelayState::Reconciling;
        }
        self.relay.view.fault = None;
        self.relay.show();
        Ok(())
    }

    async fn work(&mut self, reader: C::Link, shutdown: &CancellationToken) -> Ended {
        match self.steps(reader, shutdown).await {
            Ok(()) => Ended::Shutdown,
            Err(ended) => ended,
        }
    }

    /// One step after the other, until shutdown.
    async fn steps(&mut self, reader: C::Link, shutdown: &CancellationToken) -> Result<(), Ended> {
        let mut reading = Some(self.read(reader));
        let mut idle: Option<C::Link> = None;
        loop {
            if self.held.is_none()
                && let Some(reader) = idle.take()
            {
                reading = Some(self.read(reader));
            }
            let publishes = self.survey.is_none();
            if publishes && self.gathered_at.is_none() && self.relay.outbox.records() > 0 {
                self.gathered_at = Some(Instant::now() + GATHER);
            }
            if publishes && self.relay.outbox.records() >= RULES_MAX {
                self.gathered_at = Some(Instant::now());
            }
            let exports = self.survey.as_ref().is_some_and(|it| it.export.is_some());
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep_until(self.report_at) => {
                    self.report_and_renew().await?;
                }
                read = done(&mut reading), if reading.is_some() => {
                    reading = None;
                    self.take(read.entries?, read.known_last).await?;
                    idle = Some(read.reader);
                }
                () = tokio::time::sleep_until(self.gathered_at.unwrap_or(self.report_at)), if publishes && self.gathered_at.is_some() => {
                    self.gathered_at = None;
                    self.publish().await?;
                }
                () = self.relay.outbox.filled(), if publishes && self.gathered_at.is_none() => {}
                Some(question) = self.relay.hand.asked.recv() => self.answer(question).await?,
                () = tokio::time::sleep_until(self.upkeep_at) => self.upkeep().await?,
                () = tokio::time::sleep_until(self.held_until), if self.held.is_some() => {
                    if let Some((entries, known_last)) = self.held.take() {
                        self.take(entries, known_last).await?;
                    }
                }
                () = std::future::ready(()), if exports => self.export().await?,
            }
        }
    }

    fn read(&self, mut reader: C::Link) -> Reading<C::Link> {
        let (cursor, known_last) = (self.cursor, self.last);
        // While something else is to be done the stream is only looked at.
        let block = if self.survey.is_some() {
            Duration::ZERO
        } else {
            READ_BLOCK
        };
        Box::pin(async move {
            let entries = reader.read(cursor, READ_ENTRIES, block).await;
            Read {
                reader,
                entries,
                known_last,
            }
        })
    }

    /// What was read comes into force here.
    async fn take(&mut self, entries: Vec<Entry>, known_last: EntryId) -> Result<(), Ended> {
        let mut waiting = vec![];
        for entry in &entries {
            let Some(records) = payload::records(&entry.payload, &self.relay.seal) else {
                self.relay.view.refused_entries += 1;
                if self.relay.view.refused_entries == 1 {
                    tracing::error!(
                        id = %entry.id,
                        "an entry of the stream was not written by this fleet; is denylist.redis.secret the same everywhere, and who else may write there?"
                    );
                }
                continue;
            };
            self.note_lasting(&records, entry.id);
            let (answer, merged) = oneshot::channel();
            let change = Change::Merge { records, answer };
            self.tell_writer(Message::Change(change)).await?;
            waiting.push(merged);
        }
        let mut is_full = false;
        for merged in waiting {
            match merged.await {
                Ok(Ok(covered)) => {
                    if let Some(survey) = &mut self.survey {
                        survey.covered.extend(covered);
                    }
                }
                Ok(Err(MergeError::Full(_))) => is_full = true,
                // The gateway ends.
                Ok(Err(
                    MergeError::Commit(_) | MergeError::Unreadable(_) | MergeError::Stopped(_),
                ))
                | Err(_) => {
                    return Err(gone());
                }
            }
        }
        if is_full {
            if self.relay.view.state != RelayState::Full {
                self.relay.view.refused_rules += 1;
                tracing::error!(
                    "revocations of other gateways find no room here; raise denylist.max_entries. Until then this gateway is not in sync"
                );
            }
            self.relay.view.state = RelayState::Full;
            self.held = Some((entries, known_last));
            self.held_until = Instant::now() + FULL_STEP;
            self.relay.show();
            return Ok(());
        }
        let has_some = !entries.is_empty();
        self.measure(&entries);
        self.cursor = match entries.last() {
            Some(newest) => newest.id,
            // There is nothing more. What was between was trimmed. Fewer entries than were asked for do not say that.
            None => self.cursor.max(known_last),
        };
        self.relay.place.applied = self.cursor;
        self.know_of(self.cursor);
        if has_some {
            let gap = REPORT_GAP
                + REPORT_GAP_EACH * u32::try_from(self.relay.members.count()).unwrap_or(u32::MAX);
            self.report_at = self.report_at.min(self.reported_at + gap);
        }
        self.go_on();
        Ok(())
    }

    /// How long entries took. The server's clock is known to some milliseconds.
    fn measure(&mut self, entries: &[Entry]) {
        let now_ms = self.server_now_ms();
        for entry in entries
            .iter()
            .filter(|entry| entry.id > self.relay.measured)
        {
            let took = Duration::from_millis(now_ms.saturating_sub(entry.id.ms));
            if self.survey.is_none() {
                self.relay.options.propagation.observe(took.as_secs_f64());
            }
        }
        if let Some(newest) = entries.last() {
            self.relay.measured = self.relay.measured.max(newest.id);
        }
    }

    /// What follows from having read more.
    fn go_on(&mut self) {
        let applied = self.relay.place.applied;
        if let Some(survey) = &mut self.survey
            && survey.export.is_none()
            && applied >= survey.to
        {
            let start = (u128::from((self.relay.options.chance)()) << 64)
                | u128::from((self.relay.options.chance)());
            let start = RuleId {
                fingerprint: Fingerprint::from_bits(start),
                kind: Kind::Token,
            };
            survey.export = Some(Export {
                start,
                after: Some(start),
                is_round: false,
            });
        }
        self.renew();
        self.relay.show();
    }

    /// One page of all rules: what the stream lacks of it is added.
    async fn export(&mut self) -> Result<(), Ended> {
        let Some((start, after, is_round, sequence)) = self.survey.as_ref().and_then(|survey| {
            let export = survey.export.as_ref()?;
            Some((export.start, export.after, export.is_round, survey.sequence))
        }) else {
            return Ok(());
        };
        let page = self.page(after).await?;
        let covered = self.survey.as_ref().map(|survey| &survey.covered);
        let is_before_start = |record: &Record| !is_round || record.id <= start;
        let lacking: Vec<Arc<Record>> = page
            .records
            .into_iter()
            .filter(|record| is_before_start(record))
            .filter(|record| covered.is_none_or(|covered| !covered.contains(&record.id)))
            .map(Arc::new)
            .collect();
        self.add(&lacking).await?;
        let is_done = is_round && page.next.is_none_or(|next| next >= start);
        if !is_done {
            if let Some(export) = self
                .survey
                .as_mut()
                .and_then(|survey| survey.export.as_mut())
            {
                export.is_round = is_round || page.next.is_none();
                export.after = page.next;
            }
            return Ok(());
        }
        self.survey = None;
        if self.relay.outbox.is_overflown() {
            // More came than could be kept. Now that the stream has most of it, the next round is short.
            return Err(Ended::Changed);
        }
        self.relay.place.is_reconciled = true;
        self.relay.has_state = true;
        self.relay.outbox.serve(true);
        let sight = self.link.look().await?;
        self.follow_sight(&sight)?;
        let at = self.taken_at(sight.last);
        self.relay.note_relayed(sequence, sight.last, at);
        self.relay.view.state = RelayState::Settling;
        tracing::info!(
            rules = self.relay.index.total(),
            "the denylist and the fleet's stream say the same"
        );
        // The others wait for this.
        self.report_at = Instant::now();
        Ok(())
    }

    async fn page(&mut self, after: Option<RuleId>) -> Result<Page, Ended> {
        let (answer, page) = oneshot::channel();
        let query = Query {
            after,
            limit: PAGE,
            with_lifted: true,
            ..Query::default()
        };
        self.tell_writer(Message::List { query, answer }).await?;
        match page.await {
            Ok(Ok(page)) => Ok(page),
            Ok(Err(_)) | Err(_) => Err(gone()),
        }
    }

    /// Sends what is in the outbox.
    async fn publish(&mut self) -> Result<(), Ended> {
        let parcels = self.relay.outbox.oldest(PUBLISH_RECORDS);
        let Some(newest) = parcels.last() else {
            return Ok(());
        };
        let records = parcels.iter().flat_map(|parcel| &parcel.records);
        let payloads = payload::entries(records, &self.relay.seal);
        let id = self.send(&payloads).await?;
        self.relay.outbox.sent(newest.sequence);
        let at = self.taken_at(id);
        self.relay.note_relayed(newest.sequence, id, at);
        self.relay.show();
        Ok(())
    }

    async fn add(&mut self, records: &[Arc<Record>]) -> Result<(), Ended> {
        let payloads = payload::entries(records.iter(), &self.relay.seal);
        self.send(&payloads).await?;
        Ok(())
    }

    /// Some at a time, so that each step fits into its time over a slow line. Answers with the last id.
    async fn send(&mut self, payloads: &[Bytes]) -> Result<EntryId, Ended> {
        let mut id = self.last;
        for some in payloads.chunks(SEND_ENTRIES) {
            id = self.link.add(some).await?;
        }
        Ok(id)
    }

    /// Says how far this gateway is.
    async fn report(&mut self) -> Result<Sight, Ended> {
        let place = &self.relay.place;
        let run = if place.is_reconciled {
            place.run.clone()
        } else {
            Run::default()
        };
        let now = self.relay.boot();
        self.relay.twin = self.relay.twin.filter(|twin| now < twin.until);
        let own = self.relay.options.max_staleness;
        // One report stands for both.
        let max_staleness = self.relay.twin.map_or(own, |twin| twin.max_staleness);
        let name = self.relay.hand.name();
        let report = Report {
            member: Member {
                name: name.clone(),
                version: env!("CARGO_PKG_VERSION").into(),
                run,
                applied: place.applied,
                entries: self.relay.index.total() as u64,
                in_sync: self.relay.lease.holds(now),
                at: self.server_now(),
                max_staleness,
                shares_name: self.relay.twin.is_some(),
            },
            retention_s: (self.relay.options.retention)().as_secs(),
            instance: self.relay.instance,
        };
        let payload = payload::close_report(&report, &self.relay.seal);
        let (sight, before) = self.link.report(&name, payload).await?;
        self.note(&sight);
        self.look_for_twin(before.as_deref());
        Ok(sight)
    }

    /// Whether what was said before in this gateway's name was said by this process.
    fn look_for_twin(&mut self, before: Option<&[u8]>) {
        let now = self.server_now();
        let since = *self.relay.reports_since.get_or_insert(now);
        let name = self.relay.hand.name();
        let before = before.and_then(|payload| open_report(&name, payload, &self.relay.seal));
        // An earlier process of this gateway says nothing any more.
        let is_twin =
            |before: &Report| before.instance != self.relay.instance && before.member.at > since;
        let Some(before) = before.filter(is_twin) else {
            return;
        };
        if self.relay.twin.is_none() {
            tracing::error!(
                %name,
                "another gateway of the fleet has the same name, so that nobody can tell what both have applied; set denylist.redis.name on each"
            );
        }
        let own = self.relay.options.max_staleness;
        let max_staleness = own.max(before.member.max_staleness);
        self.relay.twin = Some(Twin {
            until: self.relay.boot().plus(max_staleness),
            max_staleness,
        });
    }

    async fn report_and_renew(&mut self) -> Result<(), Ended> {
        // Before it is sent: whatever is added later is not vouched for.
        let sent = self.relay.boot();
        let sight = self.report().await?;
        let now = Instant::now();
        self.reported_at = now;
        self.report_at = now + self.relay.options.max_staleness / REPORTS;
        self.follow_sight(&sight)?;
        if self.proof.is_none() {
            self.proof = Some((sent, sight.last));
        }
        let is_unsettled = self.relay.place.is_reconciled && !self.is_settled();
        if is_unsettled || self.look_at <= now {
            self.look_at_members().await?;
        }
        if is_unsettled {
            self.settle();
            if self.is_settled() {
                // What the last one has published may be newer than what this report vouches for.
                self.proof = None;
            }
            self.report_at = now + SETTLE_STEP.min(self.relay.options.max_staleness / REPORTS);
        }
        self.renew();
        self.relay.show();
        Ok(())
    }

    /// Another run is another story, and so is a stream that ends before what was read of it.
    fn follow_sight(&mut self, sight: &Sight) -> Result<(), Ended> {
        if sight.run != self.relay.place.run || sight.last < self.relay.place.applied {
            self.relay.place.is_reconciled = false;
            return Err(Ended::Changed);
        }
        self.know_of(sight.last);
        Ok(())
    }

    /// There is an entry with this id, or was.
    fn know_of(&mut self, id: EntryId) {
        self.last = self.last.max(id);
        self.relay.view.last = self.last;
    }

    fn is_settled(&self) -> bool {
        let place = &self.relay.place;
        place.suspects.is_empty() && place.ripe_ms <= self.server_now_ms()
    }

    /// Nobody is waited for who has come, or once everybody has had the time to.
    fn settle(&mut self) {
        let (place, members) = (&mut self.relay.place, &self.relay.members);
        let run = &place.run;
        place
            .suspects
            .retain(|name| !members.has_come_to(name, run));
        let waited = (self.relay.options.boot)().since(place.since);
        let is_over = waited >= self.relay.options.max_staleness;
        if is_over {
            place.ripe_ms = 0;
        }
        if is_over && !place.suspects.is_empty() {
            tracing::warn!(
                gateways = ?place.suspects,
                "some gateways have not come back since the relay may have lost something; what only they know is missing here until they do"
            );
            place.suspects.clear();
        }
    }

    /// Renews the lease with the proof at hand, if it proves something.
    fn renew(&mut self) {
        let place = &self.relay.place;
        let Some((sent, last)) = self.proof else {
            return;
        };
        if place.applied < last || self.held.is_some() {
            return;
        }
        self.proof = None;
        if !place.is_reconciled || !self.is_settled() {
            return;
        }
        self.relay
            .lease
            .renew(sent.plus(self.relay.options.max_staleness));
        if self.relay.view.state != RelayState::Following {
            self.relay.view.state = RelayState::Following;
            tracing::info!("the denylist is in sync with the fleet");
        }
    }

    /// Answers those who ask who is there, all that have asked by now with one look.
    async fn answer(&mut self, question: oneshot::Sender<Vec<Member>>) -> Result<(), Ended> {
        let mut questions = vec![question];
        while let Ok(another) = self.relay.hand.asked.try_recv() {
            questions.push(another);
        }
        self.look_at_members().await?;
        for question in questions {
            // Whoever asked may have gone.
            let _ = question.send(self.relay.members.all());
        }
        Ok(())
    }

    /// Who is there. Those who have been silent for too long are forgotten.
    async fn look_at_members(&mut self) -> Result<(), Ended> {
        let found = self.link.members().await?;
        self.look_at = Instant::now() + self.relay.options.max_staleness / REPORTS;
        let now = self.server_now();
        let forgotten_after = self.relay.options.members_forgotten_after;
        let silent = self
            .relay
            .members
            .take(found, &self.relay.seal, now, forgotten_after);
        for name in silent {
            self.link.forget(&name).await?;
        }
        let waited = self.relay.boot().since(self.relay.place.since);
        let own = self.relay.options.max_staleness;
        self.relay.members.give_up(waited, own);
        self.relay.hand.show_members(self.relay.members.all());
        Ok(())
    }

    /// Trims the stream, and publishes again what would be trimmed and is still needed.
    async fn upkeep(&mut self) -> Result<(), Ended> {
        let jitter = UPKEEP.mul_f64(f64::from(self.relay.chance()) / f64::from(u32::MAX));
        self.upkeep_at = Instant::now() + UPKEEP / 2 + jitter;
        if !self.relay.place.is_reconciled {
            return Ok(());
        }
        let own = (self.relay.options.retention)();
        let retention = own.max(self.relay.members.retention());
        let retention_ms = millis(retention);
        let now_ms = self.server_now_ms();
        let half = now_ms.saturating_sub(retention_ms / 2);
        let due: Vec<RuleId> = self
            .relay
            .lasting
            .iter()
            .filter(|(_, seen)| **seen < half)
            .map(|(id, _)| *id)
            .take(PUBLISH_RECORDS)
            .collect();
        let mut again = vec![];
        for id in due {
            let (answer, record) = oneshot::channel();
            self.tell_writer(Message::Recall { id, answer }).await?;
            match record.await {
                Ok(Ok(Some(record))) if outlives(&record, retention) => {
                    again.push(Arc::new(record));
                }
                Ok(Ok(_)) => drop(self.relay.lasting.remove(&id)),
                Ok(Err(_)) | Err(_) => return Err(gone()),
            }
        }
        self.add(&again).await?;
        for record in again {
            self.relay.lasting.insert(record.id, now_ms);
        }
        // What was not published again yet stays.
        let needed = self.relay.lasting.values().min().copied();
        let ms = now_ms.saturating_sub(retention_ms);
        let oldest = EntryId {
            ms: needed.map_or(ms, |needed| needed.min(ms)),
            sequence: 0,
        };
        self.link.trim(oldest).await?;
        Ok(())
    }

    /// Rules that outlive the entry that carries them.
    fn note_lasting(&mut self, records: &[Record], id: EntryId) {
        let retention = (self.relay.options.retention)();
        for record in records {
            if outlives(record, retention) {
                let seen = self.relay.lasting.entry(record.id).or_default();
                *seen = id.ms.max(*seen);
            }
        }
    }

    /// Says the last words, and goes.
    async fn leave(&mut self) {
        let name = self.relay.hand.name();
        let words = async {
            while self.survey.is_none() && self.relay.outbox.records() > 0 {
                self.publish().await?;
            }
            // Somebody may have come in this name.
            let said = self.link.members().await?;
            let own = said.iter().find(|(member, _)| *member == name);
            let own = own.and_then(|(_, said)| open_report(&name, said, &self.relay.seal));
            let is_own = own.is_some_and(|own| own.instance == self.relay.instance);
            // Of two with one name, whoever stays stays a member.
            if is_own && self.relay.twin.is_none() {
                self.link.forget(&name).await?;
            }
            Ok::<_, Ended>(())
        };
        // Whatever does not come through is in the log, and told after the next start.
        let _ = tokio::time::timeout(LAST_WORDS, words).await;
    }

    async fn tell_writer(&self, message: Message) -> Result<(), Ended> {
        self.relay.writer.send(message).await.map_err(|_| gone())
    }

    fn note(&mut self, sight: &Sight) {
        self.server_ms = (sight.now_ms, self.relay.boot());
        let here = self.relay.options.clock.since_1970().as_millis();
        let here = u64::try_from(here).unwrap_or(u64::MAX);
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let offset = signed(here) - signed(sight.now_ms);
        let is_far = |offset: i64| u128::from(offset.unsigned_abs()) > OFFSET_TOLD.as_millis();
        if is_far(offset) && !is_far(self.relay.view.clock_offset_ms) {
            tracing::warn!(
                offset_ms = offset,
                "this machine's clock is not that of Redis; tokens are judged by the wrong time on one of the gateways"
            );
        }
        self.relay.view.clock_offset_ms = offset;
    }

    /// The server's clock, in milliseconds since 1970.
    fn server_now_ms(&self) -> u64 {
        let (ms, at) = self.server_ms;
        ms.saturating_add(self.relay.boot().0.saturating_sub(at.0))
    }

    /// When the server took an entry: by its id, unless its clock went back since.
    fn taken_at(&self, id: EntryId) -> UnixSeconds {
        self.server_now().max(UnixSeconds(id.ms / 1000))
    }

    fn server_now(&self) -> UnixSeconds {
        UnixSeconds(self.server_now_ms() / 1000)
    }
}

/// When the epoch was founded, by the server's clock; 0 if it does not say.
fn founded_ms(epoch: &str) -> u64 {
    let founded = epoch.split_once('-').and_then(|(_, ms)| ms.parse().ok());
    founded.unwrap_or_default()
}

/// Whether a rule must be kept for longer than the entry that it was last written in. The rest have an end that is at most the longest life
/// of a token away from the instant at which they were written.
fn outlives(record: &Record, retention: Duration) -> bool {
    let until = record.span().until;
    until == Until::LIFTED || until > Until::at(record.at.plus(retention))
}

/// The writer's task is gone: the gateway ends.
fn gone() -> Ended {
    Ended::Fault(LinkFault::Away("the gateway is stopping".into()))
}

async fn done<L>(reading: &mut Option<Reading<L>>) -> Read<L> {
    match reading {
        None => std::future::pending().await,
        Some(reading) => reading.await,
    }
}
