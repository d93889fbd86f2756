//! A key set: parsed entry by entry, and searched by `kid` (RFC 7517 section 5).

#[cfg(any(test, fuzzing))]
pub(crate) mod law;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use foldhash::fast::RandomState;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value};

use super::Algorithm;
use super::jwk::{self, SkipReason};
use super::key::Key;
use crate::base::limits::{JSON_DEPTH_MAX, JWKS_BYTES_MAX, JWKS_KEYS_MAX, KEYS_TRIED_MAX};

/// The usable keys of one issuer at one time.
#[derive(Debug, Default)]
pub struct KeySet {
    all: Vec<Arc<Key>>,
    // Seeded: a `kid` to look up is chosen by whoever sends a token.
    by_kid: HashMap<Box<str>, Vec<Arc<Key>>, RandomState>,
    nameless: Vec<Arc<Key>>,
    skipped: Vec<Skipped>,
}

/// An entry that is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its place in `keys`, from 0.
    pub index: usize,
    /// Why.
    pub reason: SkipReason,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "keys[{}]: {}", self.index, self.reason)
    }
}

/// What a set knows about a token's `kid` and `alg`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// There is at least one candidate.
    Fits,
    /// There are keys of that name, and none may check that algorithm. A newer set would not help.
    Misfit,
    /// Nothing could check it. A newer set may.
    Unknown,
}

/// Why a text is no key set, as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Longer than [`JWKS_BYTES_MAX`].
    #[error("longer than {JWKS_BYTES_MAX} bytes")]
    TooLarge,
    /// Not UTF-8, or no JSON.
    #[error("no JSON (line {line}, column {column})")]
    NotJson {
        /// From 1; 0 if the text is not UTF-8.
        line: usize,
        /// From 1; 0 if the text is not UTF-8.
        column: usize,
    },
    /// JSON, but no object with exactly one array `keys`.
    #[error("no JSON object with one array `keys`")]
    NotAKeySet,
    /// Every entry was skipped, or there was none. Such a set never replaces keys.
    #[error("no usable key{}", Reasons(skipped))]
    NoUsableKey {
        /// All of them.
        skipped: Vec<Skipped>,
    },
}

/// The first few are enough to act on.
struct Reasons<'a>(&'a [Skipped]);

impl fmt::Display for Reasons<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(": `keys` is empty");
        }
        write!(f, ": {} skipped", self.0.len())?;
        for skipped in self.0.iter().take(3) {
            write!(f, "; {skipped}")?;
        }
        Ok(())
    }
}

impl KeySet {
    /// Parses a JWKS. An entry that cannot be used is skipped with its reason and never fatal;
    /// identical ones are merged.
    pub fn parse(json: &[u8]) -> Result<Self, KeySetError> {
        if json.len() > JWKS_BYTES_MAX {
            return Err(KeySetError::TooLarge);
        }
        let json =
            std::str::from_utf8(json).map_err(|_| KeySetError::NotJson { line: 0, column: 0 })?;
        let mut keys = Vec::new();
        let mut skipped = Vec::new();
        for (index, entry) in read_entries(json)?.into_iter().enumerate() {
            match entry.and_then(|entry| jwk::parse(&entry)) {
                Ok(key) => keys.push(key),
                Err(reason) => skipped.push(Skipped { index, reason }),
            }
        }
        if keys.is_empty() {
            return Err(KeySetError::NoUsableKey { skipped });
        }
        let mut set = Self::from_keys(keys);
        set.skipped = skipped;
        Ok(set)
    }

    /// A set of keys from elsewhere. Identical ones are merged.
    #[must_use]
    pub fn from_keys(keys: Vec<Key>) -> Self {
        let mut set = Self::default();
        for key in keys {
            set.insert(Arc::new(key));
        }
        set
    }

    /// Every key, in the order of the set.
    #[must_use]
    pub fn keys(&self) -> &[Arc<Key>] {
        &self.all
    }

    /// The entries that are not used.
    #[must_use]
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// The keys that may have signed a token with this `kid` and `alg`, at most [`KEYS_TRIED_MAX`].
    ///
    /// A `kid` that the set knows excludes all others. One that it does not know leaves the keys
    /// without a name: some providers name the key in the token alone.
    pub fn candidates(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &Arc<Key>> {
        self.named(kid)
            .iter()
            .filter(move |key| key.fits(algorithm))
            .take(KEYS_TRIED_MAX)
    }

    /// Tells a token whose key may come with a newer set from one whose key cannot check its `alg`.
    #[must_use]
    pub fn knows(&self, kid: Option<&str>, algorithm: Algorithm) -> Known {
        if self.candidates(kid, algorithm).next().is_some() {
            Known::Fits
        } else if kid.is_some_and(|kid| self.by_kid.contains_key(kid)) {
            Known::Misfit
        } else {
            Known::Unknown
        }
    }

    fn named(&self, kid: Option<&str>) -> &[Arc<Key>] {
        match kid {
            Some(kid) => self.by_kid.get(kid).unwrap_or(&self.nameless),
            None => &self.all,
        }
    }

    fn insert(&mut self, key: Arc<Key>) {
        if self.same_as(&key).is_some() {
            return;
        }
        match key.kid() {
            Some(kid) => self
                .by_kid
                .entry(kid.into())
                .or_default()
                .push(Arc::clone(&key)),
            None => self.nameless.push(Arc::clone(&key)),
        }
        self.all.push(key);
    }

    fn same_as(&self, key: &Key) -> Option<&Arc<Key>> {
        let alike = match key.kid() {
            Some(kid) => self.by_kid.get(kid)?,
            None => &self.nameless,
        };
        alike.iter().find(|other| other.is_same(key))
    }

    /// The same set, with each key that `old` has already replaced by that very one.
    pub(super) fn carried_over(self, old: &Self) -> Self {
        let mut set = Self {
            skipped: self.skipped,
            ..Self::default()
        };
        for key in self.all {
            let key = old.same_as(&key).map_or(key, Arc::clone);
            set.insert(key);
        }
        set
    }

    /// Whether this very key is in the set.
    pub(super) fn holds(&self, key: &Key) -> bool {
        self.same_as(key).is_some_and(|own| own.id() == key.id())
    }
}

/// An entry as JSON, or why it cannot be read in one way.
type Entry = Result<Value, SkipReason>;

/// The entries of the one member `keys`; other members are ignored (RFC 7517 section 5).
fn read_entries(json: &str) -> Result<Vec<Entry>, KeySetError> {
    let mut text = serde_json::Deserializer::from_str(json);
    text.deserialize_map(Set)
        .and_then(|entries| text.end().map(|()| entries))
        .map_err(|fault| {
            if fault.is_data() {
                KeySetError::NotAKeySet
            } else {
                KeySetError::NotJson {
                    line: fault.line(),
                    column: fault.column(),
                }
            }
        })
}

/// The object around `keys`.
struct Set;

impl<'de> Visitor<'de> for Set {
    type Value = Vec<Entry>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with one array `keys`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = None;
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if name != "keys" {
                map.next_value::<IgnoredAny>()?;
            } else if entries.replace(map.next_value_seed(Entries)?).is_some() {
                return Err(A::Error::duplicate_field("keys"));
            }
        }
        entries.ok_or_else(|| A::Error::missing_field("keys"))
    }
}

/// The array `keys`.
struct Entries;

impl<'de> DeserializeSeed<'de> for Entries {
    type Value = Vec<Entry>;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Self::Value, D::Error> {
        value.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<Entry>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while entries.len() < JWKS_KEYS_MAX {
            let mut fault = None;
            let strict = Strict {
                depth: JSON_DEPTH_MAX,
                fault: &mut fault,
            };
            let Some(value) = seq.next_element_seed(strict)? else {
                return Ok(entries);
            };
            entries.push(fault.map_or(Ok(value), Err));
        }
        if seq.next_element::<IgnoredAny>()?.is_some() {
            entries.push(Err(SkipReason::BeyondLimit));
            while seq.next_element::<IgnoredAny>()?.is_some() {}
        }
        Ok(entries)
    }
}

/// Reads a JSON value, and notes what `serde_json::Value` would hide: a member that stands twice, and
/// nesting beyond the bound. The text is read to the end of the value all the same, so that one bad
/// entry does not take the next with it.
struct Strict<'a> {
    /// How many levels may still follow.
    depth: usize,
    fault: &'a mut Option<SkipReason>,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Value, D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let Some(depth) = self.depth.checked_sub(1) else {
            *self.fault = Some(SkipReason::TooDeep);
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Value::Null);
        };
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(Strict {
            depth,
            fault: &mut *self.fault,
        })? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let Some(depth) = self.depth.checked_sub(1) else {
            *self.fault = Some(SkipReason::TooDeep);
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Value::Null);
        };
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(Strict {
                depth,
                fault: &mut *self.fault,
            })?;
            if members.insert(name, value).is_some() {
                *self.fault = Some(SkipReason::DuplicateMember);
            }
        }
        Ok(members.into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::rfc_examples;
    use super::*;

    fn rsa(more: &str) -> String {
        format!(
            r#"{{"kty":"RSA","n":"{}","e":"AQAB"{more}}}"#,
            rfc_examples::RSA_N
        )
    }

    fn p256(more: &str) -> String {
        let (x, y) = (rfc_examples::EC_X, rfc_examples::EC_Y);
        format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}"{more}}}"#)
    }

    fn ed25519(more: &str) -> String {
        format!(
            r#"{{"kty":"OKP","crv":"Ed25519","x":"{}"{more}}}"#,
            rfc_examples::ED_X
        )
    }

    fn set(entries: &[String]) -> String {
        format!(r#"{{"keys":[{}]}}"#, entries.join(","))
    }

    fn parse(entries: &[String]) -> KeySet {
        KeySet::parse(set(entries).as_bytes()).unwrap()
    }

    fn kids(set: &KeySet, kid: Option<&str>, algorithm: Algorithm) -> Vec<Option<String>> {
        set.candidates(kid, algorithm)
            .map(|key| key.kid().map(str::to_owned))
            .collect()
    }

    #[track_caller]
    fn refused(json: impl AsRef<[u8]>, error: &KeySetError) {
        assert_eq!(KeySet::parse(json.as_ref()).unwrap_err(), *error);
    }

    #[test]
    fn a_bad_entry_is_skipped_and_the_others_count() {
        let set = parse(&[
            ed25519(r#","kid":"good""#),
            "7".into(),
            rsa(r#","use":"enc""#),
            p256(r#","kid":"also good""#),
        ]);
        assert_eq!(set.keys().len(), 2);
        assert_eq!(
            set.skipped(),
            [
                Skipped {
                    index: 1,
                    reason: SkipReason::NotAnObject
                },
                Skipped {
                    index: 2,
                    reason: SkipReason::Use
                },
            ]
        );
    }

    #[test]
    fn an_entry_with_a_member_twice_is_skipped() {
        let reason = SkipReason::DuplicateMember;
        for twice in [
            rsa(r#","kid":"a","kid":"b""#),
            rsa(r#","\u006bty":"RSA""#),
            rsa(r#","x":{"a":1,"a":1}"#),
        ] {
            let set = parse(&[twice, ed25519("")]);
            assert_eq!(set.skipped(), [Skipped { index: 0, reason }]);
        }
    }

    #[test]
    fn an_entry_that_nests_too_deep_is_skipped() {
        let nest = |levels| format!(r#","x5c":{}{}"#, "[".repeat(levels), "]".repeat(levels));
        // The entry itself is the first level.
        assert!(
            parse(&[rsa(&nest(JSON_DEPTH_MAX - 1))])
                .skipped()
                .is_empty()
        );
        let reason = SkipReason::TooDeep;
        for levels in [JSON_DEPTH_MAX, 10_000] {
            let set = parse(&[rsa(&nest(levels)), ed25519("")]);
            assert_eq!(set.skipped(), [Skipped { index: 0, reason }]);
            assert_eq!(set.keys().len(), 1);
        }
    }

    #[test]
    fn only_the_first_entries_are_looked_at() {
        let entries: Vec<_> = (0..JWKS_KEYS_MAX + 5)
            .map(|number| ed25519(&format!(r#","kid":"{number}""#)))
            .collect();
        let set = parse(&entries);
        assert_eq!(set.keys().len(), JWKS_KEYS_MAX);
        assert_eq!(
            set.skipped(),
            [Skipped {
                index: JWKS_KEYS_MAX,
                reason: SkipReason::BeyondLimit
            }]
        );
        assert!(parse(&entries[..JWKS_KEYS_MAX]).skipped().is_empty());
    }

    #[test]
    fn the_set_itself_is_an_object_with_one_array() {
        for json in [
            "[]",
            "7",
            "{}",
            r#"{"keys":{}}"#,
            r#"{"keys":null}"#,
            r#"{"keys":[],"keys":[]}"#,
            r#"{"Keys":[]}"#,
        ] {
            refused(json, &KeySetError::NotAKeySet);
        }
        for json in [r#"{"keys":["#, "", r#"{"keys":[]} x"#, r#"{"keys":[01]}"#] {
            assert!(
                matches!(
                    KeySet::parse(json.as_bytes()),
                    Err(KeySetError::NotJson { line: 1, .. })
                ),
                "{json}"
            );
        }
        refused(
            b"{\"\xff\":1,\"keys\":[]}",
            &KeySetError::NotJson { line: 0, column: 0 },
        );
        let json = format!(r#"{{"other":[{{}}],"keys":[{}]}}"#, rsa(""));
        assert!(KeySet::parse(json.as_bytes()).is_ok());
    }

    #[test]
    fn a_set_without_a_usable_key_is_an_error_that_says_why() {
        refused(
            r#"{"keys":[]}"#,
            &KeySetError::NoUsableKey { skipped: vec![] },
        );
        let error = KeySet::parse(set(&[rsa(r#","use":"enc""#)]).as_bytes()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no usable key: 1 skipped; keys[0]: use is not sig"
        );
    }

    #[test]
    fn a_set_is_bounded_in_size() {
        let mut json = set(&[rsa("")]);
        json.push_str(&" ".repeat(JWKS_BYTES_MAX - json.len()));
        assert!(KeySet::parse(json.as_bytes()).is_ok());
        json.push(' ');
        refused(json, &KeySetError::TooLarge);
    }

    #[test]
    fn identical_entries_are_merged_and_equal_names_are_kept() {
        let set = parse(&[
            rsa(r#","kid":"a","alg":"RS256""#),
            rsa(r#","kid":"a","alg":"RS256""#),
            rsa(r#","kid":"a","alg":"PS256""#),
            ed25519(r#","kid":"a""#),
        ]);
        assert_eq!(set.keys().len(), 3);
        for algorithm in [Algorithm::RS256, Algorithm::PS256, Algorithm::EdDSA] {
            assert_eq!(
                set.candidates(Some("a"), algorithm).count(),
                1,
                "{algorithm}"
            );
        }
    }

    #[test]
    fn a_known_name_excludes_every_other_key() {
        let set = parse(&[
            rsa(r#","kid":"a""#),
            rsa(r#","kid":"b""#),
            rsa(""),
            p256(r#","kid":"c""#),
        ]);
        let rs256 = Algorithm::RS256;
        assert_eq!(kids(&set, Some("a"), rs256), [Some("a".into())]);
        assert!(kids(&set, Some("c"), rs256).is_empty());
        assert_eq!(kids(&set, Some("other"), rs256), [None]);
        assert_eq!(kids(&set, None, rs256).len(), 3);
        assert_eq!(kids(&set, None, Algorithm::ES256), [Some("c".into())]);
    }

    #[test]
    fn an_unknown_name_is_told_from_a_wrong_algorithm() {
        let set = parse(&[rsa(r#","kid":"a""#)]);
        assert_eq!(set.knows(Some("a"), Algorithm::RS256), Known::Fits);
        assert_eq!(set.knows(Some("a"), Algorithm::ES256), Known::Misfit);
        assert_eq!(set.knows(Some("b"), Algorithm::RS256), Known::Unknown);
        assert_eq!(set.knows(None, Algorithm::RS256), Known::Fits);
        assert_eq!(set.knows(None, Algorithm::ES256), Known::Unknown);
    }

    #[test]
    fn few_keys_are_tried_for_a_token_without_a_name() {
        let entries: Vec<_> = (0..KEYS_TRIED_MAX + 3)
            .map(|number| rsa(&format!(r#","kid":"{number}""#)))
            .collect();
        let set = parse(&entries);
        assert_eq!(
            set.candidates(None, Algorithm::RS256).count(),
            KEYS_TRIED_MAX
        );
    }
}
