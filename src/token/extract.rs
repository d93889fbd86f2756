//! Finds the one token of a request.

use http::HeaderName;

/// Where a route looks for its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// `Authorization: Bearer`. Default true unless another place is named.
    pub authorization: bool,
    /// Another header that holds the bare token, or `Bearer ` and the token.
    pub header: Option<HeaderName>,
    /// A cookie.
    pub cookie: Option<Box<str>>,
    /// A query parameter; always removed before the request is forwarded unless `forward`.
    pub query: Option<Box<str>>,
    /// Whether the service sees the token. Default false.
    pub forward: bool,
}
