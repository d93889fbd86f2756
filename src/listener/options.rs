//! What an operator sets of a listener.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::tls::Tls;
use crate::base::failures::Budget;

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `127.0.0.1:8080`
    Tcp(SocketAddr),
    /// `unix:/run/jotgate.sock`
    Unix(PathBuf),
}

/// `[[listeners]]`
#[derive(Clone, Debug)]
pub struct Options {
    /// Where.
    pub address: Address,
    /// None, the default: plain HTTP.
    pub tls: Option<Arc<Tls>>,
    /// HTTP/2, by prior knowledge; under TLS, by ALPN alone. Default true.
    pub http2: bool,
    /// Whether `trusted_proxies` say by the PROXY protocol whom they speak for, and nobody else is let in. Default false.
    pub proxy_protocol: bool,
    /// Peers whose `X-Forwarded-*` and `Forwarded` are believed. Default: none.
    pub trusted_proxies: Arc<[IpNet]>,
    /// Most open connections; further ones wait in the kernel's queue. Default 16,384.
    pub max_connections: usize,
    /// Most open connections of one address, trusted proxies excepted; further ones are closed. None, the default: no bound.
    pub max_connections_per_address: Option<NonZeroUsize>,
    /// Most requests at once, WebSockets included; further ones get 503. Default: `max_connections`.
    pub max_requests: usize,
    /// How often one address may send a wrong token before its unknown tokens get 429. None, the default: for ever.
    pub failure_limit: Option<Budget>,
    /// From the first byte of a request to the end of its head. Default 10 s.
    pub header_timeout: Duration,
    /// A connection without a request, also before its first byte; and one whose client takes nothing of its answer. Default 75 s.
    pub idle_timeout: Duration,
    /// Largest request head, in bytes (431). Default 32 KiB.
    pub max_header_size: usize,
    /// Most header lines (431). Default 100.
    pub max_headers: usize,
    /// Largest request body, in bytes (413). None, the default: no bound; bodies stream.
    pub max_body_size: Option<u64>,
    /// Longest silence of a client in the middle of its body (408). Default 60 s.
    pub body_timeout: Duration,
    /// Least rate of a client's body in bytes a second, once it has kept us waiting for `body_timeout` in all (408); 0: none.
    /// Default 240.
    pub body_min_rate: u64,
    /// Least rate at which a client takes its answers in bytes a second, once it has kept us waiting for `idle_timeout` in
    /// all; 0: none. Default 240.
    pub answer_min_rate: u64,
    /// Most concurrent streams of one HTTP/2 connection. Default 128.
    pub max_streams: u32,
}

impl Options {
    /// From accepting a connection to the end of all that comes before HTTP.
    pub(super) fn handshake_timeout(&self) -> Duration {
        self.tls
            .as_ref()
            .map_or(self.header_timeout, |tls| tls.options().handshake_timeout)
    }
}

#[cfg(test)]
impl Options {
    /// Every default, on a port that the system chooses.
    pub(crate) fn defaults() -> Self {
        Self {
            address: Address::Tcp(([127, 0, 0, 1], 0).into()),
            tls: None,
            http2: true,
            proxy_protocol: false,
            trusted_proxies: [].into(),
            max_connections: 16_384,
            max_connections_per_address: None,
            max_requests: 16_384,
            failure_limit: None,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            max_header_size: 32 * 1024,
            max_headers: 100,
            max_body_size: None,
            body_timeout: Duration::from_mins(1),
            body_min_rate: 240,
            answer_min_rate: 240,
            max_streams: 128,
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
