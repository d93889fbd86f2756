//! Only the gateway says who somebody is. What a client says of itself in an identity header never arrives, in no spelling
//! and on no route; and a claim arrives exactly or not at all.

use http::Version;
use serde_json::{Value, json};

use crate::support::raw::{self, Raw};
use crate::support::tokens::{self, signed};
use crate::support::{Issuer, Setup, Upstream};

fn setup(issuer: &Issuer, upstream: &Upstream) -> Setup {
    Setup::new(issuer, upstream)
        .claim_header("x-session-id", "sid")
        .route("name = \"open\"\npath = \"/open\"\nauth = \"public\"")
        .route("name = \"maybe\"\npath = \"/maybe\"\nauth = \"optional\"")
}

/// Names that some service reads as `X-User-Id`.
const ALIASES: [&str; 12] = [
    "x-user-id",
    "X-User-Id",
    "X-USER-ID",
    "x_user_id",
    "X_User_Id",
    "x-user_id",
    "X.User.Id",
    "x!user!id",
    "xuserid",
    "x--user--id",
    "x-user-id_",
    "X~User|Id",
];

#[tokio::test]
async fn a_forged_identity_header_never_arrives() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = setup(&issuer, &upstream).start().await;
    let token = issuer.token("alice").sign();
    for path in ["/orders", "/open", "/maybe"] {
        for alias in ALIASES {
            let identity = if path == "/open" { "" } else { &token };
            let bearer = format!("authorization: Bearer {identity}\r\n");
            let bearer = if identity.is_empty() { "" } else { &bearer };
            let bytes = format!(
                "GET {path} HTTP/1.1\r\nhost: shop\r\n{alias}: admin\r\n{bearer}{alias}: root\r\nX-Session-ID: s9\r\n\
                 x-kept: yes\r\nconnection: close\r\n\r\n"
            );
            let before = upstream.count();
            let answer = raw::exchange(gateway.address(), bytes).await;
            assert_eq!(
                (raw::status(&answer), upstream.count()),
                (200, before + 1),
                "{path} {alias}: {answer}"
            );
            let seen = upstream.last();
            let expected: &[&str] = if path == "/open" {
                &[]
            } else {
                &["x-user-id: alice"]
            };
            assert_eq!(seen.aliases("x-user-id"), expected, "{path} {alias}");
            assert!(
                seen.aliases("x-session-id").is_empty(),
                "an absent claim removes it too: {path} {alias}"
            );
            assert_eq!(seen.header("x-kept").as_deref(), Some("yes"));
        }
    }
    assert_eq!(upstream.count(), 3 * ALIASES.len());
}

#[tokio::test]
async fn a_forged_identity_header_never_arrives_over_http2() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = setup(&issuer, &upstream).start().await;
    let token = issuer.token("alice").sign();
    let aliases = [
        "x-user-id",
        "x_user_id",
        "x.user.id",
        "xuserid",
        "x!user!id",
    ];
    for alias in aliases {
        for (request, expected) in [
            (
                gateway.get("/orders").bearer(&token),
                &["x-user-id: alice"][..],
            ),
            (gateway.get("/open"), &[]),
            (gateway.get("/open").bearer(&token), &[]),
            (gateway.get("/maybe"), &[]),
        ] {
            let answer = request
                .h2()
                .header(alias, "admin")
                .header(alias, "root")
                .await;
            assert_eq!((answer.status(), answer.version()), (200, Version::HTTP_2));
            assert_eq!(upstream.last().aliases("x-user-id"), expected, "{alias}");
        }
    }
    assert_eq!(upstream.count(), 4 * aliases.len());
}

#[tokio::test]
async fn connection_options_cannot_take_an_identity_header_away() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = setup(&issuer, &upstream).start().await;
    let token = issuer.token("alice").sid("s1").sign();
    for lines in [
        "Connection: close, X-User-Id\r\n",
        "Connection: close\r\nConnection: X-User-Id, x-session-id\r\n",
        "Connection: x-user-id\r\nX-User-Id: admin\r\nConnection: close\r\n",
        "Connection: close,,x_user_id\r\nProxy-Connection: x-user-id\r\n",
        "Connection: close\r\nKeep-Alive: x-user-id\r\n",
    ] {
        let bytes = format!(
            "GET /orders HTTP/1.1\r\nhost: shop\r\n{lines}authorization: Bearer {token}\r\n\r\n"
        );
        let answer = raw::exchange(gateway.address(), bytes).await;
        assert_eq!(raw::status(&answer), 200, "{lines}: {answer}");
        let seen = upstream.last();
        assert_eq!(seen.aliases("x-user-id"), ["x-user-id: alice"], "{lines}");
        assert_eq!(
            seen.aliases("x-session-id"),
            ["x-session-id: s1"],
            "{lines}"
        );
        for option in seen.all("connection") {
            assert!(
                !option.to_lowercase().contains("user"),
                "the next hop would drop it: {option}"
            );
        }
    }
    assert_eq!(upstream.count(), 5);
}

#[tokio::test]
async fn a_token_cannot_be_named_in_connection_to_hide_it() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = setup(&issuer, &upstream).start().await;
    let mut raw = Raw::connect(gateway.address()).await;
    let token = issuer.token("alice").sign();
    raw.send(format!(
        "GET /maybe HTTP/1.1\r\nhost: shop\r\nconnection: close, authorization\r\nauthorization: Bearer {token}\r\n\r\n"
    ))
    .await;
    let answer = raw.read_to_end().await;
    // Dropped as a hop-by-hop field, or read as a token: both are readings. It must not be both anonymous and forwarded.
    let seen = upstream.last();
    assert_eq!(
        (raw::status(&answer), seen.header("authorization")),
        (200, None)
    );
}

#[tokio::test]
async fn claims_arrive_exactly() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .claim_header("x-claim", "c")
        .claim_header("x-nested", "a.b.0")
        .claim_header("x-pointer", "/dotted.name/c")
        .claim_header("x-url", "https://example.com/roles")
        .start()
        .await;
    let scalar = |value: Value| issuer.token("alice").claim("c", value).sign();
    for (value, header) in [
        (json!("admin"), "admin"),
        (json!("Jos\u{e9} \u{1f600}"), "Jos\u{e9} \u{1f600}"),
        (json!("a b"), "a b"),
        (json!(true), "true"),
        (json!(false), "false"),
        (json!(0), "0"),
        (json!(-1), "-1"),
        (json!(9_007_199_254_740_993_u64), "9007199254740993"),
        (json!(u64::MAX), "18446744073709551615"),
        (json!(i64::MIN), "-9223372036854775808"),
        (json!(["a", "b", 3]), "a,b,3"),
        (json!({"k": ["\u{e9}", 1]}), r#"{"k":["\u00e9",1]}"#),
        (json!([["a"], {"b": 1}]), r#"[["a"],{"b":1}]"#),
    ] {
        let answer = gateway
            .get("/")
            .bearer(&scalar(value.clone()))
            .header("x-claim", "forged")
            .await;
        assert_eq!(answer.status(), 200, "{value}: {}", answer.text());
        assert_eq!(upstream.last().all("x-claim"), [header], "{value}");
    }
    let deep = issuer
        .token("alice")
        .claim("a", json!({"b": ["first", "second"]}))
        .claim("dotted.name", json!({"c": 7}))
        .claim("https://example.com/roles", json!(["r1", "r2"]))
        .sign();
    assert_eq!(gateway.get("/").bearer(&deep).await.status(), 200);
    let seen = upstream.last();
    assert_eq!(seen.header("x-nested").as_deref(), Some("first"));
    assert_eq!(seen.header("x-pointer").as_deref(), Some("7"));
    assert_eq!(seen.header("x-url").as_deref(), Some("r1,r2"));
    assert_eq!(seen.header("x-claim"), None);
}

/// Values that a receiver would read as another value, as JSON text.
const UNMAPPABLE: [&str; 14] = [
    r#"" admin""#,
    r#""admin ""#,
    r#""\tadmin""#,
    r#""a\r\nx-user-id: root""#,
    r#""a\nb""#,
    r#""a\rb""#,
    r#""a\u0000b""#,
    r#""a\u007fb""#,
    r#""\u00a0admin""#,
    "18446744073709551616",
    "1e300",
    r#"["a,b"]"#,
    r#"["a",""]"#,
    r#"{"n":18446744073709551616}"#,
];

#[tokio::test]
async fn a_claim_that_cannot_be_a_header_is_the_gateways_fault() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .claim_header("x-claim", "c")
        .start()
        .await;
    let token = |value: &str| {
        let good = issuer.token("alice");
        let payload = format!("{{\"c\":{value},{}", &good.payload_text()[1..]);
        signed(&issuer.key(), good.header_text(), payload)
    };
    for value in UNMAPPABLE {
        let answer = gateway
            .get("/")
            .bearer(&token(value))
            .header("x-claim", "forged")
            .await;
        assert_eq!(answer.verdict(), "500 claims_unmappable", "{value}");
    }
    assert_eq!(upstream.count(), 0);
    for nothing in ["null", r#""""#, "[]"] {
        let answer = gateway
            .get("/")
            .bearer(&token(nothing))
            .header("x-claim", "forged")
            .await;
        assert_eq!(answer.status(), 200, "{nothing}");
        assert_eq!(upstream.last().header("x-claim"), None, "{nothing}");
    }
}

#[tokio::test]
async fn a_claim_that_cannot_be_a_header_is_left_out_where_the_file_says_so() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .claim_header("x-claim", "c")
        .issuer(r#"on_unmappable_claim = "omit""#)
        .start()
        .await;
    for (n, value) in UNMAPPABLE.into_iter().enumerate() {
        let good = issuer.token("alice");
        let payload = format!("{{\"c\":{value},{}", &good.payload_text()[1..]);
        let token = signed(&issuer.key(), good.header_text(), payload);
        let answer = gateway
            .get("/")
            .bearer(&token)
            .header("x_claim", "forged")
            .await;
        assert_eq!((answer.status(), upstream.count()), (200, n + 1), "{value}");
        let seen = upstream.last();
        assert!(
            seen.aliases("x-claim").is_empty(),
            "{value}: {:?}",
            seen.headers
        );
        assert_eq!(seen.header("x-user-id").as_deref(), Some("alice"));
    }
}

#[tokio::test]
async fn headers_larger_than_their_budget_are_not_made() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .claim_header("x-claim", "c")
        .issuer(r#"max_headers_size = "1KiB""#)
        .start()
        .await;
    let token = |length: usize| issuer.token("alice").claim("c", "x".repeat(length)).sign();
    assert_eq!(gateway.get("/").bearer(&token(900)).await.status(), 200);
    assert_eq!(
        gateway.get("/").bearer(&token(1100)).await.verdict(),
        "500 claims_unmappable"
    );
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn the_payload_header_holds_the_signed_bytes() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .issuer(r#"payload_header = "x-jwt-payload""#)
        .start()
        .await;
    let token = issuer.token("alice").claim("odd", " \u{1f600}\r\n").sign();
    let [_, payload, _] = tokens::split(&token);
    for forged in ["x-jwt-payload", "X_JWT_Payload", "xjwtpayload"] {
        let answer = gateway.get("/").bearer(&token).header(forged, "e30").await;
        assert_eq!(answer.status(), 200);
        assert_eq!(
            upstream.last().aliases("x-jwt-payload"),
            [format!("x-jwt-payload: {payload}")]
        );
    }
}

#[tokio::test]
async fn each_issuer_fills_its_own_headers_and_clears_the_others() {
    let (first, second, upstream) = (
        Issuer::start().await,
        Issuer::start().await,
        Upstream::start().await,
    );
    let gateway = Setup::new(&first, &upstream)
        .claim_header("x-first", "sub")
        .and_issuer("second", second.url())
        .claim_header("x-second", "sub")
        .start()
        .await;
    for (issuer, own, other) in [
        (&first, "x-first", "x-second"),
        (&second, "x-second", "x-first"),
    ] {
        let token = issuer.token("alice").sign();
        let answer = gateway
            .get("/")
            .bearer(&token)
            .header(other, "forged")
            .header(own, "forged")
            .await;
        assert_eq!(answer.status(), 200);
        let seen = upstream.last();
        assert_eq!(seen.all(own), ["alice"]);
        assert!(seen.aliases(other).is_empty());
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn trailers_cannot_name_an_identity_header() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = setup(&issuer, &upstream).start().await;
    let token = issuer.token("alice").sign();
    let bytes = format!(
        "POST /orders HTTP/1.1\r\nhost: shop\r\nauthorization: Bearer {token}\r\nte: trailers\r\ntrailer: x-user-id\r\n\
         transfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nhello\r\n0\r\nX-User-Id: root\r\nX_Session_Id: s9\r\n\
         Content-Length: 7\r\n\r\n"
    );
    let answer = raw::exchange(gateway.address(), bytes).await;
    assert_eq!(raw::status(&answer), 200, "{answer}");
    let seen = upstream.last();
    assert_eq!(
        (
            &*seen.body,
            seen.trailers.is_none_or(|lines| lines.is_empty())
        ),
        (&b"hello"[..], true)
    );
    assert_eq!(seen.headers.get_all("x-user-id").iter().count(), 1);
}
