//! One TOML file with the environment over it becomes the raw structs. Three passes: the text with the line of every
//! key, the merge by the `config` crate, and the reading into structs, which finds every value of a wrong form and
//! every unknown key in one go. What the values mean is left to `validate`.

use std::collections::HashMap;
use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;

use ::config::{Config, ConfigError, Source, Value, ValueKind};
use serde::Deserialize;
use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::error::{Fault, Faults};
use super::fixed::Fixed;
use super::place::{KeyPath, Place, Segment, is_bare};
use super::raw::{self, Root};
use super::settings::Settings;
use super::validate::{self, Check};

/// What the name of a variable that sets a key begins with. Two underscores, because Kubernetes makes `JOTGATE_PORT`
/// and the like for a service of that name.
const PREFIX: &str = "JOTGATE__";

/// Most elements of a list that the environment may number. A typing error must not cost gigabytes.
const LIST_LEN_MAX: usize = 1000;

/// Most values of a wrong form that are looked for: each costs one more reading of the whole.
const HOLES_MAX: usize = 100;

/// Reads the file and the process environment.
pub fn load(path: &Path) -> Result<Settings, Faults> {
    load_fixed(path).map(|(settings, _)| settings)
}

/// The same for a gateway that reloads: with what cannot change while it runs.
pub fn load_fixed(path: &Path) -> Result<(Settings, Fixed), Faults> {
    load_file(path, None)
}

/// The same while a gateway runs that was started with `running`: what it cannot change is a fault, told with all others.
pub fn load_beside(path: &Path, running: &Fixed) -> Result<Settings, Faults> {
    load_file(path, Some(running)).map(|(settings, _)| settings)
}

fn load_file(path: &Path, running: Option<&Fixed>) -> Result<(Settings, Fixed), Faults> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| whole_file(&name, format!("cannot be read: {error}")))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let env = environment(&name, std::env::vars_os())?;
    read(&name, &text, &env, folder, running)
}

/// The same from a text. `name` stands in the faults; `env` is the environment, for overrides and for secrets by
/// reference. Relative paths in the text are relative to the current folder.
pub fn load_str(name: &str, text: &str, env: &[(String, String)]) -> Result<Settings, Faults> {
    read(name, text, env, Path::new(""), None).map(|(settings, _)| settings)
}

/// [`load_fixed`] from a text.
#[cfg(test)]
pub(super) fn load_str_fixed(
    name: &str,
    text: &str,
    env: &[(String, String)],
) -> Result<(Settings, Fixed), Faults> {
    read(name, text, env, Path::new(""), None)
}

/// [`load_beside`] from a text.
#[cfg(test)]
pub(super) fn load_str_beside(
    name: &str,
    text: &str,
    env: &[(String, String)],
    running: &Fixed,
) -> Result<Settings, Faults> {
    read(name, text, env, Path::new(""), Some(running)).map(|(settings, _)| settings)
}

/// The variables that are text. One of ours that is not is a fault; others are none of our business.
fn environment(
    file: &str,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Vec<(String, String)>, Faults> {
    let mut env = vec![];
    let mut faults = vec![];
    for (name, value) in variables {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => env.push((name, value)),
            (Ok(name), Err(_)) if name.starts_with(PREFIX) => faults.push(Fault {
                file: file.to_owned(),
                line: None,
                variable: Some(name),
                path: String::new(),
                what: "is not UTF-8".to_owned(),
            }),
            (Ok(_) | Err(_), Ok(_) | Err(_)) => {}
        }
    }
    if faults.is_empty() {
        Ok(env)
    } else {
        Err(Faults::new(faults))
    }
}

fn whole_file(file: &str, what: String) -> Faults {
    Faults::new(vec![Fault {
        file: file.to_owned(),
        line: None,
        variable: None,
        path: String::new(),
        what,
    }])
}

fn read(
    file: &str,
    text: &str,
    env: &[(String, String)],
    folder: &Path,
    running: Option<&Fixed>,
) -> Result<(Settings, Fixed), Faults> {
    let mut check = Check::new(file, folder, env);
    let document = parse(file, text, &mut check)?;
    let merged = merge(file, document, env, &mut check)?;
    let fixed = Fixed::of(&merged);
    let root = deserialize(merged, &mut check);
    let settings = validate::settings(&root, &mut check);
    if let Some(running) = running {
        fixed.compare(running, &mut check);
    }
    check.finish(settings).map(|settings| (settings, fixed))
}

/// The values of the file, as a source of the `config` crate. Its own TOML source would read a quoted key at the top,
/// such as `"a[9999999999]"`, as a path.
#[derive(Clone, Debug)]
struct Document(HashMap<String, Value>);

impl Source for Document {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<HashMap<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

/// The text as values. Faults of the syntax end it: what follows them would be guesses.
fn parse(file: &str, text: &str, check: &mut Check<'_>) -> Result<Document, Faults> {
    let lines = Lines::new(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(Faults::new(
            errors
                .iter()
                .map(|error| Fault {
                    file: file.to_owned(),
                    line: error.span().map(|span| lines.at(&span)),
                    variable: None,
                    path: String::new(),
                    // Not its Display, which shows the line: it may hold a secret.
                    what: format!("is no TOML: {}", error.message()),
                })
                .collect(),
        ));
    }
    let mut reading = Reading {
        place: &|span| Place::Line(lines.at(span)),
        check,
    };
    let mut values = HashMap::new();
    for (key, value) in table.into_inner() {
        let path = KeyPath::default().key(key.get_ref());
        reading.note(&path, &key.span());
        if is_bare(key.get_ref()) {
            let value = reading.value(&path, value.into_inner());
            values.insert(key.into_inner().into_owned(), value);
        } else {
            unknown_key(&path, reading.check);
        }
    }
    Ok(Document(values))
}

/// Where each line of a text begins.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(at, _)| at + 1).collect())
    }

    /// The line of a span's first byte, counted from 1.
    fn at(&self, span: &Range<usize>) -> usize {
        self.0.partition_point(|&start| start <= span.start) + 1
    }
}

/// From the values of `toml` to those of `config`, noting the place of each.
struct Reading<'a, 'c> {
    place: &'a dyn Fn(&Range<usize>) -> Place,
    check: &'a mut Check<'c>,
}

impl Reading<'_, '_> {
    fn note(&mut self, path: &KeyPath, span: &Range<usize>) {
        self.check.places.set(path.clone(), (self.place)(span));
    }

    fn value(&mut self, path: &KeyPath, value: DeValue<'_>) -> Value {
        let kind = match value {
            DeValue::String(text) => ValueKind::String(text.into_owned()),
            DeValue::Integer(number) => {
                match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => ValueKind::I64(number),
                    // Its text is of a wrong form wherever it stands.
                    Err(_) => ValueKind::String(number.to_string()),
                }
            }
            DeValue::Float(number) => match number.as_str().parse::<f64>() {
                Ok(number) if number.is_finite() => ValueKind::Float(number),
                Ok(_) | Err(_) => ValueKind::String(number.to_string()),
            },
            DeValue::Boolean(flag) => ValueKind::Boolean(flag),
            DeValue::Datetime(datetime) => ValueKind::String(datetime.to_string()),
            DeValue::Array(elements) => ValueKind::Array(self.array(path, elements)),
            DeValue::Table(members) => ValueKind::Table(self.table(path, members)),
        };
        Value::new(None, kind)
    }

    fn array(&mut self, path: &KeyPath, elements: DeArray<'_>) -> Vec<Value> {
        elements
            .into_iter()
            .enumerate()
            .map(|(n, element)| {
                let path = path.index(n);
                self.note(&path, &element.span());
                self.value(&path, element.into_inner())
            })
            .collect()
    }

    fn table(&mut self, path: &KeyPath, members: DeTable<'_>) -> HashMap<String, Value> {
        members
            .into_iter()
            .map(|(key, value)| {
                let path = path.key(key.get_ref());
                self.note(&path, &key.span());
                let value = self.value(&path, value.into_inner());
                (key.into_inner().into_owned(), value)
            })
            .collect()
    }
}

/// A variable that sets a key.
struct Variable<'e> {
    name: &'e str,
    path: KeyPath,
    value: &'e str,
}

/// The file with the environment over it.
fn merge(
    file: &str,
    document: Document,
    env: &[(String, String)],
    check: &mut Check<'_>,
) -> Result<Json, Faults> {
    let variables = variables(&document, env, check);
    let mut builder = Config::builder().add_source(document);
    for Variable { name, path, value } in variables {
        let value = literal(name, &path, value, check);
        // Not the crate's own source for the environment: it lower-cases keys, which would add a second header
        // beside one that the file writes with capitals.
        builder = builder
            .set_override(path.to_string(), value)
            .map_err(|error| whole_file(file, error.to_string()))?;
    }
    builder
        .build()
        .and_then(Config::try_deserialize)
        .map_err(|error| whole_file(file, error.to_string()))
}

/// The value of a variable: a list or a table if it is written as TOML writes them, else text.
fn literal(name: &str, path: &KeyPath, text: &str, check: &mut Check<'_>) -> Value {
    let place = Place::Variable(name.to_owned());
    let parsed = text
        .starts_with(['[', '{'])
        .then(|| DeValue::parse(text).ok())
        .flatten()
        .map(Spanned::into_inner);
    if !matches!(parsed, Some(DeValue::Table(_))) {
        check.places.forget(path);
    }
    check.places.set(path.clone(), place.clone());
    match parsed {
        Some(value) => Reading {
            place: &|_| place.clone(),
            check,
        }
        .value(path, value),
        None => Value::new(None, text),
    }
}

/// The variables that set keys, in the order of their paths; those that cannot be are faults.
fn variables<'e>(
    document: &Document,
    env: &'e [(String, String)],
    check: &mut Check<'_>,
) -> Vec<Variable<'e>> {
    let mut named: Vec<Variable<'e>> = vec![];
    for (name, value) in env {
        let Some(key) = name.strip_prefix(PREFIX) else {
            continue;
        };
        match variable_path(key, document) {
            Some(path) => named.push(Variable { name, path, value }),
            None => check.variable_fault(
                name,
                "names no key; write one such as JOTGATE__LISTENERS__0__ADDRESS",
            ),
        }
    }
    named.sort_by(|a, b| (&a.path, a.name).cmp(&(&b.path, b.name)));
    let mut kept: Vec<Variable<'e>> = vec![];
    for variable in named {
        if let Some(other) = kept
            .iter()
            .find(|other| variable.path.is_at_or_below(&other.path))
        {
            check.variable_fault(
                variable.name,
                format!("sets a part of what {} sets; keep one of them", other.name),
            );
        } else if let Some(kind) = misfit(&variable.path, document) {
            check.variable_fault(
                variable.name,
                format!("does not fit the file, where {kind}; write one such as JOTGATE__LISTENERS__0__ADDRESS"),
            );
        } else if let Some(len) = gap(&variable.path, document, &kept) {
            check.variable_fault(
                variable.name,
                format!("leaves a gap: the list has {len} elements, so the next is number {len}"),
            );
        } else {
            kept.push(variable);
        }
    }
    kept
}

/// `LISTENERS__0__ADDRESS` as a path. A key is looked up without regard to case, because variables are written in
/// capitals and header names may be, too.
fn variable_path(key: &str, document: &Document) -> Option<KeyPath> {
    let mut here: Option<&Value> = None;
    let mut segments = vec![];
    for part in key.split("__") {
        let is_number = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if is_number && !segments.is_empty() {
            let n: usize = part.parse().ok().filter(|&n| n < LIST_LEN_MAX)?;
            here = match here {
                Some(Value {
                    kind: ValueKind::Array(elements),
                    ..
                }) => elements.get(n),
                Some(_) | None => None,
            };
            segments.push(Segment::Index(n));
        } else if is_bare(part) {
            let members = match here {
                None if segments.is_empty() => Some(&document.0),
                Some(Value {
                    kind: ValueKind::Table(members),
                    ..
                }) => Some(members),
                Some(_) | None => None,
            };
            let known = members.and_then(|members| {
                members
                    .iter()
                    .filter(|(known, _)| known.eq_ignore_ascii_case(part))
                    .min_by_key(|(known, _)| *known)
            });
            here = known.map(|(_, value)| value);
            segments.push(Segment::Key(known.map_or_else(
                || part.to_ascii_lowercase(),
                |(known, _)| known.clone(),
            )));
        } else {
            return None;
        }
    }
    Some(segments.into_iter().collect())
}

/// Whether `path` leads into a value of the file that has no such parts; it would be replaced by one that has.
fn misfit(path: &KeyPath, document: &Document) -> Option<String> {
    let mut here = KeyPath::default();
    for segment in path.segments() {
        let misfit = match (
            value_at(&document.0, &here).map(|value| &value.kind),
            segment,
        ) {
            (None | Some(ValueKind::Table(_)), Segment::Key(_))
            | (None | Some(ValueKind::Array(_)), Segment::Index(_)) => None,
            (Some(ValueKind::Array(_)), Segment::Key(_)) => Some("a list"),
            (Some(ValueKind::Table(_)), Segment::Index(_)) => Some("a table"),
            (Some(_), _) => Some("no table or list"),
        };
        if let Some(kind) = misfit {
            return Some(format!("{here} is {kind}"));
        }
        here = match segment {
            Segment::Key(key) => here.key(key),
            Segment::Index(n) => here.index(*n),
        };
    }
    None
}

/// The length of a list in which `path` would leave a gap. Elements come from the file and from variables before this.
fn gap(path: &KeyPath, document: &Document, before: &[Variable<'_>]) -> Option<usize> {
    let mut list = KeyPath::default();
    for segment in path.segments() {
        list = match segment {
            Segment::Key(key) => list.key(key),
            Segment::Index(n) => {
                let in_file = match value_at(&document.0, &list) {
                    Some(Value {
                        kind: ValueKind::Array(elements),
                        ..
                    }) => elements.len(),
                    Some(_) | None => 0,
                };
                let mut len = in_file;
                while before
                    .iter()
                    .any(|variable| variable.path.is_at_or_below(&list.index(len)))
                {
                    len += 1;
                }
                if *n > len {
                    return Some(len);
                }
                list.index(*n)
            }
        };
    }
    None
}

fn value_at<'v>(members: &'v HashMap<String, Value>, path: &KeyPath) -> Option<&'v Value> {
    let (first, rest) = path.segments().split_first()?;
    let Segment::Key(first) = first else {
        return None;
    };
    rest.iter().try_fold(members.get(first)?, |value, segment| {
        match (&value.kind, segment) {
            (ValueKind::Table(members), Segment::Key(key)) => members.get(key),
            (ValueKind::Array(elements), Segment::Index(n)) => elements.get(*n),
            _ => None,
        }
    })
}

/// Reads the merged values into the raw structs. A value of a wrong form is noted and replaced by a hole, then all is
/// read again.
fn deserialize(mut merged: Json, check: &mut Check<'_>) -> Root {
    let mut holes = 0;
    while holes < HOLES_MAX {
        let mut unknown = vec![];
        let mut track = serde_path_to_error::Track::new();
        let tracked = serde_path_to_error::Deserializer::new(&merged, &mut track);
        let mut ignored = |path: serde_ignored::Path<'_>| unknown.push(ignored_path(&path));
        let error = match Root::deserialize(serde_ignored::Deserializer::new(tracked, &mut ignored))
        {
            Ok(root) => {
                for path in &unknown {
                    unknown_key(path, check);
                }
                return root;
            }
            Err(error) => error,
        };
        let path = tracked_path(&track.path());
        let Some(value) = json_at(&mut merged, &path).filter(|value| !value.is_null()) else {
            check.fault(&path, wrong_form(&error.to_string()));
            return Root::default();
        };
        let from_variable = matches!(check.places.find(&path), Some(Place::Variable(_)));
        let scalar = value.as_str().filter(|_| from_variable).and_then(scalar);
        if let Some(scalar) = scalar {
            // Variables are text; a key that wants a number or a boolean gets it.
            *value = scalar;
        } else {
            *value = Json::Null;
            holes += 1;
            check.fault(&path, wrong_form(&error.to_string()));
            check.hole(path);
        }
    }
    check.fault(
        &KeyPath::default(),
        format!("has more than {HOLES_MAX} values of a wrong form; correct these first"),
    );
    Root::default()
}

/// A number or a boolean that a text says.
fn scalar(text: &str) -> Option<Json> {
    match text {
        "true" => Some(Json::Bool(true)),
        "false" => Some(Json::Bool(false)),
        text => text.parse::<i64>().ok().map(Json::from),
    }
}

fn json_at<'v>(root: &'v mut Json, path: &KeyPath) -> Option<&'v mut Json> {
    path.segments()
        .iter()
        .try_fold(root, |value, segment| match segment {
            Segment::Key(key) => value.get_mut(key),
            Segment::Index(n) => value.get_mut(n),
        })
}

fn tracked_path(path: &serde_path_to_error::Path) -> KeyPath {
    use serde_path_to_error::Segment as Step;
    path.iter()
        .filter_map(|step| match step {
            Step::Seq { index } => Some(Segment::Index(*index)),
            Step::Map { key } => Some(Segment::Key(key.clone())),
            Step::Enum { .. } | Step::Unknown => None,
        })
        .collect()
}

fn ignored_path(path: &serde_ignored::Path<'_>) -> KeyPath {
    use serde_ignored::Path as Step;
    match path {
        Step::Root => KeyPath::default(),
        Step::Seq { parent, index } => ignored_path(parent).index(*index),
        Step::Map { parent, key } => ignored_path(parent).key(key),
        Step::Some { parent }
        | Step::NewtypeStruct { parent }
        | Step::NewtypeVariant { parent } => ignored_path(parent),
    }
}

/// What serde says, in the words of a person who writes TOML.
fn wrong_form(error: &str) -> String {
    let Some((found, expected)) = error
        .strip_prefix("invalid type: ")
        .or_else(|| error.strip_prefix("invalid value: "))
        .and_then(|error| error.rsplit_once(", expected "))
    else {
        return error.to_owned();
    };
    let found = match found {
        "map" => "a table",
        "sequence" => "a list",
        found => ["string ", "integer ", "boolean ", "floating point "]
            .iter()
            .find_map(|kind| found.strip_prefix(kind))
            .unwrap_or(found)
            .trim_matches('`'),
    };
    let expected = match expected {
        "a string" => "text in quotes",
        "a boolean" => "true or false",
        "a sequence" => "a list such as [\"a\", \"b\"]",
        "a map" => "a table",
        "u64" => "a whole number",
        expected => expected,
    };
    format!("{found} does not fit here; write {expected}")
}

fn unknown_key(path: &KeyPath, check: &mut Check<'_>) {
    let key = path.last_key().unwrap_or_default();
    let table = path.parent().unwrap_or_default().shape();
    let what = if raw::comes_later(&table, key) {
        "is not supported yet; leave it out".to_owned()
    } else {
        let known = raw::keys_of(&table);
        match nearest(key, known) {
            Some(near) => format!("unknown key; did you mean `{near}`?"),
            None => format!("unknown key; the keys here are {}", known.join(", ")),
        }
    };
    check.fault(path, what);
}

/// The known key that `key` is probably meant to be: at most a third of its characters are wrong.
fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let key = key.to_ascii_lowercase().replace('-', "_");
    known
        .iter()
        .map(|near| (distance(&key, near), *near))
        .min()
        .filter(|(distance, near)| *distance <= near.len().div_ceil(3))
        .map(|(_, near)| near)
}

/// How many characters must be added, removed or changed to get from one text to the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::validate::testing::{BASE, check, faults, faults_with};
    use crate::listener::Address;

    fn load_with(text: &str, env: &[(&str, &str)]) -> Result<Settings, Faults> {
        let env: Vec<_> = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        load_str("test.toml", text, &env)
    }

    #[test]
    fn syntax_is_named_with_its_line_and_without_its_text() {
        let fault = faults("[[listeners]]\naddress = \"0.0.0.0:80\"\nsecret = hunter2\n");
        assert_eq!(fault.len(), 1, "{fault:?}");
        assert!(
            fault[0].starts_with("test.toml:3: is no TOML: "),
            "{fault:?}"
        );
        assert!(!fault[0].contains("hunter2"), "{fault:?}");
        let double = faults("workers = 1\nworkers = 2\n");
        assert!(
            double[0].starts_with("test.toml:2: is no TOML: duplicate key"),
            "{double:?}"
        );
    }

    #[test]
    fn every_value_of_a_wrong_form_is_found_in_one_go() {
        let text = r#"
workers = "four"
token_cache = 64

[[listeners]]
address = 8080
http2 = "yes"
idle_timeout = 5
max_header_size = "64 apples"
trusted_proxies = ["10.0.0.0/8", 7, "10.1.0.0/16", true]

[[issuers]]
issuer = "https://id.example.com"
audiences = "orders"
refresh = "5"
headers = { x-user-id = 1, x-tenant = "tenant" }

[[routes]]
path = "/"
upstream = "http://127.0.0.1:3000"
claims = { tenant = 1.5 }
"#;
        assert_eq!(
            faults(text),
            [
                "test.toml:2: workers: \"four\" does not fit here; write a whole number",
                "test.toml:3: token_cache: 64 does not fit here; write a table",
                "test.toml:6: listeners[0].address: 8080 does not fit here; write text in quotes",
                "test.toml:7: listeners[0].http2: \"yes\" does not fit here; write true or false",
                "test.toml:8: listeners[0].idle_timeout: 5 is no duration; write \"5s\" or \"5m\"",
                "test.toml:9: listeners[0].max_header_size: \"64 apples\" is no size; write one such as \"64KiB\", \"2MiB\" or 65536",
                "test.toml:10: listeners[0].trusted_proxies[1]: 7 does not fit here; write text in quotes",
                "test.toml:10: listeners[0].trusted_proxies[3]: true does not fit here; write text in quotes",
                "test.toml:14: issuers[0].audiences: \"orders\" does not fit here; write a list such as [\"a\", \"b\"]",
                "test.toml:15: issuers[0].refresh: \"5\" is no duration; write \"5s\" or \"5m\"",
                "test.toml:16: issuers[0].headers.x-user-id: 1 does not fit here; write text in quotes",
                "test.toml:21: routes[0].claims.tenant: 1.5 does not fit here; write text in quotes, a whole number, true, false, or a list of such",
            ]
        );
    }

    #[test]
    fn too_many_values_of_a_wrong_form_end_the_search() {
        let many = format!("[[routes]]\nscopes = [{}]\n", "1,".repeat(HOLES_MAX + 50));
        let faults = faults(&many);
        assert!(
            faults
                .iter()
                .any(|fault| fault.contains("more than 100 values")),
            "{faults:?}"
        );
    }

    #[test]
    fn numbers_that_no_integer_holds_are_not_taken_for_absent() {
        for number in ["nan", "inf", "-inf", "1e400", "99999999999999999999", "-1"] {
            let text = format!("workers = {number}\n{BASE}");
            check(&text, "workers", "write a whole number");
        }
    }

    #[test]
    fn unknown_keys_are_faults_with_a_suggestion() {
        check(
            &format!("worker = 1\n{BASE}"),
            "worker",
            "did you mean `workers`?",
        );
        check(
            &format!("\"listeners[99999999999999]\" = 1\n{BASE}"),
            "\"listeners[99999999999999]\"",
            "unknown key",
        );
        check(
            &format!("{BASE}audience = [\"a\"]\n"),
            "routes[0].audience",
            "unknown key; the keys here are name, ",
        );
        let issuer = BASE.replace("audiences =", "clams = {}\naudiences =");
        check(&issuer, "issuers[0].clams", "did you mean `claims`?");
        let all = faults(&format!("worker = 1\nrouts = 2\n{BASE}tokn = 3\n"));
        assert_eq!(all.len(), 3, "{all:?}");
    }

    #[test]
    fn what_a_later_version_knows_is_said_to_come() {
        check(
            &format!("{BASE}rewrite = \"/x\"\n"),
            "routes[0].rewrite",
            "is not supported yet",
        );
        check(
            &format!("{BASE}[token_service]\nissuer = \"x\"\n"),
            "token_service",
            "is not supported yet",
        );
    }

    #[test]
    fn variables_win_over_the_file() {
        let settings = load_with(
            BASE,
            &[
                ("JOTGATE__LISTENERS__0__ADDRESS", "127.0.0.1:7"),
                ("JOTGATE__LISTENERS__0__HTTP2", "false"),
                ("JOTGATE__LISTENERS__0__MAX_HEADERS", "7"),
                ("JOTGATE__LISTENERS__1__ADDRESS", "127.0.0.1:8"),
                ("JOTGATE__LISTENERS__2__ADDRESS", "127.0.0.1:9"),
                ("JOTGATE__ISSUERS__0__AUDIENCES", "[\"a\", \"b\"]"),
                ("JOTGATE__ROUTES__0__NAME", "17"),
                ("JOTGATE__ROUTES__0__SCOPES__0", "read"),
                ("JOTGATE__TELEMETRY__LOG__LEVEL", "warn"),
                ("JOTGATE_PORT", "tcp://10.0.0.1:80"),
                ("PATH", "/bin"),
            ],
        )
        .expect("a good file");
        let addresses: Vec<_> = settings
            .listeners
            .iter()
            .map(|listener| match &listener.address {
                Address::Tcp(address) => address.port(),
                Address::Unix(_) => 0,
            })
            .collect();
        assert_eq!(addresses, [7, 8, 9]);
        assert!(!settings.listeners[0].http2);
        assert_eq!(settings.listeners[0].max_headers, 7);
        assert_eq!(settings.issuers[0].rules.audiences.len(), 2);
        assert_eq!(settings.routes[0].name.as_str(), "17");
        assert_eq!(&*settings.routes[0].requirement.scopes[0], "read");
        assert_eq!(&*settings.telemetry.level, "warn");
    }

    #[test]
    fn a_variable_finds_a_key_whatever_its_case() {
        let text = BASE.replace(
            "audiences =",
            "headers = { X-User-Id = \"sub\" }\naudiences =",
        );
        let settings = load_with(
            &text,
            &[("JOTGATE__ISSUERS__0__HEADERS__X-USER-ID", "email")],
        )
        .expect("a good file");
        let claims = &settings.issuers[0].headers.claims;
        assert_eq!(claims.len(), 1);
        assert_eq!(claims[0].claim.as_str(), "email");
    }

    #[test]
    fn a_fault_in_a_variable_names_the_variable() {
        assert_eq!(
            faults_with(BASE, &[("JOTGATE__LISTENERS__0__IDLE_TIMEOUT", "5")]),
            [
                "JOTGATE__LISTENERS__0__IDLE_TIMEOUT: listeners[0].idle_timeout: 5 is no duration; write \"5s\" or \"5m\""
            ]
        );
        for (name, value, word) in [
            ("JOTGATE__WORKERS", "four", "write a whole number"),
            ("JOTGATE__WORKER", "4", "did you mean `workers`?"),
            ("JOTGATE__", "4", "names no key"),
            ("JOTGATE__LISTENERS__", "4", "names no key"),
            ("JOTGATE__0", "4", "unknown key"),
            (
                "JOTGATE__LISTENERS__4294967296__ADDRESS",
                "127.0.0.1:7",
                "names no key",
            ),
            (
                "JOTGATE__LISTENERS__2__ADDRESS",
                "127.0.0.1:7",
                "the list has 1 elements, so the next is number 1",
            ),
            (
                "JOTGATE__LISTENERS__ADDRESS",
                "127.0.0.1:7",
                "does not fit the file, where listeners is a list",
            ),
            (
                "JOTGATE__ISSUERS__0__ISSUER__X",
                "a",
                "does not fit the file, where issuers[0].issuer is no table or list",
            ),
            ("JOTGATE__TOKEN_SERVICE", "x", "is not supported yet"),
        ] {
            let faults = faults_with(BASE, &[(name, value)]);
            assert_eq!(faults.len(), 1, "{name}: {faults:?}");
            assert!(faults[0].contains(word), "{name}: {faults:?}");
            assert!(faults[0].starts_with(&format!("{name}: ")), "{faults:?}");
        }
        let both = faults_with(
            BASE,
            &[
                ("JOTGATE__ISSUERS__0__AUDIENCES", "[\"a\"]"),
                ("JOTGATE__ISSUERS__0__AUDIENCES__0", "b"),
            ],
        );
        assert_eq!(both.len(), 1, "{both:?}");
        assert!(
            both[0].contains("sets a part of what JOTGATE__ISSUERS__0__AUDIENCES sets"),
            "{both:?}"
        );
    }

    #[test]
    fn a_secret_is_never_repeated() {
        let text = format!(
            "{BASE}[admin]\naddress = \"127.0.0.1:0\"\ntokens = [{{ name = \"ops\", secret = \"hunter2\", roles = [\"read\"] }}]\n"
        );
        check(&text, "admin.tokens[0].secret", "{ env = \"NAME\" }");
        assert!(!faults(&text)[0].contains("hunter2"));
        let text = text.replace("secret = \"hunter2\"", "secret = { env = \"NAME\" }");
        let faults = faults_with(&text, &[("JOTGATE__ADMIN__TOKENS__0__SECRET", "hunter2")]);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(!faults[0].contains("hunter2"), "{faults:?}");
    }

    #[cfg(unix)]
    #[test]
    fn a_variable_of_ours_that_is_not_text_is_a_fault() {
        use std::os::unix::ffi::OsStringExt;
        let bad = || OsString::from_vec(vec![0xff]);
        assert_eq!(
            environment(
                "test.toml",
                [("PATH".into(), bad()), (bad(), "x".into())].into_iter()
            ),
            Ok(vec![])
        );
        let faults = environment(
            "test.toml",
            [("JOTGATE__WORKERS".into(), bad())].into_iter(),
        );
        assert_eq!(
            faults.expect_err("not text").to_string(),
            "JOTGATE__WORKERS: is not UTF-8"
        );
    }

    #[test]
    fn a_file_is_read_with_its_own_folder_for_paths() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("keys.json"), "{}").expect("a file");
        let file = folder.path().join("orders.toml");
        let text = BASE.replace("audiences =", "jwks_file = \"keys.json\"\naudiences =");
        std::fs::write(&file, text).expect("a file");
        assert!(load(&file).is_ok());
        let missing = load(&folder.path().join("none.toml")).expect_err("no file");
        assert!(
            missing.to_string().contains("none.toml: cannot be read: "),
            "{missing}"
        );
    }

    #[test]
    fn the_nearest_key_is_near() {
        let known = ["audiences", "algorithms", "issuer", "ca"];
        assert_eq!(nearest("audience", &known), Some("audiences"));
        assert_eq!(nearest("Issuer", &known), Some("issuer"));
        assert_eq!(nearest("algorihtm", &known), Some("algorithms"));
        assert_eq!(nearest("xy", &known), None);
        assert_eq!(nearest("upstream", &known), None);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let _ = load_str("test.toml", &text, &[]);
        }

        #[test]
        fn no_document_makes_it_panic(
            lines in proptest::collection::vec(
                "(\\[\\[?(listeners|issuers|routes|admin|issuers.claims|admin.tokens)\\]\\]?|\
                 (address|issuer|path|upstream|name|hosts|claims|jwks|secret|discovery|cors|token|methods|\"a\\[9\\]\") = \
                 (1|-1|true|nan|\"\"|\"/\"|\"unix:\"|\"http://a\"|\\[\\]|\\[1, \"a\"\\]|\\{\\}|\\{ a = 1 \\}|\\{ env = \"A\" \\}))",
                0..12,
            ),
            name in "JOTGATE__(LISTENERS|ISSUERS|ROUTES|ADMIN|0|[A-Z_.0-9]{0,9})(__[A-Z0-9]{0,6}){0,4}",
            value in any::<String>(),
        ) {
            let _ = load_str("test.toml", &lines.join("\n"), &[(name, value)]);
        }

        #[test]
        fn no_cut_of_the_complete_example_makes_it_panic(from in 0_usize..9000, len in 0_usize..60, with in "[\\[\\]{}=\".#a0\n-]{0,3}") {
            let text = include_str!("../../config/complete.toml");
            let (from, to) = (from.min(text.len()), (from + len).min(text.len()));
            if let (Some(head), Some(tail)) = (text.get(..from), text.get(to..)) {
                let _ = load_str("test.toml", &format!("{head}{with}{tail}"), &[]);
            }
        }
    }
}
