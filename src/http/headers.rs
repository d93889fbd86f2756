//! Which header lines a proxy passes on.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue};

/// `Keep-Alive` and `Proxy-Connection` stand in no registry of `http`.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// Of the upgrade to HTTP/2 that nobody does any more (RFC 7540 section 3.2.1).
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// `Jotgate-Revoke: session | user | others`: what a service that is trusted asks of the gateway in its answer.
pub const JOTGATE_REVOKE: HeaderName = HeaderName::from_static("jotgate-revoke");

/// Whether `name` is for one connection only (RFC 9110 section 7.6.1). `Trailer` is not: trailers are passed on.
#[must_use]
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    *name == CONNECTION
        || *name == TRANSFER_ENCODING
        || *name == TE
        || *name == UPGRADE
        || *name == KEEP_ALIVE
        || *name == PROXY_CONNECTION
        || *name == HTTP2_SETTINGS
        || *name == PROXY_AUTHORIZATION
        || *name == PROXY_AUTHENTICATE
}

/// Whether a service that folds signs may read `name` as a length or transfer coding, though for HTTP it is none:
/// `Transfer_Encoding` is `HTTP_TRANSFER_ENCODING` behind WSGI.
#[must_use]
pub fn is_alias_of_framing(name: &HeaderName) -> bool {
    [CONTENT_LENGTH, TRANSFER_ENCODING]
        .iter()
        .any(|framing| is_alias(name, framing))
}

/// Whether `name` is another spelling of `other` for a service that folds signs, and not `other` itself.
#[must_use]
pub fn is_alias(name: &HeaderName, other: &HeaderName) -> bool {
    name != other && letters(name).eq(letters(other))
}

/// Most connection options looked at. Real ones are `close`, `keep-alive`, `upgrade`, `te`.
const CONNECTION_OPTIONS_MAX: usize = 16;

/// A `Connection` line cannot be read, or there are too many options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the Connection header cannot be read")]
pub struct ConnectionFault;

/// Removes what is for this connection only: the fixed names and whatever any `Connection` line names
/// (`HeaderMap::get` sees only the first line). A length beside a transfer coding is not the body's (RFC 9112 section
/// 6.3) and goes with it.
pub fn drop_hop_by_hop(headers: &mut HeaderMap) -> Result<(), ConnectionFault> {
    let mut doomed = connection_options(headers)?;
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    doomed.extend(headers.keys().filter(|name| is_hop_by_hop(name)).cloned());
    for name in doomed {
        headers.remove(name);
    }
    Ok(())
}

/// The names in all `Connection` lines, but for options that name nothing beyond the fixed hop-by-hop headers.
pub fn connection_options(headers: &HeaderMap) -> Result<Vec<HeaderName>, ConnectionFault> {
    let mut options = vec![];
    for line in headers.get_all(CONNECTION) {
        let text = line.to_str().map_err(|_| ConnectionFault)?;
        for option in text
            .split(',')
            .map(str::trim)
            .filter(|option| !option.is_empty())
        {
            if is_common_option(option) {
                continue;
            }
            if options.len() == CONNECTION_OPTIONS_MAX {
                return Err(ConnectionFault);
            }
            options.push(HeaderName::from_bytes(option.as_bytes()).map_err(|_| ConnectionFault)?);
        }
    }
    Ok(options)
}

/// Options that name nothing beyond the fixed hop-by-hop headers.
fn is_common_option(option: &str) -> bool {
    ["close", "keep-alive", "upgrade", "te"]
        .iter()
        .any(|common| option.eq_ignore_ascii_case(common))
}

/// The letters and digits of a name, without case: what is left of it whatever a service makes of the other signs.
pub fn letters(name: &HeaderName) -> impl Iterator<Item = u8> + '_ {
    // `HeaderName` is in lower case.
    name.as_str().bytes().filter(u8::is_ascii_alphanumeric)
}

/// Whether a comma-separated header has `token` in any line, without case.
#[must_use]
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|text| text.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// The value of a header that must stand at most once.
pub fn single<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'h HeaderValue>, Doubled> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next();
    if lines.next().is_some() {
        Err(Doubled)
    } else {
        Ok(first)
    }
}

/// A header that must stand once stands more often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubled;

/// What a trailer section must not carry: framing, routing, credentials and what is for one connection (RFC 9110
/// section 6.5.1).
#[must_use]
pub fn is_forbidden_trailer(name: &HeaderName) -> bool {
    use http::header::{
        AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, COOKIE,
        EXPECT, HOST, SET_COOKIE, WWW_AUTHENTICATE,
    };
    is_hop_by_hop(name)
        || is_alias_of_framing(name)
        || *name == TRAILER
        || [
            AUTHORIZATION,
            CONTENT_ENCODING,
            CONTENT_LENGTH,
            CONTENT_RANGE,
            CONTENT_TYPE,
            COOKIE,
            EXPECT,
            HOST,
            SET_COOKIE,
            WWW_AUTHENTICATE,
        ]
        .contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    HeaderValue::from_bytes(value.as_bytes()).unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn every_connection_line_counts() {
        let mut lines = headers(&[
            ("connection", "close, X-One"),
            ("connection", "x-two"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("keep-alive", "5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "Basic x"),
        ]);
        drop_hop_by_hop(&mut lines).unwrap();
        assert_eq!(lines, headers(&[("x-three", "3")]));
    }

    #[test]
    fn a_length_beside_a_transfer_coding_goes_with_it() {
        let length = ("content-length", "5");
        let mut lines = headers(&[length, ("transfer-encoding", "chunked")]);
        drop_hop_by_hop(&mut lines).unwrap();
        assert!(lines.is_empty());
        let mut lines = headers(&[length]);
        drop_hop_by_hop(&mut lines).unwrap();
        assert_eq!(lines, headers(&[length]));
    }

    #[test]
    fn an_unreadable_connection_line_is_a_fault() {
        assert!(drop_hop_by_hop(&mut headers(&[("connection", "a b")])).is_err());
        assert!(drop_hop_by_hop(&mut headers(&[("connection", "\u{e9}")])).is_err());
        let many = (0..=CONNECTION_OPTIONS_MAX)
            .map(|n| format!("x{n}"))
            .collect::<Vec<_>>()
            .join(",");
        assert!(drop_hop_by_hop(&mut headers(&[("connection", &many)])).is_err());
    }
}
