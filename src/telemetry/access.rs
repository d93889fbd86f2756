//! The access line: one for each request, when its answer has ended. It never holds a token, so no query and no header.

use std::net::IpAddr;
use std::time::Duration;

/// Where access lines go in the log; a filter such as `info,jotgate::access=warn` turns them off.
pub const TARGET: &str = "jotgate::access";

/// What one line says.
#[derive(Debug)]
pub struct Line<'a> {
    /// The request's method.
    pub method: &'a str,
    /// The request's host.
    pub host: &'a str,
    /// The request's path without query, as it was matched, else as it was sent.
    pub path: &'a str,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// `HTTP/1.1` or `HTTP/2.0`
    pub version: http::Version,
    /// The status that was sent.
    pub status: u16,
    /// The exact reason, `ok` when the request was sent on.
    pub code: &'static str,
    /// The route's name; empty if there was none.
    pub route: &'a str,
    /// The issuer's name; empty if there was none.
    pub issuer: &'a str,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// From the end of the request's head to the end of the answer.
    pub total: Duration,
    /// From the end of the request's head to the decision.
    pub decision: Duration,
    /// From sending the request on to the head of the service's answer.
    pub upstream: Option<Duration>,
    /// Whether the answer was sent to its end.
    pub complete: bool,
}

impl Line<'_> {
    /// Writes the line.
    pub fn write(&self) {
        tracing::info!(
            target: TARGET,
            method = self.method,
            host = self.host,
            path = self.path,
            client = self.client.map(tracing::field::display),
            version = ?self.version,
            status = self.status,
            code = self.code,
            route = self.route,
            issuer = self.issuer,
            bytes = self.bytes,
            total_us = micros(self.total),
            decision_us = micros(self.decision),
            upstream_us = self.upstream.map(micros),
            complete = self.complete,
        );
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
