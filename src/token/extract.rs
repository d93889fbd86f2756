//! Finds the one token of a request.

use std::borrow::Cow;

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};

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

/// Where a token was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spot {
    /// `Authorization: Bearer`
    Authorization,
    /// [`Places::header`]
    Header,
    /// [`Places::cookie`]
    Cookie,
    /// [`Places::query`]
    Query,
}

/// What a request carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'r> {
    /// No token in any place.
    Nothing,
    /// Exactly one. It may be any text.
    One(Cow<'r, str>, Spot),
    /// More than one, equal or not: nobody can say which one counts (RFC 6750 section 2).
    Several,
    /// A place holds something that is not text, or that lenient services take for a bearer token and we do not.
    Unreadable,
}

/// Looks for the token where `places` says.
#[must_use]
pub fn find<'r>(places: &Places, headers: &'r HeaderMap, query: Option<&'r str>) -> Found<'r> {
    let mut found = Found::Nothing;
    if places.authorization {
        let mut lines = 0;
        for line in headers.get_all(AUTHORIZATION) {
            match bearer(line) {
                Ok(Some(token)) => found = found.and(token.into(), Spot::Authorization),
                Ok(None) => {}
                Err(TwoReadings) => return Found::Unreadable,
            }
            lines += 1;
        }
        // Two lines with different schemes leave it to the service which of them counts.
        if lines > 1 {
            return Found::Several;
        }
    }
    if let Some(name) = &places.header {
        for line in headers.get_all(name) {
            let Ok(text) = line.to_str() else {
                return Found::Unreadable;
            };
            let token = strip_scheme(text).unwrap_or(text);
            found = found.and(token.into(), Spot::Header);
        }
    }
    if let Some(name) = &places.cookie {
        for line in headers.get_all(COOKIE) {
            let Ok(pairs) = std::str::from_utf8(line.as_bytes()) else {
                return Found::Unreadable;
            };
            for (_, value) in cookie_pairs(pairs).filter(|pair| *pair.0 == **name) {
                found = found.and(value.into(), Spot::Cookie);
            }
        }
    }
    if let (Some(name), Some(query)) = (&places.query, query) {
        for (_, value) in form_urlencoded::parse(query.as_bytes()).filter(|pair| *pair.0 == **name)
        {
            found = found.and(value, Spot::Query);
        }
    }
    found
}

/// `query` without the parameters called `name`; None when nothing is left.
#[must_use]
pub fn query_without(query: &str, name: &str) -> Option<String> {
    let is_other = |pair: &&str| {
        form_urlencoded::parse(pair.as_bytes())
            .next()
            .is_none_or(|(key, _)| key != name)
    };
    let rest: Vec<&str> = query.split('&').filter(is_other).collect();
    (!rest.is_empty()).then(|| rest.join("&"))
}

/// A `Cookie` line without the cookies called `name`; None when nothing is left.
#[must_use]
pub fn cookies_without(line: &str, name: &str) -> Option<String> {
    let rest: Vec<&str> = line
        .split(';')
        .map(str::trim)
        .filter(|pair| {
            !pair.is_empty()
                && pair
                    .split_once('=')
                    .is_none_or(|(key, _)| key.trim() != name)
        })
        .collect();
    (!rest.is_empty()).then(|| rest.join("; "))
}

impl<'r> Found<'r> {
    fn and(self, token: Cow<'r, str>, spot: Spot) -> Self {
        match self {
            Self::Nothing => Self::One(token, spot),
            Self::One(..) | Self::Several => Self::Several,
            Self::Unreadable => Self::Unreadable,
        }
    }
}

struct TwoReadings;

/// The token of an `Authorization` line, None if the scheme is another one. Another scheme may hold anything but a `Bearer`
/// with something after it: `Basic x, Bearer y` is one credential (RFC 9110 section 11.4), and two for who searches the line.
fn bearer(line: &HeaderValue) -> Result<Option<&str>, TwoReadings> {
    const WORD: &[u8] = b"bearer";
    let token = ascii(line).and_then(strip_scheme);
    let hides_one = || {
        line.as_bytes().windows(WORD.len() + 1).any(|part| {
            part[..WORD.len()].eq_ignore_ascii_case(WORD)
                && !part[WORD.len()].is_ascii_alphanumeric()
        })
    };
    if token.is_none() && hides_one() {
        Err(TwoReadings)
    } else {
        Ok(token)
    }
}

/// The line, if it is text: `HeaderValue::to_str`, which asks byte by byte what no value has anyway (control characters).
fn ascii(line: &HeaderValue) -> Option<&str> {
    let text = std::str::from_utf8(line.as_bytes()).ok()?;
    text.is_ascii().then_some(text)
}

/// What follows `Bearer` and blanks; the scheme's name has no case (RFC 9110 section 11.1). A tab ends it too, because
/// lenient services split there: what follows is then no good token, and not a missing one.
fn strip_scheme(text: &str) -> Option<&str> {
    let end = text.find([' ', '\t']).unwrap_or(text.len());
    let (scheme, token) = text.split_at(end);
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_start_matches(' '))
}

/// `name=value` pairs of a `Cookie` line (RFC 6265 section 5.4). Quotes belong to the value (section 4.1.1).
fn cookie_pairs(line: &str) -> impl Iterator<Item = (&str, &str)> {
    line.split(';')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.trim(), value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_bytes(value.as_bytes()).unwrap(),
                )
            })
            .collect()
    }

    fn everywhere() -> Places {
        Places {
            authorization: true,
            header: Some(HeaderName::from_static("x-token")),
            cookie: Some("sid".into()),
            query: Some("access_token".into()),
            forward: false,
        }
    }

    #[track_caller]
    fn check(lines: &[(&'static str, &str)], query: Option<&str>, expected: &Found<'_>) {
        assert_eq!(
            &find(&everywhere(), &request(lines), query),
            expected,
            "{lines:?} {query:?}"
        );
    }

    #[test]
    fn one_token_is_found_in_each_place() {
        let one = |spot| Found::One("a.b.c".into(), spot);
        for line in ["Bearer a.b.c", "bearer a.b.c", "BEARER   a.b.c"] {
            check(&[("authorization", line)], None, &one(Spot::Authorization));
        }
        check(&[("x-token", "a.b.c")], None, &one(Spot::Header));
        check(&[("x-token", "Bearer a.b.c")], None, &one(Spot::Header));
        check(
            &[("cookie", "x=1; sid=a.b.c; y=2")],
            None,
            &one(Spot::Cookie),
        );
        check(
            &[("cookie", "x=1"), ("cookie", "sid=a.b.c")],
            None,
            &one(Spot::Cookie),
        );
        check(&[], Some("x=1&access_token=a.b.c"), &one(Spot::Query));
        check(&[], Some("%61ccess_token=a%2Eb.c"), &one(Spot::Query));
    }

    #[test]
    fn other_places_and_schemes_hold_no_token() {
        check(&[], None, &Found::Nothing);
        check(&[("authorization", "Basic YTpi")], None, &Found::Nothing);
        check(&[("authorization", "BearerX a.b.c")], None, &Found::Nothing);
        check(&[("authorization", "Basic \u{e9}")], None, &Found::Nothing);
        check(&[("authorization", "Basic bearer")], None, &Found::Nothing);
        check(
            &[("cookie", "sidx=a.b.c; xsid=a.b.c; SID=a.b.c")],
            Some("token=a.b.c"),
            &Found::Nothing,
        );
    }

    #[test]
    fn a_place_without_a_good_text_is_no_missing_token() {
        check(
            &[("authorization", "Bearer")],
            None,
            &Found::One("".into(), Spot::Authorization),
        );
        check(
            &[("authorization", "Bearer a.b.c x")],
            None,
            &Found::One("a.b.c x".into(), Spot::Authorization),
        );
        check(
            &[("authorization", "Bearer\ta.b.c")],
            None,
            &Found::One("\ta.b.c".into(), Spot::Authorization),
        );
        check(
            &[("authorization", "Bearer \u{e9}")],
            None,
            &Found::Unreadable,
        );
        check(&[("x-token", "\u{e9}")], None, &Found::Unreadable);
        for hidden in [
            "Basic YTpi, Bearer a.b.c",
            "Basic \u{e9} bEARER a.b.c",
            ",Bearer a.b.c",
            "\"Bearer a.b.c\"",
            "Bearer,a.b.c",
            "xBearer\ta.b.c",
        ] {
            check(&[("authorization", hidden)], None, &Found::Unreadable);
        }
    }

    #[test]
    fn two_tokens_are_an_error() {
        check(
            &[("authorization", "Bearer a"), ("authorization", "Bearer a")],
            None,
            &Found::Several,
        );
        check(
            &[("authorization", "Bearer a"), ("authorization", "Basic a")],
            None,
            &Found::Several,
        );
        check(
            &[("authorization", "Basic a"), ("authorization", "Bearer a")],
            None,
            &Found::Several,
        );
        check(
            &[("authorization", "Bearer a"), ("x-token", "a")],
            None,
            &Found::Several,
        );
        check(
            &[("authorization", "Bearer a")],
            Some("access_token=a"),
            &Found::Several,
        );
        check(&[("cookie", "sid=a; sid=a")], None, &Found::Several);
        check(&[("x-token", "a"), ("x-token", "a")], None, &Found::Several);
        check(&[], Some("access_token=a&access_token=a"), &Found::Several);
    }

    #[test]
    fn what_is_removed_leaves_the_rest_as_it_was() {
        assert_eq!(
            query_without("a=%20&access_token=x&b", "access_token").as_deref(),
            Some("a=%20&b")
        );
        assert_eq!(query_without("%61ccess_token=x", "access_token"), None);
        assert_eq!(
            cookies_without("a=1; sid=x;b=\"2\"", "sid").as_deref(),
            Some("a=1; b=\"2\"")
        );
        assert_eq!(cookies_without("sid=x", "sid"), None);
    }
}
