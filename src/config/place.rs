//! Where a value is: its path among the keys, and the line or variable that it was written in.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

/// One step of a [`KeyPath`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Segment {
    /// A member of a table.
    Key(String),
    /// An element of a list.
    Index(usize),
}

/// The way from the top of the file to a value: `issuers[0].refresh`. Empty: the file itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyPath(Vec<Segment>);

impl KeyPath {
    /// The member `key` of this table.
    pub(super) fn key(&self, key: &str) -> Self {
        self.with(Segment::Key(key.to_owned()))
    }

    /// The element `index` of this list.
    pub(super) fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    fn with(&self, segment: Segment) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment);
        Self(segments)
    }

    /// Its steps from the top.
    pub(super) fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// Where this is a member or an element; None at the top.
    pub(super) fn parent(&self) -> Option<Self> {
        let (_, above) = self.0.split_last()?;
        Some(Self(above.to_vec()))
    }

    /// The last step, if it is a key.
    pub(super) fn last_key(&self) -> Option<&str> {
        match self.0.last()? {
            Segment::Key(key) => Some(key),
            Segment::Index(_) => None,
        }
    }

    /// Whether it is `other` or below it.
    pub(super) fn is_at_or_below(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// The path without numbers, the same for every element: `issuers[].refresh`.
    pub(super) fn shape(&self) -> String {
        self.text(|_| "[]".to_owned())
    }

    fn text(&self, index: impl Fn(usize) -> String) -> String {
        let mut text = String::new();
        for segment in &self.0 {
            match segment {
                Segment::Index(n) => text.push_str(&index(*n)),
                Segment::Key(key) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    if is_bare(key) {
                        text.push_str(key);
                    } else {
                        // Quotes, and escapes as TOML knows most of them.
                        let _ = write!(text, "{key:?}");
                    }
                }
            }
        }
        text
    }
}

impl FromIterator<Segment> for KeyPath {
    fn from_iter<I: IntoIterator<Item = Segment>>(segments: I) -> Self {
        Self(segments.into_iter().collect())
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(|n| format!("[{n}]")))
    }
}

/// Whether TOML takes `key` without quotes; such keys are also what the path syntax of `config` knows.
pub(super) fn is_bare(key: &str) -> bool {
    !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// What a value was written in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// This line of the file, counted from 1.
    Line(usize),
    /// This environment variable.
    Variable(String),
}

/// The place of every value.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<KeyPath, Place>);

impl Places {
    /// Notes where `path` was written.
    pub(super) fn set(&mut self, path: KeyPath, place: Place) {
        self.0.insert(path, place);
    }

    /// Forgets `path` and all below it: something else takes its place.
    pub(super) fn forget(&mut self, path: &KeyPath) {
        self.0.retain(|known, _| !known.is_at_or_below(path));
    }

    /// The place of `path`, or of the nearest that it is a part of: what is missing is missed there.
    pub(super) fn find(&self, path: &KeyPath) -> Option<&Place> {
        let mut path = path.clone();
        loop {
            if let Some(place) = self.0.get(&path) {
                return Some(place);
            }
            path = path.parent()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_they_are_written() {
        let path = KeyPath::default().key("routes").index(2).key("claims");
        assert_eq!(path.to_string(), "routes[2].claims");
        assert_eq!(path.shape(), "routes[].claims");
        assert_eq!(
            path.key("realm_access.roles").to_string(),
            "routes[2].claims.\"realm_access.roles\""
        );
    }

    #[test]
    fn what_has_no_place_is_missed_where_it_belongs() {
        let issuer = KeyPath::default().key("issuers").index(0);
        let mut places = Places::default();
        places.set(issuer.clone(), Place::Line(7));
        assert_eq!(
            places.find(&issuer.key("claims").key("subject")),
            Some(&Place::Line(7))
        );
        assert_eq!(places.find(&KeyPath::default().key("routes")), None);
        places.forget(&KeyPath::default().key("issuers"));
        assert_eq!(places.find(&issuer), None);
    }
}
