//! An identity provider: discovery document and key set over HTTP, with every mishap that a real one has.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jotgate::jwks::Algorithm;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::keys::{Key, key};
use super::tokens::Token;

/// What the issuer's servers say when they are asked for the key set.
#[derive(Clone, Debug)]
pub(crate) enum Mode {
    /// The key set.
    Serve,
    /// A status with an empty body.
    Fail(u16),
    /// Nothing, until the mode changes.
    Hang,
    /// These bytes as if they were a key set.
    Body(Bytes),
    /// A redirect to this URL.
    Redirect(String),
}

/// A running issuer. Its server ends with the scenario's runtime.
pub(crate) struct Issuer {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    url: String,
    mode: watch::Sender<Mode>,
    /// The keys that sign, the current one last, and those that are only served.
    keys: Mutex<Vec<Arc<Key>>>,
    extra: Mutex<Vec<Value>>,
    discoveries: AtomicUsize,
    fetches: AtomicUsize,
}

/// The audience that tokens of an [`Issuer`] name.
pub(crate) const AUDIENCE: &str = "orders-api";

impl Issuer {
    /// An issuer with one ES256 key, the quickest to make.
    pub(crate) async fn start() -> Self {
        Self::with_key(key(Algorithm::ES256, 1)).await
    }

    pub(crate) async fn with_key(key: Arc<Key>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            url: format!("http://{address}"),
            mode: watch::Sender::new(Mode::Serve),
            keys: Mutex::new(vec![key]),
            extra: Mutex::default(),
            discoveries: AtomicUsize::new(0),
            fetches: AtomicUsize::new(0),
        });
        tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { address, state }
    }

    /// What its tokens say in `iss`.
    pub(crate) fn url(&self) -> &str {
        &self.state.url
    }

    pub(crate) fn jwks_url(&self) -> String {
        format!("{}/keys", self.state.url)
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The key that signs now.
    pub(crate) fn key(&self) -> Arc<Key> {
        let keys = self.state.keys.lock().expect("no holder panics");
        Arc::clone(keys.last().expect("an issuer has a key"))
    }

    /// A token that lacks nothing.
    pub(crate) fn token(&self, subject: &str) -> Token {
        Token::new(self.key(), self.url(), AUDIENCE, subject)
    }

    /// Serves one more key and signs with it from now on. The older ones are still served.
    pub(crate) fn rotate(&self, to: Arc<Key>) {
        self.state.keys.lock().expect("no holder panics").push(to);
    }

    /// Serves a key no longer.
    pub(crate) fn remove(&self, kid: &str) {
        let mut keys = self.state.keys.lock().expect("no holder panics");
        let before = keys.len();
        keys.retain(|key| key.kid() != kid);
        assert_eq!(keys.len() + 1, before, "the key was served");
    }

    /// Serves one more entry in the key set, of whatever kind.
    pub(crate) fn add_entry(&self, entry: Value) {
        let mut extra = self.state.extra.lock().expect("no holder panics");
        extra.push(entry);
    }

    pub(crate) fn behave(&self, mode: Mode) {
        self.state.mode.send_replace(mode);
    }

    /// How many times the key set was asked for.
    pub(crate) fn fetches(&self) -> usize {
        self.state.fetches.load(Ordering::SeqCst)
    }

    /// How many times the discovery document was asked for.
    pub(crate) fn discoveries(&self) -> usize {
        self.state.discoveries.load(Ordering::SeqCst)
    }

    pub(crate) fn jwks(&self) -> Value {
        self.state.jwks()
    }
}

impl State {
    fn jwks(&self) -> Value {
        let extra = self.extra.lock().expect("no holder panics").clone();
        let keys = self.keys.lock().expect("no holder panics");
        let keys: Vec<Value> = extra
            .into_iter()
            .chain(keys.iter().map(|key| key.jwk()))
            .collect();
        json!({"keys": keys})
    }

    async fn answer(&self, path: &str) -> Response<Full<Bytes>> {
        match path {
            "/.well-known/openid-configuration" => {
                self.discoveries.fetch_add(1, Ordering::SeqCst);
                let document = json!({
                    "issuer": self.url,
                    "jwks_uri": format!("{}/keys", self.url),
                    "id_token_signing_alg_values_supported": ["ES256", "RS256"],
                });
                json_answer(document.to_string().into())
            }
            "/keys" => {
                self.fetches.fetch_add(1, Ordering::SeqCst);
                let mut modes = self.mode.subscribe();
                let mode = modes
                    .wait_for(|mode| !matches!(mode, Mode::Hang))
                    .await
                    .expect("the sender is in this state")
                    .clone();
                match mode {
                    Mode::Serve => json_answer(self.jwks().to_string().into()),
                    Mode::Fail(status) => empty(status),
                    Mode::Body(body) => json_answer(body),
                    Mode::Redirect(to) => {
                        let mut answer = empty(302);
                        answer
                            .headers_mut()
                            .insert("location", to.parse().expect("a header's value"));
                        answer
                    }
                    Mode::Hang => unreachable!("waited for another mode above"),
                }
            }
            _ => empty(404),
        }
    }
}

fn json_answer(body: Bytes) -> Response<Full<Bytes>> {
    Response::builder()
        .header("content-type", "application/json")
        .body(Full::new(body))
        .expect("an answer")
}

fn empty(status: u16) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .body(Full::default())
        .expect("an answer")
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        let service = service_fn(move |request: Request<Incoming>| {
            let state = Arc::clone(&state);
            async move { Ok::<_, Infallible>(state.answer(request.uri().path()).await) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}
