//! What was let in and is still on its way ends when its bearer may no longer, and only then.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::Version;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::client::Request;
use crate::support::tokens::LIFETIME;
use crate::support::{Gateway, Issuer, Reply, Setup, Upstream, eventually, web_socket, within};

/// The design allows 1 s between a rule and the end of what it matches; the machine may be busy.
const END_MAX: Duration = Duration::from_secs(3);

struct Scene {
    issuer: Issuer,
    upstream: Upstream,
    gateway: Gateway,
}

async fn scene_with(change: impl FnOnce(Setup) -> Setup) -> Scene {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    Scene {
        gateway: change(Setup::new(&issuer, &upstream)).start().await,
        issuer,
        upstream,
    }
}

async fn scene() -> Scene {
    scene_with(|setup| setup).await
}

impl Scene {
    fn token(&self, user: &str, sid: &str, jti: &str) -> String {
        self.issuer.token(user).sid(sid).claim("jti", jti).sign()
    }

    /// An answer whose first frame has come and whose last is up to us.
    async fn open(&self, token: &str, version: Version) -> (mpsc::Sender<Frame<Bytes>>, Incoming) {
        let request = self.gateway.get("/events").version(version).bearer(token);
        self.stream(request).await
    }

    async fn stream(&self, request: Request) -> (mpsc::Sender<Frame<Bytes>>, Incoming) {
        let (frames, reply) = Reply::stream();
        self.upstream.reply(reply);
        let mut body = within("the head", request.open())
            .await
            .expect("it works")
            .into_body();
        pass(&frames, &mut body).await;
        (frames, body)
    }

    async fn web_socket(&self, token: &str) -> WebSocketStream<tokio::net::TcpStream> {
        self.upstream.reply(Reply::WebSocket);
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", &*bearer)];
        let mut socket = web_socket::open(&self.gateway, &headers).await;
        web_socket::echo(&mut socket, "hello").await;
        socket
    }
}

async fn pass(frames: &mpsc::Sender<Frame<Bytes>>, body: &mut Incoming) {
    frames
        .send(Frame::data("tick".into()))
        .await
        .expect("it works");
    let frame = within("a frame", body.frame())
        .await
        .expect("it works")
        .expect("it works");
    assert_eq!(frame.into_data().expect("it works"), "tick");
}

/// The body ends, and nobody can take it for whole.
async fn is_cut(body: &mut Incoming) {
    let began = Instant::now();
    let end = within("the end", body.frame()).await;
    assert!(
        matches!(end, Some(Err(_))),
        "cut, and not as if whole: {end:?}"
    );
    assert!(began.elapsed() < END_MAX, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_stream_ends_with_its_session() {
    let scene = scene().await;
    for (n, version) in [Version::HTTP_11, Version::HTTP_2].into_iter().enumerate() {
        let (mine, other) = (format!("mine-{n}"), format!("other-{n}"));
        let (_frames, mut body) = scene.open(&scene.token("alice", &mine, "a"), version).await;
        let (others_frames, mut others_body) =
            scene.open(&scene.token("bob", &other, "b"), version).await;
        scene
            .gateway
            .admin()
            .revoke_session(scene.issuer.url(), &mine)
            .await;
        is_cut(&mut body).await;
        pass(&others_frames, &mut others_body).await;
    }
    eventually("the services' connections to end", async || {
        (scene.upstream.open() <= 2).then_some(())
    })
    .await;
    let metrics = scene.gateway.metrics().await;
    let ended = metrics.samples("jotgate_streams_ended_total");
    assert!(
        ended
            .iter()
            .any(|(labels, count)| labels["reason"] == "ended_revoked" && *count == 2),
        "{ended:?}"
    );
}

#[tokio::test]
async fn over_http1_no_trailer_makes_a_cut_answer_look_whole() {
    let scene = scene().await;
    let request = scene
        .gateway
        .get("/events")
        .header("content-type", "application/grpc-web+proto")
        .bearer(&scene.token("alice", "s1", "a"));
    let (_frames, mut body) = scene.stream(request).await;
    let admin = scene.gateway.admin();
    admin.revoke_session(scene.issuer.url(), "s1").await;
    is_cut(&mut body).await;
}

#[tokio::test]
async fn a_stream_ends_with_its_user_client_key_and_issuer() {
    let scene = scene().await;
    let issuer = scene.issuer.url().to_owned();
    for rule in [
        json!({"sub": "alice"}),
        json!({"client_id": "web", "standing": true}),
        json!({"kid": scene.issuer.key().kid()}),
        json!({"standing": true}),
    ] {
        let token = scene
            .issuer
            .token("alice")
            .claim("client_id", "web")
            .sid("s1")
            .sign();
        let token = if rule.get("sub").is_some() {
            token
        } else {
            scene
                .issuer
                .token("bob")
                .claim("client_id", "web")
                .sid("s2")
                .sign()
        };
        let (_frames, mut body) = scene.open(&token, Version::HTTP_11).await;
        let mut rule = rule;
        rule["iss"] = json!(issuer);
        let answer = scene.gateway.admin().revoke(&rule).await;
        is_cut(&mut body).await;
        // What stands is lifted again, for the next one.
        if let Some(id) = answer["rules"][0]["id"]
            .as_str()
            .filter(|_| answer["rules"][0]["standing"] == true)
        {
            let lifted = scene
                .gateway
                .admin()
                .request("DELETE", &format!("/v1/revocations/{id}"))
                .await;
            assert_eq!(lifted.status(), 200);
        }
    }
}

#[tokio::test]
async fn a_newer_token_of_the_same_session_does_not_end_a_stream() {
    let scene = scene().await;
    let old = scene.token("alice", "s1", "old");
    let (frames, mut body) = scene.open(&old, Version::HTTP_11).await;
    scene.gateway.admin().revoke_token(&old).await;
    let refused = scene.gateway.get("/").bearer(&old).await;
    assert_eq!(refused.verdict(), "401 revoked");
    // Three sweeps later it still runs.
    let (_more, mut later) = scene
        .open(&scene.token("alice", "s2", "other"), Version::HTTP_11)
        .await;
    scene
        .gateway
        .admin()
        .revoke_session(scene.issuer.url(), "s2")
        .await;
    is_cut(&mut later).await;
    pass(&frames, &mut body).await;
}

#[tokio::test]
async fn without_a_session_the_token_itself_counts() {
    let scene = scene().await;
    let token = scene.issuer.token("alice").claim("jti", "j1").sign();
    let (_frames, mut body) = scene.open(&token, Version::HTTP_11).await;
    scene.gateway.admin().revoke_token(&token).await;
    is_cut(&mut body).await;
}

#[tokio::test]
async fn a_web_socket_is_closed_with_a_reason() {
    let scene = scene().await;
    let mut socket = scene.web_socket(&scene.token("alice", "s1", "a")).await;
    let mut other = scene.web_socket(&scene.token("bob", "s2", "b")).await;
    scene
        .gateway
        .admin()
        .revoke_session(scene.issuer.url(), "s1")
        .await;
    let began = Instant::now();
    let close = within("the close", socket.next()).await.unwrap().unwrap();
    let Message::Close(Some(frame)) = close else {
        panic!("{close:?} is no close");
    };
    assert_eq!(frame.code, CloseCode::Policy);
    assert!(began.elapsed() < END_MAX);
    web_socket::echo(&mut other, "hello").await;
    eventually("the service's connection to end", async || {
        (scene.upstream.open() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stream_outlives_its_token_unless_the_route_says_so() {
    for (line, cut) in [
        ("end_at_expiry = true", true),
        ("end_at_expiry = false", false),
    ] {
        let scene = scene_with(|setup| setup.catch_all(line)).await;
        let (frames, mut body) = scene
            .open(&scene.token("alice", "s1", "a"), Version::HTTP_11)
            .await;
        // Beyond the leeway.
        scene
            .gateway
            .clock()
            .advance(Duration::from_secs(LIFETIME + 31));
        let late = scene
            .gateway
            .get("/")
            .bearer(&scene.token("alice", "s1", "a"))
            .await;
        assert_eq!(late.verdict(), "401 token_expired");
        if cut {
            is_cut(&mut body).await;
        } else {
            pass(&frames, &mut body).await;
        }
    }
}

#[tokio::test]
async fn an_upload_ends_with_its_session_before_there_is_an_answer() {
    let scene = scene().await;
    scene.upstream.reply(Reply::Hang);
    let (frames, receiver) = mpsc::channel(1);
    let request = scene
        .gateway
        .post("/upload")
        .bearer(&scene.token("alice", "s1", "a"))
        .stream(receiver);
    let answer = tokio::spawn(request.open());
    frames.send(Frame::data("some".into())).await.unwrap();
    scene.upstream.arrived(1).await;
    scene
        .gateway
        .admin()
        .revoke_session(scene.issuer.url(), "s1")
        .await;
    let answer = within("the answer", answer).await.unwrap().unwrap();
    assert_eq!(answer.status(), 401);
}

#[tokio::test]
async fn an_upload_ends_with_its_session_after_the_answer() {
    let service = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = service.local_addr().unwrap().port();
    let route = format!("path = \"/early\"\nupstream = \"http://127.0.0.1:{port}\"");
    let scene = scene_with(|setup| setup.route(route)).await;
    let (frames, receiver) = mpsc::channel(1);
    let request = scene
        .gateway
        .post("/early")
        .bearer(&scene.token("alice", "s1", "a"))
        .stream(receiver);
    let answer = tokio::spawn(request.open());
    frames.send(Frame::data("some".into())).await.unwrap();
    let (mut service, _) = within("the service", service.accept()).await.unwrap();
    let mut seen = vec![];
    while !seen.ends_with(b"some\r\n") {
        let read = within("the upload", service.read_buf(&mut seen)).await;
        assert_ne!(read.unwrap(), 0);
    }
    let early = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    service.write_all(early).await.unwrap();
    let answer = within("the answer", answer).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    scene
        .gateway
        .admin()
        .revoke_session(scene.issuer.url(), "s1")
        .await;
    // The upload goes on for as long as the client likes, but not to the service.
    let end = async {
        loop {
            let _ = frames.try_send(Frame::data("more".into()));
            let read = service.read_buf(&mut seen);
            let read = tokio::time::timeout(Duration::from_millis(10), read).await;
            if let Ok(Ok(0) | Err(_)) = read {
                return;
            }
        }
    };
    assert!(tokio::time::timeout(END_MAX, end).await.is_ok());
    assert!(!seen.ends_with(b"0\r\n\r\n"), "nobody takes it for whole");
}

#[tokio::test]
async fn the_answer_that_ends_a_session_is_whole() {
    let scene = scene_with(|setup| setup.catch_all("trust_revoke_header = true")).await;
    let token = scene.token("alice", "s1", "a");
    let (_frames, mut other) = scene.open(&token, Version::HTTP_11).await;
    let (frames, reply) = Reply::stream();
    scene
        .upstream
        .reply(reply.with_header("Jotgate-Revoke", "session"));
    let request = scene.gateway.post("/out").bearer(&token);
    let mut body = within("the head", request.open())
        .await
        .unwrap()
        .into_body();
    pass(&frames, &mut body).await;
    is_cut(&mut other).await;
    pass(&frames, &mut body).await;
    drop(frames);
    assert!(within("the end", body.frame()).await.is_none());
}

#[tokio::test]
async fn an_answer_that_comes_after_the_rule_is_not_passed_on() {
    let scene = scene().await;
    let mut came = 0;
    for round in 0..5 {
        let (go, reply) = Reply::late("alice's orders");
        scene.upstream.reply(reply);
        let sid = format!("s{round}");
        let token = scene.token("alice", &sid, &sid);
        let waiting = tokio::spawn(scene.gateway.get("/slow").bearer(&token).into_future());
        scene.upstream.arrived(round + 1).await;
        scene
            .gateway
            .admin()
            .revoke_session(scene.issuer.url(), &sid)
            .await;
        // Now and then the sweep is faster, and nobody waits for the answer any more.
        came += usize::from(go.send(()).is_ok());
        let answer = within("the answer", waiting).await.unwrap();
        assert_eq!(answer.verdict(), "401 revoked");
        assert!(!answer.text().contains("orders"), "{answer:?}");
    }
    assert!(came > 0, "the answer was there at least once");
}

#[tokio::test]
async fn a_pin_ends_the_streams_of_the_other_sessions() {
    let scene = scene().await;
    let (_old_frames, mut old) = scene
        .open(&scene.token("alice", "old", "a"), Version::HTTP_2)
        .await;
    let mut socket = scene.web_socket(&scene.token("alice", "older", "b")).await;
    let (new_frames, mut new) = scene
        .open(&scene.token("alice", "new", "c"), Version::HTTP_11)
        .await;
    let (others_frames, mut others) = scene
        .open(&scene.token("bob", "old", "d"), Version::HTTP_11)
        .await;
    let pin = json!({"iss": scene.issuer.url(), "sub": "alice", "except_sid": "new"});
    scene.gateway.admin().revoke(&pin).await;
    is_cut(&mut old).await;
    let close = within("the close", socket.next()).await.unwrap().unwrap();
    assert!(matches!(close, Message::Close(Some(frame)) if frame.code == CloseCode::Policy));
    pass(&new_frames, &mut new).await;
    pass(&others_frames, &mut others).await;
}
