//! One entry of a key set → one usable key, or the reason why it is none (RFC 7517, RFC 7518
//! section 6, RFC 8037). Strict: an entry that can be read in two ways is not used. The set around it
//! is `key_set`.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::key::Key;
use super::material::Material;
use super::{Algorithm, Family};
use crate::base::limits::{JSON_DEPTH_MAX, JWKS_KEYS_MAX, KID_BYTES_MAX};

/// Why an entry of a key set is not used. A closed set, so that it can label a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// It is no JSON object.
    NotAnObject,
    /// A member stands in it twice.
    DuplicateMember,
    /// It nests deeper than [`JSON_DEPTH_MAX`].
    TooDeep,
    /// It and all that follow lie beyond the first [`JWKS_KEYS_MAX`] entries.
    BeyondLimit,
    /// A member that is needed is absent, or has the wrong JSON type.
    Malformed,
    /// A number is not base64url without padding, in its one canonical form.
    Encoding,
    /// `kid` is no string, or longer than [`KID_BYTES_MAX`].
    KeyId,
    /// `kty` or `crv` is one that jotgate does not know.
    KeyType,
    /// A shared secret (`oct`): a published one is no secret.
    Symmetric,
    /// It carries private members: whoever read the set can sign with it.
    Private,
    /// `use` is not `sig`.
    Use,
    /// `key_ops` does not allow verifying, or names what only a private key does.
    KeyOps,
    /// `alg` is no signature algorithm that jotgate knows.
    UnknownAlgorithm,
    /// `alg` needs another kind of key.
    AlgorithmMismatch,
    /// The RSA modulus has fewer than 2048 bits (RFC 7518 section 3.3) or more than 8192.
    RsaSize,
    /// The RSA exponent is even, below 3 or above 33 bits.
    RsaExponent,
    /// The RSA modulus is even: no product of two primes of its size.
    RsaEven,
    /// A coordinate does not have exactly the field's octets (RFC 7518 section 6.2.1.2).
    CoordinateLength,
    /// The point does not lie on the curve.
    NotOnCurve,
}

impl SkipReason {
    /// Every reason.
    pub const ALL: [Self; 19] = [
        Self::NotAnObject,
        Self::DuplicateMember,
        Self::TooDeep,
        Self::BeyondLimit,
        Self::Malformed,
        Self::Encoding,
        Self::KeyId,
        Self::KeyType,
        Self::Symmetric,
        Self::Private,
        Self::Use,
        Self::KeyOps,
        Self::UnknownAlgorithm,
        Self::AlgorithmMismatch,
        Self::RsaSize,
        Self::RsaExponent,
        Self::RsaEven,
        Self::CoordinateLength,
        Self::NotOnCurve,
    ];

    /// One stable word for logs and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotAnObject => "not_an_object",
            Self::DuplicateMember => "duplicate_member",
            Self::TooDeep => "too_deep",
            Self::BeyondLimit => "beyond_limit",
            Self::Malformed => "malformed",
            Self::Encoding => "encoding",
            Self::KeyId => "key_id",
            Self::KeyType => "key_type",
            Self::Symmetric => "symmetric",
            Self::Private => "private",
            Self::Use => "use",
            Self::KeyOps => "key_ops",
            Self::UnknownAlgorithm => "unknown_algorithm",
            Self::AlgorithmMismatch => "algorithm_mismatch",
            Self::RsaSize => "rsa_size",
            Self::RsaExponent => "rsa_exponent",
            Self::RsaEven => "rsa_even",
            Self::CoordinateLength => "coordinate_length",
            Self::NotOnCurve => "not_on_curve",
        }
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAnObject => "no JSON object",
            Self::DuplicateMember => "a member stands twice",
            Self::TooDeep => return write!(f, "nested deeper than {JSON_DEPTH_MAX}"),
            Self::BeyondLimit => {
                return write!(f, "beyond the first {JWKS_KEYS_MAX} entries");
            }
            Self::Malformed => "a member is absent or has the wrong type",
            Self::Encoding => "a number is not canonical base64url without padding",
            Self::KeyId => return write!(f, "kid is no string of at most {KID_BYTES_MAX} bytes"),
            Self::KeyType => "kty or crv is not supported",
            Self::Symmetric => "a shared secret (kty oct) was published",
            Self::Private => "a private key was published; replace it",
            Self::Use => "use is not sig",
            Self::KeyOps => "key_ops is not for verifying",
            Self::UnknownAlgorithm => "alg is no supported signature algorithm",
            Self::AlgorithmMismatch => "alg needs another kind of key",
            Self::RsaSize => "RSA modulus not within 2048 to 8192 bits",
            Self::RsaExponent => "RSA exponent is even, below 3 or above 33 bits",
            Self::RsaEven => "RSA modulus is even",
            Self::CoordinateLength => "a coordinate has the wrong length",
            Self::NotOnCurve => "the point is not on the curve",
        })
    }
}

/// Members that only a private key has (RFC 7518 sections 6.2.2 and 6.3.2, RFC 8037 section 2).
const PRIVATE_MEMBERS: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "oth"];

/// Operations that need a private key (RFC 7517 section 4.3).
const PRIVATE_OPERATIONS: [&str; 5] = ["sign", "decrypt", "unwrapKey", "deriveKey", "deriveBits"];

/// Parses one entry. Members that the RFCs do not define for the key's type, and certificates
/// (`x5c`, `x5u`, …), are not looked at.
pub(super) fn parse(entry: &Value) -> Result<Key, SkipReason> {
    let entry = entry.as_object().ok_or(SkipReason::NotAnObject)?;
    let key_type = text(entry, "kty")?;
    if key_type == "oct" {
        return Err(SkipReason::Symmetric);
    }
    if PRIVATE_MEMBERS.iter().any(|name| entry.contains_key(*name)) {
        return Err(SkipReason::Private);
    }
    check_purpose(entry)?;
    let kid = parse_kid(entry)?;
    let material = match key_type {
        "RSA" => Material::rsa(&octets(entry, "n")?, &octets(entry, "e")?)?,
        "EC" => {
            let family = match text(entry, "crv")? {
                "P-256" => Family::P256,
                "P-384" => Family::P384,
                _ => return Err(SkipReason::KeyType),
            };
            Material::point(family, &octets(entry, "x")?, &octets(entry, "y")?)?
        }
        "OKP" => match text(entry, "crv")? {
            "Ed25519" => Material::ed25519(&octets(entry, "x")?)?,
            _ => return Err(SkipReason::KeyType),
        },
        _ => return Err(SkipReason::KeyType),
    };
    let algorithm = parse_algorithm(entry, material.family())?;
    Ok(Key::new(kid, algorithm, material))
}

/// `use` and `key_ops` (RFC 7517 sections 4.2 and 4.3).
fn check_purpose(entry: &Map<String, Value>) -> Result<(), SkipReason> {
    if entry.get("use").is_some_and(|purpose| purpose != "sig") {
        return Err(SkipReason::Use);
    }
    let Some(operations) = entry.get("key_ops") else {
        return Ok(());
    };
    let operations = operations.as_array().ok_or(SkipReason::KeyOps)?;
    let verifies = operations.iter().any(|operation| operation == "verify");
    let private = operations
        .iter()
        .any(|operation| PRIVATE_OPERATIONS.iter().any(|name| operation == name));
    if verifies && !private {
        Ok(())
    } else {
        Err(SkipReason::KeyOps)
    }
}

fn parse_kid(entry: &Map<String, Value>) -> Result<Option<Box<str>>, SkipReason> {
    match entry.get("kid") {
        None => Ok(None),
        Some(Value::String(kid)) if kid.len() <= KID_BYTES_MAX => Ok(Some(kid.as_str().into())),
        Some(_) => Err(SkipReason::KeyId),
    }
}

fn parse_algorithm(
    entry: &Map<String, Value>,
    family: Family,
) -> Result<Option<Algorithm>, SkipReason> {
    let Some(name) = entry.get("alg") else {
        return Ok(None);
    };
    let algorithm = name
        .as_str()
        .and_then(Algorithm::parse)
        .ok_or(SkipReason::UnknownAlgorithm)?;
    if algorithm.family() == family {
        Ok(Some(algorithm))
    } else {
        Err(SkipReason::AlgorithmMismatch)
    }
}

fn text<'a>(entry: &'a Map<String, Value>, name: &str) -> Result<&'a str, SkipReason> {
    entry
        .get(name)
        .and_then(Value::as_str)
        .ok_or(SkipReason::Malformed)
}

fn octets(entry: &Map<String, Value>, name: &str) -> Result<Vec<u8>, SkipReason> {
    URL_SAFE_NO_PAD
        .decode(text(entry, name)?)
        .map_err(|_| SkipReason::Encoding)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair, RsaKeyPair,
    };
    use serde_json::json;

    use super::super::rfc_examples;
    use super::*;

    fn base64url(bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn rsa() -> Value {
        json!({ "kty": "RSA", "n": rfc_examples::RSA_N, "e": "AQAB" })
    }

    fn p256() -> Value {
        json!({ "kty": "EC", "crv": "P-256", "x": rfc_examples::EC_X, "y": rfc_examples::EC_Y })
    }

    fn ed25519() -> Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "x": rfc_examples::ED_X })
    }

    fn with(mut entry: Value, name: &str, value: impl Into<Value>) -> Value {
        entry[name] = value.into();
        entry
    }

    #[track_caller]
    fn refused(entry: &Value, reason: SkipReason) {
        assert_eq!(parse(entry).err(), Some(reason), "{entry}");
    }

    #[test]
    fn each_kind_of_key_is_read() {
        for (entry, algorithm) in [
            (rsa(), Algorithm::RS256),
            (p256(), Algorithm::ES256),
            (ed25519(), Algorithm::EdDSA),
        ] {
            let key = parse(&entry).unwrap();
            assert!(key.fits(algorithm));
            assert_eq!(key.kid(), None);
        }
    }

    #[test]
    fn a_p384_key_is_read() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref();
        let entry = json!({
            "kty": "EC", "crv": "P-384", "x": base64url(&point[1..49]), "y": base64url(&point[49..]),
        });
        assert!(parse(&entry).unwrap().fits(Algorithm::ES384));
    }

    #[test]
    fn purpose_and_algorithm_that_fit_are_accepted() {
        let entry = with(rsa(), "use", "sig");
        let entry = with(entry, "key_ops", json!(["verify"]));
        let entry = with(entry, "alg", "PS384");
        let key = parse(&with(entry, "kid", "a")).unwrap();
        assert_eq!(key.kid(), Some("a"));
        assert!(key.fits(Algorithm::PS384));
        assert!(!key.fits(Algorithm::RS256));
        assert!(parse(&with(ed25519(), "alg", "Ed25519")).is_ok());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        refused(&json!("key"), SkipReason::NotAnObject);
        refused(&json!({}), SkipReason::Malformed);
        refused(&with(rsa(), "n", 5), SkipReason::Malformed);
        refused(
            &json!({ "kty": "EC", "crv": "P-256" }),
            SkipReason::Malformed,
        );
        refused(&with(rsa(), "kty", "PQ"), SkipReason::KeyType);
        refused(&with(p256(), "crv", "secp256k1"), SkipReason::KeyType);
        refused(&with(ed25519(), "crv", "X25519"), SkipReason::KeyType);
        refused(&json!({ "kty": "oct", "k": "AAAA" }), SkipReason::Symmetric);
    }

    #[test]
    fn a_published_private_key_is_refused() {
        for name in PRIVATE_MEMBERS {
            refused(&with(rsa(), name, "AQAB"), SkipReason::Private);
        }
        refused(&with(ed25519(), "d", Value::Null), SkipReason::Private);
    }

    #[test]
    fn a_key_for_something_else_is_refused() {
        refused(&with(rsa(), "use", "enc"), SkipReason::Use);
        refused(&with(rsa(), "use", Value::Null), SkipReason::Use);
        refused(
            &with(rsa(), "key_ops", json!(["encrypt"])),
            SkipReason::KeyOps,
        );
        refused(&with(rsa(), "key_ops", json!([])), SkipReason::KeyOps);
        refused(&with(rsa(), "key_ops", "verify"), SkipReason::KeyOps);
        for operation in PRIVATE_OPERATIONS {
            let operations = json!(["verify", operation]);
            refused(&with(rsa(), "key_ops", operations), SkipReason::KeyOps);
        }
    }

    #[test]
    fn an_algorithm_that_is_unknown_or_of_another_kind_is_refused() {
        refused(
            &with(rsa(), "alg", "RSA-OAEP"),
            SkipReason::UnknownAlgorithm,
        );
        refused(&with(rsa(), "alg", "none"), SkipReason::UnknownAlgorithm);
        refused(&with(rsa(), "alg", 1), SkipReason::UnknownAlgorithm);
        refused(&with(rsa(), "alg", "ES256"), SkipReason::AlgorithmMismatch);
        refused(&with(rsa(), "alg", "HS256"), SkipReason::AlgorithmMismatch);
        refused(&with(p256(), "alg", "ES384"), SkipReason::AlgorithmMismatch);
    }

    #[test]
    fn a_kid_is_a_bounded_string() {
        assert!(parse(&with(rsa(), "kid", "k".repeat(KID_BYTES_MAX))).is_ok());
        refused(
            &with(rsa(), "kid", "k".repeat(KID_BYTES_MAX + 1)),
            SkipReason::KeyId,
        );
        refused(&with(rsa(), "kid", 7), SkipReason::KeyId);
        refused(&with(rsa(), "kid", Value::Null), SkipReason::KeyId);
    }

    #[test]
    fn only_canonical_base64url_is_read() {
        // `Q=` padding, `+` of the other alphabet, a blank, and non-zero bits after the last octet.
        for e in ["AQAB=", "AQ+B", "AQ B", "AQABAR"] {
            refused(&with(rsa(), "e", e), SkipReason::Encoding);
        }
    }

    #[test]
    fn the_modulus_has_2048_to_8192_real_bits() {
        let odd = |bits: usize| {
            let mut n = vec![0xff; bits.div_ceil(8)];
            n[0] >>= n.len() * 8 - bits;
            n
        };
        let check = |n: &[u8]| parse(&with(rsa(), "n", base64url(n))).err();
        assert_eq!(check(&odd(2047)), Some(SkipReason::RsaSize));
        assert_eq!(check(&odd(2048)), None);
        assert_eq!(check(&odd(8192)), None);
        assert_eq!(check(&odd(8193)), Some(SkipReason::RsaSize));
        // Octets of zero in front make no key longer.
        let mut padded = vec![0; 128];
        padded.extend(odd(1024));
        assert_eq!(check(&padded), Some(SkipReason::RsaSize));
        assert_eq!(check(&[]), Some(SkipReason::RsaSize));
        // A leading zero octet of a good modulus is a well-known mistake, and harmless.
        let mut padded = vec![0];
        padded.extend(odd(2048));
        assert_eq!(check(&padded), None);
    }

    #[test]
    fn an_even_modulus_is_refused() {
        let mut n = vec![0xff; 256];
        n[255] = 0xfe;
        refused(&with(rsa(), "n", base64url(&n)), SkipReason::RsaEven);
    }

    #[test]
    fn the_exponent_is_odd_and_bounded() {
        let check = |e: &[u8]| parse(&with(rsa(), "e", base64url(e))).err();
        assert_eq!(check(&[3]), None);
        assert_eq!(check(&[0, 3]), None);
        for e in [
            &[][..],
            &[0],
            &[1],
            &[2],
            &[1, 0, 0],
            &[2, 0, 0, 0, 1],
            &[1; 9],
        ] {
            assert_eq!(check(e), Some(SkipReason::RsaExponent), "{e:?}");
        }
    }

    #[test]
    fn coordinates_have_the_octets_of_the_field() {
        let x = URL_SAFE_NO_PAD.decode(rfc_examples::EC_X).unwrap();
        let mut longer = vec![0];
        longer.extend(&x);
        refused(
            &with(p256(), "x", base64url(&longer)),
            SkipReason::CoordinateLength,
        );
        refused(
            &with(p256(), "y", base64url(&x[1..])),
            SkipReason::CoordinateLength,
        );
        refused(&with(p256(), "crv", "P-384"), SkipReason::CoordinateLength);
        refused(
            &with(ed25519(), "x", base64url(&[1; 31])),
            SkipReason::CoordinateLength,
        );
    }

    #[test]
    fn the_point_lies_on_the_curve() {
        refused(
            &with(p256(), "y", rfc_examples::EC_X),
            SkipReason::NotOnCurve,
        );
        refused(
            &with(p256(), "x", base64url(&[0xff; 32])),
            SkipReason::NotOnCurve,
        );
    }

    #[test]
    fn fresh_keys_of_every_kind_are_read() {
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        assert!(Key::from_spki(&spki(rsa.public_key())).is_ok());
        let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        assert!(Key::from_spki(&spki(ec.public_key())).is_ok());
        let ed = Ed25519KeyPair::generate().unwrap();
        assert!(Key::from_spki(&spki(ed.public_key())).is_ok());
    }

    fn spki<K>(key: &K) -> Vec<u8>
    where
        K: aws_lc_rs::encoding::AsDer<aws_lc_rs::encoding::PublicKeyX509Der<'static>>,
    {
        key.as_der().unwrap().as_ref().to_vec()
    }

    #[test]
    fn labels_are_distinct() {
        let labels: std::collections::HashSet<_> = SkipReason::ALL
            .iter()
            .map(|reason| reason.label())
            .collect();
        assert_eq!(labels.len(), SkipReason::ALL.len());
    }
}
