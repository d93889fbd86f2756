//! What an operator sets of an upstream.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::base::names::UpstreamName;

/// `[[upstreams]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Unique.
    pub name: UpstreamName,
    /// At least one; used in turn.
    pub servers: Vec<Server>,
    /// HTTP/2 by prior knowledge instead of HTTP/1.1. Default false.
    pub http2: bool,
    /// For one connection to stand. Default 5 s.
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
    /// `unix:/path`
    Unix(PathBuf),
}
