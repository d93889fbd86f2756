//! What an operator sets of an upstream.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;

use super::balance::Balance;
use super::health::Health;
use super::outlier::Outlier;
use super::retry::Retries;
use super::tls::Tls;
use crate::base::names::UpstreamName;

/// `[[upstreams]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Unique.
    pub name: UpstreamName,
    /// At least one. All of them with TLS, or none.
    pub servers: Vec<Server>,
    /// Which of them gets a request. Default round robin.
    pub balance: Balance,
    /// When one of them gets no more requests for a while.
    pub outlier: Outlier,
    /// How the control plane asks servers whether they are well. Default: it does not.
    pub health: Option<Health>,
    /// What is sent once more. Default: nothing that was sent.
    pub retries: Option<Retries>,
    /// Most requests under way. Default: no bound.
    pub max_requests: Option<usize>,
    /// Most connections. Default: no bound.
    pub max_connections: Option<usize>,
    /// HTTP/2 instead of HTTP/1.1: by ALPN with TLS, by prior knowledge without. Default false.
    pub http2: bool,
    /// For one connection to stand, its TLS handshake included. Default 5 s.
    pub connect_timeout: Duration,
    /// A pooled connection is closed after this time without a request. Default 60 s.
    pub idle_timeout: Duration,
    /// Most idle connections kept by one worker for one server. Default 128.
    pub max_idle: usize,
}

/// One server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// `http://host:port`; the host is an address or a name.
    Tcp {
        /// Name or address, without brackets.
        host: Arc<str>,
        /// Default 80.
        port: u16,
    },
    /// `https://host:port`
    Tls {
        /// Name or address, without brackets.
        host: Arc<str>,
        /// Default 443.
        port: u16,
        /// Who must be there.
        tls: Tls,
    },
    /// `unix:/path`
    Unix(PathBuf),
}

impl Options {
    /// One server, and nothing else said.
    #[cfg(test)]
    pub(crate) fn of(server: Server) -> Self {
        Self {
            name: UpstreamName::new("u"),
            servers: vec![server],
            balance: Balance::RoundRobin,
            outlier: Outlier {
                failures: 5,
                eject_for: Duration::from_secs(30),
                max_ejected: 50,
                count_5xx: false,
            },
            health: None,
            retries: None,
            max_requests: None,
            max_connections: None,
            http2: false,
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_mins(1),
            max_idle: 8,
        }
    }

    /// The scheme of requests, as HTTP/2 says it.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        if self.servers.iter().any(Server::is_tls) {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        }
    }
}

impl Server {
    /// Whom a request that nobody sent on is for: `host:port`, or `localhost`.
    pub(super) fn authority(&self) -> String {
        match self {
            Self::Tcp { host, port } | Self::Tls { host, port, .. } if host.contains(':') => {
                format!("[{host}]:{port}")
            }
            Self::Tcp { host, port } | Self::Tls { host, port, .. } => format!("{host}:{port}"),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }

    /// The name that must be resolved, and the port; None for addresses and sockets.
    #[must_use]
    pub fn name(&self) -> Option<(&str, u16)> {
        match self {
            Self::Tcp { host, port } | Self::Tls { host, port, .. } => {
                let is_name = host.parse::<IpAddr>().is_err();
                is_name.then_some((host, *port))
            }
            Self::Unix(_) => None,
        }
    }

    pub(super) const fn is_tls(&self) -> bool {
        matches!(self, Self::Tls { .. })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(f, "http://{host}:{port}"),
            Self::Tls { host, port, .. } => write!(f, "https://{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
