//! Reads JSON without duplicate members: of two `sub` in one rule, one would be ignored in silence, and its user not
//! revoked (RFC 8259 section 4 leaves it open).

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Any JSON whose objects name each member once. `serde_json` bounds its depth at 128.
pub(super) struct Strict(pub(super) Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without duplicate members")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut values = vec![];
        while let Some(Strict(value)) = elements.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if object.contains_key(&name) {
                return Err(A::Error::custom("a member is there twice"));
            }
            let Strict(value) = members.next_value()?;
            object.insert(name, value);
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strict(text: &str) -> Option<Value> {
        serde_json::from_str(text).ok().map(|Strict(value)| value)
    }

    #[test]
    fn it_reads_what_serde_json_reads() {
        let text =
            r#"{"a": [null, true, 5, -5, 1.5, "x\n", {}], "b": {"a": 18446744073709551615}}"#;
        assert_eq!(strict(text), serde_json::from_str(text).ok());
        assert!(strict(text).is_some());
    }

    #[test]
    fn a_member_twice_is_refused_at_any_depth() {
        assert_eq!(strict(r#"{"a": 1, "a": 1}"#), None);
        assert_eq!(strict(r#"{"a": 1, "\u0061": 2}"#), None);
        assert_eq!(strict(r#"[{"b": {"a": 1, "a": 1}}]"#), None);
        assert!(strict(r#"[{"a": 1}, {"a": 1}]"#).is_some());
    }

    #[test]
    fn depth_is_bounded() {
        assert_eq!(strict(&"[".repeat(100_000)), None);
    }
}
