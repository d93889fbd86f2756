//! One key that can verify signatures, whether it came from a key set, a PEM file or a secret.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;
use rustls::pki_types::pem::{PemObject, SectionKind};

use super::jwk::SkipReason;
use super::material::Material;
use super::{Algorithm, Family};
use crate::base::secret::{ExposeSecret, Secret};

/// A key that can verify signatures.
///
/// It lives as long as the newest key set names it. Whoever remembers that it verified something asks
/// [`Key::is_live`] before trusting that memory.
pub struct Key {
    id: u64,
    kid: Option<Box<str>>,
    algorithm: Option<Algorithm>,
    material: Material,
    live: AtomicBool,
}

/// Why a PEM file or a secret is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no `PUBLIC KEY` block.
    #[error("no PEM block `-----BEGIN PUBLIC KEY-----` in it")]
    NotPem,
    /// A private key; a gateway must not hold one.
    #[error(
        "it holds a private key, which a gateway must not have: write the public half, `openssl pkey -in FILE -pubout`"
    )]
    PrivateKey,
    /// A certificate: nobody would check its chain and its end.
    #[error("it holds a certificate: write its public key, `openssl x509 -in FILE -noout -pubkey`")]
    Certificate,
    /// Which one counts?
    #[error("it holds several keys: keep one, or use a JWKS file")]
    Several,
    /// Neither RSA nor P-256, P-384 (uncompressed, named curve) nor Ed25519.
    #[error("its key is neither RSA, P-256, P-384 nor Ed25519")]
    Unsupported,
    /// The key itself is refused.
    #[error("its key cannot be used: {0}")]
    Unusable(SkipReason),
    /// RFC 7518 section 3.2 wants the size of the hash.
    #[error("the secret has {bytes} bytes; HS256 needs at least 32")]
    SecretTooShort {
        /// Its length.
        bytes: usize,
    },
}

impl Key {
    pub(super) fn new(
        kid: Option<Box<str>>,
        algorithm: Option<Algorithm>,
        material: Material,
    ) -> Self {
        // A process-wide counter: an id must never come back, also not with another issuer, and says
        // nothing but "not that one". It is no state that anything depends on.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            kid,
            algorithm,
            material,
            live: AtomicBool::new(true),
        }
    }

    /// The key of a PEM file: one block `PUBLIC KEY` (RFC 7468 section 13) with an RSA, P-256, P-384
    /// or Ed25519 key.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let mut key = None;
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
            let (kind, der) = section.map_err(|_| KeyError::NotPem)?;
            match kind {
                SectionKind::PublicKey if key.is_some() => return Err(KeyError::Several),
                SectionKind::PublicKey => key = Some(Self::from_spki(&der)?),
                SectionKind::PrivateKey
                | SectionKind::RsaPrivateKey
                | SectionKind::EcPrivateKey => return Err(KeyError::PrivateKey),
                SectionKind::Certificate => return Err(KeyError::Certificate),
                _ => return Err(KeyError::NotPem),
            }
        }
        key.ok_or(KeyError::NotPem)
    }

    /// The key of a DER `SubjectPublicKeyInfo` (RFC 5280 section 4.1.2.7).
    pub fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        let material = if let Some(point) = der.strip_prefix(&SPKI_P256) {
            Material::uncompressed(Family::P256, point)
        } else if let Some(point) = der.strip_prefix(&SPKI_P384) {
            Material::uncompressed(Family::P384, point)
        } else if let Some(x) = der.strip_prefix(&SPKI_ED25519) {
            Material::ed25519(x)
        } else {
            let components = DEFAULT_PROVIDER
                .key_utils
                .rsa_pub_components_from_public_key;
            let (n, e) = components(der).map_err(|_| KeyError::Unsupported)?;
            Material::rsa(&n, &e)
        };
        material
            .map(|material| Self::new(None, None, material))
            .map_err(KeyError::Unusable)
    }

    /// A shared secret for HS256, and for HS384 and HS512 if it is long enough.
    pub fn from_secret(secret: &Secret) -> Result<Self, KeyError> {
        let bytes = secret.expose_secret().len();
        if bytes < Algorithm::HS256.hash_bytes() {
            return Err(KeyError::SecretTooShort { bytes });
        }
        Ok(Self::new(None, None, Material::secret(secret)))
    }

    /// Never the same for two keys of this process.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// The name that its key set gave it.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// What kind of key it is.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.material.family()
    }

    /// Whether signatures of `algorithm` may be checked with it: the kind of key is right, its `alg`
    /// names no other one, and a secret is at least as long as the hash (RFC 7518 section 3.2).
    #[must_use]
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        algorithm.family() == self.material.family()
            && self.algorithm.is_none_or(|only| only == algorithm)
            && (algorithm.family() != Family::Hmac
                || self.material.octets() >= algorithm.hash_bytes())
    }

    /// Whether `signature` is this key's signature of `signing_input`. False also when the key does
    /// not fit `algorithm`, or the signature's length is not the one that it must have.
    #[must_use]
    pub fn verify(&self, algorithm: Algorithm, signing_input: &[u8], signature: &[u8]) -> bool {
        self.fits(algorithm)
            && signature.len() == self.signature_bytes(algorithm)
            && self
                .material
                .is_signature(algorithm, signing_input, signature)
    }

    /// Whether the newest key set still names it.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    /// Ends its life, for good.
    pub(super) fn retire(&self) {
        self.live.store(false, Ordering::Release);
    }

    /// Same name, same algorithm, same material: the same key, seen again.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.kid == other.kid
            && self.algorithm == other.algorithm
            && self.material.is_same(&other.material)
    }

    /// RFC 7518 sections 3.2 to 3.5, RFC 8032 section 5.1.6.
    fn signature_bytes(&self, algorithm: Algorithm) -> usize {
        match algorithm.family() {
            Family::Rsa => self.material.octets(),
            Family::P256 | Family::Ed25519 => 64,
            Family::P384 => 96,
            Family::Hmac => algorithm.hash_bytes(),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("kid", &self.kid)
            .field("family", &self.family())
            .field("algorithm", &self.algorithm)
            .field("live", &self.is_live())
            .finish_non_exhaustive()
    }
}

/// The DER of a `SubjectPublicKeyInfo` in front of its key. For these kinds it is always the same
/// (RFC 5480 section 2.1.1 with a named curve, RFC 8410 section 4), so no parser is needed.
const SPKI_P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const SPKI_P384: [u8; 23] = [
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
    0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
];
const SPKI_ED25519: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::hmac;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
        RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
    };
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use serde_json::json;

    use crate::base::secret;

    use super::super::{jwk, rfc_examples};
    use super::*;

    const INPUT: &[u8] = b"header.payload";

    fn spki<K: AsDer<PublicKeyX509Der<'static>>>(key: &K) -> Vec<u8> {
        key.as_der().unwrap().as_ref().to_vec()
    }

    fn pem(label: &str, der: &[u8]) -> Vec<u8> {
        let body = STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n").into_bytes()
    }

    /// The right signature verifies; the same with one bit flipped, of another text, cut or longer
    /// does not.
    #[track_caller]
    fn check(key: &Key, algorithm: Algorithm, signature: &[u8]) {
        assert!(key.verify(algorithm, INPUT, signature), "{algorithm}");
        assert!(!key.verify(algorithm, b"header.payloae", signature));
        let mut other = signature.to_vec();
        other[10] ^= 1;
        assert!(!key.verify(algorithm, INPUT, &other));
        assert!(!key.verify(algorithm, INPUT, &signature[1..]));
        other = signature.to_vec();
        other.push(0);
        assert!(!key.verify(algorithm, INPUT, &other));
        assert!(!key.verify(algorithm, INPUT, b""));
        for wrong in Algorithm::ALL {
            if wrong != algorithm {
                assert!(
                    !key.verify(wrong, INPUT, signature),
                    "{algorithm} as {wrong}"
                );
            }
        }
    }

    #[test]
    fn the_examples_of_the_rfcs_verify() {
        for (jwk, algorithm, token) in [
            // RFC 7515 appendix A.2
            (
                json!({ "kty": "RSA", "n": rfc_examples::RSA_N, "e": "AQAB" }),
                Algorithm::RS256,
                rfc_examples::RSA_TOKEN,
            ),
            // RFC 7515 appendix A.3
            (
                json!({ "kty": "EC", "crv": "P-256", "x": rfc_examples::EC_X, "y": rfc_examples::EC_Y }),
                Algorithm::ES256,
                rfc_examples::EC_TOKEN,
            ),
            // RFC 8037 appendix A.4
            (
                json!({ "kty": "OKP", "crv": "Ed25519", "x": rfc_examples::ED_X }),
                Algorithm::EdDSA,
                rfc_examples::ED_TOKEN,
            ),
        ] {
            let key = jwk::parse(&jwk).unwrap();
            let (input, signature) = token.rsplit_once('.').unwrap();
            let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
            assert!(
                key.verify(algorithm, input.as_bytes(), &signature),
                "{algorithm}"
            );
            signature[0] ^= 1;
            assert!(
                !key.verify(algorithm, input.as_bytes(), &signature),
                "{algorithm}"
            );
        }
    }

    #[test]
    fn rsa_signatures_verify() {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let key = Key::from_pem(&pem("PUBLIC KEY", &spki(pair.public_key()))).unwrap();
        let table: [(Algorithm, &'static dyn RsaEncoding); 6] = [
            (Algorithm::RS256, &RSA_PKCS1_SHA256),
            (Algorithm::RS384, &RSA_PKCS1_SHA384),
            (Algorithm::RS512, &RSA_PKCS1_SHA512),
            (Algorithm::PS256, &RSA_PSS_SHA256),
            (Algorithm::PS384, &RSA_PSS_SHA384),
            (Algorithm::PS512, &RSA_PSS_SHA512),
        ];
        for (algorithm, encoding) in table {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(encoding, &SystemRandom::new(), INPUT, &mut signature)
                .unwrap();
            check(&key, algorithm, &signature);
        }
    }

    #[test]
    fn ecdsa_signatures_verify() {
        for (signing, algorithm) in [
            (&ECDSA_P256_SHA256_FIXED_SIGNING, Algorithm::ES256),
            (&ECDSA_P384_SHA384_FIXED_SIGNING, Algorithm::ES384),
        ] {
            let pair = EcdsaKeyPair::generate(signing).unwrap();
            let key = Key::from_pem(&pem("PUBLIC KEY", &spki(pair.public_key()))).unwrap();
            let signature = pair.sign(&SystemRandom::new(), INPUT).unwrap();
            check(&key, algorithm, signature.as_ref());
        }
    }

    #[test]
    fn ed25519_signatures_verify() {
        let pair = Ed25519KeyPair::generate().unwrap();
        let key = Key::from_pem(&pem("PUBLIC KEY", &spki(pair.public_key()))).unwrap();
        check(&key, Algorithm::EdDSA, pair.sign(INPUT).as_ref());
    }

    #[test]
    fn hmacs_verify_with_a_secret_of_the_hash_s_size() {
        let bytes = [7; 48];
        let key = Key::from_secret(&secret::secret(bytes.to_vec())).unwrap();
        for (algorithm, hash) in [
            (Algorithm::HS256, hmac::HMAC_SHA256),
            (Algorithm::HS384, hmac::HMAC_SHA384),
        ] {
            check(
                &key,
                algorithm,
                hmac::sign(&hmac::Key::new(hash, &bytes), INPUT).as_ref(),
            );
        }
        assert!(!key.fits(Algorithm::HS512), "64 bytes are needed");
        let short = Key::from_secret(&secret::secret(vec![7; 31]));
        assert_eq!(short.err(), Some(KeyError::SecretTooShort { bytes: 31 }));
    }

    #[test]
    fn a_fixed_algorithm_excludes_its_siblings() {
        let jwk = json!({ "kty": "RSA", "n": rfc_examples::RSA_N, "e": "AQAB", "alg": "RS512" });
        let key = jwk::parse(&jwk).unwrap();
        assert!(key.fits(Algorithm::RS512));
        let (input, signature) = rfc_examples::RSA_TOKEN.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        assert!(!key.verify(Algorithm::RS256, input.as_bytes(), &signature));
    }

    #[test]
    fn a_pem_file_that_holds_no_public_key_says_what_to_do() {
        let pair = Ed25519KeyPair::generate().unwrap();
        let public = pem("PUBLIC KEY", &spki(pair.public_key()));
        let refused = |pem: &[u8]| Key::from_pem(pem).err();
        for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"] {
            assert_eq!(refused(&pem(label, b"any")), Some(KeyError::PrivateKey));
        }
        assert_eq!(
            refused(&[public.clone(), pem("PRIVATE KEY", b"any")].concat()),
            Some(KeyError::PrivateKey)
        );
        assert_eq!(
            refused(&pem("CERTIFICATE", b"any")),
            Some(KeyError::Certificate)
        );
        assert_eq!(refused(&public.repeat(2)), Some(KeyError::Several));
        assert_eq!(refused(b""), Some(KeyError::NotPem));
        assert_eq!(refused(b"ssh-ed25519 AAAA"), Some(KeyError::NotPem));
        assert_eq!(
            refused(&pem("PUBLIC KEY", b"any")),
            Some(KeyError::Unsupported)
        );
    }

    #[test]
    fn a_pem_key_meets_the_same_rules_as_a_jwk() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let mut der = spki(pair.public_key());
        *der.last_mut().unwrap() ^= 1;
        assert_eq!(
            Key::from_spki(&der).err(),
            Some(KeyError::Unusable(SkipReason::NotOnCurve))
        );
        der.pop();
        assert_eq!(
            Key::from_spki(&der).err(),
            Some(KeyError::Unusable(SkipReason::CoordinateLength))
        );
    }

    #[test]
    fn the_same_key_is_recognised_and_another_is_not() {
        let key = |kid: &str, x: &str| {
            jwk::parse(&json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid })).unwrap()
        };
        let other = URL_SAFE_NO_PAD.encode([9; 32]);
        let one = key("a", rfc_examples::ED_X);
        let again = key("a", rfc_examples::ED_X);
        assert!(one.is_same(&again));
        assert_ne!(one.id(), again.id());
        assert!(!one.is_same(&key("b", rfc_examples::ED_X)));
        assert!(!one.is_same(&key("a", &other)));
    }

    #[test]
    fn nothing_secret_is_printed() {
        let key = Key::from_secret(&secret::secret(vec![b'S'; 32])).unwrap();
        let shown = format!("{key:?}");
        assert!(
            !shown.contains("SSS") && !shown.contains("83, 83"),
            "{shown}"
        );
    }
}
