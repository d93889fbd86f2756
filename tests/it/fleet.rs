//! Several gateways, each a process of its own, and a real Redis between them: what is revoked on one holds on all, and the caller
//! knows when; a gateway that cannot know says so.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use jotgate::base::clock::Clock;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::Request;
use crate::support::cut::Cable;
use crate::support::gateway::ADMIN_TOKEN;
use crate::support::process::{Process, run};
use crate::support::redis::Redis;
use crate::support::{Answer, Issuer, Reply, Setup, Upstream, eventually};

/// How old a gateway's knowledge may be: the least that there is, so that nobody waits for long.
const STALENESS: Duration = Duration::from_secs(2);

const SECRET: &str = "the secret of the scenarios' fleet, 32 bytes and more";

struct Scene {
    issuer: Issuer,
    upstream: Upstream,
    /// When its tokens were issued: before it began, so that every revocation catches them, however long it takes.
    issued: u64,
}

/// A gateway of the fleet.
struct Member {
    process: Process,
    address: SocketAddr,
    admin: SocketAddr,
    /// Its log.
    _folder: Option<TempDir>,
}

impl Scene {
    async fn new() -> Self {
        Self {
            issuer: Issuer::start().await,
            upstream: Upstream::start().await,
            issued: Clock::system().now().0 - 5,
        }
    }

    fn setup(&self, redis: SocketAddr, name: &str, lines: &str) -> Setup {
        Setup::new(&self.issuer, &self.upstream)
            .env("JOTGATE_FLEET_SECRET", SECRET)
            .section(format!(
                "[denylist]\nmax_staleness = \"2s\"\n{lines}\n[denylist.redis]\nurl = \"redis://{redis}\"\nname = \"{name}\"\n\
                 command_timeout = \"400ms\"\nconnect_timeout = \"400ms\"\nsecret = {{ env = \"JOTGATE_FLEET_SECRET\" }}"
            ))
    }

    /// A gateway without a disk.
    async fn diskless(&self, redis: SocketAddr, name: &str) -> Member {
        Member::start(&self.setup(redis, name, ""), None).await
    }

    /// One with a log in a folder of its own.
    async fn durable(&self, redis: SocketAddr, name: &str) -> Member {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("denylist.log");
        let setup = self.setup(
            redis,
            name,
            &format!("path = {:?}", path.display().to_string()),
        );
        Member::start(&setup, Some(folder)).await
    }

    /// Three of them, all in sync.
    async fn fleet(&self, redis: SocketAddr) -> [Member; 3] {
        let members = [
            self.durable(redis, "one").await,
            self.diskless(redis, "two").await,
            self.diskless(redis, "three").await,
        ];
        for member in &members {
            member.is_ready().await;
        }
        members
    }

    fn token(&self, user: &str) -> String {
        self.issuer.token(user).issued(self.issued).sign()
    }
}

impl Member {
    async fn start(setup: &Setup, folder: Option<TempDir>) -> Self {
        let process = Process::gateway(setup);
        Self {
            address: process.address(&["listening"]).await,
            admin: process.address(&["the admin API answers"]).await,
            process,
            _folder: folder,
        }
    }

    async fn is_ready(&self) {
        eventually("a gateway to be in sync", async || {
            let answer = self.ask("GET", "/v1/status", None).await;
            (answer.json()["fleet"]["in_sync"] == true).then_some(())
        })
        .await;
    }

    async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let request = Request::new(self.admin, method, path).bearer(ADMIN_TOKEN);
        match body {
            Some(body) => request.json(body).await,
            None => request.await,
        }
    }

    async fn revoke(&self, scene: &Scene, user: &str, more: Value) -> Answer {
        let mut body = json!({"iss": scene.issuer.url(), "sub": user});
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        self.ask("POST", "/v1/revocations", Some(&body)).await
    }

    /// How far it says that it has read.
    async fn applied(&self) -> String {
        let status = self.ask("GET", "/v1/status", None).await.json();
        status["fleet"]["applied"].as_str().expect("an id").into()
    }

    async fn metric(&self, name: &str) -> u64 {
        let text = self.ask("GET", "/metrics", None).await.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.expect("a metric").trim();
        value.parse().expect("a number")
    }

    async fn verdict(&self, token: &str) -> String {
        Request::new(self.address, "GET", "/orders")
            .bearer(token)
            .await
            .verdict()
    }

    async fn comes_to_say(&self, token: &str, verdict: &str) {
        eventually("a verdict", async || {
            (self.verdict(token).await == verdict).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn what_is_revoked_on_one_holds_on_all_when_the_caller_is_told() {
    let (scene, redis) = (Scene::new().await, Redis::start().await);
    let fleet = scene.fleet(redis.address()).await;
    for (number, member) in fleet.iter().enumerate() {
        let user = format!("user-{number}");
        let token = scene.token(&user);
        for other in &fleet {
            assert_eq!(other.verdict(&token).await, "200");
        }
        let answer = member.revoke(&scene, &user, json!({"wait": "fleet"})).await;
        let told = answer.json();
        assert_eq!(answer.status(), 200, "{told}");
        assert_eq!(told["rules"][0]["applied"], json!({"gateways": 3, "of": 3}));
        assert_eq!(told["fleet"]["reached"], true);
        assert!(told["fleet"]["effective_by"].is_u64(), "{told}");
        let before = scene.upstream.count();
        for other in &fleet {
            assert_eq!(other.verdict(&token).await, "401 revoked");
        }
        assert_eq!(scene.upstream.count(), before);
    }
    // The status tells what the newest entry is, whoever wrote it.
    for member in &fleet {
        eventually("the status to be up to date", async || {
            let status = member.ask("GET", "/v1/status", None).await.json();
            let fleet = &status["fleet"];
            (fleet["last"] != "0-0" && fleet["last"] == fleet["applied"]).then_some(())
        })
        .await;
    }
    // A rule has the same identifier everywhere, and is lifted anywhere.
    let block =
        json!({"iss": scene.issuer.url(), "sub": "blocked", "standing": true, "wait": "fleet"});
    let made = fleet[0]
        .ask("POST", "/v1/revocations", Some(&block))
        .await
        .json();
    let path = format!(
        "/v1/revocations/{}",
        made["rules"][0]["id"].as_str().expect("an id")
    );
    let blocked = scene.token("blocked");
    assert_eq!(fleet[2].ask("GET", &path, None).await.status(), 200);
    assert_eq!(fleet[1].verdict(&blocked).await, "401 revoked");
    assert_eq!(fleet[2].ask("DELETE", &path, None).await.status(), 200);
    for member in &fleet {
        member.comes_to_say(&blocked, "200").await;
        eventually("the rule to be gone", async || {
            (member.ask("GET", &path, None).await.status() == 404).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn the_command_line_shows_a_revocation_arriving() {
    let (scene, redis) = (Scene::new().await, Redis::start().await);
    let cable = Cable::to(redis.address()).await;
    let setup = scene
        .setup(redis.address(), "near", "")
        .env("JOTGATE_WRITER_TOKEN", "writer-0123456789abcdef")
        .section(
            "[[admin.tokens]]\nname = \"writer\"\nroles = [\"revoke\"]\nsecret = { env = \"JOTGATE_WRITER_TOKEN\" }",
        );
    let near = Member::start(&setup, None).await;
    let far = scene.diskless(cable.address(), "far").await;
    for member in [&near, &far] {
        member.is_ready().await;
    }
    let admin = format!("http://{}", near.admin);
    let revoke = async |token: &str, user: &str, timeout: &str| {
        let of = ["revoke", "--user", user, "--issuer", scene.issuer.url()];
        let how = ["--wait", "fleet", "--timeout", timeout, "--admin", &admin];
        let env = [("JOTGATE_ADMIN_TOKEN".to_owned(), token.to_owned())];
        let ended = run(&[&of[..], &how].concat(), &env).await;
        (ended.status.code(), ended.stdout)
    };
    let line = |said: &str, word: &str| -> String {
        let mut lines = said.lines().filter(|line| line.contains(word));
        let only = lines.next().unwrap_or_default().to_owned();
        assert_eq!(lines.next(), None, "{said}");
        only
    };

    let (code, said) = revoke(ADMIN_TOKEN, "alice", "5s").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("revoked\n"), "{said}");
    assert!(
        line(&said, "(2 of 2)").starts_with("in force on "),
        "{said}"
    );
    // Who may not look is told at the end.
    let (code, said) = revoke("writer-0123456789abcdef", "anna", "5s").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("reached: true"), "{said}");
    assert!(!said.contains("in force on"), "{said}");

    cable.cut();
    let (code, said) = revoke(ADMIN_TOKEN, "bob", "2s").await;
    assert_eq!(code, Some(1), "{said}");
    assert!(
        line(&said, "(1 of 2)").starts_with("in force on near "),
        "{said}"
    );
    let end = line(&said, "not yet on far: ");
    assert!(end.contains("lets a request begin"), "{end}");

    let heal = async {
        eventually("the rule to be there", async || {
            let token = scene.token("carol");
            (near.verdict(&token).await == "401 revoked").then_some(())
        })
        .await;
        cable.heal();
    };
    let ((code, said), ()) = tokio::join!(revoke(ADMIN_TOKEN, "carol", "20s"), heal);
    assert_eq!(code, Some(0), "{said}");
    let (first, then) = (line(&said, "(1 of 2)"), line(&said, "(2 of 2)"));
    assert!(first.starts_with("in force on near "), "{said}");
    assert!(then.starts_with("in force on far "), "{said}");
}

#[tokio::test]
async fn a_name_that_two_gateways_have_is_pending_until_one_is_gone() {
    let (scene, redis) = (Scene::new().await, Redis::start().await);
    let near = scene.diskless(redis.address(), "near").await;
    let first = scene.diskless(redis.address(), "twin").await;
    let mut second = scene.diskless(redis.address(), "twin").await;
    for member in [&near, &first, &second] {
        member.is_ready().await;
    }
    for twin in [&first, &second] {
        twin.process.line(&["has the same name", "twin"]).await;
    }
    let state = async || {
        let status = near.ask("GET", "/v1/status", None).await.json();
        let members = status["fleet"]["members"].as_array().cloned();
        let mut members = members.unwrap_or_default().into_iter();
        members
            .find(|member| member["name"] == "twin")
            .map(|member| member["state"].clone())
    };
    eventually("the name to be seen as shared", async || {
        (state().await == Some(json!("shares_name"))).then_some(())
    })
    .await;
    let wait = json!({"wait": "fleet", "timeout": "300ms"});
    let answer = near.revoke(&scene, "alice", wait.clone()).await;
    assert_eq!(answer.status(), 202);
    assert_eq!(answer.json()["fleet"]["pending"], json!(["twin"]));
    let answer = first.revoke(&scene, "anna", wait.clone()).await;
    assert_eq!(answer.json()["fleet"]["pending"], json!(["twin"]));

    // Who goes does not take the other's place along.
    second.process.signal("TERM");
    assert!(second.process.ended().await.success());
    assert_eq!(redis.ask("HEXISTS {jotgate}:members twin").await, "1");
    eventually("the name to be one gateway's own", async || {
        (state().await == Some(json!("in_sync"))).then_some(())
    })
    .await;
    let answer = near.revoke(&scene, "bob", json!({"wait": "fleet"})).await;
    assert_eq!(answer.status(), 200, "{}", answer.json());
}

#[tokio::test]
async fn a_gateway_that_is_cut_off_says_503_in_time_and_is_well_again_soon() {
    let (scene, redis) = (Scene::new().await, Redis::start().await);
    let cable = Cable::to(redis.address()).await;
    let near = scene.diskless(redis.address(), "near").await;
    let far = scene.diskless(cable.address(), "far").await;
    for member in [&near, &far] {
        member.is_ready().await;
    }
    let (alice, bob) = (scene.token("alice"), scene.token("bob"));
    for token in [&alice, &bob] {
        assert_eq!(far.verdict(token).await, "200");
    }

    cable.cut();
    let cut = Instant::now();
    let answer = near
        .revoke(
            &scene,
            "alice",
            json!({"wait": "fleet", "timeout": "300ms"}),
        )
        .await;
    let told = answer.json();
    assert_eq!(answer.status(), 202, "{told}");
    assert_eq!(told["fleet"]["pending"], json!(["far"]));
    assert_eq!(told["fleet"]["relayed"], true);
    eventually(
        "the far gateway to know that it does not know",
        async || (far.verdict(&alice).await == "503 denylist_stale").then_some(()),
    )
    .await;
    let took = cut.elapsed();
    assert!(took < STALENESS + Duration::from_millis(250), "{took:?}");
    assert_eq!(near.verdict(&alice).await, "401 revoked");
    assert_eq!(near.verdict(&bob).await, "200", "the others go on");
    let before = scene.upstream.count();
    assert_eq!(far.verdict(&bob).await, "503 denylist_stale");
    assert_eq!(scene.upstream.count(), before);

    cable.heal();
    let healed = Instant::now();
    far.comes_to_say(&bob, "200").await;
    let took = healed.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(far.verdict(&alice).await, "401 revoked");
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_is_filled_again_and_late_comers_learn_everything() {
    let (scene, mut redis) = (Scene::new().await, Redis::start().await);
    let fleet = scene.fleet(redis.address()).await;
    let first = scene.token("first");
    assert_eq!(
        fleet[1]
            .revoke(&scene, "first", json!({"wait": "fleet"}))
            .await
            .status(),
        200
    );

    redis.kill().await;
    // With a log it is durable and in force, and the answer says that the others do not have it.
    let answer = fleet[0]
        .revoke(&scene, "second", json!({"timeout": "200ms"}))
        .await;
    let told = answer.json();
    assert_eq!(answer.status(), 202, "{told}");
    assert_eq!(told["rules"][0]["durable"], true);
    assert_eq!(told["fleet"]["relayed"], false);
    // Without one nothing is acknowledged that only this process knows; but it holds here.
    let answer = fleet[1]
        .revoke(&scene, "third", json!({"timeout": "200ms"}))
        .await;
    assert_eq!(answer.verdict(), "503 not_relayed");
    let [second, third] = ["second", "third"].map(|user| scene.token(user));
    assert_eq!(fleet[1].verdict(&third).await, "401 revoked");

    redis.restart_empty().await;
    let began = Instant::now();
    for member in &fleet {
        for token in [&first, &second, &third] {
            member.comes_to_say(token, "401 revoked").await;
        }
    }
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    let late = scene.diskless(redis.address(), "late").await;
    late.is_ready().await;
    for token in [&first, &second, &third] {
        assert_eq!(late.verdict(token).await, "401 revoked");
    }
    assert_eq!(late.verdict(&scene.token("somebody else")).await, "200");
}

#[tokio::test]
async fn a_flush_loses_nothing() {
    let (scene, redis) = (Scene::new().await, Redis::start().await);
    let fleet = scene.fleet(redis.address()).await;
    let revoke = async |user: &str, by: usize| {
        let answer = fleet[by]
            .revoke(&scene, user, json!({"wait": "fleet"}))
            .await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
    };
    revoke("before", 1).await;
    assert_eq!(redis.ask("FLUSHALL").await, "OK");
    revoke("after", 2).await;
    // In force all the time, and in the stream again.
    let late = scene.diskless(redis.address(), "late").await;
    late.is_ready().await;
    for member in fleet.iter().chain([&late]) {
        for user in ["before", "after"] {
            assert_eq!(member.verdict(&scene.token(user)).await, "401 revoked");
        }
    }
}

/// A rule that one of the fleet acknowledged.
struct Acknowledged {
    token: String,
    by: usize,
    effective_by: u64,
}

#[tokio::test]
async fn flushes_in_a_burst_lose_no_acknowledged_rule_and_let_no_request_through() {
    const FLUSHES: usize = 3;
    let (scene, redis) = (Scene::new().await, Redis::start().await);
    let fleet = scene.fleet(redis.address()).await;
    let acknowledged = Mutex::<Vec<Acknowledged>>::default();
    let (revoked, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let known = || acknowledged.lock().expect("no holder panics");
    let goes_on = || !is_over.load(Ordering::Relaxed);

    let caller = async |by: usize| {
        let mut pace = tokio::time::interval(Duration::from_millis(10));
        while goes_on() {
            pace.tick().await;
            let number = revoked.fetch_add(1, Ordering::Relaxed);
            let user = format!("user-{number}");
            let answer = fleet[by]
                .revoke(&scene, &user, json!({"wait": "relay"}))
                .await;
            let told = answer.json();
            match answer.status() {
                200 => known().push(Acknowledged {
                    token: scene.token(&user),
                    by,
                    // Nothing is promised when the relay was flushed again before it could be asked who is there.
                    effective_by: told["fleet"]["effective_by"].as_u64().unwrap_or(u64::MAX),
                }),
                // In force here, and not acknowledged.
                202 => {}
                _ => assert_eq!(answer.verdict(), "503 not_relayed", "{told}"),
            }
        }
    };
    // Asks with the newest and with any one, wherever it must not pass any more.
    let bearer = async |at: usize| {
        let (mut asked, mut turn) = (0, 0);
        while goes_on() {
            turn += 1;
            let now = Clock::system().now().0;
            let token = {
                let known = known();
                let holds = |rule: &&Acknowledged| rule.by == at || rule.effective_by < now;
                let place = turn * 7919 % known.len().max(1);
                let any = known.iter().skip(place).find(holds);
                let newest = known.iter().rev().find(holds);
                let rule = if turn % 2 == 0 { any } else { newest };
                rule.map(|rule| rule.token.clone())
            };
            let Some(token) = token else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let verdict = fleet[at].verdict(&token).await;
            assert!(
                verdict == "401 revoked" || verdict == "503 denylist_stale",
                "{verdict}"
            );
            asked += 1;
        }
        asked
    };
    let accidents = async {
        for _ in 0..FLUSHES {
            let before = known().len();
            eventually("some rules to be acknowledged", async || {
                (known().len() >= before + 100).then_some(())
            })
            .await;
            assert_eq!(redis.ask("FLUSHALL").await, "OK");
        }
        // Until nobody may be let through with what was acknowledged when it was flushed last.
        let last = known().last().expect("some").effective_by;
        eventually("the rules to be effective", async || {
            (Clock::system().now().0 > last + 1).then_some(())
        })
        .await;
        is_over.store(true, Ordering::Relaxed);
    };
    let (callers, bearers) = (
        join_all([0, 1, 2, 0, 1, 2].map(caller)),
        join_all([0, 1, 2].map(bearer)),
    );
    let (_, asked, ()) = tokio::join!(callers, bearers, accidents);
    assert!(asked.iter().all(|asked| *asked > 100), "{asked:?}");

    let acknowledged = std::mem::take(&mut *known());
    let late = scene.diskless(redis.address(), "late").await;
    late.is_ready().await;
    for member in fleet.iter().chain([&late]) {
        // What was not acknowledged is there as well: nobody died.
        eventually("a gateway to have every rule", async || {
            let status = member.ask("GET", "/v1/status", None).await.json();
            let users = &status["denylist"]["entries"]["user"];
            (*users == revoked.load(Ordering::Relaxed)).then_some(())
        })
        .await;
        for rule in acknowledged.iter().step_by(acknowledged.len() / 50) {
            member.comes_to_say(&rule.token, "401 revoked").await;
        }
        member.comes_to_say(&scene.token("somebody"), "200").await;
    }
}

#[tokio::test]
async fn a_stream_that_somebody_deletes_is_filled_again() {
    let (scene, redis) = (Scene::new().await, Redis::start().await);
    let fleet = scene.fleet(redis.address()).await;
    let answer = fleet[0]
        .revoke(&scene, "before", json!({"wait": "fleet"}))
        .await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    redis.ask("DEL {jotgate}:rules").await;
    // A newer entry hides that the stream began anew.
    let answer = fleet[1]
        .revoke(&scene, "after", json!({"wait": "relay"}))
        .await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    eventually("the stream to have both", async || {
        let held = redis.ask("XLEN {jotgate}:rules").await.parse::<u32>();
        (held.expect("a number") >= 2).then_some(())
    })
    .await;
    let late = scene.diskless(redis.address(), "late").await;
    late.is_ready().await;
    for user in ["before", "after"] {
        assert_eq!(late.verdict(&scene.token(user)).await, "401 revoked");
    }
}

#[tokio::test]
async fn a_failover_to_a_replica_that_lags_loses_nothing() {
    let (scene, mut primary) = (Scene::new().await, Redis::start().await);
    let replica = Redis::replica_of(&primary, &[]).await;
    let name = Cable::to(primary.address()).await;
    let fleet = scene.fleet(name.address()).await;
    // The replica hears no more, and what it misses was acknowledged.
    replica.promote().await;
    for (number, member) in fleet.iter().enumerate() {
        let user = format!("user-{number}");
        let answer = member.revoke(&scene, &user, json!({"wait": "fleet"})).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
    primary.kill().await;
    assert_eq!(replica.ask("XLEN {jotgate}:rules").await, "0");
    name.lead_to(replica.address());

    let began = Instant::now();
    eventually("the new primary to have them", async || {
        let held = replica.ask("XLEN {jotgate}:rules").await.parse::<u32>();
        (held.expect("a number") > 0).then_some(())
    })
    .await;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    let late = scene.diskless(name.address(), "late").await;
    late.is_ready().await;
    for member in fleet.iter().chain([&late]) {
        for number in 0..fleet.len() {
            let token = scene.token(&format!("user-{number}"));
            assert_eq!(member.verdict(&token).await, "401 revoked");
        }
    }
}

#[tokio::test]
async fn after_a_failover_whose_ids_lie_behind_nothing_is_lost_and_nothing_overlooked() {
    let (scene, mut primary) = (Scene::new().await, Redis::start().await);
    let replica = Redis::replica_of(&primary, &[]).await;
    let name = Cable::to(primary.address()).await;
    let fleet = scene.fleet(name.address()).await;
    let revoke = async |user: &str, by: &Member| {
        let answer = by
            .revoke(&scene, user, json!({"wait": "fleet", "timeout": "15s"}))
            .await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
    };
    revoke("replicated", &fleet[0]).await;
    replica.says("XLEN {jotgate}:rules", "1").await;
    replica.promote().await;
    // The clock of the old primary was an hour ahead, and its ids never come back to where the new one is.
    let ahead = (Clock::system().now().0 + 3600) * 1000;
    primary
        .ask(&format!("XADD {{jotgate}}:rules {ahead}-0 other word"))
        .await;
    for (number, member) in fleet.iter().enumerate() {
        revoke(&format!("lost-{number}"), member).await;
    }
    for member in &fleet {
        let applied = member.applied().await;
        assert!(applied > format!("{ahead}-0"), "{applied}");
    }

    primary.kill().await;
    name.lead_to(replica.address());
    let began = Instant::now();
    for (number, member) in fleet.iter().enumerate() {
        revoke(&format!("new-{number}"), member).await;
    }
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    // Without a disk it has what the stream has, and no more.
    let late = scene.diskless(name.address(), "late").await;
    late.is_ready().await;
    let last = replica.ask("XREVRANGE {jotgate}:rules + - COUNT 1").await;
    assert!(last < format!("{ahead}"), "{last}");
    let token = |user: &str| scene.token(user);
    for member in fleet.iter().chain([&late]) {
        assert_eq!(member.verdict(&token("replicated")).await, "401 revoked");
        for number in 0..fleet.len() {
            for word in ["lost", "new"] {
                let token = token(&format!("{word}-{number}"));
                assert_eq!(member.verdict(&token).await, "401 revoked");
            }
        }
        member.comes_to_say(&token("somebody"), "200").await;
    }
    // What is measured goes on, too, although no id is larger than those of before.
    let measured = async || {
        fleet[1]
            .metric("jotgate_fleet_propagation_seconds_count")
            .await
    };
    let before = measured().await;
    revoke("measured", &fleet[0]).await;
    assert!(measured().await > before, "{before}");
}

#[tokio::test]
async fn gateways_that_are_killed_at_random_lose_no_acknowledged_rule() {
    const RULES: usize = 20_000;
    const BATCH: usize = 200;
    let (scene, redis) = (Scene::new().await, Redis::start().await);
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let start = async |number: usize| {
        let path = folders[number].path().join("denylist.log");
        let lines = format!("path = {:?}", path.display().to_string());
        let setup = scene.setup(redis.address(), &format!("gateway-{number}"), &lines);
        Member::start(&setup, None).await
    };
    let mut fleet = [start(0).await, start(1).await, start(2).await];
    for member in &fleet {
        member.is_ready().await;
    }
    let mut acknowledged = 0;
    for batch in 0..RULES / BATCH {
        // Another one dies while this one writes.
        let (writer, victim) = (batch % 3, (batch + 1 + batch / 3 % 2) % 3);
        let rules: Vec<Value> = (0..BATCH)
            .map(|place| json!({"iss": scene.issuer.url(), "sub": format!("user-{}", batch * BATCH + place)}))
            .collect();
        let body = json!({"rules": rules, "wait": "relay"});
        let answer = if batch % 10 == 5 {
            let writing = fleet[writer].ask("POST", "/v1/revocations", Some(&body));
            let dying = async { fleet[victim].process.signal("KILL") };
            let (answer, ()) = tokio::join!(writing, dying);
            fleet[victim].process.ended().await;
            fleet[victim] = start(victim).await;
            answer
        } else {
            fleet[writer]
                .ask("POST", "/v1/revocations", Some(&body))
                .await
        };
        // Just started, it may be before the relay follows: durable here, and sent later.
        assert!(matches!(answer.status(), 200 | 202), "{}", answer.text());
        acknowledged += BATCH;
    }
    assert_eq!(acknowledged, RULES);
    for member in &fleet {
        eventually("a gateway to have every rule", async || {
            let status = member.ask("GET", "/v1/status", None).await.json();
            (status["denylist"]["entries"]["user"] == RULES).then_some(())
        })
        .await;
        for number in (0..RULES).step_by(997) {
            let token = scene.token(&format!("user-{number}"));
            member.comes_to_say(&token, "401 revoked").await;
        }
    }
}

/// A gateway stands still while rules are made elsewhere. When it goes on, requests wait for it, and it finds the relay at once or not.
async fn stand_still(finds_the_relay_at_once: bool) {
    let (scene, redis) = (Scene::new().await, Redis::start().await);
    let cable = Cable::to(redis.address()).await;
    let awake = scene.diskless(redis.address(), "awake").await;
    let asleep = scene.diskless(cable.address(), "asleep").await;
    for member in [&awake, &asleep] {
        member.is_ready().await;
    }
    let users: Vec<String> = (0..10).map(|number| format!("user-{number}")).collect();
    let tokens: Vec<String> = users.iter().map(|user| scene.token(user)).collect();
    let good = scene.token("nobody revokes this one");
    let ask = |token: &str| Request::new(asleep.address, "GET", "/orders").bearer(token);
    for token in tokens.iter().chain([&good]) {
        assert_eq!(asleep.verdict(token).await, "200");
    }
    let (answers, reply) = Reply::late("the orders of user-0");
    scene.upstream.reply(reply);
    let passed = scene.upstream.count();
    let under_way = tokio::spawn(ask(&tokens[0]).into_future());
    scene.upstream.arrived(passed + 1).await;

    asleep.process.signal("STOP");
    let rules: Vec<Value> = users
        .iter()
        .map(|user| json!({"iss": scene.issuer.url(), "sub": user}))
        .collect();
    let body = json!({"rules": rules, "wait": "relay"});
    let answer = awake.ask("POST", "/v1/revocations", Some(&body)).await;
    let told = answer.json();
    assert_eq!(answer.status(), 200, "{told}");
    let effective_by = told["fleet"]["effective_by"].as_u64().expect("an instant");
    // They wait in the queue of its listener, the first ones that it sees when it goes on.
    let waiting: Vec<_> = tokens
        .iter()
        .map(|token| tokio::spawn(ask(token).into_future()))
        .collect();
    eventually(
        "the instant after which nobody is let through",
        async || (Clock::system().now().0 > effective_by).then_some(()),
    )
    .await;
    if !finds_the_relay_at_once {
        cable.cut();
    }
    answers.send(()).expect("the gateway's connection is open");
    asleep.process.signal("CONT");
    let mut went_on = Instant::now();
    let mut verdicts = vec![];
    for answer in waiting.into_iter().chain([under_way]) {
        verdicts.push(answer.await.expect("an answer").verdict());
    }
    for token in &tokens {
        verdicts.push(asleep.verdict(token).await);
    }
    if finds_the_relay_at_once {
        let is_denied =
            |verdict: &String| matches!(&**verdict, "401 revoked" | "503 denylist_stale");
        assert!(verdicts.iter().all(is_denied), "{verdicts:?}");
    } else {
        verdicts.push(asleep.verdict(&good).await);
        let is_stale = |verdict: &String| verdict == "503 denylist_stale";
        assert!(verdicts.iter().all(is_stale), "{verdicts:?}");
        cable.heal();
        went_on = Instant::now();
    }
    asleep.comes_to_say(&good, "200").await;
    let took = went_on.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    for token in &tokens {
        assert_eq!(asleep.verdict(token).await, "401 revoked");
    }
    // The one that was under way, and the one that nobody revoked.
    assert_eq!(scene.upstream.count(), passed + 2);
}

#[tokio::test]
async fn a_gateway_that_stood_still_lets_nobody_through_on_old_knowledge() {
    stand_still(true).await;
}

#[tokio::test]
async fn a_gateway_that_stood_still_and_finds_no_relay_is_stale_from_its_first_request_on() {
    stand_still(false).await;
}

#[tokio::test]
async fn a_gateway_that_stood_alone_brings_its_rules_into_the_fleet() {
    let (scene, redis) = (Scene::new().await, Redis::start().await);
    let folder = tempfile::tempdir().expect("a folder");
    let path = format!(
        "path = {:?}",
        folder.path().join("denylist.log").display().to_string()
    );
    let alone = Setup::new(&scene.issuer, &scene.upstream).section(format!("[denylist]\n{path}"));
    let mut lone = Member::start(&alone, None).await;
    assert_eq!(lone.revoke(&scene, "alice", json!({})).await.status(), 200);
    lone.process.signal("TERM");
    lone.process.ended().await;

    let joined = Member::start(&scene.setup(redis.address(), "joined", &path), Some(folder)).await;
    let other = scene.diskless(redis.address(), "other").await;
    for member in [&joined, &other] {
        member.is_ready().await;
        assert_eq!(member.verdict(&scene.token("alice")).await, "401 revoked");
        assert_eq!(member.verdict(&scene.token("bob")).await, "200");
    }
}

#[tokio::test]
async fn who_has_another_secret_revokes_nothing_here() {
    let (scene, redis) = (Scene::new().await, Redis::start().await);
    let ours = scene.diskless(redis.address(), "ours").await;
    ours.is_ready().await;
    let setup = scene.setup(redis.address(), "theirs", "").env(
        "JOTGATE_FLEET_SECRET",
        "another secret of at least 32 bytes .....",
    );
    let theirs = Member::start(&setup, None).await;
    theirs.is_ready().await;
    let answer = theirs
        .revoke(&scene, "alice", json!({"wait": "relay"}))
        .await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    eventually("the forgery to be told", async || {
        let status = ours.ask("GET", "/v1/status", None).await.json();
        (status["fleet"]["refused_entries"].as_u64() > Some(0)).then_some(())
    })
    .await;
    assert_eq!(ours.verdict(&scene.token("alice")).await, "200");
    assert_eq!(ours.process.count("was not written by this fleet"), 1);
    let members = ours.ask("GET", "/v1/status", None).await.json()["fleet"]["members"].clone();
    assert_eq!(members.as_array().map(Vec::len), Some(1), "{members}");
}
