//! The program as a supervisor sees it: how it starts, what it refuses to start with, and how it ends.

use hyper::body::Frame;
use jotgate::base::clock::Clock;
use serde_json::json;
use tokio::net::TcpStream;

use crate::support::client::Request;
use crate::support::process::{self, Process, config_file};
use crate::support::tokens::NOW;
use crate::support::{Answer, Gateway, Issuer, Reply, Setup, Upstream, eventually, within};

/// A gateway of its own process, and where it listens.
async fn started(setup: &Setup) -> (Process, std::net::SocketAddr) {
    let process = Process::gateway(setup);
    let address = process.address(&["listening"]).await;
    eventually("the gateway to be reachable", async || {
        TcpStream::connect(address).await.ok()
    })
    .await;
    (process, address)
}

fn fresh_token(issuer: &Issuer) -> String {
    issuer.token("alice").issued(Clock::system().now().0).sign()
}

#[tokio::test]
async fn a_termination_lets_running_requests_finish() {
    for signal in ["TERM", "INT"] {
        let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
        let (mut process, address) = started(&Setup::new(&issuer, &upstream)).await;
        let get = || Request::new(address, "GET", "/slow");
        let token = fresh_token(&issuer);
        eventually("the keys", async || {
            (get().bearer(&token).await.status() == 200).then_some(())
        })
        .await;
        let (frames, reply) = Reply::stream();
        upstream.reply(reply);
        let running = get().bearer(&token).open().await.unwrap();
        process.signal(signal);
        eventually("no new connections", async || {
            TcpStream::connect(address).await.is_err().then_some(())
        })
        .await;
        frames.send(Frame::data("late".into())).await.unwrap();
        drop(frames);
        let answer = within("the late answer", Answer::read(running))
            .await
            .unwrap();
        assert_eq!((answer.status(), &*answer.text()), (200, "late"));
        let status = process.ended().await;
        assert_eq!(status.code(), Some(0), "SIG{signal}: {}", process.said());
        assert_eq!(upstream.count(), 2);
    }
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let (mut process, address) =
        started(&Setup::new(&issuer, &upstream).catch_all("auth = \"public\"")).await;
    let (_frames, reply) = Reply::stream();
    upstream.reply(reply);
    let _running = Request::new(address, "GET", "/endless")
        .open()
        .await
        .unwrap();
    process.signal("TERM");
    eventually("no new connections", async || {
        TcpStream::connect(address).await.is_err().then_some(())
    })
    .await;
    process.signal("TERM");
    assert_ne!(process.ended().await.code(), Some(0));
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_drain_does_not_wait_for_ever() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let setup = Setup::new(&issuer, &upstream)
        .catch_all("auth = \"public\"")
        .section("[shutdown]\ndrain_timeout = \"1s\"");
    let (mut process, address) = started(&setup).await;
    let (_frames, reply) = Reply::stream();
    upstream.reply(reply);
    let running = Request::new(address, "GET", "/endless")
        .open()
        .await
        .unwrap();
    process.signal("TERM");
    process.ended().await;
    assert!(
        Answer::read(running).await.is_err(),
        "cut, and not as if whole"
    );
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_configuration_with_faults_is_refused_with_all_of_them() {
    let text = "[[listeners]]\naddress = \"nowhere\"\nspeed = 7\n\n[[issuers]]\nissuer = \"https://id.example.com\"\n\
                audiences = [\"a\"]\nleeway = \"5\"\n\n[[routes]]\npath = \"/a/../b\"\nupstream = \"http://127.0.0.1:1\"\n";
    let (_folder, file) = config_file(text);
    for command in ["check", "run"] {
        let finished = process::run(&[command, "--config", process::text(&file)], &[]).await;
        assert_eq!(finished.status.code(), Some(2), "{finished:?}");
        for (line, word) in [(2, "address"), (3, "speed"), (8, "leeway"), (11, "path")] {
            let told = finished
                .stderr
                .lines()
                .any(|told| told.contains(&format!(":{line}:")) && told.contains(word));
            assert!(told, "line {line}, {word}: {}", finished.stderr);
        }
    }
}

#[tokio::test]
async fn a_good_configuration_is_shown_as_a_table() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let setup = Setup::new(&issuer, &upstream)
        .route("hosts = [\"shop.example\"]\npath = \"/open\"\nauth = \"public\"")
        .route("path = \"/admin\"\nscopes = [\"admin:all\"]");
    let (_folder, file) = config_file(&setup.text());
    let finished = process::run(
        &["check", "--config", process::text(&file)],
        setup.environment(),
    )
    .await;
    assert_eq!(finished.status.code(), Some(0), "{finished:?}");
    for word in [
        "shop.example",
        "/open",
        "public",
        "/admin",
        "admin:all",
        "main",
    ] {
        assert!(
            finished.stdout.contains(word),
            "{word}: {}",
            finished.stdout
        );
    }
    assert_eq!(issuer.discoveries(), 0, "a check asks nobody");
}

#[tokio::test]
async fn a_missing_file_or_argument_is_wrong_usage() {
    for args in [
        &["run", "--config", "/nowhere/jotgate.toml"][..],
        &["walk"],
        &[],
        &["run", "--speed"],
    ] {
        let finished = process::run(args, &[]).await;
        assert_eq!(finished.status.code(), Some(2), "{args:?}: {finished:?}");
        assert!(!finished.stderr.is_empty(), "{args:?}");
        assert!(
            !finished.stderr.contains("panicked"),
            "{args:?}: {}",
            finished.stderr
        );
    }
}

#[tokio::test]
async fn a_token_and_a_secret_are_in_no_log() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let setup = Setup::new(&issuer, &upstream)
        .section("[telemetry]\nlog = { format = \"json\", level = \"info\" }");
    let (mut process, address) = started(&setup).await;
    let token = fresh_token(&issuer);
    let get = || Request::new(address, "GET", "/orders?secret-query=1");
    eventually("the keys", async || {
        (get().bearer(&token).await.status() == 200).then_some(())
    })
    .await;
    let _ = get().bearer(&format!("{token}A")).await;
    process.signal("TERM");
    process.ended().await;
    let said = process.said();
    assert!(
        said.contains("/orders") || said.contains("\"status\""),
        "there is an access log: {said}"
    );
    let [_, payload, signature] = crate::support::tokens::split(&token);
    for secret in [payload, signature, crate::support::gateway::ADMIN_TOKEN] {
        assert!(!said.contains(secret), "{said}");
    }
}

#[tokio::test]
async fn calls_to_the_admin_api_leave_no_secret_and_no_token_in_log_and_file() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("denylist.log");
    let setup = Setup::new(&issuer, &upstream)
        .section(format!("[denylist]\npath = {log:?}"))
        .section("[telemetry]\nlog = { format = \"text\", level = \"info,jotgate=trace\" }");
    let mut process = Process::gateway(&setup);
    let admin = process.address(&["the admin API answers"]).await;
    let secret = crate::support::gateway::ADMIN_TOKEN;
    let guess = "a-guess-at-the-token-of-the-admin-api";
    let token = fresh_token(&issuer);
    let rule = json!({"token": token});
    let call = |bearer: &str, path: &str| Request::new(admin, "POST", path).bearer(bearer);
    let refused = call(guess, "/v1/revocations").json(&rule).await;
    assert_eq!(refused.status(), 401);
    for path in ["/v1/revocations", "/v1/check"] {
        assert_eq!(call(secret, path).json(&rule).await.status(), 200, "{path}");
    }
    let torn = call(secret, "/v1/check").json(&json!({"token": format!("{token}\n")}));
    assert_eq!(torn.await.status(), 400);
    process.line(&["revo", "admin"]).await;
    process.signal("TERM");
    process.ended().await;
    let said = process.said();
    let kept = String::from_utf8_lossy(&std::fs::read(&log).unwrap()).into_owned();
    assert!(kept.contains(issuer.url()), "the rule is in the file");
    let [_, payload, signature] = crate::support::tokens::split(&token);
    for word in [payload, signature, secret, guess] {
        assert!(!said.contains(word), "{said}");
        assert!(!kept.contains(word), "{kept}");
    }
}

#[tokio::test]
async fn an_admin_api_that_others_reach_is_refused_or_warned_of_once() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let open = Setup::new(&issuer, &upstream).env("JOTGATE__ADMIN__ADDRESS", "0.0.0.0:0");
    let mut refused = Process::gateway(&open);
    assert_eq!(refused.ended().await.code(), Some(2));
    let said = refused.line(&["admin.address"]).await;
    assert!(
        said.contains("has no TLS") && said.contains("insecure = true"),
        "{said}"
    );

    let insecure = open.env("JOTGATE__ADMIN__INSECURE", "true");
    let (process, _) = started(&insecure).await;
    process.line(&["WARN", "admin.insecure"]).await;
    let warnings = process.said().matches("admin.insecure").count();
    assert_eq!(warnings, 1, "{}", process.said());

    let local = Setup::new(&issuer, &upstream)
        .env("JOTGATE__ADMIN__INSECURE", "true")
        .env("JOTGATE__ADMIN__PROBES_ADDRESS", "0.0.0.0:0");
    let (process, _) = started(&local).await;
    assert!(
        !process.said().contains("admin.insecure"),
        "{}",
        process.said()
    );
}

#[tokio::test]
async fn probes_have_an_address_of_their_own_until_the_end() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let setup = Setup::new(&issuer, &upstream)
        .env("JOTGATE__ADMIN__PROBES_ADDRESS", "127.0.0.1:0")
        .section("[shutdown]\ndrain_delay = \"1h\"");
    let process = Process::gateway(&setup);
    let probes = process.address(&["probes and metrics are answered"]).await;
    let get = |path: &str| Request::new(probes, "GET", path);
    eventually("the keys", async || {
        (get("/ready").await.status() == 200).then_some(())
    })
    .await;
    let metrics = get("/metrics").await.text();
    assert!(metrics.contains("jotgate_"), "{metrics}");
    let secret = crate::support::gateway::ADMIN_TOKEN;
    let status = get("/v1/status").bearer(secret).await.status();
    assert_eq!(status, 404, "a secret opens nothing here");
    process.signal("TERM");
    eventually("traffic to be turned away", async || {
        (get("/ready").await.status() == 503).then_some(())
    })
    .await;
    assert_eq!(get("/live").await.status(), 200);
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn the_lines_of_the_demo_work_as_they_stand() {
    let mut demo = Process::start(&["demo", "--free-ports"], &[]);
    demo.line(&["status", "--admin"]).await;
    let said = demo.said();
    let script = &said[said.find("export ").expect("lines to paste")..];
    let script: Vec<&str> = script
        .lines()
        .filter(|line| {
            ["export ", "SID=", "TOKEN=", "curl "]
                .iter()
                .any(|start| line.starts_with(start))
                || line.contains(" --admin ")
                || line.contains(" token inspect")
        })
        .collect();
    assert!(script.len() >= 12, "{said}");
    let output = within(
        "the demo's lines",
        tokio::process::Command::new("bash")
            .arg("-c")
            .arg(script.join("\n"))
            .output(),
    )
    .await
    .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).to_lowercase();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}\n{errors}");
    assert!(shown.matches("401").count() >= 3, "{shown}\n{errors}");
    for word in ["no_token", "revoked", "x-user-id", "alice"] {
        assert!(shown.contains(word), "{word}: {shown}\n{errors}");
    }
    let echoed_root = shown.lines().any(|line| line.contains("root"));
    assert!(!echoed_root, "{shown}");
    demo.signal("INT");
    assert_eq!(demo.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_token_can_be_minted_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let finished = process::run(&["keys", "generate", "--help"], &[]).await;
    assert_eq!(finished.status.code(), Some(0), "{finished:?}");
    let token = crate::support::tokens::Token::new(
        crate::support::keys::key(jotgate::jwks::Algorithm::ES256, 1),
        "https://id.example.com",
        "orders-api",
        "alice",
    )
    .sid("s-4711");
    let file = folder.path().join("token");
    std::fs::write(&file, token.sign()).unwrap();
    let finished = process::run(&["token", "inspect", &token.sign()], &[]).await;
    for word in ["https://id.example.com", "alice", "s-4711", "ES256"] {
        assert!(finished.stdout.contains(word), "{word}: {finished:?}");
    }
}

#[tokio::test]
async fn pins_outlive_a_restart() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("denylist.log");
    let start = async || {
        let section = format!("[denylist]\npath = {log:?}");
        Setup::new(&issuer, &upstream)
            .section(section)
            .start()
            .await
    };
    let token = |user: &str, sid: &str| issuer.token(user).sid(sid).sign();
    let gateway = start().await;
    let pin = async |gateway: &Gateway, user: &str, sid: &str| {
        let rule = json!({"iss": issuer.url(), "sub": user, "except_sid": sid});
        let answer = gateway.admin().revoke(&rule).await;
        answer["rules"][0]["id"].as_str().unwrap().to_owned()
    };
    // Its user has another rule, too, which must not be taken for it.
    pin(&gateway, "alice", "old").await;
    let rule = json!({"iss": issuer.url(), "sub": "alice", "issued_before": NOW - 1});
    gateway.admin().revoke(&rule).await;
    pin(&gateway, "alice", "new").await;
    let lifted = pin(&gateway, "bob", "new").await;
    let path = format!("/v1/revocations/{lifted}");
    assert_eq!(gateway.admin().request("DELETE", &path).await.status(), 200);
    let list = async |gateway: &Gateway| {
        let answer = gateway.admin().request("GET", "/v1/revocations").await;
        answer.json()
    };
    let before = list(&gateway).await;
    assert_eq!(
        before["rules"].as_array().map(Vec::len),
        Some(2),
        "{before}"
    );
    gateway.shutdown().await;
    let gateway = start().await;
    assert_eq!(list(&gateway).await, before);
    let verdict = async |user: &str, sid: &str| {
        let answer = gateway.get("/").bearer(&token(user, sid)).await;
        answer.verdict()
    };
    assert_eq!(verdict("alice", "old").await, "401 revoked");
    assert_eq!(verdict("alice", "new").await, "200");
    assert_eq!(verdict("bob", "old").await, "200", "lifted");
    // In the same second, and newer all the same.
    pin(&gateway, "alice", "newest").await;
    assert_eq!(verdict("alice", "new").await, "401 revoked");
    assert_eq!(verdict("alice", "newest").await, "200");
}
