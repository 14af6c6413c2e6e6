//! Numbers that name things, each a type of its own so that they cannot be swapped.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::InvalidValue;
use super::limits::{EPOCH_MAX, ID_MAX};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "u32", into = "u32")]
        pub struct $name(u32);

        impl $name {
            /// The smallest id, 0.
            pub const MIN: Self = Self(0);
            /// The largest id, [`ID_MAX`].
            pub const MAX: Self = Self(ID_MAX);

            /// The number.
            pub const fn get(self) -> u32 {
                self.0
            }
        }

        impl TryFrom<u32> for $name {
            type Error = InvalidValue;

            fn try_from(id: u32) -> Result<Self, InvalidValue> {
                if id > ID_MAX {
                    return Err(InvalidValue::new($what, format!("must be at most {ID_MAX}")));
                }
                Ok(Self(id))
            }
        }

        impl From<$name> for u32 {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A broker, as its operator numbers it. Unique among live brokers; an id whose broker was closed
    /// may be registered again, which makes a new *incarnation* with a new internal UUID.
    BrokerId, "a broker id"
}

id! {
    /// A partition, within its topic.
    PartitionId, "a partition id"
}

id! {
    /// A producer.
    ProducerId, "a producer id"
}

/// How often a thing has changed. Only grows; a broker's goes on growing across its incarnations.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "u64", into = "u64")]
pub struct Epoch(u64);

impl Epoch {
    /// The epoch of a thing that was never changed.
    pub const ZERO: Self = Self(0);

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The epoch after this one. It sticks at [`EPOCH_MAX`], which nothing lives to see.
    pub(super) const fn next(self) -> Self {
        if self.0 >= EPOCH_MAX { Self(EPOCH_MAX) } else { Self(self.0 + 1) }
    }
}

impl TryFrom<u64> for Epoch {
    type Error = InvalidValue;

    fn try_from(epoch: u64) -> Result<Self, InvalidValue> {
        if epoch > EPOCH_MAX {
            return Err(InvalidValue::new("an epoch", format!("must be at most {EPOCH_MAX}")));
        }
        Ok(Self(epoch))
    }
}

impl From<Epoch> for u64 {
    fn from(epoch: Epoch) -> Self {
        epoch.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_non_negative_signed_32_bit_integer() {
        for good in ["0", "2147483647"] {
            assert!(serde_json::from_str::<BrokerId>(good).is_ok(), "{good}");
        }
        for bad in ["-1", "2147483648", "99999999999", "1.5", "\"1\"", "null", "true"] {
            assert!(serde_json::from_str::<BrokerId>(bad).is_err(), "{bad}");
        }
    }
}
