//! Texts and ports that were checked once, where they were parsed.

use std::borrow::Borrow;
use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::limits::{
    HOST_CHARS_MAX, RACK_ID_CHARS_MAX, SECURITY_PROTOCOL_CHARS_MAX, TOPIC_NAME_CHARS_MAX,
};

/// A value outside of what its type allows. The message is for the person who sent it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {problem}")]
pub struct InvalidValue {
    what: &'static str,
    problem: String,
}

impl InvalidValue {
    pub(super) fn new(what: &'static str, problem: impl Into<String>) -> Self {
        Self { what, problem: problem.into() }
    }
}

/// Refuses texts shorter or longer than `lengths` characters.
fn check_length(
    what: &'static str,
    text: &str,
    min: usize,
    max: usize,
) -> Result<(), InvalidValue> {
    // Counting stops just past the limit: the text may be of any length yet.
    let chars = text.chars().take(max + 1).count();
    if chars < min {
        return Err(InvalidValue::new(what, "must not be empty"));
    }
    if chars > max {
        return Err(InvalidValue::new(what, format!("must have at most {max} characters")));
    }
    Ok(())
}

/// Letters that Kafka allows in names.
fn is_legal(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

fn check_topic_name(text: &str) -> Result<(), InvalidValue> {
    const WHAT: &str = "a topic name";
    check_length(WHAT, text, 1, TOPIC_NAME_CHARS_MAX)?;
    if text == "." || text == ".." {
        return Err(InvalidValue::new(WHAT, "must not be \".\" or \"..\""));
    }
    if !text.chars().all(is_legal) {
        return Err(InvalidValue::new(WHAT, "must consist of a-z, A-Z, 0-9, '.', '_' and '-'"));
    }
    Ok(())
}

fn check_host(text: &str) -> Result<(), InvalidValue> {
    const WHAT: &str = "a host";
    check_length(WHAT, text, 1, HOST_CHARS_MAX)?;
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(InvalidValue::new(WHAT, "must not contain spaces or control characters"));
    }
    Ok(())
}

fn check_security_protocol(text: &str) -> Result<(), InvalidValue> {
    const WHAT: &str = "a security protocol";
    check_length(WHAT, text, 1, SECURITY_PROTOCOL_CHARS_MAX)?;
    if !text.chars().all(is_legal) {
        return Err(InvalidValue::new(WHAT, "must consist of a-z, A-Z, 0-9, '.', '_' and '-'"));
    }
    Ok(())
}

fn check_rack_id(text: &str) -> Result<(), InvalidValue> {
    const WHAT: &str = "a rack id";
    check_length(WHAT, text, 0, RACK_ID_CHARS_MAX)?;
    if text.chars().any(char::is_control) {
        return Err(InvalidValue::new(WHAT, "must not contain control characters"));
    }
    Ok(())
}

/// Reads a text and checks it.
struct TextVisitor<T>(PhantomData<T>);

impl<T: FromStr<Err = InvalidValue>> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $check:ident) => {
        $(#[$doc])*
        ///
        /// Clones share the text: the record, the index, and the log as long as the entry is new hold one and the same.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;

            fn from_str(text: &str) -> Result<Self, InvalidValue> {
                $check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(TextVisitor(PhantomData))
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

text! {
    /// A legal Kafka topic name: 1 to 249 of `a-z A-Z 0-9 . _ -`, but not `.` or `..`.
    TopicName, check_topic_name
}

text! {
    /// A host name or address as it was given: 1 to 255 characters without spaces or control
    /// characters. It is never resolved here.
    Host, check_host
}

text! {
    /// The name of a security protocol: 1 to 64 of `a-z A-Z 0-9 . _ -`. `PLAINTEXT` by default.
    SecurityProtocol, check_security_protocol
}

text! {
    /// The rack a broker stands in: up to 255 characters without control characters. Empty by default.
    RackId, check_rack_id
}

impl Default for RackId {
    fn default() -> Self {
        Self("".into())
    }
}

impl Default for SecurityProtocol {
    fn default() -> Self {
        Self("PLAINTEXT".into())
    }
}

/// A TCP port, 1 to 65535. JSON shows it as a string, as the original system did, and accepts an
/// integer too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(NonZeroU16);

impl Port {
    const PROBLEM: &str = "must be an integer from 1 to 65535";

    /// The number.
    pub const fn get(self) -> u16 {
        self.0.get()
    }

    fn invalid() -> InvalidValue {
        InvalidValue::new("a port", Self::PROBLEM)
    }
}

impl TryFrom<u64> for Port {
    type Error = InvalidValue;

    fn try_from(port: u64) -> Result<Self, InvalidValue> {
        let port = u16::try_from(port).ok().and_then(NonZeroU16::new);
        port.map(Self).ok_or_else(Self::invalid)
    }
}

impl FromStr for Port {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        // `parse` alone would take a leading '+'.
        if !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Self::invalid());
        }
        text.parse::<u64>().map_err(|_| Self::invalid()).and_then(Self::try_from)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PortVisitor;

        impl Visitor<'_> for PortVisitor {
            type Value = Port;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port from 1 to 65535, as a string or an integer")
            }

            fn visit_u64<E: de::Error>(self, port: u64) -> Result<Port, E> {
                Port::try_from(port).map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Port, E> {
                text.parse().map_err(E::custom)
            }
        }

        if deserializer.is_human_readable() {
            deserializer.deserialize_any(PortVisitor)
        } else {
            NonZeroU16::deserialize(deserializer).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_names_are_kafkas() {
        for good in ["a", "...", "__consumer_offsets", "A.b-c_9", &"x".repeat(249)] {
            assert!(good.parse::<TopicName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a/b", "ä", "a\0", &"x".repeat(250)] {
            assert!(bad.parse::<TopicName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_port_is_shown_as_a_string_and_read_as_either() {
        let port: Port = serde_json::from_str("9092").unwrap();
        assert_eq!(port, serde_json::from_str("\"9092\"").unwrap());
        assert_eq!(serde_json::to_string(&port).unwrap(), "\"9092\"");
        for bad in ["0", "65536", "-1", "\"\"", "\"+1\"", "\"0\"", "\"1 \"", "1.0", "null", "[]"] {
            assert!(serde_json::from_str::<Port>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lengths_count_characters_not_bytes() {
        assert!("ä".repeat(255).parse::<Host>().is_ok());
        assert!("ä".repeat(256).parse::<Host>().is_err());
        assert!("".parse::<Host>().is_err());
        assert!("".parse::<RackId>().is_ok());
        assert!("rack 1".parse::<RackId>().is_ok());
        assert!("two words".parse::<Host>().is_err());
    }
}
