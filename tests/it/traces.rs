//! Traces: what the service is told, and what arrives at a collector.

use hyper::body::Frame;
use jotgate::base::clock::Clock;
use serde_json::Value;

use crate::support::authority::{Authority, HTTP_11, quoted};
use crate::support::collector::{Collector, Span};
use crate::support::process::Process;
use crate::support::service::BlackHole;
use crate::support::tokens::{NOW, split};
use crate::support::upstream::{Refusing, Seen};
use crate::support::{Gateway, Issuer, Reply, Setup, Upstream, eventually};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{CALLER}-{flags}")
}

/// A gateway that sends its traces to `collector`.
struct Scene {
    collector: Collector,
    issuer: Issuer,
    upstream: Upstream,
    gateway: Gateway,
}

impl Scene {
    async fn start(lines: &str) -> Self {
        Self::with(lines, |setup| setup).await
    }

    async fn with(lines: &str, change: impl FnOnce(Setup) -> Setup) -> Self {
        let collector = Collector::start().await;
        let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
        let section = otlp(&collector.url(), lines);
        let setup = Setup::new(&issuer, &upstream).section(section);
        let gateway = change(setup).start().await;
        Self {
            collector,
            issuer,
            upstream,
            gateway,
        }
    }

    fn token(&self) -> String {
        self.issuer.token("alice").sign()
    }
}

fn otlp(url: &str, lines: &str) -> String {
    format!("[telemetry.otlp]\nendpoint = \"{url}\"\n{lines}\n")
}

/// Spans that were counted with this result.
async fn spans(gateway: &Gateway, result: &str) -> u64 {
    let series = format!("jotgate_trace_spans_total{{result=\"{result}\"}}");
    gateway.metrics().await.value(&series).unwrap_or_default()
}

/// Trace, span and flags that the service was told.
fn told(seen: &Seen) -> (String, String, String) {
    let text = seen.header("traceparent").expect("a traceparent");
    let parts: Vec<&str> = text.split('-').collect();
    let [version, trace, span, flags] = parts[..] else {
        panic!("{text} is no traceparent");
    };
    assert_eq!((version, trace.len(), span.len()), ("00", 32, 16), "{text}");
    (trace.to_owned(), span.to_owned(), flags.to_owned())
}

#[tokio::test]
async fn without_traces_what_the_headers_say_passes_untouched() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .catch_all("auth = \"public\"")
        .start()
        .await;
    let request = gateway.get("/").header("traceparent", "whatever");
    let request = request.header("tracestate", "A").header("tracestate", "=B");
    assert_eq!(request.await.status(), 200);
    assert_eq!(gateway.get("/").await.status(), 200);
    let [said, silent] = &upstream.seen()[..] else {
        panic!("two requests");
    };
    assert_eq!(said.all("traceparent"), ["whatever"]);
    assert_eq!(said.all("tracestate"), ["A", "=B"]);
    assert!(silent.aliases("traceparent").is_empty(), "{silent:?}");
}

#[tokio::test]
async fn a_request_becomes_three_spans_that_hang_together() {
    let scene = Scene::start("service_name = \"edge\"").await;
    let answer = scene
        .gateway
        .get("/orders/7?token=secret")
        .host("shop.example:8080")
        .bearer(&scene.token())
        .await;
    assert_eq!(answer.status(), 200);
    let (server, decision, client) = scene.collector.request("/orders/7").await;
    let client = client.expect("the service was asked");

    assert_eq!(server.parent(), "", "a trace of its own");
    assert_eq!(server.trace().len(), 32);
    assert_ne!(server.trace(), "0".repeat(32));
    for child in [&decision, &client] {
        assert_eq!(
            (child.trace(), child.parent()),
            (server.trace(), server.id())
        );
    }
    let kinds = [&server, &decision, &client].map(|span| span.inner.kind);
    assert_eq!(kinds, [2, 1, 3], "server, internal, client");
    let names = [&server, &decision, &client].map(|span| span.inner.name.as_str());
    assert_eq!(names, ["GET all", "decision", "GET"]);
    for (key, value) in [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("url.path", "/orders/7"),
        ("url.scheme", "http"),
        ("server.address", "shop.example"),
        ("server.port", "8080"),
        ("client.address", "127.0.0.1"),
        ("network.peer.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("jotgate.route", "all"),
        ("jotgate.issuer", "main"),
        ("jotgate.code", "ok"),
        ("error.type", ""),
    ] {
        assert_eq!(server.get(key), value, "{key}");
    }
    assert_eq!(decision.get("jotgate.code"), "ok");
    assert_eq!(client.get("http.response.status_code"), "200");
    assert_eq!(client.get("jotgate.upstream"), scene.upstream.url());
    assert!(
        ![&server, &decision, &client]
            .into_iter()
            .any(Span::is_error)
    );

    let began = server.inner.start_time_unix_nano;
    assert_eq!(began, NOW * 1_000_000_000, "by the gateway's clock");
    let ends = |span: &Span| {
        (
            span.inner.start_time_unix_nano,
            span.inner.end_time_unix_nano,
        )
    };
    let ((d0, d1), (c0, c1), (_, end)) = (ends(&decision), ends(&client), ends(&server));
    assert!(began == d0 && d0 <= d1 && d1 <= c0 && c0 < c1 && c1 <= end);
    assert_eq!(server.resource["service.name"], "edge");
    assert_eq!(server.resource["service.instance.id"].len(), 32);

    let everything = format!("{:?}", scene.collector.spans());
    assert!(!everything.contains("secret"), "{everything}");
    assert!(
        !everything.contains(split(&scene.token())[1]),
        "{everything}"
    );
    // The service's own spans hang below the one that asked it.
    let expected = (server.trace(), client.id(), "01".to_owned());
    assert_eq!(told(&scene.upstream.last()), expected);
}

#[tokio::test]
async fn a_trace_is_continued_and_its_state_passed_on() {
    let scene = Scene::with("", |setup| setup.catch_all("auth = \"public\"")).await;
    let request = scene.gateway.get("/on").header("traceparent", parent("00"));
    let request = request
        .header("tracestate", "a=1, b=2")
        .header("tracestate", "c=3");
    assert_eq!(
        request.header("connection", "traceparent").await.status(),
        200
    );
    let (server, _, client) = scene.collector.request("/on").await;
    assert_eq!(
        (server.trace().as_str(), server.parent().as_str()),
        (TRACE, CALLER)
    );
    assert_eq!(
        server.inner.flags, 0x301,
        "the parent is known to be remote"
    );
    assert_eq!(server.inner.trace_state, "a=1,b=2,c=3");
    let seen = scene.upstream.last();
    assert_eq!(seen.header("tracestate").as_deref(), Some("a=1,b=2,c=3"));
    assert_eq!(
        told(&seen),
        (TRACE.into(), client.expect("asked").id(), "01".into())
    );
}

#[tokio::test]
async fn a_bad_traceparent_is_replaced_and_takes_its_state_along() {
    let scene = Scene::with("sample = 0", |setup| setup.catch_all("auth = \"public\"")).await;
    let good = parent("01");
    let upper = good.to_uppercase();
    let bad: [&[&str]; 5] = [
        &[&upper],
        &["00-0-0-01"],
        &[&good, &good],
        &["00-00000000000000000000000000000000-00f067aa0ba902b7-01"],
        &[],
    ];
    for lines in bad {
        let mut request = scene.gateway.get("/").header("tracestate", "a=1");
        for line in lines {
            request = request.header("traceparent", line);
        }
        assert_eq!(request.await.status(), 200);
        let seen = scene.upstream.last();
        let (trace, _, flags) = told(&seen);
        assert_ne!(trace, TRACE, "{lines:?}");
        assert_eq!(flags, "00", "nothing is recorded");
        assert_eq!(seen.header("tracestate"), None, "{lines:?}");
    }
    let request = scene.gateway.get("/").header("traceparent", &good);
    assert_eq!(request.header("tracestate", "a=1,a=2").await.status(), 200);
    let seen = scene.upstream.last();
    assert_eq!(told(&seen).0, TRACE, "a bad state alone ends no trace");
    assert_eq!(seen.header("tracestate"), None);
}

#[tokio::test]
async fn who_is_not_trusted_does_not_say_what_is_recorded() {
    let scene = Scene::with("sample = 0", |setup| {
        setup
            .catch_all("auth = \"public\"")
            .listener("trusted_proxies = [\"127.0.0.2/32\"]")
    })
    .await;
    let ask = |path: &str, from| {
        let request = scene.gateway.get(path).from(from);
        request.header("traceparent", parent("01"))
    };
    assert_eq!(ask("/stranger", [127, 0, 0, 3]).await.status(), 200);
    let seen = scene.upstream.last();
    let (trace, span, flags) = told(&seen);
    assert_eq!((trace.as_str(), flags.as_str()), (TRACE, "00"));
    assert_ne!(span, CALLER);
    assert_eq!(ask("/proxy", [127, 0, 0, 2]).await.status(), 200);
    let (server, ..) = scene.collector.request("/proxy").await;
    assert_eq!(server.trace(), TRACE);
    let of = |path: &str| {
        scene
            .collector
            .spans()
            .iter()
            .any(|span| span.get("url.path") == path)
    };
    assert!(!of("/stranger"));
    assert_eq!(told(&scene.upstream.last()).2, "01");
}

#[tokio::test]
async fn refusals_and_failures_say_whose_fault_they_are() {
    let scene = Scene::with("", |setup| {
        setup.route("path = \"/nowhere\"\nauth = \"public\"\nupstream = \"http://127.0.0.1:1\"")
    })
    .await;
    let gateway = &scene.gateway;
    assert_eq!(gateway.get("/refused").await.status(), 401);
    let (server, decision, client) = scene.collector.request("/refused").await;
    assert!(client.is_none(), "the service was not asked");
    assert_eq!(server.get("jotgate.code"), "no_token");
    assert_eq!(decision.get("jotgate.code"), "no_token");
    assert!(
        !server.is_error(),
        "the client's fault is none of the server's"
    );

    scene.upstream.reply(Reply::status(503));
    let answer = gateway.get("/failed").bearer(&scene.token()).await;
    assert_eq!(answer.status(), 503);
    let (server, _, client) = scene.collector.request("/failed").await;
    let client = client.expect("asked");
    assert!(server.is_error() && client.is_error());
    assert_eq!(
        (server.get("error.type"), client.get("error.type")),
        ("503", "503")
    );

    assert_eq!(gateway.get("/nowhere").await.status(), 502);
    let (server, decision, client) = scene.collector.request("/nowhere").await;
    assert_eq!(decision.get("jotgate.code"), "ok", "it was let in");
    let client = client.expect("tried");
    assert!(server.is_error() && client.is_error());
    assert_eq!(client.get("error.type"), "upstream_unreachable");
    assert_eq!(client.get("http.response.status_code"), "");

    let (frames, reply) = Reply::stream();
    scene.upstream.reply(reply);
    let answer = gateway.get("/broken").bearer(&scene.token()).open().await;
    frames.send(Frame::data("a".into())).await.unwrap();
    drop(answer.unwrap());
    let (server, ..) = scene.collector.request("/broken").await;
    assert_eq!(server.get("error.type"), "incomplete");
    drop(frames);
    assert_eq!(scene.upstream.count(), 2);
}

#[tokio::test]
async fn a_collector_that_is_away_or_silent_hurts_no_request() {
    let (hole, refusing) = (BlackHole::start().await, Refusing::start());
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    for url in [refusing.url(), hole.url()] {
        let gateway = Setup::new(&issuer, &upstream)
            .section(otlp(&url, "timeout = \"100ms\""))
            .start()
            .await;
        let token = issuer.token("alice").sign();
        for _ in 0..20 {
            let answer = gateway.get("/orders").bearer(&token).await;
            assert_eq!(answer.status(), 200);
        }
        assert_eq!(told(&upstream.last()).2, "01");
        // The end gives up on them, too.
        gateway.shutdown().await;
    }
    assert_eq!(upstream.count(), 40);
}

#[tokio::test]
async fn a_message_is_authenticated_sent_again_and_counted() {
    let scene = Scene::with(
        "headers = { x-key = { env = \"COLLECTOR_KEY\" } }",
        |setup| setup.env("COLLECTOR_KEY", "key-of-the-collector"),
    )
    .await;
    scene.collector.refuse(&[503]);
    assert_eq!(scene.gateway.get("/again").await.status(), 401);
    scene.collector.request("/again").await;
    let heads = scene.collector.heads();
    assert_eq!(heads.len(), 2, "it was sent again");
    for (target, headers) in heads {
        assert_eq!(target, "POST /v1/traces");
        assert_eq!(headers["content-type"], "application/x-protobuf");
        assert_eq!(headers["x-key"], "key-of-the-collector");
    }
    let counted = async |result, expected| {
        eventually("the count", async || {
            (spans(&scene.gateway, result).await == expected).then_some(())
        })
        .await;
    };
    counted("ok", 2).await;
    scene.collector.refuse(&[400]);
    assert_eq!(scene.gateway.get("/lost").await.status(), 401);
    counted("failed", 2).await;
    scene.collector.reject(1);
    assert_eq!(scene.gateway.get("/half").await.status(), 401);
    counted("rejected", 1).await;
    counted("ok", 3).await;
    assert_eq!(scene.collector.heads().len(), 4, "400 is for good");
    assert_eq!(scene.upstream.count(), 0);
}

#[tokio::test]
async fn a_renewed_authority_is_believed_with_the_next_try() {
    let (before, now) = (Authority::new(), Authority::new());
    let collector = Collector::over_tls(now.issue("127.0.0.1").server(HTTP_11)).await;
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let tls = format!("tls = {{ ca = {} }}", quoted(&before.file()));
    let setup = Setup::new(&issuer, &upstream).section(otlp(&collector.url(), &tls));
    let gateway = setup.start().await;
    assert_eq!(gateway.get("/renewed").await.status(), 401);
    eventually("a handshake", async || {
        (collector.mistrusted() > 0).then_some(())
    })
    .await;
    std::fs::copy(now.file(), before.file()).unwrap();
    collector.request("/renewed").await;
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn the_end_delivers_what_waits_and_a_reload_keeps_the_rest() {
    let Scene {
        collector,
        issuer,
        upstream,
        mut gateway,
    } = Scene::with("", |setup| setup.catch_all("auth = \"public\"")).await;
    let other = Collector::start().await;
    assert_eq!(gateway.get("/before").await.status(), 200);
    let setup = Setup::new(&issuer, &upstream).catch_all("auth = \"public\"");
    let moved = setup.clone().section(otlp(&other.url(), "sample = 1"));
    assert!(gateway.reload(&moved).await);
    assert_eq!(gateway.get("/moved").await.status(), 200);
    collector.request("/before").await;
    other.request("/moved").await;
    assert!(gateway.reload(&setup).await);
    assert_eq!(gateway.get("/without").await.status(), 200);
    assert!(upstream.last().header("traceparent").is_none());
    assert!(gateway.reload(&moved).await);
    assert_eq!(gateway.get("/last").await.status(), 200);
    gateway.shutdown().await;
    let last = other.spans();
    assert!(
        last.iter().any(|span| span.get("url.path") == "/last"),
        "{last:?}"
    );
    let all = collector.spans().len() + last.len();
    assert_eq!((all, upstream.count()), (3 * 3, 4));
}

#[tokio::test]
async fn the_access_line_names_the_trace() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let collector = Collector::start().await;
    let setup = Setup::new(&issuer, &upstream)
        .section("[telemetry]\naccess_log.format = \"json\"")
        .section(otlp(&collector.url(), "sample = 0"));
    let process = Process::gateway(&setup);
    let address = process.address(&["listening"]).await;
    let token = issuer.token("alice").issued(Clock::system().now().0).sign();
    eventually("the keys", async || {
        let request = crate::support::client::Request::new(address, "GET", "/traced");
        let request = request.header("traceparent", parent("01"));
        (request.bearer(&token).await.status() == 200).then_some(())
    })
    .await;
    let line = process
        .line(&["\"path\":\"/traced\"", "\"status\":200"])
        .await;
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(line["trace_id"], TRACE);
    assert_eq!(told(&upstream.last()).0, TRACE);
}
