//! What is written down of a request when its answer has ended.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Uri, Version};
use prometheus::IntCounterVec;
use tokio::time::Instant;

use super::streams::Ended;

use crate::base::names::{IssuerName, RouteName};
use crate::listener::Busy;
use crate::plan::Route;
use crate::telemetry::access::{Form, Line};

/// Neither side of an answer or a tunnel sent anything for too long.
pub(super) const SILENT: &str = "ended_silent";

/// What is known of one request so far. Its end is the end of the answer: then the access line is written, and the
/// connection is idle again.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) busy: Busy,
    pub(super) start: Instant,
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) bytes: u64,
    pub(super) complete: bool,
    pub(super) decision: Duration,
    pub(super) upstream: Option<Duration>,
    /// Streams that were cut short, by reason.
    pub(super) ended: Rc<IntCounterVec>,
    /// None when access lines are off.
    pub(super) line: Option<Box<Details>>,
}

/// What only the access line needs.
#[derive(Debug)]
pub(super) struct Details {
    pub(super) form: Form,
    /// Whether it is written even if all goes well.
    pub(super) is_chosen: bool,
    /// Since 1970.
    pub(super) began: Duration,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) host: Option<HeaderValue>,
    /// `Referer` and `User-Agent`, where the line has them.
    pub(super) words: [Option<HeaderValue>; 2],
    /// As far as it is proven.
    pub(super) client: Option<IpAddr>,
    pub(super) version: Version,
    pub(super) route: Option<RouteName>,
    pub(super) issuer: Option<IssuerName>,
}

impl Record {
    /// The answer is cut short.
    pub(super) fn end(&mut self, ended: Ended) {
        self.cut(ended.code());
    }

    /// The answer is cut short for a reason that is not the bearer's: [`SILENT`].
    pub(super) fn cut(&mut self, code: &'static str) {
        self.code = code;
        self.ended.with_label_values(&[code]).inc();
    }

    /// The request has met its route.
    pub(super) fn meet(&mut self, route: &Arc<Route>) {
        if let Some(line) = &mut self.line {
            line.route = Some(route.name.clone());
        }
    }

    /// The token has named its issuer.
    pub(super) fn name_issuer(&mut self, issuer: Option<&IssuerName>) {
        if let Some(line) = &mut self.line {
            line.issuer = issuer.cloned();
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let Some(details) = &self.line else { return };
        let total = self.start.elapsed();
        let words = details.words.each_ref();
        let line = Line {
            at: details.began + total,
            method: details.method.as_str(),
            host: details
                .host
                .as_ref()
                .and_then(|host| host.to_str().ok())
                .or(details.uri.host())
                .unwrap_or_default(),
            path: details.uri.path(),
            client: details.client,
            peer: self.busy.connection().peer.address,
            version: details.version,
            status: self.status,
            code: self.code,
            route: details.route.as_ref().map_or("", RouteName::as_str),
            issuer: details.issuer.as_ref().map_or("", IssuerName::as_str),
            bytes: self.bytes,
            total,
            decision: self.decision,
            upstream: self.upstream,
            complete: self.complete,
            words: words.map(|words| words.as_ref().map(HeaderValue::as_bytes)),
        };
        if details.is_chosen || !line.is_good() {
            line.write(details.form);
        }
    }
}
