//! Nobody can hold anything for ever, and nobody is cut off who is only slow, or whose service is.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::Version;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::client::Request;
use crate::support::raw::Raw;
use crate::support::service::RawService;
use crate::support::{Gateway, Reply, Setup, Upstream, eventually, web_socket, within};

const BOTH: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

async fn scene(change: impl FnOnce(Setup) -> Setup) -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let setup = Setup::bare(&upstream.url()).catch_all("auth = \"public\"");
    let gateway = change(setup).start().await;
    (upstream, gateway)
}

/// Sends a little of a body again and again, until nobody wants it any more or all of it is sent.
fn trickle(request: Request, bytes: &'static [u8], times: usize) -> Request {
    let (frames, body) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut beat = tokio::time::interval(Duration::from_millis(50));
        for _ in 0..times {
            beat.tick().await;
            let frame = Frame::data(Bytes::from_static(bytes));
            if frames.send(frame).await.is_err() {
                return;
            }
        }
    });
    request.stream(body)
}

#[tokio::test]
async fn a_body_a_byte_at_a_time_is_given_up_and_the_least_rate_is_not() {
    let (upstream, gateway) = scene(|setup| setup.listener("body_timeout = \"1s\"")).await;
    for version in BOTH {
        let post = || gateway.post("/").version(version);
        // 20 and 1000 bytes a second, for twice as long as the account lasts.
        let (slow, steady) = tokio::join!(
            trickle(post(), b"x", usize::MAX).try_send(),
            trickle(post(), &[b'y'; 50], 50).try_send(),
        );
        assert_eq!(slow.unwrap().verdict(), "408 request_timeout");
        assert_eq!(steady.unwrap().status(), 200);
    }
    let whole: Vec<usize> = upstream
        .seen()
        .iter()
        .filter(|seen| seen.complete)
        .map(|seen| seen.body.len())
        .collect();
    assert_eq!(whole, [2500, 2500], "the others never ended");
}

#[tokio::test]
async fn the_connection_of_a_slow_body_is_closed() {
    let (_upstream, gateway) = scene(|setup| setup.listener("body_timeout = \"1s\"")).await;
    let mut raw = Raw::connect(gateway.address()).await;
    raw.send("POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 100000\r\n\r\n")
        .await;
    let mut stream = raw.into_stream();
    let mut answer = vec![];
    let mut beat = tokio::time::interval(Duration::from_millis(50));
    within("the end", async {
        loop {
            tokio::select! {
                read = stream.read_buf(&mut answer) => if matches!(read, Ok(0) | Err(_)) { return },
                _ = beat.tick() => drop(stream.try_write(b"x")),
            }
        }
    })
    .await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn without_a_least_rate_a_body_may_come_a_byte_at_a_time() {
    let lines = "body_timeout = \"1s\"\nbody_min_rate = 0";
    let (upstream, gateway) = scene(|setup| setup.listener(lines)).await;
    for version in BOTH {
        let request = gateway.post("/").version(version);
        let answer = trickle(request, b"x", 50).try_send().await;
        assert_eq!(answer.unwrap().status(), 200);
    }
    assert!(upstream.seen().iter().all(|seen| seen.complete));
}

#[tokio::test]
async fn a_service_that_reads_slowly_does_not_make_its_client_slow() {
    // More than all buffers hold, so that most of it waits with the client.
    const BYTES: usize = 64 * 1024 * 1024;
    let slow = RawService::start().await;
    let route = format!(
        "path = \"/slow\"\nauth = \"public\"\nupstream = \"{}\"",
        slow.url()
    );
    let setup = |setup: Setup| setup.listener("body_timeout = \"1s\"").route(route);
    let (_upstream, gateway) = scene(setup).await;
    for version in BOTH {
        let request = gateway.post("/slow").version(version);
        let answer = tokio::spawn(request.body(vec![b'x'; BYTES]).open());
        let (mut service, _) = slow.request().await;
        // Meanwhile another one is given up, twice: so much time has passed.
        for _ in 0..2 {
            let other = trickle(gateway.post("/").version(version), b"x", usize::MAX);
            let answer = other.try_send().await.unwrap();
            assert_eq!(answer.verdict(), "408 request_timeout");
        }
        assert!(service.read(BYTES - 64 * 1024).await, "all of it comes");
        service
            .send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            .await;
        let answer = within("the answer", answer).await.unwrap().unwrap();
        assert_eq!(answer.status(), 200, "{version:?}");
    }
}

/// An answer whose first frame has come and whose last is up to us.
async fn open(upstream: &Upstream, request: Request) -> (mpsc::Sender<Frame<Bytes>>, Incoming) {
    let (frames, reply) = Reply::stream();
    upstream.reply(reply);
    let answer = request.open().await.expect("a head");
    let mut body = answer.into_body();
    pass(&frames, &mut body).await;
    (frames, body)
}

async fn pass(frames: &mpsc::Sender<Frame<Bytes>>, body: &mut Incoming) {
    let tick = Frame::data("tick".into());
    frames.send(tick).await.expect("somebody listens");
    let frame = within("a frame", body.frame()).await.expect("a frame");
    let data = frame.expect("a good one").into_data();
    assert_eq!(data.expect("with data"), "tick");
}

#[tokio::test]
async fn an_answer_that_falls_silent_is_cut_and_a_patient_route_waits() {
    let (upstream, gateway) = scene(|setup| {
        setup
            .catch_all("idle_timeout = \"1s\"")
            .route("path = \"/events\"\nauth = \"public\"\nidle_timeout = \"24h\"")
    })
    .await;
    for version in BOTH {
        let (events, mut patient) = open(&upstream, gateway.get("/events").version(version)).await;
        let (silent, mut body) = open(&upstream, gateway.get("/").version(version)).await;
        let end = within("the end", body.frame()).await;
        assert!(matches!(end, Some(Err(_))), "not as if whole: {end:?}");
        within("the service to see it", silent.closed()).await;
        pass(&events, &mut patient).await;
    }
    let ended = gateway
        .metrics()
        .await
        .samples("jotgate_streams_ended_total");
    assert!(
        ended
            .iter()
            .any(|(labels, count)| labels["reason"] == "ended_silent" && *count == 2),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_silent_call_ends_with_a_status() {
    let (upstream, gateway) = scene(|setup| setup.catch_all("idle_timeout = \"1s\"")).await;
    let call = gateway
        .post("/shop.Orders/Watch")
        .h2()
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let (_frames, mut body) = open(&upstream, call).await;
    let end = within("the end", body.frame()).await.unwrap().unwrap();
    let trailers = end.into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "14");
}

#[tokio::test]
async fn an_upload_that_goes_on_keeps_a_silent_answer_alive() {
    let (upstream, gateway) = scene(|setup| setup.catch_all("idle_timeout = \"1s\"")).await;
    for version in BOTH {
        let post = || gateway.post("/").version(version);
        let uploading = trickle(post(), &[b'x'; 50], usize::MAX);
        let (frames, mut body) = open(&upstream, uploading).await;
        let (_silent, mut other) = open(&upstream, post()).await;
        assert!(within("the end", other.frame()).await.unwrap().is_err());
        pass(&frames, &mut body).await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_the_services_silence() {
    // More than all buffers hold, so that most of it waits with the service.
    const BYTES: usize = 64 * 1024 * 1024;
    let (upstream, gateway) = scene(|setup| setup.catch_all("idle_timeout = \"1s\"")).await;
    for version in BOTH {
        upstream.reply(Reply::body(vec![b'x'; BYTES]));
        let answer = gateway.get("/large").version(version).open().await.unwrap();
        // Meanwhile another one is cut for its silence: so much time has passed.
        let (_silent, mut other) = open(&upstream, gateway.get("/").version(version)).await;
        assert!(within("the end", other.frame()).await.unwrap().is_err());
        let body = within("the answer", answer.into_body().collect()).await;
        assert_eq!(body.unwrap().to_bytes().len(), BYTES);
    }
}

#[tokio::test]
async fn a_call_whose_messages_are_rare_goes_on() {
    let upstream = Upstream::start().await;
    let gateway = Setup::bare("service")
        .catch_all("auth = \"public\"")
        .listener("body_timeout = \"1s\"")
        .section(format!(
            "[[upstreams]]\nname = \"service\"\nservers = [\"{}\"]\nhttp2 = true",
            upstream.url()
        ))
        .start()
        .await;
    upstream.reply(Reply::Echo);
    let (messages, body) = mpsc::channel(1);
    let call = |body| {
        gateway
            .post("/shop.Orders/Chat")
            .h2()
            .header("te", "trailers")
            .stream(body)
    };
    let chat = tokio::spawn(call(body).header("content-type", "application/grpc").open());
    messages.send(Frame::data("one".into())).await.unwrap();
    let mut echo = within("the head", chat).await.unwrap().unwrap().into_body();
    let frame = within("an echo", echo.frame()).await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "one");
    // What is no call is given up meanwhile.
    let (silence, body) = mpsc::channel(1);
    let answer = call(body).try_send().await.unwrap();
    assert_eq!(answer.verdict(), "408 request_timeout");
    drop(silence);
    messages.send(Frame::data("two".into())).await.unwrap();
    let frame = within("an echo", echo.frame()).await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "two");
}

#[tokio::test]
async fn a_pretended_call_to_a_plain_service_has_no_privilege() {
    let (_upstream, gateway) = scene(|setup| setup.listener("body_timeout = \"1s\"")).await;
    let request = gateway.post("/").h2();
    let request = request.header("content-type", "application/grpc");
    let answer = trickle(request, b"x", usize::MAX).try_send().await;
    // The refusal in the form of gRPC.
    let message = answer.unwrap().header("grpc-message").map(str::to_owned);
    assert_eq!(message.as_deref(), Some("request_timeout"));
}

/// An answer that goes on for as long as somebody takes it.
async fn endless(
    upstream: &Upstream,
    gateway: &Gateway,
) -> (mpsc::Sender<Frame<Bytes>>, TcpStream) {
    let (frames, reply) = Reply::stream();
    upstream.reply(reply);
    let mut raw = Raw::connect(gateway.address()).await;
    raw.send("GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    let head = raw.read_until("\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let more = frames.clone();
    tokio::spawn(async move {
        let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
        while more.send(Frame::data(chunk.clone())).await.is_ok() {}
    });
    (frames, raw.into_stream())
}

#[tokio::test]
async fn who_takes_nothing_of_an_answer_is_cut_off_and_who_is_slow_but_steady_is_not() {
    let (upstream, gateway) = scene(|setup| setup.listener("idle_timeout = \"1s\"")).await;
    let (steady, mut client) = endless(&upstream, &gateway).await;
    let reading = tokio::spawn(async move {
        let mut beat = tokio::time::interval(Duration::from_millis(50));
        let mut room = vec![0; 32 * 1024];
        // Much less than the kernel would hold for it.
        while client.read_exact(&mut room).await.is_ok() {
            beat.tick().await;
        }
    });
    // Three times as long as anybody may take nothing.
    for _ in 0..3 {
        let (idle, _client) = endless(&upstream, &gateway).await;
        within("the one who takes nothing", idle.closed()).await;
    }
    assert!(!steady.is_closed() && !reading.is_finished());
    let faults = gateway
        .metrics()
        .await
        .samples("jotgate_connection_errors_total");
    let slow = |(labels, count): &(std::collections::BTreeMap<String, String>, u64)| {
        labels["reason"] == "slow_reader" && *count == 3
    };
    assert!(faults.iter().any(slow), "{faults:?}");
}

async fn tunnel(upstream: &Upstream, gateway: &Gateway) -> WebSocketStream<TcpStream> {
    upstream.reply(Reply::WebSocket);
    web_socket::open(gateway, &[]).await
}

#[tokio::test]
async fn a_tunnel_on_which_nothing_passes_is_closed_and_a_ping_is_something() {
    let (upstream, gateway) = scene(|setup| setup.catch_all("tunnel_idle_timeout = \"1s\"")).await;
    let mut lively = tunnel(&upstream, &gateway).await;
    let mut idle = tunnel(&upstream, &gateway).await;
    let began = Instant::now();
    let mut beat = tokio::time::interval(Duration::from_millis(100));
    let close = within("the close", async {
        loop {
            tokio::select! {
                message = idle.next() => return message,
                _ = beat.tick() => lively.send(Message::Ping(Bytes::new())).await.unwrap(),
            }
        }
    })
    .await;
    let Some(Ok(Message::Close(Some(frame)))) = close else {
        panic!("{close:?} is no close");
    };
    assert_eq!(frame.code, CloseCode::Away);
    assert!(began.elapsed() >= Duration::from_millis(800));
    eventually("the service's side to end", async || {
        (upstream.open() == 1).then_some(())
    })
    .await;
    lively.send(Message::text("still here")).await.unwrap();
    let echo = within("an echo", async {
        loop {
            match lively.next().await.unwrap().unwrap() {
                Message::Pong(_) => {}
                other => return other,
            }
        }
    })
    .await;
    assert_eq!(echo.into_text().unwrap(), "still here");
}

#[tokio::test]
async fn a_tunnel_on_which_only_the_service_talks_is_not_idle() {
    let service = RawService::start().await;
    let gateway = Setup::bare(&service.url())
        .catch_all("auth = \"public\"\ntunnel_idle_timeout = \"1s\"")
        .start()
        .await;
    let handshake = "GET /chat HTTP/1.1\r\nhost: shop\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let open = async || {
        let mut client = Raw::connect(gateway.address()).await;
        client.send(handshake).await;
        let (mut raw, _) = service.request().await;
        raw.send(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        )
        .await;
        let head = client.read_head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        (client, raw)
    };
    let (mut client, mut talking) = open().await;
    let (mut other, _silent) = open().await;
    let mut beat = tokio::time::interval(Duration::from_millis(100));
    let mut said = 0;
    let end = async {
        loop {
            tokio::select! {
                end = other.read_to_end() => return end,
                _ = beat.tick() => {
                    // An empty ping.
                    talking.send([0x89, 0]).await;
                    said += 1;
                }
            }
        }
    };
    assert!(end.await.starts_with('\u{fffd}'), "a close frame");
    assert!(said > 5, "{said}");
    talking.send("last").await;
    assert!(client.read_until("last").await.contains("last"));
}

#[tokio::test]
async fn connections_beyond_the_limit_come_in_when_the_deadlines_end_others() {
    const PLACES: usize = 20;
    let lines = format!(
        "max_connections = {PLACES}\nheader_timeout = \"1s\"\nidle_timeout = \"1s\"\nbody_timeout = \"1s\""
    );
    let (upstream, gateway) = scene(|setup| setup.listener(lines)).await;
    let mut held = vec![];
    for n in 0..3 * PLACES {
        let mut raw = Raw::connect(gateway.address()).await;
        let some = [
            "",
            "GET / HTTP/1.1\r\nhost: sh",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 9\r\n\r\nabc",
        ];
        raw.send(some[n % some.len()]).await;
        held.push(raw);
    }
    let served =
        async || (gateway.get("/last").try_send().await).is_ok_and(|answer| answer.status() == 200);
    assert!(
        served().await,
        "behind three times as many as there are places"
    );
    let last = upstream.last();
    assert_eq!(last.target, "/last");
    assert!(
        upstream
            .seen()
            .iter()
            .all(|seen| seen.complete == (seen.target == "/last"))
    );
}
