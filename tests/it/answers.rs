//! What a client gets that is not let through, in the form that its kind of client understands.

use serde_json::json;

use crate::support::client::{Connection, Request};
use crate::support::raw::{self, Raw};
use crate::support::{Answer, Gateway, Issuer, Reply, Setup, Upstream};

async fn scene(lines: &str) -> (Issuer, Upstream, Gateway) {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .catch_all(lines)
        .start()
        .await;
    (issuer, upstream, gateway)
}

fn challenge(answer: &Answer) -> &str {
    answer.header("www-authenticate").expect("a challenge")
}

#[tokio::test]
async fn a_rejection_is_a_problem_document_with_a_challenge() {
    let (issuer, upstream, gateway) = scene("scopes = [\"a\", \"b\"]").await;
    let good = issuer.token("alice");
    for version in [http::Version::HTTP_11, http::Version::HTTP_2] {
        let get = || gateway.get("/orders").version(version);
        let no_token = get().await;
        assert_eq!(no_token.verdict(), "401 no_token");
        assert!(
            challenge(&no_token).starts_with("Bearer realm=\""),
            "{no_token:?}"
        );
        assert!(
            !challenge(&no_token).contains("error"),
            "RFC 6750 section 3: {no_token:?}"
        );
        for (token, code) in [
            ("x.y.z".to_owned(), "invalid_token"),
            (good.clone().claim("aud", "x").sign(), "invalid_token"),
            (good.clone().issued(1_700_000_000).sign(), "token_expired"),
        ] {
            let answer = get().bearer(&token).await;
            assert_eq!(answer.verdict(), format!("401 {code}"));
            assert!(
                challenge(&answer).starts_with("Bearer realm=\""),
                "{answer:?}"
            );
            assert!(
                challenge(&answer).contains("error=\"invalid_token\""),
                "{answer:?}"
            );
            let problem = answer.json();
            assert_eq!(problem["status"], 401);
            assert_eq!(problem["code"], code);
            assert!(
                problem["type"].is_string() && problem["title"].is_string(),
                "{problem}"
            );
            assert!(
                problem["detail"]
                    .as_str()
                    .is_some_and(|detail| !detail.contains("bearer "))
            );
            assert_eq!(
                problem.as_object().map(serde_json::Map::len),
                Some(5),
                "no more is said: {problem}"
            );
        }
        let lacking = get().bearer(&good.clone().scope("a").sign()).await;
        assert_eq!(lacking.verdict(), "403 insufficient_scope");
        assert!(
            challenge(&lacking).contains("error=\"insufficient_scope\""),
            "{lacking:?}"
        );
        assert!(challenge(&lacking).contains("scope=\"a b\""), "{lacking:?}");
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn an_answer_tells_a_stranger_nothing_about_the_reason() {
    let (issuer, upstream, gateway) = scene("").await;
    let good = issuer.token("alice").claim("secret-claim", "s3cret");
    let mut bodies = vec![];
    for token in [
        good.clone().claim("aud", "x").sign(),
        good.clone().claim("iss", "https://evil.example").sign(),
        good.clone().header("kid", "other").sign(),
        good.clone().header("alg", "HS256").sign(),
        format!("{}AAAA", good.sign()),
        "x".to_owned(),
    ] {
        let answer = gateway.get("/").bearer(&token).await;
        assert_eq!(answer.verdict(), "401 invalid_token");
        let said = format!("{answer:?}");
        for word in [
            "s3cret",
            "evil",
            "orders-api",
            "HS256",
            "other",
            issuer.url(),
        ] {
            assert!(!said.contains(word), "{word}: {said}");
        }
        bodies.push(answer.json());
    }
    assert!(
        bodies.windows(2).all(|two| two[0] == two[1]),
        "all alike: {bodies:?}"
    );
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn rejections_are_not_cached() {
    let (_issuer, upstream, gateway) = scene("").await;
    let answer = gateway.get("/").await;
    assert_eq!(answer.status(), 401);
    let control = answer.header("cache-control").unwrap_or_default();
    assert!(control.contains("no-store"), "{answer:?}");
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_head_request_gets_a_head_only() {
    let (_issuer, upstream, gateway) = scene("").await;
    let mut raw = Raw::connect(gateway.address()).await;
    let request =
        |method: &str, close: &str| format!("{method} / HTTP/1.1\r\nhost: shop\r\n{close}\r\n");
    raw.send(request("HEAD", "")).await;
    let head = raw.read_head().await;
    assert!(
        head.starts_with("HTTP/1.1 401 ") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    raw.send(request("GET", "connection: close\r\n")).await;
    let answer = raw.read_to_end().await;
    assert_eq!(
        raw::status(&answer),
        401,
        "the connection was still in step"
    );
    assert!(answer.ends_with('}'), "{answer}");
    assert_eq!(gateway.request("HEAD", "/").h2().await.body().len(), 0);
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_grpc_caller_gets_a_grpc_status() {
    let (issuer, upstream, gateway) = scene("scopes = [\"a\"]").await;
    let grpc = |content_type: &str| {
        gateway
            .post("/shop.Orders/List")
            .h2()
            .header("content-type", content_type)
            .header("te", "trailers")
    };
    let lacking = issuer.token("alice").sign();
    for content_type in [
        "application/grpc",
        "application/grpc+proto",
        "Application/gRPC; x=y",
    ] {
        for (request, status) in [
            (grpc(content_type), "16"),
            (grpc(content_type).bearer("x.y.z"), "16"),
            (grpc(content_type).bearer(&lacking), "7"),
        ] {
            let answer = request.await;
            assert_eq!(
                (answer.status(), answer.header("grpc-status")),
                (200, Some(status)),
                "{answer:?}"
            );
            assert!(
                answer
                    .header("content-type")
                    .is_some_and(|kind| kind.starts_with("application/grpc"))
            );
            assert!(
                answer.body().is_empty() && answer.trailers().is_none(),
                "trailers only: {answer:?}"
            );
        }
    }
    let near = grpc("application/grpcx").await;
    assert_eq!(near.verdict(), "401 no_token");
    assert_eq!(upstream.count(), 0);
}

const CORS: &str = r#"cors = { origins = ["https://shop.example"], methods = ["GET", "PUT"], headers = ["authorization", "x-trace"], expose = ["x-total"], credentials = true, max_age = "5m" }"#;

#[tokio::test]
async fn a_preflight_is_answered_without_a_token() {
    let (_issuer, upstream, gateway) = scene(CORS).await;
    let preflight = |origin: &str| {
        gateway
            .request("OPTIONS", "/orders")
            .header("origin", origin)
            .header("access-control-request-method", "PUT")
            .header("access-control-request-headers", "authorization,x-trace")
    };
    let answer = preflight("https://shop.example").await;
    assert!(matches!(answer.status(), 200 | 204), "{answer:?}");
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://shop.example")
    );
    assert_eq!(
        answer.header("access-control-allow-credentials"),
        Some("true")
    );
    assert_eq!(answer.header("access-control-max-age"), Some("300"));
    let methods = answer
        .header("access-control-allow-methods")
        .expect("methods")
        .to_owned();
    assert!(
        methods.contains("GET") && methods.contains("PUT"),
        "{methods}"
    );
    let headers = answer
        .header("access-control-allow-headers")
        .expect("headers")
        .to_lowercase();
    assert!(
        headers.contains("authorization") && headers.contains("x-trace"),
        "{headers}"
    );
    assert!(
        answer
            .header("vary")
            .is_some_and(|vary| vary.to_lowercase().contains("origin"))
    );
    for other in [
        "https://evil.example",
        "https://shop.example.evil.example",
        "null",
        "https://SHOP.example",
    ] {
        let answer = preflight(other).await;
        assert_eq!(
            answer.header("access-control-allow-origin"),
            None,
            "{other}: {answer:?}"
        );
    }
    // OPTIONS that is no preflight is a request like any other.
    let plain = gateway
        .request("OPTIONS", "/orders")
        .header("origin", "https://shop.example")
        .await;
    assert_eq!(plain.status(), 401);
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_browser_may_read_errors_and_answers_where_the_route_says_so() {
    let (issuer, upstream, gateway) = scene(CORS).await;
    let get = |origin: &str| gateway.get("/orders").header("origin", origin);
    let refused = get("https://shop.example").await;
    assert_eq!(refused.verdict(), "401 no_token");
    assert_eq!(
        refused.header("access-control-allow-origin"),
        Some("https://shop.example")
    );
    assert_eq!(
        get("https://evil.example")
            .await
            .header("access-control-allow-origin"),
        None
    );
    upstream.reply(
        Reply::body("x")
            .with_header("access-control-allow-origin", "*")
            .with_header("x-total", "7"),
    );
    let passed = get("https://shop.example")
        .bearer(&issuer.token("alice").sign())
        .await;
    assert_eq!(passed.status(), 200);
    assert_eq!(
        passed.header("access-control-allow-origin"),
        Some("https://shop.example"),
        "one answer, ours"
    );
    assert_eq!(
        passed.header("access-control-expose-headers"),
        Some("x-total")
    );
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn without_cors_in_the_file_a_preflight_is_a_request() {
    let (_issuer, upstream, gateway) = scene("").await;
    let answer = gateway
        .request("OPTIONS", "/")
        .header("origin", "https://shop.example")
        .header("access-control-request-method", "GET")
        .await;
    assert_eq!(answer.verdict(), "401 no_token");
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_preflight_reaches_the_service_where_the_route_says_so() {
    let (_issuer, upstream, gateway) =
        scene(r#"cors = { origins = ["https://shop.example"], pass_preflight = true }"#).await;
    let preflight = |method: &str| {
        gateway
            .request("OPTIONS", "/")
            .header("origin", "https://shop.example")
            .header("access-control-request-method", method)
    };
    assert_eq!(
        preflight("GET").header("x-user-id", "root").await.status(),
        200
    );
    let seen = upstream.last();
    assert_eq!(
        (&*seen.method, seen.aliases("x-user-id").len()),
        ("OPTIONS", 0)
    );
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_body_above_the_bound_is_refused() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .listener("max_body_size = \"1KiB\"")
        .start()
        .await;
    let token = issuer.token("alice").sign();
    let post = |body: Vec<u8>| gateway.post("/").bearer(&token).body(body);
    assert_eq!(post(vec![b'x'; 1024]).await.status(), 200);
    assert_eq!(upstream.last().body.len(), 1024);
    for request in [post(vec![b'x'; 1025]), post(vec![b'x'; 1025]).h2()] {
        assert_eq!(request.await.verdict(), "413 body_too_large");
    }
    // Without a length the bound is met on the way.
    let (sender, frames) = tokio::sync::mpsc::channel(4);
    for _ in 0..2 {
        sender
            .send(hyper::body::Frame::data(vec![b'x'; 1000].into()))
            .await
            .unwrap();
    }
    drop(sender);
    let streamed = gateway
        .post("/")
        .bearer(&token)
        .stream(frames)
        .try_send()
        .await;
    assert!(streamed.is_err() || streamed.is_ok_and(|answer| answer.status() == 413));
    assert_eq!(
        upstream
            .seen()
            .iter()
            .filter(|seen| seen.complete && seen.body.len() > 1024)
            .count(),
        0
    );
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .listener("max_headers = 20\nmax_header_size = \"8KiB\"")
        .catch_all("auth = \"public\"")
        .start()
        .await;
    let with =
        |lines: &str| format!("GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n{lines}\r\n");
    let (few, many) = ("x: y\r\n".repeat(10), "x: y\r\n".repeat(40));
    let large = format!("x-large: {}\r\n", "y".repeat(16 * 1024));
    assert_eq!(
        raw::status(&raw::exchange(gateway.address(), with(&few)).await),
        200
    );
    assert_eq!(
        raw::status(&raw::exchange(gateway.address(), with(&many)).await),
        431
    );
    assert_eq!(
        raw::status(&raw::exchange(gateway.address(), with(&large)).await),
        431
    );
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_head_that_never_ends_is_given_up() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .listener("header_timeout = \"1s\"\nidle_timeout = \"1s\"")
        .start()
        .await;
    let mut slow = Raw::connect(gateway.address()).await;
    slow.send("GET / HTTP/1.1\r\nhost: sh").await;
    let answer = slow.read_to_end().await;
    assert!(matches!(raw::status(&answer), 0 | 408), "{answer}");
    let mut silent = Raw::connect(gateway.address()).await;
    assert_eq!(
        silent.read_to_end().await,
        "",
        "a connection without its first byte"
    );
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_body_that_stops_is_given_up() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .listener("body_timeout = \"1s\"")
        .start()
        .await;
    let token = issuer.token("alice").sign();
    let mut raw = Raw::connect(gateway.address()).await;
    raw.send(format!(
        "POST / HTTP/1.1\r\nhost: shop\r\nauthorization: Bearer {token}\r\ncontent-length: 10\r\n\r\nhello"
    ))
    .await;
    let answer = raw.read_to_end().await;
    assert_eq!(raw::status(&answer), 408, "{answer}");
    assert!(answer.contains("request_timeout"), "{answer}");
    assert!(
        !upstream.arrived(1).await.complete,
        "the service never took it for a whole request"
    );
}

#[tokio::test]
async fn what_has_two_framings_is_refused_and_the_connection_closed() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .catch_all("auth = \"public\"")
        .start()
        .await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n";
    let cases = [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        "content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        "content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        "x: y\ncontent-length: 0\r\n\r\n",
        "x: y\n\n",
        "content-length: 5, 6\r\n\r\nhello",
        "content-length: +5\r\n\r\nhello",
        "content-length: -5\r\n\r\nhello",
        "content-length: 0x5\r\n\r\nhello",
        "content-length: 5 5\r\n\r\nhello",
        "content-length:\r\n\r\n",
        "content-length: 99999999999999999999999\r\n\r\nhello",
        "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        "x: y\r\n folded: z\r\n\r\n",
        ": empty\r\n\r\n",
        "x: a\rb\r\n\r\n",
        "x: a\0b\r\n\r\n",
    ];
    for rest in cases {
        let bytes = format!("POST /outer HTTP/1.1\r\nhost: shop\r\n{rest}{smuggled}");
        let answer = raw::exchange(gateway.address(), bytes).await;
        assert!(
            matches!(raw::status(&answer), 0 | 400 | 501),
            "{rest:?}: {answer}"
        );
        assert_eq!(
            answer.matches("HTTP/1.1 ").count().max(1),
            1,
            "{rest:?}: {answer}"
        );
    }
    assert_eq!(upstream.count(), 0);
    for rest in [
        "transfer-encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n5;a=\rb\r\nhello\r\n0\r\n\r\n",
    ] {
        let bytes = format!("POST /outer HTTP/1.1\r\nhost: shop\r\n{rest}{smuggled}");
        let answer = raw::exchange(gateway.address(), bytes).await;
        assert!(!answer.contains("HTTP/1.1 200"), "{rest:?}: {answer}");
    }
    assert!(
        upstream
            .seen()
            .iter()
            .all(|seen| seen.target == "/outer" && !seen.complete)
    );
}

#[tokio::test]
async fn an_early_answer_never_turns_a_body_into_a_request() {
    let (issuer, upstream, gateway) = scene("").await;
    let token = issuer.token("alice").sign();
    let inner =
        format!("GET /smuggled HTTP/1.1\r\nhost: shop\r\nauthorization: Bearer {token}\r\n\r\n");
    for expect in ["", "expect: 100-continue\r\n"] {
        let mut raw = Raw::connect(gateway.address()).await;
        raw.send(format!(
            "POST / HTTP/1.1\r\nhost: shop\r\n{expect}content-length: {}\r\n\r\n",
            inner.len()
        ))
        .await;
        assert_eq!(raw::status(&raw.read_head().await), 401);
        raw.send(&inner).await;
        raw.send("GET /after HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n")
            .await;
        // Either the body was read and the next request is refused, or the connection is closed.
        let rest = raw.read_to_end().await;
        assert!(!rest.contains("HTTP/1.1 200"), "{rest}");
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_refused_request_leaves_the_connection_usable() {
    let (issuer, upstream, gateway) = scene("").await;
    let token = issuer.token("alice").sign();
    for version in [http::Version::HTTP_11, http::Version::HTTP_2] {
        let mut connection = Connection::open(gateway.address(), version).await;
        let get = || gateway.get("/").version(version);
        assert_eq!(connection.send(get()).await.verdict(), "401 no_token");
        assert_eq!(
            connection.send(get().bearer("x")).await.verdict(),
            "401 invalid_token"
        );
        assert_eq!(connection.send(get().bearer(&token)).await.status(), 200);
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn the_admin_listener_says_live_ready_and_metrics_without_a_credential() {
    let (_issuer, _upstream, gateway) = scene("").await;
    let admin = gateway.admin();
    for path in ["/live", "/ready", "/metrics"] {
        assert_eq!(admin.stranger("GET", path).await.status(), 200, "{path}");
    }
    let rule = json!({"iss": "https://id.example.com", "sid": "s1"});
    let strangers: [Request; 4] = [
        admin.stranger("POST", "/v1/revocations").json(&rule),
        admin.stranger("GET", "/v1/revocations"),
        admin
            .stranger("POST", "/v1/revocations")
            .json(&rule)
            .bearer("guess"),
        admin
            .stranger("GET", "/v1/revocations")
            .header("authorization", "Basic YTpi"),
    ];
    for request in strangers {
        assert_eq!(request.await.status(), 401);
    }
    assert_eq!(admin.request("GET", "/nothing").await.status(), 404);
}

#[tokio::test]
async fn the_status_is_what_the_description_says() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream).start().await;
    let get = async |path: &str| gateway.admin().request("GET", path).await.json();
    let (status, description) = (get("/v1/status").await, get("/v1/openapi.json").await);
    let described = &description["components"]["schemas"]["Status"]["properties"];
    let names = |value: &serde_json::Value| -> Vec<String> {
        value
            .as_object()
            .expect("members")
            .keys()
            .cloned()
            .collect()
    };
    let mut described_alone = names(described);
    // There is none.
    described_alone.retain(|name| name != "fleet");
    assert_eq!(names(&status), described_alone);
    let issuer = &described["issuers"]["items"]["properties"];
    assert_eq!(names(&status["issuers"][0]), names(issuer));
    let cache = &described["token_cache"]["properties"];
    assert_eq!(names(&status["token_cache"]), names(cache));
    let server = json!({"server": upstream.url(), "address": null, "state": "available"});
    let upstreams = json!([{"name": upstream.url(), "servers": [server]}]);
    assert_eq!(status["upstreams"], upstreams);
}
