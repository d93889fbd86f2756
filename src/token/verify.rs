//! The signature, last: everything cheaper has been asked before.

use std::ops::Deref;
use std::sync::Arc;

use super::claims::Claims;
use super::parse::Parsed;
use super::reject::Reject;
use super::rules::Rules;
use crate::base::clock::UnixSeconds;
use crate::jwks::{Key, KeySet, Known};

/// Proof that [`verify`] accepted the signature over this value, and every rule of the issuer at that time.
#[derive(Debug)]
pub struct Verified<T>(T);

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// What [`verify`] found.
#[derive(Debug)]
pub struct Verdict {
    /// The claims.
    pub claims: Verified<Claims>,
    /// The key that signed them. The verdict dies with it.
    pub key: Arc<Key>,
    /// The key's name: as the key set has it, else as the token's header has it.
    pub kid: Option<Box<str>>,
}

/// Checks `parsed` against `rules` at `now`, and its signature against `keys`: steps 7 to 9 of the life of a request.
/// [`Reject::KeyUnknown`] means that no key of the set has this `kid`; a newer set may have it.
pub fn verify(
    parsed: Parsed<'_>,
    rules: &Rules,
    keys: &KeySet,
    now: UnixSeconds,
) -> Result<Verdict, Reject> {
    rules.check_form(&parsed)?;
    let Parsed {
        algorithm,
        kid,
        payload,
        signing_input,
        signature,
        ..
    } = parsed;
    let claims = Claims::read(&payload, &rules.names).map_err(|_| Reject::ClaimMalformed)?;
    // The caller chose the rules by `iss`; asked again because everything rests on it.
    if *claims.issuer != *rules.issuer {
        return Err(Reject::IssuerUnknown);
    }
    rules.check_claims(&claims, now)?;
    let mut candidates = keys.candidates(kid.as_deref(), algorithm).peekable();
    if candidates.peek().is_none() {
        return Err(match keys.knows(kid.as_deref(), algorithm) {
            Known::Fits | Known::Misfit => Reject::KeyMismatch,
            Known::Unknown => Reject::KeyUnknown,
        });
    }
    candidates
        .find(|key| key.verify(algorithm, signing_input.as_bytes(), &signature))
        .map(|key| Verdict {
            claims: Verified(claims.with_all(payload.into())),
            key: Arc::clone(key),
            kid: key.kid().map(Box::from).or(kid.clone()),
        })
        .ok_or(Reject::SignatureInvalid)
}
