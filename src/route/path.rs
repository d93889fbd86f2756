//! The path of a request, normalised once. What is matched is what the service gets.

#[cfg(any(test, fuzzing))]
pub(crate) mod law;

use std::borrow::Cow;

use crate::base::limits::PATH_BYTES_MAX;

/// A path with one reading: it begins with `/`, has no dot segment, no empty segment but the last, no encoded
/// slash, backslash or NUL; unreserved characters stand unencoded and hexadecimal digits in upper case
/// (RFC 3986 section 6.2.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NormalPath<'a>(Cow<'a, str>);

/// Why a path has no single reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with `/`.
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    /// Longer than the bound.
    #[error("the path is longer than {PATH_BYTES_MAX} bytes")]
    TooLong,
    /// A backslash, a backtick, a control character, a blank, a fragment or a byte beyond ASCII.
    #[error("the path has a character that must be percent-encoded")]
    Character,
    /// A percent sign without two hexadecimal digits, or octets that are not UTF-8.
    #[error("the path has an invalid percent-encoding")]
    Percent,
    /// An encoded slash, backslash, control character, or an encoded percent sign that hides one of them or a dot.
    #[error("the path has an encoded delimiter")]
    EncodedDelimiter,
    /// `.` or `..`, also encoded or with parameters (`..;x`).
    #[error("the path has a dot segment")]
    DotSegment,
}

impl<'a> NormalPath<'a> {
    /// Normalises `raw`, a path without query.
    pub fn parse(raw: &'a str) -> Result<Self, PathError> {
        if raw.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong);
        }
        if !raw.starts_with('/') {
            return Err(PathError::NotAbsolute);
        }
        if is_plain(raw) {
            return Ok(Self(Cow::Borrowed(raw)));
        }
        let normal = normalise(raw)?;
        if normal.split('/').any(is_dot_segment) {
            return Err(PathError::DotSegment);
        }
        Ok(Self(if normal == raw {
            Cow::Borrowed(raw)
        } else {
            Cow::Owned(normal)
        }))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, where it differs from what was parsed.
    #[must_use]
    pub fn rewritten(self) -> Option<Box<str>> {
        match self.0 {
            Cow::Borrowed(_) => None,
            Cow::Owned(text) => Some(text.into()),
        }
    }

    /// The path as a lenient service may read it: decoded once more, without `;parameters` and what an encoded `?` or `#`
    /// would cut off, without dots and blanks at a segment's end (Windows) and a slash at its own, in lower case. None if
    /// that is the same.
    #[must_use]
    pub fn folded(&self) -> Option<String> {
        fold(&self.0)
    }
}

/// What most paths look like: letters, digits and `-_~`, single slashes, and dots inside of segments.
fn is_plain(raw: &str) -> bool {
    let mut previous = 0;
    for byte in raw.bytes() {
        let plain = match byte {
            b'/' => previous != b'/',
            b'.' => previous != b'/' && previous != b'.',
            b'-' | b'_' | b'~' => true,
            _ => byte.is_ascii_alphanumeric(),
        };
        if !plain {
            return false;
        }
        previous = byte;
    }
    true
}

fn normalise(raw: &str) -> Result<String, PathError> {
    let bytes = raw.as_bytes();
    let mut normal = String::with_capacity(raw.len());
    let mut octets = Vec::with_capacity(raw.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'%' => {
                let octet = octet_at(bytes, at).ok_or(PathError::Percent)?;
                at += 2;
                octets.push(octet);
                if octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b'~') {
                    normal.push(char::from(octet));
                    continue;
                }
                if octet == b'/' || octet == b'\\' || octet.is_ascii_control() {
                    return Err(PathError::EncodedDelimiter);
                }
                normal.push('%');
                normal.push(char::from(b"0123456789ABCDEF"[usize::from(octet >> 4)]));
                normal.push(char::from(b"0123456789ABCDEF"[usize::from(octet & 15)]));
            }
            b'/' if normal.ends_with('/') => {}
            b'\\' | b'#' | b'?' | b'<' | b'>' | b'`' => return Err(PathError::Character),
            _ if !byte.is_ascii_graphic() => return Err(PathError::Character),
            _ => {
                octets.push(byte);
                normal.push(char::from(byte));
            }
        }
    }
    // Overlong forms such as %C0%AE for a dot are no UTF-8 (RFC 3629 section 3).
    std::str::from_utf8(&octets).map_err(|_| PathError::Percent)?;
    // Asked of the result: of `%25%32%65` the digits are hidden too, and only decoding them makes it `%252e`.
    if encoded_percents(&normal).any(is_delimiter_or_dot) {
        return Err(PathError::EncodedDelimiter);
    }
    Ok(normal)
}

/// What a service that decodes twice finds under the encoded percent signs of a normal path.
fn encoded_percents(normal: &str) -> impl Iterator<Item = u8> {
    normal
        .match_indices("%25")
        .filter_map(|(at, percent)| octet_at(normal.as_bytes(), at + percent.len()))
}

fn octet_at(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |at: usize| bytes.get(at).and_then(|&b| char::from(b).to_digit(16));
    let octet = digit(at)? * 16 + digit(at + 1)?;
    u8::try_from(octet).ok()
}

/// What a service that decodes twice must not find under an encoded percent sign.
const fn is_delimiter_or_dot(octet: u8) -> bool {
    matches!(octet, b'/' | b'\\' | b'.' | b'%' | b';' | b'?' | b'#') || octet.is_ascii_control()
}

/// Tomcat and Jetty drop `;parameters` before they look for dots, and who decodes before looking for the query finds one.
fn is_dot_segment(segment: &str) -> bool {
    matches!(before_any(segment, &[";", "%3B", "%3F", "%23"]), "." | "..")
}

/// `text` up to the first of `marks`.
fn before_any<'t>(text: &'t str, marks: &[&str]) -> &'t str {
    let end = marks.iter().filter_map(|mark| text.find(mark)).min();
    &text[..end.unwrap_or(text.len())]
}

/// `path`, which is normal, as [`NormalPath::folded`] says; None if that is the same.
pub(super) fn fold(path: &str) -> Option<String> {
    let mut previous = 0;
    let mut needs = path.len() > 1 && path.ends_with(['/', '.']);
    for byte in path.bytes() {
        needs |= byte.is_ascii_uppercase()
            || matches!(byte, b';' | b'%')
            || (byte == b'/' && previous == b'.');
        previous = byte;
    }
    if !needs {
        return None;
    }
    let decoded = decode_again(path).to_ascii_lowercase();
    let mut folded = String::with_capacity(decoded.len());
    for segment in before_any(&decoded, &["%3f", "%23"]).split('/') {
        let mut name = before_any(segment, &[";", "%3b"]);
        while let Some(shorter) = name.strip_suffix('.').or_else(|| name.strip_suffix("%20")) {
            name = shorter;
        }
        // A segment of which nothing is left leaves two slashes behind, which services merge.
        if !name.is_empty() {
            folded.push('/');
            folded.push_str(name);
        }
    }
    if folded.is_empty() {
        folded.push('/');
    }
    (folded != path).then_some(folded)
}

/// `/%2561dmin` is `/admin` for a service that decodes twice. What is no letter, digit, `-`, `_` or `~` stays encoded.
fn decode_again(path: &str) -> Cow<'_, str> {
    let mut decoded = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once("%25") {
        decoded.push_str(before);
        rest = match octet_at(after.as_bytes(), 0) {
            Some(octet) if octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'~') => {
                decoded.push(char::from(octet));
                &after[2..]
            }
            Some(_) => {
                decoded.push('%');
                after
            }
            None => {
                decoded.push_str("%25");
                after
            }
        };
    }
    if decoded.is_empty() {
        return Cow::Borrowed(path);
    }
    decoded.push_str(rest);
    Cow::Owned(decoded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(raw: &str, expected: Result<&str, PathError>) {
        let path = NormalPath::parse(raw);
        assert_eq!(
            path.as_ref().map(NormalPath::as_str),
            expected.as_ref().copied(),
            "{raw:?}"
        );
    }

    #[test]
    fn one_path_has_one_spelling() {
        check("/", Ok("/"));
        check("/orders/17", Ok("/orders/17"));
        check("/orders/", Ok("/orders/"));
        check("//orders///17", Ok("/orders/17"));
        check("/%6frders", Ok("/orders"));
        check("/a%2ejpg", Ok("/a.jpg"));
        check("/caf%c3%a9", Ok("/caf%C3%A9"));
        check("/a%20b;v=1/c", Ok("/a%20b;v=1/c"));
        check("/100%2520off", Ok("/100%2520off"));
        check("/.well-known/x", Ok("/.well-known/x"));
        check("/a..b/...", Ok("/a..b/..."));
        check("/a|b", Ok("/a|b"));
    }

    #[test]
    fn what_has_two_readings_is_refused() {
        use PathError::{Character, DotSegment, EncodedDelimiter, NotAbsolute, Percent};
        for raw in ["", "*", "orders", "http://x/"] {
            check(raw, Err(NotAbsolute));
        }
        for raw in [
            "/a\\b",
            "/a b",
            "/a\tb",
            "/a#b",
            "/a\0",
            "/caf\u{e9}",
            "/a?b",
            "/a`b",
            "/a\u{7f}",
        ] {
            check(raw, Err(Character));
        }
        for raw in [
            "/%",
            "/%2",
            "/%zz",
            "/%+1",
            "/%ff",
            "/%c0%ae%c0%ae/",
            "/%u002e",
        ] {
            check(raw, Err(Percent));
        }
        for raw in [
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a%00",
            "/a%0d%0a",
            "/%252e%252e/",
            "/%252f",
            "/%25252f",
            "/a%253bx",
            "/%7f",
            "/%25%32%65",
            "/%25%32e",
            "/%252%65",
            "/x/%252%65%25%32e/y",
            "/a%253fx",
            "/a%2523",
        ] {
            let refused = NormalPath::parse(raw);
            assert!(matches!(refused, Err(EncodedDelimiter)), "{raw:?}");
        }
        check("/a%2fb", Err(EncodedDelimiter));
        check("/%252e%252e/", Err(EncodedDelimiter));
        for raw in [
            "/.",
            "/..",
            "/a/./b",
            "/a/../b",
            "/%2e%2e/b",
            "/.%2E/b",
            "/a/..;/b",
            "/a/..;x=1/b",
            "/a/..%3b/b",
            "/a/.;",
            "/a/..%3fb",
            "/a/..%23b",
        ] {
            check(raw, Err(DotSegment));
        }
        check(
            &format!("/{}", "a".repeat(PATH_BYTES_MAX)),
            Err(PathError::TooLong),
        );
    }

    #[test]
    fn a_lenient_reading_is_lower_case_without_parameters() {
        let folded = |raw: &'static str| NormalPath::parse(raw).expect("a path").folded();
        assert_eq!(folded("/a/b"), None);
        assert_eq!(folded("/Admin").as_deref(), Some("/admin"));
        assert_eq!(folded("/admin;x/y").as_deref(), Some("/admin/y"));
        assert_eq!(folded("/admin%3bx").as_deref(), Some("/admin"));
        assert_eq!(folded("/;x/admin").as_deref(), Some("/admin"));
        assert_eq!(folded("/admin/").as_deref(), Some("/admin"));
        assert_eq!(folded("/admin./x").as_deref(), Some("/admin/x"));
        assert_eq!(folded("/admin...").as_deref(), Some("/admin"));
        assert_eq!(folded("/admin%20.%20/x").as_deref(), Some("/admin/x"));
        assert_eq!(folded("/admin%3fx/y").as_deref(), Some("/admin"));
        assert_eq!(folded("/admin%23x").as_deref(), Some("/admin"));
        assert_eq!(folded("/a.b/.c"), None);
        assert_eq!(folded("/"), None);
        assert_eq!(folded("/%2561dm%2549n").as_deref(), Some("/admin"));
        assert_eq!(folded("/%25%36%31dmin").as_deref(), Some("/admin"));
        assert_eq!(folded("/100%2520off").as_deref(), Some("/100%20off"));
        assert_eq!(folded("/100%25"), None);
        assert_eq!(folded("/a%20b"), None);
        assert_eq!(folded("/%20").as_deref(), Some("/"));
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(raw in "/([a-zA-Z0-9./;%|~-]|%[0-9a-fA-F]{2}){0,40}") {
            if let Ok(once) = NormalPath::parse(&raw) {
                let twice = NormalPath::parse(once.as_str());
                prop_assert_eq!(twice.as_ref().map(NormalPath::as_str), Ok(once.as_str()));
                prop_assert!(!once.as_str().contains("//"));
                prop_assert!(!once.as_str().split('/').any(|s| s == "." || s == ".."));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(raw in any::<String>()) {
            let _ = NormalPath::parse(&raw).map(|path| path.folded());
        }
    }
}
