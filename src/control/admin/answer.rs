//! Answers of the admin API: never stored by anybody on the way.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::Value;

/// A whole answer.
pub(super) type Answer = Response<Full<Bytes>>;

/// One line of JSON.
pub(super) fn json_answer(status: StatusCode, content_type: &'static str, body: &Value) -> Answer {
    text_answer(status, content_type, format!("{body}\n"))
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
