//! What is written down of a request when its answer has ended: the access line, and its spans.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, StatusCode, Uri, Version};
use prometheus::IntCounterVec;
use tokio::time::Instant;

use super::streams::Ended;

use crate::base::names::{IssuerName, RouteName};
use crate::listener::Busy;
use crate::plan::Route;
use crate::telemetry::access::{Form, Line};
use crate::telemetry::trace::{Call, Context, Finished, TraceId, Tracer};
use crate::upstream;

/// Neither side of an answer or a tunnel sent anything for too long.
pub(super) const SILENT: &str = "ended_silent";

/// What is known of one request so far. Its end is the end of the answer: then it is written down, and the connection is
/// idle again.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) busy: Busy,
    pub(super) start: Instant,
    pub(super) status: u16,
    pub(super) code: &'static str,
    /// The code of the decision, whatever became of the request afterwards.
    pub(super) decided: &'static str,
    pub(super) bytes: u64,
    pub(super) complete: bool,
    pub(super) decision: Duration,
    pub(super) upstream: Option<Duration>,
    /// Streams that were cut short, by reason.
    pub(super) ended: Rc<IntCounterVec>,
    /// None when nothing is written down.
    pub(super) details: Option<Box<Details>>,
}

/// What only the access line and spans need.
#[derive(Debug)]
pub(super) struct Details {
    /// None without an access line.
    pub(super) access: Option<Access>,
    /// None without spans.
    pub(super) traced: Option<Traced>,
    /// Since 1970.
    pub(super) began: Duration,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) host: Option<HeaderValue>,
    /// As far as it is proven.
    pub(super) client: Option<IpAddr>,
    pub(super) version: Version,
    pub(super) route: Option<RouteName>,
    pub(super) issuer: Option<IssuerName>,
}

/// How the access line is written.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) form: Form,
    /// Whether it is written even if all goes well.
    pub(super) is_chosen: bool,
    /// `Referer` and `User-Agent`, where the line has them.
    pub(super) words: [Option<HeaderValue>; 2],
    pub(super) trace: Option<TraceId>,
}

/// Where spans go.
#[derive(Debug)]
pub(super) struct Traced {
    pub(super) tracer: Arc<Tracer>,
    pub(super) place: Context,
    pub(super) call: Option<Call>,
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
        if let Some(details) = &mut self.details {
            details.route = Some(route.name.clone());
        }
    }

    /// The token has named its issuer.
    pub(super) fn name_issuer(&mut self, issuer: Option<&IssuerName>) {
        if let Some(details) = &mut self.details {
            details.issuer = issuer.cloned();
        }
    }

    /// A service was asked, and answered or did not. Yields how long that took.
    pub(super) fn called(
        &mut self,
        upstream: &upstream::Options,
        began: Instant,
        status: Option<StatusCode>,
    ) -> Duration {
        let took = began.elapsed();
        self.upstream = status.map(|_| took);
        let details = self.details.as_mut();
        if let Some(traced) = details.and_then(|details| details.traced.as_mut()) {
            traced.call = Some(Call {
                upstream: upstream.name.clone(),
                after: began.duration_since(self.start),
                took,
                status: status.map(|status| status.as_u16()),
            });
        }
        took
    }

    fn line(&self, access: &Access, details: &Details, total: Duration) {
        let line = Line {
            at: details.began + total,
            method: details.method.as_str(),
            host: details.host(),
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
            trace: access.trace,
            words: access
                .words
                .each_ref()
                .map(|words| words.as_ref().map(HeaderValue::as_bytes)),
        };
        if access.is_chosen || !line.is_good() {
            line.write(access.form);
        }
    }

    fn spans(&self, traced: Traced, details: &Details, total: Duration) {
        let peer = &self.busy.connection().peer;
        traced.tracer.record(Finished {
            context: traced.place,
            began: details.began,
            total,
            decision: self.decision,
            call: traced.call,
            method: Finished::cut_method(&details.method),
            host: Finished::cut(details.host()),
            path: Finished::cut(details.uri.path()),
            scheme: peer.scheme(),
            client: details.client,
            peer: peer.address,
            version: details.version,
            status: self.status,
            code: self.code,
            decided: self.decided,
            route: details.route.clone(),
            issuer: details.issuer.clone(),
            bytes: self.bytes,
            complete: self.complete,
        });
    }
}

impl Details {
    fn host(&self) -> &str {
        let header = self.host.as_ref().and_then(|host| host.to_str().ok());
        header.or(self.uri.host()).unwrap_or_default()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let Some(mut details) = self.details.take() else {
            return;
        };
        let total = self.start.elapsed();
        if let Some(access) = &details.access {
            self.line(access, &details, total);
        }
        if let Some(traced) = details.traced.take() {
            self.spans(traced, &details, total);
        }
    }
}
