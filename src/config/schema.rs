//! The JSON Schema of the file, for editors: they complete keys, explain them and underline what is wrong. Shapes come from
//! `raw`, explanations from the reference, so that nothing is said twice. It promises less than `jotgate check`: bounds, and
//! what keys mean together, are judged there alone. No key is required, because the environment may set it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::raw::Root;
use crate::jwks::Algorithm;

/// The draft that every TOML plug-in of an editor knows.
const DRAFT: &str = "http://json-schema.org/draft-04/schema#";

/// What each key means.
const REFERENCE: &str = include_str!("../../docs/config.md");

/// How a duration is written. The parser takes more: blanks among digits.
pub(super) const DURATION: &str = concat!(
    r"^\s*([0-9]+(\.[0-9]+)?\s*",
    "(nanos|nsec|ns|usec|us|µs|millis|msec|ms|seconds|second|secs|sec|s|minutes|minute|mins|min|m|hours|hour|hrs|hr|h",
    "|days|day|d|weeks|week|wks|wk|w|months|month|M|years|year|yrs|yr|y)",
    r"\s*)+$"
);

/// How a size is written as a text.
pub(super) const SIZE: &str = r"^([0-9]+|[0-9]+(\.[0-9]+)?\s*([kKmMgGtTpPeE][iI]?[bB]?|[bB]))$";

/// What a value of this type looks like in the file.
pub(super) trait Shape {
    /// As a JSON Schema without references.
    fn shape() -> Value;
}

impl Shape for String {
    fn shape() -> Value {
        json!({"type": "string"})
    }
}

impl Shape for bool {
    fn shape() -> Value {
        json!({"type": "boolean"})
    }
}

impl Shape for u64 {
    fn shape() -> Value {
        json!({"type": "integer", "minimum": 0})
    }
}

/// The whole schema.
#[must_use]
pub fn schema() -> Value {
    let mut schema = Root::shape();
    explain("", &mut schema, &reference());
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("$schema".to_owned(), DRAFT.into());
        schema.insert("title".to_owned(), "jotgate".into());
    }
    schema
}

/// A table with these keys and no others.
pub(super) fn table<const N: usize>(keys: [(&str, Value); N]) -> Value {
    let keys: Map<String, Value> = keys
        .into_iter()
        .map(|(key, shape)| (key.to_owned(), shape))
        .collect();
    json!({"type": "object", "additionalProperties": false, "properties": keys})
}

/// Adds to each key of a table, and of all tables below, what it means and which words it takes.
fn explain(table: &str, shape: &mut Value, reference: &BTreeMap<&str, String>) {
    let Some(keys) = shape.get_mut("properties").and_then(Value::as_object_mut) else {
        return;
    };
    for (key, shape) in keys {
        let path = match table {
            "" => key.clone(),
            table => format!("{table}.{key}"),
        };
        if let Some(meaning) = reference.get(path.as_str()) {
            shape["description"] = meaning.as_str().into();
        }
        if let Some(words) = words(&path) {
            shape["enum"] = words.into();
        }
        explain(&path, shape, reference);
        if let Some(element) = shape.get_mut("items") {
            let path = format!("{path}[]");
            if let Some(words) = words(&path) {
                element["enum"] = words.into();
            }
            explain(&path, element, reference);
        }
    }
}

/// The words that a key, or the elements of its list, may be. None where any text will do.
fn words(path: &str) -> Option<Vec<&'static str>> {
    Some(match path {
        "listeners[].tls.client_auth" | "admin.tls.client_auth" => vec!["required", "optional"],
        "issuers[].algorithms[]" => Algorithm::ALL.iter().map(|known| known.name()).collect(),
        "issuers[].on_unmappable_claim" => vec!["reject", "omit"],
        "routes[].auth" => vec!["required", "optional", "public"],
        "routes[].mode" => vec!["enforce", "report"],
        "routes[].on_stale" => vec!["deny", "allow"],
        "telemetry.access_log.format" => vec!["text", "json", "common", "combined"],
        "telemetry.otlp.follow" => vec!["trusted_proxies", "everybody"],
        "admin.tokens[].roles[]" => vec!["read", "revoke", "security"],
        "telemetry.log.format" => vec!["text", "json"],
        _ => return None,
    })
}

/// What the reference says of each key, with its default.
fn reference() -> BTreeMap<&'static str, String> {
    REFERENCE.lines().filter_map(row).collect()
}

/// A row of its tables: `` | `key` | type | default | meaning | ``.
fn row(line: &'static str) -> Option<(&'static str, String)> {
    let (key, rest) = line.strip_prefix("| `")?.split_once("` |")?;
    let mut cells = rest.strip_suffix('|')?.splitn(3, '|').map(str::trim);
    let (_type, default, meaning) = (cells.next()?, cells.next()?, cells.next()?);
    let meaning = without_links(meaning);
    let default = match default
        .strip_prefix("**")
        .and_then(|it| it.strip_suffix("**"))
    {
        Some("required") => "\n\nRequired.".to_owned(),
        Some(what) => format!("\n\nRequired: {what}."),
        None if default.is_empty() => String::new(),
        None => format!("\n\nDefault: {default}."),
    };
    Some((key, meaning + &default))
}

/// `[text](target)` as `text`: targets are relative to a file that the editor does not have.
fn without_links(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, name, after)) = link(rest) {
        plain.push_str(before);
        plain.push_str(name);
        rest = after;
    }
    plain + rest
}

/// The first link: what is before it, its text, and what is after it.
fn link(text: &str) -> Option<(&str, &str, &str)> {
    let middle = text.find("](")?;
    let (before, name) = text[..middle].rsplit_once('[')?;
    let (_, after) = text[middle..].split_once(')')?;
    Some((before, name, after))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use jsonschema::Validator;

    use super::*;
    use crate::config::load::load_str;
    use crate::config::raw::{self, Size, Span};

    fn validator() -> Validator {
        let schema = schema();
        assert!(jsonschema::meta::is_valid(&schema));
        jsonschema::validator_for(&schema).expect("a schema")
    }

    /// Every key of the schema, by its path, with its shape.
    fn keys(table: &str, shape: &Value, found: &mut Vec<(String, Value)>) {
        let properties = shape.get("properties").and_then(Value::as_object);
        for (key, shape) in properties.into_iter().flatten() {
            let path = match table {
                "" => key.clone(),
                table => format!("{table}.{key}"),
            };
            found.push((path.clone(), shape.clone()));
            keys(&path, shape, found);
            if let Some(element) = shape.get("items") {
                keys(&format!("{path}[]"), element, found);
            }
        }
    }

    fn all() -> Vec<(String, Value)> {
        let mut found = vec![];
        keys("", &schema(), &mut found);
        assert!(found.len() > 80, "{}", found.len());
        found
    }

    /// A file in which `value` stands at `path`, and nothing else.
    fn alone(path: &str, value: Value) -> Value {
        path.rsplit('.')
            .fold(value, |value, key| match key.strip_suffix("[]") {
                Some(key) => json!({key: [value]}),
                None => json!({key: value}),
            })
    }

    #[test]
    fn every_example_is_good() {
        let validator = validator();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).expect("the examples") {
            let path = entry.expect("an entry").path();
            let text = std::fs::read_to_string(&path).expect("a file");
            let file: toml::Table = text.parse().expect("TOML");
            let file = serde_json::to_value(file).expect("JSON");
            let faults: Vec<_> = validator
                .iter_errors(&file)
                .map(|it| it.to_string())
                .collect();
            assert!(faults.is_empty(), "{}: {faults:#?}", path.display());
            count += 1;
        }
        assert!(count >= 6, "{count}");
    }

    #[test]
    fn it_has_every_key_and_says_what_each_means() {
        let all = all();
        let found: BTreeSet<String> = all.iter().map(|(path, _)| path.clone()).collect();
        let known: BTreeSet<String> = raw::keys().into_iter().collect();
        assert_eq!(found, known);
        for (path, shape) in &all {
            let meaning = shape["description"].as_str().unwrap_or_default();
            assert!(
                meaning.len() > 8 && !meaning.contains("]("),
                "{path}: {meaning}"
            );
        }
        let documented: BTreeSet<&str> = reference().into_keys().collect();
        let extra: Vec<_> = found
            .iter()
            .filter(|key| !documented.contains(key.as_str()))
            .collect();
        assert!(extra.is_empty(), "{extra:?}");
        let said = |path: &str| {
            let (_, shape) = all.iter().find(|(known, _)| known == path).expect("a key");
            shape["description"].as_str().expect("a text").to_owned()
        };
        assert!(said("listeners[].address").ends_with("\n\nRequired."));
        assert!(said("listeners[].header_timeout").ends_with("\n\nDefault: `\"10s\"`."));
        assert!(said("listeners[].failure_limit").contains(". Who shares an address\n"));
    }

    #[test]
    fn another_key_is_refused_in_every_table() {
        let validator = validator();
        let mut tables = vec![String::new()];
        for (path, shape) in all() {
            if shape.get("properties").is_some() {
                tables.push(path);
            } else if shape["items"].get("properties").is_some() {
                tables.push(format!("{path}[]"));
            }
        }
        assert!(tables.len() > 20, "{tables:?}");
        for table in tables {
            let file = |key: &str| match table.as_str() {
                "" => json!({key: 1}),
                table => alone(table, json!({key: 1})),
            };
            assert!(!validator.is_valid(&file("no_such_key")), "{table:?}");
        }
    }

    #[test]
    fn a_value_of_another_form_is_refused_for_every_key() {
        let validator = validator();
        for (path, _) in all() {
            // A list of lists of fractions is nothing that any key takes.
            let wrong = alone(&path, json!([[1.5]]));
            assert!(!validator.is_valid(&wrong), "{path}");
        }
        for (path, right, wrong) in [
            ("workers", json!(4), json!("4")),
            ("workers", json!(1), json!(-1)),
            ("listeners[].http2", json!(true), json!("true")),
            ("listeners[].idle_timeout", json!("75s"), json!(75)),
            (
                "listeners[].max_header_size",
                json!(8192),
                json!("8 apples"),
            ),
            (
                "listeners[].trusted_proxies",
                json!(["10.0.0.0/8"]),
                json!("10.0.0.0/8"),
            ),
            ("issuers[].discovery", json!(true), json!(1)),
            (
                "issuers[].discovery",
                json!("https://id.example.com"),
                json!({}),
            ),
            ("issuers[].secret", json!({"env": "A"}), json!("hunter2")),
            (
                "issuers[].secret",
                json!({"file": "a"}),
                json!({"env": "A", "file": "a"}),
            ),
            (
                "issuers[].headers",
                json!({"x-a": "sub"}),
                json!({"x-a": 1}),
            ),
            ("issuers[].claims.client", json!(["azp"]), json!([1])),
            ("issuers[].claims.client", json!("azp"), json!(1)),
            (
                "routes[].claims",
                json!({"a": [1, true, "x"]}),
                json!({"a": []}),
            ),
            ("routes[].claims", json!({"a": "x"}), json!({"a": 1.5})),
            ("routes[].auth", json!("public"), json!("none")),
            ("issuers[].algorithms", json!(["ES256"]), json!(["none"])),
            ("admin.tokens[].roles", json!(["read"]), json!(["root"])),
        ] {
            assert!(validator.is_valid(&alone(path, right)), "{path}");
            assert!(!validator.is_valid(&alone(path, wrong)), "{path}");
        }
    }

    #[test]
    fn durations_and_sizes_are_those_of_the_file() {
        let validator = validator();
        let shown = |key: &str, text: &str| validator.is_valid(&alone(key, text.into()));
        for text in [
            "250ms",
            "30s",
            "5m",
            "1h 30m",
            "1h30m",
            " 1 day ",
            "1.5h",
            "2weeks",
            "3 months 1y",
            "7us",
            "",
            "5",
            "-5s",
            "s",
            "1 x",
            "1h 30",
            "1,5h",
            "1..5h",
            "1. h",
            "one hour",
        ] {
            let read = serde_json::from_value::<Span>(text.into()).is_ok();
            assert_eq!(shown("listeners[].idle_timeout", text), read, "{text:?}");
        }
        for text in [
            "7",
            "64KiB",
            "64kib",
            "2MB",
            "1 GB",
            "1.5MiB",
            "10b",
            "3k",
            "",
            "-1",
            "64 apples",
            "1.5",
            "KiB",
            "1KiBs",
        ] {
            let read = serde_json::from_value::<Size>(text.into()).is_ok();
            assert_eq!(shown("listeners[].max_header_size", text), read, "{text:?}");
        }
    }

    /// The variable that sets the first of `path`.
    fn variable(path: &str) -> String {
        let path = path.replace("[]", "__0").replace('.', "__");
        format!("JOTGATE__{}", path.to_uppercase())
    }

    /// What `jotgate check` says of the complete example with `word` at `path`.
    fn told(path: &str, word: &str) -> Vec<String> {
        let text = include_str!("../../config/complete.toml");
        let secret = "0123456789abcdef0123456789abcdef";
        let env = [
            ("JOTGATE_ADMIN_TOKEN".to_owned(), secret.to_owned()),
            (variable(path), word.to_owned()),
        ];
        let path = path.replace("[]", "[0]");
        match load_str("complete.toml", text, &env) {
            Ok(_) => vec![],
            Err(faults) => faults
                .iter()
                .filter(|fault| fault.path == path)
                .map(|fault| fault.what.clone())
                .collect(),
        }
    }

    #[test]
    fn words_are_those_that_the_program_knows() {
        const NONE: &str = "no-such-word";
        let mut closed = 0;
        for (path, shape) in all() {
            let (path, shape) = match shape.get("items") {
                Some(element) => (format!("{path}[]"), element.clone()),
                None => (path, shape),
            };
            if shape["type"] != "string" || shape.get("pattern").is_some() {
                continue;
            }
            let told_of = |word: &str| {
                let told = told(&path, word);
                let start = format!("{word:?} is ");
                told.into_iter().find(|told| told.starts_with(&start))
            };
            if let Some(words) = words(&path) {
                closed += 1;
                assert!(told_of(NONE).is_some(), "{path} takes any word");
                for word in words {
                    assert_eq!(told_of(word), None, "{path}");
                }
            } else if let Some(told) = told_of(NONE) {
                // Where the program knows words and no others, it says them all.
                assert!(
                    !told.contains("is unknown; write"),
                    "{path}: {told}: add its words above"
                );
            }
        }
        assert!(closed >= 8, "{closed}");
    }
}
