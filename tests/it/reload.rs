//! The configuration changes while the gateway runs: what lives on, what ends, what a faulty one does, and that no request
//! notices more than it must.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::Version;
use hyper::body::Frame;
use jotgate::base::clock::Clock;
use serde_json::json;
use tokio::net::TcpStream;

use crate::support::client::{Connection, Request};
use crate::support::gateway::{Metrics, READER_TOKEN};
use crate::support::issuer::Mode;
use crate::support::process::{self, Process};
use crate::support::{Answer, Issuer, Reply, Setup, Upstream, eventually, within};

const RELOADED: &str = "configuration reloaded";
const REFUSED: &str = "the changed configuration is not taken over";

async fn actors() -> (Issuer, Upstream) {
    (Issuer::start().await, Upstream::start().await)
}

/// Waits until the gateway answers on `address`.
async fn reachable(address: SocketAddr) {
    eventually("the gateway to be reachable", async || {
        TcpStream::connect(address).await.ok()
    })
    .await;
}

async fn said(process: &Process, word: &'static str, times: usize) {
    eventually(word, async || (process.count(word) >= times).then_some(())).await;
}

async fn metrics(admin: SocketAddr) -> Metrics {
    Metrics(Request::new(admin, "GET", "/metrics").await.text())
}

fn fresh_token(issuer: &Issuer) -> String {
    let token = issuer.token("alice").issued(Clock::system().now().0);
    token.scope("even").sign()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_during_a_hundred_reloads() {
    let ((issuer, upstream), other) = (actors().await, Issuer::start().await);
    let quiet = Setup::new(&issuer, &upstream).section("[telemetry]\naccess_log = false");
    let even = quiet.clone().catch_all("scopes = [\"even\"]");
    // Nobody has the scope. An issuer and a service that come and go with it.
    let odd = quiet
        .catch_all("scopes = [\"odd\"]")
        .and_issuer("other", other.url())
        .section("[[upstreams]]\nname = \"more\"\nservers = [\"http://127.0.0.1:9\"]");
    let texts = [even.text(), odd.text()];
    let process = Process::gateway(&even);
    let address = process.address(&["listening"]).await;
    reachable(address).await;
    let token = fresh_token(&issuer);
    let get = |token: &str| Request::new(address, "GET", "/").bearer(token);
    eventually("the keys", async || {
        (get(&token).await.status() == 200).then_some(())
    })
    .await;
    let before = upstream.count();

    // Even: that many reloads are over. Odd: one is under way.
    let phase = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = [Some(Version::HTTP_11), Some(Version::HTTP_2), None]
        .into_iter()
        .map(|kept| {
            let (phase, stop, token) = (Arc::clone(&phase), Arc::clone(&stop), token.clone());
            tokio::spawn(async move {
                let mut connection = match kept {
                    Some(version) => Some(Connection::open(address, version).await),
                    None => None,
                };
                let mut passed = 0;
                while !stop.load(Ordering::SeqCst) {
                    let began = phase.load(Ordering::SeqCst);
                    let mut request = Request::new(address, "GET", "/").bearer(&token);
                    if let Some(version) = kept {
                        request = request.version(version);
                    }
                    let answer = match &mut connection {
                        Some(connection) => connection.send(request).await,
                        None => request.await,
                    };
                    let ended = phase.load(Ordering::SeqCst);
                    let verdict = answer.verdict();
                    let right = ["200", "403 insufficient_scope"];
                    assert!(right.contains(&&*verdict), "{verdict}");
                    if began == ended && began % 2 == 0 {
                        assert_eq!(verdict, right[began / 2 % 2], "after reload {}", began / 2);
                    }
                    passed += usize::from(verdict == "200");
                    // The machine has two processors, and others to serve.
                    tokio::task::yield_now().await;
                }
                passed
            })
        })
        .collect();
    for reload in 1..=100 {
        phase.fetch_add(1, Ordering::SeqCst);
        process.rewrite(&texts[reload % 2]);
        process.signal("HUP");
        said(&process, RELOADED, reload).await;
        phase.fetch_add(1, Ordering::SeqCst);
        let expected = ["200", "403 insufficient_scope"][reload % 2];
        assert_eq!(get(&token).await.verdict(), expected, "reload {reload}");
    }
    stop.store(true, Ordering::SeqCst);
    let mut passed = 50;
    for client in clients {
        passed += within("a client", client)
            .await
            .expect("every answer is right");
    }
    assert_eq!(issuer.discoveries(), 1, "its source has not changed");
    assert_eq!(
        upstream.count() - before,
        passed,
        "the service saw what passed, once"
    );
}

#[tokio::test]
async fn a_faulty_configuration_changes_nothing_and_every_fault_is_told() {
    let (issuer, upstream) = actors().await;
    let setup = Setup::new(&issuer, &upstream)
        .section("[[upstreams]]\nname = \"a\"\nservers = [\"http://127.0.0.1:9\"]");
    let process = Process::gateway(&setup);
    let address = process.address(&["listening"]).await;
    let admin = process.address(&["the admin API answers"]).await;
    reachable(address).await;
    let token = fresh_token(&issuer);
    let status = async || {
        let get = Request::new(address, "GET", "/").bearer(&token);
        get.await.status()
    };
    eventually("the keys", async || (status().await == 200).then_some(())).await;

    let faulty = setup.text().replace("workers = 1", "workers = 2").replace(
        "path = \"/\"",
        "path = \"/\"\nauth = \"pubic\"\ntimeout = \"5\"",
    );
    process.rewrite(&faulty);
    process.signal("HUP");
    said(&process, REFUSED, 1).await;
    for words in [
        ["jotgate.toml:1: workers", "restart it, or write 1 again"],
        ["auth", "public"],
        ["timeout", "5s"],
    ] {
        process.line(&words).await;
    }
    let stranger = async || Request::new(address, "GET", "/").await.verdict();
    assert_eq!((status().await, &*stranger().await), (200, "401 no_token"));
    let now = metrics(admin).await;
    let reloads = |now: &Metrics, result: &str| {
        now.value(&format!(
            "jotgate_config_reloads_total{{result=\"{result}\"}}"
        ))
    };
    assert_eq!(
        (reloads(&now, "failed"), reloads(&now, "ok")),
        (Some(1), None)
    );
    let good_at = now.value("jotgate_config_last_good_timestamp_seconds");

    // An issuer whose keys can never be used is found only when it is started.
    let useless = setup
        .clone()
        .and_issuer("useless", "https://useless.example")
        .issuer("public_key_file = \"jotgate.toml\"");
    process.rewrite(&useless.text());
    process.signal("HUP");
    said(&process, REFUSED, 2).await;
    process.line(&["issuer useless: "]).await;
    assert_eq!((status().await, &*stranger().await), (200, "401 no_token"));

    process.rewrite(&setup.clone().catch_all("auth = \"public\"").text());
    process.signal("HUP");
    said(&process, RELOADED, 1).await;
    assert_eq!(stranger().await, "200");
    let now = metrics(admin).await;
    assert_eq!(
        (reloads(&now, "failed"), reloads(&now, "ok")),
        (Some(2), Some(1))
    );
    assert!(now.value("jotgate_config_last_good_timestamp_seconds") >= good_at);
    assert!(upstream.last().header("x-user-id").is_none());
}

/// A folder as the kubelet fills it from a `ConfigMap`: the file leads to `..data`, which leads to one version.
fn config_map(folder: &Path, version: &str, text: &str) {
    let link = |to: &str, name: &str| {
        let aside = folder.join("aside");
        std::os::unix::fs::symlink(to, &aside).expect("a link");
        std::fs::rename(aside, folder.join(name)).expect("renamed");
    };
    std::fs::create_dir(folder.join(version)).expect("a folder");
    std::fs::write(folder.join(version).join("jotgate.toml"), text).expect("a file");
    link(version, "..data");
    link("..data/jotgate.toml", "jotgate.toml");
}

#[tokio::test]
async fn a_config_map_that_changes_is_taken_over_without_a_signal() {
    let (issuer, upstream) = actors().await;
    let setup = Setup::new(&issuer, &upstream);
    let folder = tempfile::tempdir().expect("a folder");
    config_map(folder.path(), "..1", &setup.text());
    let file = folder.path().join("jotgate.toml");
    let process = Process::start(
        &["run", "--config", process::text(&file)],
        setup.environment(),
    );
    let address = process.address(&["listening"]).await;
    reachable(address).await;
    let get = async |path: &str| Request::new(address, "GET", path).await.verdict();
    assert_eq!(get("/open").await, "401 no_token");
    let public = setup.route("path = \"/open\"\nauth = \"public\"");
    config_map(folder.path(), "..2", &public.text());
    said(&process, RELOADED, 1).await;
    assert_eq!(
        (&*get("/open").await, &*get("/").await),
        ("200", "401 no_token")
    );
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn what_gets_weaker_is_told_before_and_when_it_is_taken_over() {
    let (issuer, upstream) = actors().await;
    let old = Setup::new(&issuer, &upstream).catch_all("scopes = [\"even\"]");
    let new = Setup::new(&issuer, &upstream).route("path = \"/open\"\nauth = \"public\"");
    let (_folder, old_file) = process::config_file(&old.text());
    let (_folder, new_file) = process::config_file(&new.text());
    let [old_file, new_file] = [&old_file, &new_file].map(|file| process::text(file));
    let diff = async |new: &str, old: &str| {
        let args = ["check", "--config", new, "--diff", old];
        let finished = process::run(&args, new_env(&issuer, &upstream).as_slice()).await;
        (finished.status.code(), finished.stdout)
    };
    let weaker = "WEAKER  /*: loses scope even\nWEAKER  /open/*: becomes PUBLIC, was required\n\n2 changes, 2 weaker\n";
    assert_eq!(diff(new_file, old_file).await, (Some(1), weaker.to_owned()));
    assert_eq!(diff(old_file, new_file).await.0, Some(0));
    assert_eq!(diff("nowhere.toml", old_file).await.0, Some(2));

    let process = Process::gateway(&old);
    let address = process.address(&["listening"]).await;
    reachable(address).await;
    process.rewrite(&new.text());
    process.signal("HUP");
    said(&process, RELOADED, 1).await;
    process
        .line(&["WARN", "weaker", "/open/*: becomes PUBLIC"])
        .await;
    assert_eq!(Request::new(address, "GET", "/open").await.status(), 200);
    assert_eq!(upstream.count(), 1);
}

/// The variables that the file of a scenario refers to.
fn new_env(issuer: &Issuer, upstream: &Upstream) -> Vec<(String, String)> {
    Setup::new(issuer, upstream).environment().to_vec()
}

#[tokio::test]
async fn what_is_known_of_tokens_and_keys_lives_on() {
    let (issuer, upstream) = actors().await;
    let setup = Setup::new(&issuer, &upstream);
    let mut gateway = setup.clone().start().await;
    let (alice, bob) = (issuer.token("alice").sign(), issuer.token("bob").sign());
    for token in [&alice, &bob] {
        assert_eq!(gateway.get("/").bearer(token).await.verdict(), "200");
    }
    gateway.admin().revoke_user(issuer.url(), "bob").await;
    let (fetches, connections) = (issuer.fetches(), upstream.connections());
    issuer.behave(Mode::Fail(500));
    assert!(
        gateway
            .reload(&setup.clone().route("path = \"/more\""))
            .await
    );
    for path in ["/", "/more"] {
        assert_eq!(gateway.get(path).bearer(&alice).await.verdict(), "200");
        assert_eq!(
            gateway.get(path).bearer(&bob).await.verdict(),
            "401 revoked"
        );
    }
    let misses = gateway
        .metrics()
        .await
        .value("jotgate_token_cache_misses_total");
    assert_eq!(
        (issuer.fetches(), misses),
        (fetches, Some(2)),
        "neither keys nor signatures anew"
    );
    assert_eq!(
        upstream.connections(),
        connections,
        "the service's connection is kept"
    );
    assert_eq!(upstream.count(), 4);
}

#[tokio::test]
async fn a_known_token_is_judged_by_the_new_rules_on_its_next_request() {
    let (issuer, upstream) = actors().await;
    let setup = Setup::new(&issuer, &upstream);
    let mut gateway = setup.clone().start().await;
    let token = issuer.token("alice").claim("tenant", "shop").sign();
    let get =
        async |gateway: &crate::support::Gateway| gateway.get("/").bearer(&token).await.verdict();
    assert_eq!(get(&gateway).await, "200");
    let fetches = issuer.fetches();
    for (line, verdict) in [
        ("audiences = [\"another\"]", "401 invalid_token"),
        ("token_types = [\"jwt\"]", "401 invalid_token"),
        ("require = [\"cnf\"]", "401 invalid_token"),
        ("max_token_lifetime = \"1m\"", "401 invalid_token"),
        ("leeway = \"0s\"", "200"),
    ] {
        assert!(gateway.reload(&setup.clone().issuer(line)).await, "{line}");
        assert_eq!(get(&gateway).await, verdict, "{line}");
        assert!(gateway.reload(&setup).await);
        assert_eq!(get(&gateway).await, "200", "{line}");
    }
    let more = setup.claim_header("x-tenant", "tenant");
    assert!(gateway.reload(&more).await);
    assert_eq!(get(&gateway).await, "200");
    assert_eq!(upstream.last().header("x-tenant").as_deref(), Some("shop"));
    assert_eq!(issuer.fetches(), fetches, "only the rules have changed");
}

#[tokio::test]
async fn a_new_identity_header_is_protected_at_once_on_every_route() {
    let (issuer, upstream) = actors().await;
    let setup = Setup::new(&issuer, &upstream).route("path = \"/open\"\nauth = \"public\"");
    let mut gateway = setup.clone().start().await;
    let mut connection = Connection::open(gateway.address(), Version::HTTP_11).await;
    let forged = || {
        let request = Request::new(gateway.address(), "GET", "/open");
        request.header("x-tenant", "forged")
    };
    connection.send(forged()).await;
    assert_eq!(
        upstream.last().header("x-tenant").as_deref(),
        Some("forged")
    );
    let forged = forged();
    let more = setup.claim_header("x-tenant", "tenant");
    assert!(gateway.reload(&more).await);
    assert_eq!(connection.send(forged).await.status(), 200);
    assert!(upstream.last().aliases("x-tenant").is_empty());
}

#[tokio::test]
async fn an_issuer_that_is_gone_lets_nobody_in_and_is_asked_nothing_more() {
    let ((issuer, upstream), other) = (actors().await, Issuer::start().await);
    let one = Setup::new(&issuer, &upstream);
    let two = one
        .clone()
        .and_issuer("other", other.url())
        .issuer("refresh_min_interval = \"1s\"");
    let mut gateway = two.clone().start().await;
    let token = other.token("alice").sid("s1").sign();
    assert_eq!(gateway.get("/").bearer(&token).await.verdict(), "200");
    gateway.admin().revoke_session(other.url(), "s1").await;
    let fetches = other.fetches();
    let series = "jotgate_key_set_keys{issuer=\"other\"}";
    assert!(gateway.metrics().await.value(series).is_some());
    assert!(gateway.reload(&one).await);
    let free = other.token("alice").sid("s2").sign();
    let unknown = other.token("alice").header("kid", "unknown").sign();
    for token in [&token, &free, &unknown] {
        assert_eq!(
            gateway.get("/").bearer(token).await.verdict(),
            "401 invalid_token"
        );
    }
    assert_eq!(gateway.metrics().await.value(series), None);
    let rule = json!({"iss": other.url(), "sub": "bob"});
    assert_eq!(
        gateway.admin().post_rule(&rule).await.status(),
        400,
        "no issuer of ours"
    );
    assert_eq!(other.fetches(), fetches);

    // It comes back: its keys are there with its first request, and what was revoked before still is.
    assert!(gateway.reload(&two).await);
    assert_eq!(gateway.get("/").bearer(&free).await.verdict(), "200");
    assert_eq!(
        gateway.get("/").bearer(&token).await.verdict(),
        "401 revoked"
    );
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_new_issuer_that_does_not_answer_harms_no_other() {
    let ((issuer, upstream), dead) = (actors().await, Issuer::start().await);
    dead.behave(Mode::Fail(500));
    let setup = Setup::new(&issuer, &upstream);
    let mut gateway = setup.clone().start().await;
    assert!(gateway.reload(&setup.and_issuer("dead", dead.url())).await);
    let ready = gateway.admin().stranger("GET", "/ready").await;
    assert_eq!(ready.status(), 200, "{}", ready.text());
    let (good, dead) = (issuer.token("alice").sign(), dead.token("bob").sign());
    assert_eq!(
        gateway.get("/").bearer(&dead).await.verdict(),
        "503 keys_unavailable"
    );
    assert_eq!(gateway.get("/").bearer(&good).await.verdict(), "200");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_request_finishes_under_the_configuration_that_it_began_with() {
    let (issuer, upstream) = actors().await;
    let new_home = Upstream::start().await;
    let mut gateway = Setup::new(&issuer, &upstream).start().await;
    let (frames, reply) = Reply::stream();
    upstream.reply(reply);
    let token = issuer.token("alice").sign();
    let running = gateway.get("/slow").bearer(&token).open().await.unwrap();
    assert!(gateway.reload(&Setup::new(&issuer, &new_home)).await);
    assert_eq!(gateway.get("/").bearer(&token).await.verdict(), "200");
    assert_eq!((upstream.count(), new_home.count()), (1, 1));
    frames.send(Frame::data("late".into())).await.unwrap();
    drop(frames);
    let answer = within("the late answer", Answer::read(running))
        .await
        .unwrap();
    assert_eq!((answer.status(), &*answer.text()), (200, "late"));
    // The old service's connection ends with its last request.
    eventually("no connection to it", async || {
        (upstream.open() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_may_call_the_admin_api_changes_with_the_configuration() {
    let (issuer, upstream) = actors().await;
    let setup = Setup::new(&issuer, &upstream);
    let mut gateway = setup.clone().start().await;
    let status = async |gateway: &crate::support::Gateway| {
        let reader = gateway.admin_as(READER_TOKEN);
        reader.request("GET", "/v1/status").await.status()
    };
    assert_eq!(status(&gateway).await, 200);
    let rotated = setup.env("JOTGATE_READER_TOKEN", "another-token-of-the-scenarios");
    assert!(gateway.reload(&rotated).await);
    assert_eq!(status(&gateway).await, 401);
    let new = gateway.admin_as("another-token-of-the-scenarios");
    assert_eq!(new.request("GET", "/v1/status").await.status(), 200);
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_reload_gives_nobody_new_guesses_at_the_admin_api() {
    let (issuer, upstream) = actors().await;
    let setup = Setup::new(&issuer, &upstream);
    let mut gateway = setup.clone().start().await;
    let rules = async |gateway: &crate::support::Gateway, secret: &str| {
        let admin = gateway.admin_as(secret);
        admin.request("GET", "/v1/revocations").await.verdict()
    };
    for number in 0..10 {
        let guess = format!("guess-number-{number}");
        assert_eq!(rules(&gateway, &guess).await, "401 unauthenticated");
    }
    let new = "another-token-of-the-scenarios";
    assert!(
        gateway
            .reload(&setup.env("JOTGATE_READER_TOKEN", new))
            .await
    );
    for secret in [new, "one-guess-more"] {
        assert_eq!(rules(&gateway, secret).await, "429 too_many_guesses");
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_route_that_reports_lets_pass_and_counts_what_would_be_denied() {
    let (issuer, upstream) = actors().await;
    let setup = Setup::new(&issuer, &upstream).catch_all("scopes = [\"r\"]");
    let mut gateway = setup.clone().catch_all("mode = \"report\"").start().await;
    let token = |user: &str| issuer.token(user).scope("r");
    let (good, bob) = (token("alice").sign(), token("bob").sign());
    gateway.admin().revoke_user(issuer.url(), "bob").await;
    let poor = issuer.token("carol").sign();
    let denied = [
        (None, "no_token"),
        (Some("x.y.z"), "token_malformed"),
        (Some(&*bob), "revoked_user"),
        (Some(&*poor), "insufficient_scope"),
    ];
    let get = async |gateway: &crate::support::Gateway, token: Option<&str>| {
        let mut request = gateway.get("/").header("x-user-id", "forged");
        if let Some(token) = token {
            request = request.bearer(token);
        }
        request.await.status()
    };
    for (token, code) in denied {
        assert_eq!(get(&gateway, token).await, 200, "{code}");
        assert!(upstream.last().header("x-user-id").is_none(), "{code}");
    }
    assert_eq!(get(&gateway, Some(&good)).await, 200);
    assert_eq!(
        upstream.last().header("x-user-id").as_deref(),
        Some("alice")
    );
    let mut counted: Vec<_> = gateway
        .metrics()
        .await
        .samples("jotgate_decisions_total")
        .into_iter()
        .map(|(labels, count)| (labels["result"].clone(), labels["code"].clone(), count))
        .collect();
    counted.sort();
    let mut expected: Vec<_> = denied
        .iter()
        .map(|(_, code)| ("report".to_owned(), (*code).to_owned(), 1))
        .chain([("allow".to_owned(), "ok".to_owned(), 1)])
        .collect();
    expected.sort();
    assert_eq!(counted, expected);
    assert_eq!(upstream.count(), 5);

    assert!(gateway.reload(&setup).await);
    for (token, code) in denied {
        assert_ne!(get(&gateway, token).await, 200, "{code}");
    }
    assert_eq!(
        upstream.count(),
        5,
        "enforced, none of them reaches the service"
    );
}

#[tokio::test]
async fn a_decision_is_explained_step_by_step() {
    let (issuer, upstream) = actors().await;
    let setup = Setup::new(&issuer, &upstream)
        .catch_all("scopes = [\"even\"]")
        .route("path = \"/open\"\nauth = \"public\"");
    let (_folder, file) = process::config_file(&setup.text());
    let explain = async |token: &str, request: &str| {
        let file = process::text(&file);
        let args = [
            "explain",
            "--config",
            file,
            "--token",
            token,
            "--request",
            request,
        ];
        let finished = process::run(&args, setup.environment()).await;
        (finished.status.code(), finished.stdout + &finished.stderr)
    };
    let token = fresh_token(&issuer);
    let (code, said) = explain(&token, "GET /orders").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.ends_with("\npasses\nx-user-id: alice\n"), "{said}");
    let other = issuer.token("alice").claim("aud", "another");
    let other = other.issued(Clock::system().now().0).sign();
    let (code, said) = explain(&other, "GET /orders").await;
    assert_eq!(code, Some(1), "{said}");
    let signs: Vec<&str> = said
        .lines()
        .filter_map(|line| line.get(..16))
        .map(str::trim)
        .collect();
    assert!(
        signs
            .iter()
            .any(|sign| sign.starts_with("ok") && sign.ends_with("times")),
        "{said}"
    );
    assert!(
        signs
            .iter()
            .any(|sign| sign.starts_with("FAIL") && sign.ends_with("audience")),
        "{said}"
    );
    assert!(
        signs
            .iter()
            .any(|sign| sign.starts_with('-') && sign.ends_with("signature")),
        "{said}"
    );
    assert!(said.ends_with("401 audience_mismatch\n"), "{said}");
    let poor = issuer.token("alice").issued(Clock::system().now().0).sign();
    let (code, said) = explain(&poor, "GET /orders").await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("FAIL  requirement"), "{said}");
    let (code, said) = explain("x", "GET /open/door").await;
    assert!(
        code == Some(0) && said.contains("the route is public"),
        "{said}"
    );
    let (code, said) = explain("x", "GET /a/%2e%2e%2fb").await;
    assert!(code == Some(1) && said.contains("400: the path"), "{said}");
    assert_eq!(upstream.count(), 0, "nothing is sent to the service");
}

#[tokio::test]
async fn a_route_that_reports_ends_nothing_that_runs() {
    let (issuer, upstream) = actors().await;
    let gateway = Setup::new(&issuer, &upstream)
        .catch_all("mode = \"report\"\ntrust_revoke_header = true")
        .route("path = \"/enforced\"")
        .start()
        .await;
    let token = issuer.token("alice").sign();
    let (late, reply) = Reply::late("late");
    upstream.reply(reply);
    let waiting = tokio::spawn(gateway.get("/late").bearer(&token).into_future());
    upstream.arrived(1).await;
    let mut running = vec![];
    for path in ["/enforced", "/reported"] {
        let (frames, reply) = Reply::stream();
        upstream.reply(reply);
        let answer = gateway.get(path).bearer(&token).open().await.unwrap();
        running.push((frames, answer));
    }
    gateway.admin().revoke_user(issuer.url(), "alice").await;
    let (_frames, enforced) = running.remove(0);
    within("the end of what is enforced", Answer::read(enforced))
        .await
        .expect_err("it is cut");
    let (frames, reported) = running.remove(0);
    frames.send(Frame::data("more".into())).await.unwrap();
    drop(frames);
    let answer = within("what is reported", Answer::read(reported))
        .await
        .unwrap();
    assert_eq!(&*answer.text(), "more");
    late.send(()).unwrap();
    let answer = within("the late answer", waiting).await.unwrap();
    assert_eq!(answer.verdict(), "200");
    // The service names the session of somebody who passed as a stranger: nothing to end, and no fault.
    upstream.reply(Reply::body("").with_header("jotgate-revoke", "session"));
    let answer = gateway.get("/").bearer(&token).await;
    assert_eq!(answer.verdict(), "200");
    assert_eq!(answer.header("jotgate-revoke"), None);
    assert_eq!(upstream.count(), 4);
}
