//! TLS to services: who is believed, who is not, and that the others get nothing. The bad certificates are each wrong in one
//! thing alone.

use bytes::Bytes;
use http::Version;
use http_body_util::BodyExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::support::authority::{Authority, H2, HTTP_11, Issued, quoted};
use crate::support::process::Process;
use crate::support::service::RawService;
use crate::support::upstream::Refusing;
use crate::support::{DEADLINE, Gateway, Reply, Setup, Upstream, web_socket, within};

/// What services are called, which no resolver knows.
const NAME: &str = "orders.test";

fn alpn(http2: bool) -> &'static [&'static [u8]] {
    if http2 { H2 } else { HTTP_11 }
}

/// A gateway that asks nobody for a token, and its one upstream. `tls` has the members of that table.
fn setup(servers: &[String], tls: &str, lines: &str) -> Setup {
    Setup::bare("service")
        .catch_all("auth = \"public\"")
        .section(format!(
            "[[upstreams]]\nname = \"service\"\nservers = {servers:?}\ntls = {{ {tls} }}\n{lines}"
        ))
}

fn address(service: &Upstream) -> String {
    format!("https://{}", service.address())
}

/// For a service of this authority with that name.
fn trusting(ca: &Authority, name: &str) -> String {
    format!("ca = {}, server_name = \"{name}\"", quoted(&ca.file()))
}

async fn gateway(service: &Upstream, tls: &str, http2: bool) -> Gateway {
    let lines = format!("http2 = {http2}");
    setup(&[address(service)], tls, &lines).start().await
}

#[tokio::test]
async fn requests_reach_a_service_over_tls() {
    let ca = Authority::new();
    for http2 in [false, true] {
        let service = Upstream::over_tls(ca.issue(NAME).server(alpn(http2))).await;
        let gateway = gateway(&service, &trusting(&ca, NAME), http2).await;
        for version in [Version::HTTP_11, Version::HTTP_2] {
            service.reply(Reply::Echo);
            let answer = gateway.post("/a?b=c").version(version).body("sent").await;
            assert_eq!((answer.status(), answer.text().as_str()), (200, "sent"));
        }
        let seen = service.last();
        assert_eq!(seen.target, "/a?b=c");
        if http2 {
            assert_eq!(
                (seen.version, seen.scheme.as_str()),
                (Version::HTTP_2, "https")
            );
        } else {
            assert_eq!(seen.version, Version::HTTP_11);
        }
        let handshakes = service.handshakes();
        assert_eq!(handshakes.len(), 1, "the connection is kept");
        assert_eq!(handshakes[0].server_name.as_deref(), Some(NAME));
    }
}

#[tokio::test]
async fn a_server_is_believed_by_its_own_host_where_no_name_is_written() {
    let ca = Authority::new();
    let service = Upstream::over_tls(ca.issue("127.0.0.1").server(HTTP_11)).await;
    let tls = format!("ca = {}", quoted(&ca.file()));
    assert_eq!(
        gateway(&service, &tls, false).await.get("/").await.status(),
        200
    );
    assert_eq!(
        service.handshakes()[0].server_name,
        None,
        "no SNI for addresses"
    );

    let named = Upstream::over_tls(ca.issue("localhost").server(HTTP_11)).await;
    let url = format!("https://localhost:{}", named.address().port());
    let gateway = setup(&[url], &tls, "").start().await;
    assert_eq!(gateway.get("/").await.status(), 200);
    assert_eq!(
        named.handshakes()[0].server_name.as_deref(),
        Some("localhost")
    );
    assert_eq!(named.count(), 1);
}

/// That this service gets not one request, and the client a 502 without a word about the reason.
async fn refused(what: &str, issued: &Issued, tls: &str) {
    for http2 in [false, true] {
        let service = Upstream::over_tls(issued.server(alpn(http2))).await;
        let gateway = gateway(&service, tls, http2).await;
        for _ in 0..2 {
            let answer = gateway.get("/secret").await;
            assert_eq!(answer.verdict(), "502 upstream_unreachable", "{what}");
            let text = answer.text().to_lowercase();
            assert!(
                !text.contains("certificate") && !text.contains("tls"),
                "{text}"
            );
        }
        assert_eq!(service.connections(), 2, "{what}");
        assert_eq!(
            (service.count(), service.wire().as_str()),
            (0, ""),
            "{what}"
        );
    }
}

#[tokio::test]
async fn a_service_of_another_authority_gets_nothing() {
    let (ca, other) = (Authority::new(), Authority::new());
    refused("another CA", &other.issue(NAME), &trusting(&ca, NAME)).await;
}

#[tokio::test]
async fn a_service_with_another_name_gets_nothing() {
    let ca = Authority::new();
    let issued = ca.issue("billing.test");
    refused("another name", &issued, &trusting(&ca, NAME)).await;
    let tls = format!("ca = {}", quoted(&ca.file()));
    refused("a name for an address", &issued, &tls).await;
}

#[tokio::test]
async fn a_service_whose_certificate_has_expired_gets_nothing() {
    let ca = Authority::new();
    refused("expired", &ca.issue_expired(NAME), &trusting(&ca, NAME)).await;
}

#[tokio::test]
async fn a_service_that_asks_for_a_certificate_gets_the_gateways_own() {
    let (ca, other) = (Authority::new(), Authority::new());
    let (own, foreign) = (ca.issue("gateway"), other.issue("gateway"));
    let with = |issued: &Issued| {
        format!(
            "{}, certificate = {}, key = {}",
            trusting(&ca, NAME),
            quoted(&issued.certificate_file),
            quoted(&issued.key_file)
        )
    };
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for http2 in [false, true] {
            let config = ca
                .issue(NAME)
                .server_of(&[version], Some(ca.demand()), alpn(http2));
            let service = Upstream::over_tls(config).await;
            for tls in [trusting(&ca, NAME), with(&foreign)] {
                let answer = gateway(&service, &tls, http2).await.get("/").await;
                let verdict = answer.verdict();
                assert_eq!(verdict, "502 upstream_unreachable", "{version:?} {http2}");
            }
            assert_eq!(service.count(), 0, "{version:?} {http2}");
            let answer = gateway(&service, &with(&own), http2).await.get("/").await;
            assert_eq!(answer.status(), 200, "{version:?} {http2}");
            assert!(service.handshakes()[0].certified);
            assert_eq!(service.count(), 1);
        }
    }
}

#[tokio::test]
async fn http2_is_spoken_only_with_a_service_that_offers_it() {
    let ca = Authority::new();
    for alpn in [&[][..], HTTP_11] {
        let service = Upstream::over_tls(ca.issue(NAME).server(alpn)).await;
        let http2 = gateway(&service, &trusting(&ca, NAME), true).await;
        assert_eq!(http2.get("/").await.verdict(), "502 upstream_unreachable");
        assert_eq!(
            (service.count(), service.wire().as_str()),
            (0, ""),
            "{alpn:?}"
        );
        let http1 = gateway(&service, &trusting(&ca, NAME), false).await;
        assert_eq!(http1.get("/").await.status(), 200);
        assert_eq!(service.count(), 1);
    }
}

#[tokio::test]
async fn a_service_without_tls_where_tls_is_expected_gets_nothing() {
    let ca = Authority::new();
    let service = Upstream::start().await;
    for http2 in [false, true] {
        let gateway = gateway(&service, &trusting(&ca, NAME), http2).await;
        let answer = gateway.get("/secret").await;
        assert_eq!(answer.verdict(), "502 upstream_unreachable");
    }
    assert_eq!(service.connections(), 2);
    assert_eq!(service.count(), 0);
    assert!(!service.wire().contains("secret"));
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_502_in_time() {
    let ca = Authority::new();
    let service = RawService::start().await;
    let url = service.url().replace("http://", "https://");
    for http2 in [false, true] {
        let lines = format!("http2 = {http2}\nconnect_timeout = \"300ms\"");
        let tls = trusting(&ca, NAME);
        let gateway = setup(std::slice::from_ref(&url), &tls, &lines)
            .start()
            .await;
        let answer = tokio::spawn(gateway.get("/").into_future());
        let silent = service.accept().await;
        let answer = within("the answer", answer).await.unwrap();
        assert_eq!(answer.verdict(), "502 upstream_unreachable");
        drop(silent);
    }
}

#[tokio::test]
async fn the_next_server_is_tried_when_one_is_not_who_it_should_be() {
    let (ca, other) = (Authority::new(), Authority::new());
    let refusing = Refusing::start();
    for http2 in [false, true] {
        let good = Upstream::over_tls(ca.issue(NAME).server(alpn(http2))).await;
        let bad = Upstream::over_tls(other.issue(NAME).server(alpn(http2))).await;
        let gone = refusing.url().replace("http://", "https://");
        let servers = [address(&bad), gone, address(&good)];
        let lines = format!("http2 = {http2}");
        let gateway = setup(&servers, &trusting(&ca, NAME), &lines).start().await;
        for _ in 0..3 {
            assert_eq!(gateway.post("/").body("once").await.status(), 200);
        }
        assert_eq!((good.count(), bad.count()), (3, 0));
    }
}

#[tokio::test]
async fn a_session_is_resumed() {
    let ca = Authority::new();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = ca.issue(NAME).server_of(&[version], None, HTTP_11);
        let service = Upstream::over_tls(config).await;
        let tls = trusting(&ca, NAME);
        let gateway = setup(&[address(&service)], &tls, "max_idle = 0")
            .start()
            .await;
        for _ in 0..2 {
            // Each request has a connection of its own.
            assert_eq!(gateway.get("/").await.status(), 200);
        }
        let resumed: Vec<bool> = service.handshakes().iter().map(|it| it.resumed).collect();
        assert_eq!(resumed, [false, true], "{version:?}");
    }
}

#[tokio::test]
async fn web_sockets_go_through_tls() {
    let ca = Authority::new();
    let service = Upstream::over_tls(ca.issue(NAME).server(HTTP_11)).await;
    let gateway = gateway(&service, &trusting(&ca, NAME), false).await;
    service.reply(Reply::WebSocket);
    let mut socket = web_socket::open(&gateway, &[]).await;
    web_socket::echo(&mut socket, "hello").await;
    assert_eq!(service.last().target, "/chat");
}

#[tokio::test]
async fn an_early_answer_is_read_though_the_service_closes() {
    let ca = Authority::new();
    let service = Upstream::over_tls(ca.issue(NAME).server(HTTP_11)).await;
    let gateway = gateway(&service, &trusting(&ca, NAME), false).await;
    service.reply(Reply::Early(413));
    let body = Bytes::from(vec![b'x'; 4 << 20]);
    assert_eq!(gateway.post("/").body(body).await.status(), 413);
    assert_eq!(service.count(), 1);
}

/// Somebody on the way can end a TCP connection, but cannot write TLS's own farewell.
#[tokio::test]
async fn an_answer_without_a_length_that_somebody_cuts_is_not_taken_for_whole() {
    let ca = Authority::new();
    for farewell in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let config = std::sync::Arc::new(ca.issue(NAME).server(HTTP_11));
        let serving = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = tokio_rustls::TlsAcceptor::from(config);
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut head = vec![];
            while !head.ends_with(b"\r\n\r\n") {
                head.push(tokio::io::AsyncReadExt::read_u8(&mut stream).await.unwrap());
            }
            let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhalf";
            stream.write_all(answer).await.unwrap();
            stream.flush().await.unwrap();
            if farewell {
                stream.shutdown().await.unwrap();
            }
            head
        });
        let gateway = setup(&[url], &trusting(&ca, NAME), "").start().await;
        let answer = within("the head", gateway.get("/").open()).await.unwrap();
        let body = within("the end", answer.into_body().collect()).await;
        assert_eq!(body.is_ok(), farewell);
        assert!(serving.await.unwrap().starts_with(b"GET / "));
    }
}

#[tokio::test]
async fn the_systems_authorities_are_believed_unless_others_are_written() {
    let (system, own) = (Authority::new(), Authority::new());
    let service = Upstream::over_tls(system.issue("127.0.0.1").server(HTTP_11)).await;
    let setup = |upstream: &str| {
        Setup::bare(upstream)
            .catch_all("auth = \"public\"")
            .env("SSL_CERT_FILE", system.file().to_str().unwrap())
    };
    let process = Process::gateway(&setup(&address(&service)));
    let believing = process.address(&["listening"]).await;
    let answer = status(believing).await;
    assert_eq!(answer, 200);
    assert_eq!(service.count(), 1);

    let section = format!(
        "[[upstreams]]\nname = \"service\"\nservers = [\"{}\"]\ntls = {{ ca = {} }}",
        address(&service),
        quoted(&own.file())
    );
    let process = Process::gateway(&setup("service").section(section));
    let doubting = process.address(&["listening"]).await;
    for _ in 0..2 {
        assert_eq!(status(doubting).await, 502);
    }
    // Why stands in the log, once.
    let told = process
        .line(&[
            "WARN",
            "TLS to a service failed",
            "service",
            "invalid peer certificate",
        ])
        .await;
    assert!(told.contains(&address(&service)), "{told}");
    let said = process.said();
    assert_eq!(said.matches("TLS to a service failed").count(), 1, "{said}");
    assert_eq!(service.count(), 1, "not one more");
}

/// The status of a request to that address.
async fn status(address: std::net::SocketAddr) -> u16 {
    let request = crate::support::client::Request::new(address, "GET", "/");
    tokio::time::timeout(DEADLINE, request.into_future())
        .await
        .expect("an answer")
        .status()
}
