//! The host that a request names.

#[cfg(any(test, fuzzing))]
pub(crate) mod law;

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// The host a request names: ASCII lower case, no port, no trailing dot (RFC 9110 section 4.2.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host<'a>(Cow<'a, str>);

/// The authority is not one that two readers would read alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a host name or address with an optional port")]
pub struct HostError;

/// Longest host name, in bytes (RFC 1035 section 2.3.4).
const HOST_BYTES_MAX: usize = 255;

impl<'a> Host<'a> {
    /// Parses `host[:port]`: a name of letters, digits, `-`, `_` and `.`, or an IPv6 address in brackets.
    /// User information, percent signs and anything else are refused.
    pub fn parse(authority: &'a str) -> Result<Self, HostError> {
        let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
            let end = rest.find(']').ok_or(HostError)?;
            rest[..end].parse::<Ipv6Addr>().map_err(|_| HostError)?;
            (&authority[..end + 2], &rest[end + 1..])
        } else {
            let end = authority.find(':').unwrap_or(authority.len());
            let name = &authority[..end];
            let name_ok = name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
            let name = name.strip_suffix('.').unwrap_or(name);
            if !name_ok
                || name.is_empty()
                || name.starts_with('.')
                || name.as_bytes().windows(2).any(|pair| pair == b"..")
                || name.ends_with('.')
            {
                return Err(HostError);
            }
            (name, &authority[end..])
        };
        let port_ok = match port.strip_prefix(':') {
            None => port.is_empty(),
            Some(digits) => {
                digits.bytes().all(|b| b.is_ascii_digit())
                    && (digits.is_empty() || digits.parse::<u16>().is_ok())
            }
        };
        if !port_ok || host.len() > HOST_BYTES_MAX {
            return Err(HostError);
        }
        Ok(Self(if host.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        }))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(authority: &str, expected: Option<&str>) {
        let host = Host::parse(authority);
        assert_eq!(
            host.as_ref().ok().map(Host::as_str),
            expected,
            "{authority:?}"
        );
    }

    #[test]
    fn one_host_has_one_spelling() {
        check("Shop.Example.COM:8443", Some("shop.example.com"));
        check("shop.example.com.", Some("shop.example.com"));
        check("127.0.0.1:80", Some("127.0.0.1"));
        check("[::1]:8080", Some("[::1]"));
        check("[::FFFF]", Some("[::ffff]"));
        check("shop:", Some("shop"));
        check("my_service", Some("my_service"));
    }

    #[test]
    fn what_has_two_readings_is_refused() {
        for authority in [
            "", ".", "..", ":80", "a..b", ".a", "a..", "a b", "user@a", "a:b", "a:70000", "a:+80",
            "[::1", "::1", "[x]", "[::1]x", "a/b", "a%2e", "a,b", "a\u{e9}",
        ] {
            check(authority, None);
        }
        check(&"a".repeat(256), None);
    }
}
