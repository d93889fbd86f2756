//! Answers of the admin API: never stored by anybody on the way.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

/// A whole answer.
pub(super) type Answer = Response<Full<Bytes>>;

/// One line of JSON.
pub(super) fn json_answer(
    status: StatusCode,
    content_type: &'static str,
    body: &impl Serialize,
) -> Answer {
    let mut line = serde_json::to_string(body).expect("members have names, and nothing fails");
    line.push('\n');
    text_answer(status, content_type, line)
}

/// Any text.
pub(super) fn text_answer(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
