//! The very relay over a simulated Redis, in simulated time: links that break and are slow, entries that arrive although nobody heard so,
//! a failover to a replica that lags and whose clock is behind, a flush, gateways that are cut off, that crash, that come new. Each
//! seed is one story of some minutes. Two things must hold in every one:
//!
//! - In the end every acknowledged rule is on every gateway, and all of them say the same.
//! - After `effective_by` no gateway lets a token through, whatever happened.
//!
//! What no gateway and no Redis has any more is lost, and counts for neither.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use prometheus::HistogramOpts;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::payload::{Report, close_report};
use super::*;
use crate::base::clock::{ClockHand, UnixSeconds};
use crate::control::denylist::order::{IssuerLife, Order};
use crate::control::denylist::record::{Origin, Record, RuleId, Way};
use crate::control::denylist::records::Records;
use crate::control::denylist::writer::{Change, Query, Writer};
use crate::denylist::{self, Fingerprinter, Kind, TokenKeys};
use crate::token::Claims;

const STALENESS: Duration = Duration::from_secs(12);
const STEP: Duration = Duration::from_millis(100);
const START: UnixSeconds = UnixSeconds(1_800_000_000);
/// Few, so that the same one is revoked again while everything is compared.
const USERS: u64 = 40;
const SECRET: &[u8] = b"a secret of at least 32 bytes ...";
/// A gateway that is there again for so long has said what it knows.
const HEARD_AFTER: Duration = Duration::from_secs(4);

/// `SplitMix64`: small, and the same everywhere.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// One time in so many.
    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// What a server has, and what a replica has of it.
#[derive(Clone, Default)]
struct Data {
    stream: Vec<(EntryId, Bytes)>,
    last: EntryId,
    epoch: String,
    members: HashMap<Box<str>, Bytes>,
}

struct Server {
    chance: Chance,
    data: Data,
    replica: Data,
    /// Links of another generation are broken.
    generation: u64,
    /// Its clock minus the true one, in milliseconds.
    clock_ms: i64,
    born: Instant,
    /// Nothing is lost any more.
    is_at_peace: bool,
    /// Entries of one read. None at all: reads break, and all else goes on.
    most: usize,
    /// By name: no traffic.
    cut: HashMap<Box<str>, bool>,
}

impl Server {
    fn now_ms(&self) -> u64 {
        let true_ms = START.0 * 1000 + u64::try_from(self.born.elapsed().as_millis()).unwrap();
        true_ms.saturating_add_signed(self.clock_ms)
    }

    fn sight(&self) -> Sight {
        Sight {
            run: Run {
                server: format!("run-{}", self.generation).into(),
                epoch: self.data.epoch.as_str().into(),
            },
            last: self.data.last,
            now_ms: self.now_ms(),
        }
    }

    fn add(&mut self, payload: Bytes) -> EntryId {
        let ms = self.now_ms();
        let last = self.data.last;
        let id = if ms > last.ms {
            EntryId { ms, sequence: 0 }
        } else {
            EntryId {
                sequence: last.sequence + 1,
                ..last
            }
        };
        self.data.last = id;
        self.data.stream.push((id, payload));
        id
    }
}

#[derive(Clone)]
struct Redis {
    server: Arc<Mutex<Server>>,
    added: Arc<Notify>,
}

struct SimCarrier {
    redis: Redis,
    name: Box<str>,
}

struct SimLink {
    redis: Redis,
    name: Box<str>,
    generation: u64,
}

fn away() -> LinkFault {
    LinkFault::Away("simulated".into())
}

impl Redis {
    fn is_cut(&self, name: &str) -> bool {
        self.server
            .lock()
            .unwrap()
            .cut
            .get(name)
            .copied()
            .unwrap_or_default()
    }

    /// The way there or back.
    async fn travel(&self) {
        let micros = {
            let mut server = self.server.lock().unwrap();
            let slow = server.chance.one_in(50);
            server.chance.below(if slow { 300_000 } else { 3_000 })
        };
        sleep(Duration::from_micros(micros)).await;
    }
}

impl Carrier for SimCarrier {
    type Link = SimLink;

    async fn connect(&self) -> Result<SimLink, LinkFault> {
        self.redis.travel().await;
        if self.redis.is_cut(&self.name) {
            sleep(Duration::from_millis(500)).await;
            return Err(away());
        }
        let generation = self.redis.server.lock().unwrap().generation;
        Ok(SimLink {
            redis: self.redis.clone(),
            name: self.name.clone(),
            generation,
        })
    }
}

impl SimLink {
    /// Does something there. It may have been done although nobody hears of it.
    async fn ask<T>(&mut self, deed: impl FnOnce(&mut Server) -> T) -> Result<T, LinkFault> {
        self.redis.travel().await;
        self.check().await?;
        let (done, is_lost) = {
            let mut server = self.redis.server.lock().unwrap();
            let done = deed(&mut server);
            (done, !server.is_at_peace && server.chance.one_in(400))
        };
        self.redis.travel().await;
        self.check().await?;
        if is_lost {
            sleep(Duration::from_millis(500)).await;
            return Err(away());
        }
        Ok(done)
    }

    async fn check(&self) -> Result<(), LinkFault> {
        let generation = self.redis.server.lock().unwrap().generation;
        if self.redis.is_cut(&self.name) {
            sleep(Duration::from_millis(500)).await;
            return Err(away());
        }
        if generation == self.generation {
            Ok(())
        } else {
            Err(away())
        }
    }
}

impl Link for SimLink {
    async fn look(&mut self) -> Result<Sight, LinkFault> {
        self.ask(|server| server.sight()).await
    }

    async fn found(&mut self, epoch: &str) -> Result<(), LinkFault> {
        self.ask(|server| {
            if server.data.epoch.is_empty() {
                epoch.clone_into(&mut server.data.epoch);
            }
        })
        .await
    }

    async fn add(&mut self, payloads: &[Bytes]) -> Result<EntryId, LinkFault> {
        let added = Arc::clone(&self.redis.added);
        self.ask(|server| {
            for payload in payloads {
                server.add(payload.clone());
            }
            added.notify_waiters();
            server.data.last
        })
        .await
    }

    async fn read(
        &mut self,
        after: EntryId,
        count: usize,
        block: Duration,
    ) -> Result<Vec<super::Entry>, LinkFault> {
        let until = Instant::now() + block;
        loop {
            let added = Arc::clone(&self.redis.added);
            let waked = added.notified();
            let most = self.redis.server.lock().unwrap().most;
            if most < usize::MAX {
                sleep(STEP).await;
            }
            if most == 0 {
                return Err(away());
            }
            let count = count.min(most);
            let found = self
                .ask(|server| {
                    let stream = server.data.stream.iter();
                    let newer = stream.filter(|(id, _)| *id > after).take(count);
                    newer
                        .map(|(id, payload)| super::Entry {
                            id: *id,
                            payload: payload.clone(),
                        })
                        .collect::<Vec<_>>()
                })
                .await?;
            if !found.is_empty() || Instant::now() >= until {
                return Ok(found);
            }
            // A flush or a failover wakes nobody.
            let _ = tokio::time::timeout_at(until, waked).await;
        }
    }

    async fn trim(&mut self, before: EntryId) -> Result<(), LinkFault> {
        self.ask(|server| server.data.stream.retain(|(id, _)| *id >= before))
            .await
    }

    async fn report(
        &mut self,
        member: &str,
        payload: Bytes,
    ) -> Result<(Sight, Option<Bytes>), LinkFault> {
        self.ask(|server| {
            let before = server.data.members.insert(member.into(), payload);
            (server.sight(), before)
        })
        .await
    }

    async fn members(&mut self) -> Result<Vec<(Box<str>, Bytes)>, LinkFault> {
        self.ask(|server| {
            let members = server.data.members.iter();
            members
                .map(|(name, payload)| (name.clone(), payload.clone()))
                .collect()
        })
        .await
    }

    async fn forget(&mut self, member: &str) -> Result<(), LinkFault> {
        self.ask(|server| drop(server.data.members.remove(member)))
            .await
    }
}

/// One gateway that runs.
struct Gateway {
    name: Box<str>,
    has_disk: bool,
    index: Arc<Index>,
    lease: Lease,
    inbox: mpsc::Sender<Message>,
    fleet: Fleet,
    hand: ClockHand,
    skew_s: u64,
    /// Cut off until then.
    cut_until: Option<Instant>,
    /// It can be heard since then.
    heard_since: Instant,
    tasks: Vec<JoinHandle<()>>,
}

fn life() -> IssuerLife {
    IssuerLife {
        issuer: "https://id".into(),
        max_lifetime: Duration::from_hours(1),
        leeway: Duration::from_secs(30),
    }
}

fn fingerprinter() -> Fingerprinter {
    Fingerprinter::new(&keys_of(SECRET, "jotgate").0)
}

fn token_of(user: &str, issued: UnixSeconds) -> TokenKeys {
    let claims = Claims {
        issuer: "https://id".into(),
        audiences: vec![],
        expires: UnixSeconds(START.0 + 9999),
        not_before: None,
        issued: Some(issued),
        token_id: None,
        session_id: None,
        subject: Some(user.into()),
        client: None,
        scopes: vec![],
        all: serde_json::Value::Null,
    };
    TokenKeys::of(&fingerprinter(), &claims, None, b"h.p")
}

impl Gateway {
    fn start(
        redis: &Redis,
        name: &str,
        has_disk: bool,
        records: BTreeMap<RuleId, Arc<Record>>,
        chance: &mut Chance,
    ) -> Self {
        let born = redis.server.lock().unwrap().born;
        let skew_s = chance.below(4);
        let (clock, hand) = Clock::manual(START);
        let (index, mut index_writer) = denylist::index(100_000);
        for record in records.values() {
            index_writer.restore(record.rule());
        }
        let (inbox, main_inbox) = mpsc::channel(64);
        let (fleet, ways, joint) = join(name, STALENESS);
        let mut writer = Writer::new(
            index_writer,
            None,
            fingerprinter(),
            clock.clone(),
            main_inbox,
            Some(ways),
            Box::new(|_| None),
        );
        writer.remember(Records::Memory(records));
        let lease = Lease::ended();
        let seeded = Mutex::new(Chance(chance.next()));
        let options = Options {
            max_staleness: STALENESS,
            members_forgotten_after: Duration::from_mins(5),
            retention: Arc::new(|| Duration::from_hours(1)),
            clock,
            boot: Arc::new(move || boot_since(born)),
            propagation: Histogram::with_opts(HistogramOpts::new("p", "p")).unwrap(),
            chance: Arc::new(move || seeded.lock().unwrap().next()),
        };
        let carrier = SimCarrier {
            redis: redis.clone(),
            name: name.into(),
        };
        let seal = keys_of(SECRET, "jotgate").1;
        let tables = (Arc::clone(&index), lease.clone());
        let relay = Relay::new(carrier, seal, joint, tables, options);
        let never = CancellationToken::new();
        let tasks = vec![
            tokio::spawn(writer.run(never.clone())),
            tokio::spawn(relay.run(never)),
        ];
        Self {
            name: name.into(),
            has_disk,
            index,
            lease,
            inbox,
            fleet,
            hand,
            skew_s,
            cut_until: None,
            heard_since: Instant::now(),
            tasks,
        }
    }

    fn is_cut(&self) -> bool {
        self.cut_until.is_some()
    }

    async fn records(&self) -> BTreeMap<RuleId, Arc<Record>> {
        let (answer, page) = oneshot::channel();
        let query = Query {
            limit: usize::MAX,
            with_lifted: true,
            ..Query::default()
        };
        assert!(
            self.inbox
                .send(Message::List { query, answer })
                .await
                .is_ok()
        );
        let page = page.await.unwrap().unwrap();
        assert_eq!(page.next, None);
        page.records
            .into_iter()
            .map(|record| (record.id, Arc::new(record)))
            .collect()
    }

    /// Revokes users; answers with the sequence.
    async fn revoke(&self, users: &[String], cutoff: UnixSeconds) -> u64 {
        let origin = Origin {
            by: "ops".into(),
            way: Way::AdminApi,
        };
        let orders = users
            .iter()
            .map(|user| {
                Order::named(
                    &fingerprinter(),
                    &life(),
                    (Kind::User, user),
                    Some(cutoff),
                    false,
                    cutoff,
                )
            })
            .collect();
        let (answer, written) = oneshot::channel();
        let change = Change::Write {
            orders,
            origin,
            answer,
        };
        assert!(self.inbox.send(Message::Change(change)).await.is_ok());
        written.await.unwrap().unwrap().sequence
    }

    /// Blocks a client, or lifts that.
    async fn block(&self, client: &str, is_blocked: bool) {
        let origin = Origin {
            by: "ops".into(),
            way: Way::AdminApi,
        };
        let now = UnixSeconds(START.0);
        let order = Order::named(
            &fingerprinter(),
            &life(),
            (Kind::Client, client),
            None,
            true,
            now,
        );
        if is_blocked {
            let (answer, written) = oneshot::channel();
            let orders = vec![order];
            let change = Change::Write {
                orders,
                origin,
                answer,
            };
            assert!(self.inbox.send(Message::Change(change)).await.is_ok());
            written.await.unwrap().unwrap();
        } else {
            let (answer, lifted) = oneshot::channel();
            let change = Change::Lift {
                id: order.id,
                origin,
                answer,
            };
            assert!(self.inbox.send(Message::Change(change)).await.is_ok());
            // It may not know of the block.
            let _ = lifted.await.unwrap();
        }
    }

    fn crash(&self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn boot_since(born: Instant) -> BootMillis {
    // The machine has run for a while.
    BootMillis(1_000_000 + u64::try_from(born.elapsed().as_millis()).unwrap())
}

/// A revocation that was acknowledged.
struct Promise {
    user: String,
    id: RuleId,
    keys: TokenKeys,
    /// None: only that it holds in the end.
    effective_by: Option<BootMillis>,
}

impl Promise {
    fn new(user: &str, cutoff: UnixSeconds, effective_by: Option<BootMillis>) -> Self {
        Self {
            user: user.into(),
            id: id_of(user),
            keys: token_of(user, cutoff),
            effective_by,
        }
    }
}

/// A revocation whose caller waits for the relay.
struct Pending {
    users: Vec<String>,
    cutoff: UnixSeconds,
    by: Box<str>,
    relayed: oneshot::Receiver<BootMillis>,
}

type OnDisk = BTreeMap<RuleId, Arc<Record>>;

struct Story {
    chance: Chance,
    redis: Redis,
    gateways: Vec<Gateway>,
    /// What crashed gateways have on disk, and when they are back.
    down: Vec<(Box<str>, Instant, OnDisk)>,
    promises: Vec<Promise>,
    pending: Vec<Pending>,
    revoked: u64,
    named: u64,
    lost_at: Instant,
}

impl Story {
    fn new(seed: u64) -> Self {
        let mut story = Self::bare(seed);
        for _ in 0..3 {
            story.join();
        }
        story
    }

    /// Nobody is there.
    fn bare(seed: u64) -> Self {
        let mut chance = Chance(seed);
        let server = Server {
            chance: Chance(chance.next()),
            data: Data::default(),
            replica: Data::default(),
            generation: 1,
            clock_ms: 0,
            born: Instant::now(),
            is_at_peace: false,
            most: usize::MAX,
            cut: HashMap::new(),
        };
        let redis = Redis {
            server: Arc::new(Mutex::new(server)),
            added: Arc::new(Notify::new()),
        };
        Self {
            chance,
            redis,
            gateways: vec![],
            down: vec![],
            promises: vec![],
            pending: vec![],
            revoked: 0,
            named: 0,
            lost_at: Instant::now(),
        }
    }

    /// Nothing happens but time.
    async fn pass(&mut self, span: Duration) {
        let until = Instant::now() + span;
        while Instant::now() < until {
            sleep(STEP).await;
            self.set_clocks();
        }
    }

    fn join(&mut self) {
        self.named += 1;
        let name = format!("gateway-{}", self.named);
        let has_disk = self.chance.one_in(2);
        let gateway = Gateway::start(
            &self.redis,
            &name,
            has_disk,
            BTreeMap::new(),
            &mut self.chance,
        );
        self.gateways.push(gateway);
    }

    fn boot(&self) -> BootMillis {
        boot_since(self.redis.server.lock().unwrap().born)
    }

    fn any(&mut self) -> usize {
        let count = self.gateways.len() as u64;
        usize::try_from(self.chance.below(count)).unwrap()
    }

    fn set_clocks(&self) {
        let elapsed = self.redis.server.lock().unwrap().born.elapsed();
        for gateway in &self.gateways {
            let now = START
                .plus(elapsed)
                .plus(Duration::from_secs(gateway.skew_s));
            gateway.hand.set(now);
        }
    }

    async fn revoke(&mut self) {
        let at = self.any();
        let count = 1 + self.chance.below(3);
        // The same ones again and again, each time of a later date.
        let users: Vec<_> = (0..count)
            .map(|_| format!("user-{}", self.chance.below(USERS)))
            .collect();
        self.revoked += 1;
        let cutoff = UnixSeconds(START.0 + self.revoked);
        let gateway = &self.gateways[at];
        let sequence = gateway.revoke(&users, cutoff).await;
        if gateway.has_disk {
            // Durable here: it holds everywhere in the end.
            let promised = users.iter().map(|user| Promise::new(user, cutoff, None));
            self.promises.extend(promised);
        }
        let (answer, relayed) = oneshot::channel();
        let (mut progress, born) = (
            gateway.fleet.relayed(),
            self.redis.server.lock().unwrap().born,
        );
        tokio::spawn(async move {
            let reached = progress
                .wait_for(|relayed| relayed.sequence >= sequence)
                .await;
            if reached.is_ok() {
                let _ = answer.send(boot_since(born));
            }
        });
        self.pending.push(Pending {
            users,
            cutoff,
            by: gateway.name.clone(),
            relayed,
        });
    }

    fn collect_acknowledgements(&mut self) {
        let promises = &mut self.promises;
        self.pending
            .retain_mut(|pending| match pending.relayed.try_recv() {
                Ok(at) => {
                    let promise = |user: &String| {
                        Promise::new(user, pending.cutoff, Some(at.plus(STALENESS)))
                    };
                    promises.extend(pending.users.iter().map(promise));
                    false
                }
                Err(oneshot::error::TryRecvError::Empty) => true,
                Err(oneshot::error::TryRecvError::Closed) => false,
            });
    }

    /// What nobody has any more was lost by bad luck alone.
    fn forget_what_is_lost(&mut self) {
        self.lost_at = Instant::now();
        let seal = keys_of(SECRET, "jotgate").1;
        let server = self.redis.server.lock().unwrap();
        let mut in_stream: HashMap<RuleId, Record> = HashMap::new();
        for (_, payload) in &server.data.stream {
            for record in payload::records(payload, &seal).unwrap() {
                match in_stream.entry(record.id) {
                    Entry::Occupied(mut known) => known.get_mut().absorb(&record),
                    Entry::Vacant(place) => drop(place.insert(record)),
                }
            }
        }
        let (gateways, down) = (&self.gateways, &self.down);
        self.promises.retain(|promise| {
            let denies = |record: Option<&Record>| {
                record.is_some_and(|record| record.rule().denies(&promise.keys))
            };
            denies(in_stream.get(&promise.id))
                || gateways
                    .iter()
                    .any(|gateway| gateway.index.check(&promise.keys).is_some())
                || down
                    .iter()
                    .any(|(_, _, records)| denies(records.get(&promise.id).map(|it| &**it)))
        });
    }

    async fn crash(&mut self) {
        if self.gateways.len() < 3 {
            return;
        }
        let at = self.any();
        let records = self.gateways[at].records().await;
        let gateway = self.gateways.swap_remove(at);
        gateway.crash();
        self.pending.retain(|pending| pending.by != gateway.name);
        if gateway.has_disk {
            let away = Duration::from_millis(self.chance.below(6_000));
            self.down
                .push((gateway.name, Instant::now() + away, records));
        }
        self.forget_what_is_lost();
    }

    fn accident(&mut self) {
        let what = self.chance.below(6);
        {
            let mut server = self.redis.server.lock().unwrap();
            match what {
                // A restart without its data, or a flush of the same server.
                0 | 3 => server.data = Data::default(),
                // A failover to a replica that lags; the clock may be behind.
                1 | 2 => server.data = server.replica.clone(),
                // A plain restart: nothing is lost.
                _ => {}
            }
            server.replica = server.data.clone();
            if what != 3 {
                server.generation += 1;
                server.clock_ms = i64::try_from(self.chance.below(20_000)).unwrap() - 10_000;
            }
        }
        self.redis.added.notify_waiters();
        self.forget_what_is_lost();
    }

    fn cut(&mut self) {
        let at = self.any();
        let span = Duration::from_millis(self.chance.below(5_000));
        let gateway = &mut self.gateways[at];
        gateway.cut_until = Some(Instant::now() + span);
        let mut server = self.redis.server.lock().unwrap();
        server.cut.insert(gateway.name.clone(), true);
    }

    fn heal(&mut self, everybody: bool) {
        let now = Instant::now();
        for gateway in &mut self.gateways {
            if gateway
                .cut_until
                .is_some_and(|until| everybody || until <= now)
            {
                gateway.cut_until = None;
                gateway.heard_since = now;
                self.redis.server.lock().unwrap().cut.remove(&gateway.name);
            }
        }
        let down = std::mem::take(&mut self.down);
        for (name, until, records) in down {
            if everybody || until <= now {
                self.redis.server.lock().unwrap().cut.remove(&name);
                let back = Gateway::start(&self.redis, &name, true, records, &mut self.chance);
                self.gateways.push(back);
            } else {
                self.down.push((name, until, records));
            }
        }
    }

    /// After `effective_by` nobody lets it through, as long as one gateway that has the rule was heard since Redis lost something.
    fn check(&self, seed: u64) {
        let now = self.boot();
        // All of them each time would take most of the time; what has just come due is looked at, and the rest now and then.
        let looks_at_all = now.0 % 2_000 < 100;
        let since = |by: BootMillis| now.0.saturating_sub(by.0);
        for promise in &self.promises {
            let Some(by) = promise.effective_by.filter(|by| now > *by) else {
                continue;
            };
            if !looks_at_all && since(by) > 1_000 {
                continue;
            }
            let denies = |gateway: &Gateway| gateway.index.check(&promise.keys).is_some();
            let heard = |gateway: &Gateway| {
                !gateway.is_cut() && gateway.heard_since.max(self.lost_at).elapsed() > HEARD_AFTER
            };
            let is_known = self
                .gateways
                .iter()
                .any(|gateway| denies(gateway) && heard(gateway));
            for gateway in &self.gateways {
                assert!(
                    denies(gateway) || !gateway.lease.holds(now) || !is_known,
                    "seed {seed}: {} lets {} through {} ms after effective_by",
                    gateway.name,
                    promise.user,
                    since(by)
                );
            }
        }
    }

    async fn tell(&mut self, seed: u64, steps: u32) {
        for step in 0..steps {
            sleep(STEP).await;
            self.set_clocks();
            self.heal(false);
            if self.chance.one_in(8) {
                self.revoke().await;
            }
            if self.chance.one_in(30) {
                let (at, is_blocked) = (self.any(), self.chance.one_in(2));
                let client = format!("client-{}", self.chance.below(3));
                self.gateways[at].block(&client, is_blocked).await;
            }
            if self.chance.one_in(20) {
                let mut server = self.redis.server.lock().unwrap();
                server.replica = server.data.clone();
            }
            // Nothing goes wrong before anybody is in sync.
            if step > 160 {
                if self.chance.one_in(40) {
                    self.cut();
                }
                if self.chance.one_in(90) {
                    self.crash().await;
                }
                if self.chance.one_in(100) {
                    self.accident();
                }
                if self.gateways.len() < 6 && self.chance.one_in(90) {
                    self.join();
                }
            }
            self.collect_acknowledgements();
            self.check(seed);
        }
    }

    /// Peace: all are there, and in time all say the same.
    async fn end(mut self, seed: u64) {
        self.heal(true);
        self.redis.server.lock().unwrap().is_at_peace = true;
        for _ in 0..250 {
            sleep(STEP).await;
            self.set_clocks();
            self.collect_acknowledgements();
            self.check(seed);
        }
        let mut first: Option<BTreeMap<RuleId, Arc<Record>>> = None;
        for gateway in &self.gateways {
            assert_eq!(
                gateway.fleet.view().state,
                RelayState::Following,
                "seed {seed}: {}",
                gateway.name
            );
            assert!(
                gateway.lease.holds(self.boot()),
                "seed {seed}: {} is not in sync",
                gateway.name
            );
            let records = gateway.records().await;
            for promise in &self.promises {
                assert!(
                    records
                        .get(&promise.id)
                        .is_some_and(|record| record.rule().denies(&promise.keys)),
                    "seed {seed}: {} lacks {}",
                    gateway.name,
                    promise.user
                );
            }
            if let Some(first) = &first {
                assert_eq!(records.len(), first.len(), "seed {seed}: {}", gateway.name);
                for (id, record) in &records {
                    assert!(
                        record.is_same_rule(&first[id]),
                        "seed {seed}: {id}: {record:?} is not {:?}",
                        first[id]
                    );
                    assert_eq!(
                        gateway.index.rule(id.kind, id.fingerprint),
                        Some(record.rule()),
                        "seed {seed}: {id}"
                    );
                }
            } else {
                first = Some(records);
            }
        }
        assert!(
            !self.promises.is_empty(),
            "seed {seed}: a story without promises shows nothing"
        );
        for gateway in &self.gateways {
            gateway.crash();
        }
    }
}

fn id_of(user: &str) -> RuleId {
    RuleId {
        fingerprint: fingerprinter().of(Kind::User, "https://id", user),
        kind: Kind::User,
    }
}

/// Runs one story to its end.
fn run(seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut story = Story::new(seed);
        let told = timeout(Duration::from_hours(1), story.tell(seed, 600)).await;
        assert!(told.is_ok(), "seed {seed} hangs");
        story.end(seed).await;
    });
}

/// What happens is chosen by hand here. Two gateways, in sync.
async fn two_in_sync() -> Story {
    let mut story = Story::bare(7);
    story.redis.server.lock().unwrap().is_at_peace = true;
    story.join();
    story.join();
    story.pass(Duration::from_secs(40)).await;
    assert!(
        story
            .gateways
            .iter()
            .all(|gateway| gateway.lease.holds(story.boot()))
    );
    story
}

fn calm(scenario: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(scenario);
}

#[test]
fn what_is_revoked_again_while_everything_is_compared_goes_out_too() {
    calm(async {
        let mut story = two_in_sync().await;
        let later = UnixSeconds(START.0 + 5);
        story.gateways[0].revoke(&["alice".into()], START).await;
        story.pass(STEP).await;
        for number in 0..30 {
            let user = format!("other-{number}");
            story.gateways[0].revoke(&[user], START).await;
            story.pass(STEP).await;
        }
        // A restart; reading all of it takes three seconds.
        {
            let mut server = story.redis.server.lock().unwrap();
            server.generation += 1;
            server.most = 1;
        }
        story.pass(Duration::from_secs(2)).await;
        let state = story.gateways[0].fleet.view().state;
        assert_eq!(state, RelayState::Reconciling);
        let sequence = story.gateways[0].revoke(&["alice".into()], later).await;
        let mut progress = story.gateways[0].fleet.relayed();
        let relayed = progress.wait_for(|relayed| relayed.sequence >= sequence);
        timeout(Duration::from_mins(1), relayed)
            .await
            .unwrap()
            .unwrap();
        story.pass(Duration::from_secs(10)).await;
        let keys = token_of("alice", later);
        assert!(story.gateways[1].index.check(&keys).is_some());
    });
}

#[test]
fn a_gateway_that_reads_nothing_is_not_in_sync_however_well_it_reports() {
    calm(async {
        let mut story = two_in_sync().await;
        story.redis.server.lock().unwrap().most = 0;
        // Both break, so this one cannot read what it wrote.
        story.gateways[0].revoke(&["alice".into()], START).await;
        story.pass(STALENESS * 2).await;
        let now = story.boot();
        assert!(
            story
                .gateways
                .iter()
                .all(|gateway| !gateway.lease.holds(now))
        );
        story.redis.server.lock().unwrap().most = usize::MAX;
        story.pass(Duration::from_secs(4)).await;
        let now = story.boot();
        assert!(
            story
                .gateways
                .iter()
                .all(|gateway| gateway.lease.holds(now))
        );
        let keys = token_of("alice", START);
        assert!(story.gateways[1].index.check(&keys).is_some());
    });
}

/// `lose` makes the server lose what it took since the replica was up to date.
fn all_are_waited_for(lose: impl Fn(&mut Server)) {
    calm(async {
        let mut story = two_in_sync().await;
        let cut = |story: &Story, number: usize, is_cut: bool| {
            let name = story.gateways[number].name.clone();
            story.redis.server.lock().unwrap().cut.insert(name, is_cut);
        };
        // The second one does not hear of it, and then Redis loses it, and the first one is gone.
        cut(&story, 1, true);
        {
            let mut server = story.redis.server.lock().unwrap();
            server.replica = server.data.clone();
        }
        story.gateways[0].revoke(&["alice".into()], START).await;
        story.pass(Duration::from_secs(1)).await;
        lose(&mut story.redis.server.lock().unwrap());
        cut(&story, 0, true);
        story.pass(STALENESS).await;
        let second = &story.gateways[1];
        assert!(!second.lease.holds(story.boot()));
        cut(&story, 1, false);
        story.pass(STALENESS / 2).await;
        let second = &story.gateways[1];
        assert_eq!(second.fleet.view().state, RelayState::Settling);
        assert!(
            !second.lease.holds(story.boot()),
            "the first one may know more"
        );
        // It does.
        cut(&story, 0, false);
        story.pass(Duration::from_secs(3)).await;
        let second = &story.gateways[1];
        assert!(second.lease.holds(story.boot()));
        assert!(second.index.check(&token_of("alice", START)).is_some());
    });
}

#[test]
fn after_a_loss_nobody_is_in_sync_before_all_have_come_or_had_the_time() {
    all_are_waited_for(|server| {
        server.data = server.replica.clone();
        server.generation += 1;
    });
}

#[test]
fn after_a_flush_those_that_were_there_before_are_waited_for_too() {
    all_are_waited_for(|server| server.data = Data::default());
}

#[test]
fn a_gateway_that_does_not_come_back_is_not_waited_for_for_ever() {
    calm(async {
        let mut story = two_in_sync().await;
        story.gateways.remove(0).crash();
        {
            let mut server = story.redis.server.lock().unwrap();
            server.generation += 1;
        }
        story.pass(STALENESS / 2).await;
        assert_eq!(story.gateways[0].fleet.view().state, RelayState::Settling);
        story.pass(STALENESS).await;
        assert_eq!(story.gateways[0].fleet.view().state, RelayState::Following);
        assert!(story.gateways[0].lease.holds(story.boot()));
    });
}

#[test]
fn a_gateway_that_is_cut_off_is_stale_in_time_and_in_sync_again_soon() {
    calm(async {
        let mut story = two_in_sync().await;
        let name = story.gateways[1].name.clone();
        story
            .redis
            .server
            .lock()
            .unwrap()
            .cut
            .insert(name.clone(), true);
        story.pass(STALENESS + Duration::from_millis(250)).await;
        assert!(story.gateways[0].lease.holds(story.boot()));
        assert!(!story.gateways[1].lease.holds(story.boot()));
        story.redis.server.lock().unwrap().cut.remove(&name);
        story.pass(Duration::from_secs(3)).await;
        assert!(story.gateways[1].lease.holds(story.boot()));
    });
}

#[test]
fn a_change_is_dated_by_its_id_while_the_clock_of_redis_is_behind() {
    calm(async {
        let mut story = two_in_sync().await;
        story.gateways[0].revoke(&["alice".into()], START).await;
        story.pass(STEP).await;
        story.redis.server.lock().unwrap().clock_ms = -60_000;
        story.pass(STALENESS).await;
        let sequence = story.gateways[0].revoke(&["bob".into()], START).await;
        let mut progress = story.gateways[0].fleet.relayed();
        let relayed = progress.wait_for(|relayed| relayed.sequence >= sequence);
        let relayed = timeout(Duration::from_mins(1), relayed).await.unwrap();
        let relayed = relayed.unwrap().clone();
        let now_ms = story.redis.server.lock().unwrap().now_ms();
        assert!(now_ms < relayed.id.ms, "ids never go back");
        assert!(relayed.at.0 * 1000 > relayed.id.ms, "{relayed:?}");
    });
}

#[test]
fn a_twin_is_remembered_for_the_longer_max_staleness_of_the_two() {
    for theirs in [STALENESS / 4, STALENESS * 3] {
        calm(async {
            let mut story = two_in_sync().await;
            let name = story.gateways[0].name.clone();
            // As another gateway sees it.
            let seen = |story: &Story| {
                let members = story.gateways[1].fleet.members();
                let mut members = members.iter();
                members.find(|it| it.name == name).unwrap().clone()
            };
            let twin = Report {
                member: Member {
                    at: UnixSeconds(story.redis.server.lock().unwrap().now_ms() / 1000),
                    max_staleness: theirs,
                    ..seen(&story)
                },
                retention_s: 0,
                instance: 1,
            };
            // Said once, and then it is gone.
            let said = close_report(&twin, &keys_of(SECRET, "jotgate").1);
            {
                let mut server = story.redis.server.lock().unwrap();
                server.data.members.insert(name.clone(), said);
            }
            let longer = STALENESS.max(theirs);
            story.pass(longer * 9 / 10).await;
            let member = seen(&story);
            assert!(member.shares_name, "{theirs:?}");
            assert_eq!(member.max_staleness, longer, "it speaks for both");
            story.pass(STALENESS).await;
            let member = seen(&story);
            assert!(!member.shares_name, "{theirs:?}");
            assert_eq!(member.max_staleness, STALENESS);
        });
    }
}

/// Seeds in parts, so that they run beside each other.
const PARTS: u64 = 16;

const SEEDS: u64 = 1024;

fn part(number: u64) {
    let seeds = SEEDS / PARTS;
    for seed in number * seeds..(number + 1) * seeds {
        run(seed);
    }
}

#[test]
fn no_rule_is_lost_and_no_promise_broken_1() {
    part(0);
}

#[test]
fn no_rule_is_lost_and_no_promise_broken_2() {
    part(1);
}

#[test]
fn no_rule_is_lost_and_no_promise_broken_3() {
    part(2);
}

#[test]
fn no_rule_is_lost_and_no_promise_broken_4() {
    part(3);
}

#[test]
fn no_rule_is_lost_and_no_promise_broken_5() {
    part(4);
}

#[test]
fn no_rule_is_lost_and_no_promise_broken_6() {
    part(5);
}

#[test]
fn no_rule_is_lost_and_no_promise_broken_7() {
    part(6);
}

#[test]
fn no_rule_is_lost_and_no_promise_broken_8() {
    part(7);
}

#[test]
fn no_rule_is_lost_and_no_promise_broken_9() {
    part(8);
}

#[test]
fn no_rule_is_lost_and_no_promise_broken_10() {
    part(9);
}

#[test]
fn no_rule_is_lost_and_no_promise_broken_11() {
    part(10);
}

#[test]
fn no_rule_is_lost_and_no_promise_broken_12() {
    part(11);
}

#[test]
fn no_rule_is_lost_and_no_promise_broken_13() {
    part(12);
}

#[test]
fn no_rule_is_lost_and_no_promise_broken_14() {
    part(13);
}

#[test]
fn no_rule_is_lost_and_no_promise_broken_15() {
    part(14);
}

#[test]
fn no_rule_is_lost_and_no_promise_broken_16() {
    part(15);
}
