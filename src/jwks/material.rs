//! The numbers of a key: checked once, and kept in the form in which signatures are checked. To bring a key into that form
//! costs a third as much as an RSA signature, which is why no library does it here that would do it each time.

use std::ops::RangeInclusive;
use std::sync::OnceLock;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, VerificationAlgorithm,
};

use super::jwk::SkipReason;
use super::{Algorithm, Family};
use crate::base::secret::{self, ExposeSecret, Secret};

/// What a key is made of.
pub(super) struct Material {
    family: Family,
    form: Form,
}

enum Form {
    Rsa(Box<Rsa>),
    /// On a curve, Ed25519's among them.
    Point(ParsedPublicKey),
    Secret(Secret),
}

/// Modulus and exponent, big-endian, without leading zeros.
struct Rsa {
    n: Box<[u8]>,
    e: Box<[u8]>,
    /// For each of [`RSA_ALGORITHMS`]. All but the first are made when the first signature of theirs comes: most keys sign by
    /// one alone.
    parsed: [OnceLock<Option<ParsedPublicKey>>; RSA_ALGORITHMS.len()],
}

const RSA_ALGORITHMS: [(Algorithm, &RsaParameters); 6] = [
    (Algorithm::RS256, &RSA_PKCS1_2048_8192_SHA256),
    (Algorithm::RS384, &RSA_PKCS1_2048_8192_SHA384),
    (Algorithm::RS512, &RSA_PKCS1_2048_8192_SHA512),
    (Algorithm::PS256, &RSA_PSS_2048_8192_SHA256),
    (Algorithm::PS384, &RSA_PSS_2048_8192_SHA384),
    (Algorithm::PS512, &RSA_PSS_2048_8192_SHA512),
];

/// Shortest and longest RSA modulus, in bits: RFC 7518 section 3.3, and what the library can check.
const RSA_BITS: RangeInclusive<u32> = 2048..=8192;

/// Largest RSA exponent: 33 bits, the library's own bound. A huge one makes each check cost as much as
/// a signature.
const RSA_EXPONENT_MAX: u64 = (1 << 33) - 1;

impl Material {
    /// RFC 7518 section 6.3.1. Leading zero octets are against its rule, common, and harmless: they
    /// are dropped before anything is measured.
    pub(super) fn rsa(n: &[u8], e: &[u8]) -> Result<Self, SkipReason> {
        let (n, e) = (without_leading_zeros(n), without_leading_zeros(e));
        let bits = n.first().map_or(0, |first| {
            u32::try_from(n.len())
                .unwrap_or(u32::MAX)
                .saturating_mul(8)
                .saturating_sub(first.leading_zeros())
        });
        if !RSA_BITS.contains(&bits) {
            return Err(SkipReason::RsaSize);
        }
        if n.last().is_some_and(|last| last % 2 == 0) {
            return Err(SkipReason::RsaEven);
        }
        let exponent = e
            .iter()
            .try_fold(0_u64, |sum, octet| {
                sum.checked_mul(256)?.checked_add(u64::from(*octet))
            })
            .ok_or(SkipReason::RsaExponent)?;
        if exponent % 2 == 0 || !(3..=RSA_EXPONENT_MAX).contains(&exponent) {
            return Err(SkipReason::RsaExponent);
        }
        let rsa = Rsa {
            n: n.into(),
            e: e.into(),
            parsed: Default::default(),
        };
        let (first, _) = RSA_ALGORITHMS[0];
        rsa.parsed(first).ok_or(SkipReason::RsaSize)?;
        Ok(Self {
            family: Family::Rsa,
            form: Form::Rsa(rsa.into()),
        })
    }

    /// RFC 7518 section 6.2.1: `x` and `y` have exactly the octets of the field, and the point lies on
    /// the curve.
    pub(super) fn point(family: Family, x: &[u8], y: &[u8]) -> Result<Self, SkipReason> {
        // SEC 1 section 2.3.3, uncompressed.
        let mut point = Vec::with_capacity(1 + x.len() + y.len());
        point.push(4);
        point.extend_from_slice(x);
        point.extend_from_slice(y);
        let (octets, algorithm) = match family {
            Family::P256 => (32, &ECDSA_P256_SHA256_FIXED),
            Family::P384 => (48, &ECDSA_P384_SHA384_FIXED),
            Family::Rsa | Family::Ed25519 | Family::Hmac => return Err(SkipReason::KeyType),
        };
        if x.len() != octets || y.len() != octets {
            return Err(SkipReason::CoordinateLength);
        }
        Self::parsed(family, algorithm, &point)
    }

    /// A point of SEC 1 section 2.3.3, as certificates and PEM files have it.
    pub(super) fn uncompressed(family: Family, point: &[u8]) -> Result<Self, SkipReason> {
        match point.split_first() {
            Some((4, xy)) => {
                let (x, y) = xy.split_at(xy.len() / 2);
                Self::point(family, x, y)
            }
            _ => Err(SkipReason::CoordinateLength),
        }
    }

    /// RFC 8037 section 2. Whether the octets are a point shows with the first signature, which an
    /// invalid one never verifies.
    pub(super) fn ed25519(x: &[u8]) -> Result<Self, SkipReason> {
        if x.len() != 32 {
            return Err(SkipReason::CoordinateLength);
        }
        Self::parsed(Family::Ed25519, &ED25519, x)
    }

    fn parsed(
        family: Family,
        algorithm: &'static dyn VerificationAlgorithm,
        octets: &[u8],
    ) -> Result<Self, SkipReason> {
        let key = ParsedPublicKey::new(algorithm, octets).map_err(|_| SkipReason::NotOnCurve)?;
        Ok(Self {
            family,
            form: Form::Point(key),
        })
    }

    /// A shared secret, of whatever length.
    pub(super) fn secret(secret: &Secret) -> Self {
        Self {
            family: Family::Hmac,
            form: Form::Secret(secret::secret(secret.expose_secret().clone())),
        }
    }

    pub(super) const fn family(&self) -> Family {
        self.family
    }

    /// The length of the RSA modulus, the point or the secret.
    pub(super) fn octets(&self) -> usize {
        match &self.form {
            Form::Rsa(rsa) => rsa.n.len(),
            Form::Point(key) => key.as_ref().len(),
            Form::Secret(secret) => secret.expose_secret().len(),
        }
    }

    /// The one place that checks a signature. That key, algorithm and length fit each other is known; it is false where the
    /// algorithm is of another family all the same.
    pub(super) fn is_signature(
        &self,
        algorithm: Algorithm,
        signing_input: &[u8],
        signature: &[u8],
    ) -> bool {
        let is_of = |key: &ParsedPublicKey| key.verify_sig(signing_input, signature).is_ok();
        match &self.form {
            Form::Rsa(rsa) => rsa.parsed(algorithm).is_some_and(is_of),
            Form::Point(key) => algorithm.family() == self.family && is_of(key),
            Form::Secret(secret) => hmac_of(algorithm).is_some_and(|hash| {
                let key = hmac::Key::new(hash, secret.expose_secret());
                hmac::verify(&key, signing_input, signature).is_ok()
            }),
        }
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.family == other.family
            && match (&self.form, &other.form) {
                (Form::Rsa(one), Form::Rsa(other)) => one.n == other.n && one.e == other.e,
                (Form::Point(one), Form::Point(other)) => one.as_ref() == other.as_ref(),
                (Form::Secret(one), Form::Secret(other)) => secret::same(one, other),
                (Form::Rsa(_) | Form::Point(_) | Form::Secret(_), _) => false,
            }
    }
}

impl Rsa {
    /// None for what is no algorithm of RSA.
    fn parsed(&self, algorithm: Algorithm) -> Option<&ParsedPublicKey> {
        let is_it = |(known, _): &(Algorithm, _)| *known == algorithm;
        let at = RSA_ALGORITHMS.iter().position(is_it)?;
        let parse = || {
            let (n, e) = (&self.n, &self.e);
            let components = RsaPublicKeyComponents { n, e };
            components.to_parsed_public_key(RSA_ALGORITHMS[at].1).ok()
        };
        self.parsed[at].get_or_init(parse).as_ref()
    }
}

const fn hmac_of(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    match algorithm {
        Algorithm::HS256 => Some(hmac::HMAC_SHA256),
        Algorithm::HS384 => Some(hmac::HMAC_SHA384),
        Algorithm::HS512 => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

fn without_leading_zeros(octets: &[u8]) -> &[u8] {
    let zeros = octets.iter().take_while(|octet| **octet == 0).count();
    &octets[zeros..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_rsa_signature_is_checked_with_is_made_once_and_kept() {
        let key = Material::rsa(&[0xff; 256], &[1, 0, 1]).unwrap();
        let Form::Rsa(rsa) = &key.form else {
            panic!("a key of RSA");
        };
        for (at, (algorithm, _)) in RSA_ALGORITHMS.into_iter().enumerate() {
            let kept = || rsa.parsed[at].get().is_some_and(Option::is_some);
            assert_eq!(
                kept(),
                at == 0,
                "{algorithm:?}: only the first is made early"
            );
            assert!(!key.is_signature(algorithm, b"", &[0; 256]));
            assert!(kept(), "{algorithm:?}");
        }
    }
}
