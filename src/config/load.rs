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
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| whole_file(&name, format!("cannot be read: {error}")))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let env = environment(&name, std::env::vars_os())?;
    read(&name, &text, &env, folder)
}

/// The same from a text. `name` stands in the faults; `env` is the environment, for overrides and for secrets by
/// reference. Relative paths in the text are relative to the current folder.
pub fn load_str(name: &str, text: &str, env: &[(String, String)]) -> Result<Settings, Faults> {
    read(name, text, env, Path::new(""))
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
) -> Result<Settings, Faults> {
    let mut check = Check::new(file, folder, env);
    let document = parse(file, text, &mut check)?;
    let merged = merge(file, document, env, &mut check)?;
    let root = deserialize(merged, &mut check);
    let settings = validate::settings(&root, &mut check);
    check.finish(settings)
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
    for _ in 0..HOLES_MAX {
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
