//! `openapi.json` against the endpoints, and against every answer that the other tests get.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use http::{Method, StatusCode};
use serde_json::Value;

use super::api::{Endpoint, OPENAPI};

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(OPENAPI).unwrap());

/// A path of a rule, as the description writes it.
const RULE: &str = "/v1/revocations/{id}";

fn operations(path: &str) -> BTreeSet<String> {
    let operations = DOCUMENT["paths"][path].as_object().into_iter().flatten();
    operations.map(|(name, _)| name.to_uppercase()).collect()
}

#[test]
fn every_endpoint_is_described_and_every_description_has_an_endpoint() {
    let mut paths: Vec<&str> = Endpoint::PATHS.map(|(path, _)| path).into();
    paths.push(RULE);
    for path in &paths {
        let allowed = Endpoint::find(path).unwrap().allow().split(", ");
        let allowed: BTreeSet<String> = allowed
            .filter(|method| *method != "HEAD")
            .map(ToOwned::to_owned)
            .collect();
        assert_eq!(operations(path), allowed, "{path}");
    }
    let described: BTreeSet<&str> = DOCUMENT["paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(described, paths.into_iter().collect());
}

#[test]
fn every_reference_leads_somewhere_and_every_name_is_used() {
    let mut references = BTreeSet::new();
    collect(&DOCUMENT, &mut references);
    for reference in &references {
        assert!(resolve(reference).is_some(), "{reference}");
    }
    for name in DOCUMENT["components"]["schemas"]
        .as_object()
        .unwrap()
        .keys()
    {
        let reference = format!("#/components/schemas/{name}");
        assert!(references.contains(&reference), "{name} is never used");
    }
}

fn collect(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                into.insert(reference.clone());
            }
            members.values().for_each(|member| collect(member, into));
        }
        Value::Array(elements) => elements.iter().for_each(|element| collect(element, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn resolve(reference: &str) -> Option<&'static Value> {
    DOCUMENT.pointer(reference.strip_prefix('#')?)
}

/// Fails unless the answer is one that the description knows.
#[track_caller]
pub(super) fn described(
    method: &Method,
    path: &str,
    status: StatusCode,
    content_type: &str,
    body: &str,
) {
    let template = match Endpoint::find(path) {
        Some(Endpoint::Rule(_)) => RULE,
        _ => path,
    };
    let operation = &DOCUMENT["paths"][template][method.as_str().to_lowercase()];
    let responses = &operation["responses"];
    let response = match responses.get(status.as_str()) {
        Some(response) => response,
        None if method == Method::HEAD => return,
        // Also of what is not described: no such path or method.
        None => &DOCUMENT["components"]["responses"]["Problem"],
    };
    let content = response["content"].as_object().unwrap();
    let essence = content_type.split(';').next().unwrap();
    let media = content
        .get(essence)
        .unwrap_or_else(|| panic!("{method} {path} {status}: {essence} is not described"));
    if essence.ends_with("json") {
        let body = serde_json::from_str(body).unwrap();
        if let Err(fault) = conforms(&body, &media["schema"]) {
            panic!("{method} {path} {status}: {fault}: {body}");
        }
    }
}

/// As much of JSON Schema as the description uses of it.
fn conforms(value: &Value, schema: &Value) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        return conforms(value, resolve(reference).unwrap());
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let fitting = choices.iter().filter(|it| conforms(value, it).is_ok());
        return match fitting.count() {
            1 => Ok(()),
            n => Err(format!("{n} of the choices fit")),
        };
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let allowed = |name: &Value| name == kind || (name == "number" && kind == "integer");
    let fits = match &schema["type"] {
        Value::Array(names) => names.iter().any(allowed),
        name => allowed(name),
    };
    if !fits {
        return Err(format!("{kind} instead of {}", schema["type"]));
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        return Err(format!("{value} is no word of {}", schema["enum"]));
    }
    for element in value.as_array().into_iter().flatten() {
        conforms(element, &schema["items"])?;
    }
    let Some(members) = value.as_object() else {
        return Ok(());
    };
    for name in schema["required"].as_array().into_iter().flatten() {
        if !members.contains_key(name.as_str().unwrap()) {
            return Err(format!("{name} is missing"));
        }
    }
    for (name, member) in members {
        match schema["properties"].get(name) {
            Some(schema) => conforms(member, schema).map_err(|fault| format!("{name}: {fault}"))?,
            None if schema["additionalProperties"] == false => {
                return Err(format!("{name} is not described"));
            }
            None => {}
        }
    }
    Ok(())
}

#[test]
fn what_does_not_conform_is_found() {
    let schema = |name: &str| serde_json::json!({"$ref": format!("#/components/schemas/{name}")});
    let live = |body| conforms(&body, &schema("Live"));
    assert_eq!(live(serde_json::json!({"live": true})), Ok(()));
    for wrong in [
        serde_json::json!({}),
        serde_json::json!({"live": 1}),
        serde_json::json!({"live": true, "more": 1}),
        serde_json::json!([]),
    ] {
        assert!(live(wrong.clone()).is_err(), "{wrong}");
    }
}
