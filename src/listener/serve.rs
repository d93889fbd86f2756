//! One connection, from its first byte to its last: takes TLS off where there is some, tells HTTP/1 from HTTP/2, sets every
//! limit, and ends what waits for too long.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::accept::Place;
use super::connection::{Connection, Phase};
use super::frames::{Credit, Frames};
use super::framing::Framing;
use super::gather::gather;
use super::io::{ClientIo, First, Watch};
use super::options::Options;
use super::pace::{Pace, Paced, StreamExecutor};
use super::proxy_protocol::ProxyFault;
use super::tls::Tls;
use crate::base::deadline::{Deadline, Deadlines};
use crate::base::patience::Patience;
use crate::base::signal::Signal;
use crate::http::forwarded::Peer;

/// Answers the requests of a listener's connections.
pub trait Front: 'static {
    /// The body of answers. Over HTTP/2 its frames should be small, see `listener/pace.rs`.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Unpin
        + 'static;

    /// Answers one request.
    fn answer(
        self: Rc<Self>,
        connection: Rc<Connection>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Self::Body>> + 'static;
}

/// Why a connection did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionFault {
    /// Reading the first bytes failed, or writing on HTTP/2.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// The protocol was violated, or the connection broke in the middle of something.
    #[error("the connection broke or was no valid HTTP")]
    Http(#[from] hyper::Error),
    /// The head of a request took too long (408).
    #[error("the head of a request took too long")]
    HeaderTimeout,
    /// The client took its answer too slowly, or not at all.
    #[error("the client takes its answer too slowly")]
    SlowReader,
    /// The handshake of TLS failed: no TLS, none that both know, or a certificate that is not accepted.
    #[error("the TLS handshake failed: {0}")]
    Tls(#[source] io::Error),
    /// The handshake of TLS took too long.
    #[error("the TLS handshake took too long")]
    TlsTimeout,
    /// What a trusted proxy says first is not the PROXY protocol.
    #[error(transparent)]
    Proxy(#[from] ProxyFault),
    /// Only trusted proxies are let in where they speak for others.
    #[error("the peer is none of trusted_proxies")]
    NoProxy,
    /// It took too long.
    #[error("the PROXY protocol header took too long")]
    ProxyTimeout,
    /// The client that a trusted proxy speaks for has as many connections as it may.
    #[error("a client had as many connections as it may")]
    AddressFull,
    /// No first byte in time.
    #[error("the connection stayed silent")]
    Silent,
    /// HTTP/2: frames that carry nothing, or requests that are given up, too many and too fast.
    #[error("the client floods its connection")]
    Flood,
}

impl ConnectionFault {
    /// One word for the metric.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io(_) => "io",
            Self::Http(error) if error.is_parse() => "bad_request",
            Self::Http(_) => "http",
            Self::HeaderTimeout => "header_timeout",
            Self::SlowReader => "slow_reader",
            Self::Tls(_) => "tls",
            Self::TlsTimeout => "tls_timeout",
            Self::Proxy(_) => "proxy_protocol",
            Self::ProxyTimeout => "proxy_protocol_timeout",
            Self::NoProxy => "no_proxy",
            Self::AddressFull => "address_full",
            Self::Silent => "silent",
            Self::Flood => "flood",
        }
    }
}

/// How long a connection may take to end after it was told to.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);

/// HTTP/1: the room that is made to read an upload that a service takes as quickly, and most bytes that wait for a client
/// that takes its answer slowly. A read buffer begins with 8 KiB and grows with what comes, in its place: then it may have
/// nearly twice as much. Heads have a bound of their own. Uploads of 1 MiB are a fifth cheaper still with twice as much, but
/// whoever was refused may keep a buffer for as long as its connection is idle.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// HTTP/2: resets that a client may cause before the connection ends, of requests that have not begun (CVE-2023-44487) and
/// by breaking the rules of a stream (CVE-2025-8671). hyper's defaults, written out. Requests that have begun: see
/// `listener/frames.rs`.
const PENDING_ACCEPT_RESETS_MAX: usize = 20;
const LOCAL_ERROR_RESETS_MAX: usize = 1024;

/// HTTP/2: bytes of an answer that are buffered for a client that does not read. hyper's default, 400 KiB for each stream,
/// is 50 MiB for a connection; four frames keep the socket full.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// HTTP/2: bytes of bodies that a client may send before a service has taken them, for each connection and for each
/// stream. hyper's defaults, written out: one upload over a long way is as fast as HTTP/1's.
const RECEIVE_WINDOW_BYTES: u32 = 1024 * 1024;

/// HTTP/2: bytes of the table of headers that a client may refer to. What every peer begins with (RFC 9113 section 6.5.2).
const HEADER_TABLE_BYTES: u32 = 4096;

/// Serves one connection until it ends. `spent` is how much of the handshake's time is gone.
pub(super) async fn serve<S, F>(
    mut stream: S,
    (peer, place, spent): (Peer, Place, Duration),
    options: Rc<Options>,
    front: Rc<F>,
    deadlines: &Deadlines,
    drain: &Signal,
) -> Result<(), ConnectionFault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Front,
{
    if let Some(tls) = options.tls.clone() {
        let client = (stream, peer, place, spent);
        // In a box, so that connections without TLS have no room for it.
        return Box::pin(serve_tls(&tls, client, options, front, deadlines, drain)).await;
    }
    let mut first = First::default();
    let is_http2 =
        options.http2 && tell_protocol(&mut stream, &mut first, &options, deadlines).await?;
    let opened = Opened {
        stream,
        first,
        is_http2,
        peer,
    };
    serve_http(opened, place, options, front, deadlines, drain).await
}

async fn serve_tls<S, F>(
    tls: &Tls,
    (stream, peer, place, spent): (S, Peer, Place, Duration),
    options: Rc<Options>,
    front: Rc<F>,
    deadlines: &Deadlines,
    drain: &Signal,
) -> Result<(), ConnectionFault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Front,
{
    let secured = deadlines
        .within(
            tls.options().handshake_timeout.saturating_sub(spent),
            tls.accept(stream),
        )
        .await
        .map_err(|_| ConnectionFault::TlsTimeout)?
        .map_err(ConnectionFault::Tls)?;
    let opened = Opened {
        stream: secured.stream,
        first: First::default(),
        is_http2: secured.http2,
        peer: peer.over_tls(secured.headers),
    };
    serve_http(opened, place, options, front, deadlines, drain).await
}

/// A connection whose protocol is known.
struct Opened<S> {
    stream: S,
    /// What was read to tell it.
    first: First,
    is_http2: bool,
    peer: Peer,
}

async fn serve_http<S, F>(
    opened: Opened<S>,
    place: Place,
    options: Rc<Options>,
    front: Rc<F>,
    deadlines: &Deadlines,
    drain: &Signal,
) -> Result<(), ConnectionFault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Front,
{
    let Opened {
        stream,
        first,
        is_http2,
        peer,
    } = opened;
    let deadline = deadlines.deadline();
    let header_timeout = (!is_http2).then_some(options.header_timeout);
    let phase = Phase::new(deadline.handle(), header_timeout, options.idle_timeout);
    let connection = Rc::new(Connection::new(peer, &options, phase.clone(), place));
    let patience = Patience::new(options.idle_timeout, options.answer_min_rate);
    let client = |watch| ClientIo::new(first, stream, phase.clone(), patience, watch);
    if is_http2 {
        let credit = Credit::new(options.max_streams);
        let io = client(Watch::Http2(Frames::new(credit.clone())));
        let executor = StreamExecutor::new(Rc::clone(&connection));
        let streams = Streams {
            executor: executor.clone(),
            deadlines: deadlines.clone(),
            options: Rc::clone(&options),
            credit: credit.clone(),
        };
        let service = FrontService {
            front,
            connection,
            streams: Some(streams),
        };
        serve_http2(io, service, executor, &options, &deadline, &phase, drain)
            .await
            .map_err(|fault| {
                if credit.is_spent() {
                    ConnectionFault::Flood
                } else {
                    fault
                }
            })
    } else {
        let io = client(Watch::Http1(Framing::new(options.max_header_size)));
        let service = FrontService {
            front,
            connection,
            streams: None,
        };
        serve_http1(io, service, &options, &deadline, &phase, drain).await
    }
}

/// Reads until the first bytes tell HTTP/1 from HTTP/2.
async fn tell_protocol<S: AsyncRead + Unpin>(
    stream: &mut S,
    first: &mut First,
    options: &Options,
    deadlines: &Deadlines,
) -> Result<bool, ConnectionFault> {
    let n = deadlines
        .within(options.idle_timeout, stream.read(first.room()))
        .await
        .map_err(|_| ConnectionFault::Silent)??;
    first.filled(n);
    let rest = async {
        loop {
            if let Some(is_http2) = first.is_http2() {
                return io::Result::Ok(is_http2);
            }
            let n = stream.read(first.room()).await?;
            if n == 0 {
                return Ok(false);
            }
            first.filled(n);
        }
    };
    if n == 0 {
        return Ok(false);
    }
    Ok(deadlines
        .within(options.header_timeout, rest)
        .await
        .map_err(|_| ConnectionFault::HeaderTimeout)??)
}

async fn serve_http1<S, F>(
    io: ClientIo<S>,
    service: FrontService<F>,
    options: &Options,
    deadline: &Deadline,
    phase: &Phase,
    drain: &Signal,
) -> Result<(), ConnectionFault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Front,
{
    let client = Rc::clone(&service.connection);
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Our own deadline covers the first byte too, and costs no timer for each request.
        .header_read_timeout(None)
        .max_headers(options.max_headers)
        .max_header_size(options.max_header_size)
        .max_buf_size(options.max_header_size.max(BUFFER_BYTES_MAX))
        .half_close(false)
        .ignore_invalid_headers(false)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut drained = drain.wait();
    let mut told = false;
    let too_late = poll_fn(|cx| {
        if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(ended.map(|()| false));
        }
        if !told && drained.poll(cx).is_ready() {
            told = true;
            Pin::new(&mut connection).graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        // The client takes nothing of an answer that has ended: hyper would wait for it.
        if client.has_ended() || deadline.poll(cx).is_ready() {
            return Poll::Ready(Ok(true));
        }
        Poll::Pending
    })
    .await?;
    if too_late
        && phase.is_head()
        && let Some(parts) = connection.into_parts()
    {
        let mut stream = parts.io.into_inner().into_stream();
        let answer =
            b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        // Best effort, and never waited for: whoever trickles bytes in may not read either.
        let written = poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_write(cx, answer))).await;
        drop(written);
        let shut = poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_shutdown(cx))).await;
        drop(shut);
        return Err(ConnectionFault::HeaderTimeout);
    }
    if too_late && phase.is_stalled() {
        return Err(ConnectionFault::SlowReader);
    }
    Ok(())
}

async fn serve_http2<S, F>(
    io: ClientIo<S>,
    service: FrontService<F>,
    executor: StreamExecutor,
    options: &Options,
    deadline: &Deadline,
    phase: &Phase,
    drain: &Signal,
) -> Result<(), ConnectionFault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Front,
{
    let (io, outlet) = gather(io);
    let mut connection = std::pin::pin!(
        http2::Builder::new(executor)
            .timer(TokioTimer::new())
            .max_concurrent_streams(options.max_streams)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .initial_stream_window_size(RECEIVE_WINDOW_BYTES)
            .initial_connection_window_size(RECEIVE_WINDOW_BYTES)
            .header_table_size(HEADER_TABLE_BYTES)
            .max_header_list_size(u32::try_from(options.max_header_size).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(PENDING_ACCEPT_RESETS_MAX)
            .max_local_error_reset_streams(LOCAL_ERROR_RESETS_MAX)
            .serve_connection(TokioIo::new(io), service)
    );
    let mut drained = drain.wait();
    let mut told = false;
    poll_fn(|cx| {
        loop {
            let turn = connection.as_mut().poll(cx);
            let sent = outlet.poll_flush(cx);
            if let Poll::Ready(ended) = turn {
                return Poll::Ready(ended.map_err(ConnectionFault::from));
            }
            if let Poll::Ready(Err(error)) = sent {
                return Poll::Ready(Err(error.into()));
            }
            let idle = deadline.poll(cx).is_ready();
            // A goodbye would not be taken either.
            if idle && phase.is_stalled() {
                return Poll::Ready(Err(ConnectionFault::SlowReader));
            }
            if idle && told {
                return Poll::Ready(Ok(()));
            }
            if !told && (idle || drained.poll(cx).is_ready()) {
                // GOAWAY, then whatever still runs.
                told = true;
                connection.as_mut().graceful_shutdown();
                if idle {
                    deadline.set(GOODBYE_TIMEOUT);
                }
                continue;
            }
            return Poll::Pending;
        }
    })
    .await
}

struct FrontService<F> {
    front: Rc<F>,
    connection: Rc<Connection>,
    /// On HTTP/2.
    streams: Option<Streams>,
}

struct Streams {
    executor: StreamExecutor,
    deadlines: Deadlines,
    options: Rc<Options>,
    credit: Credit,
}

impl Streams {
    fn begin(&self) -> Rc<Pace> {
        let (most, rate) = (self.options.idle_timeout, self.options.answer_min_rate);
        let patience = Patience::new(most, rate);
        let pace = Rc::new(Pace::new(
            self.deadlines.clone(),
            patience,
            self.credit.clone(),
        ));
        self.executor.next(Rc::clone(&pace));
        pace
    }
}

impl<F: Front> Service<Request<Incoming>> for FrontService<F> {
    type Response = Response<Paced<F::Body>>;
    type Error = Infallible;
    type Future = Answer<Pin<Box<dyn Future<Output = Response<F::Body>>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let answer = Rc::clone(&self.front).answer(Rc::clone(&self.connection), request);
        Answer {
            answer: Box::pin(answer),
            pace: self.streams.as_ref().map(Streams::begin),
        }
    }
}

/// An answer cannot fail: what goes wrong is an answer too.
struct Answer<F> {
    answer: F,
    pace: Option<Rc<Pace>>,
}

impl<B, F: Future<Output = Response<B>> + Unpin> Future for Answer<F> {
    type Output = Result<Response<Paced<B>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let response = ready!(Pin::new(&mut self.answer).poll(cx));
        if let Some(pace) = &self.pace {
            pace.answered();
        }
        Poll::Ready(Ok(response.map(|body| Paced::new(body, self.pace.take()))))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Context;

    use futures_util::future::join_all;
    use http_body::Frame;
    use http_body_util::{BodyExt as _, Empty};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadBuf};
    use tokio::task::{LocalSet, spawn_local};
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::http::executor::LocalExecutor;
    use crate::listener::io::PREFACE;

    const KIB: usize = 1024;

    /// Reads a body as quickly as it comes, and then answers with so many bytes as the path says; `/` has no end.
    #[derive(Default)]
    struct Service {
        /// Sizes of what came at once.
        came: RefCell<Vec<usize>>,
        /// Bytes of the answer that were asked for.
        asked: Rc<Cell<usize>>,
    }

    struct Answer {
        left: usize,
        asked: Rc<Cell<usize>>,
    }

    impl Body for Answer {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let bytes = self.left.min(16 * KIB);
            self.left -= bytes;
            self.asked.update(|asked| asked + bytes);
            let frame = Frame::data(Bytes::from_static(&[b'x'; 16 * KIB]).split_to(bytes));
            Poll::Ready((bytes > 0).then_some(Ok(frame)))
        }

        fn is_end_stream(&self) -> bool {
            self.left == 0
        }
    }

    impl Front for Service {
        type Body = Answer;

        async fn answer(
            self: Rc<Self>,
            connection: Rc<Connection>,
            request: Request<Incoming>,
        ) -> Response<Answer> {
            let _busy = connection.begin();
            let left = request.uri().path()[1..].parse().unwrap_or(usize::MAX);
            let mut body = request.into_body();
            while let Some(frame) = body.frame().await {
                let bytes = frame.unwrap().into_data().unwrap();
                self.came.borrow_mut().push(bytes.len());
            }
            let asked = Rc::clone(&self.asked);
            Response::new(Answer { left, asked })
        }
    }

    async fn serve_default<S>(stream: S, front: Rc<Service>) -> Result<(), ConnectionFault>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let deadlines = Deadlines::new();
        spawn_local(deadlines.clone().sweep());
        let options = Rc::new(Options::defaults());
        let place = Place::anywhere(&options);
        let client = (Peer::new(None, false), place, Duration::ZERO);
        let drain = Signal::default();
        serve(stream, client, options, front, &deadlines, &drain).await
    }

    /// A client that sends `request` and then nothing, and takes nothing, with so much room in between.
    async fn after_a_second(request: Vec<u8>, room: usize) -> Rc<Service> {
        LocalSet::new()
            .run_until(async {
                let (mut client, ours) = tokio::io::duplex(room);
                let service = Rc::new(Service::default());
                let serving = spawn_local(serve_default(ours, Rc::clone(&service)));
                client.write_all(&request).await.unwrap();
                sleep(Duration::from_secs(1)).await;
                serving.abort();
                service
            })
            .await
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_comes_in_pieces_of_64_kib_and_less_than_twice_that() {
        let mut request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1048576\r\n\r\n".to_vec();
        request.resize(request.len() + 1024 * KIB, b'x');
        let room = request.len();
        let service = after_a_second(request, room).await;
        let came = service.came.borrow();
        assert_eq!(came.iter().sum::<usize>(), 1024 * KIB);
        let largest = *came.iter().max().unwrap();
        assert!((64 * KIB..128 * KIB).contains(&largest), "{came:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn of_an_answer_that_nobody_takes_64_kib_and_a_frame_wait_at_most() {
        let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec();
        let service = after_a_second(request, 1).await;
        let asked = service.asked.get();
        assert!((64 * KIB..=80 * KIB).contains(&asked), "{asked}");
    }

    /// Counts what is written to it.
    struct Counted {
        stream: DuplexStream,
        writes: Arc<AtomicUsize>,
    }

    impl AsyncRead for Counted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.writes.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut self.stream).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn over_http2_answers_that_are_ready_go_out_together() {
        const REQUESTS: usize = 50;
        let together = async {
            let (client, stream) = tokio::io::duplex(128 * KIB);
            let writes = Arc::new(AtomicUsize::new(0));
            let ours = Counted {
                stream,
                writes: Arc::clone(&writes),
            };
            spawn_local(serve_default(ours, Rc::new(Service::default())));
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(LocalExecutor, TokioIo::new(client))
                    .await
                    .unwrap();
            spawn_local(async { drop(connection.await) });
            let answers = [(); REQUESTS].map(|()| {
                let request = Request::get("http://x/1000").body(Empty::<Bytes>::new());
                sender.send_request(request.unwrap())
            });
            for answer in join_all(answers).await {
                let body = answer.unwrap().into_body().collect().await.unwrap();
                assert_eq!(body.to_bytes().len(), 1000);
            }
            let writes = writes.load(Ordering::Relaxed);
            assert!(writes < REQUESTS / 2, "{writes}");
        };
        LocalSet::new().run_until(together).await;
    }

    /// A client of HTTP/2 that asks for so many bytes.
    fn get_over_http2(bytes: &str) -> Vec<u8> {
        let short = |length: usize| u8::try_from(length).unwrap();
        let path = [&[0x04, short(bytes.len() + 1), b'/'], bytes.as_bytes()].concat();
        let fields = [&[0x82, 0x86, 0x01, 1, b'x'], &path[..]].concat();
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let headers = [0, 0, short(fields.len()), 1, 0x05, 0, 0, 0, 1];
        [&PREFACE[..], &settings, &headers, &fields].concat()
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_over_http2_is_cut_off() {
        let cut_off = async {
            // Of the small one all waits below HTTP/2.
            for bytes in ["5000", "200000"] {
                let (mut client, ours) = tokio::io::duplex(100);
                let began = Instant::now();
                let serving = spawn_local(serve_default(ours, Rc::new(Service::default())));
                client.write_all(&get_over_http2(bytes)).await.unwrap();
                let ended = serving.await.unwrap();
                assert!(
                    matches!(ended, Err(ConnectionFault::SlowReader)),
                    "{ended:?}"
                );
                let (took, idle) = (began.elapsed(), Options::defaults().idle_timeout);
                assert!(
                    took >= idle && took < idle + Duration::from_secs(5),
                    "{took:?}"
                );
            }
        };
        LocalSet::new().run_until(cut_off).await;
    }

    #[tokio::test]
    async fn what_was_written_before_a_client_of_http2_broke_off_reaches_it() {
        let broken_off = async {
            let (mut client, ours) = tokio::io::duplex(64 * KIB);
            let half_a_frame = [0, 0, 8, 6];
            let request = [&get_over_http2("1000")[..], &half_a_frame].concat();
            client.write_all(&request).await.unwrap();
            client.shutdown().await.unwrap();
            let ended = serve_default(ours, Rc::new(Service::default())).await;
            assert!(matches!(ended, Err(ConnectionFault::Http(_))), "{ended:?}");
            let mut came = vec![];
            client.read_to_end(&mut came).await.unwrap();
            assert_eq!(came.get(3), Some(&4), "its settings: {came:?}");
        };
        LocalSet::new().run_until(broken_off).await;
    }

    /// A client that sent this, stays, and can be told nothing.
    struct Unreachable(Vec<u8>);

    impl AsyncRead for Unreachable {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.0.is_empty() {
                return Poll::Pending;
            }
            let bytes = self.0.len().min(buffer.remaining());
            buffer.put_slice(&self.0.drain(..bytes).collect::<Vec<u8>>());
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Unreachable {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_of_http2_that_cannot_be_written_to_is_given_up() {
        let given_up = async {
            let client = Unreachable(get_over_http2("1000"));
            let ended = serve_default(client, Rc::new(Service::default())).await;
            assert!(matches!(ended, Err(ConnectionFault::Io(_))), "{ended:?}");
        };
        LocalSet::new().run_until(given_up).await;
    }
}
