//! Services that fail in every way, each played by hand: whose fault it is, and that nothing cut is taken for whole.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Version;
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use tokio::sync::mpsc;

use crate::support::raw::{self, Raw};
use crate::support::service::{BlackHole, RawService};
use crate::support::{Answer, DEADLINE, Gateway, Reply, Setup, Upstream, eventually, within};

const BOTH: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

/// A gateway that asks nobody for a token.
fn public(url: &str) -> Setup {
    Setup::bare(url).catch_all("auth = \"public\"")
}

/// The same, with an upstream of its own.
fn public_upstream(url: &str, lines: &str) -> Setup {
    public("service").section(format!(
        "[[upstreams]]\nname = \"service\"\nservers = [\"{url}\"]\n{lines}"
    ))
}

async fn scene() -> (RawService, Gateway) {
    let service = RawService::start().await;
    let gateway = public(&service.url()).start().await;
    (service, gateway)
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn a_service_that_takes_no_connection_is_502_in_time() {
    let hole = BlackHole::start().await;
    for http2 in [false, true] {
        let lines = format!("http2 = {http2}\nconnect_timeout = \"1s\"");
        let gateway = public_upstream(&hole.url(), &lines).start().await;
        for version in BOTH {
            let began = Instant::now();
            let answer = gateway.get("/").version(version).await;
            assert_eq!(answer.verdict(), "502 upstream_unreachable");
            assert!(
                began.elapsed() < DEADLINE / 2,
                "long before the route's timeout"
            );
        }
    }
}

#[tokio::test]
async fn a_reset_before_the_end_of_the_head_is_502() {
    let (service, gateway) = scene().await;
    for version in BOTH {
        for said in [
            "",
            "HTTP/1.1 200 O",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n",
        ] {
            let answer = tokio::spawn(gateway.get("/").version(version).into_future());
            let (mut raw, _) = service.request().await;
            raw.send(said).await;
            raw.reset();
            assert_eq!(answer.await.unwrap().verdict(), "502 upstream_failed");
            assert!(service.is_left_alone().await, "{said:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_cut_and_not_as_if_whole() {
    let (service, gateway) = scene().await;
    for version in BOTH {
        for (said, reset) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello", true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello", false),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\n",
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: y",
                false,
            ),
            // Its end is the end of the connection, but a reset is none.
            ("HTTP/1.1 200 OK\r\n\r\nhello", true),
            ("HTTP/1.0 200 OK\r\n\r\nhello", true),
        ] {
            let answer = tokio::spawn(gateway.get("/").version(version).open());
            let (mut raw, _) = service.request().await;
            raw.send(said).await;
            let mut body = within("the head", answer)
                .await
                .unwrap()
                .unwrap()
                .into_body();
            let first = within("the first frame", body.frame()).await.unwrap();
            assert_eq!(first.unwrap().into_data().unwrap(), "hello");
            if reset {
                raw.reset();
            } else {
                drop(raw);
            }
            let end = within("the end", body.frame()).await;
            assert!(matches!(end, Some(Err(_))), "{version:?} {said:?}: {end:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_up_to_the_end_of_the_connection_is_whole() {
    let (service, gateway) = scene().await;
    for version in BOTH {
        for head in [
            "HTTP/1.1 200 OK",
            "HTTP/1.0 200 OK",
            "HTTP/1.1 200 OK\r\nconnection: close",
        ] {
            let answer = tokio::spawn(gateway.get("/").version(version).into_future());
            let (mut raw, _) = service.request().await;
            raw.send(format!("{head}\r\n\r\nhel")).await;
            raw.send("lo").await;
            drop(raw);
            let answer = answer.await.unwrap();
            assert_eq!((answer.status(), &*answer.text()), (200, "hello"), "{head}");
        }
    }
}

#[tokio::test]
async fn an_answer_of_http_1_0_is_passed_on_and_its_connection_not_used_again() {
    let (service, gateway) = scene().await;
    for n in 0..2 {
        let answer = tokio::spawn(gateway.get("/").into_future());
        let (mut raw, _) = service.request().await;
        raw.send("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await;
        let answer = answer.await.unwrap();
        assert_eq!((answer.status(), answer.version()), (200, Version::HTTP_11));
        assert_eq!(answer.text(), "ok", "answer {n}");
        assert_eq!(raw.read_to_end().await, "", "the gateway closes");
    }
    // RFC 9112 section 6.1: the framing of such a message is faulty.
    let answer = tokio::spawn(gateway.get("/").into_future());
    let (mut raw, _) = service.request().await;
    raw.send("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
        .await;
    assert_eq!(answer.await.unwrap().verdict(), "502 upstream_failed");
}

#[tokio::test]
async fn a_service_that_closes_its_side_has_answered_or_not() {
    let (service, gateway) = scene().await;
    for (said, verdict) in [
        (OK, "200"),
        ("HTTP/1.1 200 OK\r\n\r\nok", "200"),
        ("", "502 upstream_failed"),
        ("HTTP/1.1 200 OK\r\n", "502 upstream_failed"),
    ] {
        let answer = tokio::spawn(gateway.post("/").body("x").into_future());
        let (mut raw, _) = service.request().await;
        raw.send(said).await;
        raw.finish_sending().await;
        assert_eq!(answer.await.unwrap().verdict(), verdict, "{said:?}");
        // It reads on, and sees that nobody needs it any more.
        raw.read_to_end().await;
        assert!(service.is_left_alone().await, "nothing was sent twice");
    }
}

/// A connection that has carried one request, and will be used for the next one.
async fn pooled(service: &RawService, gateway: &Gateway) -> Raw {
    let answer = tokio::spawn(gateway.get("/first").into_future());
    let (mut raw, _) = service.request().await;
    raw.send(OK).await;
    assert_eq!(answer.await.expect("an answer").status(), 200);
    raw
}

#[tokio::test]
async fn only_a_safe_request_on_a_used_connection_is_sent_again_and_only_once() {
    let service = RawService::start().await;
    for (method, body, said, again) in [
        ("GET", "", "", true),
        ("HEAD", "", "", true),
        ("OPTIONS", "", "", true),
        ("GET", "x", "", false),
        ("GET", "", "HTTP/1.1 2", true),
        ("GET", "", "HTTP/1.1 2000 OK\r\n\r\n", false),
        ("POST", "", "", false),
        ("POST", "x", "", false),
        ("PUT", "x", "", false),
        ("PATCH", "x", "", false),
        ("DELETE", "", "", false),
    ] {
        // A pool of its own.
        let gateway = public(&service.url()).start().await;
        let mut used = pooled(&service, &gateway).await;
        let request = gateway.request(method, "/second").body(body);
        let answer = tokio::spawn(request.into_future());
        assert!(used.read_head().await.contains("/second"));
        used.send(said).await;
        drop(used);
        if again {
            let (mut second, head) = service.request().await;
            assert!(head.starts_with(&format!("{method} /second ")), "{head}");
            // Not a third time.
            second.send("HTTP/1.1 2").await;
        }
        let status = answer.await.unwrap().status();
        assert_eq!(status, 502, "{method} {body:?} {said:?}");
        assert!(service.is_left_alone().await, "{method} {body:?} {said:?}");
    }
}

#[tokio::test]
async fn a_request_on_a_new_connection_is_never_sent_again() {
    let (service, gateway) = scene().await;
    let answer = tokio::spawn(gateway.get("/").into_future());
    drop(service.request().await);
    assert_eq!(answer.await.unwrap().verdict(), "502 upstream_failed");
    assert!(service.is_left_alone().await);
}

#[tokio::test]
async fn interim_answers_are_not_the_answer() {
    let (service, gateway) = scene().await;
    for version in BOTH {
        let answer = tokio::spawn(gateway.get("/").version(version).into_future());
        let (mut raw, _) = service.request().await;
        raw.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
            .await;
        raw.send("HTTP/1.1 102 Processing\r\n\r\n").await;
        raw.send(format!("HTTP/1.1 103 Early Hints\r\n\r\n{OK}"))
            .await;
        let answer = answer.await.unwrap();
        assert_eq!((answer.status(), &*answer.text()), (200, "ok"));
        drop(raw);
    }
}

#[tokio::test]
async fn a_body_where_none_may_be_is_not_passed_on_and_never_the_next_answer() {
    let (service, gateway) = scene().await;
    for (method, head) in [
        ("GET", "HTTP/1.1 204 No Content\r\ncontent-length: 27"),
        (
            "GET",
            "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked",
        ),
        ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 27"),
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 27"),
        ("HEAD", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked"),
    ] {
        let mut client = Raw::connect(gateway.address()).await;
        client
            .send(format!("{method} /first HTTP/1.1\r\nhost: shop\r\n\r\n"))
            .await;
        let (mut first, _) = service.request().await;
        // It looks like an answer.
        first
            .send(format!("{head}\r\n\r\nHTTP/1.1 200 OK\r\n\r\nevil\r\n"))
            .await;
        let seen = client.read_head().await;
        assert_eq!(seen.split(' ').nth(1), head.split(' ').nth(1), "{seen}");
        assert!(seen.ends_with("\r\n\r\n"), "nothing follows: {seen}");
        if head.contains("204") {
            assert!(!seen.contains("content-length: 27"), "{seen}");
        }
        client
            .send("GET /second HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n")
            .await;
        let (mut second, asked) = service.request().await;
        assert!(asked.starts_with("GET /second "), "on another connection");
        second.send(OK).await;
        let seen = client.read_to_end().await;
        assert!(
            seen.starts_with("HTTP/1.1 200 ") && seen.ends_with("\r\n\r\nok"),
            "{method} {head:?}: {seen}"
        );
    }
}

#[tokio::test]
async fn a_head_without_an_end_is_502() {
    let (service, gateway) = scene().await;
    let large = |bytes: usize| format!("x-large: {}\r\n", "y".repeat(bytes));
    let lines = |count: usize| "x: y\r\n".repeat(count);
    for (lines, status) in [
        (large(60 * 1024), 200),
        (large(70 * 1024), 502),
        (large(1024 * 1024), 502),
        (lines(250), 200),
        (lines(300), 502),
    ] {
        let request = "GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n";
        let answer = tokio::spawn(raw::exchange(gateway.address(), request));
        let (mut raw, _) = service.request().await;
        raw.send(format!(
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n{lines}\r\nok"
        ))
        .await;
        let answer = answer.await.unwrap();
        assert_eq!(raw::status(&answer), status, "{} bytes", lines.len());
        assert_eq!(answer.contains("upstream_failed"), status == 502);
    }
}

#[tokio::test]
async fn trailers_of_an_answer_cannot_name_a_framing_field() {
    let (service, gateway) = scene().await;
    for version in BOTH {
        let request = gateway.get("/").version(version).header("te", "trailers");
        let answer = tokio::spawn(request.into_future());
        let (mut raw, _) = service.request().await;
        raw.send(
            "HTTP/1.1 200 OK\r\nconnection: close\r\ntrailer: x-sum, content-length, transfer-encoding, set-cookie\r\n\
             transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\
             connection: x\r\nset-cookie: a=b\r\nx-sum: 42\r\n\r\n",
        )
        .await;
        let answer = answer.await.unwrap();
        assert_eq!(answer.text(), "ok");
        let trailers = answer.trailers().expect("trailers");
        let names: Vec<&str> = trailers.keys().map(http::HeaderName::as_str).collect();
        assert_eq!(names, ["x-sum"], "{version:?}");
    }
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_upload_arrives_though_the_service_closes() {
    let (service, gateway) = scene().await;
    for version in BOTH {
        let (frames, body) = mpsc::channel(1);
        let sending = tokio::spawn(async move {
            let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
            // Who sends as fast as it can has sent more than is drained before it looks for an answer.
            while frames.send(Frame::data(chunk.clone())).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        let request = gateway.post("/").version(version).stream(body);
        let answer = tokio::spawn(request.open());
        let (mut raw, _) = service.request().await;
        raw.send(
            "HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        )
        .await;
        // With bytes unread: the kernel sends a reset after the answer.
        drop(raw);
        let answer = within("the answer", answer).await.unwrap().unwrap();
        assert_eq!(answer.status(), 413, "{version:?}");
        drop(answer);
        within("the upload to be given up", sending).await.unwrap();
        assert!(service.is_left_alone().await, "it was sent once");
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_ends_the_services_work() {
    for http2 in [false, true] {
        let upstream = Upstream::start().await;
        let lines = format!("http2 = {http2}");
        let gateway = public_upstream(&upstream.url(), &lines).start().await;
        for (n, version) in BOTH.into_iter().enumerate() {
            let (go, reply) = Reply::late("too late");
            upstream.reply(reply);
            let request = gateway.get("/slow").version(version);
            let waiting = tokio::spawn(request.open());
            upstream.arrived(n + 1).await;
            assert!(!go.is_closed());
            waiting.abort();
            eventually("the service's work to end", async || {
                go.is_closed().then_some(())
            })
            .await;
        }
        // Nobody else's work ended with it.
        assert_eq!(gateway.get("/").await.status(), 200);
    }
}

#[tokio::test]
async fn a_client_that_leaves_during_its_answer_ends_the_services_work() {
    let upstream = Upstream::start().await;
    let gateway = public_upstream(&upstream.url(), "http2 = true")
        .start()
        .await;
    for version in BOTH {
        let (events, reply) = Reply::stream();
        upstream.reply(reply);
        let answer = gateway.get("/events").version(version).open().await;
        drop(answer.unwrap());
        eventually("the service's answer to be dropped", async || {
            let _ = events.try_send(Frame::data("x".into()));
            events.is_closed().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_during_its_upload_is_never_taken_for_finished() {
    let (service, gateway) = scene().await;
    for version in BOTH {
        let (frames, body) = mpsc::channel(1);
        let request = gateway.post("/").version(version).stream(body);
        let waiting = tokio::spawn(request.open());
        frames.send(Frame::data("hello".into())).await.unwrap();
        let (mut raw, mut seen) = service.request().await;
        if !seen.contains("hello") {
            seen += &raw.read_until("hello").await;
        }
        waiting.abort();
        let rest = raw.read_to_end().await;
        assert!(!rest.contains("0\r\n\r\n"), "{version:?}: {seen}{rest}");
    }
}

#[tokio::test]
async fn an_upgrade_with_a_body_is_refused() {
    let (service, gateway) = scene().await;
    for lines in [
        "content-length: 5\r\n\r\nhello",
        "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        let answer = raw::exchange(
            gateway.address(),
            format!(
                "GET /chat HTTP/1.1\r\nhost: shop\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}"
            ),
        )
        .await;
        assert_eq!(raw::status(&answer), 400, "{answer}");
        assert!(answer.contains("bad_request"), "{answer}");
        assert!(service.is_left_alone().await);
    }
}

#[tokio::test]
async fn a_connection_that_the_service_closed_while_it_was_idle_is_not_used() {
    let (service, gateway) = scene().await;
    for n in 0..5 {
        let used = pooled(&service, &gateway).await;
        drop(used);
        let answer = tokio::spawn(gateway.post("/second").body("x").into_future());
        // Should the gateway not have noticed yet, the request was not sent: a POST is safe, too.
        let (mut raw, head) = service.request().await;
        assert!(head.starts_with("POST /second "), "{head}");
        raw.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok")
            .await;
        let answer: Answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200, "round {n}");
    }
}
