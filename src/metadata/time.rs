//! Cluster time: when something happened, as the replicated log tells it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::limits::CURRENT_SNAPSHOT_AGE_MAX;

const MICROS_PER_SECOND: f64 = 1e6;

/// A moment of cluster time, in whole microseconds since the Unix epoch.
///
/// JSON shows it as float seconds. Up to 2106 ([`CLOCK_MAX_MICROS`](super::limits::CLOCK_MAX_MICROS))
/// the float keeps every microsecond: what was handed out as an offset comes back as the same stamp.
/// Inside, there are only integers, so that no two machines can round differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The Unix epoch: before everything.
    pub const ZERO: Self = Self(0);

    /// A moment from microseconds since the Unix epoch.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// The moment nearest to `seconds` since the Unix epoch, or nothing when that is NaN or infinite.
    /// What lies before the epoch counts as the epoch, what lies beyond `u64` as its end.
    pub fn from_seconds_f64(seconds: f64) -> Option<Self> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "`as` saturates at both ends, which is what is promised"
        )]
        seconds.is_finite().then(|| Self((seconds * MICROS_PER_SECOND).round() as u64))
    }

    /// Seconds since the Unix epoch.
    #[expect(clippy::cast_precision_loss, reason = "exact below 2^53 µs, see the type's promise")]
    pub fn seconds_f64(self) -> f64 {
        self.0 as f64 / MICROS_PER_SECOND
    }

    /// How long after `earlier` this is; zero when it is not.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// The next microsecond.
    pub(super) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_f64(self.seconds_f64())
        } else {
            serializer.serialize_u64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            Self::from_seconds_f64(f64::deserialize(deserializer)?)
                .ok_or_else(|| serde::de::Error::custom("a timestamp must be a finite number"))
        } else {
            u64::deserialize(deserializer).map(Self)
        }
    }
}

/// Which of the two snapshots a poller gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotKind {
    /// The live image: what exists now.
    Current,
    /// The metadata: every record, closed brokers and registration changes included.
    Complete,
}

/// The ten-minute rule: at `now`, which snapshot does the offset `previous` get?
///
/// An age of exactly 600 s still gets the current one, one microsecond more the complete one. An offset
/// in the future (the client's clock runs ahead) has age zero.
pub fn snapshot_kind(now: Timestamp, previous: Timestamp) -> SnapshotKind {
    if now.saturating_since(previous) <= CURRENT_SNAPSHOT_AGE_MAX {
        SnapshotKind::Current
    } else {
        SnapshotKind::Complete
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metadata::limits::CLOCK_MAX_MICROS;

    #[test]
    fn the_ten_minute_rule_is_exact_to_the_microsecond() {
        let now = Timestamp::from_micros(1_700_000_000_123_456);
        let kind = |age: u64| snapshot_kind(now, Timestamp(now.0 - age));
        assert_eq!(kind(0), SnapshotKind::Current);
        assert_eq!(kind(599_999_999), SnapshotKind::Current);
        assert_eq!(kind(600_000_000), SnapshotKind::Current);
        assert_eq!(kind(600_000_001), SnapshotKind::Complete);
    }

    #[test]
    fn an_offset_in_the_future_has_age_zero() {
        let kind = snapshot_kind(Timestamp(5), Timestamp(u64::MAX));
        assert_eq!(kind, SnapshotKind::Current);
    }

    #[test]
    fn absurd_seconds_are_refused_or_clamped() {
        assert_eq!(Timestamp::from_seconds_f64(f64::NAN), None);
        assert_eq!(Timestamp::from_seconds_f64(f64::INFINITY), None);
        assert_eq!(Timestamp::from_seconds_f64(f64::NEG_INFINITY), None);
        assert_eq!(Timestamp::from_seconds_f64(-1.0), Some(Timestamp::ZERO));
        assert_eq!(Timestamp::from_seconds_f64(1e300), Some(Timestamp(u64::MAX)));
    }

    proptest! {
        #[test]
        fn microseconds_survive_json_and_the_float(micros in 0..CLOCK_MAX_MICROS + (1 << 40)) {
            let stamp = Timestamp(micros);
            prop_assert_eq!(Timestamp::from_seconds_f64(stamp.seconds_f64()), Some(stamp));
            let json = serde_json::to_string(&stamp).unwrap();
            prop_assert_eq!(serde_json::from_str::<Timestamp>(&json).unwrap(), stamp);
            // The offset travels in a URL's path too.
            let text = stamp.seconds_f64().to_string();
            prop_assert_eq!(Timestamp::from_seconds_f64(text.parse().unwrap()), Some(stamp));
        }
    }
}
