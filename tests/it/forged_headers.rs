//! What a client says of itself never arrives: looked at in the bytes that the service got, and in every spelling that HTTP/1
//! allows or nearly allows.

use crate::support::raw;
use crate::support::{Gateway, Issuer, Setup, Upstream};

struct Scene {
    issuer: Issuer,
    upstream: Upstream,
    gateway: Gateway,
    token: String,
}

async fn scene(change: impl FnOnce(Setup) -> Setup) -> Scene {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let setup = Setup::new(&issuer, &upstream)
        .issuer("payload_header = \"x-jwt-payload\"")
        .claim_header("x-session-id", "sid")
        .route("name = \"open\"\npath = \"/open\"\nauth = \"public\"")
        .route("name = \"maybe\"\npath = \"/maybe\"\nauth = \"optional\"");
    Scene {
        gateway: change(setup).start().await,
        token: issuer.token("alice").sign(),
        issuer,
        upstream,
    }
}

impl Scene {
    /// The status, and every byte that the service got.
    async fn send(&self, path: &str, lines: impl AsRef<[u8]>) -> (u16, String) {
        self.upstream.forget();
        let bearer = if path == "/orders" {
            format!("authorization: Bearer {}\r\n", self.token)
        } else {
            String::new()
        };
        let head = format!("GET {path} HTTP/1.1\r\nhost: shop\r\n{bearer}");
        let bytes = [
            head.as_bytes(),
            lines.as_ref(),
            b"connection: close\r\n\r\n",
        ]
        .concat();
        let answer = raw::exchange(self.gateway.address(), bytes).await;
        (raw::status(&answer), self.upstream.wire())
    }
}

/// Values of the lines on a wire whose name has these letters and digits, whatever else it has.
fn values(wire: &str, letters: &str) -> Vec<String> {
    wire.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| {
            let folded: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
            folded.eq_ignore_ascii_case(letters)
        })
        .map(|(_, value)| value.trim().to_owned())
        .collect()
}

#[tokio::test]
async fn no_spelling_of_an_identity_header_arrives() {
    let scene = scene(|setup| setup).await;
    for path in ["/orders", "/open", "/maybe"] {
        for (names, letters) in [
            (
                &[
                    "X-User-Id",
                    "x-user-id",
                    "X-USER-ID",
                    "X_User_Id",
                    "x_user_id",
                    "X.User.Id",
                    "x-user_id",
                    "x!user#id",
                    "x$user%id",
                    "x&user'id",
                    "x*user+id",
                    "x^user`id",
                    "x|user~id",
                    "xuserid",
                    "XUserID",
                    "-x-user-id-",
                    "x--user--id",
                    "__x_user_id__",
                    "x-u-s-e-r-i-d",
                    "xuser-id_",
                ][..],
                "xuserid",
            ),
            (
                &["X-Session-Id", "x_session_id", "xsession.id"],
                "xsessionid",
            ),
            (
                &["X-JWT-Payload", "x_jwt_payload", "xjwt!payload"],
                "xjwtpayload",
            ),
        ] {
            for name in names {
                let lines =
                    format!("{name}: evil\r\nx-kept: yes\r\n{name}:evil2\r\n{name}:\t evil3 \r\n");
                let (status, wire) = scene.send(path, lines).await;
                assert_eq!(status, 200, "{path} {name}");
                assert!(
                    !wire.contains("evil") && wire.contains("x-kept: yes\r\n"),
                    "{path} {name}: {wire}"
                );
                let expected = usize::from(path == "/orders" && letters != "xsessionid");
                assert_eq!(
                    values(&wire, letters).len(),
                    expected,
                    "{path} {name}: {wire}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_header_that_is_nearly_one_is_refused() {
    let scene = scene(|setup| setup).await;
    for line in [
        &b"x-user-id : evil\r\n"[..],
        b"x-user-id\t: evil\r\n",
        b" x-user-id: evil\r\n",
        b"\tx-user-id: evil\r\n",
        b"x: y\r\n x-user-id: evil\r\n",
        b"x-user-id:\r\n evil\r\n",
        b"x-user-id: a\r\n\tevil\r\n",
        b"x: y\nx-user-id: evil\r\n",
        b"x: y\rx-user-id: evil\r\n",
        b"x-user-id: a\0evil\r\n",
        b"x-user\0-id: evil\r\n",
        b"x-user-id\0: evil\r\n",
        b"x\xe2\x80\x90user\xe2\x80\x90id: evil\r\n",
        b"\xef\xbd\x98-user-id: evil\r\n",
        b"x-user-id\xff: evil\r\n",
        b"x user id: evil\r\n",
        b"x/user/id: evil\r\n",
        b"x:user:id\x01: evil\r\n",
        b"\"x-user-id\": evil\r\n",
        b"(x-user-id): evil\r\n",
        b"x-user-id evil\r\n",
    ] {
        for path in ["/orders", "/open"] {
            let (status, wire) = scene.send(path, line).await;
            assert_eq!(
                (status, &*wire),
                (400, ""),
                "{}",
                String::from_utf8_lossy(line)
            );
        }
    }
}

#[tokio::test]
async fn what_connection_names_goes_and_what_the_gateway_wrote_stays() {
    let scene = scene(|setup| setup).await;
    for lines in [
        "Connection: X-User-Id\r\n",
        "CONNECTION: x-USER-id\r\n",
        "Connection: close, x-user-id, x-jwt-payload\r\n",
        "Connection: x-user-id\r\nConnection: x-jwt-payload\r\nconnection: X_User_Id\r\n",
        "Connection:x-user-id,,  ,x-user-id\t,\r\n",
        "Connection: te, host, content-length, transfer-encoding, connection, x-user-id\r\n",
        "Connection: x-forwarded-for, x-forwarded-host, x-forwarded-proto, forwarded, x-user-id\r\n",
        "Connection: authorization, x-user-id\r\n",
        "Keep-Alive: x-user-id\r\nProxy-Connection: x-user-id\r\nTE: x-user-id\r\nTrailer: x-user-id\r\n",
        "Connection: x-user-id\r\nx-user-id: evil\r\n",
    ] {
        let (status, wire) = scene.send("/orders", lines).await;
        assert_eq!(status, 200, "{lines:?}");
        assert_eq!(values(&wire, "xuserid"), ["alice"], "{lines:?}: {wire}");
        assert_eq!(values(&wire, "xjwtpayload").len(), 1, "{lines:?}: {wire}");
        for name in [
            "host",
            "forwarded",
            "xforwardedfor",
            "xforwardedhost",
            "xforwardedproto",
        ] {
            assert_eq!(values(&wire, name).len(), 1, "{name} {lines:?}: {wire}");
        }
        for name in [
            "connection",
            "keepalive",
            "proxyconnection",
            "te",
            "authorization",
        ] {
            assert!(values(&wire, name).is_empty(), "{name} {lines:?}: {wire}");
        }
    }
    let many = (0..17)
        .map(|n| format!("x{n}"))
        .collect::<Vec<_>>()
        .join(", ");
    for lines in [
        "Connection: \"x-user-id\"\r\n",
        "Connection: x user id\r\n",
        "Connection: x-user-id;q=1\r\n",
        "Connection: close\r\nConnection: x-user-id=1\r\n",
        "Connection: caf\u{e9}\r\n",
        &*format!("Connection: {many}\r\n"),
    ] {
        let (status, wire) = scene.send("/orders", lines).await;
        assert_eq!((status, &*wire), (400, ""), "{lines:?}");
    }
}

/// Headers that some framework or mesh believes, and that only a proxy may write.
const TOLD: [&str; 58] = [
    "Forwarded",
    "Forwarded-For",
    "X-Forwarded",
    "X-Forwarded-For",
    "x_forwarded_for",
    "X.Forwarded.For",
    "XForwardedFor",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Uri",
    "X-Forwarded-Path",
    "X-Forwarded-Method",
    "X-Forwarded-Server",
    "X-Forwarded-Ssl",
    "X-Forwarded-Scheme",
    "X-Forwarded-By",
    "X-Forwarded-User",
    "X-Forwarded-Email",
    "X-Forwarded-Groups",
    "X-Forwarded-Access-Token",
    "X-Forwarded-Client-Cert",
    "X-Forwarded-Tls-Client-Cert",
    "X-Real-IP",
    "x_real_ip",
    "True-Client-IP",
    "CF-Connecting-IP",
    "CF-Connecting-IPv6",
    "X-Client-IP",
    "Client-IP",
    "X-Cluster-Client-IP",
    "Fastly-Client-IP",
    "X-Original-Forwarded-For",
    "WL-Proxy-Client-IP",
    "X-Envoy-External-Address",
    "X-Original-URL",
    "x_original_url",
    "X-Original-URI",
    "X-Original-Host",
    "X-Rewrite-URL",
    "X.Rewrite.URL",
    "X-Envoy-Original-Path",
    "X-Host",
    "X-HTTP-Method-Override",
    "X-HTTP-Method",
    "X-Method-Override",
    "x_method_override",
    "X-Middleware-Subrequest",
    "Proxy",
    "Client-Cert",
    "Client-Cert-Chain",
    "X-SSL-Client-Cert",
    "X-SSL-Client-Verify",
    "SSL_CLIENT_S_DN",
    "X-Client-Cert",
    "X-ARR-ClientCert",
    "X-Amzn-Mtls-Clientcert",
];

/// … of which a trusted proxy may write these.
const KEPT: [&str; 15] = [
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Server",
    "X-Forwarded-Ssl",
    "X-Forwarded-Scheme",
    "X-Real-IP",
    "True-Client-IP",
    "CF-Connecting-IP",
    "CF-Connecting-IPv6",
    "X-Client-IP",
    "X-Cluster-Client-IP",
];

#[tokio::test]
async fn only_trusted_proxies_tell_about_the_way_and_nobody_about_the_rest() {
    for trusted in [false, true] {
        let scene = scene(|setup| {
            let proxies = if trusted { "127.0.0.0/8" } else { "10.0.0.0/8" };
            setup.listener(format!("trusted_proxies = [\"{proxies}\"]"))
        })
        .await;
        for path in ["/orders", "/open", "/maybe"] {
            for name in TOLD {
                let (status, wire) = scene
                    .send(path, format!("{name}: evil\r\n{name}: evil\r\n"))
                    .await;
                assert_eq!(status, 200, "{path} {name}");
                let may = trusted && (KEPT.contains(&name) || name == "Fastly-Client-IP");
                assert_eq!(wire.contains("evil"), may, "{path} {name}: {wire}");
            }
            for name in ["Jotgate-Revoke", "jotgate_session", "JOTGATE.X", "Jotgate"] {
                let (status, wire) = scene.send(path, format!("{name}: evil\r\n")).await;
                assert_eq!(
                    (status, wire.contains("evil")),
                    (200, false),
                    "{path} {name}: {wire}"
                );
            }
        }
    }
}

#[tokio::test]
async fn trailers_name_neither_who_nor_what() {
    let names = [
        "X-User-Id",
        "x_user_id",
        "X.Session.Id",
        "x-jwt-payload",
        "Jotgate-Revoke",
        "Authorization",
        "Cookie",
        "Host",
        "Content-Length",
        "Content_Length",
        "Transfer-Encoding",
        "transfer_encoding",
        "Connection",
        "X-Forwarded-For",
        "x_real_ip",
        "X-HTTP-Method-Override",
        "Proxy",
        "X-Token",
        "x_token",
        "Te",
        "Trailer",
        "Upgrade",
        "Expect",
        "Client-Cert",
    ];
    let lines = names.map(|name| format!("{name}: evil\r\n")).concat();
    let announced = names.join(", ");
    for (http2, content_type, kept) in [
        (true, "application/grpc", true),
        (false, "application/grpc", true),
        (true, "text/plain", false),
        (false, "text/plain", false),
    ] {
        let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
        let gateway = Setup::at(issuer.url(), "service")
            .issuer("payload_header = \"x-jwt-payload\"")
            .claim_header("x-session-id", "sid")
            .catch_all("token = { header = \"x-token\" }")
            .section(format!(
                "[[upstreams]]\nname = \"service\"\nservers = [\"{}\"]\nhttp2 = {http2}",
                upstream.url()
            ))
            .start()
            .await;
        let token = issuer.token("alice").sign();
        let bytes = format!(
            "POST /orders HTTP/1.1\r\nhost: shop\r\nx-token: {token}\r\ncontent-type: {content_type}\r\nte: trailers\r\n\
             trailer: {announced}, x-kept\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nhello\r\n0\r\n{lines}x-kept: yes\r\n\r\n"
        );
        let answer = raw::exchange(gateway.address(), bytes).await;
        assert_eq!(raw::status(&answer), 200, "{answer}");
        let seen = upstream.last();
        assert_eq!((&seen.body[..], seen.complete), (&b"hello"[..], true));
        let trailers: Vec<String> = seen
            .trailers
            .iter()
            .flat_map(http::HeaderMap::keys)
            .map(ToString::to_string)
            .collect();
        let expected: &[&str] = if kept { &["x-kept"] } else { &[] };
        assert_eq!(trailers, expected, "{content_type}, HTTP/2: {http2}");
        assert_eq!(seen.aliases("x-user-id"), ["x-user-id: alice"]);
        assert!(
            http2 || !upstream.wire().contains("evil"),
            "{}",
            upstream.wire()
        );
    }
}

#[tokio::test]
async fn no_claim_splits_or_overflows_the_head() {
    let scene = scene(|setup| {
        (0..4).fold(setup, |setup, n| {
            setup.claim_header(&format!("x-claim-{n}"), "c")
        })
    })
    .await;
    let ask = async |value: &str| {
        scene.upstream.forget();
        let good = scene.issuer.token("alice");
        let payload = format!("{{\"c\":{value},{}", &good.payload_text()[1..]);
        let token =
            crate::support::tokens::signed(&scene.issuer.key(), good.header_text(), payload);
        let bytes = format!(
            "GET / HTTP/1.1\r\nhost: shop\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
        );
        let answer = raw::exchange(scene.gateway.address(), bytes).await;
        (raw::status(&answer), scene.upstream.wire())
    };
    let (status, wire) = ask("\"Jos\u{e9} \u{1f600}\"").await;
    assert_eq!(status, 200);
    assert_eq!(wire.matches("x-claim-").count(), 4, "{wire}");
    assert_eq!(
        wire.matches(": Jos\u{e9} \u{1f600}\r\n").count(),
        4,
        "{wire}"
    );
    for value in [
        "\"a\\r\\nx-user-id: root\"",
        "\"a\\nx-user-id: root\"",
        "\"a\\r\\n\\r\\nGET /smuggled HTTP/1.1\\r\\nhost: shop\\r\\n\\r\\n\"",
        "\"a\\u0000b\"",
        "\"a\\u007fb\"",
        "\"a\\u0085b\"",
        "\"\\u2028a\"",
        "[\"a\",\"b\\r\\nx-user-id: root\"]",
        // Four times as large as it is in the token.
        &*format!("\"{}\"", "a".repeat(2500)),
        // As large as a token can be, and the payload beside it.
        &*format!("\"{}\"", "a".repeat(5700)),
        &*format!("{{\"a\":\"{}\"}}", "\u{e9}".repeat(900)),
    ] {
        let (status, wire) = ask(value).await;
        assert_eq!((status, &*wire), (500, ""), "{value:.60}");
    }
    // A token of this size is none, and its claims are never looked at.
    let (status, wire) = ask(&format!("\"{}\"", "a".repeat(20 * 1024))).await;
    assert_eq!((status, &*wire), (401, ""));
    // In an object every sign is escaped: it may name anything.
    let (status, wire) = ask("{\"a\":\"b\\r\\nx-user-id: root\"}").await;
    assert_eq!(
        (status, values(&wire, "xuserid")),
        (200, vec!["alice".to_owned()]),
        "{wire}"
    );
    assert!(
        wire.contains("{\"a\":\"b\\r\\nx-user-id: root\"}\r\n"),
        "{wire}"
    );
}
