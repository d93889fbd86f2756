//! Why a request ended at the proxy for another reason than the decision.

use std::time::Duration;

use http::{HeaderValue, Method, StatusCode};

use crate::http::respond::Problem;
use crate::upstream::SendError;

/// Why a request ended here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The listener has as many requests as it may (503).
    Overloaded,
    /// Two readings: lengths, `Connection` lines, or other parts of the head (400, and the connection is closed).
    HeadAmbiguous,
    /// More header lines than the listener allows (431).
    HeadTooLarge,
    /// No host, two hosts, or one that is none (400).
    HostInvalid,
    /// No single reading of the path (400).
    PathAmbiguous,
    /// The query names another method for lenient services, and with it the request is not the route's (400).
    MethodAmbiguous,
    /// No route (404).
    NoRoute,
    /// The path has routes, but not for this method (405).
    MethodNotAllowed(Vec<Method>),
    /// The body is larger than the listener allows (413).
    BodyTooLarge,
    /// The client fell silent in the middle of its body (408).
    RequestTimeout,
    /// The body is malformed, or the client broke off in the middle of it and reads no answer (400).
    BodyBroken,
    /// No connection to the service (502).
    UpstreamUnreachable,
    /// No server of the service is healthy (503).
    UpstreamUnhealthy,
    /// The service has as much to do as it may (503).
    UpstreamOverloaded,
    /// The service gave no valid answer (502).
    UpstreamFailed,
    /// The service did not answer in time (504).
    UpstreamTimeout,
    /// The service answered with a `Jotgate-Revoke` that cannot be carried out (502).
    RevokeInvalid,
    /// The revocation that the answer asks for was not made, so the answer would not be true (503).
    RevokeFailed,
}

impl Failure {
    /// One stable word for log, metrics and body.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Overloaded => "overloaded",
            Self::HeadAmbiguous => "bad_request",
            Self::HeadTooLarge => "head_too_large",
            Self::HostInvalid => "host_invalid",
            Self::PathAmbiguous => "path_ambiguous",
            Self::MethodAmbiguous => "method_ambiguous",
            Self::NoRoute => "no_route",
            Self::MethodNotAllowed(_) => "method_not_allowed",
            Self::BodyTooLarge => "body_too_large",
            Self::RequestTimeout => "request_timeout",
            Self::BodyBroken => "body_broken",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::UpstreamUnhealthy => "upstream_unhealthy",
            Self::UpstreamOverloaded => "upstream_overloaded",
            Self::UpstreamFailed => "upstream_failed",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::RevokeInvalid => "revoke_invalid",
            Self::RevokeFailed => "revoke_failed",
        }
    }

    /// What the client is told.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let (status, detail) = match self {
            Self::Overloaded => (
                StatusCode::SERVICE_UNAVAILABLE,
                "Too many requests are under way; try again.",
            ),
            Self::HeadAmbiguous => (
                StatusCode::BAD_REQUEST,
                "The request's head has more than one reading.",
            ),
            Self::HeadTooLarge => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "The request has more header lines than are allowed.",
            ),
            Self::HostInvalid => (
                StatusCode::BAD_REQUEST,
                "The request needs exactly one valid host.",
            ),
            Self::PathAmbiguous => (
                StatusCode::BAD_REQUEST,
                "The path has more than one reading.",
            ),
            Self::MethodAmbiguous => (
                StatusCode::BAD_REQUEST,
                "The query names a method that is not allowed here.",
            ),
            Self::NoRoute => (StatusCode::NOT_FOUND, "Nothing is served here."),
            Self::MethodNotAllowed(_) => (
                StatusCode::METHOD_NOT_ALLOWED,
                "The method is not allowed here.",
            ),
            Self::BodyTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "The body is larger than is allowed.",
            ),
            Self::RequestTimeout => (
                StatusCode::REQUEST_TIMEOUT,
                "The body did not arrive in time.",
            ),
            Self::BodyBroken => (
                StatusCode::BAD_REQUEST,
                "The body is malformed or broke off.",
            ),
            Self::UpstreamUnreachable => {
                (StatusCode::BAD_GATEWAY, "The service cannot be reached.")
            }
            Self::UpstreamUnhealthy => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The service is not available; try again.",
            ),
            Self::UpstreamOverloaded => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The service has too much to do; try again.",
            ),
            Self::UpstreamFailed => (StatusCode::BAD_GATEWAY, "The service gave no valid answer."),
            Self::RevokeInvalid => (
                StatusCode::BAD_GATEWAY,
                "The service asked for what cannot be revoked.",
            ),
            Self::RevokeFailed => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The session could not be ended; try again.",
            ),
            Self::UpstreamTimeout => (
                StatusCode::GATEWAY_TIMEOUT,
                "The service did not answer in time.",
            ),
        };
        let mut problem = Problem::new(status, self.code(), detail);
        if let Self::MethodNotAllowed(methods) = self {
            let list: Vec<&str> = methods.iter().map(Method::as_str).collect();
            problem.allow = HeaderValue::try_from(list.join(", ")).ok();
        }
        problem.retry_after = match self {
            Self::Overloaded | Self::UpstreamOverloaded => Some(OVERLOAD_RETRY_AFTER),
            Self::UpstreamUnreachable | Self::UpstreamUnhealthy | Self::RevokeFailed => {
                Some(UPSTREAM_RETRY_AFTER)
            }
            Self::HeadAmbiguous
            | Self::HeadTooLarge
            | Self::HostInvalid
            | Self::PathAmbiguous
            | Self::MethodAmbiguous
            | Self::NoRoute
            | Self::MethodNotAllowed(_)
            | Self::BodyTooLarge
            | Self::RequestTimeout
            | Self::BodyBroken
            | Self::UpstreamFailed
            | Self::UpstreamTimeout
            | Self::RevokeInvalid => None,
        };
        problem
    }

    /// Whether it is the service's.
    #[must_use]
    pub const fn is_of_upstream(&self) -> bool {
        matches!(
            self,
            Self::UpstreamUnreachable
                | Self::UpstreamUnhealthy
                | Self::UpstreamOverloaded
                | Self::UpstreamFailed
                | Self::UpstreamTimeout
                | Self::RevokeInvalid
        )
    }

    /// Whether the connection must not be used again: the next bytes on it may be no request.
    #[must_use]
    pub const fn closes_connection(&self) -> bool {
        matches!(
            self,
            Self::HeadAmbiguous
                | Self::HostInvalid
                | Self::PathAmbiguous
                | Self::MethodAmbiguous
                | Self::BodyTooLarge
                | Self::RequestTimeout
                | Self::BodyBroken
        )
    }
}

/// Most requests take far less than a second, so places are free again soon. `Retry-After` has whole seconds.
const OVERLOAD_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A service that restarts is back in seconds.
const UPSTREAM_RETRY_AFTER: Duration = Duration::from_secs(5);

impl From<&SendError> for Failure {
    fn from(error: &SendError) -> Self {
        match error {
            SendError::Connect(_) | SendError::ConnectTimeout | SendError::Handshake(_) => {
                Self::UpstreamUnreachable
            }
            SendError::NoServer => Self::UpstreamUnhealthy,
            SendError::Full => Self::UpstreamOverloaded,
            SendError::TryTimeout => Self::UpstreamTimeout,
            SendError::NoAnswer(_) => Self::UpstreamFailed,
        }
    }
}
