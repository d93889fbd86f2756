//! Traces: each request that goes on gets its place in a trace, and what is recorded of it waits in a bounded queue for the
//! task that delivers it. Nothing here waits: what has no room is dropped and counted. Where no traces are configured,
//! there is no [`Tracer`], and nothing of this is done.

mod context;

use std::net::IpAddr;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Version};
use prometheus::IntCounter;
use tokio::sync::mpsc;

use crate::base::chance::{Chance, Share};
use crate::base::names::{IssuerName, RouteName, UpstreamName};

pub use context::{Parent, SpanId, TRACEPARENT, TRACESTATE, TraceId};

/// Requests that wait to be delivered. A quarter of a second of 30,000 requests a second; 4 MiB of usual ones, and some 50 MiB
/// of a stranger's with the longest paths and states that are kept.
pub const WAITING_MAX: usize = 8 * 1024;

/// Most of a host or a path that is recorded, in bytes. Longer ones are rare, and a stranger's would fill the queue's memory.
const TEXT_BYTES_MAX: usize = 1024;

/// Most of a method that is recorded, in bytes: more than any that is registered.
const METHOD_BYTES_MAX: usize = 32;

/// Whose word about what is recorded is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// That of trusted proxies; others could have everything recorded.
    TrustedProxies,
    /// Everybody's.
    Everybody,
}

/// Begins traces and takes what is recorded.
#[derive(Debug)]
pub struct Tracer {
    sample: Share,
    follow: Follow,
    queue: mpsc::Sender<Finished>,
    dropped: IntCounter,
}

/// One request's place in its trace.
#[derive(Clone, Debug)]
pub struct Context {
    /// The trace.
    pub trace: TraceId,
    /// The caller's span, if the request named one.
    pub parent: Option<SpanId>,
    /// The request's own span.
    pub server: SpanId,
    /// The span of the decision.
    pub decision: SpanId,
    /// The span of the request to the service, which is what the service is told.
    pub client: SpanId,
    /// Whether it is recorded.
    pub is_sampled: bool,
    /// What is passed on as it came.
    pub state: Option<HeaderValue>,
}

/// What is recorded of one request.
#[derive(Debug)]
pub struct Finished {
    /// Its place.
    pub context: Context,
    /// Since 1970.
    pub began: Duration,
    /// From the end of the request's head to the end of the answer.
    pub total: Duration,
    /// From the end of the request's head to the decision.
    pub decision: Duration,
    /// The service's part; none if it was not asked.
    pub call: Option<Call>,
    /// The request's method, cut.
    pub method: Method,
    /// The request's host, cut.
    pub host: Box<str>,
    /// The request's path without query, cut.
    pub path: Box<str>,
    /// `http` or `https`
    pub scheme: &'static str,
    /// The client's address, as far as it is proven.
    pub client: Option<IpAddr>,
    /// The address at the other end of the connection.
    pub peer: Option<IpAddr>,
    /// The client's.
    pub version: Version,
    /// The status that was sent.
    pub status: u16,
    /// What became of it, `ok` when the request was sent on and all went well.
    pub code: &'static str,
    /// What was decided, before a service was asked.
    pub decided: &'static str,
    /// Whose route it met.
    pub route: Option<RouteName>,
    /// Who issued its token.
    pub issuer: Option<IssuerName>,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// Whether the answer was sent to its end.
    pub complete: bool,
}

/// A request to a service.
#[derive(Clone, Debug)]
pub struct Call {
    /// Which service.
    pub upstream: UpstreamName,
    /// From the end of the request's head to sending it on.
    pub after: Duration,
    /// From there to the head of the service's answer, or to giving up.
    pub took: Duration,
    /// The service's; none if it gave no answer.
    pub status: Option<u16>,
}

impl Tracer {
    /// A tracer and the end of its queue. `dropped` counts spans.
    #[must_use]
    pub fn new(
        sample: Share,
        follow: Follow,
        dropped: IntCounter,
    ) -> (Self, mpsc::Receiver<Finished>) {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let tracer = Self {
            sample,
            follow,
            queue,
            dropped,
        };
        (tracer, waiting)
    }

    /// The place of a request with these headers. Who continues a trace may say whether it is recorded, if its word is
    /// followed.
    pub fn begin(&self, headers: &HeaderMap, is_trusted: bool, chance: &mut Chance) -> Context {
        let parent = Parent::of(headers);
        let is_followed = match self.follow {
            Follow::TrustedProxies => is_trusted,
            Follow::Everybody => true,
        };
        let is_sampled = match &parent {
            Some(parent) if is_followed => parent.is_sampled,
            Some(_) | None => chance.happens(self.sample),
        };
        let (trace, parent, state) = match parent {
            Some(parent) => (parent.trace, Some(parent.span), parent.state),
            None => (TraceId(any(chance)), None, None),
        };
        Context {
            trace,
            parent,
            server: SpanId(any(chance)),
            decision: SpanId(any(chance)),
            client: SpanId(any(chance)),
            is_sampled,
            state,
        }
    }

    /// Takes what is recorded of a request.
    pub fn record(&self, finished: Finished) {
        let spans = finished.spans();
        if self.queue.try_send(finished).is_err() {
            self.dropped.inc_by(spans);
        }
    }
}

impl Context {
    /// Tells the service its place, instead of whatever the headers say of one.
    pub fn write(&self, headers: &mut HeaderMap) {
        let place = (self.trace, self.client, self.is_sampled);
        context::write(headers, place, self.state.as_ref());
    }
}

impl Finished {
    /// How many spans it becomes: the request, the decision, and the service's part.
    #[must_use]
    pub const fn spans(&self) -> u64 {
        if self.call.is_some() { 3 } else { 2 }
    }

    /// As much of a method as is recorded.
    #[must_use]
    pub fn cut_method(method: &Method) -> Method {
        let text = method.as_str().as_bytes();
        let cut = text.get(..METHOD_BYTES_MAX).map(Method::from_bytes);
        // What is shorter is whole, and a part of a token is one.
        cut.and_then(Result::ok).unwrap_or_else(|| method.clone())
    }

    /// As much of a host or a path as is recorded.
    #[must_use]
    pub fn cut(text: &str) -> Box<str> {
        text[..text.floor_char_boundary(TEXT_BYTES_MAX)].into()
    }
}

/// Random bytes, not all zero: that is no identifier.
fn any<const N: usize>(chance: &mut Chance) -> [u8; N] {
    loop {
        let bytes = chance.bytes();
        if bytes != [0; N] {
            return bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";

    fn tracer(sample: f64, follow: Follow) -> (Tracer, mpsc::Receiver<Finished>) {
        let dropped = IntCounter::new("dropped", "Dropped.").unwrap();
        Tracer::new(Share::of(sample).unwrap(), follow, dropped)
    }

    fn headers(flags: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, format!("{PARENT}-{flags}").parse().unwrap());
        headers
    }

    fn finished(context: Context) -> Finished {
        Finished {
            context,
            began: Duration::ZERO,
            total: Duration::ZERO,
            decision: Duration::ZERO,
            call: None,
            method: Method::GET,
            host: "h".into(),
            path: "/".into(),
            scheme: "http",
            client: None,
            peer: None,
            version: Version::HTTP_11,
            status: 200,
            code: "ok",
            decided: "ok",
            route: None,
            issuer: None,
            bytes: 0,
            complete: true,
        }
    }

    #[test]
    fn whose_word_is_followed_says_what_is_recorded() {
        #[track_caller]
        fn check(follow: Follow, sample: f64, flags: Option<&str>, trusted: bool, expected: bool) {
            let (tracer, _waiting) = tracer(sample, follow);
            let headers = flags.map(headers).unwrap_or_default();
            let context = tracer.begin(&headers, trusted, &mut Chance::default());
            assert_eq!(context.is_sampled, expected, "{flags:?}");
            assert_eq!(context.parent.is_some(), flags.is_some());
        }
        use Follow::{Everybody, TrustedProxies};
        check(TrustedProxies, 0.0, Some("01"), true, true);
        check(TrustedProxies, 1.0, Some("00"), true, false);
        check(TrustedProxies, 0.0, Some("01"), false, false);
        check(TrustedProxies, 1.0, Some("00"), false, true);
        check(Everybody, 0.0, Some("01"), false, true);
        check(Everybody, 1.0, Some("00"), false, false);
        check(Everybody, 1.0, None, true, true);
        check(Everybody, 0.0, None, true, false);
    }

    #[test]
    fn every_request_has_spans_of_its_own_and_strangers_a_trace_of_their_own() {
        let (tracer, _waiting) = tracer(1.0, Follow::Everybody);
        let mut chance = Chance::default();
        let contexts = [(); 2].map(|()| tracer.begin(&HeaderMap::new(), false, &mut chance));
        assert_ne!(contexts[0].trace, contexts[1].trace);
        let mut spans: Vec<[u8; 8]> = contexts
            .iter()
            .flat_map(|context| [context.server.0, context.decision.0, context.client.0])
            .collect();
        spans.sort_unstable();
        spans.dedup();
        assert_eq!(spans.len(), 6);
        let continued = tracer.begin(&headers("01"), false, &mut chance);
        assert_eq!(
            continued.trace.to_string(),
            "4bf92f3577b34da6a3ce929d0e0e4736"
        );
        let mut told = headers("00");
        continued.write(&mut told);
        let told = Parent::of(&told).expect("a parent");
        assert_eq!(
            (told.trace, told.span, told.is_sampled),
            (continued.trace, continued.client, true)
        );
    }

    #[test]
    fn what_has_no_room_is_dropped_and_counted() {
        let (tracer, mut waiting) = tracer(1.0, Follow::Everybody);
        let context = tracer.begin(&HeaderMap::new(), false, &mut Chance::default());
        for _ in 0..WAITING_MAX + 3 {
            tracer.record(finished(context.clone()));
        }
        assert_eq!(tracer.dropped.get(), 3 * 2, "each is two spans");
        assert!(waiting.try_recv().is_ok());
        tracer.record(finished(context));
        assert_eq!(tracer.dropped.get(), 3 * 2, "there is room again");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let path = format!("/{}", "\u{e9}".repeat(TEXT_BYTES_MAX));
        let cut = Finished::cut(&path);
        assert_eq!(cut.len(), TEXT_BYTES_MAX - 1);
        assert_eq!(&*Finished::cut("/short"), "/short");
        let long = Method::from_bytes(&[b'X'; 1000]).unwrap();
        assert_eq!(
            Finished::cut_method(&long),
            "X".repeat(METHOD_BYTES_MAX).as_str()
        );
        assert_eq!(Finished::cut_method(&Method::GET), Method::GET);
    }
}
