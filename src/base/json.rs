//! JSON with one reading only. Parsers differ on duplicate members: some take the first, some the last (RFC 8259
//! section 4), so a token that has them could mean two things, and a revocation would lose one of its names in silence.
//! RFC 7515 section 4 and RFC 7519 section 4 let us refuse.

#[cfg(any(test, fuzzing))]
pub(crate) mod law;

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

use crate::base::limits::JSON_DEPTH_MAX;

/// A value that borrows its texts from what was read. Most tokens that are refused are refused before anything of them need
/// be kept, so reading them takes no more from the heap than it must.
#[derive(Clone, Debug, PartialEq)]
pub enum Json<'t> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A finite number.
    Number(Number),
    /// A text.
    Text(Cow<'t, str>),
    /// Values in their order.
    Array(Vec<Self>),
    /// Members.
    Object(Members<'t>),
}

/// The members of an object, each name once.
#[derive(Clone, Debug, PartialEq)]
pub struct Members<'t>(
    /// Sorted by name.
    Vec<(Cow<'t, str>, Json<'t>)>,
);

impl<'t> Members<'t> {
    /// None if a name stands twice.
    fn new(mut members: Vec<(Cow<'t, str>, Json<'t>)>) -> Option<Self> {
        members.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let is_doubled = members.windows(2).any(|pair| pair[0].0 == pair[1].0);
        (!is_doubled).then_some(Self(members))
    }

    /// The member of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Json<'t>> {
        let found = self.0.binary_search_by(|(other, _)| (**other).cmp(name));
        found.ok().map(|at| &self.0[at].1)
    }
}

/// What a path can be followed through.
pub trait Node {
    /// The member of an object.
    fn member(&self, name: &str) -> Option<&Self>;

    /// The element of an array.
    fn element(&self, at: &str) -> Option<&Self>;
}

impl Node for Json<'_> {
    fn member(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else {
            return None;
        };
        members.get(name)
    }

    fn element(&self, at: &str) -> Option<&Self> {
        let Self::Array(elements) = self else {
            return None;
        };
        elements.get(at.parse::<usize>().ok()?)
    }
}

impl Node for Value {
    fn member(&self, name: &str) -> Option<&Self> {
        self.as_object()?.get(name)
    }

    fn element(&self, at: &str) -> Option<&Self> {
        self.as_array()?.get(at.parse::<usize>().ok()?)
    }
}

impl From<Json<'_>> for Value {
    fn from(json: Json<'_>) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(value),
            Json::Number(number) => Self::Number(number),
            Json::Text(text) => Self::String(text.into_owned()),
            Json::Array(elements) => elements.into_iter().map(Self::from).collect(),
            Json::Object(members) => members.into(),
        }
    }
}

impl From<Members<'_>> for Value {
    fn from(members: Members<'_>) -> Self {
        let owned = members.0.into_iter();
        Self::Object(
            owned
                .map(|(name, value)| (name.into_owned(), value.into()))
                .collect(),
        )
    }
}

/// The text is not an object, has a duplicate member, or is nested deeper than [`JSON_DEPTH_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a JSON object without duplicate members and of bounded depth")]
pub struct JsonFault;

/// Reads one object, at every level without duplicate members.
pub fn read_object(text: &[u8]) -> Result<Json<'_>, JsonFault> {
    let is_object = |json: &Json<'_>| matches!(json, Json::Object(_));
    read(text).ok().filter(is_object).ok_or(JsonFault)
}

/// Parses any JSON, at every level without duplicate members, not nested deeper than [`JSON_DEPTH_MAX`]. The error tells
/// line and column.
pub fn parse(text: &[u8]) -> serde_json::Result<Value> {
    read(text).map(Value::from)
}

fn read(text: &[u8]) -> serde_json::Result<Json<'_>> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let strict = Strict {
        depth: JSON_DEPTH_MAX,
    };
    let value = strict.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn inner<E: Error>(self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1);
        depth
            .map(|depth| Self { depth })
            .ok_or_else(|| E::custom("nested too deeply"))
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json<'de>, E> {
        Number::from_f64(value)
            .map(Json::Number)
            .ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(value.into()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(value.to_owned().into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Json<'de>, A::Error> {
        let inner = self.inner()?;
        let mut array = vec![];
        while let Some(element) = elements.next_element_seed(inner)? {
            array.push(element);
        }
        Ok(Json::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json<'de>, A::Error> {
        let inner = self.inner()?;
        let mut object = Vec::with_capacity(MEMBERS_EXPECTED);
        while let Some(name) = members.next_key_seed(Name)? {
            object.push((name, members.next_value_seed(inner)?));
        }
        let doubled = || A::Error::custom("a duplicate member");
        Members::new(object).map(Json::Object).ok_or_else(doubled)
    }
}

/// Room that is made at once for the members of an object: most tokens have fewer claims. No more than some hundred bytes,
/// so that many small objects cannot take much.
const MEMBERS_EXPECTED: usize = 12;

/// A member's name, borrowed unless it is written with escapes.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Cow<'de, str>, E> {
        Ok(value.to_owned().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_read_exactly() {
        let text = br#"{"a":[1,-2,3.5,true,null,"\u00e9"],"b":{"a":18446744073709551615}}"#;
        let expected: Value = serde_json::from_slice(text).unwrap();
        assert_eq!(read_object(text).map(Value::from), Ok(expected));
    }

    #[test]
    fn members_are_found_by_name_and_texts_are_borrowed() {
        let text = br#"{"b":"plain","a":"\u00e9","\u0063":{"d":[7]}}"#;
        let json = read_object(text).unwrap();
        let Json::Object(members) = &json else {
            panic!("{json:?}")
        };
        assert_eq!(members.get("b"), Some(&Json::Text("plain".into())));
        assert!(matches!(
            members.get("b"),
            Some(Json::Text(Cow::Borrowed(_)))
        ));
        assert_eq!(members.get("a"), Some(&Json::Text("\u{e9}".into())));
        assert_eq!(members.get("ab"), None);
        let inner = json.member("c").and_then(|c| c.member("d"));
        assert_eq!(
            inner.and_then(|d| d.element("0")),
            Some(&Json::Number(7.into()))
        );
        assert_eq!(inner.and_then(|d| d.element("1")), None);
    }

    #[test]
    fn what_has_two_readings_is_refused() {
        let deep = |n: usize| format!("{}1{}", "{\"a\":".repeat(n), "}".repeat(n));
        assert!(read_object(deep(JSON_DEPTH_MAX).as_bytes()).is_ok());
        for text in [
            "",
            "[]",
            "1",
            "\"a\"",
            "null",
            "{",
            "{}{}",
            "{} x",
            "{\"a\":1,\"a\":1}",
            "{\"a\":1,\"\\u0061\":2}",
            "{\"o\":{\"a\":1,\"a\":2}}",
            "{\"l\":[{\"a\":1,\"a\":2}]}",
            "{a:1}",
            "{'a':1}",
            "{\"a\":1,}",
            "{\"a\":01}",
            "{\"a\":NaN}",
            "{\"a\":1e999}",
            "{\"a\":\"\\ud800\"}",
            "\u{feff}{}",
            "{\"a\":\"\t\"}",
            &deep(JSON_DEPTH_MAX + 1),
        ] {
            assert_eq!(read_object(text.as_bytes()), Err(JsonFault), "{text}");
        }
        assert_eq!(read_object(b"{\"a\":\"\xff\"}"), Err(JsonFault));
    }
}
