//! HTTP/2 from the client, byte by byte, and what of it reaches a service that speaks HTTP/1.1, byte by byte.

use crate::support::h2::{
    DATA, END_HEADERS, END_STREAM, Frame, H2, HEADERS, Outcome, PROTOCOL_ERROR, block, field,
    frame, head, indexed, request,
};
use crate::support::wire::Wire;
use crate::support::{Gateway, Issuer, Setup};

struct Scene {
    _issuer: Issuer,
    wire: Wire,
    gateway: Gateway,
}

/// A route for everybody, and an identity header that nobody may send.
async fn scene_with(change: impl FnOnce(Setup) -> Setup) -> Scene {
    let (issuer, wire) = (Issuer::start().await, Wire::start().await);
    let setup = Setup::at(issuer.url(), &wire.url()).catch_all("auth = \"public\"");
    Scene {
        gateway: change(setup).start().await,
        _issuer: issuer,
        wire,
    }
}

async fn scene() -> Scene {
    scene_with(|setup| setup).await
}

impl Scene {
    async fn connect(&self) -> H2 {
        H2::connect(self.gateway.address()).await
    }

    /// These bytes open stream 1 on a connection of its own; then another client asks, and is served. What came to the
    /// service must have come from the other one alone.
    #[track_caller]
    fn refused(&self, what: &str, bytes: Vec<u8>) -> impl Future<Output = Outcome> {
        let place = std::panic::Location::caller();
        let what = what.to_owned();
        async move {
            let mut h2 = self.connect().await;
            let outcome = h2.ask(1, bytes).await;
            let mut other = self.connect().await;
            let served = other.ask(1, request(1, "GET", "/other", &[])).await;
            assert_eq!(served.verdict(), "200", "{place}: {what}");
            let came = self.wire.text();
            assert!(
                came.starts_with("GET /other HTTP/1.1\r\n"),
                "{place}: {what}: {outcome:?}: {came}"
            );
            assert_eq!(self.wire.whole(), 1, "{place}: {what}: {came}");
            self.wire.forget();
            outcome
        }
    }
}

fn whole(fields: Vec<u8>) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, 1, fields)
}

/// HEADERS of a POST with these lines, then DATA in these pieces.
fn post(lines: &[(&str, &str)], pieces: &[&str]) -> Vec<u8> {
    let mut bytes = frame(HEADERS, END_HEADERS, 1, head("POST", "/", lines));
    for (at, piece) in pieces.iter().enumerate() {
        let flags = if at + 1 == pieces.len() {
            END_STREAM
        } else {
            0
        };
        bytes.extend(frame(DATA, flags, 1, piece));
    }
    bytes
}

#[tokio::test]
async fn an_ordinary_request_becomes_http1() {
    let scene = scene().await;
    let mut h2 = scene.connect().await;
    let outcome = h2
        .ask(1, request(1, "GET", "/orders?a=b", &[("x", "y")]))
        .await;
    assert_eq!(outcome.verdict(), "200");
    let came = scene.wire.text();
    assert!(
        came.starts_with("GET /orders?a=b HTTP/1.1\r\n") && came.contains("\r\nhost: shop\r\n"),
        "{came}"
    );
    scene.wire.forget();
    let outcome = h2
        .ask(
            3,
            [
                frame(
                    HEADERS,
                    END_HEADERS,
                    3,
                    head("POST", "/", &[("content-length", "5")]),
                ),
                frame(DATA, 0, 3, "he"),
                frame(DATA, END_STREAM, 3, "llo"),
            ]
            .concat(),
        )
        .await;
    assert_eq!(outcome.verdict(), "200");
    let came = scene.wire.text();
    assert!(came.contains("\r\ncontent-length: 5\r\n"), "{came}");
    assert!(came.ends_with("\r\n\r\nhello"), "{came}");
}

#[tokio::test]
async fn a_length_that_is_no_length_reaches_nobody() {
    let scene = scene().await;
    for lengths in [
        &["4", "5"][..],
        &["5", "4"],
        &["5", "5"],
        &["+5"],
        &["-5"],
        &[""],
        &["5, 5"],
        &["5,5"],
        &["0x5"],
        &["5 "],
        &[" 5"],
        &["5.0"],
        &["99999999999999999999999"],
    ] {
        let lines: Vec<(&str, &str)> = lengths
            .iter()
            .map(|length| ("content-length", *length))
            .collect();
        let what = format!("{lengths:?}");
        let outcome = scene.refused(&what, post(&lines, &["hello"])).await;
        assert!(
            matches!(outcome, Outcome::Reset(PROTOCOL_ERROR))
                || outcome.verdict() == "400 bad_request",
            "{what}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn a_length_that_differs_from_the_data_is_never_a_whole_request() {
    let scene = scene().await;
    for (length, pieces) in [
        ("0", &["hello"][..]),
        ("4", &["hello"]),
        ("4", &["hell", "o"]),
        ("6", &["hello"]),
        ("6", &["hell", "o"]),
        ("6", &["hello", ""]),
        ("600", &[""]),
    ] {
        let what = format!("{length}: {pieces:?}");
        // At once, and with the head at the service before the data comes.
        let bytes = post(&[("content-length", length)], pieces);
        let head_bytes = post(&[("content-length", length)], &[]);
        for is_early in [false, true] {
            let mut h2 = scene.connect().await;
            if is_early && length != "0" {
                h2.send(&head_bytes).await;
                scene.wire.came("\r\n\r\n").await;
                h2.send(&bytes[head_bytes.len()..]).await;
            } else {
                h2.send(&bytes).await;
            }
            assert_eq!(
                h2.outcome(1).await,
                Outcome::Reset(PROTOCOL_ERROR),
                "{what}"
            );
            let served = h2.ask(3, request(3, "GET", "/other", &[])).await;
            assert_eq!(served.verdict(), "200", "{what}");
            let came = scene.wire.text();
            // Where as many bytes came as were announced, and then more: the service may have had the announced ones.
            let is_cut = length == pieces[0].len().to_string() && pieces.len() > 1;
            let whole = scene.wire.whole();
            assert!(
                whole == 1 || (is_cut && whole == 2 && !came.contains("hello")),
                "GET /other alone: {what}: {came}"
            );
            scene.wire.forget();
        }
    }
    // A length, and no body at all.
    let bytes = request(1, "POST", "/", &[("content-length", "5")]);
    let outcome = scene.refused("no body", bytes).await;
    assert_eq!(outcome, Outcome::Reset(PROTOCOL_ERROR));
}

#[tokio::test]
async fn what_is_for_one_connection_reaches_nobody() {
    let scene = scene().await;
    for (name, value) in [
        ("connection", "close"),
        ("connection", "x-user-id"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("upgrade", "websocket"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("te", "trailers, chunked"),
        ("te", "chunked"),
        ("te", ""),
    ] {
        let what = format!("{name}: {value}");
        let outcome = scene
            .refused(&what, request(1, "GET", "/", &[(name, value)]))
            .await;
        assert_eq!(outcome, Outcome::Reset(PROTOCOL_ERROR), "{what}");
        let body = post(
            &[(name, value)],
            &["0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"],
        );
        let outcome = scene.refused(&what, body).await;
        assert_eq!(outcome, Outcome::Reset(PROTOCOL_ERROR), "{what}");
    }
    let mut h2 = scene.connect().await;
    let outcome = h2
        .ask(1, request(1, "GET", "/", &[("te", "trailers")]))
        .await;
    assert_eq!(outcome.verdict(), "200");
    assert!(scene.wire.text().contains("\r\nte: trailers\r\n"));
}

#[tokio::test]
async fn names_and_values_cannot_split_a_head() {
    let scene = scene().await;
    for name in [
        "X-Upper",
        "x y",
        " x",
        "x ",
        "x:y",
        "x\r\ny",
        "x\n",
        "x\0",
        "x\ty",
        "",
        "x\u{e9}",
        "x\x7f",
        "x(y)",
        "transfer-encoding: chunked\r\nx",
    ] {
        let fields = [head("GET", "/", &[]), field(name, "1")].concat();
        let outcome = scene.refused(&format!("{name:?}"), whole(fields)).await;
        assert!(
            matches!(outcome.verdict().as_str(), "closed" | "reset"),
            "{name:?}: {outcome:?}"
        );
    }
    for value in [
        "a\r\nx-user-id: admin",
        "a\nx-user-id: admin",
        "a\rb",
        "a\0b",
        "\r",
        "a\x7f",
        "a\x01",
        " a",
        "a ",
        "\ta",
        "a\t",
        " ",
    ] {
        let fields = [head("GET", "/", &[]), field("x", value)].concat();
        let outcome = scene.refused(&format!("{value:?}"), whole(fields)).await;
        assert!(
            matches!(outcome.verdict().as_str(), "closed" | "400 bad_request"),
            "{value:?}: {outcome:?}"
        );
    }
}

/// The pseudo-headers of a good request, with one changed, or dropped if there is no new value.
fn with(name: &str, value: Option<&str>) -> Vec<u8> {
    let good = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "shop"),
        (":path", "/"),
    ];
    block(good.into_iter().filter_map(|(held, good)| {
        if held == name {
            value.map(|value| (held, value))
        } else {
            Some((held, good))
        }
    }))
}

#[tokio::test]
async fn pseudo_headers_have_one_reading() {
    let scene = scene().await;
    let cases = [
        (
            ":method",
            &[
                "",
                "G T",
                "GET ",
                " GET",
                "GET\r\n",
                "GET / HTTP/1.1\r\nx: y\r\n\r\n",
                "G\0T",
            ][..],
        ),
        (
            ":scheme",
            &[
                "",
                "ht tp",
                "http:",
                "http://evil",
                "1http",
                "ftp",
                "javascript",
                "http\r\n",
                "ht\0tp",
            ],
        ),
        (
            ":authority",
            &[
                "",
                "shop evil",
                " shop",
                "shop\r\nx: y",
                "shop\0",
                "user@shop",
                "user:pass@shop",
                "shop/evil",
                "shop?evil",
                "shop#evil",
                "shop\\evil",
                "shop:port",
                "shop:99999",
                "shop,evil",
                "[::1",
            ],
        ),
        (
            ":path",
            &[
                "",
                "orders",
                "*",
                "http://evil/",
                "//evil\\",
                "/a b",
                "/a\r\nx: y",
                "/ HTTP/1.1\r\nx: y\r\n\r\nGET /smuggled",
                "/a\0",
                "/a\x7f",
                "/a\\b",
                "/a/../b/%2e%2e/%2f",
                "/%00",
                " /a",
                "?a",
                "/a\tb",
            ],
        ),
    ];
    for (name, values) in cases {
        for value in values {
            let what = format!("{name}: {value:?}");
            let outcome = scene.refused(&what, whole(with(name, Some(value)))).await;
            assert!(matches!(outcome.status(), 0 | 400), "{what}: {outcome:?}");
        }
    }
}

#[tokio::test]
async fn pseudo_headers_stand_once_and_first() {
    let scene = scene().await;
    for name in [":method", ":scheme", ":authority", ":path"] {
        let outcome = scene.refused(name, whole(with(name, None))).await;
        assert!(
            matches!(outcome.status(), 0 | 400),
            "no {name}: {outcome:?}"
        );
    }
    let twice = [with("", None), with("", None)].concat();
    let outcome = scene.refused("all twice", whole(twice)).await;
    assert_eq!(outcome, Outcome::Reset(PROTOCOL_ERROR));
    let one_more = [
        (":path", "/evil"),
        (":method", "POST"),
        (":authority", "shop"),
        (":scheme", "https"),
        (":status", "200"),
        (":protocol", "websocket"),
        (":unknown", "x"),
        (":", "x"),
        (":Path", "/"),
    ];
    for (name, value) in one_more {
        // Before, and after a header.
        for middle in [vec![], field("x", "y")] {
            let fields = [with("", None), middle, field(name, value)].concat();
            let outcome = scene.refused(name, whole(fields)).await;
            assert_eq!(outcome.status(), 0, "{name}: {outcome:?}");
        }
    }
    let late = [field("x", "y"), with("", None)].concat();
    let outcome = scene.refused("late", whole(late)).await;
    assert_eq!(outcome, Outcome::Reset(PROTOCOL_ERROR));
}

#[tokio::test]
async fn there_is_one_host() {
    let scene = scene().await;
    for hosts in [
        &["evil"][..],
        &["shop", "shop"],
        &["shop", "evil"],
        &["SHOP"],
        &[""],
        &["shop:80"],
    ] {
        let lines: Vec<(&str, &str)> = hosts.iter().map(|host| ("host", *host)).collect();
        let outcome = scene
            .refused(&format!("{hosts:?}"), request(1, "GET", "/", &lines))
            .await;
        assert_eq!(outcome.verdict(), "400 host_invalid", "{hosts:?}");
    }
    // Without :authority the Host counts (RFC 9113 section 8.3.1).
    for (host, status) in [("shop", 200), ("sh op", 400), ("user@shop", 400)] {
        let fields = [with(":authority", None), field("host", host)].concat();
        let mut h2 = scene.connect().await;
        assert_eq!(h2.ask(1, whole(fields)).await.status(), status, "{host}");
    }
    let same = request(1, "GET", "/", &[("host", "shop")]);
    assert_eq!(scene.connect().await.ask(1, same).await.status(), 200);
    let came = scene.wire.text();
    assert_eq!(scene.wire.whole(), 2, "{came}");
    assert_eq!(came.matches("\r\nhost: shop\r\n").count(), 2, "{came}");
}

#[tokio::test]
async fn a_scheme_of_the_client_is_not_passed_on() {
    let scene = scene().await;
    // A proxy before us may have ended TLS; that it did is its word to say, in another header.
    for scheme in ["https", "HTTP"] {
        let mut h2 = scene.connect().await;
        let outcome = h2.ask(1, whole(with(":scheme", Some(scheme)))).await;
        assert_eq!(outcome.verdict(), "200", "{scheme}");
        let came = scene.wire.text();
        assert!(came.starts_with("GET / HTTP/1.1\r\n"), "{came}");
        assert!(came.contains("\r\nx-forwarded-proto: http\r\n"), "{came}");
        assert!(!came.contains("https"), "{came}");
        scene.wire.forget();
    }
}

#[tokio::test]
async fn nobody_names_himself() {
    let scene = scene().await;
    let names = [
        "x-user-id",
        "x_user_id",
        "x.user.id",
        "x!user!id",
        "xuserid",
        "x-user_id",
        "x--user--id",
        "x~user~id",
    ];
    let lines: Vec<(&str, &str)> = names
        .iter()
        .flat_map(|name| [(*name, "forged"), (*name, "forged")])
        .collect();
    let mut h2 = scene.connect().await;
    let outcome = h2.ask(1, request(1, "GET", "/", &lines)).await;
    assert_eq!(outcome.verdict(), "200");
    let trailers = block(lines.iter().copied());
    for content_type in ["text/plain", "application/grpc"] {
        let stream = if content_type == "text/plain" { 3 } else { 5 };
        let lines = [("content-type", content_type), ("te", "trailers")];
        let bytes = [
            frame(HEADERS, END_HEADERS, stream, head("POST", "/", &lines)),
            frame(DATA, 0, stream, "hello"),
            frame(HEADERS, END_STREAM | END_HEADERS, stream, &trailers),
        ];
        let outcome = h2.ask(stream, bytes.concat()).await;
        assert_eq!(outcome.status(), 200, "{content_type}: {outcome:?}");
    }
    let came = scene.wire.text();
    assert_eq!(scene.wire.whole(), 3, "{came}");
    assert!(!came.contains("forged"), "{came}");
}

#[tokio::test]
async fn trailers_are_no_second_head() {
    let scene = scene().await;
    let body = |trailers: Vec<u8>, flags| {
        [
            frame(HEADERS, END_HEADERS, 1, head("POST", "/", &[])),
            frame(DATA, 0, 1, "hello"),
            frame(HEADERS, flags | END_HEADERS, 1, trailers),
        ]
        .concat()
    };
    let mut h2 = scene.connect().await;
    let pseudo = block([(":path", "/evil"), (":method", "DELETE"), ("x", "evil")]);
    // `h2` drops pseudo-headers here, and nothing of a trailer but gRPC's reaches a service.
    let outcome = h2.ask(1, body(pseudo, END_STREAM)).await;
    assert!(matches!(outcome.status(), 0 | 200), "{outcome:?}");
    // Trailers that do not end the stream.
    let mut h2 = scene.connect().await;
    let outcome = h2.ask(1, body(block([("x", "evil")]), 0)).await;
    assert_eq!(outcome, Outcome::Reset(PROTOCOL_ERROR));
    let mut h2 = scene.connect().await;
    let outcome = h2
        .ask(1, body(block([("transfer-encoding", "evil")]), END_STREAM))
        .await;
    assert_eq!(outcome, Outcome::Reset(PROTOCOL_ERROR));
    let served = h2.ask(3, request(3, "GET", "/other", &[])).await;
    assert_eq!(served.verdict(), "200");
    let came = scene.wire.text();
    assert!(!came.contains("evil"), "{came}");
    assert!(scene.wire.whole() <= 2, "{came}");
}

#[tokio::test]
async fn nobody_connects_through_the_gateway() {
    let scene = scene().await;
    let connect = block([(":method", "CONNECT"), (":authority", "evil:22")]);
    let outcome = scene.refused("CONNECT", whole(connect.clone())).await;
    assert_eq!(outcome.verdict(), "405 method_not_allowed");
    // It would be a tunnel's first bytes.
    let open = [
        frame(HEADERS, END_HEADERS, 1, &connect),
        frame(DATA, 0, 1, "SSH-2.0\r\n"),
    ];
    let outcome = scene.refused("CONNECT with bytes", open.concat()).await;
    assert_eq!(outcome.verdict(), "405 method_not_allowed");
    let extended = block([
        (":method", "CONNECT"),
        (":scheme", "http"),
        (":authority", "shop"),
        (":path", "/chat"),
        (":protocol", "websocket"),
    ]);
    let outcome = scene.refused("extended CONNECT", whole(extended)).await;
    assert_eq!(outcome, Outcome::Reset(PROTOCOL_ERROR));
    let trace = request(1, "TRACE", "/", &[]);
    let outcome = scene.refused("TRACE", trace).await;
    assert_eq!(outcome.verdict(), "405 method_not_allowed");
}

#[tokio::test]
async fn an_answer_to_head_has_no_body() {
    let scene = scene().await;
    let mut h2 = scene.connect().await;
    h2.send(request(1, "HEAD", "/", &[])).await;
    let mut came: Vec<Frame> = vec![];
    while let Some(frame) = h2.next().await {
        let ends = frame.stream == 1 && frame.flags & END_STREAM != 0;
        came.push(frame);
        if ends {
            break;
        }
    }
    let bytes: usize = came
        .iter()
        .filter(|frame| frame.kind == DATA)
        .map(|frame| frame.payload.len())
        .sum();
    assert_eq!(bytes, 0, "{came:?}");
    assert!(scene.wire.text().starts_with("HEAD / HTTP/1.1\r\n"));
}

#[tokio::test]
async fn cookie_crumbs_become_one_line() {
    let scene = scene().await;
    let crumbs = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3; d=4")];
    let outcome = scene
        .connect()
        .await
        .ask(1, request(1, "GET", "/", &crumbs))
        .await;
    assert_eq!(outcome.verdict(), "200");
    let came = scene.wire.text();
    assert!(
        came.contains("\r\ncookie: a=1; b=2; c=3; d=4\r\n"),
        "{came}"
    );
    assert_eq!(came.matches("cookie").count(), 1, "{came}");
}

#[tokio::test]
async fn heads_that_are_too_large_are_431_and_the_connection_lives() {
    let scene =
        scene_with(|setup| setup.listener("max_headers = 20\nmax_header_size = \"8KiB\"")).await;
    let mut h2 = scene.connect().await;
    let value = "y".repeat(9000);
    let large = request(1, "GET", "/", &[("x", &value)]);
    assert_eq!(h2.ask(1, large).await.status(), 431);
    let many = vec![("x", "y"); 21];
    let outcome = h2.ask(3, request(3, "GET", "/", &many)).await;
    assert_eq!(outcome.verdict(), "431 head_too_large");
    let served = h2.ask(5, request(5, "GET", "/other", &many[1..])).await;
    assert_eq!(served.verdict(), "200");
    assert_eq!(scene.wire.whole(), 1, "{}", scene.wire.text());
}

#[tokio::test]
async fn streams_do_not_mix() {
    let scene = scene().await;
    let mut h2 = scene.connect().await;
    let more = head("GET", "/", &[]);
    for (what, bytes) in [
        (
            "an even stream",
            frame(HEADERS, END_STREAM | END_HEADERS, 2, &more),
        ),
        (
            "stream 0",
            frame(HEADERS, END_STREAM | END_HEADERS, 0, &more),
        ),
        ("an index of no table", whole(indexed(200))),
        ("DATA of no stream", frame(DATA, END_STREAM, 1, "x")),
        (
            "a frame between HEADERS and CONTINUATION",
            [
                frame(HEADERS, END_STREAM, 1, &more),
                frame(DATA, END_STREAM, 1, "x"),
            ]
            .concat(),
        ),
        (
            "a frame that is too large",
            frame(DATA, 0, 1, vec![0; 16 * 1024 + 1]),
        ),
        (
            "a header that is cut",
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &more[..9]),
        ),
    ] {
        let outcome = scene.refused(what, bytes).await;
        assert!(
            matches!(outcome, Outcome::GoneAway(_) | Outcome::Closed),
            "{what}: {outcome:?}"
        );
    }
    let served = h2.ask(1, request(1, "GET", "/other", &[])).await;
    assert_eq!(served.verdict(), "200");
    assert_eq!(scene.wire.whole(), 1);
}
