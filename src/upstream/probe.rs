//! One health check: a request on a connection of its own, which carries nothing else.

use std::pin::pin;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{HeaderValue, Method, Request, StatusCode, Uri, Version};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::select;

use super::connect::{SendError, encrypted, http1_builder, http2_builder, tcp, unix};
use super::endpoint::Endpoint;
use super::options::Server;

/// What the service's log shows.
const AGENT: HeaderValue = HeaderValue::from_static("jotgate-health-check");

/// Asks a server for `path` as requests are sent to it, over TLS or HTTP/2 where they are, within the bounds of their
/// answers, and waits for the head of the
/// answer; the caller bounds the time. Runs on any thread.
pub async fn probe(endpoint: &Endpoint, http2: bool, path: &str) -> Result<StatusCode, SendError> {
    let address = endpoint.address;
    match &endpoint.server {
        Server::Tcp { host, port } => {
            let stream = tcp(host, *port, address).await?;
            ask(endpoint, stream, http2, path).await
        }
        Server::Tls { host, port, tls } => {
            let stream = encrypted((host, *port, address), tls, http2).await?;
            ask(endpoint, stream, http2, path).await
        }
        Server::Unix(socket) => ask(endpoint, unix(socket).await?, http2, path).await,
    }
}

async fn ask<S>(
    endpoint: &Endpoint,
    stream: S,
    http2: bool,
    path: &str,
) -> Result<StatusCode, SendError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = request(&endpoint.server, http2, path);
    let io = TokioIo::new(stream);
    let response = if http2 {
        let connected = http2_builder(TokioExecutor::new()).handshake(io).await;
        let (mut sender, connection) = connected.map_err(SendError::NoAnswer)?;
        let mut asking = pin!(sender.send_request(request));
        select! {
            response = &mut asking => response,
            // Its error is also the answer's.
            _ = connection => asking.await,
        }
    } else {
        let connected = http1_builder().handshake(io).await;
        let (mut sender, connection) = connected.map_err(SendError::NoAnswer)?;
        let mut asking = pin!(sender.send_request(request));
        select! {
            response = &mut asking => response,
            _ = connection => asking.await,
        }
    };
    Ok(response.map_err(SendError::NoAnswer)?.status())
}

/// The configuration has shown that the path is one.
fn request(server: &Server, http2: bool, path: &str) -> Request<Empty<Bytes>> {
    let authority = server.authority();
    let scheme = if server.is_tls() { "https" } else { "http" };
    let whole = || Uri::try_from(format!("{scheme}://{authority}{path}"));
    let mut request = Request::new(Empty::new());
    *request.method_mut() = Method::GET;
    request.headers_mut().insert(USER_AGENT, AGENT);
    if http2 {
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = whole().unwrap_or_default();
    } else {
        *request.uri_mut() = Uri::try_from(path).unwrap_or_default();
        if let Ok(host) = HeaderValue::try_from(authority) {
            request.headers_mut().insert(HOST, host);
        }
    }
    request
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use http::Response;
    use hyper::server::conn::http2;
    use hyper::service::service_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;

    /// What a server on that socket hears, and what the check says of its answer.
    async fn checked(path: PathBuf, answer: &str) -> (String, Result<StatusCode, SendError>) {
        let listener = UnixListener::bind(&path).unwrap();
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                head.push(char::from(stream.read_u8().await.unwrap()));
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            head
        };
        let endpoint = Endpoint::new(0, Server::Unix(path), None);
        tokio::join!(serving, probe(&endpoint, false, "/well?deep=1"))
    }

    #[tokio::test]
    async fn a_socket_is_asked_and_what_it_says_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let answer = "HTTP/1.1 204 No Content\r\n\r\n";
        let (head, verdict) = checked(folder.path().join("a"), answer).await;
        assert!(head.starts_with("GET /well?deep=1 HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("\r\nhost: localhost\r\n"), "{head}");
        assert_eq!(verdict.unwrap(), 204);
        let (_, verdict) = checked(folder.path().join("b"), "").await;
        assert!(matches!(verdict, Err(SendError::NoAnswer(_))));
    }

    /// Lines that only jotgate's own bounds let pass: those of hyper are lower, and so would a good answer be a failure.
    #[tokio::test]
    async fn an_answer_may_have_as_many_lines_as_one_to_a_request() {
        let folder = tempfile::tempdir().unwrap();
        for (name, lines, is_well) in [("a", 150, true), ("b", 256, true), ("c", 257, false)] {
            let answer = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(lines));
            let (_, verdict) = checked(folder.path().join(name), &answer).await;
            assert_eq!(verdict.is_ok(), is_well, "{lines}: {verdict:?}");
        }
    }

    /// The same over HTTP/2, which counts bytes.
    #[tokio::test]
    async fn a_head_may_be_as_large_as_one_to_a_request() {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes, is_well) in [("a", 40 * 1024, true), ("b", 80 * 1024, false)] {
            let path = folder.path().join(name);
            let listener = UnixListener::bind(&path).unwrap();
            let serving = tokio::spawn(async move {
                let (stream, _) = listener.accept().await.unwrap();
                let answer = move |_| {
                    let answer = Response::builder().header("x", "y".repeat(bytes));
                    std::future::ready(answer.body(Empty::<Bytes>::new()))
                };
                let builder = http2::Builder::new(TokioExecutor::new());
                let serving = builder.serve_connection(TokioIo::new(stream), service_fn(answer));
                drop(serving.await);
            });
            let endpoint = Endpoint::new(0, Server::Unix(path), None);
            let verdict = probe(&endpoint, true, "/").await;
            assert_eq!(verdict.is_ok(), is_well, "{bytes}: {verdict:?}");
            serving.abort();
        }
    }

    #[test]
    fn the_host_is_the_server_s_own() {
        let server = |host: &str| Server::Tcp {
            host: host.into(),
            port: 81,
        };
        let first = request(&server("a"), false, "/");
        assert_eq!(first.headers()[HOST], "a:81");
        let second = request(&server("::1"), true, "/x");
        assert_eq!(second.uri(), "http://[::1]:81/x");
        assert!(!second.headers().contains_key(HOST));
    }
}
