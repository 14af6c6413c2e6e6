//! What happened, one line per event, and a hash of it all.
//!
//! Two runs were the same run exactly when their hashes agree; where they do not, the recorded lines
//! of both (see [`Trace::keep_lines`]) show the first difference. Lines look like
//! `t=<virtual nanoseconds> <what>`. Events are network deliveries and resets, disk syncs and faults,
//! process starts and kills, and whatever a scenario adds.
//!
//! Keeping lines costs memory without bound, so it is off unless asked for; the hash is always on.

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use madsim::time::TimeHandle;

// 64-bit FNV-1a: tiny, stable across platforms and releases, and no adversary chooses the input.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// The 64-bit FNV-1a hash of `bytes`.
#[must_use]
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME))
}

/// A cheap-to-clone handle on one simulation's event trace.
#[derive(Clone)]
pub struct Trace {
    /// `None` outside a simulation, where every event has time 0.
    time: Option<TimeHandle>,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    hash: u64,
    events: u64,
    lines: Option<Vec<String>>,
}

/// Feeds formatted text to the hash without building a string.
struct HashWriter<'a>(&'a mut u64);

impl Write for HashWriter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            *self.0 = (*self.0 ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        }
        Ok(())
    }
}

impl Trace {
    /// An empty trace that stamps events with the current simulation's time, if there is one.
    #[must_use]
    pub fn new() -> Self {
        Self {
            time: TimeHandle::try_current(),
            inner: Arc::new(Mutex::new(Inner { hash: FNV_OFFSET, events: 0, lines: None })),
        }
    }

    /// Keeps every later line for [`Self::lines`], not only its hash.
    pub fn keep_lines(&self) {
        self.lock().lines.get_or_insert_default();
    }

    /// Appends an event: `trace.record(format_args!("n1 leads term {term}"))`.
    pub fn record(&self, event: fmt::Arguments<'_>) {
        let nanos = self.time.as_ref().map_or(0, |time| time.elapsed().as_nanos());
        let mut inner = self.lock();
        inner.events += 1;
        // Hashing never fails; an error could only come from a `Display` that refuses to print.
        _ = writeln!(HashWriter(&mut inner.hash), "t={nanos} {event}");
        if let Some(lines) = &mut inner.lines {
            lines.push(format!("t={nanos} {event}"));
        }
    }

    /// The hash of all lines so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.lock().hash
    }

    /// The number of lines so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.lock().events
    }

    /// The lines since [`Self::keep_lines`]; empty when they are not kept.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lock().lines.clone().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        write!(f, "Trace({:016x}, {} events)", inner.hash, inner.events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_depends_on_every_line_and_their_order() {
        let (a, b, c) = (Trace::new(), Trace::new(), Trace::new());
        for (trace, order) in [(&a, [1, 2]), (&b, [1, 2]), (&c, [2, 1])] {
            for n in order {
                trace.record(format_args!("event {n}"));
            }
        }
        assert_eq!(a.hash(), b.hash());
        assert_ne!(a.hash(), c.hash());
        assert_eq!(a.events(), 2);
    }

    #[test]
    fn lines_are_kept_only_when_asked_for() {
        let trace = Trace::new();
        trace.record(format_args!("unheard"));
        trace.keep_lines();
        trace.record(format_args!("heard"));
        assert_eq!(trace.lines(), ["t=0 heard"]);
    }
}
