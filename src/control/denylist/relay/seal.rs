//! Seals what goes over Redis, so that whoever can write there cannot revoke, lift, or claim that something is in force: HMAC-SHA256 (RFC
//! 2104) with a key that all gateways of a fleet make of their secret (HKDF, RFC 5869). What Redis can still do is lose, delay and repeat.

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::hmac;
use bytes::Bytes;

/// Sets this use of the secret apart from any other.
const CONTEXT: &[u8] = b"jotgate fleet 1";

/// Bytes of the tag.
const TAG: usize = 32;

/// What is sealed. One kind is never taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Rules.
    Entry = 1,
    /// What a member says of itself.
    Member = 2,
}

/// Seals and opens. All gateways of a fleet have the same.
#[derive(Clone)]
pub struct Seal(hmac::Key);

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// What the gateways of a fleet make of their secret: the salt of their fingerprints, so that rules have the same identifiers
/// everywhere, and the seal of `stream`.
///
/// # Panics
///
/// Never: HKDF gives up to 255 times 32 bytes, and these are 48.
#[must_use]
pub fn keys_of(secret: &[u8], stream: &str) -> ([u8; 16], Seal) {
    let secret = Salt::new(HKDF_SHA256, CONTEXT).extract(secret);
    let expand = |info: &[&[u8]], key: &mut [u8]| {
        let length = Length(key.len());
        let expanded = secret.expand(info, length).and_then(|okm| okm.fill(key));
        expanded.expect("a few bytes can be had");
    };
    let (mut salt, mut key) = ([0; 16], [0; 32]);
    expand(&[b"fingerprints"], &mut salt);
    expand(&[b"seal ", stream.as_bytes()], &mut key);
    (salt, Seal(hmac::Key::new(hmac::HMAC_SHA256, &key)))
}

impl Seal {
    /// Tag, purpose, body.
    pub(super) fn close(&self, purpose: Purpose, body: &[u8]) -> Bytes {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&[purpose as u8]);
        context.update(body);
        let mut sealed = Vec::with_capacity(TAG + 1 + body.len());
        sealed.extend_from_slice(context.sign().as_ref());
        sealed.push(purpose as u8);
        sealed.extend_from_slice(body);
        sealed.into()
    }

    /// The body, if one of the fleet sealed it for that purpose.
    pub(super) fn open<'a>(&self, purpose: Purpose, sealed: &'a [u8]) -> Option<&'a [u8]> {
        let (tag, rest) = sealed.split_first_chunk::<TAG>()?;
        hmac::verify(&self.0, rest, tag).ok()?;
        let (first, body) = rest.split_first()?;
        (*first == purpose as u8).then_some(body)
    }
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"a secret of at least 32 bytes ...";

    #[test]
    fn only_the_fleet_for_this_stream_and_purpose_is_believed() {
        let (salt, seal) = keys_of(SECRET, "jotgate");
        let sealed = seal.close(Purpose::Entry, b"rules");
        assert_eq!(seal.open(Purpose::Entry, &sealed), Some(&b"rules"[..]));
        assert_eq!(seal.open(Purpose::Member, &sealed), None);
        for other in [
            keys_of(SECRET, "other").1,
            keys_of(b"another secret", "jotgate").1,
        ] {
            assert_eq!(other.open(Purpose::Entry, &sealed), None);
        }
        for at in 0..sealed.len() {
            let mut forged = sealed.to_vec();
            forged[at] ^= 1;
            assert_eq!(seal.open(Purpose::Entry, &forged), None, "{at}");
            assert_eq!(seal.open(Purpose::Entry, &sealed[..at]), None, "{at}");
        }
        // The same identifiers in every stream, so that a log can move; others for every secret.
        assert_eq!(salt, keys_of(SECRET, "other").0);
        assert_ne!(salt, keys_of(b"another secret", "jotgate").0);
        assert_eq!(format!("{seal:?}"), "Seal(..)");
    }

    #[test]
    fn the_keys_stay_the_same_over_versions() {
        let (salt, seal) = keys_of(SECRET, "jotgate");
        let sealed = seal.close(Purpose::Entry, b"");
        let number = |bytes: &[u8]| u128::from_be_bytes(bytes[..16].try_into().unwrap());
        assert_eq!(
            (number(&salt), number(&sealed)),
            (
                327_656_876_071_471_730_898_500_914_824_597_788_549,
                260_642_827_822_103_030_510_743_538_820_417_617_398,
            )
        );
    }
}
