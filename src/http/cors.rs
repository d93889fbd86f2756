//! Cross-origin resource sharing, by the Fetch standard (<https://fetch.spec.whatwg.org/#http-cors-protocol>).

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

/// `routes.cors`
#[derive(Clone, Debug)]
pub struct Cors {
    /// Exact origins, or `*`.
    pub origins: CorsOrigins,
    /// Default: those of the route, else GET, HEAD, POST.
    pub methods: Vec<Method>,
    /// Allowed request headers. Default `authorization`, `content-type`.
    pub headers: Vec<HeaderName>,
    /// Response headers that scripts may read.
    pub expose: Vec<HeaderName>,
    /// Cookies and credentials; not together with `*`.
    pub credentials: bool,
    /// How long a preflight holds. Default 10 min.
    pub max_age: Duration,
    /// Whether a preflight is passed to the service instead of being answered here. Default false.
    pub pass_preflight: bool,
}

/// Which origins a route lets read its answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsOrigins {
    /// `*`
    Any,
    /// Compared byte by byte.
    Listed(Vec<HeaderValue>),
}
