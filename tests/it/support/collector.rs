//! A collector of traces: takes OTLP over HTTP, and decodes it as every collector does.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::Message as _;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::eventually;

/// A running collector. Its server ends with the scenario's runtime.
pub(crate) struct Collector {
    address: SocketAddr,
    scheme: &'static str,
    state: Arc<Mutex<State>>,
    /// Handshakes of TLS that failed.
    mistrusted: Arc<AtomicUsize>,
}

#[derive(Default)]
struct State {
    /// What each message came with.
    heads: Vec<(String, HeaderMap)>,
    spans: Vec<Span>,
    /// Statuses of the next answers; then 200.
    refusals: Vec<u16>,
    /// Spans of each message that it says it has no use for.
    rejects: i64,
}

/// A span as the collector understood it.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) inner: otlp::Span,
    /// Attributes as text.
    pub(crate) attributes: BTreeMap<String, String>,
    /// Of who sent it.
    pub(crate) resource: BTreeMap<String, String>,
}

impl Span {
    pub(crate) fn trace(&self) -> String {
        hex(&self.inner.trace_id)
    }

    pub(crate) fn id(&self) -> String {
        hex(&self.inner.span_id)
    }

    pub(crate) fn parent(&self) -> String {
        hex(&self.inner.parent_span_id)
    }

    /// An attribute; empty if there is none.
    pub(crate) fn get(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }

    pub(crate) fn is_error(&self) -> bool {
        let status = self.inner.status.as_ref();
        status.is_some_and(|status| status.code == 2)
    }
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let (listener, collector) = Self::bind("http").await;
        let state = Arc::clone(&collector.state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&state)));
            }
        });
        collector
    }

    /// One with TLS.
    pub(crate) async fn over_tls(config: ServerConfig) -> Self {
        let (listener, collector) = Self::bind("https").await;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let state = Arc::clone(&collector.state);
        let mistrusted = Arc::clone(&collector.mistrusted);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                match acceptor.accept(stream).await {
                    Ok(stream) => drop(tokio::spawn(serve(stream, Arc::clone(&state)))),
                    Err(_) => drop(mistrusted.fetch_add(1, Ordering::SeqCst)),
                }
            }
        });
        collector
    }

    async fn bind(scheme: &'static str) -> (TcpListener, Self) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let collector = Self {
            address: listener.local_addr().expect("an address"),
            scheme,
            state: Arc::default(),
            mistrusted: Arc::default(),
        };
        (listener, collector)
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// How many have not believed its certificate.
    pub(crate) fn mistrusted(&self) -> usize {
        self.mistrusted.load(Ordering::SeqCst)
    }

    /// Answers the next messages with these, one after the other, and does not keep them.
    pub(crate) fn refuse(&self, statuses: &[u16]) {
        self.state.lock().expect("no holder panics").refusals = statuses.to_vec();
    }

    /// Says of each message that so many of its spans are of no use.
    pub(crate) fn reject(&self, spans: i64) {
        self.state.lock().expect("no holder panics").rejects = spans;
    }

    /// Target and headers of each message, the refused ones included.
    pub(crate) fn heads(&self) -> Vec<(String, HeaderMap)> {
        self.state.lock().expect("no holder panics").heads.clone()
    }

    /// All spans that it has kept.
    pub(crate) fn spans(&self) -> Vec<Span> {
        self.state.lock().expect("no holder panics").spans.clone()
    }

    /// The spans of the request to this path, once they are there: its own, the decision's, and the service's.
    pub(crate) async fn request(&self, path: &str) -> (Span, Span, Option<Span>) {
        let server = eventually("a span of the request", async || {
            let spans = self.spans();
            spans.into_iter().find(|span| span.get("url.path") == path)
        })
        .await;
        let spans = self.spans();
        let mut children: Vec<Span> = spans
            .into_iter()
            .filter(|span| span.inner.parent_span_id == server.inner.span_id)
            .collect();
        children.sort_by_key(|span| span.inner.kind);
        let mut children = children.into_iter();
        let decision = children.next().expect("a span of the decision");
        let client = children.next();
        assert!(children.next().is_none(), "no more than two children");
        (server, decision, client)
    }
}

async fn serve<S>(stream: S, state: Arc<Mutex<State>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(answer(request, &state).await) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // Whoever sends may leave.
    drop(connection.await);
}

async fn answer(request: Request<Incoming>, state: &Mutex<State>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes);
    let message = ExportTraceServiceRequest::decode(body.expect("a whole message"));
    let message = message.expect("a message of OTLP");
    let mut state = state.lock().expect("no holder panics");
    let target = format!("{} {}", head.method, head.uri);
    state.heads.push((target, head.headers));
    if !state.refusals.is_empty() {
        let status = state.refusals.remove(0);
        let answer = Response::builder().status(status);
        return answer.body(Full::default()).expect("an answer");
    }
    for of in message.resource_spans {
        let resource = texts(&of.resource.expect("a resource").attributes);
        for span in of.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            state.spans.push(Span {
                attributes: texts(&span.attributes),
                resource: resource.clone(),
                inner: span,
            });
        }
    }
    let partial = ExportTracePartialSuccess {
        rejected_spans: state.rejects,
        error_message: String::new(),
    };
    let answer = ExportTraceServiceResponse {
        partial_success: (state.rejects > 0).then_some(partial),
    };
    Response::new(Full::from(answer.encode_to_vec()))
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| {
        let value = attribute.value.as_ref()?.value.as_ref()?;
        let text = match value {
            Value::StringValue(text) => text.clone(),
            Value::IntValue(number) => number.to_string(),
            other => panic!("{other:?} is neither text nor number"),
        };
        Some((attribute.key.clone(), text))
    };
    let texts: BTreeMap<_, _> = attributes.iter().filter_map(text).collect();
    assert_eq!(texts.len(), attributes.len(), "each key once, with a value");
    texts
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}").expect("text");
    }
    text
}
