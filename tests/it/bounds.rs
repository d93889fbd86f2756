//! Bounds of token lives that grow: what was revoked while they were narrow stays out, also when its rule is forgotten.

use std::path::Path;
use std::time::Duration;

use crate::support::gateway::Gateway;
use crate::support::process::Process;
use crate::support::tokens::NOW;
use crate::support::{Issuer, Setup, Upstream};

/// As long as bounds settle after a change.
const SETTLING: u64 = 360;

const HOUR: u64 = 3600;

async fn actors() -> (Issuer, Upstream) {
    (Issuer::start().await, Upstream::start().await)
}

fn setup((issuer, upstream): &(Issuer, Upstream), lifetime: &str, log: Option<&Path>) -> Setup {
    let setup = Setup::new(issuer, upstream).issuer(format!("max_token_lifetime = \"{lifetime}\""));
    match log {
        Some(log) => setup.section(format!("[denylist]\npath = \"{}\"", log.display())),
        None => setup,
    }
}

/// A token of alice that was issued then, for so long.
fn token(issuer: &Issuer, iat: u64, lifetime: u64) -> String {
    issuer
        .token("alice")
        .claim("iat", iat)
        .claim("exp", iat + lifetime)
        .sign()
}

async fn verdict(gateway: &Gateway, token: &str) -> String {
    gateway.get("/").bearer(token).await.verdict()
}

#[tokio::test]
async fn a_longer_life_brings_nobody_back_whose_rule_a_restart_forgets() {
    let actors = actors().await;
    let (issuer, upstream) = &actors;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("denylist.log");
    let start = async |lifetime: &str| setup(&actors, lifetime, Some(&log)).start().await;
    let iat = NOW - 2 * HOUR;
    let revoked = token(issuer, iat, 3 * HOUR);
    let gateway = start("1h").await;
    // Too long a life. The rule is over as soon as it is there, because no token of that time passes any more.
    assert_eq!(verdict(&gateway, &revoked).await, "401 invalid_token");
    let rule = serde_json::json!({"iss": issuer.url(), "sub": "alice", "issued_before": iat});
    gateway.admin().revoke(&rule).await;
    gateway.shutdown().await;

    let gateway = start("1day").await;
    let rules = gateway.admin().request("GET", "/v1/revocations").await;
    assert_eq!(rules.json()["rules"], serde_json::json!([]), "forgotten");
    assert_eq!(verdict(&gateway, &revoked).await, "401 invalid_token");
    gateway.shutdown().await;

    // It is no matter of the first start after the change.
    let gateway = start("1day").await;
    assert_eq!(verdict(&gateway, &revoked).await, "401 invalid_token");
    let short = token(issuer, NOW - 10, HOUR);
    assert_eq!(verdict(&gateway, &short).await, "200", "as before");
    gateway.clock().advance(Duration::from_secs(SETTLING + 1));
    let settling = token(issuer, NOW + SETTLING, 3 * HOUR);
    assert_eq!(verdict(&gateway, &settling).await, "401 invalid_token");
    let later = token(issuer, NOW + SETTLING + 1, 3 * HOUR);
    assert_eq!(verdict(&gateway, &later).await, "200", "the new bound");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_longer_life_by_reload_is_for_later_tokens() {
    let actors = actors().await;
    let (issuer, upstream) = &actors;
    let mut gateway = setup(&actors, "1h", None).start().await;
    let before = token(issuer, NOW, 2 * HOUR);
    assert_eq!(verdict(&gateway, &before).await, "401 invalid_token");
    for lifetime in ["1day", "2days"] {
        assert!(gateway.reload(&setup(&actors, lifetime, None)).await);
        assert_eq!(verdict(&gateway, &before).await, "401 invalid_token");
    }
    // A token that is known, and one that is not.
    gateway.clock().advance(Duration::from_secs(SETTLING + 1));
    let later = token(issuer, NOW + SETTLING + 1, 36 * HOUR);
    for _ in 0..2 {
        assert_eq!(verdict(&gateway, &later).await, "200");
    }
    // Shorter again counts at once, and for all; it can be taken back as fast.
    assert!(gateway.reload(&setup(&actors, "1h", None)).await);
    assert_eq!(verdict(&gateway, &later).await, "401 invalid_token");
    assert!(gateway.reload(&setup(&actors, "2days", None)).await);
    assert_eq!(verdict(&gateway, &later).await, "200");
    assert_eq!(verdict(&gateway, &before).await, "401 invalid_token");
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn more_leeway_is_for_later_tokens() {
    let actors = actors().await;
    let (issuer, upstream) = &actors;
    let with = |leeway: &str| setup(&actors, "1h", None).issuer(format!("leeway = \"{leeway}\""));
    let mut gateway = with("0s").start().await;
    let expired = token(issuer, NOW - 60, 60);
    assert_eq!(verdict(&gateway, &expired).await, "401 token_expired");
    assert!(gateway.reload(&with("5m")).await);
    assert_eq!(verdict(&gateway, &expired).await, "401 token_expired");
    gateway.clock().advance(Duration::from_secs(SETTLING + 100));
    let later = token(issuer, NOW + SETTLING + 1, 60);
    assert_eq!(verdict(&gateway, &later).await, "200");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn nothing_starts_when_the_bounds_of_a_log_are_lost_or_damaged() {
    let actors = actors().await;
    let (issuer, upstream) = &actors;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("denylist.log");
    let setup = setup(&actors, "1h", Some(&log));
    let gateway = setup.clone().start().await;
    gateway.admin().revoke_user(issuer.url(), "alice").await;
    gateway.shutdown().await;
    let bounds = folder.path().join("denylist.log.bounds");
    let whole = std::fs::read(&bounds).unwrap();
    let refused = async |word: &str| {
        let mut process = Process::gateway(&setup);
        assert_eq!(process.ended().await.code(), Some(1));
        process
            .line(&[word, "denylist.log.bounds", "jotgate bounds none"])
            .await;
    };
    std::fs::remove_file(&bounds).unwrap();
    refused("is missing").await;
    std::fs::write(&bounds, &whole[..whole.len() - 1]).unwrap();
    refused("is damaged").await;
    std::fs::write(&bounds, "jotgate bounds none\n").unwrap();
    let gateway = setup.start().await;
    let token = issuer.token("alice").sign();
    assert_eq!(verdict(&gateway, &token).await, "401 revoked");
    assert_eq!(
        std::fs::read(&bounds).unwrap(),
        whole,
        "it knows them again"
    );
    assert_eq!(upstream.count(), 0);
}
