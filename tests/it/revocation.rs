//! What was revoked is denied from the very next request on, cached or not; and nothing else is.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jotgate::base::clock::UnixSeconds;
use jotgate::jwks::Algorithm;
use serde_json::{Value, json};

use crate::support::gateway::{ADMIN_TOKEN, READER_TOKEN, REVOKER_TOKEN};
use crate::support::issuer::Mode;
use crate::support::keys::{encode, key};
use crate::support::process::run;
use crate::support::tokens::{self, LIFETIME, NOW};
use crate::support::{Gateway, Issuer, Setup, Upstream};
use crate::token_rules::negated;

struct Scene {
    issuer: Issuer,
    upstream: Upstream,
    gateway: Gateway,
}

async fn scene() -> Scene {
    scene_with(|setup| setup).await
}

async fn scene_with(change: impl FnOnce(Setup) -> Setup) -> Scene {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    Scene {
        gateway: change(Setup::new(&issuer, &upstream)).start().await,
        issuer,
        upstream,
    }
}

impl Scene {
    #[track_caller]
    fn passes(&self, token: &str) -> impl Future<Output = ()> {
        self.expect(token, "200", 1)
    }

    #[track_caller]
    fn is_revoked(&self, token: &str) -> impl Future<Output = ()> {
        self.expect(token, "401 revoked", 0)
    }

    #[track_caller]
    fn expect(
        &self,
        token: &str,
        verdict: &'static str,
        arrives: usize,
    ) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            // Others may be under way meanwhile, to other paths.
            let seen_there = || {
                self.upstream
                    .seen()
                    .iter()
                    .filter(|seen| seen.target == "/orders")
                    .count()
            };
            let before = seen_there();
            let answer = self.gateway.get("/orders").bearer(token).await;
            assert_eq!(answer.verdict(), verdict, "{place}");
            assert_eq!(seen_there() - before, arrives, "{place}: at the service");
        }
    }

    /// A rule for this issuer.
    fn rule(&self, mut members: Value) -> Value {
        members["iss"] = json!(self.issuer.url());
        members
    }
}

#[tokio::test]
async fn a_revoked_token_is_denied_and_its_sisters_are_not() {
    let scene = scene().await;
    let alice = scene.issuer.token("alice").sid("s1");
    let (first, second) = (
        alice.clone().jti("t1").sign(),
        alice.clone().jti("t2").sign(),
    );
    scene.passes(&first).await;
    scene.passes(&second).await;
    scene.gateway.admin().revoke_token(&first).await;
    scene.is_revoked(&first).await;
    scene.passes(&second).await;
    scene.is_revoked(&first).await;
    scene
        .gateway
        .admin()
        .revoke(&scene.rule(json!({"jti": "t2"})))
        .await;
    scene.is_revoked(&second).await;
    assert_eq!(scene.upstream.count(), 3);
}

#[tokio::test]
async fn a_token_that_was_never_seen_is_denied_too() {
    let scene = scene().await;
    let token = scene.issuer.token("alice").jti("t1").sign();
    scene.gateway.admin().revoke_token(&token).await;
    scene.is_revoked(&token).await;
    assert_eq!(scene.upstream.count(), 0);
}

#[tokio::test]
async fn a_copy_of_a_revoked_token_with_another_signature_is_denied() {
    let scene = scene().await;
    // Without `jti`: known by what was signed alone.
    let token = scene.issuer.token("alice").sign();
    let [header, payload, signature] = tokens::split(&token);
    let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let copy = format!("{header}.{payload}.{}", encode(negated(&bytes)));
    let again = scene.issuer.token("alice").sign();
    assert!(
        copy != token && again != token,
        "ECDSA signs anew each time"
    );
    for token in [&token, &copy, &again] {
        scene.passes(token).await;
    }
    scene.gateway.admin().revoke_token(&token).await;
    for token in [&token, &copy, &again] {
        scene.is_revoked(token).await;
    }
    let other = scene.issuer.token("alice").claim("n", 1).sign();
    scene.passes(&other).await;
}

#[tokio::test]
async fn a_revoked_session_ends_all_of_its_tokens() {
    let scene = scene().await;
    let token =
        |user: &str, sid: &str, n: u64| scene.issuer.token(user).sid(sid).claim("n", n).sign();
    scene.passes(&token("alice", "s1", 1)).await;
    scene
        .gateway
        .admin()
        .revoke_session(scene.issuer.url(), "s1")
        .await;
    scene.is_revoked(&token("alice", "s1", 1)).await;
    scene.is_revoked(&token("alice", "s1", 2)).await;
    scene.gateway.clock().advance(Duration::from_secs(10));
    let refreshed = scene
        .issuer
        .token("alice")
        .sid("s1")
        .issued(NOW + 10)
        .sign();
    scene.is_revoked(&refreshed).await;
    scene.passes(&token("alice", "s2", 1)).await;
    scene.passes(&token("alice", "S1", 1)).await;
    scene.passes(&scene.issuer.token("alice").sign()).await;
}

#[tokio::test]
async fn a_revoked_user_must_log_in_again() {
    let scene = scene().await;
    let at = |user: &str, issued: u64| scene.issuer.token(user).issued(issued).sign();
    let (before, same, after) = (
        at("alice", NOW - 10),
        at("alice", NOW),
        at("alice", NOW + 1),
    );
    scene.passes(&before).await;
    scene.passes(&same).await;
    scene
        .gateway
        .admin()
        .revoke_user(scene.issuer.url(), "alice")
        .await;
    scene.is_revoked(&before).await;
    // A login in the very second of the revocation cannot be told from one before it: denied.
    scene.is_revoked(&same).await;
    scene.gateway.clock().advance(Duration::from_secs(1));
    scene.passes(&after).await;
    scene.passes(&at("bob", NOW - 10)).await;
    scene.passes(&at("Alice", NOW)).await;
}

#[tokio::test]
async fn a_user_may_be_revoked_up_to_an_instant_and_but_for_one_session() {
    let scene = scene().await;
    let at = |issued: u64, sid: &str| scene.issuer.token("alice").sid(sid).issued(issued).sign();
    scene
        .gateway
        .admin()
        .revoke(&scene.rule(json!({"sub": "alice", "issued_before": NOW - 60})))
        .await;
    scene.is_revoked(&at(NOW - 61, "s1")).await;
    scene.passes(&at(NOW - 59, "s1")).await;
}

#[tokio::test]
async fn a_token_without_iat_is_denied_under_a_rule_with_an_instant() {
    let scene = scene_with(|setup| setup.issuer("allow_missing_iat = true")).await;
    let token = |user: &str| scene.issuer.token(user).without("iat").sign();
    scene.passes(&token("alice")).await;
    scene
        .gateway
        .admin()
        .revoke(&scene.rule(json!({"sub": "alice", "issued_before": NOW - 3600})))
        .await;
    scene.is_revoked(&token("alice")).await;
    scene.passes(&token("bob")).await;
}

#[tokio::test]
async fn a_revoked_client_is_known_by_either_claim() {
    let scene = scene().await;
    let by = |claim: &str, client: &str| scene.issuer.token("alice").claim(claim, client).sign();
    scene.passes(&by("client_id", "web")).await;
    scene
        .gateway
        .admin()
        .revoke(&scene.rule(json!({"client_id": "web"})))
        .await;
    scene.is_revoked(&by("client_id", "web")).await;
    scene.is_revoked(&by("azp", "web")).await;
    scene.passes(&by("client_id", "app")).await;
    scene.passes(&scene.issuer.token("web").sign()).await;
}

#[tokio::test]
async fn a_revoked_key_ends_what_it_signed_and_can_be_lifted() {
    let scene = scene().await;
    let old = scene.issuer.token("alice").sign();
    scene.passes(&old).await;
    let answer = scene
        .gateway
        .admin()
        .revoke(&scene.rule(json!({"kid": "ES256-1"})))
        .await;
    scene.is_revoked(&old).await;
    scene.is_revoked(&scene.issuer.token("bob").sign()).await;
    let id = answer["rules"][0]["id"]
        .as_str()
        .unwrap_or_else(|| panic!("{answer}"))
        .to_owned();
    let lift = scene
        .gateway
        .admin()
        .request("DELETE", &format!("/v1/revocations/{id}"))
        .await;
    assert_eq!(lift.status(), 200, "{lift:?}");
    scene.passes(&old).await;
}

#[tokio::test]
async fn a_revoked_issuer_starts_anew() {
    let other = Issuer::with_key(key(Algorithm::ES256, 2)).await;
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .and_issuer("other", other.url())
        .start()
        .await;
    let scene = Scene {
        issuer,
        upstream,
        gateway,
    };
    scene.passes(&scene.issuer.token("alice").sign()).await;
    scene
        .gateway
        .admin()
        .revoke(&scene.rule(json!({"issued_before": NOW})))
        .await;
    scene.is_revoked(&scene.issuer.token("alice").sign()).await;
    scene
        .is_revoked(&scene.issuer.token("bob").issued(NOW - 5).sign())
        .await;
    scene.passes(&other.token("alice").sign()).await;
    scene.gateway.clock().advance(Duration::from_secs(1));
    scene
        .passes(&scene.issuer.token("alice").issued(NOW + 1).sign())
        .await;
}

#[tokio::test]
async fn one_issuers_names_mean_nothing_to_another() {
    let other = Issuer::with_key(key(Algorithm::ES256, 2)).await;
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .and_issuer("other", other.url())
        .start()
        .await;
    let scene = Scene {
        issuer,
        upstream,
        gateway,
    };
    for rule in [
        json!({"sub": "alice"}),
        json!({"sid": "s1"}),
        json!({"jti": "t1"}),
        json!({"client_id": "web"}),
    ] {
        scene.gateway.admin().revoke(&scene.rule(rule)).await;
    }
    let full = |issuer: &Issuer| {
        issuer
            .token("alice")
            .sid("s1")
            .jti("t1")
            .claim("client_id", "web")
            .sign()
    };
    scene.is_revoked(&full(&scene.issuer)).await;
    scene.passes(&full(&other)).await;
    // Nor do one kind's names mean anything to another kind.
    scene
        .passes(
            &scene
                .issuer
                .token("s1")
                .sid("t1")
                .jti("web")
                .claim("client_id", "alice")
                .sign(),
        )
        .await;
}

#[tokio::test]
async fn a_rule_is_forgotten_when_it_can_no_longer_matter_and_not_before() {
    let scene = scene().await;
    let session = |issued: u64| scene.issuer.token("alice").sid("s1").issued(issued).sign();
    let answer = scene
        .gateway
        .admin()
        .revoke_session(scene.issuer.url(), "s1")
        .await;
    // 24 h of life and 30 s of leeway.
    let until = answer["rules"][0]["until"]
        .as_u64()
        .unwrap_or_else(|| panic!("{answer}"));
    assert_eq!(until, NOW + 24 * 3600 + 30);
    let late = until - LIFETIME;
    scene.gateway.clock().set(UnixSeconds(late));
    scene.is_revoked(&session(late)).await;
    let user = scene
        .gateway
        .admin()
        .revoke_user(scene.issuer.url(), "bob")
        .await;
    assert_eq!(user["rules"][0]["until"], late + 24 * 3600 + 30);
}

#[tokio::test]
async fn after_the_acknowledgement_no_request_passes() {
    let scene = scene().await;
    let admin = scene.gateway.admin();
    for n in 0..300 {
        let sid = format!("s{n}");
        let token = scene.issuer.token("alice").sid(&sid).sign();
        let passing: Vec<_> = (0..4)
            .map(|_| tokio::spawn(scene.gateway.get("/").bearer(&token).into_future()))
            .collect();
        admin.revoke_session(scene.issuer.url(), &sid).await;
        scene.is_revoked(&token).await;
        for request in passing {
            let answer = request.await.unwrap().verdict();
            assert!(matches!(&*answer, "200" | "401 revoked"), "{answer}");
        }
        scene.is_revoked(&token).await;
    }
}

#[tokio::test]
async fn many_rules_are_one_request() {
    let scene = scene().await;
    let rules: Vec<Value> = (0..1000)
        .map(|n| scene.rule(json!({"sid": format!("s{n}")})))
        .collect();
    scene.gateway.admin().revoke(&json!({"rules": rules})).await;
    for n in [0, 1, 499, 999] {
        scene
            .is_revoked(&scene.issuer.token("alice").sid(&format!("s{n}")).sign())
            .await;
    }
    scene
        .passes(&scene.issuer.token("alice").sid("s1000").sign())
        .await;
}

#[tokio::test]
async fn a_full_denylist_refuses_the_new_and_keeps_the_old() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .section("[denylist]\nmax_entries = 3")
        .start()
        .await;
    let scene = Scene {
        issuer,
        upstream,
        gateway,
    };
    let mut refused = None;
    let mut accepted = vec![];
    for n in 0..10 {
        let sid = format!("s{n}");
        let answer = scene
            .gateway
            .admin()
            .post_rule(&scene.rule(json!({"sid": sid})))
            .await;
        if answer.status() == 200 {
            accepted.push(sid);
        } else {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("the eleventh of three");
    assert_eq!(refused.code(), "denylist_full", "{refused:?}");
    assert_eq!(accepted.len(), 3);
    for sid in &accepted {
        scene
            .is_revoked(&scene.issuer.token("alice").sid(sid).sign())
            .await;
    }
    scene
        .passes(&scene.issuer.token("alice").sid("s9").sign())
        .await;
}

#[tokio::test]
async fn a_trial_changes_nothing() {
    let scene = scene().await;
    let token = scene.issuer.token("alice").sid("s1").sign();
    scene.passes(&token).await;
    scene
        .gateway
        .admin()
        .revoke(&scene.rule(json!({"sid": "s1", "dry_run": true})))
        .await;
    scene.passes(&token).await;
    scene
        .gateway
        .admin()
        .revoke(&scene.rule(json!({"sid": "s1"})))
        .await;
    scene.is_revoked(&token).await;
}

#[tokio::test]
async fn a_block_holds_new_logins_out_until_it_is_lifted() {
    let scene = scene().await;
    let answer = scene
        .gateway
        .admin()
        .revoke(&scene.rule(json!({"sub": "alice", "standing": true})))
        .await;
    let id = answer["rules"][0]["id"]
        .as_str()
        .unwrap_or_else(|| panic!("{answer}"))
        .to_owned();
    scene.gateway.clock().advance(Duration::from_hours(1));
    let login = scene.issuer.token("alice").issued(NOW + 3600).sign();
    scene.is_revoked(&login).await;
    let path = format!("/v1/revocations/{id}");
    assert_eq!(
        scene.gateway.admin().request("GET", &path).await.json()["standing"],
        true
    );
    assert_eq!(
        scene
            .gateway
            .admin()
            .request("DELETE", &path)
            .await
            .status(),
        200
    );
    scene.gateway.clock().advance(Duration::from_secs(1));
    scene
        .passes(&scene.issuer.token("alice").issued(NOW + 3601).sign())
        .await;
}

#[tokio::test]
async fn a_pin_denies_every_other_session_of_the_user() {
    let scene = scene().await;
    let token = |user: &str, sid: &str, at: u64| {
        let token = scene.issuer.token(user).sid(sid).issued(at);
        token.claim("jti", format!("{user}-{sid}-{at}")).sign()
    };
    let (phone, laptop) = (token("alice", "phone", NOW), token("alice", "laptop", NOW));
    let nameless = scene.issuer.token("alice").sign();
    for token in [&phone, &laptop, &nameless] {
        scene.passes(token).await;
    }
    let pin = async |sid: &str| {
        let rule = scene.rule(json!({"sub": "alice", "except_sid": sid}));
        let answer = scene.gateway.admin_as(REVOKER_TOKEN).revoke(&rule).await;
        answer["rules"][0].clone()
    };
    let first = pin("phone").await;
    assert_eq!(
        (&first["kind"], &first["except_sid"], &first["standing"]),
        (&json!("pin"), &json!("phone"), &json!(true))
    );
    scene.passes(&phone).await;
    scene.is_revoked(&laptop).await;
    scene.is_revoked(&nameless).await;
    scene.passes(&token("bob", "laptop", NOW)).await;
    // An old device cannot refresh its way around it.
    scene.gateway.clock().advance(Duration::from_mins(30));
    scene
        .is_revoked(&token("alice", "laptop", NOW + 1800))
        .await;
    scene.passes(&token("alice", "phone", NOW + 1800)).await;
    // Within the same second the later one wins, whatever the names.
    for sid in ["laptop", "phone", "laptop", "tablet"] {
        let again = pin(sid).await;
        assert_eq!(
            (&again["id"], &again["created"]),
            (&first["id"], &json!(false))
        );
        scene.passes(&token("alice", sid, NOW + 1800)).await;
    }
    scene.is_revoked(&token("alice", "phone", NOW + 1800)).await;
    scene
        .is_revoked(&token("alice", "laptop", NOW + 1800))
        .await;
    let path = format!("/v1/revocations/{}", first["id"].as_str().unwrap());
    let lifted = scene.gateway.admin().request("DELETE", &path).await;
    assert_eq!(lifted.status(), 200);
    assert_eq!(lifted.json()["remaining"], Value::Null);
    scene.passes(&token("alice", "laptop", NOW + 1800)).await;
}

#[tokio::test]
async fn a_pin_tells_the_reason_to_the_metrics_and_to_check_alone() {
    let scene = scene().await;
    let old = scene.issuer.token("alice").sid("old").sign();
    let rule = scene.rule(json!({"sub": "alice", "except_sid": "new"}));
    scene.gateway.admin().revoke(&rule).await;
    // Of one user, and still two rules.
    scene
        .gateway
        .admin()
        .revoke(&scene.rule(json!({"sub": "alice", "issued_before": 5})))
        .await;
    scene.is_revoked(&old).await;
    let metrics = scene.gateway.metrics().await;
    let decisions = metrics.samples("jotgate_decisions_total");
    let by_pin = |(labels, count): &(_, u64)| {
        let labels: &std::collections::BTreeMap<String, String> = labels;
        labels["code"] == "revoked_pin" && *count == 1
    };
    assert!(decisions.iter().any(by_pin), "{decisions:?}");
    let check = scene
        .gateway
        .admin()
        .request("POST", "/v1/check")
        .json(&json!({"token": old}))
        .await
        .json();
    assert_eq!(check["rules"].as_array().map(Vec::len), Some(1), "{check}");
    assert_eq!(check["rules"][0]["kind"], "pin");
    let list = scene
        .gateway
        .admin()
        .request("GET", "/v1/revocations?kind=pin")
        .await
        .json();
    assert_eq!(list["rules"], check["rules"]);
}

#[tokio::test]
async fn a_pin_with_a_date_is_refused_and_a_full_denylist_takes_no_pin() {
    let scene = scene_with(|setup| setup.section("[denylist]\nmax_entries = 1")).await;
    let token = scene.issuer.token("alice").sid("old").sign();
    let dated = json!({"sub": "alice", "except_sid": "new", "issued_before": NOW});
    let answer = scene.gateway.admin().post_rule(&scene.rule(dated)).await;
    assert_eq!(answer.verdict(), "400 invalid_request");
    assert!(
        answer.text().contains("leave one of them out"),
        "{answer:?}"
    );
    scene.passes(&token).await;
    let pin = |user: &str| scene.rule(json!({"sub": user, "except_sid": "new"}));
    scene.gateway.admin().revoke(&pin("bob")).await;
    let full = scene.gateway.admin().post_rule(&pin("alice")).await;
    assert_eq!(full.code(), "denylist_full");
    scene.passes(&token).await;
}

#[tokio::test]
async fn an_issuers_token_may_call_by_its_scopes() {
    let scene = scene_with(|setup| {
        setup
            .env("JOTGATE__ADMIN__ISSUER", "main")
            .env("JOTGATE__ADMIN__SCOPES__REVOKE", "kick")
    })
    .await;
    let staff = |scope: &str| scene.issuer.token("olga").sid("o").scope(scope);
    let rule = scene.rule(json!({"sub": "alice"}));
    let post = async |token: &str, rule: &Value| {
        let answer = scene.gateway.admin_as(token).post_rule(rule).await;
        answer.verdict()
    };
    let list = async |token: &str| {
        let admin = scene.gateway.admin_as(token);
        admin.request("GET", "/v1/revocations").await.verdict()
    };
    // No role includes another, and names that were changed are what they were changed to.
    let reader = staff("jotgate:read").sign();
    assert_eq!(list(&reader).await, "200");
    assert_eq!(post(&reader, &rule).await, "403 forbidden");
    assert_eq!(
        post(&staff("jotgate:revoke").sign(), &rule).await,
        "403 forbidden"
    );
    let kicker = staff("orders:write kick").sign();
    assert_eq!(post(&kicker, &rule).await, "200");
    assert_eq!(list(&kicker).await, "403 forbidden");
    let client = scene.rule(json!({"client_id": "web"}));
    assert_eq!(post(&kicker, &client).await, "403 forbidden");
    assert_eq!(
        post(&staff("jotgate:security").sign(), &client).await,
        "200"
    );
    let rules = scene
        .gateway
        .admin()
        .request("GET", "/v1/revocations?kind=user")
        .await;
    assert_eq!(rules.json()["rules"][0]["by"], "olga");
    // Whatever a route would refuse is refused here.
    let all = "jotgate:read kick jotgate:security";
    for refused in [
        staff(all).claim("aud", "elsewhere").sign(),
        staff(all).issued(NOW - 2 * LIFETIME).sign(),
        staff(all).without("sub").sign(),
        scene.issuer.token("alice").scope(all).sign(),
        format!("{}A", staff(all).sign()),
        staff(all).key(key(Algorithm::ES256, 7)).sign(),
    ] {
        assert_eq!(list(&refused).await, "401 unauthenticated", "{refused}");
    }
    // Configured secrets go on, and the denylist counts from the next request on.
    scene
        .gateway
        .admin()
        .revoke_session(scene.issuer.url(), "o")
        .await;
    assert_eq!(list(&reader).await, "401 unauthenticated");
}

#[tokio::test]
async fn without_the_issuers_keys_only_secrets_let_a_caller_in() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    issuer.behave(Mode::Fail(500));
    let gateway = Setup::new(&issuer, &upstream)
        .env("JOTGATE__ADMIN__ISSUER", "main")
        .start_unready()
        .await;
    let list = async |token: &str| {
        let admin = gateway.admin_as(token);
        admin.request("GET", "/v1/revocations").await.verdict()
    };
    // More than the wrong secrets that one address may try: what cannot be checked is no wrong secret.
    for number in 0..12 {
        let token = issuer.token(&format!("olga-{number}"));
        let token = token.scope("jotgate:read").sign();
        assert_eq!(list(&token).await, "503 keys_unavailable");
    }
    assert_eq!(list(READER_TOKEN).await, "200");
}

#[tokio::test]
async fn without_an_issuer_for_it_nobodys_token_may_call() {
    let scene = scene().await;
    let token = scene.issuer.token("olga").scope("jotgate:read").sign();
    let admin = scene.gateway.admin_as(&token);
    let answer = admin.request("GET", "/v1/revocations").await;
    assert_eq!(answer.verdict(), "401 unauthenticated");
}

#[tokio::test]
async fn what_is_final_cannot_be_lifted() {
    let scene = scene().await;
    let answer = scene
        .gateway
        .admin()
        .revoke_session(scene.issuer.url(), "s1")
        .await;
    let id = answer["rules"][0]["id"]
        .as_str()
        .unwrap_or_else(|| panic!("{answer}"));
    let lift = scene
        .gateway
        .admin()
        .request("DELETE", &format!("/v1/revocations/{id}"))
        .await;
    assert_eq!(lift.status(), 409, "{lift:?}");
    scene
        .is_revoked(&scene.issuer.token("alice").sid("s1").sign())
        .await;
}

#[tokio::test]
async fn each_caller_may_do_what_its_roles_say() {
    let scene = scene().await;
    let reader = scene.gateway.admin_as(READER_TOKEN);
    let revoker = scene.gateway.admin_as(REVOKER_TOKEN);
    let session = scene.rule(json!({"sid": "s1"}));
    let security = [
        scene.rule(json!({"client_id": "web"})),
        scene.rule(json!({"kid": "ES256-1"})),
        scene.rule(json!({"issued_before": NOW})),
    ];
    for rule in std::iter::once(&session).chain(&security) {
        assert_eq!(reader.post_rule(rule).await.status(), 403, "{rule}");
    }
    for rule in &security {
        assert_eq!(revoker.post_rule(rule).await.status(), 403, "{rule}");
        let mixed = json!({"rules": [session, rule]});
        assert_eq!(revoker.post_rule(&mixed).await.status(), 403, "{mixed}");
    }
    let token = scene
        .issuer
        .token("alice")
        .sid("s1")
        .claim("client_id", "web")
        .sign();
    scene.passes(&token).await;
    assert_eq!(revoker.post_rule(&session).await.status(), 200);
    scene.is_revoked(&token).await;
    assert_eq!(reader.request("GET", "/v1/revocations").await.status(), 200);
}

#[tokio::test]
async fn a_rule_with_a_fault_is_refused_whole() {
    let scene = scene().await;
    let good = scene.rule(json!({"sid": "s1"}));
    for wrong in [
        json!({}),
        json!([]),
        json!("token"),
        json!({"sid": "s1"}),
        json!({"iss": "https://other.example", "sid": "s1"}),
        json!({"token": "x"}),
        json!({"token": 7}),
        scene.rule(json!({})),
        scene.rule(json!({"sid": ""})),
        scene.rule(json!({"sid": 7})),
        scene.rule(json!({"sid": "s1", "jti": "t1"})),
        scene.rule(json!({"sid": "s1", "unknown": true})),
        scene.rule(json!({"sub": "alice", "issued_before": "now"})),
        scene.rule(json!({"sub": "alice", "issued_before": -1})),
        json!({"rules": []}),
        json!({"rules": [good, {}]}),
        json!({"rules": [good], "sid": "s1"}),
    ] {
        let answer = scene.gateway.admin().post_rule(&wrong).await;
        assert_eq!(answer.status(), 400, "{wrong}: {}", answer.text());
    }
    let no_json = scene
        .gateway
        .admin()
        .request("POST", "/v1/revocations")
        .header("content-type", "application/json");
    assert_eq!(no_json.body("{").await.status(), 400);
    scene
        .passes(&scene.issuer.token("alice").sid("s1").jti("t1").sign())
        .await;
}

#[tokio::test]
async fn the_rule_that_denies_a_token_can_be_asked_for() {
    let scene = scene().await;
    let token = scene.issuer.token("alice").sid("s1").sign();
    let check = async || {
        scene
            .gateway
            .admin()
            .request("POST", "/v1/check")
            .json(&json!({"token": token}))
            .await
            .json()
    };
    assert_eq!(check().await["denied"], false);
    scene
        .gateway
        .admin()
        .revoke(&scene.rule(json!({"sid": "s1", "reason": "lost phone"})))
        .await;
    let answer = check().await;
    assert_eq!(
        (&answer["denied"], &answer["rules"][0]["kind"]),
        (&json!(true), &json!("session")),
        "{answer}"
    );
    let list = scene
        .gateway
        .admin()
        .request("GET", "/v1/revocations")
        .await
        .json();
    assert_eq!(list["rules"].as_array().map(Vec::len), Some(1), "{list}");
    scene.is_revoked(&token).await;
}

#[tokio::test]
async fn the_command_line_lifts_what_it_blocked() {
    let scene = scene().await;
    let token = scene.issuer.token("alice").sign();
    let admin = format!("http://{}", scene.gateway.admin_address());
    let env = [("JOTGATE_ADMIN_TOKEN".to_owned(), ADMIN_TOKEN.to_owned())];
    let call = async |args: &[&str]| {
        let ended = run(&[args, &["--admin", &admin][..]].concat(), &env).await;
        assert!(ended.status.success(), "{ended:?}");
        ended.stdout
    };
    let issuer = scene.issuer.url();
    let user = ["revoke", "--user", "alice", "--issuer", issuer];
    let said = call(&[&user[..], &["--standing"]].concat()).await;
    scene.is_revoked(&token).await;
    let id = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("id: "));
    let said = call(&["revoke", "--lift", id.expect("an identifier")]).await;
    assert!(said.starts_with("lifted"), "{said}");
    scene.passes(&token).await;
}
