//! Law: accepted is what `serde_json` accepts, with the same meaning, but for what has a member twice or is nested too
//! deeply.

use serde_json::Value;

use super::parse;
use crate::base::limits::JSON_DEPTH_MAX;

/// Panics where the law is broken.
pub(crate) fn holds(text: &[u8]) {
    let theirs = serde_json::from_slice::<Value>(text).ok();
    // A member that is there twice has two colons and one place.
    let one_reading =
        |value: &Value| depth(value) <= JSON_DEPTH_MAX && colons(text) == members(value);
    assert_eq!(parse(text).ok(), theirs.filter(one_reading));
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(elements) => 1 + elements.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

fn members(value: &Value) -> usize {
    match value {
        Value::Array(elements) => elements.iter().map(members).sum(),
        Value::Object(inner) => inner.len() + inner.values().map(members).sum::<usize>(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// Colons that are not in texts. `json` is JSON.
fn colons(json: &[u8]) -> usize {
    let (mut colons, mut in_text, mut is_escaped) = (0, false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_text => is_escaped = true,
            b'"' => in_text = !in_text,
            b':' if !in_text => colons += 1,
            _ => {}
        }
    }
    colons
}
