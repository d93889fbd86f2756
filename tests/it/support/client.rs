//! A client over HTTP/1.1 or HTTP/2 by prior knowledge. What it sends can be awaited as a whole [`Answer`], or opened
//! and read piece by piece.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpSocket;
use tokio::sync::mpsc;

use super::within;

/// A body that the client sends.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    status: u16,
    version: Version,
    headers: HeaderMap,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

impl Answer {
    pub(crate) const fn status(&self) -> u16 {
        self.status
    }

    pub(crate) const fn version(&self) -> Version {
        self.version
    }

    pub(crate) const fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    pub(crate) const fn body(&self) -> &Bytes {
        &self.body
    }

    pub(crate) const fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }

    /// The only line of this name; none, or more than one, is another thing than a scenario means.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.headers.get_all(name).iter();
        let first = lines.next()?;
        assert!(lines.next().is_none(), "two lines of {name}: {self:?}");
        Some(first.to_str().expect("an answer's header in ASCII"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The stable word of a problem document (RFC 9457); empty when the body is none.
    pub(crate) fn code(&self) -> String {
        if self.header("content-type") != Some("application/problem+json") {
            return String::new();
        }
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Status and code in one word, such as `401 revoked`.
    pub(crate) fn verdict(&self) -> String {
        format!("{} {}", self.status, self.code()).trim().to_owned()
    }

    /// Reads an answer to its end. A body that breaks off is an error.
    pub(crate) async fn read(response: Response<Incoming>) -> Result<Self, hyper::Error> {
        let (head, body) = response.into_parts();
        let collected = body.collect().await?;
        let trailers = collected.trailers().cloned();
        Ok(Self {
            status: head.status.as_u16(),
            version: head.version,
            headers: head.headers,
            body: collected.to_bytes(),
            trailers,
        })
    }
}

/// A request in the making. Await it for the whole answer.
#[derive(Debug)]
#[must_use]
pub(crate) struct Request {
    address: SocketAddr,
    /// The client's own address, where a scenario says it.
    from: Option<[u8; 4]>,
    version: Version,
    method: Method,
    target: String,
    host: Option<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Body,
}

impl Request {
    pub(crate) fn new(address: SocketAddr, method: &str, target: &str) -> Self {
        Self {
            address,
            from: None,
            version: Version::HTTP_11,
            method: Method::from_bytes(method.as_bytes()).expect("a method"),
            target: target.to_owned(),
            host: None,
            headers: vec![],
            body: Empty::new().boxed_unsync(),
        }
    }

    /// HTTP/2 by prior knowledge.
    pub(crate) fn h2(mut self) -> Self {
        self.version = Version::HTTP_2;
        self
    }

    pub(crate) fn version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// From this address of the machine: all of 127.0.0.0/8 are.
    pub(crate) fn from(mut self, address: [u8; 4]) -> Self {
        self.from = Some(address);
        self
    }

    pub(crate) fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// One more line of this name.
    pub(crate) fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((
            name.parse().expect("a header's name"),
            HeaderValue::from_bytes(value.as_ref()).expect("a header's value"),
        ));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Full::new(body.into()).boxed_unsync();
        self
    }

    pub(crate) fn json(self, body: &serde_json::Value) -> Self {
        self.header("content-type", "application/json")
            .body(body.to_string())
    }

    /// A body of unknown length that the scenario writes frame by frame; it ends when the sender is dropped.
    pub(crate) fn stream(mut self, frames: mpsc::Receiver<Frame<Bytes>>) -> Self {
        let frames = futures_util::stream::unfold(frames, |mut frames| async {
            let frame = frames.recv().await?;
            Some((Ok(frame), frames))
        });
        self.body = StreamBody::new(frames).boxed_unsync();
        self
    }

    fn connect(&self) -> impl Future<Output = Connection> + use<> {
        Connection::open_from(self.from, self.address, self.version)
    }

    fn into_http(self) -> http::Request<Body> {
        let host = self.host.unwrap_or_else(|| self.address.to_string());
        let mut builder = http::Request::builder()
            .method(self.method)
            .version(self.version);
        if self.version == Version::HTTP_2 {
            builder = builder.uri(format!("http://{host}{}", self.target));
        } else {
            builder = builder.uri(self.target).header("host", host);
        }
        for (name, value) in self.headers {
            builder = builder.header(name, value);
        }
        builder.body(self.body).expect("a request")
    }

    /// Sends it on a connection of its own, and returns when the answer's head is there.
    pub(crate) async fn open(self) -> Result<Response<Incoming>, hyper::Error> {
        let mut connection = self.connect().await;
        within("the answer's head", connection.send_raw(self)).await
    }

    /// As `await`, but a broken connection is an error the scenario looks at.
    pub(crate) async fn try_send(self) -> Result<Answer, hyper::Error> {
        within("the answer", async move {
            let mut connection = self.connect().await;
            Answer::read(connection.send_raw(self).await?).await
        })
        .await
    }
}

impl IntoFuture for Request {
    type Output = Answer;
    type IntoFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async {
            let what = format!("{} {}", self.method, self.target);
            self.try_send()
                .await
                .unwrap_or_else(|error| panic!("{what}: {error:?}"))
        })
    }
}

/// One connection for several requests.
#[derive(Debug)]
pub(crate) enum Connection {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr, version: Version) -> Self {
        Self::open_from(None, address, version).await
    }

    /// From this address of the machine, or from any. Only who needs an address binds: the port of a connection that was
    /// bound is lost to all others for a minute after its end, and the system has 28,000.
    pub(crate) async fn open_from(
        from: Option<[u8; 4]>,
        address: SocketAddr,
        version: Version,
    ) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        if let Some(from) = from {
            socket.bind((from, 0).into()).expect("an address");
        }
        let stream = socket.connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Self::over(stream, version).await
    }

    /// Over bytes that flow already.
    pub(crate) async fn over<S>(stream: S, version: Version) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        if version == Version::HTTP_2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io)
                .await
                .expect("an HTTP/2 connection");
            tokio::spawn(connection);
            Self::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await.expect("a connection");
            tokio::spawn(connection.with_upgrades());
            Self::Http1(sender)
        }
    }

    pub(crate) async fn send_raw(
        &mut self,
        request: Request,
    ) -> Result<Response<Incoming>, hyper::Error> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request.into_http()).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request.into_http()).await
            }
        }
    }

    pub(crate) async fn send(&mut self, request: Request) -> Answer {
        within("the answer", async {
            let response = self.send_raw(request).await.expect("an answer's head");
            Answer::read(response).await.expect("an answer's body")
        })
        .await
    }
}
