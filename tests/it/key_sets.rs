//! Keys change, providers fail, and neither a stranger nor a mishap costs anybody more than it must.

use std::time::Duration;

use bytes::Bytes;
use jotgate::base::clock::UnixSeconds;
use jotgate::jwks::Algorithm;
use serde_json::json;

use crate::support::authority::{Authority, HTTP_11, Issued, quoted};
use crate::support::issuer::Mode;
use crate::support::keys::key;
use crate::support::tokens::{LIFETIME, NOW};
use crate::support::{Gateway, Issuer, Reply, Setup, Upstream, eventually, within};

/// As short as the file allows.
const IMPATIENT: &str = r#"refresh_min_interval = "1s""#;

/// Asks until the token gets this verdict.
#[track_caller]
fn becomes(gateway: &Gateway, token: &str, wanted: &'static str) -> impl Future<Output = ()> {
    eventually(wanted, async move || {
        let verdict = gateway.get("/").bearer(token).await.verdict();
        (verdict == wanted).then_some(())
    })
}

#[tokio::test]
async fn a_new_key_is_found_by_the_first_token_that_needs_it() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .issuer(IMPATIENT)
        .start()
        .await;
    let old = issuer.token("alice").sign();
    assert_eq!(gateway.get("/").bearer(&old).await.status(), 200);
    let fetches = issuer.fetches();
    issuer.rotate(key(Algorithm::ES256, 2));
    let new = issuer.token("bob").sign();
    becomes(&gateway, &new, "200").await;
    assert!(issuer.fetches() > fetches);
    assert_eq!(
        gateway.get("/").bearer(&old).await.status(),
        200,
        "the old key is still served"
    );
    assert_eq!(
        upstream.last().header("x-user-id").as_deref(),
        Some("alice")
    );
}

#[tokio::test]
async fn a_removed_key_ends_its_tokens_also_those_in_the_cache() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .issuer(IMPATIENT)
        .start()
        .await;
    let old = issuer.token("alice").sign();
    for _ in 0..3 {
        assert_eq!(gateway.get("/").bearer(&old).await.status(), 200);
    }
    issuer.rotate(key(Algorithm::ES256, 2));
    issuer.remove("ES256-1");
    becomes(&gateway, &issuer.token("bob").sign(), "200").await;
    let before = upstream.count();
    assert_eq!(
        gateway.get("/").bearer(&old).await.verdict(),
        "401 invalid_token"
    );
    assert_eq!(upstream.count(), before);
}

#[tokio::test]
async fn another_key_under_the_same_kid_ends_the_tokens_of_the_first() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .issuer(IMPATIENT)
        .start()
        .await;
    let old = issuer.token("alice").sign();
    assert_eq!(gateway.get("/").bearer(&old).await.status(), 200);
    let mut replaced = key(Algorithm::ES256, 2).jwk();
    replaced["kid"] = json!("ES256-1");
    issuer.rotate(key(Algorithm::ES256, 3));
    issuer.remove("ES256-1");
    issuer.add_entry(replaced);
    becomes(&gateway, &issuer.token("bob").sign(), "200").await;
    assert_eq!(
        gateway.get("/").bearer(&old).await.verdict(),
        "401 invalid_token"
    );
    let new = issuer
        .token("carol")
        .key(key(Algorithm::ES256, 2))
        .header("kid", "ES256-1")
        .sign();
    assert_eq!(gateway.get("/").bearer(&new).await.status(), 200);
    assert_eq!(
        upstream.last().header("x-user-id").as_deref(),
        Some("carol")
    );
}

#[tokio::test]
async fn a_storm_of_unknown_kids_costs_the_provider_one_fetch() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    // An hour: nothing but the first unknown `kid` may cause a fetch while the scenario runs.
    let gateway = Setup::new(&issuer, &upstream)
        .issuer(r#"refresh_min_interval = "5m""#)
        .start()
        .await;
    let (fetches, discoveries) = (issuer.fetches(), issuer.discoveries());
    assert_eq!((fetches, discoveries), (1, 1));
    let mut storm = tokio::task::JoinSet::new();
    for n in 0..200 {
        let token = issuer
            .token("eve")
            .header("kid", format!("unknown-{n}"))
            .sign();
        storm.spawn(gateway.get("/").bearer(&token).into_future());
    }
    while let Some(answer) = within("the storm", storm.join_next()).await {
        assert_eq!(answer.unwrap().verdict(), "401 invalid_token");
    }
    assert!(
        issuer.fetches() <= fetches + 1,
        "{} fetches",
        issuer.fetches() - fetches
    );
    assert_eq!(
        gateway
            .get("/")
            .bearer(&issuer.token("alice").sign())
            .await
            .status(),
        200
    );
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_storm_on_a_provider_that_fails_costs_it_no_more() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .issuer(r#"refresh_min_interval = "5m""#)
        .start()
        .await;
    issuer.behave(Mode::Fail(500));
    let fetches = issuer.fetches();
    for n in 0..50 {
        let token = issuer
            .token("eve")
            .header("kid", format!("unknown-{n}"))
            .sign();
        assert_ne!(gateway.get("/").bearer(&token).await.status(), 200);
    }
    assert!(
        issuer.fetches() <= fetches + 2,
        "{} fetches",
        issuer.fetches() - fetches
    );
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_provider_that_fails_leaves_the_good_keys() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .issuer(IMPATIENT)
        .start()
        .await;
    let mut asked = 0;
    for mode in [
        Mode::Fail(500),
        Mode::Fail(404),
        Mode::Fail(204),
        Mode::Body(Bytes::new()),
        Mode::Body("<html>".into()),
        Mode::Body("{}".into()),
        Mode::Body("[]".into()),
        Mode::Body(r#"{"keys": 7}"#.into()),
        Mode::Body(r#"{"keys": []}"#.into()),
        Mode::Body(vec![b' '; 8 * 1024 * 1024].into()),
        Mode::Redirect(format!("{}/.well-known/openid-configuration", issuer.url())),
    ] {
        let what = format!("{mode:?}").chars().take(60).collect::<String>();
        let fetches = issuer.fetches();
        issuer.behave(mode);
        eventually("a fetch", async || {
            asked += 1;
            let unknown = issuer
                .token("eve")
                .header("kid", format!("unknown-{asked}"))
                .sign();
            assert_ne!(
                gateway.get("/").bearer(&unknown).await.status(),
                200,
                "{what}"
            );
            (issuer.fetches() > fetches).then_some(())
        })
        .await;
        let fresh = issuer.token("alice").claim("what", what.clone()).sign();
        assert_eq!(
            gateway.get("/").bearer(&fresh).await.status(),
            200,
            "{what}"
        );
    }
    issuer.behave(Mode::Serve);
    issuer.rotate(key(Algorithm::ES256, 2));
    becomes(&gateway, &issuer.token("bob").sign(), "200").await;
    assert_eq!(upstream.last().header("x-user-id").as_deref(), Some("bob"));
}

#[tokio::test]
async fn keys_that_were_never_loaded_are_our_fault() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    issuer.behave(Mode::Fail(500));
    let gateway = Setup::new(&issuer, &upstream)
        .issuer(IMPATIENT)
        .start_unready()
        .await;
    let token = issuer.token("alice").sign();
    let answer = gateway.get("/").bearer(&token).await;
    assert_eq!(answer.verdict(), "503 keys_unavailable");
    let wait: u64 = answer
        .header("retry-after")
        .expect("Retry-After")
        .parse()
        .expect("seconds");
    assert!((1..=600).contains(&wait), "{wait}");
    assert_eq!(
        answer.header("www-authenticate"),
        None,
        "it is not the client's fault"
    );
    assert_eq!(gateway.get("/").await.verdict(), "401 no_token");
    assert_eq!(
        gateway.get("/").bearer("x.y.z").await.verdict(),
        "401 invalid_token"
    );
    assert_eq!(upstream.count(), 0);
    issuer.behave(Mode::Serve);
    becomes(&gateway, &token, "200").await;
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_provider_that_hangs_holds_up_nobody_else() {
    let (good, hanging) = (
        Issuer::start().await,
        Issuer::with_key(key(Algorithm::ES256, 2)).await,
    );
    let upstream = Upstream::start().await;
    hanging.behave(Mode::Hang);
    let gateway = Setup::new(&good, &upstream)
        .and_issuer("hanging", hanging.url())
        .issuer(r#"fetch_timeout = "1s""#)
        .start_unready()
        .await;
    becomes(&gateway, &good.token("alice").sign(), "200").await;
    let answer = gateway.get("/").bearer(&hanging.token("bob").sign()).await;
    assert_eq!(answer.verdict(), "503 keys_unavailable");
    for n in 0..20 {
        let token = good.token(&format!("user-{n}")).sign();
        assert_eq!(gateway.get("/").bearer(&token).await.status(), 200);
    }
    assert_eq!(upstream.count(), 21);
}

#[tokio::test]
async fn keys_that_are_too_old_are_no_longer_trusted() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .issuer(r#"stale_max = "24h""#)
        .issuer(r#"refresh_min_interval = "5m""#)
        .start()
        .await;
    issuer.behave(Mode::Fail(500));
    let at = |hours: u64| NOW + hours * 3600;
    gateway.clock().set(UnixSeconds(at(23)));
    let token = issuer.token("alice").issued(at(23)).sign();
    assert_eq!(gateway.get("/").bearer(&token).await.status(), 200);
    gateway.clock().set(UnixSeconds(at(25)));
    let token = issuer.token("alice").issued(at(25)).sign();
    assert_eq!(
        gateway.get("/").bearer(&token).await.verdict(),
        "503 keys_unavailable"
    );
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn keys_outlive_a_restart_while_the_provider_is_away() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let folder = tempfile::tempdir().unwrap();
    let setup =
        Setup::new(&issuer, &upstream).top(format!("jwks_cache = \"{}\"", folder.path().display()));
    let first = setup.clone().start().await;
    let token = issuer.token("alice").sign();
    assert_eq!(first.get("/").bearer(&token).await.status(), 200);
    eventually("the kept key set", async || {
        std::fs::read_dir(folder.path()).unwrap().next().map(|_| ())
    })
    .await;
    first.shutdown().await;
    issuer.behave(Mode::Fail(503));
    let second = setup.start_unready().await;
    becomes(&second, &token, "200").await;
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_kept_key_set_that_was_damaged_is_not_believed() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let folder = tempfile::tempdir().unwrap();
    let setup =
        Setup::new(&issuer, &upstream).top(format!("jwks_cache = \"{}\"", folder.path().display()));
    let first = setup.clone().start().await;
    let files = async || {
        eventually("the kept key set", async || {
            let files: Vec<_> = std::fs::read_dir(folder.path())
                .unwrap()
                .map(|file| file.unwrap().path())
                .collect();
            (!files.is_empty()).then_some(files)
        })
        .await
    };
    files().await;
    first.shutdown().await;
    // Only now: before, a file may have been on its way to its name.
    let kept = files().await;
    issuer.behave(Mode::Fail(503));
    for file in kept.iter().filter(|file| file.is_file()) {
        std::fs::write(file, "{\"keys\": [").unwrap();
    }
    let second = setup.start_unready().await;
    let answer = second.get("/").bearer(&issuer.token("alice").sign()).await;
    assert_eq!(answer.verdict(), "503 keys_unavailable");
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn keys_may_come_from_a_url_a_file_a_pem_or_the_configuration() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let folder = tempfile::tempdir().unwrap();
    let (jwks, pem) = (
        folder.path().join("jwks.json"),
        folder.path().join("key.pem"),
    );
    std::fs::write(&jwks, issuer.jwks().to_string()).unwrap();
    std::fs::write(&pem, issuer.key().pem()).unwrap();
    let sources = [
        format!("jwks_uri = \"{}\"", issuer.jwks_url()),
        format!(
            "discovery = \"{}/.well-known/openid-configuration\"",
            issuer.url()
        ),
        format!("jwks_file = \"{}\"", jwks.display()),
        format!(
            "public_key_file = \"{}\"\nalgorithms = [\"ES256\"]",
            pem.display()
        ),
        format!("jwks = '{}'", issuer.jwks()),
    ];
    for (n, source) in sources.into_iter().enumerate() {
        let gateway = Setup::new(&issuer, &upstream).issuer(&source).start().await;
        let good = issuer.token("alice");
        assert_eq!(
            gateway.get("/").bearer(&good.sign()).await.status(),
            200,
            "{source}"
        );
        let forged = good.key(key(Algorithm::ES256, 9)).sign();
        assert_eq!(
            gateway.get("/").bearer(&forged).await.verdict(),
            "401 invalid_token",
            "{source}"
        );
        assert_eq!(upstream.count(), n + 1);
    }
}

#[tokio::test]
async fn a_changed_key_file_is_read_again() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, issuer.jwks().to_string()).unwrap();
    let gateway = Setup::new(&issuer, &upstream)
        .issuer(format!("jwks_file = \"{}\"", file.display()))
        .issuer(IMPATIENT)
        .start()
        .await;
    let old = issuer.token("alice").sign();
    assert_eq!(gateway.get("/").bearer(&old).await.status(), 200);
    issuer.rotate(key(Algorithm::ES256, 2));
    issuer.remove("ES256-1");
    // As an editor and Kubernetes do: a new file takes the old one's place.
    let beside = folder.path().join("jwks.json.new");
    std::fs::write(&beside, issuer.jwks().to_string()).unwrap();
    std::fs::rename(&beside, &file).unwrap();
    becomes(&gateway, &issuer.token("bob").sign(), "200").await;
    assert_eq!(
        gateway.get("/").bearer(&old).await.verdict(),
        "401 invalid_token"
    );
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_discovery_document_of_another_issuer_is_not_believed() {
    let (issuer, thief) = (
        Issuer::start().await,
        Issuer::with_key(key(Algorithm::ES256, 2)).await,
    );
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&issuer, &upstream)
        .issuer(format!(
            "discovery = \"{}/.well-known/openid-configuration\"",
            thief.url()
        ))
        .start_unready()
        .await;
    eventually("the document to be asked for", async || {
        (thief.discoveries() > 0).then_some(())
    })
    .await;
    let token = issuer
        .token("root")
        .key(thief.key())
        .header("kid", thief.key().kid())
        .sign();
    assert_eq!(
        gateway.get("/").bearer(&token).await.verdict(),
        "503 keys_unavailable"
    );
    assert_eq!((thief.fetches(), upstream.count()), (0, 0));
}

#[tokio::test]
async fn a_token_is_verified_once_and_judged_each_time() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .route("path = \"/admin\"\nscopes = [\"admin\"]")
        .start()
        .await;
    let token = issuer.token("alice").scope("user").sign();
    for _ in 0..3 {
        assert_eq!(gateway.get("/").bearer(&token).await.status(), 200);
        assert_eq!(
            gateway.get("/admin").bearer(&token).await.verdict(),
            "403 insufficient_scope"
        );
    }
    gateway.clock().advance(Duration::from_secs(LIFETIME + 60));
    assert_eq!(
        gateway.get("/").bearer(&token).await.verdict(),
        "401 token_expired"
    );
    assert_eq!(upstream.count(), 3);
}

/// A provider of keys behind TLS, in a network where each shows who it is. The bad settings are each wrong in one thing alone.
#[tokio::test]
async fn keys_are_fetched_over_tls_with_the_gateways_own_certificate() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let (ca, other) = (Authority::new(), Authority::new());
    let config = ca
        .issue("id.test")
        .server_of(rustls::ALL_VERSIONS, Some(ca.demand()), HTTP_11);
    let provider = Upstream::over_tls(config).await;
    // One for each gateway that comes so far.
    for _ in 0..2 {
        provider.reply(Reply::body(issuer.jwks().to_string()));
    }
    let (own, foreign) = (ca.issue("gateway"), other.issue("gateway"));
    let tls = |ca: &Authority, own: &Issued, name: &str| {
        let (certificate, key) = (quoted(&own.certificate_file), quoted(&own.key_file));
        let ca = quoted(&ca.file());
        format!("ca = {ca}, certificate = {certificate}, key = {key}, server_name = \"{name}\"")
    };
    let setup = |tls: &str| {
        let url = format!("https://{}/keys", provider.address());
        let lines = format!("jwks_uri = \"{url}\"\ntls = {{ {tls} }}");
        Setup::new(&issuer, &upstream).issuer(lines)
    };
    let token = issuer.token("alice").sign();
    for wrong in [
        tls(&other, &own, "id.test"),
        tls(&ca, &foreign, "id.test"),
        tls(&ca, &own, "id.other"),
    ] {
        let before = provider.count();
        let gateway = setup(&wrong).start().await;
        let answer = gateway.get("/").bearer(&token).await;
        assert_eq!(answer.verdict(), "503 keys_unavailable", "{wrong}");
        assert_eq!(provider.count(), before, "{wrong}");
        if wrong.contains("id.test") && !wrong.contains(&quoted(&other.file())) {
            // Files that are renewed count with the next fetch.
            std::fs::copy(&own.key_file, &foreign.key_file).unwrap();
            std::fs::copy(&own.certificate_file, &foreign.certificate_file).unwrap();
            becomes(&gateway, &token, "200").await;
        }
    }
    let gateway = setup(&tls(&ca, &own, "id.test")).start().await;
    assert_eq!(gateway.get("/").bearer(&token).await.status(), 200);
    let handshakes = provider.handshakes();
    let last = handshakes.last().expect("one");
    assert!(last.certified);
    assert_eq!(last.server_name.as_deref(), Some("id.test"));
}
