//! Log lines that repeat: the first one immediately, later ones rarely and with a count.
//!
//! A condition that lasts (no file descriptor, an unreachable peer) would write a line for each
//! attempt. [`Quiet`] decides which of these lines is written:
//!
//! ```
//! use std::time::Duration;
//! use yakt::quiet::Quiet;
//!
//! let mut quiet = Quiet::default();
//! assert_eq!(quiet.note(Duration::from_secs(0)), Some(0)); // The first line is written.
//! assert_eq!(quiet.note(Duration::from_secs(1)), None); // The next ones are counted.
//! assert_eq!(quiet.note(Duration::from_secs(2)), None);
//! assert_eq!(quiet.note(Duration::from_secs(31)), Some(2)); // This line reports two more.
//! ```

use std::ops::Sub;
use std::time::Duration;

/// Shortest time between two written lines: 2,880 lines a day for a condition that never ends.
pub const LINE_INTERVAL: Duration = Duration::from_secs(30);

/// Decides which lines about one condition are written, and counts the others.
///
/// `I` is a point in time: an environment's [`Instant`](crate::env::rt::Instant), or a [`Duration`]
/// since some origin.
#[derive(Clone, Debug)]
pub struct Quiet<I> {
    written: Option<I>,
    unwritten: u64,
}

impl<I> Default for Quiet<I> {
    fn default() -> Self {
        Self { written: None, unwritten: 0 }
    }
}

impl<I: Copy + Sub<I, Output = Duration>> Quiet<I> {
    /// Notes one occurrence at `now`. If a line is due, returns the number of occurrences without a
    /// line since the last written line; otherwise `None`.
    pub fn note(&mut self, now: I) -> Option<u64> {
        if self.written.is_some_and(|written| now - written < LINE_INTERVAL) {
            self.unwritten += 1;
            return None;
        }
        self.written = Some(now);
        Some(std::mem::take(&mut self.unwritten))
    }
}
