//! Answers of our own: `application/problem+json` (RFC 9457), or the gRPC equivalent.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

/// One refusal. `code` and `detail` are fixed texts: nothing that a client sent comes back.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// One stable word.
    pub code: &'static str,
    /// A sentence for people.
    pub detail: &'static str,
    /// `WWW-Authenticate`
    pub challenge: Option<HeaderValue>,
    /// `Retry-After`
    pub retry_after: Option<Duration>,
    /// `Allow`
    pub allow: Option<HeaderValue>,
}

impl Problem {
    /// A problem with nothing but a status, a code and a sentence.
    #[must_use]
    pub const fn new(status: StatusCode, code: &'static str, detail: &'static str) -> Self {
        Self {
            status,
            code,
            detail,
            challenge: None,
            retry_after: None,
            allow: None,
        }
    }

    /// The answer as problem+json.
    #[must_use]
    pub fn to_json(&self) -> Response<Bytes> {
        let title = self.status.canonical_reason().unwrap_or("Error");
        // Of the exact length at once: a flood of bad tokens is answered at the price of this.
        let body = [
            r#"{"type":"about:blank","title":""#,
            title,
            r#"","status":"#,
            self.status.as_str(),
            r#","code":""#,
            self.code,
            r#"","detail":""#,
            self.detail,
            r#""}"#,
        ]
        .concat();
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = self.status;
        self.write_headers(response.headers_mut());
        response.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        response
    }

    /// The answer to a gRPC call: trailers only, HTTP status 200 (gRPC over HTTP/2, "Responses").
    #[must_use]
    pub fn to_grpc(&self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        self.write_headers(headers);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(grpc_status(self.status)));
        headers.insert("grpc-message", HeaderValue::from_static(self.code));
        response
    }

    fn write_headers(&self, headers: &mut HeaderMap) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(challenge) = &self.challenge {
            headers.insert(WWW_AUTHENTICATE, challenge.clone());
        }
        if let Some(after) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if let Some(allow) = &self.allow {
            headers.insert(ALLOW, allow.clone());
        }
    }
}

/// Whether a caller speaks gRPC and so reads `grpc-status` instead of the HTTP status: `application/grpc`, also with
/// `+proto`, `-web` or parameters.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .split_at_checked(GRPC.len())
            .is_some_and(|(start, rest)| {
                start.eq_ignore_ascii_case(GRPC)
                    && matches!(rest.first(), None | Some(b'+' | b'-' | b';' | b' '))
            })
    })
}

/// The gRPC status for an HTTP status, by the mapping of "HTTP to gRPC Status Code Mapping", and 504, 408 as
/// `DEADLINE_EXCEEDED`, 413 and 431 as `RESOURCE_EXHAUSTED`.
#[must_use]
pub const fn grpc_status(status: StatusCode) -> u16 {
    match status.as_u16() {
        401 => 16,
        403 => 7,
        404 | 405 => 12,
        408 | 504 => 4,
        413 | 429 | 431 => 8,
        502 | 503 => 14,
        500..=599 => 13,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_json_with_its_headers() {
        let mut problem = Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "keys_unavailable",
            "Try again.",
        );
        problem.retry_after = Some(Duration::from_millis(1));
        let response = problem.to_json();
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(
            (
                body["status"].as_u64(),
                body["code"].as_str(),
                body["title"].as_str()
            ),
            (
                Some(503),
                Some("keys_unavailable"),
                Some("Service Unavailable")
            )
        );
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
    }

    #[test]
    fn a_grpc_caller_reads_trailers_only() {
        let response = Problem::new(StatusCode::UNAUTHORIZED, "no_token", "").to_grpc();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "16");
        assert!(response.body().is_empty());
    }
}
