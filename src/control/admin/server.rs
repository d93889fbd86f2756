//! The listeners of the admin API and of probes: HTTP/1.1, the former over TLS if configured, with a bound on everything that
//! a caller can hold on to.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::Answer;
use super::problem::Problem;
use super::{Admin, Views, api};
use crate::listener::tls::Tls;

/// Most connections at once; more wait in the listener's queue. Operators, a scraper, probes: a dozen.
const CONNECTIONS_MAX: usize = 128;

/// A head must be whole after this, and a kept connection must send its next one. Frees the place of silent callers; probes come every 10 s.
const HEAD_DEADLINE: Duration = Duration::from_secs(15);

/// From the end of the head to the answer: 10 s for a body, up to 30 s that its caller asks to wait, and some for the work.
const REQUEST_DEADLINE: Duration = Duration::from_secs(45);

/// A connection that is older ends after its current request, so that nobody holds a place by reading slowly.
const CONNECTION_LIFE: Duration = Duration::from_mins(10);

/// What a connection may take to end after it was asked to.
const GOODBYE: Duration = Duration::from_secs(5);

/// Longest head, in bytes.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Most header lines.
const HEADERS_MAX: usize = 64;

/// After the system refused to accept (too many files), so that the refusal is not asked for in a loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the admin API until shutdown. Returns when the last connection has ended.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    admin: Arc<Admin>,
    shutdown: CancellationToken,
) {
    serve_at_most(CONNECTIONS_MAX, (listener, tls), admin, shutdown).await;
}

pub(super) async fn serve_at_most(
    connections_max: usize,
    door: (TcpListener, Option<Arc<Tls>>),
    admin: Arc<Admin>,
    shutdown: CancellationToken,
) {
    let answer = move |client, request| {
        let admin = Arc::clone(&admin);
        async move { answer(&admin, client, request).await }
    };
    run(connections_max, door, answer, shutdown).await;
}

/// Serves `/live`, `/ready` and `/metrics` alone, until shutdown. It has no callers and no denylist to reach.
pub async fn serve_probes(listener: TcpListener, views: Views, shutdown: CancellationToken) {
    let answer = move |_, request: Request<Incoming>| {
        let answer = api::probe(&views, request.method(), request.uri().path());
        std::future::ready(answer.unwrap_or_else(Problem::into_answer))
    };
    run(CONNECTIONS_MAX, (listener, None), answer, shutdown).await;
}

async fn run<A, F>(
    connections_max: usize,
    (listener, tls): (TcpListener, Option<Arc<Tls>>),
    answer: A,
    shutdown: CancellationToken,
) where
    A: Fn(IpAddr, Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(connections_max));
    let connections = TaskTracker::new();
    while let Some((stream, client, place)) = shutdown
        .run_until_cancelled(accept(&listener, &places))
        .await
    {
        let (tls, answer, shutdown) = (tls.clone(), answer.clone(), shutdown.clone());
        connections.spawn(async move {
            let _place = place;
            // Answers are written whole; waiting for more would only delay them. Without it they still arrive.
            let _ = stream.set_nodelay(true);
            let Some(tls) = tls else {
                return connection((stream, client), answer, shutdown).await;
            };
            let handshake = tls.accept(stream);
            let handshake = tokio::time::timeout(tls.options().handshake_timeout, handshake);
            match shutdown.run_until_cancelled(handshake).await {
                Some(Ok(Ok(secured))) => {
                    connection((secured.stream, client), answer, shutdown).await;
                }
                Some(Ok(Err(error))) => {
                    tracing::debug!(%error, "a TLS handshake of the admin API failed");
                }
                Some(Err(_)) | None => {}
            }
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, IpAddr, OwnedSemaphorePermit) {
    let place = Arc::clone(places)
        .acquire_owned()
        .await
        .expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, client)) => return (stream, client.ip(), place),
            Err(error) => {
                tracing::warn!(%error, "the admin listener cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection<S, A, F>((stream, client): (S, IpAddr), answer: A, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin,
    A: Fn(IpAddr, Request<Incoming>) -> F,
    F: Future<Output = Answer>,
{
    let service = service_fn(move |request| {
        let answer = answer(client, request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        result = connection.as_mut() => {
            if let Err(error) = result {
                tracing::debug!(%error, "a connection of the admin API ended early");
            }
            return;
        }
        () = shutdown.cancelled() => {}
        () = tokio::time::sleep(CONNECTION_LIFE) => {}
    }
    connection.as_mut().graceful_shutdown();
    if tokio::time::timeout(GOODBYE, connection).await.is_err() {
        tracing::debug!("a connection of the admin API was cut");
    }
}

async fn answer(admin: &Admin, client: IpAddr, request: Request<Incoming>) -> Answer {
    match tokio::time::timeout(REQUEST_DEADLINE, api::answer(admin, client, request)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(problem)) => {
            if let Some(code) = problem.refusal() {
                admin.refusals.with_label_values(&[code]).inc();
            }
            problem.into_answer()
        }
        Err(_) => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "deadline",
            "no answer in time; what was asked may or may not have happened, and asking again does no harm",
        )
        .into_answer(),
    }
}
