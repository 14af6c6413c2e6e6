//! Strict JSON: an object that has one key twice is refused.
//!
//! RFC 8259 §4 leaves the meaning of a repeated key to the receiver. `serde_json` keeps the last
//! value; other parsers keep the first. A proxy that judges a request and the node that executes it
//! may then read two different requests in the same bytes.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Characters of a repeated key that an error message quotes. A key may be as long as the body.
const KEY_QUOTED_CHARS_MAX: usize = 64;

/// A JSON value in which no object has a key twice, at any depth.
pub(super) struct Strict(pub(super) Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

/// Builds the same values as `serde_json` does for [`Value`], and refuses repeated keys.
struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            if object.contains_key(&key) {
                let quoted: String = key.chars().take(KEY_QUOTED_CHARS_MAX).collect();
                return Err(A::Error::custom(format_args!(
                    "an object has the key {quoted:?} twice; send each key once"
                )));
            }
            let Strict(value) = members.next_value()?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Value, serde_json::Error> {
        serde_json::from_str::<Strict>(text).map(|strict| strict.0)
    }

    #[test]
    fn values_are_those_of_serde_json() {
        for text in [
            "null",
            "true",
            "-7",
            "18446744073709551615",
            "1.5e300",
            "0.1",
            r#""a\u00e9\n""#,
            r#"[1,[],{"a":[{}]}]"#,
            r#"{"a":1,"b":{"a":2},"c":[{"a":3},{"a":4}]}"#,
        ] {
            assert_eq!(parse(text).unwrap(), serde_json::from_str::<Value>(text).unwrap());
        }
    }

    #[test]
    fn a_repeated_key_is_refused_at_any_depth_and_named() {
        for text in [
            r#"{"name":1,"name":1}"#,
            r#"{"x":0,"name":1,"y":{},"name":2}"#,
            r#"{"x":[1,{"y":{"name":1,"name":2}}]}"#,
            r#"{"name":1,"n\u0061me":2}"#,
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.is_data(), "{text}: {error}");
            assert!(error.to_string().contains("\"name\" twice"), "{text}: {error}");
        }
        let long = "k".repeat(10_000);
        let error = parse(&format!(r#"{{"{long}":1,"{long}":2}}"#)).unwrap_err();
        assert!(error.to_string().len() < 200, "{error}");
    }

    #[test]
    fn what_is_no_json_is_another_error() {
        for text in ["", "{", r#"{"a":}"#, "1e400", "[1,]"] {
            assert!(!parse(text).unwrap_err().is_data(), "{text}");
        }
        // The depth stays limited.
        assert!(!parse(&"[".repeat(1_000)).unwrap_err().is_data());
    }
}
