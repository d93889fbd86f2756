//! A load balancer hands connections on and says first whom they are for; who else comes is sent away.

use http::Version;

use crate::support::certs::{Authority, Folder, TlsSetup};
use crate::support::client::Connection;
use crate::support::raw::{Raw, status};
use crate::support::{Gateway, Issuer, Setup, Upstream, eventually};

/// The proxy is this machine; 127.0.0.2 is not.
const TRUST: &str = "proxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]";

const REQUEST: &str = "GET /open HTTP/1.1\r\nhost: shop\r\nx-forwarded-for: 198.51.100.9\r\n\r\n";

struct Scene {
    issuer: Issuer,
    upstream: Upstream,
    gateway: Gateway,
}

async fn scene(change: impl FnOnce(Setup) -> Setup) -> Scene {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let setup = Setup::new(&issuer, &upstream).listener(TRUST);
    Scene {
        gateway: change(setup.route("path = \"/open\"\nauth = \"public\""))
            .start()
            .await,
        issuer,
        upstream,
    }
}

impl Scene {
    /// A connection that begins with these bytes and goes on with a request, and what it got.
    async fn connect(&self, head: impl AsRef<[u8]>, request: &str) -> (Raw, String) {
        let mut raw = Raw::connect(self.gateway.address()).await;
        raw.send(head).await;
        raw.send(request).await;
        let answer = raw.read_until("fine").await;
        (raw, answer)
    }

    /// What the service was told of the client's way.
    async fn forwarded_for(&self, head: impl AsRef<[u8]>) -> String {
        let (_, answer) = self.connect(head, REQUEST).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
        self.upstream.last().all("x-forwarded-for").join(", ")
    }

    async fn until_fault(&self, reason: &str, times: u64) {
        eventually("the fault to be counted", async || {
            let metrics = self.gateway.metrics().await;
            let series = format!("jotgate_connection_errors_total{{reason=\"{reason}\"}}");
            (metrics.value(&series) == Some(times)).then_some(())
        })
        .await;
    }
}

fn v1(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 10.0.0.1 51234 443\r\n").into_bytes()
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut head = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    let length = u8::try_from(rest.len()).expect("a short head");
    head.extend([command, family, 0, length]);
    head.extend(rest);
    head
}

const FOUR: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0xc8, 0x22, 1, 0xbb];

#[tokio::test]
async fn the_told_address_takes_the_place_of_the_peers() {
    let scene = scene(|setup| setup).await;
    assert_eq!(scene.forwarded_for(v1("192.0.2.7")).await, "192.0.2.7");
    let told = scene.forwarded_for(v2(0x21, 0x11, &FOUR)).await;
    assert_eq!(told, "192.0.2.7");
    let mut with_additions = FOUR.to_vec();
    with_additions.extend([0x04, 0, 2, 0, 0]);
    let told = scene.forwarded_for(v2(0x21, 0x11, &with_additions)).await;
    assert_eq!(told, "192.0.2.7");
    assert_eq!(scene.upstream.count(), 3);
}

#[tokio::test]
async fn who_is_told_is_believed_about_nothing_more() {
    let scene = scene(|setup| setup).await;
    // A client that is a trusted proxy itself.
    let told = scene.forwarded_for(v1("10.1.2.3")).await;
    assert_eq!(told, "198.51.100.9, 10.1.2.3");
    // Of nobody: a look whether we are there, and a client that the proxy does not know.
    for nobody in [
        v2(0x20, 0x00, b""),
        v2(0x20, 0x11, &FOUR),
        v2(0x21, 0x31, &[0; 216]),
        b"PROXY UNKNOWN\r\n".to_vec(),
    ] {
        assert_eq!(scene.forwarded_for(nobody).await, "unknown");
    }
    assert_eq!(scene.upstream.count(), 5);
}

#[tokio::test]
async fn only_trusted_proxies_are_let_in() {
    let scene = scene(|setup| setup).await;
    let get = scene.gateway.get("/open").from([127, 0, 0, 2]);
    assert!(get.try_send().await.is_err());
    scene.until_fault("no_proxy", 1).await;
    assert_eq!(scene.upstream.count(), 0);
    assert_eq!(scene.forwarded_for(v1("192.0.2.7")).await, "192.0.2.7");
}

#[tokio::test]
async fn what_is_no_header_closes_the_connection() {
    let scene = scene(|setup| setup).await;
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(93)).into_bytes();
    let bad = [
        vec![],
        b"PROXY TCP4 192.0.2.07 10.0.0.1 51234 443\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 10.0.0.1 51234 443\n".to_vec(),
        b"PROXY TCP4 192.0.2.7\r\n".to_vec(),
        long,
        v2(0x22, 0x11, &FOUR),
        v2(0x21, 0x12, &FOUR),
        v2(0x21, 0x11, &FOUR[..11]),
        [&v2(0x21, 0x11, &FOUR)[1..], b"\r"].concat(),
    ];
    for head in &bad {
        let (_, answer) = scene.connect(head, REQUEST).await;
        assert_eq!(answer, "", "{head:?}");
    }
    scene.until_fault("proxy_protocol", bad.len() as u64).await;
    assert_eq!(scene.upstream.count(), 0);
    // A second header is a request that is none.
    let twice = [v1("192.0.2.7"), v1("192.0.2.8")].concat();
    assert_eq!(status(&scene.connect(twice, REQUEST).await.1), 400);
    assert_eq!(scene.upstream.count(), 0);
}

#[tokio::test]
async fn a_header_that_stalls_gives_back_its_place() {
    let scene =
        scene(|setup| setup.listener("max_connections = 1\nheader_timeout = \"300ms\"")).await;
    let mut stalled = Raw::connect(scene.gateway.address()).await;
    stalled.send(&v2(0x21, 0x11, &FOUR)[..20]).await;
    assert_eq!(stalled.read_to_end().await, "");
    scene.until_fault("proxy_protocol_timeout", 1).await;
    assert_eq!(scene.forwarded_for(v1("192.0.2.7")).await, "192.0.2.7");
    assert_eq!(scene.upstream.count(), 1);
}

#[tokio::test]
async fn limits_count_the_told_address() {
    let scene = scene(|setup| {
        setup.listener(
            "max_connections_per_address = 1\nfailure_limit = { failures = 2, per = \"1h\" }",
        )
    })
    .await;
    let (_open, answer) = scene.connect(v1("192.0.2.7"), REQUEST).await;
    assert_eq!(status(&answer), 200);
    let (_, answer) = scene.connect(v1("192.0.2.7"), REQUEST).await;
    assert_eq!(answer, "");
    scene.until_fault("address_full", 1).await;
    // Of others, and of nobody, there may be more.
    let mut open = vec![];
    for head in [v1("192.0.2.8"), v2(0x20, 0, b""), v2(0x20, 0, b"")] {
        let (raw, answer) = scene.connect(head, REQUEST).await;
        assert_eq!(status(&answer), 200);
        open.push(raw);
    }
    let token = scene.issuer.token("alice").sign();
    let ask = async |client: &str, token: &str| {
        let request = format!(
            "GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        let mut raw = Raw::connect(scene.gateway.address()).await;
        raw.send(v1(client)).await;
        raw.send(request).await;
        status(&raw.read_to_end().await)
    };
    for expected in [401, 401, 429] {
        // The place of the connection before is free once it is closed on both sides.
        let seen = eventually("a place", async || match ask("192.0.2.9", "x.y.z").await {
            0 => None,
            status => Some(status),
        })
        .await;
        assert_eq!(seen, expected);
    }
    assert_eq!(ask("192.0.2.10", &token).await, 200);
    assert_eq!(scene.upstream.count(), 5);
}

#[tokio::test]
async fn tls_begins_after_the_header() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let pair = folder.pair("edge", &authority.server(&["localhost"]));
    let scene = scene(|setup| setup.listener(format!("tls = {{ {pair} }}"))).await;
    let mut raw = Raw::connect(scene.gateway.address()).await;
    raw.send(v2(0x21, 0x11, &FOUR)).await;
    let client = TlsSetup::new(&authority).client();
    let stream = client.over(raw.into_stream(), "localhost").await.unwrap();
    let mut connection = Connection::over(stream, Version::HTTP_11).await;
    let answer = connection.send(scene.gateway.get("/open")).await;
    assert_eq!(answer.status(), 200);
    let told = scene.upstream.last().header("x-forwarded-for");
    assert_eq!(told.as_deref(), Some("192.0.2.7"));
}
