//! Where the fleet's Redis or Valkey is, and how it is spoken to: what an operator sets. The connections are made in
//! `control/denylist/relay`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::base::secret::Secret;

/// How the server is found, who we are there, and how long it may take.
#[derive(Debug)]
pub struct Options {
    /// `denylist.redis.url`
    pub place: Place,
    /// Of the server's address, or of whom Sentinel and Cluster name.
    pub login: Option<Login>,
    /// Of the sentinels, which have passwords of their own.
    pub sentinel_login: Option<Login>,
    /// None: plain TCP, or a Unix socket.
    pub tls: Option<Tls>,
    /// The keys are `{stream}:rules`, `{stream}:epoch` and `{stream}:members`. Default `jotgate`.
    pub stream: Box<str>,
    /// As many replicas must have a change before it counts as relayed. Default 0.
    pub replicas_min: u32,
    /// For one connection to stand, TLS and login included. Default 2 s.
    pub connect_timeout: Duration,
    /// For one answer. Default 1 s.
    pub command_timeout: Duration,
}

/// Where the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `redis://host:port/database`
    Server {
        /// Where.
        at: Peer,
        /// Usually 0.
        database: u32,
    },
    /// `unix:/path`
    Unix(PathBuf),
    /// `redis+sentinel://host:port,host:port/service`: they know who the primary is now.
    Sentinels {
        /// At least one.
        at: Vec<Peer>,
        /// The primary's name there.
        service: Box<str>,
    },
    /// `redis+cluster://host:port,host:port`: each node knows who owns our keys.
    Cluster(Vec<Peer>),
}

/// A name or address, without brackets, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Name or address.
    pub host: Box<str>,
    /// Default 6379, of a sentinel 26379.
    pub port: u16,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

/// Who we are.
#[derive(Debug)]
pub struct Login {
    /// None: the user `default`.
    pub user: Option<Box<str>>,
    /// UTF-8.
    pub password: Secret,
}

/// How TLS is spoken.
#[derive(Clone)]
pub struct Tls {
    /// Whom we believe, and who we are.
    pub config: Arc<ClientConfig>,
    /// What each certificate must name; none: the host that is called.
    pub name: Option<ServerName<'static>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
