//! URLs that the gateway itself calls: key sets and services.

use std::net::IpAddr;

use http::Uri;
use http::uri::Scheme;

use crate::route::Host;

/// Why a text is no URL that can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UrlError {
    /// No URL at all.
    #[error("is no URL; write one such as \"https://id.example.com/keys\"")]
    Syntax,
    /// Another scheme.
    #[error("must begin with https:// or http://")]
    Scheme,
    /// `user:password@`
    #[error("must not hold a user or password")]
    User,
    /// `#`
    #[error("must not have a fragment (#)")]
    Fragment,
}

/// Parses `http://` or `https://`, a host, an optional port, path and query.
pub(super) fn parse(text: &str) -> Result<Uri, UrlError> {
    if text.contains('#') {
        return Err(UrlError::Fragment);
    }
    let url: Uri = text.parse().map_err(|_| UrlError::Syntax)?;
    let authority = url.authority().ok_or(UrlError::Syntax)?;
    if url.scheme() != Some(&Scheme::HTTP) && url.scheme() != Some(&Scheme::HTTPS) {
        return Err(UrlError::Scheme);
    }
    if authority.as_str().contains('@') {
        return Err(UrlError::User);
    }
    if Host::parse(authority.as_str()).is_err() || authority.port_u16() == Some(0) {
        return Err(UrlError::Syntax);
    }
    Ok(url)
}

/// Whether the URL is unencrypted and leads away from this machine.
pub(super) fn is_exposed(url: &Uri) -> bool {
    url.scheme() == Some(&Scheme::HTTP) && !url.host().is_some_and(is_loopback)
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<bool, UrlError>) {
        assert_eq!(parse(text).map(|url| is_exposed(&url)), expected, "{text}");
    }

    #[test]
    fn urls_are_strict_and_plain_http_stays_on_this_machine() {
        check("https://id.example.com/realms/shop", Ok(false));
        check("http://localhost:8080/keys?x=1", Ok(false));
        check("http://127.8.0.1/keys", Ok(false));
        check("http://[::1]:8080/keys", Ok(false));
        check("http://id.example.com/keys", Ok(true));
        check("http://localhost.example.com/", Ok(true));
        check("http://127.0.0.1.example.com/", Ok(true));
        check("ftp://id.example.com/", Err(UrlError::Scheme));
        check("https://me:pw@id.example.com/", Err(UrlError::User));
        check("https://id.example.com/#x", Err(UrlError::Fragment));
        for text in [
            "",
            "/keys",
            "id.example.com",
            "https://",
            "https:///x",
            "https://a:0/",
            "https://a b/",
            "https://a..b/",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
