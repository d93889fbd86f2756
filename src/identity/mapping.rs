//! Claims become request headers. A value either arrives exactly or not at all: what cannot be a
//! header (CR, LF, NUL, blanks at an end, a number that JSON readers round) is refused or left out
//! as configured, never cut.

use bytes::{BufMut, BytesMut};
use http::{HeaderName, HeaderValue};
use serde_json::Value;

use crate::token::ClaimPath;

/// What becomes headers for one issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMap {
    /// In the order of the file.
    pub claims: Vec<HeaderMapping>,
    /// Gets the token's payload: the base64url segment as it was signed.
    pub payload: Option<HeaderName>,
    /// What happens to a value that cannot be a header. Default: refuse.
    pub on_unmappable: OnUnmappable,
    /// Most bytes of all names and values together. Default 8 KiB.
    pub size_max: usize,
}

/// One claim that becomes one header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMapping {
    /// The request header.
    pub header: HeaderName,
    /// The claim; the header is left out when it is absent, null or empty.
    pub claim: ClaimPath,
}

/// What happens when a claim's value cannot be a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUnmappable {
    /// 500: the service asked for a header that cannot be made.
    #[default]
    Reject,
    /// The header is left out.
    Omit,
}

/// Why claims cannot be headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingFault {
    /// A control character, blanks at an end, an element with a comma in a list, or an inexact number.
    #[error("a claim's value cannot be a header")]
    Unmappable,
    /// More than [`HeaderMap::size_max`].
    #[error("the claims' headers are larger than the configured bound")]
    TooLarge,
}

/// The headers that `claims` make. `payload` is the token's payload segment.
pub fn map_claims(
    map: &HeaderMap,
    claims: &Value,
    payload: &str,
) -> Result<Vec<(HeaderName, HeaderValue)>, MappingFault> {
    let mut headers = Vec::with_capacity(map.claims.len() + usize::from(map.payload.is_some()));
    let mut size = 0;
    let mut add = |name: &HeaderName, value: HeaderValue| {
        size += name.as_str().len() + value.len();
        if size > map.size_max {
            return Err(MappingFault::TooLarge);
        }
        headers.push((name.clone(), value));
        Ok(())
    };
    for mapping in &map.claims {
        let Some(claim) = mapping
            .claim
            .find(claims)
            .filter(|value| !is_nothing(value))
        else {
            continue;
        };
        match header_value(claim) {
            Some(value) => add(&mapping.header, value)?,
            None => match map.on_unmappable {
                OnUnmappable::Reject => return Err(MappingFault::Unmappable),
                OnUnmappable::Omit => {}
            },
        }
    }
    if let Some(name) = &map.payload {
        let value = HeaderValue::from_str(payload).map_err(|_| MappingFault::Unmappable)?;
        add(name, value)?;
    }
    Ok(headers)
}

/// Strings as they are, in UTF-8; booleans and exact numbers as JSON; lists of those joined by `,`;
/// objects, and lists that hold anything else, as JSON in ASCII.
fn header_value(claim: &Value) -> Option<HeaderValue> {
    match claim {
        Value::Null => None,
        Value::String(text) => text_value(text),
        Value::Array(elements) if elements.iter().all(is_scalar) => list_value(elements),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => json_value(claim),
    }
}

/// Null, an empty text and an empty list say nothing, so they make no header.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(elements) => elements.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    }
}

fn is_scalar(value: &Value) -> bool {
    matches!(value, Value::String(_) | Value::Bool(_) | Value::Number(_))
}

/// An empty text, or one that begins or ends with a blank, would reach the service as another text:
/// receivers trim (RFC 9110 section 5.5).
fn text_value(text: &str) -> Option<HeaderValue> {
    let trimmed = text.trim_matches(|c: char| c.is_whitespace());
    if text.is_empty() || trimmed.len() != text.len() || text.chars().any(char::is_control) {
        return None;
    }
    HeaderValue::from_bytes(text.as_bytes()).ok()
}

fn list_value(elements: &[Value]) -> Option<HeaderValue> {
    if elements.is_empty() {
        return None;
    }
    let mut joined = BytesMut::new();
    for (n, element) in elements.iter().enumerate() {
        if n > 0 {
            joined.put_u8(b',');
        }
        match element {
            Value::String(text) => {
                text_value(text)?;
                if text.contains(',') {
                    return None;
                }
                joined.put_slice(text.as_bytes());
            }
            other => joined.put_slice(json_value(other)?.as_bytes()),
        }
    }
    HeaderValue::from_maybe_shared(joined.freeze()).ok()
}

fn json_value(value: &Value) -> Option<HeaderValue> {
    if !is_exact(value) {
        return None;
    }
    let json = serde_json::to_string(value).ok()?;
    // JSON may spell any character beyond ASCII as an escape (RFC 8259 section 7): that survives
    // every header parser.
    let mut ascii = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() && c != '\u{7f}' {
            ascii.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                use std::fmt::Write as _;
                let _ = write!(ascii, "\\u{unit:04x}");
            }
        }
    }
    HeaderValue::try_from(ascii).ok()
}

/// Whether every number in `value` is one that `f64` did not round: integers of 64 bits are kept as
/// such, all others are `f64`, which holds integers up to 2^53.
fn is_exact(value: &Value) -> bool {
    const INTEGER_MAX: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) => {
            number.is_i64()
                || number.is_u64()
                || number
                    .as_f64()
                    .is_some_and(|float| float.abs() < INTEGER_MAX)
        }
        Value::Array(elements) => elements.iter().all(is_exact),
        Value::Object(members) => members.values().all(is_exact),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(claim: &Value, expected: Option<&[u8]>) {
        let value = header_value(claim);
        assert_eq!(
            value.as_ref().map(HeaderValue::as_bytes),
            expected,
            "{claim}"
        );
    }

    #[test]
    fn scalars_arrive_exactly() {
        check(&json!("alice"), Some(b"alice"));
        check(&json!("Jos\u{e9}"), Some("Jos\u{e9}".as_bytes()));
        check(&json!(true), Some(b"true"));
        check(&json!(u64::MAX), Some(b"18446744073709551615"));
        check(&json!(i64::MIN), Some(b"-9223372036854775808"));
        check(&json!(9_007_199_254_740_993_u64), Some(b"9007199254740993"));
        check(&json!(1.5), Some(b"1.5"));
        // A JSON reader that rounds twice makes another number of it.
        check(
            &serde_json::from_str("8888888888888889.0").expect("JSON"),
            Some(b"8888888888888889.0"),
        );
    }

    #[test]
    fn what_another_reader_would_change_is_no_header() {
        for text in [
            "",
            " ",
            " admin",
            "admin ",
            "\tadmin",
            "a\r\nb",
            "a\nb",
            "a\0b",
            "a\u{7f}b",
            "\u{a0}admin",
            "a\u{85}b",
        ] {
            check(&json!(text), None);
        }
        check(
            &serde_json::from_str("18446744073709551616").expect("JSON"),
            None,
        );
        check(&serde_json::from_str("1e300").expect("JSON"), None);
        check(
            &serde_json::from_str("{\"n\":18446744073709551616}").expect("JSON"),
            None,
        );
    }

    #[test]
    fn lists_are_joined_and_objects_are_ascii_json() {
        check(&json!(["a", "b", 3, true]), Some(b"a,b,3,true"));
        check(&json!(["a,b"]), None);
        check(&json!(["a", ""]), None);
        check(&json!([]), None);
        check(&json!([["a"], "b"]), Some(br#"[["a"],"b"]"#));
        check(
            &json!({"k": "\u{1f600}\r\n"}),
            Some(br#"{"k":"\ud83d\ude00\r\n"}"#),
        );
    }

    #[test]
    fn the_budget_counts_names_and_values() {
        let map = HeaderMap {
            claims: vec![HeaderMapping {
                header: HeaderName::from_static("x-user"),
                claim: ClaimPath::parse("sub").expect("a path"),
            }],
            payload: None,
            on_unmappable: OnUnmappable::Reject,
            size_max: 10,
        };
        assert_eq!(
            map_claims(&map, &json!({"sub": "abcd"}), "").map(|headers| headers.len()),
            Ok(1)
        );
        assert_eq!(
            map_claims(&map, &json!({"sub": "abcde"}), ""),
            Err(MappingFault::TooLarge)
        );
        assert_eq!(map_claims(&map, &json!({"sub": null}), ""), Ok(vec![]));
    }
}
