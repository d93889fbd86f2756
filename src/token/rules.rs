//! What an issuer's tokens must be, and the checks that need no key. They are asked on every
//! request, also when the signature is known from the cache.

use std::sync::Arc;
use std::time::Duration;

use super::claims::ClaimPath;
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
    /// Longest `exp - iat`. Default 24 h. Without `iat`: longest time from now to `exp`.
    pub max_lifetime: Duration,
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
