//! The service behind the gateway. It records every request as it arrived, and answers as it is told.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{HandshakeKind, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::io::InspectReader;
use tokio_util::sync::CancellationToken;

use super::eventually;

#[path = "../../../src/base/refusing.rs"]
mod refusing;

pub(crate) use refusing::Refusing;

/// What health checks ask for.
pub(crate) const CHECK: &str = "/jotgate-check";

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// A request as the service saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// `:authority` of HTTP/2, `Host` of HTTP/1.1.
    pub(crate) authority: String,
    pub(crate) version: Version,
    /// `:scheme` of HTTP/2; empty over HTTP/1.1.
    pub(crate) scheme: String,
    pub(crate) headers: HeaderMap,
    /// Empty as long as the body has not ended.
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
    /// Whether the body came to its end.
    pub(crate) complete: bool,
}

impl Seen {
    /// Every line of this name, as text.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        self.headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect()
    }

    /// The only line of this name.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let mut all = self.all(name);
        assert!(all.len() < 2, "several lines of {name}: {all:?}");
        all.pop()
    }

    /// Names of headers that a careless service would read as `name`: same letters and digits.
    pub(crate) fn aliases(&self, name: &str) -> Vec<String> {
        let fold = |text: &str| {
            text.chars()
                .filter(char::is_ascii_alphanumeric)
                .map(|c| c.to_ascii_lowercase())
                .collect::<String>()
        };
        let wanted = fold(name);
        self.headers
            .iter()
            .filter(|(held, _)| fold(held.as_str()) == wanted)
            .map(|(held, value)| format!("{held}: {}", String::from_utf8_lossy(value.as_bytes())))
            .collect()
    }
}

/// How the service answers.
#[derive(Debug, Default)]
pub(crate) enum Reply {
    /// 200 with a short text, after the request's body has been read.
    #[default]
    Fine,
    /// This, after the request's body has been read.
    Full {
        status: u16,
        headers: Vec<(String, String)>,
        body: Bytes,
        trailers: Vec<(String, String)>,
    },
    /// This at once, without reading the request's body.
    Early(u16),
    /// 200 with the frames that the scenario sends; the end when the sender is dropped.
    Stream {
        headers: Vec<(String, String)>,
        frames: mpsc::Receiver<Frame<Bytes>>,
    },
    /// 200 with the request's own body, as it comes.
    Echo,
    /// 200 with this text, when the scenario says so.
    Late {
        body: &'static str,
        go: oneshot::Receiver<()>,
    },
    /// No answer, ever.
    Hang,
    /// The connection closed without an answer.
    Reset,
    /// 101 and an echo of every WebSocket message, when asked for one.
    WebSocket,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self::Full {
            status,
            headers: vec![],
            body: Bytes::new(),
            trailers: vec![],
        }
    }

    pub(crate) fn body(body: impl Into<Bytes>) -> Self {
        Self::Full {
            status: 200,
            headers: vec![],
            body: body.into(),
            trailers: vec![],
        }
    }

    pub(crate) fn with_header(mut self, name: &str, value: &str) -> Self {
        if let Self::Full { headers, .. } | Self::Stream { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        } else {
            panic!("{self:?} has no headers to add to");
        }
        self
    }

    pub(crate) fn with_trailer(mut self, name: &str, value: &str) -> Self {
        if let Self::Full { trailers, .. } = &mut self {
            trailers.push((name.to_owned(), value.to_owned()));
        } else {
            panic!("{self:?} has no trailers to add to");
        }
        self
    }

    /// A reply that waits for the scenario.
    pub(crate) fn late(body: &'static str) -> (oneshot::Sender<()>, Self) {
        let (sender, go) = oneshot::channel();
        (sender, Self::Late { body, go })
    }

    /// A reply that the scenario writes piece by piece.
    pub(crate) fn stream() -> (mpsc::Sender<Frame<Bytes>>, Self) {
        let (sender, frames) = mpsc::channel(1);
        let headers = vec![];
        (sender, Self::Stream { headers, frames })
    }
}

/// A running service. It ends with the scenario's runtime.
pub(crate) struct Upstream {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    seen: Mutex<Vec<Seen>>,
    /// For the next requests, in turn; [`Reply::Fine`] when there is none.
    replies: Mutex<VecDeque<Reply>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    /// Bytes of request bodies that have been read.
    read: AtomicUsize,
    /// What came on each connection, byte for byte.
    wires: Mutex<Vec<Vec<u8>>>,
    /// The TLS handshakes that came to their end.
    handshakes: Mutex<Vec<Handshake>>,
    /// The status of answers to health checks: 200 if it is 0, none at all if it is 1.
    health: AtomicU16,
    checks: AtomicUsize,
    /// It was killed.
    dead: CancellationToken,
}

/// A TLS handshake as the service saw it.
#[derive(Clone, Debug)]
pub(crate) struct Handshake {
    /// SNI.
    pub(crate) server_name: Option<String>,
    pub(crate) resumed: bool,
    /// Whether the gateway showed a certificate.
    pub(crate) certified: bool,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.expect("a port"))
    }

    pub(crate) fn on(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("an address");
        let state = Arc::<State>::default();
        tokio::spawn(accept(listener, None, Arc::clone(&state)));
        Self { address, state }
    }

    /// A service with TLS. HTTP/2 is what ALPN says.
    pub(crate) async fn over_tls(config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::<State>::default();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(accept(listener, Some(acceptor), Arc::clone(&state)));
        Self { address, state }
    }

    /// The TLS handshakes that came to their end.
    pub(crate) fn handshakes(&self) -> Vec<Handshake> {
        let handshakes = self.state.handshakes.lock().expect("no holder panics");
        handshakes.clone()
    }

    /// Health checks get this status from now on; 1: no answer.
    pub(crate) fn answer_checks(&self, status: u16) {
        self.state.health.store(status, Ordering::SeqCst);
    }

    /// How many health checks came. They are no requests, and are counted nowhere else.
    pub(crate) fn checks(&self) -> usize {
        self.state.checks.load(Ordering::SeqCst)
    }

    /// It closes its port and every connection at once.
    pub(crate) fn kill(&self) {
        self.state.dead.cancel();
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next request gets this.
    pub(crate) fn reply(&self, reply: Reply) {
        let mut replies = self.state.replies.lock().expect("no holder panics");
        replies.push_back(reply);
    }

    /// How many requests came.
    pub(crate) fn count(&self) -> usize {
        self.state.seen.lock().expect("no holder panics").len()
    }

    /// Forgets the requests that came, and their bytes.
    pub(crate) fn forget(&self) {
        self.state.seen.lock().expect("no holder panics").clear();
        let mut wires = self.state.wires.lock().expect("no holder panics");
        wires.iter_mut().for_each(Vec::clear);
    }

    /// Every byte that came on any connection, as text.
    pub(crate) fn wire(&self) -> String {
        let wires = self.state.wires.lock().expect("no holder panics");
        String::from_utf8_lossy(&wires.concat()).into_owned()
    }

    /// Every request, the first one first.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().expect("no holder panics").clone()
    }

    /// The request that came last.
    #[track_caller]
    pub(crate) fn last(&self) -> Seen {
        self.seen().pop().expect("no request came to the service")
    }

    /// Waits until as many requests have come.
    pub(crate) async fn arrived(&self, count: usize) -> Seen {
        eventually("a request at the service", async || {
            (self.count() >= count).then(|| self.seen().swap_remove(count - 1))
        })
        .await
    }

    /// How many connections were made.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// How many of them are open.
    pub(crate) fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// How many bytes of request bodies have been read.
    pub(crate) fn bytes_read(&self) -> usize {
        self.state.read.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<State>) {
    let dead = state.dead.clone();
    while let Some(Ok((stream, _))) = dead.run_until_cancelled(listener.accept()).await {
        state.connections.fetch_add(1, Ordering::SeqCst);
        let (state, tls) = (Arc::clone(&state), tls.clone());
        tokio::spawn(async move {
            state.open.fetch_add(1, Ordering::SeqCst);
            stream.set_nodelay(true).expect("TCP_NODELAY");
            let serving = async {
                match tls {
                    None => {
                        let is_h2 = begins_with_preface(&stream).await;
                        serve(stream, is_h2, &state).await;
                    }
                    Some(tls) => serve_tls(stream, &tls, &state).await,
                }
            };
            state.dead.run_until_cancelled(serving).await;
            state.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// The service closes the connection: hyper does so when a handler fails.
#[derive(Debug, thiserror::Error)]
#[error("the service was told to close the connection")]
struct Closed;

/// A handshake that fails is the end.
async fn serve_tls(stream: TcpStream, tls: &TlsAcceptor, state: &Arc<State>) {
    let Ok(stream) = tls.accept(stream).await else {
        return;
    };
    let session = stream.get_ref().1;
    let handshake = Handshake {
        server_name: session.server_name().map(str::to_owned),
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        certified: session.peer_certificates().is_some(),
    };
    let is_h2 = session.alpn_protocol() == Some(b"h2");
    state
        .handshakes
        .lock()
        .expect("no holder panics")
        .push(handshake);
    serve(stream, is_h2, state).await;
}

async fn serve<S>(stream: S, is_h2: bool, state: &Arc<State>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let state = Arc::clone(state);
        async move { state.answer(request).await }
    });
    let number = {
        let mut wires = state.wires.lock().expect("no holder panics");
        wires.push(vec![]);
        wires.len() - 1
    };
    let recorder = Arc::clone(state);
    let io = TokioIo::new(InspectReader::new(stream, move |bytes: &[u8]| {
        let mut wires = recorder.wires.lock().expect("no holder panics");
        wires[number].extend_from_slice(bytes);
    }));
    // How a connection ends is seen by the gateway, not here.
    let _ = if is_h2 {
        http2::Builder::new(TokioExecutor::new())
            .serve_connection(io, service)
            .await
    } else {
        http1::Builder::new()
            .serve_connection(io, service)
            .with_upgrades()
            .await
    };
}

/// Whether the client speaks HTTP/2 by prior knowledge (RFC 9113 section 3.4).
async fn begins_with_preface(stream: &TcpStream) -> bool {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0";
    let mut first = [0; PREFACE.len()];
    loop {
        match stream.peek(&mut first).await {
            Ok(read) if read > 0 && PREFACE.starts_with(&first[..read]) => {
                if read == PREFACE.len() {
                    return true;
                }
                tokio::task::yield_now().await;
            }
            _ => return false,
        }
    }
}

impl State {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Closed> {
        if request.uri().path() == CHECK {
            self.checks.fetch_add(1, Ordering::SeqCst);
            return match self.health.load(Ordering::SeqCst) {
                0 => Ok(answer(200, &[], empty())),
                1 => std::future::pending().await,
                status => Ok(answer(status, &[], empty())),
            };
        }
        let number = {
            let mut seen = self.seen.lock().expect("no holder panics");
            seen.push(Seen {
                method: request.method().to_string(),
                target: request
                    .uri()
                    .path_and_query()
                    .map_or_else(|| request.uri().to_string(), ToString::to_string),
                authority: request.uri().authority().map_or_else(
                    || {
                        let host = request.headers().get("host");
                        host.map_or_else(String::new, |host| {
                            String::from_utf8_lossy(host.as_bytes()).into_owned()
                        })
                    },
                    ToString::to_string,
                ),
                version: request.version(),
                scheme: request.uri().scheme_str().unwrap_or_default().to_owned(),
                headers: request.headers().clone(),
                body: Bytes::new(),
                trailers: None,
                complete: request.body().is_end_stream(),
            });
            seen.len() - 1
        };
        let reply = self.replies.lock().expect("no holder panics").pop_front();
        match reply.unwrap_or_default() {
            Reply::Fine => {
                self.read_body(number, request.into_body()).await?;
                Ok(answer(200, &[], full("fine")))
            }
            Reply::Full {
                status,
                headers,
                body,
                trailers,
            } => {
                self.read_body(number, request.into_body()).await?;
                Ok(answer(status, &headers, with_trailers(body, &trailers)))
            }
            Reply::Early(status) => Ok(answer(status, &[], empty())),
            Reply::Stream { headers, frames } => {
                tokio::spawn(self.read_body(number, request.into_body()));
                let frames = futures_util::stream::unfold(frames, |mut frames| async {
                    let frame = frames.recv().await?;
                    Some((Ok(frame), frames))
                });
                Ok(answer(
                    200,
                    &headers,
                    StreamBody::new(frames).boxed_unsync(),
                ))
            }
            Reply::Echo => Ok(answer(200, &[], request.into_body().boxed_unsync())),
            Reply::Late { body, go } => {
                go.await.map_err(|_| Closed)?;
                Ok(answer(200, &[], full(body)))
            }
            Reply::Hang => std::future::pending().await,
            Reply::Reset => Err(Closed),
            Reply::WebSocket => Ok(web_socket(request, Arc::clone(&self))),
        }
    }

    /// Reads a request's body to its end, counting. The service drops a request whose body breaks off.
    async fn read_body(self: Arc<Self>, number: usize, mut body: Incoming) -> Result<(), Closed> {
        let mut bytes = Vec::new();
        let mut trailers = None;
        while let Some(frame) = body.frame().await {
            match frame.map_err(|_| Closed)?.into_data() {
                Ok(data) => {
                    self.read.fetch_add(data.len(), Ordering::SeqCst);
                    bytes.extend_from_slice(&data);
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        let mut seen = self.seen.lock().expect("no holder panics");
        let seen = &mut seen[number];
        seen.body = bytes.into();
        seen.trailers = trailers;
        seen.complete = true;
        Ok(())
    }
}

fn answer(status: u16, headers: &[(String, String)], body: Body) -> Response<Body> {
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(name, value);
    }
    builder.body(body).expect("an answer")
}

fn full(text: &'static str) -> Body {
    Full::from(text)
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn with_trailers(body: Bytes, trailers: &[(String, String)]) -> Body {
    if trailers.is_empty() {
        return Full::new(body)
            .map_err(|never: Infallible| match never {})
            .boxed_unsync();
    }
    let trailers: HeaderMap = trailers
        .iter()
        .map(|(name, value)| {
            let name: HeaderName = name.parse().expect("a trailer's name");
            (
                name,
                HeaderValue::from_str(value).expect("a trailer's value"),
            )
        })
        .collect();
    // Of unknown length: HTTP/1.1 has trailers only after chunks.
    let frames = [Ok(Frame::data(body)), Ok(Frame::trailers(trailers))];
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

fn web_socket(mut request: Request<Incoming>, state: Arc<State>) -> Response<Body> {
    let Some(key) = request.headers().get("sec-websocket-key") else {
        return answer(426, &[], empty());
    };
    let accept = derive_accept_key(key.as_bytes());
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        use futures_util::{SinkExt as _, StreamExt as _};
        let Ok(upgraded) = upgrade.await else { return };
        state.open.fetch_add(1, Ordering::SeqCst);
        let io = TokioIo::new(upgraded);
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                break;
            }
        }
        state.open.fetch_sub(1, Ordering::SeqCst);
    });
    Response::builder()
        .status(101)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", accept)
        .body(empty())
        .expect("an answer")
}

/// A service without manners: it reads a request's head, and then sends what it was given, byte for byte.
pub(crate) struct RawUpstream {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl RawUpstream {
    /// Sends `answer` for every request. Afterwards it closes the connection, or holds it open and silent.
    pub(crate) async fn start(answer: &str, close: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let (record, answer) = (Arc::clone(&heads), answer.to_owned());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (record, answer) = (Arc::clone(&record), answer.clone());
                tokio::spawn(async move {
                    let mut head = vec![];
                    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                        match stream.read_buf(&mut head).await {
                            Ok(0) | Err(_) => return,
                            Ok(_) => {}
                        }
                    }
                    let head = String::from_utf8_lossy(&head).into_owned();
                    record.lock().expect("no holder panics").push(head);
                    let _ = stream.write_all(answer.as_bytes()).await;
                    if !close {
                        // Until the gateway closes.
                        let _ = stream.read_to_end(&mut vec![]).await;
                    }
                });
            }
        });
        Self { address, heads }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every head that came, as text.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no holder panics").clone()
    }
}

impl Refusing {
    /// A service starts there.
    pub(crate) fn revive(self) -> Upstream {
        self.0.listen(1024).expect("a listener");
        self.0.set_nonblocking(true).expect("O_NONBLOCK");
        Upstream::on(TcpListener::from_std(self.0.into()).expect("a listener"))
    }
}
