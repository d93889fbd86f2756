//! Every endpoint, status and role, over a real connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use prometheus::IntCounterVec;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::openapi_tests::described;
use super::server::{serve_at_most, serve_probes};
use super::{Admin, Condition, Readiness, Views};
use crate::base::clock::{Clock, ClockHand, UnixSeconds};
use crate::base::secret::secret;
use crate::config::settings::{self, AdminToken, Role};
use crate::control::denylist::testing::{FleetHand, fleet};
use crate::control::denylist::{
    EntryId, Fleet, IdentifiedToken, IdentifyFault, Member, Parts, Relayed, Revocations, Run,
    Tokens, View, Writer, parts, revocations,
};
use crate::denylist::{self, Fingerprinter, Lease, TokenKeys};
use crate::telemetry::metrics::Metrics;
use crate::token::Claims;

const NOW: UnixSeconds = UnixSeconds(1_795_417_570);
const ISSUER: &str = "https://id.example.com";

/// Reads a token `USER.ANYTHING` as one of that user, issued now.
struct UserTokens;

impl Tokens for UserTokens {
    fn identify(&self, raw: &str) -> Result<IdentifiedToken, IdentifyFault> {
        let (user, _) = raw.split_once('.').ok_or(IdentifyFault::Malformed)?;
        let claims = Claims {
            issuer: ISSUER.into(),
            audiences: vec![],
            expires: UnixSeconds(NOW.0 + 600),
            not_before: None,
            issued: Some(NOW),
            token_id: None,
            session_id: None,
            subject: Some(user.into()),
            client: None,
            scopes: vec![],
            all: Value::Null,
        };
        Ok(IdentifiedToken {
            issuer: ISSUER.into(),
            keys: TokenKeys::of(&Fingerprinter::new(&[1; 16]), &claims, None, raw.as_bytes()),
            token_id: None,
            expires: claims.expires,
        })
    }
}

struct Server {
    address: SocketAddr,
    hand: ClockHand,
    ready: Arc<std::sync::atomic::AtomicBool>,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
    refusals: IntCounterVec,
}

/// A server whose writer works.
async fn start() -> Server {
    let (server, writer) = start_without_writer(1000, 128).await;
    tokio::spawn(writer.run(CancellationToken::new()));
    server
}

async fn start_without_writer(entries_max: usize, connections_max: usize) -> (Server, Writer) {
    start_in(None, entries_max, connections_max).await
}

/// A server of a gateway in that fleet, whose writer works.
async fn start_in_fleet(fleet: Fleet) -> Server {
    let (server, writer) = start_in(Some(fleet), 1000, 128).await;
    tokio::spawn(writer.run(CancellationToken::new()));
    server
}

async fn start_in(
    fleet: Option<Fleet>,
    entries_max: usize,
    connections_max: usize,
) -> (Server, Writer) {
    let (clock, hand) = Clock::manual(NOW);
    let (revocations, writer) = denylist_for(fleet, entries_max, clock.clone());
    let ready = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let views = views(Arc::clone(&ready));
    let token = |name: &str, roles: &[Role]| AdminToken {
        name: name.into(),
        secret: secret(format!("{name}-0123456789abcdef").into_bytes()),
        roles: roles.to_vec(),
    };
    let settings = settings::Admin {
        address: ([127, 0, 0, 1], 0).into(),
        tls: None,
        hosts: vec![],
        probes: None,
        tokens: vec![
            token("read", &[Role::Read]),
            token("revoke", &[Role::Revoke]),
            token("security", &[Role::Security]),
            token("all", &[Role::Read, Role::Revoke, Role::Security]),
            token("none", &[]),
        ],
        issuer: None,
    };
    let refusals = Metrics::new().admin_refusals;
    let counted = refusals.clone();
    let admin = Admin::new(settings, revocations, views, clock, None, refusals);
    let admin = Arc::new(admin);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(serve_at_most(
        connections_max,
        (listener, None),
        admin,
        shutdown.clone(),
    ));
    let server = Server {
        address,
        hand,
        ready,
        shutdown,
        serving,
        refusals: counted,
    };
    (server, writer)
}

fn views(ready: Arc<std::sync::atomic::AtomicBool>) -> Views {
    Views {
        readiness: Arc::new(move || Readiness {
            conditions: vec![
                Condition {
                    name: "denylist".into(),
                    holds: true,
                },
                Condition {
                    name: "keys of shop".into(),
                    holds: ready.load(std::sync::atomic::Ordering::Relaxed),
                },
            ],
        }),
        metrics: Arc::new(|| "jotgate_up 1\n".into()),
        lease: Lease::unlimited(),
        status: Arc::new(|| {
            Map::from_iter([("issuers".into(), json!([{"name": "shop", "keys": 2}]))])
        }),
    }
}

fn denylist_for(fleet: Option<Fleet>, entries_max: usize, clock: Clock) -> (Revocations, Writer) {
    let (_, index) = denylist::index(entries_max);
    revocations(Parts {
        fleet,
        tokens: Arc::new(UserTokens),
        ..parts(ISSUER, index, clock)
    })
}

struct Client(SendRequest<Full<Bytes>>);

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    fn header(&self, name: http::HeaderName) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// Asserts status and code of a problem.
    #[track_caller]
    fn is(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header(CONTENT_TYPE), "application/problem+json");
        let body = self.json();
        assert_eq!(body["code"], code);
        assert_eq!(body["status"], status);
        body
    }

    #[track_caller]
    fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        assert_eq!(self.header(CONTENT_TYPE), "application/json");
        self.json()
    }
}

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        Self::on(TcpStream::connect(address).await.unwrap()).await
    }

    /// From another address of this machine.
    async fn connect_from(from: [u8; 4], address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        Self::on(socket.connect(address).await.unwrap()).await
    }

    async fn on(stream: TcpStream) -> Self {
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Reply {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        self.0.ready().await.unwrap();
        let (head, body) = self.0.send_request(request).await.unwrap().into_parts();
        let text = body.collect().await.unwrap().to_bytes();
        let reply = Reply {
            status: head.status,
            headers: head.headers,
            text: String::from_utf8(text.to_vec()).unwrap(),
        };
        assert_eq!(reply.header(CACHE_CONTROL), "no-store");
        let content_type = reply.header(CONTENT_TYPE);
        described(&method, &path, reply.status, content_type, &reply.text);
        reply
    }
}

impl Server {
    /// One request on a connection of its own, by the caller with that name.
    async fn call(&self, by: &str, method: Method, path: &str, body: Option<Value>) -> Reply {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "admin");
        if !by.is_empty() {
            request = request.header(AUTHORIZATION, format!("Bearer {by}-0123456789abcdef"));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let mut client = Client::connect(self.address).await;
        client.send(request.body(Full::new(body)).unwrap()).await
    }

    async fn get(&self, by: &str, path: &str) -> Reply {
        self.call(by, Method::GET, path, None).await
    }

    async fn revoke(&self, by: &str, body: Value) -> Reply {
        self.call(by, Method::POST, "/v1/revocations", Some(body))
            .await
    }
}

fn user(name: &str) -> Value {
    json!({"iss": ISSUER, "sub": name})
}

#[tokio::test]
async fn health_and_metrics_need_no_credential() {
    let server = start().await;
    assert_eq!(server.get("", "/live").await.ok(), json!({"live": true}));
    let ready = server.get("", "/ready").await.ok();
    assert_eq!(ready["ready"], true);
    let metrics = server.get("", "/metrics").await;
    assert_eq!(metrics.status, 200);
    assert_eq!(metrics.header(CONTENT_TYPE), "text/plain; version=0.0.4");
    assert_eq!(metrics.text, "jotgate_up 1\n");
}

#[tokio::test]
async fn the_listener_of_probes_answers_probes_and_nothing_else() {
    let ready = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let serving = serve_probes(listener, views(Arc::clone(&ready)), shutdown.clone());
    let serving = tokio::spawn(serving);
    let call = async |method: Method, path: &str| {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "10.1.2.3:9902")
            .header(AUTHORIZATION, "Bearer all-0123456789abcdef");
        let mut client = Client::connect(address).await;
        client.send(request.body(Full::default()).unwrap()).await
    };
    let live = call(Method::GET, "/live").await.ok();
    assert_eq!(live, json!({"live": true}));
    assert_eq!(call(Method::GET, "/ready").await.ok()["ready"], true);
    let metrics = call(Method::GET, "/metrics").await;
    assert_eq!(
        (metrics.status.as_u16(), &*metrics.text),
        (200, "jotgate_up 1\n")
    );
    let head = call(Method::HEAD, "/ready").await;
    assert_eq!((head.status.as_u16(), &*head.text), (200, ""));
    ready.store(false, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(call(Method::GET, "/ready").await.status, 503);
    let not_allowed = call(Method::POST, "/ready").await;
    assert_eq!(not_allowed.header(ALLOW), "GET, HEAD");
    not_allowed.is(405, "method_not_allowed");
    for path in [
        "/",
        "/v1/status",
        "/v1/openapi.json",
        "/v1/revocations",
        "/v1/revocations/user-00000000000000000000000000000000",
        "/v1/check",
    ] {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            call(method, path).await.is(404, "not_found");
        }
    }
    shutdown.cancel();
    serving.await.unwrap();
}

#[tokio::test]
async fn no_answer_holds_a_secret_right_or_wrong() {
    let near = "read-0123456789abcdeg";
    let server = start().await;
    let (sent, other) = (format!("Bearer {near}"), "read-0123456789abcdef");
    for path in [
        "/v1/status",
        "/v1/openapi.json",
        "/v1/revocations",
        "/metrics",
        "/ready",
    ] {
        let ask = async |credential: &str| {
            let request = Request::get(path)
                .header("host", "admin")
                .header(AUTHORIZATION, credential);
            let mut client = Client::connect(server.address).await;
            client.send(request.body(Full::default()).unwrap()).await
        };
        for reply in [ask(&sent).await, ask(&format!("Bearer {other}")).await] {
            let shown = format!("{:?}{}", reply.headers, reply.text);
            assert!(
                !shown.contains(near) && !shown.contains(other),
                "{path}: {shown}"
            );
        }
    }
}

#[tokio::test]
async fn not_ready_is_503_and_says_what_is_missing() {
    let server = start().await;
    server
        .ready
        .store(false, std::sync::atomic::Ordering::Relaxed);
    let reply = server.get("", "/ready").await;
    assert_eq!(reply.status, 503);
    assert_eq!(
        reply.json(),
        json!({"ready": false, "conditions": [
            {"name": "denylist", "holds": true},
            {"name": "keys of shop", "holds": false},
        ]})
    );
    assert_eq!(server.get("all", "/v1/status").await.ok()["ready"], false);
    assert_eq!(server.get("", "/live").await.status, 200);
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let server = start().await;
    let reply = server.call("", Method::HEAD, "/ready", None).await;
    assert_eq!((reply.status.as_u16(), &*reply.text), (200, ""));
    let reply = server.call("read", Method::HEAD, "/v1/status", None).await;
    assert_eq!((reply.status.as_u16(), &*reply.text), (200, ""));
}

#[tokio::test]
async fn everything_under_v1_needs_a_known_secret() {
    let server = start().await;
    let post = Some(json!({}));
    for (method, path, body) in [
        (Method::GET, "/v1/status", None),
        (Method::GET, "/v1/revocations", None),
        (Method::POST, "/v1/revocations", post.clone()),
        (Method::GET, "/v1/revocations/x", None),
        (Method::DELETE, "/v1/revocations/x", None),
        (Method::POST, "/v1/check", post),
        (Method::GET, "/v1/unknown", None),
    ] {
        let reply = server.call("", method.clone(), path, body.clone()).await;
        reply.is(401, "unauthenticated");
        assert_eq!(
            reply.header(WWW_AUTHENTICATE),
            "Bearer realm=\"jotgate admin\""
        );
        let reply = server.call("stranger", method, path, body).await;
        reply.is(401, "unauthenticated");
        assert_eq!(
            reply.header(WWW_AUTHENTICATE),
            "Bearer realm=\"jotgate admin\", error=\"invalid_token\""
        );
    }
}

fn status_with(secret: &str) -> Request<Full<Bytes>> {
    Request::get("/v1/status")
        .header("host", "admin")
        .header(AUTHORIZATION, format!("Bearer {secret}"))
        .body(Full::default())
        .unwrap()
}

#[tokio::test]
async fn guesses_of_secrets_are_limited_for_each_address() {
    const RIGHT: &str = "read-0123456789abcdef";
    let server = start().await;
    let mut client = Client::connect(server.address).await;
    for number in 0..10 {
        let reply = client.send(status_with(&format!("guess-{number}"))).await;
        reply.is(401, "unauthenticated");
    }
    let barred = client.send(status_with(RIGHT)).await;
    barred.is(429, "too_many_guesses");
    assert_eq!(barred.header(RETRY_AFTER), "6");
    assert_eq!(server.get("", "/live").await.status, 200);
    let refused = |code| server.refusals.with_label_values(&[code]).get();
    assert_eq!(refused("unauthenticated"), 10);
    assert_eq!(refused("too_many_guesses"), 1);
    // Somebody else's guesses lock nobody out.
    let mut other = Client::connect_from([127, 0, 0, 2], server.address).await;
    other.send(status_with(RIGHT)).await.ok();
    server.hand.advance(Duration::from_secs(6));
    client.send(status_with(RIGHT)).await.ok();
}

#[tokio::test]
async fn an_old_secret_that_comes_again_and_again_locks_nobody_out() {
    let server = start().await;
    for _ in 0..20 {
        let reply = server.get("old", "/v1/status").await;
        reply.is(401, "unauthenticated");
    }
    server.get("read", "/v1/status").await.ok();
}

#[tokio::test]
async fn a_name_that_a_web_page_may_have_is_refused_on_every_path() {
    let server = start().await;
    let mut client = Client::connect(server.address).await;
    for path in ["/live", "/ready", "/metrics", "/v1/status", "/"] {
        let request = Request::get(path)
            .header("host", "rebound.evil.example:9901")
            .header(AUTHORIZATION, "Bearer all-0123456789abcdef")
            .body(Full::default())
            .unwrap();
        client.send(request).await.is(421, "host_unknown");
    }
    let refused = server.refusals.with_label_values(&["host_unknown"]);
    assert_eq!(refused.get(), 5);
    for host in ["127.0.0.1:9901", "localhost", "jotgate.monitoring.svc:9901"] {
        let request = Request::get("/live").header("host", host);
        let request = request.body(Full::default()).unwrap();
        client.send(request).await.ok();
    }
}

#[tokio::test]
async fn each_endpoint_asks_for_its_role() {
    let server = start().await;
    let id = "/v1/revocations/user-00000000000000000000000000000000";
    let rule = |member: &str| Some(json!({"iss": ISSUER, member: "x", "dry_run": true}));
    let whole = Some(json!({"iss": ISSUER, "issued_before": 5, "dry_run": true}));
    let token = Some(json!({"token": "alice.1"}));
    let pin = Some(json!({"iss": ISSUER, "sub": "x", "except_sid": "s", "dry_run": true}));
    let rules = "/v1/revocations";
    let (get, post) = (Method::GET, Method::POST);
    for (method, path, body, role, status) in [
        (&get, "/v1/status", None, "read", 200),
        (&get, "/v1/openapi.json", None, "read", 200),
        (&get, rules, None, "read", 200),
        (&get, id, None, "read", 404),
        (&post, "/v1/check", token.clone(), "read", 200),
        (&post, rules, token, "revoke", 200),
        (&post, rules, rule("jti"), "revoke", 200),
        (&post, rules, rule("sid"), "revoke", 200),
        (&post, rules, rule("sub"), "revoke", 200),
        (&post, rules, pin, "revoke", 200),
        (&post, rules, rule("client_id"), "security", 200),
        (&post, rules, rule("kid"), "security", 200),
        (&post, rules, whole, "security", 200),
        (&Method::DELETE, id, None, "security", 404),
    ] {
        for caller in ["read", "revoke", "security", "none"] {
            let reply = server
                .call(caller, method.clone(), path, body.clone())
                .await;
            if caller == role {
                assert_eq!(reply.status, status, "{path} {body:?} {}", reply.text);
            } else {
                reply.is(403, "forbidden");
                let challenge = reply.header(WWW_AUTHENTICATE);
                assert!(challenge.contains("error=\"insufficient_scope\""));
                // A caller that may write nothing at all is told the lesser role.
                if caller == "revoke" || caller == "security" || role != "security" {
                    assert!(
                        challenge.ends_with(&format!("scope=\"{role}\"")),
                        "{challenge}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn a_rule_that_the_caller_may_not_write_stops_the_whole_batch() {
    let server = start().await;
    let body = json!({"rules": [user("alice"), {"iss": ISSUER, "kid": "k1"}]});
    server.revoke("revoke", body).await.is(403, "forbidden");
    let list = server.get("read", "/v1/revocations").await.ok();
    assert_eq!(list["rules"], json!([]));
}

#[tokio::test]
async fn unknown_paths_are_404_and_wrong_methods_405_with_allow() {
    let server = start().await;
    for path in ["/", "/Live", "/live/", "/v1", "/v2/status"] {
        server.get("", path).await.is(404, "not_found");
    }
    for path in ["/v1/", "/v1/statuses", "/v1/revocations/", "/v1/check/"] {
        server.get("all", path).await.is(404, "not_found");
    }
    for (path, method, allow) in [
        ("/live", Method::POST, "GET, HEAD"),
        ("/ready", Method::DELETE, "GET, HEAD"),
        ("/metrics", Method::PUT, "GET, HEAD"),
        ("/v1/status", Method::POST, "GET, HEAD"),
        ("/v1/revocations", Method::DELETE, "GET, HEAD, POST"),
        ("/v1/revocations/x", Method::POST, "GET, HEAD, DELETE"),
        ("/v1/check", Method::GET, "POST"),
        ("/v1/check", Method::HEAD, "POST"),
    ] {
        let reply = server.call("all", method.clone(), path, None).await;
        assert_eq!(reply.header(ALLOW), allow, "{path}");
        if method != Method::HEAD {
            reply.is(405, "method_not_allowed");
        }
    }
}

#[tokio::test]
async fn a_revocation_answers_with_the_rule() {
    let server = start().await;
    let body = server.revoke("revoke", user("alice")).await.ok();
    let rule = &body["rules"][0];
    let id = rule["id"].as_str().unwrap();
    assert!(id.starts_with("user-"), "{id}");
    let mut expected = json!({
        "id": id, "kind": "user", "iss": ISSUER, "value": "alice", "cutoff": NOW.0, "until": NOW.0 + 3630,
        "standing": false, "durable": false, "applied": {"gateways": 1, "of": 1}, "created": true,
    });
    assert_eq!(body, json!({"rules": [expected]}));
    server.hand.advance(Duration::from_secs(1));
    let again = json!({"iss": ISSUER, "sub": "alice", "issued_before": NOW.0});
    expected["created"] = false.into();
    let body = server.revoke("revoke", again).await.ok();
    assert_eq!(body, json!({"rules": [expected]}));
}

#[tokio::test]
async fn a_batch_is_answered_in_its_order() {
    let server = start().await;
    let body = json!({"rules": [
        {"iss": ISSUER, "kid": "k1"},
        {"token": "bob.9"},
        {"iss": ISSUER, "standing": true, "dry_run": true},
    ]});
    let body = server.revoke("all", body).await.ok();
    let kinds: Vec<_> = body["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| rule["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["key", "token", "issuer"]);
    assert_eq!(body["rules"][2]["dry_run"], true);
}

#[tokio::test]
async fn what_is_revoked_is_denied_and_named() {
    let server = start().await;
    let check = async || {
        let body = json!({"token": "alice.1"});
        let reply = server.call("read", Method::POST, "/v1/check", Some(body));
        reply.await.ok()
    };
    assert_eq!(check().await, json!({"denied": false, "rules": []}));
    let body = json!({"iss": ISSUER, "sub": "alice", "reason": "lost phone"});
    server.revoke("revoke", body).await.ok();
    server
        .revoke("revoke", json!({"token": "alice.1"}))
        .await
        .ok();
    let denied = check().await;
    assert_eq!(denied["denied"], true);
    let kinds: Vec<_> = denied["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| (&rule["kind"], &rule["reason"]))
        .collect();
    assert_eq!(
        kinds,
        [
            (&json!("token"), &Value::Null),
            (&json!("user"), &json!("lost phone"))
        ]
    );
    let by_token = &denied["rules"][0];
    assert_eq!(by_token["until"], NOW.0 + 600 + 30);
    assert_eq!(
        format!("token-{}", by_token["value"].as_str().unwrap()),
        by_token["id"].as_str().unwrap(),
        "a token without jti is named by its fingerprint"
    );
}

#[tokio::test]
async fn a_check_of_something_else_says_what_to_write() {
    let server = start().await;
    for body in [
        json!({}),
        json!([]),
        json!({"token": 5}),
        json!({"token": "alice.1", "more": 1}),
        json!({"token": "x".repeat(8193)}),
        json!({"token": "malformed"}),
    ] {
        let reply = server
            .call("read", Method::POST, "/v1/check", Some(body))
            .await;
        let problem = reply.is(400, "invalid_request");
        assert_eq!(problem["faults"][0]["pointer"], "/token");
    }
}

#[tokio::test]
async fn a_dry_run_says_and_writes_nothing() {
    let server = start().await;
    let body = json!({"iss": ISSUER, "sub": "alice", "dry_run": true});
    let rule = &server.revoke("revoke", body).await.ok()["rules"][0];
    assert_eq!(
        (&rule["dry_run"], &rule["created"]),
        (&json!(true), &json!(true))
    );
    assert!(rule.get("applied").is_none() && rule.get("durable").is_none());
    let id = rule["id"].as_str().unwrap();
    let path = format!("/v1/revocations/{id}");
    server.get("read", &path).await.is(404, "not_found");
}

#[tokio::test]
async fn all_faults_come_at_once_and_nothing_is_written() {
    let server = start().await;
    let body = json!({"rules": [
        user("alice"),
        {"iss": "nobody", "sub": "x", "wait": "fleet"},
        {"iss": ISSUER, "sub": "x", "except_sid": "s", "issued_before": 5},
    ]});
    let problem = server.revoke("all", body).await.is(400, "invalid_request");
    let pointers: Vec<_> = problem["faults"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| fault["pointer"].as_str().unwrap())
        .collect();
    assert_eq!(
        pointers,
        ["/rules/1/wait", "/rules/1/iss", "/rules/2/issued_before"]
    );
    let list = server.get("read", "/v1/revocations").await.ok();
    assert_eq!(list, json!({"rules": [], "next": null}));
}

async fn post_bytes(server: &Server, content_type: Option<&str>, body: Bytes) -> Reply {
    let mut request = Request::post("/v1/revocations")
        .header("host", "admin")
        .header(AUTHORIZATION, "Bearer all-0123456789abcdef");
    if let Some(content_type) = content_type {
        request = request.header(CONTENT_TYPE, content_type);
    }
    let mut client = Client::connect(server.address).await;
    client.send(request.body(Full::new(body)).unwrap()).await
}

#[tokio::test]
async fn a_body_must_be_json_and_say_so() {
    let server = start().await;
    let rule = Bytes::from(user("alice").to_string());
    for content_type in [None, Some("text/plain"), Some("application/jsonx")] {
        post_bytes(&server, content_type, rule.clone())
            .await
            .is(415, "unsupported_media_type");
    }
    let said = Some("Application/JSON ; charset=utf-8");
    post_bytes(&server, said, rule).await.ok();
    for body in [
        "",
        "{",
        "{\"sub\":}",
        "{} {}",
        r#"{"sub": "a", "sub": "b"}"#,
        r#"{"sub": "a", "\u0073ub": "b"}"#,
        "\u{feff}{}",
        &format!("{}{}", "[".repeat(17), "]".repeat(17)),
        &"[".repeat(1_000_000),
        &format!("{}1{}", "{\"rules\":".repeat(17), "}".repeat(17)),
    ] {
        let body = Bytes::copy_from_slice(body.as_bytes());
        post_bytes(&server, said, body)
            .await
            .is(400, "malformed_json");
    }
}

#[tokio::test]
async fn a_body_in_pieces_is_one_body_and_half_of_one_is_none() {
    let server = start().await;
    let head = "POST /v1/revocations HTTP/1.1\r\nhost: admin\r\nauthorization: Bearer all-0123456789abcdef\r\n\
                content-type: application/json\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    let send = async |body: &str| {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        for byte in body.bytes() {
            let chunk = [&b"1\r\n"[..], &[byte], b"\r\n"].concat();
            stream.write_all(&chunk).await.unwrap();
        }
        stream
    };
    let rule = user("alice").to_string();
    // Broken off: what came of it would be a rule, had it ended there.
    let mut stream = send(&rule).await;
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(!answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let listed = server.get("read", "/v1/revocations").await.ok();
    assert_eq!(listed["rules"], json!([]), "nothing was written");
    let mut stream = send(&rule).await;
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    assert!(status_line(&mut stream).await.starts_with("HTTP/1.1 200 "));
    let listed = server.get("read", "/v1/revocations").await.ok();
    assert_eq!(listed["rules"][0]["value"], "alice");
}

#[tokio::test]
async fn no_spelling_of_an_identifier_or_cursor_means_another_rule() {
    let server = start().await;
    let block = json!({"iss": ISSUER, "sub": "alice", "standing": true});
    let rule = server.revoke("all", block).await.ok()["rules"][0].clone();
    let id = rule["id"].as_str().unwrap();
    let (kind, rest) = id.split_once('-').unwrap();
    let encoded: Vec<String> = id.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let encoded = encoded.concat();
    for other in [
        String::new(),
        "/".to_owned(),
        format!("{id}/"),
        format!("/{id}"),
        format!("./{id}"),
        format!("x/../{id}"),
        format!("{id}%00"),
        format!("{id}%20"),
        format!("{id};x"),
        id.to_uppercase(),
        format!("{kind}-0{rest}"),
        format!("{kind}--{rest}"),
        format!("key-{rest}"),
        encoded.clone(),
        "..%2f..%2flive".to_owned(),
        "%27%20OR%201=1".to_owned(),
        "x".repeat(20_000),
    ] {
        let path = format!("/v1/revocations/{other}");
        let lift = server.call("all", Method::DELETE, &path, None).await;
        lift.is(404, "not_found");
        server.get("all", &path).await.is(404, "not_found");
        if !other.is_empty() {
            let path = format!("/v1/revocations?cursor={other}");
            let page = server.get("all", &path).await;
            // A cursor is decoded once, as every parameter is, and may name any rule.
            let is_cursor = other == encoded || other.starts_with("key-");
            assert_eq!(page.status == 200, is_cursor, "{other:.80}: {}", page.text);
        }
    }
    let many = format!("/v1/revocations?{}", "a&".repeat(14_000));
    let problem = server.get("all", &many).await.is(400, "invalid_request");
    assert!(problem["faults"].as_array().unwrap().len() <= 16);
    let path = format!("/v1/revocations/{id}");
    assert_eq!(server.get("all", &path).await.ok()["value"], "alice");
}

#[tokio::test]
async fn a_body_beyond_four_mebibytes_is_413() {
    let server = start().await;
    let raw = async |framing: &str| {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = format!(
            "POST /v1/revocations HTTP/1.1\r\nhost: admin\r\nauthorization: Bearer all-0123456789abcdef\r\n\
             content-type: application/json\r\n{framing}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    };
    // Said beforehand: refused before a byte of it is read.
    let mut stream = raw("content-length: 4194305").await;
    assert!(status_line(&mut stream).await.starts_with("HTTP/1.1 413 "));
    // Not said beforehand: refused when it has grown too large.
    let mut stream = raw("transfer-encoding: chunked").await;
    let (mut from, mut to) = stream.split();
    let sending = async {
        let chunk = [&b"10000\r\n"[..], &vec![b' '; 0x1_0000], b"\r\n"].concat();
        for _ in 0..65 {
            // The server may have answered and closed.
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
    };
    let receiving = async {
        let mut line = [0; 13];
        from.read_exact(&mut line).await.unwrap();
        String::from_utf8(line.to_vec()).unwrap()
    };
    let ((), line) = tokio::join!(sending, receiving);
    assert_eq!(line, "HTTP/1.1 413 ");
    // At the limit: read, and then found to be no JSON.
    let body = Bytes::from(vec![b' '; 4 * 1024 * 1024]);
    post_bytes(&server, Some("application/json"), body)
        .await
        .is(400, "malformed_json");
}

async fn status_line(stream: &mut TcpStream) -> String {
    let mut answer = vec![];
    while !answer.contains(&b'\n') {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "closed");
    }
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_full_denylist_is_507() {
    let (server, writer) = start_without_writer(1, 128).await;
    tokio::spawn(writer.run(CancellationToken::new()));
    server.revoke("all", user("alice")).await.ok();
    let problem = server.revoke("all", user("bob")).await;
    problem.is(507, "denylist_full");
    server.revoke("all", user("alice")).await.ok();
}

#[tokio::test]
async fn rules_are_listed_in_pages_and_by_filters() {
    let server = start().await;
    let rules: Vec<_> = (0..5).map(|number| user(&number.to_string())).collect();
    server.revoke("all", json!({"rules": rules})).await.ok();
    let client = json!({"iss": ISSUER, "client_id": "app & co", "reason": "leak"});
    let client = server.revoke("all", client).await.ok()["rules"][0].clone();
    let (mut seen, mut cursor) = (vec![], String::new());
    loop {
        let path = format!("/v1/revocations?limit=4{cursor}");
        let page = server.get("read", &path).await.ok();
        let rules = page["rules"].as_array().unwrap();
        assert!(rules.len() <= 4);
        seen.extend(rules.iter().map(|rule| rule["id"].to_string()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 6);
    let filters = format!("/v1/revocations?kind=client&iss={ISSUER}&value=app+%26%20co");
    let page = server.get("read", &filters).await.ok();
    assert_eq!(
        page["rules"],
        json!([{
            "id": client["id"], "kind": "client", "iss": ISSUER, "value": "app & co", "cutoff": NOW.0,
            "until": NOW.0 + 3630, "standing": false, "reason": "leak", "by": "all", "at": NOW.0,
        }])
    );
    for (query, count) in [
        ("kind=user", 5),
        ("kind=key", 0),
        ("value=3", 1),
        ("iss=x", 0),
    ] {
        let path = format!("/v1/revocations?{query}");
        let page = server.get("read", &path).await.ok();
        assert_eq!(page["rules"].as_array().unwrap().len(), count, "{query}");
    }
}

#[tokio::test]
async fn faults_of_the_query_come_at_once() {
    let server = start().await;
    for query in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=",
        "cursor=x",
        "kind=Token",
        "other=1",
        "iss=a&iss=a",
    ] {
        let path = format!("/v1/revocations?{query}");
        let problem = server.get("read", &path).await.is(400, "invalid_request");
        let faults = problem["faults"].as_array().unwrap();
        let name = query.split('=').next().unwrap();
        assert_eq!(faults.len(), 1, "{query}");
        assert_eq!(faults[0]["parameter"], name);
    }
    let reply = server.get("read", "/v1/revocations?limit=0&kind=x").await;
    let problem = reply.is(400, "invalid_request");
    assert_eq!(problem["faults"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn one_rule_is_read_and_only_standing_ones_are_lifted() {
    let server = start().await;
    let key = json!({"iss": ISSUER, "kid": "k1"});
    let key = server.revoke("security", key).await.ok()["rules"][0].clone();
    assert_eq!(
        (&key["standing"], &key["cutoff"], &key["until"]),
        (&json!(true), &Value::Null, &Value::Null)
    );
    let path = format!("/v1/revocations/{}", key["id"].as_str().unwrap());
    let read = server.get("read", &path).await.ok();
    assert_eq!(
        (&read["value"], &read["by"]),
        (&json!("k1"), &json!("security"))
    );
    let lift = async |path: &str| server.call("security", Method::DELETE, path, None).await;
    assert_eq!(
        lift(&path).await.ok(),
        json!({"lifted": key["id"], "remaining": null})
    );
    lift(&path).await.is(404, "not_found");
    server.get("read", &path).await.is(404, "not_found");
    lift("/v1/revocations/user-1").await.is(404, "not_found");

    let ending = server.revoke("revoke", user("alice")).await.ok()["rules"][0].clone();
    let path = format!("/v1/revocations/{}", ending["id"].as_str().unwrap());
    lift(&path).await.is(409, "not_standing");
    let block = json!({"iss": ISSUER, "sub": "alice", "standing": true});
    server.revoke("revoke", block).await.ok();
    let remaining = &lift(&path).await.ok()["remaining"];
    assert_eq!(
        (&remaining["until"], &remaining["standing"]),
        (&ending["until"], &json!(false))
    );
}

#[tokio::test]
async fn status_shows_the_denylist_and_what_it_is_given() {
    let server = start().await;
    server.revoke("all", user("alice")).await.ok();
    server.hand.advance(Duration::from_secs(90));
    let mut status = server.get("read", "/v1/status").await.ok();
    assert!(status["denylist"]["bytes"].take().as_u64().unwrap() > 0);
    assert_eq!(
        status,
        json!({
            "version": env!("CARGO_PKG_VERSION"), "uptime_s": 90, "ready": true,
            "issuers": [{"name": "shop", "keys": 2}],
            "denylist": {
                "entries": {"token": 0, "session": 0, "user": 1, "client": 0, "key": 0, "issuer": 0,
                    "pin": 0},
                "entries_total": 1, "entries_max": 1000, "bytes": null, "epoch": 2, "durable": false,
            },
        })
    );
}

#[tokio::test]
async fn several_requests_share_a_connection() {
    let server = start().await;
    let mut client = Client::connect(server.address).await;
    for _ in 0..3 {
        let request = Request::get("/live").header("host", "admin");
        let request = request.body(Full::default()).unwrap();
        assert_eq!(client.send(request).await.status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_closed() {
    let server = start().await;
    let started = tokio::time::Instant::now();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let mut rest = vec![];
    let _ = stream.read_to_end(&mut rest).await;
    assert!(started.elapsed() >= Duration::from_secs(15));
    assert!(started.elapsed() < Duration::from_mins(1));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_408() {
    let server = start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /v1/revocations HTTP/1.1\r\nhost: admin\r\nauthorization: Bearer all-0123456789abcdef\r\n\
                content-type: application/json\r\ncontent-length: 10\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(status_line(&mut stream).await.starts_with("HTTP/1.1 408 "));
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_hangs_is_503() {
    let (server, _writer) = start_without_writer(10, 128).await;
    server
        .revoke("all", user("alice"))
        .await
        .is(503, "deadline");
}

#[tokio::test]
async fn a_writer_that_has_ended_is_503() {
    let (server, writer) = start_without_writer(10, 128).await;
    drop(writer);
    server
        .revoke("all", user("alice"))
        .await
        .is(503, "stopping");
    let list = server.get("all", "/v1/revocations").await;
    list.is(503, "stopping");
    assert_eq!(server.get("", "/live").await.status, 200);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let (server, _writer) = start_without_writer(10, 1).await;
    let get = || {
        let request = Request::get("/live").header("host", "admin");
        request.body(Full::default()).unwrap()
    };
    let mut first = Client::connect(server.address).await;
    first.send(get()).await;
    let mut second = TcpStream::connect(server.address).await.unwrap();
    let head = b"GET /live HTTP/1.1\r\nhost: admin\r\n\r\n";
    second.write_all(head).await.unwrap();
    for _ in 0..3 {
        assert_eq!(first.send(get()).await.status, 200);
    }
    let waiting = second.try_read(&mut [0; 16]).unwrap_err();
    assert_eq!(waiting.kind(), std::io::ErrorKind::WouldBlock);
    drop(first);
    assert!(status_line(&mut second).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn shutdown_ends_every_connection_and_then_returns() {
    let server = start().await;
    let mut kept = TcpStream::connect(server.address).await.unwrap();
    let head = b"GET /live HTTP/1.1\r\nhost: admin\r\n\r\n";
    kept.write_all(head).await.unwrap();
    assert!(status_line(&mut kept).await.starts_with("HTTP/1.1 200 "));
    server.shutdown.cancel();
    server.serving.await.unwrap();
    kept.read_to_end(&mut vec![])
        .await
        .expect("closed in order");
    assert!(TcpStream::connect(server.address).await.is_err());
}

/// A relay that the test plays, with another gateway `b`.
fn played_fleet() -> (Fleet, FleetHand) {
    let (fleet, hand) = fleet("a".into(), Duration::from_secs(30));
    hand.show_members(vec![fleet_member("a", 0), fleet_member("b", 0)]);
    (fleet, hand)
}

fn fleet_member(name: &str, applied_ms: u64) -> Member {
    Member {
        name: name.into(),
        version: "0.1.0".into(),
        run: played_run(),
        applied: EntryId {
            ms: applied_ms,
            sequence: 0,
        },
        entries: 1,
        in_sync: true,
        at: NOW,
        max_staleness: Duration::from_secs(30),
        shares_name: false,
    }
}

/// Says that "b" is behind, whoever asks.
fn answer_questions(mut hand: FleetHand) {
    tokio::spawn(async move {
        while let Some(question) = hand.asked.recv().await {
            let _ = question.send(vec![fleet_member("a", 0), fleet_member("b", 0)]);
        }
    });
}

fn played_run() -> Run {
    Run {
        server: "s".into(),
        epoch: "e".into(),
    }
}

fn taken(sequence: u64, at_ms: u64) -> Relayed {
    Relayed {
        sequence,
        run: played_run(),
        id: EntryId {
            ms: at_ms,
            sequence: 0,
        },
        at: NOW,
    }
}

#[tokio::test]
async fn without_a_log_nothing_is_acknowledged_that_the_relay_did_not_take() {
    let (fleet, hand) = played_fleet();
    let server = start_in_fleet(fleet).await;
    let body = json!({"iss": ISSUER, "sub": "alice", "timeout": "1ms"});
    let reply = server.revoke("all", body).await;
    let detail = reply.is(503, "not_relayed")["detail"].to_string();
    assert!(detail.contains("as long as its process lives"), "{detail}");
    assert_eq!(reply.header(RETRY_AFTER), "2");
    let local = json!({"iss": ISSUER, "sub": "bob", "wait": "local", "timeout": "1ms"});
    server.revoke("all", local).await.is(503, "not_relayed");
    let dry = json!({"iss": ISSUER, "sub": "eve", "dry_run": true});
    assert_eq!(server.revoke("all", dry).await.ok().get("fleet"), None);
    // It says the truth: the rule holds here.
    let check = json!({"token": "alice.x"});
    let check = server
        .call("all", Method::POST, "/v1/check", Some(check))
        .await;
    assert_eq!(check.ok()["denied"], true);
    hand.relayed.send_replace(taken(100, 5));
    answer_questions(hand);
    let reply = server.revoke("all", user("carol")).await.ok();
    assert_eq!(
        reply["fleet"],
        json!({"wait": "relay", "reached": true, "relayed": true, "pending": ["b"], "effective_by": NOW.0 + 31})
    );
    assert_eq!(
        reply["rules"][0]["applied"],
        json!({"gateways": 1, "of": 2})
    );
}

#[tokio::test]
async fn the_fleet_is_waited_for_and_the_answer_says_what_was_reached() {
    let (fleet, mut hand) = played_fleet();
    hand.relayed.send_replace(taken(100, 5));
    hand.show(View {
        last: EntryId { ms: 5, sequence: 0 },
        ..View::default()
    });
    let server = start_in_fleet(fleet).await;
    let applied = Arc::new(std::sync::atomic::AtomicU64::new(4));
    let by_b = Arc::clone(&applied);
    tokio::spawn(async move {
        while let Some(question) = hand.asked.recv().await {
            let at = by_b.load(std::sync::atomic::Ordering::Relaxed);
            let _ = question.send(vec![fleet_member("a", 0), fleet_member("b", at)]);
        }
    });
    let rule =
        |timeout: &str| json!({"iss": ISSUER, "sub": "alice", "wait": "fleet", "timeout": timeout});
    let late = server.revoke("all", rule("10ms")).await;
    assert_eq!(late.status, 202, "{}", late.text);
    assert_eq!(late.json()["fleet"]["pending"], json!(["b"]));
    assert_eq!(late.json()["fleet"]["reached"], false);
    let id = late.json()["rules"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/revocations/{id}");
    let read = server.get("all", &path).await.ok();
    let applied_so_far = json!({"gateways": 1, "of": 2});
    assert_eq!(
        read["fleet"],
        json!({"relayed": true, "applied": applied_so_far, "pending": ["b"]})
    );
    applied.store(5, std::sync::atomic::Ordering::Relaxed);
    let done = server.revoke("all", rule("10s")).await.ok();
    assert_eq!(done["fleet"]["reached"], true);
    assert_eq!(done["rules"][0]["applied"], json!({"gateways": 2, "of": 2}));
    let read = server.get("all", &path).await.ok();
    assert_eq!(read["fleet"]["pending"], json!([]));
    let unknown = rule("soon");
    server
        .revoke("all", unknown)
        .await
        .is(400, "invalid_request");
}

#[tokio::test]
async fn a_dry_run_is_nothing_that_the_fleet_waits_for() {
    let (fleet, hand) = played_fleet();
    hand.relayed.send_replace(taken(1, 5));
    answer_questions(hand);
    let server = start_in_fleet(fleet).await;
    let made = server.revoke("all", user("alice")).await.ok();
    let dry = json!({"iss": ISSUER, "sub": "eve", "dry_run": true});
    server.revoke("all", dry).await.ok();
    let id = made["rules"][0]["id"].as_str().unwrap();
    let path = format!("/v1/revocations/{id}");
    let read = server.get("all", &path).await.ok();
    assert_eq!(read["fleet"]["relayed"], true, "{read}");
}

#[tokio::test]
async fn a_lift_waits_for_the_relay_as_well() {
    let (fleet, hand) = played_fleet();
    hand.relayed.send_replace(taken(100, 5));
    answer_questions(hand);
    let server = start_in_fleet(fleet).await;
    let block = json!({"iss": ISSUER, "client_id": "app", "standing": true});
    let made = server.revoke("all", block).await.ok();
    let path = format!(
        "/v1/revocations/{}",
        made["rules"][0]["id"].as_str().unwrap()
    );
    let lifted = server.call("all", Method::DELETE, &path, None).await.ok();
    assert_eq!(lifted["fleet"]["relayed"], true);
}

#[tokio::test]
async fn the_status_lists_the_fleet() {
    let (fleet, hand) = played_fleet();
    hand.show(View {
        fault: Some("connection refused".into()),
        outbox: 2,
        ..View::default()
    });
    let server = start_in_fleet(fleet).await;
    let status = server.get("read", "/v1/status").await.ok();
    let fleet = &status["fleet"];
    assert_eq!(
        (
            &fleet["name"],
            &fleet["state"],
            &fleet["fault"],
            &fleet["outbox"]
        ),
        (
            &json!("a"),
            &json!("away"),
            &json!("connection refused"),
            &json!(2)
        )
    );
    assert_eq!(fleet["members"].as_array().map(Vec::len), Some(2));
    assert_eq!(fleet["members"][1]["name"], "b");
    let alone = start().await.get("read", "/v1/status").await.ok();
    assert_eq!(alone.get("fleet"), None);
}
