//! A token whose signature was checked, with everything that a request needs of it ready to use.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use http::{HeaderName, HeaderValue};

use super::access::Issuer;
use crate::denylist::{Fingerprinter, Index, TokenKeys};
use crate::identity::{MappingFault, map_claims};
use crate::jwks::Key;
use crate::token::{Claims, Verdict, Verified};

/// A verified token. It lives in the cache and says only what was true when it was signed: times, audience, denylist and
/// policy are asked on every request.
#[derive(Debug)]
pub struct Bearer {
    /// [`Issuer::id`] under which it was verified.
    pub issuer: usize,
    /// The key that signed it; when it dies, this counts for nothing.
    pub key: Arc<Key>,
    /// The claims.
    pub claims: Verified<Claims>,
    /// The headers that they make.
    pub headers: Result<Box<[(HeaderName, HeaderValue)]>, MappingFault>,
    /// What the denylist is asked about.
    pub revocation: TokenKeys,
    /// The denylist's epoch at which it was last found clean.
    pub clean_at: AtomicU64,
    /// Bytes of the payload, for the bound of the cache.
    payload_bytes: usize,
}

/// How much larger parsed claims are than their text: maps of small strings. Measured with tokens of 1 KiB, it is 3 to 5.
const PARSED_FACTOR: usize = 5;

impl Bearer {
    pub(super) fn new(
        issuer: &Issuer,
        verdict: Verdict,
        signing_input: &str,
        payload_segment: &str,
        fingerprinter: &Fingerprinter,
    ) -> Self {
        let Verdict { claims, key, kid } = verdict;
        Self {
            issuer: issuer.id,
            headers: map_claims(&issuer.headers, &claims.all, payload_segment)
                .map(Vec::into_boxed_slice),
            revocation: TokenKeys::of(
                fingerprinter,
                &claims,
                kid.as_deref(),
                signing_input.as_bytes(),
            ),
            clean_at: AtomicU64::new(Index::NEVER),
            payload_bytes: payload_segment.len(),
            claims,
            key,
        }
    }

    /// About how many bytes it takes.
    #[must_use]
    pub fn weight(&self) -> usize {
        let headers = self.headers.as_ref().map_or(0, |headers| {
            headers
                .iter()
                .map(|(_, value)| value.len() + size_of::<(HeaderName, HeaderValue)>())
                .sum()
        });
        size_of::<Self>() + self.payload_bytes * PARSED_FACTOR + headers
    }
}
