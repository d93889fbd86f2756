//! HTTP/2 floods and stalls, frame by frame: each ends its own connection or costs next to nothing, and others are served
//! meanwhile.

use std::time::Duration;

use bytes::Bytes;
use hyper::body::Frame as BodyFrame;
use tokio::sync::mpsc;

use crate::support::h2::{
    ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, H2,
    HEADER_TABLE_SIZE, HEADERS, INITIAL_WINDOW_SIZE, MARK, NO_ERROR, Outcome, PING, PRIORITY,
    PROTOCOL_ERROR, PUSH_PROMISE, REFUSED_STREAM, RST_STREAM, frame, head, indexed, kept_field,
    request, rst_stream, settings, window_update,
};
use crate::support::raw::Raw;
use crate::support::{Gateway, Issuer, Reply, Setup, Upstream, eventually, within};

struct Scene {
    issuer: Issuer,
    upstream: Upstream,
    /// A service that never answers, below `/hang`.
    hanging: Upstream,
    gateway: Gateway,
}

async fn scene_with(change: impl FnOnce(Setup) -> Setup) -> Scene {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let hanging = Upstream::start().await;
    for _ in 0..2000 {
        hanging.reply(Reply::Hang);
    }
    let setup = Setup::new(&issuer, &upstream)
        .route("path = \"/public\"\nauth = \"public\"")
        .route(format!(
            "path = \"/hang\"\nauth = \"public\"\nupstream = \"{}\"",
            hanging.url()
        ));
    Scene {
        gateway: change(setup).start().await,
        issuer,
        upstream,
        hanging,
    }
}

async fn scene() -> Scene {
    scene_with(|setup| setup).await
}

impl Scene {
    async fn connect(&self) -> H2 {
        H2::connect(self.gateway.address()).await
    }

    /// A client with clean hands gets its answer.
    async fn serves_others(&self) {
        let seen = self.upstream.count();
        let answer = self.gateway.get("/public").h2().await;
        assert_eq!(answer.status(), 200);
        assert_eq!(self.upstream.count(), seen + 1);
    }

    /// The connection ends before so many of these were read, and others are served. Returns how many were sent, of
    /// which the sockets hold some.
    #[track_caller]
    fn ends(&self, what: &str, bytes: impl FnMut(u32) -> Vec<u8>) -> impl Future<Output = u32> {
        let place = std::panic::Location::caller();
        let what = what.to_owned();
        async move {
            let sent = self.connect().await.flood(bytes).await;
            self.serves_others().await;
            println!("{place}: {what}: over after {sent}");
            sent
        }
    }

    /// Nothing is at work any more for whoever is gone.
    async fn rests(&self) {
        eventually("the end of the services' work", async || {
            (self.hanging.open() == 0).then_some(())
        })
        .await;
    }

    /// How many connections ended for this reason.
    async fn connections_ended(&self, reason: &str) -> u64 {
        let metrics = self.gateway.metrics().await;
        metrics
            .samples("jotgate_connection_errors_total")
            .into_iter()
            .filter(|(labels, _)| labels["reason"] == reason)
            .map(|(_, count)| count)
            .sum()
    }
}

/// The nth stream of a client.
const fn nth(n: u32) -> u32 {
    2 * n + 1
}

#[tokio::test]
async fn frames_that_carry_nothing_end_the_connection() {
    let scene = scene().await;
    let floods = [
        ("PING", frame(PING, 0, 0, [7; 8])),
        ("an answer to no PING", frame(PING, ACK, 0, [7; 8])),
        ("SETTINGS", settings(&[])),
        (
            "SETTINGS of a window",
            settings(&[(INITIAL_WINDOW_SIZE, 1)]),
        ),
        (
            "SETTINGS of a table",
            settings(&[(HEADER_TABLE_SIZE, u32::MAX)]),
        ),
        ("SETTINGS that nobody knows", settings(&[(0xfafa, 1)])),
        ("priorities", frame(PRIORITY, 0, 1, [0, 0, 0, 3, 16])),
        ("priority updates", frame(16, 0, 0, b"\0\0\0\x01u=1")),
        ("window updates", window_update(0, 1)),
        ("GOAWAY", frame(GOAWAY, 0, 0, [0; 8])),
        ("unknown frames", frame(0xfa, 0xff, 1, "x")),
        ("empty unknown frames", frame(0xfa, 0, 0, "")),
    ];
    let floods_in_all = u64::try_from(floods.len()).expect("some");
    for (what, bytes) in floods {
        // As a client that is in the middle of something.
        let mut h2 = scene.connect().await;
        let count = scene.hanging.count();
        h2.send(request(1, "GET", "/hang", &[])).await;
        scene.hanging.arrived(count + 1).await;
        let hundred = [&bytes.repeat(99), MARK].concat();
        let mut hundreds = 0;
        while h2.pour(&hundred).await {
            hundreds += 1;
        }
        // 10,000 and what 128 streams may cost, without the one that is open.
        assert_eq!(hundreds, 125, "{what}");
        scene.rests().await;
        scene.serves_others().await;
    }
    let ended = scene.connections_ended("flood").await;
    assert_eq!(ended, floods_in_all, "each of them, and no other");
}

#[tokio::test]
async fn requests_that_are_reset_at_once_end_the_connection() {
    let scene = scene().await;
    // Before they have begun (CVE-2023-44487): many in one segment.
    let given_up = |n| {
        [
            request(nth(n), "GET", "/hang", &[]),
            rst_stream(nth(n), CANCEL),
        ]
        .concat()
    };
    scene
        .ends("rapid reset", |n| {
            (n * 64..(n + 1) * 64).flat_map(given_up).collect()
        })
        .await;
    let begun = scene.hanging.count();
    assert!(begun < 100, "{begun} reached the service");
    // After they have begun, one by one.
    let mut h2 = scene.connect().await;
    for n in 0..2000 {
        h2.send(request(nth(n), "GET", "/hang", &[])).await;
        let count = scene.hanging.count();
        let begins = async {
            while scene.hanging.count() == count && h2.is_open() {
                tokio::task::yield_now().await;
            }
        };
        within("a request at the service", begins).await;
        h2.send(rst_stream(nth(n), CANCEL)).await;
    }
    assert!(!h2.is_open());
    let begun = scene.hanging.count() - begun;
    assert!((100..800).contains(&begun), "{begun} reached the service");
    assert_eq!(scene.connections_ended("flood").await, 1);
    scene.rests().await;
    scene.serves_others().await;
}

/// What it is, and its bytes on a stream.
type Provocation = (&'static str, fn(u32) -> Vec<u8>);

#[tokio::test]
async fn requests_that_make_us_reset_them_end_the_connection() {
    let scene = scene().await;
    // CVE-2025-8671: each of these makes the gateway reset a stream whose request has begun.
    let provocations: [Provocation; 4] = [
        ("a window that overflows", |stream| {
            window_update(stream, (1 << 31) - 1)
        }),
        ("a priority of itself", |stream| {
            let mut on_itself = stream.to_be_bytes().to_vec();
            on_itself.push(16);
            frame(PRIORITY, 0, stream, on_itself)
        }),
        ("HEADERS after the end", |stream| {
            request(stream, "GET", "/hang", &[])
        }),
        ("more data than announced", |stream| {
            [
                frame(DATA, 0, stream, "more"),
                frame(DATA, 0, stream, "more"),
            ]
            .concat()
        }),
    ];
    for (what, provoke) in provocations {
        // A body that is cut is nothing to a service that does not read.
        let (service, path) = if what.starts_with("more") {
            (&scene.upstream, "/public")
        } else {
            (&scene.hanging, "/hang")
        };
        let begin = |stream| {
            if what.starts_with("more") {
                let fields = head("POST", path, &[("content-length", "5")]);
                frame(HEADERS, END_HEADERS, stream, fields)
            } else {
                request(stream, "GET", path, &[])
            }
        };
        let mut h2 = scene.connect().await;
        let count = service.count();
        h2.send(begin(1)).await;
        service.arrived(count + 1).await;
        let open = service.open();
        let outcome = h2.ask(1, provoke(1)).await;
        assert!(
            matches!(outcome, Outcome::Reset(_) | Outcome::GoneAway(_)),
            "{what}: {outcome:?}"
        );
        eventually("the end of its work", async || {
            (service.open() < open).then_some(())
        })
        .await;
        // Again and again.
        scene
            .ends(what, |n| [begin(nth(n)), provoke(nth(n))].concat())
            .await;
    }
    scene.rests().await;
}

#[tokio::test]
async fn who_breaks_the_rules_of_the_connection_loses_it() {
    let scene = scene().await;
    for (what, bytes) in [
        ("an update of nothing", window_update(1, 0)),
        ("an update of nothing for all", window_update(0, 0)),
        (
            "a window for all that overflows",
            window_update(0, (1 << 31) - 1),
        ),
        ("DATA after the end", frame(DATA, 0, 1, "x")),
        (
            "a priority of the wrong size",
            frame(PRIORITY, 0, 1, [0; 4]),
        ),
        ("a reset of the wrong size", frame(RST_STREAM, 0, 1, [0; 3])),
        ("a reset of no stream", rst_stream(101, CANCEL)),
        ("a PING of the wrong size", frame(PING, 0, 0, [0; 7])),
        (
            "a window that is too large",
            settings(&[(INITIAL_WINDOW_SIZE, 1 << 31)]),
        ),
        (
            "an answer to no SETTINGS",
            [frame(4, ACK, 0, ""), frame(4, ACK, 0, "")].concat(),
        ),
        (
            "a promise",
            frame(PUSH_PROMISE, END_HEADERS, 1, [0, 0, 0, 2]),
        ),
        ("padding beyond the frame", frame(DATA, 8, 1, [200])),
    ] {
        let mut h2 = scene.connect().await;
        h2.send(request(1, "GET", "/hang", &[])).await;
        let outcome = h2.ask(1, bytes).await;
        assert!(
            matches!(outcome, Outcome::GoneAway(code) if code != NO_ERROR)
                || outcome == Outcome::Closed,
            "{what}: {outcome:?}"
        );
    }
    scene.rests().await;
}

#[tokio::test]
async fn heads_without_an_end_end_the_connection() {
    let scene = scene().await;
    // CVE-2024-27316.
    let begin = frame(HEADERS, END_STREAM, 1, head("GET", "/public", &[]));
    for (what, piece) in [
        (
            "CONTINUATION",
            crate::support::h2::field("x", "y".repeat(1000)),
        ),
        ("empty CONTINUATION", vec![]),
        ("a byte each", vec![0]),
    ] {
        let sent = scene
            .ends(what, |n| match n {
                0 => begin.clone(),
                _ => frame(CONTINUATION, 0, 1, &piece).repeat(10),
            })
            .await;
        assert!(sent > 0, "{what}");
    }
    let mut h2 = scene.connect().await;
    let six = frame(CONTINUATION, 0, 1, "").repeat(6);
    let outcome = h2.ask(1, [begin, six].concat()).await;
    assert_eq!(outcome, Outcome::GoneAway(ENHANCE_YOUR_CALM));
    scene.serves_others().await;
}

#[tokio::test]
async fn what_a_table_unfolds_counts_unfolded() {
    let scene = scene().await;
    // One header of 4,000 bytes in the table, then named with one byte each time: 128 KiB from 32 bytes.
    let bomb = |stream, times| {
        let mut fields = head("GET", "/public", &[]);
        if stream == 1 {
            fields.extend(kept_field("x", "y".repeat(4000)));
        }
        fields.extend(indexed(62).repeat(times));
        frame(HEADERS, END_STREAM | END_HEADERS, stream, fields)
    };
    let mut h2 = scene.connect().await;
    let outcome = h2.ask(1, bomb(1, 6)).await;
    assert_eq!(outcome.status(), 200, "below the bound: {outcome:?}");
    let outcome = h2.ask(3, bomb(3, 10)).await;
    assert_eq!(outcome.status(), 431, "{outcome:?}");
    let outcome = h2.ask(5, bomb(5, 16_000)).await;
    assert_eq!(outcome, Outcome::GoneAway(ENHANCE_YOUR_CALM));
    scene.serves_others().await;
    assert_eq!(
        scene.upstream.count(),
        2,
        "the first, and the other client's"
    );
}

#[tokio::test]
async fn data_that_carries_nothing_ends_the_connection() {
    let scene = scene().await;
    let open = frame(HEADERS, END_HEADERS, 1, head("POST", "/hang", &[]));
    for (what, data) in [
        ("empty DATA", frame(DATA, 0, 1, "")),
        ("padding alone", frame(DATA, 8, 1, [1, 0])),
        // The service reads nothing, so each of them would be kept, at a hundred times its size.
        ("DATA of one byte", frame(DATA, 0, 1, "x")),
    ] {
        let mut h2 = scene.connect().await;
        let bytes = [open.clone(), data.repeat(1_000_000 / data.len())].concat();
        let outcome = h2.ask(1, bytes).await;
        assert!(
            matches!(
                outcome,
                Outcome::GoneAway(ENHANCE_YOUR_CALM) | Outcome::Closed
            ),
            "{what}: {outcome:?}"
        );
        scene.serves_others().await;
    }
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused() {
    let scene = scene_with(|setup| setup.listener("max_streams = 4")).await;
    let mut h2 = scene.connect().await;
    for n in 0..4 {
        h2.send(request(nth(n), "GET", "/hang", &[])).await;
    }
    scene.hanging.arrived(4).await;
    let outcome = h2.ask(9, request(9, "GET", "/public", &[])).await;
    assert_eq!(outcome, Outcome::Reset(REFUSED_STREAM));
    // One that ends makes room for one.
    h2.send(rst_stream(1, CANCEL)).await;
    let outcome = h2.ask(11, request(11, "GET", "/public", &[])).await;
    assert_eq!(outcome.status(), 200);
    assert_eq!(scene.upstream.count(), 1);
    h2.send(request(13, "GET", "/hang", &[])).await;
    scene.hanging.arrived(5).await;
    h2.flood(|n| request(nth(7 + n), "GET", "/hang", &[])).await;
    scene.serves_others().await;
    assert_eq!(scene.hanging.count(), 5);
    scene.rests().await;
}

#[tokio::test]
async fn a_table_is_as_large_as_we_say() {
    let scene = scene().await;
    let hello = settings(&[(HEADER_TABLE_SIZE, u32::MAX)]);
    let mut h2 = H2::connect_with(scene.gateway.address(), hello).await;
    // It is not ours to keep what a client would like us to; nor is more of the client's kept than was agreed.
    let mut fields = vec![0x3f, 0xe1, 0xff, 0x03];
    fields.extend(head("GET", "/public", &[]));
    let larger = frame(HEADERS, END_STREAM | END_HEADERS, 1, fields);
    let outcome = h2.ask(1, larger).await;
    assert_eq!(outcome, Outcome::GoneAway(PROTOCOL_ERROR));
    scene.serves_others().await;
}

/// Seconds that a connection may be idle, and a client stalled, in scenarios that wait for the end of it.
const IDLE: &str = "idle_timeout = \"1s\"";

#[tokio::test]
async fn an_idle_connection_ends_whatever_frames_it_sends() {
    let scene = scene_with(|setup| setup.listener(IDLE)).await;
    let mut silent = scene.connect().await;
    let mut pinging = scene.connect().await;
    let outcome = pinging.ask(1, request(1, "GET", "/public", &[])).await;
    assert_eq!(outcome.status(), 200);
    // A head that is never finished.
    let mut unfinished = scene.connect().await;
    let begun = frame(HEADERS, END_STREAM, 1, head("GET", "/public", &[]));
    unfinished.send(begun).await;
    let pinging = async { while pinging.pour(MARK).await {} };
    let silent = async {
        let mut told = false;
        while let Some(came) = silent.next().await {
            told |= came.kind == GOAWAY && came.code() == NO_ERROR;
        }
        told
    };
    let ((), told, outcome) = tokio::join!(pinging, silent, unfinished.outcome(1));
    assert!(told, "first GOAWAY, then the end");
    assert!(!matches!(outcome, Outcome::Answer(..)), "{outcome:?}");
    assert_eq!(scene.upstream.count(), 1);
}

#[tokio::test]
async fn a_stream_that_is_never_finished_is_given_up() {
    let scene = scene_with(|setup| setup.listener("body_timeout = \"1s\"")).await;
    let mut h2 = scene.connect().await;
    let open = |stream| frame(HEADERS, END_HEADERS, stream, head("POST", "/public", &[]));
    let outcome = h2.ask(1, open(1)).await;
    assert_eq!(outcome.verdict(), "408 request_timeout");
    // Nor is a refused one kept.
    let fields = head("POST", "/", &[]);
    let outcome = h2.ask(3, frame(HEADERS, END_HEADERS, 3, fields)).await;
    assert_eq!(outcome.verdict(), "401 no_token");
    let reset = async {
        while let Some(came) = h2.next().await {
            if came.kind == RST_STREAM && came.stream == 3 {
                return came.code();
            }
        }
        panic!("the connection ended");
    };
    assert_eq!(within("the reset", reset).await, NO_ERROR);
    let outcome = h2.ask(5, request(5, "GET", "/public", &[])).await;
    assert_eq!(outcome.status(), 200, "the connection goes on");
    let seen = scene.upstream.seen();
    assert!(seen[..seen.len() - 1].iter().all(|seen| !seen.complete));
}

/// A client whose windows are closed from the beginning, or open for so many bytes.
async fn stalled(scene: &Scene, window: u32) -> H2 {
    let of_all = window_update(0, (1 << 30) - 1);
    let hello = [settings(&[(INITIAL_WINDOW_SIZE, window)]), of_all].concat();
    H2::connect_with(scene.gateway.address(), hello).await
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_an_answer_is_given_up() {
    let scene = scene_with(|setup| setup.listener(IDLE)).await;
    for window in [0, 1, 20_000] {
        let mut h2 = stalled(&scene, window).await;
        // More than all that is buffered on the way, so that the service notices, too.
        let (frames, reply) = Reply::stream();
        scene.upstream.reply(reply);
        h2.send(request(1, "GET", "/public", &[])).await;
        let large = Bytes::from(vec![7; 64 * 1024]);
        let endless = async { while frames.send(BodyFrame::data(large.clone())).await.is_ok() {} };
        within("the end of the service's work", endless).await;
        assert_eq!(h2.outcome(1).await, Outcome::Reset(CANCEL), "{window}");
        let outcome = h2.ask(3, request(3, "HEAD", "/public", &[])).await;
        assert_eq!(outcome.status(), 200, "the connection goes on");
    }
    // An answer of our own.
    let mut h2 = stalled(&scene, 0).await;
    let outcome = h2.ask(1, request(1, "GET", "/", &[])).await;
    assert_eq!(outcome, Outcome::Reset(CANCEL));
    scene.serves_others().await;
}

#[tokio::test]
async fn a_client_that_takes_its_answer_slowly_is_not_given_up() {
    const SIZE: usize = 64 * 1024;
    let scene = scene_with(|setup| setup.listener(IDLE)).await;
    let mut h2 = stalled(&scene, 0).await;
    scene.upstream.reply(Reply::body(vec![7; SIZE]));
    h2.send(request(1, "GET", "/public", &[])).await;
    let (mut open, mut came) = (0, 0);
    let mut pause = tokio::time::interval(Duration::from_millis(300));
    // Twice as long as it may take nothing.
    let took = async {
        while came < SIZE {
            pause.tick().await;
            h2.send(window_update(1, 8 * 1024)).await;
            open += 8 * 1024;
            while came < open {
                let frame = h2.next().await.expect("the connection goes on");
                assert_ne!(frame.kind, RST_STREAM, "after {came}");
                if frame.kind == DATA {
                    came += frame.payload.len();
                }
            }
        }
    };
    within("the answer", took).await;
    assert_eq!(came, SIZE);
}

/// An answer that never ends, on its way to a client that takes nothing more of it.
async fn fills_up(
    scene: &Scene,
    request: impl Future<Output = ()>,
) -> mpsc::Sender<BodyFrame<Bytes>> {
    let (frames, reply) = Reply::stream();
    scene.upstream.reply(reply);
    request.await;
    let piece = Bytes::from(vec![7; 10_000]);
    let full = async { while frames.send(BodyFrame::data(piece.clone())).await.is_ok() {} };
    let full = tokio::time::timeout(Duration::from_millis(500), full).await;
    assert!(full.is_err(), "nothing more is taken from the service");
    frames
}

#[tokio::test]
async fn a_revoked_answer_ends_at_once_even_if_its_client_takes_nothing() {
    let scene = scene().await;
    for (n, window) in [0, 70_000].into_iter().enumerate() {
        let sid = format!("s{n}");
        let token = scene.issuer.token("alice").sid(&sid).sign();
        let bearer = format!("Bearer {token}");
        let mut h2 = stalled(&scene, window).await;
        let asking = h2.send(request(1, "GET", "/", &[("authorization", &bearer)]));
        let frames = fills_up(&scene, asking).await;
        let admin = scene.gateway.admin();
        admin.revoke_session(scene.issuer.url(), &sid).await;
        within("the end of the service's work", frames.closed()).await;
        assert_eq!(h2.outcome(1).await, Outcome::Reset(CANCEL), "{window}");
    }
    let token = scene.issuer.token("alice").sid("http1").sign();
    let mut raw = Raw::connect(scene.gateway.address()).await;
    let asking = raw.send(format!(
        "GET / HTTP/1.1\r\nhost: shop\r\nauthorization: Bearer {token}\r\n\r\n"
    ));
    let frames = fills_up(&scene, asking).await;
    let admin = scene.gateway.admin();
    admin.revoke_session(scene.issuer.url(), "http1").await;
    within("the end of the service's work", frames.closed()).await;
    let answer = raw.read_to_end().await;
    assert!(!answer.ends_with("0\r\n\r\n"), "nobody takes it for whole");
}
