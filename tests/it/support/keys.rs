//! Signing keys of every algorithm. Each is made once for each process, when a scenario first asks for it: RSA keys take
//! long to find.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jotgate::jwks::{Algorithm, Family};
use serde_json::{Value, json};

/// A key that signs tokens.
pub(crate) struct Key {
    kid: String,
    algorithm: Algorithm,
    material: Material,
}

enum Material {
    Rsa(RsaKeyPair),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Hmac(Vec<u8>),
}

/// The keys made so far, by algorithm and number.
static KEYS: LazyLock<Mutex<Keys>> = LazyLock::new(Mutex::default);

type Keys = HashMap<(Algorithm, u8), Arc<Key>>;

/// The `number`-th key for `algorithm`: the same one for every caller in this process.
pub(crate) fn key(algorithm: Algorithm, number: u8) -> Arc<Key> {
    let mut keys = KEYS.lock().expect("no holder panics");
    let key = keys
        .entry((algorithm, number))
        .or_insert_with(|| Arc::new(Key::generate(&format!("{algorithm}-{number}"), algorithm)));
    Arc::clone(key)
}

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Key {
    pub(crate) fn generate(kid: &str, algorithm: Algorithm) -> Self {
        let material = match algorithm.family() {
            Family::Rsa => {
                Material::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).expect("an RSA key"))
            }
            Family::P256 => Material::Ecdsa(
                EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING)
                    .expect("a P-256 key"),
            ),
            Family::P384 => Material::Ecdsa(
                EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING)
                    .expect("a P-384 key"),
            ),
            Family::Ed25519 => {
                Material::Ed25519(Ed25519KeyPair::generate().expect("an Ed25519 key"))
            }
            Family::Hmac => {
                let mut secret = vec![0; 64];
                aws_lc_rs::rand::fill(&mut secret).expect("random bytes");
                Material::Hmac(secret)
            }
        };
        Self {
            kid: kid.to_owned(),
            algorithm,
            material,
        }
    }

    /// An HMAC key of these bytes.
    pub(crate) fn hmac(kid: &str, algorithm: Algorithm, secret: &[u8]) -> Self {
        assert!(algorithm.is_symmetric());
        Self {
            kid: kid.to_owned(),
            algorithm,
            material: Material::Hmac(secret.to_vec()),
        }
    }

    pub(crate) fn kid(&self) -> &str {
        &self.kid
    }

    pub(crate) const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public key in the form of a JWK (RFC 7517), with `kid`, `use` and `alg`.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = match &self.material {
            Material::Rsa(pair) => {
                let [n, e] = rsa_numbers(pair.public_key().as_ref());
                json!({"kty": "RSA", "n": encode(n), "e": encode(e)})
            }
            Material::Ecdsa(pair) => {
                let point = pair.public_key().as_ref();
                let half = point.len() / 2;
                json!({
                    "kty": "EC",
                    "crv": if half == 32 { "P-256" } else { "P-384" },
                    "x": encode(&point[1..=half]),
                    "y": encode(&point[half + 1..]),
                })
            }
            Material::Ed25519(pair) => json!({
                "kty": "OKP",
                "crv": "Ed25519",
                "x": encode(pair.public_key().as_ref()),
            }),
            Material::Hmac(secret) => json!({"kty": "oct", "k": encode(secret)}),
        };
        jwk["kid"] = json!(self.kid);
        jwk["use"] = json!("sig");
        jwk["alg"] = json!(self.algorithm.name());
        jwk
    }

    /// The public key in the form that `public_key_file` reads.
    pub(crate) fn pem(&self) -> String {
        let der = match &self.material {
            Material::Rsa(pair) => spki(pair.public_key()),
            Material::Ecdsa(pair) => spki(pair.public_key()),
            Material::Ed25519(pair) => spki(pair.public_key()),
            Material::Hmac(_) => panic!("{} is no public key", self.kid),
        };
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        let lines: Vec<&str> = text
            .as_bytes()
            .chunks(64)
            .map(|line| std::str::from_utf8(line).expect("base64"))
            .collect();
        format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            lines.join("\n")
        )
    }

    /// Signs with the key's own algorithm.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.sign_as(self.algorithm, message)
    }

    /// Signs with another algorithm of the same family, whatever the key says of itself.
    pub(crate) fn sign_as(&self, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.material {
            Material::Rsa(pair) => {
                let encoding: &dyn RsaEncoding = match algorithm {
                    Algorithm::RS256 => &signature::RSA_PKCS1_SHA256,
                    Algorithm::RS384 => &signature::RSA_PKCS1_SHA384,
                    Algorithm::RS512 => &signature::RSA_PKCS1_SHA512,
                    Algorithm::PS256 => &signature::RSA_PSS_SHA256,
                    Algorithm::PS384 => &signature::RSA_PSS_SHA384,
                    Algorithm::PS512 => &signature::RSA_PSS_SHA512,
                    _ => panic!("{algorithm} is not for RSA keys"),
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message, &mut signature)
                    .expect("a signature");
                signature
            }
            Material::Ecdsa(pair) => pair
                .sign(&random, message)
                .expect("a signature")
                .as_ref()
                .to_vec(),
            Material::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Material::Hmac(secret) => hmac_sign(algorithm, secret, message),
        }
    }
}

/// A public key in the form of RFC 5280 section 4.1.
fn spki<'k, K: AsDer<PublicKeyX509Der<'k>>>(key: &K) -> Vec<u8> {
    key.as_der().expect("DER").as_ref().to_vec()
}

/// Modulus and exponent of an `RSAPublicKey` (RFC 8017 appendix A.1.1), without leading zeros.
fn rsa_numbers(der: &[u8]) -> [&[u8]; 2] {
    let (sequence, _) = der_value(der);
    let (modulus, rest) = der_value(sequence);
    let (exponent, _) = der_value(rest);
    [modulus, exponent].map(|number| number.strip_prefix(&[0]).unwrap_or(number))
}

/// The contents of the first DER value, and what follows it.
fn der_value(der: &[u8]) -> (&[u8], &[u8]) {
    let (length, start) = match usize::from(der[1]) {
        short @ 0..0x80 => (short, 2),
        long => {
            let digits = &der[2..2 + (long & 0x7f)];
            let length = digits
                .iter()
                .fold(0, |length, digit| length << 8 | usize::from(*digit));
            (length, 2 + digits.len())
        }
    };
    der[start..].split_at(length)
}

/// An HMAC with any secret, such as the bytes of somebody's public key.
pub(crate) fn hmac_sign(algorithm: Algorithm, secret: &[u8], message: &[u8]) -> Vec<u8> {
    let hash = match algorithm {
        Algorithm::HS256 => hmac::HMAC_SHA256,
        Algorithm::HS384 => hmac::HMAC_SHA384,
        Algorithm::HS512 => hmac::HMAC_SHA512,
        _ => panic!("{algorithm} is no HMAC"),
    };
    hmac::sign(&hmac::Key::new(hash, secret), message)
        .as_ref()
        .to_vec()
}
