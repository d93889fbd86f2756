//! A small HTTP/1.1 server for the demo's own services: every request is answered at once, from its head alone.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections at the same time. One person and one gateway call; more wait in the accept queue.
const CONNECTIONS_MAX: usize = 256;

/// From the accepted connection, or the last answer, to the end of the next head: longer than the gateway keeps an
/// idle connection is not needed, it opens a new one.
const HEAD: Duration = Duration::from_mins(1);

/// How long to wait when the system has no more file handles, before asking again.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Serves until the task is dropped.
pub(super) async fn serve(
    listener: TcpListener,
    answer: impl Fn(Request<Incoming>) -> Response<Full<Bytes>> + Send + Sync + 'static,
) {
    let answer = Arc::new(answer);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(EXHAUSTED).await;
            continue;
        };
        let answer = Arc::clone(&answer);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let response = answer(request);
                async move { Ok::<_, Infallible>(response) }
            });
            // A connection that breaks is its client's affair.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(place);
        });
    }
}

/// An answer in JSON, with a newline at its end for the terminal.
pub(super) fn json(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    plain(status, "application/json", format!("{value:#}\n"))
}

/// An answer that nobody may keep.
pub(super) fn plain(
    status: StatusCode,
    content_type: &'static str,
    body: String,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn it_answers_over_a_socket_and_keeps_serving() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let answer = |request: Request<Incoming>| {
            plain(
                StatusCode::OK,
                "text/plain",
                request.uri().path().to_owned(),
            )
        };
        let server = tokio::spawn(serve(listener, answer));
        for path in ["/one", "/two"] {
            let mut stream = TcpStream::connect(address).await.expect("connected");
            let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.expect("sent");
            let mut said = String::new();
            stream.read_to_string(&mut said).await.expect("answered");
            assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said}");
            assert!(said.contains("cache-control: no-store\r\n"), "{said}");
            assert!(said.ends_with(path), "{said}");
        }
        server.abort();
    }
}
