//! The actors do what the scenarios believe of them.

use aws_lc_rs::signature;
use jotgate::jwks::Algorithm;

use crate::support::client::Request;
use crate::support::issuer::Mode;
use crate::support::keys::key;
use crate::support::raw::{self, Raw};
use crate::support::upstream::{RawUpstream, Refusing};
use crate::support::{Issuer, Reply, Upstream, tokens};

#[tokio::test]
async fn the_service_records_and_answers() {
    let upstream = Upstream::start().await;
    upstream.reply(
        Reply::body("one")
            .with_header("x-answer", "yes")
            .with_trailer("x-end", "1"),
    );
    for version in [http::Version::HTTP_11, http::Version::HTTP_2] {
        let answer = Request::new(upstream.address(), "POST", "/a?b=c")
            .version(version)
            .host("shop.example")
            .header("x-user-id", "alice")
            .body("hello")
            .await;
        assert_eq!((answer.status(), answer.version()), (200, version));
        let seen = upstream.last();
        assert_eq!(
            (
                &*seen.method,
                &*seen.target,
                &*seen.authority,
                seen.version,
                &*seen.body
            ),
            ("POST", "/a?b=c", "shop.example", version, &b"hello"[..])
        );
        assert_eq!(seen.aliases("X_User.Id"), ["x-user-id: alice"]);
    }
    assert_eq!(
        (
            upstream.count(),
            upstream.connections(),
            upstream.bytes_read()
        ),
        (2, 2, 10)
    );
}

#[tokio::test]
async fn the_service_breaks_off_as_told() {
    let upstream = Upstream::start().await;
    upstream.reply(Reply::Reset);
    let request = Request::new(upstream.address(), "GET", "/");
    assert!(request.try_send().await.is_err());
    let raw = RawUpstream::start("HTTP/1.1 999 Odd\r\n\r\n", true).await;
    let address = raw.url().trim_start_matches("http://").parse().unwrap();
    let answer = raw::exchange(address, "GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(raw::status(&answer), 999);
    assert_eq!(raw.heads(), ["GET / HTTP/1.1\r\n\r\n"]);
    let refusing = Refusing::start();
    let url = refusing.url();
    let address: std::net::SocketAddr = url.trim_start_matches("http://").parse().unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    let mut raw = Raw::connect(upstream.address()).await;
    raw.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(raw::status(&raw.read_head().await), 200);
}

#[tokio::test]
async fn the_issuer_counts_and_fails_as_told() {
    let issuer = Issuer::start().await;
    let ask = |path: &str| Request::new(issuer.address(), "GET", path);
    let document = ask("/.well-known/openid-configuration").await.json();
    assert_eq!(document["issuer"], issuer.url());
    assert_eq!(document["jwks_uri"], issuer.jwks_url());
    issuer.rotate(key(Algorithm::EdDSA, 1));
    assert_eq!(ask("/keys").await.json(), issuer.jwks());
    assert_eq!(issuer.jwks()["keys"].as_array().map(Vec::len), Some(2));
    issuer.remove("ES256-1");
    assert_eq!(issuer.jwks()["keys"][0]["crv"], "Ed25519");
    issuer.behave(Mode::Fail(503));
    assert_eq!(ask("/keys").await.status(), 503);
    issuer.behave(Mode::Hang);
    let hanging = tokio::spawn(ask("/keys").into_future());
    issuer.behave(Mode::Serve);
    assert_eq!(hanging.await.unwrap().status(), 200);
    assert_eq!((issuer.discoveries(), issuer.fetches()), (1, 3));
}

/// The library that checks here is not the one that the gateway uses, nor the code that the gateway is made of.
#[tokio::test]
async fn the_tokens_are_signed() {
    let issuer = Issuer::start().await;
    let token = issuer.token("alice").sid("s1").sign();
    let [header, payload, signature] = tokens::split(&token);
    let decode = |text: &str| {
        use base64::Engine as _;
        let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        engine.decode(text).unwrap()
    };
    let claims: serde_json::Value = serde_json::from_slice(&decode(payload)).unwrap();
    assert_eq!(
        (&claims["sub"], &claims["sid"]),
        (&"alice".into(), &"s1".into())
    );
    let jwk = issuer.key().jwk();
    let point = [
        vec![4],
        decode(jwk["x"].as_str().unwrap()),
        decode(jwk["y"].as_str().unwrap()),
    ]
    .concat();
    signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
        .verify(format!("{header}.{payload}").as_bytes(), &decode(signature))
        .unwrap();
    let rsa = key(Algorithm::RS256, 1).jwk();
    assert_eq!(decode(rsa["n"].as_str().unwrap()).len(), 256);
    assert_eq!(rsa["e"], "AQAB");
}
