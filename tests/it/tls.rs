//! TLS on listeners.

use http::Version;
use rcgen::SanType;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::certs::{Authority, Folder, TlsSetup, files};
use crate::support::client::{Connection, Request};
use crate::support::process::{Process, run};
use crate::support::service::RawService;
use crate::support::{Gateway, Issuer, Reply, Setup, Upstream, eventually, web_socket, within};

struct Scene {
    issuer: Issuer,
    upstream: Upstream,
    gateway: Gateway,
    authority: Authority,
    folder: Folder,
}

/// A gateway for `localhost`, with more members of its table `tls`.
async fn scene(members: &str) -> Scene {
    scene_with(members, |setup| setup).await
}

async fn scene_with(members: &str, more: impl FnOnce(Setup) -> Setup) -> Scene {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let (authority, folder) = (Authority::new(), Folder::new());
    let pair = folder.pair("server", &authority.server(&["localhost"]));
    folder.write("ca.pem", authority.pem());
    let members = members.replace("$FOLDER", folder.path().to_str().expect("UTF-8"));
    let setup = Setup::new(&issuer, &upstream).listener(format!("tls = {{ {pair}{members} }}"));
    Scene {
        gateway: more(setup).start().await,
        issuer,
        upstream,
        authority,
        folder,
    }
}

impl Scene {
    /// A request with a good token.
    fn get(&self, target: &str) -> Request {
        let token = self.issuer.token("alice").sign();
        self.gateway.get(target).host("localhost").bearer(&token)
    }

    async fn faults(&self) -> Vec<(String, u64)> {
        let metrics = self.gateway.metrics().await;
        let samples = metrics.samples("jotgate_connection_errors_total");
        let reason = |(labels, n): (std::collections::BTreeMap<String, String>, u64)| {
            (labels["reason"].clone(), n)
        };
        samples.into_iter().map(reason).collect()
    }

    async fn until_fault(&self, expected: &str) {
        eventually("the fault is counted", async || {
            (self.faults().await == [(expected.to_owned(), 1)]).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn alpn_alone_chooses_between_http_1_and_2() {
    let scene = scene("").await;
    for (protocols, version) in [
        (&["h2", "http/1.1"][..], Version::HTTP_2),
        (&["http/1.1"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ] {
        let client = TlsSetup {
            protocols,
            ..TlsSetup::new(&scene.authority)
        };
        let stream = client
            .client()
            .connect(scene.gateway.address(), "localhost");
        let stream = stream.await.unwrap();
        let mut connection = Connection::over(stream, version).await;
        let answer = connection.send(scene.get("/").version(version)).await;
        assert_eq!((answer.status(), answer.version()), (200, version));
        let seen = scene.upstream.last();
        assert_eq!(
            seen.aliases("x-forwarded-proto"),
            ["x-forwarded-proto: https"]
        );
        let forwarded = seen.aliases("forwarded");
        assert!(
            forwarded.len() == 1 && forwarded[0].ends_with(";proto=https"),
            "{forwarded:?}"
        );
    }
    // HTTP/2 without having agreed on it.
    let client = TlsSetup::new(&scene.authority).client();
    let stream = client.connect(scene.gateway.address(), "localhost");
    let mut stream = stream.await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(preface).await.unwrap();
    let mut said = vec![];
    // It may be closed in the middle of what we sent.
    let _ = within("the end", stream.read_to_end(&mut said)).await;
    assert!(!said.starts_with(b"\0\0"), "no frame of HTTP/2: {said:?}");
    assert_eq!(scene.upstream.count(), 3);
}

#[tokio::test]
async fn http_2_is_not_offered_where_the_file_says_so() {
    let scene = scene_with("", |setup| setup.listener("http2 = false")).await;
    let connect = async |protocols| {
        let setup = TlsSetup {
            protocols,
            ..TlsSetup::new(&scene.authority)
        };
        let client = setup.client();
        client.connect(scene.gateway.address(), "localhost").await
    };
    let stream = connect(&["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let refused = connect(&["h2"]).await.unwrap_err();
    assert!(
        refused.to_string().contains("NoApplicationProtocol"),
        "{refused}"
    );
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_and_nothing_older() {
    let scene = scene("").await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let setup = TlsSetup {
            versions: &[version],
            ..TlsSetup::new(&scene.authority)
        };
        let stream = setup.client().connect(scene.gateway.address(), "localhost");
        let stream = stream.await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        let mut connection = Connection::over(stream, Version::HTTP_11).await;
        assert_eq!(connection.send(scene.get("/")).await.status(), 200);
    }
    // A ClientHello of TLS 1.1 (RFC 4346 section 7.4.1.2).
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x14, 1, 0]);
    // One extension: it can check ECDSA over P-256.
    hello.extend([0, 8, 0, 13, 0, 4, 0, 2, 4, 3]);
    let mut record = vec![22, 3, 1, 0, 4 + 51, 1, 0, 0, 51];
    record.extend(hello);
    let mut stream = TcpStream::connect(scene.gateway.address()).await.unwrap();
    stream.write_all(&record).await.unwrap();
    let mut said = vec![];
    within("the end", stream.read_to_end(&mut said))
        .await
        .unwrap();
    // A fatal alert, protocol_version (RFC 8446 section 6.2).
    assert_eq!((said[0], &said[5..]), (21, &[2, 70][..]), "{said:?}");
    assert_eq!(scene.upstream.count(), 2);
}

#[tokio::test]
async fn plain_http_on_a_tls_port_is_closed() {
    let scene = scene("").await;
    let token = scene.issuer.token("alice").sign();
    let mut stream = TcpStream::connect(scene.gateway.address()).await.unwrap();
    let request =
        format!("GET / HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut said = vec![];
    // The rest of what we sent may make the kernel reset it.
    let _ = within("the end", stream.read_to_end(&mut said)).await;
    assert!(!said.starts_with(b"HTTP/"), "{said:?}");
    scene.until_fault("tls").await;
    assert_eq!(scene.upstream.count(), 0);
}

#[tokio::test]
async fn a_connection_counts_before_its_handshake() {
    let scene = scene("").await;
    let _silent = TcpStream::connect(scene.gateway.address()).await.unwrap();
    eventually("the connection counts", async || {
        let metrics = scene.gateway.metrics().await;
        (metrics.samples("jotgate_connections")[0].1 == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_handshake_that_stalls_ends_and_gives_back_its_place() {
    let scene = scene_with(", handshake_timeout = \"300ms\"", |setup| {
        setup.listener("max_connections = 1")
    })
    .await;
    // The first bytes of a ClientHello.
    let mut stalled = TcpStream::connect(scene.gateway.address()).await.unwrap();
    stalled.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    let mut said = vec![];
    within("the end", stalled.read_to_end(&mut said))
        .await
        .unwrap();
    scene.until_fault("tls_timeout").await;
    let client = TlsSetup::new(&scene.authority).client();
    let stream = client.connect(scene.gateway.address(), "localhost");
    let mut connection = Connection::over(stream.await.unwrap(), Version::HTTP_11).await;
    assert_eq!(connection.send(scene.get("/")).await.status(), 200);
    assert_eq!(scene.upstream.count(), 1);
}

#[tokio::test]
async fn the_certificate_fits_the_name_that_the_client_asks_for() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let (authority, folder) = (Authority::new(), Folder::new());
    let all: Vec<_> = [
        &["first.example.com"][..],
        &["*.example.com"],
        &["api.example.com", "API.example.net"],
    ]
    .iter()
    .map(|names| authority.server(names))
    .collect();
    let pairs = all.iter().enumerate();
    let pairs = pairs.map(|(n, one)| format!("{{ {} }}", folder.pair(&n.to_string(), one)));
    let pairs = pairs.collect::<Vec<_>>().join(", ");
    let gateway = Setup::new(&issuer, &upstream)
        .listener(format!("tls = {{ certificates = [{pairs}] }}"))
        .start()
        .await;
    let client = TlsSetup::new(&authority).client();
    for (name, expected) in [
        ("first.example.com", 0),
        ("api.example.com", 2),
        ("API.example.COM", 2),
        ("api.example.net", 2),
        ("other.example.com", 1),
    ] {
        let stream = client.connect(gateway.address(), name).await.unwrap();
        let shown = stream.get_ref().1.peer_certificates().unwrap();
        assert_eq!(shown[0], all[expected].der(), "{name}");
    }
    // A star is one label, and none fits: the first, which the client refuses.
    for name in ["a.b.example.com", "example.com", "example.net"] {
        let refused = client.connect(gateway.address(), name).await.unwrap_err();
        let refused = refused.to_string();
        assert!(refused.contains("first.example.com"), "{refused}");
    }
}

#[tokio::test]
async fn the_route_is_chosen_by_the_host_and_not_by_the_name_in_the_handshake() {
    let scene = scene_with("", |setup| {
        setup.route("name = \"secret\"\npath = \"/\"\nhosts = [\"secret.example.com\"]\nscopes = [\"secret\"]")
    })
    .await;
    let client = TlsSetup::new(&scene.authority).client();
    let stream = client.connect(scene.gateway.address(), "localhost");
    let mut connection = Connection::over(stream.await.unwrap(), Version::HTTP_11).await;
    let answer = connection
        .send(scene.get("/").host("secret.example.com"))
        .await;
    assert_eq!(answer.verdict(), "403 insufficient_scope");
    assert_eq!(connection.send(scene.get("/")).await.status(), 200);
    assert_eq!(scene.upstream.count(), 1);
}

#[tokio::test]
async fn sessions_are_resumed_unless_clients_show_certificates() {
    let optional = ", client_ca = \"$FOLDER/ca.pem\", client_auth = \"optional\"";
    for (members, resumed) in [("", true), (optional, false)] {
        let scene = scene(members).await;
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let setup = TlsSetup {
                versions: &[version],
                ..TlsSetup::new(&scene.authority)
            };
            let client = setup.client();
            let mut kinds = vec![];
            for _ in 0..2 {
                let stream = client.connect(scene.gateway.address(), "localhost");
                let stream = stream.await.unwrap();
                kinds.push(stream.get_ref().1.handshake_kind().unwrap());
                // A ticket of TLS 1.3 comes with the answer.
                let mut connection = Connection::over(stream, Version::HTTP_11).await;
                assert_eq!(connection.send(scene.get("/")).await.status(), 200);
            }
            let is_resumed = kinds[1] == rustls::HandshakeKind::Resumed;
            assert_eq!(is_resumed, resumed, "{version:?} {kinds:?}");
        }
        assert_eq!(scene.upstream.count(), 4);
    }
}

#[tokio::test]
async fn an_end_without_a_goodbye_is_an_end() {
    let scene = scene("").await;
    let client = TlsSetup::new(&scene.authority).client();
    let token = scene.issuer.token("alice").sign();
    let request =
        format!("GET / HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n");
    for goodbye in [true, false] {
        let stream = client.connect(scene.gateway.address(), "localhost");
        let mut stream = stream.await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut said = [0; 12];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"HTTP/1.1 200");
        if goodbye {
            stream.shutdown().await.unwrap();
            let mut rest = vec![];
            within("the end", stream.read_to_end(&mut rest))
                .await
                .unwrap();
        } else {
            let (mut stream, _) = stream.into_inner();
            stream.shutdown().await.unwrap();
            let mut rest = vec![];
            within("the end", stream.read_to_end(&mut rest))
                .await
                .unwrap();
        }
    }
    assert!(
        scene.faults().await.is_empty(),
        "{:?}",
        scene.faults().await
    );
    assert_eq!(scene.upstream.count(), 2);
}

#[tokio::test]
async fn a_body_that_is_cut_is_never_taken_for_whole() {
    let (issuer, service) = (Issuer::start().await, RawService::start().await);
    let (authority, folder) = (Authority::new(), Folder::new());
    let pair = folder.pair("server", &authority.server(&["localhost"]));
    let gateway = Setup::at(issuer.url(), &service.url())
        .listener(format!("tls = {{ {pair} }}"))
        .start()
        .await;
    let client = TlsSetup::new(&authority).client();
    let stream = client.connect(gateway.address(), "localhost").await;
    let mut stream = stream.unwrap();
    let token = issuer.token("alice").sign();
    let request = format!(
        "POST / HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
         transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut raw, mut seen) = service.request().await;
    if !seen.contains("hello") {
        seen += &raw.read_until("hello").await;
    }
    // Whoever is on the way can end the connection, but not say that it is the end.
    drop(stream.into_inner());
    let rest = raw.read_to_end().await;
    assert!(!rest.contains("0\r\n\r\n"), "{seen}{rest}");
}

#[tokio::test]
async fn web_sockets_pass() {
    let scene = scene("").await;
    scene.upstream.reply(Reply::WebSocket);
    let client = TlsSetup::new(&scene.authority).client();
    let stream = client.connect(scene.gateway.address(), "localhost");
    let stream = stream.await.unwrap();
    let token = scene.issuer.token("alice").sign();
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", &*bearer)];
    let mut socket = web_socket::open_over(stream, &headers).await;
    web_socket::echo(&mut socket, "over TLS").await;
    assert_eq!(
        scene.upstream.last().aliases("x-user-id"),
        ["x-user-id: alice"]
    );
}

const MUTUAL: &str = ", client_ca = \"$FOLDER/ca.pem\", client_certificate_headers = { subject = \"x-client-subject\", san = \"x-client-san\" }";

fn names() -> Vec<SanType> {
    vec![
        SanType::DnsName("billing.example.com".try_into().expect("ASCII")),
        SanType::URI("spiffe://example.com/billing".try_into().expect("ASCII")),
    ]
}

#[tokio::test]
async fn without_a_clients_certificate_of_the_authority_nobody_gets_in() {
    let scene = scene(MUTUAL).await;
    let stranger = Authority::new().client("billing", names());
    // A server's certificate of another authority, a client's of another, and none.
    for certificate in [None, Some(&stranger)] {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let setup = TlsSetup {
                versions: &[version],
                certificate,
                ..TlsSetup::new(&scene.authority)
            };
            let client = setup.client();
            let connected = client.connect(scene.gateway.address(), "localhost").await;
            let Ok(mut stream) = connected else { continue };
            let token = scene.issuer.token("alice").sign();
            let request = format!(
                "GET / HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n"
            );
            let _ = stream.write_all(request.as_bytes()).await;
            let mut said = vec![];
            let ended = within("the end", stream.read_to_end(&mut said)).await;
            assert!(ended.is_err() && said.is_empty(), "{version:?}: {said:?}");
        }
    }
    assert_eq!(scene.upstream.count(), 0);
    let known = scene.authority.client("billing", names());
    let setup = TlsSetup {
        certificate: Some(&known),
        ..TlsSetup::new(&scene.authority)
    };
    let client = setup.client();
    let stream = client.connect(scene.gateway.address(), "localhost");
    let mut connection = Connection::over(stream.await.unwrap(), Version::HTTP_11).await;
    let no_token = connection.send(scene.gateway.get("/")).await;
    assert_eq!(
        no_token.verdict(),
        "401 no_token",
        "a certificate is no token"
    );
    assert_eq!(connection.send(scene.get("/")).await.status(), 200);
    assert_eq!(scene.upstream.count(), 1);
}

#[tokio::test]
async fn a_service_reads_who_the_client_is_and_nobody_can_forge_it() {
    let optional = format!("{MUTUAL}, client_auth = \"optional\"");
    let scene = scene_with(&optional, |setup| {
        setup.section("[[listeners]]\naddress = \"127.0.0.1:0\"")
    })
    .await;
    let forged = |request: Request| {
        request
            .header("x-client-subject", "CN=root")
            .header("X_Client_Subject", "CN=root")
            .header("x-client-san", "DNS:root")
            .header("x.client.san", "DNS:root")
            .header("x-client-san", "DNS:root")
            .header("connection", "x-client-san, x-client-subject")
    };
    let told = || {
        let seen = scene.upstream.last();
        [
            seen.aliases("x-client-subject"),
            seen.aliases("x-client-san"),
        ]
        .concat()
    };
    let known = scene.authority.client("billing", names());
    for (certificate, expected) in [
        (
            Some(&known),
            &[
                "x-client-subject: CN=billing,O=Shop\\, Inc.",
                "x-client-san: DNS:billing.example.com,URI:spiffe://example.com/billing",
            ][..],
        ),
        (None, &[]),
    ] {
        let setup = TlsSetup {
            certificate,
            ..TlsSetup::new(&scene.authority)
        };
        let client = setup.client();
        let stream = client.connect(scene.gateway.address(), "localhost");
        let mut connection = Connection::over(stream.await.unwrap(), Version::HTTP_11).await;
        assert_eq!(connection.send(forged(scene.get("/"))).await.status(), 200);
        assert_eq!(told(), expected);
    }
    // The listener beside it, which has no TLS.
    let plain = scene.gateway.addresses()[1];
    let token = scene.issuer.token("alice").sign();
    let request = Request::new(plain, "GET", "/").bearer(&token);
    assert_eq!(forged(request).await.status(), 200);
    assert_eq!(told(), [""; 0]);
    assert_eq!(scene.upstream.count(), 3);
}

/// The certificate that a new client gets.
async fn shown(scene: &Scene) -> rustls::pki_types::CertificateDer<'static> {
    let client = TlsSetup::new(&scene.authority).client();
    let stream = client.connect(scene.gateway.address(), "localhost");
    let stream = stream.await.expect("a handshake");
    stream
        .get_ref()
        .1
        .peer_certificates()
        .expect("certificates")[0]
        .clone()
        .into_owned()
}

#[tokio::test]
async fn new_certificates_are_taken_whole_and_open_connections_go_on() {
    let scene = scene("").await;
    let old = shown(&scene).await;
    let client = TlsSetup::new(&scene.authority).client();
    let stream = client.connect(scene.gateway.address(), "localhost");
    let mut connection = Connection::over(stream.await.unwrap(), Version::HTTP_11).await;
    assert_eq!(connection.send(scene.get("/")).await.status(), 200);

    // Half of a pair is none: the old one stays.
    let new = scene.authority.server(&["localhost"]);
    scene.folder.write("server.crt", &new.certificate);
    assert_eq!(shown(&scene).await, old);
    scene.folder.write("server.key", &new.key);
    eventually("the new certificate", async || {
        let shown = shown(&scene).await;
        assert!(shown == old || shown == new.der(), "one of the two");
        (shown == new.der()).then_some(())
    })
    .await;
    assert_eq!(connection.send(scene.get("/")).await.status(), 200);
    assert_eq!(scene.upstream.count(), 2);
}

#[tokio::test]
async fn certificates_change_by_the_symlinks_of_kubernetes_and_bad_ones_are_refused_aloud() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let (authority, folder) = (Authority::new(), Folder::new());
    let publish = |name: &str, certificate: &str, key: &str| {
        let data = folder.path().join(name);
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("tls.crt"), certificate).unwrap();
        std::fs::write(data.join("tls.key"), key).unwrap();
        let link = folder.path().join("..data_tmp");
        std::os::unix::fs::symlink(&data, &link).unwrap();
        std::fs::rename(link, folder.path().join("..data")).unwrap();
    };
    let first = authority.server(&["localhost"]);
    publish("1", &first.certificate, &first.key);
    let data = folder.path().join("..data");
    let pair = files(&data.join("tls.crt"), &data.join("tls.key"));
    let setup = Setup::new(&issuer, &upstream).listener(format!("tls = {{ {pair} }}"));
    let process = Process::gateway(&setup);
    let address = process.address(&["listening"]).await;
    let client = TlsSetup::new(&authority).client();
    let shown = async || {
        let stream = client.connect(address, "localhost").await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0]
            .clone()
            .into_owned()
    };
    assert_eq!(shown().await, first.der());

    let second = authority.server(&["localhost"]);
    publish("2", &second.certificate, &first.key);
    process
        .line(&["WARN", "those at hand stay in use", "is not the key"])
        .await;
    assert_eq!(shown().await, first.der());
    publish("3", &second.certificate, &second.key);
    process.line(&["INFO", "new certificates are in use"]).await;
    assert_eq!(shown().await, second.der());
}

#[tokio::test]
async fn the_end_of_a_certificate_is_a_metric_and_a_warning() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let (authority, folder) = (Authority::new(), Folder::new());
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2001, 9, 9);
    let pair = folder.pair("server", &authority.issue(&params));
    let setup = Setup::new(&issuer, &upstream).listener(format!("tls = {{ {pair} }}"));
    let process = Process::gateway(&setup);
    process
        .line(&["ERROR", "a certificate has expired", "server.crt"])
        .await;
    drop(process);
    let gateway = setup.start().await;
    let (labels, end) = eventually("the metric", async || {
        let metrics = gateway.metrics().await;
        let samples = metrics.samples("jotgate_certificate_expiry_timestamp_seconds");
        samples.into_iter().next()
    })
    .await;
    assert_eq!(end, 999_993_600);
    assert_eq!(labels["listener"], gateway.address().to_string());
    assert!(labels["certificate"].ends_with("server.crt"), "{labels:?}");
}

/// The admin API with the pair `admin` of the folder.
fn admin_tls(setup: Setup, folder: &Folder) -> Setup {
    let path = |name| folder.path().join(name).display().to_string();
    setup
        .env("JOTGATE__ADMIN__TLS__CERTIFICATE", &path("admin.crt"))
        .env("JOTGATE__ADMIN__TLS__KEY", &path("admin.key"))
}

#[tokio::test]
async fn the_admin_api_speaks_tls_and_the_command_line_with_it() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let (authority, folder) = (Authority::new(), Folder::new());
    folder.pair("admin", &authority.server(&["localhost"]));
    let ca = folder.write("ca.pem", authority.pem());
    let other = folder.write("other.pem", Authority::new().pem());
    let setup = Setup::new(&issuer, &upstream).env("JOTGATE__ADMIN__ADDRESS", "0.0.0.0:0");
    let setup = admin_tls(setup, &folder);
    let process = Process::gateway(&setup);
    let line = process.line(&["the admin API answers", "0.0.0.0:"]).await;
    let (_, port) = line.split_once("0.0.0.0:").unwrap();
    let port: String = port.chars().take_while(char::is_ascii_digit).collect();
    let port: u16 = port.parse().unwrap();
    let admin = format!("https://localhost:{port}");
    let status = async |ca: &std::path::Path| {
        let args = ["status", "--admin", &admin, "--ca", ca.to_str().unwrap()];
        run(&args, setup.environment()).await
    };
    let good = status(&ca).await;
    assert!(
        good.status.success() && good.stdout.contains("denylist"),
        "{good:?}"
    );
    let bad = status(&other).await;
    assert!(
        !bad.status.success() && bad.stderr.contains("certificate"),
        "{bad:?}"
    );
    let plain = TcpStream::connect(("127.0.0.1", port)).await;
    let mut plain = plain.unwrap();
    plain
        .write_all(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut said = vec![];
    let _ = within("the end", plain.read_to_end(&mut said)).await;
    assert!(!said.starts_with(b"HTTP/"), "{said:?}");
    assert!(!process.said().contains("has no TLS"), "{}", process.said());
}

#[tokio::test]
async fn the_admin_api_asks_for_certificates_where_the_file_says_so() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let (authority, folder) = (Authority::new(), Folder::new());
    folder.pair("admin", &authority.server(&["localhost"]));
    let ca = folder.write("ca.pem", authority.pem());
    let setup = Setup::new(&issuer, &upstream);
    let setup = setup.env("JOTGATE__ADMIN__TLS__CLIENT_CA", ca.to_str().unwrap());
    let setup = admin_tls(setup, &folder).env("JOTGATE__ADMIN__ADDRESS", "0.0.0.0:0");
    let gateway = setup.clone().start().await;
    let known = authority.client("ops", vec![]);
    folder.pair("ops", &known);
    let admin = format!("https://localhost:{}", gateway.admin_address().port());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let identity = [
        "--client-certificate".to_owned(),
        path("ops.crt"),
        "--client-key".to_owned(),
        path("ops.key"),
    ];
    for (identity, code) in [(&identity[..], 0), (&[], 1), (&identity[..2], 2)] {
        let ca = path("ca.pem");
        let mut args = vec!["status", "--admin", &admin, "--ca", &ca];
        args.extend(identity.iter().map(String::as_str));
        let ended = run(&args, setup.environment()).await;
        assert_eq!(ended.status.code(), Some(code), "{ended:?}");
    }
    for (certificate, expected) in [(Some(&known), "HTTP/1.1 200"), (None, "")] {
        let setup = TlsSetup {
            certificate,
            ..TlsSetup::new(&authority)
        };
        let client = setup.client();
        let stream = client.connect(gateway.admin_address(), "localhost");
        let mut stream = stream.await.unwrap();
        let request = b"GET /live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let _ = stream.write_all(request).await;
        let mut said = vec![];
        let _ = within("the end", stream.read_to_end(&mut said)).await;
        let said = String::from_utf8_lossy(&said);
        assert_eq!(said.get(..12).unwrap_or_default(), expected, "{said}");
    }
}
