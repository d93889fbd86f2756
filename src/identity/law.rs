//! Law: a name is protected if its letters and digits are those of a protected one; and a header that was made of a claim
//! reads as that claim, to whoever trims and splits, or is not there.

use http::{HeaderName, HeaderValue};
use serde_json::Value;

use super::{HeaderMap, HeaderMapping, OnUnmappable, ProtectedNames, map_claims};
use crate::base::json::parse;
use crate::token::ClaimPath;

const MAPPED: [(&str, &str); 3] = [
    ("x-user-id", "sub"),
    ("x-roles", "roles"),
    ("x-org", "org.id"),
];

const SIZE_MAX: usize = 200;

/// Panics where the law is broken. The first line is a header's name, the rest the claims of a token.
pub(crate) fn holds(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    if let Some(Ok(name)) = parts.next().map(HeaderName::from_bytes) {
        is_protected_by_its_letters(&name);
    }
    if let Some(Ok(claims @ Value::Object(_))) = parts.next().map(parse) {
        arrive_or_not(&claims);
    }
}

fn is_protected_by_its_letters(name: &HeaderName) {
    let protected = MAPPED.map(|(name, _)| HeaderName::from_static(name));
    let letters = |name: &HeaderName| {
        let letters = name.as_str().chars().filter(char::is_ascii_alphanumeric);
        letters.collect::<String>()
    };
    let own = letters(name);
    let expected =
        own.starts_with("jotgate") || protected.iter().any(|protected| letters(protected) == own);
    assert_eq!(
        ProtectedNames::new(&protected).covers(name),
        expected,
        "{name}"
    );
}

fn arrive_or_not(claims: &Value) {
    let map = HeaderMap {
        claims: MAPPED
            .into_iter()
            .filter_map(|(header, claim)| {
                Some(HeaderMapping {
                    header: HeaderName::from_static(header),
                    claim: ClaimPath::parse(claim).ok()?,
                })
            })
            .collect(),
        payload: None,
        on_unmappable: OnUnmappable::Reject,
        size_max: SIZE_MAX,
    };
    let made = map_claims(&map, claims, "e30");
    let omitting = HeaderMap {
        on_unmappable: OnUnmappable::Omit,
        ..map.clone()
    };
    let (made, is_whole) = match (made, map_claims(&omitting, claims, "e30")) {
        (Ok(made), omitting) => {
            assert_eq!(Ok(&made), omitting.as_ref());
            (made, true)
        }
        (Err(_), Ok(made)) => (made, false),
        (Err(_), Err(_)) => return,
    };
    let size: usize = made
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    assert!(size <= SIZE_MAX);
    for mapping in &map.claims {
        let mut lines = made.iter().filter(|(name, _)| *name == mapping.header);
        let claim = mapping.claim.find(claims).unwrap_or(&Value::Null);
        match lines.next() {
            Some((_, value)) => assert!(reads_as(value, claim), "{value:?} for {claim}"),
            None => assert!(!is_whole || says_nothing(claim), "{claim} is not there"),
        }
        assert_eq!(lines.next(), None);
    }
}

fn says_nothing(claim: &Value) -> bool {
    *claim == Value::Null || *claim == "" || *claim == Value::Array(vec![])
}

fn reads_as(value: &HeaderValue, claim: &Value) -> bool {
    let Ok(text) = std::str::from_utf8(value.as_bytes()) else {
        return false;
    };
    if text.trim() != text || text.contains(char::is_control) {
        return false;
    }
    let is_scalar = |value: &Value| value.is_string() || value.is_boolean() || value.is_number();
    match claim {
        Value::Array(elements) if elements.iter().all(is_scalar) => {
            let parts: Vec<&str> = text.split(',').collect();
            let mut pairs = parts.iter().zip(elements);
            parts.len() == elements.len() && pairs.all(|(part, element)| reads_alone(part, element))
        }
        claim => reads_alone(text, claim),
    }
}

fn reads_alone(text: &str, claim: &Value) -> bool {
    match claim {
        Value::String(claim) => claim == text,
        claim => text.is_ascii() && serde_json::from_str(text).ok().as_ref() == Some(claim),
    }
}
