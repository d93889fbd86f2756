//! What one stranger can take: connections of an address, requests under way, wrong tokens. And what others have meanwhile.

use std::time::Duration;

use http::Version;
use hyper::body::Frame;
use jotgate::jwks::Algorithm;
use serde_json::json;

use crate::support::client::{Connection, Request};
use crate::support::gateway::READER_TOKEN;
use crate::support::keys::key;
use crate::support::raw::Raw;
use crate::support::{
    Answer, Gateway, Issuer, Reply, Setup, Upstream, eventually, web_socket, within,
};

const NEIGHBOUR: [u8; 4] = [127, 0, 0, 2];

/// Three wrong tokens at once, then one each ten seconds.
const FAILURE_LIMIT: &str = "failure_limit = { failures = 3, per = \"30s\" }";

struct Scene {
    issuer: Issuer,
    upstream: Upstream,
    gateway: Gateway,
}

async fn scene(change: impl FnOnce(Setup) -> Setup) -> Scene {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    Scene {
        gateway: change(Setup::new(&issuer, &upstream)).start().await,
        issuer,
        upstream,
    }
}

impl Scene {
    /// A token that nobody has sent before.
    fn fresh(&self) -> String {
        let number = self.upstream.count();
        self.issuer.token("alice").jti(&number.to_string()).sign()
    }

    /// The first answer on a new connection; empty if it was closed without one.
    async fn connect(&self) -> (Raw, String) {
        let mut raw = Raw::connect(self.gateway.address()).await;
        raw.send("GET /open HTTP/1.1\r\nhost: shop\r\n\r\n").await;
        let answer = raw.read_until("fine").await;
        (raw, answer)
    }

    async fn count(&self, name: &str, label: &str, value: &str) -> u64 {
        let samples = self.gateway.metrics().await.samples(name);
        let mut found = samples.iter().filter(|(labels, _)| labels[label] == value);
        found.next().map_or(0, |(_, count)| *count)
    }

    /// What becomes of good tokens that nobody has sent before, from this address.
    async fn verdict_from(&self, from: [u8; 4]) -> String {
        let request = self.gateway.get("/orders").from(from).bearer(&self.fresh());
        request.await.verdict()
    }

    async fn fail_from(&self, from: [u8; 4], times: usize) {
        for _ in 0..times {
            let request = self.gateway.get("/orders").from(from).bearer("x.y.z");
            assert_eq!(request.await.verdict(), "401 invalid_token");
        }
    }
}

#[tokio::test]
async fn an_address_has_so_many_connections_on_all_threads_together() {
    let scene = scene(|setup| {
        setup
            .env("JOTGATE__WORKERS", "4")
            .listener("max_connections_per_address = 5")
            .catch_all("auth = \"public\"")
    })
    .await;
    let (mut open, mut closed) = (vec![], 0);
    for (raw, answer) in
        futures_util::future::join_all((0..20).map(|_| within("an end", scene.connect()))).await
    {
        if answer.is_empty() {
            closed += 1;
        } else {
            open.push(raw);
        }
    }
    assert_eq!((open.len(), closed), (5, 15));
    let counted = scene.count("jotgate_connection_errors_total", "reason", "address_full");
    assert_eq!(counted.await, 15);
    let neighbour = scene.gateway.get("/open").from(NEIGHBOUR).await;
    assert_eq!(neighbour.status(), 200, "another address has its own");
    drop(open.pop());
    let (_, answer) = eventually("the place of the one that left", async || {
        let (raw, answer) = scene.connect().await;
        (!answer.is_empty()).then_some((raw, answer))
    })
    .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(scene.upstream.count(), 7);
}

#[tokio::test]
async fn a_trusted_proxy_has_as_many_connections_as_it_likes() {
    let scene = scene(|setup| {
        setup
            .listener("max_connections_per_address = 1\ntrusted_proxies = [\"127.0.0.1\"]")
            .catch_all("auth = \"public\"")
    })
    .await;
    let mut open = vec![];
    for _ in 0..3 {
        let (raw, answer) = scene.connect().await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        open.push(raw);
    }
    assert_eq!(scene.upstream.count(), 3);
}

#[tokio::test]
async fn requests_beyond_the_limit_get_503_before_their_token_is_looked_at() {
    let scene = scene(|setup| {
        setup
            .env("JOTGATE__WORKERS", "2")
            .listener("max_requests = 2")
    })
    .await;
    let token = scene.fresh();
    let address = scene.gateway.address();
    let mut connection = Connection::open(address, Version::HTTP_2).await;
    let (mut streams, mut answers) = (vec![], vec![]);
    for _ in 0..2 {
        let (frames, reply) = Reply::stream();
        scene.upstream.reply(reply);
        let request = Request::new(address, "GET", "/slow").h2().bearer(&token);
        answers.push(connection.send_raw(request).await.expect("an answer"));
        streams.push(frames);
    }
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let answer = scene.gateway.get("/").version(version).await;
        assert_eq!(answer.verdict(), "503 overloaded");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    let grpc = scene.gateway.post("/shop.Orders/List").h2();
    let grpc = grpc.header("content-type", "application/grpc").await;
    assert_eq!(grpc.header("grpc-status"), Some("14"), "unavailable");
    assert_eq!(scene.gateway.all_decisions().await["overloaded"], 3);
    let listener = address.to_string();
    assert_eq!(
        scene.count("jotgate_requests", "listener", &listener).await,
        2
    );
    assert_eq!(scene.upstream.count(), 2);

    drop(streams.pop());
    let ended = within("the end", Answer::read(answers.pop().expect("two")));
    assert_eq!(ended.await.expect("whole").status(), 200);
    let answer = eventually("a place", async || {
        let answer = scene.gateway.get("/").bearer(&token).await;
        (answer.code() != "overloaded").then_some(answer)
    })
    .await;
    assert_eq!(answer.status(), 200);
    // The other one still runs.
    let frame = Frame::data("late".into());
    streams[0].send(frame).await.expect("it is read");
    assert_eq!(scene.upstream.count(), 3);
}

#[tokio::test]
async fn a_web_socket_is_one_request_until_it_ends() {
    let scene = scene(|setup| {
        setup
            .listener("max_requests = 1")
            .catch_all("auth = \"public\"")
    })
    .await;
    scene.upstream.reply(Reply::WebSocket);
    let mut socket = web_socket::open(&scene.gateway, &[]).await;
    web_socket::echo(&mut socket, "hello").await;
    assert_eq!(scene.gateway.get("/").await.verdict(), "503 overloaded");
    drop(socket);
    eventually("its place", async || {
        (scene.gateway.get("/").await.status() == 200).then_some(())
    })
    .await;
    assert_eq!(scene.upstream.count(), 2);
}

#[tokio::test]
async fn wrong_tokens_bar_their_address_for_a_while_and_no_other() {
    let scene = scene(|setup| setup.listener(FAILURE_LIMIT)).await;
    scene.fail_from([127, 0, 0, 1], 3).await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        for token in [&scene.fresh(), "x.y.z"] {
            let request = scene.gateway.get("/orders").version(version).bearer(token);
            let answer = request.await;
            assert_eq!(answer.verdict(), "429 too_many_failures");
            assert_eq!(answer.header("retry-after"), Some("10"));
        }
    }
    assert_eq!(scene.gateway.all_decisions().await["too_many_failures"], 4);
    assert_eq!(scene.upstream.count(), 0);
    assert_eq!(scene.verdict_from(NEIGHBOUR).await, "200");
    scene.gateway.clock().advance(Duration::from_secs(10));
    assert_eq!(scene.verdict_from([127, 0, 0, 1]).await, "200");
    assert_eq!(scene.upstream.count(), 2);
}

#[tokio::test]
async fn who_works_behind_a_barred_address_goes_on() {
    let scene = scene(|setup| {
        setup
            .listener(FAILURE_LIMIT)
            .route("name = \"open\"\npath = \"/open\"\nauth = \"public\"")
            .route("name = \"optional\"\npath = \"/optional\"\nauth = \"optional\"")
    })
    .await;
    let known = scene.issuer.token("bob").sid("s1").sign();
    let get = |path: &str| scene.gateway.get(path);
    assert_eq!(get("/orders").bearer(&known).await.status(), 200);
    scene.fail_from([127, 0, 0, 1], 3).await;
    assert_eq!(
        scene.verdict_from([127, 0, 0, 1]).await,
        "429 too_many_failures"
    );
    assert_eq!(get("/orders").bearer(&known).await.status(), 200);
    assert_eq!(get("/open").bearer("x.y.z").await.status(), 200);
    assert_eq!(get("/optional").await.status(), 200);
    assert_eq!(get("/orders").await.verdict(), "401 no_token");
    assert_eq!(scene.upstream.count(), 4);
    // And yet only as long as it may.
    let admin = scene.gateway.admin();
    admin.revoke_session(scene.issuer.url(), "s1").await;
    let answer = get("/orders").bearer(&known).await;
    assert_eq!(answer.verdict(), "401 revoked");
    assert_eq!(scene.upstream.count(), 4);
}

#[tokio::test]
async fn every_token_that_nobody_could_have_signed_counts() {
    let limit = "failure_limit = { failures = 1, per = \"1m\" }";
    let scene = scene(|setup| setup.listener(limit)).await;
    let good = || scene.issuer.token("mallory");
    let other = key(Algorithm::ES256, 2);
    let wrong = [
        ("token_malformed", "x".to_owned()),
        ("token_too_large", "x".repeat(9000)),
        (
            "crit_unsupported",
            good().header("crit", json!(["x"])).sign(),
        ),
        ("claim_malformed", good().claim("exp", "soon").sign()),
        (
            "issuer_unknown",
            good().claim("iss", "https://evil.example").sign(),
        ),
        ("alg_not_allowed", good().header("alg", "none").sign()),
        ("key_mismatch", good().header("alg", "RS256").sign()),
        (
            "signature_invalid",
            good().key(other).header("kid", "ES256-1").sign(),
        ),
    ];
    for (last, (code, token)) in (10..).zip(wrong) {
        let from = [127, 0, 1, last];
        let answer = scene.gateway.get("/").from(from).bearer(&token).await;
        assert_eq!(answer.verdict(), "401 invalid_token", "{code}");
        assert_eq!(scene.gateway.all_decisions().await[code], 1);
        assert_eq!(
            scene.verdict_from(from).await,
            "429 too_many_failures",
            "{code}"
        );
    }
    assert_eq!(scene.upstream.count(), 0);
}

#[tokio::test]
async fn what_honest_clients_are_left_with_does_not_count() {
    let limit = "failure_limit = { failures = 1, per = \"1m\" }";
    let scene = scene(|setup| {
        setup
            .listener(limit)
            .issuer("require = [\"tenant\"]\nmax_token_lifetime = \"1h\"")
            .catch_all("scopes = [\"orders\"]")
    })
    .await;
    let good = || {
        scene
            .issuer
            .token("alice")
            .claim("tenant", "t")
            .scope("orders")
    };
    let now = jotgate::base::clock::UnixSeconds(crate::support::tokens::NOW).0;
    let revoked = good().sid("s1").sign();
    let admin = scene.gateway.admin();
    admin.revoke_session(scene.issuer.url(), "s1").await;
    for (code, token) in [
        (
            "type_not_allowed",
            good().header("typ", "logout+jwt").sign(),
        ),
        ("expired", good().issued(now - 10_000).sign()),
        ("not_yet_valid", good().claim("nbf", now + 100).sign()),
        ("issued_in_future", good().issued(now + 100).sign()),
        (
            "lifetime_too_long",
            good().claim("exp", now + 10_000).sign(),
        ),
        ("audience_mismatch", good().claim("aud", "other").sign()),
        ("claim_missing", good().without("tenant").sign()),
        ("key_unknown", good().header("kid", "replaced").sign()),
        ("revoked_session", revoked),
        ("insufficient_scope", good().without("scope").sign()),
    ] {
        let answer = scene.gateway.get("/").bearer(&token).await;
        assert!(matches!(answer.status(), 401 | 403), "{code}: {answer:?}");
        assert_eq!(scene.gateway.all_decisions().await[code], 1, "{code}");
    }
    assert_eq!(scene.gateway.get("/").await.verdict(), "401 no_token");
    let two = scene.gateway.get("/").bearer("a").bearer("b").await;
    assert_eq!(two.verdict(), "400 token_ambiguous");
    let answer = scene.gateway.get("/").bearer(&good().sign()).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(scene.upstream.count(), 1);
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_address_that_it_proves_counts() {
    let proxies = "trusted_proxies = [\"127.0.0.1\"]";
    let scene = scene(|setup| setup.listener(FAILURE_LIMIT).listener(proxies)).await;
    let get = |forwarded: &str, token: &str| {
        let request = scene.gateway.get("/orders").bearer(token);
        request.header("x-forwarded-for", forwarded)
    };
    for forged in ["203.0.113.1", "203.0.113.2", "203.0.113.3"] {
        let answer = get(&format!("{forged}, 198.51.100.7"), "x.y.z").await;
        assert_eq!(answer.verdict(), "401 invalid_token");
    }
    let barred = get("203.0.113.4, 198.51.100.7", &scene.fresh()).await;
    assert_eq!(barred.verdict(), "429 too_many_failures");
    for other in ["203.0.113.1", "198.51.100.7, 203.0.113.1"] {
        assert_eq!(get(other, &scene.fresh()).await.status(), 200);
    }
    // The proxy's own address is that of all of its clients.
    scene.fail_from([127, 0, 0, 1], 5).await;
    assert_eq!(scene.verdict_from([127, 0, 0, 1]).await, "200");
    // What a stranger says of itself is not looked at.
    for forged in ["203.0.113.1", "203.0.113.2", "203.0.113.3"] {
        let answer = get(forged, "x.y.z").from(NEIGHBOUR).await;
        assert_eq!(answer.verdict(), "401 invalid_token");
    }
    let answer = get("203.0.113.4", &scene.fresh()).from(NEIGHBOUR).await;
    assert_eq!(answer.verdict(), "429 too_many_failures");
    assert_eq!(scene.upstream.count(), 3);
}

#[tokio::test]
async fn without_a_limit_nobody_is_barred() {
    let scene = scene(|setup| setup).await;
    scene.fail_from([127, 0, 0, 1], 50).await;
    assert_eq!(scene.verdict_from([127, 0, 0, 1]).await, "200");
    assert_eq!(scene.upstream.count(), 1);
}

#[tokio::test]
async fn who_is_turned_away_by_the_admin_listener_is_counted() {
    let scene = scene(|setup| setup).await;
    let admin = scene.gateway.admin();
    let rebound = admin.stranger("GET", "/metrics").host("evil.example");
    assert_eq!(rebound.await.verdict(), "421 host_unknown");
    let counted = scene.count("jotgate_admin_refusals_total", "code", "host_unknown");
    assert_eq!(counted.await, 1);
    assert_eq!(scene.upstream.count(), 0);
}

#[tokio::test]
async fn guesses_of_secrets_do_not_lock_an_issuers_token_out() {
    let scene = scene(|setup| setup.env("JOTGATE__ADMIN__ISSUER", "main")).await;
    let rules = async |token: &str| {
        let admin = scene.gateway.admin_as(token);
        admin.request("GET", "/v1/revocations").await.verdict()
    };
    let olga = scene.issuer.token("olga").scope("jotgate:read").sign();
    let expired = scene.issuer.token("olga").issued(1_700_000_000).sign();
    for number in 0..10 {
        let guess = format!("guess-number-{number}");
        assert_eq!(rules(&guess).await, "401 unauthenticated");
    }
    assert_eq!(rules(READER_TOKEN).await, "429 too_many_guesses");
    assert_eq!(rules(&olga).await, "200");
    assert_eq!(rules(&expired).await, "429 too_many_guesses");
    assert_eq!(scene.upstream.count(), 0);
}
