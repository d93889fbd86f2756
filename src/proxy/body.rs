//! Bodies in both directions: passed on frame by frame, never copied, bounded in size and time on the way in, in silence
//! and counted on the way out.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::answer::{Record, SILENT};
use super::clock::Clock;
use super::drain::Drain;
use super::streams::{Admission, Ended, Watch};
use crate::base::deadline::Deadline;
use crate::base::patience::Patience;
use crate::http::forwarded::is_told_by_proxies;
use crate::http::headers::{is_forbidden_trailer, letters};
use crate::listener::Coming;
use crate::plan::{Plan, Route};
use crate::upstream::Lease;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The body of a request on its way to the service. The default is empty.
#[derive(Debug, Default)]
pub struct RequestBody(Option<Box<Inbound>>);

#[derive(Debug)]
struct Inbound {
    /// None once it is left to the drain.
    body: Option<Incoming>,
    drain: Drain,
    /// The client sends nothing before it is told to, and reading tells it.
    untold: bool,
    /// Bytes that may still come; None: no bound.
    left: Option<u64>,
    patience: Patience,
    /// Runs while we wait for the client.
    deadline: Deadline,
    /// A stream of messages, which may rest: its silence is bounded by the answer's clock once there is an answer.
    is_stream: bool,
    /// Runs while we wait for the service.
    clock: Rc<Clock>,
    /// What trailers are checked against; None drops them all.
    trailers: Option<(Arc<Plan>, Arc<Route>)>,
    /// What comes is no head of a next request, even if the answer was quicker. None once it is left to the drain.
    coming: Option<Coming>,
    /// The bearer may have to stop, also when the answer is there already. None for strangers.
    watch: Option<Watch>,
}

/// Why the body of a request ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// More bytes than allowed.
    #[error("the body is larger than is allowed")]
    TooLarge,
    /// Nothing came for too long, or too little.
    #[error("the client is silent or too slow")]
    TooSlow,
    /// Malformed chunks, or the client broke off.
    #[error("the body is malformed or broke off")]
    Broken,
    /// A rule came, the token expired, or the denylist is too old.
    #[error("the bearer may no longer send")]
    Ended(Ended),
}

impl RequestBody {
    /// Passes `body` on, as far as its connection allows; `clock` tells afterwards why it ended early. Trailers are passed
    /// on only if `trailers` is given, and then without those that name an identity, a token or a framing field. A `stream`
    /// may be silent for that long before there is an answer, and sends at any rate.
    pub(super) fn new(
        body: Incoming,
        (drain, untold): (Drain, bool),
        (coming, watch): (Coming, Option<Watch>),
        deadline: Deadline,
        clock: Rc<Clock>,
        stream: Option<Duration>,
        trailers: Option<(Arc<Plan>, Arc<Route>)>,
    ) -> Self {
        let connection = coming.connection();
        let (silence_max, rate) = match stream {
            Some(silence_max) => (silence_max, 0),
            None => (connection.body_timeout, connection.body_min_rate),
        };
        Self(Some(Box::new(Inbound {
            body: Some(body),
            drain,
            untold,
            left: connection.max_body_size,
            patience: Patience::new(silence_max, rate),
            deadline,
            is_stream: stream.is_some(),
            clock,
            trailers,
            coming: Some(coming),
            watch,
        })))
    }
}

impl Inbound {
    fn fail(&self, fault: BodyFault) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        self.clock.fail(fault);
        Poll::Ready(Some(Err(fault)))
    }

    /// We wait for the client. Ready when it has been too long.
    fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.clock.stop();
        if self.is_stream && self.clock.is_answered() {
            return Poll::Pending;
        }
        let over = self.patience.wait(self.deadline.now());
        self.deadline.set_at(over);
        self.deadline.poll(cx)
    }
}

impl Drop for Inbound {
    /// The service has answered, or is gone, before the body was at its end.
    fn drop(&mut self) {
        let is_readable = matches!(
            self.clock.fault(),
            None | Some(BodyFault::TooLarge | BodyFault::Ended(_))
        );
        if let (Some(body), Some(coming)) = (self.body.take(), self.coming.take())
            && is_readable
            && !self.untold
            && !body.is_end_stream()
        {
            self.drain.leave(body, coming);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let Some(inbound) = &mut self.0 else {
            return Poll::Ready(None);
        };
        if let Some(Poll::Ready(ended)) = inbound.watch.as_ref().map(|watch| watch.poll(cx)) {
            return inbound.fail(BodyFault::Ended(ended));
        }
        let Some(body) = &mut inbound.body else {
            return Poll::Ready(None);
        };
        inbound.untold = false;
        let frame = match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(_))) => return inbound.fail(BodyFault::Broken),
            Poll::Ready(None) => {
                inbound.clock.start();
                return Poll::Ready(None);
            }
            Poll::Pending => {
                ready!(inbound.poll_too_slow(cx));
                return inbound.fail(BodyFault::TooSlow);
            }
        };
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        inbound.patience.came(inbound.deadline.now(), bytes);
        inbound.clock.start();
        let frame = match frame.into_data() {
            Ok(data) => {
                if let Some(left) = &mut inbound.left {
                    let Some(rest) = left.checked_sub(data.len() as u64) else {
                        return inbound.fail(BodyFault::TooLarge);
                    };
                    *left = rest;
                }
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Err(frame) => frame,
        };
        match (frame.into_trailers(), &inbound.trailers) {
            (Ok(trailers), Some((plan, route))) => {
                let trailers = clean_request(trailers, plan, route);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            (Ok(_) | Err(_), _) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0
            .as_ref()
            .and_then(|inbound| inbound.body.as_ref())
            .is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0
            .as_ref()
            .and_then(|inbound| inbound.body.as_ref())
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

fn clean_request(trailers: HeaderMap, plan: &Plan, route: &Route) -> HeaderMap {
    let place = route.access.places.header.as_ref();
    keep(trailers, |name| {
        !is_forbidden_trailer(name)
            && !is_told_by_proxies(name)
            && !plan.protected.covers(name)
            && !place.is_some_and(|place| letters(name).eq(letters(place)))
    })
}

fn keep(trailers: HeaderMap, is_kept: impl Fn(&http::HeaderName) -> bool) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(trailers.keys_len());
    let mut last = None;
    for (name, value) in trailers {
        // A name stands only before the first of its values.
        last = name.or(last);
        if let Some(name) = last.as_ref().filter(|name| is_kept(name)) {
            kept.append(name, value);
        }
    }
    kept
}

/// The body of an answer on its way to the client.
#[derive(Debug)]
pub struct ResponseBody {
    payload: Payload,
    /// What is left of a frame that is passed on in pieces.
    rest: Bytes,
    /// Largest piece, in bytes.
    piece_max: usize,
    /// Written down when the body is dropped: then the answer has ended.
    record: Option<Record>,
    watching: Watching,
    /// The client reads `grpc-status` trailers.
    is_grpc: bool,
}

/// Whether a rule may cut the answer short.
#[derive(Debug)]
enum Watching {
    /// Nobody's: there is no token to revoke.
    No,
    /// Not yet: the answer may end with its first frame.
    Admitted(Admission),
    /// Yes.
    On(Watch),
    /// It did.
    Cut,
}

/// Why an answer's body ended early.
#[derive(Debug, thiserror::Error)]
pub enum AnswerFault {
    /// The service broke off.
    #[error("the service broke off")]
    Service(#[from] hyper::Error),
    /// The service fell silent.
    #[error("the service fell silent")]
    Silent,
    /// A rule came, the token expired, or the denylist is too old.
    #[error("the bearer may no longer read on")]
    Cut,
}

#[derive(Debug)]
enum Payload {
    Own(Option<Bytes>),
    Service(Service),
}

/// A service's answer.
#[derive(Debug)]
struct Service {
    body: Incoming,
    lease: Option<Lease<RequestBody>>,
    clock: Rc<Clock>,
    /// For the service, since the clock was started last.
    waiting: bool,
}

/// Most bytes of a frame to an HTTP/2 client, which has windows of its own: what it has no room for is seen to the
/// piece, and what was handed over cannot be taken back. The largest DATA frame that every client takes (RFC 9113
/// section 4.2).
const PIECE_BYTES_MAX: usize = 16 * 1024;

/// `grpc-status` 14: the service went away, or we cannot tell whether the bearer may go on.
const UNAVAILABLE: &str = "14";
const UNAUTHENTICATED: &str = "16";

impl ResponseBody {
    /// An answer of our own.
    pub(super) const fn own(bytes: Bytes, record: Record) -> Self {
        Self {
            payload: Payload::Own(Some(bytes)),
            rest: Bytes::new(),
            piece_max: usize::MAX,
            record: Some(record),
            watching: Watching::No,
            is_grpc: false,
        }
    }

    /// No body: the connection becomes a tunnel, whose end is written down by itself.
    pub(super) const fn none() -> Self {
        Self {
            payload: Payload::Own(None),
            rest: Bytes::new(),
            piece_max: usize::MAX,
            record: None,
            watching: Watching::No,
            is_grpc: false,
        }
    }

    /// The service's answer to a client that speaks `version`. Its connection is kept once the body has ended.
    pub(super) fn service(
        body: Incoming,
        (lease, clock): (Lease<RequestBody>, Rc<Clock>),
        record: Record,
        admission: Option<Admission>,
        (version, is_grpc): (Version, bool),
    ) -> Self {
        Self {
            payload: Payload::Service(Service {
                body,
                lease: Some(lease),
                clock,
                waiting: false,
            }),
            rest: Bytes::new(),
            piece_max: if version == Version::HTTP_2 {
                PIECE_BYTES_MAX
            } else {
                usize::MAX
            },
            record: Some(record),
            watching: admission.map_or(Watching::No, Watching::Admitted),
            // gRPC-Web has its trailers in the body: over HTTP/1 hyper would drop ours and end the body as if whole.
            is_grpc: is_grpc && version == Version::HTTP_2,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = AnswerFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerFault>>> {
        let this = &mut *self;
        if let Watching::On(watch) = &this.watching
            && let Poll::Ready(ended) = watch.poll(cx)
        {
            if let Some(record) = &mut this.record {
                record.end(ended);
            }
            let status = match ended {
                Ended::Revoked(_) | Ended::Expired => UNAUTHENTICATED,
                Ended::Stale => UNAVAILABLE,
            };
            let status = (status, ended.code());
            return Poll::Ready(Some(this.cut(status, AnswerFault::Cut)));
        }
        if !this.rest.is_empty() {
            return Poll::Ready(Some(Ok(this.piece())));
        }
        let frame = match &mut this.payload {
            Payload::Own(bytes) => {
                let bytes = bytes.take().filter(|bytes| !bytes.is_empty());
                if let (Some(record), Some(bytes)) = (&mut this.record, &bytes) {
                    record.bytes += bytes.len() as u64;
                }
                return Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))));
            }
            Payload::Service(service) => service.poll_frame(cx),
        };
        if !matches!(frame, Poll::Ready(None)) && !this.is_end_stream() {
            this.go_on(cx);
        }
        let frame = ready!(frame);
        let frame = match frame {
            Some(Ok(frame)) => {
                if let (Some(record), Some(data)) = (&mut this.record, frame.data_ref()) {
                    record.bytes += data.len() as u64;
                }
                match frame.into_trailers() {
                    Ok(trailers) => Some(Ok(Frame::trailers(keep(trailers, |name| {
                        !is_forbidden_trailer(name)
                    })))),
                    Err(frame) => Some(Ok(frame)),
                }
            }
            Some(Err(AnswerFault::Silent)) => {
                if let Some(record) = &mut this.record {
                    record.cut(SILENT);
                }
                let status = (UNAVAILABLE, SILENT);
                return Poll::Ready(Some(this.cut(status, AnswerFault::Silent)));
            }
            Some(Err(fault)) => return Poll::Ready(Some(Err(fault))),
            None => None,
        };
        // A body of unknown length (chunks) does not know its end before it has come.
        if frame.is_none() || this.is_end_stream() {
            this.finish();
        }
        Poll::Ready(match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    this.rest = data;
                    Some(Ok(this.piece()))
                }
                Err(frame) => Some(Ok(frame)),
            },
            other => other,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
            && match &self.payload {
                Payload::Own(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
                Payload::Service(service) => service.body.is_end_stream(),
            }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.payload {
            Payload::Own(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Payload::Service(service) => service.body.size_hint(),
        }
    }
}

impl ResponseBody {
    /// The answer is a stream: from here on it is watched.
    fn go_on(&mut self, cx: &Context<'_>) {
        if let Watching::Admitted(_) = self.watching
            && let Watching::Admitted(admission) =
                std::mem::replace(&mut self.watching, Watching::No)
        {
            let watch = admission.watch();
            // Just begun, so not ended; this leaves the waker.
            let _ = watch.poll(cx);
            if let Some(record) = &self.record {
                record.busy.connection().may_end(watch.end());
            }
            self.watching = Watching::On(watch);
        }
    }

    /// The next piece of what is left.
    fn piece(&mut self) -> Frame<Bytes> {
        let bytes = self.rest.len().min(self.piece_max);
        Frame::data(self.rest.split_to(bytes))
    }

    /// Ends the answer so that nobody takes it for whole, and lets go of the service.
    fn cut(
        &mut self,
        (status, message): (&'static str, &'static str),
        fault: AnswerFault,
    ) -> Result<Frame<Bytes>, AnswerFault> {
        self.watching = Watching::Cut;
        self.payload = Payload::Own(None);
        self.rest.clear();
        if self.is_grpc {
            let trailers = HeaderMap::from_iter([
                (GRPC_STATUS, HeaderValue::from_static(status)),
                (GRPC_MESSAGE, HeaderValue::from_static(message)),
            ]);
            Ok(Frame::trailers(trailers))
        } else {
            Err(fault)
        }
    }

    fn finish(&mut self) {
        if matches!(self.watching, Watching::Cut) {
            return;
        }
        if let Some(record) = &mut self.record {
            record.complete = true;
        }
        if let Payload::Service(service) = &mut self.payload
            && let Some(lease) = service.lease.take()
        {
            lease.release();
        }
    }
}

impl Service {
    /// The next frame, if it comes in time.
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerFault>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.waiting = false;
            return Poll::Ready(frame.map(|frame| frame.map_err(AnswerFault::from)));
        }
        // Only now: what the client has not taken yet is not the service's silence.
        if !self.waiting {
            self.waiting = true;
            self.clock.start();
        }
        ready!(self.clock.poll(cx));
        Poll::Ready(Some(Err(AnswerFault::Silent)))
    }
}

impl Drop for ResponseBody {
    /// A body that was known to be at its end is never polled: nothing is left to come.
    fn drop(&mut self) {
        if let (Watching::On(watch), Some(record)) = (&self.watching, &mut self.record)
            && let Some(ended) = watch.ended()
        {
            // Its client took nothing more, so nobody asked.
            record.end(ended);
            return;
        }
        if self.is_end_stream() {
            self.finish();
        } else if let (false, Some(record)) = (self.rest.is_empty(), &mut self.record) {
            // All of it came, but did not go out.
            record.complete = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use http::Request;
    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::task::{LocalSet, spawn_local};

    use super::*;
    use crate::base::deadline::Deadlines;
    use crate::telemetry::metrics::Metrics;
    use crate::upstream::{Options, Pool, Sent, Server, Upstream};

    async fn in_chunks(mut stream: UnixStream) {
        let mut head = vec![];
        while let Ok(byte) = stream.read_u8().await {
            head.push(byte);
            if head.ends_with(b"\r\n\r\n") {
                head.clear();
                let answer =
                    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
                stream.write_all(answer).await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn the_connection_of_a_chunked_answer_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let accepted = Rc::new(Cell::new(0));
        let serving = {
            let accepted = Rc::clone(&accepted);
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    accepted.set(accepted.get() + 1);
                    spawn_local(in_chunks(stream));
                }
            }
        };
        let options = Options::of(Server::Unix(path));
        LocalSet::new()
            .run_until(async {
                spawn_local(serving);
                let deadlines = Deadlines::new();
                let upstream = Upstream::new(options, &Metrics::new());
                let pool = Pool::new(Arc::new(upstream), deadlines.clone());
                for _ in 0..3 {
                    let minute = Duration::from_mins(1);
                    let clock = Rc::new(Clock::new(deadlines.deadline(), minute, minute));
                    let request = Request::get("/").body(RequestBody::default()).unwrap();
                    let Sent { response, lease } = Box::pin(pool.send(request)).await.unwrap();
                    let service = Service {
                        body: response.into_body(),
                        lease: Some(lease),
                        clock,
                        waiting: false,
                    };
                    let body = ResponseBody {
                        payload: Payload::Service(service),
                        rest: Bytes::new(),
                        piece_max: 2,
                        record: None,
                        watching: Watching::No,
                        is_grpc: false,
                    };
                    assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
                    tokio::task::yield_now().await;
                }
                assert_eq!(accepted.get(), 1);
            })
            .await;
    }
}
