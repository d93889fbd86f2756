//! What every section needs to judge a value: notes of faults, bounds, names, files and secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use humantime::format_duration;

use crate::base::secret::Secret;
use crate::config::error::{Fault, Faults};
use crate::config::place::{KeyPath, Place, Places};
use crate::config::raw::{SecretRef, SecretTable, Size, Span};
use crate::config::secret::{from_file, from_variable};
use crate::config::settings::Settings;

/// Longest name of an issuer, route or upstream, in bytes: it is a label of every metric.
const NAME_BYTES_MAX: usize = 200;

/// A configuration under examination.
#[derive(Debug)]
pub(in crate::config) struct Check<'a> {
    file: &'a str,
    folder: &'a Path,
    env: &'a [(String, String)],
    /// Where each value was written.
    pub(in crate::config) places: Places,
    /// Values of a wrong form, left out. No second fault about one of them.
    holes: BTreeSet<KeyPath>,
    faults: Vec<Fault>,
}

impl<'a> Check<'a> {
    /// Begins. Relative paths are relative to `folder`.
    pub(in crate::config) fn new(
        file: &'a str,
        folder: &'a Path,
        env: &'a [(String, String)],
    ) -> Self {
        Self {
            file,
            folder,
            env,
            places: Places::default(),
            holes: BTreeSet::new(),
            faults: vec![],
        }
    }

    /// The settings if there was no fault.
    pub(in crate::config) fn finish(self, settings: Settings) -> Result<Settings, Faults> {
        if self.faults.is_empty() {
            Ok(settings)
        } else {
            Err(Faults::new(self.faults))
        }
    }

    /// Notes what is wrong with `path`, unless it is known already that its form is.
    pub(in crate::config) fn fault(&mut self, path: &KeyPath, what: impl Into<String>) {
        if self.is_hole(path) {
            return;
        }
        let (line, variable) = match self.places.find(path) {
            Some(Place::Line(line)) => (Some(*line), None),
            Some(Place::Variable(name)) => (None, Some(name.clone())),
            None => (None, None),
        };
        self.faults.push(Fault {
            file: self.file.to_owned(),
            line,
            variable,
            path: path.to_string(),
            what: what.into(),
        });
    }

    /// Notes what is wrong with a variable that is no key.
    pub(in crate::config) fn variable_fault(&mut self, name: &str, what: impl Into<String>) {
        self.faults.push(Fault {
            file: self.file.to_owned(),
            line: None,
            variable: Some(name.to_owned()),
            path: String::new(),
            what: what.into(),
        });
    }

    /// Notes that `path` had a wrong form and is left out.
    pub(in crate::config) fn hole(&mut self, path: KeyPath) {
        self.holes.insert(path);
    }

    /// Whether `path` was left out because of its form.
    pub(super) fn is_hole(&self, path: &KeyPath) -> bool {
        self.holes.contains(path)
    }

    /// Whether something in `path` was left out because of its form.
    pub(super) fn has_holes(&self, path: &KeyPath) -> bool {
        self.holes.iter().any(|hole| hole.is_at_or_below(path))
    }

    /// Line and path of a value, for a fault that names another one.
    pub(super) fn whereabouts(&self, path: &KeyPath) -> String {
        match self.places.find(path) {
            Some(Place::Line(line)) => format!("{path} (line {line})"),
            Some(Place::Variable(name)) => format!("{path} ({name})"),
            None => path.to_string(),
        }
    }

    /// The value of the key, or a fault that says what to write.
    pub(super) fn required<'v, T>(
        &mut self,
        table: &KeyPath,
        key: &str,
        value: Option<&'v T>,
        cure: &str,
    ) -> Option<&'v T> {
        if value.is_none() {
            self.fault(&table.key(key), format!("is missing; write {cure}"));
        }
        value
    }

    /// A duration within bounds.
    pub(super) fn duration(
        &mut self,
        path: &KeyPath,
        value: Option<Span>,
        default: Duration,
        bounds: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(Span(value)) = value else {
            return default;
        };
        if !bounds.contains(&value) {
            let (least, most) = (
                format_duration(*bounds.start()),
                format_duration(*bounds.end()),
            );
            self.fault(
                path,
                format!(
                    "{} is out of bounds; write a duration from \"{least}\" to \"{most}\"",
                    format_duration(value)
                ),
            );
        }
        value
    }

    /// A number within bounds.
    pub(super) fn number(
        &mut self,
        path: &KeyPath,
        value: Option<u64>,
        default: u32,
        bounds: RangeInclusive<u32>,
    ) -> u32 {
        let Some(value) = value else {
            return default;
        };
        match u32::try_from(value) {
            Ok(value) if bounds.contains(&value) => value,
            Ok(_) | Err(_) => {
                let (least, most) = (bounds.start(), bounds.end());
                self.fault(
                    path,
                    format!("{value} is out of bounds; write a number from {least} to {most}"),
                );
                default
            }
        }
    }

    /// A size in bytes within bounds.
    pub(super) fn size(
        &mut self,
        path: &KeyPath,
        value: Option<Size>,
        default: u64,
        bounds: RangeInclusive<u64>,
    ) -> u64 {
        let Some(Size(value)) = value else {
            return default;
        };
        if !bounds.contains(&value) {
            let (least, most) = (ByteSize(*bounds.start()), ByteSize(*bounds.end()));
            self.fault(
                path,
                format!(
                    "{} is out of bounds; write a size from {least} to {most}",
                    ByteSize(value)
                ),
            );
        }
        value
    }

    /// A value that can be parsed, or a fault `"value" reason`.
    pub(super) fn parsed<T, E: std::fmt::Display>(
        &mut self,
        path: &KeyPath,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        match parse(text) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.fault(path, format!("{text:?} {reason}"));
                None
            }
        }
    }

    /// Whether `name` can be a name. It stands in logs, metrics and messages.
    pub(super) fn name(&mut self, path: &KeyPath, name: &str) -> bool {
        let what = if name.trim().is_empty() {
            "is empty; write a name or leave the key out".to_owned()
        } else if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            format!("is no name; write at most {NAME_BYTES_MAX} bytes without control characters")
        } else {
            return true;
        };
        self.fault(path, what);
        false
    }

    /// A path of the file, relative to the folder of the configuration.
    pub(super) fn resolve(&mut self, path: &KeyPath, text: &str) -> Option<PathBuf> {
        if text.is_empty() || text.contains('\0') {
            self.fault(path, format!("{text:?} is no path"));
            return None;
        }
        Some(self.folder.join(text))
    }

    /// The path of a file that is there. It is read later.
    pub(super) fn file(&mut self, path: &KeyPath, text: &str) -> Option<PathBuf> {
        let file = self.resolve(path, text)?;
        match std::fs::metadata(&file) {
            Ok(metadata) if metadata.is_dir() => {
                self.fault(
                    path,
                    format!("{} is a folder; write a file", file.display()),
                );
                None
            }
            Ok(_) => Some(file),
            Err(error) => {
                self.fault(path, format!("{} cannot be read: {error}", file.display()));
                None
            }
        }
    }

    /// The secret that a reference leads to.
    pub(super) fn secret(&mut self, path: &KeyPath, reference: &SecretRef) -> Option<Secret> {
        if self.has_holes(path) {
            return None;
        }
        let SecretRef(SecretTable { env, file }) = reference;
        let outcome = match (env, file) {
            (Some(name), None) => from_variable(self.env, name),
            (None, Some(file)) => from_file(&self.resolve(&path.key("file"), file)?),
            (Some(_), Some(_)) | (None, None) => {
                self.fault(
                    path,
                    "needs one source; write { env = \"NAME\" } or { file = \"path\" }",
                );
                return None;
            }
        };
        match outcome {
            Ok(secret) => Some(secret),
            Err(reason) => {
                self.fault(path, format!("has no secret: {reason}"));
                None
            }
        }
    }
}

/// Finds values that stand twice.
#[derive(Debug)]
pub(super) struct Unique<T>(BTreeMap<T, KeyPath>);

impl<T: Ord> Unique<T> {
    /// Nothing seen yet.
    pub(super) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Notes `value`, or returns where it was seen before.
    pub(super) fn insert(&mut self, value: T, path: &KeyPath) -> Option<&KeyPath> {
        use std::collections::btree_map::Entry;
        match self.0.entry(value) {
            Entry::Vacant(free) => {
                free.insert(path.clone());
                None
            }
            Entry::Occupied(taken) => Some(taken.into_mut()),
        }
    }
}
