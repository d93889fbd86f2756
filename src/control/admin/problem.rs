//! What went wrong, as `application/problem+json` (RFC 9457) with a stable `code`.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::time::Duration;

use http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::answer::{Answer, json_answer};
use crate::control::denylist::{
    CommitError, Fault, Faults, LiftError, ReadError, RevokeError, Stopped, Unreadable,
};

/// An answer that is an error. Programs read `code`, people `detail`.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: Cow<'static, str>,
    /// Each with its place.
    faults: Box<[Value]>,
    /// Faults beyond those told.
    untold: usize,
    header: Option<(HeaderName, &'static str)>,
    /// `Retry-After`
    retry_after_s: Option<NonZeroU32>,
}

impl Problem {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            faults: [].into(),
            untold: 0,
            header: None,
            retry_after_s: None,
        }
    }

    /// No credential, or one that is not known (RFC 6750 section 3).
    pub(super) fn unauthenticated(challenge: &'static str) -> Self {
        let problem = Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthenticated",
            "send the secret of one of the [[admin.tokens]], or a token of the issuer that the admin API accepts, as \
             Authorization: Bearer …",
        );
        problem.with(WWW_AUTHENTICATE, challenge)
    }

    /// Too many wrong secrets came from the caller's address. What it sends now is not compared.
    pub(super) fn too_many_guesses(wait: Duration) -> Self {
        let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX);
        Self {
            retry_after_s: NonZeroU32::new(seconds),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_guesses",
                "too many different wrong secrets came from this address; try again later, or from another one",
            )
        }
    }

    /// The request is for a name that may be a stranger's.
    pub(super) fn host_unknown() -> Self {
        Self::new(
            StatusCode::MISDIRECTED_REQUEST,
            "host_unknown",
            "the admin API is not called by this name; write it into admin.hosts, or use the address",
        )
    }

    /// Whether nobody has let the caller in.
    pub(super) fn is_unauthenticated(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED
    }

    /// The code of a request that was turned away at the door; None of one that was understood and went wrong.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        let refusals = [
            StatusCode::UNAUTHORIZED,
            StatusCode::FORBIDDEN,
            StatusCode::MISDIRECTED_REQUEST,
            StatusCode::TOO_MANY_REQUESTS,
        ];
        refusals.contains(&self.status).then_some(self.code)
    }

    /// The caller's token cannot be checked, which is not the caller's fault.
    pub(super) fn keys_unavailable() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "keys_unavailable",
            "the keys of the issuer are not there, so its tokens cannot be checked; try again, or call with the secret of one \
             of the [[admin.tokens]]",
        )
    }

    /// Whether the caller's token is revoked cannot be told, which is not the caller's fault.
    pub(super) fn denylist_stale() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "denylist_stale",
            "the denylist is too old to say whether the caller's token is revoked; try again, or call with the secret of one of \
             the [[admin.tokens]]",
        )
    }

    /// What was asked is done here, and lost if the process ends now.
    pub(super) fn not_relayed() -> Self {
        Self {
            retry_after_s: NonZeroU32::new(2),
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "not_relayed",
                "it holds on this gateway for as long as its process lives; the relay did not take it in time, so no other gateway \
                 knows it yet, and without denylist.path a restart forgets it; it is sent when the relay is back, and asking \
                 again does no harm",
            )
        }
    }

    /// A known caller that may not do this.
    pub(super) fn forbidden(role: &'static str, challenge: &'static str) -> Self {
        let detail = format!("the caller's token needs the role \"{role}\" for this");
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail).with(WWW_AUTHENTICATE, challenge)
    }

    pub(super) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "there is nothing here")
    }

    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("this path takes {allow}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).with(ALLOW, allow)
    }

    /// Faults of the query or of a body, each with its place.
    pub(super) fn invalid(detail: &'static str, faults: Vec<Value>) -> Self {
        Self {
            faults: faults.into(),
            ..Self::new(StatusCode::BAD_REQUEST, "invalid_request", detail)
        }
    }

    fn with(self, name: HeaderName, value: &'static str) -> Self {
        Self {
            header: Some((name, value)),
            ..self
        }
    }

    pub(super) fn into_answer(self) -> Answer {
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        if !self.faults.is_empty() {
            body["faults"] = Value::Array(self.faults.into_vec());
            if self.untold > 0 {
                body["faults_untold"] = self.untold.into();
            }
        }
        let mut answer = json_answer(self.status, "application/problem+json", &body);
        if let Some((name, value)) = self.header {
            answer
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        if let Some(seconds) = self.retry_after_s {
            let value = HeaderValue::from(seconds.get());
            answer.headers_mut().insert(RETRY_AFTER, value);
        }
        answer
    }
}

impl From<Faults> for Problem {
    fn from(faults: Faults) -> Self {
        let member = |fault: Fault| json!({"pointer": fault.pointer, "message": fault.message});
        Self {
            untold: faults.untold,
            ..Self::invalid(
                "the body has faults; nothing was written",
                faults.told.into_iter().map(member).collect(),
            )
        }
    }
}

impl From<Stopped> for Problem {
    fn from(stopped: Stopped) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "stopping",
            stopped.to_string(),
        )
    }
}

impl From<CommitError> for Problem {
    fn from(error: CommitError) -> Self {
        let (status, code) = match error {
            CommitError::DiskFull => (StatusCode::INSUFFICIENT_STORAGE, "disk_full"),
            CommitError::Failed => (StatusCode::SERVICE_UNAVAILABLE, "denylist_failed"),
        };
        Self::new(status, code, format!("{error}; nothing was acknowledged"))
    }
}

impl From<Unreadable> for Problem {
    fn from(error: Unreadable) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "denylist_unreadable",
            error.to_string(),
        )
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unreadable(error) => error.into(),
            ReadError::Stopped(stopped) => stopped.into(),
        }
    }
}

impl From<RevokeError> for Problem {
    fn from(error: RevokeError) -> Self {
        match error {
            RevokeError::Full(full) => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "denylist_full",
                format!("{full}; nothing was written"),
            ),
            RevokeError::Commit(error) => error.into(),
            RevokeError::Unreadable(error) => error.into(),
            RevokeError::Stopped(stopped) => stopped.into(),
        }
    }
}

impl From<LiftError> for Problem {
    fn from(error: LiftError) -> Self {
        match error {
            LiftError::Unknown => Self::not_found(),
            LiftError::NotStanding => {
                Self::new(StatusCode::CONFLICT, "not_standing", error.to_string())
            }
            LiftError::Commit(error) => error.into(),
            LiftError::Unreadable(error) => error.into(),
            LiftError::Stopped(stopped) => stopped.into(),
        }
    }
}
