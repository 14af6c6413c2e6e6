//! One host's wall clock, which may be wrong.
//!
//! It shows true (simulated) time plus an offset, and may run fast or slow. Scenarios change both at any
//! time, also while the host is down: the clock keeps running on its battery. It says nothing about the
//! monotonic clock, which all hosts share and which is always right.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use madsim::time::TimeHandle;

const NANOS_PER_PPM_BASE: i128 = 1_000_000;

/// A cheap-to-clone handle on one host's wall clock.
#[derive(Clone)]
pub struct HostClock {
    time: TimeHandle,
    error: Arc<Mutex<ClockError>>,
}

/// How far the clock is from true time: `ahead` nanoseconds at `since`, growing by `drift_ppm`.
#[derive(Clone, Copy, Debug, Default)]
struct ClockError {
    ahead: i128,
    since: Duration,
    drift_ppm: i32,
}

impl ClockError {
    fn at(&self, elapsed: Duration) -> i128 {
        let nanos = |duration: Duration| i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX);
        let running = nanos(elapsed) - nanos(self.since);
        self.ahead + running * i128::from(self.drift_ppm) / NANOS_PER_PPM_BASE
    }
}

impl std::fmt::Debug for HostClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostClock({:?})", self.error.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl HostClock {
    /// A clock that is right. Must be called inside a simulation.
    #[must_use]
    pub fn new() -> Self {
        Self { time: TimeHandle::current(), error: Arc::default() }
    }

    /// What the clock shows: time since the Unix epoch, and never less than zero.
    #[must_use]
    pub fn now(&self) -> Duration {
        let ahead = self.change(|_| {});
        let skew = Duration::from_nanos(u64::try_from(ahead.unsigned_abs()).unwrap_or(u64::MAX));
        if ahead < 0 { self.true_time().saturating_sub(skew) } else { self.true_time() + skew }
    }

    /// The simulation's own time, which no host knows.
    #[must_use]
    pub fn true_time(&self) -> Duration {
        self.time.now_time().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    /// The clock jumps forward.
    pub fn jump_forward(&self, by: Duration) {
        self.change(|error| error.ahead += by.as_nanos().cast_signed());
    }

    /// The clock jumps back.
    pub fn jump_back(&self, by: Duration) {
        self.change(|error| error.ahead -= by.as_nanos().cast_signed());
    }

    /// From now on the clock gains (loses, if negative) this many microseconds every second.
    pub fn set_drift_ppm(&self, ppm: i32) {
        self.change(|error| error.drift_ppm = ppm);
    }

    /// The clock is right again and keeps time.
    pub fn correct(&self) {
        self.change(|error| (error.ahead, error.drift_ppm) = (0, 0));
    }

    /// Brings the error up to the present, applies `change`, and returns how far the clock is ahead.
    fn change(&self, change: impl FnOnce(&mut ClockError)) -> i128 {
        let elapsed = self.time.elapsed();
        let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next =
            ClockError { ahead: error.at(elapsed), since: elapsed, drift_ppm: error.drift_ppm };
        // Reading must not move the anchor: rounding would make the drift depend on how often one looks.
        let (ahead, drift) = (next.ahead, next.drift_ppm);
        change(&mut next);
        if (next.ahead, next.drift_ppm) != (ahead, drift) {
            *error = next;
        }
        next.ahead
    }
}

impl Default for HostClock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::simulate;

    #[test]
    fn a_clock_jumps_drifts_and_can_be_set_right() {
        simulate(1, || async {
            let clock = HostClock::new();
            assert_eq!(clock.now(), clock.true_time());
            clock.jump_back(Duration::from_mins(5));
            assert_eq!(clock.now() + Duration::from_mins(5), clock.true_time());
            clock.jump_forward(Duration::from_mins(5));
            clock.set_drift_ppm(1000);
            madsim::time::sleep(Duration::from_secs(1000)).await;
            let gained = clock.now().abs_diff(clock.true_time());
            assert_eq!(gained.as_millis(), 1000);
            clock.correct();
            assert_eq!(clock.now(), clock.true_time());
        });
    }
}
