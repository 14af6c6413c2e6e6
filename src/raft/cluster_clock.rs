//! How cluster time goes on between two stamps, as one node reckons it.
//!
//! A stamp that was just applied was the time when its command was *proposed*, a commit ago. Were the clock set by
//! every stamp, a busy cluster would lose the length of a commit with each, and a clock that must carry
//! cluster time alone (see [`crate::node`]) would nearly stand still. So a stamp sets the clock only forward.

use std::time::Duration;

use openraft::Instant;

use crate::metadata::Timestamp;

/// How much slower than real time cluster time runs while it is ahead of the leader's wall clock, in
/// microseconds per second: the largest correction that NTP's clock discipline makes without a step (RFC 5905).
const SLEW_PER_MILLION: u128 = 500;

/// A reckoning of cluster time that needs no wall clock.
#[derive(Clone, Copy, Debug)]
pub struct ClusterClock<I> {
    stamp: Timestamp,
    at: I,
}

impl<I: Instant> ClusterClock<I> {
    /// A clock that shows `stamp` at `now`.
    #[must_use]
    pub fn new(stamp: Timestamp, now: I) -> Self {
        Self { stamp, at: now }
    }

    /// What the clock shows at `now`.
    #[must_use]
    pub fn reading(&self, now: I) -> Timestamp {
        let elapsed = now.saturating_duration_since(self.at).as_micros();
        let slewed = elapsed - elapsed * SLEW_PER_MILLION / Duration::from_secs(1).as_micros();
        let slewed = u64::try_from(slewed).unwrap_or(u64::MAX);
        Timestamp::from_micros(self.stamp.micros().saturating_add(slewed))
    }

    /// Sets the clock by `stamp`, applied at `now`, if that is ahead of it.
    pub fn observe(&mut self, stamp: Timestamp, now: I) {
        if stamp > self.reading(now) {
            *self = Self::new(stamp, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_clock_is_set_forward_only_and_loses_at_most_the_slew() {
        let start = openraft_rt_tokio::TokioInstant::now();
        let mut clock = ClusterClock::new(seconds(1_000), start);
        let later = start + Duration::from_mins(10);
        assert_eq!(clock.reading(later), Timestamp::from_micros(1_599_700_000));
        // Proposed a second before it was applied.
        clock.observe(seconds(1_598), later);
        assert_eq!(clock.reading(later), Timestamp::from_micros(1_599_700_000));
        clock.observe(seconds(2_000), later);
        assert_eq!(clock.reading(later), seconds(2_000));
    }
}
