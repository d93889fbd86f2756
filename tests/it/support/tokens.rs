//! Tokens: well-made ones through [`Token`], and any other sequence of bytes by [`signed`] and [`assemble`].

use std::sync::Arc;

use jotgate::jwks::Algorithm;
use serde_json::{Map, Value, json};

use super::keys::{Key, encode};

/// When the scenarios with a manual clock begin: 2027-01-15T08:00:00Z.
pub(crate) const NOW: u64 = 1_800_000_000;

/// How long a token lives unless a scenario says otherwise.
pub(crate) const LIFETIME: u64 = 300;

/// A token in the making.
#[derive(Clone)]
#[must_use]
pub(crate) struct Token {
    key: Arc<Key>,
    header: Map<String, Value>,
    payload: Map<String, Value>,
}

impl Token {
    /// A token that lacks nothing, issued at [`NOW`].
    pub(crate) fn new(key: Arc<Key>, issuer: &str, audience: &str, subject: &str) -> Self {
        let header = json!({"alg": key.algorithm().name(), "typ": "at+jwt", "kid": key.kid()});
        let payload = json!({
            "iss": issuer,
            "aud": audience,
            "sub": subject,
            "iat": NOW,
            "exp": NOW + LIFETIME,
        });
        let object = |value| match value {
            Value::Object(members) => members,
            _ => unreachable!("written as an object above"),
        };
        Self {
            key,
            header: object(header),
            payload: object(payload),
        }
    }

    pub(crate) fn sid(self, sid: &str) -> Self {
        self.claim("sid", sid)
    }

    pub(crate) fn jti(self, jti: &str) -> Self {
        self.claim("jti", jti)
    }

    pub(crate) fn scope(self, scope: &str) -> Self {
        self.claim("scope", scope)
    }

    /// Sets `iat`, and `exp` to [`LIFETIME`] after it.
    pub(crate) fn issued(self, at: u64) -> Self {
        self.claim("iat", at).claim("exp", at + LIFETIME)
    }

    pub(crate) fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.payload.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn without(mut self, claim: &str) -> Self {
        self.payload.remove(claim).expect("a claim to take away");
        self
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn without_header(mut self, name: &str) -> Self {
        self.header
            .remove(name)
            .expect("a header member to take away");
        self
    }

    /// Signs with another key than the one that the header names.
    pub(crate) fn key(mut self, key: Arc<Key>) -> Self {
        self.key = key;
        self
    }

    /// The header's JSON text.
    pub(crate) fn header_text(&self) -> String {
        Value::Object(self.header.clone()).to_string()
    }

    /// The payload's JSON text.
    pub(crate) fn payload_text(&self) -> String {
        Value::Object(self.payload.clone()).to_string()
    }

    pub(crate) fn sign(&self) -> String {
        signed(&self.key, self.header_text(), self.payload_text())
    }
}

/// A token of these very bytes, signed by `key`.
pub(crate) fn signed(key: &Key, header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> String {
    signed_text(key, &encode(header), &encode(payload))
}

/// A token of these very segments, signed by `key`.
pub(crate) fn signed_text(key: &Key, header: &str, payload: &str) -> String {
    let signature = key.sign(format!("{header}.{payload}").as_bytes());
    format!("{header}.{payload}.{}", encode(signature))
}

/// A token of these very bytes with any signature.
pub(crate) fn assemble(
    header: impl AsRef<[u8]>,
    payload: impl AsRef<[u8]>,
    signature: impl AsRef<[u8]>,
) -> String {
    format!(
        "{}.{}.{}",
        encode(header),
        encode(payload),
        encode(signature)
    )
}

/// The three segments of a token.
pub(crate) fn split(token: &str) -> [&str; 3] {
    let mut segments = token.split('.');
    let three = std::array::from_fn(|_| segments.next().expect("three segments"));
    assert!(segments.next().is_none(), "three segments");
    three
}

/// A token of these very bytes, signed by `key` with another algorithm of its family.
pub(crate) fn signed_as(key: &Key, algorithm: Algorithm, header: &str, payload: &str) -> String {
    let input = format!("{}.{}", encode(header), encode(payload));
    let signature = key.sign_as(algorithm, input.as_bytes());
    format!("{input}.{}", encode(signature))
}
