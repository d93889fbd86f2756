//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>): which trace a request belongs to, read strictly and written
//! anew.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

/// `traceparent`
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `tracestate`
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Length of `traceparent` in version 00.
const PARENT_BYTES: usize = 55;

/// Most members of a `tracestate` (section 3.3.1.1).
const MEMBERS_MAX: usize = 32;

/// Longest `tracestate` that is passed on, all lines together. 512 is what everybody must (section 3.3.1.5), and some of
/// those that are in use have more.
const STATE_BYTES_MAX: usize = 4 * 1024;

/// The flag `sampled` (section 3.2.2.5.1). All others must be cleared by who does not know them.
const SAMPLED: u8 = 1;

/// A trace, not zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceId(pub(in crate::telemetry) [u8; 16]);

/// A span of a trace, not zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SpanId(pub(in crate::telemetry) [u8; 8]);

impl TraceId {
    /// As OTLP has it.
    #[must_use]
    pub const fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl SpanId {
    /// As OTLP has it.
    #[must_use]
    pub const fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What a request says about where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The trace it belongs to.
    pub trace: TraceId,
    /// The caller's span.
    pub span: SpanId,
    /// Whether the caller may have recorded it.
    pub is_sampled: bool,
    /// What the systems on the way have noted.
    pub state: Option<HeaderValue>,
}

impl Parent {
    /// What the headers say. None if they say nothing, or not in one valid way: then a new trace begins, and the state of
    /// the old one goes, too.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(TRACEPARENT).iter();
        let (first, None) = (lines.next()?, lines.next()) else {
            return None;
        };
        let (trace, span, is_sampled) = parse(first.as_bytes())?;
        Some(Self {
            trace,
            span,
            is_sampled,
            state: state(headers),
        })
    }
}

/// Writes `traceparent` and `tracestate` in the place of those that are there.
pub(super) fn write(
    headers: &mut HeaderMap,
    (trace, span, is_sampled): (TraceId, SpanId, bool),
    state: Option<&HeaderValue>,
) {
    let flags = if is_sampled { SAMPLED } else { 0 };
    let mut text = [b'-'; PARENT_BYTES];
    hex(&mut text[..2], &[0]);
    hex(&mut text[3..35], &trace.0);
    hex(&mut text[36..52], &span.0);
    hex(&mut text[53..], &[flags]);
    if let Ok(value) = HeaderValue::from_bytes(&text) {
        headers.insert(TRACEPARENT, value);
    }
    match state {
        Some(state) => drop(headers.insert(TRACESTATE, state.clone())),
        None => drop(headers.remove(TRACESTATE)),
    }
}

/// `version "-" trace-id "-" parent-id "-" trace-flags`, in lower case; a later version may add to its end (section 3.2).
fn parse(text: &[u8]) -> Option<(TraceId, SpanId, bool)> {
    let (known, more) = text.split_at_checked(PARENT_BYTES)?;
    let [version] = unhex(&known[..2])?;
    let dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
    let ends = match version {
        0 => more.is_empty(),
        0xff => false,
        _ => more.is_empty() || more[0] == b'-',
    };
    let trace: [u8; 16] = unhex(&known[3..35])?;
    let span: [u8; 8] = unhex(&known[36..52])?;
    let [flags] = unhex(&known[53..])?;
    let valid = dashes && ends && trace != [0; 16] && span != [0; 8];
    valid.then_some((TraceId(trace), SpanId(span), flags & SAMPLED != 0))
}

/// All lines in one, without empty members (section 3.3.1.1). None if there is nothing, or a single member is wrong.
fn state(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut keys: Vec<&[u8]> = vec![];
    let mut joined = vec![];
    for line in headers.get_all(TRACESTATE) {
        for member in line.as_bytes().split(|byte| *byte == b',') {
            let member = member.trim_ascii();
            if member.is_empty() {
                continue;
            }
            let at = member.iter().position(|byte| *byte == b'=')?;
            let (key, value) = (&member[..at], &member[at + 1..]);
            let valid = is_key(key) && is_value(value) && !keys.contains(&key);
            if !valid || keys.len() == MEMBERS_MAX || joined.len() + member.len() >= STATE_BYTES_MAX
            {
                return None;
            }
            if !keys.is_empty() {
                joined.push(b',');
            }
            joined.extend_from_slice(member);
            keys.push(key);
        }
    }
    if keys.is_empty() {
        return None;
    }
    HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)).ok()
}

/// `simple-key` or `tenant@system` (section 3.3.1.3.1).
fn is_key(key: &[u8]) -> bool {
    let is_tail = |byte: &u8| {
        byte.is_ascii_lowercase()
            || byte.is_ascii_digit()
            || matches!(byte, b'_' | b'-' | b'*' | b'/')
    };
    let is_name = |name: &[u8], digit_first: bool, most: usize| {
        let first = name.first();
        first.is_some_and(|byte| byte.is_ascii_lowercase() || digit_first && byte.is_ascii_digit())
            && name.iter().all(is_tail)
            && name.len() <= most
    };
    match key.iter().position(|byte| *byte == b'@') {
        None => is_name(key, false, 256),
        Some(at) => is_name(&key[..at], true, 241) && is_name(&key[at + 1..], false, 14),
    }
}

/// Printable ASCII without comma and equals sign (section 3.3.1.3.2). Blanks at its end are gone already.
fn is_value(value: &[u8]) -> bool {
    let is_part = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'=');
    (1..=256).contains(&value.len()) && value.iter().all(is_part)
}

/// Lower-case hexadecimal digits of exactly so many bytes.
fn unhex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = (digit(pair[0])? << 4) | digit(pair[1])?;
    }
    Some(bytes)
}

fn hex(text: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

fn show(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(&self.0, f)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(&self.0, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(parents: &[&[u8]], states: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for parent in parents {
            headers.append(TRACEPARENT, HeaderValue::from_bytes(parent).unwrap());
        }
        for state in states {
            headers.append(TRACESTATE, state.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_good_traceparent_is_read_and_written_again() {
        let parent = Parent::of(&headers(&[GOOD.as_bytes()], &["a=1"])).expect("a parent");
        assert_eq!(parent.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(parent.is_sampled);
        let mut written = headers(&[b"x", b"y"], &["z=1", "y=2"]);
        write(
            &mut written,
            (parent.trace, parent.span, true),
            parent.state.as_ref(),
        );
        assert_eq!(written, headers(&[GOOD.as_bytes()], &["a=1"]));
        write(&mut written, (parent.trace, parent.span, false), None);
        assert_eq!(
            written,
            headers(&[GOOD.replace("-01", "-00").as_bytes()], &[])
        );
    }

    #[test]
    fn flags_and_later_versions_are_read_as_far_as_they_are_known() {
        #[track_caller]
        fn check(from: &str, to: &str, is_sampled: bool) {
            let text = GOOD.replacen(from, to, 1);
            let parent = Parent::of(&headers(&[text.as_bytes()], &[]));
            assert_eq!(
                parent.map(|parent| parent.is_sampled),
                Some(is_sampled),
                "{text}"
            );
        }
        check("-01", "-00", false);
        check("-01", "-ff", true);
        check("-01", "-fe", false);
        check("00-", "01-", true);
        check("00-", "fe-", true);
        check("-01", "-01", true);
        let later = GOOD.replacen("00-", "cc-", 1) + "-what-comes-after";
        assert!(Parent::of(&headers(&[later.as_bytes()], &[])).is_some());
    }

    #[test]
    fn a_traceparent_with_any_fault_is_none() {
        let replaced = |from: &str, to: &str| GOOD.replacen(from, to, 1).into_bytes();
        for wrong in [
            b"".to_vec(),
            b"00".to_vec(),
            GOOD.as_bytes()[..54].to_vec(),
            format!("{GOOD}-").into_bytes(),
            format!("{GOOD}0").into_bytes(),
            format!("{}x", GOOD.replacen("00-", "01-", 1)).into_bytes(),
            format!(" {}", &GOOD[1..]).into_bytes(),
            replaced("00-", "ff-"),
            replaced("00-", "0g-"),
            replaced("00-", "00_"),
            replaced("4bf9", "4BF9"),
            replaced("4bf9", "4bg9"),
            replaced("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            replaced("00f067aa0ba902b7", &"0".repeat(16)),
            replaced("00f067aa", "00f067a-"),
            replaced("-01", "-0"),
            replaced("-01", "-0A"),
            replaced("-01", "_01"),
            replaced("6a3ce929d0e0e4736-", "6a3ce929d0e0e47360"),
            replaced("4bf9", "4bf\u{e9}"),
        ] {
            let shown = String::from_utf8_lossy(&wrong).into_owned();
            assert_eq!(Parent::of(&headers(&[&wrong], &["a=1"])), None, "{shown:?}");
        }
        assert_eq!(Parent::of(&headers(&[], &["a=1"])), None);
        let twice = headers(&[GOOD.as_bytes(), GOOD.as_bytes()], &[]);
        assert_eq!(Parent::of(&twice), None, "two, even if they are equal");
    }

    #[test]
    fn a_tracestate_is_joined_or_discarded_whole() {
        #[track_caller]
        fn check(lines: &[&str], expected: Option<&str>) {
            let parent = Parent::of(&headers(&[GOOD.as_bytes()], lines)).expect("a parent");
            let state = parent.state.as_ref().map(|state| state.to_str().unwrap());
            assert_eq!(state, expected, "{lines:?}");
        }
        check(&[], None);
        check(&[""], None);
        check(&["rojo=00f067aa0ba902b7"], Some("rojo=00f067aa0ba902b7"));
        check(&["a=1 , ,\tb=2,", "c=3"], Some("a=1,b=2,c=3"));
        check(
            &["9tenant@sys=x y!~", "a*/-_9= 1"],
            Some("9tenant@sys=x y!~,a*/-_9= 1"),
        );
        for wrong in [
            "a",
            "=1",
            "a=",
            "a=1,b",
            "a=1,a=2",
            "A=1",
            "9a=1",
            "a b=1",
            "@a=1",
            "a@=1",
            "a@9=1",
            "a@b@c=1",
            "a=1=2",
            "a=\u{e9}",
            "a@abcdefghijklmno=1",
        ] {
            check(&["ok=1", wrong], None);
        }
        let key = |length| format!("{}=1", "k".repeat(length));
        check(&[&key(256)], Some(&key(256)));
        check(&[&key(257)], None);
        let value = |length| format!("k={}", "v".repeat(length));
        check(&[&value(256)], Some(&value(256)));
        check(&[&value(257)], None);
        let members = |count| {
            (0..count)
                .map(|n| format!("k{n}=1"))
                .collect::<Vec<_>>()
                .join(",")
        };
        check(&[&members(32)], Some(&members(32)));
        check(&[&members(33)], None);
        let long = |count| {
            (0..count)
                .map(|n| format!("k{n}={}", "v".repeat(250)))
                .collect::<Vec<_>>()
                .join(",")
        };
        check(&[&long(15)], Some(&long(15)));
        check(&[&long(17)], None);
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_passed_on_reads_the_same(
            at in 0..PARENT_BYTES,
            byte in proptest::prelude::any::<u8>(),
            state in "[a-z0-9@=, \t*/_-]{0,80}",
        ) {
            let mut text = GOOD.as_bytes().to_vec();
            text[at] = byte;
            let (Ok(line), Ok(state)) = (HeaderValue::from_bytes(&text), state.parse()) else {
                return Ok(());
            };
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, line);
            headers.insert(TRACESTATE, state);
            if let Some(parent) = Parent::of(&headers) {
                let place = (parent.trace, parent.span, parent.is_sampled);
                write(&mut headers, place, parent.state.as_ref());
                proptest::prop_assert_eq!(Parent::of(&headers), Some(parent));
            }
        }
    }
}
