//! How a broker is doing, and how a request names one.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::{BrokerId, InvalidValue};

/// How a broker is doing (KIP-631 calls it the broker state machine).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum BrokerStatus {
    /// Not yet registered. No broker in the metadata ever is.
    Init,
    /// Known, but in no ISR and leading nothing.
    Fenced,
    /// May be in an ISR and lead.
    Unfenced,
    /// Like [`Unfenced`](Self::Unfenced), and shown as active.
    Alive,
    /// Gone for good. Its id may come back, as a new incarnation.
    Closed,
}

impl BrokerStatus {
    /// Whether a broker of this status may be in an ISR and lead.
    pub const fn may_lead(self) -> bool {
        matches!(self, Self::Unfenced | Self::Alive)
    }

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Init => "INIT",
            Self::Fenced => "FENCED",
            Self::Unfenced => "UNFENCED",
            Self::Alive => "ALIVE",
            Self::Closed => "CLOSED",
        }
    }
}

impl fmt::Display for BrokerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A broker as a request names it: by id, which means the id's latest incarnation, or by internal
/// UUID, which means exactly that incarnation. In JSON an integer or a UUID string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub enum BrokerRef {
    /// The latest incarnation of this id.
    Id(BrokerId),
    /// This incarnation.
    Uuid(Uuid),
}

impl From<BrokerId> for BrokerRef {
    fn from(id: BrokerId) -> Self {
        Self::Id(id)
    }
}

impl From<Uuid> for BrokerRef {
    fn from(uuid: Uuid) -> Self {
        Self::Uuid(uuid)
    }
}

impl fmt::Display for BrokerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Uuid(uuid) => uuid.fmt(f),
        }
    }
}

/// Reads what stands in a URL's path: decimal digits or a UUID.
impl FromStr for BrokerRef {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        const WHAT: &str = "a broker";
        const PROBLEM: &str = "must be named by its integer id or its internal UUID";
        if let Ok(uuid) = Uuid::try_parse(text) {
            return Ok(Self::Uuid(uuid));
        }
        if !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(InvalidValue::new(WHAT, PROBLEM));
        }
        let id = text.parse::<u32>().map_err(|_| InvalidValue::new(WHAT, PROBLEM))?;
        BrokerId::try_from(id).map(Self::Id)
    }
}

impl Serialize for BrokerRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            _ if !serializer.is_human_readable() => Self::serialize(self, serializer),
            Self::Id(id) => id.serialize(serializer),
            Self::Uuid(uuid) => uuid.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for BrokerRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RefVisitor;

        impl Visitor<'_> for RefVisitor {
            type Value = BrokerRef;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a broker's integer id or its internal UUID")
            }

            fn visit_u64<E: de::Error>(self, id: u64) -> Result<BrokerRef, E> {
                let unexpected = || E::invalid_value(de::Unexpected::Unsigned(id), &self);
                let id = u32::try_from(id).map_err(|_| unexpected())?;
                BrokerId::try_from(id).map(BrokerRef::Id).map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<BrokerRef, E> {
                let unexpected = |_| E::invalid_value(de::Unexpected::Str(text), &self);
                Uuid::try_parse(text).map(BrokerRef::Uuid).map_err(unexpected)
            }
        }

        if deserializer.is_human_readable() {
            deserializer.deserialize_any(RefVisitor)
        } else {
            Self::deserialize(deserializer)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode_versioned, encode_versioned};

    #[test]
    fn a_broker_is_named_by_integer_or_uuid_in_json_path_and_log() {
        let uuid = Uuid::from_u128(7);
        for broker in [BrokerRef::Id(BrokerId::MAX), BrokerRef::Uuid(uuid)] {
            let json = serde_json::to_string(&broker).unwrap();
            assert_eq!(serde_json::from_str::<BrokerRef>(&json).unwrap(), broker);
            assert_eq!(broker.to_string().parse::<BrokerRef>().unwrap(), broker);
            let bytes = encode_versioned(&broker);
            assert_eq!(decode_versioned::<BrokerRef>(&bytes).unwrap(), broker);
        }
        for bad in ["-1", "2147483648", "\"1\"", "\"\"", "null", "1.5", "{}"] {
            assert!(serde_json::from_str::<BrokerRef>(bad).is_err(), "{bad}");
        }
        for bad in ["", "+1", "-1", "2147483648", "x", " 1"] {
            assert!(bad.parse::<BrokerRef>().is_err(), "{bad}");
        }
    }

    #[test]
    fn statuses_are_upper_case_on_the_wire() {
        use BrokerStatus::{Alive, Closed, Fenced, Init, Unfenced};
        for status in [Init, Fenced, Unfenced, Alive, Closed] {
            let json = serde_json::to_string(&status).unwrap();
            assert_eq!(json, format!("\"{status}\""));
        }
    }
}
