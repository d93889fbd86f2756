//! What passes, passes whole and as it comes; what is between two neighbours on the way stays between them.

use std::time::Duration;

use bytes::Bytes;
use http::Version;
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::support::client::{Answer, Connection, Request};
use crate::support::raw::{self, Raw};
use crate::support::upstream::{RawUpstream, Refusing};
use crate::support::{Gateway, Issuer, Reply, Setup, Upstream, eventually, web_socket, within};

struct Scene {
    issuer: Issuer,
    upstream: Upstream,
    gateway: Gateway,
    token: String,
}

async fn scene_with(change: impl FnOnce(Setup) -> Setup) -> Scene {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    Scene {
        gateway: change(Setup::new(&issuer, &upstream)).start().await,
        token: issuer.token("alice").sign(),
        issuer,
        upstream,
    }
}

async fn scene() -> Scene {
    scene_with(|setup| setup).await
}

impl Scene {
    fn get(&self, target: &str) -> Request {
        self.gateway.get(target).bearer(&self.token)
    }

    fn post(&self, target: &str) -> Request {
        self.gateway.post(target).bearer(&self.token)
    }

    /// The head of a raw request, without its last blank line.
    fn head(&self, first: &str, lines: &str) -> String {
        format!(
            "{first}\r\nhost: shop\r\nauthorization: Bearer {}\r\n{lines}",
            self.token
        )
    }
}

#[tokio::test]
async fn request_and_answer_arrive_whole() {
    let scene = scene().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        scene.upstream.reply(Reply::Full {
            status: 418,
            headers: [
                ("x-a", "1"),
                ("set-cookie", "a=b"),
                ("set-cookie", "c=d"),
                ("content-type", "x/y"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
            body: "short and stout".into(),
            trailers: vec![],
        });
        let answer = scene
            .post("/pots?size=1")
            .version(version)
            .host("shop.example")
            .header("x-b", "2")
            .header("x-b", "3")
            .header("cookie", "e=f")
            .body("tea")
            .await;
        assert_eq!(
            (answer.status(), &*answer.text(), answer.version()),
            (418, "short and stout", version)
        );
        assert_eq!(answer.headers().get_all("set-cookie").iter().count(), 2);
        assert_eq!(
            (answer.header("x-a"), answer.header("content-type")),
            (Some("1"), Some("x/y"))
        );
        let seen = scene.upstream.last();
        assert_eq!(
            (&*seen.method, &*seen.target, &*seen.authority),
            ("POST", "/pots?size=1", "shop.example")
        );
        assert_eq!(
            (seen.all("x-b"), seen.all("cookie")),
            (vec!["2".into(), "3".into()], vec!["e=f".into()])
        );
        assert_eq!((seen.version, &*seen.body), (Version::HTTP_11, &b"tea"[..]));
    }
}

#[tokio::test]
async fn one_connection_carries_many_requests_on_both_sides() {
    let scene = scene().await;
    for (version, connections) in [(Version::HTTP_11, 1), (Version::HTTP_2, 1)] {
        let mut client = Connection::open(scene.gateway.address(), version).await;
        for n in 0..5 {
            let request = scene.post("/").version(version).body(format!("number {n}"));
            assert_eq!(client.send(request).await.status(), 200);
        }
        assert_eq!(
            scene.upstream.connections(),
            connections,
            "the pooled connection is used again"
        );
    }
    assert_eq!(scene.upstream.count(), 10);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let scene = scene().await;
    for n in 0..3 {
        scene.upstream.reply(Reply::body(format!("answer {n};")));
    }
    let mut raw = Raw::connect(scene.gateway.address()).await;
    let more = format!("{}\r\n", scene.head("GET /x HTTP/1.1", ""));
    let last = format!(
        "{}\r\n",
        scene.head("GET /x HTTP/1.1", "connection: close\r\n")
    );
    raw.send(format!("{more}{more}{last}")).await;
    let answers = raw.read_to_end().await;
    let order: Vec<_> = answers
        .match_indices("answer ")
        .map(|(at, _)| &answers[at + 7..at + 8])
        .collect();
    assert_eq!(order, ["0", "1", "2"], "{answers}");
    assert_eq!(scene.upstream.count(), 3);
}

#[tokio::test]
async fn what_belongs_to_one_hop_stays_there() {
    let scene = scene().await;
    scene.upstream.reply(
        Reply::body("x")
            .with_header("connection", "x-hop, keep-alive")
            .with_header("connection", "X-Second-Hop")
            .with_header("x-hop", "1")
            .with_header("x-second-hop", "2")
            .with_header("keep-alive", "timeout=5")
            .with_header("proxy-authenticate", "Basic")
            .with_header("proxy-connection", "close")
            .with_header("x-kept", "3"),
    );
    let lines = "connection: close, X-Hop\r\nConnection: x-second-hop\r\nx-hop: 1\r\nx-second-hop: 2\r\nkeep-alive: 5\r\n\
                 proxy-connection: keep-alive\r\nproxy-authorization: Basic YTpi\r\nte: trailers, deflate\r\ntrailer: x\r\n\
                 upgrade: h2c\r\nhttp2-settings: AAMAAABk\r\nx-kept: 4\r\n\r\n";
    let answer = raw::exchange(scene.gateway.address(), scene.head("GET / HTTP/1.1", lines)).await;
    assert_eq!(raw::status(&answer), 200, "{answer}");
    let answer = answer.to_lowercase();
    for name in [
        "x-hop",
        "x-second-hop",
        "keep-alive:",
        "proxy-authenticate",
        "proxy-connection",
    ] {
        assert!(!answer.contains(name), "{name}: {answer}");
    }
    assert!(answer.contains("x-kept: 3"));
    let seen = scene.upstream.last();
    for name in [
        "x-hop",
        "x-second-hop",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "upgrade",
        "http2-settings",
    ] {
        assert_eq!(seen.all(name), [""; 0], "{name}");
    }
    assert!(
        seen.all("te").iter().all(|te| te == "trailers"),
        "{:?}",
        seen.all("te")
    );
    assert_eq!(seen.header("x-kept").as_deref(), Some("4"));
}

#[tokio::test]
async fn headers_that_frameworks_trust_from_outside_do_not_pass() {
    let scene = scene().await;
    let names = [
        "x-original-url",
        "x-rewrite-url",
        "x-forwarded-uri",
        "x-forwarded-prefix",
        "x-forwarded-path",
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
        "x-middleware-subrequest",
    ];
    let request = names.iter().fold(scene.get("/"), |request, name| {
        request.header(name, "/admin")
    });
    assert_eq!(request.await.status(), 200);
    let seen = scene.upstream.last();
    for name in names {
        assert_eq!(seen.header(name), None, "{name}");
    }
}

#[tokio::test]
async fn a_strangers_word_about_the_way_is_replaced() {
    let scene = scene().await;
    let answer = scene
        .get("/")
        .host("shop.example")
        .header("x-forwarded-for", "10.9.8.7")
        .header("x-forwarded-for", "10.9.8.6")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-host", "evil.example")
        .header("x-forwarded-port", "99")
        .header("x-real-ip", "10.9.8.7")
        .header("forwarded", "for=10.9.8.7;proto=https")
        .await;
    assert_eq!(answer.status(), 200);
    let seen = scene.upstream.last();
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.all("x-forwarded-host"), ["shop.example"]);
    let lines = format!("{:?}", seen.headers);
    assert!(
        !lines.contains("10.9.8") && !lines.contains("evil"),
        "{lines}"
    );
}

#[tokio::test]
async fn a_trusted_proxys_word_about_the_way_is_continued() {
    let scene = scene_with(|setup| setup.listener(r#"trusted_proxies = ["127.0.0.0/8"]"#)).await;
    let answer = scene
        .get("/")
        .header("x-forwarded-for", "203.0.113.7")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-host", "shop.example")
        .await;
    assert_eq!(answer.status(), 200);
    let seen = scene.upstream.last();
    assert_eq!(
        seen.all("x-forwarded-for").join(", "),
        "203.0.113.7, 127.0.0.1"
    );
    assert_eq!(seen.all("x-forwarded-proto"), ["https"]);
    assert_eq!(seen.all("x-forwarded-host"), ["shop.example"]);
}

#[tokio::test]
async fn trailers_of_an_answer_pass() {
    let scene = scene().await;
    scene.upstream.reply(
        Reply::body("x")
            .with_header("trailer", "x-sum")
            .with_trailer("x-sum", "42"),
    );
    let answer = scene.get("/").header("te", "trailers").h2().await;
    assert_eq!((answer.status(), &*answer.text()), (200, "x"));
    assert_eq!(
        answer
            .trailers()
            .and_then(|lines| lines.get("x-sum"))
            .map(http::HeaderValue::as_bytes),
        Some(&b"42"[..])
    );
    assert_eq!(scene.upstream.count(), 1);
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on() {
    let scene = scene().await;
    let mut raw = Raw::connect(scene.gateway.address()).await;
    let lines = "expect: 100-continue\r\ncontent-length: 5\r\nconnection: close\r\n\r\n";
    raw.send(scene.head("POST / HTTP/1.1", lines)).await;
    let head = raw.read_head().await;
    assert!(head.starts_with("HTTP/1.1 100 "), "{head}");
    raw.send("hello").await;
    assert_eq!(raw::status(&raw.read_to_end().await), 200);
    assert_eq!(scene.upstream.last().body, "hello");
}

/// The most that the kernel holds between two sockets: it lets each buffer grow to these bounds.
fn hop_bytes_max() -> usize {
    ["tcp_rmem", "tcp_wmem"]
        .map(|name| {
            std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).expect("Linux has it")
        })
        .iter()
        .map(|bounds| {
            bounds
                .split_whitespace()
                .last()
                .expect("three numbers")
                .parse::<usize>()
                .expect("a number")
        })
        .sum()
}

/// What the gateway itself may hold of one body, its HTTP/2 windows included.
const OWN_BYTES_MAX: usize = 8 * 1024 * 1024;

/// More than all buffers of the longest way hold: to the service and back.
fn large() -> usize {
    (5 * hop_bytes_max() + 2 * OWN_BYTES_MAX).next_multiple_of(CHUNK.len())
}

const CHUNK: &[u8] = &[b'x'; 64 * 1024];

/// Sends chunks until nobody takes them any more, or a large body is sent; says how much went.
async fn pour(frames: &mpsc::Sender<Frame<Bytes>>) -> usize {
    let mut total = 0;
    while total < large() {
        let send = frames.send(Frame::data(Bytes::from_static(CHUNK)));
        match tokio::time::timeout(Duration::from_millis(500), send).await {
            Ok(taken) => taken.expect("somebody reads"),
            Err(_elapsed) => break,
        }
        total += CHUNK.len();
    }
    total
}

#[tokio::test]
async fn a_slow_client_slows_the_service() {
    let scene = scene().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let (frames, reply) = Reply::stream();
        scene.upstream.reply(reply);
        let answer = scene.get("/large").version(version).open().await.unwrap();
        let taken = pour(&frames).await;
        assert!(
            taken < 2 * hop_bytes_max() + OWN_BYTES_MAX,
            "{taken} bytes were taken that nobody had read"
        );
        let rest = tokio::spawn(async move {
            let mut sent = taken;
            while sent < large() {
                frames
                    .send(Frame::data(Bytes::from_static(CHUNK)))
                    .await
                    .unwrap();
                sent += CHUNK.len();
            }
        });
        let mut body = answer.into_body();
        let mut read = 0;
        within("the large answer", async {
            while let Some(frame) = body.frame().await {
                read += frame.unwrap().into_data().map_or(0, |data| data.len());
            }
        })
        .await;
        rest.await.unwrap();
        assert_eq!(read, large());
    }
}

#[tokio::test]
async fn a_slow_service_slows_the_client() {
    let scene = scene().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        // The service answers with the request's body, and the client does not read it: so the service does not read either.
        scene.upstream.reply(Reply::Echo);
        let (frames, body) = mpsc::channel(1);
        let answer = tokio::spawn(scene.post("/large").version(version).stream(body).open());
        let answer = {
            frames
                .send(Frame::data(Bytes::from_static(CHUNK)))
                .await
                .unwrap();
            answer.await.unwrap().unwrap()
        };
        let sent = CHUNK.len() + pour(&frames).await;
        assert!(
            sent < 4 * hop_bytes_max() + 2 * OWN_BYTES_MAX,
            "{sent} bytes were taken that nobody had read"
        );
        let total = sent;
        drop(frames);
        let mut body = answer.into_body();
        let mut read = 0;
        within("the echo", async {
            while let Some(frame) = body.frame().await {
                read += frame.unwrap().into_data().map_or(0, |data| data.len());
            }
        })
        .await;
        assert_eq!(read, total);
    }
}

#[tokio::test]
async fn both_directions_stream_at_once() {
    let scene = scene().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        scene.upstream.reply(Reply::Echo);
        let (frames, body) = mpsc::channel(1);
        let answer = tokio::spawn(scene.post("/echo").version(version).stream(body).open());
        frames.send(Frame::data("first".into())).await.unwrap();
        let mut echo = answer.await.unwrap().unwrap().into_body();
        for word in ["first", "second", "third"] {
            if word != "first" {
                frames.send(Frame::data(word.into())).await.unwrap();
            }
            let frame = within("an echo", echo.frame()).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), word);
        }
        drop(frames);
        assert!(
            within("the end", echo.frame())
                .await
                .is_none_or(|frame| frame.is_ok_and(|f| f.is_data()))
        );
    }
    assert_eq!(scene.upstream.count(), 2);
}

#[tokio::test]
async fn events_arrive_one_by_one() {
    let scene = scene().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let (events, mut reply) = Reply::stream();
        reply = reply.with_header("content-type", "text/event-stream");
        scene.upstream.reply(reply);
        let answer = scene.get("/events").version(version).open().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let mut body = answer.into_body();
        for n in 0..3 {
            let event = format!("data: {n}\n\n");
            events
                .send(Frame::data(event.clone().into()))
                .await
                .unwrap();
            let frame = within("an event", body.frame()).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), event);
        }
    }
    assert_eq!(scene.upstream.count(), 2);
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_services_work() {
    let scene = scene().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let (events, reply) = Reply::stream();
        scene.upstream.reply(reply);
        let answer = scene.get("/events").version(version).open().await.unwrap();
        drop(answer);
        eventually("the service's answer to be dropped", async || {
            let _ = events.try_send(Frame::data("x".into()));
            events.is_closed().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_web_socket_passes_both_ways() {
    let scene = scene().await;
    scene.upstream.reply(Reply::WebSocket);
    let bearer = format!("Bearer {}", scene.token);
    let headers = [
        ("authorization", &*bearer),
        ("x-user-id", "root"),
        ("x_user_id", "root"),
    ];
    let mut socket = web_socket::open(&scene.gateway, &headers).await;
    for n in 0..3 {
        web_socket::echo(&mut socket, format!("message {n}")).await;
    }
    web_socket::echo(&mut socket, vec![7; 1024 * 1024]).await;
    socket.close(None).await.unwrap();
    let seen = scene.upstream.last();
    assert_eq!(seen.aliases("x-user-id"), ["x-user-id: alice"]);
    assert_eq!(seen.header("authorization"), None);
    eventually("the service's connection to end", async || {
        (scene.upstream.open() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_without_a_token_never_reaches_the_service() {
    let scene = scene().await;
    let bytes = "GET /chat HTTP/1.1\r\nhost: shop\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                 sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n";
    let answer = raw::exchange(scene.gateway.address(), bytes).await;
    assert_eq!(raw::status(&answer), 401);
    assert!(!answer.contains("HTTP/1.1 101"));
    assert_eq!(scene.upstream.count(), 0);
}

#[tokio::test]
async fn bytes_after_an_upgrade_wait_for_the_services_yes() {
    let scene = scene().await;
    scene.upstream.reply(Reply::status(403));
    let lines = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                 sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n";
    let bytes = format!("{}{smuggled}", scene.head("GET /chat HTTP/1.1", lines));
    let answer = raw::exchange(scene.gateway.address(), bytes).await;
    assert_eq!(raw::status(&answer), 403);
    let targets: Vec<String> = scene
        .upstream
        .seen()
        .into_iter()
        .map(|seen| seen.target)
        .collect();
    assert_eq!(
        targets,
        ["/chat"],
        "what followed was a request without a token, if anything"
    );
}

#[tokio::test]
async fn only_web_sockets_are_upgraded() {
    let scene = scene().await;
    for protocol in ["h2c", "TLS/1.0", "websocket2", "connect-ip"] {
        let lines = format!("connection: close, upgrade\r\nupgrade: {protocol}\r\n\r\n");
        let answer = raw::exchange(
            scene.gateway.address(),
            scene.head("GET / HTTP/1.1", &lines),
        )
        .await;
        assert_eq!(raw::status(&answer), 200, "{protocol}: {answer}");
        assert_eq!(scene.upstream.last().header("upgrade"), None, "{protocol}");
    }
}

/// A gateway in front of a service without manners.
async fn in_front_of(answer: &str, close: bool, lines: &str) -> (RawUpstream, Issuer, Gateway) {
    let (issuer, upstream) = (
        Issuer::start().await,
        RawUpstream::start(answer, close).await,
    );
    let gateway = Setup::at(issuer.url(), &upstream.url())
        .catch_all(lines)
        .start()
        .await;
    (upstream, issuer, gateway)
}

#[tokio::test]
async fn a_service_that_cannot_be_reached_is_502() {
    let (issuer, refusing) = (Issuer::start().await, Refusing::start());
    let gateway = Setup::at(issuer.url(), &refusing.url()).start().await;
    let token = issuer.token("alice").sign();
    for request in [gateway.get("/"), gateway.get("/").h2()] {
        assert_eq!(
            request.bearer(&token).await.verdict(),
            "502 upstream_unreachable"
        );
    }
    assert_eq!(
        gateway.get("/").await.verdict(),
        "401 no_token",
        "a stranger learns nothing of the service"
    );
}

#[tokio::test]
async fn a_service_that_talks_nonsense_is_502() {
    for nonsense in [
        "",
        "hello\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\ncontent-",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let (upstream, issuer, gateway) = in_front_of(nonsense, true, "").await;
        let answer = gateway.get("/").bearer(&issuer.token("alice").sign()).await;
        assert_eq!(answer.verdict(), "502 upstream_failed", "{nonsense:?}");
        assert!(!upstream.heads().is_empty(), "{nonsense:?}");
    }
}

#[tokio::test]
async fn an_endless_row_of_interim_answers_is_502() {
    let many = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(2000);
    let (upstream, issuer, gateway) = in_front_of(&many, false, "timeout = \"5s\"").await;
    let answer = gateway.get("/").bearer(&issuer.token("alice").sign()).await;
    assert!(matches!(answer.status(), 502 | 504), "{answer:?}");
    assert_eq!(upstream.heads().len(), 1);
}

#[tokio::test]
async fn a_cut_answer_is_never_completed_as_if_whole() {
    for cut in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
    ] {
        let (_upstream, issuer, gateway) = in_front_of(cut, true, "").await;
        let token = issuer.token("alice").sign();
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let answer = gateway
                .get("/")
                .bearer(&token)
                .version(version)
                .try_send()
                .await;
            let whole = answer.ok().filter(|answer| answer.status() == 200);
            assert!(whole.is_none(), "{cut:?}: {whole:?}");
        }
    }
}

#[tokio::test]
async fn bytes_after_an_answer_are_not_the_next_one() {
    let poison = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngoodHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    let (upstream, issuer, gateway) = in_front_of(poison, false, "").await;
    let token = issuer.token("alice").sign();
    for n in 1..=3 {
        let answer = gateway.get("/").bearer(&token).await;
        assert_eq!((answer.status(), &*answer.text()), (200, "good"));
        assert_eq!(upstream.heads().len(), n, "each on a connection of its own");
    }
}

#[tokio::test]
async fn a_service_that_does_not_answer_is_504() {
    let scene = scene_with(|setup| setup.catch_all("timeout = \"1s\"")).await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        scene.upstream.reply(Reply::Hang);
        assert_eq!(
            scene.get("/").version(version).await.verdict(),
            "504 upstream_timeout"
        );
    }
    assert_eq!(scene.get("/").await.status(), 200, "the next one is served");
    assert_eq!(scene.upstream.count(), 3);
}

#[tokio::test]
async fn a_service_that_closes_is_502_and_a_post_is_sent_once() {
    let scene = scene().await;
    scene.upstream.reply(Reply::Reset);
    assert_eq!(
        scene.post("/orders").body("buy").await.verdict(),
        "502 upstream_failed"
    );
    assert_eq!(scene.upstream.count(), 1, "nobody ordered twice");
}

#[tokio::test]
async fn a_pooled_connection_that_the_service_closed_is_no_error() {
    let (upstream, issuer, gateway) =
        in_front_of("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true, "").await;
    let token = issuer.token("alice").sign();
    for n in 1..=10 {
        assert_eq!(
            gateway.get("/").bearer(&token).await.status(),
            200,
            "request {n}"
        );
    }
    assert_eq!(upstream.heads().len(), 10);
}

#[tokio::test]
async fn an_early_answer_of_the_service_arrives_though_the_body_goes_on() {
    let scene = scene().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        scene.upstream.reply(Reply::Early(413));
        let (frames, body) = mpsc::channel(1);
        // Slow enough that the client reads its answer before the gateway has read as much as it does of what nobody wants.
        let sending = tokio::spawn(async move {
            while frames
                .send(Frame::data(Bytes::from_static(b"chunk")))
                .await
                .is_ok()
            {
                sleep(Duration::from_millis(1)).await;
            }
        });
        let answer = scene
            .post("/")
            .version(version)
            .stream(body)
            .open()
            .await
            .unwrap();
        assert_eq!(answer.status(), 413);
        drop(answer);
        within("the body to be given up", sending).await.unwrap();
    }
    assert_eq!(scene.get("/").await.status(), 200);
    assert_eq!(scene.upstream.count(), 3);
}

#[tokio::test]
async fn http_1_0_is_answered_and_closed() {
    let scene = scene().await;
    let answer = raw::exchange(
        scene.gateway.address(),
        scene.head("GET / HTTP/1.0", "\r\n"),
    )
    .await;
    assert!(
        raw::status(&answer) == 200 && answer.ends_with("fine"),
        "{answer}"
    );
    assert!(
        !answer.to_lowercase().contains("transfer-encoding"),
        "{answer}"
    );
    let answer = raw::exchange(
        scene.gateway.address(),
        scene.head(
            "POST / HTTP/1.0",
            "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
    )
    .await;
    assert_eq!(raw::status(&answer), 400, "RFC 9112 section 6.1: {answer}");
    let (frames, reply) = Reply::stream();
    scene.upstream.reply(reply);
    let streamed = tokio::spawn(raw::exchange(
        scene.gateway.address(),
        scene.head("GET / HTTP/1.0", "\r\n"),
    ));
    frames.send(Frame::data("hello".into())).await.unwrap();
    drop(frames);
    let answer = streamed.await.unwrap();
    assert!(
        answer.ends_with("\r\n\r\nhello"),
        "as it is, up to the close: {answer}"
    );
    assert_eq!(scene.upstream.count(), 2);
}

#[tokio::test]
async fn answers_without_a_body_stay_without() {
    let scene = scene().await;
    let mut client = Connection::open(scene.gateway.address(), Version::HTTP_11).await;
    for (method, reply, length) in [
        (
            "HEAD",
            Reply::status(200).with_header("content-length", "1234"),
            Some("1234"),
        ),
        ("GET", Reply::status(204), None),
        ("GET", Reply::status(304).with_header("etag", "\"x\""), None),
    ] {
        scene.upstream.reply(reply);
        let answer: Answer = client
            .send(scene.gateway.request(method, "/").bearer(&scene.token))
            .await;
        assert!(answer.body().is_empty(), "{answer:?}");
        if length.is_some() {
            assert_eq!(answer.header("content-length"), length);
        }
    }
    assert_eq!(
        client.send(scene.get("/")).await.text(),
        "fine",
        "the connection is in step"
    );
    assert_eq!(scene.upstream.count(), 4);
}

#[tokio::test]
async fn a_service_may_speak_http2() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .catch_all("upstream = \"grpc\"")
        .section(format!(
            "[[upstreams]]\nname = \"grpc\"\nservers = [\"{}\"]\nhttp2 = true",
            upstream.url()
        ))
        .start()
        .await;
    let token = issuer.token("alice").sign();
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let answer = gateway
            .post("/a?b")
            .version(version)
            .host("shop.example")
            .bearer(&token)
            .body("x")
            .await;
        assert_eq!((answer.status(), answer.version()), (200, version));
        let seen = upstream.last();
        assert_eq!(
            (seen.version, &*seen.authority, &*seen.body),
            (Version::HTTP_2, "shop.example", &b"x"[..])
        );
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn servers_are_used_in_turn() {
    let issuer = Issuer::start().await;
    let (first, second) = (Upstream::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &first)
        .catch_all("upstream = \"pair\"")
        .section(format!(
            "[[upstreams]]\nname = \"pair\"\nservers = [\"{}\", \"{}\"]",
            first.url(),
            second.url()
        ))
        .start()
        .await;
    let token = issuer.token("alice").sign();
    for _ in 0..6 {
        assert_eq!(gateway.get("/").bearer(&token).await.status(), 200);
    }
    assert_eq!((first.count(), second.count()), (3, 3));
}

#[tokio::test]
async fn a_gateway_that_ends_finishes_what_runs() {
    let Scene {
        issuer: _issuer,
        upstream,
        gateway,
        token,
    } = scene().await;
    let (frames, reply) = Reply::stream();
    upstream.reply(reply);
    let address = gateway.address();
    let answer = gateway.get("/slow").bearer(&token).open().await.unwrap();
    let ending = tokio::spawn(gateway.shutdown());
    eventually("the listener to close", async || {
        tokio::net::TcpStream::connect(address)
            .await
            .is_err()
            .then_some(())
    })
    .await;
    assert!(!ending.is_finished(), "a request is still running");
    frames.send(Frame::data("late".into())).await.unwrap();
    drop(frames);
    let answer = within("the late answer", Answer::read(answer))
        .await
        .unwrap();
    assert_eq!(&*answer.text(), "late");
    within("the end", ending).await.unwrap();
    assert_eq!(upstream.count(), 1);
}
