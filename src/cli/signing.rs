//! Private keys that sign test tokens: made, read, and turned into their public half. The gateway itself never signs.

use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeyPairComponents, KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::EncodingKey;
use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::base::secret::{ExposeSecret, Secret, secret};
use crate::jwks::{Algorithm, Family};

/// Largest key file read, in bytes: a 4096-bit RSA key is 3.3 KiB of PEM and 3.2 KiB of JSON.
const KEY_FILE_BYTES_MAX: u64 = 64 * 1024;

/// The key, the algorithm it signs with, and its name.
#[derive(Debug)]
pub(super) struct SigningKey {
    algorithm: Algorithm,
    kid: Option<String>,
    key: EncodingKey,
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyError {
    #[error("cannot read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is larger than {KEY_FILE_BYTES_MAX} bytes: that is no key", path = path.display())]
    TooLarge { path: PathBuf },
    #[error(
        "this is no private key for {algorithm}; it takes {}",
        expected(*algorithm)
    )]
    Unusable { algorithm: Algorithm },
    #[error(
        "this secret has {bytes} bytes; {algorithm} takes at least {min} (RFC 7518 section 3.2)"
    )]
    ShortSecret {
        algorithm: Algorithm,
        bytes: usize,
        min: usize,
    },
    #[error("the key says \"alg\": {named:?}, and was asked to sign {algorithm}")]
    OtherAlgorithm { algorithm: Algorithm, named: String },
    #[error("the cryptography library failed to make a key")]
    Generate,
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
    #[error("signing failed: {0}")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// What a key file for `algorithm` may be.
fn expected(algorithm: Algorithm) -> &'static str {
    match algorithm.family() {
        Family::Rsa => "an RSA key of at least 2048 bits, in PEM or as a JWK",
        Family::P256 => {
            "a P-256 key, in PEM (PKCS#8, \"BEGIN PRIVATE KEY\": openssl pkcs8 -topk8 -nocrypt makes it) or as a JWK"
        }
        Family::P384 => {
            "a P-384 key, in PEM (PKCS#8, \"BEGIN PRIVATE KEY\": openssl pkcs8 -topk8 -nocrypt makes it) or as a JWK"
        }
        Family::Ed25519 => "an Ed25519 key, in PEM (PKCS#8: \"BEGIN PRIVATE KEY\") or as a JWK",
        Family::Hmac => "a shared secret: the file's bytes, or a JWK with \"kty\": \"oct\"",
    }
}

/// A fresh key and what its file holds.
pub(super) struct Generated {
    pub(super) key: SigningKey,
    /// PKCS#8 in PEM; for a shared secret its text.
    pub(super) file: Secret,
}

/// How long a fresh RSA key is. Other keys have one length only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum RsaBits {
    #[default]
    #[value(name = "2048")]
    B2048,
    #[value(name = "3072")]
    B3072,
    #[value(name = "4096")]
    B4096,
}

/// Makes a key.
pub(super) fn generate(
    algorithm: Algorithm,
    bits: RsaBits,
    kid: Option<String>,
) -> Result<Generated, KeyError> {
    let failed = |_| KeyError::Generate;
    let file = match algorithm.family() {
        Family::Rsa => {
            let size = match bits {
                RsaBits::B2048 => KeySize::Rsa2048,
                RsaBits::B3072 => KeySize::Rsa3072,
                RsaBits::B4096 => KeySize::Rsa4096,
            };
            let pair = RsaKeyPair::generate(size).map_err(failed)?;
            let der: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
            pem(der.as_ref())
        }
        Family::P256 | Family::P384 => {
            let pair = EcdsaKeyPair::generate(curve(algorithm)).map_err(failed)?;
            pem(pair.to_pkcs8v1().map_err(failed)?.as_ref())
        }
        Family::Ed25519 => {
            let pair = Ed25519KeyPair::generate().map_err(failed)?;
            pem(pair.to_pkcs8v1().map_err(failed)?.as_ref())
        }
        // Text rather than raw bytes, so that every program reads the same secret from the file.
        Family::Hmac => secret(random_text(secret_bytes_min(algorithm))?.into_bytes()),
    };
    let mut key = SigningKey::parse(algorithm, file.expose_secret(), kid)?;
    if key.kid.is_none() {
        // A thumbprint of a secret would help to guess it (RFC 7638 section 7).
        key.kid = Some(random_text(8)?);
    }
    Ok(Generated { key, file })
}

/// `bytes` random bytes in base64url.
pub(super) fn random_text(bytes: usize) -> Result<String, KeyError> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).map_err(KeyError::Random)?;
    Ok(URL_SAFE_NO_PAD.encode(random))
}

impl SigningKey {
    /// Reads a key file: PEM, JWK or, for HS algorithms, the bare secret.
    pub(super) fn load(
        path: &Path,
        algorithm: Algorithm,
        kid: Option<String>,
    ) -> Result<Self, KeyError> {
        let content = read_bounded(path)?;
        Self::parse(algorithm, content.expose_secret(), kid)
    }

    /// Takes `kid`, else the name in the JWK, else the thumbprint of the public key. Secrets get no name by themselves.
    fn parse(algorithm: Algorithm, content: &[u8], kid: Option<String>) -> Result<Self, KeyError> {
        let unusable = |_| KeyError::Unusable { algorithm };
        let jwk: Option<PrivateJwk> = content
            .trim_ascii_start()
            .starts_with(b"{")
            .then(|| serde_json::from_slice(content))
            .transpose()
            .map_err(|_| KeyError::Unusable { algorithm })?;
        let key = match (&jwk, algorithm.family()) {
            (Some(jwk), _) => {
                if let Some(named) = jwk.other_algorithm(algorithm) {
                    return Err(KeyError::OtherAlgorithm { algorithm, named });
                }
                jwk.encoding_key(algorithm)
                    .ok_or(KeyError::Unusable { algorithm })?
            }
            (None, Family::Rsa) => EncodingKey::from_rsa_pem(content).map_err(unusable)?,
            (None, Family::P256 | Family::P384) => {
                EncodingKey::from_ec_pem(content).map_err(unusable)?
            }
            (None, Family::Ed25519) => EncodingKey::from_ed_pem(content).map_err(unusable)?,
            (None, Family::Hmac) => EncodingKey::from_secret(trim_newline(content)),
        };
        if algorithm.is_symmetric() {
            let (bytes, min) = (key.as_bytes().len(), secret_bytes_min(algorithm));
            if bytes < min {
                return Err(KeyError::ShortSecret {
                    algorithm,
                    bytes,
                    min,
                });
            }
        }
        let mut key = Self {
            algorithm,
            kid: kid.or_else(|| jwk.and_then(|jwk| jwk.kid.clone())),
            key,
        };
        // Asked now, so that a key of another kind fails here and not at the first signature.
        let thumbprint = key.thumbprint()?;
        key.kid = key.kid.or(thumbprint);
        Ok(key)
    }

    /// The key's name.
    pub(super) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The public half as a JWK (RFC 7517); none for a secret.
    pub(super) fn public_jwk(&self) -> Result<Option<Value>, KeyError> {
        let Some(jwk) = self.bare_jwk()? else {
            return Ok(None);
        };
        let Ok(Value::Object(mut members)) = serde_json::to_value(jwk) else {
            return Err(self.unusable());
        };
        members.insert("alg".to_owned(), self.algorithm.name().into());
        members.insert("use".to_owned(), "sig".into());
        if let Some(kid) = &self.kid {
            members.insert("kid".to_owned(), kid.as_str().into());
        }
        Ok(Some(Value::Object(members)))
    }

    /// The key set that holds this key's public half.
    pub(super) fn public_jwks(&self) -> Result<Option<Value>, KeyError> {
        let jwk = self.public_jwk()?;
        Ok(jwk.map(|jwk| serde_json::json!({ "keys": [jwk] })))
    }

    /// A header with `alg`, `typ` and `kid`.
    pub(super) fn header(&self, typ: &str) -> Map<String, Value> {
        let mut header = Map::new();
        header.insert("alg".to_owned(), self.algorithm.name().into());
        header.insert("typ".to_owned(), typ.into());
        if let Some(kid) = &self.kid {
            header.insert("kid".to_owned(), kid.as_str().into());
        }
        header
    }

    /// A compact JWS (RFC 7515 section 7.1) of exactly this header and these claims: tests need wrong ones too.
    pub(super) fn sign(
        &self,
        header: &Map<String, Value>,
        claims: &Map<String, Value>,
    ) -> Result<String, KeyError> {
        let part = |members: &Map<String, Value>| {
            let json = serde_json::to_vec(members).map_err(|error| KeyError::Sign(error.into()))?;
            Ok(URL_SAFE_NO_PAD.encode(json))
        };
        let input = format!("{}.{}", part(header)?, part(claims)?);
        let algorithm = self.algorithm.to_jsonwebtoken();
        let signature = jsonwebtoken::crypto::sign(input.as_bytes(), &self.key, algorithm)
            .map_err(KeyError::Sign)?;
        Ok(format!("{input}.{signature}"))
    }

    /// RFC 7638 with SHA-256; none for a secret.
    fn thumbprint(&self) -> Result<Option<String>, KeyError> {
        self.bare_jwk()?
            .map(|jwk| jwk.thumbprint(ThumbprintHash::SHA256))
            .transpose()
            .map_err(|_| self.unusable())
    }

    fn bare_jwk(&self) -> Result<Option<Jwk>, KeyError> {
        if self.algorithm.is_symmetric() {
            return Ok(None);
        }
        Jwk::from_encoding_key(&self.key, self.algorithm.to_jsonwebtoken())
            .map(Some)
            .map_err(|_| self.unusable())
    }

    fn unusable(&self) -> KeyError {
        KeyError::Unusable {
            algorithm: self.algorithm,
        }
    }
}

/// A private key in JSON (RFC 7517, RFC 7518 section 6, RFC 8037).
#[derive(Deserialize)]
struct PrivateJwk {
    kid: Option<String>,
    alg: Option<String>,
    #[serde(flatten)]
    material: Material,
}

#[derive(Deserialize)]
#[serde(tag = "kty")]
enum Material {
    #[serde(rename = "EC")]
    Ec { x: String, y: String, d: String },
    #[serde(rename = "OKP")]
    Okp { x: String, d: String },
    #[serde(rename = "RSA")]
    Rsa {
        n: String,
        e: String,
        d: String,
        p: String,
        q: String,
        dp: String,
        dq: String,
        qi: String,
    },
    #[serde(rename = "oct")]
    Oct { k: String },
}

impl PrivateJwk {
    /// The algorithm that the key is for, when that is not `algorithm`.
    fn other_algorithm(&self, algorithm: Algorithm) -> Option<String> {
        let named = self.alg.as_deref()?;
        (Algorithm::parse(named) != Some(algorithm)).then(|| named.to_owned())
    }

    /// None when the members are no key for `algorithm`. The curve is that of the algorithm: a point of another one
    /// does not lie on it.
    fn encoding_key(&self, algorithm: Algorithm) -> Option<EncodingKey> {
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        match (&self.material, algorithm.family()) {
            (Material::Ec { x, y, d }, Family::P256 | Family::P384) => {
                // Uncompressed point (SEC 1 section 2.3.3).
                let point = [vec![4], bytes(x)?, bytes(y)?].concat();
                let pair = EcdsaKeyPair::from_private_key_and_public_key(
                    curve(algorithm),
                    &bytes(d)?,
                    &point,
                );
                Some(EncodingKey::from_ec_der(
                    pair.ok()?.to_pkcs8v1().ok()?.as_ref(),
                ))
            }
            (Material::Okp { x, d }, Family::Ed25519) => {
                let pair = Ed25519KeyPair::from_seed_and_public_key(&bytes(d)?, &bytes(x)?);
                Some(EncodingKey::from_ed_der(
                    pair.ok()?.to_pkcs8v1().ok()?.as_ref(),
                ))
            }
            (
                Material::Rsa {
                    n,
                    e,
                    d,
                    p,
                    q,
                    dp,
                    dq,
                    qi,
                },
                Family::Rsa,
            ) => {
                let components = KeyPairComponents {
                    public_key: PublicKeyComponents {
                        n: bytes(n)?,
                        e: bytes(e)?,
                    },
                    d: bytes(d)?,
                    p: bytes(p)?,
                    q: bytes(q)?,
                    dP: bytes(dp)?,
                    dQ: bytes(dq)?,
                    qInv: bytes(qi)?,
                };
                let pair = RsaKeyPair::from_components(&components).ok()?;
                let der: Pkcs8V1Der<'_> = pair.as_der().ok()?;
                EncodingKey::from_rsa_pem(pem(der.as_ref()).expose_secret()).ok()
            }
            (Material::Oct { k }, Family::Hmac) => Some(EncodingKey::from_secret(&bytes(k)?)),
            (
                Material::Ec { .. }
                | Material::Okp { .. }
                | Material::Rsa { .. }
                | Material::Oct { .. },
                _,
            ) => None,
        }
    }
}

fn curve(algorithm: Algorithm) -> &'static EcdsaSigningAlgorithm {
    match algorithm.family() {
        Family::P384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
        Family::P256 | Family::Rsa | Family::Ed25519 | Family::Hmac => {
            &ECDSA_P256_SHA256_FIXED_SIGNING
        }
    }
}

/// The size of the hash (RFC 7518 section 3.2).
const fn secret_bytes_min(algorithm: Algorithm) -> usize {
    match algorithm {
        Algorithm::HS512 => 64,
        Algorithm::HS384 => 48,
        _ => 32,
    }
}

/// Textual encoding of PKCS#8 (RFC 7468 section 10).
fn pem(der: &[u8]) -> Secret {
    /// RFC 7468 section 2: lines of exactly 64 characters.
    const LINE: usize = 64;
    let body = secret(STANDARD.encode(der).into_bytes());
    let mut text = b"-----BEGIN PRIVATE KEY-----\n".to_vec();
    for line in body.expose_secret().chunks(LINE) {
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text.extend_from_slice(b"-----END PRIVATE KEY-----\n");
    secret(text)
}

/// Editors end a file with a newline that nobody means as part of the secret.
fn trim_newline(content: &[u8]) -> &[u8] {
    let content = content.strip_suffix(b"\n").unwrap_or(content);
    content.strip_suffix(b"\r").unwrap_or(content)
}

fn read_bounded(path: &Path) -> Result<Secret, KeyError> {
    use io::Read;
    let failed = |source| KeyError::Read {
        path: path.to_owned(),
        source,
    };
    let mut content = vec![];
    std::fs::File::open(path)
        .map_err(failed)?
        .take(KEY_FILE_BYTES_MAX + 1)
        .read_to_end(&mut content)
        .map_err(failed)?;
    if content.len() as u64 > KEY_FILE_BYTES_MAX {
        return Err(KeyError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok(secret(content))
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::DecodingKey;
    use serde_json::json;

    use super::*;

    /// Checks `token` with the public half as a stranger would get it: through the JSON of the key set.
    #[track_caller]
    fn verify(token: &str, key: &SigningKey) {
        let jwk = key
            .public_jwk()
            .expect("a usable key")
            .expect("a public half");
        assert!(jwk.get("d").is_none(), "the private half got out: {jwk}");
        let jwk: Jwk = serde_json::from_value(jwk).expect("a JWK");
        let (input, signature) = token.rsplit_once('.').expect("three parts");
        let public = DecodingKey::from_jwk(&jwk).expect("a public key");
        let algorithm = key.algorithm.to_jsonwebtoken();
        let good = |input: &str| {
            jsonwebtoken::crypto::verify(signature, input.as_bytes(), &public, algorithm)
        };
        assert_eq!(good(input), Ok(true));
        assert_eq!(good(&format!("{input}x")), Ok(false));
    }

    fn token(key: &SigningKey) -> String {
        let claims = json!({"sub": "alice"});
        key.sign(
            &key.header("at+jwt"),
            claims.as_object().expect("an object"),
        )
        .expect("signed")
    }

    #[test]
    fn what_is_signed_verifies_with_the_public_half() {
        for algorithm in [
            Algorithm::RS256,
            Algorithm::PS384,
            Algorithm::ES256,
            Algorithm::ES384,
            Algorithm::EdDSA,
        ] {
            let made = generate(algorithm, RsaBits::default(), None).expect("made");
            verify(&token(&made.key), &made.key);
            let read = SigningKey::parse(algorithm, made.file.expose_secret(), None).expect("read");
            assert_eq!(read.kid(), made.key.kid(), "the same key, the same name");
            verify(&token(&read), &made.key);
        }
    }

    #[test]
    fn a_secret_has_no_public_half_and_a_name_that_tells_nothing() {
        let made = generate(Algorithm::HS512, RsaBits::default(), None).expect("made");
        assert_eq!(made.file.expose_secret().len(), 86);
        assert_eq!(made.key.public_jwks().expect("usable"), None);
        let again = SigningKey::parse(Algorithm::HS512, made.file.expose_secret(), None);
        assert_eq!(again.expect("read").kid(), None);
        assert!(made.key.kid().is_some());
        let with_newline = [made.file.expose_secret().as_slice(), b"\r\n"].concat();
        let read = SigningKey::parse(Algorithm::HS512, &with_newline, made.key.kid.clone());
        assert_eq!(token(&read.expect("read")), token(&made.key));
    }

    #[test]
    fn a_secret_is_at_least_as_long_as_the_hash() {
        let check = |algorithm, bytes: usize| {
            SigningKey::parse(algorithm, &vec![b'x'; bytes], None).map(|_| ())
        };
        assert!(check(Algorithm::HS256, 32).is_ok());
        assert!(matches!(
            check(Algorithm::HS256, 31),
            Err(KeyError::ShortSecret { min: 32, .. })
        ));
        assert!(matches!(
            check(Algorithm::HS384, 47),
            Err(KeyError::ShortSecret { min: 48, .. })
        ));
        assert!(matches!(
            check(Algorithm::HS512, 63),
            Err(KeyError::ShortSecret { min: 64, .. })
        ));
    }

    /// RFC 7638 section 3.1.
    #[test]
    fn the_thumbprint_is_that_of_the_rfc() {
        let jwk: Jwk = serde_json::from_value(json!({
            "kty": "RSA",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
            "e": "AQAB",
            "alg": "RS256",
            "kid": "2011-04-29"
        }))
        .expect("a JWK");
        assert_eq!(
            jwk.thumbprint(ThumbprintHash::SHA256),
            Ok("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs".to_owned())
        );
    }

    /// RFC 7517 appendix A.2 and RFC 8037 appendix A.1; the thumbprint of the latter is its appendix A.3.
    #[test]
    fn keys_in_json_are_read() {
        let ec = json!({
            "kty": "EC", "crv": "P-256", "kid": "1",
            "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
            "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
            "d": "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"
        });
        let key = SigningKey::parse(Algorithm::ES256, ec.to_string().as_bytes(), None);
        let key = key.expect("a key");
        assert_eq!(key.kid(), Some("1"));
        verify(&token(&key), &key);

        let ed = json!({
            "kty": "OKP", "crv": "Ed25519",
            "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
        });
        let key = SigningKey::parse(Algorithm::EdDSA, ed.to_string().as_bytes(), None);
        let key = key.expect("a key");
        assert_eq!(
            key.kid(),
            Some("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k")
        );
        verify(&token(&key), &key);

        let oct = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode([7; 32])});
        let key = SigningKey::parse(Algorithm::HS256, oct.to_string().as_bytes(), None);
        assert_eq!(key.expect("a key").kid(), None);
    }

    #[test]
    fn a_key_of_another_kind_is_refused_before_it_signs() {
        let file = |algorithm| {
            let made = generate(algorithm, RsaBits::default(), None).expect("made");
            made.file
        };
        let p256 = file(Algorithm::ES256);
        let ed = file(Algorithm::EdDSA);
        for (algorithm, file) in [
            (Algorithm::ES384, &p256),
            (Algorithm::RS256, &p256),
            (Algorithm::EdDSA, &p256),
            (Algorithm::ES256, &ed),
        ] {
            let read = SigningKey::parse(algorithm, file.expose_secret(), None);
            assert!(
                matches!(read, Err(KeyError::Unusable { .. })),
                "{algorithm}: {read:?}"
            );
        }
        let oct = json!({"kty": "oct", "alg": "HS256", "k": URL_SAFE_NO_PAD.encode([7; 64])});
        let read = SigningKey::parse(Algorithm::HS512, oct.to_string().as_bytes(), None);
        assert!(matches!(read, Err(KeyError::OtherAlgorithm { .. })));
        let read = SigningKey::parse(Algorithm::ES256, oct.to_string().as_bytes(), None);
        assert!(read.is_err());
    }

    #[test]
    fn a_huge_file_is_no_key() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("huge");
        std::fs::write(&path, vec![b'x'; 64 * 1024]).expect("written");
        assert!(SigningKey::load(&path, Algorithm::HS256, None).is_ok());
        std::fs::write(&path, vec![b'x'; 64 * 1024 + 1]).expect("written");
        assert!(matches!(
            SigningKey::load(&path, Algorithm::HS256, None),
            Err(KeyError::TooLarge { .. })
        ));
    }
}
