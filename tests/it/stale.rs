//! A denylist that may be too old: a fleet whose relay the scenario plays by renewing the lease, or not.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::Version;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use jotgate::denylist::Lease;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::client::Request;
use crate::support::{Gateway, Issuer, Reply, Setup, Upstream, web_socket, within};

const MAX_STALENESS: Duration = Duration::from_secs(30);

struct Scene {
    issuer: Issuer,
    upstream: Upstream,
    gateway: Gateway,
    lease: Lease,
}

/// A gateway that is in sync.
async fn scene(change: impl FnOnce(Setup) -> Setup) -> Scene {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let lease = Lease::ended();
    let setup = change(Setup::new(&issuer, &upstream));
    let scene = Scene {
        gateway: setup.start_under(lease.clone()).await,
        issuer,
        upstream,
        lease,
    };
    scene.renew();
    scene.gateway.ready().await;
    scene
}

impl Scene {
    fn renew(&self) {
        self.lease.renew(self.gateway.boot().plus(MAX_STALENESS));
    }

    /// The relay is away until the lease is over.
    fn let_it_end(&self) {
        self.gateway.clock().advance(MAX_STALENESS);
    }

    fn token(&self, user: &str) -> String {
        self.issuer.token(user).sid(user).sign()
    }

    /// An answer whose first frame has come.
    async fn stream(&self, request: Request) -> (mpsc::Sender<Frame<Bytes>>, Incoming) {
        let (frames, reply) = Reply::stream();
        self.upstream.reply(reply);
        let answer = within("the head", request.open()).await.expect("it works");
        let mut body = answer.into_body();
        pass(&frames, &mut body).await;
        (frames, body)
    }
}

async fn pass(frames: &mpsc::Sender<Frame<Bytes>>, body: &mut Incoming) {
    frames
        .send(Frame::data("tick".into()))
        .await
        .expect("it works");
    let frame = within("a frame", body.frame())
        .await
        .expect("it goes on")
        .expect("it works");
    assert_eq!(frame.into_data().expect("it works"), "tick");
}

#[tokio::test]
async fn a_denylist_that_is_too_old_is_503_and_never_401() {
    let scene = scene(|setup| setup.route("path = \"/open\"\nauth = \"public\"")).await;
    let (token, revoked) = (scene.token("alice"), scene.token("eve"));
    let admin = scene.gateway.admin();
    admin.revoke_session(scene.issuer.url(), "eve").await;
    let ask = |token: &str| scene.gateway.get("/").bearer(token);
    assert_eq!(ask(&token).await.status(), 200);
    scene.gateway.clock().advance(Duration::from_millis(29_999));
    assert_eq!(ask(&token).await.status(), 200, "the last millisecond");
    scene.gateway.clock().advance(Duration::from_millis(1));
    let passed = scene.upstream.count();
    // Known to the cache, and not.
    for token in [&token, &scene.token("bob")] {
        let stale = ask(token).await;
        assert_eq!(stale.verdict(), "503 denylist_stale");
        assert_eq!(stale.header("retry-after"), Some("2"));
        assert_eq!(stale.header("www-authenticate"), None);
    }
    assert_eq!(ask(&revoked).await.verdict(), "401 revoked");
    assert_eq!(ask("a.b.c").await.verdict(), "401 invalid_token");
    assert_eq!(scene.gateway.get("/").await.verdict(), "401 no_token");
    assert_eq!(scene.upstream.count(), passed, "none reached the service");
    assert_eq!(scene.gateway.get("/open").await.status(), 200);
    scene.renew();
    assert_eq!(ask(&token).await.status(), 200, "healed");
    assert_eq!(scene.gateway.all_decisions().await["denylist_stale"], 2);
    assert_eq!(scene.upstream.count(), passed + 2);
}

#[tokio::test]
async fn a_route_that_allows_it_serves_and_counts() {
    let scene = scene(|setup| setup.catch_all("on_stale = \"allow\"")).await;
    let ask = |user: &str| scene.gateway.get("/").bearer(&scene.token(user));
    let admin = scene.gateway.admin();
    admin.revoke_session(scene.issuer.url(), "eve").await;
    assert_eq!(ask("alice").await.status(), 200);
    let counted = async || {
        let metrics = scene.gateway.metrics().await;
        metrics.value("jotgate_stale_allowed_total{route=\"all\"}")
    };
    assert_eq!(counted().await, None, "in sync");
    scene.let_it_end();
    assert_eq!(ask("alice").await.status(), 200);
    assert_eq!(ask("bob").await.status(), 200);
    assert_eq!(ask("eve").await.verdict(), "401 revoked");
    assert_eq!(scene.gateway.get("/").await.verdict(), "401 no_token");
    assert_eq!(counted().await, Some(2));
    assert_eq!(scene.upstream.last().all("x-user-id"), ["bob"]);
    assert_eq!(scene.upstream.count(), 3);
}

#[tokio::test]
async fn strangers_pass_an_optional_route_and_tokens_wait() {
    let scene = scene(|setup| setup.catch_all("auth = \"optional\"")).await;
    scene.let_it_end();
    let request = scene.gateway.get("/").bearer(&scene.token("alice"));
    assert_eq!(request.await.verdict(), "503 denylist_stale");
    assert_eq!(scene.gateway.get("/").await.status(), 200);
    assert!(scene.upstream.last().all("x-user-id").is_empty());
    assert_eq!(scene.upstream.count(), 1);
}

#[tokio::test]
async fn a_route_that_reports_lets_pass_as_a_stranger_and_says_why() {
    let scene = scene(|setup| setup.catch_all("mode = \"report\"")).await;
    let ask = || scene.gateway.get("/").bearer(&scene.token("alice"));
    let (frames, mut body) = scene.stream(ask()).await;
    scene.let_it_end();
    assert_eq!(ask().await.status(), 200);
    assert!(scene.upstream.last().all("x-user-id").is_empty());
    let decisions = scene.gateway.metrics().await;
    let mut decisions = decisions
        .samples("jotgate_decisions_total")
        .into_iter()
        .filter(|(labels, _)| labels["code"] == "denylist_stale");
    let (labels, count) = decisions.next().expect("one is counted");
    assert_eq!((labels["result"].as_str(), count), ("report", 1));
    pass(&frames, &mut body).await;
}

#[tokio::test]
async fn it_is_ready_once_it_was_in_sync_and_stays_so() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let lease = Lease::ended();
    let setup = Setup::new(&issuer, &upstream);
    let gateway = setup.start_under(lease.clone()).await;
    let ready = async || {
        let answer = gateway.admin().stranger("GET", "/ready").await;
        let conditions = answer.json()["conditions"].clone();
        let mut conditions = conditions.as_array().expect("a list").iter();
        let in_sync = conditions.find(|it| it["name"] == "denylist in sync");
        (answer.status(), in_sync.map(|it| it["holds"].clone()))
    };
    crate::support::eventually("the keys", async || {
        let said = gateway.admin().stranger("GET", "/ready").await.text();
        (said.matches("\"holds\":false").count() == 1).then_some(())
    })
    .await;
    assert_eq!(ready().await, (503, Some(false.into())));
    let token = issuer.token("alice").sign();
    let early = gateway.get("/").bearer(&token).await;
    assert_eq!(early.verdict(), "503 denylist_stale");
    lease.renew(gateway.boot().plus(MAX_STALENESS));
    assert_eq!(ready().await, (200, Some(true.into())));
    gateway.clock().advance(MAX_STALENESS);
    assert_eq!(ready().await, (200, Some(true.into())));
    let alone = Setup::new(&issuer, &upstream).start().await;
    let said = alone.admin().stranger("GET", "/ready").await.text();
    assert!(!said.contains("in sync"), "{said}");
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn an_answer_that_comes_after_the_lease_is_not_passed_on() {
    for (line, verdict) in [
        ("on_stale = \"deny\"", "503 denylist_stale"),
        ("on_stale = \"allow\"", "200"),
    ] {
        let scene = scene(|setup| setup.catch_all(line)).await;
        let (go, reply) = Reply::late("alice's orders");
        scene.upstream.reply(reply);
        let request = scene.gateway.get("/slow").bearer(&scene.token("alice"));
        let waiting = tokio::spawn(request.into_future());
        scene.upstream.arrived(1).await;
        scene.let_it_end();
        go.send(()).expect("the gateway waits");
        let answer = within("the answer", waiting).await.expect("no panic");
        assert_eq!(answer.verdict(), verdict, "{line}");
        assert_eq!(scene.upstream.count(), 1);
    }
}

#[tokio::test]
async fn streams_end_with_the_lease_unless_the_route_allows_it() {
    let scene = scene(|setup| {
        setup
            .route("path = \"/allowed\"\non_stale = \"allow\"")
            .route("path = \"/open\"\nauth = \"public\"")
    })
    .await;
    let token = scene.token("alice");
    let get = |target: &str, version| scene.gateway.get(target).version(version).bearer(&token);
    let (_one, mut http1) = scene.stream(get("/", Version::HTTP_11)).await;
    let (_two, mut http2) = scene.stream(get("/", Version::HTTP_2)).await;
    let grpc = get("/", Version::HTTP_2).header("content-type", "application/grpc");
    let (_three, mut grpc) = scene.stream(grpc).await;
    let (allowed_frames, mut allowed) = scene.stream(get("/allowed", Version::HTTP_11)).await;
    let (open_frames, mut open) = scene.stream(get("/open", Version::HTTP_11)).await;
    scene.let_it_end();
    for body in [&mut http1, &mut http2] {
        let end = within("the end", body.frame()).await;
        assert!(matches!(end, Some(Err(_))), "cut: {end:?}");
    }
    let end = within("the end", grpc.frame()).await.expect("trailers");
    let trailers = end.expect("not reset").into_trailers().expect("trailers");
    assert_eq!(trailers["grpc-status"], "14");
    pass(&allowed_frames, &mut allowed).await;
    pass(&open_frames, &mut open).await;
    let metrics = scene.gateway.metrics().await;
    let ended = metrics.value("jotgate_streams_ended_total{reason=\"ended_stale\"}");
    assert_eq!(ended, Some(3));
}

#[tokio::test]
async fn a_web_socket_is_asked_to_come_back_later() {
    let scene = scene(|setup| setup).await;
    scene.upstream.reply(Reply::WebSocket);
    let bearer = format!("Bearer {}", scene.token("alice"));
    let headers = [("authorization", &*bearer)];
    let mut socket = web_socket::open(&scene.gateway, &headers).await;
    scene.let_it_end();
    let close = within("the close", socket.next())
        .await
        .expect("a close")
        .expect("a close");
    let Message::Close(Some(frame)) = close else {
        panic!("{close:?} is no close");
    };
    assert_eq!(frame.code, CloseCode::Again);
}

#[tokio::test]
async fn the_admin_api_takes_no_token_that_may_be_revoked() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let lease = Lease::ended();
    let setup = Setup::new(&issuer, &upstream).env("JOTGATE__ADMIN__ISSUER", "main");
    let gateway = setup.start_under(lease.clone()).await;
    lease.renew(gateway.boot().plus(MAX_STALENESS));
    gateway.ready().await;
    let token = issuer.token("olga").scope("jotgate:read").sign();
    let status = async |token: &str| gateway.admin_as(token).request("GET", "/v1/status").await;
    assert_eq!(status(&token).await.status(), 200);
    gateway.clock().advance(MAX_STALENESS);
    assert_eq!(status(&token).await.verdict(), "503 denylist_stale");
    let secret = gateway.admin().request("GET", "/v1/status").await;
    assert_eq!(secret.status(), 200, "a secret cannot be revoked");
}
