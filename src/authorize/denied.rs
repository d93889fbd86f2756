//! Why a request may not pass, and what its sender is told.

use std::time::Duration;

use http::{HeaderValue, StatusCode};

use crate::denylist::Kind;
use crate::http::respond::Problem;
use crate::policy::Requirement;
use crate::token::Reject;

/// Why a request may not pass. [`Denied::code`] is exact, for log and metrics; [`Denied::problem`] tells the sender less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// No token where the route looks.
    NoToken,
    /// More than one token (400).
    TokenAmbiguous,
    /// The token is not known, and its sender has sent too many wrong ones (429). It may try again after this.
    TooManyFailures(Duration),
    /// The token is not accepted.
    Token(Reject),
    /// Keys were never loaded, are too old, or could not be asked for: our fault (503).
    KeysUnavailable,
    /// A rule of the denylist.
    Revoked(Kind),
    /// A rule that another gateway made may be missing from the denylist: our fault (503).
    DenylistStale,
    /// A scope is lacking (403).
    ScopeLacking,
    /// A claim is lacking (403).
    ClaimLacking,
    /// The route's expression is false (403).
    ExpressionFalse,
    /// The route's expression cannot be told: something is missing or of another type (403).
    ExpressionFailed,
    /// A claim cannot be the header that the service asked for (500).
    ClaimsUnmappable,
}

/// How long a client waits before it asks again when our keys are missing: about one fetch.
const KEYS_RETRY_AFTER: Duration = Duration::from_secs(5);

/// The same when the denylist is too old: the relay is tried again at least each second, and what was missed is read in less.
const STALE_RETRY_AFTER: Duration = Duration::from_secs(2);

impl Denied {
    /// One stable word for log and metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::TokenAmbiguous => "token_ambiguous",
            Self::TooManyFailures(_) => "too_many_failures",
            Self::Token(reject) => reject.code(),
            Self::KeysUnavailable => "keys_unavailable",
            Self::Revoked(kind) => match kind {
                Kind::Token => "revoked_token",
                Kind::Session => "revoked_session",
                Kind::User => "revoked_user",
                Kind::Client => "revoked_client",
                Kind::Key => "revoked_key",
                Kind::Issuer => "revoked_issuer",
                Kind::Pin => "revoked_pin",
            },
            Self::DenylistStale => "denylist_stale",
            Self::ScopeLacking => "insufficient_scope",
            Self::ClaimLacking => "insufficient_claims",
            Self::ExpressionFalse => "expression_false",
            Self::ExpressionFailed => "expression_failed",
            Self::ClaimsUnmappable => "claims_unmappable",
        }
    }

    /// What the sender is told (RFC 6750 section 3): no `error` without a token, one `invalid_token` for all that is wrong
    /// with one, and the scopes that are asked for.
    #[must_use]
    pub fn problem(self, requirement: &Requirement) -> Problem {
        let mut problem = match self {
            Self::NoToken => Problem::new(
                StatusCode::UNAUTHORIZED,
                "no_token",
                "A bearer token is needed.",
            ),
            Self::TokenAmbiguous => Problem::new(
                StatusCode::BAD_REQUEST,
                "token_ambiguous",
                "The request carries more than one token.",
            ),
            Self::TooManyFailures(_) => Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_failures",
                "Too many invalid tokens came from this address.",
            ),
            Self::Token(Reject::Expired) => Problem::new(
                StatusCode::UNAUTHORIZED,
                "token_expired",
                "The token has expired.",
            ),
            Self::Token(_) => Problem::new(
                StatusCode::UNAUTHORIZED,
                "invalid_token",
                "The token is not valid here.",
            ),
            Self::KeysUnavailable => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "keys_unavailable",
                "Tokens cannot be checked at the moment.",
            ),
            Self::Revoked(_) => Problem::new(
                StatusCode::UNAUTHORIZED,
                "revoked",
                "The token has been revoked.",
            ),
            Self::DenylistStale => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "denylist_stale",
                "Whether the token is revoked cannot be told at the moment.",
            ),
            Self::ScopeLacking => Problem::new(
                StatusCode::FORBIDDEN,
                "insufficient_scope",
                "The token lacks a scope that is needed here.",
            ),
            Self::ClaimLacking | Self::ExpressionFalse | Self::ExpressionFailed => Problem::new(
                StatusCode::FORBIDDEN,
                "insufficient_claims",
                "The token does not say what is needed here.",
            ),
            Self::ClaimsUnmappable => Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "claims_unmappable",
                "A claim of the token cannot be passed on.",
            ),
        };
        problem.challenge = match self {
            Self::NoToken => Some(HeaderValue::from_static(r#"Bearer realm="jotgate""#)),
            Self::Token(_) | Self::Revoked(_) => Some(HeaderValue::from_static(
                r#"Bearer realm="jotgate", error="invalid_token""#,
            )),
            Self::ScopeLacking => Some(scope_challenge(requirement)),
            Self::TokenAmbiguous
            | Self::TooManyFailures(_)
            | Self::KeysUnavailable
            | Self::DenylistStale
            | Self::ClaimLacking
            | Self::ExpressionFalse
            | Self::ExpressionFailed
            | Self::ClaimsUnmappable => None,
        };
        problem.retry_after = match self {
            Self::KeysUnavailable => Some(KEYS_RETRY_AFTER),
            Self::DenylistStale => Some(STALE_RETRY_AFTER),
            Self::TooManyFailures(wait) => Some(wait),
            Self::NoToken
            | Self::TokenAmbiguous
            | Self::Token(_)
            | Self::Revoked(_)
            | Self::ScopeLacking
            | Self::ClaimLacking
            | Self::ExpressionFalse
            | Self::ExpressionFailed
            | Self::ClaimsUnmappable => None,
        };
        problem
    }
}

fn scope_challenge(requirement: &Requirement) -> HeaderValue {
    let scopes: Vec<&str> = requirement
        .scopes
        .iter()
        .chain(&requirement.any_scope)
        .map(|scope| &**scope)
        .collect();
    HeaderValue::try_from(format!(
        r#"Bearer realm="jotgate", error="insufficient_scope", scope="{}""#,
        scopes.join(" ")
    ))
    .unwrap_or(HeaderValue::from_static(
        r#"Bearer realm="jotgate", error="insufficient_scope""#,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sender_learns_no_more_than_needed() {
        let requirement = Requirement {
            scopes: vec!["orders:write".into()],
            ..Requirement::default()
        };
        for reject in Reject::ALL {
            let problem = Denied::Token(reject).problem(&requirement);
            let expected = if reject == Reject::Expired {
                "token_expired"
            } else {
                "invalid_token"
            };
            assert_eq!((problem.status.as_u16(), problem.code), (401, expected));
            assert!(
                problem
                    .challenge
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .ends_with(r#"error="invalid_token""#)
            );
        }
        let none = Denied::NoToken.problem(&requirement);
        assert!(!none.challenge.unwrap().to_str().unwrap().contains("error"));
        let scope = Denied::ScopeLacking.problem(&requirement);
        assert_eq!(scope.status, 403);
        assert!(
            scope
                .challenge
                .unwrap()
                .to_str()
                .unwrap()
                .ends_with(r#"scope="orders:write""#)
        );
        let keys = Denied::KeysUnavailable.problem(&requirement);
        assert_eq!(
            (keys.status.as_u16(), keys.retry_after.is_some()),
            (503, true)
        );
        let stale = Denied::DenylistStale.problem(&requirement);
        assert_eq!(
            (stale.status.as_u16(), stale.retry_after.is_some()),
            (503, true)
        );
        assert!(stale.challenge.is_none(), "a new login would not help");
    }
}
