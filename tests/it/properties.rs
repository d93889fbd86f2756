//! Laws: what was minted by the rules passes and arrives as it was said, and nothing else ever passes.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::support::raw;
use crate::support::tokens::{self, LIFETIME, NOW};
use crate::support::{Gateway, Issuer, Setup, Upstream};

/// Enough to find what is wrong in principle; the fuzz targets look longer.
const CASES: u32 = 200;

struct Scene {
    runtime: Runtime,
    issuer: Issuer,
    upstream: Upstream,
    gateway: Gateway,
}

/// One gateway for all laws: they count only what they send themselves.
fn scene() -> Scene {
    let runtime = Runtime::new().expect("a runtime");
    let (issuer, upstream, gateway) = runtime.block_on(async {
        let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
        let gateway = Setup::new(&issuer, &upstream)
            .claim_header("x-claim", "c")
            .issuer("on_unmappable_claim = \"omit\"")
            .start()
            .await;
        (issuer, upstream, gateway)
    });
    Scene {
        runtime,
        issuer,
        upstream,
        gateway,
    }
}

fn law<S: Strategy>(strategy: &S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(strategy, test)
        .unwrap_or_else(|fault| panic!("{fault}"));
}

impl Scene {
    /// Sends `authorization` as it is, and says the status and what reached the service.
    fn send(&self, authorization: &[u8]) -> (u16, usize) {
        self.runtime.block_on(async {
            let before = self.upstream.count();
            let head = b"GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\nauthorization: ";
            let answer = raw::exchange(
                self.gateway.address(),
                [head, authorization, b"\r\n\r\n"].concat(),
            )
            .await;
            (raw::status(&answer), self.upstream.count() - before)
        })
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,4}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

#[test]
fn what_was_minted_by_the_rules_passes_and_arrives() {
    let scene = scene();
    law(
        &(
            "[a-zA-Z0-9|@_-]{1,40}",
            json_value(),
            0..600_u64,
            1..80_000_u64,
        ),
        |(subject, claim, age, life)| {
            let (issued, expires) = (NOW - age, (NOW - age + life).max(NOW + 1));
            let token = scene
                .issuer
                .token(&subject)
                .claim("iat", issued)
                .claim("exp", expires)
                .claim("c", claim.clone())
                .sign();
            let (status, arrived) = scene.send(format!("Bearer {token}").as_bytes());
            prop_assert_eq!((status, arrived), (200, 1));
            let seen = scene.upstream.last();
            prop_assert_eq!(seen.all("x-user-id"), [subject]);
            let arrived = seen.header("x-claim");
            match claim {
                Value::Bool(_) | Value::Number(_) => {
                    prop_assert_eq!(arrived, Some(claim.to_string()));
                }
                Value::Null => prop_assert_eq!(arrived, None),
                Value::String(text) => prop_assert!(arrived.is_none_or(|header| header == text)),
                Value::Object(_) => {
                    let read = serde_json::from_str::<Value>(&arrived.unwrap_or_default());
                    prop_assert_eq!(read.ok(), Some(claim));
                }
                Value::Array(_) => {}
            }
            Ok(())
        },
    );
}

#[test]
fn a_changed_character_is_another_token() {
    let scene = scene();
    let token = scene.issuer.token("alice").sid("s1").sign();
    assert_eq!(scene.send(format!("Bearer {token}").as_bytes()), (200, 1));
    law(&(0..token.len(), "[A-Za-z0-9_.=+/ -]"), |(at, with)| {
        let changed = format!("{}{with}{}", &token[..at], &token[at + 1..]);
        if changed != token {
            prop_assert_eq!(
                scene.send(format!("Bearer {changed}").as_bytes()),
                (401, 0),
                "{}",
                changed
            );
        }
        let shorter = format!("{}{}", &token[..at], &token[at + 1..]);
        prop_assert_eq!(
            scene.send(format!("Bearer {shorter}").as_bytes()),
            (401, 0),
            "{}",
            shorter
        );
        let longer = format!("{}{with}{}", &token[..at], &token[at..]);
        prop_assert_eq!(
            scene.send(format!("Bearer {longer}").as_bytes()).1,
            usize::from(longer.trim() == token),
            "{}",
            longer
        );
        Ok(())
    });
}

#[test]
fn no_bytes_pass_that_nobody_signed() {
    let scene = scene();
    let byte = prop_oneof![
        Just(b' '),
        Just(b'.'),
        0x21..=0x7e_u8,
        0x80..=0xff_u8,
        Just(b'\t')
    ];
    let value = (
        prop_oneof!["", "Bearer ", "bearer  ", "Basic "],
        prop::collection::vec(byte, 0..300),
    );
    law(&value, |(scheme, bytes)| {
        let (status, arrived) = scene.send(&[scheme.as_bytes(), &bytes].concat());
        prop_assert!(matches!(status, 400 | 401), "{}", status);
        prop_assert_eq!(arrived, 0);
        Ok(())
    });
    let alive = scene.issuer.token("alice").sign();
    assert_eq!(scene.send(format!("Bearer {alive}").as_bytes()), (200, 1));
}

#[test]
fn no_unsigned_header_or_payload_passes() {
    let scene = scene();
    let good = scene.issuer.token("alice");
    let signature = {
        let token = good.sign();
        tokens::split(&token)[2].to_owned()
    };
    law(
        &(json_value(), json_value(), any::<bool>()),
        |(header, payload, is_near)| {
            let (header, payload) = if is_near {
                // Nothing is wrong with it but that nobody signed it.
                let payload = json!({
                    "iss": scene.issuer.url(),
                    "aud": "orders-api",
                    "iat": NOW,
                    "exp": NOW + LIFETIME,
                    "sub": "alice",
                    "x": payload,
                });
                (
                    json!({"alg": "ES256", "kid": "ES256-1", "x": header}),
                    payload,
                )
            } else {
                (header, payload)
            };
            let token = format!(
                "{}.{}.{signature}",
                crate::support::keys::encode(header.to_string()),
                crate::support::keys::encode(payload.to_string())
            );
            prop_assert_eq!(scene.send(format!("Bearer {token}").as_bytes()), (401, 0));
            Ok(())
        },
    );
}

#[test]
fn every_exp_but_a_sane_number_in_the_future_is_refused() {
    let scene = scene();
    law(
        &prop_oneof![json_value(), any::<f64>().prop_map(|float| json!(float))],
        |exp| {
            let is_good = exp.as_f64().is_some_and(|at| {
                #[expect(clippy::cast_precision_loss, reason = "both are far below 2^53")]
                let (first, last) = ((NOW - 30) as f64, (NOW + 86_400) as f64);
                at >= first + 1.0 && at <= last
            });
            let token = scene.issuer.token("alice").claim("exp", exp.clone()).sign();
            let expected = if is_good { (200, 1) } else { (401, 0) };
            prop_assert_eq!(
                scene.send(format!("Bearer {token}").as_bytes()),
                expected,
                "{}",
                exp
            );
            Ok(())
        },
    );
}
