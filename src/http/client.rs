//! A small HTTP client for what the gateway itself asks: key sets, discovery documents, collectors of
//! traces, and the admin API from the command line. HTTP/1.1, one deadline for everything, a bounded answer. It follows no
//! redirects, knows no proxies and keeps no cookies. Requests to services go through `upstream`.

use std::error::Error;
use std::future::pending;
use std::net::IpAddr;
use std::panic::resume_unwind;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use super::client_tls::{self, Files, FilesError};
use crate::base::causes::Causes;

/// Longest head of an answer, in bytes. The large cookies and policies that some providers send stay
/// well below.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Most header lines of an answer; hyper's own default, written out.
const HEADERS_MAX: usize = 100;

/// Where `http://`, which anybody on the way can read and change, is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainHttp {
    /// To this machine: 127.0.0.0/8, `::1`, `localhost`.
    Loopback,
    /// To every host.
    Everywhere,
}

impl PlainHttp {
    /// As `insecure_http` says.
    #[must_use]
    pub const fn allowed(insecure_http: bool) -> Self {
        if insecure_http {
            Self::Everywhere
        } else {
            Self::Loopback
        }
    }
}

/// Sends requests. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    inner: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    plain_http: PlainHttp,
    /// Where certificates were looked for in vain.
    no_roots: Option<&'static str>,
}

/// Why there was no answer, or not the one asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No certificate to trust.
    #[error("no trusted CA certificate found in {0}")]
    NoRoots(&'static str),
    /// Neither `http` nor `https`, no host, or a user name in it.
    #[error("not an http or https URL with a host and without user and password")]
    Url,
    /// `http://` to another machine.
    #[error("http:// is allowed to this machine alone; use https://, or set insecure_http = true")]
    PlainHttp,
    /// No connection, or it broke before the answer's head.
    #[error("no answer: {}", Causes(.0))]
    Connection(#[source] legacy::Error),
    /// The deadline passed.
    #[error("no complete answer in time")]
    Deadline,
    /// The answer broke off.
    #[error("the answer broke off: {}", Causes(&**.0))]
    Body(#[source] Box<dyn Error + Send + Sync>),
    /// The answer is longer than allowed.
    #[error("the answer is longer than {limit} bytes")]
    TooLarge {
        /// What was allowed.
        limit: usize,
    },
    /// Redirects are not followed: they lead where nobody configured.
    #[error("it redirects (status {0}), which is not followed; configure the final URL")]
    Redirect(StatusCode),
    /// Not 200.
    #[error("status {0} instead of 200")]
    Status(StatusCode),
}

impl Client {
    /// A client that believes and shows what is in `tls`. Reads files. Without any certificate to believe only `https://`
    /// fails.
    pub fn new(tls: &Files, plain_http: PlainHttp) -> Result<Self, FilesError> {
        let (config, has_roots) = tls.load()?;
        let no_roots = match &tls.ca {
            _ if has_roots => None,
            None => Some("the system's store"),
            Some(_) => Some("the given PEM file"),
        };
        let name = tls.server_name.clone();
        Ok(Self::over(config, name, no_roots, plain_http))
    }

    /// [`Client::new`] for a task, which must not wait for files.
    pub async fn open(tls: Files, plain_http: PlainHttp) -> Result<Self, FilesError> {
        match spawn_blocking(move || Self::new(&tls, plain_http)).await {
            Ok(client) => client,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The runtime ends, and this task with it.
                Err(_) => pending().await,
            },
        }
    }

    /// A client for `http://` alone. It trusts no certificate and reads no file.
    #[must_use]
    pub fn plain(plain_http: PlainHttp) -> Self {
        let config = client_tls::anonymous(RootCertStore::empty());
        Self::over(config, None, Some("a client for http://"), plain_http)
    }

    fn over(
        tls: ClientConfig,
        server_name: Option<ServerName<'static>>,
        no_roots: Option<&'static str>,
        plain_http: PlainHttp,
    ) -> Self {
        let mut http = HttpConnector::new();
        // The connector around it decides by the scheme.
        http.enforce_http(false);
        http.set_nodelay(true);
        let mut connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http();
        if let Some(name) = server_name {
            connector = connector.with_server_name_resolver(FixedServerNameResolver::new(name));
        }
        let connector = connector.enable_http1().wrap_connector(http);
        Self {
            inner: legacy::Client::builder(TokioExecutor::new())
                .http1_max_buf_size(HEAD_BYTES_MAX)
                .http1_max_headers(HEADERS_MAX)
                .build(connector),
            plain_http,
            no_roots,
        }
    }

    /// The JSON at `uri`: the answer to a GET, status 200 and at most `limit` bytes. Whether it is
    /// JSON is left to the caller; providers are careless with the content type.
    pub async fn get_json(
        &self,
        uri: &Uri,
        limit: usize,
        deadline: Instant,
    ) -> Result<Response<Bytes>, ClientError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let request = (Method::GET, uri, headers, Bytes::new());
        self.send(request, limit, deadline, is_ok).await
    }

    /// Sends one request and reads the whole answer, whatever its status: at most `limit` bytes of
    /// body, all before `deadline`.
    pub async fn request(
        &self,
        method: Method,
        uri: &Uri,
        headers: HeaderMap,
        body: Bytes,
        limit: usize,
        deadline: Instant,
    ) -> Result<Response<Bytes>, ClientError> {
        self.send((method, uri, headers, body), limit, deadline, |_| Ok(()))
            .await
    }

    async fn send(
        &self,
        (method, uri, headers, body): (Method, &Uri, HeaderMap, Bytes),
        limit: usize,
        deadline: Instant,
        accept: fn(StatusCode) -> Result<(), ClientError>,
    ) -> Result<Response<Bytes>, ClientError> {
        self.check(uri)?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers;
        let exchange = async {
            let answer = self
                .inner
                .request(request)
                .await
                .map_err(ClientError::Connection)?;
            // The body of an answer that is of no use is not read.
            accept(answer.status())?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, limit).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    ClientError::TooLarge { limit }
                } else {
                    ClientError::Body(error)
                }
            })?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        timeout_at(deadline, exchange)
            .await
            .unwrap_or(Err(ClientError::Deadline))
    }

    fn check(&self, uri: &Uri) -> Result<(), ClientError> {
        let authority = uri.authority().ok_or(ClientError::Url)?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(ClientError::Url);
        }
        match uri.scheme_str() {
            Some("https") => self
                .no_roots
                .map_or(Ok(()), |place| Err(ClientError::NoRoots(place))),
            Some("http") => {
                if self.plain_http == PlainHttp::Everywhere || is_loopback(authority.host()) {
                    Ok(())
                } else {
                    Err(ClientError::PlainHttp)
                }
            }
            _ => Err(ClientError::Url),
        }
    }
}

fn is_ok(status: StatusCode) -> Result<(), ClientError> {
    if status == StatusCode::OK {
        Ok(())
    } else if status.is_redirection() {
        Err(ClientError::Redirect(status))
    } else {
        Err(ClientError::Status(status))
    }
}

/// Whether a URL's host is this machine, as written: names other than `localhost` are not resolved.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rustls::pki_types::CertificateDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::base::refusing::Refusing;

    /// Long enough for a busy machine; a test that runs into it fails.
    const LONG: Duration = Duration::from_mins(1);

    fn soon() -> Instant {
        Instant::now() + LONG
    }

    /// A server that answers every connection's first request with `answer`, then, if asked to, keeps
    /// the connection open without another word. Yields what the clients sent.
    async fn server(answer: String, stay: bool) -> (Uri, tokio::sync::mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/keys", listener.local_addr().unwrap());
        let (tell, hears) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                tell.send(String::from_utf8(request).unwrap())
                    .await
                    .unwrap();
                // A client that gives up early is one of the things tested.
                let _ = stream.write_all(answer.as_bytes()).await;
                if stay {
                    open.push(stream);
                }
            }
        });
        (uri.parse().unwrap(), hears)
    }

    fn ok(body: &str) -> String {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    }

    #[tokio::test]
    async fn a_good_answer_is_read_whole() {
        let (uri, mut hears) = server(ok("{}"), false).await;
        let answer = Client::plain(PlainHttp::Loopback)
            .get_json(&uri, 2, soon())
            .await
            .unwrap();
        assert_eq!(answer.body(), "{}");
        let request = hears.recv().await.unwrap();
        assert!(request.starts_with("GET /keys HTTP/1.1\r\n"), "{request}");
        assert!(
            request.contains("accept: application/json\r\n"),
            "{request}"
        );
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_is_refused() {
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n{ }\r\n0\r\n\r\n";
        for answer in [ok("{ }"), chunked.into()] {
            let (uri, _hears) = server(answer, false).await;
            let error = Client::plain(PlainHttp::Loopback)
                .get_json(&uri, 2, soon())
                .await;
            assert!(matches!(error, Err(ClientError::TooLarge { limit: 2 })));
        }
    }

    #[tokio::test]
    async fn redirects_are_not_followed() {
        for status in [301, 302, 303, 307, 308] {
            let (target, mut hears) = server(ok("{}"), false).await;
            let answer = format!(
                "HTTP/1.1 {status} Moved\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n"
            );
            let (uri, _hears) = server(answer, true).await;
            let error = Client::plain(PlainHttp::Loopback)
                .get_json(&uri, 9, soon())
                .await;
            assert!(matches!(error, Err(ClientError::Redirect(s)) if s == status));
            assert!(hears.try_recv().is_err(), "nobody went there");
        }
    }

    #[tokio::test]
    async fn only_200_counts_for_json_and_every_status_for_a_request() {
        let answer = "HTTP/1.1 404 No\r\ncontent-length: 2\r\n\r\nno";
        let (uri, mut hears) = server(answer.into(), false).await;
        let client = Client::plain(PlainHttp::Loopback);
        let error = client.get_json(&uri, 9, soon()).await;
        assert!(matches!(error, Err(ClientError::Status(s)) if s == 404));
        hears.recv().await.unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("x-test", HeaderValue::from_static("yes"));
        let answer = client
            .request(Method::DELETE, &uri, headers, Bytes::new(), 9, soon())
            .await
            .unwrap();
        assert_eq!(
            (answer.status().as_u16(), &**answer.body()),
            (404, &b"no"[..])
        );
        let request = hears.recv().await.unwrap();
        assert!(request.starts_with("DELETE /keys ") && request.contains("x-test: yes"));
    }

    #[tokio::test]
    async fn a_slow_answer_meets_the_deadline() {
        let cut = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{";
        for answer in ["", "HTTP/1.1 200 OK\r\n", cut] {
            let (uri, _hears) = server(answer.into(), true).await;
            let client = Client::plain(PlainHttp::Loopback);
            let deadline = Instant::now() + Duration::from_millis(100);
            let error = client.get_json(&uri, 9, deadline).await;
            assert!(matches!(error, Err(ClientError::Deadline)));
        }
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_no_answer() {
        let cut = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{";
        let (uri, _hears) = server(cut.into(), false).await;
        let error = Client::plain(PlainHttp::Loopback)
            .get_json(&uri, 9, soon())
            .await;
        assert!(matches!(error, Err(ClientError::Body(_))));
    }

    #[tokio::test]
    async fn a_dead_host_is_named_as_the_cause() {
        let nobody = Refusing::start();
        let error = Client::plain(PlainHttp::Loopback)
            .get_json(&nobody.url().parse().unwrap(), 9, soon())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
    }

    #[test]
    fn plain_http_goes_to_this_machine_alone() {
        let check = |uri: &str| Client::plain(PlainHttp::Loopback).check(&uri.parse().unwrap());
        for uri in [
            "http://127.0.0.1/",
            "http://127.8.9.1:80/",
            "http://[::1]:80/",
            "http://localhost/",
            "http://LOCALHOST:80/",
        ] {
            assert!(check(uri).is_ok(), "{uri}");
        }
        for uri in [
            "http://id.example.com/",
            "http://128.0.0.1/",
            "http://127.0.0.1.example.com/",
            "http://localhost.example.com/",
            "http://[::2]/",
            "http://0.0.0.0/",
        ] {
            assert!(matches!(check(uri), Err(ClientError::PlainHttp)), "{uri}");
        }
        let everywhere = Client::plain(PlainHttp::Everywhere);
        assert!(
            everywhere
                .check(&"http://id.example.com/".parse().unwrap())
                .is_ok()
        );
        for uri in ["/keys", "ftp://localhost/", "https://user:pass@localhost/"] {
            assert!(matches!(check(uri), Err(ClientError::Url)), "{uri}");
        }
    }

    #[tokio::test]
    async fn only_the_given_ca_is_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let believing = async |pem: &str| {
            let path = folder.path().join("ca.pem");
            std::fs::write(&path, pem).unwrap();
            let files = Files {
                ca: Some(path),
                ..Files::default()
            };
            Client::open(files, PlainHttp::Loopback).await.unwrap()
        };
        let issued = Issued::new();
        let uri = tls_server(&issued).await;
        let client = believing(&issued.ca).await;
        let answer = client.get_json(&uri, 9, soon()).await.unwrap();
        assert_eq!(answer.body(), "{}");
        let client = believing(&Issued::new().ca).await;
        let error = client.get_json(&uri, 9, soon()).await.unwrap_err();
        assert!(error.to_string().contains("certificate"), "{error}");
        let client = believing("no certificate").await;
        let error = client.get_json(&uri, 9, soon()).await.unwrap_err();
        assert!(matches!(error, ClientError::NoRoots("the given PEM file")));
    }

    /// A CA and a certificate of it for `localhost`.
    struct Issued {
        ca: String,
        certificate: CertificateDer<'static>,
        key: Vec<u8>,
    }

    impl Issued {
        fn new() -> Self {
            let ca_key = rcgen::KeyPair::generate().unwrap();
            let mut ca = rcgen::CertificateParams::default();
            ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
            let issuer = rcgen::Issuer::new(ca, ca_key);
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap();
            Self {
                ca: ca_pem,
                certificate: certificate.der().clone(),
                key: key.serialize_der(),
            }
        }
    }

    async fn tls_server(issued: &Issued) -> Uri {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(issued.key.clone());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![issued.certificate.clone()], key.into())
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(mut stream) = acceptor.accept(stream).await {
                        let mut request = Vec::new();
                        while !request.ends_with(b"\r\n\r\n") {
                            request.push(stream.read_u8().await.unwrap());
                        }
                        stream.write_all(ok("{}").as_bytes()).await.unwrap();
                        stream.shutdown().await.unwrap();
                    }
                });
            }
        });
        format!("https://localhost:{port}/").parse().unwrap()
    }
}
