//! The demo's issuer: signs a token for whoever asks, with a key that is made at start. That is what makes it a demo;
//! it has no users and no passwords.

use std::borrow::Cow;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Map, Value, json};

use super::super::signing::{self, KeyError, RsaBits, SigningKey};
use super::{AUDIENCE, serve};
use crate::base::clock::Clock;
use crate::jwks::Algorithm;

/// How long a test token lives, in seconds.
const LIFETIME_S: u64 = 5 * 60;

/// The longest life that a caller may ask for, in seconds: the gateway's default `max_token_lifetime`.
const LIFETIME_S_MAX: u64 = 24 * 60 * 60;

/// Signs what is asked.
#[derive(Debug)]
pub(super) struct TestIssuer {
    url: Box<str>,
    key: SigningKey,
    jwks: Value,
    clock: Clock,
}

impl TestIssuer {
    /// Makes the key. `url` is the claim `iss`, and where this issuer is found.
    pub(super) fn new(url: &str, clock: Clock) -> Result<Self, KeyError> {
        let key = signing::generate(Algorithm::ES256, RsaBits::default(), None)?.key;
        let jwks = key.public_jwks()?.unwrap_or_default();
        Ok(Self {
            url: url.into(),
            key,
            jwks,
            clock,
        })
    }

    pub(super) fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let url = &self.url;
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/jwks.json") => serve::json(StatusCode::OK, &self.jwks),
            (&Method::GET, "/.well-known/openid-configuration") => {
                let document = json!({
                    "issuer": url,
                    "jwks_uri": format!("{url}/jwks.json"),
                    "token_endpoint": format!("{url}/token"),
                    "response_types_supported": ["token"],
                    "subject_types_supported": ["public"],
                    "id_token_signing_alg_values_supported": ["ES256"],
                });
                serve::json(StatusCode::OK, &document)
            }
            (&Method::POST, "/token") => self.token(request.uri().query().unwrap_or_default()),
            _ => serve::json(
                StatusCode::NOT_FOUND,
                &json!({
                    "error": "not_found",
                    "try": [
                        format!("GET {url}/jwks.json"),
                        format!("GET {url}/.well-known/openid-configuration"),
                        format!("POST {url}/token?sub=alice&sid=…&scope=…&expires_in=300&format=text"),
                    ]
                }),
            ),
        }
    }

    fn token(&self, query: &str) -> Response<Full<Bytes>> {
        let refused = |why: &str| {
            let answer = json!({"error": "invalid_request", "error_description": why});
            serve::json(StatusCode::BAD_REQUEST, &answer)
        };
        let mut asked = Asked::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "sub" => asked.subject = Some(value),
                "sid" => asked.session = Some(value),
                "scope" => asked.scope = Some(value),
                "aud" => asked.audience = Some(value),
                "expires_in" => match value.parse() {
                    Ok(seconds) if seconds <= LIFETIME_S_MAX => asked.lifetime_s = Some(seconds),
                    _ => return refused("expires_in is a number of seconds, at most 86400"),
                },
                "format" => asked.is_text = value == "text",
                _ => return refused("the parameters are sub, sid, scope, aud, expires_in, format"),
            }
        }
        let is_text = asked.is_text;
        let lifetime_s = asked.lifetime_s.unwrap_or(LIFETIME_S);
        match self.sign(asked, lifetime_s) {
            Ok(token) if is_text => {
                serve::plain(StatusCode::OK, "text/plain", format!("{token}\n"))
            }
            Ok(token) => serve::json(
                StatusCode::OK,
                &json!({"access_token": token, "token_type": "Bearer", "expires_in": lifetime_s}),
            ),
            Err(error) => serve::json(
                StatusCode::INTERNAL_SERVER_ERROR,
                &json!({"error": "server_error", "error_description": error.to_string()}),
            ),
        }
    }

    fn sign(&self, asked: Asked<'_>, lifetime_s: u64) -> Result<String, KeyError> {
        let now = self.clock.now().0;
        let session = match asked.session {
            Some(session) => session.into_owned(),
            None => signing::random_text(12)?,
        };
        let claims = json!({
            "iss": self.url,
            "sub": asked.subject.unwrap_or(Cow::Borrowed("alice")),
            "aud": asked.audience.unwrap_or(Cow::Borrowed(AUDIENCE)),
            "scope": asked.scope.unwrap_or(Cow::Borrowed("read")),
            "client_id": "demo-app",
            "sid": session,
            "jti": signing::random_text(12)?,
            "iat": now,
            "exp": now + lifetime_s,
        });
        let none = Map::new();
        self.key.sign(
            &self.key.header("at+jwt"),
            claims.as_object().unwrap_or(&none),
        )
    }
}

/// The parameters of `POST /token`.
#[derive(Debug, Default)]
struct Asked<'q> {
    subject: Option<Cow<'q, str>>,
    session: Option<Cow<'q, str>>,
    scope: Option<Cow<'q, str>>,
    audience: Option<Cow<'q, str>>,
    lifetime_s: Option<u64>,
    is_text: bool,
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{DecodingKey, Validation};

    use super::*;
    use crate::base::clock::UnixSeconds;

    fn issuer() -> TestIssuer {
        let (clock, _) = Clock::manual(UnixSeconds(1000));
        TestIssuer::new("http://127.0.0.1:9000", clock).expect("an issuer")
    }

    async fn ask(issuer: &TestIssuer, method: Method, path: &str) -> (StatusCode, String) {
        let request = Request::builder().method(method).uri(path).body(());
        let response = issuer.answer(&request.expect("a request"));
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body");
        let text = String::from_utf8(body.to_bytes().to_vec()).expect("UTF-8");
        (status, text)
    }

    fn value(text: &str) -> Value {
        serde_json::from_str(text).expect("JSON")
    }

    #[tokio::test]
    async fn its_tokens_verify_with_its_published_keys() {
        let issuer = issuer();
        let (_, text) = ask(&issuer, Method::GET, "/.well-known/openid-configuration").await;
        let document = value(&text);
        assert_eq!(document["issuer"], "http://127.0.0.1:9000");
        assert_eq!(document["jwks_uri"], "http://127.0.0.1:9000/jwks.json");
        let (_, text) = ask(&issuer, Method::GET, "/jwks.json").await;
        let jwks: JwkSet = serde_json::from_str(&text).expect("a key set");
        let (status, text) = ask(&issuer, Method::POST, "/token?sub=bob&scope=read+admin").await;
        assert_eq!(status, StatusCode::OK);
        let token = value(&text)["access_token"]
            .as_str()
            .expect("a token")
            .to_owned();

        let header = jsonwebtoken::decode_header(&token).expect("a header");
        assert_eq!(header.typ.as_deref(), Some("at+jwt"));
        let jwk = jwks
            .find(&header.kid.expect("a key id"))
            .expect("published");
        let mut validation = Validation::new(jsonwebtoken::Algorithm::ES256);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&["http://127.0.0.1:9000"]);
        validation.validate_exp = false;
        let key = DecodingKey::from_jwk(jwk).expect("a key");
        let claims = jsonwebtoken::decode::<Value>(&token, &key, &validation)
            .expect("verified")
            .claims;
        assert_eq!(claims["sub"], "bob");
        assert_eq!(claims["scope"], "read admin");
        assert_eq!(
            (&claims["iat"], &claims["exp"]),
            (&json!(1000), &json!(1300))
        );
        assert!(claims["sid"].is_string() && claims["jti"].is_string());
    }

    #[tokio::test]
    async fn text_is_the_bare_token() {
        let path = "/token?sid=s1&format=text&expires_in=60";
        let (_, text) = ask(&issuer(), Method::POST, path).await;
        assert_eq!(text.trim_end().split('.').count(), 3);
    }

    #[tokio::test]
    async fn what_it_does_not_know_is_said() {
        for (method, path, status) in [
            (Method::GET, "/token", StatusCode::NOT_FOUND),
            (Method::POST, "/token?user=alice", StatusCode::BAD_REQUEST),
            (
                Method::POST,
                "/token?expires_in=86401",
                StatusCode::BAD_REQUEST,
            ),
            (
                Method::POST,
                "/token?expires_in=-1",
                StatusCode::BAD_REQUEST,
            ),
        ] {
            assert_eq!(ask(&issuer(), method, path).await.0, status, "{path}");
        }
    }
}
