//! A connection to one server, spoken for by its sender; the task that drives it ends with the sender and its last body.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use http_body::Body;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::spawn_local;
use tokio_rustls::client::TlsStream;

use super::circuit::ConnectionPlace;
use super::endpoint::Endpoint;
use super::io::{ServiceIo, TlsFault};
use super::options::Server;
use super::tls::Tls;
use crate::http::executor::LocalExecutor;

/// Why a request did not get an answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No server passes its health checks: nothing was sent.
    #[error("no healthy server")]
    NoServer,
    /// The upstream has as much to do as it may: nothing was sent.
    #[error("the service has as much to do as it may")]
    Full,
    /// No connection to any server: nothing was sent.
    #[error("no connection to the service")]
    Connect(#[source] io::Error),
    /// No connection in time: nothing was sent.
    #[error("no connection to the service in time")]
    ConnectTimeout,
    /// No TLS: the server is not who it should be, does not believe us, or speaks something else. No request was answered.
    #[error("no TLS with the service")]
    Handshake(#[source] io::Error),
    /// No answer within `per_try_timeout`, and then no other server.
    #[error("the service did not answer in time")]
    TryTimeout,
    /// The connection ended, or carried something that is no HTTP, before the head of the answer.
    #[error("the service gave no answer")]
    NoAnswer(#[source] hyper::Error),
}

impl SendError {
    /// Whether we lack sockets, ports or memory ourselves: no server is to blame.
    pub(super) fn is_ours(&self) -> bool {
        let Self::Connect(error) = self else {
            return false;
        };
        let kinds = [io::ErrorKind::AddrNotAvailable, io::ErrorKind::OutOfMemory];
        let code = error.raw_os_error();
        kinds.contains(&error.kind()) || code.is_some_and(|code| EXHAUSTED.contains(&code))
    }
}

/// `ENFILE`, `EMFILE` and `ENOBUFS` of Linux (`errno(3)`), which the standard library has no words for.
const EXHAUSTED: [i32; 3] = [23, 24, 105];

/// Most header lines and the largest head of an answer, in bytes: twice what nginx allows by default in all its buffers.
const ANSWER_HEADERS_MAX: usize = 256;
const ANSWER_HEAD_BYTES_MAX: usize = 64 * 1024;

/// How often an HTTP/2 connection is asked for a sign of life, and how long it has for one. All requests of a thread share
/// it, and the system notices a server that vanished only after a quarter of an hour.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// HTTP/1.1 over a new connection.
pub(super) async fn http1<B>(
    endpoint: &Endpoint,
    place: ConnectionPlace,
) -> Result<http1::SendRequest<B>, SendError>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
{
    let address = endpoint.address;
    match &endpoint.server {
        Server::Tcp { host, port } => http1_over(tcp(host, *port, address).await?, place).await,
        Server::Tls { host, port, tls } => {
            http1_over(encrypted((host, *port, address), tls, false).await?, place).await
        }
        Server::Unix(path) => http1_over(unix(path).await?, place).await,
    }
}

async fn http1_over<B, S>(
    stream: S,
    place: ConnectionPlace,
) -> Result<http1::SendRequest<B>, SendError>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1_builder()
        .handshake(ServiceIo::new(stream, place))
        .await
        .map_err(SendError::NoAnswer)?;
    // Its error is also the answer to the request in flight.
    spawn_local(async { drop(connection.with_upgrades().await) });
    Ok(sender)
}

/// With the bounds of every answer.
pub(super) fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .max_headers(ANSWER_HEADERS_MAX)
        .max_header_size(ANSWER_HEAD_BYTES_MAX)
        // Also the largest piece of a body, which waits as a whole for a client that does not read.
        .max_buf_size(ANSWER_HEAD_BYTES_MAX);
    builder
}

/// HTTP/2 over a new connection, and why its TLS broke, as soon as it does.
pub(super) async fn http2<B>(
    endpoint: &Endpoint,
    place: ConnectionPlace,
) -> Result<(http2::SendRequest<B>, TlsFault), SendError>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin + 'static,
{
    let address = endpoint.address;
    match &endpoint.server {
        Server::Tcp { host, port } => http2_over(tcp(host, *port, address).await?, place).await,
        Server::Tls { host, port, tls } => {
            http2_over(encrypted((host, *port, address), tls, true).await?, place).await
        }
        Server::Unix(path) => http2_over(unix(path).await?, place).await,
    }
}

async fn http2_over<B, S>(
    stream: S,
    place: ConnectionPlace,
) -> Result<(http2::SendRequest<B>, TlsFault), SendError>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = ServiceIo::new(stream, place);
    let fault = io.fault();
    let (sender, connection) = http2_builder(LocalExecutor)
        .handshake(io)
        .await
        .map_err(SendError::NoAnswer)?;
    spawn_local(async { drop(connection.await) });
    Ok((sender, fault))
}

/// With the bounds of every answer. `executor` runs what the connection needs beside itself.
pub(super) fn http2_builder<E: Clone>(executor: E) -> http2::Builder<E> {
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_header_list_size(u32::try_from(ANSWER_HEAD_BYTES_MAX).unwrap_or(u32::MAX));
    builder
}

pub(super) async fn unix(path: &Path) -> Result<UnixStream, SendError> {
    UnixStream::connect(path).await.map_err(SendError::Connect)
}

pub(super) async fn encrypted(
    (host, port, address): (&str, u16, Option<SocketAddr>),
    tls: &Tls,
    http2: bool,
) -> Result<TlsStream<TcpStream>, SendError> {
    let stream = tcp(host, port, address).await?;
    tls.handshake(stream, http2)
        .await
        .map_err(SendError::Handshake)
}

/// `address`: that of a name. Without it the host is an address itself.
pub(super) async fn tcp(
    host: &str,
    port: u16,
    address: Option<SocketAddr>,
) -> Result<TcpStream, SendError> {
    let connected = match address {
        Some(address) => TcpStream::connect(address).await,
        None => TcpStream::connect((host, port)).await,
    };
    let stream = connected.map_err(SendError::Connect)?;
    stream.set_nodelay(true).map_err(SendError::Connect)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_server_is_to_blame_for_what_we_lack() {
        let of_system = |code| SendError::Connect(io::Error::from_raw_os_error(code));
        for (code, is_ours) in [
            (24, true),   // EMFILE
            (99, true),   // EADDRNOTAVAIL
            (12, true),   // ENOMEM
            (111, false), // ECONNREFUSED
            (113, false), // EHOSTUNREACH
        ] {
            assert_eq!(of_system(code).is_ours(), is_ours, "{code}");
        }
        assert!(!SendError::ConnectTimeout.is_ours());
    }
}
