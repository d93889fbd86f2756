//! gRPC through the gateway: unary calls, streams in both directions, and a refusal that a gRPC client understands.

use std::net::SocketAddr;

use http::{HeaderName, HeaderValue};
use hyper::body::Frame;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::StreamExt as _;
use tonic::codegen::tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::server::HealthReporter;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

use crate::support::upstream::RawUpstream;
use crate::support::{Gateway, Issuer, Setup, Upstream, within};

struct Scene {
    issuer: Issuer,
    gateway: Gateway,
    health: HealthReporter,
    channel: Channel,
}

async fn service() -> (SocketAddr, HealthReporter) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("descriptors");
    let router = Server::builder()
        .add_service(health)
        .add_service(reflection);
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    (address, reporter)
}

async fn scene() -> Scene {
    let (issuer, (address, health)) = (Issuer::start().await, service().await);
    let gateway = Setup::at(issuer.url(), "grpc")
        .section(format!(
            "[[upstreams]]\nname = \"grpc\"\nservers = [\"http://{address}\"]\nhttp2 = true"
        ))
        .route("path = \"/grpc.reflection.v1.ServerReflection\"\nscopes = [\"reflect\"]")
        .start()
        .await;
    let endpoint = Endpoint::from_shared(format!("http://{}", gateway.address())).expect("a URL");
    Scene {
        channel: endpoint.connect().await.expect("a connection"),
        issuer,
        gateway,
        health,
    }
}

fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(
        "authorization",
        format!("Bearer {token}").parse().expect("a header's value"),
    );
    request
}

fn everything() -> HealthCheckRequest {
    HealthCheckRequest {
        service: String::new(),
    }
}

#[tokio::test]
async fn a_unary_call_passes_with_a_token_alone() {
    let scene = scene().await;
    let mut client = HealthClient::new(scene.channel.clone());
    let token = scene.issuer.token("alice").sign();
    let answer = within("the call", client.check(with_token(everything(), &token)))
        .await
        .unwrap();
    assert_eq!(answer.into_inner().status, ServingStatus::Serving as i32);
    let unknown = HealthCheckRequest {
        service: "nothing".to_owned(),
    };
    let status = client.check(with_token(unknown, &token)).await.unwrap_err();
    assert_eq!(
        status.code(),
        Code::NotFound,
        "the service's own status: {status}"
    );
    for request in [
        Request::new(everything()),
        with_token(everything(), "x.y.z"),
    ] {
        let status = client.check(request).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    }
}

#[tokio::test]
async fn a_stream_of_the_service_passes_as_it_comes() {
    let scene = scene().await;
    let mut client = HealthClient::new(scene.channel.clone());
    let token = scene.issuer.token("alice").sign();
    let mut stream = within("the call", client.watch(with_token(everything(), &token)))
        .await
        .unwrap()
        .into_inner();
    for status in [
        ServingStatus::Serving,
        ServingStatus::NotServing,
        ServingStatus::Serving,
    ] {
        scene.health.set_service_status("", status).await;
        let message = within("a message", stream.next()).await.unwrap().unwrap();
        assert_eq!(message.status, status as i32);
    }
    let status = client.watch(everything()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_stream_whose_session_is_revoked_ends_with_a_status() {
    let scene = scene().await;
    let mut client = HealthClient::new(scene.channel.clone());
    let token = scene.issuer.token("alice").sid("s1").sign();
    let mut stream = within("the call", client.watch(with_token(everything(), &token)))
        .await
        .unwrap()
        .into_inner();
    within("a message", stream.next()).await.unwrap().unwrap();
    scene
        .gateway
        .admin()
        .revoke_session(scene.issuer.url(), "s1")
        .await;
    let status = within("the end", stream.next()).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
}

#[tokio::test]
async fn both_directions_stream_at_once() {
    let scene = scene().await;
    let mut client = ServerReflectionClient::new(scene.channel.clone());
    let token = scene.issuer.token("alice").scope("reflect").sign();
    let (questions, stream) = mpsc::channel(1);
    let ask = |word: MessageRequest| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(word),
    };
    questions
        .send(ask(MessageRequest::ListServices(String::new())))
        .await
        .unwrap();
    let call = client.server_reflection_info(with_token(ReceiverStream::new(stream), &token));
    let mut answers = within("the call", call).await.unwrap().into_inner();
    let first = within("an answer", answers.next()).await.unwrap().unwrap();
    assert!(
        format!("{first:?}").contains("grpc.health.v1.Health"),
        "{first:?}"
    );
    for _ in 0..3 {
        let symbol = MessageRequest::FileContainingSymbol("grpc.health.v1.Health".to_owned());
        questions.send(ask(symbol)).await.unwrap();
        let answer = within("an answer", answers.next()).await.unwrap().unwrap();
        assert!(
            format!("{answer:?}").contains("FileDescriptorResponse"),
            "{answer:?}"
        );
    }
    drop(questions);
    assert!(within("the end", answers.next()).await.is_none());
}

#[tokio::test]
async fn a_missing_scope_is_permission_denied_and_a_revoked_token_unauthenticated() {
    let scene = scene().await;
    let mut client = ServerReflectionClient::new(scene.channel.clone());
    let token = scene.issuer.token("alice").sid("s1").sign();
    let (_questions, stream) = mpsc::channel::<ServerReflectionRequest>(1);
    let call = client.server_reflection_info(with_token(ReceiverStream::new(stream), &token));
    let status = within("the refusal", call).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    scene
        .gateway
        .admin()
        .revoke_session(scene.issuer.url(), "s1")
        .await;
    let mut client = HealthClient::new(scene.channel.clone());
    let status = client
        .check(with_token(everything(), &token))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
}

#[tokio::test]
async fn an_answer_that_cannot_be_passed_on_is_refused_in_the_words_of_the_call() {
    let unreadable = "HTTP/1.1 200 OK\r\nconnection: a b\r\ncontent-length: 0\r\n\r\n";
    let service = RawUpstream::start(unreadable, false).await;
    let gateway = Setup::balanced(&[service.url()], "").start().await;
    let call = async |kind: &str| {
        let request = gateway.post("/shop.Orders/Put").h2();
        request.header("content-type", kind).await
    };
    let answer = call("application/grpc").await;
    let unavailable = (200, Some("14"), Some("upstream_failed"));
    assert_eq!(
        (
            answer.status(),
            answer.header("grpc-status"),
            answer.header("grpc-message")
        ),
        unavailable
    );
    let other = call("application/json").await;
    assert_eq!(other.verdict(), "502 upstream_failed");
    assert_eq!(service.heads().len(), 2);
}

#[tokio::test]
async fn trailers_of_a_call_cannot_name_an_identity_or_framing_header() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::at(issuer.url(), "grpc")
        .section(format!(
            "[[upstreams]]\nname = \"grpc\"\nservers = [\"{}\"]\nhttp2 = true",
            upstream.url()
        ))
        .start()
        .await;
    let token = issuer.token("alice").sign();
    for (kind, kept) in [
        ("application/grpc", &["x-sum", "x-sum"][..]),
        ("application/json", &[]),
    ] {
        let (frames, body) = mpsc::channel(2);
        frames.send(Frame::data("x".into())).await.unwrap();
        let trailers = [
            ("x-sum", "1"),
            ("x-sum", "2"),
            ("x-user-id", "root"),
            ("x_user_id", "root"),
            ("x.user.id", "root"),
            ("authorization", "Bearer x"),
            ("cookie", "a=b"),
            ("content-length", "5"),
            ("host", "evil"),
            ("x-forwarded-for", "10.9.8.7"),
            ("x-original-url", "/admin"),
            ("jotgate-revoke", "user"),
        ];
        let trailers = trailers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect::<Vec<(HeaderName, HeaderValue)>>();
        frames
            .send(Frame::trailers(trailers.into_iter().collect()))
            .await
            .unwrap();
        drop(frames);
        let answer = gateway
            .post("/shop.Orders/Put")
            .h2()
            .bearer(&token)
            .header("content-type", kind)
            .header("te", "trailers")
            .stream(body)
            .await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        let seen = upstream.last();
        let trailers = seen.trailers.unwrap_or_default();
        let names: Vec<&str> = trailers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((names, seen.complete), (kept.to_vec(), true), "{kind}");
    }
}
