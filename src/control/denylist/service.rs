//! The face of the denylist for everything that revokes, lifts, lists or asks. Clones talk to the same writer.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::log::{Log, LogView};
use super::order::{IdentifiedToken, IdentifyFault, IssuerLife, Issuers, Order, Tokens};
use super::receipt::{Patience, Receipt, Wait, follow, look};
use super::record::{Origin, Record, RuleId};
use super::relay::{Fleet, Ways};
use super::request::{self, Asked, Context, Faults};
use super::writer::{
    Change, INBOX, LiftError, Lifted, Message, Page, Query, ReadError, RevokeError, Stopped,
    Verdict, Writer, Written,
};
use crate::base::clock::Clock;
use crate::denylist::{Fingerprinter, Index, IndexWriter, Kind, TokenKeys};

/// What the denylist's writer is made of.
pub struct Parts {
    /// The one writer of the index that requests read.
    pub index: IndexWriter,
    /// Opened with that index. None: a restart forgets everything.
    pub log: Option<Log>,
    /// The same that requests use.
    pub fingerprinter: Fingerprinter,
    /// Those of the configuration.
    pub issuers: Issuers,
    /// Reads raw tokens.
    pub tokens: Arc<dyn Tokens>,
    /// The fleet that it belongs to. None: it stands alone.
    pub fleet: Option<Fleet>,
    /// The way to it, made together with it.
    pub ways: Option<Ways>,
    /// The time.
    pub clock: Clock,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("index", &self.index)
            .field("issuers", &self.issuers)
            .finish_non_exhaustive()
    }
}

/// Asks the writer of the denylist.
#[derive(Clone)]
pub struct Revocations {
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Message>,
}

struct Shared {
    index: Arc<Index>,
    log: Option<LogView>,
    entries_max: usize,
    fingerprinter: Fingerprinter,
    issuers: ArcSwap<Issuers>,
    tokens: Arc<dyn Tokens>,
    fleet: Option<Fleet>,
    /// The newest change that was acknowledged: [`Written::sequence`].
    acknowledged: AtomicU64,
    clock: Clock,
}

/// How long a look at the fleet takes at most: members report within milliseconds of what they apply, if they are well.
const LOOK: Duration = Duration::from_millis(250);

/// The denylist's face, and its writer, which needs a task.
#[must_use]
pub fn revocations(parts: Parts) -> (Revocations, Writer) {
    let (sender, inbox) = mpsc::channel(INBOX);
    let shared = Shared {
        index: Arc::clone(parts.index.index()),
        log: parts.log.as_ref().map(Log::view),
        entries_max: parts.index.entries_max(),
        fingerprinter: parts.fingerprinter,
        issuers: ArcSwap::from_pointee(parts.issuers),
        tokens: parts.tokens,
        fleet: parts.fleet,
        acknowledged: AtomicU64::new(0),
        clock: parts.clock.clone(),
    };
    let shared = Arc::new(shared);
    let revocations = Revocations {
        shared: Arc::clone(&shared),
        inbox: sender,
    };
    let lives = Box::new(move |issuer: &str| {
        let issuers = shared.issuers.load();
        issuers.find(issuer).map(IssuerLife::whole)
    });
    let writer = Writer::new(
        parts.index,
        parts.log,
        parts.fingerprinter,
        parts.clock,
        inbox,
        parts.ways,
        lives,
    );
    (revocations, writer)
}

impl Revocations {
    /// What requests read.
    #[must_use]
    pub fn index(&self) -> &Arc<Index> {
        &self.shared.index
    }

    /// The log, if what is acknowledged outlives the process.
    #[must_use]
    pub fn log(&self) -> Option<&LogView> {
        self.shared.log.as_ref()
    }

    /// The fleet, if this gateway belongs to one.
    #[must_use]
    pub fn fleet(&self) -> Option<&Fleet> {
        self.shared.fleet.as_ref()
    }

    /// The most rules there may be.
    #[must_use]
    pub fn entries_max(&self) -> usize {
        self.shared.entries_max
    }

    /// The longest that a token may still pass after it was issued.
    #[must_use]
    pub fn longest_life(&self) -> Duration {
        self.shared.issuers.load().longest_life()
    }

    /// Takes over the issuers of a new configuration. Rules that are there stay.
    pub fn replace_issuers(&self, issuers: Issuers) {
        self.shared.issuers.store(Arc::new(issuers));
    }

    /// Keeps rules of running issuers at least as long as a new configuration needs, which is about to be taken over.
    pub fn keep_longer(&self, lives: &[IssuerLife]) {
        let widened = self.shared.issuers.load().widened(lives);
        self.replace_issuers(widened);
    }

    /// Reads the body of `POST /v1/revocations`. Ten thousand tokens take a while: not on a thread that serves.
    pub fn read(&self, body: &Value) -> Result<Asked, Faults> {
        request::asked(
            body,
            &Context {
                issuers: &self.shared.issuers.load(),
                tokens: &*self.shared.tokens,
                fingerprinter: self.shared.fingerprinter,
                in_fleet: self.shared.fleet.is_some(),
                now: self.shared.clock.now(),
            },
        )
    }

    /// Revokes what carries that name at the issuer, from now on. None if the issuer is not configured.
    #[must_use]
    pub fn order(&self, issuer: &str, kind: Kind, value: &str) -> Option<Order> {
        let issuers = self.shared.issuers.load();
        let life = issuers.find(issuer)?;
        let now = self.shared.clock.now();
        Some(Order::named(
            &self.shared.fingerprinter,
            life,
            (kind, value),
            None,
            false,
            now,
        ))
    }

    /// Denies every session of the user but this one. None if the issuer is not configured.
    #[must_use]
    pub fn order_pin(&self, issuer: &str, user: &str, session_id: &str) -> Option<Order> {
        let issuers = self.shared.issuers.load();
        let life = issuers.find(issuer)?;
        let fingerprinter = &self.shared.fingerprinter;
        Some(Order::pin(fingerprinter, life, user, session_id))
    }

    /// Revokes one token. None if its issuer is not configured.
    #[must_use]
    pub fn order_for(&self, token: &IdentifiedToken) -> Option<Order> {
        let issuers = self.shared.issuers.load();
        Order::token(token, issuers.find(&token.issuer)?.leeway)
    }

    /// Writes the orders, all or none. When this returns, every request that starts later is denied by them.
    pub async fn revoke(&self, orders: Vec<Order>, origin: Origin) -> Result<Written, RevokeError> {
        let written = self
            .ask(|answer| {
                Message::Change(Change::Write {
                    orders,
                    origin,
                    answer,
                })
            })
            .await??;
        // What was only tried out goes to nobody.
        if written.outcomes.iter().any(|outcome| !outcome.dry_run) {
            self.acknowledged(written.sequence);
        }
        Ok(written)
    }

    /// Takes back the standing part of a rule. Answers with what is left of it, if anything is.
    pub async fn lift(&self, id: RuleId, origin: Origin) -> Result<Lifted, LiftError> {
        let lifted = self
            .ask(|answer| Message::Change(Change::Lift { id, origin, answer }))
            .await??;
        self.acknowledged(lifted.sequence);
        Ok(lifted)
    }

    fn acknowledged(&self, sequence: u64) {
        self.shared
            .acknowledged
            .fetch_max(sequence, Ordering::AcqRel);
    }

    /// Waits until a change has come as far as its caller asks, for as long as the caller wants. None without a fleet: then it has come
    /// everywhere already.
    pub async fn follow(&self, sequence: u64, patience: Patience) -> Option<Receipt> {
        let fleet = self.shared.fleet.as_ref()?;
        // See `is_kept`.
        let least = if self.log().is_some() {
            Wait::Local
        } else {
            Wait::Relay
        };
        let wait = patience.wait.unwrap_or(Wait::Relay).max(least);
        Some(follow(fleet, sequence, wait, patience.timeout).await)
    }

    /// Whether a change that came as far as the receipt says outlives the process. What neither disk nor relay has does not, and is no
    /// acknowledgement.
    #[must_use]
    pub fn is_kept(&self, receipt: Option<&Receipt>) -> bool {
        self.log().is_some() || receipt.is_none_or(|receipt| receipt.relayed)
    }

    /// How far everything has come that was acknowledged until now. None without a fleet.
    pub async fn look_around(&self) -> Option<Receipt> {
        let fleet = self.shared.fleet.as_ref()?;
        let newest = self.shared.acknowledged.load(Ordering::Acquire);
        Some(look(fleet, newest, LOOK).await)
    }

    /// One rule.
    pub async fn record(&self, id: RuleId) -> Result<Option<Record>, ReadError> {
        Ok(self.ask(|answer| Message::Read { id, answer }).await??)
    }

    /// A page of the rules.
    pub async fn list(&self, query: Query) -> Result<Page, ReadError> {
        Ok(self.ask(|answer| Message::List { query, answer }).await??)
    }

    /// The keys of a raw token.
    pub fn identify(&self, raw: &str) -> Result<TokenKeys, IdentifyFault> {
        self.shared.tokens.identify(raw).map(|token| token.keys)
    }

    /// Which rules deny the token with these keys.
    pub async fn check(&self, keys: TokenKeys) -> Result<Verdict, ReadError> {
        Ok(self.ask(|answer| Message::Check { keys, answer }).await??)
    }

    async fn ask<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<T>) -> Message,
    ) -> Result<T, Stopped> {
        let (sender, answer) = oneshot::channel();
        self.inbox
            .send(message(sender))
            .await
            .map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }
}

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocations")
            .field("index", &self.shared.index)
            .field("entries_max", &self.shared.entries_max)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(in crate::control) mod testing {
    //! A denylist for tests.

    use std::time::Duration;

    use super::*;
    use crate::control::denylist::order::IssuerLife;

    /// Knows no token.
    struct NoTokens;

    impl Tokens for NoTokens {
        fn identify(&self, _: &str) -> Result<IdentifiedToken, IdentifyFault> {
            Err(IdentifyFault::Malformed)
        }
    }

    /// Of a gateway that stands alone, without a log. Tokens of its one issuer live for an hour.
    pub(in crate::control) fn parts(issuer: &str, index: IndexWriter, clock: Clock) -> Parts {
        let issuer = IssuerLife {
            issuer: issuer.into(),
            max_lifetime: Duration::from_hours(1),
            leeway: Duration::from_secs(30),
        };
        Parts {
            index,
            log: None,
            fingerprinter: Fingerprinter::new(&[1; 16]),
            issuers: [issuer].into_iter().collect(),
            tokens: Arc::new(NoTokens),
            fleet: None,
            ways: None,
            clock,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;
    use std::time::Duration;

    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    use super::super::record::{Outcome, Way};
    use super::testing::parts;
    use super::*;
    use crate::base::clock::{ClockHand, UnixSeconds};
    use crate::denylist::{self, Cutoff};
    use crate::telemetry::logs;
    use crate::token::Claims;

    const NOW: UnixSeconds = UnixSeconds(1_795_417_570);
    const MAKE: fn() -> Fingerprinter = || Fingerprinter::new(&[1; 16]);

    fn start(entries_max: usize) -> (Revocations, ClockHand, CancellationToken) {
        let (clock, hand) = Clock::manual(NOW);
        let (_, index) = denylist::index(entries_max);
        let (revocations, writer) = revocations(parts("https://id", index, clock));
        let shutdown = CancellationToken::new();
        tokio::spawn(writer.run(shutdown.clone()));
        (revocations, hand, shutdown)
    }

    fn ops() -> Origin {
        Origin {
            by: "ops".into(),
            way: Way::AdminApi,
        }
    }

    async fn post(revocations: &Revocations, body: Value) -> Result<Vec<Outcome>, RevokeError> {
        let orders = revocations.read(&body).unwrap().orders;
        let written = revocations.revoke(orders, ops()).await?;
        Ok(written.outcomes)
    }

    async fn lift(revocations: &Revocations, id: RuleId) -> Result<Option<Record>, LiftError> {
        Ok(revocations.lift(id, ops()).await?.rest)
    }

    fn token(user: &str, issued: u64) -> TokenKeys {
        let claims = Claims {
            issuer: "https://id".into(),
            audiences: vec![],
            expires: UnixSeconds(issued + 60),
            not_before: None,
            issued: Some(UnixSeconds(issued)),
            token_id: None,
            session_id: None,
            subject: Some(user.into()),
            client: None,
            scopes: vec![],
            all: Value::Null,
        };
        TokenKeys::of(&MAKE(), &claims, None, b"h.p")
    }

    fn user(name: &str) -> Value {
        json!({"iss": "https://id", "sub": name})
    }

    #[tokio::test]
    async fn what_is_acknowledged_is_denied() {
        let (revocations, _, _) = start(10);
        let alice = token("alice", NOW.0);
        assert_eq!(revocations.index().check(&alice), None);
        let outcomes = post(&revocations, user("alice")).await.unwrap();
        assert_eq!(revocations.index().check(&alice), Some(Kind::User));
        assert!(outcomes[0].created);
        let verdict = revocations.check(alice).await.unwrap();
        assert_eq!(verdict.denied_by, [Record::clone(&outcomes[0].record)]);
        let later = revocations.check(token("alice", NOW.0 + 1)).await.unwrap();
        assert_eq!(later.denied_by, []);
    }

    #[tokio::test]
    async fn saying_it_again_changes_nothing() {
        let (revocations, hand, _) = start(10);
        let body =
            json!({"iss": "https://id", "sub": "alice", "issued_before": 500, "reason": "lost"});
        let first = post(&revocations, body).await.unwrap().remove(0);
        hand.advance(Duration::from_secs(10));
        let body =
            json!({"iss": "https://id", "sub": "alice", "issued_before": 400, "reason": "other"});
        let second = post(&revocations, body).await.unwrap().remove(0);
        assert!(!second.created);
        assert_eq!(second.record, first.record);
        let body = json!({"iss": "https://id", "sub": "alice", "issued_before": 600});
        let third = post(&revocations, body).await.unwrap().remove(0);
        assert_eq!(
            third.record.span().cutoff,
            Cutoff::at(UnixSeconds(600)),
            "a later one counts"
        );
        assert_eq!(third.record.reason.as_deref(), Some("lost"));
        assert_eq!(third.record.at, UnixSeconds(NOW.0 + 10));
    }

    #[tokio::test]
    async fn a_dry_run_writes_nothing() {
        let (revocations, _, _) = start(10);
        let epoch = revocations.index().epoch();
        let body = json!({"iss": "https://id", "sub": "alice", "dry_run": true});
        let outcome = post(&revocations, body).await.unwrap().remove(0);
        assert!(outcome.created && outcome.dry_run);
        assert_eq!(revocations.index().check(&token("alice", NOW.0)), None);
        assert_eq!(revocations.index().epoch(), epoch);
        assert_eq!(revocations.record(outcome.record.id).await.unwrap(), None);
    }

    #[tokio::test]
    async fn lifting_a_block_leaves_the_revocation_that_was_there() {
        let (revocations, _, _) = start(10);
        post(&revocations, user("alice")).await.unwrap();
        let block = json!({"iss": "https://id", "sub": "alice", "standing": true});
        let blocked = post(&revocations, block).await.unwrap().remove(0).record;
        let (old, new) = (token("alice", NOW.0), token("alice", NOW.0 + 50));
        assert_eq!(revocations.index().check(&new), Some(Kind::User));
        let rest = lift(&revocations, blocked.id).await.unwrap().unwrap();
        assert!(!rest.is_standing());
        assert_eq!(revocations.index().check(&new), None);
        assert_eq!(revocations.index().check(&old), Some(Kind::User));
        assert_eq!(
            lift(&revocations, blocked.id).await,
            Err(LiftError::NotStanding)
        );
    }

    #[tokio::test]
    async fn lifting_a_block_alone_leaves_nothing() {
        let (revocations, _, _) = start(10);
        let block = json!({"iss": "https://id", "sub": "alice", "standing": true});
        let id = post(&revocations, block).await.unwrap().remove(0).record.id;
        assert_eq!(lift(&revocations, id).await, Ok(None));
        assert_eq!(revocations.index().check(&token("alice", 5)), None);
        assert_eq!(revocations.record(id).await, Ok(None));
        assert_eq!(lift(&revocations, id).await, Err(LiftError::Unknown));
    }

    #[tokio::test]
    async fn full_refuses_all_of_a_batch_until_something_is_over() {
        let (revocations, hand, _) = start(2);
        post(&revocations, json!({"rules": [user("a"), user("b")]}))
            .await
            .unwrap();
        let more = json!({"rules": [user("a"), user("c")]});
        assert!(matches!(
            post(&revocations, more.clone()).await,
            Err(RevokeError::Full(_))
        ));
        assert_eq!(revocations.index().check(&token("c", NOW.0)), None);
        assert_eq!(
            revocations.index().check(&token("a", NOW.0)),
            Some(Kind::User)
        );
        // An hour, both leeways, and the moment after.
        hand.advance(Duration::from_secs(3600 + 30 + 300 + 1));
        post(&revocations, more).await.unwrap();
        let page = revocations.list(query(10)).await.unwrap();
        assert_eq!(page.records.len(), 2, "records of what is over are gone");
    }

    fn query(limit: usize) -> Query {
        Query {
            limit,
            ..Query::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_of_sweeping_forgets_what_is_over_and_not_before() {
        let (revocations, hand, _) = start(100);
        let rules: Vec<_> = (0..50).map(|number| user(&number.to_string())).collect();
        post(&revocations, json!({"rules": rules})).await.unwrap();
        let block = json!({"iss": "https://id", "sub": "blocked", "standing": true});
        post(&revocations, block).await.unwrap();
        hand.advance(Duration::from_secs(3600 + 30 + 300));
        tokio::time::sleep(Duration::from_secs(65)).await;
        assert_eq!(revocations.index().entries(Kind::User), 51);
        hand.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_secs(65)).await;
        // The standing one may keep a few neighbours of its shard.
        assert!(revocations.index().entries(Kind::User) <= 3);
        let page = revocations.list(query(100)).await.unwrap();
        assert_eq!(
            page.records.len(),
            revocations.index().entries(Kind::User),
            "records and index tell the same"
        );
        assert!(page.records.iter().any(Record::is_standing));
    }

    #[tokio::test]
    async fn pages_hold_everything_once() {
        let (revocations, _, _) = start(100);
        let rules: Vec<_> = (0..25).map(|number| user(&number.to_string())).collect();
        post(&revocations, json!({"rules": rules})).await.unwrap();
        let (mut seen, mut after, mut pages) = (vec![], None, 0);
        loop {
            let page = revocations
                .list(Query {
                    after,
                    limit: 10,
                    ..Query::default()
                })
                .await
                .unwrap();
            seen.extend(page.records.into_iter().map(|record| record.value.unwrap()));
            pages += 1;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(pages, 3);
        seen.sort_by_key(|value| value.parse::<u32>().unwrap());
        let expected: Vec<Box<str>> = (0..25).map(|n: u32| n.to_string().into()).collect();
        assert_eq!(seen, expected);
    }

    #[tokio::test]
    async fn each_filter_alone_and_all_together() {
        let (revocations, _, _) = start(100);
        let rules = json!({"rules": [
            user("alice"), user("bob"), {"iss": "https://id", "client_id": "alice"},
            {"iss": "https://id", "issued_before": 5},
        ]});
        post(&revocations, rules).await.unwrap();
        let count = async |kind, issuer: Option<&str>, value: Option<&str>| {
            let query = Query {
                kind,
                issuer: issuer.map(String::from),
                value: value.map(String::from),
                ..query(10)
            };
            revocations.list(query).await.unwrap().records.len()
        };
        assert_eq!(count(None, None, None).await, 4);
        assert_eq!(count(Some(Kind::User), None, None).await, 2);
        assert_eq!(count(None, Some("https://id"), None).await, 4);
        assert_eq!(count(None, Some("https://other"), None).await, 0);
        assert_eq!(count(None, None, Some("alice")).await, 2);
        assert_eq!(
            count(Some(Kind::User), Some("https://id"), Some("alice")).await,
            1
        );
        assert_eq!(
            count(Some(Kind::Key), Some("https://id"), Some("alice")).await,
            0
        );
        assert_eq!(count(Some(Kind::Issuer), Some("https://id"), None).await, 1);
    }

    #[tokio::test]
    async fn after_shutdown_the_answer_is_that_it_stopped() {
        let (revocations, _, shutdown) = start(10);
        shutdown.cancel();
        revocations.inbox.closed().await;
        assert!(matches!(
            post(&revocations, user("a")).await,
            Err(RevokeError::Stopped(Stopped))
        ));
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn each_accepted_rule_is_one_audit_line() {
        let lines = Lines::default();
        let sink = lines.clone();
        let subscriber = logs::json("info".parse().unwrap(), move || sink.clone());
        let _guard = tracing::subscriber::set_default(subscriber);
        let (revocations, _, _) = start(10);
        let body = json!({"rules": [
            {"iss": "https://id", "sub": "\"alice\u{2028}", "reason": "lost \"phone\""},
            {"iss": "https://id", "sub": "dry", "dry_run": true},
            {"iss": "https://id", "kid": "k1"},
        ]});
        let key = post(&revocations, body).await.unwrap().remove(2).record.id;
        lift(&revocations, key).await.unwrap();
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 3, "{text}");
        for (member, expected) in [
            ("target", json!("jotgate::audit")),
            ("level", json!("INFO")),
            ("event", json!("revoke")),
            ("by", json!("ops")),
            ("way", json!("admin_api")),
            ("kind", json!("user")),
            ("iss", json!("https://id")),
            ("value", json!("\"alice\u{2028}")),
            ("reason", json!("lost \"phone\"")),
            ("cutoff", json!(NOW.0)),
            ("until", json!(NOW.0 + 3630)),
            ("standing", json!(false)),
        ] {
            assert_eq!(lines[0][member], expected, "{member}");
        }
        assert!(lines[0]["timestamp"].is_string(), "{text}");
        assert_eq!(lines[1]["standing"], true);
        assert_eq!(lines[2]["event"], "lift");
        assert_eq!(lines[2]["id"], key.to_string());
    }
}
