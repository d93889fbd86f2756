//! Where a request over HTTP/1 begins and ends has one reading. What two parsers could read differently is refused with 400,
//! the connection is closed, and no byte of it reaches the service.

use crate::support::raw::{self, Raw};
use crate::support::{Gateway, Issuer, Reply, Setup, Upstream};

struct Scene {
    issuer: Issuer,
    upstream: Upstream,
    gateway: Gateway,
}

/// Everything is open to everybody but what is below `/orders`, so that nothing is refused for another reason.
async fn scene() -> Scene {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .catch_all("auth = \"public\"")
        .route("path = \"/orders\"")
        .start()
        .await;
    Scene {
        issuer,
        upstream,
        gateway,
    }
}

const HEAD: &str = "POST /outer HTTP/1.1\r\nhost: shop\r\n";
const CHUNKED: &str = "transfer-encoding: chunked\r\n\r\n";
/// What an attacker hides behind another request. It asks for the connection's end, so that every scenario has one.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n";
const GOOD: &str = "GET /good HTTP/1.1\r\nhost: shop\r\n\r\n";

impl Scene {
    async fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        raw::exchange(self.gateway.address(), bytes).await
    }

    /// These bytes are no request, alone and after a good one: 400, the end of the connection, and nothing at the service.
    async fn refuses(&self, bytes: impl AsRef<[u8]>) {
        let bytes = [bytes.as_ref(), SMUGGLED.as_bytes()].concat();
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        self.upstream.forget();
        let answer = self.exchange(&bytes).await;
        assert_eq!(raw::status(&answer), 400, "{shown:?}: {answer}");
        assert_eq!(count_answers(&answer), 1, "{shown:?}: {answer}");
        assert_eq!(self.upstream.wire(), "", "{shown:?}");
        let answer = self.exchange([GOOD.as_bytes(), &bytes].concat()).await;
        assert_eq!(statuses(&answer), [200, 400], "{shown:?}: {answer}");
        self.only_the_good_one(&shown);
    }

    fn only_the_good_one(&self, shown: &str) {
        let wire = self.upstream.wire();
        assert!(wire.starts_with("GET /good HTTP/1.1\r\n"), "{wire}");
        assert_eq!(
            wire.matches(" HTTP/1.1\r\n").count(),
            1,
            "{shown:?}: {wire}"
        );
        assert_eq!(self.upstream.count(), 1, "{shown:?}");
    }
}

fn count_answers(answer: &str) -> usize {
    answer.matches("HTTP/1.1 ").count()
}

/// The status of every answer.
fn statuses(answers: &str) -> Vec<u16> {
    answers
        .match_indices("HTTP/1.1 ")
        .map(|(at, _)| raw::status(&answers[at..]))
        .collect()
}

#[tokio::test]
async fn a_head_with_two_lengths_is_refused() {
    let scene = scene().await;
    for lines in [
        "content-length: 5\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 5",
        "content-length: 0\r\ntransfer-encoding: chunked",
        "content-length: 5\r\ncontent-length: 5",
        "content-length: 5\r\nContent-Length: 6",
        "content-length: 0\r\nx: y\r\ncontent-length: 5",
        "content-length: 5, 5",
        "content-length: 5,6",
        "content-length: +5",
        "content-length: -5",
        "content-length: -0",
        "content-length: 0x5",
        "content-length: 5.0",
        "content-length: 5e0",
        "content-length: 5;x",
        "content-length: \"5\"",
        "content-length: 5 5",
        "content-length: \u{b2}",
        "content-length:",
        "content-length: ,5",
        "content-length: 9999999999999999999",
        "content-length: 99999999999999999999999999",
        "content-length: 18446744073709551621",
        "content-length : 5",
        "content-length\t: 5",
        " content-length: 5",
        "content-length: 5\x0b",
        "content-length: \x0c5",
        "content-length: 5\r\n 6",
        "x: y\r\n\tcontent-length: 5",
    ] {
        scene.refuses(format!("{HEAD}{lines}\r\n\r\nhello")).await;
    }
}

#[tokio::test]
async fn a_transfer_coding_is_chunked_or_refused() {
    let scene = scene().await;
    for lines in [
        "transfer-encoding: chunked, chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "transfer-encoding: identity\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity",
        "transfer-encoding: xchunked",
        "transfer-encoding: chunkedx",
        "transfer-encoding: chunke",
        "transfer-encoding: chunked;q=1",
        "transfer-encoding: \"chunked\"",
        "transfer-encoding: 'chunked'",
        "transfer-encoding: chunked,",
        "transfer-encoding: ,chunked",
        "transfer-encoding: identity",
        "transfer-encoding: identity, chunked",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: gzip",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: chunked gzip",
        "transfer-encoding:",
        "transfer-encoding: \x0bchunked",
        "transfer-encoding: chunked\x0b",
        "transfer-encoding: chunked\x0c",
        "transfer-encoding: \u{a0}chunked",
        "transfer-encoding: chun\u{212a}ed",
        "transfer-encoding : chunked",
        "transfer-encoding\t: chunked",
        "transfer\0-encoding: chunked",
        " transfer-encoding: chunked",
        "transfer-encoding:\r\n chunked",
        "transfer-encoding: chunked\r\n\tidentity",
        "x: y\r\n transfer-encoding: chunked",
        "transfer-encoding: chunked\ncontent-length: 0",
        "x: y\ntransfer-encoding: chunked",
        "x: y\rtransfer-encoding: chunked",
    ] {
        scene
            .refuses(format!("{HEAD}{lines}\r\n\r\n0\r\n\r\n"))
            .await;
    }
    let one_dot_zero = HEAD.replace("1.1", "1.0");
    let bytes = format!("{one_dot_zero}{CHUNKED}0\r\n\r\n{SMUGGLED}");
    scene.upstream.forget();
    let answer = scene.exchange(bytes).await;
    assert_eq!(raw::status(&answer), 400, "{answer}");
    assert_eq!(scene.upstream.wire(), "");
}

#[tokio::test]
async fn a_line_has_one_end_and_a_header_one_form() {
    let scene = scene().await;
    for lines in [
        "x: y\n",
        "x: y\n\n",
        "\n",
        "x: y\r\n\n",
        "x: a\rb\r\n",
        "x: a\r\r\n",
        "\rx: y\r\n",
        "x: a\0b\r\n",
        "x\0: b\r\n",
        "x: y\r\n folded\r\n",
        "x: y\r\n\tfolded\r\n",
        "x: y\r\n \r\n",
        " x: y\r\n",
        "\tx: y\r\n",
        "x : y\r\n",
        "x\t: y\r\n",
        "x y: z\r\n",
        ": y\r\n",
        " : y\r\n",
        "no colon\r\n",
        "x\u{e9}: y\r\n",
        "(x): y\r\n",
        "x;y: z\r\n",
        "x\x0b: y\r\n",
        "x: a\x0bb\r\n",
        "x: a\x7fb\r\n",
        "x: a\x1bb\r\n",
    ] {
        scene.refuses(format!("{HEAD}{lines}\r\n")).await;
    }
    scene
        .refuses([HEAD.as_bytes(), b"x\xff: y\r\n\r\n"].concat())
        .await;
}

#[tokio::test]
async fn a_request_line_has_one_form() {
    let scene = scene().await;
    for line in [
        " GET / HTTP/1.1",
        "\tGET / HTTP/1.1",
        "\r\n GET / HTTP/1.1",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / HTTP/1.1\t",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        "GET\x0b/ HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /a\tb HTTP/1.1",
        "GET /a\0b HTTP/1.1",
        "GET /a\rb HTTP/1.1",
        "GET /\rHTTP/1.1",
        "GET / HTTP/1.1\r",
        "\rGET / HTTP/1.1",
        "GET / http/1.1",
        "GET / Http/1.1",
        "GET / HTTP/1.2",
        "GET / HTTP/1.10",
        "GET / HTTP/01.1",
        "GET / HTTP/1",
        "GET / HTTP/1.",
        "GET / HTTP/1,1",
        "GET / HTTP/ 1.1",
        "GET / HTTP/0.9",
        "GET / HTTP/2",
        "GET / HTTP/2.0",
        "GET / HTTP/3.0",
        "GET / HTTPS/1.1",
        "GET / HTTP/1.1x",
        "GET / ICY",
        "GET /",
        "GET",
        "GET / ",
        "GET HTTP/1.1",
        "/ HTTP/1.1",
        "G(T / HTTP/1.1",
        "G\u{c9}T / HTTP/1.1",
        "GET:/ HTTP/1.1",
        "HTTP/1.1 200 OK",
        "{\"method\":\"GET\"}",
        "\x16\x03\x01\x02\0\x01",
    ] {
        scene.refuses(format!("{line}\r\nhost: shop\r\n\r\n")).await;
    }
    for bytes in [
        "GET / HTTP/1.1\nhost: shop\r\n\r\n",
        "GET /\n",
        "\nGET / HTTP/1.1\r\nhost: shop\r\n\r\n",
    ] {
        scene.refuses(bytes).await;
    }
}

#[tokio::test]
async fn a_chunked_body_has_one_form_or_is_never_whole() {
    let scene = scene().await;
    for chunks in [
        "\r\n",
        " \r\n",
        "g\r\n",
        "-5\r\nhello\r\n",
        "+5\r\nhello\r\n",
        "0x5\r\nhello\r\n",
        "5h\r\nhello\r\n",
        " 5\r\nhello\r\n",
        "\t5\r\nhello\r\n",
        "5 \r\nhello\r\n",
        "5\t\r\nhello\r\n",
        "5 5\r\nhello\r\n",
        "5,5\r\nhello\r\n",
        "5.0\r\nhello\r\n",
        "\"5\"\r\nhello\r\n",
        "5\nhello\r\n",
        "5\rhello\r\n",
        "5\r\r\nhello\r\n",
        "5;x\nhello\r\n",
        "5;a=\rb\r\nhello\r\n",
        "5;a=\nb\r\nhello\r\n",
        "5;a=\0\r\nhello\r\n",
        "5;a=\u{e9}\r\nhello\r\n",
        "5:x\r\nhello\r\n",
        "0000000000000005\r\nhello\r\n",
        "fffffffffffffffff\r\nhello\r\n",
        "8000000000000000\r\nhello\r\n",
        "10000000000000005\r\nhello\r\n",
        "5\r\nhello",
        "5\r\nhello\n",
        "5\r\nhelloX\r\n",
        "5\r\nhello\r",
        "5\r\nhell\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
        "5\r\nhello\r\n0\r\nx: y\n\r\n",
        "5\r\nhello\r\n0\r\n folded\r\n",
        "5\r\nhello\r\n0\r\nx: a\rb\r\n",
        "5\r\nhello\r\n-0\r\n",
    ] {
        scene.upstream.forget();
        let bytes = format!("{HEAD}{CHUNKED}{chunks}0\r\n\r\n{SMUGGLED}");
        let answer = scene.exchange(bytes).await;
        assert!(
            matches!(statuses(&answer)[..], [400] | []),
            "{chunks:?}: {answer}"
        );
        // The head and good chunks had been passed on by then: the service waits for an end that never comes.
        assert!(
            scene.upstream.seen().iter().all(|seen| !seen.complete),
            "{chunks:?}"
        );
        let wire = scene.upstream.wire();
        assert!(
            !wire.contains("\r\n0\r\n") && !wire.contains("smuggled"),
            "{chunks:?}: {wire}"
        );
    }
}

#[tokio::test]
async fn lenient_but_clear_framing_passes_in_our_own_words() {
    let scene = scene().await;
    let chunked = |chunks: &str| format!("{CHUNKED}{chunks}0\r\n\r\n");
    for (rest, body) in [
        ("content-length:\t5 \r\n\r\nhello".to_owned(), "hello"),
        ("content-length: 05\r\n\r\nhello".to_owned(), "hello"),
        ("content-length: 0\r\n\r\n".to_owned(), ""),
        ("\r\n".to_owned(), ""),
        ("Transfer-Encoding:  Chunked \r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_owned(), "hello"),
        (chunked("005\r\nhello\r\n"), "hello"),
        (chunked("A\r\n0123456789\r\n"), "0123456789"),
        (chunked("5;odd=\"0\\\r\nhello\r\n"), "hello"),
        (chunked("5 ; odd\r\nhello\r\n"), "hello"),
        (chunked("5\r\na\nb\0c\r\n"), "a\nb\0c"),
        (chunked("3\r\n0\r\n\r\n2\r\nab\r\n"), "0\r\nab"),
        ("connection: content-length\r\ncontent-length: 5\r\n\r\nhello".to_owned(), "hello"),
        ("connection: transfer-encoding\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_owned(), "hello"),
        ("Transfer_Encoding: chunked\r\nContent_Length: 9\r\ncontent-length: 5\r\n\r\nhello".to_owned(), "hello"),
    ] {
        scene.upstream.forget();
        let bytes = format!("\r\n\r\n{HEAD}{rest}GET /next HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n");
        let answer = scene.exchange(bytes).await;
        assert_eq!(statuses(&answer), [200, 200], "{rest:?}: {answer}");
        let seen = scene.upstream.seen();
        let targets: Vec<&str> = seen.iter().map(|seen| &*seen.target).collect();
        assert_eq!(targets, ["/outer", "/next"], "{rest:?}");
        assert_eq!((&seen[0].body[..], seen[0].complete), (body.as_bytes(), true), "{rest:?}");
        let wire = scene.upstream.wire().to_lowercase();
        let framings = ["content-length:", "transfer-encoding:"].map(|name| wire.matches(name).count());
        assert!(framings.iter().sum::<usize>() <= 1, "{rest:?}: {wire}");
        assert!(!wire.contains("odd") && !wire.contains('_'), "{rest:?}: {wire}");
    }
}

#[tokio::test]
async fn an_http_1_0_client_may_keep_its_connection() {
    let scene = scene().await;
    let bytes = "GET /a HTTP/1.0\r\nconnection: keep-alive\r\n\r\n\
                 POST /b HTTP/1.0\r\nConnection: Keep-Alive\r\ncontent-length: 5\r\n\r\nhello\
                 GET /c HTTP/1.0\r\n\r\nGET /never HTTP/1.0\r\n\r\n";
    let answer = scene.exchange(bytes).await;
    assert_eq!(answer.matches("HTTP/1.0 200 ").count(), 3, "{answer}");
    let targets: Vec<String> = scene
        .upstream
        .seen()
        .into_iter()
        .map(|seen| seen.target)
        .collect();
    assert_eq!(targets, ["/a", "/b", "/c"]);
    assert_eq!(scene.upstream.seen()[1].body, "hello");
}

#[tokio::test]
async fn an_upgrade_has_no_body_and_leads_to_a_web_socket_alone() {
    let scene = scene().await;
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for body in [
        "content-length: 5\r\n\r\nhello",
        &*format!("{CHUNKED}0\r\n\r\n"),
    ] {
        scene
            .refuses(format!(
                "GET /chat HTTP/1.1\r\nhost: shop\r\n{upgrade}{body}"
            ))
            .await;
    }
    for (first, lines) in [
        ("POST /chat HTTP/1.1", upgrade.to_owned()),
        (
            "GET /chat HTTP/1.1",
            upgrade.replace("websocket\r\n", "h2c\r\n"),
        ),
        (
            "GET /chat HTTP/1.1",
            upgrade.replace("websocket\r\n", "websocket, h2c\r\n"),
        ),
        ("GET /chat HTTP/1.1", format!("upgrade: h2c\r\n{upgrade}")),
        (
            "GET /chat HTTP/1.1",
            upgrade.replace("connection: upgrade", "x: y"),
        ),
        ("GET /chat HTTP/1.0", upgrade.to_owned()),
    ] {
        scene.upstream.forget();
        let bytes =
            format!("{first}\r\nhost: shop\r\n{lines}content-length: 5\r\n\r\nhello{SMUGGLED}");
        let answer = scene.exchange(bytes).await;
        assert!(
            answer.starts_with("HTTP/1.") && answer.contains(" 200 OK"),
            "{lines:?}: {answer}"
        );
        let seen = scene.upstream.seen().swap_remove(0);
        assert_eq!(
            (seen.header("upgrade"), &seen.body[..]),
            (None, &b"hello"[..]),
            "{lines:?}"
        );
        let wire = scene.upstream.wire().to_lowercase();
        assert!(
            !wire.contains("upgrade:") && !wire.contains("upgrade\r\n"),
            "{lines:?}: {wire}"
        );
    }
}

#[tokio::test]
async fn what_follows_a_refused_request_is_the_next_request_or_nothing() {
    let scene = scene().await;
    let token = scene.issuer.token("alice").sign();
    let get = |path: &str, lines: &str| format!("GET {path} HTTP/1.1\r\nhost: shop\r\n{lines}\r\n");
    let bearer = format!("authorization: Bearer {token}\r\n");
    let bytes = [
        get("/orders", ""),
        get("/orders/1", &bearer),
        get("/orders", "authorization: Bearer x.y.z\r\n"),
        format!("TRACE /orders HTTP/1.1\r\nhost: shop\r\n{bearer}\r\n"),
        get("/orders/2", &bearer),
        get("/a%00", ""),
        get("/orders/3", &bearer),
    ]
    .concat();
    let answer = scene.exchange(bytes).await;
    assert_eq!(
        statuses(&answer),
        [401, 200, 401, 405, 200, 400],
        "{answer}"
    );
    let targets: Vec<String> = scene
        .upstream
        .seen()
        .into_iter()
        .map(|seen| seen.target)
        .collect();
    assert_eq!(targets, ["/orders/1", "/orders/2"]);
    assert_eq!(scene.upstream.wire().matches(" HTTP/1.1\r\n").count(), 2);
}

#[tokio::test]
async fn a_refused_body_is_never_a_request() {
    let scene = scene().await;
    let token = scene.issuer.token("alice").sign();
    let inner = format!(
        "GET /orders/smuggled HTTP/1.1\r\nhost: shop\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    let length = inner.len();
    let large = format!("{inner}{}", " ".repeat(1024 * 1024));
    for expect in [
        "",
        "expect: 100-continue\r\n",
        "expect: 200-maybe\r\n",
        "expect: 100-continue, x\r\nexpect: y\r\n",
    ] {
        for body in [
            format!("content-length: {length}\r\n\r\n{inner}"),
            format!("{CHUNKED}{length:x}\r\n{inner}\r\n0\r\n\r\n"),
            format!("content-length: {}\r\n\r\n{large}", large.len()),
            format!("{CHUNKED}{:x}\r\n{large}\r\n0\r\n\r\n", large.len()),
        ] {
            for path in ["/orders", "/a%00", "/orders?_method=x"] {
                let bytes =
                    format!("POST {path} HTTP/1.1\r\nhost: shop\r\n{expect}{body}{SMUGGLED}");
                let answer = scene.exchange(bytes).await;
                // The body was read and what follows it is answered, or the connection was closed.
                let targets: Vec<String> = scene
                    .upstream
                    .seen()
                    .into_iter()
                    .map(|seen| seen.target)
                    .collect();
                assert!(
                    targets.iter().all(|target| target == "/smuggled"),
                    "{targets:?}"
                );
                assert!(
                    !scene.upstream.wire().contains("authorization"),
                    "{expect}{path}: {answer}"
                );
                assert!(count_answers(&answer) <= 2, "{expect}{path}: {answer}");
                scene.upstream.forget();
            }
        }
    }
}

#[tokio::test]
async fn an_expectation_stays_between_client_and_gateway() {
    let scene = scene().await;
    for expect in [
        "expect: 100-continue",
        "Expect: 200-maybe",
        "expect: x\r\nexpect: y",
        "expect:",
    ] {
        scene.upstream.forget();
        let bytes = format!(
            "{HEAD}{expect}\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello{SMUGGLED}"
        );
        let answer = scene.exchange(bytes).await;
        assert!(answer.contains("HTTP/1.1 200 OK\r\n"), "{expect}: {answer}");
        assert!(count_answers(&answer) <= 2, "{expect}: {answer}");
        assert_eq!(scene.upstream.last().body, "hello", "{expect}");
        assert!(
            !scene.upstream.wire().to_lowercase().contains("expect"),
            "{expect}"
        );
        assert_eq!(scene.upstream.count(), 1, "{expect}");
    }
}

#[tokio::test]
async fn nothing_of_a_request_comes_back_in_an_answer_of_our_own() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let cors = "cors = { origins = [\"https://shop.example\"] }";
    let gateway = Setup::new(&issuer, &upstream)
        .no_catch_all()
        .route(format!(
            "path = \"/orders\"\nmethods = [\"GET\"]\nscopes = [\"a\"]\n{cors}"
        ))
        .start()
        .await;
    let token = issuer.token("hostile\u{e9}").claim("iss", "hostile").sign();
    let unsigned = format!("{token}hostile");
    for (line, status) in [
        ("GET /orders?hostile%0d%0aset-cookie:%20hostile=1", 401),
        ("GET /orders/hostile", 401),
        ("HOSTILE /orders", 405),
        ("OPTIONS /orders", 204),
        ("GET /hostile", 404),
        ("GET /hostile%0d%0aset-cookie:hostile", 400),
        ("GET http://hostile.example/hostile", 404),
        ("GET /orders?_method=hostile", 400),
    ] {
        for credential in [
            format!("Bearer {unsigned}"),
            "hostile".to_owned(),
            "Bearer hostile".to_owned(),
        ] {
            let bytes = format!(
                "{line} HTTP/1.1\r\nhost: hostile.example\r\norigin: https://hostile.example\r\nx-hostile: hostile\r\n\
                 access-control-request-method: GET\r\naccess-control-request-headers: hostile\r\nuser-agent: hostile\r\n\
                 authorization: {credential}\r\nconnection: close\r\n\r\n"
            );
            let answer = raw::exchange(gateway.address(), bytes).await;
            assert_eq!(raw::status(&answer), status, "{line}: {answer}");
            let lower = answer.to_lowercase();
            assert!(
                !lower.contains("hostile") && !lower.contains("set-cookie"),
                "{line}: {answer}"
            );
        }
    }
    assert_eq!(upstream.wire(), "");
}

#[tokio::test]
async fn a_body_that_comes_in_pieces_around_its_end_is_read_once() {
    let scene = scene().await;
    scene.upstream.reply(Reply::Echo);
    let mut raw = Raw::connect(scene.gateway.address()).await;
    let bytes = format!("{HEAD}{CHUNKED}5\r\nhello\r\n0\r\n\r\n{SMUGGLED}");
    for piece in bytes.as_bytes().chunks(3) {
        raw.send(piece).await;
        tokio::task::yield_now().await;
    }
    let answer = raw.read_to_end().await;
    assert_eq!(statuses(&answer), [200, 200], "{answer}");
    let targets: Vec<String> = scene
        .upstream
        .seen()
        .into_iter()
        .map(|seen| seen.target)
        .collect();
    assert_eq!(
        targets,
        ["/outer", "/smuggled"],
        "two requests, because they are two"
    );
}
