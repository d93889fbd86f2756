//! What an issuer's tokens must be, and the checks that need no key. They are asked on every
//! request, also when the signature is known from the cache.

use std::sync::Arc;
use std::time::Duration;

use super::bounds::{Bound, Earlier};
use super::claims::{ClaimPath, Claims};
use super::parse::Parsed;
use super::reject::Reject;
use crate::base::clock::UnixSeconds;
use crate::base::json::Json;
use crate::jwks::Algorithm;

/// What an issuer's tokens must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Compared byte by byte with the claim `iss`.
    pub issuer: Arc<str>,
    /// A token must name one of these in `aud`. Empty only with `audiences = []` written out: `aud` is then not asked.
    pub audiences: Vec<Arc<str>>,
    /// Allowed `alg` values; never symmetric ones beside public ones.
    /// Default: the asymmetric ones for public sources; HS256 for a secret.
    pub algorithms: Vec<Algorithm>,
    /// Clock skew allowed on `exp`, `nbf`, `iat`. Default 30 s, at most 5 min.
    pub leeway: Duration,
    /// Longest `exp - iat`. Default 24 h.
    pub max_lifetime: Duration,
    /// Both were narrower when some tokens were issued, which are held to that (`docs/adr/0010-a-bound-that-grows.md`). Of the
    /// running gateway; a configuration knows of none.
    pub earlier: Earlier,
    /// Whether tokens without `iat` pass, if they expire within `max_lifetime` from now. Default false: nobody can say
    /// when such a token was issued, so it may come to life again after a revocation was forgotten
    /// (`docs/adr/0001-iat-is-required.md`).
    pub allow_missing_iat: bool,
    /// Allowed header `typ`. Default `at+jwt`, `jwt`, and absent.
    pub types: Types,
    /// Claims that must be there and not null.
    pub require: Vec<ClaimPath>,
    /// Names of the claims that identify the token.
    pub names: ClaimNames,
}

/// Which header `typ` values an issuer accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Types {
    /// Lower case, without the prefix `application/` (RFC 7515 section 4.1.9).
    pub named: Vec<Box<str>>,
    /// Whether a token without `typ` passes; written as `""` in the file.
    pub absent: bool,
}

/// The claims that identify a token, for issuers with names of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimNames {
    /// Default `jti`.
    pub token_id: ClaimPath,
    /// Default `sid`.
    pub session_id: ClaimPath,
    /// Default `sub`.
    pub subject: ClaimPath,
    /// Default `client_id`, then `azp`: the first that is there counts.
    pub client: Vec<ClaimPath>,
    /// Where scopes are: a string with blanks (RFC 8693 section 4.2) or an array. Default `scope`, then `scp`.
    pub scopes: Vec<ClaimPath>,
}

impl Rules {
    /// What the header and the claims' presence must be: asked once, before the signature.
    pub fn check_form(&self, parsed: &Parsed<'_>) -> Result<(), Reject> {
        if !self.algorithms.contains(&parsed.algorithm) {
            return Err(Reject::AlgorithmNotAllowed);
        }
        let type_ok = match &parsed.typ {
            Some(typ) => self.types.named.contains(typ),
            None => self.types.absent,
        };
        if !type_ok {
            return Err(Reject::TypeNotAllowed);
        }
        let is_there = |json: &Json<'_>| !matches!(json, Json::Null);
        let there = |path: &ClaimPath| path.find(&parsed.payload).is_some_and(is_there);
        if self.require.iter().all(there) {
            Ok(())
        } else {
            Err(Reject::ClaimMissing)
        }
    }

    /// What depends on the hour and on who is asked: asked on every request, also of a token known from the cache.
    pub fn check_claims(&self, claims: &Claims, now: UnixSeconds) -> Result<(), Reject> {
        let bound = self.bound(claims.issued);
        // RFC 7519 section 4.1.4: "on or after which the JWT MUST NOT be accepted".
        if now >= claims.expires.plus(bound.leeway) {
            return Err(Reject::Expired);
        }
        let latest = now.plus(self.leeway);
        if claims
            .not_before
            .is_some_and(|not_before| not_before > latest)
        {
            return Err(Reject::NotYetValid);
        }
        if claims.issued.is_some_and(|issued| issued > latest) {
            return Err(Reject::IssuedInFuture);
        }
        // A revocation rule may be forgotten only because no token outlives this bound.
        let began = match claims.issued {
            Some(issued) => issued,
            None if self.allow_missing_iat => now,
            None => return Err(Reject::ClaimMissing),
        };
        if claims.expires.since(began) > bound.max_lifetime {
            return Err(Reject::LifetimeTooLong);
        }
        let wanted = |audience: &str| self.audiences.iter().any(|ours| **ours == *audience);
        if self.audiences.is_empty() || claims.audiences.iter().any(|audience| wanted(audience)) {
            Ok(())
        } else {
            Err(Reject::AudienceMismatch)
        }
    }

    /// A token that does not say when it was issued has no time of its own.
    fn bound(&self, issued: Option<UnixSeconds>) -> Bound {
        let current = Bound {
            max_lifetime: self.max_lifetime,
            leeway: self.leeway,
        };
        issued.map_or(current, |issued| self.earlier.bound(issued, current))
    }
}
